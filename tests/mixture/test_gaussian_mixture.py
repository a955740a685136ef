"""The estimator: a drop-in for scikit-learn's, and what comes on top."""

import inspect
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
import sklearn.mixture
import torch
from mixture_strategies import (
    COVARIANCE_TYPES,
    assert_close,
    double,
    textbook_condition,
    textbook_log_joint,
)
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from skgmje import GaussianMixture, MultivariateNormalMixture, ParticleBank
from skgmje.mixture import GrowingNeuralGas

SKLEARN = sklearn.mixture.GaussianMixture
STARTS = ("kmeans", "k-means++", "random", "random_from_data")
each_covariance_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
each_start = pytest.mark.parametrize("init_params", STARTS)


def make_clusters(seed=0, n_samples=240, n_features=3):
    """Three overlapping clusters of different shapes and sizes."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.normal(size=(size, n_features)) @ rng.normal(size=(n_features, n_features))
        + 3 * rng.normal(size=n_features)
        for size in (n_samples // 2, n_samples // 3, n_samples // 6)
    ]
    return rng.permutation(np.concatenate(parts))


@pytest.fixture(scope="module")
def X():
    return make_clusters()


@pytest.fixture(scope="module")
def fitted(X):
    """One fitted mixture of each covariance type."""
    return {
        covariance_type: GaussianMixture(
            3, covariance_type=covariance_type, random_state=0, max_iter=300
        ).fit(X)
        for covariance_type in COVARIANCE_TYPES
    }


def quietly(function, *args):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return function(*args)


def fit_both(X, **parameters):
    """Fit scikit-learn's mixture and ours; return them with their labels."""
    pair = SKLEARN(**parameters), GaussianMixture(**parameters)
    labels = [quietly(mixture.fit_predict, X) for mixture in pair]
    return *pair, *labels


def starts_from_points(theirs):
    return theirs.init_params in ("k-means++", "random_from_data")


def bounds_of_normalised_start(theirs, X):
    """Return scikit-learn's bounds as they are if the start's weights sum to one.

    From K points its weights sum to K / n: the first bound is too low by a constant.
    """
    bounds = np.array(theirs.lower_bounds_)
    if starts_from_points(theirs) and theirs.weights_init is None:
        bounds[:1] -= np.log(theirs.n_components / len(X))
    return bounds


def assert_same_fit(theirs, ours, X, tol=1e-6):
    for name in (
        *("means_", "covariances_", "precisions_", "precisions_cholesky_"),
        *(("weights_",) if theirs.n_iter_ else ()),
    ):
        actual, expected = getattr(ours, name), getattr(theirs, name)
        assert actual.shape == expected.shape, name
        # Relative to the largest entry: some are zero up to rounding.
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            actual, expected, rtol=tol, atol=tol * scale, err_msg=name
        )
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.converged_ == theirs.converged_
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    if theirs.n_iter_ == 0:
        assert ours.lower_bounds_ == theirs.lower_bounds_ == []
        assert ours.lower_bound_ == theirs.lower_bound_
        return
    expected = bounds_of_normalised_start(theirs, X)
    # A start from points has variances of reg_covar alone; theirs, differences of
    # squares, are off by their rounding.
    first_tol = 1e-6 if starts_from_points(theirs) else 1e-9
    np.testing.assert_allclose(ours.lower_bounds_[:1], expected[:1], rtol=first_tol)
    np.testing.assert_allclose(ours.lower_bounds_[1:], expected[1:], rtol=1e-9)
    assert ours.lower_bound_ == ours.lower_bounds_[-1]
    np.testing.assert_allclose(ours.score(X), theirs.score(X), rtol=1e-9)


@each_covariance_type
@pytest.mark.parametrize("init_params", ["k-means++", "random_from_data"])
def test_weights_of_a_start_from_single_points_sum_to_one(
    X, covariance_type, init_params
):
    mixture = GaussianMixture(
        3, covariance_type=covariance_type, init_params=init_params, max_iter=0
    ).fit(X)
    np.testing.assert_allclose(mixture.weights_, np.full(3, 1 / 3), rtol=1e-12)


# ---------------------------------------------------------- parity with scikit-learn


@each_covariance_type
@each_start
@pytest.mark.parametrize("seed", [0, 1])
def test_same_fit_from_the_same_start(covariance_type, init_params, seed):
    X = make_clusters(seed)
    theirs, ours, their_labels, our_labels = fit_both(
        X,
        n_components=3,
        covariance_type=covariance_type,
        init_params=init_params,
        random_state=seed,
    )
    assert_same_fit(theirs, ours, X)
    np.testing.assert_array_equal(our_labels, their_labels)


@each_covariance_type
@pytest.mark.parametrize("n_components", [1, 5])
def test_same_fit_for_other_numbers_of_components(X, covariance_type, n_components):
    theirs, ours, *_ = fit_both(
        X, n_components=n_components, covariance_type=covariance_type, random_state=0
    )
    assert_same_fit(theirs, ours, X)


@each_covariance_type
@each_start
@pytest.mark.parametrize("max_iter", [0, 1, 2])
def test_same_fit_when_stopped_early(X, covariance_type, init_params, max_iter):
    theirs, ours, *_ = fit_both(
        X,
        n_components=3,
        covariance_type=covariance_type,
        init_params=init_params,
        max_iter=max_iter,
        random_state=0,
    )
    assert ours.n_iter_ == max_iter
    assert_same_fit(theirs, ours, X)
    if max_iter == 0:
        shares = theirs.weights_ / theirs.weights_.sum()
        np.testing.assert_allclose(ours.weights_, shares, rtol=1e-9)


