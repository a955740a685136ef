"""Conditioning as users meet it: quantiles, regions, many rows, data frames."""

import itertools
import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st
from mixture_strategies import (
    COVARIANCE_TYPES,
    PROFILE,
    SEEDS,
    assert_close,
    assert_same_mixture,
    double,
    random_mixture,
    random_points,
)
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.base import clone

from skgmje import GaussianMixture, MultivariateNormalMixture, _backend
from skgmje.mixture import _given, _natural

each_covariance_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)


def bumpy_lines(n_mixtures=20, n_components=4, seed=0):
    """Mixtures over the numbers with several modes, wide and narrow."""
    rng = np.random.default_rng(seed)
    return MultivariateNormalMixture(
        double(rng.dirichlet(np.ones(n_components), n_mixtures)),
        double(4 * rng.normal(size=(n_mixtures, n_components, 1))),
        scale_diag=double(np.exp(rng.uniform(-3, 1, (n_mixtures, n_components, 1)))),
    )


def small_blocks(monkeypatch, numbers=40):
    monkeypatch.setattr(_given, "CACHED_NUMBERS", numbers)


def test_one_known_feature_may_be_one_dimensional():
    frame = pd.DataFrame(
        np.random.default_rng(0).normal(size=(60, 3)), columns=[*"abc"]
    )
    mixture = GaussianMixture(2, random_state=0).fit(frame)
    expected = mixture.condition("b", frame[["b"]])
    for values in (frame["b"], frame["b"].to_numpy(), frame["b"].tolist()):
        assert_same_mixture(mixture.condition("b", values), expected)
    assert mixture.condition(["b", "a"], [0.5, 0.1]).batch_shape == (1,)
    with pytest.raises(ValueError, match=r"got \['b', 'b'\]"):
        mixture.condition(["b", "b"], [[0.5, 0.5]])


def test_points_may_be_arrays():
    mixture = random_mixture(np.random.default_rng(0), "full", 3, 2)
    conditional = mixture.condition([0], torch.zeros(4, 1))
    points = np.random.default_rng(1).normal(size=(4, 1))
    points.flags.writeable = False
    for method in ("log_prob", "cdf", "responsibilities", "component_log_prob"):
        function = getattr(conditional, method)
        assert_close(function(points), function(torch.tensor(points)))
        assert_close(function(points.tolist()), function(torch.tensor(points)))
    inside = conditional.in_highest_density_region(points, 0.9)
    assert inside.shape == (4,)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        conditional.highest_density_intervals([0.5, 0.9])


# ------------------------------------------------------------- many rows and one row


def stored(conditional):
    """The same batch with weights and means written out."""
    return MultivariateNormalMixture.from_log_weights(
        conditional.log_weights,
        conditional.means,
        **{
            name: value
            for name, value in conditional.parameters().items()
            if name.startswith("scale")
        },
    )


@each_covariance_type
@pytest.mark.parametrize("n_rows", [1, 7, 60])
def test_answers_in_blocks_are_those_of_the_stored_batch(
    covariance_type, n_rows, monkeypatch
):
    small_blocks(monkeypatch)
    mixture = random_mixture(np.random.default_rng(0), covariance_type, 3, 5)
    points = random_points(np.random.default_rng(1), mixture, n_rows)
    conditional = mixture.condition([3, 0], points[:, [3, 0]])
    rest = points[:, [1, 2, 4]]
    expected = stored(conditional)
    assert conditional.batch_shape == (n_rows,)
    assert_close(conditional.mean, expected.mean)
    assert_close(conditional.variance, expected.variance)
    assert_close(conditional.log_prob(rest), expected.log_prob(rest))
    several = rest + torch.arange(4.0).reshape(4, 1, 1)
    assert_close(conditional.log_prob(several), expected.log_prob(several))
    assert_same_mixture(conditional.detach(), expected)


def whitened_answers(monkeypatch, mixture, given, values, rest):
    """What whitened rows give: answers of the path that has no shortcuts."""
    with monkeypatch.context() as context:
        context.setattr(_natural, "NATURAL_WORK", np.inf)
        return answers(mixture, given, values, rest)


