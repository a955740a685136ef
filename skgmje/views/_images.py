"""Augmentations of images: small movements that leave the subject what it is."""

import math
from numbers import Real

import torch
from sklearn.base import BaseEstimator
from torch import Tensor
from torch.nn import functional as F

from skgmje._validation import Interval, check_image_shape

# Pixels between the random displacements that an elastic distortion runs through.
ELASTIC_SPACING = 7


class ImageAugmentation(BaseEstimator):
    """Random movement of images: shift, rotation, scale, elastic distortion, erasure.

    All movements of an image are one grid of points at which the image is read, by
    bilinear interpolation and on the device of the batch. What comes from outside the
    image is zero. Strengths are those of the strongest change; draws are uniform
    between it and its opposite. The defaults suit handwritten digits.

    Parameters
    ----------
    input_shape : tuple of int, (height, width) or (channels, height, width)
        Shape of the image that a row holds.
    shift : float, default=2.0
        Largest movement along each side, in pixels.
    rotation : float, default=15.0
        Largest angle, in degrees.
    scale : float, default=0.15
        Largest change of size: a factor between ``1 / (1 + scale)`` and ``1 + scale``.
    elastic : float, default=1.0
        Standard deviation, in pixels, of the random displacements at the knots of a
        grid; between knots they are interpolated, and somewhat smaller.
    erase : float, default=0.3
        Largest share of each side that an erased rectangle takes.

    References
    ----------
    P. Simard, D. Steinkraus and J. Platt, "Best Practices for Convolutional Neural
    Networks Applied to Visual Document Analysis", ICDAR 2003, for elastic distortions;
    Z. Zhong et al., "Random Erasing Data Augmentation", AAAI 2020.

    Examples
    --------
    >>> import torch
    >>> from skgmje.views import ImageAugmentation
    >>> augmentation = ImageAugmentation((28, 28), shift=3)
    >>> augmentation(torch.rand(5, 784)).shape
    torch.Size([5, 784])

    As the parameter of an embedder:

    >>> from skgmje import GMJEEmbedder
    >>> gmje = GMJEEmbedder(encoder="conv", input_shape=(28, 28),
    ...                     target="augment", augmentation=augmentation)
    >>> gmje.set_params(augmentation__rotation=0).augmentation.rotation
    0
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "input_shape": [tuple, list],
        "shift": [Interval(Real, 0, None, closed="left")],
        "rotation": [Interval(Real, 0, 180, closed="both")],
        "scale": [Interval(Real, 0, None, closed="left")],
        "elastic": [Interval(Real, 0, None, closed="left")],
        "erase": [Interval(Real, 0, 1, closed="both")],
    }

    def __init__(
        self,
        input_shape,
        *,
        shift=2.0,
        rotation=15.0,
        scale=0.15,
        elastic=1.0,
        erase=0.3,
    ):
        self.input_shape = input_shape
        self.shift = shift
        self.rotation = rotation
        self.scale = scale
        self.elastic = elastic
        self.erase = erase

    def __call__(
        self, batch: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return a changed copy of a batch.

        Parameters
        ----------
        batch : tensor of shape (n_samples, n_pixels)
            Rows that hold images, in any unit in which zero is the background.
        generator : torch.Generator, optional
            Source of randomness; by default torch's own.

        Returns
        -------
        changed : tensor of shape (n_samples, n_pixels)
            Images moved and erased, each in its own way.

        Raises
        ------
        ValueError
            If a parameter is out of range, or rows are not images of `input_shape`.
        """
        self._validate_params()
        shape = check_image_shape(self.input_shape, batch.shape[1])
        images = batch.reshape(-1, *shape)
        if self.shift or self.rotation or self.scale or self.elastic:
            images = self._move(images, generator)
        if self.erase:
            images = images * self._kept(images, generator)
        return images.reshape(batch.shape)

    def _move(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        n, _, height, width = images.shape

        def uniform(largest: float, *size: int) -> Tensor:
            return (2 * _rand(images, generator, n, *size) - 1) * largest

        half = images.new_tensor([width / 2, height / 2])
        angle = uniform(math.radians(self.rotation))
        size = torch.exp(uniform(math.log1p(self.scale)))
        turn = torch.stack(
            [angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1
        ).reshape(n, 2, 2)
        # Turned and scaled in pixels, and read in halves of each side.
        turn = turn / size[:, None, None] * half / half[:, None]
        theta = torch.cat([turn, (uniform(self.shift, 2) / half).unsqueeze(2)], dim=2)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        if self.elastic:
            grid = grid + self._elastic(images, generator) / half
        return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)

    def _elastic(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Displacements in pixels, of shape (n_samples, height, width, 2)."""
        n, _, *sides = images.shape
        knots = [side // ELASTIC_SPACING + 2 for side in sides]
        coarse = images.new_empty(n, 2, *knots).normal_(generator=generator)
        smooth = F.interpolate(coarse, sides, mode="bicubic", align_corners=True)
        return self.elastic * smooth.movedim(1, 3)

    def _kept(self, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """Zero inside a rectangle of each image, one elsewhere."""
        n, _, *sides = images.shape
        inside = []
        for side in sides:
            length = self.erase * side * _rand(images, generator, n, 1)
            first = (side - length) * _rand(images, generator, n, 1)
            pixel = torch.arange(side, device=images.device) + 0.5
            inside.append((pixel >= first) & (pixel < first + length))
        rectangle = inside[0].unsqueeze(2) & inside[1].unsqueeze(1)
        return (~rectangle).unsqueeze(1).to(images.dtype)


def _rand(images: Tensor, generator: torch.Generator | None, *size: int) -> Tensor:
    return torch.rand(
        size, generator=generator, dtype=images.dtype, device=images.device
    )
