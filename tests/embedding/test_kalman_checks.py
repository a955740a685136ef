"""scikit-learn's common checks of the Kalman embedder: all of them, without groups."""

import pytest
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks
from test_common_checks import EXTRA_CHECKS, full_product, name_of

from skgmje import KalmanEmbedder

SMALL = {"max_iter": 1, "random_state": 0, "hidden_layer_sizes": (8,)}
FACTORS = {
    "encoder": ("mlp", "linear", "identity"),
    "observation_noise": ("constant", "input"),
    "entropy": ("stop_gradient", "knn", "log_det"),
    "decoder": (None, "mlp"),
}
# Every level of every factor.
ROWS = [
    {"encoder": "mlp", "observation_noise": "input", "entropy": "knn"},
    {"encoder": "linear", "entropy": "log_det", "state_dim": 3},
    {"encoder": "identity", "decoder": "mlp"},
]


@parametrize_with_checks([KalmanEmbedder(**SMALL, **row) for row in ROWS])
def test_options(estimator, check):
    check(estimator)


@pytest.mark.parametrize("check", EXTRA_CHECKS, ids=name_of)
def test_checks_that_check_estimator_leaves_out(check):
    check("KalmanEmbedder", KalmanEmbedder(**SMALL))


def test_no_check_is_skipped():
    results = check_estimator(KalmanEmbedder(**SMALL), on_skip=None, on_fail=None)
    assert {result["status"] for result in results} == {"passed"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, *full_product(FACTORS)],
    ids=lambda row: "-".join(map(str, row.values())),
)
def test_full_product_of_options(options):
    quick = SMALL if options else {}
    results = check_estimator(
        KalmanEmbedder(**quick, **options), on_skip=None, on_fail="raise"
    )
    assert {result["status"] for result in results} == {"passed"}
