"""Scores of joint embeddings."""

from skgmje.metrics._retrieval import retrieval_score

__all__ = ["retrieval_score"]
