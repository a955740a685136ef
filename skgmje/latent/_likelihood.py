"""The likelihood of one joint Gaussian as a loss: the trace trap, for study."""

import math

import torch
from torch import Tensor, nn

from skgmje.latent._entropies import Entropy
from skgmje.latent._moments import (
    RunningMoments,
    covariance,
    log_det,
    mean_mahalanobis,
)

MOMENTS = ("batch", "detached", "moving")
# Weight of a batch in moving moments.
MOVING_RATE = 0.05


class GaussianLikelihood(nn.Module):
    r"""Negative log-likelihood of one joint Gaussian: a loss that collapses.

    .. math:: \frac1{2N} \sum_i (z_i - \mu)^\top \Sigma^{-1} (z_i - \mu)
              + \tfrac12 \log |\Sigma| + \tfrac D2 \log 2\pi

    With the moments of the batch itself the first term is the constant D / 2 and has no
    gradient: the Mahalanobis trace trap. What remains shrinks the embeddings to a
    point. It is the same with detached moments, with a moving average and with a ridge;
    an entropy is what helps. Without one this module is for demonstration: see
    :ref:`maths_collapse`. The name of the trap is the paper's, the derivation is ours.

    Parameters
    ----------
    moments : {'batch', 'detached', 'moving'}, default='batch'
        Mean and covariance: those of the batch, the same held constant, or an
        exponential moving average over the training batches, held constant.
    ridge : float, default=0.0
        Added to the diagonal of the covariance, in squared units of the embeddings.
    entropy : Entropy or None, default=None
        Added for each view. An estimate of its entropy with the weight one makes the
        loss of batch moments an alignment that does not reward shrinking.

    Raises
    ------
    ValueError
        If `moments` has another value.

    See Also
    --------
    GaussianMutualInformation : The loss of GJE, which does not collapse.

    References
    ----------
    Y. Huang, "Gaussian Joint Embeddings for Self-Supervised Representation Learning",
    arXiv:2603.26799 (2026).

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import GaussianLikelihood, LogDet
    >>> z = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    >>> trap, cured = GaussianLikelihood(), GaussianLikelihood(entropy=LogDet())
    >>> for latent in (trap, cured):
    ...     change = latent(0.1 * z[:, :2], 0.1 * z[:, 2:]) - latent(z[:, :2], z[:, 2:])
    ...     print(round(change.item(), 2) + 0.0)  # -9.21 is 4 log 0.1
    -9.21
    0.0
    """

    each_epoch = False

    def __init__(
        self,
        moments: str = "batch",
        ridge: float = 0.0,
        entropy: Entropy | None = None,
    ):
        super().__init__()
        if moments not in MOMENTS:
            raise ValueError(f"moments must be one of {MOMENTS}; got {moments!r}.")
        self.moments, self.ridge = moments, ridge
        self.entropy = entropy
        self.running = RunningMoments(MOVING_RATE)

    def initialize(self, z_c: Tensor, z_t: Tensor, seed: int) -> None:
        """Take the moments of training embeddings to start a moving average from."""
        self.running.start(self._joined(z_c, z_t))

    def forward(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, ...).

        NaN if the covariance is not positive definite, as where embeddings have
        collapsed.
        """
        z = self._joined(z_c, z_t)
        mean, moments = self._mean_and_covariance(z)
        moments = moments + self.ridge * torch.eye(
            len(moments), dtype=moments.dtype, device=moments.device
        )
        distance = mean_mahalanobis(z - mean, moments)
        constant = z.shape[1] * math.log(2 * math.pi)
        likelihood = 0.5 * (distance + log_det(moments) + constant)
        if self.entropy is None:
            return likelihood
        return likelihood + self.entropy(z_c) + self.entropy(z_t)

    def _joined(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Both views side by side, as the density sees them."""
        views = [z_c.double(), z_t.double()]
        if self.entropy is not None:
            views = [self.entropy.prepare(view) for view in views]
        return torch.cat(views, dim=1)

    def _mean_and_covariance(self, z: Tensor) -> tuple[Tensor, Tensor]:
        if self.moments == "batch":
            return z.mean(0), covariance(z)
        if self.moments == "detached":
            return z.detach().mean(0), covariance(z.detach())
        if not self.running.started:
            self.running.start(z)
        elif self.training:
            self.running.update(z)
        return self.running.mean, self.running.covariance
