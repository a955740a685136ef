"""Rows with missing values: statistics, densities, imputation and starts."""

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
    flat_parameters,
    random_mixture,
)
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal
from torch.utils._python_dispatch import TorchDispatchMode

from skgmje import MultivariateNormalMixture, _backend
from skgmje.mixture import _completion
from skgmje.mixture._completion import completed_blocks
from skgmje.mixture._em import expectation
from skgmje.mixture._missing import (
    component_log_prob_with_missing,
    expectation_with_missing,
    fill_for_start,
    impute,
    incomplete_rows,
)
from skgmje.mixture._statistics import maximization

each_covariance_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
SIZES = st.sampled_from([(1, 1), (1, 3), (3, 2), (2, 3), (3, 3), (2, 5)])
# One pattern, few patterns with many rows each, about one row a pattern.
N_PATTERNS = st.sampled_from([1, 3, 40])


def holes(rng, X, n_patterns=40, share=0.4):
    """Remove values by a few patterns; some rows stay complete, some become empty."""
    X = np.array(X, dtype=np.float64)
    patterns = rng.random((n_patterns, X.shape[1])) < share
    X[patterns[rng.integers(n_patterns, size=len(X))]] = np.nan
    X[0], X[1] = np.nan, rng.normal(size=X.shape[1])
    return X


def random_problem(seed, covariance_type, size, n_patterns=40, n_samples=40):
    rng = np.random.default_rng(seed)
    density = random_mixture(rng, covariance_type, *size)
    X = rng.normal(scale=2.0, size=(n_samples, size[1]))
    return rng, density, holes(rng, X, n_patterns)


def one_by_one(X, density):
    """Condition every row under every component by the textbook formula.

    Returns log-densities (n, K), completed rows (n, K, D) and the conditional
    covariances (n, K, D, D), zero where a value is observed.
    """
    ((_, means, covariances),) = flat_parameters(density)
    shape = (len(X), *means.shape)
    log_prob = np.zeros(shape[:2])
    completed = np.broadcast_to(X[:, None], shape).copy()
    spread = np.zeros((*shape, X.shape[1]))
    for i, row in enumerate(X):
        given, rest = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
        for k, (mean, covariance) in enumerate(zip(means, covariances, strict=True)):
            block = covariance[np.ix_(given, given)]
            gain = covariance[np.ix_(rest, given)] @ np.linalg.inv(block)
            completed[i, k, rest] = mean[rest] + gain @ (row[given] - mean[given])
            spread[i, k][np.ix_(rest, rest)] = (
                covariance[np.ix_(rest, rest)] - gain @ covariance[np.ix_(given, rest)]
            )
            if len(given):
                marginal = multivariate_normal(mean[given], block)
                log_prob[i, k] = marginal.logpdf(row[given])
    return log_prob, completed, spread


def assert_same_statistics(actual, expected, tol=1e-9):
    assert actual.covariance_type == expected.covariance_type
    assert actual.total == pytest.approx(expected.total)
    for name in ("reference", "counts", "first", "second", "log_likelihood"):
        assert_close(getattr(actual, name), getattr(expected, name), tol)


def climb(X, density, covariance_type, n_iterations, reg_covar=0.0):
    """Yield the statistics of EM iterations."""
    for _ in range(n_iterations):
        statistics = expectation_with_missing(X, density, covariance_type)
        yield statistics
        parameters = maximization(statistics, reg_covar)
        density = parameters.density(covariance_type)


