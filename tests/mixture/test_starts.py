"""Starts of EM: short runs, splits and moves of components."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st
from mixture_strategies import (
    COVARIANCE_TYPES,
    PROFILE,
    SEEDS,
    assert_close,
    double,
    random_mixture,
)

from skgmje.exceptions import IllDefinedCovarianceError
from skgmje.mixture import GaussianMixture, _starts
from skgmje.mixture._em import (
    MixtureParameters,
    covariances_of_density,
    expectation,
    maximization,
)
from skgmje.mixture._splits import Pairs, pair_step, split_components
from skgmje.mixture._starts import (
    Candidate,
    Search,
    _rank,
    best_of_short_runs,
    moved,
    n_rows_of_search,
    plans_of_moves,
)

each_covariance_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
WITHOUT_TIED = ("full", "diag", "spherical")


def mixture_of(n_components, covariance_type="full", **parameters):
    return GaussianMixture(n_components, covariance_type=covariance_type, **parameters)


def start_of(
    X, n_components, covariance_type="full", seed=0, weight=None, **parameters
):
    mixture = mixture_of(n_components, covariance_type, **parameters)
    return best_of_short_runs(mixture, X, np.random.RandomState(seed), weight)


def score(X, parameters, covariance_type="full"):
    density = parameters.density(covariance_type)
    return float(density.log_prob(torch.from_numpy(np.array(X))).mean())


def clusters(n_samples=300, n_features=2, n_clusters=3, seed=0):
    """Round clusters far apart, in random order."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features))
    X[:, 0] += 10.0 * (np.arange(n_samples) % n_clusters)
    return X