def answers(mixture, given, values, rest):
    conditional = mixture.condition(given, values)
    is_natural = isinstance(conditional._components._given, _given.NaturalGiven)
    generator = torch.Generator().manual_seed(0)
    sample, components = conditional.sample_with_components(generator=generator)
    return is_natural, {
        "mean": conditional.mean,
        "log_prob": conditional.log_prob(rest),
        "log_weights": conditional.log_weights,
        "means": conditional.means,
        "variance": conditional.variance,
        "sample": sample,
        "components": components.double(),
    }


@each_covariance_type
@pytest.mark.parametrize(("n_features", "n_given"), [(5, 2), (5, 4), (5, 1)])
def test_natural_parameters_answer_as_whitened_rows(
    covariance_type, n_features, n_given, monkeypatch
):
    monkeypatch.setattr(_natural, "NATURAL_WORK", 1)
    monkeypatch.setattr(_backend, "BLOCK_NUMBERS", 1000)  # several blocks of rows
    mixture = random_mixture(np.random.default_rng(0), covariance_type, 3, n_features)
    points = mixture.sample([150], generator=torch.Generator().manual_seed(1))
    order = np.random.default_rng(2).permutation(n_features)
    given, rest = order[:n_given], np.sort(order[n_given:])
    values, rest = points[:, given], points[:, rest]
    natural, actual = answers(mixture, given, values, rest)
    careful, expected = whitened_answers(monkeypatch, mixture, given, values, rest)
    assert natural
    assert not careful
    for name, value in actual.items():
        assert_close(value, expected[name], tol=1e-9)


@each_covariance_type
def test_densities_of_many_rows_are_those_of_few(covariance_type, monkeypatch):
    mixture = random_mixture(np.random.default_rng(0), covariance_type, 3, 4)
    points = mixture.sample([10, 15], generator=torch.Generator().manual_seed(1))
    points[3, 2] = 1e5  # too far for natural parameters, as are all rows beside it
    careful = mixture.log_prob(points)
    expected = mixture._log_joint(points).logsumexp(-1)
    assert_close(careful, expected, tol=0.0)
    monkeypatch.setattr(_natural, "NATURAL_WORK", 1)
    monkeypatch.setattr(_backend, "BLOCK_NUMBERS", 1000)
    assert_close(mixture.log_prob(points), careful, tol=0.0)
    actual, near = mixture.log_prob(points[4:]), expected[4:]
    assert _natural.natural_evaluator(mixture, points[4:].flatten(0, 1)) is not None
    assert_close(actual, near, tol=1e-9)
    single = points[4:].float()
    assert_close(mixture.log_prob(single), mixture.log_prob(single.double()), tol=0.0)
    with pytest.raises(ValueError, match="must have 4 coordinates"):
        mixture.detach().log_prob(points[..., :3])  # one that checks no arguments


@each_covariance_type
def test_rows_that_natural_parameters_would_round_are_whitened(
    covariance_type, monkeypatch
):
    monkeypatch.setattr(_natural, "NATURAL_WORK", 1)
    mixture = random_mixture(np.random.default_rng(0), covariance_type, 3, 4)
    points = random_points(np.random.default_rng(1), mixture, 30)
    given, values, rest = [0, 2], points[:, [0, 2]], points[:, [1, 3]]
    far = values.clone()
    far[3] = 1e5
    unweighted = MultivariateNormalMixture(
        double([0.0, 0.5, 0.5]), mixture.means, **mixture.detach()._scale.parameters()
    )
    steep = mixture.affine(double(np.full(4, 1e9)), torch.ones(4).double())
    narrow = mixture._from_parts(
        mixture._log_weights, 1e6 * mixture._means, mixture._scale
    )
    learning = mixture._from_parts(
        mixture._log_weights, mixture._means.clone().requires_grad_(), mixture._scale
    )
    for changed, rows, left in (
        (mixture, far, rest),
        (mixture, values.clone().requires_grad_(), rest),
        (unweighted, values, rest),
        (narrow, 1e6 * values, 1e6 * rest),
        (learning, values, rest),
        (mixture.to(torch.float32), values.float(), rest.float()),
    ):
        natural, actual = answers(changed, given, rows, left)
        _, expected = whitened_answers(monkeypatch, changed, given, rows, left)
        assert not natural
        for name, value in actual.items():
            assert_close(value, expected[name], tol=0.0)
    assert answers(steep, given, 1e9 + values, 1e9 + rest)[0]


