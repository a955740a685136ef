"""Low-rank covariances and marginal losses in the embedders."""

import pickle

import numpy as np
import pytest
import torch
from embedding_helpers import answers, assert_same_answers, gmje, mdn

import skgmje
from skgmje import GMJEEmbedder, MDNEmbedder
from skgmje.embedding._density import fit_mixture
from skgmje.mixture import GaussianMixture


def views(n_samples=120, n_features=6, n_targets=4, seed=0):
    """Rows of two clusters, each with two factors."""
    rng = np.random.default_rng(seed)
    maker = np.random.default_rng(7)
    width = n_features + n_targets
    means = 2 * maker.normal(size=(2, width))
    loadings = maker.normal(size=(2, width, 2))
    labels = rng.integers(2, size=n_samples)
    factors = rng.normal(size=(n_samples, 2, 1))
    rows = means[labels] + (loadings[labels] @ factors)[..., 0]
    rows += 0.3 * rng.normal(size=rows.shape)
    return rows[:, :n_features], rows[:, n_features:]


IDENTITY = {"encoder": "identity", "covariance_type": "low_rank"}


def test_a_joint_density_of_low_rank_has_the_factors_that_were_asked_for():
    X, Y = views()
    model = GMJEEmbedder(2, rank=3, random_state=0, **IDENTITY).fit(X, Y)
    assert model.density_.covariance_type == "low_rank"
    assert model.density_.cov_factor.shape == (2, 10, 3)
    assert model.conditional(X).covariance_type == "low_rank"
    assert np.diff(model.loss_curve_).max() < 1e-9


def test_low_rank_beats_full_covariances_where_rows_are_few():
    X, Y = views(60)
    X_test, Y_test = views(2000, seed=1)
    low_rank, full, diagonal = (
        GMJEEmbedder(
            2,
            encoder="identity",
            covariance_type=covariance_type,
            reg_covar=1e-3,
            random_state=0,
        )
        .fit(X, Y)
        .score(X_test, Y_test)
        for covariance_type in ("low_rank", "full", "diag")
    )
    assert low_rank > full + 0.5
    assert low_rank > diagonal + 0.5


def test_more_factors_than_fit_are_left_out():
    X, Y = views(400)
    many = GMJEEmbedder(1, rank=100, random_state=0, **IDENTITY).fit(X, Y)
    assert many.density_.cov_factor.shape == (1, 10, 9)
    full = GMJEEmbedder(1, encoder="identity", random_state=0).fit(X, Y)
    assert many.score(X, Y) == pytest.approx(full.score(X, Y), abs=1e-2)


@pytest.mark.parametrize("rank", [0, -1, 1.5, "2"])
@pytest.mark.parametrize("estimator", [GMJEEmbedder, MDNEmbedder])
def test_a_rank_is_a_positive_integer(estimator, rank):
    with pytest.raises(ValueError, match="The 'rank' parameter"):
        estimator(rank=rank).fit(*views())


MODELS = [
    gmje(covariance_type="low_rank", rank=1),
    gmje(covariance_type="low_rank", components="em", embedding_dim=3),
    gmje(**IDENTITY),
    mdn(**IDENTITY),
    mdn(covariance_type="low_rank", target_encoder="linear", marginal="gaussian"),
    mdn(target_encoder="mlp", marginal="vicreg"),
]


def name_of(model):
    return str(model).replace("\n", "").replace(" ", "")[:90]


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_files_and_pickles_give_the_same_answers(model, tmp_path):
    X, Y = views()
    model = model.fit(X, Y)
    said = answers(model, X, Y)
    assert all(np.isfinite(value).all() for value in said.values())
    assert_same_answers(answers(pickle.loads(pickle.dumps(model)), X, Y), said)
    model.save(tmp_path / "model")
    assert_same_answers(answers(skgmje.load(tmp_path / "model"), X, Y), said)


@pytest.mark.parametrize("model", MODELS, ids=name_of)
def test_further_batches_keep_form_and_quality(model):
    X, Y = views(200)
    model = model.set_params(max_iter=15).fit(X, Y)
    before, form = model.score(X, Y), model.density_.covariance_type
    for seed in range(3):
        model.partial_fit(*views(100, seed=seed + 2))
    assert model.density_.covariance_type == form
    assert model.score(X, Y) > before - 0.3


def test_batches_from_the_start_lead_to_a_good_density():
    model = GMJEEmbedder(2, random_state=0, **IDENTITY)
    for seed in range(8):
        model.partial_fit(*views(100, seed=seed))
    X, Y = views(800, seed=20)
    whole = GMJEEmbedder(2, random_state=0, **IDENTITY).fit(X, Y)
    assert model.score(X, Y) > whole.score(X, Y) - 0.3


def test_an_interrupted_fit_has_one_component_of_the_same_form(monkeypatch):
    interrupted = []
    fit = GaussianMixture.fit

    def fit_or_stop(self, *arguments):
        if not interrupted:
            interrupted.append(self)
            raise KeyboardInterrupt
        return fit(self, *arguments)

    monkeypatch.setattr(GaussianMixture, "fit", fit_or_stop)
    z = torch.from_numpy(np.concatenate(views(), axis=1))
    with pytest.warns(UserWarning, match="interrupted by user; it has one component"):
        density, _ = fit_mixture(z, 2, "low_rank", 1e-6, 0, 2)
    assert density.covariance_type == "low_rank"
    assert density.cov_factor.shape == (1, 10, 2)


def test_constant_and_repeated_columns_are_fitted():
    X, Y = views()
    X[:, 1], Y[:, 2] = 3.0, Y[:, 1]
    model = GMJEEmbedder(2, random_state=0, **IDENTITY).fit(X, Y)
    assert np.isfinite(model.score(X, Y))
    np.testing.assert_allclose(model.predict(X)[:, 1], model.predict(X)[:, 2], atol=0.1)


def test_a_target_of_one_column_has_no_factors():
    X, Y = views()
    models = [
        MDNEmbedder(
            2,
            encoder="identity",
            target="y",
            covariance_type=covariance_type,
            max_iter=5,
            random_state=0,
        ).fit(X, Y[:, 0])
        for covariance_type in ("low_rank", "diag")
    ]
    scores = [model.score(X, Y[:, :1]) for model in models]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_a_low_rank_network_learns_correlated_noise():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, (600, 1))
    direction = np.array([1.0, -1.0, 0.5])
    Y = np.sin(2 * X) + rng.normal(size=(600, 1)) * direction
    Y = Y + 0.05 * rng.normal(size=(600, 3))
    scores = [
        MDNEmbedder(
            1,
            encoder="identity",
            covariance_type=covariance_type,
            rank=1,
            hidden_layer_sizes=(16,),
            max_iter=60,
            random_state=0,
        )
        .fit(X, Y)
        .score(X, Y)
        for covariance_type in ("low_rank", "diag")
    ]
    assert scores[0] > scores[1] + 1


def test_an_unknown_marginal_loss_is_refused():
    with pytest.raises(ValueError, match="The 'marginal' parameter of MDNEmbedder"):
        MDNEmbedder(marginal="uniform").fit(*views())
