"""Embedders of images: convolutions, shared moments, and files that hold all of it."""

import pickle

import numpy as np
import pytest
import torch
from embedding_helpers import MAKERS, answers, assert_same_answers, gje, gmje

import skgmje
from skgmje.networks import ConvEncoder
from skgmje.views import ImageAugmentation

SHAPE = (6, 7)
IMAGES = {
    "encoder": "conv",
    "input_shape": SHAPE,
    "embedding_dim": 3,
    "max_iter": 2,
    "augmentation": ImageAugmentation(SHAPE, shift=1, elastic=0.3),
}
each_estimator = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 4, size=(120, 2))
    grid = np.indices(SHAPE)[:, None] - corner.T[:, :, None, None]
    inside = ((grid >= 0) & (grid < 3)).all(axis=0)
    noise = 0.1 * rng.normal(size=inside.shape) * inside
    return (inside + noise).reshape(len(corner), -1)


@each_estimator
def test_images_are_embedded_and_every_answer_is_finite(make, images):
    estimator = make(**IMAGES).fit(images)
    assert isinstance(estimator.encoder_.network, ConvEncoder)
    assert estimator.transform(images).shape == (120, 3)
    for name, answer in answers(estimator, images).items():
        assert np.isfinite(answer).all(), name


@each_estimator
def test_fits_repeat(make, images):
    state = torch.get_rng_state()
    first, second = (make(**IMAGES).fit(images).transform(images) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


@each_estimator
def test_pickles_and_files_give_the_same_answers(make, images, tmp_path):
    estimator = make(**IMAGES).fit(images)
    expected = answers(estimator, images)
    assert_same_answers(
        answers(pickle.loads(pickle.dumps(estimator)), images), expected
    )
    estimator.save(tmp_path / "file")
    loaded = skgmje.load(tmp_path / "file")
    assert_same_answers(answers(loaded, images), expected)
    assert repr(loaded) == repr(estimator)


def test_a_row_is_embedded_alike_in_every_batch(images):
    estimator = gje(**IMAGES).fit(images)
    np.testing.assert_allclose(
        estimator.transform(images[7:9]), estimator.transform(images)[7:9], atol=1e-12
    )


def test_pixels_of_a_channel_share_their_moments(images):
    colours = np.concatenate([images, 100 * images + 7], axis=1)
    estimator = gje(**IMAGES | {"input_shape": (2, *SHAPE), "augmentation": "jitter"})
    estimator.fit(colours)
    for moment, theirs in (
        (estimator.x_mean_, [images.mean(), 100 * images.mean() + 7]),
        (estimator.x_scale_, [images.std(), 100 * images.std()]),
    ):
        np.testing.assert_allclose(moment, np.repeat(theirs, images.shape[1]))


def test_a_pixel_that_is_almost_always_blank_keeps_a_sane_scale(images):
    images = images.copy()
    images[:, 0] = 0
    images[5, 0] = 1e-3
    moved = images.copy()
    moved[0, 0] = 1.0
    for encoder in ("conv", "mlp"):
        estimator = gje(**IMAGES | {"encoder": encoder}).fit(images)
        standardised = estimator.encoder_.standardise(torch.tensor(moved))
        assert float(standardised.abs().max()) < 10


def test_a_second_view_of_images_has_moments_and_an_encoder_of_its_own(images):
    target = 5 * images[:, ::-1] + 1
    estimator = gmje(**IMAGES).fit(images, target)
    assert estimator.encoder_ is not estimator.target_encoder_
    np.testing.assert_allclose(estimator.y_scale_, 5 * images.std())
    mixed = gmje(**IMAGES | {"target_encoder": "identity"}).fit(images, target[:, 2:4])
    np.testing.assert_allclose(mixed.y_scale_, 5 * images[:, ::-1][:, 2:4].std(axis=0))


def test_images_come_in_batches_too(images):
    estimator = gje(**IMAGES).partial_fit(images[:60]).partial_fit(images[60:])
    assert estimator.n_samples_seen_ == 120
    assert np.isfinite(estimator.transform(images)).all()


@each_estimator
def test_convolutions_without_a_shape_are_refused(make, images):
    with pytest.raises(ValueError, match=r"encoder='conv' input_shape must be"):
        make(**IMAGES | {"input_shape": None}).fit(images)


@each_estimator
@pytest.mark.parametrize("encoder", ["conv", "mlp"])
def test_images_of_another_shape_are_refused(make, encoder, images):
    with pytest.raises(ValueError, match=r"rows of 36 pixels; got 42 columns"):
        make(**IMAGES | {"encoder": encoder, "input_shape": (6, 6)}).fit(images)
    estimator = make(**IMAGES).fit(images)
    with pytest.raises(ValueError, match="expecting 42 features"):
        estimator.transform(images[:, :36])