@each_covariance_type
@pytest.mark.parametrize("max_iter", [1, 100])
def test_same_best_of_several_starts(X, covariance_type, max_iter):
    theirs, ours, *_ = fit_both(
        X,
        n_components=4,
        covariance_type=covariance_type,
        init_params="random_from_data",
        n_init=3,
        max_iter=max_iter,
        random_state=0,
    )
    assert_same_fit(theirs, ours, X)


def test_same_start_is_kept_of_several_without_iterations(X):
    theirs, ours, *_ = fit_both(
        X,
        n_components=3,
        init_params="random_from_data",
        n_init=3,
        max_iter=0,
        random_state=0,
    )
    assert_same_fit(theirs, ours, X)


def initial_parameters(covariance_type):
    rng = np.random.default_rng(7)
    factors = rng.normal(size=(3, 3, 3))
    precisions = factors @ factors.transpose(0, 2, 1) + np.eye(3)
    diagonals = np.einsum("kii->ki", precisions)
    return {
        "weights_init": [0.2, 0.3, 0.5],
        "means_init": 2 * rng.normal(size=(3, 3)),
        "precisions_init": {
            "full": precisions,
            "tied": precisions[0],
            "diag": diagonals,
            "spherical": diagonals[:, 0],
        }[covariance_type],
    }


@each_covariance_type
@pytest.mark.parametrize(
    "names",
    [
        ("weights_init",),
        ("means_init",),
        ("precisions_init",),
        ("means_init", "precisions_init"),
        ("weights_init", "means_init", "precisions_init"),
    ],
    ids=lambda names: "+".join(names).replace("_init", ""),
)
def test_same_fit_from_given_parameters(X, covariance_type, names):
    given = initial_parameters(covariance_type)
    theirs, ours, *_ = fit_both(
        X,
        n_components=3,
        covariance_type=covariance_type,
        random_state=0,
        **{name: given[name] for name in names},
    )
    assert_same_fit(theirs, ours, X)


@each_covariance_type
def test_all_given_parameters_are_the_start(X, covariance_type):
    given = initial_parameters(covariance_type)
    mixture = GaussianMixture(3, covariance_type=covariance_type, max_iter=0, **given)
    mixture.fit(X)
    assert mixture.n_iter_ == 0
    assert_close(mixture.weights_, given["weights_init"])
    assert_close(mixture.means_, given["means_init"])
    assert_close(mixture.precisions_, given["precisions_init"])


@pytest.mark.parametrize("init_params", ["kmeans", "short_runs"])
def test_given_means_name_the_components(init_params):
    rng = np.random.default_rng(0)
    means = np.array([[10.0, 0.0], [0.0, 0.0], [0.0, 10.0]])
    X = np.concatenate([rng.normal(mean, 1, size=(50, 2)) for mean in means])
    mixture = GaussianMixture(
        3, means_init=means, init_params=init_params, random_state=0
    ).fit(X)
    # Standard errors of the means are 0.14.
    np.testing.assert_allclose(mixture.means_, means, atol=0.7)


@each_covariance_type
def test_warm_start_goes_on_like_scikit_learn(X, covariance_type):
    pair = [
        cls(
            3,
            covariance_type=covariance_type,
            warm_start=True,
            max_iter=2,
            random_state=0,
        )
        for cls in (SKLEARN, GaussianMixture)
    ]
    scores = []
    for _ in range(4):
        for mixture in pair:
            quietly(mixture.fit, X)
        assert_same_fit(*pair, X)
        scores.append(pair[1].score(X))
    assert np.all(np.diff(scores) > 0)


@each_covariance_type
@pytest.mark.parametrize("init_params", ["kmeans", "random"])
def test_float32_samples_are_fitted_in_float64(X, covariance_type, init_params):
    X32 = X.astype(np.float32)
    parameters = {
        "n_components": 3,
        "covariance_type": covariance_type,
        "init_params": init_params,
        "random_state": 0,
    }
    ours = GaussianMixture(**parameters).fit(X32)
    theirs = SKLEARN(**parameters).fit(X32.astype(np.float64))
    assert ours.means_.dtype == np.float64
    # Random responsibilities start as float32 numbers, of seven digits.
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        ours.covariances_, theirs.covariances_, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(ours.score(X32), theirs.score(X32), rtol=1e-6)
    np.testing.assert_array_equal(ours.predict(X32), theirs.predict(X32))


@each_covariance_type
def test_float32_fit_is_close_to_the_one_of_scikit_learn(X, covariance_type):
    X32 = X.astype(np.float32)
    theirs, ours, their_labels, our_labels = fit_both(
        X32, n_components=3, covariance_type=covariance_type, random_state=0
    )
    # Theirs rounds at seven digits in every iteration.
    np.testing.assert_allclose(ours.means_, theirs.means_, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours.score(X32), theirs.score(X32), rtol=1e-5)
    np.testing.assert_array_equal(our_labels, their_labels)


@each_covariance_type
def test_same_answers_about_new_samples(fitted, X, covariance_type):
    ours = fitted[covariance_type]
    theirs = SKLEARN(
        3, covariance_type=covariance_type, random_state=0, max_iter=300
    ).fit(X)
    new = make_clusters(5, n_samples=60)
    for method in ("predict_proba", "score_samples", "score", "bic", "aic"):
        actual, expected = getattr(ours, method)(new), getattr(theirs, method)(new)
        np.testing.assert_allclose(
            actual, expected, rtol=1e-6, atol=1e-9, err_msg=method
        )
        assert type(actual) is type(expected), method
    np.testing.assert_array_equal(ours.predict(new), theirs.predict(new))


