"""ContrastiveEmbedder: training, densities, scores, retrieval and classification."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from embedding_helpers import FAST, FrozenNetwork, answers, assert_same_answers
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from torch import nn

import skgmje
from skgmje import ContrastiveEmbedder
from skgmje.embedding import _index
from skgmje.latent import ConditionalMatching, JointMatching, Tilting
from skgmje.metrics import retrieval_score

TILTINGS = ("cosine", "inner", "quadratic")
LOSSES = ("conditional", "joint", "joint_shifted", "conditional_mmd", "joint_mmd")
each_tilting = pytest.mark.parametrize("tilting", TILTINGS)


def contrastive(**options):
    return ContrastiveEmbedder(**FAST | {"embedding_dim": 3} | options)


@pytest.fixture(scope="module")
def views():
    """Two strongly dependent views, for training and for testing."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(900, 3))
    X = latent @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(900, 6))
    Y = np.tanh(latent) @ rng.normal(size=(3, 5)) + 0.05 * rng.normal(size=(900, 5))
    return (X[:600], Y[:600]), (X[600:], Y[600:])


@pytest.fixture(scope="module")
def fitted(views):
    """One trained estimator of each tilting."""
    options = {"max_iter": 40, "hidden_layer_sizes": (32,), "random_state": 0}
    return {
        tilting: ContrastiveEmbedder(3, tilting=tilting, **options).fit(*views[0])
        for tilting in TILTINGS
    }


def recall(estimator, X, Y, k=10):
    rows = estimator.retrieve(X, Y, k, return_distance=False)
    return np.mean((rows == np.arange(len(X))[:, None]).any(axis=1))


# ---------------------------------------------------------------------------- training


@pytest.mark.parametrize("loss", LOSSES)
@each_tilting
def test_every_loss_tells_pairs_from_rows_that_do_not_belong_together(
    loss, tilting, views
):
    estimator = ContrastiveEmbedder(
        3, tilting=tilting, loss=loss, max_iter=25, hidden_layer_sizes=(32,),
        learning_rate_init=1e-2, random_state=0,
    ).fit(*views[0])  # fmt: skip
    # Chance is 10 / 300; the gradient of the joint discrepancy is a weak one.
    assert recall(estimator, *views[1]) > (0.1 if loss == "joint_mmd" else 0.3)
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0]


@pytest.mark.parametrize(
    "weights", [{"context_given_target": 0}, {"target_given_context": 0}]
)
def test_one_direction_is_enough(weights, views):
    estimator = contrastive(max_iter=25, learning_rate_init=1e-2, **weights)
    assert recall(estimator.fit(*views[0]), *views[1]) > 0.5


def test_the_loss_bounds_the_information_from_below(views):
    """A lower bound, whatever the size of the batch."""
    bounds = [
        -contrastive(max_iter=25, batch_size=size, learning_rate_init=1e-2)
        .fit(*views[0])
        .loss_curve_[-1]
        for size in (50, 200)
    ]
    assert 1.5 < bounds[0] <= math.log(50)
    assert 1.5 < bounds[1] <= math.log(200)


@each_tilting
def test_a_learned_temperature_is_kept_and_goes_on(tilting, pairs):
    estimator = contrastive(temperature="learned", tilting=tilting).fit(*pairs)
    assert estimator.temperature_ != 0.1
    assert estimator.temperature_ >= 0.01
    again = pickle.loads(pickle.dumps(estimator))
    for one in (estimator, again):
        one.partial_fit(*pairs)
    assert again.temperature_ == estimator.temperature_
    assert contrastive(temperature=0.3).fit(*pairs).temperature_ == 0.3


def test_the_cosine_puts_all_embeddings_on_the_sphere(pairs):
    X = pairs[0]
    for options in ({}, {"encoder": "identity"}, {"encoder": "linear"}):
        estimator = contrastive(**options).fit(X, target_view=X)
        for z in (estimator.transform(X), estimator.transform_target(X)):
            np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1)


