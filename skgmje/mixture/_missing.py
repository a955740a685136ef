"""Missing values: E step, densities and imputation; NaN is missing at random."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skgmje._backend import as_numpy, blocks, make_generator
from skgmje.mixture._completion import CompletedBlock, completed_blocks, on_device
from skgmje.mixture._distribution import MultivariateNormalMixture
from skgmje.mixture._evaluation import LOG_RESPONSIBILITY_FLOOR, NO_SHARE
from skgmje.mixture._scale import TrilScale
from skgmje.mixture._statistics import (
    MixtureParameters,
    SufficientStatistics,
    maximization,
)

START_ITERATIONS = 5
# Ridge of the start, relative to the variance of each column.
START_RIDGE = 1e-6


def has_missing(X: Any) -> bool:
    """Say whether samples hold NaN, in one pass without memory.

    Parameters
    ----------
    X : ndarray or tensor of shape (n_samples, D)
        Samples, at least one.

    Returns
    -------
    has_missing : bool
        True if at least one value is missing.
    """
    return bool(X.isnan().any() if isinstance(X, Tensor) else np.isnan(np.min(X)))


def incomplete_rows(X: Any) -> Any:
    """Say which rows hold NaN.

    Parameters
    ----------
    X : ndarray or tensor of shape (n_samples, D)
        Samples.

    Returns
    -------
    incomplete : ndarray or tensor of bool of shape (n_samples,)
        True where at least one value is missing; of the kind of X.
    """
    if isinstance(X, Tensor):
        return X.isnan().any(1)
    incomplete = np.empty(X.shape[0], dtype=bool)
    for rows in blocks(X.shape[0], X.shape[1]):
        incomplete[rows] = np.isnan(X[rows]).any(axis=1)
    return incomplete


@torch.no_grad()
def expectation_with_missing(
    X: Any,
    density: MultivariateNormalMixture,
    covariance_type: str,
    sample_weight: Any = None,
) -> SufficientStatistics:
    """E step over rows with missing values, fused with the sums of the M step.

    Parameters
    ----------
    X : ndarray or tensor of shape (n_samples, D)
        Samples of any float type; NaN is missing at random. Complete rows are legal,
        and so are rows without any value.
    density : MultivariateNormalMixture
        Current float64 mixture, without batch dimensions.
    covariance_type : {"full", "tied", "diag", "spherical"}
        Which second moments to collect; of the form of the density.
    sample_weight : array-like or tensor of shape (n_samples,), default=None
        Weights of the rows; one each by default.

    Returns
    -------
    statistics : SufficientStatistics
        Expected statistics around the current means.

    References
    ----------
    Ghahramani and Jordan, *Supervised learning from incomplete data via an EM
    approach* (1994), section 3.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skgmje import MultivariateNormalMixture
    >>> from skgmje.mixture._statistics import maximization
    >>> means, factors = torch.zeros(1, 2), torch.eye(2).unsqueeze(0)
    >>> density = MultivariateNormalMixture(torch.ones(1), means, factors)
    >>> density = density.to(torch.float64)
    >>> statistics = expectation_with_missing(
    ...     np.array([[2.0, np.nan], [0.0, 3.0]]), density, "full"
    ... )
    >>> maximization(statistics, 0.0).covariances
    tensor([[[ 1.0000, -1.5000],
             [-1.5000,  2.7500]]], dtype=torch.float64)
    """
    means, scale = density._means, density._scale
    n_components, n_features = means.shape
    correlated = isinstance(scale, TrilScale)
    # One sum serves all components that share a factor, as products are whitened.
    shared = covariance_type == "tied" and len(scale.factor) == 1
    counts, log_likelihood = means.new_zeros(n_components), means.new_zeros(())
    first = torch.zeros_like(means)
    second = means.new_zeros(1 if shared else n_components, n_features, n_features)
    if not correlated:
        second = torch.zeros_like(means)
    if sample_weight is None:
        weights = means.new_ones(()).expand(X.shape[0])
    else:
        weights = on_device(sample_weight, means.device)
    has_weight = density._log_weights.isfinite()[:, None, None]
    for block in completed_blocks(X, density):
        log_joint = density._log_weights[:, None, None] + block.log_prob
        log_prob = log_joint.logsumexp(0)
        log_responsibility = log_joint - log_prob
        negligible = (log_responsibility < NO_SHARE) & has_weight
        log_responsibility.clamp_(min=LOG_RESPONSIBILITY_FLOOR)
        weight = weights[block.rows]
        resp = log_responsibility.exp_().masked_fill_(negligible, 0.0) * weight
        counts += resp.sum((1, 2))
        log_likelihood += (log_prob * weight).sum()
        deviation, spread = block.deviation[:, 0], block.spread[:, 0]
        weighted = deviation * resp.unsqueeze(1)
        first += weighted.sum((2, 3))
        load = resp.sum(1)[:, None, None]
        if shared:
            load = load.sum(0, keepdim=True)
        for left, right in (weighted, deviation), (spread * load, spread):
            moment = _second_moment(left, right, correlated)
            second += moment.sum(0, keepdim=True) if shared else moment
    if correlated:
        first = (scale.factor @ first.unsqueeze(-1)).squeeze(-1)
        second = scale.factor @ second @ scale.factor.mT
    else:
        first *= scale.variance(n_features).sqrt()
        second *= scale.variance(n_features)
    if covariance_type == "tied":
        second = second.sum(0)
    total = float(weights.sum())
    return SufficientStatistics(
        counts, first, second, means, log_likelihood, total, covariance_type
    )


def _second_moment(left: Tensor, right: Tensor, correlated: bool) -> Tensor:
    if correlated:
        return left.flatten(2) @ right.flatten(2).mT
    return (left * right).sum((2, 3))


@torch.no_grad()
def component_log_prob_with_missing(
    X: Any, density: MultivariateNormalMixture
) -> Tensor:
    """Log-density of the observed coordinates under each component.

    Parameters
    ----------
    X : ndarray or tensor of shape (n_samples, D)
        Samples of any float type; NaN is missing at random.
    density : MultivariateNormalMixture
        Float64 mixture, without batch dimensions.

    Returns
    -------
    log_prob : tensor of shape (n_samples, K)
        Log-densities in nats, without the weights; zero for a row without any value.
    """
    log_prob = density._means.new_empty(X.shape[0], density.n_components)
    for block in completed_blocks(X, density):
        log_prob[block.rows] = block.log_prob.movedim(0, -1)
    return log_prob


@torch.no_grad()
def impute(
    X: Any,
    density: MultivariateNormalMixture,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill in the missing coordinates from their conditional distribution.

    Parameters
    ----------
    X : ndarray or tensor of shape (n_samples, D)
        Samples of any float type; NaN is missing at random.
    density : MultivariateNormalMixture
        Float64 mixture, without batch dimensions.
    generator : torch.Generator, optional
        Source of one draw from the conditional mixture of each row, on the device of
        the density; by default missing values become their conditional means.

    Returns
    -------
    completed : tensor of shape (n_samples, D)
        Float64 samples on the device of the density; observed values are exact.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skgmje import MultivariateNormalMixture
    >>> means, factors = torch.zeros(1, 2), torch.tensor([[[1.0, 0.0], [0.5, 1.0]]])
    >>> density = MultivariateNormalMixture(torch.ones(1), means, factors)
    >>> density = density.to(torch.float64)
    >>> impute(np.array([[2.0, np.nan], [3.0, 4.0]]), density)
    tensor([[2., 1.],
            [3., 4.]], dtype=torch.float64)
    """
    completed = on_device(X, density._means.device, copy=True)
    incomplete = incomplete_rows(completed).nonzero().squeeze(1)
    for block in completed_blocks(completed[incomplete], density, in_units=True):
        log_joint = density._log_weights[:, None, None] + block.log_prob
        share = log_joint.softmax(0)
        if generator is None:
            value = density._means[:, :, None, None] + block.deviation[:, 1]
            filled = (share.unsqueeze(1) * value).sum(0)
        else:
            filled = _draw(block, share, density, generator)
        rows = incomplete[block.rows]
        observed = completed[rows]
        filled = torch.where(observed.isnan(), filled.movedim(0, -1), observed)
        completed[rows] = filled
    return completed


