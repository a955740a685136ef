"""Gaussian joint embeddings: the mutual information of one joint Gaussian."""

import torch
from torch import Tensor, nn

from skgmje.latent._entropies import covariance, log_det, moment_kl, ridge

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
    tell one basis from another; each view's :func:`moment_kl` is added to it and asks
    for white embeddings.

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
        self._moments: dict[str, Tensor] = {}

    def initialize(self, z_c: Tensor, z_t: Tensor, seed: int) -> None:
        """Take the moments of training embeddings to start from."""
        z = torch.cat([z_c, z_t], dim=1).detach().double()
        self._moments = {"mean": z.mean(0), "covariance": covariance(z)}

    def forward(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, ...)."""
        z = torch.cat([z_c, z_t], dim=1).double()
        n_context = z_c.shape[1]
        if self.training or not self._moments:
            information = self._information(covariance(z), n_context)
            self._track(z.detach())
        else:
            information = self._held_out_information(z, n_context)
        divergence = moment_kl(z_c) + moment_kl(z_t)
        return self.whitening_weight * divergence - information

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
        joint, centred = self._moments["covariance"], z - self._moments["mean"]
        blocks = self._noisy_blocks(joint, n_context)
        parts = (centred, centred[:, :n_context], centred[:, n_context:])
        distances = [
            _mean_mahalanobis(x, s) for x, s in zip(parts, blocks, strict=True)
        ]
        excess = 0.5 * (distances[1] + distances[2] - distances[0])
        return self._information(joint, n_context) + excess

    @torch.no_grad()
    def _track(self, z: Tensor) -> None:
        batch = {"mean": z.mean(0), "covariance": covariance(z)}
        for name, running in self._moments.items():
            self._moments[name] = running.lerp(batch[name], MOMENTS_RATE)

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the running moments for ``state_dict``."""
        return dict(self._moments)

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Take the running moments back from ``state_dict``."""
        self._moments = dict(state)


def _mean_mahalanobis(centred: Tensor, covariance: Tensor) -> Tensor:
    factor = torch.linalg.cholesky_ex(covariance).L
    whitened = torch.linalg.solve_triangular(factor, centred.mT, upper=False)
    return whitened.square().sum(0).mean()