def test_two_views_are_drawn_where_there_is_no_target(views):
    X = views[0][0]
    estimator = contrastive(max_iter=20, temperature=0.3).fit(X)
    assert estimator.encoder_ is estimator.target_encoder_
    assert 0 < estimator.score(X) < math.log(len(X))


def test_widths_that_differ_are_refused_with_the_way_out(pairs):
    with pytest.raises(ValueError, match="embeddings of one width"):
        contrastive(target_encoder="identity", embedding_dim=4).fit(*pairs)
    contrastive(target_encoder="identity", embedding_dim=3).fit(*pairs)


def test_no_direction_at_all_is_refused(pairs):
    nothing = {"context_given_target": 0, "target_given_context": 0}
    with pytest.raises(ValueError, match="both zero"):
        contrastive(**nothing).fit(*pairs)
    contrastive(loss="joint", **nothing).fit(*pairs)


C_UU, C_VV = np.array([[2, 0.5], [0.5, 1]]), np.array([[1.5, 0.2], [0.2, 1]])
C_UV = np.array([[0.6, -0.1], [0.2, 0.5]])
INFORMATION = 0.267161076421


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tilting": "inner"}, -0.227005870841),
        ({"tilting": "inner", "loss": "joint"}, -0.203856737098),
        ({"tilting": "quadratic", "context_given_target": 2}, -INFORMATION),
        ({"tilting": "quadratic", "loss": "joint"}, 0.085393167427 - INFORMATION),
    ],
    ids=str,
)
def test_training_reaches_the_closed_forms_on_gaussian_data(options, expected):
    covariance = np.block([[C_UU, C_UV], [C_UV.T, C_VV]])
    rng = np.random.default_rng(0)
    rows = rng.multivariate_normal(np.zeros(4), covariance, size=12000)
    train, test = np.split(rows, 2)
    if "context_given_target" in options:
        options = options | {"target_given_context": 0}
    estimator = ContrastiveEmbedder(
        2, encoder="linear", temperature=1.0, weight_decay=0.0, batch_size=500,
        learning_rate_init=2e-2, max_iter=40, random_state=0, **options,
    ).fit(train[:, :2], train[:, 2:])  # fmt: skip
    tilting = Tilting(estimator.tilting, 1.0)
    weights = estimator.context_given_target, estimator.target_given_context
    loss = ConditionalMatching(tilting, *weights)
    if estimator.loss == "joint":
        loss = JointMatching(tilting)
    z = estimator.transform(test[:, :2]), estimator.transform_target(test[:, 2:])
    assert float(loss(*map(torch.tensor, z))) == pytest.approx(expected, abs=0.02)


# -------------------------------------------------------------------------- the density


@each_tilting
def test_the_conditional_is_the_weighted_kernel_density(tilting, fitted, views):
    estimator, (X, Y) = fitted[tilting], views[1]
    Z_c, Z_t = estimator.transform(X), estimator.transform_target(Y)
    references = estimator.target_density_.means
    logits = Tilting(tilting, 0.1).logits(torch.tensor(Z_c), references)
    conditional = estimator.conditional(X)
    torch.testing.assert_close(conditional.weights, logits.softmax(1))
    np.testing.assert_allclose(estimator.predict(X), logits.softmax(1) @ references)
    reverse = estimator.conditional_context(Y)
    contexts = estimator.density_.means
    logits = Tilting(tilting, 0.1).logits(contexts, torch.tensor(Z_t)).mT
    torch.testing.assert_close(reverse.weights, logits.softmax(1))
    torch.testing.assert_close(reverse.mean, logits.softmax(1) @ contexts)


@each_tilting
def test_predictions_are_better_than_the_mean(tilting, fitted, views):
    estimator, (X, Y) = fitted[tilting], views[1]
    Z = estimator.transform_target(Y)
    explained = 1 - np.var(Z - estimator.predict(X)) / np.var(Z)
    assert explained > 0.5
    assert float(estimator.conditional(X).log_prob(torch.tensor(Z)).mean()) > float(
        estimator.target_density_.log_prob(torch.tensor(Z)).mean()
    )


