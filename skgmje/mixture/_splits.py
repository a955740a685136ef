"""Splits of the components of a mixture in two, many at once."""

from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import Tensor

from skgmje._backend import BLOCK_NUMBERS, as_tensor
from skgmje.mixture._em import LOG_RESPONSIBILITY_FLOOR, MixtureParameters
from skgmje.mixture._statistics import COUNT_FLOOR

# Ways in which each component is split, and EM iterations of each.
ATTEMPTS, ITERATIONS = 2, 5
# Rows that are read, and of each component relative to the most that one has.
MAX_ROWS, ROWS_OF_COMPONENT = 2000, 1.5
# Smaller halves, in rows for each of D + 1 dimensions, are not made.
MIN_ROWS_PER_DIMENSION = 2


class Pairs(NamedTuple):
    """Two components in place of one: tensors of shape (S, 2, ...).

    A tied covariance is no part of them; it is the identity of their coordinates.
    """

    weights: Tensor
    means: Tensor
    covariances: Any

    def take(self, index: Any) -> "Pairs":
        """Return some of them."""
        covariances = None if self.covariances is None else self.covariances[index]
        return Pairs(self.weights[index], self.means[index], covariances)


class Splits(NamedTuple):
    """Halves of every component, what each split gains and each absence loses."""

    pairs: Pairs
    gains: Tensor
    losses: Tensor


class Rows(NamedTuple):
    """Rows of each component, (S, D, n), with shares and log-densities (S, n)."""

    columns: Tensor
    shares: Tensor
    log_density: Tensor


