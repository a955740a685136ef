"""The ways in which components are evaluated, and the threads that do it."""

import os
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st
from mixture_strategies import (
    COVARIANCE_TYPES,
    PROFILE,
    SEEDS,
    assert_close,
    double,
    random_mixture,
)
from threadpoolctl import threadpool_info, threadpool_limits

from skgmje import _backend
from skgmje.mixture import GaussianMixture, _em, _forms, _standard_components
from skgmje.mixture._em import MixtureParameters, expectation
from skgmje.mixture._evaluation import Evaluator
from skgmje.mixture._forms import (
    DeviationForm,
    NaturalForm,
    TiedForm,
    WhitenedForm,
    deviations_of_all,
)
from skgmje.mixture._standard_components import Components

each_covariance_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)


def by_form(X, density, covariance_type, form, monkeypatch):
    """Statistics and log-densities where one form evaluates all components."""
    evaluator = Evaluator(density, covariance_type, lambda _: [(form, None)])
    monkeypatch.setattr(_em, "Evaluator", lambda *_: evaluator)
    statistics = expectation(X, density, covariance_type).around(density.means)
    return statistics, evaluator.log_prob(X)


def assert_same_answers(actual, expected, tol=1e-9):
    for name in ("counts", "first", "second", "log_likelihood"):
        assert_close(getattr(actual[0], name), getattr(expected[0], name), tol)
    assert_close(actual[1], expected[1], tol)


@pytest.mark.parametrize(
    ("form", "covariance_type"),
    [
        (NaturalForm, "full"),
        (NaturalForm, "diag"),
        (NaturalForm, "spherical"),
        (WhitenedForm, "full"),
        (TiedForm, "tied"),
    ],
)
@pytest.mark.parametrize(
    "size", [(1, 1), (2, 2), (2, 3), (3, 6), (3, 17), (2, 32), (2, 33)], ids=str
)
def test_every_form_gives_what_deviations_give(
    form, covariance_type, size, monkeypatch
):
    rng = np.random.default_rng(0)
    density = random_mixture(rng, covariance_type, *size)
    X = rng.normal(scale=2.0, size=(150, size[1]))
    actual = by_form(X, density, covariance_type, form, monkeypatch)
    expected = by_form(X, density, covariance_type, DeviationForm, monkeypatch)
    assert_same_answers(actual, expected)


def test_wide_full_mixtures_are_whitened():
    width = _forms.NATURAL_WIDTH + 1
    parameters = (torch.ones(1), torch.zeros(1, width), torch.eye(width)[None])
    density = MixtureParameters(*(p.double() for p in parameters)).density("full")
    (form,) = Evaluator(density, "full").forms
    assert isinstance(form, WhitenedForm)
    (form,) = Evaluator(density.marginal(range(width - 1)), "full").forms
    assert isinstance(form, NaturalForm)


# ------------------------------------------------------------------ scales far apart


def needle_in_haystack(covariance_type, ratio):
    """A mixture with one component that is narrower than the other by a ratio."""
    variances = np.array([ratio**-2, 1.0])
    covariances = {
        "full": variances[:, None, None] * np.array([[1.0, 0.4], [0.4, 1.0]]),
        "diag": variances[:, None] * np.ones(2),
        "spherical": variances,
    }[covariance_type]
    means = np.array([[0.7, -1.3], [0.0, 0.0]])
    density = MixtureParameters(
        double([0.5, 0.5]), double(means), double(covariances)
    ).density(covariance_type)
    rng = np.random.default_rng(0)
    X = np.concatenate(
        [rng.normal(size=(200, 2)), means[0] + rng.normal(size=(200, 2)) / ratio]
    )
    return X, density


def exact_log_prob(X, density):
    """Log-densities in extended precision, from deviations."""
    X = X.astype(np.longdouble)
    means = density.means.numpy().astype(np.longdouble)
    covariances = density.component_covariances.numpy().astype(np.longdouble)
    log_joint = []
    for mean, c in zip(means, covariances, strict=True):
        x, y = (X - mean).T
        determinant = c[0, 0] * c[1, 1] - c[0, 1] ** 2
        square = (c[1, 1] * x * x - 2 * c[0, 1] * x * y + c[0, 0] * y * y) / determinant
        log_joint.append(-square / 2 - np.log(2 * np.pi) - np.log(determinant) / 2)
    return np.logaddexp(*log_joint) + np.log(np.longdouble(0.5))


