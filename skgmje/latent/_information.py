"""Mutual information between views, from the log-densities of all pairs of rows."""

import math

import torch
from torch import Tensor

from skgmje.mixture import MultivariateNormalMixture

# Numbers in the largest temporary of one block of pairs.
PAIR_BLOCK_NUMBERS = 2**22


@torch.no_grad()
def pairwise_log_prob(conditional: MultivariateNormalMixture, z_t: Tensor) -> Tensor:
    """Log-density of every target under the conditional of every context.

    Parameters
    ----------
    conditional : MultivariateNormalMixture
        Batch of n_contexts mixtures.
    z_t : tensor of shape (n_targets, n_features)
        Targets.

    Returns
    -------
    log_prob : tensor of shape (n_targets, n_contexts)
        Log-densities in nats.

    Examples
    --------
    >>> import torch
    >>> from skgmje import MultivariateNormalMixture
    >>> from skgmje.latent import pairwise_log_prob
    >>> conditional = MultivariateNormalMixture(
    ...     torch.ones(3, 1), torch.zeros(3, 1, 2), scale_spherical=torch.ones(1)
    ... )
    >>> pairwise_log_prob(conditional, torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """
    common = _common_components(conditional)
    if common is not None:
        return _log_product(common.component_log_prob(z_t), conditional.log_weights)
    n_contexts = conditional.batch_shape[0]
    width = n_contexts * conditional.n_components * z_t.shape[1]
    return torch.cat(
        [
            conditional.log_prob(block.unsqueeze(1))
            for block in z_t.split(max(1, PAIR_BLOCK_NUMBERS // width))
        ]
    )


def _common_components(
    conditional: MultivariateNormalMixture,
) -> MultivariateNormalMixture | None:
    """Return the components if the contexts choose among the same ones."""
    means = conditional.means
    if means.stride(0):
        return None
    scale = conditional.parameters()
    scale = {k: v for k, v in scale.items() if k not in ("weights", "means")}
    one = MultivariateNormalMixture.from_log_weights(
        conditional.log_weights[0], means[0], **scale
    )
    return None if one.batch_shape else one


def _log_product(a: Tensor, b: Tensor) -> Tensor:
    """Return ``log(exp(a) @ exp(b).T)`` for (n, K) and (m, K)."""
    a_peak, b_peak = (x.amax(1, keepdim=True) for x in (a, b))
    product = (a - a_peak).exp() @ (b - b_peak).exp().T
    result = product.log() + a_peak + b_peak.T
    if a.device.type == "meta":
        return result
    # Where the largest of one row meet nothing of the other, the product underflows.
    limits = torch.finfo(a.dtype)
    pairs = (product < limits.tiny / limits.eps).nonzero()
    for block in pairs.split(max(1, PAIR_BLOCK_NUMBERS // a.shape[1])):
        rows, columns = block.T
        result[rows, columns] = (a[rows] + b[columns]).logsumexp(1)
    return result


def contrastive_bound(log_prob: Tensor) -> Tensor:
    r"""Lower bound on the mutual information from a square matrix of log-densities.

    .. math:: \frac1n \sum_i \log \frac{p(z_t^i | z_c^i)}
              {\frac1n \sum_j p(z_t^i | z_c^j)}

    With independent rows this is, on average, at most the mutual information of the
    data and at most log n, whatever the conditional density: no encoder can raise it
    above what the data hold. A point gives zero, K clusters at most log K.

    Parameters
    ----------
    log_prob : tensor of shape (n, n)
        Log-density of target i (rows) under the conditional of context j (columns).

    Returns
    -------
    bound : tensor of shape ()
        The bound in nats.

    References
    ----------
    Poole et al., "On Variational Bounds of Mutual Information", ICML 2019 (the
    contrastive bound with a tractable conditional).

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import contrastive_bound
    >>> contrastive_bound(torch.zeros(4, 4))
    tensor(0.)
    """
    n_contexts = log_prob.shape[1]
    marginal = log_prob.logsumexp(1) - math.log(n_contexts)
    return (log_prob.diagonal() - marginal).mean()
