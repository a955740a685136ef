"""Gaussian joint embeddings: the mutual information of one joint Gaussian."""

import torch
from torch import Tensor, nn

from skgmje.latent._entropies import EntropySum, MomentKL, Negentropy
from skgmje.latent._moments import (
    RunningMoments,
    covariance,
    log_det,
    mean_mahalanobis,
    ridge,
)

# Weight of a batch in the moments under which held-out pairs are judged.
MOMENTS_RATE = 0.05


class GaussianMutualInformation(nn.Module):
    r"""Negative Gaussian mutual information of two views.

    .. math:: \tfrac12 \log|\Sigma| - \tfrac12 \log|\Sigma_{cc}|
              - \tfrac12 \log|\Sigma_{tt}| = \tfrac12 \sum_j \log(1 - \rho_j^2)

    The profile likelihood of one joint Gaussian plus the log-determinant entropy of
    each view: deep canonical correlation analysis. It does not change when a view is
    rescaled, so shrinking the embeddings gains nothing. A tenth of each view's mean
    variance is added as noise, which bounds the loss. The information alone does not
    tell one basis from another; each view's :class:`MomentKL` is added to it and asks
    for white embeddings. Neither tells a function of the points from a fold of them, if
    both views know it equally well; the :class:`Negentropy` of each view does.

    In training mode the moments are those of the batch. In evaluation mode pairs are
    judged by the log-density ratio under running moments of the training batches: the
    moments of a small held-out batch would find correlations in anything.

    Parameters
    ----------
    noise_share : float, default=0.1
        Noise added to each view, as a share of its mean variance. It bounds the loss,
        and leaves little to gain from correlations that are near one only on the
        training rows.
    whitening_weight : float, default=0.1
        Weight of the divergence of each view, which keeps embeddings white.
    negentropy_weight : float, default=0.05
        Weight of the negentropy of each view, which keeps embeddings from folding.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import GaussianMutualInformation
    >>> z = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> bool(GaussianMutualInformation()(z, z) < -1)
    True
    """

    each_epoch = False

    def __init__(
        self,
        noise_share: float = 0.1,
        whitening_weight: float = 0.1,
        negentropy_weight: float = 0.05,
    ):
        super().__init__()
        self.noise_share = noise_share
        self.entropy = EntropySum(
            MomentKL(whitening_weight), Negentropy(negentropy_weight)
        )
        self.moments = RunningMoments(MOMENTS_RATE)

    def initialize(self, z_c: Tensor, z_t: Tensor, seed: int) -> None:
        """Take the moments of training embeddings to start from."""
        self.moments.start(torch.cat([z_c, z_t], dim=1))

    def forward(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, ...)."""
        z = torch.cat([z_c, z_t], dim=1).double()
        n_context = z_c.shape[1]
        if self.training or not self.moments.started:
            information = self._information(covariance(z), n_context)
            self.moments.update(z)
        else:
            information = self._held_out_information(z, n_context)
        return self.entropy(z_c) + self.entropy(z_t) - information

    def _noisy_blocks(
        self, joint: Tensor, n_context: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Covariances of both views together and of each, with the same noise."""
        context = ridge(joint[:n_context, :n_context], self.noise_share)
        target = ridge(joint[n_context:, n_context:], self.noise_share)
        noisy = torch.cat(
            [
                torch.cat([context, joint[:n_context, n_context:]], dim=1),
                torch.cat([joint[n_context:, :n_context], target], dim=1),
            ]
        )
        return noisy, context, target

    def _information(self, joint: Tensor, n_context: int) -> Tensor:
        noisy, context, target = self._noisy_blocks(joint, n_context)
        return 0.5 * (log_det(context) + log_det(target) - log_det(noisy))

    def _held_out_information(self, z: Tensor, n_context: int) -> Tensor:
        """Mean log-density ratio of pairs under the running moments."""
        joint, centred = self.moments.covariance, z - self.moments.mean
        blocks = self._noisy_blocks(joint, n_context)
        parts = (centred, centred[:, :n_context], centred[:, n_context:])
        distances = [mean_mahalanobis(x, s) for x, s in zip(parts, blocks, strict=True)]
        excess = 0.5 * (distances[1] + distances[2] - distances[0])
        return self._information(joint, n_context) + excess
