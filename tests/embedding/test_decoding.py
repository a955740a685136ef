"""Decoders: the way back, what it may know, and files that hold it."""

import pickle

import numpy as np
import pytest
import torch
from embedding_helpers import MAKERS, gje
from sklearn.exceptions import NotFittedError

import skgmje
from skgmje.latent._moments import whitening
from skgmje.networks import ConvDecoder, ConvEncoder

each_estimator = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
IMAGE = {"decoder": "conv", "encoder": "conv", "input_shape": (4, 5)}
each_kind = pytest.mark.parametrize(
    "options", [{"decoder": "mlp"}, IMAGE], ids=["mlp", "conv"]
)


@pytest.fixture(scope="module")
def plane():
    """Rows of 20 columns that lie on a plane, far from the origin."""
    rng = np.random.default_rng(0)
    return 50 + 7 * rng.normal(size=(400, 2)) @ rng.normal(size=(2, 20))


@each_estimator
@each_kind
def test_embeddings_come_back_as_rows_in_their_units(make, options, plane):
    estimator = make(**options, embedding_dim=2).fit(plane)
    back = estimator.inverse_transform(estimator.transform(plane))
    assert back.shape == plane.shape
    assert np.isfinite(back).all()
    drawn = estimator.inverse_transform(estimator.sample(9, random_state=0)[0])
    assert drawn.shape == (9, 20)
    assert abs(drawn.mean() - plane.mean()) < 3 * plane.std()


def test_what_an_embedding_holds_is_decoded(plane):
    estimator = gje(
        embedding_dim=2,
        encoder="linear",
        decoder="mlp",
        target="augment",
        augmentation="jitter",
        hidden_layer_sizes=(),
        max_iter=60,
        learning_rate_init=0.03,
    ).fit(plane)
    back = estimator.inverse_transform(estimator.transform(plane))
    lost = np.square(back - plane).sum() / np.square(plane - plane.mean(axis=0)).sum()
    assert lost < 0.02


@pytest.mark.parametrize("ratio", [1.0, 1e-2])
def test_a_direction_of_little_variance_is_decoded_as_well(ratio, plane):
    axes = np.linalg.svd(plane - plane.mean(axis=0), full_matrices=False)[2][:2]
    network = torch.nn.Linear(20, 2, bias=False).requires_grad_(False)
    # Both coordinates are nearly the same: they differ in what is small.
    skew = np.array([[1.0, ratio], [1.0, -ratio]])
    axes = skew @ axes * plane.std(axis=0)
    network.weight.copy_(torch.from_numpy(axes))
    estimator = gje(
        encoder=network,
        target_encoder="identity",
        decoder="mlp",
        hidden_layer_sizes=(),
        learning_rate_init=0.03,
        max_iter=60,
    ).fit(plane, plane)
    back = estimator.inverse_transform(estimator.transform(plane))
    lost = np.square(back - plane).sum() / np.square(plane - plane.mean(axis=0)).sum()
    assert lost < 1e-3


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100])
def test_whitening_gives_unit_variance_in_all_directions(scale):
    rng = np.random.default_rng(0)
    z = scale * torch.from_numpy(rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)))
    loc, matrix = whitening(z + scale)
    white = (z + scale - loc) @ matrix.mT
    np.testing.assert_allclose(white.mT @ white / 500, np.eye(3), atol=1e-9)


def test_whitening_leaves_constant_columns_and_does_not_stretch_rounding():
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(500, 2)))
    z = torch.cat([z, z[:, :1] + 1e-9 * z[:, 1:], torch.ones(500, 1)], dim=1)
    loc, matrix = whitening(z)
    white = (z - loc) @ matrix.mT
    assert bool(torch.isfinite(white).all())
    assert white.abs().max() < 10
    assert torch.linalg.matrix_rank(white, atol=1e-3) == 2
    # Nor what lies a little beside the plane of the rows.
    assert torch.linalg.matrix_norm(matrix, 2) < 2


