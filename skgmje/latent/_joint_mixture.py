"""Gaussian mixture joint embeddings: one mixture over both views."""

from typing import Any

import torch
from torch import Tensor, nn

from skgmje.latent._entropies import moment_kl
from skgmje.mixture import GaussianMixture
from skgmje.mixture._em import (
    SufficientStatistics,
    expectation,
    maximization,
    stepwise,
)

# Floor of the component variances while encoders train, where the marginal term keeps
# the embeddings near unit variance.
TRAINING_REG_COVAR = 1e-3
# Weight of a batch in the running statistics of stepwise EM.
STEPWISE_RATE = 0.05
# More than one, so that repulsion outweighs the pull of the likelihood.
MARGINAL_WEIGHT = 2.0
INITIAL_EM_ITERATIONS = 20


class JointMixture(nn.Module):
    r"""Symmetric conditional likelihood of a joint mixture, with marginal divergence.

    .. math:: -\tfrac12 \mathrm{E}\left[\log p(\bar z_t | z_c)
              + \log p(\bar z_c | z_t)\right]
              + 2 \sum_v \mathrm{KL}(\mathcal N(z_v) \| \mathcal N(0, I))

    A bar stands for a stopped gradient: the target of each direction is a constant, so
    that clustering the targets gains nothing. The mixture itself is not trained by
    gradients but by EM on detached embeddings, at every step (stepwise EM) or once an
    epoch. This form is our derivation, not the paper's.

    Parameters
    ----------
    n_components : int
        Number of components.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}
        Form of the covariances.
    each_epoch : bool, default=False
        Whether EM runs on all embeddings once an epoch instead of at every step.
    marginal_weight : float, default=2.0
        Weight of the divergence.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import JointMixture
    >>> z = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> latent = JointMixture(2, "full")
    >>> latent.initialize(z, z, seed=0)
    >>> latent(z, z).shape
    torch.Size([])
    """

    def __init__(
        self,
        n_components: int,
        covariance_type: str,
        each_epoch: bool = False,
        marginal_weight: float = MARGINAL_WEIGHT,
    ):
        super().__init__()
        self.n_components, self.covariance_type = n_components, covariance_type
        self.each_epoch, self.marginal_weight = each_epoch, marginal_weight
        # Set by `initialize`; plain attributes, since EM and not gradients moves them.
        self._statistics: Any = None
        self._density: Any = None

    def initialize(self, z_c: Tensor, z_t: Tensor, seed: int) -> None:
        """Fit the mixture to embeddings, from its present state where it has one."""
        z = torch.cat([z_c, z_t], dim=1).detach().double()
        density = self._density
        if density is None:
            start = GaussianMixture(
                self.n_components,
                covariance_type=self.covariance_type,
                init_params="k-means++" if self.n_components > 1 else "random",
                reg_covar=TRAINING_REG_COVAR,
                random_state=seed,
                max_iter=0,
                device=z.device,
            )
            density = start.fit(z.cpu().numpy()).density_
        for _ in range(INITIAL_EM_ITERATIONS):
            statistics = expectation(z, density, self.covariance_type)
            density = maximization(statistics, TRAINING_REG_COVAR).density(
                self.covariance_type
            )
        self._statistics = statistics * (1.0 / statistics.total)
        self._density = density

    @torch.no_grad()
    def _stepwise_em(self, z: Tensor) -> None:
        batch = expectation(z, self._density, self.covariance_type)
        self._statistics = stepwise(self._statistics, batch, STEPWISE_RATE)
        self._density = maximization(self._statistics, TRAINING_REG_COVAR).density(
            self.covariance_type
        )

    def forward(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, ...)."""
        z_c, z_t = z_c.double(), z_t.double()
        if self.training and not self.each_epoch:
            self._stepwise_em(torch.cat([z_c, z_t], dim=1).detach())
        density = self._density
        n_context = z_c.shape[1]
        context = list(range(n_context))
        target = list(range(n_context, n_context + z_t.shape[1]))
        forward = density.log_prob(torch.cat([z_c, z_t.detach()], dim=1))
        forward = forward - density.marginal(context).log_prob(z_c)
        backward = density.log_prob(torch.cat([z_c.detach(), z_t], dim=1))
        backward = backward - density.marginal(target).log_prob(z_t)
        marginals = moment_kl(z_c) + moment_kl(z_t)
        return -0.5 * (forward + backward).mean() + self.marginal_weight * marginals

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the mixture for ``state_dict``."""
        if self._density is None:
            return {}
        return {"total": torch.tensor(self._statistics.total)} | {
            name: getattr(self._statistics, name)
            for name in ("counts", "first", "second", "reference", "log_likelihood")
        }

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Take the mixture back from ``state_dict``."""
        if not state:
            return
        statistics = {k: v for k, v in state.items() if k != "total"}
        self._statistics = SufficientStatistics(
            **statistics,
            total=float(state["total"]),
            covariance_type=self.covariance_type,
        )
        self._density = maximization(self._statistics, TRAINING_REG_COVAR).density(
            self.covariance_type
        )
