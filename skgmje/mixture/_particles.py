"""Weighted particles that follow a stream of samples: a sequential Monte Carlo bank.

A particle is a sample that was kept, the centre of a kernel that all particles share.
What the bank does at a batch is one E step on it, from which both the weights and the
widths of the kernel learn, before the batch itself becomes particles.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from skgmje._backend import blocks
from skgmje.mixture._distribution import MultivariateNormalMixture

# Weight of a batch in the running squared bandwidths.
BANDWIDTH_RATE = 0.5
# The first bandwidths are fitted to this many samples, until no logarithm of a squared
# bandwidth changes by more than the tolerance.
START_ROWS, START_ITERATIONS, START_TOL = 1024, 50, 1e-2
_STATE = ("positions", "weights", "bandwidths")
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def effective_sample_size(weights: Tensor) -> Tensor:
    """Return the number of equal weights that would be as even."""
    shares = weights / weights.max()
    return shares.sum().square() / shares.square().sum()


def systematic_resampling(weights: Tensor, n_draws: int, offset: Any) -> Tensor:
    """Draw with one random number: counts differ from their means by less than one.

    Parameters
    ----------
    weights : tensor of shape (n,)
        Weights, not negative, of any sum.
    n_draws : int
        Number of draws.
    offset : float or tensor of shape ()
        Uniform on [0, 1).

    Returns
    -------
    indices : tensor of int64 of shape (n_draws,)
        Drawn indices, ascending; index i is drawn ``n_draws * weights[i] /
        weights.sum()`` times on average, rounded up or down at each draw.
    """
    cumulative = weights.cumsum(0)
    steps = torch.arange(n_draws, dtype=weights.dtype, device=weights.device)
    positions = (steps + offset) * (cumulative[-1] / n_draws)
    indices = torch.searchsorted(cumulative, positions, right=True)
    # Rounding may carry the last position past the last particle that has a weight.
    return indices.clamp(max=int(weights.nonzero()[-1]))


class Shares(NamedTuple):
    """Sums of an E step: shares of particles, squared deviations, samples."""

    particles: Tensor
    squares: Tensor
    n_samples: int


class Particles:
    """Bank of weighted particles with one kernel, in float64 on the samples' device.

    Parameters
    ----------
    n_particles : int
        Number of particles that are kept.
    bandwidth : {"ml", "silverman"}, float or tensor of shape (D,)
        Standard deviations of the kernel.
    learning_rate : float
        Weight of a batch in the weights of the particles; zero leaves them equal, and
        keeps the last `n_particles` samples.
    decay : float
        Factor of the older weights at every batch.
    min_ess : float
        Share of effective particles below which they are drawn anew.
    jitter : float
        Standard deviation, in bandwidths, of the noise on particles drawn anew.
    min_bandwidth : float
        Floor of the bandwidths, in units of the samples.

    Attributes
    ----------
    positions : tensor of shape (n, D)
        Particles, the oldest first.
    weights : tensor of shape (n,)
        Their weights, of mean one: a new sample starts with the weight one.
    bandwidths : tensor of shape (D,)
        Standard deviations of the kernel.
    """

    positions: Tensor
    weights: Tensor
    bandwidths: Tensor

    def __init__(
        self,
        n_particles: int,
        *,
        bandwidth: Any = "ml",
        learning_rate: float = 0.1,
        decay: float = 1.0,
        min_ess: float = 0.5,
        jitter: float = 0.0,
        min_bandwidth: float = 1e-6,
    ):
        self.n_particles, self.bandwidth = n_particles, bandwidth
        self.learning_rate, self.decay = learning_rate, decay
        self.min_ess, self.jitter = min_ess, jitter
        self.min_bandwidth = min_bandwidth
        self.seed, self.n_steps = 0, 0

    @property
    def density(self) -> MultivariateNormalMixture:
        """The weighted kernel density; all components share one diagonal scale."""
        return MultivariateNormalMixture.from_log_weights(
            self._log_shares(),
            self.positions,
            scale_diag=self.bandwidths.unsqueeze(0),
        )

    @torch.no_grad()
    def initialize(self, z: Tensor, seed: int) -> None:
        """Start with samples (n, D); of too many, with some at random."""
        z = z.detach().double()
        self.seed, self.n_steps = seed, 0
        order = torch.randperm(len(z), generator=self._generator())
        z = z[order.to(z.device)]
        self.positions = z[: self.n_particles]
        self.weights = z.new_ones(len(self.positions))
        self.bandwidths = self._given_or_silverman()
        if self._bandwidth_is("ml"):
            self._fit_bandwidths(z[-START_ROWS:])
        self.n_steps = 1

    @torch.no_grad()
    def step(self, z: Tensor) -> None:
        """Take in a batch of samples (n, D)."""
        z = z.detach().double()
        self._learn(z, self.learning_rate, BANDWIDTH_RATE)
        self._inject(z)
        if len(self.positions) > self.n_particles:
            self._contract()
        self.weights = self.weights / self.weights.mean()
        if self._bandwidth_is("silverman"):
            self.bandwidths = self._given_or_silverman()
        self.n_steps += 1

    @torch.no_grad()
    def refine(self, z: Tensor) -> None:
        """Take one EM step on samples (n, D), which do not become particles."""
        self._learn(z.detach().double(), weights_rate=1.0, bandwidth_rate=1.0)

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        """Log-densities of samples (n, D), in nats, block by block."""
        parts = [self._log_joint(block)[0].logsumexp(1) for block in self._blocks(z)]
        return torch.cat(parts)

    # ---------------------------------------------------------------------- learning

    def _learn(self, z: Tensor, weights_rate: float, bandwidth_rate: float) -> None:
        """Move weights and bandwidths towards the optimum of an E step.

        The E step bounds the likelihood by a sum of one function of the weights and one
        of each bandwidth, each with a single peak, so that a part of the way to the
        peak raises the likelihood too.
        """
        shares = self._expectation(z)
        if shares.n_samples == 0:
            return
        peak = shares.particles * (self.weights.sum() / shares.n_samples)
        self.weights = torch.lerp(self.weights, peak, weights_rate)
        if self._bandwidth_is("ml"):
            peak = self._floored(shares.squares / shares.n_samples)
            squared = torch.lerp(self.bandwidths.square(), peak, bandwidth_rate)
            self.bandwidths = squared.sqrt()

    def _expectation(self, z: Tensor) -> Shares:
        """E step, in which a copy of a sample explains nothing about it.

        Where a sample is a particle already, the others have to account for it. So the
        likelihood that is maximised is a held-out one, also when samples come again. A
        sample that knows nothing but its copies has no say.
        """
        # About the centre, so that little cancels in the squares.
        centre = self.weights @ self.positions / self.weights.sum()
        positions = self.positions - centre
        particles = torch.zeros_like(self.weights)
        squares, n_samples = torch.zeros_like(self.bandwidths), 0
        for block in self._blocks(z):
            log_joint, is_copy = self._log_joint(block)
            log_joint.masked_fill_(is_copy, -torch.inf)
            has_say = log_joint.amax(1) > -torch.inf
            shares, z_block = log_joint[has_say].softmax(1), block[has_say] - centre
            particles += shares.sum(0)
            cross = z_block.square() - 2 * z_block * (shares @ positions)
            squares += cross.sum(0) + shares.sum(0) @ positions.square()
            n_samples += len(z_block)
        return Shares(particles, squares, n_samples)

    def _log_joint(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Log share times kernel, and whether each particle is a copy of a sample."""
        # Without products: they would lose what is small beside the samples.
        distances = torch.cdist(
            z / self.bandwidths,
            self.positions / self.bandwidths,
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        log_height = -self.bandwidths.log().sum() - z.shape[1] * _HALF_LOG_2PI
        log_joint = self._log_shares() + log_height - 0.5 * distances.square()
        return log_joint, distances == 0

    def _log_shares(self) -> Tensor:
        return (self.weights / self.weights.sum()).log()

    def _blocks(self, z: Tensor) -> Iterator[Tensor]:
        for rows in blocks(len(z), 2 * len(self.weights)):
            yield z[rows]

    # ----------------------------------------------------------------------- turnover

    def _inject(self, z: Tensor) -> None:
        """Append a batch, each sample with the mean weight."""
        self.weights = torch.cat([self.decay * self.weights, z.new_ones(len(z))])
        self.positions = torch.cat([self.positions, z])

    def _contract(self) -> None:
        """Go back to `n_particles`: the heaviest, or a draw if few are effective."""
        weights, n = self.weights, self.n_particles
        if effective_sample_size(weights) < self.min_ess * len(weights):
            generator = self._generator()
            offset = torch.rand((), generator=generator).to(weights)
            kept = systematic_resampling(weights, n, offset)
            noise = torch.randn(n, self.positions.shape[1], generator=generator)
            moved = self.jitter * self.bandwidths * noise.to(self.positions)
            self.positions = self.positions[kept] + moved
            self.weights = weights.new_ones(n)
            return
        # Stable, so that of equal weights the oldest go: equal weights make a queue.
        order = torch.sort(weights, stable=True).indices
        kept = order[-n:].sort().values
        self.positions, self.weights = self.positions[kept], weights[kept]

    # --------------------------------------------------------------------- bandwidths

    def _bandwidth_is(self, rule: str) -> bool:
        return isinstance(self.bandwidth, str) and self.bandwidth == rule

    def _floored(self, squares: Tensor) -> Tensor:
        return squares.clamp(min=self.min_bandwidth**2)

    def _given_or_silverman(self) -> Tensor:
        """Bandwidths that are given, or those of the rule for the present particles."""
        n, n_features = self.positions.shape
        if not isinstance(self.bandwidth, str):
            given = torch.as_tensor(self.bandwidth).to(self.positions)
            return given.expand(n_features).contiguous()
        weights = self.weights / self.weights.sum()
        deviation = self.positions - weights @ self.positions
        factor = n ** (-2 / (n_features + 4))
        return self._floored(factor * (weights @ deviation.square())).sqrt()

    def _fit_bandwidths(self, z: Tensor) -> None:
        """Maximise the likelihood of samples over the bandwidths alone."""
        for _ in range(START_ITERATIONS):
            before = self.bandwidths
            self._learn(z, weights_rate=0.0, bandwidth_rate=1.0)
            if (self.bandwidths / before).log().abs().max() < START_TOL:
                return

    # -------------------------------------------------------------------------- state

    def _generator(self) -> torch.Generator:
        """Source of this step's randomness, the same after a reload."""
        return torch.Generator().manual_seed(self.seed + self.n_steps)

    def state(self) -> dict[str, Tensor]:
        """Return what a bank of the same settings goes on from; once started."""
        if self.n_steps == 0:
            return {}
        tensors = {name: getattr(self, name) for name in _STATE}
        counters = {"seed": self.seed, "n_steps": self.n_steps}
        return tensors | {k: torch.tensor(v) for k, v in counters.items()}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        if not state:
            return
        self.positions, self.weights, self.bandwidths = (state[k] for k in _STATE)
        self.seed, self.n_steps = int(state["seed"]), int(state["n_steps"])
