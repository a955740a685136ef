"""Encoders and heads: shapes, starts, and distributions that are valid."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from skgmje.networks import (
    ACTIVATIONS,
    MLP,
    Encoder,
    MixtureDensityHead,
    make_network,
)
from skgmje.networks._encoders import embedding_width

COVARIANCE_TYPES = ["diag", "full", "spherical", "low_rank"]
each_covariance_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def recipe(encoder="mlp", n_features_in=4):
    return {
        "encoder": encoder,
        "n_features_in": n_features_in,
        "embedding_dim": 2,
        "hidden_layer_sizes": (8,),
        "activation": "tanh",
    }


# ---------------------------------------------------------------------------- networks


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("hidden", [(), (7,), (7, 5)])
def test_an_mlp_has_the_layers_asked_for(activation, hidden):
    network = MLP(4, 2, hidden, activation, generator())
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [*hidden, 2]
    assert network(torch.zeros(3, 4)).shape == (3, 2)
    assert isinstance(network[-1], nn.Linear)


def test_initial_weights_are_drawn_privately():
    state = torch.get_rng_state()
    networks = [MLP(4, 2, (8,), "relu", generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(networks[0][0].weight, networks[1][0].weight)
    assert not torch.equal(networks[0][0].weight, networks[2][0].weight)


def test_initial_weights_follow_the_law_of_torch():
    ours, theirs = MLP(64, 2, (2000,), "relu", generator())[0], nn.Linear(64, 2000)
    for name in ("weight", "bias"):
        a, b = (getattr(layer, name).detach() for layer in (ours, theirs))
        assert float(a.abs().max()) <= 1 / 8
        assert float(a.std()) == pytest.approx(float(b.std()), rel=0.05)


def test_a_head_is_drawn_privately():
    state = torch.get_rng_state()
    MixtureDensityHead(4, 3, 2, generator=generator())
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------------------- encoders


def test_an_encoder_standardises_what_it_is_given():
    mean, scale = torch.tensor([1.0, -2, 0, 5]), torch.tensor([2.0, 1, 3, 0.1])
    encoder = Encoder(recipe(), mean, scale, generator())
    rows = torch.randn(6, 4) * scale + mean
    torch.testing.assert_close(encoder(rows), encoder.network((rows - mean) / scale))
    torch.testing.assert_close(encoder.standardise(rows), (rows - mean) / scale)


def test_an_identity_encoder_returns_its_rows():
    encoder = Encoder(recipe("identity"), torch.ones(4), 2 * torch.ones(4))
    rows = torch.randn(3, 4)
    assert encoder(rows) is rows
    assert encoder.is_identity
    assert not encoder.is_trainable
    torch.testing.assert_close(encoder.standardise_embedding(rows), (rows - 1) / 2)


def test_copies_for_inference_and_training():
    encoder = Encoder(recipe(), torch.zeros(4).double(), torch.ones(4).double())
    inference, training = encoder.for_inference(), encoder.for_training()
    assert {p.dtype for p in inference.parameters()} == {torch.float64}
    assert {p.dtype for p in training.network.parameters()} == {torch.float32}
    assert not inference.training
    assert training.training
    assert (
        encoder.network[0].weight.data_ptr() != inference.network[0].weight.data_ptr()
    )


def test_frozen_modules_are_not_trainable():
    module = nn.Linear(4, 2).requires_grad_(False)
    encoder = Encoder(recipe(module), torch.zeros(4), torch.ones(4))
    assert not encoder.is_trainable
    assert Encoder(recipe(nn.Linear(4, 2)), torch.zeros(4), torch.ones(4)).is_trainable


def test_a_module_is_copied():
    module = nn.Linear(4, 2)
    network = make_network(**recipe(module), generator=None)
    assert network is not module
    assert torch.equal(network.weight, module.weight)


def test_the_width_of_an_embedding_is_found_without_side_effects():
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    before = network[1].running_mean.clone()
    assert embedding_width(network, 4, "cpu") == 6
    assert torch.equal(network[1].running_mean, before)
    assert network.training


# ------------------------------------------------------------------------------- heads


def test_a_head_takes_the_context_alone():
    assert list(inspect.signature(MixtureDensityHead.forward).parameters) == [
        "self",
        "context",
    ]


@pytest.mark.parametrize(("n_features_in", "gain"), [(1, 2.0), (2, 2**0.5), (64, 1.0)])
def test_a_density_head_of_few_columns_starts_wide(n_features_in, gain):
    head = MixtureDensityHead(
        n_features_in, 3, 2, hidden_layer_sizes=(8, 8), generator=generator()
    )
    network = MLP(n_features_in, 15, (8, 8), "relu", generator())
    for name in ("weight", "bias"):
        ours, torchs = getattr(head.network[0], name), getattr(network[0], name)
        torch.testing.assert_close(ours, gain * torchs)
    assert torch.equal(head.network[2].weight, network[2].weight)


def test_a_density_head_starts_at_a_rare_cluster():
    centres = np.repeat([1.5, 0.0, -1.5], [1800, 900, 300])
    wave = 0.5 * np.sin(np.linspace(0, 500, len(centres)))
    target = torch.tensor(centres + wave * np.sign(centres))[:, None]
    for seed in range(6):
        head = MixtureDensityHead(1, 3, 1)
        head.initialize(target, seed)
        means = head.network[-1].bias[3:6].detach().sort().values
        torch.testing.assert_close(
            means, torch.tensor([-1.5, 0.0, 1.5]), atol=0.1, rtol=0
        )


@each_covariance_type
@pytest.mark.parametrize("n_features", [1, 3])
@pytest.mark.parametrize("n_components", [1, 4])
def test_heads_give_valid_distributions(covariance_type, n_features, n_components):
    head = MixtureDensityHead(
        5, n_components, n_features, covariance_type, (8,), "relu", generator()
    ).double()
    contexts = 3 * torch.randn(20, 5, dtype=torch.float64)
    with torch.no_grad():
        mixture = head(contexts)
    assert mixture.batch_shape == (20,)
    assert mixture.event_shape == (n_features,)
    assert mixture.n_components == n_components
    torch.testing.assert_close(mixture.weights.sum(-1), torch.ones(20).double())
    covariances = mixture.component_covariances
    torch.testing.assert_close(covariances, covariances.mT)
    assert float(torch.linalg.eigvalsh(covariances).min()) > 0
    draws = mixture.sample((5000,), generator=generator())
    gap = (draws.mean(0) - mixture.mean) / mixture.stddev
    assert float(gap.abs().max()) < 0.1
    assert bool(torch.isfinite(mixture.log_prob(draws)).all())


def test_full_and_low_rank_heads_have_correlations_and_diagonal_ones_have_none():
    for covariance_type, correlated in (
        ("full", True),
        ("low_rank", True),
        ("diag", False),
    ):
        head = MixtureDensityHead(4, 2, 3, covariance_type, generator=generator())
        covariances = head(torch.randn(4, 4)).component_covariances
        off_diagonal = covariances - torch.diag_embed(covariances.diagonal(0, -2, -1))
        assert bool(off_diagonal.abs().max() > 1e-3) is correlated


@each_covariance_type
def test_gradients_reach_every_weight_of_a_head(covariance_type):
    head = MixtureDensityHead(4, 3, 2, covariance_type, (8,), "tanh", generator())
    head(torch.randn(30, 4)).log_prob(torch.randn(30, 2)).mean().backward()
    for weight in head.parameters():
        assert float(weight.grad.abs().max()) > 0


def clusters():
    rng = np.random.default_rng(0)
    centres = np.array([[-5.0, 0.0], [5.0, 0.0], [0.0, 8.0]])
    rows = centres[rng.integers(3, size=600)] + 0.3 * rng.normal(size=(600, 2))
    return centres, torch.tensor(rows)


@each_covariance_type
def test_heads_start_from_the_clusters_of_the_target(covariance_type):
    centres, rows = clusters()
    head = MixtureDensityHead(4, 3, 2, covariance_type, (8,), "relu", generator())
    with torch.no_grad():
        head.network[-1].weight.zero_()
    head.initialize(rows, seed=0)
    mixture = head.double()(torch.zeros(1, 4, dtype=torch.float64))
    means = mixture.means[0].detach().numpy()
    order = [np.linalg.norm(means - centre, axis=1).argmin() for centre in centres]
    np.testing.assert_allclose(means[order], centres, atol=0.1)
    deviation = mixture.component_covariances.diagonal(0, -2, -1).sqrt()
    np.testing.assert_allclose(deviation.detach(), 0.3, atol=0.05)
    np.testing.assert_allclose(mixture.weights.detach(), 1 / 3, atol=1e-6)


@each_covariance_type
def test_heads_start_from_fewer_points_than_components(covariance_type):
    head = MixtureDensityHead(4, 5, 2, covariance_type, generator=generator())
    head.initialize(torch.tensor([[1.0, 2.0]]).expand(10, 2), seed=0)
    mixture = head(torch.randn(3, 4))
    assert bool(torch.isfinite(mixture.log_prob(torch.tensor([1.0, 2.0]))).all())
