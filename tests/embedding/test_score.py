"""A learned space can be shrunk or clustered at will; the score must not reward it."""

import math

import numpy as np
import pytest
import torch
from embedding_helpers import FrozenNetwork, gje, gmje, jepa, mdn
from sklearn.cluster import KMeans
from sklearn.cross_decomposition import CCA
from torch import nn

from skgmje import GaussianProcessEmbedder

N_TRAIN = 600
MAKERS = {
    "gje": gje,
    "gmje-1": lambda **options: gmje(**options | {"n_components": 1}),
    "gmje-4": lambda **options: gmje(**options | {"n_components": 4}),
    "jepa": lambda **options: jepa(
        **options
        | {"predictor_hidden_layer_sizes": (32,), "max_iter": 40}
        | {"learning_rate_init": 1e-2}
    ),
    "gaussian process": lambda **options: GaussianProcessEmbedder(
        n_points=150, n_restarts_optimizer=0, random_state=0, **options
    ),
    "mdn": lambda **options: mdn(
        **options | {"n_components": 4, "hidden_layer_sizes": (32,), "max_iter": 40}
    ),
}
each_estimator = pytest.mark.parametrize("name", MAKERS)


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, z):
        return z * self.factor


class Snapped(nn.Module):
    """Replace each embedding by the nearest of a few points."""

    def __init__(self, points):
        super().__init__()
        self.register_buffer("points", torch.as_tensor(points))

    def forward(self, z):
        points = self.points.to(z.dtype)
        return points[torch.cdist(z, points).argmin(dim=1)]


