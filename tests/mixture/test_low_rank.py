"""Low-rank covariances: the density beyond what every form shares, and its EM."""

import copy
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from mixture_strategies import PROFILE, SEEDS, assert_close, double, random_mixture
from sklearn.decomposition import FactorAnalysis
from torch.distributions import LowRankMultivariateNormal

from skgmje import MultivariateNormalMixture
from skgmje.exceptions import IllDefinedCovarianceError
from skgmje.mixture import GaussianMixture
from skgmje.mixture._em import (
    expectation,
    has_cancelled,
    maximization,
    statistics_of_density,
    stepwise,
)
from skgmje.mixture._factor_analysis import factor_covariances, factorise

WEIGHTS = double([0.3, 0.7])


def low_rank(seed=0, n_features=6, rank=2, n_components=2, noise=0.3):
    rng = np.random.default_rng(seed)
    return MultivariateNormalMixture(
        double(rng.dirichlet(np.full(n_components, 5.0))),
        double(2 * rng.normal(size=(n_components, n_features))),
        cov_factor=double(rng.normal(size=(n_components, n_features, rank))),
        cov_diag=double(noise * rng.uniform(0.5, 1.5, (n_components, n_features))),
    )


def dense(mixture):
    """Return the same density with full covariances."""
    return MultivariateNormalMixture(
        mixture.weights,
        mixture.means,
        torch.linalg.cholesky(mixture.component_covariances),
    )


# --------------------------------------------------------------------------- density


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_one_component_is_the_distribution_of_torch(rank):
    mixture = low_rank(n_components=1, rank=rank)
    theirs = LowRankMultivariateNormal(
        mixture.means[0], mixture.cov_factor[0], mixture.cov_diag[0]
    )
    points = double(3 * np.random.default_rng(1).normal(size=(20, 6)))
    assert_close(mixture.log_prob(points), theirs.log_prob(points))
    assert_close(mixture.covariance_matrix, theirs.covariance_matrix)


def test_without_factors_it_is_diagonal():
    mixture = low_rank(rank=0)
    diagonal = MultivariateNormalMixture(
        mixture.weights, mixture.means, scale_diag=mixture.cov_diag.sqrt()
    )
    points = double(np.random.default_rng(1).normal(size=(20, 6)))
    assert_close(mixture.log_prob(points), diagonal.log_prob(points))
    ours, theirs = (m.condition([4, 1], points[:, :2]) for m in (mixture, diagonal))
    assert_close(ours.means, theirs.means)
    assert_close(ours.log_prob(points[:, 2:]), theirs.log_prob(points[:, 2:]))
    assert ours.sample(generator=torch.Generator()).shape == (20, 4)


def test_one_covariance_may_serve_all_components():
    mixture = low_rank(n_components=3)
    tied = MultivariateNormalMixture(
        mixture.weights,
        mixture.means,
        cov_factor=mixture.cov_factor[:1],
        cov_diag=mixture.cov_diag[:1],
    )
    points = double(np.random.default_rng(1).normal(size=(20, 6)))
    assert tied.cov_factor.shape == (1, 6, 2)
    assert_close(tied.log_prob(points), dense(tied).log_prob(points))
    ours, theirs = (m.condition([0, 3], points[:, :2]) for m in (tied, dense(tied)))
    assert_close(ours.mean, theirs.mean)
    assert_close(ours.log_prob(points[:, 2:]), theirs.log_prob(points[:, 2:]))


def test_factors_and_noise_broadcast():
    mixture = low_rank()
    batch = MultivariateNormalMixture(
        mixture.weights,
        mixture.means,
        cov_factor=mixture.cov_factor,
        cov_diag=torch.stack([mixture.cov_diag, 2 * mixture.cov_diag]),
    )
    assert batch.batch_shape == (2,)
    points = double(np.random.default_rng(1).normal(size=(5, 1, 6)))
    assert_close(batch.log_prob(points)[:, 0], mixture.log_prob(points[:, 0]))


@PROFILE
@for_all(SEEDS)
def test_conditionals_agree_with_dense_ones_in_every_respect(seed):
    rng = np.random.default_rng(seed)
    mixture = random_mixture(rng, "low_rank", 3, 5)
    values, rest = double(rng.normal(size=(4, 2))), double(rng.normal(size=(4, 3)))
    ours, theirs = (m.condition([3, 0], values) for m in (mixture, dense(mixture)))
    assert_close(ours.weights, theirs.weights)
    assert_close(ours.mode, theirs.mode, tol=1e-7)
    assert_close(ours.quantile([0.1, 0.9]), theirs.quantile([0.1, 0.9]))
    assert_close(ours.log_prob(rest), theirs.log_prob(rest))
    assert_close(ours[2:].log_prob(rest[2:]), theirs[2:].log_prob(rest[2:]))


