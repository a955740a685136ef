"""How the components of a joint mixture follow embeddings that move.

A rule holds one mixture, moves it with detached embeddings and never by gradients.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from skgmje._backend import as_numpy
from skgmje.mixture import GaussianMixture, MultivariateNormalMixture
from skgmje.mixture._em import expectation, maximization, stepwise
from skgmje.mixture._factor_analysis import factorise
from skgmje.mixture._node_graph import GrowthRule, NodeGraph
from skgmje.mixture._particles import Particles
from skgmje.mixture._statistics import MixtureParameters, statistics_of_density

# Floor of the component variances while encoders train, where the marginal term keeps
# the embeddings near unit variance.
TRAINING_REG_COVAR = 1e-3
# Weight of a batch in the running statistics of stepwise EM.
STEPWISE_RATE = 0.05
INITIAL_EM_ITERATIONS = 20
# A component with less than this part of its equal share of the rows is dead.
DEAD_SHARE = 0.05
# Passes in which a gas grows before the encoders have moved, and EM iterations of the
# mixture that it becomes.
INITIAL_PASSES, GAS_EM_STEPS = 3, 5


class ComponentRule(ABC):
    """A mixture over both views that follows the embeddings of an encoder.

    Attributes
    ----------
    density : MultivariateNormalMixture or None
        The mixture as it is now; None before `initialize`.
    each_epoch : bool
        Whether `initialize` should be called again with every epoch.

    Examples
    --------
    >>> import torch
    >>> from skgmje import MultivariateNormalMixture
    >>> from skgmje.latent import ComponentRule, JointMixture
    >>> class StandardNormal(ComponentRule):
    ...     def initialize(self, z, seed):
    ...         self.density = MultivariateNormalMixture(
    ...             torch.ones(1), z[:1] * 0, scale_diag=torch.ones(1, z.shape[1])
    ...         )
    ...     def step(self, z):
    ...         pass
    >>> latent = JointMixture(StandardNormal(), likelihood="joint")
    """

    density: Any = None
    each_epoch = False

    @abstractmethod
    def initialize(self, z: Tensor, seed: int) -> None:
        """Fit the mixture to embeddings (n, D), from what it is if it is anything."""

    @abstractmethod
    def step(self, z: Tensor) -> None:
        """Follow a batch of embeddings (n, D)."""

    def state(self) -> dict[str, Tensor]:
        """Return the mixture as tensors."""
        if self.density is None:
            return {}
        parameters = self.density.parameters() | {
            "log_weights": self.density.log_weights
        }
        del parameters["weights"]
        return {f"density.{name}": value for name, value in parameters.items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take the mixture back; an empty state is that before `initialize`."""
        parameters: dict[str, Any] = {
            name.removeprefix("density."): value
            for name, value in state.items()
            if name.startswith("density.")
        }
        self.density = (
            MultivariateNormalMixture.from_log_weights(**parameters) if state else None
        )