def crossing_lines(seed=0):
    rng = np.random.default_rng(seed)
    along, angle = rng.uniform(-1, 1, 600), rng.choice(np.pi * np.arange(4) / 4, 600)
    lines = along[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return lines + 0.02 * rng.normal(size=lines.shape)


def as_parameters(density, covariance_type):
    covariances = covariances_of_density(density)
    if covariance_type == "tied":
        covariances = covariances.reshape(density.event_shape * 2)
    return MixtureParameters(density.weights, density.means, covariances)


def same_parameters(actual, expected, tol=1e-9):
    for name in ("weights", "means", "covariances"):
        assert_close(getattr(actual, name), getattr(expected, name), tol=tol)


# ------------------------------------------------------------------- mixtures of two


@PROFILE
@for_all(SEEDS, st.sampled_from(WITHOUT_TIED), st.sampled_from([0.0, 0.1]))
def test_a_pair_step_is_an_em_step_of_each_pair(seed, covariance_type, reg_covar):
    rng = np.random.default_rng(seed)
    n_features, n_samples = 3, 20
    X = rng.normal(size=(2, n_samples, n_features))
    shares = rng.uniform(0.1, 1.0, size=(2, n_samples))
    mixtures = [
        as_parameters(random_mixture(rng, covariance_type, 2, n_features), "full")
        for _ in range(2)
    ]
    weights, means, covariances = (
        torch.stack([getattr(mixture, name) for mixture in mixtures])
        for name in ("weights", "means", "covariances")
    )
    if covariance_type == "spherical":
        covariances = covariances.unsqueeze(-1)
    log_likelihood, pairs = pair_step(
        double(X).mT, double(shares), Pairs(weights, means, covariances), reg_covar
    )
    constant = n_features * 0.5 * np.log(2 * np.pi)
    for index, mixture in enumerate(mixtures):
        density = mixture.density(covariance_type)
        statistics = expectation(X[index], density, covariance_type, shares[index])
        expected = maximization(statistics, reg_covar)
        covariances = pairs.covariances[index]
        if covariance_type == "spherical":
            covariances = covariances.squeeze(-1)
        same_parameters(
            MixtureParameters(pairs.weights[index], pairs.means[index], covariances),
            expected,
            tol=1e-6,  # of a mean of hardly any rows
        )
        assert_close(
            log_likelihood[index] - constant * shares[index].sum(),
            statistics.log_likelihood,
        )


def test_tied_pairs_keep_the_identity():
    rng = np.random.default_rng(0)
    X, shares = rng.normal(size=(20, 3)), rng.uniform(size=20)
    weights, means = double([[0.4, 0.6]]), double(rng.normal(size=(1, 2, 3)))
    columns, weight = double(X.T).unsqueeze(0), double(shares).unsqueeze(0)
    log_likelihood, pairs = pair_step(columns, weight, Pairs(weights, means, None), 0.0)
    unit = double(np.eye(3)).expand(2, -1, -1)
    density = MixtureParameters(weights[0], means[0], unit).density("full")
    statistics = expectation(X, density, "full", shares)
    expected = maximization(statistics, 0.0)
    assert pairs.covariances is None
    assert_close(pairs.weights[0], expected.weights)
    assert_close(pairs.means[0], expected.means)
    constant = 1.5 * np.log(2 * np.pi) * shares.sum()
    assert_close(log_likelihood[0] - constant, statistics.log_likelihood)


def test_a_singular_pair_is_the_least_likely():
    columns = torch.zeros(2, 2, 5, dtype=torch.float64)
    columns[1] = double(np.random.default_rng(0).normal(size=(2, 5)))
    pairs = Pairs(
        torch.full((2, 2), 0.5, dtype=torch.float64),
        torch.zeros(2, 2, 2, dtype=torch.float64),
        double(np.eye(2)).repeat(2, 2, 1, 1),
    )
    shares = torch.ones(2, 5, dtype=torch.float64)
    for _ in range(2):
        log_likelihood, pairs = pair_step(columns, shares, pairs, 0.0)
    assert log_likelihood[0] == -torch.inf
    assert log_likelihood[1].isfinite()


# ---------------------------------------------------------------------------- splits


def splits_of(X, parameters, covariance_type, weight=None, seed=0):
    return split_components(
        X, weight, parameters, covariance_type, 1e-6, np.random.RandomState(seed)
    )


def merged(X, covariance_type, n_components):
    """Three clusters for two components and a few that have none of their own."""
    labels = np.arange(len(X)) % 3
    shares = np.zeros((len(X), n_components))
    shares[labels < 2, 0] = 1.0
    shares[labels == 2, 1:] = 1.0 / (n_components - 1)
    start = _starts.statistics_of_responsibilities(
        X, shares, covariance_type, torch.device("cpu")
    )
    return maximization(start, 1e-6)


@each_covariance_type
def test_the_component_of_two_clusters_gains_most(covariance_type):
    X = clusters(600)
    parameters = merged(X, covariance_type, 2)
    splits = splits_of(X, parameters, covariance_type)
    # A tied covariance stays as wide as it is, and the gain is smaller.
    assert splits.gains[0] > splits.gains[1] + 30
    halves = splits.pairs.means[0][:, 0].sort().values
    assert_close(halves, double([0.0, 10.0]), tol=1.0)
    assert_close(splits.pairs.weights[0], double([0.5, 0.5]), tol=0.1)


@each_covariance_type
def test_the_gain_is_what_the_halves_are_likelier(covariance_type):
    X = clusters(600)
    parameters = merged(X, covariance_type, 2)
    density = parameters.density(covariance_type)
    pairs, gains, _ = splits_of(X, parameters, covariance_type)
    shares = density.responsibilities(double(X))
    wholes = density.component_log_prob(double(X))
    for k in range(2):
        covariances = parameters.covariances
        if covariance_type != "tied":
            covariances = pairs.covariances[k]
        halves = MixtureParameters(pairs.weights[k], pairs.means[k], covariances)
        gain = halves.density(covariance_type).log_prob(double(X)) - wholes[:, k]
        # Rows of which a component has next to nothing are left out.
        assert float(gains[k]) == pytest.approx(float(shares[:, k] @ gain), abs=0.01)


@PROFILE
@for_all(SEEDS, st.sampled_from(COVARIANCE_TYPES))
def test_the_loss_is_that_of_the_mixture_without_the_component(seed, covariance_type):
    rng = np.random.default_rng(seed)
    X, weight = rng.normal(size=(30, 2)), rng.uniform(0.1, 1.0, size=30)
    density = random_mixture(rng, covariance_type, 3, 2)
    parameters = as_parameters(density, covariance_type)
    losses = splits_of(X, parameters, covariance_type, weight).losses
    joint = density.weights.log() + density.component_log_prob(double(X))
    for k in range(3):
        others = [j for j in range(3) if j != k]
        without = joint[:, others].logsumexp(1) - (1 - density.weights[k]).log()
        expected = double(weight) @ (joint.logsumexp(1) - without)
        assert_close(losses[k], expected)


def test_a_copy_of_a_component_is_no_loss():
    X = clusters()
    losses = splits_of(X, merged(X, "full", 3), "full").losses
    assert losses[0] > 100
    assert (losses[1:].abs() < 100 * 0.7).all()


@each_covariance_type
def test_weights_of_rows_count_as_repetitions(covariance_type):
    X = clusters(90)
    counts = np.random.default_rng(0).integers(1, 4, size=len(X))
    parameters = merged(X, covariance_type, 2)
    weighted = splits_of(X, parameters, covariance_type, counts.astype(float))
    repeated = splits_of(np.repeat(X, counts, axis=0), parameters, covariance_type)
    assert_close(weighted.losses, repeated.losses, tol=1e-8)
    # The random points differ, so the splits do only roughly agree.
    assert weighted.gains[0] == pytest.approx(float(repeated.gains[0]), rel=0.1)


def test_halves_of_a_few_rows_are_not_made():
    X = clusters(30)
    parameters = merged(X, "full", 3)
    gains = splits_of(X[:6], parameters, "full").gains
    assert (gains == -torch.inf).all()


def test_splits_are_the_same_in_one_block_or_many(monkeypatch):
    X = clusters(600)
    parameters = merged(X, "full", 4)
    expected = splits_of(X, parameters, "full")
    monkeypatch.setattr("skgmje.mixture._splits.BLOCK_NUMBERS", 1)
    actual = splits_of(X, parameters, "full")
    assert_close(actual.gains, expected.gains)
    assert_close(actual.pairs.means, expected.pairs.means)


# ----------------------------------------------------------------------------- moves


def test_plans_move_what_is_least_missed_to_where_it_gains_most():
    plans = plans_of_moves([1.0, 50.0, 3.0], [0.5, 20.0, 10.0])
    assert plans[0] == [(1, 0)]
    assert [move for (move,) in plans] == [(1, 0), (1, 2), (2, 0), (0, 2)]


def test_several_moves_go_together_while_they_gain():
    gains = [100.0, 90.0, 80.0, 70.0] + [0.0] * 8
    losses = [1000.0] * 8 + [1.0, 2.0, 3.0, 200.0]
    plans = plans_of_moves(gains, losses)
    assert [(0, 8), (1, 9)] in plans
    assert not any(len(plan) > 2 for plan in plans)  # the fourth loses 200
    losses[-1] = 4.0
    assert [(0, 8), (1, 9), (2, 10), (3, 11)] in plans_of_moves(gains, losses)


@PROFILE
@for_all(st.integers(2, 40), SEEDS)
def test_plans_use_each_component_once(n_components, seed):
    rng = np.random.default_rng(seed)
    gains, losses = rng.exponential(size=(2, n_components))
    for plan in plans_of_moves(gains.tolist(), losses.tolist()):
        used = Counter(component for move in plan for component in move)
        assert max(used.values()) == 1


def test_impossible_splits_are_not_planned():
    assert plans_of_moves([-np.inf, -np.inf], [0.0, 0.0]) == []


@each_covariance_type
def test_a_move_puts_the_halves_in_place(covariance_type):
    X = clusters(600)
    parameters = merged(X, covariance_type, 3)
    pairs = splits_of(X, parameters, covariance_type).pairs
    result = moved(parameters, pairs, [(0, 2)])
    assert_close(result.means[[0, 2]], pairs.means[0])
    assert_close(result.means[1], parameters.means[1])
    assert float(result.weights.sum()) == pytest.approx(1.0)
    assert_close(result.weights[0] / result.weights[2], torch.divide(*pairs.weights[0]))
    if covariance_type == "tied":
        assert_close(result.covariances, parameters.covariances)
    else:
        assert_close(result.covariances[[0, 2]], pairs.covariances[0])
    assert score(X, result, covariance_type) > score(X, parameters, covariance_type)


@each_covariance_type
def test_one_move_mends_a_bad_start(covariance_type):
    X = clusters(600)
    mixture = mixture_of(3, covariance_type)
    search = Search(mixture, X, None, np.random.RandomState(0))
    bad = search.run(Candidate(merged(X, covariance_type, 3)), 10)
    better = search.move(bad)
    assert better.moved
    means = search.run(better, 30).parameters.means[:, 0].sort().values
    assert_close(means, double([0.0, 10.0, 20.0]), tol=0.5)


# ------------------------------------------------------------------------ the search


@pytest.mark.parametrize("seed", range(3))
def test_crossing_lines_are_found_where_ten_restarts_fail(seed):
    X = crossing_lines(seed)
    restarts = GaussianMixture(4, n_init=10, random_state=seed).fit(X)
    short_runs = GaussianMixture(4, init_params="short_runs", random_state=seed).fit(X)
    # All four lines: about 0.7 nats more than where two share a component.
    assert short_runs.score(X) > restarts.score(X) - 1e-3
    assert short_runs.score(X) > 0.15


@each_covariance_type
@pytest.mark.parametrize("n_components", [1, 2, 5])
def test_the_form_is_that_of_the_mixture(covariance_type, n_components):
    X = clusters(120, n_features=5)
    parameters = start_of(X, n_components, covariance_type)
    fitted = mixture_of(n_components, covariance_type, max_iter=0).fit(X)
    assert parameters.weights.shape == fitted.weights_.shape
    assert parameters.means.shape == fitted.means_.shape
    assert parameters.covariances.shape == fitted.covariances_.shape
    assert all(
        part.dtype == torch.float64
        for part in (parameters.weights, parameters.means, parameters.covariances)
    )
    assert np.isfinite(score(X, parameters, covariance_type))


def test_the_random_state_alone_decides():
    X = crossing_lines()
    first, again = (start_of(X, 6, seed=3) for _ in range(2))
    other = start_of(X, 6, seed=4)
    assert torch.equal(first.means, again.means)
    assert not torch.equal(first.means, other.means)


def test_of_runs_that_end_alike_the_first_is_taken():
    bounds = (-2.0, -1.0 - 1e-13, -1.0, -1.0 + 1e-13, -np.inf)
    runs = [Candidate(None, bound) for bound in bounds]
    ranked = sorted(runs, key=_rank)
    assert [runs.index(run) for run in ranked] == [1, 2, 3, 0, 4]


def test_any_kind_of_array_gives_the_same_start(tmp_path):
    X = clusters()
    wide = np.repeat(X, 2, axis=1)
    frozen = X.copy()
    frozen.flags.writeable = False
    mapped = np.memmap(tmp_path / "rows", X.dtype, "w+", shape=X.shape)
    mapped[:] = X
    expected = start_of(X, 3)
    for same in (wide[:, ::2], frozen, X.astype(">f8"), mapped, np.asfortranarray(X)):
        same_parameters(start_of(same, 3), expected, tol=1e-8)
    single = X.astype(np.float32)
    same_parameters(start_of(single, 3), expected, tol=1e-4)


class OnDisk:
    """Rows that say which of them were read."""

    def __init__(self, X):
        self.X, self.shape, self.read = X, X.shape, []

    def __getitem__(self, rows):
        self.read.append(np.asarray(rows))
        return self.X[rows]


def test_at_most_ten_thousand_rows_are_read():
    X = OnDisk(np.random.default_rng(0).normal(size=(12_000, 2)))
    start_of(X, 2)
    rows = np.concatenate(X.read)
    assert len(rows) == len(np.unique(rows)) == 10_000


def test_the_rows_of_the_search_grow_with_the_mixture():
    def n_rows(n_components, covariance_type, shape):
        return n_rows_of_search(mixture_of(n_components, covariance_type), shape)

    assert n_rows(2, "spherical", (1000, 2)) == 500
    assert n_rows(20, "full", (20_000, 4)) == 10 * (20 * 15 - 1) == 2990
    assert n_rows(20, "full", (10**6, 4)) == 5000
    assert n_rows(20, "full", (200, 4)) == 200
    # Never fewer rows than parameters: the candidates would all fit them.
    assert n_rows(50, "full", (10**6, 30)) == 50 * 496 - 1


@pytest.mark.parametrize("n_features", [8, 9])
def test_nothing_is_moved_where_rows_fit_any_component(n_features, monkeypatch):
    def split(*args):
        raise AssertionError("asked for splits")

    monkeypatch.setattr(_starts, "split_components", split)
    X = np.random.default_rng(0).normal(size=(28, n_features))
    if 3 * (1 + n_features) < len(X):
        with pytest.raises(AssertionError, match="asked for splits"):
            start_of(X, 3)
    else:
        assert start_of(X, 3).means.shape == (3, n_features)


@each_covariance_type
def test_rows_of_no_weight_do_not_count(covariance_type):
    X = np.concatenate([clusters(), clusters() + 1000.0])
    weight = np.repeat([1.0, 1e-12], len(X) // 2)
    means = start_of(X, 3, covariance_type, weight=weight).means[:, 0]
    assert_close(means.sort().values, double([0.0, 10.0, 20.0]), tol=0.5)


def test_equal_weights_do_not_matter():
    X = clusters()
    same_parameters(
        start_of(X, 4, weight=np.full(len(X), 2.5)), start_of(X, 4), tol=1e-6
    )


def test_given_means_keep_their_places():
    X = clusters()
    given = [[20.0, 0.0], [0.0, 0.0], [10.0, 0.0]]
    means = start_of(X, 3, means_init=np.array(given)).means
    assert_close(means, double(given), tol=0.5)


def test_singular_starts_are_passed_over():
    # One k-means start of two finds the thirty equal rows, which have no spread.
    X = np.concatenate([np.zeros((30, 2)), clusters() + 50.0])
    parameters = start_of(X, 3, reg_covar=1e-6)
    assert np.isfinite(score(X, parameters))
    with pytest.raises(IllDefinedCovarianceError, match="ill-defined empirical"):
        start_of(np.zeros((40, 2)), 3, reg_covar=0.0)


def test_a_singular_run_is_the_worst():
    X = clusters()
    search = Search(mixture_of(3), X, None, np.random.RandomState(0))
    good = search.start()
    flat = good.parameters.covariances.clone()
    flat[0] = 0.0
    singular = MixtureParameters(good.parameters.weights, good.parameters.means, flat)
    candidates = [Candidate(singular, moved=True), Candidate(good.parameters)]
    assert not search.best_of(candidates, ((2, 1),)).moved


def interrupt(monkeypatch, call):
    e_step, calls = _starts.expectation, []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == call:
            raise KeyboardInterrupt
        return e_step(*arguments)

    monkeypatch.setattr(_starts, "expectation", interrupted)


def test_ctrl_c_before_any_run_is_passed_on(monkeypatch):
    interrupt(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        start_of(clusters(), 3)


def test_ctrl_c_after_the_start_keeps_what_there_is(monkeypatch):
    X = clusters()
    interrupt(monkeypatch, 20)
    assert np.isfinite(score(X, start_of(X, 3)))
