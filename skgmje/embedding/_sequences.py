"""What a user calls sequences, as rows one after the other and back."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skgmje._backend import as_tensor
from skgmje._validation import (
    check_array,
    check_consistent_length,
    check_rows,
    column_or_1d,
    has_missing,
    validate_data,
)
from skgmje.views import SequenceViews

# Index types of pandas that say that rows follow each other in time.
TIME_INDICES = ("DatetimeIndex", "PeriodIndex", "TimedeltaIndex")


@dataclass
class Sequences:
    """Steps of all sequences, one sequence after the other.

    Attributes
    ----------
    rows : ndarray of shape (n_rows, n_features)
        The steps; a missing one is all NaN.
    lengths : ndarray of int64 of shape (n_sequences,)
        Number of steps of each sequence.
    shape : tuple of int or None
        Numbers of sequences and of steps of a three-dimensional array.
    order : ndarray of int64 or None
        Where each step stands among the rows of the user, if not here.
    """

    rows: np.ndarray
    lengths: np.ndarray
    shape: tuple[int, int] | None = None
    order: np.ndarray | None = None

    @property
    def observed(self) -> np.ndarray:
        """Which steps are there."""
        return ~np.isnan(self.rows[:, 0])

    def with_observations(self) -> "Sequences":
        """Return the sequences that have a step that is there."""
        sequence = np.repeat(np.arange(len(self.lengths)), self.lengths)
        n_observed = np.bincount(sequence, weights=self.observed)
        return Sequences(
            self.rows[n_observed[sequence] > 0], self.lengths[n_observed > 0]
        )

    def views(self, rows: Tensor) -> SequenceViews:
        """Serve what belongs to the steps in padded batches."""
        device = rows.device
        return SequenceViews(
            rows,
            torch.as_tensor(self.lengths, device=device),
            torch.as_tensor(self.observed, device=device),
        )

    def as_given(self, steps: np.ndarray) -> np.ndarray:
        """Lay out what belongs to the steps as the user gave them."""
        if self.shape is not None:
            return steps.reshape(*self.shape, *steps.shape[1:])
        if self.order is None:
            return steps
        given = np.empty_like(steps)
        given[self.order] = steps
        return given


def pad(values: Tensor, views: SequenceViews) -> Tensor:
    """Bring what belongs to the steps to the shape (n_sequences, n_steps, ...)."""
    everything = torch.arange(len(views), device=values.device)
    index, _ = views.index(everything)
    return values[index]


def unpad(padded: Tensor, views: SequenceViews) -> Tensor:
    """Undo `pad`: one row for every step."""
    everything = torch.arange(len(views), device=padded.device)
    _, inside = views.index(everything)
    return padded[inside]


def read_sequences(estimator: Any, X: Any, groups: Any, reset: bool) -> Sequences:
    """Validate sequences in any of their forms.

    Parameters
    ----------
    estimator : estimator
        For whom; it is given the number and the names of the columns if `reset`.
    X : array-like
        A three-dimensional array, a list of two-dimensional ones, or rows.
    groups : array-like of shape (n_rows,) or None
        The sequence that each row belongs to, whose rows are in the order of time.
        Without them each row is a sequence of its own.
    reset : bool
        Whether this is a fit.

    Returns
    -------
    sequences : Sequences
        The steps.

    Raises
    ------
    ValueError
        If X has another form, if a row holds NaN in part, if tables of a list differ
        in their columns, or if groups have missing values or are given to what is in
        sequences already.

    Warns
    -----
    UserWarning
        If this is a fit on a table with an index of times, without groups.
    """
    shape, lengths, order, names_from = None, None, None, None
    if isinstance(X, (list, tuple)) and len(X) and np.ndim(X[0]) == 2:
        names_from = _check_names(X)
        parts = [np.asarray(part) for part in X]
        _check_parts(parts)
        lengths = np.array([len(part) for part in parts])
        X = np.concatenate(parts)
    elif getattr(X, "ndim", 2) == 3:
        X = np.asarray(X)
        shape = X.shape[:2]
        if 0 in shape:
            raise ValueError(
                f"X has the shape {X.shape}; every sequence needs at least one step."
            )
        lengths = np.full(shape[0], shape[1])
        X = X.reshape(-1, X.shape[2])
    if reset and lengths is None and groups is None:
        _warn_of_time(X)
    if lengths is not None and groups is not None:
        raise ValueError(
            "groups says which rows of a table are a sequence, but X is in sequences "
            "already; leave groups out."
        )
    options = {
        "ensure_all_finite": "allow-nan",
        "ensure_min_samples": 2 if reset else 1,
    }
    if names_from is None:
        X = check_rows(estimator, X, reset=reset, **options)
    else:
        validate_data(estimator, names_from, reset=reset, skip_check_array=True)
        X = check_array(X, dtype=[np.float64, np.float32], input_name="X", **options)
    _check_missing(X, reset)
    if groups is not None:
        order, lengths = _order_of_groups(groups, X)
        X = X[order]
    elif lengths is None:
        lengths = np.ones(len(X), dtype=np.int64)
    return Sequences(X, lengths.astype(np.int64), shape, order)


def _warn_of_time(X: Any) -> None:
    """Warn where rows that stand in time would be sequences of one step."""
    if type(getattr(X, "index", None)).__name__ in TIME_INDICES:
        warnings.warn(
            "X has an index of times, but without groups every row is a sequence of "
            "its own; pass [X] if all rows are one sequence, or groups.",
            UserWarning,
            stacklevel=6,
        )


def _check_names(parts: Any) -> Any:
    """Refuse tables of different columns; return one of them, or any part."""
    tables = [part for part in parts if hasattr(part, "columns")]
    # The columns of an Arrow table are its arrays.
    names = [list(getattr(t, "column_names", t.columns)) for t in tables]
    for others in names[1:]:
        if others != names[0]:
            raise ValueError(
                "All sequences must have the same columns in the same order; got "
                f"{names[0]} and {others}."
            )
    return [*tables, parts[0]][0]


def _check_parts(parts: list[np.ndarray]) -> None:
    if any(part.ndim != 2 or len(part) == 0 for part in parts):
        raise ValueError(
            "A list of sequences must hold arrays of shape (n_steps, n_features) with "
            "at least one step each."
        )
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        raise ValueError(
            f"All sequences must have the same number of columns; got {widths}."
        )


def _check_missing(rows: np.ndarray, is_fit: bool) -> None:
    missing = np.isnan(rows)
    partly = missing.any(axis=1) & ~missing.all(axis=1)
    if partly.any():
        raise ValueError(
            f"Input X contains NaN in a part of row {int(np.flatnonzero(partly)[0])}. "
            "A missing step is a row that is all NaN; fill single values, or set the "
            "whole row to NaN."
        )
    if is_fit and missing.all():
        raise ValueError("Input X contains NaN only: no step was observed.")


def _order_of_groups(groups: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    groups = column_or_1d(groups)
    if has_missing(groups):
        raise ValueError(
            "groups has missing values; give every row the sequence that it belongs to."
        )
    check_consistent_length(rows, groups)
    _, sequence, lengths = np.unique(groups, return_inverse=True, return_counts=True)
    return np.argsort(sequence, kind="stable"), lengths


def rows_of(sequences: Sequences, device: torch.device) -> Tensor:
    """Return the steps as a tensor in float64."""
    return as_tensor(sequences.rows, device)
