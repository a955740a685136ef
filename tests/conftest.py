"""Fixtures that every test shares."""

import os
from unittest import SkipTest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "agg")
# Read when scipy is first imported: with it no estimator check is skipped.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Fail where scikit-learn would skip a check."""
    try:
        return (yield)
    except SkipTest as reason:
        pytest.fail(f"A check was skipped: {reason}")


@pytest.fixture(autouse=True)
def _global_state_untouched():
    """No test may leave torch's global state changed, and so may no method."""
    dtype, n_threads = torch.get_default_dtype(), torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    assert torch.get_default_dtype() == dtype
    assert torch.get_num_threads() == n_threads


@pytest.fixture
def pairs(rows_of_pairs):
    """Two dependent views of 300 rows: 5 columns and 3 columns."""
    return tuple(view.copy() for view in rows_of_pairs)


@pytest.fixture(scope="session")
def rows_of_pairs():
    """The rows of `pairs`, for fixtures that outlive a test."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(300, 2))
    X = latent @ rng.normal(size=(2, 5)) + 0.3 * rng.normal(size=(300, 5))
    Y = latent @ rng.normal(size=(2, 3)) + 0.3 * rng.normal(size=(300, 3))
    return X, Y