def test_constructor_is_the_one_of_scikit_learn_and_more():
    theirs = inspect.signature(SKLEARN.__init__).parameters
    ours = dict(inspect.signature(GaussianMixture.__init__).parameters)
    for name in ("device", "acceleration"):
        parameter = ours.pop(name)
        assert parameter.default is None
        assert parameter.kind is parameter.KEYWORD_ONLY
    assert {name: p.default for name, p in ours.items()} == {
        name: p.default for name, p in theirs.items()
    }
    assert {name: p.kind for name, p in ours.items()} == {
        name: p.kind for name, p in theirs.items()
    }


def test_fitted_attributes_are_the_ones_of_scikit_learn(X):
    theirs, ours, *_ = fit_both(X, n_components=2, random_state=0)
    fitted_names = {name for name in vars(theirs) if name.endswith("_")}
    assert {name for name in vars(ours) if name.endswith("_")} == fitted_names


@pytest.mark.parametrize("max_iter", [1, 100])
def test_progress_is_printed_like_scikit_learn(X, capsys, max_iter):
    printed = []
    for cls in (SKLEARN, GaussianMixture):
        mixture = cls(
            3,
            n_init=2,
            max_iter=max_iter,
            random_state=0,
            verbose=1,
            verbose_interval=2,
        )
        quietly(mixture.fit, X)
        printed.append(capsys.readouterr().out)
    assert "Initialization 1" in printed[0]
    assert printed[1] == printed[0]


def test_nothing_is_printed_by_default(X, capsys):
    for init_params in ("kmeans", "short_runs"):
        GaussianMixture(2, init_params=init_params, random_state=0).fit(X)
    assert capsys.readouterr() == ("", "")


# -------------------------------------------------------------- errors and warnings


def outcome(function):
    """Return the error that a call raises and the warnings before it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            function()
        except Exception as error:
            return error, [str(w.message) for w in caught]
    return None, [(w.category, str(w.message)) for w in caught]


def assert_same_error(call):
    """Compare what `call(cls)` raises for scikit-learn's class and for ours."""
    theirs, _ = outcome(lambda: call(SKLEARN))
    ours, _ = outcome(lambda: call(GaussianMixture))
    assert theirs is not None
    assert isinstance(ours, type(theirs))
    assert str(ours) == str(theirs)


ROWS = make_clusters(n_samples=60)


def with_entry(value):
    changed = ROWS.astype(np.result_type(ROWS, type(value)))
    changed[3, 1] = value
    return changed


@pytest.mark.parametrize(
    "samples",
    [
        ROWS[:2],
        ROWS[:1],
        ROWS[:0],
        ROWS[:, :0],
        ROWS[:, 0],
        ROWS[None],
        with_entry(np.inf),
        with_entry(1j),
        ROWS.astype(str).astype(object) + "x",
        scipy.sparse.csr_array(ROWS),
        3.0,
        None,
    ],
    ids=[
        *("fewer rows than components", "one row", "no rows", "no columns", "1-D"),
        *("3-D", "infinity", "complex", "strings", "sparse"),
        *("a number", "None"),
    ],
)
def test_bad_samples_raise_the_error_of_scikit_learn(samples):
    assert_same_error(lambda cls: cls(3).fit(samples))


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples"])
@pytest.mark.parametrize(
    "samples",
    [ROWS[:, :2], with_entry(np.inf), ROWS[0], scipy.sparse.csr_array(ROWS)],
    ids=["another width", "infinity", "1-D", "sparse"],
)
def test_bad_new_samples_raise_the_error_of_scikit_learn(method, samples):
    assert_same_error(
        lambda cls: getattr(cls(2, random_state=0).fit(ROWS), method)(samples)
    )


def test_column_names_in_another_order_raise_the_error_of_scikit_learn():
    frame = pd.DataFrame(ROWS, columns=["a", "b", "c"])
    assert_same_error(
        lambda cls: cls(2, random_state=0).fit(frame).predict(frame[["b", "a", "c"]])
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {"n_components": 0},
        {"n_components": 1.5},
        {"covariance_type": "round"},
        {"tol": -1.0},
        {"reg_covar": -1e-6},
        {"max_iter": -1},
        {"n_init": 0},
        {"random_state": "seed"},
        {"warm_start": "yes"},
        {"weights_init": [0.5, 0.25, 0.25]},
        {"weights_init": [0.5, 0.6]},
        {"weights_init": [1.5, -0.5]},
        {"means_init": [[0.0, 0.0], [1.0, 1.0]]},
        {"means_init": np.zeros((3, 3))},
        {"precisions_init": np.ones((2, 3))},
        {"precisions_init": [[[1.0, 2.0, 0], [2.0, 1.0, 0], [0, 0, 1.0]]] * 2},
        {"precisions_init": [[[1.0, 0.5, 0], [0, 1.0, 0], [0, 0, 1.0]]] * 2},
        {"precisions_init": np.eye(2), "covariance_type": "tied"},
        {"precisions_init": -np.eye(3), "covariance_type": "tied"},
        {"precisions_init": np.zeros((2, 3)), "covariance_type": "diag"},
        {"precisions_init": [1.0, -1.0], "covariance_type": "spherical"},
    ],
    ids=str,
)
def test_bad_parameters_raise_the_error_of_scikit_learn(parameters):
    assert_same_error(lambda cls: cls(**{"n_components": 2, **parameters}).fit(ROWS))


def test_unknown_start_is_refused_with_the_list_of_starts():
    with pytest.raises(ValueError, match="'short_runs'"):
        GaussianMixture(init_params="guess").fit(ROWS)


@each_covariance_type
@pytest.mark.parametrize(
    "samples",
    [np.zeros((20, 2)), np.column_stack([ROWS[:20, 0], np.zeros(20)])],
    ids=["equal rows", "constant column"],
)
def test_singular_covariance_raises_the_error_of_scikit_learn(covariance_type, samples):
    if covariance_type == "spherical" and samples[:, 0].std() > 0:
        samples = samples[:, 1:]  # their mean variance is positive
    assert_same_error(
        lambda cls: cls(1, covariance_type=covariance_type, reg_covar=0.0).fit(samples)
    )


