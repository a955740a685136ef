"""Starts of EM: short runs, then components moved to where they are needed.

EM stops at the nearest maximum, and how good that is depends on the start. A component
that spans two clusters stays there, and restarts seldom set all components right at
once. So after a few short runs the best one is improved: a component that the others
can replace is taken away, and one that hides two clusters is split.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from torch import Tensor

from skgmje._backend import as_numpy, as_tensor
from skgmje.exceptions import IllDefinedCovarianceError
from skgmje.mixture._em import (
    ILL_DEFINED_COVARIANCE,
    MixtureParameters,
    expectation,
    maximization,
    statistics_of_responsibilities,
)
from skgmje.mixture._splits import Pairs, split_components

# Starts, their k-means iterations, and stages of EM iterations and how many go on.
STARTS, KMEANS_ITERATIONS, START_STAGES = 4, 10, ((2, 2), (3, 1))
# Rounds of moves, and rounds without success after which the search ends.
ROUNDS, PATIENCE = 8, 2
# Single moves tried in a round, and the same stages for them.
MOVES, MOVE_STAGES = 4, ((2, 3), (4, 1))
# Rows on which candidates are run: some for each free parameter or a share of all,
# within limits, but never fewer than there are parameters, if there are as many.
ROWS_PER_PARAMETER, MIN_ROWS, MAX_ROWS = 10, 500, 5000
ROWS_SHARE = 0.1
# EM iterations, on twice the rows or more, after which the best goes to the estimator.
LAST_ITERATIONS, LAST_ROWS = 10, 10_000


class Candidate(NamedTuple):
    """Parameters, the mean log-likelihood of the E step before, and their origin."""

    parameters: MixtureParameters
    bound: float = -np.inf
    moved: bool = False


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
        Samples without missing values; at most 10,000 rows are read, or twice as many
        as there are parameters.
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
    n_rows = n_rows_of_search(mixture, X.shape)
    chosen = random_state.permutation(X.shape[0])[: max(LAST_ROWS, 2 * n_rows)]
    rows = X[chosen]
    rows = as_numpy(rows) if isinstance(rows, Tensor) else np.asarray(rows)
    weight = None if sample_weight is None else np.asarray(sample_weight)[chosen]
    search = Search(mixture, rows[:n_rows], _first(weight, n_rows), random_state)
    best = search.start()
    failures = 0
    try:
        for _ in range(ROUNDS if search.may_move else 0):
            best = search.move(best)
            failures = 0 if best.moved else failures + 1
            if failures == PATIENCE:
                break
        last = Search(mixture, rows, weight, random_state)
        return last.run(best, LAST_ITERATIONS).parameters
    except KeyboardInterrupt:
        return best.parameters


def _first(weight: np.ndarray | None, n_rows: int) -> np.ndarray | None:
    return None if weight is None else weight[:n_rows]


def n_rows_of_search(mixture: Any, shape: tuple[int, ...]) -> int:
    """Return how many rows the candidates need."""
    n_samples, n_features = shape
    triangle = n_features * (n_features + 1) // 2
    n_covariances = {
        "full": mixture.n_components * triangle,
        "tied": triangle,
        "diag": mixture.n_components * n_features,
        "spherical": mixture.n_components,
    }[mixture.covariance_type]
    n_parameters = n_covariances + mixture.n_components * (n_features + 1) - 1
    wanted = (MIN_ROWS, ROWS_PER_PARAMETER * n_parameters, int(ROWS_SHARE * n_samples))
    return min(max(min(max(wanted), MAX_ROWS), n_parameters), n_samples)


class Search:
    """The steps of a search on some rows.

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
        self.n_components, self.given_means = mixture.n_components, mixture.means_init
        # Given means name the components, which then keep to their clusters; and rows
        # that fit any component anywhere do not tell where it is wanted.
        has_choice = self.n_components > 1 and self.given_means is None
        enough = self.n_components * (1 + rows.shape[1])
        self.n_starts = STARTS if has_choice else 1
        self.may_move = has_choice and len(rows) > enough
        self.covariance_type = mixture.covariance_type
        self.reg_covar, self.device = mixture.reg_covar, mixture._device()
        self.weight, self.random_state = weight, random_state
        # On the CPU, the E step reads NumPy arrays of any type in place.
        self.rows = rows
        on_cpu = self.device.type == "cpu"
        self.samples = rows if on_cpu else as_tensor(rows, self.device)

    def best_of(
        self, candidates: list[Candidate], stages: tuple[tuple[int, int], ...]
    ) -> Candidate:
        """Run EM from all candidates, and on from fewer at each stage."""
        for n_iter, n_kept in stages:
            runs = [self.run(candidate, n_iter) for candidate in candidates]
            candidates = sorted(runs, key=_rank)[:n_kept]
        return candidates[0]

    def run(self, candidate: Candidate, n_iter: int) -> Candidate:
        """Run EM; what becomes singular has the bound of minus infinity."""
        parameters, bound = candidate.parameters, -np.inf
        try:
            density = parameters.density(self.covariance_type)
            for _ in range(n_iter):
                statistics = expectation(
                    self.samples, density, self.covariance_type, self.weight
                )
                image = maximization(statistics, self.reg_covar)
                density = image.density(self.covariance_type)
                parameters, bound = image, statistics.mean_log_likelihood
        except IllDefinedCovarianceError:
            bound = -np.inf
        return candidate._replace(parameters=parameters, bound=bound)

    # ----------------------------------------------------------------------- starts

    def start(self) -> Candidate:
        """Return the best of some short runs."""
        starts = [Candidate(self._start()) for _ in range(self.n_starts)]
        best = self.best_of(starts, START_STAGES)
        if best.bound == -np.inf:
            raise IllDefinedCovarianceError(ILL_DEFINED_COVARIANCE)
        return best

    def _start(self) -> MixtureParameters:
        labels = self._labels()
        shares = np.zeros((len(labels), self.n_components))
        shares[np.arange(len(labels)), labels] = (
            1.0 if self.weight is None else self.weight
        )
        statistics = statistics_of_responsibilities(
            self.rows, shares, self.covariance_type, self.device, self.weight
        )
        return maximization(statistics, self.reg_covar)

    def _labels(self) -> np.ndarray:
        if self.given_means is not None:
            return pairwise_distances_argmin(self.rows, self.given_means)
        model = KMeans(
            self.n_components,
            n_init=1,
            max_iter=KMEANS_ITERATIONS,
            random_state=self.random_state,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(self.rows, sample_weight=self.weight).labels_

    # ------------------------------------------------------------------------ moves

    def move(self, best: Candidate) -> Candidate:
        """Try to move components; return the best result."""
        parameters = best.parameters
        splits = split_components(
            self.rows,
            self.weight,
            parameters,
            self.covariance_type,
            self.reg_covar,
            self.random_state,
        )
        plans = plans_of_moves(splits.gains.tolist(), splits.losses.tolist())
        candidates = [
            Candidate(moved(parameters, splits.pairs, plan), moved=True)
            for plan in plans
        ]
        return self.best_of([Candidate(parameters), *candidates], MOVE_STAGES)


def _rank(run: Candidate) -> float:
    """Highest bounds first; what ends alike but for rounding keeps its order."""
    return -float(f"{run.bound:.9g}")


def plans_of_moves(
    gains: list[float], losses: list[float]
) -> list[list[tuple[int, int]]]:
    """Choose which components to split and which to take away.

    Parameters
    ----------
    gains : list of float
        What a split of each component would gain.
    losses : list of float
        What the lack of each component would lose.

    Returns
    -------
    plans : list of lists of (int, int)
        Pairs of a component to split and one to take away: the most promising single
        moves, then the best two, four, ... together.
    """
    to_split = sorted(range(len(gains)), key=lambda k: -gains[k])
    to_drop = sorted(range(len(losses)), key=lambda k: losses[k])
    moves = [(k, j) for k in to_split[:MOVES] for j in to_drop[:MOVES] if k != j]
    moves = [(k, j) for k, j in moves if gains[k] > -np.inf]
    moves.sort(key=lambda move: losses[move[1]] - gains[move[0]])
    plans = [[move] for move in moves[:MOVES]]
    size = 2
    while 3 * size <= len(gains):
        spare = [j for j in to_drop if j not in to_split[:size]]
        plan = list(zip(to_split[:size], spare, strict=False))
        if any(gains[k] <= losses[j] for k, j in plan):
            break
        plans.append(plan)
        size *= 2
    return plans


def moved(
    parameters: MixtureParameters, pairs: Pairs, plan: list[tuple[int, int]]
) -> MixtureParameters:
    """Replace a split component and one taken away by the halves of the first."""
    weights, means = parameters.weights.clone(), parameters.means.clone()
    covariances = parameters.covariances.clone()
    for split, dropped in plan:
        places = [split, dropped]
        weights[places] = pairs.weights[split] * parameters.weights[split]
        means[places] = pairs.means[split]
        if pairs.covariances is not None:
            covariances[places] = pairs.covariances[split]
    return MixtureParameters(weights / weights.sum(), means, covariances)
