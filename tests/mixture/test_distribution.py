"""The density object apart from conditioning."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st
from mixture_strategies import (
    BATCH_SHAPES,
    DENSITY_TYPES,
    LAYOUTS,
    PROFILE,
    SEEDS,
    assert_close,
    assert_same_mixture,
    double,
    random_mixture,
    random_points,
    scale_parameters,
)
from scipy.optimize import minimize
from scipy.stats import norm
from torch.autograd import gradcheck

from skgmje import MultivariateNormalMixture
from skgmje.mixture._scale import products_by_component

each_covariance_type = pytest.mark.parametrize("covariance_type", DENSITY_TYPES)


@st.composite
def mixtures(draw, covariance_type, n_features=(1, 4)):
    """Draw (rng, mixture) over sizes, batch shapes and layouts of the batch."""
    rng = np.random.default_rng(draw(SEEDS))
    mixture = random_mixture(
        rng,
        covariance_type,
        draw(st.integers(1, 4)),
        draw(st.integers(*n_features)),
        draw(BATCH_SHAPES),
        draw(LAYOUTS),
    )
    return rng, mixture


@pytest.fixture
def single():
    return random_mixture(np.random.default_rng(0), n_features=3)


@pytest.fixture
def batch():
    return random_mixture(np.random.default_rng(0), n_features=3, batch_shape=(3, 2))


def state_of(mixture):
    """Log-densities at fixed points: equal states are equal densities."""
    rng = np.random.default_rng(5)
    return mixture.log_prob(random_points(rng, mixture, 4))


# ------------------------------------------------------------------------ parameters


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_parameters_rebuild_the_mixture(covariance_type, data):
    _, mixture = data.draw(mixtures(covariance_type))
    rebuilt = MultivariateNormalMixture(**mixture.parameters())
    assert_same_mixture(rebuilt, mixture)
    assert rebuilt.covariance_type == mixture.covariance_type
    assert set(mixture.parameters()) == {
        "weights",
        "means",
        *scale_parameters(covariance_type, mixture.means),
    }


@each_covariance_type
def test_covariances_are_stored_in_their_own_form(covariance_type):
    mixture = random_mixture(np.random.default_rng(0), covariance_type)
    stored = {
        name: getattr(mixture, name)
        for name in (
            "scale_tril",
            "scale_diag",
            "scale_spherical",
            "cov_factor",
            "cov_diag",
        )
    }
    n_factors = 0 if mixture.cov_factor is None else mixture.cov_factor.shape[-1]
    shapes = {
        "full": [(3, 3, 3)],
        "tied": [(1, 3, 3)],
        "diag": [(3, 3)],
        "spherical": [(3,)],
        "low_rank": [(3, 3, n_factors), (3, 3)],
    }
    assert mixture.covariance_type == covariance_type
    own = scale_parameters(covariance_type, mixture.means)
    assert [stored.pop(name).shape for name in own] == shapes[covariance_type]
    assert set(stored.values()) == {None}


@each_covariance_type
@pytest.mark.parametrize("batch_shape", [(2,), (3, 2)])
def test_conditionals_share_one_scale_and_keep_the_form(covariance_type, batch_shape):
    mixture = random_mixture(np.random.default_rng(0), covariance_type)
    conditional = mixture.condition([1], torch.zeros(*batch_shape, 1))
    assert conditional.covariance_type == covariance_type
    own = scale_parameters(covariance_type, mixture.means)
    stored = [conditional.parameters()[name].shape for name in own]
    n_factors = stored[0][-1]
    shapes = {
        "full": [(3, 2, 2)],
        "tied": [(1, 2, 2)],
        "diag": [(3, 2)],
        "spherical": [(3,)],
        "low_rank": [(3, 2, n_factors), (3, 2)],
    }
    assert stored == shapes[covariance_type]


def test_from_log_weights_keeps_weights_that_underflow():
    log_weights = double([0.0, -1000.0])
    mixture = MultivariateNormalMixture.from_log_weights(
        log_weights, double([[0.0], [50.0]]), scale_spherical=double([1.0, 1.0])
    )
    assert torch.equal(mixture.log_weights, log_weights)
    # At 50 the first component has log-density -1250 and the second one -1000.
    assert_close(mixture.responsibilities(double([50.0])), double([0.0, 1.0]))


def test_log_weights_stay_finite_where_weights_vanish():
    mixture = MultivariateNormalMixture(
        double([0.5, 0.5]),
        double([[0.0, 0.0], [100.0, 1.0]]),
        scale_spherical=double([1.0, 1.0]),
    )
    conditional = mixture.condition([0], double([0.0]))
    assert conditional.weights[1] == 0
    assert_close(conditional.log_weights, double([0.0, -5000.0]))


def test_component_of_zero_weight_does_not_count():
    means = double([[0.0, 1.0], [2.0, -1.0]])
    mixture = MultivariateNormalMixture(
        double([1.0, 0.0]), means, scale_spherical=double([1.0, 2.0])
    )
    alone = MultivariateNormalMixture(
        double([1.0]), means[:1], scale_spherical=double([1.0])
    )
    points = random_points(np.random.default_rng(0), mixture, 5)
    assert_close(mixture.log_prob(points), alone.log_prob(points))
    assert bool((mixture.responsibilities(points)[:, 1] == 0).all())
    assert bool((mixture.sample_with_components((50,))[1] == 0).all())


def test_repr_names_sizes_and_covariance_type():
    mixture = random_mixture(
        np.random.default_rng(0), "tied", n_components=2, batch_shape=(3, 2)
    )
    assert repr(mixture) == (
        "MultivariateNormalMixture(n_components=2, n_features=3, "
        "covariance_type='tied', batch_shape=(3, 2))"
    )


# --------------------------------------------------------- batches, copies and moves


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_leading_shapes_broadcast(covariance_type, data):
    rng, mixture = data.draw(mixtures(covariance_type))
    batch_shape, n_components = mixture.batch_shape, mixture.n_components
    n_features = mixture.event_shape[0]
    assert mixture.weights.shape == (*batch_shape, n_components)
    assert mixture.log_weights.shape == (*batch_shape, n_components)
    assert mixture.means.shape == (*batch_shape, n_components, n_features)
    assert mixture.mean.shape == mixture.variance.shape == (*batch_shape, n_features)
    assert mixture.mode.shape == (*batch_shape, n_features)
    assert mixture.covariance_matrix.shape == (*batch_shape, n_features, n_features)
    assert mixture.sample((4, 5)).shape == (4, 5, *batch_shape, n_features)
    points = random_points(rng, mixture, 4, 5)
    assert mixture.log_prob(points).shape == (4, 5, *batch_shape)
    assert mixture.responsibilities(points).shape == (4, 5, *batch_shape, n_components)
    assert mixture.component_log_prob(points).shape == (
        *(4, 5, *batch_shape),
        n_components,
    )


@each_covariance_type
def test_one_point_is_compared_with_every_mixture(covariance_type):
    rng = np.random.default_rng(0)
    mixture = random_mixture(rng, covariance_type, batch_shape=(3, 2))
    point = double(rng.normal(size=3))
    assert_close(mixture.log_prob(point), mixture.log_prob(point.expand(3, 2, 3)))


@each_covariance_type
def test_no_points_and_no_rows_give_empty_results(covariance_type):
    rng = np.random.default_rng(0)
    mixture = random_mixture(rng, covariance_type, batch_shape=(2,))
    conditional = mixture.condition([1], torch.zeros(0, 2, 1))
    assert conditional.batch_shape == (0, 2)
    assert conditional.mean.shape == (0, 2, 2)
    assert conditional.covariance_matrix.shape == (0, 2, 2, 2)
    assert conditional.log_prob(torch.zeros(2)).shape == (0, 2)
    assert conditional.sample((4,)).shape == (4, 0, 2, 2)


@each_covariance_type
def test_mode_of_no_rows_is_empty(covariance_type):
    mixture = random_mixture(np.random.default_rng(0), covariance_type)
    assert mixture.condition([1], torch.zeros(0, 1)).mode.shape == (0, 2)


@each_covariance_type
def test_no_draws_are_an_empty_sample(covariance_type):
    mixture = random_mixture(np.random.default_rng(0), covariance_type)
    assert mixture.sample((0,)).shape == (0, 3)


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_expand_repeats_the_density_without_copies(covariance_type, data):
    rng, mixture = data.draw(mixtures(covariance_type))
    expanded = mixture.expand((4, *mixture.batch_shape))
    assert expanded.batch_shape == (4, *mixture.batch_shape)
    points = random_points(rng, expanded, 3)
    assert_close(expanded.log_prob(points), mixture.log_prob(points))
    assert expanded.means.data_ptr() == mixture.means.data_ptr()
    assert_close(expanded.covariance_matrix[2], mixture.covariance_matrix)


def test_expand_to_a_smaller_batch_is_refused(batch):
    with pytest.raises(RuntimeError, match="number of sizes provided"):
        batch.expand((3,))


@each_covariance_type
@pytest.mark.parametrize(
    "layout", [("weights", "means", "scale"), ("weights",), ("scale",)], ids=str
)
@pytest.mark.parametrize(
    "index",
    [
        1,
        -1,
        slice(1, None),
        (slice(None), 1),
        (2, 1),
        [2, 0],
        np.array([0, 2]),
        torch.tensor([True, False, True]),
        None,
    ],
    ids=str,
)
def test_getitem_picks_mixtures_of_the_batch(covariance_type, layout, index):
    rng = np.random.default_rng(0)
    mixture = random_mixture(
        rng, covariance_type, batch_shape=(3, 2), layout=layout, n_features=2
    )
    points = random_points(rng, mixture)
    picked = mixture[index]
    assert_close(picked.log_prob(points[index]), mixture.log_prob(points)[index])
    assert_close(picked.covariance_matrix, mixture.covariance_matrix[index])


def test_a_batch_has_a_length_and_is_iterable(batch):
    assert len(batch) == 3
    rows = list(batch)
    assert [row.batch_shape for row in rows] == [(2,)] * 3
    assert_same_mixture(rows[2], batch[2])


@pytest.mark.parametrize("index", [3, (0, 2), (0, 0, 0), (0, 0, slice(2))], ids=str)
def test_getitem_outside_the_batch_is_an_index_error(batch, index):
    with pytest.raises(IndexError):
        batch[index]


def test_getitem_ellipsis_stands_for_batch_dimensions(batch):
    assert_same_mixture(batch[..., 1], batch[:, 1])


def test_single_mixture_has_no_length_and_no_items(single):
    with pytest.raises(IndexError, match="single mixture cannot be indexed"):
        single[0]
    with pytest.raises(TypeError, match="single mixture has no length"):
        len(single)


@each_covariance_type
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_copies_are_equal_and_independent(covariance_type, duplicate):
    mixture = random_mixture(np.random.default_rng(0), covariance_type)
    before = state_of(mixture)
    duplicated = duplicate(mixture)
    assert_same_mixture(duplicated, mixture)
    duplicated.means.add_(1.0)
    assert torch.equal(state_of(mixture), before)


@each_covariance_type
def test_to_changes_the_dtype_of_everything(covariance_type):
    mixture = random_mixture(np.random.default_rng(0), covariance_type)
    moved = mixture.to(torch.float32)
    points = random_points(np.random.default_rng(1), mixture, 5)
    assert {value.dtype for value in moved.parameters().values()} == {torch.float32}
    assert moved.log_prob(points.float()).dtype == torch.float32
    assert moved.sample().dtype == torch.float32
    # Values follow the dtype of the mixture.
    assert moved.condition([0], points[:, :1]).mean.dtype == torch.float32
    # Float32 has seven digits, of log-densities of about ten.
    torch.testing.assert_close(
        moved.log_prob(points.float()).double(),
        mixture.log_prob(points),
        rtol=1e-5,
        atol=1e-5,
    )
    assert torch.equal(mixture.to("cpu").means, mixture.means)


# -------------------------------------------------------------------------- gradients


def build(covariance_type, logits, means, raw):
    """Build a mixture from unconstrained numbers."""
    if covariance_type in ("full", "tied"):
        diagonal = raw.diagonal(dim1=-2, dim2=-1).exp()
        scale = raw.tril(-1) + torch.diag_embed(diagonal)
    elif covariance_type == "low_rank":
        scale = torch.cat([raw[..., :-1], raw[..., -1:].exp()], dim=-1)
    else:
        scale = raw.exp()
    return MultivariateNormalMixture(
        logits.softmax(-1), means, **scale_parameters(covariance_type, scale)
    )


def raw_parameters(covariance_type):
    rng = np.random.default_rng(0)
    shapes = {
        "full": (2, 3, 3),
        "tied": (1, 3, 3),
        "diag": (2, 3),
        "spherical": (2,),
        "low_rank": (2, 3, 3),
    }
    arrays = (
        rng.normal(size=2),
        rng.normal(size=(2, 3)),
        0.3 * rng.normal(size=shapes[covariance_type]),
        rng.normal(size=(2, 3)),
    )
    return tuple(double(array).requires_grad_() for array in arrays)


@each_covariance_type
def test_gradients_flow_through_the_conditional(covariance_type):
    def conditional_log_prob(logits, means, raw, points):
        mixture = build(covariance_type, logits, means, raw)
        return mixture.condition([2, 0], points[:, [2, 0]]).log_prob(points[:, [1]])

    assert gradcheck(conditional_log_prob, raw_parameters(covariance_type))


@each_covariance_type
def test_gradients_flow_through_density_marginal_and_moments(covariance_type):
    def outputs(logits, means, raw, points):
        mixture = build(covariance_type, logits, means, raw)
        return (
            mixture.log_prob(points),
            mixture.responsibilities(points),
            mixture.marginal([2, 1]).log_prob(points[:, :2]),
            mixture.mean,
            mixture.variance,
            mixture.covariance_matrix,
            mixture.condition([1], points[:, [1]]).mean,
        )

    assert gradcheck(outputs, raw_parameters(covariance_type))


@each_covariance_type
@pytest.mark.parametrize("factors", [(0.5, 2.0, 3.0), (2.0, 2.0, 2.0)], ids=str)
def test_gradients_flow_through_affine_maps(covariance_type, factors):
    mixture = random_mixture(np.random.default_rng(0), covariance_type)
    points = random_points(np.random.default_rng(1), mixture, 3)
    loc, scale = double([0.1, -0.3, 0.7]), double(factors)
    assert gradcheck(
        lambda loc, scale: mixture.affine(loc, scale).log_prob(points),
        (loc.requires_grad_(), scale.requires_grad_()),
    )


@each_covariance_type
def test_detach_cuts_the_gradient_and_nothing_else(covariance_type):
    logits, means, raw, points = raw_parameters(covariance_type)
    mixture = build(covariance_type, logits, means, raw)
    points = points.detach()
    assert mixture.log_prob(points).requires_grad
    detached = mixture.detach()
    assert not detached.log_prob(points).requires_grad
    assert torch.equal(detached.log_prob(points), mixture.log_prob(points).detach())


def test_samples_modes_and_levels_carry_no_gradient():
    logits, means, raw, _ = raw_parameters("full")
    mixture = build("full", logits, means, raw)
    assert not mixture.sample((3,)).requires_grad
    assert not mixture.mode.requires_grad
    assert not mixture.highest_density_level(0.5).requires_grad


# ------------------------------------------------------------- affine transformations


@each_covariance_type
@PROFILE
@for_all(data=st.data(), equal=st.booleans())
def test_affine_is_a_change_of_variables(covariance_type, data, equal):
    rng, mixture = data.draw(mixtures(covariance_type))
    n_features = mixture.event_shape[0]
    scale = double(np.exp(rng.uniform(-1, 1, 1 if equal else n_features)))
    signs = double(rng.choice([-1.0, 1.0], n_features))
    scale = signs * scale.expand(n_features)
    loc = double(rng.normal(size=n_features))
    moved = mixture.affine(loc, scale)
    points = random_points(rng, mixture, 3)
    expected = mixture.log_prob(points) - scale.abs().log().sum()
    assert_close(moved.log_prob(loc + scale * points), expected)
    assert_close(moved.mean, loc + scale * mixture.mean)
    assert_close(moved.variance, scale.square() * mixture.variance)
    covariance = scale.unsqueeze(-1) * mixture.covariance_matrix * scale
    assert_close(moved.covariance_matrix, covariance)


def test_affine_keeps_spherical_scales_only_if_all_factors_are_equal():
    mixture = random_mixture(np.random.default_rng(0), "spherical")
    loc = torch.zeros(3, dtype=torch.float64)
    assert mixture.affine(loc, double([2, -2, 2])).covariance_type == "spherical"
    assert mixture.affine(loc, double([2, 2, 3])).covariance_type == "diag"


# ------------------------------------------------------------- sums with normal noise


@each_covariance_type
@PROFILE
@for_all(data=st.data(), equal=st.booleans())
def test_noise_adds_its_variance_to_every_component(covariance_type, data, equal):
    rng, mixture = data.draw(mixtures(covariance_type))
    n_features = mixture.event_shape[0]
    stddev = double(rng.uniform(0, 2, 1 if equal else n_features)).expand(n_features)
    wider = mixture.convolve(stddev)
    noise = torch.diag_embed(stddev.square())
    covariances = mixture.component_covariances + noise
    assert_close(wider.component_covariances, covariances)
    assert_close(wider.covariance_matrix, mixture.covariance_matrix + noise)
    assert_close(wider.mean, mixture.mean)
    reference = MultivariateNormalMixture.from_log_weights(
        mixture.log_weights,
        mixture.means,
        scale_tril=torch.linalg.cholesky(covariances),
    )
    points = random_points(rng, mixture, 3)
    assert_close(wider.log_prob(points), reference.log_prob(points))


@each_covariance_type
def test_noise_is_a_convolution_of_densities(covariance_type):
    mixture = random_mixture(np.random.default_rng(1), covariance_type, 3, 1)
    axis = axis_of(mixture, 0, 2001)
    points = double([-2.0, 0.3, 1.7])
    kernel = torch.from_numpy(norm.pdf(points.numpy(), axis.numpy()[:, None], 0.7))
    density = mixture.log_prob(axis.unsqueeze(-1)).exp().unsqueeze(-1)
    expected = integrate(density * kernel, axis)
    wider = mixture.convolve([0.7])
    assert_close(wider.log_prob(points.unsqueeze(-1)).exp(), expected)


@each_covariance_type
def test_noise_keeps_the_form_at_any_scale(covariance_type):
    mixture = random_mixture(np.random.default_rng(0), covariance_type)
    assert mixture.convolve([2, 2, 2]).covariance_type == covariance_type
    other = "diag" if covariance_type == "spherical" else covariance_type
    assert mixture.convolve([2, 2, 3]).covariance_type == other
    assert_same_mixture(mixture.convolve(torch.zeros(3)), mixture)
    tiny = torch.full((3,), 1e-160, dtype=torch.float64)
    shrunk = mixture.affine(torch.zeros(3), tiny).convolve(tiny)
    restored = shrunk.affine(torch.zeros(3), 1 / tiny)
    expected = mixture.convolve([1, 1, 1]).component_covariances
    assert_close(restored.component_covariances, expected)


@pytest.mark.parametrize("stddev", [[1.0], [1.0, -1.0, 1.0], [1.0, np.nan, 1.0]])
def test_noise_needs_a_standard_deviation_for_each_coordinate(stddev, single):
    with pytest.raises(ValueError, match="stddev must hold 3 numbers"):
        single.convolve(stddev)


# ------------------------------------------------------------------------- quadrature


def integrate(values, axis):
    """Trapezoids over `axis`: exponentially accurate for decaying smooth functions."""
    return torch.trapezoid(values, axis, dim=0)


def axis_of(mixture, coordinate, n_points):
    block = mixture.marginal([coordinate])
    reach = 10 * block.component_covariances.max().sqrt()
    return torch.linspace(
        block.means.min() - reach,
        block.means.max() + reach,
        n_points,
        dtype=torch.float64,
    )


@each_covariance_type
@pytest.mark.parametrize("n_components", [1, 3])
def test_density_mean_and_variance_in_one_dimension(covariance_type, n_components):
    rng = np.random.default_rng(1)
    mixture = random_mixture(rng, covariance_type, n_components, n_features=1)
    axis = axis_of(mixture, 0, 1001)
    density = mixture.log_prob(axis.unsqueeze(-1)).exp()
    mean = integrate(density * axis, axis)
    assert_close(integrate(density, axis), double(1.0))
    assert_close(mixture.mean, mean.unsqueeze(0))
    variance = integrate(density * (axis - mean).square(), axis)
    assert_close(mixture.variance, variance.unsqueeze(0))
    assert_close(mixture.covariance_matrix, variance.reshape(1, 1))
    assert_close(mixture.stddev, variance.sqrt().unsqueeze(0))


@each_covariance_type
def test_density_mean_and_covariance_in_two_dimensions(covariance_type):
    mixture = random_mixture(np.random.default_rng(2), covariance_type, 3, 2)
    first, second = axis_of(mixture, 0, 301), axis_of(mixture, 1, 301)
    grid = torch.cartesian_prod(first, second).reshape(301, 301, 2)
    density = mixture.log_prob(grid).exp()

    def expectation(values):
        return integrate(integrate(density * values, first), second)

    mean = torch.stack([expectation(grid[..., i]) for i in range(2)])
    deviation = grid - mean
    covariance = [
        expectation(deviation[..., i] * deviation[..., j])
        for i in range(2)
        for j in range(2)
    ]
    assert_close(expectation(torch.ones(301, 301)), double(1.0))
    assert_close(mixture.mean, mean)
    assert_close(mixture.covariance_matrix, torch.stack(covariance).reshape(2, 2))


@each_covariance_type
def test_conditional_density_is_joint_over_its_integral(covariance_type):
    mixture = random_mixture(np.random.default_rng(3), covariance_type, 3, 3)
    first, second = axis_of(mixture, 0, 301), axis_of(mixture, 2, 301)
    rest = torch.cartesian_prod(first, second).reshape(301, 301, 2)
    value = double([0.7])
    points = torch.stack([rest[..., 0], value.expand(301, 301), rest[..., 1]], dim=-1)
    joint = mixture.log_prob(points).exp()
    normaliser = integrate(integrate(joint, first), second)
    conditional = mixture.condition([1], value).log_prob(rest).exp()
    assert_close(normaliser.log(), mixture.marginal([1]).log_prob(value))
    assert_close(conditional, joint / normaliser)


# ------------------------------------------------------------------------------ modes


def highest_optimum(mixture, starts):
    """Climb with BFGS from every start; return the highest log-density."""

    def loss(point):
        point = double(point).requires_grad_()
        value = -mixture.log_prob(point)
        value.backward()
        return value.item(), point.grad.numpy()

    return max(-minimize(loss, start.numpy(), jac=True).fun for start in starts)


@each_covariance_type
@pytest.mark.parametrize("n_features", [1, 2, 3])
def test_mode_is_the_best_optimum_of_many_starts(covariance_type, n_features):
    mixture = random_mixture(
        np.random.default_rng(n_features), covariance_type, 3, n_features
    )
    generator = torch.Generator().manual_seed(0)
    starts = torch.cat([mixture.means, mixture.sample((12,), generator=generator)])
    best = highest_optimum(mixture, starts)
    # BFGS stops at gradients of 1e-5, so 1e-10 or less below the optimum.
    assert_close(mixture.log_prob(mixture.mode), double(best), tol=1e-8)


@each_covariance_type
def test_no_point_of_a_grid_is_above_the_mode(covariance_type):
    mixture = random_mixture(np.random.default_rng(4), covariance_type, 4, 2)
    axes = axis_of(mixture, 0, 301), axis_of(mixture, 1, 301)
    heights = mixture.log_prob(torch.cartesian_prod(*axes))
    top = mixture.log_prob(mixture.mode)
    assert heights.max() <= top
    assert heights.max() > top - 0.1  # the grid does reach the mode's neighbourhood


def test_mode_of_one_component_is_its_mean():
    mixture = random_mixture(np.random.default_rng(0), n_components=1)
    assert_close(mixture.mode, mixture.mean)


@each_covariance_type
def test_modes_of_a_batch_are_modes_of_its_mixtures(covariance_type):
    mixture = random_mixture(
        np.random.default_rng(0), covariance_type, batch_shape=(3, 2)
    )
    modes = torch.stack([torch.stack([m.mode for m in row]) for row in mixture])
    # Fixed-point steps end at moves of 1e-10 standard deviations of all mixtures.
    assert_close(mixture.mode, modes, tol=1e-7)


def test_mode_where_two_ridges_cross_away_from_every_mean():
    mixture = MultivariateNormalMixture(
        double([0.5, 0.5]),
        double([[1.0, 0.0], [0.0, 1.0]]),
        scale_diag=double([[1.0, 0.05], [0.05, 1.0]]),
    )
    crossing = mixture.log_prob(double([0.0, 0.0]))
    assert mixture.log_prob(mixture.mode) >= crossing


# ------------------------------------------------------------- highest-density regions


@pytest.mark.parametrize("mass", [0.05, 0.5, 0.95, 0.999])
def test_level_of_one_gaussian_in_one_dimension(mass):
    gaussian = MultivariateNormalMixture(
        double([1.0]), double([[3.0]]), scale_spherical=double([2.0])
    )
    edge = 3.0 + 2.0 * norm.ppf((1 + mass) / 2)
    assert_close(
        gaussian.highest_density_level(mass), gaussian.log_prob(double([edge]))
    )


@pytest.mark.parametrize("mass", [0.05, 0.5, 0.95, 0.999])
def test_level_of_one_gaussian_in_two_dimensions(mass):
    gaussian = random_mixture(np.random.default_rng(0), "full", 1, 2, batch_shape=(4,))
    top = gaussian.log_prob(gaussian.mean)
    # A squared Mahalanobis distance in the plane is exponential with mean two.
    assert_close(gaussian.highest_density_level(mass), top + np.log(1 - mass))


@each_covariance_type
@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9])
def test_level_of_a_mixture_covers_its_mass(covariance_type, mass):
    mixture = random_mixture(
        np.random.default_rng(0), covariance_type, 3, 2, batch_shape=(2,)
    )
    n_level, n_fresh = 4096, 20_000
    level = mixture.highest_density_level(mass, n_samples=n_level)
    draws = mixture.sample((n_fresh,), generator=torch.Generator().manual_seed(99))
    coverage = (mixture.log_prob(draws) >= level).double().mean(0)
    error = (mass * (1 - mass) * (1 / n_level + 1 / n_fresh)) ** 0.5
    assert level.shape == (2,)
    assert bool(((coverage - mass).abs() < 4 * error).all())


def test_level_is_the_same_at_every_call_and_falls_with_the_mass(single):
    levels = [single.highest_density_level(mass) for mass in (0.1, 0.5, 0.9)]
    assert levels[0] > levels[1] > levels[2]
    assert torch.equal(single.highest_density_level(0.5), levels[1])


def test_level_follows_the_generator_it_is_given(single):
    first, again, other = (
        single.highest_density_level(0.5, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("mass", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_level_refuses_other_masses(single, mass):
    with pytest.raises(ValueError, match="mass must lie strictly between 0 and 1"):
        single.highest_density_level(mass)


# --------------------------------------------------------------------------- sampling


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_sample_moments_match_the_mixture(covariance_type, data):
    rng, mixture = data.draw(mixtures(covariance_type))
    n_samples = 10_000
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    samples, components = mixture.sample_with_components(
        (n_samples,), generator=generator
    )
    deviation = samples - mixture.mean
    products = deviation.unsqueeze(-1) * deviation.unsqueeze(-2)
    chosen = torch.nn.functional.one_hot(components, mixture.n_components).double()
    for draws, expected in (
        (deviation, torch.zeros_like(mixture.mean)),
        (products, mixture.covariance_matrix),
        (chosen, mixture.weights),
    ):
        standard_error = draws.std(0) / n_samples**0.5
        # Thousands of comparisons: seven standard errors leave none by chance.
        # The small term is for exact agreement, as of the weight of one component.
        error = (draws.mean(0) - expected).abs()
        assert bool((error < 7 * standard_error + 1e-12).all())


@each_covariance_type
@pytest.mark.parametrize("batch_shape", [(), (3, 2)], ids=str)
@pytest.mark.parametrize("layout", [("weights", "means", "scale"), ("weights",)])
def test_samples_come_from_the_component_that_is_named(
    covariance_type, batch_shape, layout
):
    mixture = random_mixture(
        np.random.default_rng(0), covariance_type, 3, 3, batch_shape, layout
    )
    parameters = mixture.parameters()
    parameters["means"] = parameters["means"] + 1000 * double([[0], [1], [2]])
    far = MultivariateNormalMixture(**parameters)
    samples, components = far.sample_with_components((200,))
    assert components.shape == (200, *batch_shape)
    assert components.dtype == torch.int64
    assert torch.equal(far.responsibilities(samples).argmax(-1), components)
    assert bool((samples - 1000 * components.unsqueeze(-1)).abs().max() < 50)


def test_components_come_in_random_order(single):
    components = single.sample_with_components((200,))[1]
    changes = (components[1:] != components[:-1]).sum()
    assert changes > 50


@pytest.mark.parametrize("n_vectors", [0, 3, 12, 13, 500])
@pytest.mark.parametrize("n_matrices", [1, 3])
def test_products_by_component_are_products_one_by_one(n_vectors, n_matrices):
    rng = np.random.default_rng(n_vectors)
    matrices = double(rng.normal(size=(n_matrices, 4, 2)))
    vectors = double(rng.normal(size=(n_vectors, 1, 2)))
    # The last component is never drawn.
    component = torch.from_numpy(rng.integers(max(1, n_matrices - 1), size=n_vectors))
    expected = torch.einsum("nij,nmj->nmi", matrices[component], vectors)
    actual = products_by_component(matrices, vectors, component.unsqueeze(1))
    assert_close(actual, expected)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "low_rank"])
def test_no_matrix_is_copied_for_each_draw(covariance_type):
    mixture = random_mixture(np.random.default_rng(0), covariance_type, 2, 400)
    generator = torch.Generator().manual_seed(0)
    with torch.profiler.profile(profile_memory=True) as profile:
        mixture.sample((2000,), generator=generator)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < 4 * 8 * 2000 * 400


def test_sample_is_reproducible_under_a_private_generator(batch):
    first, again, other = (
        batch.sample((5,), generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_sample_follows_the_global_seed_without_a_generator(single):
    with torch.random.fork_rng():
        draws = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            draws.append(single.sample((5,)))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_private_generators_leave_the_global_state_alone(single):
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()  # noqa: NPY002
    single.sample((5,), generator=torch.Generator().manual_seed(0))
    single.sample_with_components((5,), generator=torch.Generator().manual_seed(0))
    single.highest_density_level(0.5)
    _ = single.mode
    assert torch.equal(torch.get_rng_state(), torch_state)
    for before, after in zip(numpy_state, np.random.get_state(), strict=True):  # noqa: NPY002
        assert np.array_equal(before, after)


# ------------------------------------------------------------------ indices and errors


@pytest.mark.parametrize(
    "indices",
    [
        [2, 0],
        (2, 0),
        [-1, 0],
        [2, -3],
        range(2, -1, -2),
        np.array([2, 0]),
        np.array([2, 0], dtype=np.int32),
        torch.tensor([2, 0]),
    ],
    ids=repr,
)
def test_indices_may_be_any_sequence_of_integers(single, indices):
    value = double([0.3, -0.4])
    expected = single.condition([2, 0], value)
    assert_same_mixture(single.condition(indices, value), expected)
    assert_same_mixture(single.marginal(indices), single.marginal([2, 0]))


@pytest.mark.parametrize("index", [1, -2, np.int64(1), torch.tensor(1)], ids=repr)
def test_one_index_may_come_alone(single, index):
    expected = single.condition([1], double([0.3]))
    assert_same_mixture(single.condition(index, double([0.3])), expected)
    assert_same_mixture(single.marginal(index), single.marginal([1]))


@pytest.mark.parametrize("values", [[[0.3], [0.4]], np.array([[0.3], [0.4]])], ids=type)
def test_values_may_be_a_list_or_an_array(single, values):
    expected = single.condition([1], double(values))
    assert_same_mixture(single.condition([1], values), expected)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([0, 0], "indices must not repeat; got \\[0, 0\\]"),
        ([0, -3], "indices must not repeat; got \\[0, -3\\]"),
        ([3], "indices must lie between -3 and 2 for 3 coordinates; got \\[3\\]"),
        ([0, -4], "indices must lie between -3 and 2 for 3 coordinates"),
        ([0.0], "indices must be one-dimensional integers"),
        ([True, False], "indices must be one-dimensional integers"),
        ([[0], [1]], "indices must be one-dimensional integers"),
        (["x"], "indices must be one-dimensional integers"),
    ],
    ids=repr,
)
def test_bad_indices_are_named(single, indices, message):
    with pytest.raises(ValueError, match=message):
        single.marginal(indices)
    with pytest.raises(ValueError, match=message):
        single.condition(indices, torch.zeros(len(indices)))


def test_marginal_of_nothing_is_refused(single):
    with pytest.raises(ValueError, match="A marginal needs at least one coordinate"):
        single.marginal([])


def test_condition_on_everything_is_refused(single):
    with pytest.raises(ValueError, match="got all 3 of them"):
        single.condition([2, 0, 1], torch.zeros(3))


@pytest.mark.parametrize(
    ("indices", "shape"),
    [([0], ()), ([0], (2,)), ([0, 1], (4, 1)), ([0, 1], (2, 3)), ([], (1,))],
    ids=str,
)
def test_values_of_another_width_are_refused(single, indices, shape):
    message = f"values must have {len(indices)} columns, one for each index; got shape"
    with pytest.raises(ValueError, match=message):
        single.condition(indices, torch.zeros(shape))


@pytest.mark.parametrize(
    ("scales", "count"),
    [
        ({}, 0),
        ({"scale_diag": torch.ones(2, 3), "scale_spherical": torch.ones(2)}, 2),
        ({"scale_tril": torch.eye(3)[None], "scale_diag": torch.ones(2, 3)}, 2),
        (
            {
                "scale_diag": torch.ones(2, 3),
                "cov_factor": torch.ones(2, 3, 1),
                "cov_diag": torch.ones(2, 3),
            },
            2,
        ),
    ],
    ids=lambda value: None if isinstance(value, int) else "+".join(value) or "none",
)
def test_exactly_one_scale_is_needed(scales, count):
    message = (
        "Give exactly one of scale_tril, scale_diag, scale_spherical and the pair of "
        f"cov_factor and cov_diag; got {count}"
    )
    with pytest.raises(ValueError, match=message):
        MultivariateNormalMixture(torch.full((2,), 0.5), torch.zeros(2, 3), **scales)


@pytest.mark.parametrize(
    ("weights_shape", "means_shape"), [((), (2, 3)), ((2,), (3,)), ((2,), ())]
)
def test_weights_and_means_need_their_dimensions(weights_shape, means_shape):
    with pytest.raises(ValueError, match="weights must have shape"):
        MultivariateNormalMixture(
            torch.ones(weights_shape),
            torch.zeros(means_shape),
            scale_spherical=torch.ones(2),
        )


def mixture_of_shapes(weights, means, **scale):
    scale = {name: torch.ones(shape) for name, shape in scale.items()}
    if "scale_tril" in scale:
        scale["scale_tril"] = scale["scale_tril"].tril()
    return MultivariateNormalMixture(
        torch.full(weights, 1 / weights[-1]), torch.zeros(means), **scale
    )


@pytest.mark.parametrize(
    "shapes",
    [
        {"weights": (3,), "means": (2, 3), "scale_spherical": (2,)},
        {"weights": (1,), "means": (2, 3), "scale_spherical": (2,)},
        {"weights": (2,), "means": (1, 3), "scale_spherical": (2,)},
        {"weights": (2,), "means": (2, 3), "scale_spherical": (3,)},
        {"weights": (2,), "means": (2, 3), "scale_diag": (2, 2)},
        {"weights": (2,), "means": (2, 3), "scale_diag": (2, 1)},
        {"weights": (2,), "means": (2, 3), "scale_diag": (3, 3)},
        {"weights": (2,), "means": (2, 3), "scale_tril": (2, 2, 2)},
        {"weights": (2,), "means": (2, 3), "scale_tril": (2, 3, 2)},
        {"weights": (2,), "means": (2, 3), "scale_tril": (3, 3, 3)},
        {"weights": (4, 2), "means": (5, 2, 3), "scale_spherical": (2,)},
        {"weights": (4, 2), "means": (2, 3), "scale_diag": (5, 2, 3)},
        {"weights": (2,), "means": (2, 3), "cov_factor": (2, 2, 1), "cov_diag": (2, 2)},
        {"weights": (2,), "means": (2, 3), "cov_factor": (3, 3, 1), "cov_diag": (3, 3)},
    ],
    ids=str,
)
def test_shapes_that_do_not_fit_are_named(shapes):
    with pytest.raises(ValueError, match="Shapes do not fit together: weights"):
        mixture_of_shapes(**shapes)


@pytest.mark.parametrize(
    "shapes",
    [
        {"weights": (2,), "means": (2, 3), "scale_spherical": ()},
        {"weights": (2,), "means": (2, 3), "scale_diag": ()},
        {"weights": (2,), "means": (2, 3), "scale_diag": (3,)},
        {"weights": (2,), "means": (2, 3), "scale_tril": (3, 3)},
        {"weights": (2,), "means": (2, 3), "cov_factor": (3, 1), "cov_diag": (3,)},
        {"weights": (2,), "means": (2, 3), "cov_factor": (), "cov_diag": ()},
        {"weights": (2,), "means": (2, 3), "cov_factor": (2, 3, 1), "cov_diag": (2, 1)},
        {"weights": (2,), "means": (2, 3), "cov_factor": (4, 3, 1), "cov_diag": (2, 3)},
    ],
    ids=str,
)
def test_scale_without_component_dimension_is_named(shapes):
    with pytest.raises(ValueError, match="Shapes do not fit together"):
        mixture_of_shapes(**shapes)


VALID = {
    "weights": double([0.4, 0.6]),
    "means": double([[0.0, 1.0], [2.0, 3.0]]),
    "scale_diag": double([[1.0, 1.0], [2.0, 2.0]]),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights", [0.4, 0.7]),
        ("weights", [-0.4, 1.4]),
        ("weights", [np.nan, 1.0]),
        ("means", [[0.0, np.nan], [2.0, 3.0]]),
        ("scale_diag", [[1.0, 0.0], [2.0, 2.0]]),
        ("scale_diag", [[1.0, -1.0], [2.0, 2.0]]),
        ("scale_diag", [[1.0, np.nan], [2.0, 2.0]]),
        ("scale_spherical", [1.0, -1.0]),
        ("scale_tril", [[[1.0, 0.5], [0.0, 1.0]]]),
        ("scale_tril", [[[1.0, 0.0], [0.5, -1.0]]]),
    ],
    ids=str,
)
def test_parameters_outside_their_constraint_are_named(name, value):
    parameters = {**VALID, name: double(value)}
    if name.startswith("scale"):
        parameters = {key: parameters[key] for key in ("weights", "means", name)}
    message = f"The parameter {name} of MultivariateNormalMixture must satisfy"
    with pytest.raises(ValueError, match=message):
        MultivariateNormalMixture(**parameters)
    unchecked = MultivariateNormalMixture(**parameters, validate_args=False)
    assert unchecked.n_components == 2


@pytest.mark.parametrize("value", [[0.0], [0.0, 1.0, 2.0], [0.0, np.nan]], ids=str)
def test_log_prob_checks_the_points(value):
    mixture = MultivariateNormalMixture(**VALID, validate_args=True)
    with pytest.raises(ValueError, match="value"):
        mixture.log_prob(double(value))


@pytest.mark.parametrize("method", ["log_prob", "responsibilities"])
@pytest.mark.parametrize("width", [1, 3])
def test_conditionals_refuse_points_of_another_width(single, method, width):
    conditional = single.condition([0], torch.zeros(4, 1))
    with pytest.raises((ValueError, RuntimeError)):
        getattr(conditional, method)(torch.zeros(4, width, dtype=torch.float64))


def test_constraints_name_the_scale_that_is_stored():
    mixture = MultivariateNormalMixture(**VALID)
    assert set(mixture.arg_constraints) == {"weights", "means", "scale_diag"}
    points = mixture.sample((5,))
    assert bool(mixture.support.check(points).all())


# ---------------------------------------------------------------------------- devices


@each_covariance_type
@pytest.mark.parametrize("batch_shape", [(), (2,)], ids=str)
@pytest.mark.parametrize("layout", [("weights", "means", "scale"), ("means",)], ids=str)
def test_results_stay_on_the_device_of_the_parameters(
    covariance_type, batch_shape, layout
):
    on_cpu = random_mixture(
        np.random.default_rng(0), covariance_type, 2, 3, batch_shape, layout
    )
    parameters = {name: value.to("meta") for name, value in on_cpu.parameters().items()}
    mixture = MultivariateNormalMixture(**parameters, validate_args=False)
    points = torch.empty(5, *batch_shape, 3, device="meta", dtype=torch.float64)
    conditional = mixture.condition([2, 0], points[..., [2, 0]])
    rows = (5, *batch_shape)
    for result, shape in (
        (mixture.log_prob(points), rows),
        (mixture.component_log_prob(points), (*rows, 2)),
        (mixture.responsibilities(points), (*rows, 2)),
        (mixture.mean, (*batch_shape, 3)),
        (mixture.variance, (*batch_shape, 3)),
        (mixture.covariance_matrix, (*batch_shape, 3, 3)),
        (mixture.component_covariances, (*batch_shape, 2, 3, 3)),
        (mixture.marginal([1, 0]).mean, (*batch_shape, 2)),
        (mixture.marginal([1, 0]).covariance_matrix, (*batch_shape, 2, 2)),
        (conditional.weights, (*rows, 2)),
        (conditional.mean, (*rows, 1)),
        (conditional.covariance_matrix, (*rows, 1, 1)),
        (conditional.log_prob(points[..., [1]]), rows),
    ):
        assert result.device.type == "meta"
        assert result.dtype == torch.float64
        assert result.shape == shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_covariance_type
@pytest.mark.parametrize("batch_shape", [(), (3, 2)], ids=str)
def test_cuda_agrees_with_the_cpu(covariance_type, batch_shape):
    rng = np.random.default_rng(0)
    on_cpu = random_mixture(rng, covariance_type, 3, 4, batch_shape)
    on_cuda = on_cpu.to("cuda")
    points = random_points(rng, on_cpu, 50)

    def results(mixture, points):
        conditional = mixture.condition([3, 1], points[..., [3, 1]])
        marginal = mixture.marginal([2, 0])
        yield mixture.log_prob(points)
        yield mixture.responsibilities(points)
        yield mixture.covariance_matrix
        yield mixture.mode
        yield marginal.log_prob(points[..., [2, 0]])
        yield marginal.covariance_matrix
        yield conditional.weights
        yield conditional.mean
        yield conditional.covariance_matrix
        yield conditional.log_prob(points[..., [0, 2]])

    for cpu, cuda in zip(
        results(on_cpu, points), results(on_cuda, points.cuda()), strict=True
    ):
        assert cuda.device.type == "cuda"
        assert_close(cuda.cpu(), cpu, tol=1e-8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_samples_under_a_private_generator():
    mixture = random_mixture(np.random.default_rng(0), batch_shape=(2,)).to("cuda")
    state = torch.cuda.get_rng_state()
    first, again = (
        mixture.sample((7,), generator=torch.Generator(device="cuda").manual_seed(0))
        for _ in range(2)
    )
    assert first.device.type == "cuda"
    assert torch.equal(first, again)
    assert mixture.highest_density_level(0.5).device.type == "cuda"
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_mode_reached_only_from_a_low_crossing():
    mixture = MultivariateNormalMixture(
        double([0.44, 0.49, 0.07]),
        double([[-0.11, 0.64, -0.02], [-2.24, 1.56, 1.56], [1.18, -0.38, 0.43]]),
        scale_diag=double([[0.15, 0.15, 4.82], [3.37, 0.8, 0.39], [0.24, 0.49, 0.51]]),
    )
    assert mixture.log_prob(mixture.mode) >= mixture.log_prob(
        double([-0.11, 0.64, 1.36])
    )