@pytest.mark.parametrize("covariance_type", ["full", "diag", "spherical"])
@pytest.mark.parametrize("ratio", [1e2, 1e4, 1e6, 1e8])
def test_component_of_a_far_scale_loses_no_digits(covariance_type, ratio):
    X, density = needle_in_haystack(covariance_type, ratio)
    evaluator = Evaluator(density, covariance_type)
    expected = exact_log_prob(X, density)
    # What is left is the rounding of X itself: half a unit, seen from the needle.
    tol = 1e-9 + 1e-15 * ratio
    np.testing.assert_allclose(evaluator.log_prob(X), expected, rtol=tol, atol=tol)
    statistics = expectation(X, density, covariance_type).around(density.means)
    deviations = Evaluator(density, covariance_type, deviations_of_all)
    resp = deviations.responsibilities(X)
    second = np.einsum("n,ni,ni->i", resp[:, 0], *2 * [X - density.means[0].numpy()])
    actual = statistics.second[0]
    actual = actual.diagonal() if covariance_type == "full" else actual
    np.testing.assert_allclose(actual, second, rtol=1e-8)


def test_natural_parameters_alone_would_lose_them(monkeypatch):
    X, density = needle_in_haystack("full", 1e6)
    monkeypatch.setattr(NaturalForm, "max_cancellation", np.inf)
    error = Evaluator(density, "full").log_prob(X) - exact_log_prob(X, density)
    assert np.abs(error).max() > 1e-6


def test_only_components_that_need_it_take_the_slow_form():
    X, density = needle_in_haystack("full", 1e6)
    evaluator = Evaluator(density, "full")
    assert [type(form) for form in evaluator.forms] == [NaturalForm, DeviationForm]
    # The needle is the first component, but its form comes second.
    np.testing.assert_array_equal(evaluator.predict(X[200:]), 0)
    np.testing.assert_allclose(evaluator.responsibilities(X[200:])[:, 0], 1.0)


@each_covariance_type
@PROFILE
@for_all(seed=SEEDS, exponent=st.integers(-140, 140))
def test_units_of_the_samples_do_not_matter(covariance_type, seed, exponent):
    rng = np.random.default_rng(seed)
    density = random_mixture(rng, covariance_type)
    X = rng.normal(size=(20, 3))
    unit = 2.0**exponent
    scaled = density.affine(
        torch.zeros(3).double(), torch.full((3,), unit, dtype=torch.float64)
    )
    actual = Evaluator(scaled, covariance_type).log_prob(unit * X)
    expected = Evaluator(density, covariance_type).log_prob(X) - 3 * np.log(unit)
    assert_close(actual, expected)


def test_samples_that_overflow_have_finite_densities():
    density = MixtureParameters(
        double([0.5, 0.5]), double([[0.0], [1.0]]), double([1.0, 1e-8])
    ).density("spherical")
    X = np.array([[1e200], [-1e300], [1e5]])
    evaluator = Evaluator(density, "spherical")
    assert np.isfinite(evaluator.log_prob(X)).all()
    assert np.isfinite(evaluator.responsibilities(X)).all()


@each_covariance_type
def test_zero_weight_takes_no_part(covariance_type):
    density = random_mixture(np.random.default_rng(0), covariance_type)
    parameters = density.parameters()
    parameters["weights"] = double([0.0, 0.25, 0.75])
    density = type(density)(**parameters)
    X = np.random.default_rng(1).normal(size=(50, 3))
    evaluator = Evaluator(density, covariance_type)
    assert_close(evaluator.log_prob(X), density.log_prob(double(X)))
    np.testing.assert_array_equal(evaluator.responsibilities(X)[:, 0], 0.0)


# ----------------------------------------------------------------------------- torch


@each_covariance_type
@pytest.mark.parametrize("width", [3, 4, _forms.NATURAL_WIDTH + 1])
@pytest.mark.parametrize("needle", [False, True])
def test_torch_gives_what_numpy_gives(covariance_type, width, needle, monkeypatch):
    rng = np.random.default_rng(0)
    scales = np.array([1e-9 if needle else 0.5, 1.0, 2.0])
    covariances = {
        "full": scales[:, None, None] * np.eye(width),
        "tied": np.eye(width) * scales[0],
        "diag": scales[:, None] * np.ones(width),
        "spherical": scales,
    }[covariance_type]
    parameters = (np.full(3, 1 / 3), rng.normal(size=(3, width)), covariances)
    density = MixtureParameters(*map(torch.from_numpy, parameters)).density(
        covariance_type
    )
    X = rng.normal(size=(90, width))
    weight = rng.uniform(size=90)
    expected = (
        expectation(X, density, covariance_type, weight),
        Evaluator(density, covariance_type),
    )
    monkeypatch.setattr(_standard_components, "NUMPY_DEVICES", ())
    actual = (
        expectation(double(X), density, covariance_type, double(weight)),
        Evaluator(density, covariance_type),
    )
    assert [type(form) for form in actual[1].forms] == [
        type(form) for form in expected[1].forms
    ]
    for name in ("counts", "first", "second", "log_likelihood", "reference"):
        assert_close(getattr(actual[0], name), getattr(expected[0], name))
    for method in ("log_prob", "predict", "responsibilities"):
        values = getattr(actual[1], method)(double(X))
        assert_close(values, getattr(expected[1], method)(X))