def test_an_identity_target_keeps_its_units(views):
    (X, Y), (X_test, Y_test) = views
    scale = np.array([1.0, 10, 100, 1e3, 1e4])
    estimator = ContrastiveEmbedder(
        5, target_encoder="identity", tilting="quadratic", max_iter=40, random_state=0
    ).fit(X, 7 + scale * Y)
    error = (estimator.predict(X_test) - 7) / scale - Y_test
    assert np.var(error) < 0.3 * np.var(Y_test)
    draws = estimator.sample_conditional(X_test, 2, random_state=0)
    assert draws.shape == (300, 2, 5)
    assert 0.1 < ((draws[:, 0] - 7) / scale).std() < 3
    assert estimator.score_unit_ == "nats of mutual information"


def test_references_are_bounded_and_paired(views):
    X, Y = views[0]
    estimator = contrastive(n_references=50).fit(X, Y)
    means = estimator.density_.means, estimator.target_density_.means
    assert means[0].shape == means[1].shape == (50, 3)
    kept, distance = [], 0.0
    for z, references in zip(
        (estimator.transform(X), estimator.transform_target(Y)), means, strict=True
    ):
        found = NearestNeighbors(n_neighbors=1).fit(z).kneighbors(references)
        distance = max(distance, found[0].max())
        kept.append(found[1].ravel())
    assert distance < 1e-6
    np.testing.assert_array_equal(*kept)


def test_batches_bring_references_of_their_own(views):
    X, Y = views[0]
    estimator = contrastive(n_references=80).partial_fit(X[:60], Y[:60])
    assert estimator.density_.n_components == 60
    estimator.partial_fit(X[60:], Y[60:])
    assert estimator.density_.n_components == 80
    assert estimator.n_samples_seen_ == 600


# ---------------------------------------------------------------------------- the score


@each_tilting
def test_scores_of_pairs_are_the_log_weights_of_the_right_target(
    tilting, fitted, views
):
    estimator, (X, Y) = fitted[tilting], views[1]
    z_c, z_t = map(
        torch.tensor, (estimator.transform(X), estimator.transform_target(Y))
    )
    form = Tilting(tilting, 0.1)
    bank = form.logits(z_c, estimator.target_density_.means)
    expected = form.logits(z_c, z_t).diagonal() - bank.exp().mean(1).log()
    np.testing.assert_allclose(estimator.score_samples(X, Y), expected, atol=1e-9)
    assert estimator.score(X, Y) == pytest.approx(float(expected.mean()), abs=0.5)


@each_tilting
def test_dependent_views_score_high_and_shuffled_ones_do_not(tilting, fitted, views):
    estimator, (X, Y) = fitted[tilting], views[1]
    assert 1.5 < estimator.score(X, Y) <= math.log(300)
    shuffled = np.random.default_rng(0).permutation(300)
    assert estimator.score(X, Y[shuffled]) < 0
    assert retrieval_score(estimator, X, Y) > 0.7


def frozen_score(estimator, after, views):
    """Score with frozen encoders; nothing is trained."""
    encoders = [
        FrozenNetwork(copy.deepcopy(encoder.network), then)
        for encoder, then in zip(
            (estimator.encoder_, estimator.target_encoder_), after, strict=True
        )
    ]
    again = ContrastiveEmbedder(
        3, encoder=encoders[0], target_encoder=encoders[1], tilting=estimator.tilting
    ).fit(*views[0])
    return again.score(*views[1])


class Constant(nn.Module):
    def forward(self, z):
        return torch.ones_like(z)


class Snapped(nn.Module):
    """Replace each embedding by the nearest of a few points."""

    def __init__(self, points):
        super().__init__()
        self.register_buffer("points", torch.as_tensor(points))

    def forward(self, z):
        points = self.points.to(z.dtype)
        return points[torch.cdist(z, points).argmin(dim=1)]


