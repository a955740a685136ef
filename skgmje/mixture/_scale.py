"""How the scale of every component is stored: a Cholesky factor, a diagonal, a number.

The covariance of component k is ``L_k L_k'``. Each class stores ``L`` in its cheapest
form, with leading shape ``(*batch, K)``; a leading component dimension of one means
that all components share the scale ("tied"), and missing batch dimensions mean that
all mixtures of a batch share it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.distributions import constraints

# Points are whitened by a product with L^-1 where this loses few of sixteen digits:
# where neither the condition of the factors nor the means, in standard deviations, are
# larger.
PRODUCT_LOSS = 1e3
# Vectors for each matrix up to which a copy of its matrix goes with each vector.
FEW_VECTORS = 4


class Scale(ABC):
    """The lower-triangular factors of the component covariances."""

    n_matrix_dims: int
    # Constructor arguments of a mixture that hold the scale, and what they must be.
    constraints: ClassVar[dict[str, Any]]
    # Whether the whitened leading block is the leading part of the whitened whole.
    is_nested = True

    def __init__(self, factor: Tensor):
        # A leading batch dimension of one is dropped: a shared scale is stored shared.
        min_dims = 1 + self.n_matrix_dims
        while factor.dim() > min_dims and factor.shape[0] == 1:
            factor = factor.squeeze(0)
        self.factor = factor

    @property
    def leading_shape(self) -> torch.Size:
        """Shape of the batch and component dimensions."""
        return self.factor.shape[: self.factor.dim() - self.n_matrix_dims]

    @property
    def event_sizes(self) -> set[int]:
        """Sizes that must equal the number of coordinates."""
        return set(self.factor.shape[len(self.leading_shape) :])

    def parameters(self) -> dict[str, Tensor]:
        """Return the arguments of a mixture that hold this scale."""
        return dict.fromkeys(self.constraints, self.factor)

    def n_whitened(self, event_size: int) -> int:
        """Return how many numbers a whitened deviation, or noise, has."""
        return event_size

    def map(self, function: Any) -> "Scale":
        """Return the same kind of scale with `function` applied to its tensor."""
        return type(self)(function(self.factor))

    def expand(self, batch_shape: torch.Size) -> "Scale":
        """Add the batch dimensions, without copying."""
        tail = self.factor.shape[-1 - self.n_matrix_dims :]
        return self.map(lambda factor: factor.expand(*batch_shape, *tail))

    def take(self, component: Tensor, batch_shape: torch.Size) -> Tensor:
        """Return the factor of one component for each drawn component index."""
        return take_component(self.factor, component, batch_shape, self.n_matrix_dims)

    def whiten(self, deviation: Tensor) -> Tensor:
        """Return L^-1 x for deviations of shape (*sample, *batch, K, D)."""
        # Sample dimensions become columns of the right-hand side, so that no factor
        # is ever copied per sample.
        n_sample_dims = deviation.dim() - (self.factor.dim() - 1)
        columns = deviation.reshape(-1, *deviation.shape[n_sample_dims:])
        whitened = self.whiten_columns(columns.movedim(0, -1)).movedim(-1, 0)
        return whitened.reshape(*deviation.shape[:-1], whitened.shape[-1])

    @abstractmethod
    def whiten_columns(self, deviation: Tensor) -> Tensor:
        """Return L^-1 x for deviations of shape (*batch, K, D, n_samples)."""

    def whitener(self, means: Tensor, n_columns: int) -> Callable[[Tensor], Tensor]:
        """Return the quickest way from points to their whitened deviations.

        Without batch dimensions. The function takes some of `n_columns` points as
        columns (D, n) and returns L^-1 (x - m) of shape (K, D, n): samples run along
        the last dimension, so that sums over coordinates and components are sums of
        long vectors.
        """
        means = means.unsqueeze(-1)
        return lambda columns: self.whiten_columns(columns - means)

    @abstractmethod
    def color(
        self, noise: Tensor, component: Tensor, batch_shape: torch.Size
    ) -> Tensor:
        """Return L_k x for noise (*sample, *batch, D) and drawn components k.

        The noise has `n_whitened` numbers.
        """

    @abstractmethod
    def log_determinant(self, event_size: int) -> Tensor:
        """Return log |L| of shape (*batch, K or 1)."""

    @abstractmethod
    def covariance(self, event_size: int) -> Tensor:
        """Return L L' of shape (*batch, K or 1, D, D)."""

    @abstractmethod
    def variance(self, event_size: int) -> Tensor:
        """Return the diagonal of L L', of shape (*batch, K or 1, D)."""

    @abstractmethod
    def precision_weighted_mean(self, weights: Tensor, means: Tensor) -> Tensor:
        """Return (sum_k w_k S_k^-1)^-1 sum_k w_k S_k^-1 m_k, with w (..., K)."""

    @abstractmethod
    def marginal(self, indices: Tensor) -> "Scale":
        """Return the scale of some coordinates, in the order given."""

    @abstractmethod
    def split(self, n_given: int) -> tuple["Scale", Tensor | None, "Scale"]:
        """Split into the scale of the leading block, the cross factor, the rest's.

        The cross factor L_tc of (1.4) maps the last of the leading block's whitened
        numbers, as many as it has columns, to shifts of the rest's means; None where
        the blocks are independent.
        """

    @abstractmethod
    def multiply(self, scale: Tensor) -> "Scale":
        """Return the scale of the coordinates multiplied by `scale`, of shape (D,)."""

    @abstractmethod
    def with_noise(self, stddev: Tensor) -> "Scale":
        """Return the scale of a sum with independent noise, of `stddev` (D,)."""