@pytest.mark.parametrize("distance", [1e3, 1e8])
def test_far_points_along_a_strong_factor_keep_their_digits(distance):
    """Woodbury's difference would lose as many digits as the noise is small."""
    direction = double([[[3.0], [4.0]]])
    mixture = MultivariateNormalMixture(
        double([1.0]),
        double([[0.0, 0.0]]),
        cov_factor=distance * direction,
        cov_diag=double([[1e-6, 1e-6]]),
    )
    # One standard deviation along the factor, and one across it.
    point = distance * direction[0, :, 0] + 1e-3 * double([0.8, -0.6])
    at_mean = mixture.log_prob(double([0.0, 0.0]))
    gap = float(at_mean - mixture.log_prob(point))
    # The point itself is rounded, to 1e-16 of its size, across the factor.
    assert gap == pytest.approx(1.0, abs=1e-11 + 1e-12 * distance)


def test_nothing_of_quadratic_size_is_formed():
    """A covariance of this width would take 80 GB."""
    n_features = 100_000
    generator = torch.Generator().manual_seed(0)
    loadings = torch.randn(1, n_features, 2, generator=generator, dtype=torch.float64)
    mixture = MultivariateNormalMixture(
        double([1.0]),
        torch.zeros(1, n_features, dtype=torch.float64),
        cov_factor=loadings,
        cov_diag=torch.ones(1, n_features, dtype=torch.float64),
    )
    point = mixture.sample((1,), generator=generator)
    half = n_features // 2
    conditional = mixture.condition(range(half), point[:, :half])
    total = mixture.marginal(range(half)).log_prob(point[:, :half])
    total = total + conditional.log_prob(point[:, half:])
    assert_close(total, mixture.log_prob(point))
    # Fifty thousand coordinates tell the two factors.
    factors = torch.linalg.lstsq(loadings[0, :half], point[0, :half, None]).solution
    expected = (loadings[0, half:] @ factors).squeeze(-1)
    assert_close(conditional.mean[0], expected, tol=1e-2)


def test_what_was_read_without_gradients_still_has_them_later():
    raw = low_rank()
    factor = raw.cov_factor.clone().requires_grad_()
    mixture = MultivariateNormalMixture(
        raw.weights, raw.means, cov_factor=factor, cov_diag=raw.cov_diag
    )
    points = double(np.random.default_rng(1).normal(size=(5, 6)))
    with torch.inference_mode():
        expected = mixture.log_prob(points)
    (gradient,) = torch.autograd.grad(mixture.log_prob(points).sum(), factor)
    assert_close(mixture.log_prob(points), expected)
    assert float(gradient.abs().max()) > 0


def test_copies_and_parameters_are_equal_to_the_bit():
    mixture = low_rank()
    again = MultivariateNormalMixture(**mixture.parameters())
    points = double(np.random.default_rng(1).normal(size=(5, 6)))
    mixture.log_prob(points)
    for other in (again, copy.deepcopy(mixture)):
        assert torch.equal(other._scale.factor, mixture._scale.factor)
        assert torch.equal(other.log_prob(points), mixture.log_prob(points))


@pytest.mark.parametrize("name", ["cov_factor", "cov_diag"])
def test_factors_and_noise_go_together(name):
    parameters = low_rank().parameters()
    del parameters[name]
    with pytest.raises(ValueError, match="cov_factor and cov_diag go together"):
        MultivariateNormalMixture(**parameters)


@pytest.mark.parametrize(
    ("name", "value"),
    [("cov_factor", np.nan), ("cov_diag", 0.0), ("cov_diag", -1.0)],
)
def test_what_is_no_covariance_is_refused(name, value):
    parameters = low_rank().parameters()
    parameters[name] = parameters[name].clone()
    parameters[name][0, 0] = value
    with pytest.raises(ValueError, match=f"The parameter {name} of Multivariate"):
        MultivariateNormalMixture(**parameters)


def test_repeated_strong_factors_are_refused_and_not_repaired():
    mixture = MultivariateNormalMixture(
        double([1.0]),
        double([[0.0, 0.0]]),
        cov_factor=double([[[1e10, 1e10], [1e10, 1e10]]]),
        cov_diag=double([[1.0, 1.0]]),
    )
    with pytest.raises(ValueError, match="lower the rank or raise cov_diag"):
        mixture.log_prob(double([1.0, 1.0]))


def test_nearly_equal_factors_in_float32_are_factorised():
    direction = torch.tensor([[3.0, 3.0], [4.0, 4.0], [5.0, 5.0001]])
    parameters = {
        "weights": torch.ones(1),
        "means": torch.zeros(1, 3),
        "cov_factor": direction[None],
        "cov_diag": torch.full((1, 3), 1e-6),
    }
    mixture = MultivariateNormalMixture(**parameters)
    exact = MultivariateNormalMixture(**{k: v.double() for k, v in parameters.items()})
    point = torch.tensor([[3.0, 4.0, 5.0], [0.0, 0.0, 1e-3]])
    gap = mixture.log_prob(point).double() - exact.log_prob(point.double())
    assert float(gap.abs().max()) < 0.1