class Shrunk(nn.Module):
    def forward(self, z):
        return 1e-3 * z


@each_tilting
def test_no_trick_with_the_embeddings_raises_the_score(tilting, fitted, views):
    estimator = fitted[tilting]
    plain = frozen_score(estimator, (None, None), views)
    assert plain == pytest.approx(estimator.score(*views[1]), abs=0.1)
    assert frozen_score(estimator, (Shrunk(), Shrunk()), views) <= plain + 1e-3
    point = frozen_score(estimator, (Constant(), Constant()), views)
    assert point == pytest.approx(0, abs=1e-6)
    for n_clusters in (2, 4):
        snapped = Snapped(
            KMeans(n_clusters, n_init=1, random_state=0)
            .fit(estimator.transform_target(views[0][1]))
            .cluster_centers_
        )
        score = frozen_score(estimator, (None, snapped), views)
        assert score <= min(math.log(n_clusters), plain)


# ---------------------------------------------------------------------------- retrieval


@each_tilting
@pytest.mark.parametrize("blocks", [2**22, 700])
def test_retrieval_is_exact_in_both_directions(
    tilting, blocks, fitted, views, monkeypatch
):
    monkeypatch.setattr(_index, "BLOCK_NUMBERS", blocks)
    monkeypatch.setattr(_index, "QUERY_ROWS", 37)
    estimator, (X, Y) = fitted[tilting], views[1]
    Z_c, Z_t = estimator.transform(X), estimator.transform_target(Y)
    for found, stored, query in (
        (estimator.retrieve(X[:50], Y, 7), Z_t, Z_c[:50]),
        (estimator.retrieve_context(Y[:50], X, 7), Z_c, Z_t[:50]),
    ):
        distances, rows = found
        assert distances.shape == rows.shape == (50, 7)
        if tilting == "inner":
            products = query @ stored.T
            expected = np.argsort(-products, axis=1)[:, :7]
            np.testing.assert_array_equal(rows, expected)
            np.testing.assert_allclose(
                -distances, np.take_along_axis(products, rows, axis=1)
            )
            continue
        metric = "cosine" if tilting == "cosine" else "euclidean"
        peer = NearestNeighbors(n_neighbors=7, metric=metric, algorithm="brute")
        peer_distances, peer_rows = peer.fit(stored).kneighbors(query)
        np.testing.assert_array_equal(rows, peer_rows)
        np.testing.assert_allclose(distances, peer_distances, atol=1e-7)


def test_without_distances_the_same_rows_come_back(fitted, views):
    estimator, (X, Y) = fitted["cosine"], views[1]
    rows = estimator.retrieve(X, Y, return_distance=False)
    np.testing.assert_array_equal(rows, estimator.retrieve(X, Y)[1])
    assert rows.shape == (300, 5)


@each_tilting
@pytest.mark.parametrize("blocks", [2**22, 700])
def test_weights_draws_and_moments_are_those_of_the_empirical_model(
    tilting, blocks, fitted, views, monkeypatch
):
    monkeypatch.setattr(_index, "BLOCK_NUMBERS", blocks)
    estimator, (X, Y) = fitted[tilting], views[1]
    index = estimator.index_contexts(X)
    queries = Y[:3]
    logits = Tilting(tilting, 0.1).logits(
        torch.tensor(estimator.transform(X)),
        torch.tensor(estimator.transform_target(queries)),
    )
    expected = logits.softmax(0).T.numpy()
    weights = index.weights(queries)
    np.testing.assert_allclose(weights, expected, atol=1e-12)
    mean, covariance = index.moments(queries, X, return_cov=True)
    np.testing.assert_allclose(mean, weights @ X)
    for i in range(3):
        by_numpy = np.cov(X.T, aweights=weights[i], ddof=0)
        np.testing.assert_allclose(covariance[i], by_numpy, atol=1e-9)
    np.testing.assert_allclose(
        index.moments(queries), weights @ estimator.transform(X), atol=1e-12
    )
    drawn = index.sample(queries, 4000, random_state=0)
    assert drawn.shape == (3, 4000)
    frequencies = np.stack([np.bincount(row, minlength=300) for row in drawn]) / 4000
    assert np.abs(frequencies - weights).sum(axis=1).max() < 0.25
    heavy = weights > 0.02
    np.testing.assert_allclose(frequencies[heavy], weights[heavy], atol=0.02)
    np.testing.assert_array_equal(drawn, index.sample(queries, 4000, random_state=0))


