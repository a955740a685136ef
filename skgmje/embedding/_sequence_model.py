"""The module that is trained on sequences: an encoder and a Kalman filter."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skgmje.embedding._model import ENCODING_ROWS, encode_batch
from skgmje.latent import KalmanPrediction, LinearGaussianStateSpace
from skgmje.networks import Encoder
from skgmje.training import Views

# Added to variances that a network gives.
NOISE_FLOOR = 1e-5
# A network of the noise that is as fast as the encoder forgives it what it cannot see.
NOISE_RATE_FACTOR = 0.03


class Noise(NamedTuple):
    """What reads the noise of an embedding from a step."""

    encoder: Encoder
    scale: float

    def to(self, device: torch.device) -> "Noise":
        """Return the reader on a device."""
        return Noise(self.encoder.to(device), self.scale)

    @torch.no_grad()
    def variances(self, encoder: Encoder, rows: Tensor) -> Tensor:
        """Return variances in the units of the embeddings that an encoder gives."""
        blocks = rows.split(ENCODING_ROWS)
        values = torch.cat([positive(self.encoder(block)) for block in blocks])
        values = values * self.scale
        return values * encoder.scale**2 if encoder.is_identity else values


class SequenceModel(nn.Module):
    """Loss of a batch of sequences.

    Parameters
    ----------
    encoder : Encoder
        The encoder of a step.
    latent : KalmanPrediction
        The density of a sequence of embeddings.
    noise_encoder : Encoder or None, default=None
        Network that gives the noise of each step, in units of the common one and before
        it is made positive.
    """

    def __init__(
        self,
        encoder: Encoder,
        latent: KalmanPrediction,
        noise_encoder: Encoder | None = None,
    ):
        super().__init__()
        self.encoder, self.latent = encoder, latent
        self.noise_encoder = noise_encoder
        if noise_encoder is not None:
            noise_encoder.learning_rate_factor = NOISE_RATE_FACTOR  # type: ignore

    def begin_epoch(self, views: Views, rows: Tensor) -> None:
        """Do nothing: there is nothing to start."""

    def train(self, mode: bool = True) -> "SequenceModel":
        """Set the mode; a frozen encoder always stays in evaluation mode."""
        super().train(mode)
        if not self.encoder.is_trainable:
            self.encoder.eval()
        return self

    def forward(self, steps: Tensor, observed: Tensor) -> Tensor:
        """Return the loss in nats a step, of standardised and padded steps."""
        rows = steps[observed]
        z = _scatter(encode_batch(self.encoder.network, rows), observed)
        if self.noise_encoder is None:
            return self.latent(z, observed)
        variance = positive(encode_batch(self.noise_encoder.network, rows))
        # What is missing has some noise too, which counts for nothing.
        filled = torch.where(observed[..., None], _scatter(variance, observed), 1.0)
        return self.latent(z, observed, filled)

    def noise(self) -> Noise | None:
        """Return the fitted reader of the noise, if there is one."""
        if self.noise_encoder is None:
            return None
        scale = self.latent.log_observation_variance.exp().item()
        return Noise(self.noise_encoder.for_inference(), scale)

    def state_space(self) -> LinearGaussianStateSpace:
        """Return the fitted model of embeddings, in their own units."""
        with torch.no_grad():
            space = self.latent.state_space()
            # Copies: what is trained on would change them, and asks for gradients.
            parameters = space.parameters().items()
            space = space.replace(**{k: v.detach().clone() for k, v in parameters})
            if self.encoder.is_identity:
                space = space.affine(self.encoder.mean, self.encoder.scale)
        return space


@torch.no_grad()
def encode_steps(
    encoder: Encoder, noise: Noise | None, rows: Tensor, observed: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Encode steps in float64, in blocks; missing ones become NaN.

    Returns
    -------
    z : tensor of shape (n_rows, observation_dim)
        Embeddings, in their own units.
    variances : tensor of shape (n_rows, observation_dim) or None
        Those of their noise, where each has its own.
    """
    there = rows[observed]
    blocks = there.split(ENCODING_ROWS)
    z = _fill(torch.cat([encoder(block) for block in blocks]), observed, torch.nan)
    if noise is None:
        return z, None
    return z, _fill(noise.variances(encoder, there), observed, 1.0)


def positive(values: Tensor) -> Tensor:
    """Turn what a network gives into variances."""
    return F.softplus(values) + NOISE_FLOOR


def _fill(values: Tensor, observed: Tensor, missing: float) -> Tensor:
    filled = values.new_full((*observed.shape, values.shape[-1]), missing)
    filled[observed] = values
    return filled


def _scatter(values: Tensor, observed: Tensor) -> Tensor:
    """Put rows to the steps that are there, and zero elsewhere."""
    return _fill(values, observed, 0.0)
