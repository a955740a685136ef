"""Displays of fitted embedders; matplotlib is imported when one is drawn."""

from skgmje.inspection._loss_curve import LossCurveDisplay

__all__ = ["LossCurveDisplay"]