@pytest.mark.parametrize("n_features", [9, 60])
def test_wide_rows_are_whitened(n_features, monkeypatch):
    monkeypatch.setattr(_natural, "NATURAL_WORK", 1)
    n_components = 3 if n_features == 9 else 40
    weights = double(np.full(n_components, 1 / n_components))
    means = double(np.random.default_rng(0).normal(size=(n_components, n_features)))
    factors = torch.eye(n_features).double().expand(n_components, -1, -1)
    mixture = MultivariateNormalMixture(weights, means, factors)
    given = range(n_features - 1)
    assert not answers(mixture, given, means[:, :-1], means[:, -1:])[0]
    tied = MultivariateNormalMixture(weights, means, factors[:1])
    assert answers(tied, given, means[:, :-1], means[:, -1:])[0]


def test_a_far_value_that_is_asked_about_keeps_its_digits(monkeypatch):
    monkeypatch.setattr(_natural, "NATURAL_WORK", 1)
    mixture = random_mixture(np.random.default_rng(0), "full", 3, 4)
    points = random_points(np.random.default_rng(1), mixture, 30)
    given, values, rest = [0, 2], points[:, [0, 2]], points[:, [1, 3]].clone()
    rest[3] = 1e5
    _, expected = whitened_answers(monkeypatch, mixture, given, values, rest)
    actual = mixture.condition(given, values).log_prob(rest)
    assert_close(actual, expected["log_prob"], tol=0.0)


def test_answers_outlive_the_memory_they_were_computed_in(monkeypatch):
    monkeypatch.setattr(_natural, "NATURAL_WORK", 1)
    mixture = random_mixture(np.random.default_rng(0), "full", 3, 4)
    points = random_points(np.random.default_rng(1), mixture, 200)
    with torch.inference_mode():
        inner = mixture.condition([0, 2], points[:, [0, 2]])
        first = inner.mean.clone()
    conditional = mixture.condition([1], points[:, [1]])
    kept = {name: getattr(conditional, name) for name in ("mean", "weights", "means")}
    before = {name: value.clone() for name, value in kept.items()}
    assert_close(inner.mean, first, tol=0.0)
    assert torch.isfinite(inner.log_prob(points[:, [1, 3]])).all()
    for name, value in kept.items():
        assert_close(value, before[name], tol=0.0)
    again = pickle.loads(pickle.dumps(conditional))
    assert_close(again.mean, conditional.mean, tol=0.0)


@each_covariance_type
def test_one_draw_a_row_follows_the_conditional(covariance_type):
    mixture = random_mixture(np.random.default_rng(2), covariance_type, 3, 4)
    values = torch.zeros(2).double()
    n_rows = 40_000
    conditional = mixture.condition([2, 0], values.expand(n_rows, 2))
    generator = torch.Generator().manual_seed(0)
    draws, components = conditional.sample_with_components(generator=generator)
    expected = mixture.condition([2, 0], values)
    deviation = draws - expected.mean
    products = deviation.unsqueeze(-1) * deviation.unsqueeze(-2)
    chosen = torch.nn.functional.one_hot(components, 3).double()
    for sample, mean in (
        (deviation, torch.zeros(2)),
        (products, expected.covariance_matrix),
        (chosen, expected.weights),
    ):
        standard_error = sample.std(0) / n_rows**0.5
        assert bool(((sample.mean(0) - mean).abs() < 5 * standard_error + 2e-4).all())
    shares = expected.responsibilities(draws).mean(0)
    assert_close(shares, expected.weights, tol=0.02)


def test_draws_are_seeded_and_do_not_depend_on_the_blocks(monkeypatch):
    mixture = random_mixture(np.random.default_rng(0), "full", 3, 4)
    conditional = mixture.condition([0], torch.zeros(50, 1))
    whole = conditional.sample(generator=torch.Generator().manual_seed(1))
    small_blocks(monkeypatch)
    parts = conditional.sample(generator=torch.Generator().manual_seed(1))
    other = conditional.sample(generator=torch.Generator().manual_seed(2))
    assert_close(parts, whole)
    assert not torch.equal(other, whole)


