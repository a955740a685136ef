"""Expectation maximisation: blocks of samples in, sufficient statistics out.

The E step and the sums that the M step needs run together, block by block.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import Tensor

from skgmje._backend import as_numpy, blocks
from skgmje.mixture._distribution import MultivariateNormalMixture
from skgmje.mixture._evaluation import (
    LOG_RESPONSIBILITY_FLOOR,
    Block,
    Evaluator,
)
from skgmje.mixture._forms import deviations_of_all
from skgmje.mixture._statistics import (
    ILL_DEFINED_COVARIANCE,
    MixtureParameters,
    SufficientStatistics,
    covariances_of_density,
    covariances_shape,
    has_cancelled,
    maximization,
    scale_of_covariances,
    statistics_of_density,
    stepwise,
)

__all__ = [
    "ILL_DEFINED_COVARIANCE",
    "LOG_RESPONSIBILITY_FLOOR",
    "MixtureParameters",
    "SufficientStatistics",
    "covariances_of_density",
    "covariances_shape",
    "expectation",
    "expectation_about",
    "has_cancelled",
    "maximization",
    "scale_of_covariances",
    "statistics_of_density",
    "statistics_of_responsibilities",
    "stepwise",
]

# Rows whose responsibilities are in memory where moments are measured anew.
CAREFUL_ROWS = 2**16
# Standard deviations from zero to the samples beyond which their scatter about zero
# says nothing of its size.
FAR_ORIGIN = 1e4


def expectation(
    X: Any,
    density: MultivariateNormalMixture,
    covariance_type: str,
    sample_weight: Any = None,
) -> SufficientStatistics:
    """E step over blocks of samples, fused with the sums that the M step needs.

    Parameters
    ----------
    X : ndarray or tensor of shape (n_samples, D)
        Samples of any float type.
    density : MultivariateNormalMixture
        Current float64 mixture, without batch dimensions.
    covariance_type : {"full", "tied", "diag", "spherical", "low_rank"}
        Which second moments to collect; those of low rank need a density of low rank.
    sample_weight : ndarray of shape (n_samples,), optional
        Weights of the samples, not negative.

    Returns
    -------
    statistics : SufficientStatistics
        Statistics around the mean of the mixture or, where that would cancel, around
        the current means of the components.
    """

    def responsibilities(block: Block) -> tuple[Any, Any]:
        log_prob = block.posterior(LOG_RESPONSIBILITY_FLOOR)
        return block.log_joint, log_prob

    evaluator = Evaluator(density, covariance_type)
    return _collect(X, evaluator, responsibilities, sample_weight)


def expectation_about(
    X: Any,
    density: MultivariateNormalMixture,
    covariance_type: str,
    reference: Tensor,
    sample_weight: Any = None,
) -> SufficientStatistics:
    """E step whose moments are measured from given points, without the likelihood.

    Parameters
    ----------
    X, density, covariance_type, sample_weight
        As for `expectation`.
    reference : tensor of shape (K, D)
        The points, near the means of the M step.

    Returns
    -------
    statistics : SufficientStatistics
        Statistics around the given points, of log-likelihood zero.
    """
    evaluator = Evaluator(density, covariance_type)
    parts = []
    for rows in gen_batches(X.shape[0], CAREFUL_ROWS):
        resp = evaluator.responsibilities(X[rows])
        if sample_weight is not None:
            resp *= as_numpy(torch.as_tensor(sample_weight[rows]))[:, None]
        parts.append(
            _statistics_about(
                X[rows], resp, as_numpy(reference), covariance_type, reference.device
            )
        )
    total = X.shape[0] if sample_weight is None else sample_weight.sum()
    return replace(reduce(add, parts), total=float(total))


def statistics_of_responsibilities(
    X: Any,
    responsibilities: Any,
    covariance_type: str,
    device: torch.device,
    sample_weight: Any = None,
) -> SufficientStatistics:
    """Statistics for given responsibilities of shape (n_samples, K).

    `sample_weight` says what the responsibilities of a sample sum to, where not to one.
    """
    means = _weighted_means(X, responsibilities)
    statistics = _statistics_about(X, responsibilities, means, covariance_type, device)
    weight = np.ones(X.shape[0]) if sample_weight is None else sample_weight
    if covariance_type == "tied" and not np.allclose(responsibilities.sum(1), weight):
        # A start from single points. As scikit-learn does, the scatter of all samples
        # about the origin takes the place of the weighted one: a wide start.
        weights = np.reshape(weight, (-1, 1))
        origin = _origin(X)
        scatter = _statistics_about(X, weights, origin, "tied", device).second
        centres = statistics.reference - torch.from_numpy(origin).to(device)
        second = scatter - (statistics.counts.unsqueeze(-1) * centres).T @ centres
        statistics = replace(statistics, second=second)
    return statistics


def _origin(X: Any) -> np.ndarray:
    """Return zero or, in columns that are far from it beside their spread, the mean."""
    mean = np.mean(X, axis=0, dtype=np.float64)
    size = max(1, X.shape[0] // 2**16)
    spread = np.std(X[::size], axis=0, dtype=np.float64)
    return np.where(np.abs(mean) > FAR_ORIGIN * spread, mean, 0.0)[None]


def _weighted_means(X: Any, responsibilities: Any) -> np.ndarray:
    # Sums alone: a common origin would cost samples near it all their digits beside a
    # far one. The M step corrects the rounding of the means.
    first = sum(
        np.asarray(responsibilities[rows], dtype=np.float64).T @ X[rows]
        for rows in blocks(X.shape[0], X.shape[1])
    )
    counts = np.asarray(responsibilities).sum(axis=0, dtype=np.float64)
    return first / np.maximum(counts, np.finfo(np.float64).tiny)[:, None]


def _statistics_about(
    X: Any,
    responsibilities: Any,
    means: np.ndarray,
    covariance_type: str,
    device: torch.device,
) -> SufficientStatistics:
    """Sum deviations from given means."""
    n_components, n_features = means.shape
    weights = torch.full((n_components,), 1.0 / n_components, dtype=torch.float64)
    unit = {
        "full": torch.eye(n_features).expand(n_components, -1, -1),
        "tied": torch.eye(n_features),
        "diag": torch.ones(n_components, n_features),
        "spherical": torch.ones(n_components),
    }[covariance_type].double()
    parameters = (weights, torch.from_numpy(means), unit)
    density = MixtureParameters(*(p.to(device) for p in parameters)).density(
        covariance_type
    )
    evaluator = Evaluator(density, covariance_type, deviations_of_all)

    def given(block: Block) -> tuple[Any, Any]:
        resp = evaluator.array(responsibilities[block.rows].T)
        return resp, resp[0] * 0.0

    return _collect(X, evaluator, given, None)


def _collect(
    X: Any,
    evaluator: Evaluator,
    responsibilities: Callable[[Block], tuple[Any, Any]],
    sample_weight: Any,
) -> SufficientStatistics:
    """Sum the statistics of all blocks."""

    def collect(span: slice, scratch: dict[str, Any]) -> list[Any]:
        totals: Any = None
        for block in evaluator.blocks(X, span, scratch):
            resp, log_prob = responsibilities(block)
            if sample_weight is None:
                log_likelihood = log_prob.sum()
            else:
                weight = evaluator.array(sample_weight[block.rows])
                log_likelihood = weight @ log_prob
                block.xp.multiply(resp, weight, out=resp)
            sums = [log_likelihood, *block.sums(resp)]
            totals = (
                sums
                if totals is None
                else [a + b for a, b in zip(totals, sums, strict=True)]
            )
        return totals

    spans = evaluator.map(collect, X.shape[0])
    log_likelihood, *sums = (
        torch.as_tensor(sum(parts[1:], start=parts[0]))
        for parts in zip(*spans, strict=True)
    )
    total = X.shape[0] if sample_weight is None else sample_weight.sum()
    counts, first, second, reference = _moments(evaluator, sums)
    return SufficientStatistics(
        counts,
        first,
        second,
        reference,
        log_likelihood,
        float(total),
        evaluator.covariance_type,
        evaluator.scale,
    )


def _moments(evaluator: Evaluator, sums: list[Tensor]) -> Iterable[Tensor]:
    """Return counts, moments and references, in the order of the mixture."""
    parts, start = [], 0
    for form in evaluator.forms:
        stop = start + form.n_sums
        parts.append(form.moments(sums[start:stop]))
        start = stop
    if evaluator.inverse is None:
        return parts[0]
    order = torch.as_tensor(evaluator.inverse)
    return (torch.cat(group)[order] for group in zip(*parts, strict=True))
