"""Latent distribution matching: methods by name, their spaces, and what they learn."""

import pickle

import numpy as np
import pytest
from embedding_helpers import FAST, answers, assert_same_answers
from scipy.stats import special_ortho_group
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, KFold

from skgmje import JEPAEmbedder, LDMEmbedder, load
from skgmje.embedding import LDM_METHODS
from skgmje.metrics import effective_rank

every_method = pytest.mark.parametrize("method", sorted(LDM_METHODS))
PLUG_IN = {
    "entropy": "plug_in",
    "objective": "ldm",
    "prior": "empirical",
    "predictor_hidden_layer_sizes": (8,),
}


def ldm(method=None, **options):
    options = FAST | {"embedding_dim": 3} | options
    return (
        LDMEmbedder.from_method(method, **options) if method else LDMEmbedder(**options)
    )


@pytest.fixture(scope="module")
def factors():
    """Two views of three latent factors, with noise of their own."""
    rng = np.random.default_rng(0)
    latent = rng.uniform(-1, 1, size=(800, 3))
    views = [np.tanh(latent @ rng.normal(size=(3, 10))) for _ in range(2)]
    X, Y = (view + 0.1 * rng.normal(size=view.shape) for view in views)
    return X, Y, latent


# -------------------------------------------------------------------------- methods


@every_method
def test_every_method_answers_everything(method, pairs, tmp_path):
    X, Y = pairs
    estimator = ldm(method).fit(X, Y)
    said = answers(estimator, X, Y)
    assert all(np.isfinite(value).all() for value in said.values())
    assert_same_answers(answers(pickle.loads(pickle.dumps(estimator)), X, Y), said)
    estimator.save(tmp_path / "file")
    assert_same_answers(answers(load(tmp_path / "file"), X, Y), said)


@every_method
def test_methods_draw_both_views_from_one_table(method, pairs):
    X = pairs[0]
    estimator = ldm(method).fit(X)
    averaged = LDM_METHODS[method].get("entropy") == "plug_in"
    assert (estimator.encoder_ is estimator.target_encoder_) is not averaged
    assert_same_answers(answers(ldm(method).fit(X), X), answers(estimator, X))


@every_method
def test_batches_go_on_where_an_unpickled_estimator_would(method, pairs):
    X, Y = pairs
    estimator = ldm(method).partial_fit(X, Y)
    again = pickle.loads(pickle.dumps(estimator))
    before = estimator.transform(X)
    for one in (estimator, again):
        one.partial_fit(X, Y)
    assert not np.array_equal(before, estimator.transform(X))
    assert_same_answers(answers(again, X, Y), answers(estimator, X, Y))


@every_method
def test_names_of_methods_are_parameters(method):
    parameters = LDM_METHODS[method]
    estimator = LDMEmbedder.from_method(method)
    assert parameters.items() <= estimator.get_params().items()
    assert clone(estimator).get_params() == estimator.get_params()
    assert LDMEmbedder.from_method(method, prior="empirical").prior == "empirical"


def test_methods_can_be_searched(factors):
    X, Y, _ = factors
    grid = [
        {name: [value] for name, value in LDM_METHODS[method].items()}
        for method in ("vicreg", "simclr", "byol")
    ]
    search = GridSearchCV(ldm(), grid, cv=KFold(2)).fit(X[:200], Y[:200])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_jepa_is_the_embedder_of_that_name(pairs):
    options = FAST | {"embedding_dim": 3}
    ours = LDMEmbedder.from_method("jepa", **options).fit(*pairs)
    theirs = JEPAEmbedder(**options).fit(*pairs)
    assert ours.loss_curve_ == theirs.loss_curve_
    for X in pairs[:1]:
        np.testing.assert_array_equal(ours.transform(X), theirs.transform(X))


# --------------------------------------------------------------------------- spaces


@pytest.mark.parametrize("target_encoder", [None, "shared", "linear"])
@pytest.mark.parametrize("latent", ["von_mises_fisher", "dirichlet", "categorical"])
def test_embeddings_lie_in_the_space_of_the_density(latent, target_encoder, pairs):
    X = pairs[0]
    estimator = ldm(latent=latent, target_encoder=target_encoder).fit(X, X + 0.1)
    for Z in (estimator.transform(X), estimator.transform_target(X)):
        if latent == "von_mises_fisher":
            np.testing.assert_allclose((Z**2).sum(1), 1)
        else:
            np.testing.assert_allclose(Z.sum(1), 1)
            assert Z.min() > 0


def test_an_identity_encoder_can_have_directions(pairs):
    X = pairs[0]
    estimator = ldm(
        latent="von_mises_fisher", encoder="identity", target_encoder="shared"
    ).fit(X, X + 0.1)
    np.testing.assert_allclose((estimator.transform(X) ** 2).sum(1), 1)


def test_identity_encoders_of_the_plane_have_nothing_to_train(pairs):
    X = pairs[0]
    estimator = ldm(encoder="identity").fit(X, X + 0.1)
    assert estimator.n_iter_ == 2
    np.testing.assert_array_equal(estimator.transform(X), X)


