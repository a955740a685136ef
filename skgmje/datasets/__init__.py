"""Makers and loaders of pairs of views."""

from skgmje.datasets._branches import branch_log_density, make_branches
from skgmje.datasets._digit_halves import load_digit_halves

__all__ = ["branch_log_density", "load_digit_halves", "make_branches"]
