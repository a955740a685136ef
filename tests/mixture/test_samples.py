"""Weights, missing values, files, chunks, streams and processes."""

import os
import subprocess
import sys
import warnings
from collections import deque

import numpy as np
import pandas as pd
import pytest
import sklearn
from mixture_strategies import COVARIANCE_TYPES
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV

import skgmje
from skgmje import GaussianMixture
from skgmje.mixture import _initialization, _samples
from skgmje.mixture._samples import is_chunks

each_covariance_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)


def make_clusters(seed=0, n_samples=300, n_features=3):
    rng = np.random.default_rng(seed)
    means = 3 * rng.normal(size=(3, n_features))
    factors = rng.normal(size=(3, n_features, n_features)) / 2 + np.eye(n_features)
    labels = rng.choice(3, p=[0.5, 0.3, 0.2], size=n_samples)
    noise = rng.normal(size=(n_samples, n_features))
    return means[labels] + np.einsum("nij,nj->ni", factors[labels], noise)


def start_of(X, covariance_type, n_components=3):
    """Explicit parameters, so that fits of the same rows start alike."""
    precision = np.diag(1 / X.var(axis=0))
    return {
        "weights_init": np.full(n_components, 1 / n_components),
        "means_init": X[:n_components],
        "precisions_init": {
            "full": np.stack([precision] * n_components),
            "tied": precision,
            "diag": np.stack([precision.diagonal()] * n_components),
            "spherical": np.full(n_components, 1 / X.var()),
        }[covariance_type],
    }


