"""scikit-learn's common checks: every estimator, every pair of options, no excuses."""

import itertools

import numpy as np
import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from skgmje import (
    ContrastiveEmbedder,
    GaussianProcessEmbedder,
    GJEEmbedder,
    GMJEEmbedder,
    JEPAEmbedder,
    LDMEmbedder,
    MDNEmbedder,
    VJEEmbedder,
)
from skgmje.mixture import GaussianMixture, ParticleBank

DEFAULT_EPOCHS = 20
SMALL = {"max_iter": 2, "batch_size": 64, "random_state": 0}
COMMON = {
    "target": ("auto", "y", "augment"),
    "encoder": ("mlp", "linear", "identity"),
    "target_encoder": (None, "mlp", "identity"),
    "early_stopping": (False, True),
    "augmentation": ("corrupt", "jitter"),
}
FACTORS = {
    ContrastiveEmbedder: {
        "target": COMMON["target"],
        "tilting": ("cosine", "quadratic"),
        "loss": ("conditional", "joint_mmd"),
        "temperature": (0.1, "learned"),
    },
    GJEEmbedder: COMMON,
    GMJEEmbedder: COMMON
    | {
        "n_components": (1, 3),
        "covariance_type": ("full", "tied", "diag", "spherical", "low_rank"),
        "components": ("prototypes", "em", "gng", "bank"),
        "likelihood": ("conditional", "joint"),
        "entropy": (None, "knn", "whitening"),
    },
    GaussianProcessEmbedder: {"target": COMMON["target"], "n_points": (20,)},
    JEPAEmbedder: {"target": COMMON["target"], "target_encoder": ("mlp",)},
    VJEEmbedder: {
        "target": COMMON["target"],
        "likelihood": ("feature_wise", "multivariate"),
        "novelty": ("directional", "density"),
        "n_components": (1, 3),
    },
    LDMEmbedder: {"target": COMMON["target"], "latent": ("von_mises_fisher",)},
    MDNEmbedder: COMMON
    | {
        "n_components": (1, 3),
        "covariance_type": ("diag", "full", "spherical", "low_rank"),
        "marginal": ("moment_kl", "gaussian"),
    },
}
# The full grid leaves out what hardly depends on the other options.
FULL_GRID = {
    estimator: {
        name: levels
        for name, levels in factors.items()
        if name not in ("likelihood", "entropy", "marginal")
    }
    for estimator, factors in FACTORS.items()
}
FULL_GRID[ContrastiveEmbedder]["tilting"] = ("cosine", "inner", "quadratic")
FULL_GRID[GMJEEmbedder]["covariance_type"] = ("full", "low_rank")
TARGETS = COMMON["target"]
# These fit on names and transform without, which warns, and is meant to.
names_may_differ = pytest.mark.filterwarnings(
    "ignore:X (does not have|has):UserWarning"
)
EXTRA_CHECKS = [
    estimator_checks.check_set_output_transform,
    *(
        pytest.param(check, marks=names_may_differ)
        for check in (
            estimator_checks.check_set_output_transform_pandas,
            estimator_checks.check_set_output_transform_polars,
            estimator_checks.check_global_output_transform_pandas,
            estimator_checks.check_global_set_output_transform_polars,
        )
    ),
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
    estimator_checks.check_dataframe_column_names_consistency,
    estimator_checks.check_param_validation,
    estimator_checks.check_inplace_ensure_writeable,
]
MIXTURE_EXTRA_CHECKS = EXTRA_CHECKS[-3:]


def full_product(factors):
    """Return every combination of the levels of the factors."""
    return [
        dict(zip(factors, levels, strict=True))
        for levels in itertools.product(*factors.values())
    ]


def pairs_in(row):
    return set(itertools.combinations(row.items(), 2))


