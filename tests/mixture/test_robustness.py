"""Degenerate inputs: each is fitted, or refused where no answer exists.

Every case says beforehand which of the two. What is fitted is held against the density
written out in extended precision, and against scikit-learn from the same start.
"""

import re
import warnings
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import sklearn.mixture
from hypothesis import given as for_all
from hypothesis import strategies as st
from mixture_strategies import COVARIANCE_TYPES, PROFILE

from skgmje import GaussianMixture

SKLEARN = sklearn.mixture.GaussianMixture
# EM runs for a given number of iterations; k-means finds fewer clusters than asked for.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
each_covariance_type = pytest.mark.parametrize("covariance_type", COVARIANCE_TYPES)
each_own_covariance = pytest.mark.parametrize(
    "covariance_type", ["full", "diag", "spherical"]
)
ITERATIONS = 20
NAN = np.nan

ILL_DEFINED = "ill-defined empirical covariance"
OVERFLOW = "whose squares overflow"
FULL_AND_TIED = dict.fromkeys(("full", "tied"), ILL_DEFINED)
ALL = dict.fromkeys(COVARIANCE_TYPES, ILL_DEFINED)


@dataclass(frozen=True)
class Case:
    """An input, the mixture to fit, and which covariances are refused, and how."""

    X: Any
    n_components: int = 3
    parameters: dict[str, Any] = field(default_factory=dict)
    sample_weight: Any = None
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self):
        return not np.isnan(np.asarray(self.X, dtype=float)).any()

    def fit(self, cls, covariance_type):
        parameters = {
            name: value[covariance_type] if isinstance(value, dict) else value
            for name, value in self.parameters.items()
        }
        mixture = cls(
            self.n_components,
            covariance_type=covariance_type,
            tol=0.0,
            max_iter=ITERATIONS,
            random_state=0,
            **parameters,
        )
        weight = (
            {} if self.sample_weight is None else {"sample_weight": self.sample_weight}
        )
        return mixture.fit(self.X, **weight)


# ------------------------------------------------------------------------- the inputs


def blobs(n_samples=60, n_features=3):
    """Three clusters with standard deviation one, four from the origin."""
    rng = np.random.default_rng(0)
    centres = 4 * np.diag([1, -1, 1])[:, :n_features]
    return rng.normal(size=(n_samples, n_features)) + centres[np.arange(n_samples) % 3]


ROWS = blobs()
N = len(ROWS)


def changed(index, value, X=ROWS):
    X = np.array(X, dtype=float)
    X[index] = value
    return X


def holes(X, share=0.3):
    """Miss values at random, but never a whole row."""
    X = np.array(X)
    missing = np.random.default_rng(1).uniform(size=X.shape) < share
    missing[np.arange(len(X)), np.arange(len(X)) % X.shape[1]] = False
    X[missing] = NAN
    return X


def one_each(X, missing):
    """Miss one value of each row, or all but one."""
    chosen = np.arange(X.shape[1]) == (np.arange(len(X)) % X.shape[1])[:, None]
    return np.where(chosen == missing, NAN, X)


def precisions(value):
    return {
        "full": np.tile(value * np.eye(3), (3, 1, 1)),
        "tied": value * np.eye(3),
        "diag": np.full((3, 3), value),
        "spherical": np.full(3, value),
    }


def draws(size, seed=0):
    return np.random.default_rng(seed).normal(size=size)


def cauchy(power):
    return np.random.default_rng(0).standard_cauchy((200, 3)) ** power


UNREGULARISED = {"reg_covar": 0.0}
TWO_ROWS = np.tile(ROWS[:2], (15, 1))
LATTICE = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3)
NEEDLE = np.concatenate([0.3 + 1e-7 * draws((50, 2)), 1e3 * draws((50, 2), 1)])
ZEROS = np.where(np.random.default_rng(0).uniform(size=ROWS.shape) < 0.7, 0.0, ROWS)
WEIGHTS = 10.0 ** np.linspace(-12, 12, N)

