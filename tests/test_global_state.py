"""No public method may change what the whole process shares."""

import copy

import numpy as np
import pytest
import sklearn
import torch
from torch import nn

from skgmje import (
    LDMICA,
    ContrastiveEmbedder,
    GaussianMixture,
    GaussianProcessEmbedder,
    GJEEmbedder,
    GMJEEmbedder,
    GrowingNeuralGas,
    JEPAEmbedder,
    LDMEmbedder,
    LinearContrastive,
    MDNEmbedder,
    ParticleBank,
    VJEEmbedder,
    load,
)
from skgmje.datasets import make_branches, make_curves, make_inverse
from skgmje.metrics import retrieval_score, two_sample_accuracy

FAST = {"max_iter": 2, "batch_size": 64, "hidden_layer_sizes": (8,)}
ESTIMATORS = {
    "contrastive": ContrastiveEmbedder(embedding_dim=2, temperature="learned", **FAST),
    "gje": GJEEmbedder(embedding_dim=2, **FAST),
    "gmje": GMJEEmbedder(2, embedding_dim=2, **FAST),
    "jepa": JEPAEmbedder(embedding_dim=2, **FAST),
    "ldm": LDMEmbedder(embedding_dim=2, predictor_hidden_layer_sizes=(8,), **FAST),
    "mdn": MDNEmbedder(2, embedding_dim=2, **FAST),
    "vje": VJEEmbedder(embedding_dim=2, **FAST),
}
each_estimator = pytest.mark.parametrize("name", ESTIMATORS)
each_seed = pytest.mark.parametrize("random_state", [None, 0])


class State:
    """The state of the process: generators, types, threads, configuration."""

    def __init__(self):
        self.numpy = np.random.get_state()  # noqa: NPY002
        self.torch = torch.get_rng_state()
        self.dtype = torch.get_default_dtype()
        self.n_threads = torch.get_num_threads()
        self.grad = torch.is_grad_enabled()
        self.deterministic = torch.are_deterministic_algorithms_enabled()
        self.config = sklearn.get_config()
        self.errors = np.geterr()
        self.options = np.get_printoptions()

    def assert_same(self, step):
        now = State()
        assert np.array_equal(self.numpy[1], now.numpy[1]), step
        assert self.numpy[2:] == now.numpy[2:], step
        assert torch.equal(self.torch, now.torch), step
        for name in vars(self).keys() - {"numpy", "torch"}:
            assert getattr(self, name) == getattr(now, name), (step, name)


def steps(estimator, X, Y, path):
    """Every public method, by name."""
    target = None if estimator.target == "augment" else Y
    yield "fit", lambda: estimator.fit(X, target)
    yield "fit_transform", lambda: estimator.fit_transform(X, target)
    yield "partial_fit", lambda: copy.deepcopy(estimator).partial_fit(X, target)
    yield "transform", lambda: estimator.transform(X)
    yield (
        "transform_target",
        lambda: estimator.transform_target(X if target is None else Y),
    )
    yield "predict", lambda: estimator.predict(X)
    yield "conditional", lambda: estimator.conditional(X)
    yield "sample", lambda: estimator.sample(3)
    yield "seeded sample", lambda: estimator.sample(3, random_state=0)
    yield "sample_conditional", lambda: estimator.sample_conditional(X, 2)
    yield "score", lambda: estimator.score(X, target)
    yield "score_samples", lambda: estimator.score_samples(X)
    if hasattr(estimator, "conditional_context") and target is not None:
        yield "conditional_context", lambda: estimator.conditional_context(Y)
    yield "get_feature_names_out", estimator.get_feature_names_out
    yield "copy", lambda: copy.deepcopy(estimator)
    if not callable(estimator.augmentation) and not callable(estimator.encoder):
        yield "save", lambda: estimator.save(path)
        yield "load", lambda: load(path)


def assert_leaves_no_trace(estimator, pairs, path):
    state = State()
    for name, step in steps(estimator, *pairs, path):
        step()
        state.assert_same(name)


@each_estimator
@each_seed
@pytest.mark.parametrize("target", ["y", "augment"])
def test_methods_leave_no_trace(name, random_state, target, pairs, tmp_path):
    estimator = sklearn.clone(ESTIMATORS[name])
    estimator.set_params(random_state=random_state, target=target)
    assert_leaves_no_trace(estimator, pairs, tmp_path / "file")


