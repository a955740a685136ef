"""Embedders whose targets come from moving averages of encoders."""

from typing import Any

import numpy as np
import torch
from torch import nn

from skgmje.embedding._averaged_model import AveragedModel
from skgmje.embedding._construction import ConstructionMixin
from skgmje.embedding._model import Encoders, JointModel
from skgmje.latent import LatentPrediction
from skgmje.latent._latent_densities import LatentDensity
from skgmje.networks import Predictor

# Steps of predictors in those of the targets, at least: the stopped gradient is that of
# an entropy only if the predictor follows. A slow average of targets is enough.
PREDICTOR_SPEED = 5.0


class AveragedTargetMixin(ConstructionMixin):
    """Train with predictors of averaged targets that carry no gradient."""

    predictor_hidden_layer_sizes: Any
    momentum: float
    _shared: bool

    def _averages_targets(self) -> bool:
        """Say whether targets are averages."""
        return True

    def _start(self, X: np.ndarray, target: np.ndarray | None, attributes: Any):
        attributes["_shared"] = self._shares_encoder(target)
        return super()._start(X, target, attributes)

    def _training_encoders(self) -> Encoders:
        context, target = self._encoders()
        return Encoders(context, context if self._shared else target)

    def _make_model(
        self, encoders: Encoders, latent: nn.Module, generator: torch.Generator
    ) -> JointModel:
        if not self._averages_targets():
            return super()._make_model(encoders, latent, generator)
        return AveragedModel(encoders, latent, generator, self.momentum)

    def _make_prediction(
        self,
        encoders: Encoders,
        generator: torch.Generator,
        density: LatentDensity | None = None,
    ) -> LatentPrediction:
        """Return the loss, whose predictors are faster than what they predict."""
        factor = max(1.0, PREDICTOR_SPEED * (1 - self.momentum))
        predictors = self._make_predictors(encoders, generator)
        return LatentPrediction(*predictors, density, learning_rate_factor=factor)

    def _make_predictors(
        self, encoders: Encoders, generator: torch.Generator
    ) -> tuple[Predictor, Predictor | None]:
        """Return the predictor, and one back for a target encoder with own weights."""
        n_context, n_target = encoders.widths()
        n_embedded = n_context - self.n_side_features
        if encoders.shared:
            n_target = n_embedded
        form = (self.predictor_hidden_layer_sizes, self.activation, generator)
        reverse = None
        if encoders.target.is_trainable and not encoders.shared:
            reverse = Predictor(n_target, n_embedded, *form)
        return Predictor(n_context, n_target, *form), reverse
