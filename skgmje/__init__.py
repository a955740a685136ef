"""Probabilistic joint embeddings in scikit-learn style.

Importing this package is cheap: submodules, and torch with them, load when one
of their names is first used (PEP 562).
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0.dev0"

_HOMES = {
    "ContrastiveEmbedder": "skgmje.embedding",
    "GJEEmbedder": "skgmje.embedding",
    "GMJEEmbedder": "skgmje.embedding",
    "GaussianProcessEmbedder": "skgmje.embedding",
    "JEPAEmbedder": "skgmje.embedding",
    "KalmanEmbedder": "skgmje.embedding",
    "LDMEmbedder": "skgmje.embedding",
    "MDNEmbedder": "skgmje.embedding",
    "OutlierDetector": "skgmje.embedding",
    "VJEEmbedder": "skgmje.embedding",
    "LDMICA": "skgmje.linear",
    "LinearContrastive": "skgmje.linear",
    "GaussianMixture": "skgmje.mixture",
    "GrowingNeuralGas": "skgmje.mixture",
    "MultivariateNormalMixture": "skgmje.mixture",
    "ParticleBank": "skgmje.mixture",
    "load": "skgmje.io",
}
_SUBMODULES = frozenset(
    {
        "datasets",
        "embedding",
        "exceptions",
        "inspection",
        "io",
        "latent",
        "linear",
        "metrics",
        "mixture",
        "networks",
        "training",
        "views",
    }
)

__all__ = [
    "LDMICA",
    "ContrastiveEmbedder",
    "GJEEmbedder",
    "GMJEEmbedder",
    "GaussianMixture",
    "GaussianProcessEmbedder",
    "GrowingNeuralGas",
    "JEPAEmbedder",
    "KalmanEmbedder",
    "LDMEmbedder",
    "LinearContrastive",
    "MDNEmbedder",
    "MultivariateNormalMixture",
    "OutlierDetector",
    "ParticleBank",
    "VJEEmbedder",
    "__version__",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _SUBMODULES:
        return import_module(f"skgmje.{name}")
    raise AttributeError(f"module 'skgmje' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_SUBMODULES})
