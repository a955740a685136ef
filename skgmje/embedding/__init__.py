"""The estimators: parameters in, the rooms below wired together."""

from skgmje.embedding._contrastive import ContrastiveEmbedder
from skgmje.embedding._gaussian_process import GaussianProcessEmbedder
from skgmje.embedding._gje import GJEEmbedder
from skgmje.embedding._gmje import GMJEEmbedder
from skgmje.embedding._index import EmbeddingIndex
from skgmje.embedding._jepa import JEPAEmbedder
from skgmje.embedding._kalman import KalmanEmbedder
from skgmje.embedding._ldm import LDM_METHODS, LDMEmbedder
from skgmje.embedding._mdn import MDNEmbedder
from skgmje.embedding._outlier_detector import OutlierDetector
from skgmje.embedding._vje import VJEEmbedder

__all__ = [
    "LDM_METHODS",
    "ContrastiveEmbedder",
    "EmbeddingIndex",
    "GJEEmbedder",
    "GMJEEmbedder",
    "GaussianProcessEmbedder",
    "JEPAEmbedder",
    "KalmanEmbedder",
    "LDMEmbedder",
    "MDNEmbedder",
    "OutlierDetector",
    "VJEEmbedder",
]
