"""How the log-densities of components are evaluated for a block of samples.

Samples come as columns: `z` holds a row of ones above the samples, centred and scaled
by the moments of the mixture, and what a form wants beside these. The natural form of
the exponential family needs the fewest operations, but cancels where a component is
narrow beside the mixture; there deviations from the component's own mean keep every
digit.

On the CPU the numbers are in NumPy's arrays, whose calls cost a fraction of torch's on
small ones. Torch multiplies matrices, since its BLAS is up to twice as fast on narrow
ones, and its loops over long rows are the faster, too. On other devices all lines run
in torch.
"""

import math
from abc import ABC, abstractmethod
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from skgmje._backend import tensor_view
from skgmje.mixture._standard_components import Components

# Beyond this width one whitening product costs less than the products of all pairs.
NATURAL_WIDTH = 64
# Rows of a triangular factor that share one product; its zeros beyond are left out.
TRIANGLE_ROWS = 16
# Squares of larger numbers overflow.
MAX_WHITENED = 1e150


class Moments(NamedTuple):
    """Counts, first and second moments of components about reference points."""

    counts: Tensor
    first: Tensor
    second: Tensor
    reference: Tensor


class Form(ABC):
    """A way to evaluate some components and to sum up their statistics."""

    def __init__(self, components: Components):
        # Blocks of samples may be in torch where parameters are in NumPy.
        self.components, self.xp = components, components.xp
        self.n_components, self.n_features = components.means.shape

    # Rows of `z` that the form fills itself, above the ones and below the samples, and
    # rows of the scratch memory that it needs.
    n_products = 0
    n_repeated = 0
    n_scratch = 0
    n_sums: int
    # Largest `Components.cancellation()` at which all but a few of 16 digits are left.
    max_cancellation = 1e7

    def prepare(self, z: Any, raw: Any, scratch: Any) -> None:  # noqa: B027
        """Compute what both steps need; `raw` holds the samples as they came."""

    @abstractmethod
    def log_joint(self, z: Any, scratch: Any, out: Any) -> None:
        """Write log weight plus log-density, of shape (K, n_samples), to `out`."""

    @abstractmethod
    def sums(self, z: Any, scratch: Any, resp: Any) -> list[Any]:
        """Sum what the M step needs over a block."""

    @abstractmethod
    def moments(self, sums: list[Tensor]) -> Moments:
        """Turn sums into counts and moments about reference points."""

    def about_centre(self, counts: Tensor, first: Tensor, second: Tensor) -> Moments:
        """Bring standardised moments about zero to the data's units."""
        spread = self.components.spread
        squared = spread * spread
        if self.components.has_triangles:
            squared = spread[:, None] * spread
        centre = tensor_view(self.components.centre).expand_as(first)
        return Moments(
            counts,
            first * tensor_view(spread),
            second * tensor_view(squared),
            centre,
        )