def split_components(
    X: np.ndarray,
    sample_weight: Any,
    parameters: MixtureParameters,
    covariance_type: str,
    reg_covar: float,
    random_state: np.random.RandomState,
) -> Splits:
    """Split every component into the likeliest two that a few EM iterations find.

    The responsibilities of the other components are held meanwhile.

    Parameters
    ----------
    X : ndarray of shape (n_samples, D)
        Samples in random order; the first 2,000 are read.
    sample_weight : ndarray of shape (n_samples,) or None
        Their weights.
    parameters : MixtureParameters
        The mixture.
    covariance_type : {"full", "tied", "diag", "spherical"}
        Its form. A tied covariance stays as it is.
    reg_covar : float
        Added to the diagonal of the covariances.
    random_state : RandomState
        Source of the points from which the halves start.

    Returns
    -------
    splits : Splits
        Gains and losses are sums of log-likelihoods over the rows that were read; a
        loss is that before the other components move.
    """
    density = parameters.density(covariance_type)
    scale, means = density._scale, density._means
    n_components, n_features = means.shape
    columns = as_tensor(X[:MAX_ROWS], means.device).T.contiguous()
    weight = torch.ones_like(columns[0])
    if sample_weight is not None:
        weight = as_tensor(sample_weight[:MAX_ROWS], means.device)

    whitened = scale.whiten_columns(columns - means.unsqueeze(-1))
    log_density = -0.5 * whitened.square().sum(1)
    log_determinant = scale.log_determinant(n_features).unsqueeze(-1)
    log_weights = density._log_weights.unsqueeze(-1)
    resp = (log_weights - log_determinant + log_density).softmax(0)
    losses = _losses(resp, weight, parameters.weights)

    covariances: Any = parameters.covariances
    if covariance_type == "tied":
        columns = scale.whiten_columns(columns.unsqueeze(0))[0]
        means = scale.whiten_columns(means.T.unsqueeze(0))[0].T
        covariances = None
    else:
        log_density = log_density - log_determinant
        if covariance_type == "spherical":
            covariances = parameters.covariances.unsqueeze(-1)
    wholes = Pairs(parameters.weights, means, covariances)
    rows = _rows_of_components(columns, resp * weight, log_density)
    uniform = as_tensor(
        random_state.uniform(size=(n_components, ATTEMPTS)), means.device
    )

    numbers = 2 * ATTEMPTS * n_features * rows.shares.shape[1]
    parts = [
        _split(
            Rows(*(part[some] for part in rows)),
            wholes.take(some),
            uniform[some],
            reg_covar,
        )
        for some in gen_batches(n_components, max(1, BLOCK_NUMBERS // numbers))
    ]
    gains = torch.cat([gain for _, gain in parts])
    pairs = _concatenated([pair for pair, _ in parts])
    if covariance_type == "tied":
        pairs = pairs._replace(means=pairs.means @ scale.factor[0].mT)
    if covariance_type == "spherical":
        pairs = pairs._replace(covariances=pairs.covariances.squeeze(-1))
    return Splits(pairs, gains, losses)


def _losses(resp: Tensor, weight: Tensor, weights: Tensor) -> Tensor:
    """Return what the likelihood loses without each component, if no other moves."""
    others = torch.log1p(-resp.clamp(max=1.0 - COUNT_FLOOR))
    left = torch.log1p(-weights.clamp(max=1.0 - COUNT_FLOOR))
    return (weight * (left.unsqueeze(-1) - others)).sum(-1)


def _rows_of_components(columns: Tensor, shares: Tensor, log_density: Tensor) -> Rows:
    """Pick the rows of which each component has most: equally many for all."""
    most = ROWS_OF_COMPONENT * float((shares > 0.5 * shares.amax(0)).sum(1).max())
    n_rows = min(max(int(most), 1), shares.shape[1])
    shares, chosen = shares.topk(n_rows)
    return Rows(columns[:, chosen].movedim(0, 1), shares, log_density.gather(1, chosen))


def _concatenated(pairs: list[Pairs]) -> Pairs:
    weights, means, covariances = zip(*pairs, strict=True)
    tied = covariances[0] is None
    return Pairs(
        torch.cat(weights), torch.cat(means), None if tied else torch.cat(covariances)
    )


def _split(
    rows: Rows, wholes: Pairs, uniform: Tensor, reg_covar: float
) -> tuple[Pairs, Tensor]:
    """Split some components; return the better attempt at each, and its gain."""
    n_components, n_features, _ = rows.columns.shape
    columns, shares = (
        part.repeat_interleave(ATTEMPTS, 0) for part in (rows.columns, rows.shares)
    )
    pairs = _random_halves(columns, shares, wholes, uniform.reshape(-1, 1))
    for _ in range(ITERATIONS):
        _, pairs = pair_step(columns, shares, pairs, reg_covar)
    log_likelihood, _ = pair_step(columns, shares, pairs, reg_covar)
    n_rows = pairs.weights.amin(1) * shares.sum(1)
    too_small = n_rows < MIN_ROWS_PER_DIMENSION * (1 + n_features)
    log_likelihood = log_likelihood.masked_fill(too_small, -torch.inf)
    best, attempt = log_likelihood.view(n_components, ATTEMPTS).max(1)
    index = attempt + ATTEMPTS * torch.arange(n_components, device=attempt.device)
    return pairs.take(index), best - (rows.shares * rows.log_density).sum(1)


def _random_halves(
    columns: Tensor, shares: Tensor, wholes: Pairs, uniform: Tensor
) -> Pairs:
    """Start from a random point of each component and its mirror image."""
    cumulative = shares.cumsum(1)
    drawn = torch.searchsorted(cumulative, uniform * cumulative[:, -1:])
    drawn = drawn.clamp(max=shares.shape[1] - 1).unsqueeze(1)
    points = columns.take_along_dim(drawn, -1).squeeze(-1)
    mirrored = 2.0 * wholes.means.repeat_interleave(ATTEMPTS, 0) - points
    means = torch.stack([points, mirrored], 1)
    covariances = wholes.covariances
    if covariances is not None:
        covariances = covariances.repeat_interleave(ATTEMPTS, 0).unsqueeze(1)
        covariances = covariances.repeat(1, 2, *(1,) * (covariances.dim() - 2))
    return Pairs(torch.full_like(means[..., 0], 0.5), means, covariances)


def pair_step(
    columns: Tensor, shares: Tensor, pairs: Pairs, reg_covar: float
) -> tuple[Tensor, Pairs]:
    """One EM iteration of many mixtures of two, each on its own weighted samples.

    Parameters
    ----------
    columns : tensor of shape (S, D, n)
        Samples of each.
    shares : tensor of shape (S, n)
        Their weights.
    pairs : Pairs
        The mixtures, with covariances that are full, (S, 2, D, D), diagonal, (S, 2, D),
        spherical, (S, 2, 1), or fixed to the identity, None.
    reg_covar : float
        Added to the diagonal of the covariances.

    Returns
    -------
    log_likelihood : tensor of shape (S,)
        Weighted sums of log-densities without the constant of 2 pi; minus infinity
        where a component is singular.
    pairs : Pairs
        The next parameters.
    """
    deviation = columns.unsqueeze(1) - pairs.means.unsqueeze(-1)
    whitened, log_determinant = _whitened(deviation, pairs.covariances)
    log_joint = (pairs.weights.log() - log_determinant).unsqueeze(
        -1
    ) - 0.5 * whitened.square().sum(2)
    log_prob = log_joint.logsumexp(1)
    log_resp = (log_joint - log_prob.unsqueeze(1)).clamp_(LOG_RESPONSIBILITY_FLOOR)
    resp = log_resp.exp_() * shares.unsqueeze(1)
    log_likelihood = (shares * log_prob).sum(-1).nan_to_num(-torch.inf)

    counts = resp.sum(-1) + COUNT_FLOOR
    weighted = deviation * resp.unsqueeze(2)
    shift = weighted.sum(-1) / counts.unsqueeze(-1)
    covariances = pairs.covariances
    if covariances is not None:
        covariances = _covariances(
            weighted, deviation, counts, shift, covariances.shape, reg_covar
        )
    weights = counts / counts.sum(1, keepdim=True)
    return log_likelihood, Pairs(weights, pairs.means + shift, covariances)


def _whitened(deviation: Tensor, covariances: Tensor | None) -> tuple[Any, Any]:
    """Whiten deviations (S, 2, D, n); singular components become NaN."""
    if covariances is None:
        return deviation, 0.0
    n_features = deviation.shape[2]
    if covariances.dim() == 3:
        scale = covariances.sqrt()
        log_determinant = scale.expand(-1, -1, n_features).log().sum(-1)
        return deviation / scale.unsqueeze(-1), log_determinant
    factor, info = torch.linalg.cholesky_ex(covariances)
    factor = factor.masked_fill((info != 0)[..., None, None], torch.nan)
    log_determinant = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.linalg.solve_triangular(
        factor, deviation, upper=False
    ), log_determinant


def _covariances(
    weighted: Tensor,
    deviation: Tensor,
    counts: Tensor,
    shift: Tensor,
    shape: torch.Size,
    reg_covar: float,
) -> Tensor:
    """M step of covariances that have a given shape."""
    counts = counts.unsqueeze(-1)
    if len(shape) == 3:
        variances = (weighted * deviation).sum(-1) / counts - shift.square()
        variances = variances.clamp(min=0.0) + reg_covar
        spherical = shape[-1] < variances.shape[-1]
        return variances.mean(-1, keepdim=True) if spherical else variances
    covariances = weighted @ deviation.mT / counts.unsqueeze(-1)
    covariances = covariances - shift.unsqueeze(-1) * shift.unsqueeze(-2)
    covariances = 0.5 * (covariances + covariances.mT)
    covariances.diagonal(dim1=-2, dim2=-1).add_(reg_covar)
    return covariances
