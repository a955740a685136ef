import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from skgmje import GMJEEmbedder
from skgmje.mixture import GaussianMixture, _samples


def interrupt_at_call(monkeypatch, number):
    """Let Ctrl-C fall into one E step."""
    expectation, calls = _samples.expectation, []

    def interrupted(*args):
        calls.append(None)
        if len(calls) == number:
            raise KeyboardInterrupt
        return expectation(*args)

    monkeypatch.setattr(_samples, "expectation", interrupted)
    return calls


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(200, 3))


@pytest.mark.parametrize(("call", "n_iter"), [(1, 0), (4, 3)])
def test_the_parameters_so_far_are_kept(X, monkeypatch, call, n_iter):
    calls = interrupt_at_call(monkeypatch, call)
    mixture = GaussianMixture(3, tol=0, n_init=5, random_state=0)
    with (
        pytest.warns(UserWarning, match="interrupted by user"),
        pytest.warns(ConvergenceWarning),
    ):
        mixture.fit(X)
    assert len(calls) == call  # the other starts are not tried
    assert mixture.n_iter_ == n_iter
    assert not mixture.converged_
    assert np.isfinite(mixture.score(X))


def test_an_interrupted_refit_leaves_a_usable_embedder(X, monkeypatch):
    gmje = GMJEEmbedder(1, encoder="identity", target="y", random_state=0)
    interrupt_at_call(monkeypatch, 1)
    with (
        pytest.warns(UserWarning, match="interrupted by user"),
        pytest.warns(ConvergenceWarning),
    ):
        gmje.fit(X, X[:, :2] ** 2)
    assert np.isfinite(gmje.score(X, X[:, :2] ** 2))
    assert gmje.predict(X).shape == (200, 2)
