"""Encoders and heads: torch modules, and nothing else."""

from skgmje.networks._encoders import Encoder, make_network
from skgmje.networks._heads import MixtureDensityHead, Predictor
from skgmje.networks._mlp import ACTIVATIONS, MLP

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "Encoder",
    "MixtureDensityHead",
    "Predictor",
    "make_network",
]