def test_components_of_weight_zero_are_never_drawn():
    mixture = MultivariateNormalMixture(
        double([0.0, 0.5, 0.0, 0.5, 0.0]),
        double(np.zeros((5, 2))),
        scale_spherical=double(np.ones(5)),
    )
    conditional = mixture.condition([0], torch.zeros(2000, 1))
    components = conditional.sample_with_components()[1]
    assert set(components.tolist()) == {1, 3}


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_steep_factors_are_whitened_without_loss(covariance_type):
    # Means far from the origin, in standard deviations, and a narrow direction.
    mixture = random_mixture(np.random.default_rng(0), covariance_type, 3, 4)
    scale = double([1e-5, 1.0, 1e-3, 1.0])
    loc = double([1.0, -2.0, 3.0, 4.0])
    rescaled = mixture.affine(loc, scale)
    points = random_points(np.random.default_rng(1), mixture, 30)
    plain = mixture.condition([0, 1], points[:, [0, 1]])
    moved = rescaled.condition([0, 1], (loc + scale * points)[:, [0, 1]])
    assert_close(moved.weights, plain.weights, tol=1e-8)
    assert_close((moved.mean - loc[2:]) / scale[2:], plain.mean, tol=1e-8)


@each_covariance_type
def test_conditionals_of_far_rows_are_finite(covariance_type):
    mixture = random_mixture(np.random.default_rng(0), covariance_type, 3, 3)
    values = 1e5 * double([[1.0, 0.0], [0.0, -1.0], [-1.0, 1.0]])
    conditional = mixture.condition([0, 2], values)
    answers = (
        conditional.mean,
        conditional.stddev,
        conditional.log_prob(1e5 * torch.ones(3, 1).double()),
        conditional.quantile([1e-12, 0.5]),
        conditional.highest_density_intervals(0.9)[..., 0, :],
    )
    assert all(bool(torch.isfinite(answer).all()) for answer in answers)
    assert_close(conditional.weights.sum(-1), torch.ones(3))


def test_a_gradient_survives_a_first_look_without_one():
    mixture = random_mixture(np.random.default_rng(0), "full", 2, 3)
    values = torch.zeros(4, 1, dtype=torch.float64, requires_grad=True)
    conditional = mixture.condition([0], values)
    with torch.no_grad():
        assert conditional.weights.shape == (4, 2)
        assert conditional.means.shape == (4, 2, 2)
    total = conditional.means.sum() + conditional.log_weights.sum()
    (gradient,) = torch.autograd.grad(total, values)
    assert bool((gradient != 0).all())


# ----------------------------------------------------------------- cdf and quantiles


def test_cdf_is_the_integral_of_the_density():
    lines = bumpy_lines(4, 3)
    for i, point in enumerate([1.0, 0.0, -1.0, -2.0]):
        density = lines[i]
        knots = sorted([-60.0, *density.means.ravel().clamp(max=point).tolist(), point])
        parts = [
            quad(lambda x, p=density: p.log_prob(double([x])).exp().item(), *ends)[0]
            for ends in itertools.pairwise(knots)
        ]
        assert_close(density.cdf(double([point])), double(sum(parts)), tol=1e-7)


@PROFILE
@for_all(seed=SEEDS, n_components=st.integers(1, 5))
def test_quantile_and_cdf_are_inverse_with_tails(seed, n_components):
    lines = bumpy_lines(5, n_components, seed)
    q = double([1e-12, 1e-6, 0.02, 0.5, 0.7, 1 - 1e-6, 1 - 1e-12])
    points = lines.quantile(q)
    assert points.shape == (7, 5, 1)
    share = lines.cdf(points)
    torch.testing.assert_close(share, q.unsqueeze(1).expand(7, 5), rtol=1e-9, atol=0)
    mirrored = lines.affine(torch.zeros(1).double(), -torch.ones(1).double())
    upper = MultivariateNormalMixture(
        lines.weights, mirrored.means, scale_diag=lines.scale_diag
    ).cdf(-points)
    torch.testing.assert_close(upper[-2:], 1 - share[-2:], rtol=1e-3, atol=0)
    torch.testing.assert_close(upper[-1], (1 - q[-1]).expand(5), rtol=1e-9, atol=0)