def test_rows_without_weight_are_not_drawn(fitted, views):
    X, Y = views[1]
    index = fitted["quadratic"].index_targets(Y, sample_weight=np.arange(300) % 2)
    assert (index.sample(X, 20, random_state=0) % 2 == 1).all()
    np.testing.assert_allclose(index.weights(X).sum(axis=1), 1)
    weights = fitted["quadratic"].index_targets(Y).weights(X)
    weights[:, ::2] = 0
    np.testing.assert_allclose(
        index.weights(X), weights / weights.sum(axis=1, keepdims=True), atol=1e-12
    )


def test_single_precision_is_kept_and_searched_in_double(fitted, views):
    X, Y = views[1]
    index = fitted["cosine"].index_targets(Y.astype(np.float32))
    assert index.embeddings.dtype == np.float32
    distances, rows = index.kneighbors(X)
    assert distances.dtype == np.float64
    np.testing.assert_array_equal(rows, fitted["cosine"].retrieve(X, Y)[1])


def test_another_fit_leaves_an_index_as_it_was(views):
    X, Y = views[1]
    estimator = contrastive().fit(*views[0])
    index = estimator.index_targets(Y)
    expected = index.kneighbors(X)
    estimator.fit(*views[1])
    for again in (index, pickle.loads(pickle.dumps(index))):
        for a, b in zip(again.kneighbors(X), expected, strict=True):
            np.testing.assert_array_equal(a, b)
    assert b"torch" not in pickle.dumps(index)