class TrilScale(Scale):
    """Cholesky factors of shape (*batch, K or 1, D, D): full and tied covariances."""

    n_matrix_dims = 2
    constraints: ClassVar = {"scale_tril": constraints.lower_cholesky}

    def whiten_columns(self, deviation: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.factor, deviation, upper=False)

    def whitener(self, means: Tensor, n_columns: int) -> Callable[[Tensor], Tensor]:
        # One product for all components runs on all cores; a triangular solve of this
        # size runs on one, after a pass that forms the deviations.
        careful, factor = super().whitener(means, n_columns), self.factor
        size = factor.shape[-1]
        if n_columns <= size or factor.device.type == "meta":
            return careful
        identity = torch.eye(size, dtype=factor.dtype, device=factor.device)
        inverse = self.whiten_columns(identity).expand(len(means), size, size)
        shift = inverse @ means.unsqueeze(-1)
        magnitude = inverse.abs()
        loss = torch.maximum(
            factor.abs().sum(-1).amax() * magnitude.sum(-1).amax(-1),
            (magnitude @ means.abs().unsqueeze(-1)).amax((-2, -1)),
        )
        if not bool((loss < PRODUCT_LOSS).all()):
            return careful
        # The shift as the column of a row of ones: to add it later is one more pass.
        wide = torch.cat([inverse, -shift], dim=-1).reshape(-1, size + 1)
        return lambda columns: (wide @ _with_ones(columns)).unflatten(0, (-1, size))

    def color(
        self, noise: Tensor, component: Tensor, batch_shape: torch.Size
    ) -> Tensor:
        if self.factor.dim() == 3:
            return products_by_component(self.factor, noise, component)
        factor = self.take(component, batch_shape)
        return (factor @ noise.unsqueeze(-1)).squeeze(-1)

    def log_determinant(self, event_size: int) -> Tensor:
        return self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def covariance(self, event_size: int) -> Tensor:
        return self.factor @ self.factor.mT

    def variance(self, event_size: int) -> Tensor:
        return self.factor.square().sum(-1)

    def precision_weighted_mean(self, weights: Tensor, means: Tensor) -> Tensor:
        precision = torch.cholesky_inverse(self.factor)
        precision = precision.expand(*precision.shape[:-3], weights.shape[-1], -1, -1)
        shifted = (precision @ means.unsqueeze(-1)).squeeze(-1)
        total = torch.einsum("...k,...kij->...ij", weights, precision)
        return torch.linalg.solve(
            total, torch.einsum("...k,...ki->...i", weights, shifted)
        )

    def marginal(self, indices: Tensor) -> "TrilScale":
        return TrilScale(triangularise(self.factor[..., indices, :]))

    def split(self, n_given: int) -> tuple[Scale, Tensor | None, Scale]:
        return (
            TrilScale(self.factor[..., :n_given, :n_given]),
            self.factor[..., n_given:, :n_given],
            TrilScale(self.factor[..., n_given:, n_given:]),
        )

    def multiply(self, scale: Tensor) -> "TrilScale":
        # The signs of the columns are free; they keep the diagonal positive.
        return TrilScale(scale.unsqueeze(-1) * self.factor * scale.sign())

    def with_noise(self, stddev: Tensor) -> "TrilScale":
        noise = torch.diag_embed(stddev).expand_as(self.factor)
        return TrilScale(triangularise(torch.cat([self.factor, noise], -1)))


