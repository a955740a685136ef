"""Rows with missing values, completed under every component of a mixture.

Let ``L`` be the factor of a component, ``W = L^-1``, and ``d`` the deviation of a row
from the mean, zero where it is missing. The squared distance of what is observed is the
least of ``|W (d + E m)|^2`` over the missing part ``m``, where ``E`` picks the missing
coordinates: a least-squares problem with the matrix ``W E = Q R``. The residual is the
whitened deviation of the row completed with its conditional mean, ``Q Q'`` the whitened
conditional covariance, and ``|L| |R|`` the determinant of the observed block's factor.
Only the square root of the covariance's condition number enters.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from skgmje._backend import BLOCK_NUMBERS, as_tensor, blocks
from skgmje.mixture._distribution import MultivariateNormalMixture
from skgmje.mixture._scale import TrilScale
from skgmje.mixture._standard_components import MAX_COORDINATE

# Rows of so many numbers are grouped by pattern at a time: eight megabytes.
GROUP_NUMBERS = 2**20
# How many rows of a pattern share one factor, while there are so many.
BUNDLES = (16, 4, 1)
# Columns of the mask that fit one integer next to the index of a pattern.
KEY_BITS = 31
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True)
class CompletedBlock:
    """S rows of each of B patterns, completed under every component.

    H is one for whitened coordinates alone, two if those in units of X follow.

    Attributes
    ----------
    rows : tensor of int64 of shape (S, B)
        Indices of the rows.
    log_prob : tensor of shape (K, S, B)
        Log-density of the observed coordinates under each component.
    deviation : tensor of shape (K, H, D, S, B)
        Deviations from the means, conditional means where they are missing.
    spread : tensor of shape (K or 1, H, D, m, B)
        ``spread spread'`` is the conditional covariance. For scales without
        correlation m is one: standard deviations, zero where observed.
    """

    rows: Tensor
    log_prob: Tensor
    deviation: Tensor
    spread: Tensor


def completed_blocks(
    X: Any, density: MultivariateNormalMixture, *, in_units: bool = False
) -> Iterator[CompletedBlock]:
    """Complete all rows under every component, in blocks of bounded size.

    Parameters
    ----------
    X : ndarray or tensor of shape (n_samples, D)
        Samples of any float type; NaN is missing.
    density : MultivariateNormalMixture
        Float64 mixture, without batch dimensions.
    in_units : bool, default=False
        Whether to add the coordinates in units of X to the whitened ones.

    Yields
    ------
    block : CompletedBlock
        Some rows; every row comes once.
    """
    device = density._means.device
    correlated = isinstance(density._scale, TrilScale)
    complete = _complete_correlated if correlated else _complete_independent
    n_rows = max(1, GROUP_NUMBERS // max(1, X.shape[1]))
    for start in range(0, X.shape[0], n_rows):
        chunk = on_device(X[start : start + n_rows], device)
        for block in complete(chunk, density, 2 if in_units else 1):
            yield replace(block, rows=block.rows + start)


def _complete_independent(
    X: Tensor, density: MultivariateNormalMixture, n_halves: int
) -> Iterator[CompletedBlock]:
    """Diagonal and spherical scales: masks are all that it takes."""
    means = density._means.unsqueeze(-1)
    stddev = density._scale.variance(X.shape[1]).sqrt().unsqueeze(-1)
    log_norm = stddev.log() + _HALF_LOG_2PI
    for rows in blocks(X.shape[0], n_halves * means.numel()):
        block = X[rows].T
        missing = block.isnan()
        deviation = torch.where(missing, 0.0, block - means)
        whitened = (deviation / stddev).clamp_(-MAX_COORDINATE, MAX_COORDINATE)
        log_prob = -0.5 * whitened.square() - log_norm.where(~missing, 0.0)
        spread = missing.to(X.dtype).expand(len(stddev), -1, -1)
        halves = [(whitened, spread), (deviation, stddev * spread)][:n_halves]
        deviations, spreads = (
            torch.stack(parts, 1) for parts in zip(*halves, strict=True)
        )
        yield CompletedBlock(
            torch.arange(rows.start, rows.stop, device=X.device).unsqueeze(0),
            log_prob.sum(1, keepdim=True),
            deviations.unsqueeze(3),
            spreads.unsqueeze(3),
        )


def _complete_correlated(
    X: Tensor, density: MultivariateNormalMixture, n_halves: int
) -> Iterator[CompletedBlock]:
    """Full and tied scales: one elimination for all patterns of a block."""
    means, factor = density._means, density._scale.factor
    n_components, n_features = means.shape
    identity = torch.eye(n_features, dtype=means.dtype, device=X.device)
    whitener = torch.linalg.solve_triangular(factor, identity, upper=False)
    halves = torch.stack([whitener, identity.expand_as(whitener)][:n_halves], dim=1)
    log_norm = density._scale.log_determinant(n_features).unsqueeze(-1)
    limit = MAX_COORDINATE * density._scale.variance(n_features).sqrt()
    limit = limit[:, :, None, None]
    X = X.T.contiguous()
    missing = X.isnan()
    width = n_halves * n_features
    for rows in _bundles(missing, width * len(factor), width * n_components):
        mask = missing[:, rows[0]]
        observed = X[:, rows] - means[:, :, None, None]
        observed = torch.clamp(observed, -limit, limit)
        observed.masked_fill_(mask.unsqueeze(1), 0.0)
        columns = _missing_columns(mask)
        spread, deviation, log_determinant = _least_squares(halves, columns, observed)
        n_observed = (~mask).sum(0, dtype=means.dtype)
        constant = log_norm + log_determinant + n_observed * _HALF_LOG_2PI
        log_prob = -0.5 * deviation[:, 0].square().sum(1) - constant.unsqueeze(1)
        log_prob.masked_fill_(n_observed == 0, 0.0)  # not only up to rounding
        yield CompletedBlock(rows, log_prob, deviation, spread)


def _missing_columns(mask: Tensor) -> Tensor:
    """Return the missing coordinates of each pattern, the last first, of shape (m, B).

    Patterns that miss fewer than others are filled up with D, which is no coordinate.
    """
    n_features = len(mask)
    coordinates = torch.arange(n_features, device=mask.device).unsqueeze(1)
    columns = torch.where(mask, coordinates, n_features).sort(0).values
    return columns[: int(mask.sum(0).max())].flip(0)


def _least_squares(
    halves: Tensor, columns: Tensor, observed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve for the missing part of all patterns of a block.

    Parameters
    ----------
    halves : tensor of shape (K or 1, H, D, D)
        The whitening matrix, then the identity if H is two.
    columns : tensor of int64 of shape (m, B)
        The missing coordinates of each pattern.
    observed : tensor of shape (K, D, S, B)
        Deviations from the means, zero where missing.

    Returns
    -------
    spread, deviation : tensor
        As in `CompletedBlock`.
    log_determinant : tensor of shape (K or 1, B)
        Logarithm of the determinant of the triangular factor of ``W E``.
    """
    n_components, n_features, n_slots, n_patterns = observed.shape
    n_factors, n_halves = halves.shape[:2]
    n_missing = len(columns)
    # A shared factor takes the components as further right-hand sides.
    n_right = n_components // n_factors * n_slots
    system = observed.new_empty(
        n_factors, n_halves, n_features, n_missing + n_right, n_patterns
    )
    padded = torch.nn.functional.pad(halves, (0, 1))
    chosen = padded.index_select(3, columns.flatten())
    system[..., :n_missing, :] = chosen.unflatten(3, columns.shape)
    right = system[..., n_missing:, :].unflatten(3, (-1, n_slots)).movedim(3, 1)
    right = right.view(n_components, n_halves, *observed.shape[1:])
    for half, matrix in enumerate(halves.unbind(1)):
        right[:, half] = (matrix @ observed.flatten(2)).view(observed.shape)
    log_determinant = _orthogonalise(system, columns)
    return system[..., :n_missing, :], right, log_determinant


