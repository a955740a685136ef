"""Embedders whose latent density is one mixture over both views."""

from abc import abstractmethod
from typing import Any, NamedTuple

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmje.embedding._base import BaseJointEmbedder
from skgmje.embedding._density import fit_mixture, update_mixture, variance_unit
from skgmje.embedding._model import JointModel, encode
from skgmje.mixture import MultivariateNormalMixture


class DensityForm(NamedTuple):
    """Number and form of the components of a joint density."""

    n_components: int
    covariance_type: str = "full"
    rank: int = 0


class JointDensityEmbedder(BaseJointEmbedder):
    """Base of the embedders with a joint density: everything follows from it."""

    @abstractmethod
    def _density_form(self) -> DensityForm:
        """Return what the density is made of."""

    def _n_density_components(self) -> int:
        return self._density_form().n_components

    def _fit_densities(
        self, model: JointModel, z_c: Tensor, z_t: Tensor, seed: int
    ) -> dict[str, Any]:
        form = self._density_form()
        z = torch.cat([z_c, z_t], dim=1)
        density, loss_curve = fit_mixture(
            z, form.n_components, form.covariance_type, self.reg_covar, seed, form.rank
        )
        return {"density_": density, "loss_curve_": loss_curve}

    def _update_densities(
        self, model: JointModel, z_c: Tensor, z_t: Tensor, rate: float
    ) -> dict[str, Any]:
        z = torch.cat([z_c, z_t], dim=1)
        density = self._on_device(self.density_)
        form = self._density_form().covariance_type
        views = zip(self._encoders(), self._indices(), strict=True)
        units = [variance_unit(e, density.variance[view]) for e, view in views]
        density, loss = update_mixture(
            density, z, rate, self.reg_covar, form, torch.cat(units)
        )
        return {"density_": density, "loss_curve_": [loss]}

    def _indices(self) -> tuple[list[int], list[int]]:
        n_context, n_both = self._n_features_out, self.density_.event_shape[0]
        return list(range(n_context)), list(range(n_context, n_both))

    def _conditional(self, z_c: Tensor) -> MultivariateNormalMixture:
        return self._on_device(self.density_).condition(self._indices()[0], z_c)

    def _context_density(self) -> MultivariateNormalMixture:
        return self._on_device(self.density_).marginal(self._indices()[0])

    def _target_density(self) -> MultivariateNormalMixture:
        return self._on_device(self.density_).marginal(self._indices()[1])

    def conditional_context(self, Y):
        """Conditional density of the context embedding for each target: the reverse.

        Parameters
        ----------
        Y : array-like of shape (n_samples, n_targets)
            Target view.

        Returns
        -------
        conditional : MultivariateNormalMixture
            Batch of `n_samples` mixtures over the context embedding.
        """
        check_is_fitted(self)
        z_t = encode(self._encoders().target, self._check_target(Y))
        return self._on_device(self.density_).condition(self._indices()[1], z_t)

    def _draw_pairs(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        pairs = self._on_device(self.density_).sample((n,), generator=generator)
        context, target = (pairs[:, view] for view in self._indices())
        return context, target
