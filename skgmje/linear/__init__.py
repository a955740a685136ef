"""Linear maps in closed form or by few steps, with no neural network anywhere."""

from skgmje.linear._contrastive import LinearContrastive
from skgmje.linear._ica import LDMICA

__all__ = ["LDMICA", "LinearContrastive"]
