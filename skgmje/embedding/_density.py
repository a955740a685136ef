"""Mixtures over embeddings, fitted in closed form, free of the embeddings' scale."""

import warnings

import torch
from torch import Tensor

from skgmje._backend import as_numpy
from skgmje.embedding._low_rank import fit_low_rank
from skgmje.latent._moments import moments
from skgmje.mixture import GaussianMixture, MultivariateNormalMixture
from skgmje.mixture._em import (
    expectation,
    maximization,
    statistics_of_density,
    stepwise,
)
from skgmje.mixture._factor_analysis import factorise
from skgmje.networks import Encoder

EM_MAX_ITER, EM_TOL = 1000, 1e-4


def fit_mixture(
    z: Tensor,
    n_components: int,
    covariance_type: str,
    reg_covar: float,
    seed: int,
    rank: int = 0,
) -> tuple[MultivariateNormalMixture, list[float]]:
    """Fit a mixture by EM from the best of several short starts.

    Coordinates are standardised for the fit, so that `reg_covar` is relative to their
    variances, and the mixture is returned in their own units.

    Parameters
    ----------
    z : tensor of float64 of shape (n_samples, n_features)
        Embeddings.
    n_components : int
        Number of components.
    covariance_type : {'full', 'tied', 'diag', 'spherical', 'low_rank'}
        Form of the covariances.
    reg_covar : float
        Added to the diagonal of the covariances, in units of the variances; the least
        noise of low-rank ones.
    seed : int
        Seed of the starts.
    rank : int, default=0
        Number of factors of low-rank covariances.

    Returns
    -------
    density : MultivariateNormalMixture
        The mixture.
    loss_curve : list of float
        Negative mean log-likelihood at every EM iteration, in nats.
    """
    loc, scale = moments(z)
    rows = as_numpy((z - loc) / scale)
    is_low_rank = covariance_type == "low_rank"
    mixture = GaussianMixture(
        n_components,
        covariance_type="full" if is_low_rank else covariance_type,
        init_params="short_runs" if n_components > 1 else "random",
        reg_covar=reg_covar,
        max_iter=EM_MAX_ITER,
        tol=EM_TOL,
        random_state=seed,
        device=z.device,
    )
    try:
        if is_low_rank:
            density, bounds = fit_low_rank(mixture, rows, rank)
        else:
            density, bounds = mixture.fit(rows).density_, mixture.lower_bounds_
    except KeyboardInterrupt:
        warnings.warn(
            "Fitting the density was interrupted by user; it has one component.",
            UserWarning,
            stacklevel=2,
        )
        mixture.set_params(n_components=1, init_params="random", max_iter=2, tol=1.0)
        density, bounds = mixture.fit(rows).density_, mixture.lower_bounds_
        if is_low_rank:
            density = factorise(density, rank, reg_covar)
    log_jacobian = float(scale.log().sum())
    loss_curve = [float(log_jacobian - bound) for bound in bounds]
    return _settle(density.affine(loc, scale)), loss_curve


def update_mixture(
    density: MultivariateNormalMixture,
    z: Tensor,
    rate: float,
    reg_covar: float,
    covariance_type: str,
    unit: Tensor | None = None,
) -> tuple[MultivariateNormalMixture, float]:
    """Move a mixture towards a batch of embeddings by one step of stepwise EM.

    Parameters
    ----------
    density : MultivariateNormalMixture
        The mixture so far.
    z : tensor of float64 of shape (n_samples, n_features)
        The batch.
    rate : float
        Weight of the batch; with one component and ``n_batch / n_seen`` the result is
        that of a fit to all rows.
    reg_covar : float
        As in :func:`fit_mixture`.
    covariance_type : {'full', 'tied', 'diag', 'spherical', 'low_rank'}
        As in :func:`fit_mixture`.
    unit : tensor of shape (n_features,), optional
        Variances that `reg_covar` is relative to; by default those of the mixture.

    Returns
    -------
    density : MultivariateNormalMixture
        The moved mixture.
    loss : float
        Negative mean log-likelihood of the batch under the mixture so far, in nats.
    """
    unit = density.variance if unit is None else unit
    if covariance_type == "spherical" and density.scale_diag is not None:
        # Spheres in standardised coordinates: undo the scale, update, and put it back.
        scale = density.scale_diag[0]
        sphere = MultivariateNormalMixture.from_log_weights(
            density.log_weights,
            density.means / scale,
            scale_spherical=(density.scale_diag / scale).mean(-1),
        )
        moved, loss = update_mixture(
            sphere, z / scale, rate, reg_covar, "spherical", unit / scale / scale
        )
        loss += float(scale.log().sum())
        return _settle(moved.affine(torch.zeros_like(scale), scale)), loss
    batch = expectation(z, density, covariance_type)
    statistics = stepwise(statistics_of_density(density), batch, rate)
    # What reg_covar added before is part of the statistics; the batch brings its share.
    # For low-rank covariances it is a bound, and not added.
    share = 1.0 if covariance_type == "low_rank" else rate
    floor = share * reg_covar * unit
    moved = maximization(statistics, floor).density(covariance_type)
    return _settle(moved), -batch.mean_log_likelihood


def variance_unit(encoder: Encoder, variance: Tensor) -> Tensor:
    """Return the variances of embeddings that `reg_covar` is relative to in updates.

    An identity encoder knows those of the first rows. Where a column is constant, the
    variance of the mixture is what `reg_covar` made it: a share of it would be less
    with every batch.
    """
    return encoder.scale.square() if encoder.is_identity else variance


def fit_centred_gaussian(
    residual: Tensor, reg_covar: float
) -> MultivariateNormalMixture:
    """Fit a Gaussian about zero to residuals.

    Parameters
    ----------
    residual : tensor of float64 of shape (n_samples, n_features)
        Errors of a prediction.
    reg_covar : float
        Added to the diagonal of the covariance, in units of the variances.

    Returns
    -------
    density : MultivariateNormalMixture
        One Gaussian with the second moment of the residuals.
    """
    both = torch.cat([residual, -residual])
    return fit_mixture(both, 1, "full", reg_covar, seed=0)[0]


def update_centred_gaussian(
    density: MultivariateNormalMixture, residual: Tensor, rate: float, reg_covar: float
) -> MultivariateNormalMixture:
    """Move a Gaussian about zero towards the residuals of a batch."""
    both = torch.cat([residual, -residual])
    return update_mixture(density, both, rate, reg_covar, "full")[0]


def _settle(density: MultivariateNormalMixture) -> MultivariateNormalMixture:
    """Lay parameters out as a loaded file would, so that both round alike."""
    return density._map(Tensor.contiguous)


def training_rate(n_batch: int, n_seen: int, forget: bool) -> float:
    """Weight of a batch after `n_seen` rows: an average, or a forgetful one."""
    rate = n_batch / n_seen
    return max(rate, 0.1) if forget else rate


def check_enough_rows(n_components: int, n_samples: int, n_validation: int = 0) -> None:
    """Refuse more components than rows to train on, before any training."""
    n_training = n_samples - n_validation
    if n_components > n_training:
        held_out = (
            f" without the {n_validation} that early_stopping=True keeps for validation"
            if n_validation
            else ""
        )
        raise ValueError(
            f"Expected n_samples >= n_components but got n_components = {n_components},"
            f" n_samples = {n_training}{held_out}; lower n_components or add rows."
        )
