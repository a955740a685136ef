"""The target view that a fitted estimator of two views is given."""

from typing import Any

import numpy as np

from skgmje._validation import check_array


def check_target(estimator: Any, Y: Any, names: Any, width: int) -> np.ndarray:
    """Return a target view as a matrix of numbers with the columns of fit.

    Parameters
    ----------
    estimator : estimator
        The fitted estimator, whose name errors give.
    Y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Target view.
    names : array-like of str or None
        Names of the columns in fit, if they had any.
    width : int
        Number of columns in fit.

    Returns
    -------
    target : ndarray of float64 or float32 of shape (n_samples, width)
        The target view.

    Raises
    ------
    ValueError
        If Y has other columns, or holds NaN or infinities.
    """
    check_target_names(Y, names)
    target = check_array(
        Y, dtype=[np.float64, np.float32], ensure_2d=False, input_name="y"
    )
    if target.ndim == 1:
        target = target.reshape(-1, 1)
    check_target_width(estimator, target, width)
    return target


def check_target_names(Y: Any, names: Any) -> None:
    """Refuse a table with other columns than in fit, or in another order."""
    columns = getattr(Y, "columns", None)
    if names is not None and columns is not None and list(columns) != list(names):
        raise ValueError(
            f"The target view should have the columns {list(names)} of fit, in that "
            f"order; got {list(columns)}."
        )


def check_target_width(estimator: Any, target: np.ndarray, width: int) -> None:
    """Refuse a target view of another width than in fit."""
    if target.shape[1] != width:
        raise ValueError(
            f"The target view has {target.shape[1]} columns, but "
            f"{type(estimator).__name__} was fitted with {width}."
        )
