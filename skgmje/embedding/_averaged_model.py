"""The model of a JEPA: encoders that predict moving averages of encoders."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from skgmje.embedding._model import Encoders, JointModel
from skgmje.networks import Encoder
from skgmje.training import Views


class AveragedModel(JointModel):
    """Loss of a batch, with targets from moving averages of the encoders.

    Where the views share an encoder, the target encoder is its average. Where the
    target encoder has weights of its own, both encoders have an average, and each
    learns to predict that of the other. A target encoder that is not trained is used
    as it is.

    Parameters
    ----------
    encoders : Encoders
        The encoders that are trained.
    latent : nn.Module
        Loss of the embeddings and of those by the averages.
    generator : torch.Generator
        As in the base.
    momentum : float
        Share of the old average that is kept at a step.
    """

    def __init__(
        self,
        encoders: Encoders,
        latent: nn.Module,
        generator: torch.Generator,
        momentum: float,
    ):
        super().__init__(encoders, latent, generator)
        self.momentum = momentum
        self.averages = nn.ModuleDict()
        if encoders.target.is_trainable:
            target = encoders.target.without_side_features()
            self.averages["target"] = _constant_copy(target)
        if self._has_reverse and encoders.context.is_trainable:
            self.averages["context"] = _constant_copy(encoders.context)

    @property
    def _has_reverse(self) -> bool:
        return self.target_encoder.is_trainable and not self.encoders.shared

    @property
    def average_encoders(self) -> Encoders:
        """The averages, or an encoder itself where it has none."""
        context: Any = self.encoder
        target: Any = self.target_encoder.without_side_features()
        if "context" in self.averages:
            context = self.averages["context"]
        if "target" in self.averages:
            target = self.averages["target"]
        return Encoders(context, target)

    @property
    def fitted_encoders(self) -> Encoders:
        """The trained context encoder and the average of the target encoder."""
        average = self.average_encoders.target
        if "target" in self.averages:
            # What could be trained in the encoder can be trained in its average.
            average = copy.deepcopy(average)
            for weight, trained in _pairs(average, self.target_encoder, "parameters"):
                weight.requires_grad_(trained.requires_grad)
        return Encoders(self.encoder, average)

    @property
    def memory(self) -> nn.Module:
        """The latent part, the averages, and the target encoder that they follow."""
        memory = nn.ModuleDict({"latent": self.latent, "averages": self.averages})
        if self._has_reverse:
            memory["target_encoder"] = self.target_encoder
        return memory

    def train(self, mode: bool = True) -> "AveragedModel":
        """Set the mode; averages always stay in evaluation mode."""
        super().train(mode)
        self.averages.eval()
        return self

    def begin_epoch(self, views: Views, rows: Tensor) -> None:
        """Start nothing: predictors keep their initial weights."""

    def forward(self, context: Tensor, target: Tensor) -> Tensor:
        """Return the loss in nats."""
        averages = self.average_encoders
        with torch.no_grad():
            average_t = averages.target.network(target)
        loss = self.latent(self.encoder.network(context), average_t)
        if self._has_reverse:
            with torch.no_grad():
                average_c = averages.context.network(context)
            z_t = self.target_encoder.network(target)
            loss = loss + self.latent.reverse(z_t, average_c)
        return loss

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the averages towards the encoders."""
        move = get_ema_multi_avg_fn(self.momentum)
        for view, average in self.averages.items():
            trained = self.encoder if view == "context" else self.target_encoder
            weights = zip(*_pairs(average, trained, "parameters"), strict=True)
            move(*map(list, weights), None)
            for buffer, source in _pairs(average, trained, "buffers"):
                buffer.copy_(source)


def _constant_copy(encoder: Encoder) -> Encoder:
    return copy.deepcopy(encoder).requires_grad_(False)


def _pairs(average: Any, trained: Encoder, kind: str) -> Iterator[tuple[Any, Any]]:
    """Pair what two networks hold; the standardisation does not move."""
    parts = (getattr(encoder.network, kind)() for encoder in (average, trained))
    return zip(*parts, strict=True)
