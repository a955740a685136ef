"""Modes and highest-density regions of mixtures."""

from collections.abc import Callable
from typing import Any

import torch
from scipy.stats import chi2
from sklearn.utils import gen_batches
from torch import Tensor

from skgmje.mixture._scale import Scale

# Fixed-point steps to a mode, and the move, in standard deviations, that ends them.
MODE_MAX_ITER, MODE_TOL = 1000, 1e-10
# Numbers in the largest temporary of one block of mixtures.
REGION_NUMBERS = 2**22


@torch.no_grad()
def highest_mode(mixture: Any) -> Tensor:
    """Climb from two starts for every component; return the highest mode reached."""
    if mixture.batch_shape.numel() == 0:
        return mixture.mean
    return _by_blocks(mixture, 2 * mixture.n_components, _highest_mode)


def _by_blocks(
    mixture: Any, n_points: int, function: Callable[[Any], Tensor]
) -> Tensor:
    """Apply a function that holds n_points of each mixture to blocks of a batch."""
    if not mixture.batch_shape:
        return function(mixture)
    numbers = n_points * mixture.means[0].numel()
    rows = gen_batches(len(mixture), max(1, REGION_NUMBERS // numbers))
    return torch.cat([function(mixture[block]) for block in rows])


def _highest_mode(mixture: Any) -> Tensor:
    scale = mixture._scale
    spread = scale.variance(mixture.event_shape[0]).amin(-2).sqrt()
    point = _starts(mixture, scale)
    for _ in range(MODE_MAX_ITER):
        step = scale.precision_weighted_mean(
            mixture.responsibilities(point), mixture.means
        )
        moved = ((step - point).abs() / spread).amax()
        point = step
        if moved <= MODE_TOL:
            break
    best = mixture.log_prob(point).argmax(0)[None, ..., None]
    return torch.take_along_dim(point, best, dim=0).squeeze(0)


def _starts(mixture: Any, scale: Scale) -> Tensor:
    """Return the mean of each component and its highest crossing with another one.

    Two elongated components can cross far from both means; the product of the two
    densities peaks there.
    """
    n_components = mixture.n_components
    means = mixture.means.movedim(-2, 0)
    crossing, height = means, torch.full_like(means[..., 0], -torch.inf)
    single = torch.eye(n_components, dtype=means.dtype, device=means.device)
    shape = (n_components, *(1,) * len(mixture.batch_shape), n_components)
    for shift in range(1, n_components // 2 + 1):
        pair = (single + single.roll(shift, dims=1)).reshape(shape)
        point = scale.precision_weighted_mean(
            pair.expand(n_components, *mixture.batch_shape, n_components),
            mixture.means,
        )
        height_there = mixture.log_prob(point)
        higher = height_there > height
        crossing = torch.where(higher.unsqueeze(-1), point, crossing)
        height = torch.where(higher, height_there, height)
    return means if n_components == 1 else torch.cat([means, crossing])


@torch.no_grad()
def highest_density_level(
    mixture: Any,
    mass: float,
    n_samples: int,
    generator: torch.Generator | None,
) -> Tensor:
    """Log-density that a share `mass` of draws exceeds; exact for one component."""
    if mixture.n_components == 1:
        radius = float(chi2.ppf(mass, mixture.event_shape[0]))
        return mixture.log_prob(mixture.means[..., 0, :]) - 0.5 * radius
    if generator is None:
        generator = torch.Generator(device=mixture.means.device).manual_seed(0)
    rank = max(1, round((1 - mass) * n_samples))

    def level(block: Any) -> Tensor:
        log_prob = block.log_prob(block.sample((n_samples,), generator=generator))
        return log_prob.kthvalue(rank, dim=0).values

    return _by_blocks(mixture, n_samples, level)