@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "score", "score_samples", "bic", "aic"]
)
def test_unfitted_mixture_raises_the_error_of_scikit_learn(method):
    assert_same_error(lambda cls: getattr(cls(), method)(ROWS))


@pytest.mark.parametrize(
    "call",
    [
        lambda mixture: mixture.sample(),
        lambda mixture: mixture.condition([0], [[0.0]]),
        lambda mixture: mixture.marginal([0]),
        lambda mixture: mixture.density_,
    ],
    ids=["sample", "condition", "marginal", "density_"],
)
def test_unfitted_mixture_answers_nothing(call):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        call(GaussianMixture())


@pytest.mark.parametrize("method", ["fit", "fit_predict"])
def test_no_convergence_warns_like_scikit_learn(X, method):
    found = []
    for cls in (SKLEARN, GaussianMixture):
        mixture = cls(3, max_iter=1, tol=1e-9, random_state=0)
        found.append(outcome(lambda mixture=mixture: getattr(mixture, method)(X)))
        assert not mixture.converged_
    assert found[0] == found[1]
    ((category, message),) = found[1][1]
    assert category is ConvergenceWarning
    assert "did not converge" in message


def test_no_warning_without_iterations(X):
    mixture = GaussianMixture(3, max_iter=0, random_state=0).fit(X)
    assert not mixture.converged_
    assert mixture.lower_bounds_ == []


# ----------------------------------------------------------- scikit-learn's ecosystem


@each_covariance_type
@pytest.mark.parametrize("warm_start", [False, True])
def test_acceleration_finds_the_same_optimum_in_fewer_iterations(
    covariance_type, warm_start
):
    X = make_clusters(2, n_samples=600)
    plain, fast = (
        GaussianMixture(
            3,
            covariance_type=covariance_type,
            tol=1e-9,
            max_iter=5000,
            random_state=0,
            warm_start=warm_start,
            acceleration=acceleration,
        ).fit(X)
        for acceleration in (None, "quasi-newton")
    )
    assert plain.n_iter_ > 15
    assert fast.n_iter_ < 0.75 * plain.n_iter_
    assert fast.converged_
    assert fast.lower_bound_ > plain.lower_bound_ - 1e-7
    assert np.diff(fast.lower_bounds_).min() >= 0.0
    np.testing.assert_allclose(fast.means_, plain.means_, rtol=1e-2, atol=1e-2)
    if warm_start:
        assert fast.fit(X).n_iter_ < 5


def test_acceleration_that_runs_out_keeps_the_best(X):
    mixture = GaussianMixture(
        3, max_iter=4, tol=0.0, random_state=0, acceleration="quasi-newton"
    )
    quietly(mixture.fit, X)
    assert mixture.n_iter_ == 4
    assert mixture.score(X) >= mixture.lower_bound_


@parametrize_with_checks(
    [
        *(
            GaussianMixture(covariance_type=covariance_type, init_params=init_params)
            for covariance_type in COVARIANCE_TYPES
            for init_params in (*STARTS, "short_runs")
        ),
        GaussianMixture(acceleration="quasi-newton"),
    ]
)
def test_estimator_checks(estimator, check):
    check(estimator)


@each_covariance_type
def test_pickled_mixture_gives_the_same_answers(fitted, X, covariance_type):
    mixture = fitted[covariance_type]
    again = pickle.loads(pickle.dumps(mixture))
    np.testing.assert_array_equal(again.score_samples(X), mixture.score_samples(X))
    np.testing.assert_array_equal(
        again.sample(5, random_state=0)[0], mixture.sample(5, random_state=0)[0]
    )


def test_clone_keeps_the_parameters_and_forgets_the_fit(X):
    mixture = GaussianMixture(
        3, covariance_type="diag", init_params="short_runs", device="cpu"
    ).fit(X)
    again = clone(mixture)
    assert again.get_params() == mixture.get_params()
    assert not hasattr(again, "means_")


def test_grid_search_picks_what_it_picks_for_scikit_learn(X):
    grid = {"n_components": [1, 2, 3], "covariance_type": ["full", "spherical"]}
    ours, theirs = (
        GridSearchCV(cls(random_state=0), grid, cv=3).fit(X)
        for cls in (GaussianMixture, SKLEARN)
    )
    assert ours.best_params_ == theirs.best_params_
    np.testing.assert_allclose(
        ours.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"]
    )


def test_pipeline_scores_and_predicts(X):
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(3, random_state=0))
    labels = pipeline.fit_predict(X)
    np.testing.assert_array_equal(pipeline.predict(X), labels)
    mixture = GaussianMixture(3, random_state=0).fit(StandardScaler().fit_transform(X))
    assert pipeline.score(X) == pytest.approx(mixture.score(pipeline[0].transform(X)))


