"""Modes and highest-density regions of mixtures."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import chi2, norm
from sklearn.utils import gen_batches
from torch import Tensor

from skgmje.mixture._quantiles import Coordinates, find_root

# Fixed-point steps to a mode, and the move, in standard deviations, that ends them.
MODE_MAX_ITER, MODE_TOL = 1000, 1e-10
# Of more components only those count from whose means the density is highest. Every
# some steps, the mixtures whose points move no more are left out, and after the first
# only the highest points climb on.
MODE_COMPONENTS, MODE_STEPS, MODE_FINALISTS = 64, 30, 8
# Numbers in the largest temporary of one block of mixtures.
REGION_NUMBERS = 2**22
# Where turning points are looked for around each mean, in standard deviations, and
# where the density of a number is as good as zero.
TURN_REACH, TURN_POINTS, EDGE = 6.0, 49, 38.0
# Largest errors of the probability of a region, and of a log-density at its border.
MASS_TOL, HEIGHT_TOL = 1e-12, 1e-13


def check_mass(mass: float) -> None:
    """Raise ValueError for a mass that is not strictly between 0 and 1."""
    if np.ndim(mass) or not 0 < mass < 1:
        raise ValueError(f"mass must lie strictly between 0 and 1; got {mass!r}.")


@torch.no_grad()
def highest_mode(mixture: Any) -> Tensor:
    """Climb from two starts for every component; return the highest mode reached.

    Of many components the 64 with the highest density at their means count. Over one
    coordinate, return the highest turning point.
    """
    if mixture.batch_shape.numel() == 0 or mixture.n_components == 1:
        return mixture.mean
    if mixture.event_shape[0] == 1:
        n_points = TURN_POINTS * mixture.n_components
        return _by_blocks(
            mixture, n_points, lambda block: Landscape.of(block).highest_point()
        )
    n_starts = 2 * min(mixture.n_components, MODE_COMPONENTS)
    return _by_blocks(mixture, n_starts, _highest_mode)


def _by_blocks(
    mixture: Any, n_points: int, function: Callable[[Any], Tensor]
) -> Tensor:
    """Apply a function that holds n_points of each mixture to blocks of a batch."""
    if mixture.batch_shape.numel() == 0 or not mixture.batch_shape:
        return function(mixture)
    numbers = n_points * mixture.means[0].numel()
    rows = gen_batches(len(mixture), max(1, REGION_NUMBERS // numbers))
    return _joined([function(mixture[block]) for block in rows])


def _joined(parts: list[Tensor]) -> Tensor:
    """Join blocks, of which some have more intervals than others."""
    if parts[0].dim() < 3:
        return torch.cat(parts)
    most = max(part.shape[-2] for part in parts)
    pad = torch.nn.functional.pad
    return torch.cat(
        [pad(part, (0, 0, 0, most - part.shape[-2]), value=torch.nan) for part in parts]
    )


def _highest_mode(mixture: Any) -> Tensor:
    means = mixture.means.movedim(-2, 0)
    height = mixture.log_prob(means)
    n_chosen = min(MODE_COMPONENTS, len(means))
    point = _starts(mixture, height.topk(n_chosen, dim=0).indices)
    point, moves = _climb(mixture, point)
    point = _highest(mixture, point, min(MODE_FINALISTS, len(point)))
    for _ in range(MODE_MAX_ITER // MODE_STEPS):
        if not bool(moves.any()):
            break
        if not mixture.batch_shape:
            point, moves = _climb(mixture, point)
            continue
        point[:, moves], still_moves = _climb(mixture[moves], point[:, moves])
        moves = moves.masked_scatter(moves, still_moves)
    return _highest(mixture, point, 1).squeeze(0)


def _climb(mixture: Any, point: Tensor) -> tuple[Tensor, Tensor]:
    """Take fixed-point steps, each of which raises the density.

    Return the points, and which mixtures have one that has not arrived.
    """
    scale = mixture._scale
    spread = scale.variance(mixture.event_shape[0]).amin(-2).sqrt()
    for _ in range(MODE_STEPS):
        step = scale.precision_weighted_mean(
            mixture.responsibilities(point), mixture.means
        )
        moves = ((step - point).abs() / spread).amax((0, -1)) > MODE_TOL
        point = step
        if not bool(moves.any()):
            break
    return point, moves


def _highest(mixture: Any, point: Tensor, n_points: int) -> Tensor:
    """Return the points of highest density of each mixture."""
    best = mixture.log_prob(point).topk(n_points, dim=0).indices
    return torch.take_along_dim(point, best.unsqueeze(-1), dim=0)


def _starts(mixture: Any, chosen: Tensor) -> Tensor:
    """Return the means of some components and their highest crossings with others.

    Two elongated components can cross far from both means; the product of the two
    densities peaks there. `chosen` has shape (n, *batch).
    """
    n_chosen = len(chosen)
    means = torch.take_along_dim(
        mixture.means.movedim(-2, 0), chosen.unsqueeze(-1), dim=0
    )
    crossing, height = means, torch.full_like(means[..., 0], -torch.inf)
    single = torch.nn.functional.one_hot(chosen, mixture.n_components).to(means)
    for shift in range(1, n_chosen // 2 + 1):
        point = mixture._scale.precision_weighted_mean(
            single + single.roll(shift, dims=0), mixture.means
        )
        height_there = mixture.log_prob(point)
        higher = height_there > height
        crossing = torch.where(higher.unsqueeze(-1), point, crossing)
        height = torch.where(higher, height_there, height)
    return means if n_chosen == 1 else torch.cat([means, crossing])


@torch.no_grad()
def highest_density_level(
    mixture: Any,
    mass: float,
    n_samples: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Log-density that a share `mass` exceeds: exact, or else a quantile of draws."""
    check_mass(mass)
    n_features = mixture.event_shape[0]
    if mixture.n_components == 1:
        radius = float(chi2.ppf(mass, n_features))
        return mixture.log_prob(mixture.means[..., 0, :]) - 0.5 * radius
    if n_features == 1:
        return _by_blocks(
            mixture,
            TURN_POINTS * mixture.n_components,
            lambda block: Landscape.of(block).solve(mass)[0],
        )
    if generator is None:
        generator = torch.Generator(device=mixture._scale.factor.device).manual_seed(0)
    rank = max(1, round((1 - mass) * n_samples))

    def level(block: Any) -> Tensor:
        log_prob = block.log_prob(block.sample((n_samples,), generator=generator))
        return log_prob.kthvalue(rank, dim=0).values

    return _by_blocks(mixture, n_samples, level)