def test_quantile_of_one_component_is_the_normal_one():
    mixture = MultivariateNormalMixture(
        double([1.0]), double([[3.0, -1.0]]), scale_diag=double([[2.0, 0.5]])
    )
    q = np.array([[0.0, 1e-12, 0.3], [0.5, 0.9, 1.0]])
    expected = norm.ppf(q)[..., None] * [2.0, 0.5] + [3.0, -1.0]
    assert_close(mixture.quantile(q), double(expected))


def test_quantiles_of_several_coordinates_are_those_of_the_marginals():
    mixture = random_mixture(np.random.default_rng(0), "full", 3, 3, (4,))
    points = mixture.quantile([0.1, 0.8])
    for i in range(3):
        assert_close(points[..., [i]], mixture.marginal([i]).quantile([0.1, 0.8]))


def test_icdf_broadcasts_as_torch_does():
    lines = bumpy_lines(6)
    probability = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)).double()
    points = lines.icdf(probability)
    assert points.shape == (3, 6, 1)
    assert_close(lines.cdf(points), probability)
    assert_close(points[1, 2], lines[2].quantile(probability[1, 2]))


def test_gradients_flow_through_the_cdf():
    means = double([[0.0], [1.0]]).requires_grad_()
    mixture = MultivariateNormalMixture(
        double([0.4, 0.6]), means, scale_spherical=double([1.0, 2.0])
    )
    (gradient,) = torch.autograd.grad(mixture.cdf(double([0.5])), means)
    expected = -double([[0.4 * norm.pdf(0.5)], [0.6 * norm.pdf(-0.25) / 2]])
    assert_close(gradient, expected)


@pytest.mark.parametrize("q", [-0.1, 1.1, [0.5, float("nan")]], ids=str)
def test_quantiles_refuse_other_probabilities(q):
    with pytest.raises(ValueError, match="between 0 and 1"):
        bumpy_lines(2).quantile(q)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("cdf", torch.zeros(2)),
        ("icdf", torch.tensor(0.5)),
        ("highest_density_intervals", 0.5),
    ],
)
def test_what_needs_one_coordinate_says_so(name, argument):
    mixture = random_mixture(np.random.default_rng(0), "full", 2, 2)
    with pytest.raises(ValueError, match=f"{name} is for mixtures over one coordinate"):
        getattr(mixture, name)(argument)


# ------------------------------------------------------------- highest-density regions


@pytest.mark.parametrize("mass", [0.01, 0.5, 0.9, 0.9999])
def test_intervals_hold_exactly_their_mass_at_one_height(mass):
    lines = bumpy_lines(30)
    intervals = lines.highest_density_intervals(mass)
    low, high = (side.T.unsqueeze(-1) for side in intervals.unbind(-1))
    held = (lines.cdf(high) - lines.cdf(low)).nan_to_num().sum(0)
    assert_close(held, torch.full_like(held, mass), tol=1e-10)
    level = lines.highest_density_level(mass)
    for side in (low, high):
        finite = side.isfinite().squeeze(-1)
        height = lines.log_prob(side.nan_to_num())
        assert_close(height[finite], level.expand_as(height)[finite], tol=1e-7)
    assert bool((low[0] < high[0]).all())
    assert bool((high[:-1] < low[1:])[low[1:].isfinite()].all())


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.9])
def test_intervals_agree_with_a_fine_grid(mass):
    lines = bumpy_lines(10, 3, seed=1)
    grid = torch.linspace(-25, 25, 200_001, dtype=torch.float64)
    log_prob = lines.log_prob(grid.reshape(-1, 1, 1))
    step = grid[1] - grid[0]
    order = log_prob.sort(0, descending=True)
    rank = ((order.values.exp() * step).cumsum(0) < mass).sum(0)
    level = order.values.gather(0, rank.unsqueeze(0)).squeeze(0)
    # The grid has a few thousand points on the flanks of the narrowest bump.
    assert_close(lines.highest_density_level(mass), level, tol=1e-2)
    inside = lines.in_highest_density_region(grid.reshape(-1, 1, 1), mass)
    low, high = lines.highest_density_intervals(mass).unbind(-1)
    between = (grid[:, None, None] >= low) & (grid[:, None, None] <= high)
    assert torch.equal(inside, between.any(-1))