class Duck:
    """Anything with the array protocol."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype=dtype)


@pytest.mark.parametrize(
    "convert",
    [
        lambda X: X.tolist(),
        lambda X: [tuple(row) for row in X],
        Duck,
        pd.DataFrame,
        torch.from_numpy,
        np.asfortranarray,
        lambda X: X[::-1][::-1],
        lambda X: X.astype(X.dtype.newbyteorder()),
    ],
    ids=[
        *("list", "tuples", "duck", "frame", "tensor"),
        *("fortran", "reversed", "byte-swapped"),
    ],
)
def test_array_likes_are_fitted_like_arrays(X, convert):
    expected = GaussianMixture(2, random_state=0).fit(X)
    actual = GaussianMixture(2, random_state=0).fit(convert(X))
    np.testing.assert_allclose(actual.means_, expected.means_, rtol=1e-12)
    np.testing.assert_allclose(
        actual.score_samples(convert(X)), expected.score_samples(X), rtol=1e-12
    )


def test_read_only_samples_are_fitted_and_left_alone(X):
    frozen = X.copy()
    frozen.flags.writeable = False
    for init_params in (*STARTS, "short_runs"):
        quietly(GaussianMixture(2, init_params=init_params, max_iter=3).fit, frozen)
    np.testing.assert_array_equal(frozen, X)


# ----------------------------------------------------------------------------- start


def stripes(seed, n_stripes):
    """Long thin parallel clusters: k-means cuts across them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200 * n_stripes, 2)) * [10.0, 0.3]
    X[:, 1] += 2.0 * (np.arange(len(X)) % n_stripes)
    return X


def score_of(X, n_components, init_params, seed):
    mixture = GaussianMixture(n_components, init_params=init_params, random_state=seed)
    return quietly(mixture.fit, X).score(X)


@pytest.mark.parametrize("n_stripes", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_short_runs_are_no_worse_than_a_bad_k_means_start(seed, n_stripes):
    X = stripes(seed, n_stripes)
    short_runs = score_of(X, n_stripes, "short_runs", seed)
    # Both stop where an iteration gains less than 1e-3, the default.
    assert short_runs > score_of(X, n_stripes, "kmeans", seed) - 5e-3


def test_short_runs_mostly_beat_a_bad_k_means_start():
    gains = [
        score_of(X, 3, "short_runs", seed) - score_of(X, 3, "kmeans", seed)
        for seed, X in ((seed, stripes(seed, 3)) for seed in range(6))
    ]
    # To find one stripe more gains about a quarter of a nat a sample.
    assert np.median(gains) > 0.1


@each_covariance_type
def test_short_runs_are_no_worse_where_k_means_is_good(covariance_type):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(10 * k, 1, size=(60, 2)) for k in range(3)])
    short_runs, k_means = (
        GaussianMixture(
            3,
            covariance_type=covariance_type,
            init_params=init_params,
            random_state=0,
            tol=1e-8,
        )
        .fit(X)
        .score(X)
        for init_params in ("short_runs", "kmeans")
    )
    assert short_runs == pytest.approx(k_means, abs=1e-6)


def test_short_runs_are_reproducible_under_a_seed(X):
    first, again = (
        GaussianMixture(3, init_params="short_runs", random_state=0).fit(X)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.means_, again.means_)


def test_short_runs_pass_over_singular_starts():
    X = np.concatenate([np.zeros((30, 2)), make_clusters(n_features=2)])
    parameters = {"n_components": 3, "reg_covar": 0.0, "random_state": 0}
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        GaussianMixture(**parameters, init_params="random_from_data").fit(X)
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        GaussianMixture(**parameters, init_params="short_runs").fit(np.zeros((40, 2)))


# ------------------------------------------------------------ conditionals, marginals


def dense_parameters(mixture):
    """Weights, means and covariances as dense matrices, by NumPy alone."""
    n_components, n_features = mixture.means_.shape
    covariances = {
        "full": lambda c: c,
        "tied": lambda c: np.stack([c] * n_components),
        "diag": lambda c: np.stack([np.diag(row) for row in c]),
        "spherical": lambda c: c[:, None, None] * np.eye(n_features),
    }[mixture.covariance_type](mixture.covariances_)
    return mixture.weights_, mixture.means_, covariances


@each_covariance_type
def test_density_is_the_fitted_mixture(fitted, X, covariance_type):
    mixture = fitted[covariance_type]
    density = mixture.density_
    assert isinstance(density, MultivariateNormalMixture)
    assert density.covariance_type == covariance_type
    parameters = dense_parameters(mixture)
    expected = [logsumexp(textbook_log_joint(*parameters, row)) for row in X]
    assert_close(density.log_prob(torch.from_numpy(X)), expected)
    assert_close(mixture.score_samples(X), expected)
    assert_close(density.component_covariances, parameters[2])


@each_covariance_type
@pytest.mark.parametrize(
    "given", [[0], [2, 0], [-1, 1], (1,), np.array([1, 2])], ids=str
)
def test_condition_is_the_textbook_formula(fitted, X, covariance_type, given):
    mixture = fitted[covariance_type]
    columns = [i % 3 for i in given]
    rest = [i for i in range(3) if i not in columns]
    conditional = mixture.condition(given, X[:10, columns])
    assert conditional.batch_shape == (10,)
    assert conditional.means.dtype == torch.float64
    for row in range(10):
        weights, means, covariances = textbook_condition(
            *dense_parameters(mixture), columns, rest, X[row, columns]
        )
        assert_close(conditional[row].weights, weights)
        assert_close(conditional[row].means, means)
        assert_close(conditional[row].component_covariances, covariances)


@pytest.fixture
def on_frame(X):
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    return frame, GaussianMixture(3, random_state=0).fit(frame)


@pytest.mark.parametrize(
    ("names", "indices"),
    [
        (["a"], [0]),
        (["c", "a"], [2, 0]),
        (("b", "c"), [1, 2]),
        (pd.Index(["b", "a"]), [1, 0]),
        (["c", 0], [2, 0]),
    ],
    ids=str,
)
def test_features_may_be_named(on_frame, names, indices):
    frame, mixture = on_frame
    values = frame.iloc[:5, indices]
    by_name = mixture.condition(names, values)
    by_index = mixture.condition(indices, values.to_numpy())
    assert_close(by_name.weights, by_index.weights)
    assert_close(by_name.mean, by_index.mean)
    marginal = mixture.marginal(names)
    assert list(marginal.feature_names_in_) == list(frame.columns[indices])
    assert_close(marginal.means_, mixture.means_[:, indices])