class StepwiseEM(ComponentRule):
    """Components that take a step of stepwise EM at every batch, or EM once an epoch.

    A component that hardly any row needs is put where the batch is least likely, with
    the covariance of the component that had to explain it.

    Parameters
    ----------
    n_components : int
        Number of components.
    covariance_type : {'full', 'tied', 'diag', 'spherical', 'low_rank'}
        Form of the covariances.
    rank : int, default=2
        Number of factors of low-rank covariances, cut to one less than the width.
    each_epoch : bool, default=False
        Whether EM runs on all embeddings once an epoch instead of at every batch.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import StepwiseEM
    >>> z = torch.randn(100, 2, generator=torch.Generator().manual_seed(0)).double()
    >>> rule = StepwiseEM(3)
    >>> rule.initialize(z, seed=0)
    >>> rule.step(z[:10])
    >>> rule.density.n_components
    3
    """

    def __init__(
        self,
        n_components: int,
        covariance_type: str = "full",
        rank: int = 2,
        each_epoch: bool = False,
    ):
        self.n_components, self.covariance_type = n_components, covariance_type
        self.rank, self.each_epoch = rank, each_epoch
        self._statistics: Any = None

    @torch.no_grad()
    def initialize(self, z: Tensor, seed: int) -> None:
        density = self._first(z, seed) if self.density is None else self.density
        for _ in range(INITIAL_EM_ITERATIONS):
            statistics = expectation(z, density, self.covariance_type)
            parameters = maximization(statistics, TRAINING_REG_COVAR)
            density = parameters.density(self.covariance_type)
        self._statistics = statistics * (1.0 / statistics.total)
        self.density = density

    def _first(self, z: Tensor, seed: int) -> MultivariateNormalMixture:
        is_low_rank = self.covariance_type == "low_rank"
        start = GaussianMixture(
            self.n_components,
            covariance_type="full" if is_low_rank else self.covariance_type,
            init_params="k-means++" if self.n_components > 1 else "random",
            reg_covar=TRAINING_REG_COVAR,
            random_state=seed,
            max_iter=0,
            device=z.device,
        )
        density = start.fit(as_numpy(z)).density_
        if is_low_rank:
            density = factorise(density, self.rank, TRAINING_REG_COVAR)
        return density

    @torch.no_grad()
    def step(self, z: Tensor) -> None:
        if self.each_epoch:
            return
        batch = expectation(z, self.density, self.covariance_type)
        self._statistics = stepwise(self._statistics, batch, STEPWISE_RATE)
        parameters = maximization(self._statistics, TRAINING_REG_COVAR)
        self.density = parameters.density(self.covariance_type)
        dead = parameters.weights < DEAD_SHARE / self.n_components
        if bool(dead.any()):
            self._revive(parameters, dead, z)

    def _revive(self, parameters: MixtureParameters, dead: Tensor, z: Tensor) -> None:
        n_dead = min(int(dead.sum()), len(z))
        dead = dead.nonzero()[:n_dead, 0]
        rows = z[self.density.log_prob(z).topk(n_dead, largest=False).indices]
        weights, means = parameters.weights.clone(), parameters.means.clone()
        weights[dead], means[dead] = 1.0 / self.n_components, rows
        covariances = parameters.covariances
        if self.covariance_type != "tied":
            nearest = self.density.responsibilities(rows).argmax(-1)
            covariances = covariances.clone()
            covariances[dead] = covariances[nearest]
        revived = MixtureParameters(weights / weights.sum(), means, covariances)
        self.density = revived.density(self.covariance_type)
        self._statistics = statistics_of_density(self.density)

    def set_state(self, state: dict[str, Tensor]) -> None:
        super().set_state(state)
        self._statistics = statistics_of_density(self.density) if state else None


class NeuralGas(ComponentRule):
    """Components on the nodes of a growing neural gas.

    The nodes and edges follow every batch; once an epoch they are turned into a
    mixture.

    Parameters
    ----------
    n_components : int
        The most nodes.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import NeuralGas
    >>> z = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)).double()
    >>> rule = NeuralGas(10)
    >>> rule.initialize(z, seed=0)
    >>> rule.density.covariance_type
    'full'
    """

    each_epoch = True

    def __init__(self, n_components: int):
        self.graph = NodeGraph(GrowthRule(n_components))
        self._started = False

    @torch.no_grad()
    def initialize(self, z: Tensor, seed: int) -> None:
        if not self._started:
            self.graph.initialize(z, seed)
            for _ in range(INITIAL_PASSES):
                self.graph.step(z)
            self._started = True
        self.density = self.graph.density(
            z, reg_covar=TRAINING_REG_COVAR, n_em_steps=GAS_EM_STEPS
        )

    @torch.no_grad()
    def step(self, z: Tensor) -> None:
        self.graph.step(z)

    def state(self) -> dict[str, Tensor]:
        if not self._started:
            return {}
        return super().state() | {
            f"graph.{name}": value for name, value in self.graph.state().items()
        }

    def set_state(self, state: dict[str, Tensor]) -> None:
        super().set_state(state)
        self.graph.set_state(
            {
                name.removeprefix("graph."): value
                for name, value in state.items()
                if name.startswith("graph.")
            }
        )
        self._started = bool(state)


class ParticleKernels(ComponentRule):
    """One component for each particle of a bank of earlier embeddings.

    All share a diagonal covariance, the squared bandwidths of the bank.

    Parameters
    ----------
    n_components : int
        Number of particles.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import ParticleKernels
    >>> z = torch.randn(500, 2, generator=torch.Generator().manual_seed(0)).double()
    >>> rule = ParticleKernels(100)
    >>> rule.initialize(z, seed=0)
    >>> rule.density.n_components
    100
    """

    def __init__(self, n_components: int):
        self.bank = Particles(n_components)

    @property
    def density(self) -> Any:
        return self.bank.density if self.bank.n_steps else None

    def initialize(self, z: Tensor, seed: int) -> None:
        self.bank.initialize(z, seed)

    def step(self, z: Tensor) -> None:
        self.bank.step(z)

    def state(self) -> dict[str, Tensor]:
        return self.bank.state() if self.bank.n_steps else {}

    def set_state(self, state: dict[str, Tensor]) -> None:
        self.bank.set_state(state)