def _draw(
    block: CompletedBlock,
    share: Tensor,
    density: MultivariateNormalMixture,
    generator: torch.Generator,
) -> Tensor:
    """Draw rows of shape (D, S, B): a component of each, then its conditional."""
    shape = share.shape[1:]
    drawn = torch.multinomial(share.flatten(1).T, 1, generator=generator)
    component = drawn.reshape(1, 1, *shape)
    deviation, spread = block.deviation[:, 1], block.spread[:, 1]
    correlated = isinstance(density._scale, TrilScale)
    n_noise = spread.shape[2 if correlated else 1]
    noise = share.new_empty(n_noise, *shape).normal_(generator=generator)
    if correlated:
        noise = torch.einsum("kdmb,msb->kdsb", spread, noise)
    else:
        noise = spread * noise
    value = density._means[:, :, None, None] + deviation + noise
    return value.take_along_dim(component, 0).squeeze(0)


def fill_for_start(X: np.ndarray, sample_weight: Any, random_state: Any) -> np.ndarray:
    """Complete the samples, so that k-means and its like can start from them.

    A few EM iterations fit one Gaussian; missing values are then drawn from their
    conditional distribution, which keeps the spread that means would shrink.

    Parameters
    ----------
    X : ndarray of shape (n_samples, D)
        Samples of any float type; NaN is missing at random.
    sample_weight : array-like of shape (n_samples,) or None
        Weights of the rows.
    random_state : int, RandomState instance or None
        Seed of the draws.

    Returns
    -------
    completed : ndarray of shape (n_samples, D)
        Float64 samples without NaN; observed values are exact.

    Raises
    ------
    ValueError
        If a column has no observed value.

    Examples
    --------
    >>> import numpy as np
    >>> fill_for_start(np.array([[1.0, 5.0], [2.0, 5.0], [3.0, np.nan]]), None, 0)
    array([[1., 5.],
           [2., 5.],
           [3., 5.]])
    """
    mean, variance = _column_moments(X, sample_weight)
    constant = variance == 0
    variance[constant] = 1.0
    ridge = torch.from_numpy(START_RIDGE * variance)
    density = MixtureParameters(
        torch.ones(1, dtype=torch.float64),
        torch.from_numpy(mean[None]),
        torch.from_numpy(np.diag(variance)[None]),
    ).density("full")
    for _ in range(START_ITERATIONS):
        statistics = expectation_with_missing(X, density, "full", sample_weight)
        density = maximization(statistics, ridge).density("full")
    generator = make_generator(random_state, torch.device("cpu"))
    completed = as_numpy(impute(X, density, generator))
    return np.where(np.isnan(X) & constant, mean, completed)


def _column_moments(X: np.ndarray, sample_weight: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean and variance of the observed values of each column."""
    observed = ~np.isnan(X)
    weight = observed * np.ones(X.shape[0])[:, None]
    if sample_weight is not None:
        weight *= np.asarray(sample_weight)[:, None]
    total = weight.sum(axis=0)
    if not total.all():
        empty = np.flatnonzero(total == 0).tolist()
        raise ValueError(
            f"X has no observed value in columns {empty}; drop these columns before "
            "fitting."
        )
    values = np.where(observed, X, 0.0)
    mean = (weight * values).sum(axis=0) / total
    deviation = np.where(observed, values - mean, 0.0)
    return mean, (weight * deviation**2).sum(axis=0) / total