# Others compare the two views.
@pytest.mark.parametrize(
    "name", [n for n in ESTIMATORS if n not in ("contrastive", "vje")]
)
@each_seed
def test_identity_encoders_leave_no_trace(name, random_state, pairs, tmp_path):
    estimator = sklearn.clone(ESTIMATORS[name])
    estimator.set_params(random_state=random_state, encoder="identity")
    assert_leaves_no_trace(estimator, pairs, tmp_path / "file")


@each_estimator
@each_seed
def test_modules_with_dropout_leave_no_trace(name, random_state, pairs, tmp_path):
    module = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Linear(8, 2))
    estimator = sklearn.clone(ESTIMATORS[name])
    estimator.set_params(
        random_state=random_state, encoder=module, target_encoder="linear"
    )
    assert_leaves_no_trace(estimator, pairs, tmp_path / "file")


def make_linear(n_features_in, embedding_dim):
    return nn.Linear(n_features_in, embedding_dim)


@each_estimator
@each_seed
def test_factories_leave_no_trace(name, random_state, pairs, tmp_path):
    estimator = sklearn.clone(ESTIMATORS[name])
    estimator.set_params(random_state=random_state, target_encoder=make_linear)
    state = State()
    estimator.fit(*pairs)
    state.assert_same("fit")
    for step in (estimator.predict, estimator.transform):
        step(pairs[0])
        state.assert_same("inference")
    copy.deepcopy(estimator)
    state.assert_same("copy")


def shake(batch):
    return batch + 0.1 * torch.rand_like(batch)


@each_estimator
@each_seed
def test_augmentations_that_draw_from_torch_leave_no_trace(
    name, random_state, pairs, tmp_path
):
    estimator = sklearn.clone(ESTIMATORS[name])
    estimator.set_params(
        random_state=random_state, augmentation=shake, target="augment"
    )
    assert_leaves_no_trace(estimator, pairs, tmp_path / "file")


@each_estimator
def test_scores_with_augmentations_that_draw_from_torch_repeat(name, pairs):
    X = pairs[0]
    estimator = sklearn.clone(ESTIMATORS[name])
    estimator.set_params(random_state=0, augmentation=shake, target="augment").fit(X)
    assert estimator.score(X) == estimator.score(X)
    again = sklearn.clone(estimator).fit(X)
    np.testing.assert_array_equal(again.transform(X), estimator.transform(X))


@each_estimator
def test_a_failed_fit_leaves_no_trace(name, pairs):
    X, Y = pairs

    class Broken(nn.Linear):
        def forward(self, rows):
            if self.training:
                raise LookupError("own")
            return super().forward(rows)

    estimator = sklearn.clone(ESTIMATORS[name])
    estimator.set_params(encoder=Broken(5, 2), target_encoder="linear")
    state = State()
    with pytest.raises(LookupError):
        estimator.fit(X, Y)
    state.assert_same("fit")


@each_estimator
def test_thread_counts_of_the_user_survive(name, pairs):
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sklearn.clone(ESTIMATORS[name]).fit(*pairs)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(n_threads)


@each_estimator
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_another_default_type_changes_nothing(name, dtype, pairs):
    X, Y = pairs
    expected = sklearn.clone(ESTIMATORS[name]).set_params(random_state=0).fit(X, Y)
    torch.set_default_dtype(dtype)
    try:
        estimator = sklearn.clone(ESTIMATORS[name]).set_params(random_state=0).fit(X, Y)
        predicted = estimator.predict(X)
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(predicted, expected.predict(X), atol=1e-4)


@each_estimator
def test_inputs_are_not_changed(name, pairs):
    X, Y = (view.copy() for view in pairs)
    estimator = sklearn.clone(ESTIMATORS[name]).fit(X, Y)
    estimator.partial_fit(X[:100], Y[:100])
    estimator.score(X, Y)
    np.testing.assert_array_equal(X, pairs[0])
    np.testing.assert_array_equal(Y, pairs[1])


@each_seed
@pytest.mark.parametrize("n_points", [50, 1000])
def test_a_gaussian_process_leaves_no_trace(random_state, n_points, pairs, tmp_path):
    X, Y = pairs
    process = GaussianProcessEmbedder(n_points=n_points, random_state=random_state)
    state = State()
    process.fit(X, Y)
    state.assert_same("fit")
    for step in (
        lambda: process.predict(X),
        lambda: process.score(X, Y),
        lambda: process.sample(5),
        lambda: process.sample_conditional(X, 2),
        lambda: process.save(tmp_path / "file"),
        lambda: load(tmp_path / "file"),
    ):
        step()
        state.assert_same("inference")