FEW_DISTINCT = {
    "one row repeated": Case(np.tile([[0.1, -3.0, 7.0]], (30, 1)), 2),
    "two rows repeated": Case(TWO_ROWS),
    "three rows repeated, five components": Case(np.tile(ROWS[:3], (15, 1)), 5),
    "half of the rows equal": Case(
        np.concatenate([np.full((50, 2), 0.3), draws((50, 2))]), 2
    ),
    "zero-inflated columns": Case(ZEROS),
    "signs": Case(np.sign(ROWS)),
    "lattice": Case(LATTICE),
    "integers": Case((10 * ROWS).astype(np.int64)),
    "small integers": Case((10 * ROWS).astype(np.int8)),
    "large integers": Case((1e18 * np.abs(ROWS)).astype(np.uint64)),
    "booleans": Case(ROWS > 0),
    "repeated rows without a ridge": Case(
        TWO_ROWS, parameters=UNREGULARISED, refused=ALL
    ),
}
FLAT = {
    "constant column": Case(changed((slice(None), 1), 0.1)),
    "large constant column": Case(changed((slice(None), 1), 1e9 + 0.1)),
    "one column that varies": Case(changed((slice(None), [1, 2]), [0.1, 1e5])),
    "collinear columns": Case(np.column_stack([ROWS, ROWS @ [1, 2, 3]])),
    "equal columns": Case(ROWS[:, [0, 1, 1]]),
    "one column": Case(ROWS[:, :1]),
    "zero column without a ridge": Case(
        changed((slice(None), 1), 0.0),
        parameters=UNREGULARISED,
        refused={k: ILL_DEFINED for k in ("full", "tied", "diag")},
    ),
    "zero column with a tiny ridge": Case(
        changed((slice(None), 1), 0.0), parameters={"reg_covar": 1e-300}
    ),
    "constant column without a ridge": Case(
        changed((slice(None), 1), 0.1),
        parameters=UNREGULARISED,
        refused={k: ILL_DEFINED for k in ("full", "tied", "diag")},
    ),
    "healthy rows without a ridge": Case(ROWS, parameters=UNREGULARISED),
    "huge ridge": Case(ROWS, parameters={"reg_covar": 1e300}),
}
FEW_ROWS = {
    "fewer rows than columns": Case(draws((6, 12)), 2),
    "fewer rows than columns without a ridge": Case(
        np.column_stack([draws((6, 12)), np.zeros(6)]),
        2,
        UNREGULARISED,
        refused={k: ILL_DEFINED for k in ("full", "tied", "diag")},
    ),
    "as many rows as components": Case(ROWS[:5], 5),
    "as many equal rows as components": Case(np.tile(ROWS[:1], (5, 1)), 5),
    "twenty rows and components": Case(ROWS[:20], 20),
    "two rows": Case(ROWS[:2], 1),
    "one row": Case(
        ROWS[:1], 1, refused=dict.fromkeys(COVARIANCE_TYPES, "a minimum of 2")
    ),
    "fewer rows than components": Case(
        ROWS[:2], refused=dict.fromkeys(COVARIANCE_TYPES, "n_samples >= n_components")
    ),
}
FAR_ROWS = {
    **{
        f"one row at {value:g}": Case(changed(0, value))
        for value in (1e8, 1e12, 1e20, 1e75, 1e150)
    },
    "one value at 1e8": Case(changed((0, 0), 1e8)),
    "one row at 1e200": Case(
        changed(0, 1e200), refused=dict.fromkeys(COVARIANCE_TYPES, OVERFLOW)
    ),
    "infinity": Case(
        changed(0, np.inf), refused=dict.fromkeys(COVARIANCE_TYPES, "infinity")
    ),
    "heavy tails": Case(cauchy(1)),
    "heavier tails": Case(cauchy(5)),
    "log-normal of spread five": Case(np.exp(5 * draws((200, 2)))),
    "needle in a haystack": Case(NEEDLE, 2),
    "needle in a haystack without a ridge": Case(NEEDLE, 2, UNREGULARISED),
}
SCALES = {
    **{
        f"{name} at {value:g}": Case(X)
        for value in (1e-310, 1e-170, 1e-150, 1e100, 1e150)
        for name, X in (
            ("all columns", value * ROWS),
            ("one column", ROWS * [1, value, 1]),
        )
    },
    **{
        f"{name} at {value:g} without a ridge": Case(X, parameters=UNREGULARISED)
        for value in (1e-150, 1e150)
        for name, X in (
            ("all columns", value * ROWS),
            ("one column", ROWS * [1, value, 1]),
        )
    },
    "columns at 1e-150, 1 and 1e150": Case(ROWS * [1e-150, 1, 1e150]),
    "columns at 1e-150, 1 and 1e150 without a ridge": Case(
        ROWS * [1e-150, 1, 1e150], parameters=UNREGULARISED
    ),
    **{
        f"all columns at {value:g} without a ridge": Case(
            value * ROWS, parameters=UNREGULARISED, refused=ALL
        )
        for value in (1e-310, 1e-170, 1e-160, 1e-155)
    },
    **{
        f"all columns at {value:g}": Case(
            value * ROWS, refused=dict.fromkeys(COVARIANCE_TYPES, OVERFLOW)
        )
        for value in (1e160, 1e300)
    },
    "one column at 1e160": Case(
        ROWS * [1, 1e160, 1], refused=dict.fromkeys(COVARIANCE_TYPES, OVERFLOW)
    ),
}
OFFSETS = {
    "timestamps": Case(1.7e9 + ROWS),
    "offset 1e15": Case(1e15 + ROWS),
    "one column with offset 1e15": Case(ROWS + np.array([0, 1e15, 0])),
    "offset 1e15 without a ridge": Case(1e15 + ROWS, parameters=UNREGULARISED),
    "offset beyond the spread": Case(1e150 + ROWS),
}
FLOAT32 = {
    "float32 with offset 1e3": (1e3 + 0.1 * ROWS, {}),
    "float32 with offset 1e4": (1e4 + ROWS, {}),
    "float32 timestamps": (1.7e9 + 1e3 * ROWS, {}),
    "float32 at 1e30": (1e30 * ROWS, {}),
    "float32 at 1e37": (1e37 * ROWS, {}),
    "float32 at 1e-30": (1e-30 * ROWS, {}),
    "float32 at 1e-30 without a ridge": (1e-30 * ROWS, UNREGULARISED),
    "float32 at 1e-40": (1e-40 * ROWS, {}),
    "float32 repeated rows": (TWO_ROWS, {}),
}
FLOAT32 = {
    name: Case(X.astype(np.float32), parameters=parameters)
    for name, (X, parameters) in FLOAT32.items()
}
STARTS = {
    **{
        f"precisions of {value:g}": Case(
            ROWS, parameters={"precisions_init": precisions(value)}
        )
        for value in (1e-300, 1e-100, 1e-12, 1e12, 1e100)
    },
    "precisions without an inverse": Case(
        ROWS,
        parameters={"precisions_init": precisions(1e-310)},
        refused=dict.fromkeys(COVARIANCE_TYPES, "precisions_init has no finite"),
    ),
    **{
        f"means {value:g} away": Case(
            ROWS, parameters={"means_init": value * np.eye(3)}
        )
        for value in (1e6, 1e12)
    },
    **{
        f"one mean {value:g} away": Case(
            ROWS, parameters={"means_init": [[0, 0, 0], [4, 0, 0], [value] * 3]}
        )
        for value in (1e6, 1e12, 1e150)
    },
    "one mean at 1e200": Case(
        ROWS,
        parameters={"means_init": [[0, 0, 0], [4, 0, 0], [1e200] * 3]},
        refused=dict.fromkeys(COVARIANCE_TYPES, OVERFLOW),
    ),
    "equal means": Case(ROWS, parameters={"means_init": np.zeros((3, 3))}),
    "zero weights": Case(ROWS, parameters={"weights_init": [1.0, 0.0, 0.0]}),
    "tiny weights": Case(ROWS, parameters={"weights_init": [1.0, 1e-300, 1e-300]}),
    **{
        f"{init_params} on {name}": Case(X, n, {"init_params": init_params})
        for init_params in ("k-means++", "random", "random_from_data", "short_runs")
        for name, X, n in (
            ("one row repeated", np.tile([[0.1, -3.0, 7.0]], (30, 1)), 2),
            ("as many rows as components", ROWS[:5], 5),
            ("one value at 1e8", changed((0, 0), 1e8), 3),
            ("timestamps", 1.7e9 + ROWS, 3),
            ("all columns at 1e-150", 1e-150 * ROWS, 3),
        )
    },
}
MISSING = {
    "one value of each row missing": Case(one_each(ROWS, True)),
    "all but one value of each row missing": Case(one_each(ROWS, False)),
    "column with one value": Case(changed((slice(1, None), 1), NAN)),
    "column with three values": Case(changed((slice(3, None), 1), NAN)),
    "rows without any value": Case(changed(slice(20), NAN)),
    "column without any value": Case(
        changed((slice(None), 1), NAN),
        refused=dict.fromkeys(COVARIANCE_TYPES, "no observed value in columns [1]"),
    ),
    "missing values": Case(holes(ROWS)),
    "missing values and a constant column": Case(holes(changed((slice(None), 1), 0.1))),
    "missing values and equal columns": Case(holes(ROWS[:, [0, 1, 1]])),
    "missing values and fewer rows than columns": Case(holes(draws((6, 12))), 2),
    "missing values in repeated rows": Case(holes(TWO_ROWS)),
    "missing values in timestamps": Case(holes(1.7e9 + ROWS)),
    "missing values with offset 1e15": Case(holes(1e15 + ROWS)),
    "missing values in float32 with offset": Case(
        holes((1e3 + 0.1 * ROWS).astype(np.float32))
    ),
    "missing values in float32 at 1e30": Case(holes((1e30 * ROWS).astype(np.float32))),
    "missing values and one at 1e8": Case(changed((0, 0), 1e8, holes(ROWS))),
    "missing values and one at 1e150": Case(changed((0, 0), 1e150, holes(ROWS))),
    "missing values at 1e-150 without a ridge": Case(
        holes(1e-150 * ROWS), parameters=UNREGULARISED
    ),
    "missing values at 1e150": Case(holes(1e150 * ROWS)),
    "missing values in columns at 1e-150, 1 and 1e150": Case(
        holes(ROWS * [1e-150, 1, 1e150]), parameters=UNREGULARISED
    ),
    "missing values at 1e160": Case(
        holes(1e160 * ROWS), refused=dict.fromkeys(COVARIANCE_TYPES, OVERFLOW)
    ),
    "missing values and a far mean": Case(
        holes(ROWS), parameters={"means_init": [[0, 0, 0], [4, 0, 0], [1e12] * 3]}
    ),
}
WEIGHTED = {
    "weights from 1e-12 to 1e12": Case(ROWS, sample_weight=WEIGHTS),
    "weights from 1e12 to 1e-12": Case(ROWS, sample_weight=WEIGHTS[::-1]),
    "weights from 1e-12 to 1e12 with missing values": Case(
        holes(ROWS), sample_weight=WEIGHTS
    ),
    "weights of 1e-300 beside one": Case(
        ROWS, sample_weight=np.where(np.arange(N) % 2, 1e-300, 1.0)
    ),
    "one heavy row": Case(ROWS, sample_weight=np.where(np.arange(N), 1.0, 1e12)),
    "as many rows with weight as components": Case(
        ROWS, sample_weight=(np.arange(N) < 3).astype(float)
    ),
    "fewer rows with weight than components": Case(
        ROWS,
        sample_weight=(np.arange(N) < 2).astype(float),
        refused=dict.fromkeys(COVARIANCE_TYPES, "n_samples >= n_components"),
    ),
    **{
        name: Case(
            ROWS,
            sample_weight=np.where(np.arange(N), other, value),
            refused=dict.fromkeys(COVARIANCE_TYPES, message),
        )
        for name, value, other, message in (
            ("no weight", 0.0, 0.0, "at least one non-zero"),
            ("a negative weight", -1.0, 1.0, "Negative values"),
            ("a missing weight", NAN, 1.0, "sample_weight contains NaN"),
            ("an infinite weight", np.inf, 1.0, "sample_weight contains infinity"),
            ("weights with an infinite sum", 1e307, 1e307, "sum of sample_weight"),
        )
    },
}
CASES = {
    **FEW_DISTINCT,
    **FLAT,
    **FEW_ROWS,
    **FAR_ROWS,
    **SCALES,
    **OFFSETS,
    **FLOAT32,
    **STARTS,
    **MISSING,
    **WEIGHTED,
}


