"""Makers and loaders of pairs of views."""

from skgmje.datasets._branches import (
    branch_conditional,
    branch_log_density,
    make_branches,
)
from skgmje.datasets._curves import (
    curve_log_density,
    inverse_log_density,
    make_curves,
    make_inverse,
)
from skgmje.datasets._digit_halves import load_digit_halves
from skgmje.datasets._lift import lift_view
from skgmje.datasets._sphere import make_sphere_views

__all__ = [
    "branch_conditional",
    "branch_log_density",
    "curve_log_density",
    "inverse_log_density",
    "lift_view",
    "load_digit_halves",
    "make_branches",
    "make_curves",
    "make_inverse",
    "make_sphere_views",
]
