"""From the rows of a view to the encoder that is trained on them."""

from typing import Any

import numpy as np
import torch

from skgmje._backend import as_numpy, as_tensor
from skgmje._validation import check_image_shape
from skgmje.latent._moments import moments
from skgmje.networks import Encoder
from skgmje.networks._encoders import Whitening

# Encoders that have a name.
ENCODERS = {"mlp", "linear", "conv", "identity"}


class EncoderConstructionMixin:
    """Build the encoder that the parameters of an estimator ask for."""

    # Parameters of the estimator that this is mixed into.
    encoder: Any
    embedding_dim: Any
    hidden_layer_sizes: Any
    activation: str
    input_shape: Any = None

    def _moments(
        self, view: np.ndarray, is_image: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each column, one if constant.

        Pixels of a channel share theirs: alone, one that is almost always blank would
        take huge values as soon as an augmentation moves something onto it.
        """
        rows = as_tensor(view, torch.device("cpu"))
        if not is_image:
            loc, scale = moments(rows)
            return as_numpy(loc), as_numpy(scale)
        n_channels = check_image_shape(self.input_shape, view.shape[1])[0]
        channels = rows.reshape(len(rows), n_channels, -1).movedim(1, 2)
        loc, scale = moments(channels.reshape(-1, n_channels))
        n_pixels = channels.shape[1]
        return (
            as_numpy(loc.repeat_interleave(n_pixels)),
            as_numpy(scale.repeat_interleave(n_pixels)),
        )

    def _make_encoder(
        self,
        kind: Any,
        view: np.ndarray,
        moments: tuple[np.ndarray, np.ndarray],
        generator: torch.Generator,
        device: torch.device,
        n_side_features: int = 0,
        width: int | None = None,
    ) -> Encoder:
        mean, scale = (torch.tensor(moment) for moment in moments)
        recipe = {
            "encoder": kind,
            "n_features_in": len(mean),
            "embedding_dim": self.embedding_dim if width is None else width,
            "hidden_layer_sizes": tuple(self.hidden_layer_sizes),
            "activation": self.activation,
            "input_shape": self.input_shape,
            "n_side_features": n_side_features,
        }
        encoder = Encoder(recipe, mean, scale, generator)
        encoder.network.float()
        encoder.to(device)
        for module in encoder.network.modules():
            if isinstance(module, Whitening):
                rows = encoder.standardise(as_tensor(view, device))
                module.fit(rows[:, : len(module.matrix)])
        return encoder
