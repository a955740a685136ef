"""Embedders whose latent density is a conditional; marginals are fitted beside it."""

from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmje._backend import as_numpy, make_generator, resolve_device
from skgmje.embedding._base import BaseJointEmbedder
from skgmje.embedding._density import fit_mixture, update_mixture
from skgmje.embedding._inference import CONDITIONAL_ROWS, _check_number_of_draws
from skgmje.embedding._model import Encoders
from skgmje.mixture import MultivariateNormalMixture

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
        densities = {"density_": z_c, "target_density_": z_t}
        return {
            name: update_mixture(
                self._on_device(getattr(self, name)), z, rate, self.reg_covar, "full"
            )[0]
            for name, z in densities.items()
        }

    def _context_density(self) -> MultivariateNormalMixture:
        return self._on_device(self.density_)

    def _target_density(self) -> MultivariateNormalMixture:
        return self._on_device(self.target_density_)

    def sample(self, n=1, *, random_state=None):
        """Draw pairs of embeddings: a context, then a target given it.

        Parameters
        ----------
        n : int, default=1
            Number of pairs.
        random_state : int, RandomState instance or None, default=None
            Seed of this call. None draws anew at every call.

        Returns
        -------
        Z_c : ndarray of shape (n, embedding_dim)
            Context embeddings, in random order of components.
        Z_t : ndarray of shape (n, target_embedding_dim)
            Target embeddings.

        Raises
        ------
        ValueError
            If `n` is less than one.
        """
        check_is_fitted(self)
        _check_number_of_draws(n)
        generator = make_generator(random_state, resolve_device(self.device))
        z_c = self._context_density().sample((n,), generator=generator)
        z_t = [
            as_numpy(self._conditional(block).sample(generator=generator))
            for block in z_c.split(CONDITIONAL_ROWS)
        ]
        return as_numpy(z_c), np.concatenate(z_t)


def in_target_units(
    conditional: MultivariateNormalMixture, encoders: Encoders
) -> MultivariateNormalMixture:
    """Bring a conditional that was trained on standardised views to units of y."""
    if not encoders.target.is_identity:
        return conditional
    return conditional.affine(encoders.target.mean, encoders.target.scale)
