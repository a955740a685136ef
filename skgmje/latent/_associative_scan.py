"""Prefixes of an associative operation, in a number of passes that is a logarithm."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

Elements = TypeVar("Elements", bound=tuple[Tensor, ...])


def associative_scan(
    combine: Callable[[Elements, Elements], Elements], elements: Elements
) -> Elements:
    """Combine every element with all before it.

    Parameters
    ----------
    combine : callable
        Associative operation on two named tuples of tensors, the earlier one first;
        it works on all rows of the first dimension at once.
    elements : named tuple of tensors of shape (n_steps, ...)
        What is combined, in order.

    Returns
    -------
    prefixes : named tuple of tensors of shape (n_steps, ...)
        The t-th row combines the elements up to t.

    Notes
    -----
    Neighbours are combined, the prefixes of the pairs are found in the same way, and
    every other prefix takes one more step: about ``2 n_steps`` operations in
    ``2 log2(n_steps)`` passes.

    References
    ----------
    G. Blelloch, "Scans as primitive parallel operations", IEEE Transactions on
    Computers 38, 1989.
    """
    n_steps = len(elements[0])
    if n_steps == 1:
        return elements
    even, odd = _every_other(elements, 0), _every_other(elements, 1)
    n_pairs = n_steps // 2
    pairs = associative_scan(combine, combine(_rows(even, 0, n_pairs), odd))
    n_later = (n_steps - 1) // 2
    later = combine(_rows(pairs, 0, n_later), _rows(even, 1, n_later + 1))
    merged = []
    for first, at_even, at_odd in zip(elements, later, pairs, strict=True):
        prefixes = first.new_empty((n_steps, *at_odd.shape[1:]))
        prefixes[0] = first[0]
        prefixes[2::2] = at_even
        prefixes[1::2] = at_odd
        merged.append(prefixes)
    return _like(elements, merged)


def associative_powers(
    combine: Callable[[Elements, Elements], Elements], element: Elements, n_steps: int
) -> Elements:
    """Combine one element with itself up to `n_steps` times.

    Parameters
    ----------
    combine : callable
        As in :func:`associative_scan`; tensors broadcast in it.
    element : named tuple of tensors of shape (1, ...)
        What is combined.
    n_steps : int
        Largest power.

    Returns
    -------
    powers : named tuple of tensors of shape (n_steps, ...)
        The t-th row combines t elements.

    Notes
    -----
    The powers double in every pass: `n_steps` operations in ``log2(n_steps)`` passes.
    """
    powers = element
    while len(powers[0]) < n_steps:
        n_known = len(powers[0])
        more = combine(_rows(powers, n_known - 1, n_known), powers)
        both = zip(powers, more, strict=True)
        powers = _like(element, [torch.cat(parts) for parts in both])
    return _rows(powers, 0, n_steps)


def _every_other(elements: Elements, start: int) -> Elements:
    return _like(elements, [tensor[start::2] for tensor in elements])


def _rows(elements: Elements, start: int, stop: int) -> Elements:
    return _like(elements, [tensor[start:stop] for tensor in elements])


def _like(elements: Elements, tensors: list[Tensor]) -> Elements:
    return type(elements)(*tensors)
