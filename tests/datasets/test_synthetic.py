"""Makers of pairs with several answers, and the oracles that belong to them."""

import numpy as np
import pytest
from scipy import stats

from skgmje.datasets import (
    branch_conditional,
    branch_log_density,
    curve_log_density,
    inverse_log_density,
    lift_view,
    load_digit_halves,
    make_branches,
    make_curves,
    make_inverse,
)

ORACLES = [branch_log_density, inverse_log_density, curve_log_density]
KINDS = ["separated", "intersecting", "heteroscedastic", "unequal"]
ENTROPY_OF_NOISE = 0.5 * np.log(2 * np.pi * np.e * 0.05**2)


def integral(log_density, x, low, high, **options):
    """Midpoint rule, whose points are never at the edge of a support."""
    step = (high - low) / 4000
    y = low + step * (np.arange(4000)[:, np.newaxis] + 0.5)
    return step * np.exp(log_density(np.full_like(y, x), y, **options)).sum()


def brute_conditional(x, y, at, width, window):
    """Histogram estimate of p(y | x) at a point, with its standard error."""
    near = y[np.abs(x - at[0]) < window]
    hits = np.mean(np.abs(near - at[1]) < width)
    return hits / (2 * width), np.sqrt(hits / len(near)) / (2 * width)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("x", [-0.9, 0.0, 0.4])