def test_questions_that_make_no_sense_are_refused(fitted, views):
    X, Y = views[1]
    estimator = fitted["cosine"]
    index = estimator.index_targets(Y)
    for n_neighbors in (0, 301, 2.5):
        with pytest.raises(ValueError, match="n_stored = 300"):
            index.kneighbors(X, n_neighbors)
    with pytest.raises(ValueError, match="number of draws"):
        index.sample(X, 0)
    with pytest.raises(ValueError, match="6 features as input"):
        index.kneighbors(Y)
    with pytest.raises(ValueError, match="has 6 columns"):
        estimator.index_targets(X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        index.moments(X, Y[:5])
    with pytest.raises(ValueError, match="not fitted"):
        ContrastiveEmbedder().index_targets(Y)


# ----------------------------------------------------------------------- classification


@pytest.fixture(scope="module")
def classes():
    """Rows of three classes, and one-hot targets."""
    rng = np.random.default_rng(0)
    labels = rng.choice(3, size=600, p=[0.6, 0.3, 0.1])
    X = np.array([[0, 0, 1], [1.5, 0, 1], [0, 1.5, 0]])[labels]
    return X + 0.7 * rng.normal(size=(600, 3)), labels, np.eye(3)[labels]


def test_labels_that_are_targets_make_a_classifier(classes):
    """One-hot embeddings and inner products in one direction: cross-entropy."""
    X, labels, Y = classes
    estimator = ContrastiveEmbedder(
        3, encoder="linear", target_encoder="identity", tilting="inner",
        context_given_target=0, target_given_context=2, temperature=1.0,
        learning_rate_init=0.05, weight_decay=0.0, max_iter=60, random_state=0,
        target="y",
    ).fit(X, Y)  # fmt: skip
    prior = np.bincount(labels) / 600
    peer = LogisticRegression(C=1e6).fit(X, labels)
    weights = estimator.index_targets(np.eye(3), prior).weights(X)
    np.testing.assert_allclose(weights, peer.predict_proba(X), atol=0.03)
    found = estimator.classify(X, np.eye(3), class_prior=prior)
    np.testing.assert_array_equal(found, weights.argmax(axis=1))
    assert np.mean(found == labels) > peer.score(X, labels) - 0.01
    # Without the prior the rare class is found more often.
    with pytest.raises(ValueError, match="for each of the 3 classes"):
        estimator.classify(X, np.eye(3), class_prior=prior[:2])
    even = estimator.classify(X, np.eye(3))
    assert np.mean(even == 2) > np.mean(found == 2)


def test_fine_tuning_by_equation_34_is_logistic_regression(classes):
    """With frozen encoders: label embeddings and log-priors by cross-entropy."""
    X, labels, Y = classes
    estimator = contrastive(max_iter=20)
    z = estimator.fit(X, target_view=Y).transform(X)
    peer = LogisticRegression(C=np.inf, tol=1e-8).fit(z, labels)
    probabilities, z = peer.predict_proba(z), torch.tensor(z)
    G = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    F = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([G, F], max_iter=500, tolerance_change=1e-14)

    def loss():
        optimiser.zero_grad()
        value = nn.functional.cross_entropy(z @ G / 0.1 + F, torch.tensor(labels))
        value.backward()
        return value

    optimiser.step(loss)
    found = (z @ G / 0.1 + F).softmax(1).detach()
    np.testing.assert_allclose(probabilities, found, atol=1e-3)


# ------------------------------------------------------------------- files and devices


@pytest.mark.parametrize("options", [{}, {"tilting": "quadratic"}], ids=str)
def test_pickles_and_files_answer_alike_and_hold_no_torch(options, pairs, tmp_path):
    X, Y = pairs
    estimator = contrastive(temperature="learned", **options).fit(X, Y)
    pickled = pickle.dumps(estimator)
    assert b"torch" not in pickled
    estimator.save(tmp_path / "file")
    for again in (pickle.loads(pickled), skgmje.load(tmp_path / "file")):
        assert_same_answers(answers(again, X, Y), answers(estimator, X, Y))
        for a, b in zip(again.retrieve(X, Y), estimator.retrieve(X, Y), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("constant", [0.0, 1e6])
def test_constant_columns_and_duplicates_fit(constant, pairs):
    X, Y = (np.repeat(view[:20], 3, axis=0) for view in pairs)
    X[:, 1] = Y[:, 1] = constant
    for tilting in TILTINGS:
        estimator = contrastive(tilting=tilting, embedding_dim=3).fit(X, Y)
        assert np.isfinite(estimator.score(X, Y))
        assert np.isfinite(estimator.score_samples(X)).all()
        assert np.isfinite(estimator.predict(X)).all()


def test_two_rows_are_enough():
    X = np.array([[0.0, 1.0], [1.0, 0.0]])
    estimator = contrastive().fit(X, target_view=X)
    assert np.isfinite(estimator.predict(X)).all()
    assert estimator.retrieve(X, X, 2)[1].shape == (2, 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_tilting
def test_cuda_agrees_with_the_cpu(tilting, fitted, views):
    estimator, (X, Y) = fitted[tilting], views[1]
    cuda = pickle.loads(pickle.dumps(estimator)).set_params(device="cuda")
    np.testing.assert_allclose(cuda.predict(X), estimator.predict(X), atol=1e-8)
    np.testing.assert_array_equal(cuda.retrieve(X, Y)[1], estimator.retrieve(X, Y)[1])
    draws = cuda.index_contexts(X).sample(Y, 3, random_state=0)
    assert draws.shape == (300, 3)
    fresh = contrastive(tilting=tilting, device="cuda", max_iter=10).fit(*views[0])
    assert recall(fresh, X, Y) > 0.3
