"""Entropies: what is added to a loss to keep the embeddings of a view from collapsing.

All have one interface, so that a latent density need not know which it has.
"""

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from skgmje.latent._moments import (
    RIDGE,
    covariance,
    log_det,
    moment_kl,
    ridge,
    whiten,
)
from skgmje.latent._neighbours import neighbour_entropy

# Added to variances under a square root, whose slope at zero is infinite.
VARIANCE_FLOOR = 1e-4
# Smaller probabilities have no gradient: at zero that of the entropy is infinite.
PROBABILITY_FLOOR = torch.finfo(torch.float64).tiny


def categorical_entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats of float64 probabilities, which may be zero."""
    return torch.special.entr(probabilities.clamp(min=PROBABILITY_FLOOR)).sum()


class Entropy(nn.Module):
    """Part of a loss that keeps the embeddings of one view from collapsing.

    A latent density passes the embeddings of each view through `prepare` before it
    looks at them, and adds what the call returns to its loss. Parts that estimate a
    differential entropy also have a method ``entropy(*views)``, in nats and with all
    constants: the entropy of one view, or the joint one of several.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import Entropy
    >>> class Spread(Entropy):
    ...     def forward(self, z):
    ...         return -z.std(0).log().sum()
    >>> spread, z = Spread(), torch.tensor([[1.0], [-1.0]])
    >>> bool(spread(z) < spread(0.1 * z)), bool((spread.prepare(z) == z).all())
    (True, True)
    """

    def prepare(self, z: Tensor) -> Tensor:
        """Return the embeddings as the density should see them."""
        return z

    def forward(self, z: Tensor) -> Tensor:
        """Return the penalty, a scalar in nats, for embeddings of shape (n, d)."""
        raise NotImplementedError


class LogDet(Entropy):
    r"""Entropy of the Gaussian with the covariance of the batch.

    .. math:: H(z) = \tfrac d2 (1 + \log 2\pi) + \tfrac12 \log |\Sigma|

    Of all densities with this covariance the Gaussian has the largest entropy, so that
    this is an upper bound on the entropy of the embeddings. The gap has no bound:
    embeddings at d + 1 points in general position have a finite value here. Subtracted
    from the likelihood of one joint Gaussian for each view, it leaves the Gaussian
    mutual information, which no rescaling changes.

    Parameters
    ----------
    weight : float, default=1.0
        Multiplies the entropy.
    ridge : float, default=1e-4
        Added to the diagonal of the covariance, as a share of its mean variance.

    See Also
    --------
    NearestNeighbour : An entropy that sees clusters.

    References
    ----------
    Mikulasch and Zenke, "Understanding Self-Supervised Learning via Latent Distribution
    Matching", arXiv:2605.03517 (2026), equation 34; the ridge is our choice.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import LogDet
    >>> z = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> round(LogDet().entropy(z).item(), 1)  # log(2 pi e) is 2.84
    2.8
    """

    def __init__(self, weight: float = 1.0, *, ridge: float = RIDGE):
        super().__init__()
        self.weight, self.ridge = weight, ridge

    def entropy(self, *views: Tensor) -> Tensor:
        """Return the entropy in nats of embeddings of shape (n_samples, n_features)."""
        z = torch.cat(views, dim=1)
        constant = 0.5 * z.shape[1] * (1 + math.log(2 * math.pi))
        return constant + 0.5 * log_det(ridge(covariance(z), self.ridge))

    def forward(self, z: Tensor) -> Tensor:
        """Return minus the weighted entropy of embeddings of shape (n, d)."""
        return -self.weight * self.entropy(z)


class MomentKL(Entropy):
    r"""Divergence of the batch's Gaussian from the standard normal.

    .. math:: \mathrm{KL}(\mathcal N(\mu, \Sigma) \| \mathcal N(0, I)) = \tfrac12
              \left( \mathrm{tr}\, \Sigma + |\mu|^2 - d - \log |\Sigma| \right)

    Its log-determinant repels embeddings, its trace keeps them from flying apart.
    Beside the likelihood of one joint Gaussian the embeddings settle at the variance
    (w - 1) / w, where w is the weight: it must exceed one. Like all second moments, it
    does not see clusters.

    Parameters
    ----------
    weight : float, default=2.0
        Multiplies the divergence.
    ridge : float, default=1e-4
        Added to the diagonal of the covariance in the log-determinant, as a share of
        its mean variance.

    See Also
    --------
    moment_kl : The function.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import MomentKL
    >>> z = torch.tensor([[1.0], [-1.0]])
    >>> bool(MomentKL()(z) < 1e-3), bool(MomentKL()(0.1 * z) > 1)
    (True, True)
    """

    def __init__(self, weight: float = 2.0, *, ridge: float = RIDGE):
        super().__init__()
        self.weight, self.ridge = weight, ridge

    def forward(self, z: Tensor) -> Tensor:
        """Return the weighted divergence in nats of embeddings of shape (n, d)."""
        return self.weight * moment_kl(z, self.ridge)


class Whitening(Entropy):
    r"""Whitened embeddings: the density sees a view of zero mean and unit covariance.

    .. math:: z \mapsto L^{-1} (z - \mu), \qquad L L^\top = \Sigma

    What the density sees cannot shrink, so nothing is added to the loss. The moments
    are those of the batch, and gradients pass through them. A Cholesky factor takes the
    place of the symmetric root :math:`\Sigma^{-1/2}`. The results differ by a rotation;
    the factor has a gradient also where eigenvalues coincide.

    Parameters
    ----------
    ridge : float, default=1e-4
        Added to the diagonal of the covariance, as a share of its mean variance.

    References
    ----------
    Ermolov et al., "Whitening for Self-Supervised Representation Learning", ICML 2021.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import Whitening, covariance
    >>> z = torch.tensor([[1.0, 2.0], [3.0, 1.0], [0.0, 0.0]])
    >>> covariance(Whitening().prepare(z)).numpy().round(2) + 0.0
    array([[1., 0.],
           [0., 1.]])
    """

    def __init__(self, *, ridge: float = RIDGE):
        super().__init__()
        self.ridge = ridge

    def prepare(self, z: Tensor) -> Tensor:
        """Return whitened embeddings of shape (n_samples, n_features), in float64."""
        z = z.double()
        return whiten(z - z.mean(0), ridge(covariance(z), self.ridge))

    def forward(self, z: Tensor) -> Tensor:
        """Return zero."""
        return z.double().new_zeros(())


class VarianceCovariance(Entropy):
    r"""The variance and covariance terms of VICReg.

    .. math:: \frac{\lambda_v}{d} \sum_j \max\left(0, 1 - \sqrt{\Sigma_{jj} + 10^{-4}}
              \right) + \frac{\lambda_c}{d} \sum_{i \ne j} \Sigma_{ij}^2

    They ask for a standard deviation of at least one and for no correlation. The
    penalty of a point or of a flat batch is finite. Hence it is a threshold and not a
    bound: beside the likelihood of one joint Gaussian, which has no lower bound, it
    holds white embeddings whose standard deviation is above :math:`d / \lambda_v`.
    Smaller ones collapse, and nearly flat ones get flatter.

    Parameters
    ----------
    variance_weight : float, default=25.0
        Weight of the variances.
    covariance_weight : float, default=1.0
        Weight of the covariances.

    References
    ----------
    Bardes, Ponce and LeCun, "VICReg: Variance-Invariance-Covariance Regularization for
    Self-Supervised Learning", ICLR 2022. The covariance here divides by n, not n - 1.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import VarianceCovariance
    >>> z = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
    >>> VarianceCovariance()(z).item()
    0.0
    >>> round(VarianceCovariance()(0 * z).item(), 2)
    24.75
    """

    def __init__(self, variance_weight: float = 25.0, covariance_weight: float = 1.0):
        super().__init__()
        self.variance_weight = variance_weight
        self.covariance_weight = covariance_weight

    def forward(self, z: Tensor) -> Tensor:
        """Return the weighted penalty of embeddings of shape (n_samples, d)."""
        moments = covariance(z)
        variances = moments.diagonal()
        spread = relu(1 - (variances + VARIANCE_FLOOR).sqrt()).mean()
        between = (moments - variances.diag()).square().sum() / len(moments)
        return self.variance_weight * spread + self.covariance_weight * between


class NearestNeighbour(Entropy):
    r"""Entropy from the distances to the k-th nearest neighbours.

    .. math:: H(z) = \psi(n) - \psi(k) + \log V_d + \frac dn \sum_i
              \log (\epsilon_i + 10^{-8})

    :math:`\epsilon_i` is the distance of the i-th embedding to its k-th neighbour,
    :math:`V_d` the volume of the unit ball and :math:`\psi` the digamma function. The
    estimate is consistent, and sees clusters, to which second moments are blind. With n
    fixed it does not see a direction that is thinner than the distances: beside the
    likelihood of one Gaussian, which does, add a second-moment term too. The small term
    keeps duplicates finite; they have no gradient.

    Parameters
    ----------
    weight : float, default=1.0
        Multiplies the entropy.
    k : int, default=3
        Which neighbour. More neighbours have less variance and more bias.
    geodesic : bool, default=False
        Whether embeddings have unit length and distances are along great circles of the
        sphere. Small caps have the volume of a ball with one dimension less.
    clip_quantile : float or None, default=None
        Quantile of the distances at which larger ones are cut off, so that outliers do
        not drive the others apart. It lowers the estimate.

    Notes
    -----
    All pairs are compared, in blocks: time grows with the square of the number of
    embeddings, memory with the number itself. The gradient holds the neighbours fixed,
    as the derivative does wherever it exists.

    References
    ----------
    Kozachenko and Leonenko, "Sample Estimate of the Entropy of a Random Vector",
    Problems of Information Transmission 23, 1987. Mikulasch and Zenke, "Understanding
    Self-Supervised Learning via Latent Distribution Matching", arXiv:2605.03517 (2026),
    equation 33; the cut at a quantile is that of its code.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import NearestNeighbour
    >>> z = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    >>> abs(NearestNeighbour().entropy(z).item()) < 0.1  # log of the area one
    True
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        k: int = 3,
        geodesic: bool = False,
        clip_quantile: float | None = None,
    ):
        super().__init__()
        if k < 1:
            raise ValueError(f"k counts neighbours from 1; got k={k}.")
        self.weight, self.k = weight, k
        self.geodesic, self.clip_quantile = geodesic, clip_quantile

    def entropy(self, *views: Tensor) -> Tensor:
        """Return the entropy in nats of embeddings of shape (n_samples, n_features).

        The farthest neighbour stands in where there are not more than k embeddings.

        Raises
        ------
        ValueError
            If there are fewer than two embeddings.
        """
        n_samples = len(views[0])
        if n_samples < 2:
            raise ValueError(
                "The entropy of neighbours needs at least two embeddings; got "
                f"{n_samples}. Use larger batches."
            )
        return neighbour_entropy(
            views,
            min(self.k, n_samples - 1),
            geodesic=self.geodesic,
            clip_quantile=self.clip_quantile,
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return minus the weighted entropy of embeddings of shape (n, d)."""
        return -self.weight * self.entropy(z)


class Negentropy(Entropy):
    r"""What the entropy of a view falls short of a Gaussian's: it sees curled views.

    .. math:: J(z) = H_{\text{LogDet}}(z) - H_{\text{neighbours}}(z)

    Second moments take :class:`LogDet` for the entropy, which is too large by J. In
    that gap they are blind: an embedding may fold the data onto itself, or spend a
    dimension on a function of the others, and keep its covariance. Both lower the
    entropy, and with a small weight of J beside a second-moment term the loss tells
    them apart. J does not change when a view is rescaled.

    The weight should be small. Embeddings that lie near a surface have a low entropy
    for that alone, and a large weight would crumple the surface to fill the space.

    Parameters
    ----------
    weight : float, default=0.1
        Multiplies the negentropy.
    k : int, default=3
        Which neighbour. A batch of at most k embeddings adds nothing.

    See Also
    --------
    LogDet : The larger entropy.
    NearestNeighbour : The smaller one.

    Notes
    -----
    That a divergence of moments is completed so is our choice, not a paper's.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import Negentropy
    >>> z = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    >>> folded = torch.cat([z, z**2], dim=1)
    >>> abs(Negentropy(1.0)(z).item()) < 0.1, Negentropy(1.0)(folded).item() > 1
    (True, True)
    """

    def __init__(self, weight: float = 0.1, *, k: int = 3):
        super().__init__()
        self.weight = weight
        self.bound, self.neighbours = LogDet(), NearestNeighbour(k=k)

    def forward(self, z: Tensor) -> Tensor:
        """Return the weighted negentropy in nats of embeddings of shape (n, d)."""
        if len(z) <= self.neighbours.k:
            return z.double().new_zeros(())
        return self.weight * (self.bound.entropy(z) - self.neighbours.entropy(z))


class EntropySum(Entropy):
    """Sum of several entropies, of embeddings that all of them prepare in turn.

    Parameters
    ----------
    *parts : Entropy
        What is added up.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import EntropySum, LogDet, MomentKL
    >>> z = torch.tensor([[1.0], [-1.0], [3.0]])
    >>> both = EntropySum(LogDet(), MomentKL())
    >>> bool(both(z) == LogDet()(z) + MomentKL()(z))
    True
    """

    def __init__(self, *parts: Entropy):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def prepare(self, z: Tensor) -> Tensor:
        """Return the embeddings as the density should see them."""
        return functools.reduce(lambda x, part: part.prepare(x), self._parts(), z)

    def forward(self, z: Tensor) -> Tensor:
        """Return the sum of the penalties, in nats, for embeddings (n, d)."""
        return torch.stack([part(z) for part in self._parts()]).sum()

    def _parts(self) -> list[Any]:
        return list(self.parts)


ENTROPIES: dict[str, type[Entropy]] = {
    "log_det": LogDet,
    "moment_kl": MomentKL,
    "whitening": Whitening,
    "vicreg": VarianceCovariance,
    "knn": NearestNeighbour,
}
