"""Encoders: from the rows of a view to its embedding."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skgmje._validation import check_image_shape
from skgmje.networks._conv import ConvEncoder
from skgmje.networks._mlp import MLP, linear
from skgmje.networks._posterior import PosteriorNetwork

# Variance, in that of a standardised feature, below which a direction is damped.
WHITENING_FLOOR = 1e-4
# Share of the uniform distribution in every point of the simplex.
SIMPLEX_FLOOR = 1e-6
# Parts of a recipe that come after the network.
ADDED_LATER = {"space", "posterior_head"}


class Encoder(nn.Module):
    """A network on standardised inputs, with the standardisation inside.

    Parameters
    ----------
    recipe : dict
        Arguments of :func:`make_network`: ``encoder``, ``n_features_in``,
        ``embedding_dim``, ``hidden_layer_sizes`` and ``activation``. Where there are
        any, ``n_side_features`` and, for images, ``input_shape``; ``space``, where
        embeddings lie, if it is not the plane; and ``posterior_head``, the arguments
        of `add_posterior_head`.
    mean, scale : tensor of shape (n_features,)
        Mean and standard deviation of the view, in its own units.
    generator : torch.Generator, optional
        Source of the initial weights.

    Examples
    --------
    >>> import torch
    >>> from skgmje.networks import Encoder
    >>> recipe = dict(encoder="mlp", n_features_in=4, embedding_dim=2,
    ...               hidden_layer_sizes=(8,), activation="relu")
    >>> encoder = Encoder(recipe, torch.zeros(4), torch.ones(4))
    >>> encoder(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """

    mean: Tensor
    scale: Tensor
    network: nn.Module

    def __init__(
        self,
        recipe: dict[str, Any],
        mean: Tensor,
        scale: Tensor,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.recipe = dict(recipe)
        space, head = recipe.get("space", "plane"), recipe.get("posterior_head")
        recipe = {k: v for k, v in recipe.items() if k not in ADDED_LATER}
        self.network = make_network(**recipe, generator=generator)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)
        self.put_on(space)
        if head is not None:
            self.add_posterior_head(**head, generator=generator)

    @property
    def is_identity(self) -> bool:
        """Whether embeddings are the view itself, in its own units."""
        return isinstance(self.network, nn.Identity)

    @property
    def is_linear(self) -> bool:
        """Whether embeddings are a linear map of the view, or the view itself."""
        return self.recipe["encoder"] in ("linear", "identity")

    @property
    def is_trainable(self) -> bool:
        """Whether any weight can change."""
        return any(weight.requires_grad for weight in self.network.parameters())

    def put_on(self, space: str) -> None:
        """Let embeddings lie in a space from now on.

        Parameters
        ----------
        space : {'plane', 'sphere', 'simplex'}
            The plane leaves them as they are. On the sphere they are standardised and
            scaled to unit length: without a common centre all of them could point one
            way, where a contrastive loss has hardly any gradient. On the simplex they
            are logits of probabilities.
        """
        if space == "plane":
            return
        self.recipe["space"] = space
        if space == "simplex":
            self.network = nn.Sequential(self.network, Simplex())
            return
        width = embedding_width(self.network, len(self.mean), self.mean.device)
        standardise = nn.BatchNorm1d(
            width, affine=False, device=self.mean.device, dtype=torch.float32
        )
        self.network = nn.Sequential(self.network, standardise, UnitSphere())

    def add_posterior_head(
        self,
        hidden_layer_sizes: Sequence[int],
        is_tied: bool,
        generator: torch.Generator | None,
    ) -> None:
        """Infer a Gaussian from embeddings; the embedding is its mean from now on."""
        self.recipe["posterior_head"] = {
            "hidden_layer_sizes": tuple(hidden_layer_sizes),
            "is_tied": is_tied,
        }
        width = embedding_width(self.network, len(self.mean), self.mean.device)
        self.network = PosteriorNetwork(
            self.network, width, hidden_layer_sizes, is_tied, generator
        ).to(self.mean.device)

    def standardise(self, x: Tensor) -> Tensor:
        """Return the rows in units of standard deviations from the mean."""
        return (x - self.mean) / self.scale

    def forward(self, x: Tensor) -> Tensor:
        """Encode rows that are in the view's own units."""
        return x if self.is_identity else self.network(self.standardise(x))

    def standardise_embedding(self, z: Tensor) -> Tensor:
        """Return embeddings in the units in which they were trained on."""
        return self.standardise(z) if self.is_identity else z

    def without_side_features(self) -> "Encoder":
        """Return this encoder, or a copy that takes the other columns alone."""
        n_side = self.recipe.get("n_side_features", 0)
        if not n_side:
            return self
        encoder = copy.deepcopy(self)
        if isinstance(encoder.network, SideFeatures):
            encoder.network = encoder.network.network
        encoder.mean, encoder.scale = self.mean[:-n_side], self.scale[:-n_side]
        encoder.recipe = self.recipe | {
            "n_features_in": self.recipe["n_features_in"] - n_side,
            "n_side_features": 0,
        }
        return encoder

    def for_inference(self) -> "Encoder":
        """Return a copy in float64, in evaluation mode."""
        return copy.deepcopy(self).double().eval()

    def for_training(self) -> "Encoder":
        """Return a copy whose network is in float32, in training mode."""
        encoder = copy.deepcopy(self).train()
        encoder.network.float()
        return encoder


class UnitSphere(nn.Module):
    """Embeddings scaled to unit length."""

    def forward(self, z: Tensor) -> Tensor:
        """Return the directions of embeddings."""
        return F.normalize(z, dim=-1)


class Simplex(nn.Module):
    """Logits as probabilities, none of which is zero.

    Examples
    --------
    >>> import torch
    >>> from skgmje.networks import Simplex
    >>> Simplex()(torch.tensor([[0.0, 0.0]]))
    tensor([[0.5000, 0.5000]])
    """

    def forward(self, z: Tensor) -> Tensor:
        """Return points of the simplex, with the shape of the logits."""
        # Far from the logarithm of zero, also in float32.
        floor = SIMPLEX_FLOOR / z.shape[-1]
        return floor + (1 - SIMPLEX_FLOOR) * z.softmax(-1)


class Whitening(nn.Module):
    """Linear map to uncorrelated coordinates, fitted once and not trained.

    Before a linear encoder it changes nothing that the encoder can express, but lets
    gradient steps reach all directions at the same rate.

    Parameters
    ----------
    n_features : int
        Width of the view.
    """

    matrix: Tensor

    def __init__(self, n_features: int):
        super().__init__()
        self.register_buffer("matrix", torch.eye(n_features))

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set the map from standardised rows."""
        values, vectors = torch.linalg.eigh(x.double().mT @ x.double() / len(x))
        values = values.clamp(min=0) + WHITENING_FLOOR
        self.matrix.copy_(vectors * values.rsqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Return the coordinates of standardised rows."""
        return x @ self.matrix


class SideFeatures(nn.Module):
    """Network on all but the last columns, which follow its embedding as they are.

    Parameters
    ----------
    network : nn.Module
        Network on the other columns.
    n_side_features : int
        Number of columns that are passed through.
    """

    def __init__(self, network: nn.Module, n_side_features: int):
        super().__init__()
        self.network, self.n_side_features = network, n_side_features

    def forward(self, x: Tensor) -> Tensor:
        """Return embeddings and side features of standardised rows."""
        rows, side = x.tensor_split([-self.n_side_features], dim=1)
        return torch.cat([self.network(rows), side], dim=1)


def make_network(
    encoder: str | nn.Module | Callable[[int, int], nn.Module],
    n_features_in: int,
    embedding_dim: int,
    hidden_layer_sizes: Sequence[int],
    activation: str,
    generator: torch.Generator | None,
    n_side_features: int = 0,
    input_shape: Sequence[int] | None = None,
) -> nn.Module:
    """Build the network that an ``encoder=`` parameter asks for.

    Parameters
    ----------
    encoder : {'mlp', 'linear', 'conv', 'identity'}, nn.Module or callable
        A name; a module, of which a copy is trained; or a factory called as
        ``factory(n_features_in, embedding_dim)``.
    n_features_in : int
        Width of the view.
    embedding_dim : int
        Width of the embedding.
    hidden_layer_sizes : sequence of int
        Hidden layers of ``'mlp'``.
    activation : str
        Activation of ``'mlp'`` and ``'conv'``.
    generator : torch.Generator or None
        Source of the initial weights of a network that has a name.
    n_side_features : int, default=0
        Last columns of the view that the encoder is not given, but that follow its
        embedding as they are.
    input_shape : sequence of int, default=None
        Shape of the image that a row holds, for ``'conv'``.

    Returns
    -------
    network : nn.Module
        The network, in float32.

    Raises
    ------
    ValueError
        If a factory does not return a module, or if rows are not images of
        `input_shape`.

    Examples
    --------
    >>> from skgmje.networks import make_network
    >>> make_network("mlp", 4, 2, (), "relu", None)
    MLP(
      (0): Linear(in_features=4, out_features=2, bias=True)
    )
    """
    if n_side_features and encoder != "identity":
        network = make_network(
            encoder,
            n_features_in - n_side_features,
            embedding_dim,
            hidden_layer_sizes,
            activation,
            generator,
        )
        return SideFeatures(network, n_side_features)
    if encoder == "mlp":
        sizes = tuple(hidden_layer_sizes)
        return MLP(n_features_in, embedding_dim, sizes, activation, generator)
    if encoder == "linear":
        return nn.Sequential(
            Whitening(n_features_in), linear(n_features_in, embedding_dim, generator)
        )
    if encoder == "conv":
        shape = check_image_shape(input_shape, n_features_in)
        return ConvEncoder(shape, embedding_dim, activation, generator)
    if encoder == "identity":
        return nn.Identity()
    if isinstance(encoder, nn.Module):
        return copy.deepcopy(encoder)
    network = encoder(n_features_in, embedding_dim)  # type: ignore[operator]
    if not isinstance(network, nn.Module):
        raise ValueError(
            "An encoder factory must return a torch.nn.Module; got "
            f"{type(network).__name__}."
        )
    return network


@torch.no_grad()
def embedding_width(network: nn.Module, n_features_in: int, device: Any) -> int:
    """Width of the embeddings that a network makes; refuse what is no embedding."""
    training = network.training
    rows = torch.zeros(2, n_features_in, dtype=torch.float32, device=device)
    try:
        output = network.eval()(rows)
    except RuntimeError as error:
        raise ValueError(
            f"The encoder cannot be applied to rows of {n_features_in} features "
            f"({error}). If the views differ in width, pass target_encoder= too."
        ) from error
    finally:
        network.train(training)
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output)
        raise ValueError(
            "An encoder must map (n_samples, n_features) to (n_samples, embedding_dim);"
            f" for 2 samples of {n_features_in} features it gave {shape}."
        )
    return output.shape[1]