# -------------------------------------------------------------------- row by row


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, size=SIZES, n_patterns=N_PATTERNS, weighted=st.booleans())
def test_statistics_are_those_of_rows_conditioned_one_by_one(
    covariance_type, seed, size, n_patterns, weighted
):
    rng, density, X = random_problem(seed, covariance_type, size, n_patterns)
    weight = rng.integers(0, 4, size=len(X)) * 0.5 if weighted else None
    actual = expectation_with_missing(X, density, covariance_type, weight)
    weight = weight if weighted else np.ones(len(X))
    log_prob, completed, spread = one_by_one(X, density)
    log_joint = log_prob + np.log(density.weights.numpy())
    resp = weight[:, None] * softmax(log_joint, axis=1)
    deviation = completed - density.means.numpy()
    second = np.einsum("nk,nki,nkj->kij", resp, deviation, deviation)
    second += np.einsum("nk,nkij->kij", resp, spread)
    if covariance_type == "tied":
        second = second.sum(0)
    elif covariance_type != "full":
        second = np.einsum("kii->ki", second)
    assert actual.total == weight.sum()
    assert_close(actual.counts, resp.sum(0))
    assert_close(actual.first, np.einsum("nk,nkd->kd", resp, deviation))
    assert_close(actual.second, second)
    assert_close(actual.log_likelihood, (weight * logsumexp(log_joint, axis=1)).sum())


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, size=SIZES, n_patterns=N_PATTERNS)
def test_log_densities_are_marginal_ones(covariance_type, seed, size, n_patterns):
    _, density, X = random_problem(seed, covariance_type, size, n_patterns)
    actual = component_log_prob_with_missing(X, density)
    assert_close(actual, one_by_one(X, density)[0])
    assert bool((actual[np.isnan(X).all(axis=1)] == 0).all())


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, size=SIZES, n_patterns=N_PATTERNS)
def test_imputed_values_are_conditional_means(covariance_type, seed, size, n_patterns):
    _, density, X = random_problem(seed, covariance_type, size, n_patterns)
    actual = impute(X, density).numpy()
    observed = ~np.isnan(X)
    np.testing.assert_array_equal(actual[observed], X[observed])
    for row, filled in zip(X, actual, strict=True):
        given, rest = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
        if len(rest):
            conditional = density.condition(given, double(row[given]))
            assert_close(filled[rest], conditional.mean)


def test_patterns_that_differ_in_the_last_of_many_columns_are_told_apart():
    rng = np.random.default_rng(0)
    density = random_mixture(rng, "full", n_components=2, n_features=70)
    density = density.affine(double(np.zeros(70)), double(np.full(70, 0.1)))
    # Ten rows of each pattern, so that rows taken for alike would share a factor.
    X = np.tile(rng.normal(scale=0.1, size=70), (60, 1))
    X[:, 5] = np.nan
    X[np.arange(60), np.tile([0, 30, 31, 61, 62, 69], 10)] = np.nan
    assert_close(component_log_prob_with_missing(X, density), one_by_one(X, density)[0])


@each_covariance_type
def test_complete_rows_need_nothing_special(covariance_type):
    rng = np.random.default_rng(0)
    density = random_mixture(rng, covariance_type)
    X = rng.normal(size=(50, 3))
    actual = expectation_with_missing(X, density, covariance_type)
    expected = expectation(X, density, covariance_type).around(density.means)
    assert_same_statistics(actual, expected)
    log_prob = component_log_prob_with_missing(X, density)
    assert_close(log_prob, density.component_log_prob(double(X)))
    for generator in (None, torch.Generator().manual_seed(0)):
        np.testing.assert_array_equal(impute(X, density, generator).numpy(), X)


@each_covariance_type
def test_complete_and_incomplete_rows_add_up(covariance_type):
    _, density, X = random_problem(0, covariance_type, (3, 4))
    incomplete = incomplete_rows(X)
    np.testing.assert_array_equal(incomplete, np.isnan(X).any(axis=1))
    np.testing.assert_array_equal(incomplete_rows(double(X)).numpy(), incomplete)
    parts = expectation(
        X[~incomplete], density, covariance_type
    ) + expectation_with_missing(X[incomplete], density, covariance_type)
    whole = expectation_with_missing(X, density, covariance_type)
    assert_same_statistics(parts.around(density.means), whole)


