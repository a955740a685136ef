"""The convolutional encoder of images."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from skgmje._validation import check_image_shape
from skgmje.networks._mlp import ACTIVATIONS, linear

# Channels of the first block, which the next ones double, and of the widest.
FIRST_CHANNELS, MOST_CHANNELS = 32, 128
# Blocks halve an image until its longer side is no longer than this.
LAST_SIDE, FEWEST_BLOCKS = 4, 3
NORM_GROUPS = 8


class ConvEncoder(nn.Sequential):
    """Convolutional network on rows that are flat images, with a linear last layer.

    Blocks of a 3 x 3 convolution, group normalisation and an activation halve the image
    until it has four pixels a side. Group normalisation treats every image
    by itself: training and inference are the same function, and an embedding does not
    depend on the other images of the batch.

    Parameters
    ----------
    input_shape : tuple of int, (height, width) or (channels, height, width)
        Shape of the image that a row holds.
    n_features_out : int
        Width of the output.
    activation : {'relu', 'tanh', 'silu', 'gelu', 'logistic', 'identity'}, \
default='relu'
        Activation of the blocks.
    generator : torch.Generator, optional
        Source of the initial weights; by default torch's own.

    References
    ----------
    Y. Wu and K. He, "Group Normalization", ECCV 2018.

    Examples
    --------
    >>> import torch
    >>> from skgmje.networks import ConvEncoder
    >>> ConvEncoder((28, 28), 2)(torch.zeros(3, 784)).shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        n_features_out: int,
        activation: str = "relu",
        generator: torch.Generator | None = None,
    ):
        channels, *sides = check_image_shape(input_shape)
        layers: list[nn.Module] = [nn.Unflatten(1, (channels, *sides))]
        halvings = math.ceil(math.log2(max(1, max(sides) / LAST_SIDE)))
        for block in range(max(halvings, FEWEST_BLOCKS)):
            width = min(FIRST_CHANNELS * 2**block, MOST_CHANNELS)
            stride = 2 if block < halvings else 1
            layers += [
                convolution(channels, width, stride, generator),
                nn.GroupNorm(NORM_GROUPS, width),
                ACTIVATIONS[activation](),
            ]
            channels = width
            sides = [math.ceil(side / stride) for side in sides]
        layers += [
            nn.Flatten(),
            linear(channels * math.prod(sides), n_features_out, generator),
        ]
        super().__init__(*layers)


def convolution(
    n_channels_in: int,
    n_channels_out: int,
    stride: int,
    generator: torch.Generator | None,
) -> nn.Conv2d:
    """Make a 3 x 3 convolution with torch's default law of weights, drawn privately."""
    layer = nn.utils.skip_init(
        nn.Conv2d,
        n_channels_in,
        n_channels_out,
        kernel_size=3,
        stride=stride,
        padding=1,
        bias=False,  # The normalisation has its own.
        dtype=torch.float32,
    )
    bound = 1 / math.sqrt(9 * n_channels_in)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
    return layer
