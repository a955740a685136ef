"""Embedders whose latent density is a conditional; marginals are fitted beside it."""

from typing import Any

import torch
from torch import Tensor

from skgmje.embedding._base import BaseJointEmbedder
from skgmje.embedding._density import fit_mixture, update_mixture, variance_unit
from skgmje.embedding._inference import CONDITIONAL_ROWS
from skgmje.embedding._model import Encoders
from skgmje.mixture import MultivariateNormalMixture
from skgmje.networks import Encoder

# Rows for each component and coordinate of the marginal densities.
ROWS_PER_COORDINATE = 5


class ConditionalDensityEmbedder(BaseJointEmbedder):
    """Base of the embedders that model p(z_t | z_c) and fit both marginals to it."""

    target_density_: MultivariateNormalMixture

    def _fit_marginals(self, z_c: Tensor, z_t: Tensor, seed: int) -> dict[str, Any]:
        return {
            "density_": self._fit_marginal(z_c, seed),
            "target_density_": self._fit_marginal(z_t, seed),
        }

    def _fit_marginal(self, z: Tensor, seed: int) -> MultivariateNormalMixture:
        enough = len(z) // (ROWS_PER_COORDINATE * z.shape[1])
        n_components = max(1, min(self._n_density_components(), enough))
        return fit_mixture(z, n_components, "full", self.reg_covar, seed)[0]

    def _update_marginals(self, z_c: Tensor, z_t: Tensor, rate: float):
        context, target = self._encoders()
        return {
            "density_": self._update_marginal(self.density_, z_c, context, rate),
            "target_density_": self._update_marginal(
                self.target_density_, z_t, target, rate
            ),
        }

    def _update_marginal(
        self,
        density: MultivariateNormalMixture,
        z: Tensor,
        encoder: Encoder,
        rate: float,
    ) -> MultivariateNormalMixture:
        density = self._on_device(density)
        unit = variance_unit(encoder, density.variance)
        return update_mixture(density, z, rate, self.reg_covar, "full", unit)[0]

    def _context_density(self) -> MultivariateNormalMixture:
        return self._on_device(self.density_)

    def _target_density(self) -> MultivariateNormalMixture:
        return self._on_device(self.target_density_)

    def _draw_pairs(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        z_c = self._context_density().sample((n,), generator=generator)
        z_t = [
            self._conditional(block).sample(generator=generator)
            for block in z_c.split(CONDITIONAL_ROWS)
        ]
        return z_c, torch.cat(z_t)


def in_target_units(
    conditional: MultivariateNormalMixture, encoders: Encoders
) -> MultivariateNormalMixture:
    """Bring a conditional that was trained on standardised views to units of y."""
    return in_own_units(conditional, encoders.target)


def in_own_units(
    density: MultivariateNormalMixture, encoder: Encoder
) -> MultivariateNormalMixture:
    """Bring a density of embeddings as they were trained on to those of `transform`."""
    if not encoder.is_identity:
        return density
    return density.affine(encoder.mean, encoder.scale)