def test_a_predictor_leads_from_one_width_to_another(pairs):
    X, Y = pairs
    estimator = ldm(
        target_encoder="identity", prior="empirical", predictor_hidden_layer_sizes=(8,)
    ).fit(X, Y)
    assert estimator.predict(X).shape == Y.shape
    assert estimator.score_unit_ == "nats of conditional log-likelihood"


# ------------------------------------------------------------------------- learning


LEARNS = {
    "vicreg": {},
    "simclr": {},
    "cpc": {},
    "dirichlet": {},
    "plane, neighbours": {"entropy": "knn"},
    "plane, joint determinant": {"objective": "ldm"},
    "plane, joint kernels": {"entropy": "kde", "objective": "ldm"},
    "sphere, joint neighbours": {
        "latent": "von_mises_fisher",
        "entropy": "knn",
        "objective": "ldm",
    },
}


@pytest.mark.parametrize("case", sorted(LEARNS))
def test_embeddings_hold_what_the_views_share_and_do_not_collapse(case, factors):
    X, Y, _ = factors
    method = case if case in LDM_METHODS else None
    options = {"max_iter": 40, "learning_rate_init": 1e-2, **LEARNS[case]}
    estimator = ldm(method, **options).fit(X[:600], Y[:600])
    on_simplex = method == "dirichlet"
    assert estimator.score(X[600:], Y[600:]) > 1
    assert effective_rank(estimator.transform(X)) > (1.6 if on_simplex else 2)


def test_classes_find_the_clusters_of_two_views():
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=600)
    centres = rng.normal(size=(2, 3, 6))
    X, Y = (view[labels] + 0.2 * rng.normal(size=(600, 6)) for view in centres)
    estimator = ldm(
        "categorical", max_iter=30, learning_rate_init=1e-2, random_state=1
    ).fit(X, Y)
    found = estimator.transform(X).argmax(1)
    table = np.zeros((3, 3))
    np.add.at(table, (found, labels), 1)
    assert table.max(axis=1).sum() / 600 > 0.95
    agree = found == estimator.transform_target(Y).argmax(1)
    assert agree.mean() > 0.95


def test_without_an_entropy_embeddings_shrink_to_a_point(factors):
    X, Y, _ = factors
    options = {"max_iter": 30, "learning_rate_init": 1e-2}
    spread = {
        entropy: np.ptp(
            ldm(entropy=entropy, bandwidth=bandwidth, **options).fit(X, Y).transform(X),
            axis=0,
        ).max()
        # Kernels so wide that they see nothing.
        for entropy, bandwidth in (("log_det", None), ("kde", 1e4))
    }
    assert spread["kde"] < 0.1 * spread["log_det"]


def test_a_mixture_can_be_fitted_after_training(factors):
    X, Y, _ = factors
    estimator = ldm("simclr", n_components=4).fit(X, Y)
    assert estimator.density_.n_components == 4
    assert estimator.conditional(X[:2]).n_components == 4


# --------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent": "categorical", "entropy": "kde"}, "have the entropy 'categorical'"),
        ({"entropy": "categorical"}, "have the entropy 'categorical'"),
        (PLUG_IN | {"predictor_hidden_layer_sizes": None}, "needs a predictor"),
        (PLUG_IN | {"objective": "mi"}, "objective='ldm' and prior='empirical'"),
        (PLUG_IN | {"prior": "flat"}, "objective='ldm' and prior='empirical'"),
        ({"entropy": "contrastive"}, "that of targets alone"),
        ({"latent": "dirichlet", "embedding_dim": 1}, "at least two coordinates"),
        (
            {"target_encoder": "identity", "embedding_dim": 4},
            "both views need embeddings of one width",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(options, message, pairs):
    with pytest.raises(ValueError, match=message):
        ldm(**options).fit(*pairs)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="method must be one of"):
        LDMEmbedder.from_method("dino")


# -------------------------------------------------------------------- identifiability


@pytest.mark.parametrize(
    "entropy", ["log_det", pytest.param("knn", marks=pytest.mark.slow)]
)
def test_latents_are_recovered_up_to_an_affine_map(entropy):
    """Theorem 1: predictable latents behind an invertible network."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(2500, 2))
    turn = np.array([[0.8, 0.6], [-0.6, 0.8]])
    following = z @ turn + 0.1 * np.tanh(z @ turn) + 0.3 * rng.normal(size=z.shape)
    first, last = special_ortho_group.rvs(2, random_state=1), rng.normal(size=(2, 20))

    def observe(latents):
        bent = latents @ first
        return np.where(bent > 0, bent, 0.2 * bent) @ last

    X, Y = observe(z), observe(following)
    estimator = ldm(
        embedding_dim=2,
        entropy=entropy,
        prior="empirical",
        predictor_hidden_layer_sizes=(16,),
        target_encoder="shared",
        hidden_layer_sizes=(64, 64),
        max_iter=30,
        learning_rate_init=5e-3,
    ).fit(X[500:], Y[500:])

    def recovery(Z):
        line = LinearRegression().fit(Z[500:], z[500:])
        return line.score(Z[:500], z[:500])

    straight = recovery(PCA(2).fit(X).transform(X))
    assert recovery(estimator.transform(X)) > max(0.95, straight + 0.03)
