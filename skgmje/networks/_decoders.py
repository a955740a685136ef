"""Decoders: from the embedding of a view back to its rows."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skgmje._validation import check_image_shape
from skgmje.networks._conv import ConvDecoder
from skgmje.networks._mlp import MLP


class Decoder(nn.Module):
    """A network on whitened embeddings whose output is in the view's own units.

    Whitened, since directions in which embeddings differ little may tell as much as the
    others, but would be learned last.

    Parameters
    ----------
    recipe : dict
        ``decoder``, ``'mlp'`` or ``'conv'``, ``n_features_in`` (the width of the
        embedding), ``n_features_out``, ``hidden_layer_sizes``, ``activation`` and, for
        images, ``input_shape``.
    embedding_moments : pair of tensors
        Mean of the embedding, and the matrix W of ``W (z - mean)`` with unit variance
        in all directions.
    view_moments : pair of tensors
        Mean and standard deviation of the view.
    generator : torch.Generator, optional
        Source of the initial weights.

    Raises
    ------
    ValueError
        If rows are not images of `input_shape`.

    Examples
    --------
    >>> import torch
    >>> from skgmje.networks import Decoder
    >>> recipe = dict(decoder="mlp", n_features_in=2, n_features_out=4,
    ...               hidden_layer_sizes=(8,), activation="relu", input_shape=None)
    >>> moments = (torch.zeros(2), torch.eye(2)), (torch.zeros(4), torch.ones(4))
    >>> Decoder(recipe, *moments)(torch.zeros(3, 2)).shape
    torch.Size([3, 4])
    """

    embedding_mean: Tensor
    embedding_whitening: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        recipe: dict[str, Any],
        embedding_moments: Sequence[Tensor],
        view_moments: Sequence[Tensor],
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.recipe = recipe
        n_in, n_out = recipe["n_features_in"], recipe["n_features_out"]
        activation = recipe["activation"]
        self.network: nn.Module
        if recipe["decoder"] == "conv":
            shape = check_image_shape(recipe["input_shape"], n_out)
            self.network = ConvDecoder(n_in, shape, activation, generator)
        else:
            sizes = recipe["hidden_layer_sizes"]
            self.network = MLP(n_in, n_out, sizes, activation, generator)
        for name, value in zip(
            ("embedding_mean", "embedding_whitening", "mean", "scale"),
            (*embedding_moments, *view_moments),
            strict=True,
        ):
            self.register_buffer(name, value)

    def whiten(self, z: Tensor) -> Tensor:
        """Return embeddings with unit variance in all directions."""
        return (z - self.embedding_mean) @ self.embedding_whitening.mT

    def forward(self, z: Tensor) -> Tensor:
        """Decode embeddings to rows that are in the view's own units."""
        return self.network(self.whiten(z)) * self.scale + self.mean

    def for_inference(self) -> "Decoder":
        """Return a copy in float64, in evaluation mode."""
        return copy.deepcopy(self).double().eval()
