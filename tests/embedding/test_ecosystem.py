"""Pipelines, searches, copies, files, routing, callbacks: scikit-learn's world."""

import copy
import io
import pickle
import warnings
from functools import cache

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io
import torch
from embedding_helpers import (
    FAST,
    MAKERS,
    LinearFactory,
    answers,
    assert_same_answers,
    gje,
    gmje,
)
from sklearn import config_context
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skgmje import LDMICA, GMJEEmbedder, LinearContrastive
from skgmje.exceptions import IgnoredTargetWarning
from skgmje.mixture import ParticleBank

each_estimator = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
LEARNED = {"encoder": "mlp", "target_encoder": "linear", "embedding_dim": 2}
FOLDS = KFold(3, shuffle=True, random_state=0)


# ----------------------------------------------------------- pipelines with labels


@pytest.fixture(scope="module")
def digits():
    X, label = load_digits(return_X_y=True)
    return X[:600], label[:600]


def classifier(**options):
    embedder = gmje(n_components=3, max_iter=10, augmentation="jitter", **options)
    return make_pipeline(
        StandardScaler(), embedder, StandardScaler(), LogisticRegression()
    )


def test_labels_in_a_pipeline_are_ignored_with_a_warning(digits):
    X, label = digits
    with pytest.warns(IgnoredTargetWarning, match="target='augment'"):
        pipeline = classifier().fit(X, label)
    assert pipeline[1].target_source_ == "augment"
    assert pipeline.score(X, label) > 0.6


def test_labels_in_a_pipeline_are_ignored_silently_if_that_is_meant(digits):
    X, label = digits
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipeline = classifier(target="augment").fit(X, label)
        assert pipeline.score(X, label) > 0.6


def test_labels_do_not_change_the_embedding(digits):
    X, label = digits
    with_labels = classifier(target="augment").fit(X, label)[1]
    without = gmje(n_components=3, max_iter=10, augmentation="jitter")
    scaled = StandardScaler().fit_transform(X)
    np.testing.assert_array_equal(
        with_labels.transform(scaled), without.fit(scaled).transform(scaled)
    )


@each_estimator
def test_set_output_in_a_pipeline(make, pairs):
    X = pd.DataFrame(pairs[0], columns=list("abcde"))
    pipeline = make_pipeline(StandardScaler(), make(embedding_dim=2))
    pipeline.set_output(transform="pandas")
    Z = pipeline.fit(X, pairs[1]).transform(X)
    assert list(Z.columns) == list(pipeline.get_feature_names_out())
    assert Z.shape == (len(X), 2)


@each_estimator
@pytest.mark.parametrize(
    ("name", "frame"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)]
)
def test_set_output(make, name, frame, pairs):
    X, Y = pairs
    estimator = make(embedding_dim=2).set_output(transform=name).fit(X, Y)
    Z = estimator.transform(X)
    assert isinstance(Z, frame)
    assert list(Z.columns) == list(estimator.get_feature_names_out())
    assert isinstance(estimator.fit_transform(X, Y), frame)
    plain = make(embedding_dim=2).fit(X, Y).transform(X)
    np.testing.assert_array_equal(Z.to_numpy(), plain)


@each_estimator
def test_set_output_does_not_change_the_other_answers(make, pairs):
    X, Y = pairs
    options = {"encoder": "linear", "target_encoder": "linear"}
    plain = make(**options).fit(X, Y)
    named = make(**options).set_output(transform="pandas").fit(X, Y)
    for method in ("predict", "score_samples"):
        np.testing.assert_array_equal(
            getattr(named, method)(X), getattr(plain, method)(X)
        )
    assert isinstance(named.transform_target(Y), np.ndarray)
    assert named.score(X, Y) == plain.score(X, Y)


# -------------------------------------------------------------------- model selection


