"""No tensor of the computation is made on a device that was not asked for."""

import contextlib

import numpy as np
import pytest
import torch
from embedding_helpers import MAKERS, gje
from torch.overrides import TorchFunctionMode

from skgmje import MultivariateNormalMixture
from skgmje.embedding import _inference
from skgmje.embedding._model import Encoders, JointModel
from skgmje.latent import (
    ENTROPIES,
    ConditionalMixture,
    GaussianLikelihood,
    GaussianMutualInformation,
    LogDet,
    contrastive_bound,
    moment_kl,
    pairwise_log_prob,
)
from skgmje.networks import Encoder, MixtureDensityHead
from skgmje.views import AugmentedViews, corrupt, jitter

each_estimator = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
META = torch.device("meta")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


class FloatsStayOn(TorchFunctionMode):
    """Refuse every floating tensor that is made elsewhere."""

    def __init__(self, device):
        super().__init__()
        self.device, self.n_made = torch.device(device), 0

    def __torch_function__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            assert result.device.type == self.device.type, function
            self.n_made += 1
        return result


def recipe(encoder="mlp"):
    return {
        "encoder": encoder,
        "n_features_in": 4,
        "embedding_dim": 2,
        "hidden_layer_sizes": (8,),
        "activation": "relu",
    }


def meta(*shape, dtype=torch.float32):
    return torch.zeros(*shape, dtype=dtype, device=META)


@contextlib.contextmanager
def nothing_on_the_cpu():
    with FloatsStayOn(META) as mode:
        yield mode
    assert mode.n_made > 0


def encoder_on_meta():
    return Encoder(recipe(), torch.zeros(4), torch.ones(4)).to(META)


def test_the_guard_refuses_a_tensor_of_the_cpu():
    with pytest.raises(AssertionError), FloatsStayOn(META):
        torch.zeros(3)


@pytest.mark.parametrize("covariance_type", ["diag", "full", "spherical"])
def test_a_conditional_model_stays_on_its_device(covariance_type):
    head = MixtureDensityHead(2, 3, 2, covariance_type, (8,)).to(META)
    latent = ConditionalMixture(head, None, 2.0)
    encoders = Encoders(encoder_on_meta(), encoder_on_meta())
    model = JointModel(encoders, latent, torch.Generator())
    with nothing_on_the_cpu():
        loss = model(meta(10, 4), meta(10, 4))
    assert loss.device == META


def test_a_gaussian_model_stays_on_its_device():
    shared = encoder_on_meta()
    model = JointModel(
        Encoders(shared, shared), GaussianMutualInformation(), torch.Generator()
    )
    with nothing_on_the_cpu():
        loss = model(meta(10, 4), meta(10, 4))
    assert loss.device == META


def test_entropies_and_bounds_stay_on_their_device():
    with nothing_on_the_cpu():
        moment_kl(meta(10, 3))
        for entropy in ENTROPIES.values():
            entropy().prepare(meta(10, 3))
            entropy()(meta(10, 3))
        GaussianLikelihood(entropy=LogDet())(meta(10, 3), meta(10, 2))
        contrastive_bound(meta(5, 5))


@pytest.mark.parametrize(
    "shapes",
    [
        {"scale_tril": (3, 5, 5)},
        {"scale_diag": (3, 5)},
        {"scale_spherical": (3,)},
        {"cov_factor": (3, 5, 2), "cov_diag": (3, 5)},
    ],
    ids=lambda shapes: "+".join(shapes),
)
def test_conditionals_and_their_scores_stay_on_their_device(shapes):
    joint = MultivariateNormalMixture(
        meta(3),
        meta(3, 5),
        **{name: meta(*shape) for name, shape in shapes.items()},
        validate_args=False,
    )
    with nothing_on_the_cpu():
        conditional = joint.condition([0, 1, 2], meta(7, 3))
        means = conditional.mean, conditional.covariance_matrix
        log_prob = pairwise_log_prob(conditional, meta(7, 2))
    assert {tensor.device for tensor in (*means, log_prob)} == {META}


def test_drawn_views_stay_on_their_device():
    with nothing_on_the_cpu():
        corrupt(meta(10, 4))
        jitter(meta(10, 4))
    views = AugmentedViews(
        meta(10, 4), lambda batch: batch + 1, meta(4), torch.ones(4, device=META)
    )
    with nothing_on_the_cpu():
        pair = views.batch(torch.arange(10, device=META), None)
    assert {view.device for view in pair} == {META}


@each_estimator
def test_inference_puts_rows_weights_and_density_on_the_device(
    make, pairs, monkeypatch
):
    """Every method of a fitted estimator asks for the device anew."""
    X, Y = pairs
    estimator = make(embedding_dim=2, target_encoder="linear").fit(X, Y)
    monkeypatch.setattr(_inference, "resolve_device", lambda device: META)
    assert next(estimator._encoders().context.parameters()).device == META
    assert estimator._on_device(estimator.density_).means.device == META


def test_an_absent_accelerator_is_named_with_the_way_out(pairs):
    if torch.cuda.is_available():
        assert gje(device="cuda").fit(*pairs).predict(pairs[0]).shape[0] == 300
    else:
        with pytest.raises(ValueError, match="device='auto'"):
            gje(device="cuda").fit(*pairs)


@each_estimator
def test_auto_is_where_the_machine_is(make, pairs):
    X, Y = pairs
    estimator = make(device="auto", encoder="identity").fit(X, Y)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert estimator.conditional(X[:2]).mean.device.type == device


# ---------------------------------------------------------------------------- CUDA


@needs_cuda
@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gje", "gmje"])
def test_closed_forms_agree_with_the_cpu(name, pairs):
    X, Y = pairs
    cpu, cuda = (
        MAKERS[name](encoder="identity", device=device).fit(X, Y)
        for device in (None, "cuda")
    )
    for method in ("transform", "predict", "score_samples"):
        np.testing.assert_allclose(
            getattr(cuda, method)(X), getattr(cpu, method)(X), atol=1e-8
        )
    assert cuda.conditional(X).mean.device.type == "cuda"
    np.testing.assert_allclose(
        cuda.conditional(X).covariance_matrix.cpu(),
        cpu.conditional(X).covariance_matrix,
        atol=1e-8,
    )
    assert cuda.score(X, Y) == pytest.approx(cpu.score(X, Y), abs=1e-8)


@needs_cuda
@pytest.mark.gpu
@each_estimator
def test_a_model_of_the_cpu_answers_alike_on_cuda_and_back(make, pairs):
    X, Y = pairs
    estimator = make(embedding_dim=2, target_encoder="linear").fit(X, Y)
    on_cpu = estimator.predict(X), estimator.score(X, Y), estimator.transform(X)
    estimator.set_params(device="cuda")
    np.testing.assert_allclose(estimator.predict(X), on_cpu[0], atol=1e-8)
    assert estimator.score(X, Y) == pytest.approx(on_cpu[1], abs=1e-8)
    np.testing.assert_allclose(estimator.transform(X), on_cpu[2], atol=1e-8)
    estimator.set_params(device=None)
    np.testing.assert_allclose(estimator.predict(X), on_cpu[0], atol=1e-8)


@needs_cuda
@pytest.mark.gpu
@each_estimator
@pytest.mark.parametrize("target", ["y", "augment"])
def test_training_on_cuda_makes_floats_there_only(make, target, pairs):
    X, Y = pairs
    estimator = make(device="cuda", target=target)
    estimator.fit(X, Y)
    assert np.isfinite(estimator.predict(X)).all()
    draws = estimator.sample_conditional(X, 3, random_state=0)
    assert draws.shape[:2] == (300, 3)
