"""The Gaussian process as an estimator: one broad band for several answers."""

import pickle

import numpy as np
import pytest
import torch
from embedding_helpers import FrozenNetwork, answers, assert_same_answers
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.model_selection import GridSearchCV
from torch import nn

from skgmje import GaussianProcessEmbedder, GJEEmbedder
from skgmje.datasets import branch_log_density, make_branches
from skgmje.embedding import _inference

each_size = pytest.mark.parametrize("n_points", [60, 1000])


def gaussian_process(**options):
    return GaussianProcessEmbedder(
        **{"random_state": 0, "n_restarts_optimizer": 0} | options
    )


def test_it_is_scikit_learns_process_on_standardised_views(pairs):
    X, Y = pairs
    estimator = gaussian_process().fit(X, Y)
    kernel = ConstantKernel(estimator.signal_variance_) * RBF(
        estimator.length_scale_
    ) + WhiteKernel(estimator.noise_variance_)
    other = GaussianProcessRegressor(
        kernel, alpha=0.0, optimizer=None, normalize_y=True
    ).fit((X - estimator.x_mean_) / estimator.x_scale_, Y)
    new = X[:50] + 0.3
    mean, deviation = other.predict(
        (new - estimator.x_mean_) / estimator.x_scale_, return_std=True
    )
    conditional = estimator.conditional(new)
    np.testing.assert_allclose(estimator.predict(new), mean, atol=1e-6)
    np.testing.assert_allclose(conditional.stddev, deviation, atol=1e-6)
    log_jacobian = len(X) * np.log(estimator.y_scale_).sum()
    assert estimator.log_marginal_likelihood_ == pytest.approx(
        other.log_marginal_likelihood_value_ - log_jacobian, abs=1e-6
    )


def test_the_band_covers_all_branches():
    X, y = make_branches(1500, random_state=0)
    X_test, y_test = make_branches(5000, random_state=1)
    estimator = gaussian_process(n_points=300).fit(X, y)
    loss = -estimator.score(X_test, y_test)
    one_gaussian = -GJEEmbedder(encoder="identity").fit(X, y).score(X_test, y_test)
    assert loss == pytest.approx(1.65, abs=0.04)
    assert loss == pytest.approx(one_gaussian, abs=0.02)
    assert -branch_log_density(X_test, y_test).mean() < loss - 2
    # Between the branches, which are at -1.5, 0 and 1.5 for an input of zero.
    conditional = estimator.conditional([[0.0]])
    assert abs(float(conditional.mean)) < 0.15
    assert 1.1 < float(conditional.stddev) < 1.4


@each_size
def test_a_curve_is_followed(n_points):
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, (300, 1))
    y = np.sin(3 * x) + 0.1 * rng.normal(size=(300, 1))
    estimator = gaussian_process(n_points=n_points).fit(x, y)
    grid = np.linspace(-1.8, 1.8, 50)[:, None]
    np.testing.assert_allclose(estimator.predict(grid), np.sin(3 * grid), atol=0.12)
    deviation = estimator.conditional(grid).stddev.numpy()
    np.testing.assert_allclose(deviation, 0.1, atol=0.03)
    assert estimator.score(x, y) > GJEEmbedder(encoder="identity").fit(x, y).score(x, y)


@each_size
def test_the_score_is_the_mean_density_of_the_conditional(n_points, pairs):
    X, Y = pairs
    estimator = gaussian_process(n_points=n_points).fit(X, Y)
    expected = estimator.conditional(X).log_prob(torch.tensor(Y)).mean()
    assert estimator.score(X, Y) == pytest.approx(float(expected), abs=1e-10)
    assert estimator.score_unit_ == "nats of conditional log-likelihood"
    assert estimator.n_iter_ == len(estimator.loss_curve_)
    assert estimator.best_loss_ == min(estimator.loss_curve_)


@each_size
def test_pickles_answer_alike_and_hold_no_torch(n_points, pairs):
    X, Y = pairs
    estimator = gaussian_process(n_points=n_points).fit(X, Y)
    pickled = pickle.dumps(estimator)
    assert b"torch" not in pickled
    assert_same_answers(answers(pickle.loads(pickled), X, Y), answers(estimator, X, Y))


