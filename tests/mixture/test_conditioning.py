"""The conditioning identities of Gaussian mixtures, and their accuracy."""

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st
from mixture_strategies import (
    DENSITY_TYPES,
    PROFILE,
    assert_close,
    assert_same_mixture,
    double,
    flat_parameters,
    random_mixture,
    random_points,
    splits,
    textbook_condition,
    textbook_log_joint,
    with_covariances,
)
from scipy.special import logsumexp

from skgmje import MultivariateNormalMixture

each_covariance_type = pytest.mark.parametrize("covariance_type", DENSITY_TYPES)


def positions(wanted, coordinates):
    return [list(coordinates).index(i) for i in wanted]


def select(mixture, **changes):
    """Rebuild with some of the dense parameters changed, as full covariances."""
    parameters = {
        "weights": mixture.weights,
        "means": mixture.means,
        "covariances": mixture.component_covariances,
    }
    return with_covariances(**(parameters | changes), covariance_type="full")


# ------------------------------------------------------------------ nine identities


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_chain_rule(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type))
    points = random_points(rng, mixture, 3)
    log_given = mixture.marginal(given).log_prob(points[..., given])
    log_rest = mixture.condition(given, points[..., given]).log_prob(points[..., rest])
    assert_close(log_given + log_rest, mixture.log_prob(points))


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_conditioning_twice_is_conditioning_once(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type, min_given=2))
    cut = data.draw(st.integers(1, len(given) - 1))
    first, second = given[:cut], given[cut:]
    points = random_points(rng, mixture, 3)
    left_over = sorted(second + rest)
    twice = mixture.condition(first, points[..., first]).condition(
        positions(second, left_over), points[..., second]
    )
    assert_same_mixture(twice, mixture.condition(given, points[..., given]))


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_marginal_and_condition_commute(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type, min_rest=2))
    kept = rest[: data.draw(st.integers(1, len(rest) - 1))]
    order = data.draw(st.permutations(given + kept))
    values = random_points(rng, mixture, 3)[..., given]
    first_marginal = mixture.marginal(order).condition(positions(given, order), values)
    kept_in_order = [i for i in order if i in kept]
    last_marginal = mixture.condition(given, values).marginal(
        positions(kept_in_order, rest)
    )
    assert_same_mixture(first_marginal, last_marginal)


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_total_variance_of_one_component(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type, n_components=(1, 1)))
    values = random_points(rng, mixture)[..., given]
    left = mixture.condition(given, values).covariance_matrix
    covariance = mixture.covariance_matrix
    cross = covariance[..., rest, :][..., given]
    explained = cross @ torch.linalg.solve(
        covariance[..., given, :][..., given], cross.mT
    )
    assert_close(left + explained, covariance[..., rest, :][..., rest])


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_total_variance_by_integration_over_the_given_coordinate(covariance_type, data):
    _, mixture, given, _ = data.draw(splits(covariance_type))
    given = given[:1]
    rest = [i for i in range(mixture.event_shape[0]) if i not in given]
    block = mixture.marginal(given)
    reach = 12 * block.component_covariances.max().sqrt()
    # Trapezoids converge exponentially for such functions: the step is far below the
    # smallest standard deviation.
    grid = torch.linspace(
        block.means.min() - reach, block.means.max() + reach, 4001, dtype=torch.float64
    )
    step = grid[1] - grid[0]
    values = grid.reshape(-1, *(1,) * len(mixture.batch_shape), 1)
    density = block.log_prob(values).exp().unsqueeze(-1) * step
    conditional = mixture.condition(given, values)
    deviation = conditional.mean - mixture.mean[..., rest]
    within = (density.unsqueeze(-1) * conditional.covariance_matrix).sum(0)
    between = torch.einsum("n...i,n...j->...ij", density * deviation, deviation)
    assert_close((density * conditional.mean).sum(0), mixture.mean[..., rest])
    assert_close(
        within + between, mixture.covariance_matrix[..., rest, :][..., rest], tol=1e-8
    )