@each_covariance_type
def test_rows_without_any_value_repeat_the_density(covariance_type):
    density = random_mixture(np.random.default_rng(0), covariance_type)
    statistics = expectation_with_missing(
        np.full((7, 3), np.nan), density, covariance_type
    )
    assert_close(statistics.log_likelihood, double(0.0))
    again = maximization(statistics, 0.0).density(covariance_type)
    assert_close(again.weights, density.weights)
    assert_close(again.means, density.means)
    assert_close(again.component_covariances, density.component_covariances)


def test_one_missing_coordinate_by_quadrature():
    density = random_mixture(np.random.default_rng(1), "full", 2, 2)
    value = 0.7
    grid = torch.linspace(-40, 40, 20_001).double()
    points = torch.stack([torch.full_like(grid, value), grid], dim=-1)
    joint = density.log_weights + density.component_log_prob(points)
    area = torch.trapezoid(joint.exp(), grid, dim=0)
    X = np.array([[value, np.nan]])
    statistics = expectation_with_missing(X, density, "full")
    assert_close(statistics.log_likelihood, area.sum().log())
    assert_close(statistics.counts, area / area.sum())
    share = joint.exp() / area.sum()
    deviation = grid.unsqueeze(-1) - density.means[:, 1]
    for power, actual in (1, statistics.first[:, 1]), (2, statistics.second[:, 1, 1]):
        moment = torch.trapezoid(share * deviation**power, grid, dim=0)
        assert_close(actual, moment)


# ------------------------------------------------------------------------- weights


@each_covariance_type
def test_weights_are_repeated_rows(covariance_type):
    rng, density, X = random_problem(0, covariance_type, (3, 4))
    weight = rng.integers(0, 4, size=len(X))
    weighted = expectation_with_missing(X, density, covariance_type, weight)
    repeated = expectation_with_missing(
        np.repeat(X, weight, axis=0), density, covariance_type
    )
    assert_same_statistics(weighted, repeated)


# ------------------------------------------------------------------------ accuracy


def exact_condition(mean, factor, row):
    """Log-density, conditional mean and covariance with sixty digits."""
    mpmath = pytest.importorskip("mpmath")
    context = mpmath.mp.clone()
    context.dps = 60
    given, rest = np.flatnonzero(~np.isnan(row)), np.flatnonzero(np.isnan(row))
    factor = context.matrix(factor.tolist())
    covariance = factor * factor.T

    def pick(rows, columns):
        return context.matrix(
            [[covariance[int(i), int(j)] for j in columns] for i in rows]
        )

    precision = pick(given, given) ** -1
    gain = pick(rest, given) * precision
    deviation = context.matrix(row[given].tolist()) - context.matrix(
        mean[given].tolist()
    )
    log_det = context.log(context.det(2 * context.pi * pick(given, given)))
    log_prob = -((deviation.T * precision * deviation)[0] + log_det) / 2
    shift = gain * deviation
    spread = pick(rest, rest) - gain * pick(given, rest)
    return (
        float(log_prob),
        np.array([float(value) for value in shift]),
        np.array([[float(value) for value in line] for line in spread.tolist()]),
    )


