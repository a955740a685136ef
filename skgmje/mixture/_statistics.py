"""Sufficient statistics of a mixture, its parameters, and the M step between them.

All sums are float64. Second moments are kept around a reference point of each
component (its previous mean), so that nothing cancels far from the origin.
"""

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from skgmje.exceptions import IllDefinedCovarianceError
from skgmje.mixture._distribution import MultivariateNormalMixture
from skgmje.mixture._factor_analysis import factor_covariances
from skgmje.mixture._low_rank import LowRankScale
from skgmje.mixture._scale import DiagonalScale, Scale, SphericalScale, TrilScale

# Keeps the share of an empty component from dividing by zero; of the sum of weights,
# where that is less than one.
COUNT_FLOOR = 10 * torch.finfo(torch.float64).eps
# Squared standard deviations from a reference point to a mean, beyond which moments
# about the mean are differences of much larger numbers.
MAX_SHIFT = 1e9
# The same along the columns, up to which no factor needs to be looked at.
NEAR_SHIFT = 1e3
# Smaller variances have no finite inverse.
MIN_VARIANCE = torch.finfo(torch.float64).tiny
ILL_DEFINED_COVARIANCE = (
    "Fitting the mixture model failed because some components have ill-defined "
    "empirical covariance (for instance caused by singleton or collapsed samples). Try "
    "to decrease the number of components, increase reg_covar, or scale the input data."
)


@dataclass(frozen=True)
class SufficientStatistics:
    """What the M step needs to know about the data.

    Attributes
    ----------
    counts : tensor of shape (K,)
        Sums of responsibilities, times sample weights.
    first : tensor of shape (K, D)
        Weighted sums of deviations from `reference`.
    second : tensor of shape (K, D, D), (D, D) if tied, or (K, D) if diagonal
        Weighted sums of products of those deviations.
    reference : tensor of shape (K, D)
        The points from which deviations are measured.
    log_likelihood : tensor of shape ()
        Weighted sum of log-densities, in nats.
    total : float
        Number of samples, or the sum of their weights.
    covariance_type : {"full", "tied", "diag", "spherical", "low_rank"}
        Which second moments are kept.
    scale : Scale or None
        Scale of the mixture that made the E step. The M step of low-rank covariances,
        which has no closed form, starts from it.
    """

    counts: Tensor
    first: Tensor
    second: Tensor
    reference: Tensor
    log_likelihood: Tensor
    total: float
    covariance_type: str
    scale: Any = None

    def __add__(self, other: "SufficientStatistics") -> "SufficientStatistics":
        other = other.around(self.reference)
        return replace(
            self,
            counts=self.counts + other.counts,
            first=self.first + other.first,
            second=self.second + other.second,
            log_likelihood=self.log_likelihood + other.log_likelihood,
            total=self.total + other.total,
        )

    def __mul__(self, factor: float) -> "SufficientStatistics":
        return replace(
            self,
            counts=self.counts * factor,
            first=self.first * factor,
            second=self.second * factor,
            log_likelihood=self.log_likelihood * factor,
            total=self.total * factor,
        )

    def around(self, reference: Tensor) -> "SufficientStatistics":
        """Return the same statistics, measured from other reference points."""
        if reference is self.reference:
            return self
        shift = self.reference - reference
        moved = self.first + self.counts.unsqueeze(-1) * shift
        if self.covariance_type in ("diag", "spherical"):
            second = self.second + shift * (self.first + moved)
        elif self.covariance_type == "tied":
            cross = shift.mT @ self.first
            second = self.second + shift.mT @ moved + cross.mT
        else:
            left = torch.stack([shift, self.first], dim=-1)
            second = self.second + left @ torch.stack([moved, shift], dim=-2)
        return replace(self, first=moved, second=second, reference=reference)

    @property
    def mean_log_likelihood(self) -> float:
        """Mean log-density of a sample, in nats."""
        return float(self.log_likelihood) / self.total


@dataclass(frozen=True)
class MixtureParameters:
    """Parameters in scikit-learn's layout, as float64 tensors.

    Low-rank covariances are the factors of a `LowRankScale`.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def density(self, covariance_type: str) -> MultivariateNormalMixture:
        """Return the mixture; raise ValueError if a covariance is not definite."""
        scale = scale_of_covariances(self.covariances, covariance_type)
        return MultivariateNormalMixture._from_parts(
            self.weights.log(), self.means, scale
        )


def covariances_shape(
    covariance_type: str, n_components: int, n_features: int
) -> tuple[int, ...]:
    """Return the shape of covariances in scikit-learn's layout."""
    shapes = {
        "full": (n_components, n_features, n_features),
        "tied": (n_features, n_features),
        "diag": (n_components, n_features),
        "spherical": (n_components,),
    }
    if covariance_type not in shapes:
        raise ValueError(
            f"covariance_type must be one of {sorted(shapes)}; got {covariance_type!r}."
        )
    return shapes[covariance_type]