def test_the_density_of_the_branches_integrates_to_one(kind, x):
    total = integral(branch_log_density, x, -5, 5, kind=kind)
    np.testing.assert_allclose(total, 1, rtol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_branches_have_their_weights_and_their_noise(kind):
    X, y, branch = make_branches(40_000, kind=kind, random_state=0, return_branch=True)
    conditional = branch_conditional(X, kind=kind)
    usage = np.bincount(branch, minlength=3) / len(X)
    np.testing.assert_allclose(usage, conditional.weights[0], atol=0.01)
    rows = np.arange(len(X))
    scale = conditional.component_covariances[rows, branch, 0, 0].numpy() ** 0.5
    residual = (y[:, 0] - conditional.means[rows, branch, 0].numpy()) / scale
    assert stats.kstest(residual, "norm").pvalue > 0.01


@pytest.mark.parametrize(
    ("kind", "entropy_of_branch"),
    [
        ("separated", np.log(3)),
        ("heteroscedastic", np.log(3)),  # E log 4 ** x = 0
        ("unequal", stats.entropy([0.6, 0.3, 0.1])),
    ],
)
def test_separated_branches_have_the_entropy_of_closed_form(kind, entropy_of_branch):
    X, y = make_branches(40_000, kind=kind, random_state=1)
    log_density = branch_log_density(X, y, kind=kind)
    expected = -ENTROPY_OF_NOISE - entropy_of_branch
    error = log_density.std() / np.sqrt(len(X))
    np.testing.assert_allclose(log_density.mean(), expected, atol=4 * error)


def test_noise_grows_with_x_in_the_heteroscedastic_kind():
    conditional = branch_conditional([[-1.0], [0.0], [1.0]], kind="heteroscedastic")
    scale = conditional.component_covariances[:, 0, 0, 0] ** 0.5
    np.testing.assert_allclose(scale, [0.0125, 0.05, 0.2])


@pytest.mark.parametrize("kind", ["moons", "spiral"])
@pytest.mark.parametrize("x", [-0.9, -0.05, 0.5])
def test_the_density_of_the_curves_integrates_to_one(kind, x):
    total = integral(curve_log_density, x, -3, 3, kind=kind)
    np.testing.assert_allclose(total, 1, rtol=1e-8)


@pytest.mark.parametrize("x", [-0.05, 0.25, 0.5])
def test_the_density_of_the_inverse_integrates_to_one(x):
    total = integral(inverse_log_density, x, 0, 1)
    np.testing.assert_allclose(total, 1, rtol=1e-4)


@pytest.mark.parametrize(
    ("make", "log_density", "points"),
    [
        (make_inverse, inverse_log_density, [(0.5, 0.5), (0.5, 0.8), (0.1, 0.05)]),
        (make_curves, curve_log_density, [(0.5, 0.87), (0.5, -0.37), (-0.5, 0.87)]),
        (
            lambda n, **options: make_curves(n, kind="spiral", **options),
            lambda X, y: curve_log_density(X, y, kind="spiral"),
            [(0.0, -0.375), (0.0, 0.625), (0.5, 0.0)],
        ),
    ],
    ids=["inverse", "moons", "spiral"],
)
def test_the_oracle_agrees_with_a_histogram(make, log_density, points):
    X, y = make(400_000, random_state=0)
    for at in points:
        found, error = brute_conditional(X[:, 0], y[:, 0], at, 0.015, 0.01)
        expected = np.exp(log_density([[at[0]]], [[at[1]]]))[0]
        np.testing.assert_allclose(found, expected, atol=4 * error + 0.04 * expected)


def test_the_inverse_has_no_density_beyond_its_ends():
    np.testing.assert_array_equal(
        inverse_log_density([[0.5], [0.5]], [[-0.1], [1.1]]), -np.inf
    )


def test_the_oracle_does_not_depend_on_the_block_of_a_row():
    X, y = make_curves(9000, kind="spiral", random_state=0)
    whole = curve_log_density(X, y, kind="spiral")
    tail = curve_log_density(X[-5:], y[-5:], kind="spiral")
    np.testing.assert_allclose(whole[-5:], tail, rtol=1e-12)


def test_a_lift_is_fixed_by_its_seed_and_keeps_rows_apart():
    X = np.linspace(-1, 1, 400)[:, np.newaxis]
    lifted = lift_view(X)
    np.testing.assert_allclose(lift_view(X[5:7]), lifted[5:7], rtol=1e-12)
    assert not np.allclose(lifted, lift_view(X, random_state=1))
    gaps = np.linalg.norm(lifted[:, np.newaxis] - lifted, axis=2)
    distances = np.abs(X - X.T)
    # Nothing folds: the distance never vanishes beside the distance below.
    assert (gaps[distances > 0] / distances[distances > 0]).min() > 0.2
    assert 0.3 < lifted.std() < 3


def test_an_unknown_kind_is_named():
    for make in (make_branches, make_curves):
        with pytest.raises(ValueError, match="got 'circle'"):
            make(5, kind="circle")


@pytest.mark.parametrize("noise", [0, -0.1, np.nan, np.inf])
def test_noise_must_be_positive(noise):
    for make in (make_branches, make_curves, make_inverse):
        with pytest.raises(ValueError, match="noise must be positive"):
            make(5, noise=noise)
    for oracle in ORACLES:
        with pytest.raises(ValueError, match="noise must be positive"):
            oracle([[0.5]], [[0.5]], noise=noise)


@pytest.mark.parametrize("oracle", ORACLES)
def test_one_dimension_is_one_column_and_others_are_refused(oracle):
    x, y = np.array([0.1, 0.5]), np.array([0.1, 0.4])
    expected = oracle(x[:, np.newaxis], y[:, np.newaxis])
    np.testing.assert_array_equal(oracle(x, y), expected)
    assert expected.shape == (2,)
    with pytest.raises(ValueError, match=r"X must have one column.*got shape \(2, 3\)"):
        oracle(np.zeros((2, 3)), y)
    with pytest.raises(ValueError, match=r"y must have one column.*got shape \(2, 3\)"):
        oracle(x, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        oracle(x, y[:1])


def test_inputs_of_one_dimension_have_a_density_each():
    found = branch_conditional([0.0, 1.0]).mean
    np.testing.assert_array_equal(found, branch_conditional([[0.0], [1.0]]).mean)


def test_a_view_of_one_dimension_is_lifted_as_one_column():
    np.testing.assert_array_equal(lift_view([1.0, 2.0]), lift_view([[1.0], [2.0]]))
    with pytest.raises(ValueError, match=r"must have the shape.*got \(2, 2, 2\)"):
        lift_view(np.zeros((2, 2, 2)))


@pytest.mark.parametrize("source", ["MNIST", "digit", None])
def test_a_source_of_digits_that_is_unknown_is_named(source):
    with pytest.raises(ValueError, match=r"one of \['digits', 'mnist'\]; got"):
        load_digit_halves(source)
