"""The conditional likelihood of a joint density, in both directions."""

import torch
from torch import Tensor

from skgmje.latent._moments import cholesky
from skgmje.mixture import MultivariateNormalMixture


def conditional_loss(
    density: MultivariateNormalMixture, z_c: Tensor, z_t: Tensor
) -> Tensor:
    """Sum of both negative conditional log-likelihoods, with detached targets.

    Parameters
    ----------
    density : MultivariateNormalMixture
        Joint density of both views.
    z_c, z_t : tensor of shape (n_samples, ...)
        Embeddings of both views, in float64.

    Returns
    -------
    loss : tensor of shape ()
        Mean in nats, of the target given the context plus the context given the target.
        What is given has a gradient, and the other has none.
    """
    n_context = z_c.shape[1]
    context = list(range(n_context))
    target = list(range(n_context, n_context + z_t.shape[1]))
    forward = density.log_prob(torch.cat([z_c, z_t.detach()], dim=1))
    forward = forward - density.marginal(context).log_prob(z_c)
    backward = density.log_prob(torch.cat([z_c.detach(), z_t], dim=1))
    backward = backward - density.marginal(target).log_prob(z_t)
    return -(forward + backward).mean()


def gaussian(mean: Tensor, covariance: Tensor) -> MultivariateNormalMixture:
    """Return a Gaussian; its densities are NaN if the covariance is not definite."""
    factor = cholesky(covariance)
    return MultivariateNormalMixture.from_log_weights(
        mean.new_zeros(1), mean.unsqueeze(0), scale_tril=factor.unsqueeze(0)
    )
