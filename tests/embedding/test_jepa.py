"""JEPA: moving averages, stopped gradients, and the average of several answers."""

import pickle

import numpy as np
import pytest
import torch
from embedding_helpers import answers, assert_same_answers, jepa
from sklearn.linear_model import LinearRegression
from torch import nn

from skgmje import JEPAEmbedder
from skgmje.datasets import make_branches
from skgmje.embedding._averaged_model import AveragedModel
from skgmje.embedding._model import Encoders
from skgmje.latent import LatentPrediction
from skgmje.networks import Encoder, Predictor

# A target encoder: that of the context, one of its own, or none that is trained.
SHARED, OWN, FIXED = (
    {"target_encoder": kind} for kind in ("shared", "mlp", "identity")
)
each_kind = pytest.mark.parametrize("kind", [SHARED, OWN, FIXED], ids=lambda k: str(k))


@pytest.fixture
def twins(pairs):
    """Two dependent views of five columns."""
    X = pairs[0]
    return X, X + 0.3 * np.random.default_rng(1).normal(size=X.shape)


@pytest.fixture
def steps(monkeypatch):
    """Record the weights of encoders and averages after every step."""
    recorded = []
    move = AveragedModel.after_step

    def weights(encoder):
        return [weight.detach().clone() for weight in encoder.network.parameters()]

    def after_step(model):
        if not recorded:
            averages = {name: weights(e) for name, e in model.averages.items()}
            recorded.append((None, None, averages))
        move(model)
        recorded.append(
            (
                weights(model.encoder),
                weights(model.target_encoder),
                {name: weights(e) for name, e in model.averages.items()},
            )
        )

    monkeypatch.setattr(AveragedModel, "after_step", after_step)
    return recorded


# ---------------------------------------------------------------- the moving average


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize(
    ("kind", "followed"), [(SHARED, {"target": 0}), (OWN, {"context": 0, "target": 1})]
)
def test_averages_follow_the_recursion(momentum, kind, followed, twins, steps):
    jepa(momentum=momentum, max_iter=2, **kind).fit(*twins)
    expected = steps[0][2]
    assert expected.keys() == followed.keys()
    for *trained, averages in steps[1:]:
        for name, which in followed.items():
            expected[name] = [
                momentum * old + (1 - momentum) * new
                for old, new in zip(expected[name], trained[which], strict=True)
            ]
            for a, b in zip(expected[name], averages[name], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert len(steps) == 1 + 2 * 5


def test_an_average_starts_from_the_encoder(twins, steps):
    estimator = jepa(max_iter=1, momentum=0.5, batch_size=300, **SHARED).fit(*twins)
    (_, _, start), (trained, _, average) = steps
    for a, b, c in zip(start["target"], trained, average["target"], strict=True):
        torch.testing.assert_close((a + b) / 2, c)
    fitted = [w.float() for w in estimator.target_encoder_.network.parameters()]
    for a, b in zip(fitted, average["target"], strict=True):
        torch.testing.assert_close(a, b)


def test_without_momentum_the_target_is_the_encoder_itself(twins):
    X, Y = twins
    estimator = jepa(momentum=0.0, **SHARED).fit(X, Y)
    assert estimator.target_encoder_ is not estimator.encoder_
    np.testing.assert_array_equal(estimator.transform(Y), estimator.transform_target(Y))
    other = jepa(momentum=0.9, **SHARED).fit(X, Y)
    assert np.abs(other.transform(Y) - other.transform_target(Y)).max() > 1e-3


def test_buffers_of_an_average_are_those_of_the_encoder(twins):
    def normalised(n_features_in, embedding_dim):
        return nn.Sequential(
            nn.Linear(n_features_in, embedding_dim), nn.BatchNorm1d(embedding_dim)
        )

    estimator = jepa(encoder=normalised, **SHARED).fit(*twins)
    for a, b in zip(
        estimator.encoder_.network[1].buffers(),
        estimator.target_encoder_.network[1].buffers(),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


# ------------------------------------------------------------------- stopped gradients


def model_of(kind):
    recipe = {
        "encoder": "mlp",
        "n_features_in": 4,
        "embedding_dim": 2,
        "hidden_layer_sizes": (8,),
        "activation": "tanh",
    }
    weights = torch.Generator().manual_seed(0)
    encoder, other = (
        Encoder(recipe, torch.zeros(4), torch.ones(4), weights) for _ in range(2)
    )
    reverse = Predictor(2, 2, generator=weights) if kind == "own" else None
    latent = LatentPrediction(Predictor(2, 2, generator=weights), reverse)
    encoders = Encoders(encoder, encoder if kind == "shared" else other)
    return AveragedModel(encoders, latent, torch.Generator(), 0.9)


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_averages_have_no_gradient(kind):
    model = model_of(kind)
    rows = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    model(rows, 2 * rows).backward()
    assert all(weight.grad is None for weight in model.averages.parameters())
    for module in (model.encoder, model.target_encoder, model.latent):
        assert all(weight.grad is not None for weight in module.parameters())


def test_the_gradient_of_a_shared_encoder_is_that_of_the_context_alone():
    model = model_of("shared")
    model.momentum = 0.0
    rows = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    target = model.encoder.network(2 * rows).detach()
    error = model.latent.predictor(model.encoder.network(rows)) - target
    weights = list(model.encoder.parameters())
    expected = torch.autograd.grad(0.5 * error.square().sum(1).mean(), weights)
    found = torch.autograd.grad(model(rows, 2 * rows), weights)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_the_loss_is_half_the_squared_error():
    latent = LatentPrediction(Predictor(2, 2), Predictor(2, 2))
    for weight in latent.requires_grad_(False).parameters():
        weight.zero_()
    target = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert float(latent(torch.ones(2, 2), target)) == pytest.approx((25 + 1) / 4)
    # Side features, which come last, are not predicted.
    wide = torch.cat([target, torch.ones(2, 1)], dim=1)
    assert float(latent.reverse(torch.ones(2, 2), wide)) == pytest.approx(26 / 4)


# -------------------------------------------------------------------- the conditional


def test_an_identity_target_is_predicted_by_its_conditional_mean():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3))
    Y = X @ rng.normal(size=(3, 2)) * [1.0, 100.0] + [5.0, -3.0]
    estimator = JEPAEmbedder(
        encoder="identity",
        target_encoder="identity",
        predictor_hidden_layer_sizes=(),
        learning_rate_init=0.02,
        weight_decay=0.0,
        max_iter=150,
        random_state=0,
    ).fit(X, Y)
    error = (estimator.predict(X) - Y) / Y.std(axis=0)
    assert np.abs(error).max() < 1e-3