def test_grid_search_finds_the_number_of_components():
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, (600, 1))
    y = rng.choice([-1.0, 1.0], (600, 1)) * x + 0.05 * rng.normal(size=(600, 1))
    X, Y = np.hstack([x, x**2]), np.hstack([y, 2 * y + 0.05 * rng.normal(size=y.shape)])
    grid = {"n_components": [1, 2], "covariance_type": ["full", "diag"]}
    search = GridSearchCV(gmje(encoder="identity"), grid, cv=FOLDS).fit(X, Y)
    assert search.best_params_ == {"n_components": 2, "covariance_type": "full"}
    scores = dict(
        zip(
            [tuple(sorted(p.items())) for p in search.cv_results_["params"]],
            search.cv_results_["mean_test_score"],
            strict=True,
        )
    )
    worst = scores[(("covariance_type", "full"), ("n_components", 1))]
    assert search.best_score_ > worst + 0.5
    assert search.best_score_ == pytest.approx(search.score(X, Y), abs=0.1)


@each_estimator
def test_cross_val_score_of_paired_views(make, pairs):
    X, Y = pairs
    for options in ({"encoder": "identity"}, LEARNED):
        estimator = make(**options)
        scores = cross_val_score(estimator, X, Y, cv=FOLDS, error_score="raise")
        assert scores.shape == (3,)
        assert np.isfinite(scores).all()
        for score, (train, test) in zip(scores, FOLDS.split(X), strict=True):
            fitted = clone(estimator).fit(X[train], Y[train])
            assert score == pytest.approx(fitted.score(X[test], Y[test]), abs=1e-9)


@each_estimator
def test_cross_val_score_of_drawn_views(make, pairs):
    scores = cross_val_score(make(), pairs[0], cv=FOLDS, error_score="raise")
    assert np.isfinite(scores).all()


def test_learning_curve_rises(pairs):
    X, Y = pairs
    _, _, scores = learning_curve(
        gje(encoder="identity"), X, Y, cv=FOLDS, train_sizes=[12, 200]
    )
    assert scores[1].mean() > scores[0].mean()


def test_grid_search_in_two_processes_gives_the_results_of_one(pairs):
    X, Y = pairs
    grid = {"embedding_dim": [1, 2]}
    one, two = (
        GridSearchCV(
            gje(target_encoder="linear"), grid, cv=2, n_jobs=n_jobs, error_score="raise"
        ).fit(X, Y)
        for n_jobs in (1, 2)
    )
    np.testing.assert_allclose(
        one.cv_results_["mean_test_score"],
        two.cv_results_["mean_test_score"],
        atol=1e-6,
    )


# --------------------------------------------------------------------------- routing


def labels_of(X):
    return (X[:, 0] > 0).astype(int)


def test_target_view_is_routed_through_a_pipeline_with_labels(pairs):
    X, Y = pairs
    label = labels_of(X)
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(
            StandardScaler(), gje(**LEARNED), LogisticRegression()
        ).fit(X, label, target_view=Y)
    embedder = pipeline[1]
    assert embedder.target_source_ == "target_view"
    assert embedder.n_targets_in_ == 3
    expected = gje(**LEARNED).fit(StandardScaler().fit_transform(X), Y)
    scaled = pipeline[0].transform(X)
    np.testing.assert_array_equal(
        embedder.transform(scaled), expected.transform(scaled)
    )
    assert pipeline.score(X, label) > 0.6


@each_estimator
def test_a_pipeline_that_ends_in_an_embedder_routes_target_view_to_its_score(
    make, pairs
):
    X, Y = pairs
    with config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), make(encoder="identity"))
        score = pipeline.fit(X, target_view=Y).score(X, target_view=Y)
        with pytest.raises(ValueError, match="sample_weight"):
            pipeline.score(X, target_view=Y, sample_weight=np.ones(len(X)))
    scaled = StandardScaler().fit_transform(X)
    assert score == pytest.approx(
        make(encoder="identity").fit(scaled, Y).score(scaled, Y)
    )


