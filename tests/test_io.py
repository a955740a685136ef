"""Files that hold no code: what comes back, and what is refused."""

import io
import json
import os
import pickletools
import stat
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn import config_context
from sklearn.callback import ProgressBar
from torch import nn

import skgmje
from skgmje import (
    ContrastiveEmbedder,
    GaussianMixture,
    GaussianProcessEmbedder,
    GJEEmbedder,
    GMJEEmbedder,
    JEPAEmbedder,
    LDMEmbedder,
    MDNEmbedder,
    OutlierDetector,
    VJEEmbedder,
)

FAST = {"max_iter": 4, "batch_size": 64, "hidden_layer_sizes": (16,), "random_state": 0}
LEARNED = {"target_encoder": "linear", "embedding_dim": 2}
ESTIMATORS = {
    "contrastive": ContrastiveEmbedder(**FAST, **LEARNED, temperature="learned"),
    "gje": GJEEmbedder(**FAST, **LEARNED),
    "gje identity": GJEEmbedder(**FAST, encoder="identity"),
    "gmje": GMJEEmbedder(3, **FAST, **LEARNED),
    "gmje tied": GMJEEmbedder(3, **FAST, encoder="identity", covariance_type="tied"),
    "gmje diag": GMJEEmbedder(3, **FAST, encoder="identity", covariance_type="diag"),
    "gmje spherical": GMJEEmbedder(3, **FAST, covariance_type="spherical"),
    "gaussian process": GaussianProcessEmbedder(random_state=0),
    "inducing points": GaussianProcessEmbedder(n_points=50, random_state=0),
    "jepa": JEPAEmbedder(**FAST, **LEARNED),
    "ldm": LDMEmbedder(**FAST, **LEARNED),
    "mdn": MDNEmbedder(3, **FAST),
    "vje": VJEEmbedder(**FAST),
    "mdn full": MDNEmbedder(3, **FAST, **LEARNED, covariance_type="full"),
}
each_estimator = pytest.mark.parametrize("name", ESTIMATORS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "estimator.safetensors"


@pytest.fixture
def saved(pairs, path):
    """A small file and its estimator."""
    estimator = GJEEmbedder(**FAST).fit(*pairs)
    estimator.save(path)
    return estimator


def said(estimator, X, Y=None):
    answers = [
        estimator.transform(X),
        estimator.predict(X),
        estimator.score_samples(X),
        estimator.score(X, Y),
        *estimator.sample(5, random_state=0),
        estimator.sample_conditional(X, 2, random_state=0),
    ]
    return answers if Y is None else [*answers, estimator.transform_target(Y)]


def header_of(path):
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["skgmje"])


