"""The way back: a decoder that is trained on embeddings after everything else."""

from typing import Any

import numpy as np
import torch
from sklearn.utils import gen_batches
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skgmje._backend import as_numpy, as_tensor, few_threads, resolve_device
from skgmje._validation import check_array
from skgmje.embedding._model import ENCODING_ROWS
from skgmje.latent._moments import whitening
from skgmje.networks import Decoder, Encoder
from skgmje.training import Trainer
from skgmje.views import PairedViews


def _has_decoder(estimator: Any) -> bool:
    if estimator.decoder is None:
        raise AttributeError(
            "inverse_transform needs a decoder: set decoder='mlp', or 'conv' for "
            "images, before fit."
        )
    return True


class DecodingMixin:
    """Give an embedder the method `inverse_transform`."""

    # Parameters of the estimator that this is mixed into, and its fitted state.
    decoder: Any = None
    hidden_layer_sizes: Any
    activation: str
    input_shape: Any
    device: Any
    learning_rate_init: float
    weight_decay: float
    max_iter: int
    tol: float
    n_iter_no_change: int
    decoder_: Decoder

    @available_if(_has_decoder)
    def inverse_transform(self, Z):
        """Decode context embeddings to rows of X.

        What an embedding does not hold, the decoder replaces by its mean.

        Parameters
        ----------
        Z : array-like of shape (n_samples, embedding_dim)
            Embeddings, of `transform` or of `sample`.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Rows in the units of X, in the float type of Z.

        Raises
        ------
        ValueError
            If Z has another width than the embeddings.
        """
        check_is_fitted(self, "decoder_")
        Z = check_array(Z, dtype=[np.float64, np.float32], input_name="Z")
        width = len(self.decoder_.embedding_mean)
        if Z.shape[1] != width:
            raise ValueError(
                f"Z has {Z.shape[1]} columns, but embeddings have {width}."
            )
        device = resolve_device(self.device)
        decoder = self.decoder_.to(device)
        with torch.no_grad():
            parts = [
                as_numpy(decoder(as_tensor(Z[rows], device)))
                for rows in gen_batches(len(Z), ENCODING_ROWS)
            ]
        return np.concatenate(parts).astype(Z.dtype, copy=False)

    def _fit_decoder(
        self, encoder: Encoder, z: Tensor, X: np.ndarray, seed: int, batch_size: int
    ) -> Decoder:
        """Train a decoder from the embeddings z of the rows of X, and nothing else."""
        device = encoder.mean.device
        recipe = {
            "decoder": self.decoder,
            "n_features_in": z.shape[1],
            "n_features_out": X.shape[1],
            "hidden_layer_sizes": tuple(self.hidden_layer_sizes)[::-1],
            "activation": self.activation,
            "input_shape": self.input_shape,
        }
        decoder = Decoder(
            recipe,
            whitening(z),
            (encoder.mean, encoder.scale),
            torch.Generator().manual_seed(seed),
        ).to(device)
        views = PairedViews(
            decoder.whiten(z).float(),
            encoder.standardise(as_tensor(X, device)).float(),
        )
        trainer = Trainer(
            _Reconstruction(decoder.network),
            views,
            torch.Generator(device=device).manual_seed(seed),
            learning_rate=self.learning_rate_init,
            weight_decay=self.weight_decay,
            batch_size=batch_size,
            max_iter=self.max_iter,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
        )
        with few_threads(device, decoder):
            while not trainer.done:
                trainer.run_epoch()
        return decoder.for_inference()


class _Reconstruction(nn.Module):
    """Half the mean squared error of decoded rows, in standard deviations."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def begin_epoch(self, views: Any, rows: Tensor) -> None:
        """Do nothing: there is nothing to start."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return 0.5 * (self.network(z) - x).square().mean()