@pytest.mark.parametrize("estimator", [LinearContrastive(), LDMICA(), ParticleBank(9)])
def test_pipelines_that_end_in_other_estimators_have_a_score(estimator, pairs):
    X, Y = pairs
    pipeline = make_pipeline(StandardScaler(), estimator).fit(X, Y)
    plain = pipeline.score(X, Y)
    with config_context(enable_metadata_routing=True):
        assert pipeline.score(X, Y) == plain
        assert np.isfinite(cross_val_score(pipeline, X, Y, cv=FOLDS)).all()


@each_estimator
def test_target_view_is_split_and_routed_in_cross_validation(make, pairs):
    X, Y = pairs
    estimator = make(encoder="identity")
    with config_context(enable_metadata_routing=True):
        routed = cross_validate(
            estimator,
            X,
            labels_of(X),
            cv=FOLDS,
            params={"target_view": Y},
            error_score="raise",
        )["test_score"]
    direct = cross_val_score(estimator, X, Y, cv=FOLDS)
    np.testing.assert_allclose(routed, direct, atol=1e-9)


@each_estimator
def test_target_view_is_routed_in_a_grid_search(make, pairs):
    X, Y = pairs
    with config_context(enable_metadata_routing=True):
        search = GridSearchCV(
            make(encoder="identity"),
            {"reg_covar": [1e-6, 1e-3]},
            cv=FOLDS,
            error_score="raise",
        ).fit(X, labels_of(X), target_view=Y)
    assert search.best_estimator_.target_source_ == "target_view"
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@each_estimator
def test_target_view_needs_no_routing_in_a_direct_fit(make, pairs):
    X, Y = pairs
    options = {"encoder": "identity"}
    for target in ("auto", "y", "augment"):
        estimator = make(**options, target=target).fit(X, labels_of(X), target_view=Y)
        assert estimator.target_source_ == "target_view"
    with_y = make(**options).fit(X, Y)
    np.testing.assert_array_equal(estimator.predict(X), with_y.predict(X))


# ------------------------------------------------------------------- clones and copies


@each_estimator
def test_a_clone_of_a_fitted_estimator_is_unfitted_and_fits_the_same(make, pairs):
    X, Y = pairs
    fitted = make(**LEARNED).fit(X, Y)
    again = clone(fitted)
    assert not hasattr(again, "density_")
    assert again.get_params() == fitted.get_params()
    assert_same_answers(answers(again.fit(X, Y), X, Y), answers(fitted, X, Y))


def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))


@each_estimator
@pytest.mark.parametrize(
    "encoder", [module(), LinearFactory()], ids=["module", "factory"]
)
def test_clones_with_encoders_of_the_users_fit_the_same(make, encoder, pairs):
    X, Y = pairs
    estimator = make(encoder=encoder, target_encoder="linear", embedding_dim=2)
    before = copy.deepcopy(encoder)
    fitted = estimator.fit(X, Y)
    again = clone(fitted).fit(X, Y)
    assert_same_answers(answers(again, X, Y), answers(fitted, X, Y))
    if isinstance(encoder, nn.Module):
        for new, old in zip(encoder.parameters(), before.parameters(), strict=True):
            assert torch.equal(new, old)
        assert encoder.training


def through_pickle(estimator, folder):
    return pickle.loads(pickle.dumps(estimator))


def through_deepcopy(estimator, folder):
    return copy.deepcopy(estimator)


def through_joblib(estimator, folder):
    joblib.dump(estimator, folder / "estimator.joblib")
    return joblib.load(folder / "estimator.joblib")


def through_memory_map(estimator, folder):
    joblib.dump(estimator, folder / "estimator.joblib")
    return joblib.load(folder / "estimator.joblib", mmap_mode="r")


def through_skops(estimator, folder):
    skops.io.dump(estimator, folder / "estimator.skops")
    path = folder / "estimator.skops"
    trusted = skops.io.get_untrusted_types(file=path)
    assert all(name.startswith("skgmje.") for name in trusted)
    return skops.io.load(path, trusted=trusted)