@pytest.mark.parametrize("distance", [1.0, 1e5])
@pytest.mark.parametrize("seed", range(3))
def test_nearly_singular_covariances_keep_their_accuracy(seed, distance):
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    factor = np.linalg.qr((axes * np.logspace(0, -5, 6)).T).R.T
    factor *= np.sign(np.diag(factor))
    assert np.linalg.cond(factor @ factor.T) > 1e9
    density = MultivariateNormalMixture(
        double([1.0]), double(np.zeros((1, 6))), double(factor[None])
    )
    for missing in ([0], [4, 1], [5, 2, 3], [0, 1, 2, 4, 5]):
        row = distance * factor @ rng.normal(size=6)
        row[missing] = np.nan
        log_prob, shift, spread = exact_condition(np.zeros(6), factor, row)
        missing, X = sorted(missing), row[None].copy()
        actual = component_log_prob_with_missing(X, density)[0, 0]
        torch.testing.assert_close(actual, double(log_prob), rtol=1e-9, atol=1e-9)
        scale = np.sqrt(np.diag(spread))
        filled = impute(X, density)[0, missing].numpy()
        # The factor has the square root of the covariance's condition number, so that
        # eleven digits are left; solving with the covariance leaves six.
        assert np.abs((filled - shift) / scale).max() < 1e-9 * distance
        (block,) = completed_blocks(X, density, in_units=True)
        factor_of_spread = block.spread[0, 1, missing, :, 0]
        difference = (factor_of_spread @ factor_of_spread.T).numpy() - spread
        assert np.abs(difference / np.outer(scale, scale)).max() < 1e-9
        row[missing] = shift
        second = np.outer(row, row)
        second[np.ix_(missing, missing)] += spread
        actual = expectation_with_missing(X, density, "full").second[0]
        assert_close(actual / distance**2, second / distance**2, tol=1e-10)


@each_covariance_type
def test_far_rows_keep_finite_statistics(covariance_type):
    _, density, X = random_problem(0, covariance_type, (3, 4))
    X *= 1e5 * density.stddev.max().item()
    statistics = expectation_with_missing(X, density, covariance_type)
    log_prob = one_by_one(X, density)[0] + density.log_weights.numpy()
    expected = logsumexp(log_prob, axis=1).sum()
    assert float(statistics.log_likelihood) == pytest.approx(expected, rel=1e-11)
    assert_close(statistics.counts.sum(), double(float(len(X))))
    assert bool(torch.isfinite(statistics.second).all())


@each_covariance_type
def test_nothing_cancels_far_from_the_origin(covariance_type):
    _, near, X = random_problem(0, covariance_type, (2, 3), n_samples=300)
    # A power of two, so that the shifted means and rows are nearly exact themselves.
    shift = 2.0**26
    far = near.affine(double([shift] * 3), double([1.0] * 3))
    expected = expectation_with_missing(X, near, covariance_type)
    actual = expectation_with_missing(X + shift, far, covariance_type)
    assert_close(
        maximization(actual, 0.0).covariances,
        maximization(expected, 0.0).covariances,
        tol=1e-6,
    )


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, size=SIZES)
def test_covariances_stay_symmetric_and_positive(covariance_type, seed, size):
    _, density, X = random_problem(seed, covariance_type, size, n_samples=4)
    X[1] = np.nan
    *_, statistics = climb(X, density, covariance_type, 6)
    covariances = maximization(statistics, 0.0).covariances
    if covariance_type in ("diag", "spherical"):
        assert bool((covariances > 0).all())
        return
    assert_close(covariances, covariances.mT, tol=0.0)
    assert torch.linalg.eigvalsh(covariances).min() > 0


# ------------------------------------------------------------------------------ EM


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, n_components=st.integers(1, 3), n_features=st.integers(1, 4))
def test_likelihood_never_decreases(covariance_type, seed, n_components, n_features):
    rng = np.random.default_rng(seed)
    truth = random_mixture(rng, covariance_type, n_components, n_features)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    X = truth.sample((150,), generator=generator).numpy()
    X = holes(rng, X, share=0.3)
    start = random_mixture(rng, covariance_type, n_components, n_features)
    likelihoods = []
    for statistics in climb(X, start, covariance_type, 12):
        likelihoods.append(statistics.mean_log_likelihood)
        # Fits that shrink to a few rows end the climb.
        if statistics.counts.min() < 4 * n_features + 2:
            break
    assert np.diff(likelihoods).min(initial=0.0) >= -1e-11


@each_covariance_type
def test_likelihood_rises_from_a_poor_start(covariance_type):
    rng = np.random.default_rng(0)
    truth, start = (random_mixture(rng, covariance_type) for _ in range(2))
    X = truth.sample((500,), generator=torch.Generator().manual_seed(0)).numpy()
    first, second = climb(holes(rng, X, share=0.3), start, covariance_type, 2)
    assert second.mean_log_likelihood > first.mean_log_likelihood + 0.05


