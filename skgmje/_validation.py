"""scikit-learn's private validation tools, imported in this one place."""

from typing import Any

import numpy as np
from sklearn.base import _fit_context as fit_context
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils._set_output import _get_container_adapter
from sklearn.utils._set_output import _SetOutputMixin as SetOutputMixin
from sklearn.utils.validation import _check_sample_weight

__all__ = [
    "Interval",
    "Options",
    "SetOutputMixin",
    "StrOptions",
    "check_sample_weight",
    "fit_context",
    "output_adapter",
]


def check_sample_weight(sample_weight: Any, X: Any) -> np.ndarray:
    """Return float64 weights, not negative and not all zero, one for each row."""
    return _check_sample_weight(
        sample_weight, X, dtype=np.float64, ensure_non_negative=True
    )


def output_adapter(estimator: Any) -> Any:
    """Return the adapter of the data frames that set_output asks for, or None."""
    return _get_container_adapter("transform", estimator)