def block_matrix(rng, covariance_type, given, rest):
    """Draw an invertible matrix that keeps the blocks and the covariance type."""
    matrix = np.zeros((len(given + rest),) * 2)
    for block in (given, rest):
        orthogonal = np.linalg.qr(rng.normal(size=(len(block),) * 2))[0]
        factors = np.exp(rng.uniform(-0.6, 0.6, len(block)))
        signs = rng.choice([-1.0, 1.0], len(block))
        matrix[np.ix_(block, block)] = {
            "full": orthogonal * factors,
            "tied": orthogonal * factors,
            "low_rank": orthogonal * factors,
            "diag": np.diag(signs * factors),
            "spherical": 1.7 * orthogonal,
        }[covariance_type]
    return double(matrix)


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_block_affine_maps_carry_over_to_the_conditional(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type))
    matrix = block_matrix(rng, covariance_type, given, rest)
    shift = double(rng.normal(size=len(given + rest)))
    moved = with_covariances(
        mixture.weights,
        mixture.means @ matrix.T + shift,
        matrix @ mixture.component_covariances @ matrix.T,
        covariance_type,
    )
    points = random_points(rng, mixture, 3)
    plain = mixture.condition(given, points[..., given])
    mapped = moved.condition(given, (points @ matrix.T + shift)[..., given])
    block = matrix[rest][:, rest]
    assert_close(mapped.weights, plain.weights)
    assert_close(mapped.means, plain.means @ block.T + shift[rest])
    assert_close(
        mapped.component_covariances, block @ plain.component_covariances @ block.T
    )


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_order_of_components_does_not_matter(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type, n_components=(2, 4)))
    order = data.draw(st.permutations(range(mixture.n_components)))
    permuted = select(
        mixture,
        weights=mixture.weights[..., order],
        means=mixture.means[..., order, :],
        covariances=mixture.component_covariances[..., order, :, :],
    )
    points = random_points(rng, mixture, 3)
    expected = mixture.condition(given, points[..., given])
    actual = permuted.condition(given, points[..., given])
    assert_close(permuted.log_prob(points), mixture.log_prob(points))
    assert_close(
        actual.log_prob(points[..., rest]), expected.log_prob(points[..., rest])
    )
    assert_close(actual.weights, expected.weights[..., order])


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_order_of_coordinates_does_not_matter(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type))
    points = random_points(rng, mixture, 3)
    expected = mixture.condition(given, points[..., given])
    other_given = data.draw(st.permutations(given))
    actual = mixture.condition(other_given, points[..., other_given])
    assert_same_mixture(actual, expected)
    order = data.draw(st.permutations(given + rest))
    reordered = mixture.marginal(order)
    assert_close(reordered.log_prob(points[..., order]), mixture.log_prob(points))
    actual = reordered.condition(positions(given, order), points[..., given])
    other_rest = [i for i in order if i in rest]
    assert_same_mixture(actual, expected.marginal(positions(other_rest, rest)))


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_splitting_a_component_changes_nothing(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type))
    doubled = [0, *range(mixture.n_components)]
    weights = mixture.weights[..., doubled].clone()
    weights[..., :2] *= 0.5
    split = select(
        mixture,
        weights=weights,
        means=mixture.means[..., doubled, :],
        covariances=mixture.component_covariances[..., doubled, :, :],
    )
    points = random_points(rng, mixture, 3)
    expected = mixture.condition(given, points[..., given])
    actual = split.condition(given, points[..., given])
    assert_close(split.log_prob(points), mixture.log_prob(points))
    assert_close(
        actual.log_prob(points[..., rest]), expected.log_prob(points[..., rest])
    )
    assert_close(actual.mean, expected.mean)
    assert_close(actual.covariance_matrix, expected.covariance_matrix)


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_one_component_is_linear_regression(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type, n_components=(1, 1)))
    points = random_points(rng, mixture, 3)
    conditional = mixture.condition(given, points[..., given])
    covariance = mixture.component_covariances.squeeze(-3)
    means = mixture.means.squeeze(-2)
    gain = covariance[..., rest, :][..., given] @ torch.linalg.inv(
        covariance[..., given, :][..., given]
    )
    deviation = points[..., given] - means[..., given]
    expected = means[..., rest] + (gain @ deviation.unsqueeze(-1)).squeeze(-1)
    assert bool((conditional.weights == 1).all())
    assert_close(conditional.mean, expected)


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_independent_blocks_leave_the_means_alone(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type))
    mask = torch.zeros(len(given + rest), dtype=torch.float64)
    mask[given] = 1
    same_block = (mask.unsqueeze(0) == mask.unsqueeze(1)).double()
    independent = with_covariances(
        mixture.weights,
        mixture.means,
        mixture.component_covariances * same_block,
        covariance_type,
    )
    values = random_points(rng, mixture, 3)[..., given]
    conditional = independent.condition(given, values)
    expected = mixture.means[..., rest].expand_as(conditional.means)
    assert_close(conditional.means, expected)


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_conditioning_shrinks_every_component(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type))
    values = random_points(rng, mixture, 3)[..., given]
    left = mixture.condition(given, values).component_covariances
    before = mixture.component_covariances[..., rest, :][..., rest]
    assert bool((torch.linalg.eigvalsh(left) > 0).all())
    # Rounding of the difference: a few units in the last place of the variances.
    assert bool((torch.linalg.eigvalsh(before - left) > -1e-13).all())


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_far_away_values_give_finite_conditionals(covariance_type, data):
    rng, mixture, given, _ = data.draw(splits(covariance_type))
    distance = data.draw(st.sampled_from([1e4, 1e5, 1e8]))
    direction = random_points(rng, mixture, 3)[..., given]
    values = distance * direction / direction.norm(dim=-1, keepdim=True)
    conditional = mixture.condition(given, values)
    assert bool(torch.isfinite(conditional.weights).all())
    assert_close(
        conditional.weights.sum(-1), torch.ones(conditional.batch_shape), tol=1e-12
    )
    assert bool(torch.isfinite(conditional.mean).all())
    assert bool(torch.isfinite(conditional.covariance_matrix).all())
    assert bool(torch.isfinite(conditional.log_prob(conditional.mean)).all())
    assert bool(torch.isfinite(mixture.marginal(given).log_prob(values)).all())


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_sample_moments_match_the_conditional(covariance_type, data):
    rng, mixture, given, _ = data.draw(splits(covariance_type))
    n_samples = 20_000
    conditional = mixture.condition(given, random_points(rng, mixture)[..., given])
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    samples = conditional.sample((n_samples,), generator=generator)
    deviation = samples - conditional.mean
    products = deviation.unsqueeze(-1) * deviation.unsqueeze(-2)
    for draws, expected in (
        (deviation, torch.zeros_like(conditional.mean)),
        (products, conditional.covariance_matrix),
    ):
        standard_error = draws.std(0) / n_samples**0.5
        # Tens of thousands of comparisons: seven standard errors leave none by chance.
        assert bool(((draws.mean(0) - expected).abs() < 7 * standard_error).all())


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_conditioning_on_nothing_is_the_marginal_of_everything(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type))
    points = random_points(rng, mixture, 3)
    conditional = mixture.condition([], points[..., []])
    everything = mixture.marginal(range(len(given + rest)))
    assert conditional.batch_shape == points.shape[:-1]
    assert_close(conditional.log_prob(points), everything.log_prob(points))
    assert_same_mixture(conditional, everything.expand(points.shape[:-1]))


