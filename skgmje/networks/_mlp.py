"""The multilayer perceptron behind the default encoders and heads."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "logistic": nn.Sigmoid,
    "identity": nn.Identity,
}


class MLP(nn.Sequential):
    """Multilayer perceptron with a linear last layer.

    Parameters
    ----------
    n_features_in : int
        Width of the input.
    n_features_out : int
        Width of the output.
    hidden_layer_sizes : sequence of int, default=()
        Widths of the hidden layers; none makes a linear map.
    activation : {'relu', 'tanh', 'silu', 'gelu', 'logistic', 'identity'}, \
default='relu'
        Activation after each hidden layer.
    generator : torch.Generator, optional
        Source of the initial weights; by default torch's own.

    Examples
    --------
    >>> import torch
    >>> from skgmje.networks import MLP
    >>> MLP(4, 2, (8,))(torch.zeros(3, 4)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        n_features_in: int,
        n_features_out: int,
        hidden_layer_sizes: Sequence[int] = (),
        activation: str = "relu",
        generator: torch.Generator | None = None,
    ):
        widths = [n_features_in, *hidden_layer_sizes, n_features_out]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [
                linear(width_in, width_out, generator),
                ACTIVATIONS[activation](),
            ]
        super().__init__(*layers[:-1])


def linear(
    n_features_in: int, n_features_out: int, generator: torch.Generator | None
) -> nn.Linear:
    """Make a linear layer with torch's default law of weights, drawn privately."""
    layer = nn.utils.skip_init(
        nn.Linear, n_features_in, n_features_out, dtype=torch.float32
    )
    bound = 1 / math.sqrt(n_features_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