class NaturalForm(Form):
    """Natural parameters times sufficient statistics, ``eta_k' t(x)``.

    For full covariances ``t(x) = [x_i x_j for pairs, 1, x]``, for diagonal ones
    ``[x^2, 1, x]``: one product gives all log-densities, one more all sums.
    """

    n_sums = 1

    def __init__(self, components: Components):
        super().__init__(components)
        means, precision = components.standard_means, components.precision
        if components.has_triangles:
            linear = (precision @ means[..., None])[..., 0]
            device = None if self.xp is np else str(means.device)
            (rows, columns), self.square = _pairs(self.n_features, device)
            products = -precision[:, rows, columns]
            products[:, : self.n_features] *= 0.5
            self.n_repeated = self.n_features // 2
        else:
            linear, products = precision * means, -0.5 * precision
        constants = components.log_constants - 0.5 * (linear * means).sum(-1)
        self.n_products = products.shape[1]
        natural = self.xp.concatenate([products, constants[:, None], linear], axis=1)
        self.natural = _aligned(natural)

    def places_of(self, leading: "NaturalForm") -> Tensor:
        """Columns of `natural` that are those of a form of the leading features."""
        width = leading.n_features
        products = torch.arange(width)
        if self.components.has_triangles:
            (rows, columns), _ = _pairs(width, None)
            products = self.square[rows, columns]
        return torch.cat([products, self.n_products + torch.arange(1 + width)])

    def prepare(self, z: Any, raw: Any, scratch: Any) -> None:
        products, x = z[: self.n_products], z[self.n_products + 1 :]
        if not self.components.has_triangles:
            self.xp.multiply(x, x, out=products)
            return
        width, half = self.n_features, self.n_repeated
        x[width:] = x[:half]
        shifted = _windows(x, (width + 1) // 2, width)
        full = products[: len(shifted) * width].reshape(shifted.shape)
        self.xp.multiply(x[:width], shifted, out=full)
        if 2 * half == width:
            rest = products[len(shifted) * width :]
            self.xp.multiply(x[:half], x[half:width], out=rest)

    def log_joint(self, z: Any, scratch: Any, out: Any) -> None:
        _multiply_matrices(self.natural, z[: self.natural.shape[1]], out)

    def sums(self, z: Any, scratch: Any, resp: Any) -> list[Any]:
        return [_multiply_matrices(z[: self.natural.shape[1]], resp.T)]

    def moments(self, sums: list[Tensor]) -> Moments:
        (totals,) = sums
        width = self.n_features
        second, counts, first = totals.T.split([self.n_products, 1, width], dim=1)
        if self.components.has_triangles:
            second = second[:, self.square]
        return self.about_centre(counts.squeeze(1), first, second)


@cache
def _pairs(width: int, device: str | None) -> tuple[tuple[Any, Any], Tensor]:
    """Rows and columns of all pairs, and the square matrix of their places.

    A pair is a row and the one some places further on. Where the rows are followed by
    the first of them again, the products of a shift are those of contiguous rows of
    samples, and one call makes them for all shifts.
    """
    place = np.arange(width * (width + 1) // 2)
    shift, row = np.divmod(place, width)
    pairs = row, (row + shift) % width
    square = torch.empty(width, width, dtype=torch.int64)
    square[pairs] = square.T[pairs] = torch.from_numpy(place)
    if device is None:
        return pairs, square
    rows, columns = (torch.from_numpy(index).to(device) for index in pairs)
    return (rows, columns), square.to(device)


def _windows(x: Any, n_windows: int, width: int) -> Any:
    """View rows of contiguous memory as windows, each a row further on."""
    shape, n_samples = (n_windows, width, x.shape[1]), x.shape[1]
    if isinstance(x, Tensor):
        return x.as_strided(shape, (n_samples, n_samples, 1))
    row, item = x.strides
    return np.ndarray(shape, x.dtype, x, strides=(row, row, item))


def _multiply_matrices(a: Any, b: Any, out: Any = None) -> Tensor:
    """Matrix product of arrays in memory that torch and NumPy share on the CPU."""
    return torch.matmul(
        tensor_view(a),
        tensor_view(b),
        out=None if out is None else tensor_view(out),
    )


def _aligned(matrix: Any) -> Tensor:
    """Copy to torch's memory: sums of products depend on where their terms lie."""
    return tensor_view(matrix).clone()


class WhitenedForm(Form):
    """Squares of samples whitened for all components by one wide product."""

    # Only sums of products cancel here: densities lose half of the digits at most.
    max_cancellation = 1e8

    def __init__(self, components: Components):
        super().__init__(components)
        width = self.n_features
        # Halved squares, and the shift by the mean as the column of the ones.
        whitening = components.whitening * math.sqrt(0.5)
        shift = -whitening @ components.standard_means[..., None]
        factor = self.xp.concatenate([shift, whitening], axis=-1)
        starts = range(0, width, TRIANGLE_ROWS)
        self.strips = [(i, min(i + TRIANGLE_ROWS, width)) for i in starts]
        self.factors = [
            _aligned(factor[:, start:stop, : 1 + stop].reshape(-1, 1 + stop))
            for start, stop in self.strips
        ]
        self.constants = tensor_view(components.log_constants)[:, None]
        self.n_scratch = self.n_components * min(TRIANGLE_ROWS, width)
        self.n_sums = 1 + len(self.strips)

    def _strip(self, scratch: Any, start: int, stop: int) -> tuple[Any, Any]:
        """Scratch memory of one strip, flat and by component."""
        flat = scratch[: self.n_components * (stop - start)]
        return flat, flat.reshape(self.n_components, stop - start, -1)

    def log_joint(self, z: Any, scratch: Any, out: Any) -> None:
        tensor_view(out).copy_(self.constants)
        for factor, (start, stop) in zip(self.factors, self.strips, strict=True):
            flat, by_component = self._strip(scratch, start, stop)
            _multiply_matrices(factor, z[: 1 + stop], flat)
            self.xp.multiply(flat, flat, out=flat)
            out -= by_component.sum(1)

    def sums(self, z: Any, scratch: Any, resp: Any) -> list[Any]:
        sums = [resp.sum(1)]
        for start, stop in self.strips:
            flat, by_component = self._strip(scratch, start, stop)
            x = z[1 + start : 1 + stop]
            self.xp.multiply(resp[:, None], x[None], out=by_component)
            sums.append(_multiply_matrices(flat, z[: 1 + stop].T))
        return sums

    def moments(self, sums: list[Tensor]) -> Moments:
        width = self.n_features
        moments = sums[0].new_zeros(self.n_components, width, 1 + width)
        for total, (start, stop) in zip(sums[1:], self.strips, strict=True):
            moments[:, start:stop, : 1 + stop] = total.reshape(
                self.n_components, stop - start, 1 + stop
            )
        lower = moments[..., 1:].tril()
        second = lower + lower.tril(-1).mT
        return self.about_centre(sums[0], moments[..., 0], second)


class TiedForm(Form):
    """One shared covariance: a linear function a component, one square for all."""

    n_sums = 2

    def __init__(self, components: Components):
        super().__init__(components)
        means = components.standard_means
        linear = means @ components.precision[0]
        constants = components.log_constants - 0.5 * (linear * means).sum(-1)
        linear = self.xp.concatenate([constants[:, None], linear], axis=1)
        self.linear = _aligned(linear)
        self.whitening = _aligned(components.whitening[0] * math.sqrt(0.5))
        self.n_scratch = self.n_features

    def log_joint(self, z: Any, scratch: Any, out: Any) -> None:
        whitened = scratch[: self.n_features]
        _multiply_matrices(self.whitening, z[1:], whitened)
        self.xp.multiply(whitened, whitened, out=whitened)
        _multiply_matrices(self.linear, z, out)
        out -= whitened.sum(0)

    def sums(self, z: Any, scratch: Any, resp: Any) -> list[Any]:
        weighted = scratch[: self.n_features]
        self.xp.multiply(z[1:], resp.sum(0), out=weighted)
        totals = _multiply_matrices(z, resp.T)
        return [totals, _multiply_matrices(weighted, z[1:].T)]

    def moments(self, sums: list[Tensor]) -> Moments:
        totals, second = sums
        return self.about_centre(totals[0], totals[1:].T, second)


class DeviationForm(Form):
    """Deviations of every sample from every mean, in the data's own units."""

    n_sums = 3

    def __init__(self, components: Components):
        super().__init__(components)
        self.means = components.means[..., None]
        self.constants = components.log_constants[:, None]
        self.n_scratch = 2 * self.n_components * self.n_features

    def _halves(self, scratch: Any, n_samples: int) -> tuple[Any, Any]:
        shape = (self.n_components, self.n_features, n_samples)
        half = self.n_scratch // 2
        return scratch[:half].reshape(shape), scratch[half : 2 * half].reshape(shape)

    def prepare(self, z: Any, raw: Any, scratch: Any) -> None:
        deviation, _ = self._halves(scratch, z.shape[1])
        self.xp.subtract(raw[None], self.means, out=deviation)

    def log_joint(self, z: Any, scratch: Any, out: Any) -> None:
        deviation, whitened = self._halves(scratch, z.shape[1])
        self._whiten(deviation, whitened)
        self.xp.clip(whitened, -MAX_WHITENED, MAX_WHITENED, out=whitened)
        self.xp.multiply(whitened, whitened, out=whitened)
        out[:] = self.constants - 0.5 * whitened.sum(1)

    def _whiten(self, deviation: Any, out: Any) -> None:
        # Solved and not multiplied by an inverse, which loses digits where the
        # covariance is nearly singular.
        factor, columns, whitened = map(
            torch.as_tensor, (self.components.factor, deviation, out)
        )
        if self.components.has_triangles:
            torch.linalg.solve_triangular(factor, columns, upper=False, out=whitened)
        else:
            torch.divide(columns, factor.unsqueeze(-1), out=whitened)

    def sums(self, z: Any, scratch: Any, resp: Any) -> list[Any]:
        deviation, weighted = self._halves(scratch, z.shape[1])
        self.xp.multiply(deviation, resp[:, None], out=weighted)
        if self.components.has_triangles:
            second = weighted @ deviation.swapaxes(1, 2)
            if self.components.covariance_type == "tied":
                second = second.sum(0)
        else:
            second = (weighted * deviation).sum(2)
        return [resp.sum(1), weighted.sum(2), second]

    def moments(self, sums: list[Tensor]) -> Moments:
        counts, first, second = sums
        return Moments(counts, first, second, torch.as_tensor(self.components.means))


# Forms with the components that each evaluates; None stands for all of them.
Groups = list[tuple[type[Form], Any]]


def choose_forms(components: Components) -> Groups:
    """Split components into those that the fast form serves well and the others."""
    form = _fast_form(components)
    fast = components.cancellation() <= form.max_cancellation
    if bool(fast.all()):
        return [(form, None)]
    if components.covariance_type == "tied" or not bool(fast.any()):
        return [(DeviationForm, None)]
    chosen, others = (components.xp.argwhere(mask)[:, 0] for mask in (fast, ~fast))
    return [(form, chosen), (DeviationForm, others)]


def deviations_of_all(components: Components) -> Groups:
    """Measure deviations for all components."""
    return [(DeviationForm, None)]


def _fast_form(components: Components) -> type[Form]:
    """Return the form with the fewest operations for a kind of covariance."""
    if components.covariance_type == "tied":
        return TiedForm
    if components.has_triangles and components.means.shape[1] > NATURAL_WIDTH:
        return WhitenedForm
    return NaturalForm
