"""The process against scikit-learn's, and the dual space against the primal."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from skgmje.latent import GaussianProcess
from skgmje.latent._gaussian_process import (
    _condition_on_all,
    _condition_on_points,
    _feature_sums,
    _inducing_bound,
    _primal_factor,
    _projection,
    log_marginal_likelihood,
    pairwise_squares,
    rbf,
)
from skgmje.latent._moments import moments

HYPERPARAMETERS = torch.tensor([0.7, 1.3, 0.05], dtype=torch.float64)
PROFILE = settings(deadline=None, max_examples=40, derandomize=True)


def rows(n_samples=80, width=2, seed=0):
    """Standardised contexts and two targets that depend on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_samples, width))
    y = np.stack([np.sin(2 * x[:, 0]), x[:, -1] ** 2], axis=1)
    pair = x, y + 0.2 * rng.normal(size=y.shape)
    return tuple(
        torch.tensor((view - view.mean(0)) / view.std(0), dtype=torch.float64)
        for view in pair
    )


def peer(hyperparameters, **options):
    length, signal, noise = hyperparameters.tolist()
    kernel = ConstantKernel(signal) * RBF(length) + WhiteKernel(noise)
    return GaussianProcessRegressor(kernel, alpha=0.0, **options)


def process_with(X, Y, hyperparameters, points=None):
    """A process with a given kernel, in which nothing is searched for."""
    exact = points is None
    parts = (
        _condition_on_all(X, Y, hyperparameters)
        if exact
        else _condition_on_points(X, Y, points, hyperparameters)
    )
    points = X if exact else points
    rank = None if exact else parts["projection"].shape[1]
    process = GaussianProcess(X.shape[1], Y.shape[1], len(points), rank)
    unit = {"hyperparameters": hyperparameters, "points": points}
    for name, width in (("input", X.shape[1]), ("output", Y.shape[1])):
        unit[f"{name}_mean"] = torch.zeros(width).double()
        unit[f"{name}_scale"] = torch.ones(width).double()
    process.load_state_dict(unit | parts)
    return process


# ------------------------------------------------------------------------ the peer


def test_a_given_kernel_answers_like_that_of_scikit_learn():
    X, Y = rows()
    new = torch.linspace(-3, 3, 60, dtype=torch.float64).reshape(30, 2)
    conditional = process_with(X, Y, HYPERPARAMETERS)(new)
    other = peer(HYPERPARAMETERS, optimizer=None).fit(X.numpy(), Y.numpy())
    mean, deviation = other.predict(new.numpy(), return_std=True)
    np.testing.assert_allclose(conditional.mean, mean, atol=1e-10)
    np.testing.assert_allclose(conditional.stddev, deviation, atol=1e-8)


def test_the_marginal_likelihood_is_that_of_scikit_learn():
    X, Y = rows()
    ours = log_marginal_likelihood(pairwise_squares(X, X), Y, HYPERPARAMETERS)
    other = peer(HYPERPARAMETERS, optimizer=None).fit(X.numpy(), Y.numpy())
    assert float(ours) == pytest.approx(other.log_marginal_likelihood_value_, abs=1e-8)


def test_the_gradient_of_the_marginal_likelihood_is_that_of_scikit_learn():
    X, Y = rows()
    logs = HYPERPARAMETERS.log().requires_grad_()
    value = log_marginal_likelihood(pairwise_squares(X, X), Y, logs.exp())
    (gradient,) = torch.autograd.grad(value, logs)
    other = peer(HYPERPARAMETERS, optimizer=None).fit(X.numpy(), Y.numpy())
    _, expected = other.log_marginal_likelihood(other.kernel_.theta, eval_gradient=True)
    # Their parameters are the signal, the length and the noise, in this order.
    np.testing.assert_allclose(gradient[[1, 0, 2]], expected, rtol=1e-7)


def test_the_kernel_that_is_found_is_that_of_scikit_learn():
    X, Y = rows(120)
    process, _ = GaussianProcess.fit(X, Y, 1000, n_restarts=1, seed=0)
    other = peer(torch.tensor([1.0, 1.0, 0.1])).fit(X.numpy(), Y.numpy())
    found = process.log_marginal_likelihood(X, Y)
    assert found == pytest.approx(other.log_marginal_likelihood_value_, abs=1e-4)
    signal_and_length, noise = other.kernel_.k1, other.kernel_.k2
    expected = [
        signal_and_length.k2.length_scale,
        signal_and_length.k1.constant_value,
        noise.noise_level,
    ]
    np.testing.assert_allclose(process.hyperparameters, expected, rtol=1e-2)


