"""Latent densities and entropies: torch modules over pairs of embeddings."""

from skgmje.latent._conditional_mixture import ConditionalMixture
from skgmje.latent._entropies import covariance, log_det, moment_kl
from skgmje.latent._gaussian import GaussianMutualInformation
from skgmje.latent._information import contrastive_bound, pairwise_log_prob
from skgmje.latent._joint_mixture import JointMixture

__all__ = [
    "ConditionalMixture",
    "GaussianMutualInformation",
    "JointMixture",
    "contrastive_bound",
    "covariance",
    "log_det",
    "moment_kl",
    "pairwise_log_prob",
]
