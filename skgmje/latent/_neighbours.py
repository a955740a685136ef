"""Nearest neighbours among embeddings, and the entropy that their distances give."""

import math
from collections.abc import Sequence

import torch
from scipy.special import digamma
from torch import Tensor

# Distances in memory at once; arrays much larger than this split up the heap.
DISTANCE_BLOCK_NUMBERS = 2**20
# Added to distances, so that duplicates have a logarithm.
DISTANCE_FLOOR = 1e-8


@torch.no_grad()
def kth_neighbours(z: Tensor, k: int, n_spheres: int = 0) -> Tensor:
    """Find the row that is the k-th nearest to every row, in blocks.

    Parameters
    ----------
    z : tensor of shape (n_samples, n_features)
        Points.
    k : int
        Which neighbour, from 1; a point is not its own neighbour.
    n_spheres : int, default=0
        If positive, points lie on a product of so many unit spheres of equal width, and
        distances are along great circles.

    Returns
    -------
    neighbours : tensor of int64 of shape (n_samples,)
        Indices of rows.
    """
    rows = torch.arange(len(z), device=z.device)
    neighbours = torch.empty_like(rows)
    for block in rows.split(max(1, DISTANCE_BLOCK_NUMBERS // len(z))):
        distances = _all_distances(z[block], z, n_spheres)
        distances[rows[: len(block)], block] = torch.inf
        neighbours[block] = distances.topk(k, largest=False).indices[:, -1]
    return neighbours


def _all_distances(z: Tensor, others: Tensor, n_spheres: int) -> Tensor:
    # Without the product form of squared distances, which cancels in tight clusters.
    mode = "donot_use_mm_for_euclid_dist"
    if not n_spheres:
        return torch.cdist(z, others, compute_mode=mode)
    views = zip(z.chunk(n_spheres, 1), others.chunk(n_spheres, 1), strict=True)
    chords = [torch.cdist(*view, compute_mode=mode) for view in views]
    # For one sphere the order of chords is that of arcs.
    if n_spheres == 1:
        return chords[0]
    arcs = [2 * (0.5 * chord).clamp(max=1).asin() for chord in chords]
    return torch.stack(arcs).norm(dim=0)


def _distances(z: Tensor, others: Tensor, n_spheres: int) -> Tensor:
    """Differentiable distances, row by row."""
    if not n_spheres:
        return (z - others).norm(dim=1)
    views = zip(z.chunk(n_spheres, 1), others.chunk(n_spheres, 1), strict=True)
    arcs = [2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1)) for a, b in views]
    return torch.stack(arcs).norm(dim=0)


def neighbour_entropy(
    views: Sequence[Tensor],
    k: int,
    *,
    geodesic: bool = False,
    clip_quantile: float | None = None,
) -> Tensor:
    """Kozachenko-Leonenko entropy in nats of the rows of one view or several together.

    The distance to the k-th neighbour is differentiable; a distance of zero counts as
    the floor and has a zero gradient, as have distances above the quantile.
    """
    z = torch.cat([view.double() for view in views], dim=1)
    n_spheres = len(views) if geodesic else 0
    n_samples, dimension = len(z), z.shape[1] - n_spheres
    distance = _distances(z, z[kth_neighbours(z.detach(), k, n_spheres)], n_spheres)
    if clip_quantile is not None:
        distance = distance.clamp(max=distance.detach().quantile(clip_quantile))
    log_distance = (distance + DISTANCE_FLOOR).log()
    half = 0.5 * dimension
    log_ball = half * math.log(math.pi) - math.lgamma(half + 1)
    constant = digamma(n_samples) - digamma(k) + log_ball
    return float(constant) + dimension * log_distance.mean()
