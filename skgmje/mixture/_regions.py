"""Modes and highest-density regions of mixtures."""

from typing import TYPE_CHECKING

import torch
from scipy.stats import chi2
from torch import Tensor

from skgmje.mixture._scale import Scale

if TYPE_CHECKING:
    from skgmje.mixture._distribution import MultivariateNormalMixture

# Fixed-point steps to a mode, and the move, in standard deviations, that ends them.
MODE_MAX_ITER, MODE_TOL = 1000, 1e-10


@torch.no_grad()
def highest_mode(mixture: "MultivariateNormalMixture", scale: Scale) -> Tensor:
    """Climb from the mean of every component; return the highest mode reached."""
    spread = scale.variance(mixture.event_shape[0]).amin(-2).sqrt()
    point = mixture.means.movedim(-2, 0)
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


@torch.no_grad()
def highest_density_level(
    mixture: "MultivariateNormalMixture",
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
    log_prob = mixture.log_prob(mixture.sample((n_samples,), generator=generator))
    rank = max(1, round((1 - mass) * n_samples))
    return log_prob.kthvalue(rank, dim=0).values
