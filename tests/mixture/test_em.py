"""Sufficient statistics, the E step and the M step."""

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
    textbook_log_joint,
)
from scipy.special import logsumexp

from skgmje import _backend
from skgmje.mixture._em import (
    MixtureParameters,
    SufficientStatistics,
    covariances_of_density,
    expectation,
    maximization,
    scale_of_covariances,
    statistics_of_density,
    statistics_of_responsibilities,
    stepwise,
)
from skgmje.mixture._evaluation import Evaluator

CPU = torch.device("cpu")
each_covariance_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
# Where K == D, tensors of counts, of means and of scatters are easily mistaken.
SIZES = st.sampled_from([(1, 1), (1, 3), (3, 2), (2, 3), (3, 3), (8, 8)])


def direct_statistics(X, resp, reference, covariance_type):
    """Statistics by their definition, one outer product for each row."""
    deviation = X[:, None, :] - reference
    first = np.einsum("nk,nkd->kd", resp, deviation)
    second = np.einsum("nk,nki,nkj->kij", resp, deviation, deviation)
    if covariance_type == "tied":
        second = second.sum(0)
    elif covariance_type != "full":
        second = np.einsum("kii->ki", second)
    return SufficientStatistics(
        double(resp.sum(0)),
        double(first),
        double(second),
        double(reference),
        double(resp.sum()),
        float(len(X)),
        covariance_type,
    )


def textbook_posterior(density, X):
    """Log-densities of components and of the mixture, and responsibilities."""
    (parameters,) = flat_parameters(density)
    log_joint = np.stack([textbook_log_joint(*parameters, row) for row in X])
    log_prob = logsumexp(log_joint, axis=1)
    return log_joint, log_prob, np.exp(log_joint - log_prob[:, None])


def assert_same_statistics(actual, expected):
    assert actual.covariance_type == expected.covariance_type
    assert actual.total == pytest.approx(expected.total)
    for name in ("reference", "counts", "first", "second", "log_likelihood"):
        assert_close(getattr(actual, name), getattr(expected, name))


def random_problem(seed, size, n_samples=60):
    n_components, n_features = size
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features))
    resp = rng.dirichlet(np.ones(n_components), size=n_samples)
    return rng, X, resp, rng.normal(size=(n_components, n_features))


def parameters_of(mixture):
    return MixtureParameters(
        mixture.weights, mixture.means, covariances_of_density(mixture)
    )


def assert_same_parameters(actual, expected, tol=1e-9):
    assert_close(actual.weights, expected.weights, tol)
    assert_close(actual.means, expected.means, tol)
    assert_close(actual.covariances, expected.covariances, tol)