@each_covariance_type
def test_values_missing_at_random_leave_the_fit_where_it_was(covariance_type):
    rng = np.random.default_rng(0)
    truth = random_mixture(rng, covariance_type, n_components=2, n_features=4)
    truth = MultivariateNormalMixture(
        double([0.4, 0.6]),
        double([[-2.0] * 4, [2.0] * 4]),
        **{
            name: value
            for name, value in truth.parameters().items()
            if name.startswith("scale")
        },
    )
    X = truth.sample((4000,), generator=torch.Generator().manual_seed(0)).numpy()
    # What is missing depends on the first column, which is observed.
    incomplete = X.copy()
    lost = rng.random((4000, 3)) < np.where(X[:, :1] > 1.0, 0.6, 0.15)
    incomplete[:, 1:][lost] = np.nan
    assert 0.28 < lost.mean() < 0.45
    *_, statistics = climb(incomplete, truth, covariance_type, 40)
    actual = maximization(statistics, 0.0)
    *_, statistics = climb(X, truth, covariance_type, 40)
    expected = maximization(statistics, 0.0)
    # Standard errors of what was lost: some 0.03 for means, 0.05 for covariances.
    assert_close(actual.weights, expected.weights, tol=0.01)
    assert_close(actual.means, expected.means, tol=0.12)
    assert_close(actual.covariances, expected.covariances, tol=0.2)
    kept = ~incomplete_rows(incomplete)
    *_, statistics = climb(X[kept], truth, covariance_type, 40)
    of_complete_rows = maximization(statistics, 0.0)
    assert (of_complete_rows.weights - expected.weights).abs().max() > 0.1
    assert (of_complete_rows.means - expected.means).abs().max() > 0.3


# ----------------------------------------------------------------------------- draws


@each_covariance_type
def test_draws_have_the_conditional_moments(covariance_type):
    rng = np.random.default_rng(0)
    density = random_mixture(rng, covariance_type, n_components=3, n_features=4)
    n_draws = 40_000
    row = np.array([np.nan, 0.5, np.nan, -0.3])
    other = np.array([np.nan, np.nan, 1.0, np.nan])
    X = np.concatenate([np.tile(row, (n_draws, 1)), np.tile(other, (n_draws, 1))])
    draws = impute(X, density, torch.Generator().manual_seed(0))
    for given, rest, part in (
        ([1, 3], [0, 2], slice(n_draws)),
        ([2], [0, 1, 3], slice(n_draws, None)),
    ):
        conditional = density.condition(given, double(X[part][0, given]))
        sample = draws[part]
        assert bool((sample[:, given] == double(X[part][0, given])).all())
        sample = sample[:, rest]
        error = conditional.stddev / n_draws**0.5
        assert bool(((sample.mean(0) - conditional.mean).abs() < 4.5 * error).all())
        assert_close(sample.T.cov(), conditional.covariance_matrix, tol=0.1)