def test_interval_of_one_component_is_symmetric():
    mixture = MultivariateNormalMixture(
        double([1.0]), double([[3.0]]), scale_spherical=double([2.0])
    )
    reach = 2 * norm.ppf(0.95)
    expected = double([[3 - reach, 3 + reach]])
    assert_close(mixture.highest_density_intervals(0.9), expected)


def test_equal_bumps_get_an_interval_each_and_a_merged_pair_one():
    apart, merged = (
        MultivariateNormalMixture(
            double([0.5, 0.5]), double([[-m], [m]]), scale_spherical=double([1.0, 1.0])
        )
        for m in (6.0, 0.8)
    )
    reach = norm.ppf(0.95)
    expected = double([[-6 - reach, -6 + reach], [6 - reach, 6 + reach]])
    assert_close(apart.highest_density_intervals(0.9), expected, tol=1e-7)
    assert merged.highest_density_intervals(0.9).shape == (1, 2)


@pytest.mark.parametrize("mass", [0.5, 0.9])
@pytest.mark.parametrize("n_features", [1, 2, 5])
@pytest.mark.parametrize("seed", [None, 3])
def test_coverage_of_multimodal_conditionals(n_features, mass, seed):
    rng = np.random.default_rng(n_features)
    mixture = random_mixture(rng, "full", 4, n_features + 1)
    far = mixture.affine(
        torch.zeros(n_features + 1).double(),
        torch.full((n_features + 1,), 3.0).double(),
    )
    parameters = far.parameters() | {"scale_tril": mixture.scale_tril}
    joint = MultivariateNormalMixture(**parameters)
    conditional = joint.condition([0], double([[0.0], [1.0], [-2.0]]))
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    n_fresh, n_level = 20_000, 4096
    draws = conditional.sample((n_fresh,), generator=torch.Generator().manual_seed(9))
    inside = conditional.in_highest_density_region(draws, mass, generator=generator)
    coverage = inside.double().mean(0)
    exact = n_features == 1
    error = (mass * (1 - mass) * (1 / n_fresh + (not exact) / n_level)) ** 0.5
    assert bool(((coverage - mass).abs() < 4 * error).all())


@pytest.mark.parametrize("spacing", [0.05, 3.0])
@pytest.mark.parametrize("scales", ["shared", "own"])
def test_modes_and_intervals_of_many_components_agree_with_a_grid(scales, spacing):
    """Kernels that overlap or stand apart: more than start a search for a mode."""
    rng = np.random.default_rng(0)
    n_mixtures, n_components = 3, 200
    means = spacing * rng.normal(size=(n_mixtures, n_components, 1)).cumsum(1)
    shape = (1 if scales == "shared" else n_components, 1)
    mixture = MultivariateNormalMixture(
        double(rng.dirichlet(np.ones(n_components), n_mixtures)),
        double(means),
        scale_diag=double(rng.uniform(0.2, 0.4, shape)).expand(n_mixtures, *shape),
    )
    grid = torch.linspace(means.min() - 2, means.max() + 2, 40_001).double()
    log_prob = mixture.log_prob(grid.reshape(-1, 1, 1))
    assert bool((mixture.log_prob(mixture.mode) > log_prob.amax(0) - 1e-9).all())
    intervals = mixture.highest_density_intervals(0.8)
    low, high = (side.T.unsqueeze(-1) for side in intervals.unbind(-1))
    held = (mixture.cdf(high) - mixture.cdf(low)).nan_to_num().sum(0)
    assert_close(held, torch.full_like(held, 0.8), tol=1e-9)
    level = mixture.highest_density_level(0.8)
    low, high = intervals.unbind(-1)
    inside = (grid[:, None, None] >= low) & (grid[:, None, None] <= high)
    assert torch.equal(inside.any(-1), log_prob >= level)


