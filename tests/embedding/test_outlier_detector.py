"""Outliers under fitted densities: rows that are rare, and pairs that do not fit."""

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.utils.estimator_checks import parametrize_with_checks

from skgmje import (
    GaussianMixture,
    GaussianProcessEmbedder,
    GJEEmbedder,
    GMJEEmbedder,
    GrowingNeuralGas,
    JEPAEmbedder,
    LinearContrastive,
    MDNEmbedder,
    OutlierDetector,
    ParticleBank,
    VJEEmbedder,
    load,
)

FAST = {"max_iter": 1, "batch_size": 64, "hidden_layer_sizes": (8,), "random_state": 0}
LEARNED = {"embedding_dim": 2, "target_encoder": "linear"}
EMBEDDERS = {
    "gje": GJEEmbedder(encoder="identity"),
    "gje learned": GJEEmbedder(**FAST, **LEARNED),
    "gmje": GMJEEmbedder(2, encoder="identity", random_state=0),
    "gmje learned": GMJEEmbedder(2, **FAST, **LEARNED),
    "mdn": MDNEmbedder(2, **FAST),
    "mdn learned": MDNEmbedder(2, **FAST, **LEARNED),
    "jepa": JEPAEmbedder(**FAST, target_encoder="identity"),
    "gaussian process": GaussianProcessEmbedder(n_points=50, random_state=0),
    "linear contrastive": LinearContrastive("quadratic_target"),
}
each_embedder = pytest.mark.parametrize("name", EMBEDDERS)


@parametrize_with_checks(
    [
        OutlierDetector(),
        OutlierDetector(GaussianMixture(2, random_state=0), contamination=0.05),
        OutlierDetector(ParticleBank(32, random_state=0)),
        OutlierDetector(GJEEmbedder(encoder="identity", random_state=0)),
        OutlierDetector(GJEEmbedder(embedding_dim=2, **FAST)),
    ]
)
def test_detectors_pass_the_checks(estimator, check):
    check(estimator)