# ----------------------------------------------------------------- textbook formulas


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_condition_is_the_textbook_formula(covariance_type, data):
    rng, mixture, given, rest = data.draw(splits(covariance_type))
    values = random_points(rng, mixture)[..., given]
    rows = zip(
        flat_parameters(mixture),
        values.reshape(-1, len(given)).numpy(),
        flat_parameters(mixture.condition(given, values)),
        strict=True,
    )
    for parameters, value, conditional in rows:
        expected = textbook_condition(*parameters, given, rest, value)
        for actual_part, expected_part in zip(conditional, expected, strict=True):
            assert_close(actual_part, expected_part)


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_marginal_selects_means_and_covariances(covariance_type, data):
    _, mixture, kept, _ = data.draw(splits(covariance_type))
    marginal = mixture.marginal(kept)
    covariances = mixture.component_covariances
    assert_close(marginal.weights, mixture.weights)
    assert_close(marginal.means, mixture.means[..., kept])
    assert_close(
        marginal.component_covariances, covariances[..., kept, :][..., :, kept]
    )
    assert_close(marginal.mean, mixture.mean[..., kept])
    assert_close(marginal.variance, mixture.variance[..., kept])


@each_covariance_type
@PROFILE
@for_all(data=st.data())
def test_log_prob_and_responsibilities_are_the_textbook_formula(covariance_type, data):
    rng, mixture, _, _ = data.draw(splits(covariance_type))
    points = random_points(rng, mixture)
    log_prob = mixture.log_prob(points).reshape(-1)
    responsibilities = mixture.responsibilities(points)
    responsibilities = responsibilities.reshape(-1, mixture.n_components)
    flat_points = points.reshape(-1, points.shape[-1]).numpy()
    for row, parameters in enumerate(flat_parameters(mixture)):
        log_joint = textbook_log_joint(*parameters, flat_points[row])
        assert_close(log_prob[row], logsumexp(log_joint))
        assert_close(responsibilities[row], np.exp(log_joint - logsumexp(log_joint)))


