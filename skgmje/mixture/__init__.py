"""Gaussian mixtures: densities and their fit, with no neural network anywhere."""

from skgmje.mixture._distribution import MultivariateNormalMixture
from skgmje.mixture._frames import ConditionalFrame
from skgmje.mixture._gaussian_mixture import GaussianMixture
from skgmje.mixture._neural_gas import GrowingNeuralGas
from skgmje.mixture._particle_bank import ParticleBank

__all__ = [
    "ConditionalFrame",
    "GaussianMixture",
    "GrowingNeuralGas",
    "MultivariateNormalMixture",
    "ParticleBank",
]
