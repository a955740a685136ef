"""Encoders of two views do not collapse, and do not fold what they embed."""

import pytest
from sklearn.linear_model import LinearRegression

from skgmje import GJEEmbedder, GMJEEmbedder, MDNEmbedder
from skgmje.datasets import make_sphere_views
from skgmje.metrics import effective_rank


def probe(model, seed, n_train=3000):
    """R^2 of a linear regression of unseen points on embeddings, and their rank."""
    X, target, y = make_sphere_views(n_train, random_state=seed)
    X_test, _, y_test = make_sphere_views(1000, random_state=1000 + seed)
    model.set_params(embedding_dim=3, target="y", random_state=seed).fit(X, target)
    regression = LinearRegression().fit(model.transform(X), y)
    embedded = model.transform(X_test)
    return regression.score(embedded, y_test), effective_rank(embedded)


@pytest.mark.parametrize(
    "model",
    [
        GJEEmbedder(),
        GMJEEmbedder(4, max_iter=40),
        MDNEmbedder(target_encoder="mlp", max_iter=40),
    ],
    ids=["gje", "gmje", "mdn"],
)
def test_the_points_can_be_read_from_the_embedding(model):
    r2, rank = probe(model, seed=1)
    assert r2 > 0.95
    assert rank > 2.8


def test_a_bank_does_not_mind_how_the_views_are_oriented():
    # Here the encoders start with opposite orientations; unturned, R^2 is 0.63.
    model = GMJEEmbedder(512, components="bank", max_iter=20)
    r2, rank = probe(model, seed=2)
    assert r2 > 0.95
    assert rank > 2.8
