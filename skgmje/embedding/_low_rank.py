"""Mixtures of factor analysers, from what the estimator finds without factors."""

import numpy as np
from sklearn.base import clone

from skgmje._backend import resolve_device
from skgmje.mixture import GaussianMixture, MultivariateNormalMixture
from skgmje.mixture._em import maximization
from skgmje.mixture._factor_analysis import factorise
from skgmje.mixture._samples import Rows, Samples, samples_in_memory

# The fit without factors only leads to the right clusters.
START_TOL = 1e-3


def fit_low_rank(
    mixture: GaussianMixture, rows: np.ndarray, rank: int
) -> tuple[MultivariateNormalMixture, list[float]]:
    """Fit low-rank covariances by EM, from the better of two fits without factors.

    Full covariances find elongated clusters, but overfit where rows are few; diagonal
    ones do neither.

    Parameters
    ----------
    mixture : GaussianMixture
        Says how to fit: components, floor of the variances, iterations and seed.
    rows : ndarray of float64 of shape (n_samples, n_features)
        Samples.
    rank : int
        Number of factors, cut to ``n_features - 1``.

    Returns
    -------
    density : MultivariateNormalMixture
        The mixture.
    bounds : list of float
        Mean log-likelihood at every EM iteration, in nats.
    """
    device = resolve_device(mixture.device)
    samples = samples_in_memory(
        Rows(rows) if device.type == "cpu" else Rows(rows).to(device)
    )
    forms = ("full",) if mixture.n_components == 1 else ("full", "diag")
    runs = []
    for covariance_type in forms:
        start = clone(mixture).set_params(
            covariance_type=covariance_type, tol=max(mixture.tol, START_TOL)
        )
        density = factorise(start.fit(rows).density_, rank, mixture.reg_covar)
        runs.append(_run(samples, density, mixture))
    return max(runs, key=lambda run: run[1][-1])


def _run(
    samples: Samples, density: MultivariateNormalMixture, mixture: GaussianMixture
) -> tuple[MultivariateNormalMixture, list[float]]:
    """Repeat EM steps until the likelihood gains less than the tolerance."""
    bounds: list[float] = []
    for _ in range(mixture.max_iter):
        statistics = samples.statistics(density, "low_rank")
        step = maximization(statistics, mixture.reg_covar)
        density = step.density("low_rank")
        bounds.append(statistics.mean_log_likelihood)
        if len(bounds) > 1 and bounds[-1] - bounds[-2] < mixture.tol:
            break
    return density, bounds
