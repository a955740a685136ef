"""Views: which array is which, and how one array makes two."""

from skgmje.views._augmentation import AUGMENTATIONS, corrupt, jitter
from skgmje.views._images import ImageAugmentation
from skgmje.views._resolve import resolve_target
from skgmje.views._sequences import SequenceViews
from skgmje.views._views import AugmentedViews, PairedViews

__all__ = [
    "AUGMENTATIONS",
    "AugmentedViews",
    "ImageAugmentation",
    "PairedViews",
    "SequenceViews",
    "corrupt",
    "jitter",
    "resolve_target",
]