@each_size
def test_two_fits_with_one_seed_are_equal(n_points, pairs):
    fits = [gaussian_process(n_points=n_points).fit(*pairs) for _ in range(2)]
    assert_same_answers(*(answers(fit, *pairs) for fit in fits))


def test_draws_of_pairs_are_correlated_as_the_data_are():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 1))
    y = x + 0.5 * rng.normal(size=(300, 1))
    Z_c, Z_t = gaussian_process().fit(x, y).sample(4000, random_state=0)
    drawn = np.corrcoef(Z_c[:, 0], Z_t[:, 0])[0, 1]
    assert drawn == pytest.approx(np.corrcoef(x[:, 0], y[:, 0])[0, 1], abs=0.05)


def test_frozen_modules_make_a_latent_space(pairs):
    X, Y = pairs
    encoder = FrozenNetwork(nn.Linear(5, 2))
    target_encoder = FrozenNetwork(nn.Linear(3, 2))
    estimator = gaussian_process(encoder=encoder, target_encoder=target_encoder)
    estimator.fit(X, Y)
    assert estimator.transform(X).shape == (300, 2)
    assert estimator.score_unit_ == "nats of mutual information"
    assert estimator.score(X, Y) > 0.3
    assert np.isfinite(estimator.score_samples(X, Y)).all()


def test_a_module_that_could_be_trained_is_refused_with_the_way_out(pairs):
    with pytest.raises(ValueError, match="requires_grad_"):
        gaussian_process(encoder=nn.Linear(5, 2)).fit(*pairs)
    with pytest.raises(ValueError, match="'encoder' parameter"):
        gaussian_process(encoder="mlp").fit(*pairs)


def test_it_does_not_learn_in_batches(pairs):
    assert not hasattr(gaussian_process(), "partial_fit")
    with pytest.raises(AttributeError, match="partial_fit"):
        gaussian_process().partial_fit(*pairs)


def test_two_views_are_drawn_where_there_is_no_target(pairs):
    X = pairs[0]
    estimator = gaussian_process().fit(X)
    assert estimator.target_source_ == "augment"
    assert np.isfinite(estimator.score(X))


def test_a_search_finds_the_size(pairs):
    search = GridSearchCV(gaussian_process(), {"n_points": [3, 100]}, cv=2)
    assert search.fit(*pairs).best_params_ == {"n_points": 100}


@pytest.mark.parametrize("column", [0.0, 1e6])
def test_constant_columns_and_duplicates_fit(column, pairs):
    X, Y = (np.repeat(view[:20], 3, axis=0) for view in pairs)
    X[:, 1] = column
    Y[:, 1] = column
    estimator = gaussian_process(n_points=30).fit(X, Y)
    np.testing.assert_allclose(estimator.predict(X)[:, 1], column, atol=1e-6)
    assert np.isfinite(estimator.score(X, Y))


def test_rows_that_are_read_only_strided_or_swapped_fit_alike(pairs):
    X, Y = pairs
    expected = gaussian_process(n_points=50).fit(X, Y).predict(X)
    for view in (
        np.asfortranarray(X),
        X.astype(">f8"),
        np.repeat(X, 2, axis=1)[:, ::2],
    ):
        view.setflags(write=False)
        fitted = gaussian_process(n_points=50).fit(view, Y)
        np.testing.assert_allclose(fitted.predict(view), expected, atol=1e-9)


def test_inference_moves_with_the_device(pairs, monkeypatch):
    X, Y = pairs
    estimator = gaussian_process().fit(X, Y)
    meta = torch.device("meta")
    monkeypatch.setattr(_inference, "resolve_device", lambda device: meta)
    rows = torch.zeros(4, 5, device=meta, dtype=torch.float64)
    conditional = estimator._conditional(rows)
    assert conditional.mean.device == conditional.variance.device == meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.gpu
@each_size
def test_cuda_agrees_with_the_cpu(n_points, pairs):
    X, Y = pairs
    cpu, cuda = (
        gaussian_process(n_points=n_points, device=device).fit(X, Y)
        for device in (None, "cuda")
    )
    np.testing.assert_allclose(cuda.predict(X), cpu.predict(X), atol=1e-4)
    assert cuda.conditional(X).mean.device.type == "cuda"
