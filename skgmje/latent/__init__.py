"""Latent densities and entropies: torch modules over pairs of embeddings."""

from skgmje.latent._components import (
    ComponentRule,
    NeuralGas,
    ParticleKernels,
    StepwiseEM,
)
from skgmje.latent._conditional_mixture import ConditionalMixture
from skgmje.latent._conditionals import (
    LATENT_DENSITIES,
    CategoricalDensity,
    DirichletDensity,
    IsotropicGaussian,
    LatentDensity,
    VonMisesFisher,
)
from skgmje.latent._contrastive import BankInfoNCE, InfoNCE, contrastive_mixture
from skgmje.latent._distribution_matching import DistributionMatching
from skgmje.latent._entropies import (
    ENTROPIES,
    Entropy,
    EntropySum,
    LogDet,
    MomentKL,
    NearestNeighbour,
    Negentropy,
    VarianceCovariance,
    Whitening,
)
from skgmje.latent._gaussian import GaussianMutualInformation
from skgmje.latent._gaussian_process import GaussianProcess
from skgmje.latent._information import contrastive_bound, pairwise_log_prob
from skgmje.latent._joint_mixture import LIKELIHOODS, JointMixture
from skgmje.latent._kernel_density import CategoricalEntropy, KernelDensity
from skgmje.latent._likelihood import GaussianLikelihood
from skgmje.latent._marginals import LearnedGaussian
from skgmje.latent._moments import covariance, log_det, moment_kl
from skgmje.latent._prediction import LatentPrediction

__all__ = [
    "ENTROPIES",
    "LATENT_DENSITIES",
    "LIKELIHOODS",
    "BankInfoNCE",
    "CategoricalDensity",
    "CategoricalEntropy",
    "ComponentRule",
    "ConditionalMixture",
    "DirichletDensity",
    "DistributionMatching",
    "Entropy",
    "EntropySum",
    "GaussianLikelihood",
    "GaussianMutualInformation",
    "GaussianProcess",
    "InfoNCE",
    "IsotropicGaussian",
    "JointMixture",
    "KernelDensity",
    "LatentDensity",
    "LatentPrediction",
    "LearnedGaussian",
    "LogDet",
    "MomentKL",
    "NearestNeighbour",
    "Negentropy",
    "NeuralGas",
    "ParticleKernels",
    "StepwiseEM",
    "VarianceCovariance",
    "VonMisesFisher",
    "Whitening",
    "contrastive_bound",
    "contrastive_mixture",
    "covariance",
    "log_det",
    "moment_kl",
    "pairwise_log_prob",
]