TRIPS = [
    through_pickle,
    through_deepcopy,
    through_joblib,
    through_memory_map,
    through_skops,
]
each_trip = pytest.mark.parametrize("trip", TRIPS, ids=lambda trip: trip.__name__[8:])
each_view = pytest.mark.parametrize("space", ["identity", "learned", "augment"])


def fit_in(space, make, pairs):
    X, Y = pairs
    if space == "augment":
        return make(target="augment").fit(X), X, None
    options = {"encoder": "identity"} if space == "identity" else LEARNED
    return make(**options).fit(X, Y), X, Y


@pytest.fixture(scope="module")
def fitted(rows_of_pairs):
    """Fit each estimator in each space once, for tests that leave it as it is."""
    return cache(lambda space, make: fit_in(space, make, rows_of_pairs))


@each_estimator
@each_trip
@each_view
def test_copies_give_the_same_answers_to_the_bit(make, trip, space, fitted, tmp_path):
    estimator, X, Y = fitted(space, make)
    again = trip(estimator, tmp_path)
    assert_same_answers(answers(again, X, Y), answers(estimator, X, Y))
    assert again.get_params() == estimator.get_params()
    assert again.loss_curve_ == estimator.loss_curve_


@each_estimator
@each_trip
def test_unfitted_estimators_survive_too(make, trip, pairs, tmp_path):
    estimator = make(**LEARNED)
    X, Y = pairs
    again = trip(estimator, tmp_path).fit(X, Y)
    np.testing.assert_array_equal(again.transform(X), estimator.fit(X, Y).transform(X))


@each_estimator
@each_trip
def test_copies_are_independent(make, trip, fitted, tmp_path):
    estimator, X, Y = fitted("learned", make)
    estimator = copy.deepcopy(estimator)
    again = trip(estimator, tmp_path)
    before = again.transform(X)
    estimator.fit(Y @ np.ones((3, 5)) + X, Y)
    np.testing.assert_array_equal(again.transform(X), before)
    again.fit(X[:100], Y[:100])


@each_estimator
@each_view
def test_a_pickle_holds_no_torch(make, space, pairs):
    assert b"torch" not in pickle.dumps(fit_in(space, make, pairs)[0])
    estimator = make(**LEARNED).partial_fit(*pairs)
    assert b"torch" not in pickle.dumps(estimator)


@each_estimator
@each_view
def test_the_size_of_a_pickle_does_not_depend_on_the_rows(make, space):
    rng = np.random.default_rng(0)
    sizes = []
    for n_samples in (200, 1000):
        views = rng.normal(size=(n_samples, 5)), rng.normal(size=(n_samples, 3))
        estimator = fit_in(space, make, views)[0]
        # Curves of EM have one number an iteration.
        estimator.loss_curve_ = estimator.loss_curve_[:1]
        sizes.append(len(pickle.dumps(estimator)))
    assert abs(sizes[1] - sizes[0]) < 100


@each_estimator
def test_the_pickle_of_a_module_encoder_gives_the_same_answers(make, pairs):
    X, Y = pairs
    estimator = make(encoder=module(), target_encoder=LinearFactory(), embedding_dim=2)
    estimator.fit(X, Y)
    again = pickle.loads(pickle.dumps(estimator))
    assert_same_answers(answers(again, X, Y), answers(estimator, X, Y))


@each_estimator
def test_a_pickle_of_another_version_warns(make, pairs, monkeypatch):
    stored = pickle.dumps(make().fit(*pairs))
    monkeypatch.setattr("skgmje.__version__", "99.0")
    with pytest.warns(UserWarning, match="99"):
        pickle.loads(stored)


# --------------------------------------------------------------------------- callbacks


class StopAfter:
    """End training after some epochs."""

    def __init__(self, n_epochs):
        self.n_epochs, self.n_seen = n_epochs, 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context, **data):
        pass

    def on_fit_task_end(self, estimator, context, **data):
        self.n_seen += context.task_name == "epoch"
        return self.n_seen >= self.n_epochs


