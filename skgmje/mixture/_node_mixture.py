"""From the nodes of a graph to a mixture: cells, half edges and their posterior."""

import torch
from torch import Tensor

from skgmje._backend import blocks
from skgmje.mixture._distribution import MultivariateNormalMixture
from skgmje.mixture._em import expectation
from skgmje.mixture._statistics import scale_of_covariances

# Samples that every component has before it sees any.
EMPTY_COUNT = 0.1


def half_edge_covariances(nodes: Tensor, edges: Tensor) -> Tensor:
    """Mean over neighbours j of (w_j - w_k)(w_j - w_k)' / 4, of shape (K, D, D).

    Edges have shape (2, n_edges), each in both directions.
    """
    node, neighbor = edges
    half = 0.5 * (nodes[neighbor] - nodes[node])
    degree = torch.bincount(node, minlength=len(nodes)).clamp(min=1)
    return sum_of_products(half, node, len(nodes)) / degree[:, None, None]


def sum_of_products(deviation: Tensor, group: Tensor, n_groups: int) -> Tensor:
    """Sum d d' over the rows d of each group; the sums have shape (n_groups, D, D)."""
    n_features = deviation.shape[1]
    total = deviation.new_zeros(n_groups, n_features, n_features)
    for rows in blocks(len(deviation), n_features**2):
        part = deviation[rows]
        total.index_add_(0, group[rows], part[:, :, None] * part[:, None, :])
    return total


def em_step(
    z: Tensor, density: MultivariateNormalMixture, prior: Tensor, reg_covar: float
) -> MultivariateNormalMixture:
    """Return the mixture after an EM step with the prior covariances (K, D, D)."""
    statistics = expectation(z, density, "full")
    counts = statistics.counts.clamp(min=EMPTY_COUNT)
    means = statistics.reference + statistics.first / counts[:, None]
    scatter = statistics.around(means).second
    return posterior(statistics.counts, means, scatter, prior, reg_covar)


def posterior(
    counts: Tensor, means: Tensor, scatter: Tensor, prior: Tensor, reg_covar: float
) -> MultivariateNormalMixture:
    """Mixture whose covariances weigh the prior as D + 1 samples."""
    strength = means.shape[1] + 1
    covariances = (scatter + strength * prior) / (counts + strength)[:, None, None]
    covariances = 0.5 * (covariances + covariances.mT)
    covariances.diagonal(dim1=-2, dim2=-1).add_(reg_covar)
    weights = counts + EMPTY_COUNT
    return MultivariateNormalMixture._from_parts(
        (weights / weights.sum()).log(),
        means,
        scale_of_covariances(covariances, "full"),
    )