def fit_from(start, X, covariance_type, sample_weight=None, **parameters):
    mixture = GaussianMixture(
        3,
        covariance_type=covariance_type,
        **{"tol": 1e-6, "max_iter": 25, "random_state": 0, **parameters, **start},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(X, sample_weight=sample_weight)


def assert_same_mixture(actual, expected, rtol=1e-9):
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        value = getattr(expected, name)
        np.testing.assert_allclose(
            getattr(actual, name), value, rtol=rtol, atol=rtol * np.abs(value).max()
        )
    assert actual.n_iter_ == expected.n_iter_
    np.testing.assert_allclose(actual.lower_bounds_, expected.lower_bounds_, rtol=rtol)


# ---------------------------------------------------------------------------- weights


@each_covariance_type
@pytest.mark.parametrize("seed", [0, 1])
def test_weights_are_repeated_rows(covariance_type, seed):
    X = make_clusters(seed)
    weight = np.random.default_rng(seed).integers(0, 4, size=len(X))
    repeated = np.repeat(X, weight, axis=0)
    start = start_of(X, covariance_type)
    weighted = fit_from(start, X, covariance_type, sample_weight=weight)
    expected = fit_from(start, repeated, covariance_type)
    assert weighted.n_iter_ > 2
    assert_same_mixture(weighted, expected)
    for method in ("score", "bic", "aic"):
        actual = getattr(weighted, method)(X, sample_weight=weight)
        assert actual == pytest.approx(getattr(expected, method)(repeated))


@each_covariance_type
def test_weights_are_repeated_rows_in_partial_fits_and_with_missing_values(
    covariance_type,
):
    rng = np.random.default_rng(0)
    X = make_clusters()
    X[rng.uniform(size=X.shape) < 0.2] = np.nan
    weight = rng.integers(1, 4, size=len(X))
    start = start_of(make_clusters(), covariance_type)
    weighted = fit_from(start, X, covariance_type, sample_weight=weight)
    expected = fit_from(start, np.repeat(X, weight, axis=0), covariance_type)
    assert_same_mixture(weighted, expected)
    weighted.partial_fit(X[:50], sample_weight=weight[:50])
    expected.partial_fit(np.repeat(X[:50], weight[:50], axis=0))
    assert_same_mixture(weighted, expected)


@each_covariance_type
@pytest.mark.parametrize(
    "init_params", ["kmeans", "k-means++", "random", "random_from_data", "short_runs"]
)
def test_rows_of_zero_weight_are_absent(covariance_type, init_params):
    X = make_clusters()
    weight = np.random.default_rng(0).uniform(0.5, 2.0, size=len(X))
    far = np.full((20, 3), 1e6)
    parameters = {"covariance_type": covariance_type, "init_params": init_params}
    with_zeros = fit_from(
        {},
        np.concatenate([far, X]),
        sample_weight=np.concatenate([np.zeros(20), weight]),
        **parameters,
    )
    without = fit_from({}, X, sample_weight=weight, **parameters)
    np.testing.assert_array_equal(with_zeros.means_, without.means_)
    np.testing.assert_array_equal(with_zeros.weights_, without.weights_)


@each_covariance_type
@pytest.mark.parametrize(
    "init_params", ["kmeans", "k-means++", "random", "random_from_data"]
)
def test_equal_weights_start_as_no_weights_do(covariance_type, init_params):
    X = make_clusters()
    parameters = {
        "covariance_type": covariance_type,
        "init_params": init_params,
        "max_iter": 1,
    }
    weighted = fit_from({}, X, sample_weight=np.full(len(X), 1.0), **parameters)
    if init_params in ("kmeans", "random"):  # the same draws
        assert_same_mixture(weighted, fit_from({}, X, **parameters))
    assert np.isfinite(weighted.lower_bound_)


def test_heavy_rows_draw_the_start():
    X = np.arange(100.0)[:, None]
    weight = np.where(X.ravel() < 3, 1e6, 1e-6)
    for init_params in ("k-means++", "random_from_data"):
        mixture = fit_from(
            {},
            X,
            "spherical",
            sample_weight=weight,
            init_params=init_params,
            max_iter=0,
        )
        assert mixture.means_.max() < 3


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.zeros(300), "zero"),
        (-np.ones(300), "[Nn]egative"),
        (np.ones(299), "sample_weight.shape"),
        (np.full(300, np.nan), "NaN"),
        (np.ones((300, 1)), "1D"),
    ],
    ids=["all zero", "negative", "one too few", "NaN", "a column"],
)
@pytest.mark.parametrize("method", ["fit", "fit_predict", "partial_fit", "score"])
def test_bad_weights_are_refused(weight, message, method):
    X = make_clusters()
    mixture = GaussianMixture(3, random_state=0).fit(X)
    with pytest.raises(ValueError, match=message):
        getattr(mixture, method)(X, sample_weight=weight)


def test_too_few_rows_with_weight_are_refused():
    weight = np.zeros(300)
    weight[:2] = 1.0
    with pytest.raises(ValueError, match=r"n_components = 3, n_samples = 2"):
        GaussianMixture(3).fit(make_clusters(), sample_weight=weight)


def test_weights_are_routed():
    X = make_clusters()
    weight = np.random.default_rng(0).uniform(size=len(X))
    with sklearn.config_context(enable_metadata_routing=True):
        mixture = (
            GaussianMixture(2, random_state=0)
            .set_fit_request(sample_weight=True)
            .set_score_request(sample_weight=True)
        )
        search = GridSearchCV(mixture, {"n_components": [1, 2]}, cv=2, refit=True)
        search.fit(X, sample_weight=weight)
    expected = GaussianMixture(search.best_params_["n_components"], random_state=0).fit(
        X, sample_weight=weight
    )
    np.testing.assert_allclose(search.best_estimator_.means_, expected.means_)


# --------------------------------------------------------------------- missing values


def with_holes(X, share=0.2, seed=0):
    X = X.copy()
    X[np.random.default_rng(seed).uniform(size=X.shape) < share] = np.nan
    return X


@each_covariance_type
def test_likelihood_of_what_is_observed_never_decreases(covariance_type):
    X = with_holes(make_clusters())
    mixture = fit_from({}, X, covariance_type, reg_covar=0.0)
    assert mixture.n_iter_ > 3
    assert np.diff(mixture.lower_bounds_).min() > -1e-12
    # The last bound is that of the parameters before the last step.
    assert mixture.lower_bound_ <= mixture.score(X)