def cases(wanted):
    """Parametrise a test with the cases and covariance types that are wanted."""
    chosen = [
        pytest.param(name, covariance_type, id=f"{name}, {covariance_type}")
        for name, case in CASES.items()
        for covariance_type in COVARIANCE_TYPES
        if wanted(case, covariance_type)
    ]
    return pytest.mark.parametrize(("name", "covariance_type"), chosen)


fits = cases(lambda case, covariance_type: covariance_type not in case.refused)
refusals = cases(lambda case, covariance_type: covariance_type in case.refused)
comparable = cases(
    lambda case, covariance_type: (
        covariance_type not in case.refused
        and case.complete
        and case.sample_weight is None
        and case.parameters.get("init_params") != "short_runs"
    )
)


# -------------------------------------------------------------------- what must hold


def log_density(mixture, X):
    """Log-density in extended precision, deviation by deviation."""
    X = np.asarray(X).astype(np.longdouble)
    means, covariances, weights = (
        np.asarray(getattr(mixture, name)).astype(np.longdouble)
        for name in ("means_", "covariances_", "weights_")
    )
    n_components, width = means.shape
    whitened = X[:, None] - means
    if mixture.covariance_type in ("full", "tied"):
        factor = cholesky(np.broadcast_to(covariances, (n_components, width, width)))
        for i in range(width):
            done = np.einsum("nkj,kj->nk", whitened[..., :i], factor[:, i, :i])
            whitened[..., i] = (whitened[..., i] - done) / factor[:, i, i]
        scales = np.diagonal(factor, axis1=1, axis2=2)
    else:
        scales = np.sqrt(covariances.reshape(n_components, -1)) + 0 * means
        whitened = whitened / scales
    with np.errstate(divide="ignore"):
        constants = np.log(weights) - np.log(scales).sum(-1)
    log_joint = constants - 0.5 * (whitened**2).sum(-1)
    return np.logaddexp.reduce(log_joint, axis=1) - 0.5 * width * np.log(2 * np.pi)