@pytest.mark.parametrize("given", [1, "b", np.int64(1)], ids=repr)
@pytest.mark.parametrize("value", [0.5, [0.5], [[0.5]]], ids=repr)
def test_one_feature_and_one_row_may_come_alone(on_frame, given, value):
    _, mixture = on_frame
    conditional = mixture.condition(given, value)
    assert conditional.batch_shape == (1,)
    assert_close(conditional.mean, mixture.condition([1], [[0.5]]).mean)


def test_one_row_may_have_one_dimension(on_frame):
    frame, mixture = on_frame
    row = frame.iloc[0][["c", "a"]]
    conditional = mixture.condition(["c", "a"], row)
    assert conditional.batch_shape == (1,)
    assert_close(conditional.mean, mixture.condition([2, 0], [row.tolist()]).mean)


def test_condition_on_nothing_is_the_marginal_for_every_row(fitted):
    mixture = fitted["full"]
    conditional = mixture.condition([], np.empty((4, 0)))
    assert conditional.batch_shape == (4,)
    assert_close(conditional.mean, mixture.density_.mean.expand(4, 3))


@each_covariance_type
@pytest.mark.parametrize("kept", [[1], [2, 0], [0, 1, 2]], ids=str)
def test_marginal_is_the_density_of_the_columns(fitted, X, covariance_type, kept):
    mixture = fitted[covariance_type]
    marginal = mixture.marginal(kept)
    weights, means, covariances = dense_parameters(mixture)
    block = covariances[:, kept][:, :, kept]
    expected = [
        logsumexp(textbook_log_joint(weights, means[:, kept], block, row))
        for row in X[:, kept]
    ]
    assert isinstance(marginal, GaussianMixture)
    assert marginal.covariance_type == covariance_type
    assert_close(marginal.score_samples(X[:, kept]), expected)
    assert_close(marginal.means_, mixture.means_[:, kept])
    np.testing.assert_array_equal(
        marginal.precisions_.shape, marginal.covariances_.shape
    )


def test_a_marginal_knows_how_much_was_seen(X):
    mixture = GaussianMixture(2, reg_covar=1e-3, random_state=0).fit(X)
    marginal = mixture.set_params(n_components=5).marginal([0])
    assert marginal.means_.shape == (2, 1)
    assert marginal.reg_covar == 1e-3
    marginal.partial_fit(X[:5, [0]])
    mixture.partial_fit(X[:5])
    assert marginal._n_samples_seen == mixture._n_samples_seen
    assert np.abs(marginal.means_ - mixture.means_[:, [0]]).max() < 0.1


@each_covariance_type
def test_parameters_set_by_hand_as_for_scikit_learn(fitted, X, covariance_type):
    mixture = fitted[covariance_type]
    by_hand = GaussianMixture(mixture.n_components, covariance_type=covariance_type)
    for name in ("weights_", "means_", "precisions_cholesky_", "n_features_in_"):
        setattr(by_hand, name, getattr(mixture, name))
    assert_close(by_hand.score_samples(X), mixture.score_samples(X))
    np.testing.assert_array_equal(by_hand.predict(X), mixture.predict(X))


@each_covariance_type
def test_another_covariance_type_needs_another_fit(X, covariance_type):
    for other in {"full", "tied", "diag", "spherical"} - {covariance_type}:
        mixture = GaussianMixture(5, covariance_type=covariance_type, random_state=0)
        mixture.fit(X).set_params(covariance_type=other, warm_start=True)
        for method in ("score_samples", "partial_fit", "fit"):
            with pytest.raises(ValueError, match="call fit anew"):
                getattr(mixture, method)(X)
        mixture.set_params(warm_start=False).fit(X).score_samples(X)


def test_tensors_get_arrays_back_whatever_scikit_learn_dispatches(X):
    tensor = torch.from_numpy(X)
    expected = GaussianMixture(2, random_state=0).fit(X)
    with sklearn.config_context(array_api_dispatch=True):
        mixture = GaussianMixture(2, random_state=0).fit(tensor)
        for method in ("predict", "predict_proba", "score_samples", "impute"):
            answer = getattr(mixture, method)(tensor)
            assert isinstance(answer, np.ndarray)
            assert_close(answer, getattr(expected, method)(X))
        assert mixture.bic(tensor) == pytest.approx(expected.bic(X))
        conditional = mixture.condition([0], tensor[:, :1])
        ParticleBank(10).fit(tensor).score_samples(tensor)
        GrowingNeuralGas(5).fit(tensor).predict(tensor)
    assert_close(conditional.mean, expected.condition([0], X[:, :1]).mean)


def test_asymmetry_is_seen_at_any_scale():
    covariance = np.array([[1.0, 0.9], [-0.9, 1.0]])
    for scale in (1e-9, 1.0, 1e9):
        with pytest.raises(ValueError, match="symmetric"):
            GaussianMixture.from_parameters(
                [1.0], np.zeros((1, 2)), [scale * covariance]
            )


def test_given_weights_sum_to_one_to_the_last_digit():
    mixture = GaussianMixture.from_parameters(
        [0.500005, 0.5], [[0.0], [1.0]], [1.0, 1.0], covariance_type="spherical"
    )
    assert mixture.weights_.sum() == pytest.approx(1.0, abs=1e-15)


def test_numbers_of_draws(fitted, X):
    mixture = fitted["full"]
    assert mixture.sample(1e1, random_state=0)[0].shape == (10, X.shape[1])
    for n_draws in (0, 1.5):
        with pytest.raises(ValueError, match="n_draws must be a whole number"):
            mixture.impute(X, n_draws=n_draws)