@each_covariance_type
def test_complete_samples_are_fitted_to_the_bit_as_ever(covariance_type, monkeypatch):
    X = make_clusters()
    expected = fit_from({}, X, covariance_type)
    monkeypatch.setattr(_samples, "split", lambda rows: [rows])
    actual = fit_from({}, X, covariance_type)
    np.testing.assert_array_equal(actual.covariances_, expected.covariances_)


@each_covariance_type
def test_answers_about_incomplete_rows_are_those_of_the_marginal(covariance_type):
    X = make_clusters()
    mixture = fit_from({}, X, covariance_type)
    holes = X[:40].copy()
    holes[:20, 1] = np.nan
    holes[20:30, [0, 2]] = np.nan
    for method in ("score_samples", "predict_proba", "predict"):
        answer = getattr(mixture, method)(holes)
        for rows, kept in ((slice(20), [0, 2]), (slice(20, 30), [1])):
            expected = getattr(mixture.marginal(kept), method)(holes[rows][:, kept])
            np.testing.assert_allclose(answer[rows], expected, rtol=1e-9)
        complete = getattr(mixture, method)(X[30:40])
        np.testing.assert_array_equal(answer[30:40], complete)


def test_row_without_values_has_the_weights_for_posterior():
    mixture = fit_from({}, make_clusters(), "full")
    empty = np.full((1, 3), np.nan)
    np.testing.assert_allclose(mixture.predict_proba(empty)[0], mixture.weights_)
    np.testing.assert_allclose(mixture.score_samples(empty), 0.0, atol=1e-12)


@each_covariance_type
def test_imputation_is_the_conditional_mean(covariance_type):
    X = make_clusters()
    mixture = fit_from({}, X, covariance_type)
    holes = X[:10].copy()
    holes[:, 1] = np.nan
    filled = mixture.impute(holes)
    expected = mixture.condition([0, 2], X[:10][:, [0, 2]]).mean
    np.testing.assert_allclose(filled[:, [1]], expected, rtol=1e-9)
    np.testing.assert_array_equal(filled[:, [0, 2]], X[:10][:, [0, 2]])
    assert np.isnan(holes[:, 1]).all()


def test_imputed_draws_have_the_conditional_moments():
    X = make_clusters()
    mixture = fit_from({}, X, "full")
    holes = X[:1].copy()
    holes[0, 1] = np.nan
    draws = np.stack(mixture.impute(holes, n_draws=4000, random_state=0))
    conditional = mixture.condition([0, 2], X[:1][:, [0, 2]])
    deviation = float(conditional.stddev)
    error = deviation / np.sqrt(4000)
    assert abs(draws[:, 0, 1].mean() - float(conditional.mean)) < 5 * error
    assert draws[:, 0, 1].std() == pytest.approx(deviation, rel=0.1)
    np.testing.assert_array_equal(draws[:, 0, 0], X[0, 0])


def test_draws_are_seeded_and_differ():
    mixture = fit_from({}, make_clusters(), "full")
    holes = with_holes(make_clusters())
    first, second = mixture.impute(holes, n_draws=2, random_state=0)
    again, _ = mixture.impute(holes, n_draws=2, random_state=0)
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, second)
    assert np.isfinite(first).all()
    with pytest.raises(ValueError, match="n_draws must be a whole number"):
        mixture.impute(holes, n_draws=0)
    with pytest.raises(NotFittedError):
        GaussianMixture().impute(holes)


def test_column_without_values_is_named():
    X = make_clusters()
    X[:, 1] = np.nan
    with pytest.raises(ValueError, match="no observed value in columns"):
        GaussianMixture(2).fit(X)


