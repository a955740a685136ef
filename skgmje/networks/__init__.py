"""Encoders and heads: torch modules, and nothing else."""

from skgmje.networks._conv import ConvDecoder, ConvEncoder
from skgmje.networks._decoders import Decoder
from skgmje.networks._encoders import Encoder, Simplex, make_network
from skgmje.networks._heads import MixtureDensityHead, Predictor
from skgmje.networks._mlp import ACTIVATIONS, MLP

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "Decoder",
    "Encoder",
    "MixtureDensityHead",
    "Predictor",
    "Simplex",
    "make_network",
]
