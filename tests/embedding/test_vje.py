"""VJE: posteriors, bounds, scores of novelty, and what does not collapse."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

import skgmje
from skgmje import VJEEmbedder
from skgmje.metrics import effective_rank

FAST = {
    "embedding_dim": 3,
    "max_iter": 3,
    "hidden_layer_sizes": (16,),
    "random_state": 0,
}
NOVELTIES = ["density", "directional", "elbo", "evidence", "scale", "divergence"]


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(
        size=(400, 6)
    )
    model = VJEEmbedder(**FAST | {"max_iter": 30}, augmentation="jitter").fit(X)
    return model, X


def test_embeddings_are_posterior_means(fitted):
    model, X = fitted
    mean, variance = model.posterior(X)
    np.testing.assert_array_equal(model.transform(X), mean)
    assert mean.shape == variance.shape == (len(X), 3)
    assert variance.min() > 0
    assert model.posterior(X.astype(np.float32))[1].dtype == np.float32


def test_posterior_of_a_row_does_not_depend_on_other_rows(fitted):
    model, X = fitted
    for name in ("posterior", "elbo", "score_samples"):
        whole, part = getattr(model, name)(X), getattr(model, name)(X[5:7])
        for w, p in zip(np.atleast_2d(whole), np.atleast_2d(part), strict=True):
            np.testing.assert_allclose(w[5:7], p, rtol=1e-12, atol=1e-12)


def test_importance_weighted_bound_is_above_the_elbo(fitted):
    model, X = fitted
    elbo, weighted = model.elbo(X), model.elbo(X, importance_weighted=True)
    assert weighted.mean() > elbo.mean()
    np.testing.assert_array_equal(elbo, model.elbo(X))


def test_a_novelty_that_is_none_is_refused_after_the_fit_too(fitted):
    model = pickle.loads(pickle.dumps(fitted[0])).set_params(novelty="foo")
    with pytest.raises(ValueError, match="'novelty' parameter of VJEEmbedder"):
        model.score_samples(fitted[1])


@pytest.mark.parametrize("novelty", NOVELTIES)
def test_scores_are_finite_and_of_each_row(fitted, novelty):
    model, X = fitted
    model = pickle.loads(pickle.dumps(model)).set_params(novelty=novelty)
    scores = model.score_samples(X)
    assert scores.shape == (len(X),)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("novelty", ["density", "directional", "elbo", "evidence"])
def test_scores_of_rows_off_the_plane_are_low(fitted, novelty):
    model, X = fitted
    model = clone(model).set_params(max_iter=30, novelty=novelty).fit(X)
    noise = np.random.default_rng(1).normal(size=X.shape) * X.std(axis=0) * 3
    known, unknown = model.score_samples(X), model.score_samples(noise)
    assert np.median(unknown) < np.median(known)


def test_target_view_of_another_kind_has_an_encoder_of_its_own(pairs):
    X, Y = pairs
    model = VJEEmbedder(**FAST).fit(X, Y)
    assert model.target_encoder_ is not model.encoder_
    assert model.transform_target(Y).shape == (len(Y), 3)
    assert model.conditional(X[:4]).event_shape == (3,)
    bound = model.elbo(X, Y)
    assert bound.shape == (len(X),)
    assert np.abs(bound - model.elbo(X, Y[::-1])).max() > 1e-3


def test_identity_of_unequal_widths_is_refused(pairs):
    X, Y = pairs
    with pytest.raises(ValueError, match="need one width; they have 5 and 3"):
        VJEEmbedder(encoder="identity", target_encoder="identity").fit(X, Y)


@pytest.mark.parametrize("tied_scale", [True, False])
def test_scale_of_the_likelihood_is_that_of_the_posterior_if_tied(fitted, tied_scale):
    _, X = fitted
    model = VJEEmbedder(**FAST, tied_scale=tied_scale).fit(X)
    encoder = model.encoder_
    view = encoder.network.posterior(encoder.standardise(torch.from_numpy(X)))
    assert bool((view.scale == view.likelihood_scale).all()) == tied_scale


def test_representations_do_not_collapse_with_a_stopped_gradient():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(1000, 3))
    X, Y = (
        np.tanh(latent @ rng.normal(size=(3, 8))) + 0.1 * rng.normal(size=(1000, 8))
        for _ in range(2)
    )
    settings = FAST | {"max_iter": 40, "batch_size": 128}
    ranks = [
        effective_rank(
            VJEEmbedder(**settings, target_stop_gradient=stops).fit(X, Y).transform(X)
        )
        for stops in (True, False)
    ]
    assert ranks[0] > 2.3
    assert ranks[0] > ranks[1]


def test_file_and_pickle_keep_posteriors_and_bounds(fitted, tmp_path):
    model, X = fitted
    model.save(tmp_path / "vje.skgmje")
    for copy in (
        skgmje.load(tmp_path / "vje.skgmje"),
        pickle.loads(pickle.dumps(model)),
    ):
        for ours, theirs in zip(model.posterior(X), copy.posterior(X), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(model.elbo(X), copy.elbo(X))


def test_further_batches_go_on_with_warm_up_and_head(fitted):
    _, X = fitted
    model = VJEEmbedder(**FAST, n_warmup=4).partial_fit(X[:200])
    before = model.transform(X)
    model.partial_fit(X[200:])
    assert np.abs(model.transform(X) - before).max() > 0
    assert float(model._training_state["memory"]["n_epochs"]) == 2


def test_frozen_network_keeps_its_weights_under_a_trained_head(fitted):
    _, X = fitted
    network = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)).requires_grad_(False)
    model = VJEEmbedder(**FAST | {"encoder": network}).fit(X)
    inner = model.encoder_.network.network
    for name, value in network.state_dict().items():
        torch.testing.assert_close(inner.state_dict()[name].float(), value.float())
    assert model.transform(X).std() > 0


@pytest.mark.parametrize("df", [1.0, np.inf])
@pytest.mark.parametrize("likelihood", ["feature_wise", "multivariate"])
def test_constant_and_repeated_columns_give_finite_answers(df, likelihood):
    rng = np.random.default_rng(0)
    column = rng.normal(size=(60, 1))
    X = np.hstack([column, column, np.ones((60, 1))])
    model = VJEEmbedder(**FAST, df=df, likelihood=likelihood).fit(X)
    for value in (*model.posterior(X), model.elbo(X), model.score_samples(X)):
        assert np.isfinite(value).all()
