"""Mixtures over embeddings, fitted in closed form, free of the embeddings' scale."""

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
    loc, scale = z.mean(0), z.std(0, correction=0)
    # Below float64's own noise a coordinate is constant.
    noise = 10 * torch.finfo(z.dtype).eps * loc.abs()
    scale = torch.where(scale > noise, scale, torch.ones_like(scale))
    mixture = GaussianMixture(
        n_components,
        covariance_type=covariance_type,
        init_params="short_runs" if n_components > 1 else "random",
        reg_covar=reg_covar,
        max_iter=EM_MAX_ITER,
        tol=EM_TOL,
        random_state=seed,
        device=z.device,
    ).fit(as_numpy((z - loc) / scale))
    log_jacobian = float(scale.log().sum())
    loss_curve = [float(log_jacobian - bound) for bound in mixture.lower_bounds_]
    return _settle(mixture.density_.affine(loc, scale)), loss_curve


def update_mixture(
    density: MultivariateNormalMixture, z: Tensor, rate: float, reg_covar: float
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

    Returns
    -------
    density : MultivariateNormalMixture
        The moved mixture.
    loss : float
        Negative mean log-likelihood of the batch under the mixture so far, in nats.
    """
    covariance_type = density.covariance_type
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
