"""Gaussian mixtures: densities and their fit, with no neural network anywhere."""

from skgmje.mixture._distribution import MultivariateNormalMixture
from skgmje.mixture._frames import ConditionalFrame
from skgmje.mixture._gaussian_mixture import GaussianMixture

__all__ = ["ConditionalFrame", "GaussianMixture", "MultivariateNormalMixture"]