# ------------------------------------------------------------------------- statistics


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, size=SIZES)
def test_sum_of_statistics_is_statistics_of_all_rows(covariance_type, seed, size):
    rng, X, resp, reference = random_problem(seed, size)
    other = reference + rng.normal(size=size)
    cut = rng.integers(1, len(X))
    head = direct_statistics(X[:cut], resp[:cut], reference, covariance_type)
    tail = direct_statistics(X[cut:], resp[cut:], other, covariance_type)
    expected = direct_statistics(X, resp, reference, covariance_type)
    assert_same_statistics(head + tail, expected)
    assert_same_statistics(tail + head, expected.around(double(other)))


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, size=SIZES)
def test_recentred_statistics_are_direct_sums(covariance_type, seed, size):
    rng, X, resp, reference = random_problem(seed, size)
    other = reference + rng.normal(size=size)
    moved = direct_statistics(X, resp, reference, covariance_type).around(double(other))
    assert_same_statistics(moved, direct_statistics(X, resp, other, covariance_type))
    back = moved.around(double(reference))
    assert_same_statistics(back, direct_statistics(X, resp, reference, covariance_type))


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, size=SIZES, factor=st.floats(0.01, 10))
def test_scaled_statistics_give_the_same_parameters(
    covariance_type, seed, size, factor
):
    _, X, resp, reference = random_problem(seed, size)
    statistics = direct_statistics(X, resp, reference, covariance_type)
    scaled = statistics * factor
    assert_close(scaled.second, factor * statistics.second)
    assert scaled.mean_log_likelihood == pytest.approx(statistics.mean_log_likelihood)
    assert_same_parameters(
        maximization(scaled, 1e-3), maximization(statistics, 1e-3), tol=1e-8
    )


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, size=SIZES)
def test_maximization_is_the_weighted_mean_and_covariance(covariance_type, seed, size):
    _, X, resp, reference = random_problem(seed, size)
    statistics = direct_statistics(X, resp, reference, covariance_type)
    actual = maximization(statistics, 0.1)
    counts = resp.sum(0)
    means = resp.T @ X / counts[:, None]
    scatter = np.stack(
        [
            np.cov(X.T, aweights=resp[:, k], bias=True).reshape((X.shape[1],) * 2)
            for k in range(size[0])
        ]
    )
    ridge = 0.1 * np.eye(size[1])
    expected = {
        "full": scatter + ridge,
        "tied": np.einsum("k,kij->ij", counts / len(X), scatter) + ridge,
        "diag": np.einsum("kii->ki", scatter) + 0.1,
        "spherical": np.einsum("kii->ki", scatter).mean(1) + 0.1,
    }[covariance_type]
    assert_close(actual.weights, counts / len(X))
    assert_close(actual.means, means)
    assert_close(actual.covariances, expected)


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, size=SIZES)
def test_stepwise_with_shares_of_the_rows_is_the_full_average(
    covariance_type, seed, size
):
    rng, X, resp, reference = random_problem(seed, size)
    cuts = np.sort(rng.choice(np.arange(1, len(X)), 3, replace=False))
    references = [reference + rng.normal(size=size) for _ in range(4)]
    batches = [
        direct_statistics(*parts, covariance_type)
        for parts in zip(
            np.split(X, cuts), np.split(resp, cuts), references, strict=True
        )
    ]
    n_seen = batches[0].total
    running = batches[0] * (1 / n_seen)
    for batch in batches[1:]:
        n_seen += batch.total
        running = stepwise(running, batch, batch.total / n_seen)
    average = direct_statistics(X, resp, references[0], covariance_type) * (1 / len(X))
    assert_same_statistics(running, average)


@each_covariance_type
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_stepwise_at_the_ends_of_the_rate(covariance_type, rate):
    _, X, resp, reference = random_problem(0, (3, 2))
    running, batch = (
        direct_statistics(X[rows], resp[rows], reference, covariance_type)
        for rows in (slice(40), slice(40, None))
    )
    running, average = running * (1 / 40), batch * (1 / 20)
    expected = average if rate else running
    assert_same_statistics(stepwise(running, batch, rate), expected)


@each_covariance_type
@pytest.mark.parametrize("n_components", [2, 4])
def test_statistics_of_a_density_give_it_back(covariance_type, n_components):
    density = random_mixture(
        np.random.default_rng(0), covariance_type, n_components, n_features=4
    )
    statistics = statistics_of_density(density)
    assert statistics.total == 1.0
    assert_same_parameters(maximization(statistics, 0.0), parameters_of(density))


# ----------------------------------------------------------------------------- E step


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, size=SIZES)
def test_expectation_is_textbook_responsibilities_and_direct_sums(
    covariance_type, seed, size
):
    rng = np.random.default_rng(seed)
    density = random_mixture(rng, covariance_type, *size)
    X = rng.normal(scale=2.0, size=(30, size[1]))
    _, log_prob, resp = textbook_posterior(density, X)
    actual = expectation(X, density, covariance_type)
    expected = direct_statistics(X, resp, actual.reference.numpy(), covariance_type)
    assert_close(actual.counts, expected.counts)
    assert_close(actual.first, expected.first)
    assert_close(actual.second, expected.second)
    assert_close(actual.log_likelihood, log_prob.sum())
    assert actual.total == 30.0


