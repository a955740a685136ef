"""Gaussian joint embeddings: the mutual information of one joint Gaussian."""

import torch
from torch import Tensor, nn

from skgmje.latent._entropies import covariance, log_det, moment_kl, ridge


class GaussianMutualInformation(nn.Module):
    r"""Negative Gaussian mutual information of two views.

    .. math:: \tfrac12 \log|\Sigma| - \tfrac12 \log|\Sigma_{cc}|
              - \tfrac12 \log|\Sigma_{tt}| = \tfrac12 \sum_j \log(1 - \rho_j^2)

    The profile likelihood of one joint Gaussian plus the log-determinant entropy of
    each view: deep canonical correlation analysis. It does not change when a view is
    rescaled, so shrinking the embeddings gains nothing. A tenth of each view's mean
    variance is added as noise, which bounds the loss. The information alone does not
    tell one basis from another; each view's :func:`moment_kl` is added to it and asks
    for white embeddings.

    Parameters
    ----------
    noise_share : float, default=0.1
        Noise added to each view, as a share of its mean variance. It bounds the loss,
        and leaves little to gain from correlations that are near one only on the
        training rows.
    whitening_weight : float, default=0.1
        Weight of the divergence of each view, which keeps embeddings white.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import GaussianMutualInformation
    >>> z = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> bool(GaussianMutualInformation()(z, z) < -1)
    True
    """

    each_epoch = False

    def __init__(self, noise_share: float = 0.1, whitening_weight: float = 0.1):
        super().__init__()
        self.noise_share, self.whitening_weight = noise_share, whitening_weight

    def initialize(self, z_c: Tensor, z_t: Tensor, seed: int) -> None:
        """Nothing to start from: moments are those of the batch."""

    def forward(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, ...)."""
        joint = covariance(torch.cat([z_c, z_t], dim=1))
        # The same ridge on the joint as on the marginal: the loss of noisier views.
        n_context = z_c.shape[1]
        context = ridge(joint[:n_context, :n_context], self.noise_share)
        target = ridge(joint[n_context:, n_context:], self.noise_share)
        joint = torch.cat(
            [
                torch.cat([context, joint[:n_context, n_context:]], dim=1),
                torch.cat([joint[n_context:, :n_context], target], dim=1),
            ]
        )
        information = 0.5 * (log_det(context) + log_det(target) - log_det(joint))
        return self.whitening_weight * (moment_kl(z_c) + moment_kl(z_t)) - information