def cholesky(matrices):
    factor = np.zeros_like(matrices)
    for j in range(matrices.shape[-1]):
        rest = matrices[:, j:, j] - np.einsum(
            "kij,kj->ki", factor[:, j:, :j], factor[:, j, :j]
        )
        factor[:, j:, j] = rest / np.sqrt(rest[:, :1])
    return factor


def mean_log_density(mixture, X):
    """Its mean as a float; what is not a number stays one."""
    with np.errstate(all="ignore"):
        return float(log_density(mixture, X).mean())


@cache
def fitted(name, covariance_type):
    return CASES[name].fit(GaussianMixture, covariance_type)


def assert_sound(mixture, X):
    """Parameters are a mixture's, and what it says about samples is finite."""
    for name in (
        *("weights_", "means_", "covariances_"),
        *("precisions_", "precisions_cholesky_"),
    ):
        values = getattr(mixture, name)
        assert values.dtype == np.float64, name
        assert np.isfinite(values).all(), name
    assert (mixture.weights_ >= 0).all()
    assert mixture.weights_.sum() == pytest.approx(1.0, abs=1e-12)
    covariances = mixture.covariances_
    if mixture.covariance_type in ("full", "tied"):
        np.testing.assert_array_equal(covariances, np.swapaxes(covariances, -1, -2))
        np.linalg.cholesky(covariances)
    else:
        assert (covariances > 0).all()
    assert np.isfinite(mixture.lower_bound_)
    assert np.isfinite(mixture.score_samples(X)).all()
    responsibilities = mixture.predict_proba(X)
    assert (responsibilities >= 0).all()
    np.testing.assert_allclose(responsibilities.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(mixture.predict(X), responsibilities.argmax(axis=1))


@fits
def test_degenerate_samples_are_fitted(name, covariance_type):
    mixture, case = fitted(name, covariance_type), CASES[name]
    assert_sound(mixture, case.X)
    if case.complete:
        assert mixture.score(case.X) == pytest.approx(
            mean_log_density(mixture, case.X), rel=1e-6, abs=1e-6
        )


@refusals
def test_samples_without_an_answer_are_refused(name, covariance_type):
    case = CASES[name]
    message = re.escape(case.refused[covariance_type])
    with pytest.raises(ValueError, match=message) as error:
        case.fit(GaussianMixture, covariance_type)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------- what scikit-learn answers

# Complete inputs with an answer on which scikit-learn fails, and how. "wrong" is a
# score that is not that of its parameters, or parameters that are far less likely than
# ours from the same start. NaN and sample weights it does not take.
SKLEARN_FAILURES = {
    "integers": {"wrong": "full tied"},
    "small integers": {"wrong": "full tied diag spherical"},
    "large integers": {"wrong": "diag spherical"},
    "booleans": {"wrong": "full tied spherical"},
    "large constant column": {"error": "tied diag spherical"},
    "one column that varies": {"error": "tied diag"},
    "one row at 1e+08": {"wrong": "diag spherical"},
    "one row at 1e+12": {"wrong": "tied diag spherical"},
    "one row at 1e+20": {"error": "full tied", "wrong": "diag spherical"},
    "one row at 1e+75": {"error": "full tied", "wrong": "diag spherical"},
    "one row at 1e+150": {"error": "full tied", "wrong": "diag spherical"},
    "one value at 1e8": {"wrong": "diag spherical"},
    "timestamps": {"error": "tied diag spherical"},
    "offset 1e15": {"error": "tied diag spherical", "wrong": "full"},
    "one column with offset 1e15": {"error": "diag spherical", "wrong": "tied"},
    "offset 1e15 without a ridge": {"error": "tied diag spherical", "wrong": "full"},
    "offset beyond the spread": {"error": "full tied", "wrong": "diag spherical"},
    "float32 with offset 1e3": {"error": "tied diag spherical"},
    "float32 with offset 1e4": {"error": "tied diag spherical"},
    "float32 timestamps": {"error": "tied diag spherical"},
    "float32 at 1e30": {"error": "full tied", "NaN": "diag spherical"},
    "float32 at 1e37": {"error": "full tied", "NaN": "diag spherical"},
    "float32 at 1e-30 without a ridge": {"error": "full tied diag spherical"},
    "float32 repeated rows": {"wrong": "tied diag spherical"},
    "k-means++ on timestamps": {"error": "tied diag spherical"},
    "k-means++ on one value at 1e8": {"wrong": "diag spherical"},
    "random on timestamps": {"error": "tied diag spherical"},
    "random on one value at 1e8": {"wrong": "diag spherical"},
    "random_from_data on timestamps": {"error": "tied diag spherical"},
    "random_from_data on one value at 1e8": {"wrong": "diag spherical"},
}


@cache
def answer_of_scikit_learn(name, covariance_type):
    """Say how it fails, if it does, and how likely the samples are to what it fits."""
    X = CASES[name].X
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            mixture = CASES[name].fit(SKLEARN, covariance_type)
            score, shares = mixture.score(X), mixture.predict_proba(X)
        except ValueError:
            return "error", -np.inf
    likelihood = mean_log_density(mixture, X)
    values = (score, shares, mixture.weights_, mixture.means_, mixture.covariances_)
    if not all(np.isfinite(value).all() for value in values):
        return "NaN", likelihood
    ours = mean_log_density(fitted(name, covariance_type), X)
    is_off = abs(score - likelihood) > 5e-3 * max(1.0, abs(likelihood))
    is_worse = likelihood < ours - 1e-2 * max(1.0, abs(ours))
    return "wrong" if is_off or is_worse else "fits", likelihood


@comparable
def test_fit_is_no_worse_than_that_of_scikit_learn(name, covariance_type):
    ours = mean_log_density(fitted(name, covariance_type), CASES[name].X)
    how, theirs = answer_of_scikit_learn(name, covariance_type)
    if how in ("fits", "wrong"):
        assert ours > theirs - 1e-6 * max(1.0, abs(theirs))


@pytest.mark.parametrize(
    ("name", "how", "covariance_types"),
    [
        pytest.param(name, how, covariance_types.split(), id=f"{name}, {how}")
        for name, failures in SKLEARN_FAILURES.items()
        for how, covariance_types in failures.items()
    ],
)
def test_scikit_learn_fails_as_the_table_says(name, how, covariance_types):
    for covariance_type in covariance_types:
        assert answer_of_scikit_learn(name, covariance_type)[0] == how


# ------------------------------------------------------------ units, weights, offsets


def start_of_rows(covariance_type, shift=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0)):
    """A start for `ROWS` in other units."""
    scale, shift = np.array(scale), np.array(shift)
    precision = 1 / np.outer(scale, scale)
    return {
        "weights_init": [0.2, 0.3, 0.5],
        "means_init": 3 * np.diag([1.0, -1.0, 1.0]) * scale + shift,
        "precisions_init": {
            "full": np.tile(precision * np.eye(3), (3, 1, 1)),
            "tied": precision * np.eye(3),
            "diag": np.tile(np.diag(precision), (3, 1)),
            "spherical": np.full(3, precision[0, 0]),
        }[covariance_type],
    }