@each_seed
def test_a_mixture_leaves_no_trace(random_state, pairs, tmp_path):
    X = pairs[0]
    mixture = GaussianMixture(
        2, init_params="short_runs", random_state=random_state, max_iter=200
    )
    state = State()
    mixture.fit(X)
    state.assert_same("fit")
    for step in (
        lambda: mixture.predict_proba(X),
        lambda: mixture.score(X),
        lambda: mixture.sample(5),
        lambda: mixture.marginal([0, 1]),
        lambda: mixture.save(tmp_path / "file"),
    ):
        step()
        state.assert_same("inference")


@each_seed
def test_a_bank_leaves_no_trace(random_state, pairs, tmp_path):
    X = pairs[0]
    bank = ParticleBank(64, min_ess=1.0, jitter=0.1, random_state=random_state)
    state = State()
    for step in (
        lambda: bank.fit(X),
        lambda: bank.partial_fit(X),
        lambda: bank.score(X),
        lambda: bank.sample(5),
        lambda: bank.condition([0], X[:, :1]).mean,
        lambda: bank.save(tmp_path / "file"),
    ):
        step()
        state.assert_same("bank")


def test_linear_contrastive_learning_leaves_no_trace(pairs, tmp_path):
    X, Y = pairs
    model = LinearContrastive()
    state = State()
    for step in (
        lambda: model.fit(X, Y),
        lambda: model.conditional(X).mean,
        lambda: model.score(X, Y),
        lambda: model.save(tmp_path / "file"),
        lambda: load(tmp_path / "file"),
    ):
        step()
        state.assert_same("step")


@each_seed
def test_a_neural_gas_leaves_no_trace(random_state, pairs, tmp_path):
    X = pairs[0]
    gas = GrowingNeuralGas(20, max_iter=1, random_state=random_state)
    state = State()
    for step in (
        lambda: gas.fit(X),
        lambda: gas.partial_fit(X),
        lambda: gas.predict(X),
        lambda: gas.transform(X),
        lambda: gas.to_mixture(X, n_em_steps=1),
        lambda: gas.save(tmp_path / "file"),
    ):
        step()
        state.assert_same("step")


@each_seed
def test_independent_components_leave_no_trace(random_state, pairs, tmp_path):
    X = pairs[0]
    ica = LDMICA(random_state=random_state)
    state = State()
    for step in (
        lambda: ica.fit(X),
        lambda: ica.inverse_transform(ica.transform(X)),
        lambda: ica.score(X),
        lambda: ica.save(tmp_path / "file"),
    ):
        step()
        state.assert_same("step")


def test_data_makers_and_metrics_leave_no_trace():
    state = State()
    X, y = make_branches(100)
    state.assert_same("make_branches")
    estimator = GJEEmbedder(encoder="identity", target="y").fit(X, y)
    retrieval_score(estimator, X, y)
    state.assert_same("retrieval_score")
    for make in (make_curves, make_inverse):
        make(10)
        state.assert_same(make.__name__)
    two_sample_accuracy(X, y)
    state.assert_same("two_sample_accuracy")


@each_estimator
def test_methods_take_tensors_whatever_scikit_learn_dispatches(name, pairs, tmp_path):
    views = [torch.from_numpy(view) for view in pairs]
    estimator = sklearn.clone(ESTIMATORS[name])
    with sklearn.config_context(array_api_dispatch=True):
        for _, step in steps(estimator, *views, tmp_path / "model"):
            step()
    assert isinstance(estimator.transform(views[0]), np.ndarray)


@pytest.mark.parametrize("make", [LDMICA, LinearContrastive, GaussianProcessEmbedder])
def test_closed_forms_take_tensors_whatever_scikit_learn_dispatches(make, pairs):
    X, Y = (torch.from_numpy(view[:50]) for view in pairs)
    views = (X,) if make is LDMICA else (X, Y)
    estimator = make(random_state=0) if make is not LinearContrastive else make()
    with sklearn.config_context(array_api_dispatch=True):
        Z = estimator.fit(*views).transform(X)
        assert np.isfinite(estimator.score(*views))
    assert isinstance(Z, np.ndarray)
