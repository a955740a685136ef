"""scikit-learn's private validation tools, imported in this one place."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from numbers import Integral
from typing import Any

import numpy as np
from sklearn import config_context
from sklearn.base import _fit_context as fit_context
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils import validation
from sklearn.utils._missing import is_pandas_na
from sklearn.utils._param_validation import HasMethods, Interval, Options, StrOptions
from sklearn.utils._set_output import _get_container_adapter
from sklearn.utils._set_output import _SetOutputMixin as SetOutputMixin

__all__ = [
    "HasMethods",
    "Interval",
    "Options",
    "SetOutputMixin",
    "StrOptions",
    "check_array",
    "check_consistent_length",
    "check_image_shape",
    "check_numbers",
    "check_rows",
    "check_sample_weight",
    "check_target",
    "check_target_names",
    "check_target_width",
    "column_or_1d",
    "fit_context",
    "has_missing",
    "output_adapter",
    "safe_indexing",
    "unchanged_on_error",
    "validate_data",
]


@contextmanager
def unchanged_on_error(estimator: Any) -> Iterator[None]:
    """Leave an estimator as it was if a fit is refused or interrupted."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def _to_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a validator make NumPy arrays, whatever scikit-learn dispatches elsewhere."""

    @wraps(function)
    def validator(*args: Any, **options: Any) -> Any:
        with config_context(array_api_dispatch=False):
            return function(*args, **options)

    return validator


check_array = _to_numpy(validation.check_array)
check_consistent_length = _to_numpy(validation.check_consistent_length)
column_or_1d = _to_numpy(validation.column_or_1d)
validate_data = _to_numpy(validation.validate_data)


def has_missing(values: np.ndarray) -> bool:
    """Say whether an array of any kind holds None, NaN, NaT or pandas' NA."""
    if values.dtype.kind == "O":
        # NaN and NaT are not equal to themselves.
        return any(v is None or is_pandas_na(v) or v != v for v in values)
    return values.dtype.kind in "fcmM" and bool(np.isnan(values).any())


def check_numbers(X: Any, input_name: str, **options: Any) -> np.ndarray:
    """Return X as a validated array of float64."""
    return check_array(X, dtype=np.float64, input_name=input_name, **options)


def check_rows(estimator: Any, X: Any, **options: Any) -> np.ndarray:
    """Return X as a validated array of float64 or float32 for an estimator."""
    return validate_data(estimator, X, dtype=[np.float64, np.float32], **options)


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


def check_sample_weight(sample_weight: Any, X: Any, **options: Any) -> np.ndarray:
    """Return float64 weights, not negative and not all zero, one for each row."""
    check = _to_numpy(validation._check_sample_weight)
    return check(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True, **options
    )


def check_image_shape(
    input_shape: Sequence[int] | None, n_features: int | None = None
) -> tuple[int, int, int]:
    """Return channels, height and width of the images that rows of a view hold."""
    sides = () if input_shape is None else tuple(input_shape)
    whole = all(isinstance(side, Integral) and side > 0 for side in sides)
    if len(sides) not in (2, 3) or not whole:
        raise ValueError(
            "For images and encoder='conv' input_shape must be (height, width) or "
            f"(channels, height, width), in pixels; got {input_shape!r}."
        )
    if n_features is not None and math.prod(sides) != n_features:
        raise ValueError(
            f"input_shape={sides} asks for rows of {math.prod(sides)} pixels; got "
            f"{n_features} columns."
        )
    channels, height, width = sides if len(sides) == 3 else (1, *sides)
    return channels, height, width


def output_adapter(estimator: Any) -> Any:
    """Return the adapter of the data frames that set_output asks for, or None."""
    return _get_container_adapter("transform", estimator)