def test_a_constant_embedding_is_decoded_to_the_mean(plane):
    network = torch.nn.Linear(20, 2).requires_grad_(False)
    torch.nn.init.zeros_(network.weight)
    estimator = gje(
        encoder=network, target_encoder="identity", decoder="mlp", max_iter=30
    )
    back = estimator.fit(plane, plane[:, :2]).inverse_transform(
        estimator.transform(plane)
    )
    assert np.abs(back - plane.mean(axis=0)).max() < 0.3 * plane.std()


@each_kind
def test_a_decoder_changes_nothing_else(options, plane):
    without = gje(**options | {"decoder": None}).fit(plane)
    estimator = gje(**options).fit(plane)
    np.testing.assert_array_equal(estimator.transform(plane), without.transform(plane))
    np.testing.assert_array_equal(estimator.loss_curve_, without.loss_curve_)
    assert estimator.score(plane) == without.score(plane)


@each_kind
def test_decoders_repeat_and_leave_the_global_generator_alone(options, plane):
    state = torch.get_rng_state()
    Z = np.random.default_rng(1).normal(size=(5, 8))
    first, second = (gje(**options).fit(plane).inverse_transform(Z) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@each_estimator
@each_kind
def test_pickles_and_files_decode_alike(make, options, plane, tmp_path):
    estimator = make(**options).fit(plane)
    Z = estimator.transform(plane)
    expected = estimator.inverse_transform(Z)
    estimator.save(tmp_path / "file")
    for copy in (
        pickle.loads(pickle.dumps(estimator)),
        skgmje.load(tmp_path / "file"),
    ):
        np.testing.assert_array_equal(copy.inverse_transform(Z), expected)


def test_the_type_of_the_embeddings_is_kept(plane):
    estimator = gje(decoder="mlp").fit(plane)
    Z = estimator.transform(plane)
    for dtype in (np.float32, np.float64):
        assert estimator.inverse_transform(Z.astype(dtype)).dtype == dtype
    readonly = np.asfortranarray(Z[::2, ::-1])
    readonly.setflags(write=False)
    assert np.isfinite(estimator.inverse_transform(readonly)).all()


# --------------------------------------------------------------------------- refused


@each_estimator
def test_without_a_decoder_there_is_no_way_back(make, plane):
    estimator = make().fit(plane)
    assert not hasattr(estimator, "inverse_transform")
    with pytest.raises(AttributeError) as error:
        estimator.inverse_transform(plane[:, :8])
    assert "set decoder='mlp'" in str(error.value.__cause__)


def test_a_decoder_is_fitted_by_fit_alone(plane):
    with pytest.raises(NotFittedError):
        gje(decoder="mlp").inverse_transform(np.zeros((1, 8)))
    estimator = gje(decoder="mlp").fit(plane).partial_fit(plane)
    with pytest.raises(NotFittedError):
        estimator.inverse_transform(np.zeros((1, 8)))


def test_embeddings_of_another_width_are_refused(plane):
    estimator = gje(decoder="mlp").fit(plane)
    with pytest.raises(ValueError, match="Z has 3 columns, but embeddings have 8"):
        estimator.inverse_transform(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="NaN"):
        estimator.inverse_transform(np.full((1, 8), np.nan))


def test_images_of_another_shape_are_refused(plane):
    with pytest.raises(ValueError, match=r"must be \(height, width\)"):
        gje(decoder="conv").fit(plane)


# ---------------------------------------------------------------------------- network


@pytest.mark.parametrize("shape", [(28, 28), (8, 8), (1, 1), (3, 8, 8), (2, 5, 11)])
def test_a_convolutional_decoder_mirrors_the_encoder(shape):
    encoder, decoder = ConvEncoder(shape, 3), ConvDecoder(3, shape)
    rows = torch.randn(4, int(np.prod(shape)))
    assert decoder(encoder(rows)).shape == rows.shape
    widths = [m.out_channels for m in encoder if isinstance(m, torch.nn.Conv2d)]
    mirrored = [m.in_channels for m in decoder if isinstance(m, torch.nn.Conv2d)]
    assert mirrored == widths[::-1]
