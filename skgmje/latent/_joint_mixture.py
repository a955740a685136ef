"""Gaussian mixture joint embeddings: one mixture over both views."""

import torch
from torch import Tensor, nn

from skgmje.latent._components import ComponentRule, StepwiseEM
from skgmje.latent._directions import conditional_loss, gaussian
from skgmje.latent._entropies import (
    Entropy,
    EntropySum,
    MomentKL,
    NearestNeighbour,
    Negentropy,
    categorical_entropy,
)
from skgmje.latent._gaussian import GaussianMutualInformation
from skgmje.mixture import MultivariateNormalMixture

LIKELIHOODS = ("conditional", "joint")
# Share of the conditional likelihood that is taken under the mixture's own moments.
GAUSSIAN_SHARE = 0.5
# Share of the Gaussian mutual information, where it is asked for.
INFORMATION_SHARE = 0.8
# Weight of the entropy of component usage beside the joint likelihood.
USAGE_WEIGHT = 0.1


class JointMixture(nn.Module):
    r"""Likelihood of a mixture over both views, with an entropy of each view.

    The conditional form is

    .. math:: -\tfrac12 \mathrm{E}\left[\log p(\bar z_t | z_c)
              + \log p(\bar z_c | z_t)\right] - \sum_v H(z_v)

    A bar stands for a stopped gradient: the target of each direction is a constant, so
    that clustering the targets gains nothing. Half of it is taken under the mixture and
    half under the Gaussian with the mean and covariance of the mixture. The more
    components there are, the less each of them knows of the linear dependence between
    views that have not been learned yet; their Gaussian knows all of it.

    With :class:`GaussianMutualInformation` as the entropy, four fifths of the loss are
    the loss of GJE, which holds the entropies of both views, and the rest is the
    likelihood under the mixture. Encoders then learn more from data without end, such
    as augmented images, and overfit few rows sooner.

    The joint form is :math:`-\mathrm{E} \log p(z_c, z_t)` minus 0.1 times the entropy
    of the mean responsibilities. It rewards embeddings that gather at the components,
    which second moments do not see; hence :class:`NearestNeighbour` in its entropy.

    The mixture is not trained by gradients but by a rule on detached embeddings. These
    forms are our derivation, not the paper's.

    Parameters
    ----------
    components : ComponentRule or int
        How the mixture follows the embeddings; a number stands for as many full
        components under stepwise EM.
    likelihood : {'conditional', 'joint'}, default='conditional'
        Form of the likelihood.
    entropy : Entropy or GaussianMutualInformation, optional
        What is added for each view, or the loss of GJE for both of them; by default the
        sum of :class:`MomentKL` and :class:`Negentropy`, or with the joint likelihood
        of :class:`MomentKL` and :class:`NearestNeighbour`.

    Raises
    ------
    ValueError
        If `likelihood` has another value.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import JointMixture
    >>> z = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> latent = JointMixture(2)
    >>> latent.initialize(z, z, seed=0)
    >>> latent(z, z).shape
    torch.Size([])
    """

    def __init__(
        self,
        components: ComponentRule | int,
        *,
        likelihood: str = "conditional",
        entropy: Entropy | GaussianMutualInformation | None = None,
    ):
        super().__init__()
        if likelihood not in LIKELIHOODS:
            raise ValueError(
                f"likelihood must be one of {LIKELIHOODS}; got {likelihood!r}."
            )
        self.components = (
            StepwiseEM(components) if isinstance(components, int) else components
        )
        self.likelihood = likelihood
        self.entropy = _default_entropy(likelihood) if entropy is None else entropy

    @property
    def each_epoch(self) -> bool:
        """Whether the mixture is fitted again with every epoch."""
        return self.components.each_epoch

    @torch.no_grad()
    def initialize(self, z_c: Tensor, z_t: Tensor, seed: int) -> None:
        """Fit the mixture to embeddings, from its present state where it has one."""
        if isinstance(self.entropy, GaussianMutualInformation):
            self.entropy.initialize(z_c, z_t, seed)
        self.components.initialize(torch.cat(self._prepared(z_c, z_t), dim=1), seed)

    def forward(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, ...)."""
        if isinstance(self.entropy, GaussianMutualInformation):
            loss = self._likelihood_loss(z_c, z_t, gaussian_share=0.0)
            return torch.lerp(loss, self.entropy(z_c, z_t), INFORMATION_SHARE)
        loss = self._likelihood_loss(z_c, z_t, GAUSSIAN_SHARE)
        return loss + self.entropy(z_c) + self.entropy(z_t)

    def _likelihood_loss(
        self, z_c: Tensor, z_t: Tensor, gaussian_share: float
    ) -> Tensor:
        z_c, z_t = self._prepared(z_c, z_t)
        if self.training:
            self.components.step(torch.cat([z_c, z_t], dim=1).detach())
        density = self.components.density
        if self.likelihood == "joint":
            return _joint_loss(density, torch.cat([z_c, z_t], dim=1))
        loss = 0.5 * conditional_loss(density, z_c, z_t)
        if density.n_components == 1 or gaussian_share == 0:
            return loss
        single = gaussian(density.mean, density.covariance_matrix)
        return torch.lerp(
            loss, 0.5 * conditional_loss(single, z_c, z_t), gaussian_share
        )

    def _prepared(self, z_c: Tensor, z_t: Tensor) -> list[Tensor]:
        if isinstance(self.entropy, GaussianMutualInformation):
            return [z_c.double(), z_t.double()]
        return [self.entropy.prepare(z.double()) for z in (z_c, z_t)]

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the mixture for ``state_dict``."""
        return self.components.state()

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Take the mixture back from ``state_dict``."""
        self.components.set_state(state)


def _default_entropy(likelihood: str) -> Entropy:
    if likelihood == "conditional":
        return EntropySum(MomentKL(), Negentropy())
    return EntropySum(MomentKL(), NearestNeighbour())


def _joint_loss(density: MultivariateNormalMixture, z: Tensor) -> Tensor:
    usage = density.responsibilities(z).mean(0)
    usage_entropy = categorical_entropy(usage)
    return -density.log_prob(z).mean() - USAGE_WEIGHT * usage_entropy
