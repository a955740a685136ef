"""Latent densities P(z_t | z_c) about a point, in the plane, on sphere and simplex.

Each decides the space that embeddings live in, and serves as the kernel of a density.
"""

import math
from typing import ClassVar

import numpy as np
import torch
from scipy.special import gammaln, logsumexp
from torch import Tensor, nn
from torch.nn.functional import normalize

from skgmje.networks import Simplex


class LatentDensity(nn.Module):
    """Density of an embedding about a centre, with one concentration everywhere.

    Parameters
    ----------
    concentration : float
        How narrow the density is; positive.

    Raises
    ------
    ValueError
        If the concentration is not a positive number.

    Examples
    --------
    >>> import math, torch
    >>> from skgmje.latent import LatentDensity
    >>> class Laplace(LatentDensity):
    ...     space = "plane"
    ...     def affinity(self, z, centre):
    ...         return -self.concentration * (z - centre).abs().sum(-1)
    ...     def log_normaliser(self, n_features):
    ...         return n_features * math.log(2 / self.concentration)
    >>> Laplace(2.0).log_prob(torch.ones(3, 1), torch.zeros(3, 1))
    tensor([-2., -2., -2.])
    """

    space: ClassVar[str]

    def __init__(self, concentration: float):
        super().__init__()
        if not 0 < concentration < math.inf:
            raise ValueError(
                f"concentration must be positive and finite; got {concentration}."
            )
        self.concentration = float(concentration)

    def project(self, z: Tensor) -> Tensor:
        """Return the point of the space that free coordinates stand for."""
        return z

    def affinity(self, z: Tensor, centre: Tensor) -> Tensor:
        """Log-density of rows about centres, row by row, up to a constant.

        Parameters
        ----------
        z, centre : tensor of shape (n_samples, n_features)
            Points of the space.

        Returns
        -------
        affinity : tensor of shape (n_samples,)
            In nats.
        """
        raise NotImplementedError

    def pairwise_affinity(self, z: Tensor, centres: Tensor) -> Tensor:
        """Return the same of all pairs: rows are points, columns are centres."""
        return self.affinity(z.unsqueeze(1), centres.unsqueeze(0))

    def log_normaliser(self, n_features: int) -> float:
        """Return the constant that `affinity` leaves out, which is subtracted."""
        raise NotImplementedError

    def log_prob(self, z: Tensor, centre: Tensor) -> Tensor:
        """Return log-densities in nats, of shape (n_samples,)."""
        return self.affinity(z, centre) - self.log_normaliser(z.shape[1])

    def pairwise_log_prob(self, z: Tensor, centres: Tensor) -> Tensor:
        """Return log-densities in nats, of shape (n_samples, n_centres)."""
        return self.pairwise_affinity(z, centres) - self.log_normaliser(z.shape[1])


class IsotropicGaussian(LatentDensity):
    r"""Gaussian in the plane with the same variance in all directions.

    .. math:: \log P(z_t | z_c) = -\tfrac\beta2 \|z_t - z_c\|^2
              + \tfrac d2 \log \tfrac\beta{2\pi}

    Parameters
    ----------
    concentration : float, default=1.0
        The precision, one over the variance.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import IsotropicGaussian
    >>> IsotropicGaussian().log_prob(torch.zeros(1, 2), torch.zeros(1, 2))
    tensor([-1.8379])
    """

    space = "plane"

    def __init__(self, concentration: float = 1.0):
        super().__init__(concentration)

    def affinity(self, z: Tensor, centre: Tensor) -> Tensor:
        """Return minus half the weighted squared distances."""
        return -0.5 * self.concentration * (z - centre).square().sum(-1)

    def pairwise_affinity(self, z: Tensor, centres: Tensor) -> Tensor:
        """Return the same of all pairs, without an array of all differences."""
        # Near the origin the product form of squared distances cancels least.
        origin = centres.detach().mean(0)
        z, centres = z - origin, centres - origin
        lengths = z.square().sum(1, keepdim=True) + centres.square().sum(1)
        return self.concentration * (z @ centres.mT - 0.5 * lengths)

    def log_normaliser(self, n_features: int) -> float:
        """Return the logarithm of the integral of ``exp(affinity)``."""
        return 0.5 * n_features * math.log(2 * math.pi / self.concentration)


class VonMisesFisher(LatentDensity):
    r"""Von Mises-Fisher density on the unit sphere.

    .. math:: \log P(z_t | z_c) = \beta\, z_c \cdot z_t + \log C_d(\beta), \qquad
              C_d(\beta) = \frac{\beta^{d/2 - 1}}{(2\pi)^{d/2} I_{d/2-1}(\beta)}

    Parameters
    ----------
    concentration : float, default=5.0
        One over the temperature of a contrastive loss.

    References
    ----------
    Mardia and Jupp, "Directional Statistics", Wiley, 2000.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import VonMisesFisher
    >>> z = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> VonMisesFisher(1.0).log_prob(z, z[:1]).diff()
    tensor([-2.])
    """

    space = "sphere"

    def __init__(self, concentration: float = 5.0):
        super().__init__(concentration)

    def project(self, z: Tensor) -> Tensor:
        """Return directions."""
        return normalize(z, dim=-1)

    def affinity(self, z: Tensor, centre: Tensor) -> Tensor:
        """Return weighted cosines."""
        return self.concentration * (z * centre).sum(-1)

    def pairwise_affinity(self, z: Tensor, centres: Tensor) -> Tensor:
        """Return the same of all pairs."""
        return self.concentration * z @ centres.mT

    def log_normaliser(self, n_features: int) -> float:
        """Return the logarithm of the integral over the sphere."""
        order, kappa = n_features / 2 - 1, self.concentration
        bessel = order * math.log(kappa / 2) + _log_bessel_series(order, kappa)
        return (
            0.5 * n_features * math.log(2 * math.pi) - order * math.log(kappa) + bessel
        )


