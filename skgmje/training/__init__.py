"""The one training loop; it knows no method."""

from skgmje.training._trainer import Trainer, TrainingHistory, Views

__all__ = ["Trainer", "TrainingHistory", "Views"]