@each_covariance_type
@pytest.mark.parametrize("place", [0, 100, 200, 299])
def test_one_far_sample_does_not_change_the_others(covariance_type, place, monkeypatch):
    rng = np.random.default_rng(place)
    density = random_mixture(rng, covariance_type, 3, 4)
    X = rng.normal(size=(300, 4))
    X[place] *= 1e3
    log_joint, log_prob, resp = textbook_posterior(density, X)
    # The densities of that row are zero even beside the peak of the mixture.
    assert log_joint[place].max() - log_joint.max() < -1000
    monkeypatch.setattr(_backend, "BLOCK_NUMBERS", 1)
    assert len(list(_backend.blocks(300, 12))) == 5
    actual = expectation(X, density, covariance_type)
    expected = direct_statistics(X, resp, actual.reference.numpy(), covariance_type)
    assert_close(actual.counts, expected.counts)
    assert_close(actual.first, expected.first)
    assert_close(actual.second, expected.second)
    assert_close(actual.log_likelihood, log_prob.sum())
    near = np.delete(np.arange(300), place)
    assert_close(Evaluator(density, covariance_type).log_prob(X)[near], log_prob[near])


@each_covariance_type
def test_block_size_does_not_matter(covariance_type, monkeypatch):
    rng = np.random.default_rng(0)
    density = random_mixture(rng, covariance_type, 3, 4)
    X = rng.normal(size=(500, 4))
    resp = rng.dirichlet(np.ones(3), size=500)
    one_block = expectation(X, density, covariance_type)
    given = statistics_of_responsibilities(X, resp, covariance_type, CPU)
    monkeypatch.setattr(_backend, "BLOCK_NUMBERS", 1)
    assert len(list(_backend.blocks(500, 12))) == 8
    assert_same_statistics(expectation(X, density, covariance_type), one_block)
    many_blocks = statistics_of_responsibilities(X, resp, covariance_type, CPU)
    assert_same_statistics(many_blocks, given)


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
    rng = np.random.default_rng(0)
    density = random_mixture(rng, covariance_type)
    X = rng.normal(size=(100, 3))
    expected = expectation(X, density, covariance_type)
    actual = expectation(convert(X), density, covariance_type)
    assert_same_statistics(actual, expected)


@each_covariance_type
def test_float32_samples_are_summed_in_float64(covariance_type):
    rng = np.random.default_rng(0)
    density = random_mixture(rng, covariance_type)
    X = rng.normal(size=(100, 3)).astype(np.float32)
    X.flags.writeable = False
    actual = expectation(X, density, covariance_type)
    expected = expectation(X.astype(np.float64), density, covariance_type)
    assert actual.second.dtype == torch.float64
    assert_same_statistics(actual, expected)


@each_covariance_type
def test_nothing_cancels_far_from_the_origin(covariance_type):
    rng = np.random.default_rng(0)
    near = random_mixture(rng, covariance_type)
    X = near.sample((300,), generator=torch.Generator().manual_seed(0)).numpy()
    # A power of two, so that the shifted means and rows are nearly exact themselves.
    shift = 2.0**26
    far = near.affine(torch.full((3,), shift).double(), torch.ones(3).double())
    expected = maximization(expectation(X, near, covariance_type), 0.0)
    actual = maximization(expectation(X + shift, far, covariance_type), 0.0)
    # Doubles near 2^26 are spaced by 1.5e-8; products about the origin by 0.5.
    assert_close(actual.covariances, expected.covariances, tol=1e-6)
    assert_close(actual.means - shift, expected.means, tol=1e-6)


