"""Components of a mixture, centred and scaled by its moments."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from skgmje._backend import tensor_view
from skgmje.mixture._low_rank import LowRankScale
from skgmje.mixture._protocol import Mixture
from skgmje.mixture._scale import SphericalScale

# Products of larger standardised coordinates could overflow.
MAX_COORDINATE = 1e100
LOG_ZERO_WEIGHT = -1e300
# Devices whose memory NumPy shares.
NUMPY_DEVICES = ("cpu",)
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class Components:
    """Some components of a mixture, in its own units and standardised.

    `factor` is the Cholesky factor, (K or 1, D, D), or the standard deviations, (K, D).
    """

    xp: Any
    log_weights: Any
    means: Any
    factor: Any
    centre: Any
    spread: Any
    covariance_type: str

    @classmethod
    def of(cls, density: Mixture, covariance_type: str):
        """Take the components of a mixture without batch dimensions."""
        log_weights: Any = density._log_weights
        means: Any = density._means
        scale = density._scale
        # Samples by the thousand repay the cubic cost of triangles.
        dense = scale.dense() if isinstance(scale, LowRankScale) else scale
        factor: Any = dense.factor
        xp: Any = torch
        if means.device.type in NUMPY_DEVICES:
            xp = np
            parameters = (log_weights, means, factor)
            log_weights, means, factor = (p.detach().numpy() for p in parameters)
        if isinstance(density._scale, SphericalScale):
            factor = factor[:, None] * xp.ones_like(means)
        elif covariance_type == "full" and len(factor) < len(means):
            factor = factor * xp.ones_like(means)[..., None]
        weights = xp.exp(log_weights)
        centre = weights @ means
        within = xp.square(factor)
        within = within.sum(-1) if factor.ndim == 3 else within
        spread = xp.sqrt(weights @ (within + xp.square(means - centre)))
        usable = xp.isfinite(spread) & (spread > 0)
        return cls(
            xp,
            log_weights.clip(LOG_ZERO_WEIGHT),
            means,
            factor,
            centre,
            xp.where(usable, spread, 1.0),
            covariance_type,
        )

    def take(self, index: Any) -> "Components":
        """Return some of the components, or all."""
        if index is None:
            return self
        return replace(
            self,
            log_weights=self.log_weights[index],
            means=self.means[index],
            factor=self.factor
            if self.covariance_type == "tied"
            else self.factor[index],
        )

    @property
    def has_triangles(self) -> bool:
        """Whether the factors are matrices."""
        return self.factor.ndim == 3

    def _diagonal(self, matrices: Any) -> Any:
        """Diagonals of matrices; diagonal forms are stored as such."""
        if not self.has_triangles:
            return matrices
        index = self.xp.arange(matrices.shape[-1])
        return matrices[:, index, index]

    @cached_property
    def whitening(self) -> Any:
        """Inverse factors of the standardised components."""
        if not self.has_triangles:
            return self.spread / self.factor
        factor = tensor_view(self.factor / self.spread[:, None])
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
        return inverse.numpy() if self.xp is np else inverse

    @cached_property
    def precision(self) -> Any:
        """Precisions of the standardised components."""
        if not self.has_triangles:
            return self.xp.square(self.whitening)
        return self.whitening.swapaxes(1, 2) @ self.whitening

    @cached_property
    def standard_means(self) -> Any:
        """Means of the standardised components."""
        return (self.means - self.centre) / self.spread

    @cached_property
    def log_constants(self) -> Any:
        """Logarithms of weight over normalising constant, of shape (K,)."""
        log_scale = self.xp.log(self._diagonal(self.factor)).sum(-1)
        return self.log_weights - log_scale - self.means.shape[1] * _HALF_LOG_2PI

    def cancellation(self, farthest: float = 0.0) -> Any:
        """How much larger than its value the sum of a quadratic form's terms may be.

        `farthest` is how far from zero the standardised samples go, beyond one.
        """
        size = 1.0 + self.xp.square(self.standard_means) + farthest**2
        return (self._diagonal(self.precision) * size).sum(-1)
