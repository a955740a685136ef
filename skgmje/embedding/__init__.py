"""The estimators: parameters in, the rooms below wired together."""

from skgmje.embedding._gaussian_process import GaussianProcessEmbedder
from skgmje.embedding._gje import GJEEmbedder
from skgmje.embedding._gmje import GMJEEmbedder
from skgmje.embedding._ica import LDMICA
from skgmje.embedding._jepa import JEPAEmbedder
from skgmje.embedding._ldm import LDM_METHODS, LDMEmbedder
from skgmje.embedding._mdn import MDNEmbedder

__all__ = [
    "LDMICA",
    "LDM_METHODS",
    "GJEEmbedder",
    "GMJEEmbedder",
    "GaussianProcessEmbedder",
    "JEPAEmbedder",
    "LDMEmbedder",
    "MDNEmbedder",
]