def rewrite(path, **changes):
    """Write the file again with another header."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["skgmje"])
        arrays = {name: file.get_tensor(name) for name in list(file.keys())}
    save_file(arrays, path, metadata={"skgmje": json.dumps(header | changes)})


# ------------------------------------------------------------------------- round trips


@each_estimator
def test_the_same_answers_come_back_to_the_bit(name, pairs, path):
    X, Y = pairs
    estimator = ESTIMATORS[name].fit(X, Y)
    estimator.save(path)
    again = skgmje.load(path)
    assert type(again) is type(estimator)
    for a, b in zip(said(estimator, X, Y), said(again, X, Y), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "maker", [ContrastiveEmbedder, GJEEmbedder, GMJEEmbedder, JEPAEmbedder, MDNEmbedder]
)
def test_the_same_answers_come_back_where_views_were_drawn(maker, pairs, path):
    X = pairs[0]
    estimator = maker(**FAST, target="augment").fit(X)
    estimator.save(path)
    again = skgmje.load(path)
    for a, b in zip(said(estimator, X), said(again, X), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (again.encoder_ is again.target_encoder_) == (maker is not JEPAEmbedder)


@each_estimator
def test_parameters_and_attributes_come_back(name, pairs, path):
    estimator = ESTIMATORS[name].fit(*pairs)
    estimator.save(path)
    again = skgmje.load(path)
    assert again.get_params() == estimator.get_params()
    assert vars(again).keys() == vars(estimator).keys()
    for attribute, value in vars(estimator).items():
        assert type(getattr(again, attribute)) is type(value), attribute
    for attribute in ("loss_curve_", "validation_loss_curve_", "score_unit_"):
        assert getattr(again, attribute) == getattr(estimator, attribute)
    np.testing.assert_array_equal(again.x_mean_, estimator.x_mean_)


@each_estimator
def test_a_loaded_estimator_can_be_fitted_again(name, pairs, path):
    estimator = ESTIMATORS[name].fit(*pairs)
    estimator.save(path)
    again = skgmje.load(path).fit(*pairs)
    np.testing.assert_array_equal(again.predict(pairs[0]), estimator.predict(pairs[0]))


@pytest.mark.parametrize(
    "maker", [ContrastiveEmbedder, GJEEmbedder, GMJEEmbedder, JEPAEmbedder, MDNEmbedder]
)
def test_a_loaded_estimator_goes_on_learning(maker, pairs, path):
    X, Y = pairs
    estimator = maker(**FAST, **LEARNED).partial_fit(X, Y)
    estimator.save(path)
    again = skgmje.load(path)
    for one in (estimator, again):
        one.partial_fit(X, Y)
    np.testing.assert_allclose(again.predict(X), estimator.predict(X), atol=1e-12)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_a_mixture_comes_back(covariance_type, pairs, path):
    X = pairs[0]
    mixture = GaussianMixture(
        2, covariance_type=covariance_type, random_state=0, means_init=X[:2]
    ).fit(X)
    mixture.save(path)
    again = skgmje.load(path)
    np.testing.assert_array_equal(again.score_samples(X), mixture.score_samples(X))
    np.testing.assert_array_equal(again.predict(X), mixture.predict(X))
    np.testing.assert_array_equal(again.means_init, mixture.means_init)
    np.testing.assert_array_equal(again.covariances_, mixture.covariances_)


def test_an_unfitted_estimator_comes_back(path):
    GMJEEmbedder(7, hidden_layer_sizes=[3, 4]).save(path)
    again = skgmje.load(path)
    assert again.n_components == 7
    assert again.hidden_layer_sizes == [3, 4]
    assert not hasattr(again, "density_")


def test_names_of_columns_come_back(pairs, path):
    X = pd.DataFrame(pairs[0], columns=["a", "b", "c", "d", "é"])
    Y = pd.DataFrame(pairs[1], columns=["u", "v", "w"])
    estimator = GJEEmbedder(**FAST).fit(X, Y)
    estimator.save(path)
    again = skgmje.load(path)
    np.testing.assert_array_equal(again.feature_names_in_, list(X.columns))
    np.testing.assert_array_equal(again.target_feature_names_in_, list(Y.columns))
    assert again.feature_names_in_.dtype == object
    np.testing.assert_array_equal(again.transform(X), estimator.transform(X))
    with pytest.raises(ValueError, match="feature names should match"):
        again.transform(X[["b", "a", "c", "d", "é"]])


def test_one_dimensional_targets_come_back(pairs, path):
    X, Y = pairs
    estimator = GJEEmbedder(**FAST, encoder="identity", target="y").fit(X, Y[:, 0])
    estimator.save(path)
    assert skgmje.load(path).predict(X).shape == (len(X),)


def test_numpy_numbers_as_parameters_come_back(pairs, path):
    estimator = GMJEEmbedder(
        np.int64(2), encoder="identity", reg_covar=np.float32(1e-4), random_state=0
    ).fit(*pairs)
    estimator.save(path)
    again = skgmje.load(path)
    assert again.n_components == 2
    np.testing.assert_array_equal(again.predict(pairs[0]), estimator.predict(pairs[0]))


def test_callbacks_are_left_out(pairs, path):
    X, Y = pairs
    watched = GJEEmbedder(**FAST, encoder="linear").set_callbacks(ProgressBar())
    for estimator in (watched, OutlierDetector(watched)):
        estimator.fit(X, Y).save(path)
        again = skgmje.load(path)
        np.testing.assert_array_equal(
            again.score_samples(X), estimator.score_samples(X)
        )
        assert not hasattr(again, "_skl_callbacks")
    assert watched._skl_callbacks


def test_paths_may_be_strings_and_have_any_suffix(pairs, tmp_path):
    estimator = GJEEmbedder(**FAST, encoder="identity").fit(*pairs)
    estimator.save(str(tmp_path / "model"))
    again = skgmje.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict(pairs[0]), estimator.predict(pairs[0]))


def test_saving_does_not_change_the_estimator(saved, pairs):
    fresh = GJEEmbedder(**FAST).fit(*pairs)
    assert vars(saved).keys() == vars(fresh).keys()
    np.testing.assert_array_equal(saved.transform(pairs[0]), fresh.transform(pairs[0]))


def test_metadata_requests_come_back(pairs, path):
    with config_context(enable_metadata_routing=True):
        estimator = GJEEmbedder(**FAST, encoder="identity")
        estimator.set_score_request(sample_weight="w", target_view=False)
        for asked in (estimator, OutlierDetector(estimator)):
            asked.fit(*pairs).save(path)
            again = skgmje.load(path)
            again = getattr(again, "embedder", again)
            found = again.get_metadata_routing()
            assert str(found) == str(estimator.get_metadata_routing())
            assert found.score.requests == {"sample_weight": "w", "target_view": False}
            assert again.set_fit_request(target_view=False) is again


# -------------------------------------------------------------------------- the file


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_file_has_the_permissions_of_the_umask_or_of_the_former_one(umask, path):
    estimator = GaussianMixture()
    estimator.save(path)
    assert mode(path) == 0o640
    path.chmod(0o604)
    estimator.save(path)
    assert mode(path) == 0o604
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="symbolic links need rights elsewhere")
def test_a_link_stays_and_the_file_it_points_to_is_written(path):
    link = path.with_name("link")
    link.symlink_to(path)
    GaussianMixture(3).save(link)
    assert link.is_symlink()
    assert skgmje.load(path).n_components == 3


def test_a_missing_folder_is_named(path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder '.*nowhere'"):
        GaussianMixture().save(path.parent / "nowhere" / "a.safetensors")


# -------------------------------------------------------------------------- no code


def test_a_file_holds_no_pickle(saved, path):
    content = path.read_bytes()
    assert content[:2] not in (b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK")
    with pytest.raises(ValueError):  # noqa: PT011
        list(pickletools.genops(content))
    assert b"torch" not in content
    header = header_of(path)
    assert header["class"] == "GJEEmbedder"
    assert header["skgmje_version"] == skgmje.__version__


@pytest.mark.parametrize("name", ["os.system", "load"])
def test_a_file_names_no_class_but_the_libraries_own(name, saved, path):
    rewrite(path, **{"class": name})
    with pytest.raises(ValueError, match=f"class '{name}', which is none of the esti"):
        skgmje.load(path)


def test_a_file_does_not_depend_on_the_rows(pairs, path):
    X, Y = pairs
    sizes = []
    for n_copies in (1, 20):
        views = np.tile(X, (n_copies, 1)), np.tile(Y, (n_copies, 1))
        GJEEmbedder(**FAST).fit(*views).save(path)
        sizes.append(path.stat().st_size)
    assert abs(sizes[0] - sizes[1]) < 200


# ----------------------------------------------------------------------- foreign files


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        skgmje.load(tmp_path / "nothing")


def test_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        skgmje.load(tmp_path)


FOREIGN = r"is not a file that an skgmje estimator saved, or it is incomplete"


def archive():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a.txt", "text")
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"short", b"just some text, longer than a header\n" * 20, archive()],
    ids=["empty", "short", "text", "zip"],
)
def test_files_of_another_kind(content, path):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=FOREIGN):
        skgmje.load(path)


@pytest.mark.parametrize(
    "metadata",
    [None, {"format": "pt"}, {"skgmje": "not json"}, {"skgmje": "3"}, {"skgmje": "{}"}],
)
def test_the_safetensors_of_someone_else(metadata, path):
    save_file({"weight": np.zeros((2, 2))}, path, metadata=metadata)
    with pytest.raises(ValueError, match=FOREIGN):
        skgmje.load(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_truncated_files(share, saved, path):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=FOREIGN):
        skgmje.load(path)


def test_a_file_that_lost_an_array(saved, path):
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in list(file.keys())}
    arrays.pop("/x_mean_")
    save_file(arrays, path, metadata=metadata)
    with pytest.raises(ValueError, match=FOREIGN):
        skgmje.load(path)


def test_a_newer_format(saved, path):
    rewrite(path, skgmje_format=99, skgmje_version="9.9")
    with pytest.raises(ValueError, match=r"skgmje 9\.9.* newer .* update skgmje"):
        skgmje.load(path)


def test_another_version_of_the_same_format_warns(saved, path, pairs, monkeypatch):
    monkeypatch.setattr(skgmje, "__version__", "0.2.0")
    with pytest.warns(UserWarning, match=r"0\.2\.0"):
        again = skgmje.load(path)
    np.testing.assert_array_equal(again.transform(pairs[0]), saved.transform(pairs[0]))


# --------------------------------------------------------------- what cannot be stored


def test_a_random_state_instance_is_refused_with_the_way_out(pairs, path):
    estimator = GJEEmbedder(
        encoder="identity", random_state=np.random.RandomState(0)
    ).fit(*pairs)
    with pytest.raises(TypeError, match=r"random_state holds a RandomState.*joblib"):
        estimator.save(path)
    assert not path.exists()


def test_an_augmentation_of_the_users_is_refused_with_the_way_out(pairs, path):
    estimator = GJEEmbedder(**FAST, augmentation=lambda batch: batch).fit(pairs[0])
    with pytest.raises(TypeError, match="augmentation holds a function"):
        estimator.save(path)


def test_a_failed_save_leaves_an_older_file_alone(saved, path):
    before = path.read_bytes()
    saved.set_params(random_state=np.random.RandomState(0))
    with pytest.raises(TypeError):
        saved.save(path)
    assert path.read_bytes() == before


def test_a_torch_device_as_parameter_is_refused_with_the_way_out(pairs, path):
    estimator = GJEEmbedder(**FAST, device=torch.device("cpu")).fit(*pairs)
    with pytest.raises(TypeError, match=r"device holds a device.*use a .*string"):
        estimator.save(path)


class Mine(GaussianMixture):
    pass


def test_a_subclass_is_refused_with_the_way_out(path):
    same_name = type("GaussianMixture", (GaussianMixture,), {})
    for subclass in (Mine, same_name):
        with pytest.raises(TypeError, match=r"none of skgmje's estimators.*joblib"):
            subclass().save(path)
        with pytest.raises(TypeError, match="embedder holds a"):
            OutlierDetector(subclass()).save(path)
    assert not path.exists()


class Factory:
    def __call__(self, n_features_in, embedding_dim):
        return nn.Linear(n_features_in, embedding_dim)


@pytest.mark.parametrize(
    "encoder", [Factory(), nn.Linear(5, 2)], ids=["factory", "module"]
)
def test_encoders_of_the_users_are_given_again(encoder, pairs, path):
    X, Y = pairs
    estimator = GJEEmbedder(**FAST, encoder=encoder, target_encoder="linear")
    estimator.set_params(embedding_dim=2).fit(X, Y).save(path)
    again = skgmje.load(path, encoder=encoder)
    for a, b in zip(said(estimator, X, Y), said(again, X, Y), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match=r"pass it again: load\(path, encoder="):
        skgmje.load(path)


def test_each_view_gets_its_own_encoder_again(pairs, path):
    X, Y = pairs
    context, target = nn.Linear(5, 2), nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    estimator = GJEEmbedder(**FAST, encoder=context, target_encoder=target).fit(X, Y)
    estimator.save(path)
    again = skgmje.load(path, encoder=context, target_encoder=target)
    for a, b in zip(said(estimator, X, Y), said(again, X, Y), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="target_encoder="):
        skgmje.load(path, encoder=context)


def test_a_module_for_both_views_comes_back(pairs, path):
    X, Y = pairs
    module = nn.Linear(5, 2)
    estimator = GJEEmbedder(**FAST, encoder=module).fit(X, np.hstack([Y, Y[:, :2]]))
    estimator.save(path)
    again = skgmje.load(path, encoder=module)
    np.testing.assert_array_equal(again.transform(X), estimator.transform(X))


def test_loading_leaves_no_module_behind(saved, path):
    before = set(sys.modules)
    skgmje.load(path)
    assert {name.split(".")[0] for name in set(sys.modules) - before} <= {"skgmje"}


def test_paths_of_pathlib_are_taken(saved, path, pairs):
    again = skgmje.load(Path(path))
    np.testing.assert_array_equal(again.transform(pairs[0]), saved.transform(pairs[0]))
