"""Augmentations of images, against movements that are known."""

import math
import pickle

import pytest
import sklearn
import torch

from skgmje.views import AugmentedViews, ImageAugmentation, _images

STILL = {"shift": 0, "rotation": 0, "scale": 0, "elastic": 0, "erase": 0}
STRENGTHS = {"shift": 2, "rotation": 20, "scale": 0.2, "elastic": 1, "erase": 0.5}
HEIGHT, WIDTH = 20, 24
each_strength = pytest.mark.parametrize("name", STRENGTHS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def augmentation(shape=(HEIGHT, WIDTH), **strengths):
    return ImageAugmentation(shape, **STILL | strengths)


def coordinates(n):
    """Images whose two channels are the column and the row of each pixel."""
    rows, columns = torch.meshgrid(
        torch.arange(HEIGHT).double(), torch.arange(WIDTH).double(), indexing="ij"
    )
    return torch.stack([columns, rows]).expand(n, 2, HEIGHT, WIDTH).reshape(n, -1)


def read_from(batch, **strengths):
    """Where each pixel was read, in pixels from the centre, shape (n, 2, H, W).

    Bilinear interpolation of coordinates is exact inside the image.
    """
    changed = augmentation((2, HEIGHT, WIDTH), **strengths)(batch, generator())
    centre = torch.tensor([(WIDTH - 1) / 2, (HEIGHT - 1) / 2], dtype=torch.float64)
    return changed.reshape(-1, 2, HEIGHT, WIDTH) - centre[:, None, None]


def inner(images, margin):
    return images[..., margin:-margin, margin:-margin]


START = read_from(coordinates(1))[0]


# --------------------------------------------------------------------------- movements


def test_zero_strengths_change_nothing():
    batch = torch.randn(5, HEIGHT * WIDTH)
    assert torch.equal(augmentation()(batch, generator()), batch)


@pytest.mark.parametrize("name", ["shift", "rotation", "scale", "elastic"])
def test_tiny_movements_change_almost_nothing(name):
    batch = torch.randn(5, HEIGHT * WIDTH, dtype=torch.float64)
    changed = augmentation(**{name: 1e-9})(batch, generator())
    torch.testing.assert_close(changed, batch, atol=1e-6, rtol=0)


def test_a_shift_moves_every_pixel_by_the_same_whole_or_part():
    moved = inner(read_from(coordinates(300), shift=3) - START, 4)
    first = moved[..., :1, :1]
    torch.testing.assert_close(moved, first.expand_as(moved))
    largest = first.abs().amax(0)
    assert bool((largest <= 3).all())
    assert bool((largest > 2.8).all())
    assert bool((first.mean(0).abs() < 0.4).all())


@pytest.fixture
def strongest(monkeypatch):
    """Let every draw be the largest one."""
    monkeypatch.setattr(
        _images, "_rand", lambda images, generator, *size: images.new_ones(size)
    )


@pytest.mark.usefixtures("strongest")
def test_a_shift_by_whole_pixels_is_a_roll():
    images = torch.randn(3, 2, HEIGHT, WIDTH, dtype=torch.float64)
    changed = augmentation((2, HEIGHT, WIDTH), shift=2)(images.reshape(3, -1))
    rolled = images.roll((-2, -2), dims=(2, 3))
    torch.testing.assert_close(
        inner(changed.reshape(images.shape), 2), inner(rolled, 2)
    )


@pytest.mark.usefixtures("strongest")
def test_a_right_angle_turns_a_square_exactly():
    images = torch.randn(3, 2, 9, 9, dtype=torch.float64)
    changed = augmentation((2, 9, 9), rotation=90)(images.reshape(3, -1))
    turned = torch.rot90(images, 1, (2, 3))
    torch.testing.assert_close(changed.reshape(images.shape), turned)


def test_a_rotation_turns_about_the_centre_in_pixels():
    read = inner(read_from(coordinates(300), rotation=30), 7)
    start = inner(START, 7)
    torch.testing.assert_close(
        read.square().sum(1), start.square().sum(0).expand(300, -1, -1)
    )
    cosine = (read * start).sum((1, 2, 3)) / start.square().sum()
    angle = cosine.clamp(max=1).acos().rad2deg()
    assert 28 < float(angle.max()) <= 30 + 1e-6


def test_a_change_of_size_is_a_factor_in_its_range():
    read = inner(read_from(coordinates(300), scale=0.25), 4)
    start = inner(START, 4)
    factor = read / start
    torch.testing.assert_close(factor, factor[:, :1, :1, :1].expand_as(factor))
    factor = factor[:, 0, 0, 0]
    assert 0.8 - 1e-9 <= float(factor.min()) < 0.82
    assert 1.22 < float(factor.max()) <= 1.25 + 1e-9
    assert abs(float(factor.log().mean())) < 0.03


def test_elastic_distortions_are_smooth_and_of_the_strength_asked_for():
    moved = inner(read_from(coordinates(2000), elastic=0.5) - START, 3)
    assert abs(float(moved.mean())) < 0.02
    assert 0.3 < float(moved.std()) < 0.6
    step = moved.diff(dim=3)
    assert float(step.std()) < 0.3 * float(moved.std())


def test_erasure_blanks_one_rectangle():
    kept = augmentation(erase=0.5)(torch.ones(500, HEIGHT * WIDTH), generator())
    blank = kept.reshape(-1, HEIGHT, WIDTH) == 0
    rows, columns = blank.any(2), blank.any(1)
    assert torch.equal(blank, rows[:, :, None] & columns[:, None, :])
    for side, length in ((rows, HEIGHT), (columns, WIDTH)):
        assert int(side.sum(1).max()) == length // 2
        # One run: it begins at most once.
        assert int((side[:, 1:] & ~side[:, :-1]).sum(1).max()) <= 1
        assert bool(side.any(0).all())


# ------------------------------------------------------------------------------- draws


@each_strength
def test_images_move_each_in_its_own_way(name):
    image = torch.rand(1, HEIGHT * WIDTH).expand(20, -1)
    changed = augmentation(**{name: STRENGTHS[name]})(image, generator())
    assert len(changed.unique(dim=0)) >= 19


@each_strength
def test_a_seed_repeats_and_the_global_generator_is_left_alone(name):
    batch = torch.rand(6, HEIGHT * WIDTH)
    state = torch.get_rng_state()
    made = augmentation(**{name: STRENGTHS[name]})
    first, second, other = (made(batch, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_type_are_kept_and_the_batch_is_not_changed(dtype):
    batch = torch.rand(6, 3 * HEIGHT * WIDTH, dtype=dtype)
    before = batch.clone()
    changed = ImageAugmentation((3, HEIGHT, WIDTH))(batch, generator())
    assert changed.shape == batch.shape
    assert changed.dtype == dtype
    assert torch.equal(batch, before)
    assert bool(torch.isfinite(changed).all())


def test_channels_move_together():
    gray = torch.rand(6, 1, HEIGHT * WIDTH)
    batch = gray.expand(-1, 3, -1).reshape(6, -1)
    changed = ImageAugmentation((3, HEIGHT, WIDTH))(batch, generator())
    red, green, blue = changed.reshape(6, 3, -1).unbind(1)
    assert torch.equal(red, green)
    assert torch.equal(red, blue)


def test_views_are_drawn_from_the_generator_of_the_fit():
    rows = torch.rand(6, HEIGHT * WIDTH)
    mean, scale = torch.full_like(rows[0], 0.5), torch.full_like(rows[0], 0.2)
    views = AugmentedViews(
        (rows - mean) / scale, ImageAugmentation((HEIGHT, WIDTH)), mean, scale
    )
    state = torch.get_rng_state()
    pairs = [views.batch(torch.arange(6), generator(seed)) for seed in (3, 3)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(pairs[0][0], pairs[1][0])
    assert torch.equal(pairs[0][1], pairs[1][1])
    assert not torch.equal(*pairs[0])


# -------------------------------------------------------------------------- parameters


def test_it_is_picklable_and_clonable():
    made = augmentation(rotation=9, erase=0.1)
    batch = torch.rand(4, HEIGHT * WIDTH)
    for copy in (pickle.loads(pickle.dumps(made)), sklearn.clone(made)):
        assert repr(copy) == repr(made)
        assert torch.equal(copy(batch, generator()), made(batch, generator()))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shift", -1),
        ("rotation", 181),
        ("scale", -0.1),
        ("elastic", math.nan),
        ("erase", 1.5),
        ("erase", "much"),
        ("input_shape", 28),
    ],
)
def test_parameters_out_of_range_are_refused(name, value):
    made = augmentation().set_params(**{name: value})
    with pytest.raises(ValueError, match=f"The '{name}' parameter"):
        made(torch.zeros(2, HEIGHT * WIDTH))


def test_rows_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"rows of 480 pixels; got 64 columns"):
        augmentation()(torch.zeros(2, 64))
