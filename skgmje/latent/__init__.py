"""Latent densities and entropies: torch modules over pairs of embeddings."""

from skgmje.latent._components import (
    ComponentRule,
    NeuralGas,
    ParticleKernels,
    StepwiseEM,
)
from skgmje.latent._conditional_mixture import ConditionalMixture
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
from skgmje.latent._kalman_filter import FilterResult, filter_step, kalman_filter
from skgmje.latent._kalman_prediction import KalmanPrediction
from skgmje.latent._kalman_smoother import kalman_smoother
from skgmje.latent._kernel_density import CategoricalEntropy, KernelDensity
from skgmje.latent._latent_densities import (
    LATENT_DENSITIES,
    CategoricalDensity,
    DirichletDensity,
    IsotropicGaussian,
    LatentDensity,
    VonMisesFisher,
)
from skgmje.latent._likelihood import GaussianLikelihood
from skgmje.latent._log_sum_exp import pair_log_sum_exp
from skgmje.latent._marginals import LearnedGaussian
from skgmje.latent._matching import (
    ConditionalDiscrepancy,
    ConditionalMatching,
    JointDiscrepancy,
    JointMatching,
)
from skgmje.latent._moments import covariance, log_det, moment_kl
from skgmje.latent._polar_student_t import (
    PolarStudentT,
    student_t_log_prob,
    surface_mass_bound,
)
from skgmje.latent._prediction import LatentPrediction
from skgmje.latent._state_space import GaussianState, LinearGaussianStateSpace
from skgmje.latent._tilting import TILTINGS, Tilting, tilted_mixture
from skgmje.latent._variational import (
    SymmetricELBO,
    evidence_bounds,
    prior_divergence,
)

__all__ = [
    "ENTROPIES",
    "LATENT_DENSITIES",
    "LIKELIHOODS",
    "TILTINGS",
    "BankInfoNCE",
    "CategoricalDensity",
    "CategoricalEntropy",
    "ComponentRule",
    "ConditionalDiscrepancy",
    "ConditionalMatching",
    "ConditionalMixture",
    "DirichletDensity",
    "DistributionMatching",
    "Entropy",
    "EntropySum",
    "FilterResult",
    "GaussianLikelihood",
    "GaussianMutualInformation",
    "GaussianProcess",
    "GaussianState",
    "InfoNCE",
    "IsotropicGaussian",
    "JointDiscrepancy",
    "JointMatching",
    "JointMixture",
    "KalmanPrediction",
    "KernelDensity",
    "LatentDensity",
    "LatentPrediction",
    "LearnedGaussian",
    "LinearGaussianStateSpace",
    "LogDet",
    "MomentKL",
    "NearestNeighbour",
    "Negentropy",
    "NeuralGas",
    "ParticleKernels",
    "PolarStudentT",
    "StepwiseEM",
    "SymmetricELBO",
    "Tilting",
    "VarianceCovariance",
    "VonMisesFisher",
    "Whitening",
    "contrastive_bound",
    "contrastive_mixture",
    "covariance",
    "evidence_bounds",
    "filter_step",
    "kalman_filter",
    "kalman_smoother",
    "log_det",
    "moment_kl",
    "pair_log_sum_exp",
    "pairwise_log_prob",
    "prior_divergence",
    "student_t_log_prob",
    "surface_mass_bound",
    "tilted_mixture",
]