# ---------------------------------------------------------------------------- threads


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads for the smallest work."""
    monkeypatch.setattr(_backend, "THREAD_WORK", 1)
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(n_threads)


def limits():
    return (
        torch.get_num_threads(),
        sys.getswitchinterval(),
        [pool["num_threads"] for pool in threadpool_info()],
    )


@each_covariance_type
def test_threads_give_what_one_thread_gives(covariance_type, two_threads):
    rng = np.random.default_rng(0)
    density = random_mixture(rng, covariance_type)
    X = rng.normal(size=(1001, 3))
    before = limits()
    actual = expectation(X, density, covariance_type)
    again = expectation(X, density, covariance_type)
    assert limits() == before
    torch.set_num_threads(1)
    expected = expectation(X, density, covariance_type)
    for name in ("counts", "first", "second", "log_likelihood"):
        assert_close(getattr(actual, name), getattr(expected, name), tol=1e-11)
        assert torch.equal(getattr(actual, name), getattr(again, name))


def test_limits_are_restored_after_an_error(two_threads):
    before = limits()

    def fail(span, scratch):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        _backend.map_spans(fail, 10, 10)
    assert limits() == before


def test_limits_come_back_after_blocks_that_overlap():
    def blas_threads():
        return {
            pool["num_threads"]
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        }

    first_is_in, second_is_in = threading.Event(), threading.Event()
    inside = []

    def first():
        with _backend.own_threads():
            first_is_in.set()
            second_is_in.wait(10)

    def second():
        first_is_in.wait(10)
        with _backend.own_threads():
            second_is_in.set()
            one.join(10)  # what the other puts back, it must not take from this one
            inside.append(sys.getswitchinterval())

    with threadpool_limits(2, user_api="blas"):
        before = blas_threads(), sys.getswitchinterval()
        one, other = (threading.Thread(target=target) for target in (first, second))
        one.start()
        other.start()
        other.join(30)
        assert (blas_threads(), sys.getswitchinterval()) == before
    assert inside == [pytest.approx(_backend.SWITCH_INTERVAL, rel=0.05)]


def test_spans_cover_all_samples_once(two_threads):
    spans = _backend.map_spans(lambda span, scratch: span, 11, 11)
    assert len(spans) == 2
    assert np.concatenate([np.arange(11)[s] for s in spans]).tolist() == list(range(11))


def test_workers_are_kept_by_their_thread_and_not_across_a_fork(two_threads):
    X = np.random.default_rng(0).normal(size=(500, 3))
    density = random_mixture(np.random.default_rng(0), "full")
    expected = expectation(X, density, "full").log_likelihood
    with _backend.own_threads() as first, _backend.own_threads() as inner:
        assert inner is first
    with _backend.own_threads() as second:
        assert second is first
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(_backend.Workers.of_this_thread, 2).result()
    assert other is not first
    if not hasattr(os, "fork"):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork
        child = os.fork()
    if child == 0:  # a pool of the parent's would never answer
        same = torch.equal(expectation(X, density, "full").log_likelihood, expected)
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_small_work_stays_on_the_caller_s_thread():
    torch.set_num_threads(1)
    spans = _backend.map_spans(lambda span, scratch: span, 11, 11)
    assert spans == [slice(0, 11)]


def test_components_share_memory_with_the_density():
    density = random_mixture(np.random.default_rng(0), "full")
    components = Components.of(density, "full")
    assert np.shares_memory(components.means, density.means.numpy())


@pytest.mark.parametrize("on_numpy", [True, False])
def test_scratch_memory_of_a_fit_serves_calls_outside(on_numpy, monkeypatch):
    """A fit runs in inference mode, whose tensors nobody else may write to."""
    if not on_numpy:
        monkeypatch.setattr(_standard_components, "NUMPY_DEVICES", ())
    X = np.random.default_rng(0).normal(size=(301, 3))
    mixture = GaussianMixture(2, random_state=0).fit(X)
    actual = Evaluator(mixture.density_, "full").log_prob(X)
    assert_close(actual, mixture.density_.log_prob(double(X)))


@each_covariance_type
def test_the_density_of_a_fit_has_gradients(covariance_type):
    X = np.random.default_rng(0).normal(size=(100, 3))
    mixture = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(X)
    x = double(X).requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.density_.log_prob(x).sum(), x)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("n_samples", [64, 1000, 4096])
def test_rows_of_blocks_start_where_lines_of_the_cache_do(n_samples):
    density = random_mixture(np.random.default_rng(0), "full", 3, 5)
    evaluator = Evaluator(density, "full")
    (block,) = evaluator.blocks(np.ones((n_samples, 5)), slice(0, n_samples), {})
    addresses = [array.ctypes.data for array in (block.z, block.x, block.log_joint)]
    assert [address % 64 for address in addresses] == [0, 0, 0]
    sizes = [part.stop - part.start for part in _backend.blocks(10**5, 333)]
    assert all(size % 8 == 0 for size in sizes[:-1])
    assert sum(sizes) == 10**5
