"""Second moments of two views, and the canonical pairs of coordinates in them."""

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from scipy.linalg import eigvalsh, qr, svd
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
    the pairs. There are as many columns as the covariance has rank.

    Attributes
    ----------
    correlations : ndarray of shape (n_pairs,)
        Canonical correlations, in descending order.
    context_weights, target_weights : ndarray of shape (n_columns, n_coordinates)
        Weights of the coordinates of each view.
    context_factor, target_factor : ndarray of shape (n_columns, n_coordinates)
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
    n_rows : float
        Number of rows behind the moments; infinite for a population.
    """

    n_context: int
    mean: np.ndarray
    scale: np.ndarray
    correlation: np.ndarray
    n_rows: float

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
        return cls._in_standard_units(X.shape[1], mean, covariance, n_rows, unit, noise)

    @classmethod
    def of_covariance(
        cls, mean: np.ndarray, covariance: np.ndarray, n_context: int
    ) -> Self:
        """Take the moments of a population, context first."""
        unit, noise = np.ones_like(mean), np.zeros_like(mean)
        return cls._in_standard_units(n_context, mean, covariance, np.inf, unit, noise)

    @classmethod
    def _in_standard_units(
        cls,
        n_context: int,
        mean: np.ndarray,
        covariance: np.ndarray,
        n_rows: float,
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
        return cls(n_context, mean, unit * scale, correlation, n_rows)

    def split(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Split what is given for all columns into that of each view."""
        return values[: self.n_context], values[self.n_context :]

    def canonical_pairs(self, ridge: float) -> CanonicalPairs:
        """Find the canonical pairs, with a ridge on the correlations of each view.

        Coordinates of a context of singular covariance live in its range.

        Parameters
        ----------
        ridge : float
            Added to the diagonal, in units of the variances of the columns.

        Returns
        -------
        pairs : CanonicalPairs
            As many as the smaller rank of both covariances, in the units of the views.

        Raises
        ------
        ValueError
            If the covariance of the target is singular, that of the context for want of
            rows, or the joint one not positive semi-definite.
        """
        n = self.n_context
        context_whitener, context_root = _whitening(self.correlation[:n, :n], ridge)
        target_whitener, target_root = _whitening(self.correlation[n:, n:], ridge)
        self._check_ranks(context_whitener.shape[1], target_whitener.shape[1])
        whitened = context_whitener.T @ self.correlation[:n, n:] @ target_whitener
        left, correlations, right = svd(whitened, check_finite=False)
        n_pairs = len(correlations)
        if correlations[0] > 1 + 1e-6:
            raise _indefinite(
                f"it has a canonical correlation of {correlations[0]:.3g}"
            )
        # Turn pairs so that the largest weight of each, on the context, is positive.
        signs = _signs(context_whitener @ left[:, :n_pairs])
        left[:, :n_pairs] *= signs
        right[:n_pairs] *= signs[:, np.newaxis]
        context_scale, target_scale = (s[:, np.newaxis] for s in self.split(self.scale))
        return CanonicalPairs(
            correlations.clip(max=1.0),
            context_whitener @ left / context_scale,
            target_whitener @ right.T / target_scale,
            context_scale * (context_root @ left),
            target_scale * (target_root @ right.T),
        )

    def _check_ranks(self, context_rank: int, target_rank: int) -> None:
        """Refuse ranks of the covariances of the views that leave no sound answer."""
        n_context, n_targets = self.n_context, len(self.mean) - self.n_context
        if context_rank < n_context:
            # With the rank that centred rows have at most, any y is a function of X.
            if not 0 < context_rank < self.n_rows - 1:
                raise _singular("X", n_context, context_rank)
            # A direction without variance must not be correlated either.
            values = eigvalsh(self.correlation, check_finite=False)
            if values[0] < -_rounding(values):
                raise _indefinite(
                    f"an eigenvalue of its correlations is {values[0]:.3g}"
                )
        if target_rank < n_targets:
            raise _singular("y", n_targets, target_rank)


def lower_triangle(factor: np.ndarray) -> np.ndarray:
    """Return the Cholesky factor of ``F F'``, without forming the product.

    It has the shape of F: fewer columns than rows if the product is singular.
    """
    triangle = qr(factor.T, mode="r", check_finite=False)[0].T
    return triangle * np.where(triangle.diagonal() < 0, -1.0, 1.0)


def log_volume(factor: np.ndarray) -> float:
    """Return half the logarithm of the determinant of ``F' F``."""
    # Large rows first, and pivots, keep the digits of rows in any units.
    rows = np.argsort(-np.abs(factor).max(axis=1))
    triangle = qr(factor[rows], mode="r", pivoting=True, check_finite=False)[0]
    return float(np.log(np.abs(triangle.diagonal())).sum())


def _whitening(correlation: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a whitener W and a root F of the correlations of one view, plus a ridge.

    ``F F'`` are the correlations, and ``W' F`` is the identity. Both have a column for
    each principal axis with a variance.
    """
    values, axes = np.zeros(len(correlation)), np.eye(len(correlation))
    # Apart from the others, a constant column keeps its zeros.
    varies = correlation.diagonal() > 0
    block = np.ix_(varies, varies)
    values[varies], axes[block] = np.linalg.eigh(correlation[block])
    values += ridge
    kept = values > _rounding(values)
    deviations, axes = np.sqrt(values[kept]), axes[:, kept]
    return axes / deviations, axes * deviations


def _rounding(values: np.ndarray) -> float:
    """Return what rounding leaves of a zero among eigenvalues of correlations."""
    return len(values) * ROUNDING * max(values.max(), 1.0)


def _singular(name: str, size: int, rank: int) -> ValueError:
    return ValueError(
        f"The covariance of {name} is singular: {name} has {size} columns, but its "
        f"covariance has rank {rank}. Columns are constant or combinations of "
        "others, or there are too few rows; set ridge > 0 or drop columns."
    )


def _indefinite(reason: str) -> ValueError:
    return ValueError(
        "The joint covariance of both views is not positive semi-definite: "
        f"{reason}. If rounding made it so, set ridge > 0."
    )


def _signs(weights: np.ndarray) -> np.ndarray:
    """Return the sign of the largest weight of each column, of equals the first."""
    size = np.abs(weights)
    largest = (size >= (1 - 1e-6) * size.max(axis=0)).argmax(axis=0)[np.newaxis]
    return np.where(np.take_along_axis(weights, largest, axis=0)[0] < 0, -1.0, 1.0)
