"""Mixture density networks: the mixture is read from the context embedding alone."""

import copy

import torch
from torch import Tensor, nn

from skgmje.latent._components import STEPWISE_RATE, TRAINING_REG_COVAR
from skgmje.latent._directions import conditional_loss, gaussian
from skgmje.latent._marginals import LearnedGaussian, make_marginal
from skgmje.latent._moments import RunningMoments, ridge
from skgmje.networks import MixtureDensityHead


class ConditionalMixture(nn.Module):
    r"""Conditional likelihood of a mixture density head, with a marginal loss.

    .. math:: -\mathrm{E} \log p(\bar z_t | z_c)
              + \lambda \, L(z_c)

    The target is detached (a bar), since a learned target that the likelihood pulls on
    becomes constant. A second head in the reverse direction, with the roles of the
    views exchanged, trains a target encoder that does not share the context encoder's
    weights. With two encoders, a part of each conditional likelihood may be taken under
    one Gaussian with the running moments of both embeddings. A head learns slowly and
    its components know little of the linear dependence of views that are not learned
    yet; the Gaussian follows it at once, as in :class:`JointMixture`.

    The heads are given one view alone, so that the other cannot be copied. The form of
    the marginal loss L could not be recovered from the paper; all are our choice.

    Parameters
    ----------
    head : MixtureDensityHead
        From context to target.
    reverse_head : MixtureDensityHead or None
        From target to context, or None if the target encoder is not trained on its
        own.
    marginal_weight : float
        Weight of the marginal loss of each trained view.
    context_is_trained : bool, default=True
        Whether the context encoder is trained.
    marginal : {'moment_kl', 'gaussian', 'vicreg'} or None, default='moment_kl'
        Marginal loss: the divergence of the embedding's moments from the standard
        normal, the negative log-likelihood of a learned Gaussian (which attracts only:
        with a weight of one the loss is that of the joint, and embeddings can shrink),
        or hinges on variances with squared covariances. None is the first of them with
        a tenth of the :class:`Negentropy`.
    gaussian_share : float, default=0.0
        Part of both conditional likelihoods that is taken under the Gaussian of the
        running moments; without a reverse head there is none.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import ConditionalMixture
    >>> from skgmje.networks import MixtureDensityHead
    >>> latent = ConditionalMixture(MixtureDensityHead(2, 3, 1), None, 2.0)
    >>> latent(torch.eye(2), torch.ones(2, 1)).shape
    torch.Size([])
    """

    each_epoch = False

    def __init__(
        self,
        head: MixtureDensityHead,
        reverse_head: MixtureDensityHead | None,
        marginal_weight: float,
        context_is_trained: bool = True,
        marginal: str | None = "moment_kl",
        gaussian_share: float = 0.0,
    ):
        super().__init__()
        self.head, self.reverse_head = head, reverse_head
        self.marginal_weight = marginal_weight
        self.context_is_trained = context_is_trained
        self.gaussian_share = gaussian_share
        self.moments = RunningMoments(STEPWISE_RATE)
        self.marginal = make_marginal(marginal, head.n_features_in)
        if reverse_head is not None:
            self.reverse_marginal = make_marginal(marginal, reverse_head.n_features_in)

    def initialize(self, z_c: Tensor, z_t: Tensor, seed: int) -> None:
        """Start heads, moments and learned marginals from the embeddings."""
        self.moments.start(torch.cat([z_c, z_t], dim=1))
        self.head.initialize(z_t, seed)
        if isinstance(self.marginal, LearnedGaussian):
            self.marginal.initialize(z_c)
        if self.reverse_head is not None:
            self.reverse_head.initialize(z_c, seed)
            if isinstance(self.reverse_marginal, LearnedGaussian):
                self.reverse_marginal.initialize(z_t)

    def head_for_inference(self) -> MixtureDensityHead:
        """Return a copy of the head in float64, in evaluation mode."""
        return copy.deepcopy(self.head).double().eval()

    def forward(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, ...)."""
        loss = -self.head(z_c).log_prob(z_t.detach()).mean()
        if self.reverse_head is not None:
            loss = loss - self.reverse_head(z_t).log_prob(z_c.detach()).mean()
            if self.gaussian_share:
                single = self._gaussian_loss(z_c, z_t)
                loss = torch.lerp(loss.double(), single, self.gaussian_share)
            loss = loss + self.marginal_weight * self.reverse_marginal(z_t)
        if self.context_is_trained:
            loss = loss + self.marginal_weight * self.marginal(z_c)
        return loss

    def _gaussian_loss(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        z_c, z_t = z_c.double(), z_t.double()
        if self.training:
            self.moments.update(torch.cat([z_c, z_t], dim=1))
        covariance = ridge(self.moments.covariance, TRAINING_REG_COVAR)
        return conditional_loss(gaussian(self.moments.mean, covariance), z_c, z_t)
