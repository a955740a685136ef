"""Quasi-Newton steps between EM steps."""

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

from skgmje.mixture import _acceleration
from skgmje.mixture._acceleration import (
    Accelerator,
    Frame,
    Point,
    quasi_newton_direction,
)
from skgmje.mixture._em import (
    MixtureParameters,
    covariances_of_density,
    expectation,
    maximization,
)
from skgmje.mixture._missing import expectation_with_missing

each_covariance_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
every_covariance_type = st.sampled_from(COVARIANCE_TYPES)


def random_start(rng, covariance_type, n_components=3, n_features=2):
    density = random_mixture(rng, covariance_type, n_components, n_features)
    covariances = covariances_of_density(density)
    if covariance_type == "tied":
        covariances = covariances.reshape(n_features, n_features)
    return MixtureParameters(density.weights, density.means, covariances)


def start_near(X, rng, covariance_type, spread=0.3):
    """Means near the centres that `overlapping` has."""
    start = random_start(rng, covariance_type)
    centres = np.array([X[k::3].mean(axis=0) for k in range(3)])
    means = double(centres + spread * rng.normal(size=centres.shape))
    return MixtureParameters(start.weights, means, start.covariances)


def e_and_m_step(X, parameters, covariance_type, reg_covar, e_step=expectation):
    density = parameters.density(covariance_type)
    statistics = e_step(X, density, covariance_type)
    return maximization(statistics, reg_covar), statistics.mean_log_likelihood


def plain_run(X, parameters, covariance_type, n_iter, reg_covar=0.0):
    bounds = []
    for _ in range(n_iter):
        parameters, bound = e_and_m_step(X, parameters, covariance_type, reg_covar)
        bounds.append(bound)
    return parameters, np.array(bounds)


def accelerated_run(X, parameters, covariance_type, n_iter, reg_covar=0.0, **options):
    """Return the last image, the bounds, and all points at which an E step was."""
    accelerator = Accelerator(covariance_type, reg_covar)
    bounds, visited = [], []
    for _ in range(n_iter):
        visited.append(parameters)
        image, bound = e_and_m_step(
            X, parameters, covariance_type, reg_covar, **options
        )
        parameters = accelerator.step(parameters, image, bound)
        bounds.append(accelerator.bound)
    return accelerator.image, np.array(bounds), visited


def overlapping(rng, n_samples=400, shift=1.5):
    """Three clusters that EM takes long to tell apart."""
    X = rng.normal(size=(n_samples, 2))
    return X + shift * (np.arange(n_samples) % 3)[:, None] * [1.0, 0.5]


def assert_legal(parameters, covariance_type, reg_covar=0.0):
    assert (parameters.weights > 0).all()
    assert float(parameters.weights.sum()) == pytest.approx(1.0)
    covariances = parameters.covariances
    if covariance_type in ("full", "tied"):
        assert_close(covariances, covariances.mT)
        least = torch.linalg.eigvalsh(covariances).min()
    else:
        least = covariances.min()
    assert least >= reg_covar * (1 - 1e-6) - 1e-12
    parameters.density(covariance_type)  # raises where one is not definite


# --------------------------------------------------------------------------- the runs


@PROFILE
@for_all(SEEDS, every_covariance_type)
def test_the_likelihood_never_falls(seed, covariance_type):
    rng = np.random.default_rng(seed)
    X = overlapping(rng, 120)
    start = start_near(X, rng, covariance_type)
    _, bounds, _ = accelerated_run(X, start, covariance_type, 15)
    assert (np.diff(bounds) >= -1e-12 * np.abs(bounds[1:])).all()


@PROFILE
@for_all(SEEDS, every_covariance_type, st.sampled_from([1e-6, 1e-3]))
def test_every_point_is_a_legal_mixture(seed, covariance_type, reg_covar):
    rng = np.random.default_rng(seed)
    X = overlapping(rng, 60)
    # From the second point on: the start itself may be below reg_covar.
    image, _, visited = accelerated_run(
        X, random_start(rng, covariance_type), covariance_type, 15, reg_covar
    )
    for parameters in (*visited[1:], image):
        assert_legal(parameters, covariance_type, reg_covar)


@each_covariance_type
def test_it_ends_where_em_ends(covariance_type):
    rng = np.random.default_rng(0)
    X = overlapping(rng, 600, shift=3.0)
    start = start_near(X, rng, covariance_type)
    expected, _ = plain_run(X, start, covariance_type, 800)
    image, _, _ = accelerated_run(X, start, covariance_type, 100)
    for name in ("weights", "means", "covariances"):
        assert_close(getattr(image, name), getattr(expected, name), tol=1e-6)


