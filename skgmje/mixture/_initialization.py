"""Rows and responsibilities that EM starts from."""

from typing import Any

import numpy as np
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.utils.random import sample_without_replacement

from skgmje._backend import all_gather, is_distributed
from skgmje.mixture._missing import fill_for_start, has_missing
from skgmje.mixture._samples import Rows, Samples

# Rows that a start is made from where the samples are not all in memory.
START_ROWS = 50_000
# Squares of float32 numbers beyond, and of those below its inverse, lose all digits.
FLOAT32_RANGE = 1e15


def rows_to_start_from(
    rows: Rows | None, samples: Samples, random_state: np.random.RandomState
) -> Rows:
    """Return complete rows in memory: all of them, or a random subset.

    Parameters
    ----------
    rows : Rows or None
        The samples, if they are one array.
    samples : Samples
        The samples in pieces.
    random_state : RandomState
        Source of the subset and of draws for missing values.

    Returns
    -------
    rows : Rows
        The same in every process of a group.
    """
    if rows is None or is_distributed():
        rows = _gathered(_reservoir(samples, random_state))
    elif isinstance(rows.X, np.memmap):
        rows = _subset(rows, random_state)
    if has_missing(rows.X):
        filled = fill_for_start(rows.X, rows.sample_weight, random_state)
        rows = Rows(filled, rows.sample_weight)
    return in_range_of_squares(rows)


def _subset(rows: Rows, random_state: np.random.RandomState) -> Rows:
    """Return a random subset of the rows that have weight, or all of them."""
    weight = rows.sample_weight
    used = np.arange(len(rows.X)) if weight is None else np.flatnonzero(weight)
    if len(used) <= START_ROWS:
        return rows.with_weight()
    chosen = sample_without_replacement(
        len(used), START_ROWS, random_state=random_state
    )
    return rows[used[np.sort(chosen)]]


def in_range_of_squares(rows: Rows) -> Rows:
    """Return rows as float64 where k-means could not square them in float32."""
    X = rows.X
    if X.dtype != np.float32:
        return rows
    largest = max(float(X.max()), -float(X.min()))
    if largest == 0.0 or 1.0 / FLOAT32_RANGE < largest < FLOAT32_RANGE:
        return rows
    return Rows(X.astype(np.float64), rows.sample_weight)


def _reservoir(samples: Samples, random_state: np.random.RandomState) -> Rows:
    """Keep the rows with the smallest of random keys."""
    kept: Any = None
    for rows in samples.pieces():
        key = random_state.uniform(size=rows.X.shape[0])
        weight = rows.sample_weight
        weight = np.ones(len(key)) if weight is None else np.asarray(weight)
        part = [key, weight, np.asarray(rows.X)]
        if kept is not None:
            part = [np.concatenate(pair) for pair in zip(kept, part, strict=True)]
        first = np.sort(np.argsort(part[0])[:START_ROWS])
        kept = [values[first] for values in part]
    return Rows(kept[2], None if np.all(kept[1] == 1.0) else kept[1])


def _gathered(rows: Rows) -> Rows:
    """Join the rows of all processes of a group, in the order of their ranks."""
    if not is_distributed():
        return rows
    weight = rows.sample_weight
    weight = np.ones(len(rows.X)) if weight is None else weight
    parts = all_gather((rows.X, weight))
    X = np.concatenate([part for part, _ in parts])
    weight = np.concatenate([part for _, part in parts])
    return Rows(X, None if np.all(weight == 1.0) else weight)


def weighted_responsibilities(
    init_params: str,
    n_components: int,
    rows: Rows,
    random_state: np.random.RandomState,
) -> np.ndarray:
    """Responsibilities of scikit-learn's starts for weighted samples.

    Parameters
    ----------
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data'}
        The start.
    n_components : int
        Number of components.
    rows : Rows
        Complete samples with positive weights.
    random_state : RandomState
        Source of the start.

    Returns
    -------
    responsibilities : ndarray of shape (n_samples, n_components)
        Shares of each sample, times its weight where all samples have some.
    """
    X, weight = rows.X, rows.sample_weight
    shape = (X.shape[0], n_components)
    if init_params == "random":
        shares = random_state.uniform(size=shape)
        return shares * (weight / shares.sum(axis=1))[:, None]
    responsibilities = np.zeros(shape)
    if init_params == "kmeans":
        model = KMeans(n_components, n_init=1, random_state=random_state)
        labels = model.fit(X, sample_weight=weight).labels_
        responsibilities[np.arange(shape[0]), labels] = weight
        return responsibilities
    if init_params == "k-means++":
        _, points = kmeans_plusplus(
            X, n_components, sample_weight=weight, random_state=random_state
        )
    else:
        points = random_state.choice(
            shape[0], size=n_components, replace=False, p=weight / weight.sum()
        )
    responsibilities[points, np.arange(n_components)] = 1.0
    return responsibilities