@each_covariance_type
def test_regions_of_no_rows_are_empty(covariance_type):
    mixture = random_mixture(np.random.default_rng(0), covariance_type, 3, 2)
    conditional = mixture.condition([0], torch.zeros(0, 1))
    assert conditional.quantile(0.5).shape == (0, 1)
    assert conditional.highest_density_level(0.5).shape == (0,)
    assert conditional.highest_density_intervals(0.5).shape[0] == 0
    assert conditional.mean.shape == (0, 1)
    assert conditional.sample().shape == (0, 1)


@pytest.mark.parametrize("mass", [0.0, 1.0, float("nan")])
def test_regions_refuse_other_masses(mass):
    lines = bumpy_lines(2)
    with pytest.raises(ValueError, match="mass must lie strictly between"):
        lines.highest_density_intervals(mass)
    with pytest.raises(ValueError, match="mass must lie strictly between"):
        lines.in_highest_density_region(torch.zeros(2, 1), mass)


# ---------------------------------------------------------------------- data frames


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 200)
    X = rng.normal(size=(200, 3)) + 3 * label[:, None]
    return pd.DataFrame(X, columns=["a", "b", "c"], index=1000 + np.arange(200))


@pytest.fixture
def mixture(frame):
    return GaussianMixture(2, random_state=0).fit(frame)


def test_columns_of_a_frame_are_taken_by_name(frame, mixture):
    expected = mixture.condition([2, 0], frame[["c", "a"]].to_numpy()).mean
    for values in (
        frame[["c", "a"]],
        frame[["a", "c"]],
        frame,
        pl.DataFrame({name: frame[name].to_numpy() for name in "abc"}),
        pa.Table.from_pandas(frame[["a", "c", "b"]], preserve_index=False),
        frame[["c", "a"]].astype("Float64"),
    ):
        assert_close(mixture.condition(["c", "a"], values).mean, expected)
    row = mixture.condition(["c", "a"], frame.iloc[3]).mean
    assert_close(row, expected[[3]])
    with pytest.raises(ValueError, match="X_given has no column 'c'"):
        mixture.condition(["c", "a"], frame[["a", "b"]])


def test_frames_without_what_is_given_are_refused(frame, mixture):
    with pytest.raises(ValueError, match="X_given has no column 'a'"):
        mixture.condition("a", frame[[]])
    missing = frame[["a"]].astype("Float64")
    missing.iloc[3] = pd.NA
    with pytest.raises(ValueError, match="X_given contains NaN"):
        mixture.condition("a", missing)


@pytest.mark.parametrize("given", [slice(0, 2), None, [[0, 1]], np.zeros((2, 2)), 1.5])
def test_what_is_no_feature_is_refused(given, mixture):
    with pytest.raises(ValueError, match=r"Features must be|is unknown"):
        mixture.condition(given, [[0.0]])


def test_no_draws_of_a_frame_are_refused(frame, mixture):
    conditional = mixture.set_output(transform="pandas").condition("a", frame)
    with pytest.raises(ValueError, match="n_samples must be at least 1; got 0"):
        conditional.sample(0)


def test_without_a_setting_the_torch_batch_comes_back(frame, mixture):
    assert isinstance(mixture.condition("a", frame), MultivariateNormalMixture)
    assert isinstance(mixture.sample(3)[0], np.ndarray)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_samples_come_in_the_container_that_is_set(mixture, library):
    expected, labels = mixture.sample(5, random_state=0)
    X, y = mixture.set_output(transform=library).sample(5, random_state=0)
    assert list(X.columns) == ["a", "b", "c"]
    assert type(X).__module__.startswith(library)
    np.testing.assert_array_equal(X.to_numpy(), expected)
    np.testing.assert_array_equal(y, labels)
    assert isinstance(mixture.set_output(transform="default").sample()[0], np.ndarray)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_conditionals_answer_in_frames(frame, mixture, library):
    density = mixture.condition("b", frame)
    conditional = mixture.set_output(transform=library).condition("b", frame)
    assert len(conditional) == 200
    assert "a, c" in repr(conditional)
    for name in ("mean", "stddev", "variance", "mode"):
        answer = getattr(conditional, name)
        assert list(answer.columns) == ["a", "c"]
        assert type(answer).__module__.startswith(library)
        assert_close(answer.to_numpy().copy(), getattr(density, name))
        if library == "pandas":
            assert answer.index.equals(frame.index)
    assert_close(conditional.covariance_matrix, density.covariance_matrix)
    assert_same_mixture(conditional.density, density)