@each_covariance_type
@pytest.mark.parametrize(
    "init_params", ["kmeans", "k-means++", "random", "random_from_data", "short_runs"]
)
def test_every_start_serves_samples_with_holes(covariance_type, init_params):
    X = with_holes(make_clusters(n_samples=600), share=0.1)
    mixture = fit_from({}, X, covariance_type, init_params=init_params, max_iter=100)
    one = GaussianMixture(1, covariance_type=covariance_type).fit(X)
    assert mixture.score(X) > one.score(X) - 1e-3
    if init_params in ("kmeans", "short_runs"):  # the others find many optima
        complete = fit_from(
            {}, make_clusters(n_samples=600), covariance_type, max_iter=100
        )
        assert mixture.score(X) > complete.score(X) - 0.1


# ------------------------------------------------------------------- files and chunks


class Chunks:
    """An iterable that starts anew at every visit."""

    def __init__(self, *chunks):
        self.chunks, self.visits = chunks, 0

    def __iter__(self):
        self.visits += 1
        return iter(self.chunks)


class SizedChunks(Chunks):
    """Chunks that know their number."""

    def __len__(self):
        return len(self.chunks)


class OneVisit(Chunks):
    """A reader that goes on where the last visit ended."""

    def __init__(self, *chunks):
        self.reader = iter(chunks)

    def __iter__(self):
        return self.reader


@each_covariance_type
@pytest.mark.parametrize(
    "container",
    [list, tuple, deque, lambda chunks: Chunks(*chunks), lambda c: SizedChunks(*c)],
    ids=["list", "tuple", "deque", "iterable", "sized iterable"],
)
def test_chunks_are_fitted_like_their_sum(covariance_type, container):
    X = make_clusters()
    start = start_of(X, covariance_type)
    chunks = container([X[:1], X[1:120], X[120:]])
    actual = fit_from(start, chunks, covariance_type)
    assert_same_mixture(actual, fit_from(start, X, covariance_type))


def test_one_pass_is_made_for_each_iteration():
    X = make_clusters()
    chunks = Chunks(X[:100], X[100:])
    mixture = fit_from({}, chunks, "full")
    # Before them the chunks are asked twice whether they start anew, the first one is
    # looked at, and the rows of the start are drawn.
    assert chunks.visits == mixture.n_iter_ + 4


def test_chunks_may_miss_values_and_have_weights():
    X = with_holes(make_clusters())
    weight = np.random.default_rng(0).uniform(size=len(X))
    start = start_of(make_clusters(), "full")
    chunks = [(X[:100], weight[:100]), (X[100:], weight[100:])]
    actual = fit_from(start, chunks, "full")
    expected = fit_from(start, X, "full", sample_weight=weight)
    assert_same_mixture(actual, expected)


def test_chunks_of_no_weight_are_left_out():
    X = make_clusters()
    start = start_of(X, "full")
    chunks = [(1e3 + X[:50], np.zeros(50)), (X, np.ones(len(X)))]
    assert_same_mixture(fit_from(start, chunks, "full"), fit_from(start, X, "full"))
    with pytest.raises(ValueError, match="no chunks with a row of positive weight"):
        GaussianMixture(3).fit(chunks[:1])


def test_a_step_loses_no_chunk():
    X = make_clusters()
    mixture = fit_from({}, X, "full").partial_fit([X[:100], X[100:]])
    assert mixture._n_samples_seen == 2 * len(X)


def test_labels_of_chunks_are_refused():
    with pytest.raises(ValueError, match="fit_predict takes one array"):
        GaussianMixture(3).fit_predict([make_clusters(), make_clusters()])


@pytest.mark.parametrize("init_params", ["kmeans", "random", "short_runs"])
def test_chunks_are_fitted_well_from_any_start(init_params):
    X = make_clusters(n_samples=1000)
    chunks = Chunks(*np.array_split(X, 7))
    mixture = fit_from({}, chunks, "full", init_params=init_params, max_iter=200)
    expected = fit_from({}, X, "full", init_params=init_params, max_iter=200)
    assert mixture.score(X) > expected.score(X) - 0.05