def pairwise_rows(factors):
    """Return few combinations that hold every pair of levels, by greedy choice."""
    sizes = [len(levels) for levels in factors.values()]
    # In random order, since the first of those that hold as many new pairs is taken.
    levels = np.random.default_rng(2).permutation(list(np.ndindex(*sizes)))
    held = [
        (levels[:, a] == i) & (levels[:, b] == j)
        for a, b in itertools.combinations(range(len(sizes)), 2)
        for i, j in np.ndindex(sizes[a], sizes[b])
    ]
    held = np.stack(held, axis=1).astype(np.float32)
    wanted = np.ones(held.shape[1], np.float32)
    rows = []
    while wanted.any():
        best = (held @ wanted).argmax()
        wanted[held[best] > 0] = 0
        rows.append(levels[best])
    return [
        {name: factors[name][i] for name, i in zip(factors, row, strict=True)}
        for row in rows
    ]


def small(estimator, **options):
    """Make an estimator whose fit is quick."""
    takes = estimator().get_params()
    return estimator(**options, **{k: v for k, v in SMALL.items() if k in takes})


def default(estimator):
    """Make a default estimator, of few epochs as scikit-learn's are in its checks."""
    takes = estimator().get_params()
    return estimator(**({"max_iter": DEFAULT_EPOCHS} if "max_iter" in takes else {}))


PAIRWISE = [
    small(estimator, **row)
    for estimator, factors in FACTORS.items()
    for row in pairwise_rows(factors)
]
MIXTURES = [
    GaussianMixture(covariance_type=covariance_type)
    for covariance_type in ("full", "tied", "diag", "spherical")
]
BANKS = [
    ParticleBank(),
    ParticleBank(bandwidth=0.5),
    ParticleBank(8, bandwidth="silverman"),
    ParticleBank(8, learning_rate=1.0),
]


def name_of(value):
    return value.__name__ if callable(value) else str(value)


@pytest.mark.parametrize("estimator", FACTORS, ids=name_of)
def test_pairwise_rows_hold_every_pair_of_levels(estimator):
    factors = FACTORS[estimator]
    held = set().union(*map(pairs_in, pairwise_rows(factors)))
    for (a, levels_a), (b, levels_b) in itertools.combinations(factors.items(), 2):
        for pair in itertools.product(levels_a, levels_b):
            assert tuple(zip((a, b), pair, strict=True)) in held


@parametrize_with_checks([default(estimator) for estimator in FACTORS])
def test_default_instances(estimator, check):
    check(estimator)


@parametrize_with_checks(PAIRWISE)
def test_pairwise_options(estimator, check):
    check(estimator)


@parametrize_with_checks(MIXTURES)
def test_mixtures(estimator, check):
    check(estimator)


@parametrize_with_checks(BANKS)
def test_banks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("check", EXTRA_CHECKS, ids=name_of)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("estimator", FACTORS, ids=name_of)
def test_checks_that_check_estimator_leaves_out(estimator, target, check):
    chosen = {"n_components": 3, "n_points": 20}
    options = {name: chosen[name] for name in chosen.keys() & FACTORS[estimator]}
    check(estimator.__name__, small(estimator, target=target, **options))


@pytest.mark.parametrize("check", MIXTURE_EXTRA_CHECKS, ids=name_of)
@pytest.mark.parametrize("mixture", MIXTURES, ids=lambda m: m.covariance_type)
def test_mixture_checks_that_check_estimator_leaves_out(mixture, check):
    check("GaussianMixture", mixture)


@pytest.mark.parametrize("check", MIXTURE_EXTRA_CHECKS, ids=name_of)
def test_bank_checks_that_check_estimator_leaves_out(check):
    check("ParticleBank", ParticleBank(8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "options"),
    [(e, row) for e, factors in FULL_GRID.items() for row in full_product(factors)],
    ids=lambda value: (
        value.__name__ if callable(value) else "-".join(map(str, value.values()))
    ),
)
def test_full_product_of_options(estimator, options):
    results = check_estimator(
        small(estimator, **options), on_skip=None, on_fail="raise"
    )
    assert {result["status"] for result in results} <= {"passed", "skipped"}