def test_quantiles_of_a_frame_name_their_columns(frame, mixture):
    conditional = mixture.set_output(transform="pandas").condition("b", frame)
    points = conditional.density.quantile([0.05, 0.5])
    quantiles = conditional.quantile([0.05, 0.5])
    assert list(quantiles.columns) == ["a_q0.05", "a_q0.5", "c_q0.05", "c_q0.5"]
    assert_close(quantiles[["a_q0.5", "c_q0.5"]].to_numpy().copy(), points[1])
    median = conditional.quantile(0.5)
    assert list(median.columns) == ["a", "c"]
    assert median.index.equals(frame.index)
    assert_close(median.to_numpy().copy(), points[1])
    with pytest.raises(ValueError, match="got 2 dimensions"):
        conditional.quantile([[0.05, 0.5]])


def test_log_density_of_a_frame_takes_columns_by_name(frame, mixture):
    conditional = mixture.set_output(transform="pandas").condition("b", frame)
    expected = conditional.density.log_prob(double(frame[["a", "c"]].to_numpy()))
    for values in (frame, frame[["c", "a"]], frame[["a", "c"]].to_numpy()):
        assert_close(conditional.log_prob(values), expected)
    with pytest.raises(ValueError, match="Y has no column 'c'"):
        conditional.log_prob(frame[["a", "b"]])
    with pytest.raises(ValueError, match="Y must have shape"):
        conditional.log_prob(frame.iloc[:5])


def test_draws_of_a_frame_repeat_the_index(frame, mixture):
    conditional = mixture.set_output(transform="pandas").condition("b", frame)
    draws = conditional.sample(3, random_state=0)
    assert draws.shape == (600, 2)
    assert list(draws.index[:4]) == [1000, 1000, 1000, 1001]
    assert draws.equals(conditional.sample(3, random_state=0))
    assert conditional.sample().index.equals(frame.index)
    # Neighbouring draws belong to one row.
    means = draws.groupby(level=0).mean() - conditional.mean
    assert means.abs().to_numpy().mean() < conditional.stddev.to_numpy().mean()


def test_the_global_setting_is_honoured(frame, mixture):
    with sklearn.config_context(transform_output="pandas"):
        assert isinstance(mixture.condition("a", frame).mean, pd.DataFrame)
        assert isinstance(mixture.sample()[0], pd.DataFrame)
        mixture.set_output(transform="default")
        assert isinstance(mixture.sample()[0], np.ndarray)


def test_without_names_the_columns_are_numbered(frame):
    mixture = GaussianMixture(random_state=0).fit(frame.to_numpy())
    mixture.set_output(transform="pandas")
    assert list(mixture.get_feature_names_out()) == ["x0", "x1", "x2"]
    assert list(mixture.condition([0], [[1.0]]).mean.columns) == ["x1", "x2"]


def test_the_setting_is_copied_as_scikit_learn_does(frame, mixture):
    mixture.set_output(transform="pandas")
    for copy in (
        clone(mixture).fit(frame),
        pickle.loads(pickle.dumps(mixture)),
        mixture.marginal(["c", "a"]),
    ):
        assert isinstance(copy.sample()[0], pd.DataFrame)

    class Subclass(GaussianMixture):
        pass

    assert Subclass().set_output(transform="polars").fit(frame).sample()[0].shape
    assert mixture.set_output() is mixture


def test_a_conditional_frame_can_be_pickled(frame, mixture):
    conditional = mixture.set_output(transform="pandas").condition("b", frame)
    again = pickle.loads(pickle.dumps(conditional))
    pd.testing.assert_frame_equal(again.mean, conditional.mean)
