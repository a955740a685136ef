"""Marginal losses on an embedding: what a conditional likelihood leaves open."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from skgmje.latent._entropies import (
    EntropySum,
    MomentKL,
    Negentropy,
    VarianceCovariance,
)
from skgmje.latent._moments import covariance, ridge
from skgmje.mixture import MultivariateNormalMixture


class LearnedGaussian(nn.Module):
    r"""Negative log-likelihood of embeddings under one Gaussian that is learned.

    With a conditional likelihood it makes up that of the joint, by the chain rule. It
    only attracts: no term keeps embeddings apart, and the loss falls without bound as
    they shrink to a point.

    Parameters
    ----------
    n_features : int
        Width of the embeddings.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import LearnedGaussian
    >>> marginal = LearnedGaussian(2)
    >>> marginal(torch.zeros(3, 2)).round(decimals=3)
    tensor(1.8380, dtype=torch.float64, grad_fn=<RoundBackward1>)
    """

    def __init__(self, n_features: int):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(n_features))
        # Lower triangle of the Cholesky factor, with logarithms on the diagonal.
        self.factor = nn.Parameter(torch.zeros(n_features, n_features))

    def density(self) -> MultivariateNormalMixture:
        """Return the Gaussian, in float64."""
        factor = self.factor.double()
        scale_tril = factor.tril(-1) + torch.diag_embed(factor.diagonal().exp())
        mean = self.mean.double().unsqueeze(0)
        return MultivariateNormalMixture.from_log_weights(
            torch.zeros_like(mean[:, 0]), mean, scale_tril=scale_tril.unsqueeze(0)
        )

    @torch.no_grad()
    def initialize(self, z: Tensor) -> None:
        """Start from the moments of embeddings."""
        factor = torch.linalg.cholesky(ridge(covariance(z)))
        self.mean.copy_(z.mean(0))
        self.factor.copy_(factor.tril(-1) + factor.diagonal().log().diag())

    def forward(self, z: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, n_features)."""
        return -self.density().log_prob(z.double()).mean()


def make_marginal(name: str | None, n_features: int) -> Callable[[Tensor], Tensor]:
    """Return a marginal loss by name, as :class:`ConditionalMixture` describes them."""
    if name == "gaussian":
        return LearnedGaussian(n_features)
    if name is None:
        return EntropySum(MomentKL(1.0), Negentropy())
    return MomentKL(1.0) if name == "moment_kl" else VarianceCovariance()