class DiagonalScale(Scale):
    """Standard deviations of shape (*batch, K or 1, D)."""

    n_matrix_dims = 1
    constraints: ClassVar = {"scale_diag": constraints.positive}

    def whiten(self, deviation: Tensor) -> Tensor:
        return deviation / self.factor

    def whiten_columns(self, deviation: Tensor) -> Tensor:
        return deviation / self.factor.unsqueeze(-1)

    def color(
        self, noise: Tensor, component: Tensor, batch_shape: torch.Size
    ) -> Tensor:
        return self.take(component, batch_shape) * noise

    def log_determinant(self, event_size: int) -> Tensor:
        return self.factor.log().sum(-1)

    def covariance(self, event_size: int) -> Tensor:
        return torch.diag_embed(self.factor.square())

    def variance(self, event_size: int) -> Tensor:
        return self.factor.square()

    def precision_weighted_mean(self, weights: Tensor, means: Tensor) -> Tensor:
        precision = weights.unsqueeze(-1) / self.factor.square()
        return (precision * means).sum(-2) / precision.sum(-2)

    def marginal(self, indices: Tensor) -> "DiagonalScale":
        return DiagonalScale(self.factor[..., indices])

    def split(self, n_given: int) -> tuple[Scale, Tensor | None, Scale]:
        leading, rest = self.factor[..., :n_given], self.factor[..., n_given:]
        return DiagonalScale(leading), None, DiagonalScale(rest)

    def multiply(self, scale: Tensor) -> "DiagonalScale":
        return DiagonalScale(scale.abs() * self.factor)

    def with_noise(self, stddev: Tensor) -> "DiagonalScale":
        return DiagonalScale(torch.hypot(self.factor, stddev))


class SphericalScale(Scale):
    """One standard deviation a component, of shape (*batch, K or 1)."""

    n_matrix_dims = 0
    constraints: ClassVar = {"scale_spherical": constraints.positive}

    def whiten(self, deviation: Tensor) -> Tensor:
        return deviation / self.factor.unsqueeze(-1)

    def whiten_columns(self, deviation: Tensor) -> Tensor:
        return deviation / self.factor[..., None, None]

    def color(
        self, noise: Tensor, component: Tensor, batch_shape: torch.Size
    ) -> Tensor:
        return self.take(component, batch_shape).unsqueeze(-1) * noise

    def log_determinant(self, event_size: int) -> Tensor:
        return event_size * self.factor.log()

    def covariance(self, event_size: int) -> Tensor:
        return torch.diag_embed(self.variance(event_size))

    def variance(self, event_size: int) -> Tensor:
        return self.factor.square().unsqueeze(-1).expand(*self.factor.shape, event_size)

    def precision_weighted_mean(self, weights: Tensor, means: Tensor) -> Tensor:
        precision = (weights / self.factor.square()).unsqueeze(-1)
        return (precision * means).sum(-2) / precision.sum(-2)

    def marginal(self, indices: Tensor) -> "SphericalScale":
        return self

    def split(self, n_given: int) -> tuple[Scale, Tensor | None, Scale]:
        return self, None, self

    def multiply(self, scale: Tensor) -> Scale:
        scale = scale.abs()
        if _is_one_number(scale):
            return SphericalScale(scale[0] * self.factor)
        return DiagonalScale(scale * self.factor.unsqueeze(-1))

    def with_noise(self, stddev: Tensor) -> Scale:
        if _is_one_number(stddev):
            return SphericalScale(torch.hypot(self.factor, stddev[0]))
        return DiagonalScale(torch.hypot(self.factor.unsqueeze(-1), stddev))


