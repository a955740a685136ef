"""Which array is which view, row by row of the table, and how views are drawn."""

import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from skgmje import GJEEmbedder
from skgmje.exceptions import IgnoredTargetWarning
from skgmje.views import (
    AUGMENTATIONS,
    AugmentedViews,
    PairedViews,
    corrupt,
    jitter,
    resolve_target,
)

N = 12
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 4))
LABELS = np.arange(N) % 3
VIEW = RNG.normal(size=(N, 2))
CONTINUOUS = RNG.normal(size=N)
INDICATOR = np.eye(3, dtype=int)[LABELS]
KINDS = {
    "nothing": None,
    "binary": LABELS % 2,
    "multiclass": LABELS,
    "float labels": LABELS.astype(float),
    "booleans": LABELS > 0,
    "strings": np.array(["a", "b", "c"])[LABELS],
    "object strings": np.array(["a", "b", "c"], dtype=object)[LABELS],
    "continuous": CONTINUOUS,
    "view": VIEW,
    "counts": np.abs(np.round(10 * VIEW)).astype(int),
    "one continuous column": CONTINUOUS[:, None],
    "one label column": LABELS[:, None],
    "indicator": INDICATOR,
}


def resolve(kind, target, target_view=None):
    return resolve_target(X, KINDS[kind], target_view, target)


# --------------------------------------------------------------------- target="auto"


def test_auto_without_y_draws_two_views():
    assert resolve("nothing", "auto") == (None, "augment")


@pytest.mark.parametrize(
    "kind",
    [
        "binary",
        "multiclass",
        "float labels",
        "booleans",
        "strings",
        "object strings",
    ],
)
def test_auto_ignores_labels_with_a_warning(kind):
    with pytest.warns(IgnoredTargetWarning, match="target='y' .* target='augment'"):
        assert resolve(kind, "auto") == (None, "augment")


def test_many_classes_are_labels_and_warn_once():
    y = np.arange(N)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        assert resolve_target(X, y, None, "auto") == (None, "augment")
    assert [w.category for w in record] == [IgnoredTargetWarning]


def test_auto_refuses_a_continuous_column_and_names_both_ways_out():
    with pytest.raises(ValueError, match=r"target='y'.*target='augment'"):
        resolve("continuous", "auto")


@pytest.mark.parametrize("kind", ["one label column", "indicator"])
def test_auto_refuses_what_could_be_labels_and_names_both_ways_out(kind):
    with pytest.raises(ValueError, match=r"ambiguous.*target='y'.*target='augment'"):
        resolve(kind, "auto")


@pytest.mark.parametrize("kind", ["view", "counts", "one continuous column"])
def test_auto_takes_a_matrix_of_numbers(kind):
    view, source = resolve(kind, "auto")
    assert source == "y"
    assert view.dtype == np.float64
    np.testing.assert_array_equal(view, KINDS[kind])