def test_marginal_of_a_frame_takes_frames_without_a_warning(on_frame):
    frame, mixture = on_frame
    marginal = mixture.marginal(["c", "a"])
    expected = mixture.density_.marginal([2, 0]).log_prob(
        double(frame[["c", "a"]].values.tolist())
    )
    assert_close(marginal.score_samples(frame[["c", "a"]]), expected)


@pytest.mark.parametrize(
    ("given", "values", "message"),
    [
        (["x"], [[0.0]], r"Feature 'x' is unknown; the mixture was fitted on \['a'"),
        (["a", "a"], [[0.0, 0.0]], "must not repeat"),
        (["a", 0], [[0.0, 0.0]], "must not repeat"),
        ([3], [[0.0]], "must lie between -3 and 2"),
        (["a", "b", "c"], [[0.0, 0.0, 0.0]], "got all 3 of them"),
        (["a"], [[0.0, 1.0]], "X_given must have 1 columns"),
        (["a", "b"], [0.0], "X_given must have 2 columns"),
        (["a"], [[np.nan]], "X_given contains NaN"),
        (["a"], [[np.inf]], "X_given contains infinity"),
        (["a"], np.zeros((1, 1, 1)), "dim 3"),
    ],
    ids=str,
)
def test_bad_conditions_are_named(on_frame, given, values, message):
    with pytest.raises(ValueError, match=message):
        on_frame[1].condition(given, values)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "at least one coordinate"),
        (["x"], "Feature 'x' is unknown"),
        (["a", -3], "must not repeat"),
        ([5], "must lie between -3 and 2"),
    ],
    ids=str,
)
def test_bad_marginals_are_named(on_frame, features, message):
    with pytest.raises(ValueError, match=message):
        on_frame[1].marginal(features)


def test_names_need_a_fit_on_named_columns(fitted):
    with pytest.raises(ValueError, match="data without column names, so use indices"):
        fitted["full"].marginal(["a"])


@pytest.mark.parametrize(
    "features",
    [[1.7], 1.7, [True, False], np.array([True, False, True]), np.array([1.0]), [None]],
    ids=str,
)
def test_features_that_are_no_index_are_refused(fitted, features):
    with pytest.raises((TypeError, ValueError)):
        fitted["full"].marginal(features)


# -------------------------------------------------------------------- from parameters


@each_covariance_type
def test_from_parameters_rebuilds_a_fit(fitted, X, covariance_type):
    mixture = fitted[covariance_type]
    rebuilt = GaussianMixture.from_parameters(
        mixture.weights_.tolist(),
        mixture.means_.tolist(),
        mixture.covariances_.tolist(),
        covariance_type=covariance_type,
    )
    assert rebuilt.n_components == 3
    assert rebuilt.n_features_in_ == 3
    np.testing.assert_allclose(rebuilt.score_samples(X), mixture.score_samples(X))
    np.testing.assert_allclose(rebuilt.precisions_, mixture.precisions_)
    np.testing.assert_allclose(
        rebuilt.precisions_cholesky_, mixture.precisions_cholesky_
    )
    np.testing.assert_array_equal(rebuilt.predict(X), mixture.predict(X))
    assert rebuilt.bic(X) == pytest.approx(mixture.bic(X))
    clone(rebuilt).set_params(random_state=0).fit(X)