def _log_bessel_series(order: float, x: float) -> float:
    """Logarithm of ``I_order(x) / (x / 2)^order``, at any order without underflow."""
    # The largest term is before x / 2, and far beyond it terms fall like factorials.
    k = np.arange(int(2 * x) + 100)
    terms = 2 * k * math.log(x / 2) - gammaln(k + 1) - gammaln(order + k + 1)
    return float(logsumexp(terms))


class DirichletDensity(LatentDensity):
    r"""Dirichlet density on the simplex whose mode is the context embedding.

    .. math:: \log P(z_t | z_c) = \log \mathrm{Dir}(z_t;\, \beta z_c + 1)
              = \beta\, z_c \cdot \log z_t - \sum_k \log \Gamma(\beta z_{c,k} + 1)
              + \log \Gamma(\beta + d)

    The density is with respect to all coordinates but one.

    Parameters
    ----------
    concentration : float, default=20.0
        Number of imagined counts beside the uniform density.

    References
    ----------
    Mikulasch and Zenke, "Understanding Self-Supervised Learning via Latent Distribution
    Matching", arXiv:2605.03517 (2026), equations 49 to 51.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import DirichletDensity
    >>> z = torch.tensor([[0.5, 0.5]])
    >>> DirichletDensity(2.0).log_prob(z, z).exp()  # Beta(2, 2) at a half
    tensor([1.5000])
    """

    space = "simplex"

    def __init__(self, concentration: float = 20.0):
        super().__init__(concentration)

    def project(self, z: Tensor) -> Tensor:
        """Return probabilities from logits."""
        return Simplex()(z)

    def affinity(self, z: Tensor, centre: Tensor) -> Tensor:
        """Return log-densities without the constant."""
        counts = self.concentration * centre
        return (torch.xlogy(counts, z) - (counts + 1).lgamma()).sum(-1)

    def pairwise_affinity(self, z: Tensor, centres: Tensor) -> Tensor:
        """Return the same of all pairs."""
        counts = self.concentration * centres
        is_zero = z == 0
        # Products take 0 log 0 for NaN, so coordinates that are zero are counted apart.
        powers = z.masked_fill(is_zero, 1).log() @ counts.mT
        impossible = is_zero.to(z.dtype) @ (counts > 0).to(z.dtype).mT > 0
        powers = powers.masked_fill(impossible, -math.inf)
        return powers - (counts + 1).lgamma().sum(-1)

    def log_normaliser(self, n_features: int) -> float:
        """Return minus the log-gamma function of the number of counts."""
        return -math.lgamma(self.concentration + n_features)


class CategoricalDensity(LatentDensity):
    r"""Probability that both views have one class, under probabilistic encoders.

    .. math:: \mathrm E \log P(k_t | k_c) = \beta\, z_c \cdot z_t
              - \log(e^\beta + d - 1)

    Embeddings are the probabilities of d classes, and the expectation is over classes
    drawn from them. The target has the class of the context with the probability
    :math:`p = e^\beta / (e^\beta + d - 1)`, and all others equally often.

    Parameters
    ----------
    concentration : float, default=5.0
        The log-odds above.

    References
    ----------
    Mikulasch and Zenke, "Understanding Self-Supervised Learning via Latent Distribution
    Matching", arXiv:2605.03517 (2026), equations 79 to 82.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import CategoricalDensity
    >>> density = CategoricalDensity.with_agreement(0.9, 3)
    >>> density.log_prob(torch.eye(3), torch.eye(3)).exp()
    tensor([0.9000, 0.9000, 0.9000])
    """

    space = "simplex"

    def __init__(self, concentration: float = 5.0):
        super().__init__(concentration)

    @classmethod
    def with_agreement(cls, probability: float, n_classes: int) -> "CategoricalDensity":
        """Return the density under which views agree with a probability."""
        odds = probability / (1 - probability)
        return cls(math.log(odds * (n_classes - 1)))

    def project(self, z: Tensor) -> Tensor:
        """Return probabilities from logits."""
        return Simplex()(z)

    def affinity(self, z: Tensor, centre: Tensor) -> Tensor:
        """Return weighted probabilities of one class."""
        return self.concentration * (z * centre).sum(-1)

    def log_normaliser(self, n_features: int) -> float:
        """Return the logarithm of the sum over classes."""
        beta = self.concentration
        return beta + math.log1p((n_features - 1) * math.exp(-beta))


LATENT_DENSITIES: dict[str, type[LatentDensity]] = {
    "gaussian": IsotropicGaussian,
    "von_mises_fisher": VonMisesFisher,
    "dirichlet": DirichletDensity,
    "categorical": CategoricalDensity,
}
