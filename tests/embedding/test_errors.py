"""Awkward data: a clear error with a way out, or a finite and sensible fit."""

import re
import warnings

import numpy as np
import pytest
import scipy.sparse
from embedding_helpers import MAKERS, gje, gmje, jepa, mdn
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils._testing import raises

each_estimator = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
each_encoder = pytest.mark.parametrize("encoder", ["mlp", "identity"])
may_not_converge = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning"
)


def assert_sound(estimator, X, Y):
    """Check that everything is finite and predictions keep within reach of y."""
    Z = estimator.transform(X)
    assert np.isfinite(Z).all()
    assert np.isfinite(estimator.score_samples(X)).all()
    assert np.isfinite(estimator.score(X, Y))
    assert np.isfinite(estimator.predict(X)).all()
    assert np.isfinite(estimator.sample_conditional(X, 2, random_state=0)).all()
    if Y is not None and estimator.target_encoder_.is_identity:
        Y = np.reshape(Y, (len(X), -1)).astype(float)
        prediction = estimator.predict(X).reshape(Y.shape)
        spread = np.ptp(Y, axis=0)
        reach = np.where(spread > 0, 3 * spread, 1.0 + 1e-6 * np.abs(Y).max(axis=0))
        assert (np.abs(prediction - Y.mean(axis=0)) <= reach).all()


# --------------------------------------------------------------------------- refused


@each_estimator
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_in_the_context_are_refused(make, value, pairs):
    X, Y = pairs
    X = X.copy()
    X[3, 1] = value
    with pytest.raises(ValueError, match="Input X contains"):
        make().fit(X, Y)


@each_estimator
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_in_the_target_are_refused(make, value, pairs):
    X, Y = pairs
    Y = Y.copy()
    Y[3, 1] = value
    with pytest.raises(ValueError, match=r"Input (y|target_view) contains"):
        make().fit(X, Y)
    with pytest.raises(ValueError, match="Input target_view contains"):
        make().fit(X, target_view=Y)


@each_estimator
def test_values_that_are_not_finite_are_refused_after_the_fit(make, pairs):
    X, Y = pairs
    estimator = make(encoder="identity").fit(X, Y)
    bad_X, bad_Y = X.copy(), Y.copy()
    bad_X[0, 0] = bad_Y[0, 0] = np.nan
    for method in (estimator.transform, estimator.predict, estimator.score_samples):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            method(bad_X)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        estimator.score(X, bad_Y)
    with pytest.raises(ValueError, match="Input y contains NaN"):
        estimator.transform_target(bad_Y)


@each_estimator
def test_complex_views_are_refused(make, pairs):
    X, Y = pairs
    with pytest.raises(ValueError, match="Complex data not supported"):
        make().fit(X + 1j, Y)
    with pytest.raises(ValueError, match="Complex data not supported"):
        make().fit(X, Y + 1j)


@each_estimator
def test_sparse_views_are_refused_with_the_way_out(make, pairs):
    X, Y = pairs
    with pytest.raises(TypeError, match="dense"):
        make().fit(scipy.sparse.csr_array(X), Y)
    with pytest.raises(TypeError, match="dense"):
        make().fit(X, scipy.sparse.csr_array(Y))


@each_estimator
def test_empty_data_are_refused(make):
    with pytest.raises(ValueError, match=r"Found array with 0 sample\(s\)"):
        make().fit(np.empty((0, 3)), np.empty((0, 2)))
    with pytest.raises(ValueError, match=r"0 feature\(s\)"):
        make().fit(np.empty((10, 0)), np.ones((10, 2)))
    with pytest.raises(ValueError, match=r"0 feature\(s\)"):
        make().fit(np.random.default_rng(0).normal(size=(10, 2)), np.empty((10, 0)))


@each_estimator
@each_encoder
def test_one_row_is_refused(make, encoder):
    with pytest.raises(ValueError, match=r"1 sample\(s\).*minimum of 2"):
        make(encoder=encoder).fit([[1.0, 2.0]], [[1.5, 2.5]])


