"""Coordinates, as users name them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def check_indices(indices: Any, n_features: int, device: torch.device) -> Tensor:
    """Return distinct coordinates as a tensor of non-negative integers.

    Parameters
    ----------
    indices : int, list, tuple, array or tensor of int
        Coordinates; negative ones count from the end.
    n_features : int
        Number of coordinates.
    device : torch.device
        Where the tensor is wanted.

    Returns
    -------
    indices : tensor of int64
        The coordinates, in the order given.

    Raises
    ------
    ValueError
        If `indices` are not integers, repeat one or leave the range.
    """
    array = np.atleast_1d(
        indices.cpu().numpy() if isinstance(indices, Tensor) else np.asarray(indices)
    )
    if array.size == 0:
        return _index_tensor([], device)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"indices must be one-dimensional integers; got {indices!r}.")
    positive = np.where(array < 0, array + n_features, array)
    if positive.min() < 0 or positive.max() >= n_features:
        raise ValueError(
            f"indices must lie between {-n_features} and {n_features - 1} for "
            f"{n_features} coordinates; got {array.tolist()}."
        )
    if len(set(positive.tolist())) < len(positive):
        raise ValueError(f"indices must not repeat; got {array.tolist()}.")
    return _index_tensor(positive.tolist(), device)


def remaining_indices(given: Tensor, n_features: int) -> Tensor:
    """Return the coordinates that are not given, in ascending order."""
    known = set(given.tolist())
    rest = [index for index in range(n_features) if index not in known]
    return _index_tensor(rest, given.device)


def _index_tensor(indices: list[int], device: torch.device) -> Tensor:
    # Indices are read as numbers, which the meta device does not have.
    place = "cpu" if device.type == "meta" else device
    return torch.tensor(indices, dtype=torch.long, device=place)
