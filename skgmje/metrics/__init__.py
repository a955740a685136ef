"""Scores of joint embeddings, and scorers for model selection."""

from skgmje.metrics._branches import branch_recovery
from skgmje.metrics._calibration import (
    calibration_error,
    calibration_scorer,
    pit_values,
)
from skgmje.metrics._retrieval import retrieval_score
from skgmje.metrics._spread import effective_rank, usage_perplexity
from skgmje.metrics._two_samples import energy_distance, two_sample_accuracy

__all__ = [
    "branch_recovery",
    "calibration_error",
    "calibration_scorer",
    "effective_rank",
    "energy_distance",
    "pit_values",
    "retrieval_score",
    "two_sample_accuracy",
    "usage_perplexity",
]