def test_units_of_the_views_do_not_matter():
    X, Y = rows(60)
    scale, shift = torch.tensor([1e3, 1e-4]).double(), torch.tensor([5.0, -2.0])
    plain, _ = GaussianProcess.fit(X, Y, 1000, 0, seed=0)
    scaled, _ = GaussianProcess.fit(X * 1e-5 + 3, Y * scale + shift, 1000, 0, seed=0)
    a, b = plain(X), scaled(X * 1e-5 + 3)
    torch.testing.assert_close(b.mean, a.mean * scale + shift, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(b.stddev, a.stddev * scale, rtol=1e-5, atol=0.0)
    log_jacobian = len(X) * float(scale.log().sum())
    assert scaled.log_marginal_likelihood(
        X * 1e-5 + 3, Y * scale + shift
    ) == pytest.approx(plain.log_marginal_likelihood(X, Y) - log_jacobian, abs=1e-4)


# ------------------------------------------------------------------- primal and dual


@PROFILE
@given(
    seed=st.integers(0, 10_000),
    n_samples=st.integers(1, 12),
    width=st.integers(1, 6),
    noise=st.floats(1e-3, 10.0),
)
def test_the_determinants_of_both_spaces_agree(seed, n_samples, width, noise):
    r"""|X'X / e + I_D| = |XX' / e + I_N|, for features X."""
    rng = np.random.default_rng(seed)
    X = torch.tensor(rng.normal(size=(n_samples, width)))
    primal = _primal_factor(X.mT @ X, torch.tensor(noise, dtype=torch.float64))
    dual = torch.logdet(X @ X.mT / noise + torch.eye(n_samples).double())
    value = 2 * primal.diagonal().log().sum() - width * np.log(noise)
    torch.testing.assert_close(value, dual, rtol=1e-8, atol=1e-8)


@PROFILE
@given(seed=st.integers(0, 10_000), ridge=st.floats(1e-3, 10.0))
def test_the_mahalanobis_trace_of_the_dual_is_that_of_the_primal(seed, ridge):
    """tr(X'K^-1 X) / N = sum of l / (l + e), with K = XX'/N + e I."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(9, 3))
    kernel = X @ X.T / len(X) + ridge * np.eye(len(X))
    dual = np.trace(X.T @ np.linalg.solve(kernel, X)) / len(X)
    values = np.linalg.eigvalsh(X.T @ X / len(X))
    assert dual == pytest.approx((values / (values + ridge)).sum(), rel=1e-9)


def test_all_rows_as_inducing_points_are_the_exact_process():
    X, Y = rows(40)
    new = torch.linspace(-2, 2, 40, dtype=torch.float64).reshape(20, 2)
    exact = process_with(X, Y, HYPERPARAMETERS)
    inducing = process_with(X, Y, HYPERPARAMETERS, points=X)
    torch.testing.assert_close(inducing(new).mean, exact(new).mean, atol=1e-7, rtol=0)
    torch.testing.assert_close(
        inducing(new).stddev, exact(new).stddev, atol=1e-7, rtol=0
    )
    assert inducing.log_marginal_likelihood(X, Y) == pytest.approx(
        exact.log_marginal_likelihood(X, Y), abs=1e-5
    )


def test_the_bound_is_that_of_titsias():
    X, Y = rows(50)
    points = X[:7]
    length, signal, noise = HYPERPARAMETERS
    between = signal * rbf(X, points, length)
    among = signal * rbf(points, points, length)
    low_rank = (between @ torch.linalg.solve(among, between.mT)).numpy()
    covariance = low_rank + float(noise) * np.eye(len(X))
    expected = sum(
        multivariate_normal(cov=covariance).logpdf(column) for column in Y.mT.numpy()
    )
    missed = float(signal) * len(X) - np.trace(low_rank)
    expected -= 0.5 * Y.shape[1] * missed / float(noise)
    bound = float(_inducing_bound(X, Y, points, HYPERPARAMETERS))
    assert bound == pytest.approx(expected, abs=1e-7)
    exact = log_marginal_likelihood(pairwise_squares(X, X), Y, HYPERPARAMETERS)
    assert bound < float(exact)


def test_the_posterior_of_inducing_points_is_that_of_titsias():
    X, Y = rows(50)
    points, new = X[:7], rows(20, seed=1)[0]
    length, signal, noise = HYPERPARAMETERS
    among, between, at_new = (
        signal * rbf(points, other, length) for other in (points, X, new)
    )
    inner = torch.linalg.inv(among + between @ between.mT / noise)
    mean = at_new.mT @ inner @ between @ Y / noise
    explained = torch.linalg.inv(among) - inner
    variance = signal + noise - torch.einsum("in,ij,jn->n", at_new, explained, at_new)
    conditional = process_with(X, Y, HYPERPARAMETERS, points)(new)
    torch.testing.assert_close(conditional.mean, mean, atol=1e-7, rtol=0)
    torch.testing.assert_close(
        conditional.stddev[:, 0], variance.sqrt(), atol=1e-7, rtol=0
    )


def test_features_of_the_points_are_their_kernel():
    X, Y = rows(30)
    projection = _projection(X[:9], HYPERPARAMETERS)
    length, signal, _ = HYPERPARAMETERS
    features = signal * rbf(X[:9], X[:9], length) @ projection
    torch.testing.assert_close(
        features @ features.mT, signal * rbf(X[:9], X[:9], length)
    )
    gram, cross, explained = _feature_sums(X, Y, X[:9], projection, HYPERPARAMETERS)
    features = signal * rbf(X, X[:9], length) @ projection
    torch.testing.assert_close(gram, features.mT @ features)
    torch.testing.assert_close(cross, features.mT @ Y)
    assert float(explained) == pytest.approx(float(features.square().sum()))


# ----------------------------------------------------------------------- the search


def test_a_sample_of_the_rows_is_kept_and_all_of_them_count():
    X, Y = rows(400)
    process, _ = GaussianProcess.fit(X, Y, 40, 0, seed=0)
    assert process.points.shape == (40, 2)
    again, _ = GaussianProcess.fit(X, Y, 40, 0, seed=0)
    torch.testing.assert_close(process.points, again.points, rtol=0, atol=0)
    few, _ = GaussianProcess.fit(process.points, Y[:40], 40, 0, seed=0)
    new_X, new_Y = rows(300, seed=1)
    all_rows = process(new_X).log_prob(new_Y).mean()
    exact, _ = GaussianProcess.fit(X[:40], Y[:40], 40, 0, seed=0)
    assert all_rows > exact(new_X).log_prob(new_Y).mean()
    assert few.rank is None


def test_restarts_never_make_the_likelihood_smaller():
    X, Y = rows(40)
    values = [GaussianProcess.fit(X, Y, 100, n, seed=0)[1][-1] for n in (0, 3)]
    assert values[1] <= values[0]


def test_the_loss_curve_falls_to_the_marginal_likelihood():
    X, Y = rows(60)
    Y = 100 * Y
    process, losses = GaussianProcess.fit(X, Y, 100, 0, seed=0)
    assert (np.diff(losses) <= 1e-9).all()
    value = process.log_marginal_likelihood(X, Y)
    assert -losses[-1] * len(X) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("n_points", [5, 100])
def test_constant_and_repeated_rows_give_finite_answers(n_points):
    X = torch.ones(20, 2, dtype=torch.float64)
    for Y in (torch.ones(20, 1).double(), torch.arange(20.0).double().unsqueeze(1)):
        process, losses = GaussianProcess.fit(X, Y, n_points, 1, seed=0)
        conditional = process(X[:3])
        assert torch.isfinite(conditional.mean).all()
        assert (conditional.stddev > 0).all()
        assert np.isfinite(losses).all()
        torch.testing.assert_close(conditional.mean[0], Y.mean(0), atol=0.1, rtol=0)


def test_far_from_the_data_the_mean_and_the_spread_are_those_of_all_rows():
    X, Y = rows(60)
    process, _ = GaussianProcess.fit(X, Y, 100, 0, seed=0)
    far = process(torch.full((1, 2), 1e6).double())
    loc, _ = moments(Y)
    torch.testing.assert_close(far.mean[0], loc)
    total = process.signal_variance + process.noise_variance
    assert float(far.variance[0, 0]) == pytest.approx(total)