@pytest.fixture
def swapped():
    """Pairs of which the last tenth got the targets of other rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    Y = X @ rng.normal(size=(3, 3)) + 0.1 * rng.normal(size=(300, 3))
    Y[-30:] = Y[-30:][::-1].copy()
    return X, Y, np.arange(300) >= 270


# ------------------------------------------------------------------------- densities


@each_embedder
def test_the_three_densities_add_up(name, pairs):
    X, Y = pairs
    scores = {
        density: OutlierDetector(EMBEDDERS[name], density=density)
        .fit(X, Y)
        .score_samples(X, Y)
        for density in ("marginal", "conditional", "joint")
    }
    assert_allclose(scores["joint"], scores["marginal"] + scores["conditional"])


@pytest.mark.parametrize("name", ["gje", "gje learned", "gmje", "gmje learned"])
def test_the_joint_density_is_that_of_joint_models(name, pairs):
    X, Y = pairs
    detector = OutlierDetector(EMBEDDERS[name], density="joint").fit(X, Y)
    embedder = detector.embedder_
    z = np.hstack([embedder.transform(X), embedder.transform_target(Y)])
    expected = embedder.density_.log_prob(torch.from_numpy(z))
    assert_allclose(detector.score_samples(X, Y), expected)


@pytest.mark.parametrize("name", ["mdn learned", "gmje learned"])
def test_the_conditional_density_is_that_of_the_target_embedding(name, pairs):
    X, Y = pairs
    detector = OutlierDetector(EMBEDDERS[name], density="conditional").fit(X, Y)
    embedder = detector.embedder_
    z_t = torch.from_numpy(embedder.transform_target(Y))
    expected = embedder.conditional(X).log_prob(z_t)
    assert_allclose(detector.score_samples(X, Y), expected.detach())


@pytest.mark.parametrize("name", ["gje", "mdn", "linear contrastive"])
def test_an_identity_target_keeps_the_units_of_y(name, pairs):
    X, Y = pairs
    detector = OutlierDetector(EMBEDDERS[name], density="conditional").fit(X, Y)
    assert_array_equal(
        detector.score_samples(X, Y), detector.embedder_.score_samples(X, Y)
    )


def test_the_marginal_is_that_of_the_embedder_and_needs_no_target(pairs):
    X, Y = pairs
    for embedder in (GaussianMixture(2, random_state=0), KernelDensity()):
        detector = OutlierDetector(embedder).fit(X)
        assert_array_equal(detector.score_samples(X), embedder.fit(X).score_samples(X))
    detector = OutlierDetector(EMBEDDERS["gje"]).fit(X, Y)
    assert_array_equal(detector.predict(X), detector.predict(X, Y))


# -------------------------------------------------------------------------- outliers


@pytest.mark.parametrize("novelty", ["directional", "density"])
def test_the_joint_density_has_no_score_of_another_kind_in_it(novelty, pairs):
    X, Y = pairs
    vje = VJEEmbedder(2, novelty=novelty, **FAST)
    detector = OutlierDetector(vje, density="joint").fit(X, Y)
    fitted = detector.embedder_
    both = np.hstack([fitted.transform(X), fitted.transform_target(Y)])
    expected = fitted.density_.log_prob(torch.from_numpy(both))
    assert_allclose(detector.score_samples(X, Y), expected)


def test_a_refused_fit_leaves_a_detector_as_it_was(pairs):
    X, Y = pairs
    detector = OutlierDetector(EMBEDDERS["gje"], density="joint").fit(X, Y)
    before = detector.score_samples(X, Y)
    with pytest.raises(ValueError, match="needs a target view"):
        detector.fit(X[:50])
    assert_array_equal(detector.score_samples(X, Y), before)


def test_rows_far_away_are_outliers(pairs):
    X, _ = pairs
    for embedder in (None, GaussianMixture(2, random_state=0), ParticleBank(100)):
        detector = OutlierDetector(embedder, contamination=0.05).fit(X)
        assert_array_equal(detector.predict(X + 50), -1)
        assert detector.predict(X.mean(0, keepdims=True)) == 1


def test_pairs_that_do_not_fit_are_found_by_the_conditional_alone(swapped):
    X, Y, is_outlier = swapped
    found = {}
    for density in ("marginal", "conditional", "joint"):
        detector = OutlierDetector(EMBEDDERS["gje"], density=density)
        scores = detector.fit(X, Y).score_samples(X, Y)
        found[density] = roc_auc_score(is_outlier, -scores)
    assert found["conditional"] > 0.95
    assert found["joint"] > 0.8
    assert 0.3 < found["marginal"] < 0.7


@pytest.mark.parametrize("contamination", [0.01, 0.1, 0.5])
def test_the_share_of_outliers_is_the_contamination(contamination, pairs):
    X, Y = pairs
    detector = OutlierDetector(
        EMBEDDERS["gje"], density="joint", contamination=contamination
    )
    label = detector.fit_predict(X, Y)
    assert set(label) == {-1, 1}
    assert (label == -1).sum() == 300 * contamination
    assert_array_equal(label, detector.predict(X, Y))
    decision = detector.decision_function(X, Y)
    assert_array_equal(label == -1, decision < 0)
    assert_allclose(decision, detector.score_samples(X, Y) - detector.offset_)


# ------------------------------------------------------------------------ conventions


def test_the_embedder_is_cloned(pairs):
    embedder = GJEEmbedder(encoder="identity")
    detector = OutlierDetector(embedder).fit(*pairs)
    assert not hasattr(embedder, "density_")
    assert detector.embedder is embedder
    assert detector.n_features_in_ == 5
    assert not hasattr(detector, "feature_names_in_")


def test_names_of_columns_are_those_of_the_embedder(pairs):
    X, Y = (
        pd.DataFrame(view, columns=list("abcde")[: view.shape[1]]) for view in pairs
    )
    for density in ("marginal", "joint"):
        detector = OutlierDetector(EMBEDDERS["gje learned"], density=density).fit(X, Y)
        assert list(detector.feature_names_in_) == list("abcde")
        assert detector.predict(X, Y).shape == (300,)


def test_parameters_of_the_embedder_can_be_searched(pairs):
    X, _ = pairs
    search = GridSearchCV(
        OutlierDetector(GaussianMixture(random_state=0)),
        {"embedder__n_components": [1, 2]},
        scoring=lambda detector, X, y=None: detector.score_samples(X).mean(),
    ).fit(X)
    assert isinstance(search.best_estimator_, OutlierDetector)


@pytest.mark.parametrize("name", ["gje learned", "gmje", "mdn", "linear contrastive"])
def test_files_bring_the_detector_back(name, pairs, tmp_path):
    X, Y = pairs
    detector = OutlierDetector(EMBEDDERS[name], density="joint").fit(X, Y)
    detector.save(tmp_path / "detector.safetensors")
    again = load(tmp_path / "detector.safetensors")
    assert again.offset_ == detector.offset_
    assert_array_equal(again.score_samples(X, Y), detector.score_samples(X, Y))
    assert repr(again.embedder) == repr(detector.embedder)


def test_missing_values_are_for_those_who_take_them(pairs):
    X = pairs[0].copy()
    X[::7, 1] = np.nan
    assert set(OutlierDetector(GaussianMixture()).fit(X).predict(X)) == {-1, 1}
    with pytest.raises(ValueError, match="NaN"):
        OutlierDetector(ParticleBank()).fit(X)


# ---------------------------------------------------------------------------- errors


def test_pairs_need_a_target_view(pairs):
    X, Y = pairs
    for density in ("conditional", "joint"):
        detector = OutlierDetector(EMBEDDERS["gje"], density=density)
        with pytest.raises(ValueError, match="needs a target view: pass y"):
            detector.fit(X)
        detector.fit(X, Y)
        for method in (detector.predict, detector.decision_function):
            with pytest.raises(ValueError, match="needs a target view: pass y"):
                method(X)
        with pytest.raises(ValueError, match="inconsistent"):
            detector.predict(X, Y[:10])
    augmented = GJEEmbedder(embedding_dim=2, target="augment", **FAST)
    with pytest.raises(ValueError, match="needs a target view"):
        OutlierDetector(augmented, density="joint").fit(X, Y)
    with pytest.raises(ValueError, match="use density='marginal'"):
        OutlierDetector(GaussianMixture(), density="joint").fit(X, Y)


class NoDensity(BaseEstimator):
    def fit(self, X, y=None):
        return self


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embedder": NoDensity()}, "'embedder' parameter"),
        ({"embedder": GrowingNeuralGas()}, "'embedder' parameter"),
        ({"density": "pair"}, "'density' parameter"),
        ({"contamination": 0}, "'contamination' parameter"),
        ({"contamination": 0.6}, "'contamination' parameter"),
    ],
)
def test_bad_parameters_are_refused(options, message, pairs):
    with pytest.raises(ValueError, match=message):
        OutlierDetector(**options).fit(pairs[0])