GOOD = {
    "weights": [0.5, 0.5],
    "means": [[0.0, 1.0], [2.0, 3.0]],
    "covariances": [np.eye(2), np.eye(2)],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": [1.0]}, r"weights must have shape \(2,\)"),
        ({"weights": [[0.5, 0.5]]}, r"weights must have shape \(2,\)"),
        ({"weights": [0.5, 0.6]}, "must sum to one"),
        ({"weights": [1.5, -0.5]}, "must not be negative"),
        ({"weights": [0.5, np.nan]}, "weights contains NaN"),
        ({"means": [[0.0, np.inf], [2.0, 3.0]]}, "means contains infinity"),
        ({"means": [0.0, 1.0]}, "Expected 2D array"),
        ({"covariances": np.eye(2)}, r"covariances must have shape \(2, 2, 2\)"),
        (
            {"covariances": np.ones((2, 2)), "covariance_type": "spherical"},
            r"covariances must have shape \(2,\)",
        ),
        (
            {"covariances": [1.0, 1.0], "covariance_type": "tied"},
            r"covariances must have shape \(2, 2\)",
        ),
        (
            {"covariances": np.ones((2, 3)), "covariance_type": "diag"},
            "for 2 components of 2 features and covariance_type='diag'; got",
        ),
        ({"covariances": [np.eye(2), -np.eye(2)]}, "ill-defined"),
        ({"covariances": [np.eye(2), np.ones((2, 2))]}, "ill-defined"),
        ({"covariances": [[[1, 0], [0, np.nan]]] * 2}, "covariances contains NaN"),
        (
            {"covariances": [[1.0, 0.0], [1.0, 1.0]], "covariance_type": "diag"},
            "ill-defined",
        ),
    ],
    ids=str,
)
def test_from_parameters_names_what_is_wrong(changes, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture.from_parameters(**{**GOOD, **changes})


def test_from_parameters_refuses_an_asymmetric_covariance():
    with pytest.raises(ValueError, match="symmetric"):
        GaussianMixture.from_parameters([1.0], [[0.0, 0.0]], [[[1.0, 0.9], [0.0, 1.0]]])


def test_from_parameters_refuses_an_unknown_covariance_type():
    with pytest.raises(ValueError, match="covariance_type"):
        GaussianMixture.from_parameters(**GOOD, covariance_type="round")


def test_component_of_zero_weight_is_never_predicted():
    mixture = GaussianMixture.from_parameters(
        [1.0, 0.0], [[0.0], [1.0]], [1.0, 1.0], covariance_type="spherical"
    )
    np.testing.assert_array_equal(mixture.predict([[0.0], [1.0]]), [0, 0])
    np.testing.assert_array_equal(mixture.predict_proba([[1.0]]), [[1.0, 0.0]])


# --------------------------------------------------------------------------- samples


@each_covariance_type
def test_samples_have_the_moments_and_labels_of_the_mixture(fitted, covariance_type):
    mixture = fitted[covariance_type]
    n_samples = 20_000
    samples, labels = mixture.sample(n_samples, random_state=0)
    assert samples.shape == (n_samples, 3)
    assert labels.dtype == np.int64
    shares = np.bincount(labels, minlength=3) / n_samples
    errors = np.sqrt(mixture.weights_ * (1 - mixture.weights_) / n_samples)
    assert np.all(np.abs(shares - mixture.weights_) < 5 * errors)
    for k, (mean, covariance) in enumerate(
        zip(*dense_parameters(mixture)[1:], strict=True)
    ):
        deviation = samples[labels == k] - mean
        products = deviation[:, :, None] * deviation[:, None, :]
        for draws, expected in ((deviation, 0.0), (products, covariance)):
            error = draws.std(0) / np.sqrt(len(draws))
            assert np.all(np.abs(draws.mean(0) - expected) < 6 * error)


def test_samples_are_shuffled(fitted):
    _, labels = fitted["full"].sample(300, random_state=0)
    assert np.count_nonzero(np.diff(labels)) > 80


@pytest.mark.parametrize("seed", [0, np.random.RandomState], ids=["int", "instance"])
def test_samples_are_seeded_per_call(fitted, seed):
    mixture = fitted["full"]
    first, again, other = (
        mixture.sample(10, random_state=s if seed == 0 else seed(s))[0]
        for s in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_one_random_state_instance_goes_on(fitted):
    instance = np.random.RandomState(0)
    first, second = (
        fitted["full"].sample(10, random_state=instance)[0] for _ in range(2)
    )
    assert not np.array_equal(first, second)


def test_samples_differ_at_each_call_without_a_seed(X):
    mixture = GaussianMixture(2, random_state=0).fit(X)
    draws = [mixture.sample(10)[0] for _ in range(2)]
    assert not np.array_equal(*draws)


@pytest.mark.parametrize("n_samples", [0, -1])
def test_no_samples_are_refused(fitted, n_samples):
    with pytest.raises(ValueError, match=f"Invalid value for 'n_samples': {n_samples}"):
        fitted["full"].sample(n_samples)


@pytest.mark.parametrize("random_state", [None, 0])
@pytest.mark.parametrize("init_params", [*STARTS, "short_runs"])
def test_global_random_states_are_left_alone(X, random_state, init_params):
    numpy_state = np.random.get_state()  # noqa: NPY002
    torch_state = torch.get_rng_state()
    mixture = GaussianMixture(
        2, init_params=init_params, random_state=random_state, max_iter=2
    )
    quietly(mixture.fit, X)
    mixture.sample(5, random_state=random_state)
    mixture.condition([0], X[:2, :1]).highest_density_level(0.5)
    assert torch.equal(torch.get_rng_state(), torch_state)
    for before, after in zip(numpy_state, np.random.get_state(), strict=True):  # noqa: NPY002
        assert np.array_equal(before, after)


# --------------------------------------------------------------------------- devices


@pytest.mark.parametrize("device", ["auto", "cpu", torch.device("cpu"), None], ids=str)
def test_devices_give_the_same_fit(X, device):
    expected = GaussianMixture(3, random_state=0).fit(X)
    mixture = GaussianMixture(3, random_state=0, device=device).fit(X)
    np.testing.assert_allclose(mixture.means_, expected.means_, rtol=1e-8, atol=1e-8)
    conditional = mixture.condition([0], X[:4, :1])
    assert_close(
        conditional.mean.cpu(), expected.condition([0], X[:4, :1]).mean, tol=1e-8
    )
    assert isinstance(mixture.sample(3, random_state=0)[0], np.ndarray)


def test_unknown_device_is_named(X):
    message = "device='nonsense' is not a torch device"
    with pytest.raises(ValueError, match=message):
        GaussianMixture(device="nonsense").fit(X)
    with pytest.raises(ValueError, match=message):
        GaussianMixture.from_parameters(**GOOD, device="nonsense").sample()


def test_device_of_another_type_is_refused(X):
    with pytest.raises(ValueError, match="The 'device' parameter of GaussianMixture"):
        GaussianMixture(device=3).fit(X)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_missing_cuda_is_named(X):
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        GaussianMixture(device="cuda").fit(X)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@each_covariance_type
@pytest.mark.parametrize("init_params", ["kmeans", "short_runs"])
def test_cuda_fit_agrees_with_the_cpu(X, covariance_type, init_params):
    on_cpu, on_cuda = (
        GaussianMixture(
            3,
            covariance_type=covariance_type,
            init_params=init_params,
            random_state=0,
            device=device,
        ).fit(X)
        for device in ("cpu", "cuda")
    )
    assert on_cuda.n_iter_ == on_cpu.n_iter_
    assert_close(on_cuda.means_, on_cpu.means_, tol=1e-8)
    assert_close(on_cuda.covariances_, on_cpu.covariances_, tol=1e-8)
    assert_close(on_cuda.score_samples(X), on_cpu.score_samples(X), tol=1e-8)
    conditional = on_cuda.condition([2, 0], X[:, [2, 0]])
    expected = on_cpu.condition([2, 0], X[:, [2, 0]])
    assert conditional.mean.device.type == "cuda"
    assert_close(conditional.mean.cpu(), expected.mean, tol=1e-8)
    assert on_cuda.sample(3, random_state=0)[0].shape == (3, 3)