def fit_from_start(X, covariance_type, sample_weight=None, **units):
    return GaussianMixture(
        3,
        covariance_type=covariance_type,
        reg_covar=0.0,
        tol=0.0,
        max_iter=10,
        init_params="random_from_data",
        random_state=0,
        **start_of_rows(covariance_type, **units),
    ).fit(X, sample_weight=sample_weight)


def assert_same_in_units(actual, expected, shift=0.0, scale=(1.0, 1.0, 1.0), tol=1e-9):
    """Compare a fit with one to the same samples before `scale` and `shift`."""
    scale = np.array(scale)
    if expected.covariance_type in ("full", "tied"):
        units = np.outer(scale, scale)
    else:
        units = scale**2 if expected.covariance_type == "diag" else scale[0] ** 2
    np.testing.assert_allclose(actual.weights_, expected.weights_, rtol=tol)
    np.testing.assert_allclose(
        (actual.means_ - shift) / scale, expected.means_, rtol=0, atol=tol
    )
    np.testing.assert_allclose(
        actual.covariances_ / units, expected.covariances_, rtol=0, atol=tol
    )
    expected_bound = expected.lower_bound_ - np.log(scale).sum()
    assert actual.lower_bound_ == pytest.approx(expected_bound, rel=1e-9, abs=tol)


