"""Whether two samples come from one distribution."""

from itertools import product

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils import gen_batches

from skgmje._backend import resolve_random_state
from skgmje._validation import check_array

# Rows of a block of distances: at most 32 megabytes for a pair of blocks.
BLOCK_ROWS = 2048


def energy_distance(X, Y):
    r"""Unbiased estimate of the energy distance of two distributions.

    .. math:: 2\,\mathrm{E}\|x - y\| - \mathrm{E}\|x - x'\| - \mathrm{E}\|y - y'\|

    Parameters
    ----------
    X, Y : array-like of shape (n_samples_X, n_features), (n_samples_Y, n_features)
        Two samples of at least two rows. Scale the columns first if their units differ.

    Returns
    -------
    distance : float
        Zero on average, and at times negative, if both have one distribution. Where
        :func:`scipy.stats.energy_distance` is a root, this is not.

    Raises
    ------
    ValueError
        If the samples differ in width or one has fewer than two rows.

    Notes
    -----
    No pair of a row with itself enters, hence no bias. Time is quadratic in the number
    of rows, memory is not.

    References
    ----------
    G. Székely and M. Rizzo, "Energy statistics: a class of statistics based on
    distances", Journal of Statistical Planning and Inference 143 (2013).

    Examples
    --------
    >>> from skgmje.metrics import energy_distance
    >>> energy_distance([[0.0], [1.0]], [[2.0], [3.0]])
    2.0
    """
    X, Y = _check_samples(X, Y)
    n, m = len(X), len(Y)
    within = _sum_of_distances(X, X) / (n * (n - 1))
    within += _sum_of_distances(Y, Y) / (m * (m - 1))
    return float(2 * _sum_of_distances(X, Y) / (n * m) - within)


def two_sample_accuracy(X, Y, *, classifier=None, cv=5, random_state=None):
    """Cross-validated accuracy of a classifier that tells two samples apart.

    Parameters
    ----------
    X, Y : array-like of shape (n_samples_X, n_features), (n_samples_Y, n_features)
        Two samples.
    classifier : scikit-learn classifier or None, default=None
        The judge; None means a support vector machine on standardised columns, which
        suits up to some ten thousand rows.
    cv : int, default=5
        Number of folds.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds.

    Returns
    -------
    accuracy : float
        Balanced accuracy on rows that were not fitted: 0.5 if the classifier cannot
        tell them apart, 1 if it always can.

    Raises
    ------
    ValueError
        If the samples differ in width or one has fewer rows than folds.

    References
    ----------
    D. Lopez-Paz and M. Oquab, "Revisiting classifier two-sample tests", ICLR (2017).

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje.metrics import two_sample_accuracy
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(2, 200, 2))
    >>> 0.4 < two_sample_accuracy(X, Y, random_state=0) < 0.6
    True
    >>> two_sample_accuracy(X, Y + 3, random_state=0) > 0.95
    True
    """
    X, Y = _check_samples(X, Y)
    if isinstance(cv, (int, np.integer)) and min(len(X), len(Y)) < cv:
        raise ValueError(
            f"Each sample must have a row for each of the {cv} folds; got {len(X)} and "
            f"{len(Y)} rows. Lower cv."
        )
    if classifier is None:
        # A seed that does nothing here, but keeps SVC off the global random state.
        classifier = make_pipeline(StandardScaler(), SVC(random_state=0))
    folds = StratifiedKFold(
        cv, shuffle=True, random_state=resolve_random_state(random_state)
    )
    scores = cross_val_score(
        classifier,
        np.concatenate([X, Y]),
        np.repeat([0, 1], [len(X), len(Y)]),
        cv=folds,
        scoring="balanced_accuracy",
    )
    return float(scores.mean())


def _check_samples(X, Y) -> tuple[np.ndarray, np.ndarray]:
    X, Y = (check_array(Z, dtype=np.float64, ensure_min_samples=2) for Z in (X, Y))
    if X.shape[1] != Y.shape[1]:
        raise ValueError(
            "Both samples must have the same columns; got "
            f"{X.shape[1]} and {Y.shape[1]}."
        )
    return X, Y


def _sum_of_distances(X: np.ndarray, Y: np.ndarray) -> float:
    blocks = product(gen_batches(len(X), BLOCK_ROWS), gen_batches(len(Y), BLOCK_ROWS))
    return sum(float(cdist(X[rows], Y[columns]).sum()) for rows, columns in blocks)