@each_covariance_type
def test_draws_follow_their_generator(covariance_type):
    _, density, X = random_problem(0, covariance_type, (3, 4))
    first, again, other = (
        impute(X, density, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    missing = torch.from_numpy(np.isnan(X))
    assert bool((first != other)[missing].all())
    assert bool(torch.isfinite(first).all())


# --------------------------------------------------------------- blocks and memory


@each_covariance_type
def test_block_size_does_not_matter(covariance_type, monkeypatch):
    _, density, X = random_problem(0, covariance_type, (3, 4), n_samples=500)
    expected = expectation_with_missing(X, density, covariance_type)
    log_prob, completed = (
        function(X, density) for function in (component_log_prob_with_missing, impute)
    )
    for module, numbers in (_backend, 1), (_completion, 100):
        monkeypatch.setattr(module, "BLOCK_NUMBERS", numbers)
    monkeypatch.setattr(_completion, "GROUP_NUMBERS", 900)
    assert len(list(completed_blocks(X, density))) >= 6
    actual = expectation_with_missing(X, density, covariance_type)
    assert_same_statistics(actual, expected)
    assert_close(component_log_prob_with_missing(X, density), log_prob)
    assert_close(impute(X, density), completed)


class LargestTensor(TorchDispatchMode):
    """Remembers the size of the largest tensor that an operation returns."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.untyped_storage().nbytes() // 8)
        return result


@each_covariance_type
def test_memory_does_not_grow_with_the_number_of_rows(covariance_type, monkeypatch):
    for module in (_backend, _completion):
        monkeypatch.setattr(module, "BLOCK_NUMBERS", 2**12)
    monkeypatch.setattr(_completion, "GROUP_NUMBERS", 2**12)
    _, density, X = random_problem(0, covariance_type, (2, 4), n_samples=10_000)
    with LargestTensor() as largest:
        expectation_with_missing(X, density, covariance_type)
    assert 2**10 < largest.numel <= 2**13 < X.size / 4


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_rows_of_a_pattern_share_a_factor(covariance_type):
    rng = np.random.default_rng(0)
    density = random_mixture(rng, covariance_type, n_components=1, n_features=4)
    X = np.tile([0.0, np.nan, 1.0, np.nan], (160, 1)) + rng.normal(size=(160, 4))
    (block,) = completed_blocks(X, density)
    assert block.spread.shape == (1, 1, 4, 2, 10)
    X[:, 0] = np.where(np.arange(160) % 2, X[:, 0], np.nan)
    assert sum(block.spread.shape[-1] for block in completed_blocks(X, density)) == 10


def test_tied_components_share_a_factor():
    density = random_mixture(np.random.default_rng(0), "tied", 5, 3)
    (block,) = completed_blocks(np.array([[0.0, np.nan, 1.0]]), density)
    assert block.spread.shape == (1, 1, 3, 1, 1)
    assert block.deviation.shape == (5, 1, 3, 1, 1)


# -------------------------------------------------------------------------- inputs


@each_covariance_type
@pytest.mark.parametrize(
    "convert",
    [
        np.asfortranarray,
        lambda X: np.repeat(X, 2, axis=0)[::2],
        lambda X: X[::-1].copy()[::-1],
        lambda X: X.astype(X.dtype.newbyteorder()),
        torch.from_numpy,
    ],
    ids=["fortran", "strided", "reversed", "byte-swapped", "tensor"],
)
def test_memory_layout_of_the_samples_does_not_matter(covariance_type, convert):
    _, density, X = random_problem(0, covariance_type, (3, 4))
    expected = expectation_with_missing(X, density, covariance_type)
    actual = expectation_with_missing(convert(X.copy()), density, covariance_type)
    assert_same_statistics(actual, expected)
    assert torch.equal(impute(convert(X.copy()), density), impute(X, density))


def test_float32_memory_maps_are_read_and_left_alone(tmp_path):
    _, density, X = random_problem(0, "full", (3, 4))
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    actual = expectation_with_missing(mapped, density, "full")
    assert actual.second.dtype == torch.float64
    expected = expectation_with_missing(mapped.astype(np.float64), density, "full")
    assert_same_statistics(actual, expected)
    completed = impute(mapped, density).numpy()
    observed = ~np.isnan(mapped)
    np.testing.assert_array_equal(completed[observed], mapped[observed])
    np.testing.assert_array_equal(incomplete_rows(mapped), ~observed.all(axis=1))


def test_a_tensor_is_not_overwritten_by_imputation():
    _, density, X = random_problem(0, "full", (3, 4))
    samples = double(X)
    assert not impute(samples, density).isnan().any()
    assert torch.equal(samples.isnan(), torch.from_numpy(np.isnan(X)))


# -------------------------------------------------------------------------- starts


def correlated_rows(rng, n_samples=2000):
    X = rng.multivariate_normal(
        [100.0, -3.0, 0.0], [[4, 1.8, 0], [1.8, 1, 0], [0, 0, 1e-4]], n_samples
    )
    holed = X.copy()
    holed[rng.random(X.shape) < 0.3] = np.nan
    return X, holed


def test_the_start_is_completed_with_the_correlations_of_the_data():
    X, holed = correlated_rows(np.random.default_rng(0))
    completed = fill_for_start(holed, None, 0)
    observed = ~np.isnan(holed)
    np.testing.assert_array_equal(completed[observed], X[observed])
    np.testing.assert_allclose(completed.mean(0), X.mean(0), atol=0.1)
    # Means in place of draws would lose 30 % of the variance, means of columns half
    # of the correlation.
    np.testing.assert_allclose(completed.std(0), X.std(0), rtol=0.08)
    np.testing.assert_allclose(np.corrcoef(completed.T), np.corrcoef(X.T), atol=0.06)


def test_the_start_follows_its_seed():
    _, holed = correlated_rows(np.random.default_rng(0), 50)
    first, again, other = (fill_for_start(holed, None, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other)[np.isnan(holed)].all()
    from_state = fill_for_start(holed, None, np.random.RandomState(0))
    np.testing.assert_array_equal(first, from_state)


def test_rows_of_weight_zero_do_not_shape_the_start():
    X, holed = correlated_rows(np.random.default_rng(0), 200)
    strange = np.concatenate([holed, np.full((50, 3), 1e6)])
    weight = np.repeat([1.0, 0.0], [200, 50])
    completed = fill_for_start(strange, weight, 0)[:200]
    np.testing.assert_allclose(completed, fill_for_start(holed, None, 0), rtol=1e-9)
    assert np.abs(completed - X.mean(0)).max() < 12


def test_a_constant_column_is_completed_with_its_value():
    X = np.array([[1.0, 7.0], [2.0, np.nan], [np.nan, 7.0], [3.0, 7.0]])
    completed = fill_for_start(X, None, 0)
    np.testing.assert_array_equal(completed[:, 1], 7.0)
    assert np.isfinite(completed).all()


def test_fewer_rows_than_columns_can_start():
    X = np.random.default_rng(0).normal(size=(4, 9))
    X[[0, 1, 2], [3, 4, 5]] = np.nan
    assert np.isfinite(fill_for_start(X, None, 0)).all()


@pytest.mark.parametrize("weight", [None, [1.0, 1.0, 0.0]], ids=["none", "zero"])
def test_a_column_without_observed_values_is_named(weight):
    X = np.array([[0.0, np.nan, 1.0], [1.0, np.nan, np.nan], [0.5, 2.0, 3.0]])
    if weight is None:
        X[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"in columns \[1\]; drop these columns"):
        fill_for_start(X, weight, 0)


# -------------------------------------------------------------------------- device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_covariance_type
def test_cuda_agrees_with_the_cpu(covariance_type):
    _, density, X = random_problem(0, covariance_type, (3, 4), n_samples=300)
    weight = np.linspace(0.5, 1.5, 300)
    on_cuda = density.to("cuda")
    expected = expectation_with_missing(X, density, covariance_type, weight)
    actual = expectation_with_missing(X, on_cuda, covariance_type, weight)
    assert actual.second.device.type == "cuda"
    for name in ("counts", "first", "second", "log_likelihood"):
        assert_close(getattr(actual, name).cpu(), getattr(expected, name))
    for samples in (X, double(X).cuda()):
        log_prob = component_log_prob_with_missing(samples, on_cuda)
        assert_close(log_prob.cpu(), component_log_prob_with_missing(X, density))
        assert_close(impute(samples, on_cuda).cpu(), impute(X, density))
    draws = impute(X, on_cuda, torch.Generator("cuda").manual_seed(0))
    assert draws.device.type == "cuda"
    assert bool(torch.isfinite(draws).all())