@pytest.fixture(scope="module")
def views():
    """Two strongly dependent views: their mutual information is about four nats."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(2 * N_TRAIN, 3))
    X = latent @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(2 * N_TRAIN, 6))
    Y = np.tanh(latent) @ rng.normal(size=(3, 5)) + 0.05 * rng.normal(
        size=(2 * N_TRAIN, 5)
    )
    return X, Y


@pytest.fixture(scope="module")
def trained(views):
    """One trained pair of encoders and their embeddings of the training rows."""
    X, Y = (view[:N_TRAIN] for view in views)
    model = gje(
        embedding_dim=3, hidden_layer_sizes=(32,), max_iter=60, learning_rate_init=5e-3
    ).fit(X, Y)
    networks = model.encoder_.network, model.target_encoder_.network
    return networks, (model.transform(X), model.transform_target(Y))


def score_of(name, networks, after, views):
    """Refit the density on frozen encoders, and score rows that were not fitted."""
    encoders = [FrozenNetwork(*pair) for pair in zip(networks, after, strict=True)]
    estimator = MAKERS[name](encoder=encoders[0], target_encoder=encoders[1])
    X, Y = views
    estimator.fit(X[:N_TRAIN], Y[:N_TRAIN])
    return estimator.score(X[N_TRAIN:], Y[N_TRAIN:])


@pytest.fixture(scope="module")
def plain_scores(trained, views):
    return {name: score_of(name, trained[0], (None, None), views) for name in MAKERS}


@each_estimator
def test_dependent_views_score_high(name, plain_scores):
    assert plain_scores[name] > 1.5


@each_estimator
@pytest.mark.parametrize("sides", ["both", "target"])
def test_shrinking_the_embeddings_does_not_raise_the_score(
    name, sides, trained, views, plain_scores
):
    shrunk = (Scaled(1e-3) if sides == "both" else None), Scaled(1e-3)
    score = score_of(name, trained[0], shrunk, views)
    # A network that is trained on other units ends elsewhere, within its noise.
    margin = 0.2 if name == "mdn" else 1e-3
    assert score <= plain_scores[name] + margin


@each_estimator
@pytest.mark.parametrize("sides", ["both", "target"])
def test_a_point_scores_zero(name, sides, trained, views):
    point = (Scaled(0.0) if sides == "both" else None), Scaled(0.0)
    score = score_of(name, trained[0], point, views)
    assert -1.0 < score <= 1e-6


@each_estimator
@pytest.mark.parametrize("n_clusters", [2, 4])
@pytest.mark.parametrize("sides", ["both", "target"])
def test_clusters_score_at_most_the_logarithm_of_their_number(
    name, n_clusters, sides, trained, views, plain_scores
):
    networks, embeddings = trained
    context, target = (
        Snapped(KMeans(n_clusters, n_init=3, random_state=0).fit(z).cluster_centers_)
        for z in embeddings
    )
    after = (context if sides == "both" else None), target
    score = score_of(name, networks, after, views)
    assert score <= math.log(n_clusters)
    assert score <= plain_scores[name] + 1e-6


def test_the_score_stays_below_the_logarithm_of_the_rows(views):
    X = views[0]
    identical = gje(encoder="linear", embedding_dim=3, max_iter=50).fit(X, X)
    assert identical.score(X, X) > math.log(500)
    for n_rows in (2, 10, 100):
        assert identical.score(X[:n_rows], X[:n_rows]) <= math.log(n_rows) + 1e-9
    assert identical.score(X[:1], X[:1]) == pytest.approx(0, abs=1e-9)


RHO = np.array([0.9, 0.6, 0.2])
MIX_X, MIX_Y = np.random.default_rng(1).normal(size=(2, 3, 3))


def information(X, Y):
    """Return the mean log-ratio of the true densities: the information, on these rows.

    With other rows it varies by about 0.02 nats, which is more than a fit costs.
    """
    u, v = X @ np.linalg.inv(MIX_X), Y @ np.linalg.inv(MIX_Y)
    residual = (v - RHO * u) ** 2 / (1 - RHO**2)
    log_ratio = 0.5 * (v**2 - residual - np.log(1 - RHO**2))
    return log_ratio.sum(axis=1).mean()


def gaussian_views(n_samples, seed):
    rng = np.random.default_rng(seed)
    shared, noise = rng.normal(size=(2, n_samples, 3))
    other = RHO * shared + np.sqrt(1 - RHO**2) * noise
    return shared @ MIX_X, other @ MIX_Y


@pytest.mark.parametrize("make", [gje, gmje, mdn])
@pytest.mark.parametrize("encoder", ["linear", "mlp"])
def test_no_encoder_scores_above_the_information_of_the_data(make, encoder):
    train, test = gaussian_views(2000, 2), gaussian_views(4000, 3)
    estimator = make(
        encoder=encoder,
        target_encoder=encoder,
        embedding_dim=3,
        max_iter=30,
        batch_size=256,
        learning_rate_init=1e-2,
    ).fit(*train)
    assert estimator.score(*test) <= information(*test) + 0.01


def test_the_score_of_the_right_model_is_the_information():
    train, test = gaussian_views(4000, 2), gaussian_views(4000, 3)
    torch.manual_seed(0)
    encoders = [FrozenNetwork(nn.Linear(3, 3)) for _ in range(2)]
    estimator = gje(encoder=encoders[0], target_encoder=encoders[1]).fit(*train)
    assert estimator.score_unit_ == "nats of mutual information"
    assert information(*test) == pytest.approx(1.07, abs=0.06)
    assert estimator.score(*test) == pytest.approx(information(*test), abs=0.02)


def test_independent_views_score_zero_or_less():
    rng = np.random.default_rng(0)
    train, test = (
        (rng.normal(size=(1000, 4)), rng.normal(size=(1000, 3))) for _ in range(2)
    )
    for make in (gje, gmje):
        options = {"encoder": "linear", "target_encoder": "linear", "embedding_dim": 2}
        assert -0.2 < make(**options).fit(*train).score(*test) < 0.02


@pytest.mark.parametrize("augmentation", ["corrupt", "jitter"])
def test_drawn_views_score_below_the_logarithm_of_the_rows(augmentation, pairs):
    X = pairs[0]
    score = gje(augmentation=augmentation, max_iter=20).fit(X).score(X)
    assert 0.1 < score < math.log(len(X))


def test_correlations_of_the_learned_embeddings_do_not_exceed_cca(views):
    X, Y = (view[:N_TRAIN] for view in views)
    estimator = gje(
        encoder="linear", target_encoder="linear", embedding_dim=2, max_iter=30
    ).fit(X, Y)
    Z_c, Z_t = estimator.transform(X), estimator.transform_target(Y)
    learned = np.corrcoef(*(z[:, 0] for z in CCA(1).fit(Z_c, Z_t).transform(Z_c, Z_t)))
    best = np.corrcoef(*(z[:, 0] for z in CCA(1).fit(X, Y).transform(X, Y)))
    assert learned[0, 1] <= best[0, 1] + 1e-3
