"""The module that is trained on sequences: an encoder and a Kalman filter."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skgmje.embedding._model import ENCODING_ROWS, _encode_batch
from skgmje.latent import KalmanPrediction, LinearGaussianStateSpace
from skgmje.networks import Encoder
from skgmje.training import Views

# Added to variances that a network gives.
NOISE_FLOOR = 1e-5


class SequenceModel(nn.Module):
    """Loss of a batch of sequences.

    Parameters
    ----------
    encoder : Encoder
        The encoder of a step.
    latent : KalmanPrediction
        The density of a sequence of embeddings.
    noise_encoder : Encoder or None, default=None
        Network that gives the noise of each step, before it is made positive.
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
        z = _scatter(_encode_batch(self.encoder.network, rows), observed)
        if self.noise_encoder is None:
            return self.latent(z, observed)
        variance = positive(_encode_batch(self.noise_encoder.network, rows))
        # What is missing has some noise too, which counts for nothing.
        filled = torch.where(observed[..., None], _scatter(variance, observed), 1.0)
        return self.latent(z, observed, filled)

    def state_space(self) -> LinearGaussianStateSpace:
        """Return the fitted model of embeddings, in their own units."""
        with torch.no_grad():
            space = self.latent.state_space()
            if self.encoder.is_identity:
                space = space.affine(self.encoder.mean, self.encoder.scale)
        return space


@torch.no_grad()
def encode_steps(
    encoder: Encoder, noise_encoder: Encoder | None, rows: Tensor, observed: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Encode steps in float64, in blocks; missing ones become NaN.

    Returns
    -------
    z : tensor of shape (n_rows, observation_dim)
        Embeddings, in their own units.
    noise : tensor of shape (n_rows, observation_dim) or None
        Variances of their noise, where each has its own.
    """
    there = rows[observed]
    blocks = there.split(ENCODING_ROWS)
    z = _fill(torch.cat([encoder(block) for block in blocks]), observed, torch.nan)
    if noise_encoder is None:
        return z, None
    noise = read_noise(encoder, noise_encoder, there)
    return z, _fill(noise, observed, 1.0)


@torch.no_grad()
def read_noise(encoder: Encoder, noise_encoder: Encoder, rows: Tensor) -> Tensor:
    """Read the variances of the noise of embeddings, in their own units, from steps."""
    blocks = rows.split(ENCODING_ROWS)
    noise = torch.cat([positive(noise_encoder(block)) for block in blocks])
    return noise * encoder.scale**2 if encoder.is_identity else noise


def positive(values: Tensor) -> Tensor:
    """Turn what a network gives into variances."""
    return F.softplus(values) + NOISE_FLOOR


def _fill(values: Tensor, observed: Tensor, missing: float) -> Tensor:
    filled = values.new_full((*observed.shape, values.shape[-1]), missing)
    filled[observed] = values
    return filled


def _scatter(values: Tensor, observed: Tensor) -> Any:
    """Put rows to the steps that are there, and zero elsewhere."""
    return _fill(values, observed, 0.0)
