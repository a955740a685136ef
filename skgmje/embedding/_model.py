"""The module that is trained: two encoders and a latent density."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import Tensor, nn

from skgmje._backend import as_tensor, bfloat16_products, private_torch_rng
from skgmje.networks import ConvEncoder, Encoder
from skgmje.networks._encoders import embedding_width
from skgmje.training import Views
from skgmje.views import AugmentedViews

# Rows on which a latent density starts, or is fitted again every epoch.
LATENT_FIT_ROWS = 8192
# Rows that are encoded at once.
ENCODING_ROWS = 4096


class Encoders(NamedTuple):
    """The encoders of both views; one object twice if the views share it."""

    context: Encoder
    target: Encoder

    @property
    def shared(self) -> bool:
        """Whether both views have the same encoder."""
        return self.context is self.target

    def map(self, function: Callable[[Encoder], Encoder]) -> "Encoders":
        """Apply a function to both encoders, once if they are shared."""
        context = function(self.context)
        return Encoders(context, context if self.shared else function(self.target))

    def widths(self) -> tuple[int, int]:
        """Widths of both embeddings."""
        context, target = (
            embedding_width(e.network, len(e.mean), e.mean.device) for e in self
        )
        return context, target


@torch.no_grad()
def encode(encoder: Encoder, X: np.ndarray) -> Tensor:
    """Encode rows in blocks, in float64; X is in the view's own units."""
    device = encoder.mean.device
    batches = gen_batches(len(X), ENCODING_ROWS)
    return torch.cat([encoder(as_tensor(X[rows], device)) for rows in batches])


@torch.no_grad()
def encode_views(
    encoders: Encoders,
    X: np.ndarray,
    target: np.ndarray | None,
    augmentation: str | Callable,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Encode pairs in float64; without a target view, draw both views from X."""
    if target is not None:
        return encode(encoders.context, X), encode(encoders.target, target)
    encoder = encoders.context
    device = encoder.mean.device
    rows = encoder.standardise(as_tensor(X, device))
    views = AugmentedViews(rows, augmentation, encoder.mean, encoder.scale)
    generator = torch.Generator(device=device).manual_seed(seed)
    parts = []
    with private_torch_rng(seed, device, active=callable(augmentation)):
        order = torch.arange(len(rows), device=device)
        for batch in order.tensor_split(-(-len(rows) // ENCODING_ROWS)):
            pair = views.batch(batch, generator)
            own_units = [view * encoder.scale + encoder.mean for view in pair]
            parts.append([e(view) for e, view in zip(encoders, own_units, strict=True)])
    z_c, z_t = (torch.cat(z) for z in zip(*parts, strict=True))
    return z_c, z_t


def encode_batch(network: nn.Module, rows: Tensor) -> Tensor:
    """Encode standardised rows in training; our convolutions bear rough products."""
    if not isinstance(network, ConvEncoder):
        return network(rows)
    with bfloat16_products(rows.device):
        return network(rows).float()


class JointModel(nn.Module):
    """Loss of a batch of both views.

    Parameters
    ----------
    encoders : Encoders
        The encoders of both views.
    latent : nn.Module
        Latent density: a loss of two embeddings.
    generator : torch.Generator
        Source of the latent density's start.
    """

    def __init__(
        self,
        encoders: Encoders,
        latent: nn.Module,
        generator: torch.Generator,
    ):
        super().__init__()
        self.latent: Any
        self.encoder: Encoder
        self.target_encoder: Encoder
        self.encoder, self.target_encoder = encoders
        self.latent, self.generator = latent, generator
        self.started = False

    @property
    def encoders(self) -> Encoders:
        """The encoders of both views."""
        return Encoders(self.encoder, self.target_encoder)

    @property
    def fitted_encoders(self) -> Encoders:
        """The encoders to embed with after training."""
        return self.encoders

    @property
    def memory(self) -> nn.Module:
        """What a next batch needs beside the fitted encoders."""
        return self.latent

    @property
    def is_trainable(self) -> bool:
        """Whether any weight of the encoders or of the latent density can change."""
        return any(weight.requires_grad for weight in self.parameters())

    def train(self, mode: bool = True) -> "JointModel":
        """Set the mode; a frozen encoder always stays in evaluation mode."""
        super().train(mode)
        for encoder in self.encoders:
            if not encoder.is_trainable:
                encoder.eval()
        return self

    def embed(self, context: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Encode standardised views."""
        return (
            encode_batch(self.encoder.network, context),
            encode_batch(self.target_encoder.network, target),
        )

    def forward(self, context: Tensor, target: Tensor) -> Tensor:
        """Return the loss in nats."""
        return self.latent(*self.embed(context, target))

    def after_step(self) -> None:
        """Follow a gradient step; here there is nothing to do."""

    def get_extra_state(self) -> dict[str, bool]:
        """Return whether the latent density has started, for ``state_dict``."""
        return {"started": self.started}

    def set_extra_state(self, state: dict[str, bool]) -> None:
        """Take back from ``state_dict`` whether the latent density has started."""
        self.started = state["started"]

    @torch.no_grad()
    def begin_epoch(self, views: Views, rows: Tensor) -> None:
        """Start the latent density, or fit it again where it asks for that."""
        if self.started and not self.latent.each_epoch:
            return
        self.eval()
        device = self.generator.device
        order = torch.randperm(len(rows), generator=self.generator, device=device)
        rows = rows[order[:LATENT_FIT_ROWS]]
        seed = int(
            torch.randint(2**31 - 1, (), generator=self.generator, device=device)
        )
        self.latent.initialize(*self.embed(*views.batch(rows, self.generator)), seed)
        self.started = True