# ------------------------------------------------------------------------ target="y"


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k not in ("nothing", "strings", "object strings")]
)
def test_y_takes_numbers_of_any_kind_without_a_word(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        view, source = resolve(kind, "y")
    assert source == "y"
    assert view.shape == np.shape(KINDS[kind])
    np.testing.assert_array_equal(view, np.asarray(KINDS[kind], dtype=float))


def test_y_needs_y():
    with pytest.raises(
        ValueError, match="requires y to be passed, but the target y is"
    ):
        resolve("nothing", "y")


@pytest.mark.parametrize("kind", ["strings", "object strings"])
def test_y_refuses_strings_with_a_remedy(kind):
    with pytest.raises(ValueError, match="encode them as numbers"):
        resolve(kind, "y")


# ------------------------------------------------------------------ target="augment"


@pytest.mark.parametrize("kind", KINDS)
def test_augment_ignores_every_y_without_a_word(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert resolve(kind, "augment") == (None, "augment")


# ------------------------------------------------------------------------ target_view


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", ["auto", "y", "augment"])
def test_target_view_wins_over_every_y_without_a_word(kind, target):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        view, source = resolve(kind, target, target_view=VIEW)
    assert source == "target_view"
    np.testing.assert_array_equal(view, VIEW)


def test_target_view_may_be_labels_or_one_column():
    view, _ = resolve_target(X, None, LABELS, "auto")
    np.testing.assert_array_equal(view, LABELS)
    view, _ = resolve_target(X, None, INDICATOR, "auto")
    np.testing.assert_array_equal(view, INDICATOR)


# ------------------------------------------------------------------- containers, errors


@pytest.mark.parametrize("target", ["auto", "y"])
@pytest.mark.parametrize(
    "wrap",
    [
        np.ndarray.tolist,
        lambda view: view.astype(object),
        lambda view: view.astype(str).astype(object),
        pd.DataFrame,
        lambda view: pl.DataFrame(view, schema=["a", "b"], orient="row"),
        lambda view: view.astype(np.float32).astype(np.float64),
    ],
    ids=["list", "object", "numbers as strings", "pandas", "polars", "float32"],
)
def test_containers_of_numbers_are_views(wrap, target):
    view, source = resolve_target(X, wrap(VIEW), None, target)
    assert source == "y"
    np.testing.assert_allclose(view, VIEW, rtol=1e-6)


def test_a_series_is_one_column():
    view, _ = resolve_target(X, pd.Series(CONTINUOUS), None, "y")
    np.testing.assert_array_equal(view, CONTINUOUS)


def test_object_labels_that_are_numbers_are_labels():
    with pytest.warns(IgnoredTargetWarning):
        assert resolve_target(X, LABELS.astype(object), None, "auto")[0] is None


@pytest.mark.parametrize("target", ["auto", "y"])
def test_objects_that_are_neither_numbers_nor_strings_are_refused(target):
    y = np.array([object()] * N, dtype=object)
    with pytest.raises(ValueError, match="Unknown label type"):
        resolve_target(X, y, None, target)
    y[:2] = "a", 1.0
    with pytest.raises(ValueError, match="mixes strings with other values"):
        resolve_target(X, y, None, target)


@pytest.mark.parametrize("target", ["auto", "y"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["view", "continuous", "float labels"])
def test_y_that_is_not_finite_is_refused(kind, value, target):
    y = np.array(KINDS[kind], dtype=float)
    y.flat[2] = value
    with pytest.raises(ValueError, match="Input y contains"):
        resolve_target(X, y, None, target)


@pytest.mark.parametrize("target", ["auto", "y"])
def test_views_of_other_lengths_are_refused(target):
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        resolve_target(X, VIEW[:-1], None, target)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        resolve_target(X, None, VIEW[:-1], target)


@pytest.mark.parametrize("target", ["auto", "y"])
def test_three_dimensions_are_refused(target):
    with pytest.raises(ValueError, match=r"dim 3|dimensions"):
        resolve_target(X, np.zeros((N, 2, 2)), None, target)
    with pytest.raises(ValueError, match=r"dim 3|dimensions"):
        resolve_target(X, None, np.zeros((N, 2, 2)), target)


def test_views_are_copied_not_changed():
    y = VIEW.copy()
    y.setflags(write=False)
    view, _ = resolve_target(X, y, None, "auto")
    np.testing.assert_array_equal(view, y)


@pytest.mark.parametrize(
    ("kind", "target", "source"),
    [
        ("view", "auto", "y"),
        ("nothing", "auto", "augment"),
        ("continuous", "y", "y"),
        ("view", "augment", "augment"),
    ],
)
def test_estimators_record_the_decision(kind, target, source):
    estimator = GJEEmbedder(target=target, max_iter=1).fit(X, KINDS[kind])
    assert estimator.target_source_ == source


def test_the_warning_points_at_the_callers_line():
    with pytest.warns(IgnoredTargetWarning) as record:
        GJEEmbedder(max_iter=1).fit(X, LABELS)
    assert len(record) == 1
    assert record[0].filename == __file__


# ----------------------------------------------------------------------- augmentations

each_augmentation = pytest.mark.parametrize("name", AUGMENTATIONS)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@each_augmentation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_augmentations_keep_shape_type_and_device(name, dtype):
    batch = torch.randn(50, 6, dtype=dtype)
    before = batch.clone()
    changed = AUGMENTATIONS[name](batch, generator())
    assert changed.shape == batch.shape
    assert changed.dtype == dtype
    assert changed.device == batch.device
    assert torch.equal(batch, before)
    assert not torch.equal(changed, batch)


@each_augmentation
def test_augmentations_repeat_by_generator(name):
    batch = torch.randn(50, 6)
    same = [AUGMENTATIONS[name](batch, generator(3)) for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], AUGMENTATIONS[name](batch, generator(4)))


@each_augmentation
def test_augmentations_leave_the_global_generator_alone(name):
    state = torch.get_rng_state()
    AUGMENTATIONS[name](torch.zeros(50, 6), generator())
    assert torch.equal(torch.get_rng_state(), state)


def test_corruption_takes_values_of_the_same_column_only():
    batch = torch.arange(600.0).reshape(6, 100).T.contiguous()
    changed = corrupt(batch, generator())
    for column, original in zip(changed.T, batch.T, strict=True):
        assert set(column.tolist()) <= set(original.tolist())
    share = (changed != batch).double().mean()
    assert 0.2 < share < 0.4


def test_corruption_of_one_row_changes_nothing():
    batch = torch.randn(1, 6)
    assert torch.equal(corrupt(batch, generator()), batch)


def test_jitter_adds_noise_of_three_tenths():
    batch = torch.zeros(20_000, 3)
    noise = jitter(batch, generator())
    torch.testing.assert_close(noise.std(0), torch.full((3,), 0.3), atol=0.01, rtol=0)
    torch.testing.assert_close(noise.mean(0), torch.zeros(3), atol=0.01, rtol=0)


def test_paired_views_serve_both_views_of_the_rows():
    context, target = torch.randn(10, 3), torch.randn(10, 2)
    views = PairedViews(context, target)
    rows = torch.tensor([7, 0, 7])
    served = views.batch(rows, None)
    assert len(views) == 10
    assert torch.equal(served[0], context[rows])
    assert torch.equal(served[1], target[rows])


def test_drawn_views_are_two_different_copies():
    rows = torch.randn(40, 3)
    views = AugmentedViews(rows, "jitter", torch.zeros(3), torch.ones(3))
    first, second = views.batch(torch.arange(40), generator())
    assert len(views) == 40
    assert not torch.equal(first, second)
    assert abs(float((first - rows).std()) - 0.3) < 0.1


def test_own_augmentations_work_in_the_units_of_the_data():
    mean, scale = torch.tensor([10.0, -5.0]), torch.tensor([2.0, 0.5])
    rows = torch.randn(30, 2)
    seen = []

    def shift(batch):
        seen.append(batch)
        return batch + torch.tensor([2.0, 0.5])

    views = AugmentedViews(rows, shift, mean, scale)
    changed, _ = views.batch(torch.arange(30), None)
    torch.testing.assert_close(seen[0], rows * scale + mean)
    torch.testing.assert_close(changed, rows + 1.0)
    assert changed.dtype == rows.dtype


@pytest.mark.parametrize("result", [torch.zeros(2), torch.zeros(30, 3), "nothing"])
def test_own_augmentations_of_another_shape_are_refused(result):
    views = AugmentedViews(
        torch.zeros(30, 2), lambda batch: result, torch.zeros(2), torch.ones(2)
    )
    with pytest.raises(ValueError, match=r"shape of its batch, \(30, 2\)"):
        views.batch(torch.arange(30), None)