def test_responsibilities_below_the_floor_are_not_denormal():
    density = MixtureParameters(
        double([0.5, 0.5]), double([[0.0], [40.0]]), double([1.0, 1.0])
    ).density("spherical")
    statistics = expectation(np.zeros((10, 1)), density, "spherical")
    # The exact share, exp(-800), would underflow to a denormal number or to nothing.
    assert 0 < statistics.counts[1] < 1e-30
    assert_close(statistics.counts[0], double(10.0))


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, size=SIZES)
def test_statistics_of_responsibilities_are_direct_sums(covariance_type, seed, size):
    _, X, resp, _ = random_problem(seed, size)
    actual = statistics_of_responsibilities(X, resp, covariance_type, CPU)
    expected = direct_statistics(X, resp, actual.reference.numpy(), covariance_type)
    for name in ("counts", "first", "second"):
        assert_close(getattr(actual, name), getattr(expected, name))


# ------------------------------------------------------------------------- iterations


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, n_components=st.integers(1, 4), n_features=st.integers(1, 3))
def test_likelihood_never_decreases(covariance_type, seed, n_components, n_features):
    rng = np.random.default_rng(seed)
    truth = random_mixture(rng, covariance_type, n_components, n_features)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    X = truth.sample((150,), generator=generator).numpy()
    density = random_mixture(rng, covariance_type, n_components, n_features)
    likelihoods = []
    for _ in range(15):
        statistics = expectation(X, density, covariance_type)
        likelihoods.append(statistics.mean_log_likelihood)
        # Without a ridge, so that each step is a maximum of the exact bound. Fits that
        # shrink to a few rows end the climb.
        parameters = maximization(statistics, 0.0)
        if statistics.counts.min() < 2 * n_features + 2:
            break
        density = parameters.density(covariance_type)
    # Sums of 150 terms of order one round at 1e-14.
    assert np.diff(likelihoods).min(initial=0.0) >= -1e-11


@each_covariance_type
def test_likelihood_rises_from_a_poor_start(covariance_type):
    rng = np.random.default_rng(0)
    truth, density = (random_mixture(rng, covariance_type) for _ in range(2))
    X = truth.sample((500,), generator=torch.Generator().manual_seed(0)).numpy()
    first = expectation(X, density, covariance_type)
    density = maximization(first, 0.0).density(covariance_type)
    second = expectation(X, density, covariance_type)
    assert second.mean_log_likelihood > first.mean_log_likelihood + 0.1


@each_covariance_type
def test_empty_component_keeps_finite_parameters(covariance_type):
    X = np.random.default_rng(0).normal(size=(50, 2))
    resp = np.column_stack([np.ones(50), np.zeros(50)])
    statistics = statistics_of_responsibilities(X, resp, covariance_type, CPU)
    parameters = maximization(statistics, 1e-3)
    assert bool(torch.isfinite(parameters.means).all())
    assert bool(torch.isfinite(parameters.covariances).all())
    assert_close(parameters.weights, double([1.0, 0.0]))
    parameters.density(covariance_type)


# ------------------------------------------------------------------------ factorisation


@each_covariance_type
@pytest.mark.parametrize("n_components", [2, 3])
def test_factors_multiply_back_to_the_covariances(covariance_type, n_components):
    density = random_mixture(np.random.default_rng(0), covariance_type, n_components)
    covariances = covariances_of_density(density)
    again = MixtureParameters(density.weights, density.means, covariances).density(
        covariance_type
    )
    assert_close(covariances_of_density(again), covariances)
    assert_close(again.component_covariances, density.component_covariances)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
@each_covariance_type
def test_indefinite_covariances_are_ill_defined(covariance_type, bad):
    good, broken = np.eye(2), np.diag([1.0, bad])
    covariances = {
        "full": [good, broken],
        "tied": broken,
        "diag": [[1.0, 1.0], [1.0, bad]],
        "spherical": [1.0, bad],
    }[covariance_type]
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        scale_of_covariances(double(np.array(covariances)), covariance_type)