@each_covariance_type
def test_rows_of_values_broadcast_against_the_batch(covariance_type):
    rng = np.random.default_rng(0)
    batch = random_mixture(rng, covariance_type, batch_shape=(2,))
    values = double(rng.normal(size=(5, 1, 2)))
    conditional = batch.condition([2, 0], values)
    assert conditional.batch_shape == (5, 2)
    for row in range(5):
        for column in range(2):
            alone = batch[column].condition([2, 0], values[row, 0])
            assert_same_mixture(conditional[row, column], alone)


# ------------------------------------------------------------------- known numbers


def test_fixture_of_one_gaussian():
    covariance = double(
        [
            [2, 0.3, 0.8, -0.4],
            [0.3, 1, 0.2, 0.5],
            [0.8, 0.2, 1.5, 0.1],
            [-0.4, 0.5, 0.1, 1.2],
        ]
    )
    joint = MultivariateNormalMixture(
        double([1.0]),
        double([[0.1, -0.2, 0.3, 0.4]]),
        torch.linalg.cholesky(covariance).unsqueeze(0),
    )
    point = double([1, 0.5, -0.5, 2])
    conditional = joint.condition([0, 1], point[:2])
    # The first two are printed with eight decimals.
    assert_close(conditional.mean, double([0.70732984, 0.5513089]), tol=6e-9)
    assert_close(
        conditional.covariance_matrix,
        double([[1.17329843, 0.21308901], [0.21308901, 0.79162304]]),
        tol=6e-9,
    )
    assert_close(joint.log_prob(point), double(-6.775655337354))
    assert_close(joint.marginal([0, 1]).log_prob(point[:2]), double(-2.531062195292))
    assert_close(conditional.log_prob(point[2:]), double(-4.244593142062))


def test_fixture_of_two_components():
    covariances = double([[[1, 0.6], [0.6, 1]], [[0.5, -0.2], [-0.2, 0.8]]])
    joint = MultivariateNormalMixture(
        double([0.3, 0.7]),
        double([[0, 1], [2, -1]]),
        torch.linalg.cholesky(covariances),
    )
    conditional = joint.condition([0], double([0.4]))
    assert_close(joint.marginal([0]).log_prob(double([0.4])), double(-1.958915869689))
    assert_close(conditional.weights, double([0.78349119, 0.21650881]), tol=6e-9)
    assert_close(conditional.means, double([[1.24], [-0.36]]))
    assert_close(conditional.component_covariances, double([[[0.64]], [[0.72]]]))
    assert_close(conditional.mean, double([0.893585896257]))
    assert_close(conditional.variance, double([1.091580539904]))
    assert_close(conditional.log_prob(double([0.25])), double(-1.345935543594))
    assert_close(joint.log_prob(double([0.4, 0.25])), double(-3.304851413284))