@each_covariance_type
def test_it_gets_there_in_less_than_half_the_e_steps(covariance_type):
    rng = np.random.default_rng(0)
    X = overlapping(rng, 600)
    start = start_near(X, rng, covariance_type)
    _, plain = plain_run(X, start, covariance_type, 600)
    n_plain = 2 + int(np.flatnonzero(np.diff(plain) < 1e-6)[0])
    _, accelerated, _ = accelerated_run(X, start, covariance_type, n_plain // 2)
    assert accelerated[-1] >= plain[n_plain - 1]


def test_missing_values_are_no_obstacle():
    rng = np.random.default_rng(0)
    X = overlapping(rng, 200)
    X[rng.uniform(size=X.shape) < 0.2] = np.nan
    start = random_start(rng, "full")
    image, bounds, _ = accelerated_run(
        X, start, "full", 20, e_step=expectation_with_missing
    )
    assert (np.diff(bounds) >= 0).all()
    _, plain = e_and_m_step(X, start, "full", 0.0, expectation_with_missing)
    assert bounds[0] == plain
    assert_legal(image, "full")


@each_covariance_type
def test_one_component_is_fitted_at_once(covariance_type):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 2))
    start = random_start(rng, covariance_type, n_components=1)
    expected, _ = plain_run(X, start, covariance_type, 1)
    accelerator = Accelerator(covariance_type)
    parameters = start
    for _ in range(5):
        image, bound = e_and_m_step(X, parameters, covariance_type, 0.0)
        parameters = accelerator.step(parameters, image, bound)
    assert accelerator.expected_gain < 1e-20
    assert_close(accelerator.image.means, expected.means)
    assert_close(accelerator.image.covariances, expected.covariances)


@each_covariance_type
def test_a_component_may_collapse_onto_equal_rows(covariance_type):
    rng = np.random.default_rng(0)
    X = np.concatenate([np.zeros((20, 2)), rng.normal(3, 1, size=(80, 2))])
    start = MixtureParameters(
        double([0.5, 0.5]),
        double([[0.0, 0.0], [3.0, 3.0]]),
        {
            "full": double(np.eye(2)).expand(2, -1, -1),
            "tied": double(np.eye(2)),
            "diag": torch.ones(2, 2, dtype=torch.float64),
            "spherical": torch.ones(2, dtype=torch.float64),
        }[covariance_type],
    )
    expected, _ = plain_run(X, start, covariance_type, 500, 1e-6)
    image, bounds, visited = accelerated_run(X, start, covariance_type, 60, 1e-6)
    assert np.isfinite(bounds).all()
    for parameters in visited[1:]:
        assert_legal(parameters, covariance_type, 1e-6)
    assert_close(image.covariances, expected.covariances, tol=1e-6)


def test_a_component_of_weight_zero_does_no_harm():
    rng = np.random.default_rng(0)
    X = overlapping(rng)
    start = random_start(rng, "full")
    weights = double([0.5, 0.5, 0.0])
    start = MixtureParameters(weights, start.means, start.covariances)
    image, bounds, _ = accelerated_run(X, start, "full", 20)
    assert (np.diff(bounds) >= 0).all()
    assert_legal(image, "full")


@each_covariance_type
def test_the_same_start_takes_the_same_path(covariance_type):
    X = overlapping(np.random.default_rng(0))
    start = random_start(np.random.default_rng(1), covariance_type)
    paths = [accelerated_run(X, start, covariance_type, 12)[1] for _ in range(2)]
    np.testing.assert_array_equal(*paths)


@each_covariance_type
def test_units_do_not_matter(covariance_type):
    rng = np.random.default_rng(0)
    X = overlapping(rng)
    start = random_start(rng, covariance_type)
    scale = np.array([1.0, 1.0]) if covariance_type == "spherical" else [100.0, 0.01]
    scale = 4.0 * np.asarray(scale)
    _, bounds, _ = accelerated_run(X, start, covariance_type, 12)
    factor = {"full": np.outer(scale, scale), "tied": np.outer(scale, scale)}.get(
        covariance_type, scale**2 if covariance_type == "diag" else scale[0] ** 2
    )
    scaled = MixtureParameters(
        start.weights, start.means * double(scale), start.covariances * double(factor)
    )
    _, other, _ = accelerated_run(X * scale, scaled, covariance_type, 12)
    np.testing.assert_allclose(other + np.log(scale).sum(), bounds, rtol=0, atol=1e-7)


# ---------------------------------------------------------------------- the safeguard


def test_a_worse_point_is_given_up_for_the_em_step():
    rng = np.random.default_rng(0)
    X = overlapping(rng)
    accelerator = Accelerator("full")
    start = random_start(rng, "full")
    image, bound = e_and_m_step(X, start, "full", 0.0)
    proposal = accelerator.step(start, image, bound)
    assert accelerator.accepted
    assert not torch.equal(proposal.means, image.means)
    bad_image, _ = e_and_m_step(X, proposal, "full", 0.0)
    assert accelerator.step(proposal, bad_image, bound - 1.0) is image
    assert not accelerator.accepted
    assert accelerator.bound == bound
    # EM's own step is always taken: reg_covar may cost it a little.
    next_image, _ = e_and_m_step(X, image, "full", 0.0)
    accelerator.step(image, next_image, bound - 1e-9)
    assert accelerator.accepted
    assert accelerator.bound == bound - 1e-9


