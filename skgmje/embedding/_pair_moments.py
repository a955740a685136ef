"""Second moments of two views, and the canonical pairs of coordinates in them."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from scipy.linalg import cholesky, eigvalsh, qr, solve_triangular, svd
from sklearn.utils import gen_batches

from skgmje._backend import all_gather

# Rows of both views that are centred at once.
BLOCK_ROWS = 8192
EPS = np.finfo(np.float64).eps
# Eigenvalues of a correlation matrix, times its size, that rounding leaves of zero.
ROUNDING = 100 * EPS


class CanonicalPairs(NamedTuple):
    """Coordinates of two views in which only pairs of them are correlated.

    With the columns of a weight matrix W, ``W' (x - mean)`` are the white canonical
    coordinates of a view. A column of a factor F says how the view moves with one
    coordinate: ``F F'`` is the covariance of the view, and the first columns belong to
    the pairs.

    Attributes
    ----------
    correlations : ndarray of shape (n_pairs,)
        Canonical correlations, in descending order.
    context_weights, target_weights : ndarray of shape (n_columns, n_pairs)
        Weights of the coordinates of each view.
    context_factor, target_factor : ndarray of shape (n_columns, n_columns)
        Factors of the covariances of each view.
    """

    correlations: np.ndarray
    context_weights: np.ndarray
    target_weights: np.ndarray
    context_factor: np.ndarray
    target_factor: np.ndarray


@dataclass(frozen=True)
class PairMoments:
    """Mean and covariance of two views side by side, in units that hold any scale.

    Attributes
    ----------
    n_context : int
        Number of columns of the first view.
    mean : ndarray of shape (n_columns,)
        Means of the columns of both views.
    scale : ndarray of shape (n_columns,)
        Standard deviations; one for a constant column.
    correlation : ndarray of shape (n_columns, n_columns)
        Correlations; zero in the rows and columns of a constant column.
    """

    n_context: int
    mean: np.ndarray
    scale: np.ndarray
    correlation: np.ndarray

    @classmethod
    def of_rows(cls, X: np.ndarray, Y: np.ndarray) -> Self:
        """Collect the moments of all rows, a block of them at a time.

        In a process group these are the rows of all processes.
        """
        views = [X, Y]
        # Differences to a row of the data are zero in a constant column.
        reference = np.concatenate([view[0] for view in views]).astype(np.float64)
        reference, n_rows = all_gather(reference)[0], sum(all_gather(len(X)))

        def shifted():
            for rows in gen_batches(len(X), BLOCK_ROWS):
                yield np.concatenate([v[rows] for v in views], axis=1) - reference

        shift, peak = np.zeros_like(reference), np.zeros_like(reference)
        for block in shifted():
            shift += block.sum(axis=0) / n_rows
            peak = np.maximum(peak, np.abs(block).max(axis=0))
        shift, peak = sum(all_gather(shift)), np.max(all_gather(peak), axis=0)
        # In units of the largest one, squares neither overflow nor vanish.
        unit = np.where(peak > 0, peak, 1.0)
        covariance = np.zeros((len(reference), len(reference)))
        for block in shifted():
            deviations = (block - shift) / unit
            covariance += deviations.T @ deviations / n_rows
        covariance = sum(all_gather(covariance))
        mean = reference + shift
        # Below float64's own noise around its mean a column is constant.
        noise = 10 * EPS * np.abs(mean) / unit
        return cls._in_standard_units(X.shape[1], mean, covariance, unit, noise)

    @classmethod
    def of_covariance(
        cls, mean: np.ndarray, covariance: np.ndarray, n_context: int
    ) -> Self:
        """Take the moments of a population, context first."""
        unit, noise = np.ones_like(mean), np.zeros_like(mean)
        return cls._in_standard_units(n_context, mean, covariance, unit, noise)

    @classmethod
    def _in_standard_units(
        cls,
        n_context: int,
        mean: np.ndarray,
        covariance: np.ndarray,
        unit: np.ndarray,
        noise: np.ndarray,
    ) -> Self:
        """Divide a covariance in some units by the standard deviations."""
        scale = np.sqrt(covariance.diagonal())
        constant = scale <= noise
        scale = np.where(constant, 1.0, scale)
        correlation = covariance / np.outer(scale, scale)
        correlation[constant] = 0.0
        correlation[:, constant] = 0.0
        return cls(n_context, mean, unit * scale, correlation)

    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split what is given for all columns into that of each view."""
        return values[: self.n_context], values[self.n_context :]

    def canonical_pairs(self, ridge: float) -> CanonicalPairs:
        """Find the canonical pairs, with a ridge on the correlations of each view.

        Parameters
        ----------
        ridge : float
            Added to the diagonal, in units of the variances of the columns.

        Returns
        -------
        pairs : CanonicalPairs
            As many as the smaller view has columns, in the units of the views.

        Raises
        ------
        ValueError
            If the covariance of a view, or that of both, has no inverse.
        """
        n = self.n_context
        context_triangle = _triangle(self.correlation[:n, :n], ridge, "X")
        target_triangle = _triangle(self.correlation[n:, n:], ridge, "y")
        half = solve_triangular(
            context_triangle, self.correlation[:n, n:], lower=True, check_finite=False
        )
        whitened = solve_triangular(
            target_triangle, half.T, lower=True, check_finite=False
        ).T
        left, correlations, right = svd(whitened, check_finite=False)
        n_pairs = len(correlations)
        if correlations.max(initial=0.0) > 1 + 1e-6:
            raise ValueError(
                "The joint covariance of both views is not positive semi-definite: "
                f"it has a canonical correlation of {correlations[0]:.3g}."
            )
        weights = [
            solve_triangular(triangle, turn, lower=True, trans="T", check_finite=False)
            for triangle, turn in ((context_triangle, left), (target_triangle, right.T))
        ]
        # Turn pairs so that the largest weight of each, on the context, is positive.
        signs = _signs(weights[0][:, :n_pairs])
        left[:, :n_pairs] *= signs
        right[:n_pairs] *= signs[:, np.newaxis]
        context_scale, target_scale = (s[:, np.newaxis] for s in self.split(self.scale))
        return CanonicalPairs(
            correlations.clip(max=1.0),
            weights[0][:, :n_pairs] * signs / context_scale,
            weights[1][:, :n_pairs] * signs / target_scale,
            context_scale * (context_triangle @ left),
            target_scale * (target_triangle @ right.T),
        )