@each_covariance_type
@PROFILE
@for_all(
    exponents=st.one_of(
        st.tuples(*[st.integers(-250, 250)] * 3),
        st.integers(-480, 480).map(lambda exponent: (exponent,) * 3),
    )
)
def test_units_do_not_matter(covariance_type, exponents):
    if covariance_type == "spherical":
        exponents = exponents[:1] * 3
    scale = np.ldexp(1.0, exponents)
    actual = fit_from_start(ROWS * scale, covariance_type, scale=scale)
    expected = fit_from_start(ROWS, covariance_type)
    assert_same_in_units(actual, expected, scale=scale)


@each_covariance_type
@PROFILE
@for_all(exponent=st.integers(-900, 900), missing=st.booleans())
def test_unit_of_the_weights_does_not_matter(covariance_type, exponent, missing):
    X = holes(ROWS) if missing else ROWS
    weight = 1.0 + np.arange(N) % 3
    actual = fit_from_start(X, covariance_type, np.ldexp(weight, exponent))
    assert_same_in_units(actual, fit_from_start(X, covariance_type, weight))


@each_covariance_type
@pytest.mark.parametrize("offset", [2.0**31, -(2.0**40)])
def test_offsets_cost_no_digits(covariance_type, offset):
    X = np.round(ROWS * 2**10) / 2**10  # exact beside either offset
    actual = fit_from_start(X + offset, covariance_type, shift=[offset] * 3)
    # The means themselves are rounded; nothing else may be.
    tol = 4 * np.spacing(abs(offset)) + 1e-9
    expected = fit_from_start(X, covariance_type)
    assert_same_in_units(actual, expected, shift=offset, tol=tol)