def take_component(
    parameter: Tensor, component: Tensor, batch_shape: torch.Size, n_event_dims: int
) -> Tensor:
    """Select ``parameter[..., k, ...]`` for each component index k.

    `parameter` has shape (*batch, K or 1, *event), batch dimensions optional;
    `component` has shape (*sample, *batch).
    """
    dim = -1 - n_event_dims
    if parameter.shape[dim] == 1:
        return parameter.squeeze(dim)
    if parameter.dim() == 1 + n_event_dims:
        return parameter[component]
    parameter = parameter.expand(*batch_shape, *parameter.shape[dim:])
    index = component.reshape(*component.shape, *(1,) * (1 + n_event_dims))
    n_sample_dims = component.dim() - len(batch_shape)
    parameter = parameter.reshape(*(1,) * n_sample_dims, *parameter.shape)
    return torch.take_along_dim(parameter, index, dim=dim).squeeze(dim)


def _is_one_number(values: Tensor) -> bool:
    return not values.requires_grad and bool((values == values[0]).all())


def _with_ones(columns: Tensor) -> Tensor:
    return torch.nn.functional.pad(columns, (0, 0, 0, 1), value=1.0)


def products_by_component(
    matrices: Tensor, vectors: Tensor, component: Tensor
) -> Tensor:
    """Return ``matrices[k] @ vector`` for vectors (*sample, b) of components k.

    Where there are many, those of a component share one product, so that no matrix is
    copied for each.
    """
    if len(matrices) == 1:
        return vectors @ matrices[0].mT
    if component.numel() <= FEW_VECTORS * len(matrices):
        return (matrices[component] @ vectors.unsqueeze(-1)).squeeze(-1)
    flat, component = vectors.flatten(0, -2), component.flatten()
    counts = component.bincount(minlength=len(matrices)).tolist()
    order = component.argsort()
    parts = zip(matrices, flat[order].split(counts), strict=True)
    products = torch.cat([part @ matrix.mT for matrix, part in parts])
    result = torch.empty_like(products).index_copy_(0, order, products)
    return result.reshape(*vectors.shape[:-1], -1)


def moving(whitened: Tensor, cross: Tensor, dim: int) -> Tensor:
    """Return the whitened numbers, along `dim`, that a cross factor acts on."""
    n_moving = cross.shape[-1]
    return whitened.narrow(dim, whitened.shape[dim] - n_moving, n_moving)


@contextmanager
def recording() -> Iterator[None]:
    """Record gradients for a result that is kept, wherever it is first read."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def triangularise(factor: Tensor) -> Tensor:
    """Return the Cholesky factor of ``factor factor'``.

    By QR rather than by a Cholesky factorisation of the product, which would square
    the condition number.
    """
    n_rows = factor.shape[-2]
    if factor.device.type != "meta" and not bool(factor.triu(diagonal=1).any()):
        return factor[..., :n_rows]  # a leading block, in order
    mode = "reduced" if factor.requires_grad else "r"
    triangle = torch.linalg.qr(factor.mT, mode=mode).R.mT
    diagonal = triangle.diagonal(dim1=-2, dim2=-1)
    signs = torch.where(diagonal < 0, -1.0, 1.0).to(factor.dtype)
    return triangle * signs.unsqueeze(-2)
