"""The training of a variational joint embedding: posteriors in place of embeddings."""

from typing import Any

from torch import Tensor

from skgmje.embedding._model import JointModel, encode_batch
from skgmje.networks import Encoder, GaussianPosterior
from skgmje.training import Views


class VariationalModel(JointModel):
    """Loss of the representations and posteriors of both views."""

    def train(self, mode: bool = True) -> "VariationalModel":
        """Set the mode; a frozen network before a head stays in evaluation mode."""
        super().train(mode)
        for encoder in self.encoders:
            network: Any = encoder.network.network
            if not any(weight.requires_grad for weight in network.parameters()):
                network.eval()
        return self

    def begin_epoch(self, views: Views, rows: Tensor) -> None:
        """Start nothing but the next epoch of the warm-up."""
        self.latent.begin_epoch()

    def forward(self, context: Tensor, target: Tensor) -> Tensor:
        """Return the loss in nats."""
        first = _posterior(self.encoder, context)
        second = _posterior(self.target_encoder, target)
        noise = first.mean.new_empty(2, *first.mean.shape)
        noise = noise.normal_(generator=self.generator)
        return self.latent(first, second, noise)


def _posterior(encoder: Encoder, rows: Tensor) -> GaussianPosterior:
    network: Any = encoder.network
    return network.infer(encode_batch(network.network, rows))