@torch.no_grad()
def highest_density_intervals(mixture: Any, mass: float) -> Tensor:
    """Intervals of shape (*batch, n_intervals, 2), padded with NaN."""
    check_mass(mass)
    intervals = _by_blocks(
        mixture,
        TURN_POINTS * mixture.n_components,
        lambda block: Landscape.of(block).intervals(mass),
    )
    used = intervals[..., 0].isfinite().sum(-1)
    return intervals[..., : int(used.max()) if used.numel() else 1, :]


class Landscape(NamedTuple):
    """Density of each number-valued mixture of a batch, cut where it turns.

    The pieces, of shape (*batch, 2K), run from `bottom` to `top`, on which the density
    rises. A mixture of K Gaussians over the numbers has at most K modes.
    """

    density: Coordinates
    bottom: Tensor
    top: Tensor

    @classmethod
    def of(cls, mixture: Any) -> "Landscape":
        """Find the turning points of every mixture."""
        density = Coordinates.of(mixture)
        means, scales = torch.broadcast_tensors(density.means, density.scales)
        left = (means - EDGE * scales).amin(-1)
        right = (means + EDGE * scales).amax(-1)
        knots = torch.cat([left, _turning_points(density, means, scales), right], -1)
        height = density.log_prob(knots)
        rising = height[..., 1:] > height[..., :-1]
        bottom = torch.where(rising, knots[..., :-1], knots[..., 1:])
        top = torch.where(rising, knots[..., 1:], knots[..., :-1])
        return cls(density, bottom, top)

    def highest_point(self) -> Tensor:
        """Return the highest mode, of shape (*batch, 1)."""
        best = self.density.log_prob(self.top).argmax(-1, keepdim=True)
        return self.top.gather(-1, best)

    def solve(self, mass: float) -> tuple[Tensor, Tensor]:
        """Return the level (*batch,) above which `mass` lies, and where it is crossed.

        On a piece that the level does not cross, the crossing is the end next to it.
        """
        floor, peak = map(self.density.log_prob, (self.bottom, self.top))
        cumulative_top = self._cumulative(self.top)
        crossing = 0.5 * (self.bottom + self.top)

        def missing(level: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal crossing
            crossing = self._crossing(level, floor, peak, crossing)
            above = (cumulative_top - self._cumulative(crossing)).abs().sum(-1)
            crossed = (floor < level.unsqueeze(-1)) & (level.unsqueeze(-1) < peak)
            width = self.density.shape(crossing)[1].abs().reciprocal()
            slope = level.exp() * torch.where(crossed, width, 0.0).sum(-1)
            return mass - above, slope

        # Above the least density on an interval that holds as much of each component
        # lies `mass` at least. It is met at an end or where the density turns.
        reach = float(norm.ppf(0.5 + 0.5 * mass)) * self.density.scales
        left = (self.density.means - reach).amin(-1)
        right = (self.density.means + reach).amax(-1)
        ends = self.density.log_prob(torch.cat([left, right], -1))
        lowest = torch.cat([ends, floor[..., 1:-1]], -1).amin(-1)
        tol = MASS_TOL * min(mass, 1 - mass)
        level = find_root(missing, lowest, peak.amax(-1), tol)
        return level, self._crossing(level, floor, peak, crossing)

    def intervals(self, mass: float) -> Tensor:
        """Return the region as intervals of shape (*batch, K, 2), padded with NaN."""
        crossing = self.solve(mass)[1]
        crossed = (crossing != self.bottom) & (crossing != self.top)
        rising = self.bottom < self.top
        ends = [
            torch.where(crossed & side, crossing, torch.nan).sort(-1).values
            for side in (rising, ~rising)
        ]
        return torch.stack(ends, -1)[..., : self.density.means.shape[-1], :]

    def _crossing(
        self, level: Tensor, floor: Tensor, peak: Tensor, start: Tensor
    ) -> Tensor:
        """Find where each piece crosses the level."""
        level = level.unsqueeze(-1)
        direction = torch.where(self.bottom < self.top, 1.0, -1.0).to(level)
        # Pieces that do not cross get a bracket of no width: one of their ends.
        bottom = torch.where(level >= peak, self.top, self.bottom)
        top = torch.where(level <= floor, self.bottom, self.top)
        low, high = torch.minimum(bottom, top), torch.maximum(bottom, top)

        def excess(point: Tensor) -> tuple[Tensor, Tensor]:
            height, slope, _ = self.density.shape(point)
            return direction * (height - level), direction * slope

        return find_root(excess, low, high, HEIGHT_TOL, start.clamp(low, high))

    def _cumulative(self, point: Tensor) -> Tensor:
        return self.density.log_tail(point, 1.0).exp()


def _turning_points(density: Coordinates, means: Tensor, scales: Tensor) -> Tensor:
    """Where the densities turn, at most 2K - 1 times, in ascending order.

    Turns are looked for between points a quarter of a standard deviation apart around
    every mean. Where a density of the batch turns less often than others, its last one
    is repeated.
    """
    grid = _grid(density, means, scales)
    rising = density.shape(grid)[1] > 0
    last = grid.shape[-1] - 1
    index = torch.arange(last, device=grid.device)
    is_turn = rising[..., 1:] != rising[..., :-1]
    n_turns = int(is_turn.sum(-1).max()) if is_turn.numel() else 1
    turns = torch.where(is_turn, index, last).sort(-1).values
    turns = turns[..., : min(max(1, n_turns), 2 * means.shape[-1] - 1)]
    low, high = grid.gather(-1, turns), grid.gather(-1, (turns + 1).clamp(max=last))
    # The slope falls through zero at a mode and rises at an antimode.
    direction = torch.where(rising.gather(-1, turns), -1.0, 1.0).to(means)

    def slope(point: Tensor) -> tuple[Tensor, Tensor]:
        _, first, second = density.shape(point)
        return direction * first, direction * second

    points = find_root(slope, low, high, HEIGHT_TOL / scales.amin(-1))
    found = turns < last
    final = torch.where(found, points, -torch.inf).amax(-1, keepdim=True)
    return torch.where(found, points, final)


def _grid(density: Coordinates, means: Tensor, scales: Tensor) -> Tensor:
    """Return points around every mean, in ascending order."""
    if density.scales.shape[-1] == 1 and means.numel():
        # One standard deviation for all: an even grid has no point twice.
        low = (means - TURN_REACH * scales).amin(-1)
        high = (means + TURN_REACH * scales).amax(-1)
        steps = float(((high - low) / scales[..., 0]).max())
        n_points = 1 + math.ceil(steps * (TURN_POINTS - 1) / (2 * TURN_REACH))
        if n_points < TURN_POINTS * means.shape[-1]:
            share = torch.linspace(0, 1, n_points).to(means)
            return low + (high - low) * share
    offsets = torch.linspace(-TURN_REACH, TURN_REACH, TURN_POINTS).to(means)
    return (means + scales * offsets.unsqueeze(-1)).flatten(-2).sort(-1).values
