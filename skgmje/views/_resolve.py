"""The one function that decides which array is the target view."""

import warnings
from typing import Any

import numpy as np
from sklearn.utils.multiclass import type_of_target

from skgmje._validation import check_array, check_consistent_length
from skgmje.exceptions import IgnoredTargetWarning

_TWO_WAYS_OUT = (
    "pass it as a view with target='y' (or as the metadata target_view=), or ignore it "
    "with target='augment'"
)


def resolve_target(
    X: np.ndarray, y: Any, target_view: Any, target: str
) -> tuple[np.ndarray | None, str]:
    """Decide which array is the target view.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        The context view, validated.
    y : array-like or None
        Second view, labels or nothing.
    target_view : array-like or None
        Second view that wins over `y`.
    target : {'auto', 'y', 'augment'}
        The estimator's parameter.

    Returns
    -------
    target : ndarray of float64 of shape (n_samples,) or (n_samples, n_targets), or None
        The target view; None means that two views are drawn from X.
    source : {'target_view', 'y', 'augment'}
        Where the target view comes from.

    Raises
    ------
    ValueError
        If y is missing, ambiguous, of strings or of another length.

    Warns
    -----
    IgnoredTargetWarning
        If `target` is ``'auto'`` and y holds class labels.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje.views import resolve_target
    >>> X = np.zeros((4, 2))
    >>> resolve_target(X, np.random.default_rng(0).normal(size=(4, 3)), None, "auto")[1]
    'y'
    >>> resolve_target(X, np.array([0, 1, 0, 1]), None, "augment")
    (None, 'augment')
    """
    if target_view is not None:
        return _as_view(X, target_view, "target_view"), "target_view"
    if target == "augment":
        return None, "augment"
    if y is None:
        if target == "y":
            raise ValueError(
                "target='y' requires y to be passed, but the target y is None; pass y "
                "or target_view, or draw two views from X with target='augment'."
            )
        return None, "augment"
    values = _as_numbers_or_labels(y)
    if target == "y":
        return _as_view(X, values, "y"), "y"
    kind = _kind(values)
    if values.ndim == 1 and kind in ("binary", "multiclass"):
        warnings.warn(
            "y holds whole numbers or strings, which are taken for class labels and "
            "not for a view: two views are drawn from X instead. Pass target='y' if y "
            "is what is to be predicted, and target='augment' if labels are meant.",
            IgnoredTargetWarning,
            stacklevel=7,
        )
        return None, "augment"
    if values.ndim == 1:
        raise ValueError(
            "With target='auto' a one-dimensional continuous y could be a view or a "
            f"regression target: {_TWO_WAYS_OUT}."
        )
    if values.shape[1] == 1 and kind in ("binary", "multiclass"):
        raise ValueError(
            f"With target='auto' one column of labels is ambiguous: {_TWO_WAYS_OUT}."
        )
    if kind == "multilabel-indicator":
        raise ValueError(
            "With target='auto' a matrix of zeros and ones is ambiguous: it could be a "
            f"view or label indicators; {_TWO_WAYS_OUT}."
        )
    return _as_view(X, values, "y"), "y"


def _as_numbers_or_labels(y: Any) -> np.ndarray:
    """Return y as an array of numbers or of strings."""
    values = check_array(
        y, dtype=None, ensure_2d=False, ensure_all_finite=False, input_name="y"
    )
    if values.dtype.kind not in "OUST":
        return values
    try:
        return values.astype(np.float64)
    except (TypeError, ValueError):
        pass
    if all(isinstance(value, str) for value in values.ravel()):
        return values.astype(str)
    if any(isinstance(value, str) for value in values.ravel()):
        raise ValueError(
            "Unknown label type: y mixes strings with other values; encode the strings "
            "as numbers."
        )
    raise ValueError(
        "Unknown label type: y holds Python objects that are neither numbers nor "
        "strings."
    )


def _kind(values: np.ndarray) -> str:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("Input y contains NaN or infinity; drop or impute those rows.")
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        # Integers with many values are still labels here; the views table says so.
        warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
        return type_of_target(values, input_name="y")


def _as_view(X: np.ndarray, values: Any, name: str) -> np.ndarray:
    values = _as_numbers_or_labels(values)
    if values.dtype.kind in "UST":
        raise ValueError(
            f"{name} holds strings, which cannot be a view; encode them as numbers, or "
            "ignore them with target='augment'."
        )
    view = check_array(
        values, dtype=np.float64, ensure_2d=False, ensure_min_samples=2, input_name=name
    )
    if view.ndim > 2 or view.ndim == 0:
        raise ValueError(f"{name} must have one or two dimensions; got {view.ndim}.")
    check_consistent_length(X, view)
    return view
