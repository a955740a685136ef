"""The convolutional encoder of images, and the decoder that mirrors it."""

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
        image, *images = block_shapes(input_shape)
        layers: list[nn.Module] = [nn.Unflatten(1, image)]
        for smaller in images:
            stride = 1 if smaller[1:] == image[1:] else 2
            layers += [
                convolution(image[0], smaller[0], stride, generator),
                nn.GroupNorm(NORM_GROUPS, smaller[0]),
                ACTIVATIONS[activation](),
            ]
            image = smaller
        layers += [
            nn.Flatten(),
            linear(math.prod(image), n_features_out, generator),
        ]
        super().__init__(*layers)


class ConvDecoder(nn.Sequential):
    """The way back from an embedding to an image, block by block.

    Each block enlarges the image by repeating pixels, where a transposed convolution
    would leave a chequered pattern.

    Parameters
    ----------
    n_features_in : int
        Width of the embedding.
    input_shape : tuple of int, (height, width) or (channels, height, width)
        Shape of the image that a row of the output holds.
    activation : {'relu', 'tanh', 'silu', 'gelu', 'logistic', 'identity'}, \
default='relu'
        Activation of the blocks.
    generator : torch.Generator, optional
        Source of the initial weights; by default torch's own.

    References
    ----------
    A. Odena, V. Dumoulin and C. Olah, "Deconvolution and Checkerboard Artifacts",
    Distill (2016).

    Examples
    --------
    >>> import torch
    >>> from skgmje.networks import ConvDecoder
    >>> ConvDecoder(2, (28, 28))(torch.zeros(3, 2)).shape
    torch.Size([3, 784])
    """

    def __init__(
        self,
        n_features_in: int,
        input_shape: Sequence[int],
        activation: str = "relu",
        generator: torch.Generator | None = None,
    ):
        image, *images = block_shapes(input_shape)[::-1]
        layers: list[nn.Module] = [
            linear(n_features_in, math.prod(image), generator),
            nn.Unflatten(1, image),
        ]
        for larger in images:
            layers += [
                nn.GroupNorm(NORM_GROUPS, image[0]),
                ACTIVATIONS[activation](),
                nn.Upsample(larger[1:]),
                convolution(image[0], larger[0], 1, generator),
            ]
            image = larger
        super().__init__(*layers, nn.Flatten())


def block_shapes(input_shape: Sequence[int]) -> list[tuple[int, int, int]]:
    """Channels, height and width of an image and of what each block makes of it."""
    shapes = [check_image_shape(input_shape)]
    halvings = math.ceil(math.log2(max(1, max(shapes[0][1:]) / LAST_SIDE)))
    for block in range(max(halvings, FEWEST_BLOCKS)):
        stride = 2 if block < halvings else 1
        _, height, width = shapes[-1]
        channels = min(FIRST_CHANNELS * 2**block, MOST_CHANNELS)
        shapes.append((channels, -(-height // stride), -(-width // stride)))
    return shapes


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
