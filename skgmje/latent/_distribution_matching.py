"""Latent distribution matching: a latent density, and an entropy of the embeddings."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from skgmje.latent._entropies import Entropy, LogDet, NearestNeighbour
from skgmje.latent._information import contrastive_bound
from skgmje.latent._kernel_density import CategoricalEntropy, KernelDensity
from skgmje.latent._latent_densities import LATENT_DENSITIES, LatentDensity
from skgmje.networks import Predictor

OBJECTIVES = ("mi", "ldm")
PRIORS = ("flat", "empirical")
# Larger distances to a neighbour are those of outliers.
CLIP_QUANTILE = 0.9


class DistributionMatching(nn.Module):
    r"""Negative objective of latent distribution matching for pairs of views.

    .. math:: F_{\text{LDM}} = \mathrm E \log P(z_c, z_t) + H[z_c, z_t], \qquad
              F_{\text{MI}} = \mathrm E \log P(z_c, z_t) + H[z_c] + H[z_t]

    R is the law of the embeddings and P the latent density :math:`P(z_c) P(z_t | z_c)`.
    :math:`F_{\text{LDM}}` is minus the divergence of P from R, and
    :math:`F_{\text{MI}}` adds the mutual information of the views. A flat prior
    :math:`P(z_c)` is a constant, which is left out. An empirical one is R itself: then
    it cancels the entropy of the context, and what remains is

    .. math:: \mathrm E \log P(z_t | z_c) + H[z_t] \quad\text{or}\quad
              \mathrm E \log P(z_t | z_c) + H[z_t | \bar z_c].

    The bar says that the context is held constant: the entropy of a prediction should
    not be bought with the context's.

    Parameters
    ----------
    density : LatentDensity
        The conditional density :math:`P(z_t | z_c)`.
    entropy : Entropy or None
        Estimate of the entropies, with a method ``entropy(*views)``. None takes the
        average of P over the contexts of the batch for the density of the targets, as
        contrastive predictive coding does; it needs the objective ``'mi'`` and the
        prior ``'empirical'``.
    objective : {'mi', 'ldm'}, default='mi'
        Which of the two objectives.
    prior : {'flat', 'empirical'}, default='flat'
        Prior of the context embedding.
    predictor : Predictor or None, default=None
        Network from the context embedding to the centre of P; None is the identity.
    pooled : bool, default=False
        Whether both views have one law, so that a marginal entropy is estimated from
        the embeddings of both.

    Raises
    ------
    ValueError
        If `objective` or `prior` has another value, or if the entropy does not go with
        them.

    References
    ----------
    Mikulasch and Zenke, "Understanding Self-Supervised Learning via Latent Distribution
    Matching", arXiv:2605.03517 (2026), equations 5, 6, 12, 13 and 55.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import DistributionMatching, IsotropicGaussian, LogDet
    >>> z = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> vicreg = DistributionMatching(IsotropicGaussian(), LogDet())
    >>> bool(vicreg(z, z) < vicreg(z, z.flip(0)))
    True
    """

    each_epoch = False

    def __init__(
        self,
        density: LatentDensity,
        entropy: Entropy | None,
        *,
        objective: str = "mi",
        prior: str = "flat",
        predictor: Predictor | None = None,
        pooled: bool = False,
    ):
        super().__init__()
        if objective not in OBJECTIVES:
            raise ValueError(
                f"objective must be one of {OBJECTIVES}; got {objective!r}."
            )
        if prior not in PRIORS:
            raise ValueError(f"prior must be one of {PRIORS}; got {prior!r}.")
        if entropy is None and (objective, prior) != ("mi", "empirical"):
            raise ValueError(
                "The contrastive entropy is that of targets alone; use objective='mi' "
                f"and prior='empirical', not {objective!r} and {prior!r}."
            )
        self.density, self.entropy, self.predictor = density, entropy, predictor
        self.objective, self.prior, self.pooled = objective, prior, pooled

    def initialize(self, z_c: Tensor, z_t: Tensor, seed: int) -> None:
        """Do nothing: the loss has no state."""

    def forward(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, n_features)."""
        centre = predict(self.density, self.predictor, z_c).double()
        z_c, z_t = z_c.double(), z_t.double()
        if self.entropy is None:
            return -contrastive_bound(self.density.pairwise_log_prob(z_t, centre))
        alignment = self.density.log_prob(z_t, centre).mean()
        return -(alignment + self.uniformity(z_c, z_t))

    def uniformity(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the entropies of the objective, in nats."""
        estimate: Any = self.entropy
        entropy = estimate.entropy
        if self.prior == "flat" and self.objective == "ldm":
            return entropy(z_c, z_t)
        if self.prior == "empirical" and self.objective == "ldm":
            context = z_c.detach()
            return entropy(context, z_t) - entropy(context)
        n_marginals = 2 if self.prior == "flat" else 1
        if self.pooled:
            return n_marginals * entropy(torch.cat([z_c, z_t]))
        return torch.stack([entropy(z) for z in (z_t, z_c)[:n_marginals]]).sum()


def predict(density: LatentDensity, predictor: Predictor | None, z_c: Tensor) -> Tensor:
    """Return the centre of the density of the target, in its space."""
    return z_c if predictor is None else density.project(predictor(z_c))


class OnChart(Entropy):
    """Entropy of points of the simplex, in all coordinates but the last.

    Parameters
    ----------
    estimate : Entropy
        An estimate of entropies in the plane.
    """

    def __init__(self, estimate: Entropy):
        super().__init__()
        self.estimate = estimate

    def entropy(self, *views: Tensor) -> Tensor:
        """Return the entropy in nats of probabilities of shape (n_samples, d)."""
        estimate: Any = self.estimate
        return estimate.entropy(*(view[:, :-1] for view in views))


def make_density(
    name: str, concentration: float | None, n_features: int
) -> LatentDensity:
    """Return a latent density by name; None is its default concentration.

    That of the categorical density is such that views agree with a probability of 0.9.
    """
    kind = LATENT_DENSITIES[name]
    if concentration is not None:
        return kind(concentration)
    if name == "categorical":
        return kind(math.log(9 * (n_features - 1)))
    return kind()  # type: ignore[call-arg]


def make_estimate(name: str, density: LatentDensity, bandwidth: float | None):
    """Return an estimate of the entropy of embeddings by name, for the density's space.

    Parameters
    ----------
    name : {'log_det', 'knn', 'kde', 'categorical', 'contrastive'}
        Which estimate.
    density : LatentDensity
        The latent density. Kernels are of its kind.
    bandwidth : float or None
        Standard deviation of a kernel, the root of one over its concentration; None is
        that of the latent density.

    Returns
    -------
    estimate : Entropy or None
        As `entropy` of :class:`DistributionMatching`.
    """
    if name == "contrastive":
        return None
    if name == "categorical":
        return CategoricalEntropy()
    if name == "kde":
        kernel = density if bandwidth is None else type(density)(bandwidth**-2)
        # An embedding in the plane may be far from all others, and must not bolt back.
        return KernelDensity(kernel, leave_one_out=density.space != "plane")
    if name == "log_det":
        estimate: Entropy = LogDet()
    else:
        estimate = NearestNeighbour(
            geodesic=density.space == "sphere", clip_quantile=CLIP_QUANTILE
        )
    return OnChart(estimate) if density.space == "simplex" else estimate