def test_a_bound_that_is_not_a_number_is_no_success():
    rng = np.random.default_rng(0)
    X = overlapping(rng)
    accelerator = Accelerator("full")
    start = random_start(rng, "full")
    image, bound = e_and_m_step(X, start, "full", 0.0)
    proposal = accelerator.step(start, image, bound)
    assert accelerator.step(proposal, image, np.nan) is image
    assert accelerator.bound == bound


@each_covariance_type
def test_a_step_below_reg_covar_is_replaced(monkeypatch, covariance_type):
    """All rows in one point: EM shrinks the covariance, a longer step too far."""
    monkeypatch.setattr(_acceleration, "RADIUS", np.inf)
    X = np.zeros((10, 2))
    start = random_start(np.random.default_rng(0), covariance_type, n_components=1)
    start = MixtureParameters(
        start.weights, torch.zeros(1, 2, dtype=torch.float64), start.covariances
    )
    accelerator = Accelerator(covariance_type, 0.01)
    image, bound = e_and_m_step(X, start, covariance_type, 0.01)
    assert accelerator.step(start, image, bound) is image


# ---------------------------------------------------------------------- coordinates


def random_frame(rng, covariance_type, n_components=3, n_features=3):
    origin = random_start(rng, covariance_type, n_components, n_features)
    return origin, Frame(Point.of(origin, covariance_type), covariance_type)


def coordinates_of(rng, frame, parameters, covariance_type, length):
    """Draw coordinates of a legal point near the origin."""
    shape = frame.coordinates(Point.of(parameters, covariance_type)).shape
    near = frame.parameters(double(rng.normal(size=shape)))
    vector = frame.coordinates(Point.of(near, covariance_type))
    return vector * (length / vector.norm())


@PROFILE
@for_all(SEEDS, every_covariance_type)
def test_coordinates_lead_to_parameters_and_back(seed, covariance_type):
    rng = np.random.default_rng(seed)
    origin, frame = random_frame(rng, covariance_type)
    other = random_start(rng, covariance_type, 3, 3)
    vector = frame.coordinates(Point.of(other, covariance_type))
    again = frame.parameters(vector)
    for name in ("weights", "means", "covariances"):
        assert_close(getattr(again, name), getattr(other, name))
    zero = frame.coordinates(Point.of(origin, covariance_type))
    assert_close(zero, torch.zeros_like(zero))


def divergence_of_complete_data(p, q, covariance_type):
    """Relative entropy of the pairs of a component and a sample."""
    first, second = p.density(covariance_type), q.density(covariance_type)
    normals = [
        torch.distributions.MultivariateNormal(
            mixture.means, mixture.component_covariances
        )
        for mixture in (first, second)
    ]
    divergence = torch.distributions.kl_divergence(*normals)
    return float((p.weights * (divergence + (p.weights / q.weights).log())).sum())


@PROFILE
@for_all(SEEDS, every_covariance_type)
def test_complete_data_have_identity_information(seed, covariance_type):
    rng = np.random.default_rng(seed)
    origin, frame = random_frame(rng, covariance_type)
    vector = coordinates_of(rng, frame, origin, covariance_type, 1e-3)
    near = frame.parameters(vector)
    vector = frame.coordinates(Point.of(near, covariance_type))
    divergence = divergence_of_complete_data(origin, near, covariance_type)
    assert divergence == pytest.approx(0.5 * float(vector.square().sum()), rel=0.02)


@each_covariance_type
def test_the_expected_gain_bounds_that_of_an_em_step(covariance_type):
    rng = np.random.default_rng(0)
    X = overlapping(rng, 600)
    start = random_start(rng, covariance_type)
    parameters, _ = plain_run(X, start, covariance_type, 50)
    image, bound = e_and_m_step(X, parameters, covariance_type, 0.0)
    accelerator = Accelerator(covariance_type)
    accelerator.step(parameters, image, bound)
    _, next_bound = e_and_m_step(X, image, covariance_type, 0.0)
    share = (next_bound - bound) / accelerator.expected_gain
    assert 0.5 < share < 1.05


# ----------------------------------------------------------------------- quasi-Newton


def random_pairs(rng, n_pairs=3, size=6):
    root = rng.normal(size=(size, size))
    hessian = root @ root.T + 0.1 * np.eye(size)
    steps = rng.normal(size=(n_pairs, size))
    return hessian, [(double(step), double(hessian @ step)) for step in steps]


@PROFILE
@for_all(SEEDS)
def test_the_last_pair_is_reproduced(seed):
    _, pairs = random_pairs(np.random.default_rng(seed))
    step, change = pairs[-1]
    assert_close(quasi_newton_direction(change, pairs), step)


@PROFILE
@for_all(SEEDS)
def test_the_direction_leads_up(seed):
    rng = np.random.default_rng(seed)
    _, pairs = random_pairs(rng)
    gradient = double(rng.normal(size=6))
    assert quasi_newton_direction(gradient, pairs) @ gradient > 0
