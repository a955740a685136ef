"""Variational joint embedding: each view's posterior explains the other view."""

import math

import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence

from skgmje.latent._polar_student_t import PolarStudentT
from skgmje.networks import GaussianPosterior


class SymmetricELBO(nn.Module):
    r"""Evidence lower bounds of both views, each given the posterior of the other.

    .. math:: -\tfrac12 \bigl[ \mathcal{L}(e \to e') + \mathcal{L}(e' \to e) \bigr],
        \quad \mathcal{L}(e \to e') = \mathrm{E}_{q(s \mid e)} \log p(e' \mid s)
        - \beta \, \mathrm{KL}\bigl(q(s \mid e) \,\|\, \mathcal{N}(0, I)\bigr)

    Where the likelihood has the scale of the posterior and :math:`\beta = 1`, the
    logarithms of both scales cancel: nothing rewards a likelihood for being ever
    sharper. That all directions become one is not excluded by the bound; a target that
    carries no gradient prevents it.

    Parameters
    ----------
    likelihood : PolarStudentT
        Density of a representation given a latent vector.
    beta : float, default=1.0
        Weight of the divergence from the prior.
    n_warmup : int, default=0
        Epochs over which `beta` grows from zero.
    target_stop_gradient : bool, default=True
        Whether gradients stop at the representation that is explained.

    References
    ----------
    Oji and Fieguth, "Joint Embedding Variational Bayes", arXiv:2602.05639 (2026),
    for the idea; the equations are ours.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import PolarStudentT, SymmetricELBO
    >>> from skgmje.networks import MLP, PosteriorNetwork
    >>> network = PosteriorNetwork(MLP(4, 2, (8,)), 2)
    >>> view, other = (network.posterior(torch.randn(5, 4)) for _ in range(2))
    >>> SymmetricELBO(PolarStudentT())(view, other, torch.randn(2, 5, 2)).shape
    torch.Size([])
    """

    n_epochs: Tensor

    def __init__(
        self,
        likelihood: PolarStudentT,
        beta: float = 1.0,
        n_warmup: int = 0,
        target_stop_gradient: bool = True,
    ):
        super().__init__()
        self.likelihood, self.beta, self.n_warmup = likelihood, beta, n_warmup
        self.target_stop_gradient = target_stop_gradient
        self.register_buffer("n_epochs", torch.zeros((), dtype=torch.float32))

    def begin_epoch(self) -> None:
        """Count the epochs of the warm-up."""
        self.n_epochs += 1

    def forward(
        self, first: GaussianPosterior, second: GaussianPosterior, noise: Tensor
    ) -> Tensor:
        """Return the loss in nats.

        Parameters
        ----------
        first, second : GaussianPosterior
            Representations and posteriors of both views, of shape (n_samples, d).
        noise : tensor of shape (2, n_samples, d)
            Standard normal numbers, for a draw from either posterior.
        """
        targets = first, second
        if self.target_stop_gradient:
            targets = first.detach_representation(), second.detach_representation()
        bounds = self.elbo(first, targets[1], noise[0]) + self.elbo(
            second, targets[0], noise[1]
        )
        return -0.5 * bounds.mean()

    def elbo(
        self, view: GaussianPosterior, other: GaussianPosterior, noise: Tensor
    ) -> Tensor:
        """Return the bound of the other view for draws from a view's posterior."""
        log_prob = self.likelihood.log_prob(
            other.representation,
            view.mean + view.scale * noise,
            view.likelihood_scale,
        )
        warmth = (self.n_epochs / max(1, self.n_warmup)).clamp(max=1.0)
        beta = self.beta * warmth if self.n_warmup else self.beta
        return log_prob - beta * prior_divergence(view)


def prior_divergence(view: GaussianPosterior) -> Tensor:
    """Kullback-Leibler divergence of posteriors from a standard normal.

    Parameters
    ----------
    view : GaussianPosterior
        Posteriors of shape (n_samples, d).

    Returns
    -------
    divergence : tensor of shape (n_samples,)
        In nats.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import prior_divergence
    >>> from skgmje.networks import GaussianPosterior
    >>> one = torch.ones(3, 2)
    >>> prior_divergence(GaussianPosterior(one, one, one, one))
    tensor([1., 1., 1.])
    """
    return kl_divergence(_normal(view.mean, view.scale), _prior(view))


def evidence_bounds(
    likelihood: PolarStudentT,
    view: GaussianPosterior,
    other: GaussianPosterior,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    r"""Return two lower bounds of the evidence of the other view, given this one.

    The evidence is :math:`\log \int p(e' \mid s) \, \mathcal{N}(s; 0, I) \, ds`, where
    the likelihood has the scale that is inferred from this view. With more draws the
    second bound grows towards it (Burda et al., "Importance Weighted Autoencoders",
    ICLR 2016).

    Parameters
    ----------
    likelihood : PolarStudentT
        Density of a representation given a latent vector.
    view, other : GaussianPosterior
        Posteriors of shape (n_samples, d).
    noise : tensor of shape (n_draws, 1 or n_samples, d)
        Standard normal numbers.

    Returns
    -------
    elbo, importance_weighted : tensor of shape (n_samples,)
        In nats. Both are of a sub-density: of the likelihood divided by
        ``exp(likelihood.log_mass_bound(scale))``.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import PolarStudentT, evidence_bounds
    >>> from skgmje.networks import GaussianPosterior
    >>> one = torch.ones(3, 2)
    >>> view, noise = GaussianPosterior(one, one, one, one), torch.randn(16, 1, 2)
    >>> elbo, weighted = evidence_bounds(PolarStudentT(), view, view, noise)
    >>> elbo.shape, weighted.shape
    (torch.Size([3]), torch.Size([3]))
    """
    latent = view.mean + view.scale * noise
    log_prob = likelihood.log_prob(other.representation, latent, view.likelihood_scale)
    log_prob = log_prob - likelihood.log_mass_bound(view.likelihood_scale)
    log_prior = _prior(view).log_prob(latent)
    log_posterior = _normal(view.mean, view.scale).log_prob(latent)
    log_ratio = log_prob + log_prior - log_posterior
    elbo = log_prob.mean(0) - prior_divergence(view)
    return elbo, log_ratio.logsumexp(0) - math.log(len(noise))


def _normal(mean: Tensor, scale: Tensor) -> Independent:
    return Independent(Normal(mean, scale, validate_args=False), 1, validate_args=False)


def _prior(view: GaussianPosterior) -> Independent:
    return _normal(torch.zeros_like(view.mean), torch.ones_like(view.scale))
