"""Embedders whose latent density is one mixture over both views."""

from abc import abstractmethod
from numbers import Real
from typing import Any, NamedTuple

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmje._validation import Interval, StrOptions
from skgmje.embedding._base import BaseJointEmbedder
from skgmje.embedding._construction import Run
from skgmje.embedding._density import fit_mixture, update_mixture, variance_unit
from skgmje.embedding._model import JointModel, encode
from skgmje.embedding._widening import choose_width, widen
from skgmje.mixture import MultivariateNormalMixture

# Relative to the variances: enough for a Cholesky factor, too little to be seen.
LEAST_REG_COVAR = 1e-6
# Fewer rows say too little about a density to be kept out of training unasked.
MIN_HELD_OUT = 10


class DensityForm(NamedTuple):
    """Number and form of the components of a joint density."""

    n_components: int
    covariance_type: str = "full"
    rank: int = 0


class JointDensityEmbedder(BaseJointEmbedder):
    """Base of the embedders with a joint density: everything follows from it."""

    _parameter_constraints: dict = {  # noqa: RUF012
        **BaseJointEmbedder._parameter_constraints,
        "reg_covar": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
    }

    @abstractmethod
    def _density_form(self) -> DensityForm:
        """Return what the density is made of."""

    def _n_density_components(self) -> int:
        return self._density_form().n_components

    def _n_held_out(self, run: Run) -> int:
        is_linear = all(encoder.is_linear for encoder in run.model.fitted_encoders)
        if self.reg_covar != "auto" or run.target is None or is_linear:
            return 0
        n_held_out = round(self.validation_fraction * len(run.views))
        n_needed = max(2, self._n_latent_components(), self._n_density_components())
        is_enough = len(run.views) - n_held_out >= n_needed
        return n_held_out if is_enough and n_held_out >= MIN_HELD_OUT else 0

    def _fit_densities(self, run: Run, z_c: Tensor, z_t: Tensor) -> dict[str, Any]:
        attributes = self._fit_joint(torch.cat([z_c, z_t], dim=1), run.seed)
        width = 0.0
        if self.reg_covar == "auto" and run.held_out is not None:
            width = self._choose_width(run, run.held_out, z_c, z_t)
        return attributes | {
            "density_": widen(attributes["density_"], width),
            "reg_covar_": self._least_reg_covar + width,
        }

    def _choose_width(
        self, run: Run, held_out: Tensor, z_c: Tensor, z_t: Tensor
    ) -> float:
        """Let rows that were kept out judge the density of those that were not."""
        is_trained = torch.ones(len(z_c), dtype=torch.bool, device=z_c.device)
        is_trained[held_out] = False
        trained = torch.cat([z_c, z_t], dim=1)[is_trained]
        too_few = len(trained) < self._n_density_components()
        if too_few or len(held_out) < MIN_HELD_OUT:
            return 0.0
        density = self._fit_joint(trained, run.seed)["density_"]
        is_likelihood = self._scores_likelihood(run.model.fitted_encoders.target)
        return choose_width(density, z_c[held_out], z_t[held_out], is_likelihood)

    @property
    def _least_reg_covar(self) -> float:
        """What is added to covariances, whatever rows that were kept out say."""
        return LEAST_REG_COVAR if self.reg_covar == "auto" else self.reg_covar

    @property
    def _known_reg_covar(self) -> float:
        """What a further batch adds: the number that was given, or that was found."""
        if self.reg_covar == "auto":
            return max(LEAST_REG_COVAR, self.reg_covar_)
        return self.reg_covar

    def _fit_joint(self, z: Tensor, seed: int) -> dict[str, Any]:
        """Return ``density_`` and ``loss_curve_`` of the embeddings of both views."""
        form = self._density_form()
        density, loss_curve = fit_mixture(
            z,
            form.n_components,
            form.covariance_type,
            self._least_reg_covar,
            seed,
            form.rank,
        )
        return {"density_": density, "loss_curve_": loss_curve}

    def _update_densities(
        self, model: JointModel, z_c: Tensor, z_t: Tensor, rate: float
    ) -> dict[str, Any]:
        attributes = self._update_joint(torch.cat([z_c, z_t], dim=1), rate)
        return attributes | {"reg_covar_": self._known_reg_covar}

    def _update_joint(self, z: Tensor, rate: float) -> dict[str, Any]:
        """Return the same, moved towards a further batch."""
        density = self._on_device(self.density_)
        form = self._density_form().covariance_type
        views = zip(self._encoders(), self._indices(), strict=True)
        units = [variance_unit(e, density.variance[view]) for e, view in views]
        density, loss = update_mixture(
            density, z, rate, self._known_reg_covar, form, torch.cat(units)
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
