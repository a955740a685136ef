"""Nearest neighbours among embeddings, and the entropy that their distances give."""

import math

import torch
from scipy.special import digamma
from torch import Tensor

# Distances in memory at once.
DISTANCE_BLOCK_NUMBERS = 2**22
# Added to distances, so that duplicates have a logarithm.
DISTANCE_FLOOR = 1e-8


@torch.no_grad()
def kth_neighbours(z: Tensor, k: int) -> Tensor:
    """Find the row that is the k-th nearest to every row, in blocks.

    Parameters
    ----------
    z : tensor of shape (n_samples, n_features)
        Points.
    k : int
        Which neighbour, from 1; a point is not its own neighbour.

    Returns
    -------
    neighbours : tensor of int64 of shape (n_samples,)
        Indices of rows.
    """
    # Without the product form of squared distances, which cancels in tight clusters.
    mode = "donot_use_mm_for_euclid_dist"
    rows = torch.arange(len(z), device=z.device)
    parts = []
    for block in rows.split(max(1, DISTANCE_BLOCK_NUMBERS // len(z))):
        distances = torch.cdist(z[block], z, compute_mode=mode)
        distances[rows[: len(block)], block] = torch.inf
        parts.append(distances.topk(k, largest=False).indices[:, -1])
    return torch.cat(parts)


def neighbour_entropy(z: Tensor, k: int) -> Tensor:
    """Kozachenko-Leonenko entropy in nats of points of shape (n_samples, n_features).

    The distance to the k-th neighbour is differentiable; a distance of zero counts as
    the floor and has a zero gradient.
    """
    z = z.double()
    n_samples, n_features = z.shape
    between = z - z[kth_neighbours(z.detach(), k)]
    log_distance = (between.norm(dim=1) + DISTANCE_FLOOR).log()
    half = 0.5 * n_features
    log_ball = half * math.log(math.pi) - math.lgamma(half + 1)
    constant = digamma(n_samples) - digamma(k) + log_ball
    return float(constant) + n_features * log_distance.mean()
