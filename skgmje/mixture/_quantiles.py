"""Distribution functions and quantiles of mixtures, coordinate by coordinate."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Largest error of a tail, in logarithms, and the most steps to a root.
TAIL_TOL, ROOT_MAX_ITER = 1e-13, 200
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Coordinates(NamedTuple):
    """The mixture of each coordinate on its own.

    Components are the last dimension: log-weights (*batch, 1, K), means (*batch, D, K)
    and standard deviations that broadcast against them. Points have shape
    (*sample, *batch, D); for one coordinate, (*batch, any number of points) will do.
    """

    log_weights: Tensor
    means: Tensor
    scales: Tensor

    @classmethod
    def of(cls, mixture: Any) -> "Coordinates":
        """Take the coordinates of a mixture apart."""
        variance = mixture._scale.variance(mixture.event_shape[0])
        return cls(
            mixture.log_weights.unsqueeze(-2), mixture.means.mT, variance.sqrt().mT
        )

    def log_prob(self, point: Tensor) -> Tensor:
        """Log-density."""
        return self._log_joint(point).logsumexp(-1)

    def log_tail(self, point: Tensor, side: Tensor | float) -> Tensor:
        """Log-probability below a point (side 1) or above it (side -1)."""
        side = torch.as_tensor(side, dtype=point.dtype, device=point.device)
        tail = torch.special.log_ndtr(side.unsqueeze(-1) * self._standardised(point))
        return (self.log_weights + tail).logsumexp(-1)

    def shape(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-density with its first and second derivative."""
        log_joint = self._log_joint(point)
        log_prob = log_joint.logsumexp(-1)
        share = (log_joint - log_prob.unsqueeze(-1)).exp()
        pull = -self._standardised(point) / self.scales
        first = (share * pull).sum(-1)
        # Around the mean pull, so that nothing cancels where the density is steep.
        spread = (pull - first.unsqueeze(-1)).square() - self.scales.pow(-2)
        return log_prob, first, (share * spread).sum(-1)

    def quantile(self, probability: Tensor) -> Tensor:
        """Point below which a probability of shape (*sample, *batch, D) lies.

        It lies between the least and the greatest quantile of the components. The
        smaller tail is solved for in logarithms, which Newton's method likes: that of
        one component is concave, and tails of 1e-12 are as exact as the median.
        """
        below = probability <= 0.5
        side = torch.where(below, 1.0, -1.0).to(probability)
        log_share = torch.where(below, probability, 1 - probability).log()
        ends = self.means + self.scales * torch.special.ndtri(probability).unsqueeze(-1)
        low, high = ends.amin(-1), ends.amax(-1)

        def excess(point: Tensor) -> tuple[Tensor, Tensor]:
            log_tail = self.log_tail(point, side)
            density = (self.log_prob(point) - log_tail).exp()
            return side * (log_tail - log_share), density

        return torch.where(low == high, low, find_root(excess, low, high, TAIL_TOL))

    def _standardised(self, point: Tensor) -> Tensor:
        return (point.unsqueeze(-1) - self.means) / self.scales

    def _log_joint(self, point: Tensor) -> Tensor:
        log_norm = self.scales.log() + _HALF_LOG_2PI
        return self.log_weights - 0.5 * self._standardised(point).square() - log_norm


def find_root(
    function: Callable[[Tensor], tuple[Tensor, Tensor]],
    low: Tensor,
    high: Tensor,
    tol: float | Tensor,
    start: Tensor | None = None,
) -> Tensor:
    """Solve for the root of an increasing function in many brackets at once.

    Newton's method; a step that leaves its bracket, or is not half as long as the last
    one, is replaced by bisection. What has converged stays as it is, so that no root
    depends on its neighbours.

    Parameters
    ----------
    function : callable
        Maps points to values and slopes, element by element.
    low, high : tensor
        Brackets. One of no width is its own answer.
    tol : float or tensor
        Error of the value that is small enough.
    start : tensor, optional
        First guesses inside the brackets; by default their centres.

    Returns
    -------
    root : tensor
        The roots.
    """
    point = 0.5 * (low + high) if start is None else start
    last = high - low
    spacing = 4 * torch.finfo(point.dtype).eps
    for _ in range(ROOT_MAX_ITER):
        value, slope = function(point)
        low = torch.where(value < 0, point, low)
        high = torch.where(value > 0, point, high)
        room = torch.minimum(high - low, last)
        active = (value.abs() > tol) & (room > spacing * point.abs())
        if not bool(active.any()):
            break
        step = value / slope
        newton = point - step
        good = (newton > low) & (newton < high) & (2 * step.abs() < last)
        proposal = torch.where(good, newton, 0.5 * (low + high))
        proposal = torch.where(active, proposal, point)
        last, point = (proposal - point).abs(), proposal
    return point