# -------------------------------------------------------------------------------- EM


def samples(mixture, n_samples=400):
    generator = torch.Generator().manual_seed(0)
    return mixture.sample((n_samples,), generator=generator).numpy()


def em(X, density, reg_covar, n_steps):
    bounds = []
    for _ in range(n_steps):
        statistics = expectation(X, density, "low_rank")
        density = maximization(statistics, reg_covar).density("low_rank")
        bounds.append(statistics.mean_log_likelihood)
    return density, bounds


@pytest.mark.parametrize("reg_covar", [0.0, 1e-6, 0.3], ids=str)
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_likelihood_never_falls(seed, rank, reg_covar):
    X = samples(low_rank(seed, n_components=3), 150)
    _, bounds = em(X, low_rank(seed + 10, rank=rank, noise=1.0), reg_covar, 60)
    assert min(np.diff(bounds)) > -1e-10
    assert bounds[-1] > bounds[0] + 0.5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_component_is_the_factor_analysis_of_scikit_learn(seed):
    X = samples(low_rank(seed, n_features=8, n_components=1, noise=1.0), 500)
    theirs = FactorAnalysis(2, tol=1e-9, max_iter=5000).fit(X)
    start = low_rank(seed + 10, n_features=8, n_components=1)
    density, bounds = em(X, start, 0.0, 200)
    assert bounds[-1] == pytest.approx(theirs.score(X), abs=1e-5)
    covariance = density.component_covariances[0]
    np.testing.assert_allclose(covariance, theirs.get_covariance(), atol=2e-2)


def test_responsibilities_are_those_of_the_density():
    mixture = low_rank(n_components=3)
    X = samples(mixture)
    points = torch.from_numpy(X)
    statistics = expectation(X, mixture, "low_rank")
    expected = mixture.responsibilities(points)
    assert_close(statistics.counts, expected.sum(0))
    assert_close(statistics.log_likelihood, mixture.log_prob(points).sum())


def test_the_noise_keeps_above_its_floor():
    X = samples(low_rank(), 100)
    X[:, 2] = X[:, 1]
    density, bounds = em(X, low_rank(5), 0.05, 50)
    assert float(density.cov_diag.min()) >= 0.05 * (1 - 1e-12)
    assert min(np.diff(bounds)) > -1e-10


def test_a_constant_column_needs_a_floor():
    X = samples(low_rank(), 100)
    X[:, 2] = 1.0
    with pytest.raises(IllDefinedCovarianceError, match="increase reg_covar"):
        em(X, low_rank(5), 0.0, 5)
    density, _ = em(X, low_rank(5), 1e-6, 50)
    assert_close(density.means[:, 2], double([1.0, 1.0]))
    assert bool(torch.isfinite(density.log_prob(torch.from_numpy(X))).all())


def test_statistics_of_a_density_lead_back_to_it():
    mixture = low_rank()
    back = maximization(statistics_of_density(mixture), 0.0).density("low_rank")
    assert_close(back.weights, mixture.weights)
    assert_close(back.means, mixture.means)
    assert_close(back.component_covariances, mixture.component_covariances, tol=1e-7)


def test_stepwise_em_starts_from_the_newest_density():
    mixture = low_rank()
    batch = expectation(samples(mixture), mixture, "low_rank")
    running = statistics_of_density(low_rank(1))
    assert stepwise(running, batch, 0.1).scale is mixture._scale
    assert not has_cancelled(batch, maximization(batch, 0.0))


def test_factors_do_not_depend_on_the_units():
    X = samples(low_rank(n_components=1), 200)
    covariances = double(np.cov(X.T))[None]
    units = double([1.0, 10.0, 1e3, 1e-3, 1.0, 1e6])
    start = double(np.ones((1, 6, 3)))
    plain = factor_covariances(covariances, start, 0.0, 30)
    scaled = factor_covariances(
        units[:, None] * covariances * units, units[:, None] * start, 0.0, 30
    )
    assert_close((scaled / units[:, None]).square().sum(-1), plain.square().sum(-1))


@pytest.mark.parametrize("rank", [1, 2, 5, 9])
def test_a_start_has_at_most_one_factor_less_than_coordinates(rank):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full = GaussianMixture(2, random_state=0, tol=1e-2).fit(samples(low_rank()))
    start = factorise(full.density_, rank, 1e-6)
    assert start.cov_factor.shape == (2, 6, min(rank, 5))
    assert_close(start.means, full.density_.means)
    gap = start.component_covariances - full.density_.component_covariances
    assert float(gap.diagonal(dim1=-2, dim2=-1).abs().max()) < 1e-2
    if rank >= 5:
        assert float(gap.abs().max()) < 2e-2