def test_frames_in_chunks_keep_their_names():
    frame = pd.DataFrame(make_clusters(), columns=["a", "b", "c"])
    mixture = fit_from({}, [frame[:150], frame[150:]], "full")
    assert list(mixture.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names should match"):
        mixture.fit([frame[:150], frame[150:][["b", "a", "c"]]])


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (iter([make_clusters()]), "visited only once"),
        (OneVisit(make_clusters()), "visited only once"),
        (Chunks(), "no chunks"),
        ([make_clusters(), make_clusters()[:, :2]], "features"),
        ([make_clusters()[:1], make_clusters()[:1]], "n_components = 3, n_samples = 2"),
    ],
    ids=["generator", "reader", "no chunks", "another width", "too few rows"],
)
def test_bad_chunks_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(3).fit(X)


def test_weights_beside_chunks_are_refused():
    with pytest.raises(ValueError, match="pairs"):
        GaussianMixture(3).fit([make_clusters()], sample_weight=np.ones(300))


@pytest.mark.parametrize(
    "X", [[[1.0, 2.0], [3.0, 4.0]], np.ones((2, 2)), [1.0, 2.0], [], "ab", 3.0, None]
)
def test_array_likes_are_no_chunks(X):
    assert not is_chunks(X)


@pytest.fixture
def on_disk(tmp_path):
    """Write an array to a file and map it."""

    def write(X):
        path = tmp_path / "X.npy"
        np.save(path, X)
        return np.load(path, mmap_mode="r")

    return write


@each_covariance_type
@pytest.mark.parametrize("holes", [False, True])
def test_mapped_files_are_fitted_like_arrays(
    covariance_type, holes, on_disk, monkeypatch
):
    monkeypatch.setattr(_samples, "CHUNK_ROWS", 100)
    X = make_clusters().astype(np.float32)
    start = start_of(X, covariance_type)
    X = with_holes(X) if holes else X
    mapped = on_disk(X)
    actual = fit_from(start, mapped, covariance_type)
    assert_same_mixture(actual, fit_from(start, X, covariance_type))
    np.testing.assert_allclose(actual.score_samples(mapped), actual.score_samples(X))


@pytest.mark.parametrize("holes", [False, True])
def test_rows_of_a_file_may_have_no_weight(holes, on_disk, monkeypatch):
    monkeypatch.setattr(_samples, "CHUNK_ROWS", 100)
    X = with_holes(make_clusters()) if holes else make_clusters()
    weight = np.random.default_rng(0).integers(0, 3, len(X)).astype(float)
    weight[:100] = 0.0
    mapped = on_disk(X)
    for parameters in ({}, start_of(make_clusters(), "full")):
        actual = fit_from(parameters, mapped, "full", weight)
        expected = fit_from(parameters, X, "full", weight)
        assert_same_mixture(actual, expected)
        actual.partial_fit(mapped, sample_weight=weight)
        expected.partial_fit(X, sample_weight=weight)
        assert_same_mixture(actual, expected)
    monkeypatch.setattr(_initialization, "START_ROWS", 50)
    rows = _initialization.rows_to_start_from(
        _samples.Rows(mapped, weight), None, np.random.RandomState(0)
    )
    assert len(rows.X) == 50
    assert rows.sample_weight.min() > 0


def test_large_files_start_from_a_subset(on_disk, monkeypatch):
    monkeypatch.setattr(_initialization, "START_ROWS", 100)
    X = make_clusters(n_samples=1000)
    mixture = fit_from({}, on_disk(X), "full", max_iter=200)
    assert mixture.score(X) > fit_from({}, X, "full", max_iter=200).score(X) - 0.05


