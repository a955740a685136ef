"""Mixtures over embeddings, fitted in closed form, free of the embeddings' scale."""

import warnings

import torch
from torch import Tensor

from skgmje._backend import as_numpy
from skgmje.mixture import GaussianMixture, MultivariateNormalMixture
from skgmje.mixture._em import (
    expectation,
    maximization,
    statistics_of_density,
    stepwise,
)

EM_MAX_ITER, EM_TOL = 1000, 1e-4


def fit_mixture(
    z: Tensor, n_components: int, covariance_type: str, reg_covar: float, seed: int
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
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Form of the covariances.
    reg_covar : float
        Added to the diagonal of the covariances, in units of the variances.
    seed : int
        Seed of the starts.

    Returns
    -------
    density : MultivariateNormalMixture
        The mixture.
    loss_curve : list of float
        Negative mean log-likelihood at every EM iteration, in nats.
    """
    loc, scale = moments(z)
    rows = as_numpy((z - loc) / scale)
    mixture = GaussianMixture(
        n_components,
        covariance_type=covariance_type,
        init_params="short_runs" if n_components > 1 else "random",
        reg_covar=reg_covar,
        max_iter=EM_MAX_ITER,
        tol=EM_TOL,
        random_state=seed,
        device=z.device,
    )
    try:
        mixture.fit(rows)
    except KeyboardInterrupt:
        warnings.warn(
            "Fitting the density was interrupted by user; it has one component.",
            UserWarning,
            stacklevel=2,
        )
        mixture.set_params(n_components=1, init_params="random", max_iter=2, tol=1.0)
        mixture.fit(rows)
    log_jacobian = float(scale.log().sum())
    loss_curve = [float(log_jacobian - bound) for bound in mixture.lower_bounds_]
    return _settle(mixture.density_.affine(loc, scale)), loss_curve


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, at any scale; one if constant.

    Parameters
    ----------
    z : tensor of float64 of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    loc, scale : tensor of shape (n_features,)
        The moments.
    """
    loc = z.mean(0)
    deviation = z - loc
    # Squares of deviations relative to the largest neither overflow nor vanish.
    peak = deviation.abs().amax(0)
    # Below float64's own noise a column is constant.
    constant = peak <= 10 * torch.finfo(z.dtype).eps * loc.abs()
    peak = torch.where(constant, 1.0, peak)
    scale = peak * (deviation / peak).square().mean(0).sqrt()
    return loc, torch.where(constant, 1.0, scale)


def update_mixture(
    density: MultivariateNormalMixture,
    z: Tensor,
    rate: float,
    reg_covar: float,
    covariance_type: str,
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
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        As in :func:`fit_mixture`.

    Returns
    -------
    density : MultivariateNormalMixture
        The moved mixture.
    loss : float
        Negative mean log-likelihood of the batch under the mixture so far, in nats.
    """
    if covariance_type == "spherical" and density.scale_diag is not None:
        # Spheres in standardised coordinates: undo the scale, update, and put it back.
        scale = density.scale_diag[0]
        sphere = MultivariateNormalMixture.from_log_weights(
            density.log_weights,
            density.means / scale,
            scale_spherical=(density.scale_diag / scale).mean(-1),
        )
        moved, loss = update_mixture(sphere, z / scale, rate, reg_covar, "spherical")
        loss += float(scale.log().sum())
        return _settle(moved.affine(torch.zeros_like(scale), scale)), loss
    batch = expectation(z, density, covariance_type)
    statistics = stepwise(statistics_of_density(density), batch, rate)
    # What reg_covar added before is part of the statistics; the batch brings its share.
    floor = rate * reg_covar * density.variance
    moved = maximization(statistics, floor).density(covariance_type)
    return _settle(moved), -batch.mean_log_likelihood


def _settle(density: MultivariateNormalMixture) -> MultivariateNormalMixture:
    """Lay parameters out as a loaded file would, so that both round alike."""
    return density._map(Tensor.contiguous)


def training_rate(n_batch: int, n_seen: int, forget: bool) -> float:
    """Weight of a batch after `n_seen` rows: an average, or a forgetful one."""
    rate = n_batch / n_seen
    return max(rate, 0.1) if forget else rate


def check_enough_rows(n_components: int, n_samples: int) -> None:
    """Refuse more components than rows before any training."""
    if n_components > n_samples:
        raise ValueError(
            f"Expected n_samples >= n_components but got n_components = {n_components},"
            f" n_samples = {n_samples}; lower n_components or add rows."
        )
