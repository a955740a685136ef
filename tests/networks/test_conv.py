"""The convolutional encoder: shapes, starts, and images that do not see each other."""

import math

import pytest
import torch
from torch import nn

from skgmje.networks import ACTIVATIONS, ConvEncoder, make_network

SHAPES = [(28, 28), (8, 8), (1, 1), (3, 8, 8), (2, 5, 11), (1, 40, 9)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@each_shape
def test_rows_of_images_become_embeddings(shape):
    network = ConvEncoder(shape, 3, generator=generator())
    assert network(torch.randn(4, math.prod(shape))).shape == (4, 3)


@each_shape
def test_blocks_halve_an_image_to_four_pixels(shape):
    network = ConvEncoder(shape, 3)
    images = nn.Sequential(*list(network)[:-2])(torch.randn(2, math.prod(shape)))
    longest = max(images.shape[2:])
    assert longest == max(shape[-2:]) or 2 < longest <= 4
    assert len([m for m in network if isinstance(m, nn.Conv2d)]) >= 3


def test_a_row_holds_one_channel_after_the_other():
    images = torch.randn(4, 2, 5, 11)
    rows = images.reshape(4, -1)
    assert torch.equal(ConvEncoder((2, 5, 11), 3)[0](rows), images)


def test_an_embedding_does_not_depend_on_the_batch_or_the_mode():
    network = ConvEncoder((8, 8), 3, generator=generator()).double()
    rows = torch.randn(6, 64, dtype=torch.float64)
    together = network(rows)
    torch.testing.assert_close(network(rows[2:4]), together[2:4])
    torch.testing.assert_close(network.eval()(rows), together)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_reach_every_weight(activation):
    network = ConvEncoder((8, 8), 3, activation, generator())
    network(torch.randn(5, 64)).square().sum().backward()
    for weight in network.parameters():
        assert float(weight.grad.abs().max()) > 0


def test_initial_weights_are_drawn_privately():
    state = torch.get_rng_state()
    networks = [ConvEncoder((8, 8), 3, generator=generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(*(network.parameters() for network in networks[:2]), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(networks[0][1].weight, networks[2][1].weight)


def test_initial_weights_follow_the_law_of_torch():
    ours = ConvEncoder((8, 8), 3, generator=generator())[4].weight.detach()
    theirs = nn.Conv2d(32, 64, 3).weight.detach()
    assert ours.shape == theirs.shape
    assert float(ours.abs().max()) <= 1 / math.sqrt(32 * 9)
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.05)


@pytest.mark.parametrize("shape", [None, (8,), (8, 0), (8, 8.0), (1, 1, 8, 8), (8, -8)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"must be \(height, width\)"):
        make_network("conv", 64, 2, (), "relu", None, input_shape=shape)


def test_rows_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"rows of 81 pixels; got 64 columns"):
        make_network("conv", 64, 2, (), "relu", None, input_shape=(9, 9))