MEMORY = """
import sys, threading, numpy as np
from skgmje import GaussianMixture

def memory():
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["RssAnon"].split()[0]) / 1024

n_samples, path = int(sys.argv[1]), sys.argv[2]
X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_samples, 16))
rng = np.random.default_rng(0)
for start in range(0, n_samples, 100_000):
    stop = min(start + 100_000, n_samples)
    X[start:stop] = rng.normal(size=(stop - start, 16))
del X
X = np.load(path, mmap_mode="r")
before, seen, done = memory(), [], threading.Event()

def watch():
    while not done.wait(0.005):
        seen.append(memory())

watcher = threading.Thread(target=watch)
watcher.start()
GaussianMixture(16, max_iter=2, tol=1.0, init_params="random", random_state=0).fit(X)
done.set()
watcher.join()
print(max(seen) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_a_file(tmp_path):
    # A float64 copy of the samples, and one number for each sample and component, would
    # take 128 MB each.
    process = subprocess.run(
        [sys.executable, "-c", MEMORY, "1000000", str(tmp_path / "X.npy")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert float(process.stdout) < 100, process.stdout


# ------------------------------------------------------------------------ partial fits


@each_covariance_type
def test_batches_lead_to_the_mixture_that_made_them(covariance_type):
    truth = fit_from({}, make_clusters(n_samples=600), covariance_type)
    X, _ = truth.sample(12_000, random_state=0)
    mixture = GaussianMixture(
        3, covariance_type=covariance_type, init_params="short_runs", random_state=0
    )
    first = None
    for batch in np.array_split(X, 40):
        mixture.partial_fit(batch)
        first = mixture.score(X) if first is None else first
    # Better than the first batch alone, and close to what generated the stream.
    assert mixture.score(X) > first
    assert mixture.score(X) > truth.score(X) - 0.02


def test_first_batch_is_fitted():
    X = make_clusters()
    actual = GaussianMixture(3, random_state=0).partial_fit(X)
    expected = GaussianMixture(3, random_state=0).fit(X)
    np.testing.assert_array_equal(actual.means_, expected.means_)


def test_steps_weigh_a_batch_by_its_rows_and_decay():
    X = make_clusters()
    mixture = GaussianMixture(1, reg_covar=0.0).fit(X[:200])
    mixture.partial_fit(X[200:])
    rate = (1 + 200 / 100) ** -0.7
    expected = (1 - rate) * X[:200].mean(0) + rate * X[200:].mean(0)
    np.testing.assert_allclose(mixture.means_[0], expected)
    assert mixture.n_iter_ == len(mixture.lower_bounds_)


def test_ridge_does_not_pile_up():
    X = make_clusters()
    mixture = GaussianMixture(1, reg_covar=0.5).fit(X)
    expected = np.cov(X.T, bias=True) + 0.5 * np.eye(3)
    for _ in range(5):
        mixture.partial_fit(X)
    np.testing.assert_allclose(mixture.covariances_[0], expected)


def test_known_parameters_are_the_start_of_steps():
    X = make_clusters()
    known = fit_from({}, X, "full")
    parameters = (known.weights_, known.means_, known.covariances_)
    stepped = GaussianMixture.from_parameters(*parameters).partial_fit(X)
    expected = GaussianMixture(3, warm_start=True, max_iter=1, tol=10.0)
    for name, value in vars(known).items():
        if name.endswith("_"):
            setattr(expected, name, value)
    expected.fit(X)
    np.testing.assert_allclose(stepped.means_, expected.means_)


def test_steps_go_on_after_a_file(tmp_path):
    X = make_clusters()
    mixture = GaussianMixture(3, random_state=0).fit(X[:200])
    mixture.save(tmp_path / "mixture")
    again = skgmje.load(tmp_path / "mixture")
    np.testing.assert_array_equal(
        again.partial_fit(X[200:]).means_, mixture.partial_fit(X[200:]).means_
    )


def test_a_refused_batch_changes_nothing():
    X = make_clusters()
    mixture = fit_from({}, X, "full")
    before = {name: np.copy(value) for name, value in vars(mixture).items()}
    outlier = X[:20].copy()
    outlier[0] = 1e12
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        mixture.partial_fit(outlier)
    for bad in (X[:2], X[:, :2] + np.inf, np.zeros((20, 2))):
        with pytest.raises(ValueError, match=r"n_samples|infinity|ill-defined"):
            mixture.set_params(reg_covar=0, init_params="random").fit(bad)
    mixture.set_params(reg_covar=1e-6, init_params="kmeans")
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(mixture, name), value)


def test_a_refused_first_batch_leaves_an_estimator_that_can_be_fitted():
    mixture = GaussianMixture(2, reg_covar=0, init_params="random")
    with pytest.raises(ValueError, match="ill-defined empirical covariance"):
        mixture.partial_fit(np.ones((10, 3)))
    assert not hasattr(mixture, "weights_")
    X = make_clusters()
    assert np.isfinite(mixture.partial_fit(X).score(X))


def test_a_further_batch_may_have_one_row():
    X = make_clusters()
    mixture = fit_from({}, X, "full").partial_fit(X[:1])
    assert mixture._n_samples_seen == len(X) + 1


def test_batches_of_another_width_are_refused():
    mixture = GaussianMixture(2, random_state=0).partial_fit(make_clusters())
    with pytest.raises(ValueError, match="X has 2 features"):
        mixture.partial_fit(make_clusters()[:, :2])


# --------------------------------------------------------------------------- processes

PROCESS = """
import sys, numpy as np, torch.distributed
from skgmje import GaussianMixture

torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
data = np.load(sys.argv[1], allow_pickle=False)
X, weight = data["X"], data["weight"]
cut = slice(0, 90) if rank == 0 else slice(90, None)
start = {name: data[name] for name in data if name.endswith("_init")}
if sys.argv[3] == "start":
    start = {}
mixture = GaussianMixture(
    3, covariance_type=sys.argv[2], tol=1e-6, max_iter=25, random_state=rank, **start
)
mixture.fit(X[cut], sample_weight=weight[cut])
mixture.partial_fit(X[cut], sample_weight=weight[cut])
np.savez(
    f"{sys.argv[1]}.{rank}",
    means=mixture.means_, covariances=mixture.covariances_, weights=mixture.weights_,
    bounds=mixture.lower_bounds_, score=mixture.score(X),
)
torch.distributed.destroy_process_group()
"""


def run_two_processes(tmp_path, covariance_type, X, weight, kind):
    script, data = tmp_path / "fit.py", tmp_path / "data.npz"
    script.write_text(PROCESS)
    complete = make_clusters()
    np.savez(data, X=X, weight=weight, **start_of(complete, covariance_type))
    process = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node=2", str(script), str(data), covariance_type, kind),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    return [np.load(f"{data}.{rank}.npz") for rank in range(2)]


@pytest.mark.parametrize("covariance_type", ["full", "tied"])
def test_two_processes_fit_like_one(tmp_path, covariance_type):
    X = with_holes(make_clusters())
    weight = np.random.default_rng(0).uniform(0.5, 2.0, size=len(X))
    ranks = run_two_processes(tmp_path, covariance_type, X, weight, "explicit")
    start = start_of(make_clusters(), covariance_type)
    one = fit_from(start, X, covariance_type, sample_weight=weight)
    one.partial_fit(X, sample_weight=weight)
    for name, expected in (
        ("means", one.means_),
        ("covariances", one.covariances_),
        ("weights", one.weights_),
        ("bounds", one.lower_bounds_),
    ):
        np.testing.assert_array_equal(ranks[0][name], ranks[1][name])
        np.testing.assert_allclose(ranks[0][name], expected, rtol=1e-9, atol=1e-9)


def test_two_processes_start_alike_whatever_their_seeds(tmp_path):
    X = np.sort(make_clusters(), axis=0)  # each process sees another part of the space
    ranks = run_two_processes(tmp_path, "diag", X, np.ones(len(X)), "start")
    np.testing.assert_array_equal(ranks[0]["means"], ranks[1]["means"])
    one = fit_from({}, X, "diag", max_iter=100)
    assert ranks[0]["score"] > one.score(X) - 0.1
