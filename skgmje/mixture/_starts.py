"""Starts of EM: short runs, then components moved from where two share a cluster.

EM stops at the nearest maximum, and how good that is depends on the start. A component
between two clusters stays there however many restarts are tried, so after a few short
runs the best one is improved: a component that the others could replace is taken away
and one that hides two clusters is split. All candidates are run side by side.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skgmje._backend import as_numpy, as_tensor, blocks
from skgmje.exceptions import IllDefinedCovarianceError
from skgmje.mixture._em import (
    ILL_DEFINED_COVARIANCE,
    LOG_RESPONSIBILITY_FLOOR,
    MixtureParameters,
    expectation,
    maximization,
)
from skgmje.mixture._statistics import COUNT_FLOOR

# Starts, their k-means iterations and the EM iterations before the best is chosen.
STARTS, KMEANS_ITERATIONS, START_ITERATIONS = 4, 10, 4
# Rounds of moves, and rounds without success after which the search ends.
ROUNDS, PATIENCE = 8, 2
# Single moves tried in a round, and EM iterations before the best is chosen.
MOVES, MOVE_ITERATIONS = 4, 5
# Ways in which each component is split, and EM iterations of each.
SPLITS, SPLIT_ITERATIONS = 2, 5
# A component smaller than this many times D + 1 rows is not made.
MIN_ROWS_PER_DIMENSION = 2
# Rows on which candidates are run: some for each free parameter, within limits.
ROWS_PER_PARAMETER, MIN_ROWS, MAX_ROWS = 10, 1000, 5000
# Rows on which splits are tried.
SPLIT_ROWS = 2000
# EM iterations, on more rows, after which the best goes to the estimator.
LAST_ITERATIONS, LAST_ROWS = 10, 10_000


def best_of_short_runs(
    mixture: Any,
    X: Any,
    random_state: np.random.RandomState,
    sample_weight: Any = None,
) -> MixtureParameters:
    """Search for parameters from which EM ends at a high likelihood.

    Parameters
    ----------
    mixture : GaussianMixture
        Gives the form of the mixture.
    X : ndarray or tensor of shape (n_samples, n_features)
        Samples without missing values; at most 10,000 rows are read.
    random_state : RandomState
        Source of the rows, of the starts and of the splits.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples.

    Returns
    -------
    parameters : MixtureParameters
        The likeliest parameters on the rows that were read.

    Raises
    ------
    IllDefinedCovarianceError
        If every start ends in a singular component.

    References
    ----------
    Biernacki, Celeux and Govaert, *Choosing starting values for the EM algorithm for
    getting the highest likelihood in multivariate Gaussian mixture models* (2003).
    Ueda, Nakano, Ghahramani and Hinton, *SMEM algorithm for mixture models* (2000).
    """
    chosen = np.sort(random_state.permutation(X.shape[0])[:LAST_ROWS])
    rows = X[chosen]
    rows = as_numpy(rows) if isinstance(rows, Tensor) else np.asarray(rows)
    weight = None if sample_weight is None else np.asarray(sample_weight)[chosen]
    search = Search(mixture, rows, weight, random_state)
    best = search.start()
    failures = 0
    try:
        for _ in range(ROUNDS if mixture.n_components > 1 else 0):
            best, moved = search.move(best)
            failures = 0 if moved else failures + 1
            if failures == PATIENCE:
                break
        return search.finish(best)
    except KeyboardInterrupt:
        return best.parameters()


@dataclass(frozen=True)
class Mixtures:
    """Several mixtures of one form side by side.

    Attributes
    ----------
    weights : tensor of shape (S, K)
        Weights of the components of each.
    means : tensor of shape (S, K, D)
        Means.
    covariances : tensor
        Of shape (S, K, D, D), (S, 1, D, D) if tied, (S, K, D) if diagonal, or
        (S, K, 1) if spherical.
    covariance_type : {"full", "tied", "diag", "spherical"}
        The form.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    covariance_type: str

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, index: Any) -> "Mixtures":
        return self.map(lambda part: part[index])

    def __add__(self, other: "Mixtures") -> "Mixtures":
        return replace(
            self,
            weights=torch.cat([self.weights, other.weights]),
            means=torch.cat([self.means, other.means]),
            covariances=torch.cat([self.covariances, other.covariances]),
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> "Mixtures":
        """Return mixtures with a function applied to each of the tensors."""
        return replace(
            self,
            weights=function(self.weights),
            means=function(self.means),
            covariances=function(self.covariances),
        )

    def components(self) -> "Mixtures":
        """Return each component of the first mixture as a mixture of its own."""
        covariances = self.covariances[0].unsqueeze(1)
        covariances = covariances.expand(self.means.shape[1], *covariances.shape[1:])
        weights = torch.ones_like(self.weights[0]).unsqueeze(1)
        return replace(
            self,
            weights=weights,
            means=self.means[0].unsqueeze(1),
            covariances=covariances,
        )

    def parameters(self) -> MixtureParameters:
        """Return the first mixture in scikit-learn's layout."""
        covariances = self.covariances[0]
        if self.covariance_type == "tied":
            covariances = covariances.squeeze(0)
        elif self.covariance_type == "spherical":
            covariances = covariances.squeeze(-1)
        return MixtureParameters(self.weights[0], self.means[0], covariances)

    def whitening(self) -> tuple[Tensor, Tensor]:
        """Return what whitens deviations, and log-determinants of shape (S, K or 1).

        Of a singular component both are NaN, and so are all its likelihoods.
        """
        if self.covariance_type in ("full", "tied"):
            factor, info = torch.linalg.cholesky_ex(self.covariances)
            factor = factor.masked_fill((info != 0)[..., None, None], torch.nan)
            unit = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
            inverse = torch.linalg.solve_triangular(
                factor, unit.expand_as(factor), upper=False
            )
            return inverse, factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        scale = self.covariances.sqrt().expand_as(self.means)
        return scale.reciprocal().unsqueeze(-1), scale.log().sum(-1)

    def log_joint(self, deviation: Tensor, whitening: tuple[Tensor, Tensor]) -> Tensor:
        """Log weight plus log-density for deviations of shape (S, K, D, n)."""
        inverse, log_determinant = whitening
        triangular = self.covariance_type in ("full", "tied")
        whitened = inverse @ deviation if triangular else inverse * deviation
        constant = self.means.shape[-1] * 0.5 * np.log(2 * np.pi)
        log_weights = self.weights.log() - log_determinant - constant
        return log_weights.unsqueeze(-1) - 0.5 * whitened.square().sum(2)


class Sums:
    """Sums over samples of which the M step of several mixtures makes parameters."""

    def __init__(self, means: Tensor, covariance_type: str):
        self.means, self.covariance_type = means, covariance_type
        self.totals: list[Any] = [0.0, 0.0, 0.0]

    def add(self, deviation: Tensor, resp: Tensor) -> None:
        """Add a block of deviations (S, K, D, n) with responsibilities (S, K, n)."""
        weighted = deviation * resp.unsqueeze(2)
        if self.covariance_type in ("full", "tied"):
            second = weighted @ deviation.mT
        else:
            second = (weighted * deviation).sum(-1)
        new = (resp.sum(-1), weighted.sum(-1), second)
        self.totals = [
            total + part for total, part in zip(self.totals, new, strict=True)
        ]

    def maximization(self, reg_covar: float) -> Mixtures:
        """M step of all mixtures."""
        counts, first, second = self.totals
        counts = counts + COUNT_FLOOR
        shift = first / counts.unsqueeze(-1)
        if self.covariance_type in ("full", "tied"):
            second = second - first.unsqueeze(-1) * shift.unsqueeze(-2)
            second = 0.5 * (second + second.mT)
            divisor = counts[..., None, None]
            if self.covariance_type == "tied":
                second, divisor = second.sum(1, True), divisor.sum(1, True)
            covariances = second / divisor
            covariances.diagonal(dim1=-2, dim2=-1).add_(reg_covar)
        else:
            covariances = (second - first * shift) / counts.unsqueeze(-1)
            covariances = covariances.clamp(min=0.0) + reg_covar
            if self.covariance_type == "spherical":
                covariances = covariances.mean(-1, keepdim=True)
        weights = counts / counts.sum(-1, keepdim=True)
        return Mixtures(weights, self.means + shift, covariances, self.covariance_type)


def em_step(
    columns: Tensor, weight: Tensor, mixtures: Mixtures, reg_covar: float
) -> tuple[Tensor, Mixtures]:
    """One EM iteration of several mixtures, each with its own weights of the samples.

    Parameters
    ----------
    columns : tensor of shape (D, n_samples)
        Samples.
    weight : tensor of shape (S or 1, n_samples)
        Weights of the samples.
    mixtures : Mixtures
        The mixtures.
    reg_covar : float
        Added to the diagonal of the covariances.

    Returns
    -------
    log_likelihood : tensor of shape (S,)
        Weighted sums of log-densities; minus infinity for a singular mixture.
    mixtures : Mixtures
        The next parameters.
    """
    whitening = mixtures.whitening()
    sums = Sums(mixtures.means, mixtures.covariance_type)
    log_likelihood: Any = 0.0
    for rows in blocks(columns.shape[1], mixtures.means.numel()):
        deviation = columns[:, rows] - mixtures.means.unsqueeze(-1)
        log_joint = mixtures.log_joint(deviation, whitening)
        log_prob = log_joint.logsumexp(1)
        log_resp = (log_joint - log_prob.unsqueeze(1)).clamp_(LOG_RESPONSIBILITY_FLOOR)
        sums.add(deviation, log_resp.exp_() * weight[:, None, rows])
        log_likelihood = log_likelihood + (weight[:, rows] * log_prob).sum(-1)
    log_likelihood = log_likelihood.nan_to_num(-np.inf, neginf=-np.inf)
    return log_likelihood, sums.maximization(reg_covar)


class Search:
    """The data of a search, and its steps.

    Parameters
    ----------
    mixture : GaussianMixture
        Gives the form of the mixture.
    rows : ndarray of shape (n_samples, n_features)
        Samples in random order.
    weight : ndarray of shape (n_samples,) or None
        Their weights.
    random_state : RandomState
        Source of the starts and of the splits.
    """

    def __init__(
        self,
        mixture: Any,
        rows: np.ndarray,
        weight: np.ndarray | None,
        random_state: np.random.RandomState,
    ):
        self.n_components = mixture.n_components
        self.covariance_type = mixture.covariance_type
        self.reg_covar = mixture.reg_covar
        self.random_state = random_state
        self.all_rows, self.all_weight = rows, weight
        device = mixture._device()
        n_parameters = self._n_parameters(rows.shape[1])
        n_rows = min(max(MIN_ROWS, ROWS_PER_PARAMETER * n_parameters), MAX_ROWS)
        order = random_state.permutation(len(rows))[:n_rows]
        self.rows = rows[order]
        self.columns = as_tensor(self.rows, device).T.contiguous()
        if weight is None:
            self.sample_weight = None
            self.weight = torch.ones_like(self.columns[:1])
        else:
            self.sample_weight = weight[order]
            self.weight = as_tensor(self.sample_weight, device).unsqueeze(0)

    def _n_parameters(self, n_features: int) -> int:
        """Free parameters, as scikit-learn's information criteria count them."""
        triangle = n_features * (n_features + 1) // 2
        covariances = {
            "full": self.n_components * triangle,
            "tied": triangle,
            "diag": self.n_components * n_features,
            "spherical": self.n_components,
        }[self.covariance_type]
        return covariances + self.n_components * (n_features + 1) - 1

    def run(self, mixtures: Mixtures, n_iter: int) -> tuple[Tensor, Mixtures]:
        """Run EM; return the likelihoods at the last E step and the parameters."""
        log_likelihood = mixtures.weights.new_full((len(mixtures),), -np.inf)
        for _ in range(n_iter):
            log_likelihood, mixtures = em_step(
                self.columns, self.weight, mixtures, self.reg_covar
            )
        return log_likelihood, mixtures

    # ----------------------------------------------------------------------- starts

    def start(self) -> Mixtures:
        """Return the best of some short runs."""
        centres = np.stack([self._centres() for _ in range(STARTS)])
        means = as_tensor(centres, self.columns.device)
        sums = Sums(means, self.covariance_type)
        for rows in blocks(self.columns.shape[1], means.numel()):
            deviation = self.columns[:, rows] - means.unsqueeze(-1)
            nearest = deviation.square().sum(2).argmin(1, keepdim=True)
            resp = torch.zeros_like(deviation[:, :, 0]).scatter_(1, nearest, 1.0)
            sums.add(deviation, resp * self.weight[:, None, rows])
        runs = sums.maximization(self.reg_covar)
        log_likelihood, runs = self.run(runs, START_ITERATIONS)
        best = int(log_likelihood.argmax())
        if not np.isfinite(float(log_likelihood[best])):
            raise IllDefinedCovarianceError(ILL_DEFINED_COVARIANCE)
        return runs[best : best + 1]

    def _centres(self) -> np.ndarray:
        model = KMeans(
            self.n_components,
            n_init=1,
            max_iter=KMEANS_ITERATIONS,
            random_state=self.random_state,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(
                self.rows, sample_weight=self.sample_weight
            ).cluster_centers_

    # ------------------------------------------------------------------------ moves

    def move(self, best: Mixtures) -> tuple[Mixtures, bool]:
        """Try to move components; return the best result, and whether one moved."""
        columns, weight = self.columns[:, :SPLIT_ROWS], self.weight[:, :SPLIT_ROWS]
        resp, log_density = self._posterior(columns, best)
        resp = resp * weight
        losses = self._losses(best, resp, weight)
        gains, halves = self._splits(best, columns, resp, log_density)
        candidates = best + moved(best, halves, plans_of_moves(gains, losses))
        log_likelihood, candidates = self.run(candidates, MOVE_ITERATIONS)
        chosen = int(log_likelihood.argmax())
        return candidates[chosen : chosen + 1], chosen > 0

    def _posterior(self, columns: Tensor, best: Mixtures) -> tuple[Tensor, Tensor]:
        """Responsibilities and log-densities of the components, each (K, n)."""
        deviation = columns - best.means.unsqueeze(-1)
        log_joint = best.log_joint(deviation, best.whitening())[0]
        return log_joint.softmax(0), log_joint - best.weights[0].log().unsqueeze(-1)

    def _losses(self, best: Mixtures, resp: Tensor, weight: Tensor) -> Tensor:
        """Return what, at most, the likelihood loses without each component."""
        share = (resp / weight).clamp(max=1.0 - COUNT_FLOOR)
        left = (1.0 - best.weights[0]).clamp(min=COUNT_FLOOR)
        return left.log() * weight.sum() - (weight * torch.log1p(-share)).sum(1)

    def _splits(
        self, best: Mixtures, columns: Tensor, resp: Tensor, log_density: Tensor
    ) -> tuple[Tensor, Mixtures]:
        """Split every component; return the gains and, for each, a mixture of two."""
        whole = best.components()
        halves = self._halves(whole, columns, resp)
        resp = resp.repeat(SPLITS, 1)
        covariances = halves.covariances
        for _ in range(SPLIT_ITERATIONS):
            _, halves = em_step(columns, resp, halves, self.reg_covar)
            if self.covariance_type == "tied":  # it is tied to all other components
                halves = replace(halves, covariances=covariances)
        log_likelihood, _ = em_step(columns, resp, halves, self.reg_covar)
        rows = halves.weights.amin(1) * resp.sum(1)
        least = MIN_ROWS_PER_DIMENSION * (1 + len(columns))
        log_likelihood = log_likelihood.masked_fill(rows < least, -np.inf)
        gains, attempt = log_likelihood.view(SPLITS, -1).max(0)
        gains = gains - (resp[: len(whole)] * log_density).sum(1)
        index = attempt * len(whole) + torch.arange(len(whole), device=attempt.device)
        return gains, halves[index]

    def _halves(self, whole: Mixtures, columns: Tensor, resp: Tensor) -> Mixtures:
        """Start each split from a random point of the component and its mirror."""
        cumulative = resp.cumsum(1).repeat(SPLITS, 1)
        uniform = self.random_state.uniform(size=(len(cumulative), 1))
        target = as_tensor(uniform, columns.device) * cumulative[:, -1:]
        drawn = torch.searchsorted(cumulative, target).clamp(max=columns.shape[1] - 1)
        points = columns.T[drawn]
        means = whole.means.repeat(SPLITS, 1, 1)
        covariances = whole.covariances
        covariances = covariances.repeat(SPLITS, *(1,) * (covariances.dim() - 1))
        if self.covariance_type != "tied":
            covariances = covariances.repeat_interleave(2, 1)
        means = torch.cat([points, 2.0 * means - points], 1)
        weights = torch.full_like(means[..., 0], 0.5)
        return Mixtures(weights, means, covariances, self.covariance_type)

    # ----------------------------------------------------------------------- finish

    def finish(self, best: Mixtures) -> MixtureParameters:
        """Go on on all rows; return the last parameters that are not singular."""
        parameters = best.parameters()
        density = parameters.density(self.covariance_type)
        for _ in range(LAST_ITERATIONS):
            statistics = expectation(
                self.all_rows, density, self.covariance_type, self.all_weight
            )
            candidate = maximization(statistics, self.reg_covar)
            try:
                density = candidate.density(self.covariance_type)
            except IllDefinedCovarianceError:
                break
            parameters = candidate
        return parameters


def plans_of_moves(gains: Tensor, losses: Tensor) -> list[list[tuple[int, int]]]:
    """Choose which components to split and which to take away.

    Parameters
    ----------
    gains : tensor of shape (K,)
        What a split of each component would gain.
    losses : tensor of shape (K,)
        What the lack of each component would lose.

    Returns
    -------
    plans : list of lists of (int, int)
        Pairs of a component to split and one to take away: the most promising single
        moves, then the best two, four, ... together.
    """
    gained, lost = gains.tolist(), losses.tolist()
    to_split = sorted(range(len(gained)), key=lambda k: -gained[k])
    to_drop = sorted(range(len(lost)), key=lambda k: lost[k])
    moves = [(k, j) for k in to_split[:MOVES] for j in to_drop[:MOVES] if k != j]
    moves = [move for move in moves if gained[move[0]] > -np.inf]
    moves.sort(key=lambda move: lost[move[1]] - gained[move[0]])
    plans = [[move] for move in moves[:MOVES]]
    size = 2
    while 3 * size <= len(gained):
        spare = [j for j in to_drop if j not in to_split[:size]]
        plan = list(zip(to_split[:size], spare, strict=False))
        if any(gained[k] <= lost[j] for k, j in plan):
            break
        plans.append(plan)
        size *= 2
    return plans


def moved(
    best: Mixtures, halves: Mixtures, plans: list[list[tuple[int, int]]]
) -> Mixtures:
    """Carry out plans, each on a copy of the best mixture."""
    copies = best.map(lambda part: part.repeat_interleave(len(plans), 0))
    weights, means, covariances = copies.weights, copies.means, copies.covariances
    for copy, plan in enumerate(plans):
        for split, dropped in plan:
            pair = [split, dropped]
            weights[copy, pair] = halves.weights[split] * best.weights[0, split]
            means[copy, pair] = halves.means[split]
            if best.covariance_type != "tied":
                covariances[copy, pair] = halves.covariances[split]
    return replace(copies, weights=weights / weights.sum(1, keepdim=True))