def scale_of_covariances(covariances: Tensor, covariance_type: str) -> Scale:
    """Factorise covariances that are stored in scikit-learn's layout."""
    if covariance_type in ("full", "tied"):
        matrices = covariances if covariances.dim() == 3 else covariances.unsqueeze(0)
        factor, info = torch.linalg.cholesky_ex(matrices)
        # What is not finite anywhere in a row is so in its pivot.
        least, most = factor.diagonal(dim1=-2, dim2=-1).square().aminmax()
        if bool(info.any()) or not MIN_VARIANCE <= float(least) <= float(most) < inf:
            raise IllDefinedCovarianceError(ILL_DEFINED_COVARIANCE)
        return TrilScale(factor)
    is_low_rank = covariance_type == "low_rank"
    variances = covariances[..., -1].square() if is_low_rank else covariances
    large_enough = bool((variances >= MIN_VARIANCE).all())
    if not large_enough or not bool(torch.isfinite(covariances).all()):
        raise IllDefinedCovarianceError(ILL_DEFINED_COVARIANCE)
    if is_low_rank:
        return LowRankScale(covariances)
    factor = covariances.sqrt()
    return (
        DiagonalScale(factor) if covariance_type == "diag" else SphericalScale(factor)
    )


def covariances_of_density(density: MultivariateNormalMixture) -> Tensor:
    """Return the covariances of one mixture in scikit-learn's layout."""
    factor = density._scale.factor
    if density.covariance_type == "low_rank":
        return factor
    if density.scale_tril is None:
        return factor.square()
    covariances = factor @ factor.mT
    return covariances.squeeze(0) if density.covariance_type == "tied" else covariances


def maximization(
    statistics: SufficientStatistics, reg_covar: float | Tensor
) -> MixtureParameters:
    """M step: weights, means and covariances in scikit-learn's layout.

    `reg_covar` is added to the diagonals; for low-rank covariances, whose M step is
    conditional, it bounds the noise from below.
    """
    covariance_type = statistics.covariance_type
    floor = COUNT_FLOOR * statistics.counts.sum().clamp(max=1.0)
    counts = statistics.counts + floor
    shift = statistics.first / counts.unsqueeze(-1)
    means = statistics.reference + shift
    centred = statistics.around(means).second
    if covariance_type == "full":
        covariances = _regularise(centred / counts[:, None, None], reg_covar)
    elif covariance_type == "tied":
        covariances = _regularise(centred / counts.sum(), reg_covar)
    elif covariance_type == "low_rank":
        covariances = factor_covariances(
            centred / counts[:, None, None], statistics.scale.factor, reg_covar
        )
    else:
        covariances = (centred / counts.unsqueeze(-1)).clamp(min=0) + reg_covar
        if covariance_type == "spherical":
            covariances = covariances.mean(-1)
    return MixtureParameters(counts / counts.sum(), means, covariances)


def has_cancelled(
    statistics: SufficientStatistics, parameters: MixtureParameters
) -> bool:
    """Say whether an M step lost its digits between far reference points and means."""
    shift = parameters.means - statistics.reference
    variance = parameters.covariances
    if statistics.covariance_type == "low_rank":
        variance = variance.square().sum(-1)
    elif statistics.covariance_type in ("full", "tied"):
        variance = variance.diagonal(dim1=-2, dim2=-1)
    elif statistics.covariance_type == "spherical":
        variance = variance.unsqueeze(-1)
    if bool((shift.square() <= NEAR_SHIFT * variance).all()):
        return False
    try:
        scale = scale_of_covariances(parameters.covariances, statistics.covariance_type)
    except IllDefinedCovarianceError:
        return bool((shift != 0).any())
    return bool((scale.whiten(shift).square().sum(-1) > MAX_SHIFT).any())


def _regularise(covariances: Tensor, reg_covar: float | Tensor) -> Tensor:
    covariances = 0.5 * (covariances + covariances.mT)
    covariances.diagonal(dim1=-2, dim2=-1).add_(reg_covar)
    return covariances


def statistics_of_density(density: MultivariateNormalMixture) -> SufficientStatistics:
    """Return the statistics, for a total of one sample, whose M step is the density."""
    weights, means = density.weights, density.means
    covariances = covariances_of_density(density)
    covariance_type = density.covariance_type
    if covariance_type == "full":
        second = weights[:, None, None] * covariances
    elif covariance_type == "low_rank":
        second = weights[:, None, None] * density.component_covariances
    elif covariance_type == "tied":
        second = covariances
    else:
        second = weights.unsqueeze(-1) * density._scale.variance(means.shape[-1])
    zero = torch.zeros((), dtype=means.dtype, device=means.device)
    return SufficientStatistics(
        weights,
        torch.zeros_like(means),
        second,
        means,
        zero,
        1.0,
        covariance_type,
        density._scale,
    )


def stepwise(
    running: SufficientStatistics, batch: SufficientStatistics, rate: float
) -> SufficientStatistics:
    """Move running statistics towards those of a batch (stepwise EM).

    Parameters
    ----------
    running : SufficientStatistics
        Statistics so far, for a total of one sample.
    batch : SufficientStatistics
        Statistics of a batch.
    rate : float
        Weight of the batch, from 0 to 1; ``n_batch / n_seen`` gives exact averages.

    Returns
    -------
    statistics : SufficientStatistics
        The new running statistics.
    """
    moved = running * (1.0 - rate) + batch * (rate / batch.total)
    return replace(moved, scale=batch.scale)