@each_covariance_type
@pytest.mark.parametrize("distance", [1e6, 1e9, 1e12])
def test_far_start_costs_no_digits(covariance_type, distance):
    mixture = GaussianMixture(
        1,
        covariance_type=covariance_type,
        reg_covar=0.0,
        max_iter=1,
        means_init=[[distance] * 3],
    ).fit(ROWS)
    scatter = np.cov(ROWS.T, bias=True)
    expected = {
        "full": scatter[None],
        "tied": scatter,
        "diag": np.diag(scatter)[None],
        "spherical": [np.trace(scatter) / 3],
    }[covariance_type]
    tol = 4 * np.spacing(distance) + 1e-9
    np.testing.assert_allclose(mixture.means_, ROWS.mean(0)[None], rtol=0, atol=tol)
    np.testing.assert_allclose(mixture.covariances_, expected, rtol=1e-6, atol=1e-6)


@each_own_covariance
@pytest.mark.parametrize("distance", [1e8, 1e20, 1e150])
@pytest.mark.parametrize("missing", [False, True])
def test_component_of_one_far_row_is_that_row(covariance_type, distance, missing):
    X = changed(0, distance, holes(ROWS) if missing else ROWS)
    mixture = GaussianMixture(
        2,
        covariance_type=covariance_type,
        max_iter=5,
        tol=0.0,
        means_init=[np.zeros(3), np.full(3, distance)],
        weights_init=[0.5, 0.5],
        precisions_init=precisions(1.0)[covariance_type][:2],
    ).fit(X)
    np.testing.assert_allclose(mixture.means_[1], distance, rtol=1e-12)
    ridge = 1e-6 * (np.eye(3) if covariance_type == "full" else np.ones(3))
    expected = 1e-6 if covariance_type == "spherical" else ridge
    np.testing.assert_allclose(mixture.covariances_[1], expected, rtol=1e-6, atol=1e-12)
    if not missing:
        np.testing.assert_allclose(mixture.means_[0], ROWS[1:].mean(0), rtol=1e-9)