class Recorder(StopAfter):
    """Score the fitted estimator of every epoch."""

    def __init__(self):
        super().__init__(np.inf)
        self.scores, self.names = [], []

    def on_fit_task_end(
        self, estimator, context, *, X=None, y=None, fitted_estimator=None, **data
    ):
        self.names.append(context.task_name)
        if context.task_name == "epoch":
            self.scores.append(fitted_estimator.score(X, y))


@each_estimator
def test_a_callback_ends_training(make, pairs):
    X, Y = pairs
    options = {"max_iter": 20, "early_stopping": False, **LEARNED}
    estimator = make(**options).set_callbacks(StopAfter(3)).fit(X, Y)
    assert estimator.n_iter_ == 3
    assert len(estimator.loss_curve_) == 3
    assert np.isfinite(estimator.score(X, Y))


@each_estimator
def test_a_callback_sees_the_estimator_of_every_epoch(make, pairs):
    X, Y = pairs
    recorder = Recorder()
    estimator = make(max_iter=4, early_stopping=False, **LEARNED)
    estimator.set_callbacks(recorder).fit(X, Y)
    assert recorder.names.count("epoch") == 4
    assert len(set(recorder.scores)) == 4
    # The last epoch's estimator is the fitted one.
    assert recorder.scores[-1] == pytest.approx(estimator.score(X, Y), abs=1e-9)


@each_estimator
def test_callbacks_do_not_change_the_fit(make, pairs):
    X, Y = pairs
    plain = make(**LEARNED).fit(X, Y)
    watched = make(**LEARNED).set_callbacks(Recorder()).fit(X, Y)
    assert_same_answers(answers(watched, X, Y), answers(plain, X, Y))


@each_estimator
def test_a_progress_bar_runs(make, pairs, capsys):
    make().set_callbacks(ProgressBar()).fit(*pairs)
    assert type(make()).__name__ in capsys.readouterr().out


def own_score(estimator, X, y):
    return estimator.score(X, y)


@each_estimator
def test_a_scoring_monitor_logs_every_epoch(make, pairs):
    monitor = ScoringMonitor(scoring={"own": own_score})
    estimator = make(max_iter=3, early_stopping=False, **LEARNED)
    estimator.set_callbacks(monitor).fit(*pairs)
    log = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(log) == 3
    assert log[-1]["own"] == pytest.approx(estimator.score(*pairs), abs=1e-9)


def test_a_scoring_monitor_logs_inside_a_grid_search(pairs):
    monitor = ScoringMonitor(scoring={"own": own_score})
    estimator = gje(max_iter=2, **LEARNED).set_callbacks(monitor)
    search = GridSearchCV(estimator, {"reg_covar": [1e-6, 1e-3]}, cv=2, refit=False)
    search.fit(*pairs)
    rows = [
        row
        for log in monitor.get_logs(select="all")
        for row in log.data
        if row["task_name"] == "epoch"
    ]
    assert len(rows) == 2 * 2 * 2
    assert all(np.isfinite(row["own"]) for row in rows)


def test_a_progress_bar_runs_inside_a_grid_search(pairs, capsys):
    estimator = gje(max_iter=2, **LEARNED)
    search = GridSearchCV(estimator, {"reg_covar": [1e-6, 1e-3]}, cv=2)
    search.set_callbacks(ProgressBar()).fit(*pairs)
    assert "GridSearchCV" in capsys.readouterr().out


def test_the_representations_of_a_fitted_estimator_can_be_drawn(pairs):
    estimator = GMJEEmbedder(3, **FAST).fit(*pairs)
    assert repr(estimator).startswith("GMJEEmbedder(")
    assert "GMJEEmbedder" in estimator._repr_html_()


def test_pickles_of_every_protocol_load(pairs):
    X, Y = pairs
    estimator = gje().fit(X, Y)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        stream = io.BytesIO()
        pickle.dump(estimator, stream, protocol=protocol)
        stream.seek(0)
        again = pickle.load(stream)
        np.testing.assert_array_equal(again.transform(X), estimator.transform(X))