# ----------------------------------------------------------------------- accuracy


def exact_condition(mixture, given, rest, values):
    """Log-weights, means and covariances of the conditional with 60 digits."""
    mpmath = pytest.importorskip("mpmath")
    context = mpmath.mp.clone()
    context.dps = 60

    def pick(matrix, rows, columns):
        return context.matrix([[matrix[i, j] for j in columns] for i in rows])

    log_weights, means, covariances = [], [], []
    for weight, mean, factor in zip(
        mixture.weights, mixture.means, mixture.scale_tril, strict=True
    ):
        factor = context.matrix(factor.tolist())
        covariance = factor * factor.T
        block = pick(covariance, given, given)
        gain = pick(covariance, rest, given) * block**-1
        deviation = context.matrix(values.tolist()) - context.matrix(
            mean[given].tolist()
        )
        shift = gain * deviation
        distance = (deviation.T * block**-1 * deviation)[0]
        log_det = context.log(context.det(2 * context.pi * block))
        log_weights.append(context.log(float(weight)) - (distance + log_det) / 2)
        means.append([mean[i].item() + shift[j] for j, i in enumerate(rest)])
        covariances.append(
            pick(covariance, rest, rest) - gain * pick(covariance, given, rest)
        )
    total = context.log(sum(context.exp(value) for value in log_weights))
    return (
        double([float(value - total) for value in log_weights]),
        double([[float(value) for value in row] for row in means]),
        double([[[float(x) for x in row] for row in c.tolist()] for c in covariances]),
    )


@pytest.mark.parametrize("given", [[1, 0], [2, 1, 0], [0, 2, 1]], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_nearly_singular_given_block_keeps_its_accuracy(seed, given):
    rng = np.random.default_rng(seed)
    factor = np.tril(rng.normal(size=(2, 4, 4)), -1) + np.diag([1.0, 5e-7, 1.0, 1.0])
    factor[:, 1, 0] = rng.normal()  # both components know the same near-singular line
    joint = MultivariateNormalMixture(
        double([0.4, 0.6]), double(rng.normal(size=(2, 4)) * 1e-7), double(factor)
    )
    block = joint.marginal(given).component_covariances
    assert torch.linalg.cond(block).min() > 1e12
    rest = [i for i in range(4) if i not in given]
    values = joint.sample(generator=torch.Generator().manual_seed(seed))[given]
    expected = exact_condition(joint, given, rest, values)
    conditional = joint.condition(given, values)
    assert conditional.weights.max() < 1 - 1e-6
    # The factor has the square root of that condition number, so that nine or ten of
    # sixteen digits are left; solving with the covariance itself leaves three or four.
    assert_close(conditional.log_weights, expected[0], tol=1e-8)
    assert_close(conditional.means, expected[1], tol=1e-8)
    assert_close(conditional.component_covariances, expected[2], tol=1e-8)


@each_covariance_type
@pytest.mark.parametrize("distance", [1e4, 1e5])
def test_far_points_keep_finite_and_exact_densities(covariance_type, distance):
    rng = np.random.default_rng(3)
    mixture = random_mixture(rng, covariance_type, n_components=4, n_features=3)
    direction = random_points(rng, mixture, 20)
    direction /= direction.norm(dim=-1, keepdim=True)
    points = distance * mixture.stddev.max() * direction
    log_prob, shares = mixture.log_prob(points), mixture.responsibilities(points)
    parameters = next(iter(flat_parameters(mixture)))
    expected = [
        logsumexp(textbook_log_joint(*parameters, point)) for point in points.numpy()
    ]
    torch.testing.assert_close(log_prob, double(expected), rtol=1e-12, atol=0)
    assert bool(torch.isfinite(shares).all())
    assert_close(shares.sum(-1), torch.ones(20), tol=1e-12)
