"""Where samples come from: an array in memory, a file on disk, or chunks."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import islice
from operator import add
from typing import Any

import numpy as np
import torch
from sklearn.utils import gen_batches

from skgmje._backend import all_reduce, as_tensor, is_distributed
from skgmje.mixture._distribution import MultivariateNormalMixture
from skgmje.mixture._em import expectation, expectation_about
from skgmje.mixture._missing import (
    expectation_with_missing,
    has_missing,
    incomplete_rows,
)
from skgmje.mixture._statistics import SufficientStatistics

# Rows of a file with missing values that are in memory at a time.
CHUNK_ROWS = 2**16
# Sums of squares of larger values overflow.
MAX_VALUE = 1e151


@dataclass(frozen=True)
class Rows:
    """Samples in memory or mapped from disk, with their weights."""

    X: Any
    sample_weight: Any = None

    def statistics(
        self, density: MultivariateNormalMixture, covariance_type: str
    ) -> SufficientStatistics:
        """E step over complete rows."""
        weight = () if self.sample_weight is None else (self.sample_weight,)
        return expectation(self.X, density, covariance_type, *weight)

    def statistics_about(
        self,
        density: MultivariateNormalMixture,
        covariance_type: str,
        reference: torch.Tensor,
    ) -> SufficientStatistics:
        """E step, with moments from given points and without the likelihood."""
        return expectation_about(
            self.X, density, covariance_type, reference, self.sample_weight
        )

    def chunks(self) -> Iterator["Rows"]:
        """Yield the rows in pieces."""
        for rows in gen_batches(self.X.shape[0], CHUNK_ROWS):
            yield self[rows]

    def with_weight(self) -> "Rows":
        """Leave out rows of zero weight, and copy nothing where there are none."""
        if self.sample_weight is None or (self.sample_weight > 0).all():
            return self
        return self[self.sample_weight > 0]

    def to(self, device: torch.device) -> "Rows":
        """Copy the rows to a device."""
        weight = self.sample_weight
        weight = None if weight is None else as_tensor(weight, device)
        return Rows(as_tensor(self.X, device), weight)

    def __getitem__(self, rows: Any) -> "Rows":
        weight = None if self.sample_weight is None else self.sample_weight[rows]
        return Rows(self.X[rows], weight)


class IncompleteRows(Rows):
    """Samples of which each misses a value."""

    def statistics(
        self, density: MultivariateNormalMixture, covariance_type: str
    ) -> SufficientStatistics:
        """E step over what is observed."""
        return expectation_with_missing(
            self.X, density, covariance_type, self.sample_weight
        )

    def statistics_about(
        self,
        density: MultivariateNormalMixture,
        covariance_type: str,
        reference: torch.Tensor,
    ) -> SufficientStatistics:
        """Move what was measured from means that the completed values are near."""
        return self.statistics(density, covariance_type).around(reference)


class Samples:
    """All samples of a fit, in pieces that can be visited once for each E step.

    Parameters
    ----------
    pieces : callable
        Returns an iterator over `Rows` that are complete or `IncompleteRows`.
    """

    def __init__(self, pieces: Callable[[], Iterable[Rows]]):
        self.pieces = pieces

    def statistics(
        self, density: MultivariateNormalMixture, covariance_type: str
    ) -> SufficientStatistics:
        """E step over all samples, of all processes of a group."""
        parts = (rows.statistics(density, covariance_type) for rows in self.pieces())
        return all_reduce_statistics(reduce(add, parts))

    def statistics_about(
        self,
        density: MultivariateNormalMixture,
        covariance_type: str,
        reference: torch.Tensor,
    ) -> SufficientStatistics:
        """E step over all samples, without the likelihood, about given points."""
        parts = (
            rows.statistics_about(density, covariance_type, reference)
            for rows in self.pieces()
        )
        return all_reduce_statistics(reduce(add, parts))


def check_range(X: np.ndarray, name: str) -> None:
    """Raise ValueError if squares of the values overflow; NaN is no value."""
    # Comparisons with NaN are silent in these reductions.
    largest = max(
        float(np.fmax.reduce(X, axis=None, initial=0.0)),
        -float(np.fmin.reduce(X, axis=None, initial=0.0)),
    )
    if largest > MAX_VALUE:
        raise ValueError(
            f"{name} holds values up to {largest:.1e} in size, whose squares overflow; "
            "scale the input data."
        )


def samples_in_memory(rows: Rows) -> Samples:
    """Split the rows of an array once, if they miss values."""
    pieces = list(split(rows))
    return Samples(lambda: pieces)


def samples_on_disk(rows: Rows) -> Samples:
    """Visit a mapped file in place or, where rows are left out, piece by piece."""
    weight = rows.sample_weight
    if not has_missing(rows.X) and (weight is None or (weight > 0).all()):
        return Samples(lambda: [rows])
    return samples_in_chunks(rows.chunks)


def samples_in_chunks(chunks: Callable[[], Iterable[Rows]]) -> Samples:
    """Split every chunk anew at every visit."""

    def pieces() -> Iterator[Rows]:
        for rows in chunks():
            used = rows.with_weight()
            if used.X.shape[0]:
                yield from split(used)

    return Samples(pieces)


def split(rows: Rows) -> Iterator[Rows]:
    """Yield the complete rows and those with missing values; copy none if all are."""
    if not has_missing(rows.X):
        yield rows
        return
    incomplete = incomplete_rows(rows.X)
    if not incomplete.all():
        yield rows[~incomplete]
    part = rows[incomplete]
    yield IncompleteRows(part.X, part.sample_weight)


def all_reduce_statistics(statistics: SufficientStatistics) -> SufficientStatistics:
    """Sum statistics about the same reference over the processes of a group."""
    if not is_distributed():
        return statistics
    sums = (
        statistics.counts,
        statistics.first,
        statistics.second,
        statistics.log_likelihood,
        statistics.counts.new_tensor(statistics.total),
    )
    counts, first, second, log_likelihood, total = all_reduce(*sums)
    return SufficientStatistics(
        counts,
        first,
        second,
        statistics.reference,
        log_likelihood,
        float(total),
        statistics.covariance_type,
        statistics.scale,
    )


def is_chunks(X: Any) -> bool:
    """Whether X is an iterable of two-dimensional chunks and not array-like."""
    array_like = any(hasattr(X, name) for name in ("__array__", "shape"))
    if array_like or not hasattr(X, "__iter__"):
        return False
    if not hasattr(X, "__len__"):
        return True
    # A sequence of chunks, or one array as nested sequences.
    chunks = X if isinstance(X, (list, tuple)) else islice(X, 1)
    return len(X) > 0 and all(np.ndim(_array_of(chunk)) == 2 for chunk in chunks)


def _array_of(chunk: Any) -> Any:
    """Leave out the weights of a chunk; take no list for an array."""
    if isinstance(chunk, tuple) and len(chunk) == 2 and hasattr(chunk[0], "shape"):
        chunk = chunk[0]
    return chunk if hasattr(chunk, "shape") else None


def read_chunks(
    X: Iterable[Any], check: Callable[[Any, Any], Rows]
) -> Callable[[], Iterator[Rows]]:
    """Return a function that visits the chunks, each checked.

    Raises
    ------
    ValueError
        If the chunks can be visited only once.
    """
    if iter(X) is iter(X):
        raise ValueError(
            "EM visits the chunks once for each iteration, but an iterator can be "
            "visited only once; pass a list of arrays or an object whose __iter__ "
            "starts anew, or call partial_fit for each chunk."
        )

    def visit() -> Iterator[Rows]:
        for chunk in X:
            pair = isinstance(chunk, tuple) and len(chunk) == 2
            yield check(*chunk) if pair else check(chunk, None)

    return visit