def _orthogonalise(system: Tensor, columns: Tensor) -> Tensor:
    """Make the first m columns orthonormal and take them out of the others, in place.

    Modified Gram-Schmidt. Only the first half of the rows is measured; a second half
    goes along and ends in units of X. Returns the sum of the logarithms of the norms.
    """
    log_norms = system.new_zeros(system.shape[0], system.shape[-1])
    for j, top in enumerate(columns.amin(1).tolist()):
        # All columns so far are zero above their coordinates.
        pivot, rest = system[:, :, top:, j : j + 1], system[:, :, top:, j + 1 :]
        norm = pivot[:, 0].square().sum(1).sqrt_()
        norm.masked_fill_(norm == 0, 1.0)  # a column that only fills up
        pivot /= norm[:, None, None]
        log_norms += norm.log()[:, 0]
        share = (pivot[:, 0] * rest[:, 0]).sum(1)
        rest.addcmul_(pivot, share[:, None, None], value=-1.0)
    return log_norms


# --------------------------------------------------------------------------- patterns


def _bundles(
    missing: Tensor, numbers_per_column: int, numbers_per_row: int
) -> Iterator[Tensor]:
    """Yield rows of shape (S, B): bundles of S rows of one pattern, for one factor.

    `missing` has shape (D, n_samples). A pattern is cut into bundles of the first size,
    what is left into bundles of the next; those of a block miss about as many values.
    """
    order, rank, count, n_missing = _sorted_by_pattern(missing.T)
    for n_slots in BUNDLES:
        full = count - count % n_slots
        starts = (rank >= 0) & (rank < full) & (rank % n_slots == 0)
        rank, count = rank - full, count - full
        first = starts.nonzero()
        if len(first) == 0:
            continue
        most_missing = int(n_missing[first[-1]])
        numbers = most_missing * numbers_per_column + n_slots * numbers_per_row
        slots = torch.arange(n_slots, device=missing.device)
        for part in first.split(max(1, BLOCK_NUMBERS // numbers)):
            yield order[part + slots].T


def _sorted_by_pattern(missing: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sort rows by the number of values missing, then by pattern.

    Returns the order and, for each row in that order, its rank within its pattern, how
    many rows the pattern has, and how many values it misses.
    """
    n_missing = missing.sum(1)
    pattern = n_missing
    powers = 2.0 ** torch.arange(KEY_BITS, dtype=torch.float64, device=missing.device)
    for columns in missing.split(KEY_BITS, dim=1):
        # Sums of distinct powers of two are exact.
        bits = (columns.double() @ powers[: columns.shape[1]]).long()
        pattern = (pattern * 2**KEY_BITS + bits).unique(return_inverse=True)[1]
    order = pattern.argsort(stable=True)
    counts = pattern.bincount()
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.arange(len(order), device=missing.device) - starts
    return order, rank, counts.repeat_interleave(counts), n_missing[order]


def on_device(array: Any, device: torch.device, copy: bool = False) -> Tensor:
    """Return an array or a tensor as a float64 tensor on `device`."""
    if isinstance(array, Tensor):
        return array.to(device, torch.float64, copy=copy)
    return as_tensor(array, device)
