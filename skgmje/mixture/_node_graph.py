"""The growing neural gas itself: nodes, edges and errors, on any device.

The classic rule takes one sample after the other. Here a batch of samples finds its
nearest nodes in one product, and what the steps of the batch do one after the other to
positions, errors and ages is composed in closed form. Only the search for the nearest
nodes sees the batch as if all of it came at once.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skgmje._backend import blocks
from skgmje.exceptions import IllDefinedCovarianceError
from skgmje.mixture._distribution import MultivariateNormalMixture
from skgmje.mixture._node_mixture import (
    em_step,
    half_edge_covariances,
    posterior,
    sum_of_products,
)

# What is left of the errors of two nodes between which a third one is put.
ERROR_SPLIT = 0.5
# So far below zero that no number of wins makes it an age.
NO_EDGE = -(2**60)
# Share of the mean variance in a cell that the prior adds in all directions.
ISOTROPIC_SHARE = 0.1


@dataclass(frozen=True)
class GrowthRule:
    """How nodes move and when they are added: the parameters of Fritzke's rule.

    Attributes
    ----------
    n_nodes : int
        The most nodes.
    epsilon_winner, epsilon_neighbor : float
        Steps of the nearest node and of its neighbours towards a sample.
    max_age : int
        Wins of its ends that an edge survives without being confirmed.
    insertion_interval : int
        Samples between two new nodes.
    error_decay : float
        Factor of all errors after each sample.
    target_error : float
        Root mean squared distance of the samples at which growth pauses.
    """

    n_nodes: int = 100
    epsilon_winner: float = 0.1
    epsilon_neighbor: float = 0.001
    max_age: int = 50
    insertion_interval: int = 100
    error_decay: float = 0.995
    target_error: float = 0.0


class NodeGraph:
    """Nodes that a stream of samples moves, joins and adds.

    Parameters
    ----------
    rule : GrowthRule
        The parameters of the rule.

    Attributes
    ----------
    nodes : tensor of float64 of shape (K, D)
        Positions.
    errors : tensor of float64 of shape (K,)
        Decaying sums of squared distances of the samples that each node won.
    ages : tensor of int64 of shape (K, K)
        Ages of the edges, and negative numbers where there is none.
    idle : tensor of int64 of shape (K,)
        Number of samples since each node was last the nearest one.
    progress : tensor of float64 of shape (2,)
        Number of samples since the last insertion, and their squared distances.

    Examples
    --------
    >>> import torch
    >>> from skgmje.mixture._node_graph import GrowthRule, NodeGraph
    >>> z = torch.rand(5000, 2, generator=torch.Generator().manual_seed(0)).double()
    >>> graph = NodeGraph(GrowthRule(n_nodes=20))
    >>> graph.initialize(z, seed=0)
    >>> graph.step(z)
    >>> graph.nodes.shape, graph.density(z).covariance_type
    (torch.Size([20, 2]), 'full')
    """

    nodes: Tensor
    errors: Tensor
    ages: Tensor
    idle: Tensor
    progress: Tensor

    def __init__(self, rule: GrowthRule):
        self.rule = rule

    # ----------------------------------------------------------------------- state

    def initialize(self, z: Tensor, seed: int) -> None:
        """Put two nodes on random rows of z (n_samples, D), different if any are."""
        generator = torch.Generator(device=z.device).manual_seed(seed)
        order = torch.randperm(len(z), generator=generator, device=z.device)
        first = z[order[0]]
        differs = (z[order] != first).any(1).long()
        second = z[order[differs.argmax()]]
        self.nodes = torch.stack([first, second]).double()
        self.errors = self.nodes.new_zeros(2)
        self.ages = torch.full((2, 2), NO_EDGE, device=z.device)
        self.idle = self.ages.new_zeros(2)
        self.progress = self.nodes.new_zeros(2)

    def state(self) -> dict[str, Tensor]:
        """Return all that a graph remembers, as tensors with names."""
        names = ("nodes", "errors", "ages", "idle", "progress")
        return {name: getattr(self, name).clone() for name in names}

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` returned."""
        for name, value in state.items():
            setattr(self, name, value.clone())

    # -------------------------------------------------------------------- learning

    @torch.no_grad()
    def step(self, z: Tensor) -> None:
        """Learn from samples z (n_samples, D) in their order, and grow meanwhile."""
        z = z.to(self.nodes.dtype)
        rule = self.rule
        while len(z):
            interval = rule.insertion_interval
            if len(self.nodes) >= rule.n_nodes:  # one sample a node is as good
                interval = max(interval, len(self.nodes))
            n_left = max(1, interval - int(self.progress[0]))
            batch, z = z[:n_left], z[n_left:]
            self._learn(batch)
            if self.progress[0] >= interval:
                self._grow()

    def _learn(self, z: Tensor) -> None:
        """Compose the steps of a batch that lies between two insertions."""
        rule, n_nodes = self.rule, len(self.nodes)
        winner, second = self._two_nearest(z)
        distance = (z - self.nodes[winner]).square().sum(1)
        self.progress = self.progress + torch.stack(
            [distance.new_tensor(len(z)), distance.sum()]
        )
        # Errors decay after each sample.
        n_after = torch.arange(len(z) - 1, -1, -1, device=z.device)
        decay = rule.error_decay ** (n_after + 1).to(z.dtype)
        self.errors = (self.errors * rule.error_decay ** len(z)).index_add(
            0, winner, distance * decay
        )
        self.idle = (self.idle + len(z)).scatter_reduce(
            0, winner, n_after, "amin", include_self=False
        )
        # A step w += a (z - w) keeps 1 - a of what was there before, so that a sample
        # counts by its own a, times what all later steps kept of it.
        neighbors = (self.ages[winner] >= 0).to(z.dtype)
        own = winner[:, None]
        rate = (rule.epsilon_neighbor * neighbors).scatter(1, own, rule.epsilon_winner)
        log_kept = (math.log1p(-rule.epsilon_neighbor) * neighbors).scatter(
            1, own, math.log1p(-rule.epsilon_winner)
        )
        log_after = log_kept.cumsum(0)
        log_total = log_after[-1].clone()
        shares = (log_total - log_after).exp_().mul_(rate)
        self.nodes = log_total.exp()[:, None] * self.nodes + shares.T @ z
        # Every win ages the edges of the winner, and makes that to the second new.
        wins = torch.bincount(winner, minlength=n_nodes)
        self.ages = (self.ages + wins).add_(wins[:, None])
        by_either = (winner == own) | (winner == second[:, None])
        wins_after = by_either.triu(1).sum(1)
        pair = torch.cat([winner * n_nodes + second, second * n_nodes + winner])
        # The last of equal pairs has the fewest wins after it.
        self.ages.view(-1).scatter_reduce_(
            0, pair, wins_after.repeat(2), "amin", include_self=False
        )
        self._forget()

    def _two_nearest(self, z: Tensor) -> Any:
        half_distance = 0.5 * self.nodes.square().sum(1) - z @ self.nodes.T
        return half_distance.topk(2, largest=False).indices.unbind(1)

    def _forget(self) -> None:
        """Drop old edges, the nodes that have none left, and those that are idle.

        A node without a sample of its own makes nothing older, and so its edges would
        last for ever.
        """
        rule = self.rule
        if self.ages.amax() > rule.max_age:
            self.ages = self.ages.masked_fill(self.ages > rule.max_age, NO_EDGE)
            self.keep(self.ages.amax(1) >= 0)
        active = self.idle <= rule.max_age * rule.n_nodes
        if active.sum() >= 2:
            self.keep(active)

    def keep(self, mask: Tensor) -> None:
        """Keep some of the nodes, by a mask of shape (K,)."""
        if mask.all():
            return
        self.nodes, self.errors = self.nodes[mask], self.errors[mask]
        self.ages, self.idle = self.ages[mask][:, mask], self.idle[mask]

    def _grow(self) -> None:
        """Add a node between the node with the largest error and its worst neighbour.

        Not at the node budget, nor where the samples are near enough.
        """
        n_seen, squared = self.progress.tolist()
        self.progress = torch.zeros_like(self.progress)
        n_nodes = len(self.nodes)
        near = squared <= n_seen * self.rule.target_error**2
        if n_nodes >= self.rule.n_nodes or near:
            return
        worst = int(self.errors.argmax())
        joined = self.ages[worst] >= 0
        if not joined.any():
            return
        other = int(self.errors.masked_fill(~joined, -torch.inf).argmax())
        middle = 0.5 * (self.nodes[worst] + self.nodes[other])
        self.nodes = torch.cat([self.nodes, middle[None]])
        errors = torch.nn.functional.pad(self.errors, (0, 1))
        errors[[worst, other]] *= ERROR_SPLIT
        errors[-1] = errors[worst]
        self.errors = errors
        ages = torch.nn.functional.pad(self.ages, (0, 1, 0, 1), value=NO_EDGE)
        ages[worst, other] = ages[other, worst] = NO_EDGE
        ages[-1, [worst, other]] = ages[[worst, other], -1] = 0
        self.ages = ages
        self.idle = torch.nn.functional.pad(self.idle, (0, 1))

    @torch.no_grad()
    def settle(self, z: Tensor) -> None:
        """Replace the edges by those that samples z confirm often enough.

        An edge lives on if its ends win at most `max_age` times, in the mean over z,
        between two samples that confirm it. Those means are the new ages. They do not
        depend on which samples came last, so that one outlier joins no branches. Nodes
        that win nothing, or have no edge left, are dropped.
        """
        while True:
            n_nodes = len(self.nodes)
            winner, second = self.nearest(z, 2)[1].T
            pairs = torch.bincount(winner * n_nodes + second, minlength=n_nodes**2)
            pairs = pairs.reshape(n_nodes, n_nodes)
            confirmed = pairs + pairs.T
            wins = pairs.sum(1)
            ages = (wins + wins[:, None]) // confirmed.clamp(min=1) - 1
            kept = (confirmed > 0) & (ages <= self.rule.max_age)
            self.ages = torch.where(kept, ages, NO_EDGE)
            alive = (wins > 0) & (kept.any(1) | ~kept.any())
            if alive.sum() < 2:  # all samples are equal, say
                alive[confirmed.sum(1).topk(2).indices] = True
            if alive.all():
                return
            self.keep(alive)

    # ------------------------------------------------------------------- inference

    def nearest(self, z: Tensor, n_nearest: int = 1) -> tuple[Tensor, Tensor]:
        """Return the distances of samples to their nearest nodes, and these nodes.

        Both have shape (n_samples, n_nearest).
        """
        parts = [
            self.distances(z[rows]).topk(n_nearest, largest=False)
            for rows in blocks(len(z), len(self.nodes))
        ]
        distance, node = zip(*parts, strict=True)
        return torch.cat(distance), torch.cat(node)

    def distances(self, z: Tensor) -> Tensor:
        """Return distances (n_samples, K), each by differences: no digit cancels."""
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(z, self.nodes, compute_mode=mode)

    @torch.no_grad()
    def density(
        self, z: Tensor, *, reg_covar: float = 0.0, n_em_steps: int = 0
    ) -> MultivariateNormalMixture:
        r"""Turn the nodes into a mixture whose components stretch along the edges.

        .. math:: \Sigma_k = \frac{S_k + n_0 (E_k + 0.1 s^2 I)}{N_k + n_0}
                  + \epsilon I, \qquad n_0 = D + 1

        The cell of a node are the samples nearest to it: there are N_k of them, with
        scatter S_k about the node. E_k is the mean of ``d d' / 4`` over the differences
        d to the neighbours, and s² the mean variance in a cell and direction. Weights
        are proportional to ``N_k + 0.1``. The form is our derivation, not the paper's.

        Parameters
        ----------
        z : tensor of shape (n_samples, D)
            Samples.
        reg_covar : float, default=0.0
            Added to the diagonal of the covariances.
        n_em_steps : int, default=0
            Number of EM iterations that follow, with the same prior.

        Returns
        -------
        mixture : MultivariateNormalMixture
            One component a node, in float64 on the device of z.

        Raises
        ------
        IllDefinedCovarianceError
            If all samples lie on nodes.
        """
        z = z.to(self.nodes.dtype)
        distance, node = (part[:, 0] for part in self.nearest(z))
        mean_variance = distance.square().mean() / z.shape[1]
        if mean_variance == 0 and reg_covar == 0:
            raise IllDefinedCovarianceError(
                "Every sample lies on a node, so that the components have no width; "
                "use fewer nodes."
            )
        edges = (self.ages >= 0).nonzero().T
        prior = half_edge_covariances(self.nodes, edges)
        prior.diagonal(dim1=-2, dim2=-1).add_(ISOTROPIC_SHARE * mean_variance)
        counts = torch.bincount(node, minlength=len(self.nodes)).to(z.dtype)
        scatter = sum_of_products(z - self.nodes[node], node, len(self.nodes))
        density = posterior(counts, self.nodes, scatter, prior, reg_covar)
        for _ in range(n_em_steps):
            density = em_step(z, density, prior, reg_covar)
        return density
