"""The data sets of the branches experiment, each with its oracle."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from skgmje.datasets import (
    branch_conditional,
    branch_log_density,
    curve_log_density,
    inverse_log_density,
    lift_view,
    make_branches,
    make_curves,
    make_inverse,
)

TARGET_LIFT = 1  # seed of the network of the target view


class Data(NamedTuple):
    """Pairs of a context and a target, and what is known about them.

    `make` and `log_density` speak of the narrow pair; `show` says what a model sees
    of it, and `truth` is the density object where the conditional is a mixture.
    """

    make: Callable
    log_density: Callable
    truth: Callable | None = None
    show: Callable = lambda x, y: (x, y)
    # The views are those of "A", exchanged.
    is_reversed: bool = False
    # The target is learned; its oracle is the mutual information.
    learned_target: bool = False
    n_train: int = 3000


def branches(kind, **options):
    return Data(
        partial(make_branches, kind=kind),
        partial(branch_log_density, kind=kind),
        partial(branch_conditional, kind=kind),
        **options,
    )


def log_marginal(y):
    """Log-density of y of the data set A, by quadrature over x."""
    node, weight = np.polynomial.legendre.leggauss(500)
    log_density = [
        branch_log_density(np.full_like(y, x), y) + np.log(w / 2)
        for x, w in zip(node, weight, strict=True)
    ]
    return logsumexp(log_density, axis=0)


def make_reversed(n_samples, **options):
    return make_branches(n_samples, **options)[::-1]


def reversed_log_density(y, x):
    """``log p(x | y)`` of the data set A; x is uniform on (-1, 1)."""
    return branch_log_density(x, y) + np.log(0.5) - log_marginal(y)


def information_density(x, y):
    """``log p(y | x) - log p(y)`` of the data set A."""
    return branch_log_density(x, y) - log_marginal(y)


DATA = {
    "A": branches("separated"),
    "B": branches("intersecting"),
    "inverse": Data(make_inverse, inverse_log_density),
    "heteroscedastic": branches("heteroscedastic"),
    "unequal": branches("unequal"),
    "moons": Data(make_curves, curve_log_density),
    "spiral": Data(
        partial(make_curves, kind="spiral"), partial(curve_log_density, kind="spiral")
    ),
    "A reversed": Data(make_reversed, reversed_log_density, is_reversed=True),
    "A, context in 32-D": branches("separated", show=lambda x, y: (lift_view(x), y)),
    # For the errors of approximation, beside those of estimation.
    "A, 30,000 pairs": branches("separated", n_train=30_000),
    "A, both in 32-D": Data(
        make_branches,
        information_density,
        show=lambda x, y: (lift_view(x), lift_view(y, random_state=TARGET_LIFT)),
        learned_target=True,
    ),
}