def test_several_answers_are_averaged():
    X, y = make_branches(2000, random_state=0)
    X_test, y_test = make_branches(5000, random_state=1)
    estimator = JEPAEmbedder(
        target_encoder="identity", max_iter=30, random_state=0
    ).fit(X, y)
    assert -estimator.score(X_test, y_test) == pytest.approx(1.65, abs=0.04)
    grid = np.linspace(-0.9, 0.9, 20)[:, None]
    # The mean of the three curves is 0.1 x, and no curve is near it.
    np.testing.assert_allclose(estimator.predict(grid), 0.1 * grid, atol=0.15)


@each_kind
def test_the_gaussian_has_the_second_moment_of_the_residuals(kind, twins):
    X, Y = twins
    estimator = jepa(reg_covar=0.0, embedding_dim=2, **kind).fit(X, Y)
    residual = estimator.transform_target(Y) - estimator.predict(X)
    conditional = estimator.conditional(X)
    assert conditional.n_components == 1
    expected = np.broadcast_to(
        residual.T @ residual / len(X), conditional.covariance_matrix.shape
    )
    np.testing.assert_allclose(
        conditional.covariance_matrix, expected, rtol=1e-6, atol=1e-9
    )


def test_batches_move_the_covariance_of_the_residuals(twins):
    X, Y = twins
    estimator = jepa(max_iter=20, **FIXED).fit(X, Y)
    before = estimator.conditional(X[:1]).covariance_matrix
    noisy = Y + 3 * np.random.default_rng(2).normal(size=Y.shape)
    for _ in range(5):
        estimator.partial_fit(X, noisy)
    after = estimator.conditional(X[:1]).covariance_matrix
    assert (after.diagonal(dim1=1, dim2=2) > 2 * before.diagonal(dim1=1, dim2=2)).all()


@pytest.mark.parametrize(("momentum", "factor"), [(0.0, 5.0), (0.5, 2.5), (0.99, 1.0)])
def test_the_predictor_is_faster_than_what_it_predicts(momentum, factor, twins):
    estimator = jepa(momentum=momentum, **SHARED).fit(*twins)
    latent = estimator._start(*twins, {}).model.latent
    assert latent.learning_rate_factor == pytest.approx(factor)


# ------------------------------------------------------------------------- no collapse


def effective_rank(Z):
    """Exponential of the entropy of the covariance's eigenvalues."""
    shares = np.linalg.eigvalsh(np.cov(Z.T)).clip(1e-300)
    shares /= shares.sum()
    return np.exp(-(shares * np.log(shares)).sum())


@pytest.fixture(scope="module")
def sphere():
    """Two curved views of points on a sphere, for training and for testing."""
    rng = np.random.default_rng(0)
    mixes = rng.normal(size=(2, 3, 10))
    y = rng.normal(size=(4000, 3))
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    views = [np.tanh(y @ mix) + 0.1 * rng.normal(size=(4000, 10)) for mix in mixes]
    return y, *views