@each_estimator
def test_views_of_different_length_are_refused(make, pairs):
    X, Y = pairs
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make().fit(X, Y[:-1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make().fit(X, target_view=Y[:-1])
    estimator = make(encoder="identity").fit(X, Y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator.score(X, Y[:-1])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        estimator.score_samples(X, Y[:-1])


@each_estimator
def test_strings_are_refused(make, pairs):
    X, Y = pairs
    words = np.array([["a", "b"]] * len(X), dtype=object)
    with pytest.raises(ValueError, match="could not convert string to float"):
        make().fit(words, Y)
    with pytest.raises(ValueError, match="encode them as numbers"):
        make(target="y").fit(X, np.array(["a", "b"] * (len(X) // 2)))
    with pytest.raises(ValueError, match="strings"):
        make().fit(X, target_view=words)


@each_estimator
def test_other_widths_are_refused_after_the_fit(make, pairs):
    X, Y = pairs
    estimator = make().fit(X, Y)
    name = type(estimator).__name__
    message = f"X has 4 features, but {name} is expecting 5 features as input"
    for method in (estimator.transform, estimator.predict, estimator.conditional):
        with pytest.raises(ValueError, match=message):
            method(X[:, :4])
    with pytest.raises(ValueError, match=message):
        estimator.score(X[:, :4], Y)
    message = f"target view has 2 columns, but {name} was fitted with 3"
    for method in (estimator.score, estimator.score_samples):
        with pytest.raises(ValueError, match=message):
            method(X, Y[:, :2])
    with pytest.raises(ValueError, match=message):
        estimator.transform_target(Y[:, :2])
    with pytest.raises(ValueError, match=message):
        estimator.partial_fit(X, Y[:, :2])


@each_estimator
@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("transform", "X"),
        ("transform_target", "Y"),
        ("predict", "X"),
        ("conditional", "X"),
        ("conditional_context", "Y"),
        ("sample", "1"),
        ("sample_conditional", "X"),
        ("score", "XY"),
        ("score_samples", "X"),
        ("get_feature_names_out", ""),
    ],
)
def test_every_method_says_that_the_estimator_is_not_fitted(
    make, method, arguments, pairs
):
    values = {"X": pairs[0], "Y": pairs[1], "1": 1}
    estimator = make()
    if not hasattr(estimator, method):
        assert make in (jepa, mdn)
        return
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        getattr(estimator, method)(*(values[name] for name in arguments))


@pytest.mark.parametrize("make", [gmje, mdn])
@each_encoder
def test_more_components_than_rows_are_refused_with_the_way_out(make, encoder, pairs):
    X, Y = (view[:5] for view in pairs)
    with pytest.raises(ValueError, match="lower n_components or add rows"):
        make(n_components=6, encoder=encoder).fit(X, Y)


@each_estimator
def test_a_target_is_asked_for_where_the_fit_had_one(make, pairs):
    X, Y = pairs
    estimator = make(encoder="identity").fit(X, Y)
    with pytest.raises(ValueError, match=re.escape("score_samples(X)")):
        estimator.score(X)


@each_estimator
def test_a_target_is_refused_in_score_samples_where_views_were_drawn(make, pairs):
    X, Y = pairs
    estimator = make(target="augment").fit(X)
    with pytest.raises(ValueError, match=re.escape("score_samples(X)")):
        estimator.score_samples(X, Y)


@each_estimator
@pytest.mark.parametrize("n", [0, -1])
def test_no_draws_are_refused(make, n, pairs):
    X, Y = pairs
    estimator = make(encoder="identity").fit(X, Y)
    with pytest.raises(ValueError, match="at least one"):
        estimator.sample(n)
    with pytest.raises(ValueError, match="at least one"):
        estimator.sample_conditional(X, n)


@each_estimator
def test_an_unknown_device_is_refused_with_the_way_out(make, pairs):
    with pytest.raises(ValueError, match="use None, 'auto', 'cpu' or 'cuda'"):
        make(device="abacus").fit(*pairs)


@each_estimator
def test_early_stopping_on_too_few_rows_names_the_way_out(make, pairs):
    X, Y = (view[:3] for view in pairs)
    with pytest.raises(ValueError, match="early_stopping=False"):
        make(early_stopping=True).fit(X, Y)


@each_estimator
def test_a_failed_fit_leaves_a_fitted_estimator_as_it_was(make, pairs):
    X, Y = pairs
    estimator = make().fit(X, Y)
    before = estimator.transform(X)
    with raises(ValueError):
        estimator.fit(X, np.full_like(Y, np.nan))
    np.testing.assert_array_equal(estimator.transform(X), before)


# -------------------------------------------------------------------------- accepted


@each_estimator
@each_encoder
def test_one_column_in_each_view_fits(make, encoder, pairs):
    X, Y = pairs
    estimator = make(encoder=encoder, target="y").fit(X[:, :1], Y[:, 0])
    assert_sound(estimator, X[:, :1], Y[:, 0])


@each_estimator
def test_one_column_makes_two_views(make, pairs):
    X = pairs[0][:, :1]
    assert_sound(make(target="augment").fit(X), X, None)


@each_estimator
@each_encoder
@pytest.mark.parametrize("constant", ["X", "Y", "both"])
@pytest.mark.parametrize("value", [0.0, 1e6 + 0.1])
def test_constant_columns_fit(make, encoder, constant, value, pairs):
    X, Y = (view.copy() for view in pairs)
    if constant in ("X", "both"):
        X[:, 2] = value
    if constant in ("Y", "both"):
        Y[:, 1] = value
    estimator = make(encoder=encoder).fit(X, Y)
    assert_sound(estimator, X, Y)
    if estimator.target_encoder_.is_identity and constant != "X":
        # The network of an MDN comes near a constant, the closed form is exact.
        tolerance = 1.0 if make in (jepa, mdn) else 1e-6
        np.testing.assert_allclose(
            estimator.predict(X)[:, 1], value, atol=tolerance, rtol=1e-12
        )


@each_estimator
@each_encoder
def test_a_view_of_constant_columns_only_fits(make, encoder, pairs):
    X, Y = pairs
    constant = np.full_like(X, 7.0)
    estimator = make(encoder=encoder).fit(constant, Y)
    assert np.isfinite(estimator.score(constant, Y))
    if estimator.target_encoder_.is_identity:
        # Nothing is known, so the prediction is the mean; a few epochs come near it.
        gap = np.abs(estimator.predict(constant) - Y.mean(axis=0)) / Y.std(axis=0)
        assert gap.max() < (0.7 if make in (jepa, mdn) else 1e-6)


@each_estimator
@each_encoder
def test_duplicated_columns_fit(make, encoder, pairs):
    X, Y = pairs
    X, Y = np.hstack([X, X]), np.hstack([Y, Y])
    assert_sound(make(encoder=encoder).fit(X, Y), X, Y)


@each_estimator
@each_encoder
def test_duplicated_rows_fit(make, encoder, pairs):
    X, Y = (np.repeat(view[:6], 20, axis=0) for view in pairs)
    assert_sound(make(encoder=encoder).fit(X, Y), X, Y)


@each_estimator
@each_encoder
def test_identical_views_fit(make, encoder, pairs):
    X = pairs[0]
    assert_sound(make(encoder=encoder).fit(X, X), X, X)


@each_estimator
@each_encoder
def test_a_batch_larger_than_the_data_fits(make, encoder, pairs):
    X, Y = pairs
    estimator = make(encoder=encoder, batch_size=10_000).fit(X, Y)
    assert_sound(estimator, X, Y)


@each_estimator
@each_encoder
def test_fewer_rows_than_columns_fit(make, encoder):
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(20, 30)), rng.normal(size=(20, 25))
    assert_sound(make(encoder=encoder).fit(X, Y), X, Y)


@each_estimator
@each_encoder
@pytest.mark.parametrize("n_samples", [2, 3, 4, 5])
@may_not_converge
def test_a_handful_of_rows_fits_without_early_stopping(make, encoder, n_samples, pairs):
    X, Y = (view[:n_samples] for view in pairs)
    estimator = make(encoder=encoder, early_stopping=False).fit(X, Y)
    assert_sound(estimator, X, Y)


@each_estimator
@pytest.mark.parametrize("n_samples", [2, 3, 4])
@may_not_converge
def test_two_views_of_a_handful_of_rows_fit(make, n_samples, pairs):
    X = pairs[0][:n_samples]
    estimator = make(target="augment", early_stopping=False).fit(X)
    assert_sound(estimator, X, None)


@each_estimator
@each_encoder
@pytest.mark.parametrize("factor", [1e-150, 1e-30, 1e30, 1e150])
def test_columns_of_extreme_scale_fit(make, encoder, factor, pairs):
    X, Y = (view.copy() for view in pairs)
    plain = make(encoder=encoder).fit(X, Y)
    X[:, 0] *= factor
    Y[:, 0] *= factor
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator = make(encoder=encoder).fit(X, Y)
        assert_sound(estimator, X, Y)
    if estimator.target_encoder_.is_identity:
        # Units change the density by a constant, and the prediction by the factor.
        change = np.log(factor)
        score, plain_score = estimator.score(X, Y), plain.score(pairs[0], pairs[1])
        assert score == pytest.approx(plain_score - change, abs=0.1)


@each_estimator
@each_encoder
def test_timestamps_keep_their_spread(make, encoder, pairs):
    X, Y = (view.copy() for view in pairs)
    plain = make(encoder=encoder).fit(X, Y)
    X[:, 0] += 1e9
    Y[:, 0] += 1e9
    estimator = make(encoder=encoder).fit(X, Y)
    assert_sound(estimator, X, Y)
    assert estimator.score(X, Y) == pytest.approx(plain.score(*pairs), abs=1e-3)


@each_estimator
def test_an_outlier_does_not_break_the_fit(make, pairs):
    X, Y = (view.copy() for view in pairs)
    X[0], Y[0] = 1e8, -1e8
    assert_sound(make().fit(X, Y), X, Y)


@each_estimator
@each_encoder
def test_rows_far_from_the_data_have_finite_answers(make, encoder, pairs):
    X, Y = pairs
    estimator = make(encoder=encoder).fit(X, Y)
    far = np.full((3, X.shape[1]), 1e8)
    assert np.isfinite(estimator.predict(far)).all()
    assert np.isfinite(estimator.score_samples(far)).all()
    assert np.isfinite(estimator.conditional(far).variance.numpy()).all()
    log_density = estimator.score_samples(far)
    assert (log_density < estimator.score_samples(X).min()).all()


@pytest.mark.parametrize("make", [gje, gmje])
def test_a_target_that_is_a_function_of_the_context_is_predicted_exactly(make, pairs):
    X = pairs[0]
    Y = X @ np.arange(10.0).reshape(5, 2) + 1.0
    estimator = (
        make(encoder="identity", n_components=1)
        if make is gmje
        else make(encoder="identity")
    )
    estimator.fit(X, Y)
    np.testing.assert_allclose(estimator.predict(X), Y, atol=1e-3 * Y.std())
    assert np.isfinite(estimator.score(X, Y))