def lower_triangle(factor: np.ndarray) -> np.ndarray:
    """Return the Cholesky factor of ``F F'``, without forming the product."""
    triangle = qr(factor.T, mode="r", check_finite=False)[0].T
    return triangle * np.where(triangle.diagonal() < 0, -1.0, 1.0)


def _triangle(correlation: np.ndarray, ridge: float, name: str) -> np.ndarray:
    """Return the Cholesky factor of the correlations of one view."""
    size = len(correlation)
    matrix = correlation + ridge * np.eye(size)
    values = eigvalsh(matrix, check_finite=False)
    rank = int(np.count_nonzero(values > size * ROUNDING * max(values[-1], 1.0)))
    if rank < size:
        raise ValueError(
            f"The covariance of {name} is singular: {name} has {size} columns, but its "
            f"covariance has rank {rank}. Columns are constant or combinations of "
            "others, or there are too few rows; set ridge > 0 or drop columns."
        )
    return cholesky(matrix, lower=True, check_finite=False)


def _signs(weights: np.ndarray) -> np.ndarray:
    """Return the sign of the largest weight of each column."""
    largest = np.abs(weights).argmax(axis=0)[np.newaxis]
    return np.where(np.take_along_axis(weights, largest, axis=0)[0] < 0, -1.0, 1.0)