@each_own_covariance
@pytest.mark.parametrize("distance", [1e6, 1e12, 1e150])
def test_empty_component_stays_where_it_is(covariance_type, distance):
    mixture = fitted(f"one mean {distance:g} away", covariance_type)
    np.testing.assert_allclose(mixture.means_[2], distance, rtol=1e-12)
    values = mixture.covariances_[2]
    values = np.diag(values) if covariance_type == "full" else values
    # The smallest responsibilities show at the smaller distance.
    np.testing.assert_allclose(values, 1e-6, rtol=1.0 if distance < 1e9 else 1e-6)


@each_covariance_type
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_float32_is_fitted_like_the_same_numbers_in_float64(covariance_type, scale):
    X = (scale * ROWS).astype(np.float32)
    pair = [
        GaussianMixture(
            3, covariance_type=covariance_type, reg_covar=0.0, random_state=0
        ).fit(samples)
        for samples in (X, X.astype(float))
    ]
    assert len(np.unique(pair[0].predict(X))) == 3
    np.testing.assert_allclose(pair[0].means_, pair[1].means_, rtol=1e-9)
    np.testing.assert_allclose(pair[0].covariances_, pair[1].covariances_, rtol=1e-9)


# ------------------------------------------------------------------- questions, steps


@pytest.fixture(scope="module")
def healthy():
    return {
        covariance_type: GaussianMixture(
            3, covariance_type=covariance_type, random_state=0
        ).fit(ROWS)
        for covariance_type in COVARIANCE_TYPES
    }


DIRECTIONS = np.array([[1.0, 0.0, 0.0], [1.0, -1.0, 0.5], [0.0, 0.0, -1.0]])


@each_covariance_type
@pytest.mark.parametrize("distance", [1e5, 1e12, 1e100, 1e150, 1e300])
@pytest.mark.parametrize("missing", [False, True])
def test_far_samples_have_finite_answers(healthy, covariance_type, distance, missing):
    mixture, X = healthy[covariance_type], distance * DIRECTIONS
    if missing:
        X = changed((slice(None), 1), NAN, X)
    assert np.isfinite(mixture.score_samples(X)).all()
    assert (mixture.score_samples(X) < -1e9).all()
    shares = mixture.predict_proba(X)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(mixture.predict(X), shares.argmax(axis=1))
    assert np.isfinite(mixture.impute(X)).all()
    (drawn,) = mixture.impute(X, n_draws=1, random_state=0)
    assert np.isfinite(drawn).all()


@each_covariance_type
@pytest.mark.parametrize("distance", [1e5, 1e12])
def test_far_samples_have_exact_densities(healthy, covariance_type, distance):
    mixture, X = healthy[covariance_type], distance * DIRECTIONS
    expected = log_density(mixture, X).astype(float)
    np.testing.assert_allclose(mixture.score_samples(X), expected, rtol=1e-9)


@each_covariance_type
@pytest.mark.parametrize("distance", [1e5, 1e12, 1e100, 1e150])
def test_far_values_have_conditionals(healthy, covariance_type, distance):
    conditional = healthy[covariance_type].condition([0], distance * DIRECTIONS[:, :1])
    for values in (conditional.mean, conditional.means, conditional.variance):
        assert np.isfinite(values.numpy()).all()
    np.testing.assert_allclose(conditional.weights.sum(-1), 1.0, rtol=1e-12)


def test_values_whose_squares_overflow_have_no_conditionals(healthy):
    with pytest.raises(ValueError, match=f"X_given holds .*{OVERFLOW}"):
        healthy["full"].condition([0], [[1e200]])


@each_covariance_type
@pytest.mark.parametrize(
    "batch", [TWO_ROWS, changed(0, 1e8), 1e3 + ROWS, 1e-150 * ROWS, holes(ROWS)]
)
def test_degenerate_batches_leave_a_sound_mixture(covariance_type, batch):
    mixture = GaussianMixture(3, covariance_type=covariance_type, random_state=0)
    for samples in (ROWS, batch, batch, ROWS):
        mixture.partial_fit(samples)
    assert_sound(mixture, np.concatenate([ROWS, batch]))


@each_covariance_type
def test_chunks_of_one_row_are_fitted_like_all_rows(covariance_type):
    X = 1.7e9 + ROWS
    units = {"shift": [1.7e9] * 3}
    actual = fit_from_start(np.split(X, N), covariance_type, **units)
    expected = fit_from_start(X, covariance_type, **units)
    np.testing.assert_allclose(actual.covariances_, expected.covariances_, rtol=1e-6)
