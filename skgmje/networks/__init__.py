"""Encoders and heads: torch modules, and nothing else."""

from skgmje.networks._conv import ConvDecoder, ConvEncoder
from skgmje.networks._decoders import Decoder
from skgmje.networks._encoders import Encoder, Simplex, make_network
from skgmje.networks._heads import MixtureDensityHead, Predictor
from skgmje.networks._mlp import ACTIVATIONS, MLP
from skgmje.networks._posterior import GaussianPosterior, PosteriorNetwork

__all__ = [
    "ACTIVATIONS",
    "MLP",
    "ConvDecoder",
    "ConvEncoder",
    "Decoder",
    "Encoder",
    "GaussianPosterior",
    "MixtureDensityHead",
    "PosteriorNetwork",
    "Predictor",
    "Simplex",
    "make_network",
]