@pytest.mark.parametrize(("momentum", "rank"), [(0.0, 1.15), (0.99, 2.0)])
@pytest.mark.parametrize("kind", [SHARED, OWN], ids=lambda k: str(k))
def test_embeddings_keep_what_the_views_share(momentum, rank, kind, sphere):
    y, X, Y = sphere
    estimator = JEPAEmbedder(momentum=momentum, max_iter=40, random_state=0, **kind)
    Z = estimator.fit(X[:2500], Y[:2500]).transform(X)
    probe = LinearRegression().fit(Z[:2500], y[:2500])
    # A random encoder of this form gives about 0.75.
    assert probe.score(Z[2500:], y[2500:]) > 0.88
    assert effective_rank(Z) > rank
    assert np.trace(np.cov(Z.T)) > 0.3
    assert estimator.score(X[2500:], Y[2500:]) > 1.5


# -------------------------------------------------------------------- side information


@pytest.fixture(scope="module")
def actions():
    """States, actions, and the next states that follow."""
    rng = np.random.default_rng(0)
    state, action = rng.normal(size=(600, 3)), 5 + 10 * rng.normal(size=(600, 1))
    following = state + (action - 5) / 10 * [[1.0, -1.0, 0.5]]
    return state, action, following


@each_kind
def test_the_predictor_knows_the_side_features(kind, actions):
    state, action, following = actions
    X = np.hstack([state, action])
    options = {"embedding_dim": 3, "max_iter": 30, "learning_rate_init": 5e-3}
    with_action = jepa(n_side_features=1, **options, **kind).fit(X, following)
    without = jepa(**options, **kind).fit(state, following)
    gain = with_action.score(X, following) - without.score(state, following)
    assert gain > 0.5
    # Another action gives another prediction from the same state.
    other = np.hstack([state, action + 10])
    assert np.abs(with_action.predict(other) - with_action.predict(X)).mean() > 0.1


def test_the_encoder_does_not_know_the_side_features(actions):
    state, action, following = actions
    X = np.hstack([state, action])
    estimator = jepa(embedding_dim=3, n_side_features=1, **SHARED).fit(X, following)
    Z, other = (
        estimator.transform(np.hstack([state, a])) for a in (action, 0 * action)
    )
    assert Z.shape == (600, 4)
    np.testing.assert_array_equal(Z[:, :3], other[:, :3])
    np.testing.assert_allclose(
        Z[:, 3], (action[:, 0] - action.mean()) / action.std(), atol=1e-9
    )
    assert estimator.transform_target(following).shape == (600, 3)
    assert estimator.predict(X).shape == (600, 3)


@each_kind
@pytest.mark.parametrize("encoder", ["mlp", "linear", "identity"])
def test_every_encoder_can_have_side_features(kind, encoder, actions):
    state, action, following = actions
    X = np.hstack([state, action])
    estimator = jepa(encoder=encoder, n_side_features=1, **kind).fit(X, following)
    again = pickle.loads(pickle.dumps(estimator))
    assert_same_answers(answers(again, X, following), answers(estimator, X, following))
    for one in (again, estimator):
        one.partial_fit(X, following)
    np.testing.assert_allclose(again.predict(X), estimator.predict(X), atol=1e-12)


# ------------------------------------------------------------------ batches and errors


@each_kind
def test_an_unpickled_estimator_goes_on_where_the_first_would(kind, twins):
    X, Y = twins
    estimator = jepa(**kind).partial_fit(X, Y)
    again = pickle.loads(pickle.dumps(estimator))
    for one in (again, estimator):
        one.partial_fit(X, Y).partial_fit(X, Y)
    assert_same_answers(answers(again, X, Y), answers(estimator, X, Y))


def test_batches_move_all_networks(twins):
    X, Y = twins
    estimator = jepa(**OWN).partial_fit(X, Y)
    before = estimator.transform(X), estimator.transform_target(Y)
    estimator.partial_fit(X, Y)
    assert not np.array_equal(before[0], estimator.transform(X))
    assert not np.array_equal(before[1], estimator.transform_target(Y))


def test_a_shared_encoder_needs_views_of_equal_width(pairs):
    X, Y = pairs
    with pytest.raises(ValueError, match="views of equal width"):
        jepa(**SHARED).fit(X, Y)
    with pytest.raises(ValueError, match="given 4 columns of X"):
        jepa(n_side_features=1, **SHARED).fit(X, X)


def test_side_features_that_make_no_sense_are_refused(pairs):
    X, Y = pairs
    with pytest.raises(ValueError, match="leaves none of the 5 columns"):
        jepa(n_side_features=5).fit(X, Y)
    with pytest.raises(ValueError, match="needs a target view"):
        jepa(n_side_features=1).fit(X)


def test_a_refused_fit_leaves_the_estimator_as_it_was(twins, pairs):
    estimator = jepa(**SHARED).fit(*twins)
    expected = estimator.predict(twins[0])
    with pytest.raises(ValueError, match="views of equal width"):
        estimator.fit(pairs[0][:, :2], pairs[1])
    np.testing.assert_array_equal(estimator.predict(twins[0]), expected)
    estimator.partial_fit(*twins)
