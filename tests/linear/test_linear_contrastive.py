"""The estimator of linear contrastive learning: data, peers and common checks."""

import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from contrastive_gaussians import OBJECTIVES, UU, UV, VV, side_by_side
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skgmje import GJEEmbedder, LinearContrastive, load
from skgmje.metrics import retrieval_score

each_objective = pytest.mark.parametrize("objective", OBJECTIVES)
each_quadratic = pytest.mark.parametrize("objective", OBJECTIVES[2:])
FIXTURE = side_by_side(UU, VV, UV)
INDEFINITE = np.array([[1.0, 2.0], [2.0, 1.0]])
# A context that hardly varies in one direction, and covaries too much with a target.
NARROW = np.array([[1, 1 - 1e-8], [1 - 1e-8, 1]])
NARROW_CROSS = 2e-4 / np.sqrt(2) * np.array([[1, 0], [-1, 0]])


def answers(model, X, Y):
    return [
        model.transform(X),
        model.transform_target(Y),
        model.similarity(X, Y),
        model.predict(X),
        model.predict_reverse(Y),
        model.score_samples(X),
        model.score_samples(X, Y),
    ]


def assert_same_answers(model, other, X, Y, tol=1e-10):
    for ours, theirs in zip(answers(model, X, Y), answers(other, X, Y), strict=True):
        assert_allclose(ours, theirs, rtol=tol, atol=tol)


# --------------------------------------------------------------------------- checks


@parametrize_with_checks([LinearContrastive(o, ridge=0.1) for o in OBJECTIVES])
def test_every_objective_passes_the_checks(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [LinearContrastive(), LinearContrastive("quadratic_conditional", rank=1)]
)
def test_estimators_without_a_ridge_pass_the_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:X (does not have|has):UserWarning")
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_set_output_transform,
        estimator_checks.check_set_output_transform_pandas,
        estimator_checks.check_global_output_transform_pandas,
        estimator_checks.check_transformer_get_feature_names_out,
        estimator_checks.check_transformer_get_feature_names_out_pandas,
        estimator_checks.check_dataframe_column_names_consistency,
        estimator_checks.check_param_validation,
        estimator_checks.check_inplace_ensure_writeable,
    ],
    ids=lambda check: check.__name__,
)
def test_checks_that_check_estimator_leaves_out(check):
    check("LinearContrastive", LinearContrastive(ridge=0.1))


# ---------------------------------------------------------------------------- peers


def test_components_are_those_of_canonical_correlation_analysis(pairs):
    X, Y = pairs
    model = LinearContrastive().fit(X, Y)
    cca = CCA(3, max_iter=10_000, tol=1e-14).fit(X, Y)
    theirs = cca.transform(X, Y)
    for ours, view, scores in zip(
        (model.context_components_, model.target_components_),
        (X, Y),
        theirs,
        strict=True,
    ):
        z = (view - view.mean(0)) @ ours.T
        for column, score in zip(z.T, scores.T, strict=True):
            correlation = np.corrcoef(column, score)[0, 1]
            assert abs(correlation) > 1 - 1e-8
    correlations = [
        np.corrcoef(a, b)[0, 1] for a, b in zip(*(t.T for t in theirs), strict=True)
    ]
    assert_allclose(model.canonical_correlations_, correlations, atol=1e-7)


def test_the_full_rank_predicts_by_least_squares(pairs):
    X, Y = pairs
    for objective in ("inner_conditional", "quadratic_target"):
        model = LinearContrastive(objective).fit(X[:200], Y[:200])
        regression = LinearRegression().fit(X[:200], Y[:200])
        assert_allclose(model.predict(X), regression.predict(X))
        assert_allclose(model.coef_, regression.coef_)
    assert_allclose(
        LinearContrastive().fit(X, Y).predict_reverse(Y),
        LinearRegression().fit(Y, X).predict(Y),
    )


def test_the_exact_conditional_is_that_of_one_joint_gaussian(pairs):
    X, Y = pairs
    model = LinearContrastive("quadratic_target").fit(X[:200], Y[:200])
    joint = GJEEmbedder(encoder="identity", reg_covar=0).fit(X[:200], Y[:200])
    assert_allclose(model.score_samples(X, Y), joint.score_samples(X, Y))
    assert_allclose(model.score_samples(X), joint.score_samples(X))
    assert_allclose(model.score(X, Y), joint.score(X, Y))


# ------------------------------------------------------------------------- densities


@each_objective
@pytest.mark.parametrize("rank", [1, 2, None])
def test_densities_are_those_of_the_stated_moments(objective, rank, pairs):
    X, Y = pairs
    model = LinearContrastive(objective, rank=rank).fit(X, Y)
    expected = [
        multivariate_normal(mean, model.conditional_covariance_).logpdf(row)
        for mean, row in zip(model.predict(X[:5]), Y[:5], strict=True)
    ]
    assert_allclose(model.score_samples(X[:5], Y[:5]), expected)
    conditional = model.conditional(X[:5])
    assert conditional.n_components == 1
    assert conditional.batch_shape == (5,)
    assert_allclose(conditional.log_prob(torch.from_numpy(Y[:5])), expected)
    reverse = model.conditional_context(Y[:5])
    assert_allclose(reverse.mean, model.predict_reverse(Y[:5]))
    assert_allclose(reverse.covariance_matrix[0], model.conditional_covariance_reverse_)
    marginal = multivariate_normal(X.mean(0), np.cov(X.T, bias=True))
    assert_allclose(model.score_samples(X), marginal.logpdf(X))


@each_objective
def test_the_score_is_the_mean_conditional_log_likelihood(objective, pairs):
    X, Y = pairs
    model = LinearContrastive(objective).fit(X, Y)
    assert_allclose(model.score(X, Y), model.score_samples(X, Y).mean())


def test_the_score_prefers_the_exact_covariance_and_the_right_rank():
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(4000, 2))
    X = latent @ rng.normal(size=(2, 10)) + rng.normal(size=(4000, 10))
    Y = latent @ rng.normal(size=(2, 10)) + rng.normal(size=(4000, 10))
    train, test = slice(2000), slice(2000, None)
    scores = {
        objective: LinearContrastive(objective, rank=2)
        .fit(X[train], Y[train])
        .score(X[test], Y[test])
        for objective in OBJECTIVES
    }
    assert max(scores, key=scores.get) == "quadratic_target"
    search = GridSearchCV(
        LinearContrastive("quadratic_target"), {"rank": [1, 2, 10]}, cv=3
    ).fit(X[train], Y[train])
    assert search.best_params_ == {"rank": 2}


def test_a_similarity_finds_the_right_rows(pairs):
    X, Y = pairs
    for objective in OBJECTIVES:
        model = LinearContrastive(objective).fit(X, Y)
        similarity = model.similarity(X, Y[:50])
        assert similarity.shape == (300, 50)
        rank = (similarity[:50] > similarity[:50].diagonal()[:, None]).sum(1)
        assert np.median(rank) < 8
        z_c, z_t = model.transform(X), model.transform_target(Y[:50])
        logits = z_c @ z_t.T
        if objective.startswith("quadratic"):
            logits = -((z_c[:, None] - z_t) ** 2).sum(2) / 2
        assert_allclose(similarity, logits, atol=1e-12)


# ------------------------------------------------------------------------------ data


@each_objective
def test_moments_are_all_that_is_needed(objective, pairs):
    X, Y = pairs
    both = np.hstack([X, Y])
    model = LinearContrastive(objective, rank=2, ridge=1e-3).fit(X, Y)
    other = LinearContrastive.from_covariance(
        np.cov(both.T, bias=True),
        5,
        mean=both.mean(0),
        objective=objective,
        rank=2,
        ridge=1e-3,
    )
    assert_same_answers(model, other, X, Y)
    assert_allclose(model.loss_, other.loss_)


def test_weighted_moments_stand_for_repeated_rows(pairs):
    X, Y = pairs
    both = np.hstack([X, Y])
    times = np.random.default_rng(1).integers(0, 4, len(X))
    repeated = LinearContrastive().fit(np.repeat(X, times, 0), np.repeat(Y, times, 0))
    weighted = LinearContrastive.from_covariance(
        np.cov(both.T, bias=True, fweights=times),
        5,
        mean=np.average(both, axis=0, weights=times),
    )
    assert_same_answers(repeated, weighted, X, Y)


def test_blocks_of_rows_make_no_difference(pairs, monkeypatch):
    X, Y = pairs
    whole = LinearContrastive().fit(X, Y)
    monkeypatch.setattr("skgmje.linear._moments.BLOCK_ROWS", 7)
    assert_same_answers(whole, LinearContrastive().fit(X, Y), X, Y)


@each_objective
def test_units_and_offsets_of_columns_change_only_the_units(objective, pairs):
    X, Y = pairs
    rng = np.random.default_rng(2)
    x_scale, y_scale = (10 ** rng.uniform(-60, 60, v.shape[1]) for v in pairs)
    model = LinearContrastive(objective, ridge=0.01).fit(X, Y)
    moved = LinearContrastive(objective, ridge=0.01).fit(x_scale * X, y_scale * Y)
    assert_allclose(moved.loss_, model.loss_)
    assert_allclose(moved.predict(x_scale * X) / y_scale, model.predict(X), atol=1e-9)
    assert_allclose(moved.transform(x_scale * X), model.transform(X), atol=1e-9)
    far = LinearContrastive(objective, ridge=0.01).fit(X + 1e6, Y - 1e6)
    assert_allclose(far.loss_, model.loss_, atol=1e-8)
    assert_allclose(far.predict(X + 1e6) + 1e6, model.predict(X), atol=1e-6)


def test_any_layout_of_arrays_will_do(pairs):
    X, Y = pairs
    model = LinearContrastive().fit(X, Y)
    strided = np.repeat(X, 2, axis=1)[:, ::2]
    fixed = Y.copy()
    fixed.setflags(write=False)
    layouts = [
        (strided, fixed),
        (np.asfortranarray(X), Y.tolist()),
        (X.astype(">f8"), Y.astype(">f8")),
        (X, pd.DataFrame(Y)),
    ]
    for layout in layouts:
        assert_same_answers(model, LinearContrastive().fit(*layout), X, Y)
    half = LinearContrastive().fit(X.astype(np.float32), Y.astype(np.float32))
    assert_allclose(half.coef_, model.coef_, atol=1e-5)
    assert half.transform(X.astype(np.float32)).dtype == np.float32
    assert half.transform_target(Y.astype(np.float32)).dtype == np.float32
    assert half.coef_.dtype == np.float64


def test_one_target_column_is_predicted_in_its_shape(pairs):
    X, Y = pairs
    column = LinearContrastive().fit(X, Y[:, 0])
    matrix = LinearContrastive().fit(X, Y[:, :1])
    assert column.predict(X).shape == (300,)
    assert matrix.predict(X).shape == (300, 1)
    assert_array_equal(column.predict(X), matrix.predict(X)[:, 0])
    assert_allclose(column.score(X, Y[:, 0]), matrix.score(X, Y[:, :1]))
    assert column.rank_ == 1


def test_names_of_columns_are_kept(pairs):
    X = pd.DataFrame(pairs[0], columns=list("abcde"))
    Y = pd.DataFrame(pairs[1], columns=list("uvw"))
    model = LinearContrastive(rank=2).fit(X, Y).set_output(transform="pandas")
    assert list(model.feature_names_in_) == list("abcde")
    assert list(model.target_feature_names_in_) == list("uvw")
    names = ["linearcontrastive0", "linearcontrastive1"]
    assert list(model.transform(X).columns) == names
    assert list(model.get_feature_names_out()) == names
    for method in (model.transform_target, lambda view: model.score(X, view)):
        with pytest.raises(ValueError, match="in that order"):
            method(Y[["v", "u", "w"]])
    model.fit(X, pairs[1])
    assert not hasattr(model, "target_feature_names_in_")


def test_files_pickles_and_copies_answer_alike(pairs, tmp_path):
    X, Y = pairs
    model = LinearContrastive("quadratic_joint", rank=2, ridge=0.1).fit(X, Y)
    model.save(tmp_path / "model.safetensors")
    for other in (
        load(tmp_path / "model.safetensors"),
        pickle.loads(pickle.dumps(model)),
        clone(model).fit(X, Y),
    ):
        assert other.get_params() == model.get_params()
        assert_same_answers(model, other, X, Y, tol=0)


def test_a_pipeline_scales_the_context(pairs):
    X, Y = pairs
    pipeline = make_pipeline(StandardScaler(), LinearContrastive()).fit(X, Y)
    assert_allclose(pipeline.predict(X), LinearContrastive().fit(X, Y).predict(X))
    assert np.isfinite(pipeline.score(X, Y))


PROCESS = """
import sys, numpy as np, torch.distributed
from skgmje import LinearContrastive

torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
rows = np.load(sys.argv[1])
rows = rows[:90] if rank == 0 else rows[90:]
model = LinearContrastive(ridge=0.01).fit(rows[:, :5], rows[:, 5:])
model.save(f"{sys.argv[1]}.{rank}")
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_end_with_the_encoders_of_one(pairs, tmp_path):
    X, Y = pairs
    script, data = tmp_path / "fit.py", tmp_path / "data.npy"
    script.write_text(PROCESS)
    np.save(data, np.hstack(pairs))
    process = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node=2", str(script), str(data)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    one = LinearContrastive(ridge=0.01).fit(X, Y)
    for rank in range(2):
        assert_same_answers(one, load(f"{data}.{rank}"), X, Y)


# ------------------------------------------------------------------- degenerate data


# The column that depends on the others: their slopes, and an offset.
DEPENDENT = {"constant": ([0, 0, 0], 0.1), "repeated": ([1, 0, 0], 0)}
DEPENDENT["sum"] = ([1, -1e3, 0], 5)
each_dependent = pytest.mark.parametrize("case", DEPENDENT)


def with_dependent_column(view, case):
    slopes, offset = DEPENDENT[case]
    return np.column_stack([view, view[:, :3] @ slopes + offset])


def degenerate(case, view, pairs):
    X, Y = pairs
    if case == "few rows":
        X, Y, odd = X[:4, :2], Y[:4, :2], np.random.default_rng(0).normal(size=(4, 6))
    elif case == "all constant":
        odd = np.full((300, 2), 0.1)
    else:
        odd = with_dependent_column(X if view == "X" else Y, case)
    return (odd, Y) if view == "X" else (X, odd)


@pytest.mark.parametrize(
    ("case", "view"),
    [(case, "y") for case in (*DEPENDENT, "few rows", "all constant")]
    + [(case, "X") for case in ("few rows", "all constant")],
)
def test_a_singular_target_and_too_few_rows_are_refused(case, view, pairs):
    with pytest.raises(ValueError, match=f"covariance of {view} is singular.* ridge"):
        LinearContrastive().fit(*degenerate(case, view, pairs))


@pytest.mark.parametrize("view", ["X", "y"])
@pytest.mark.parametrize("case", [*DEPENDENT, "few rows", "all constant"])
def test_a_ridge_mends_a_singular_covariance(case, view, pairs):
    views = degenerate(case, view, pairs)
    for objective in OBJECTIVES:
        model = LinearContrastive(objective, ridge=1e-2).fit(*views)
        assert all(np.isfinite(answer).all() for answer in answers(model, *views))
        assert np.isfinite(model.loss_)


@each_objective
@each_dependent
def test_a_dependent_column_of_the_context_changes_nothing(case, objective, pairs):
    X, Y = pairs
    wide = with_dependent_column(X, case)
    model, plain = (LinearContrastive(objective).fit(view, Y) for view in (wide, X))
    assert model.rank_ == plain.rank_ == 3
    # The largest weight may be another one, and with it the sign of an embedding.
    assert_allclose(abs(model.transform(wide)), abs(plain.transform(X)), atol=1e-9)
    assert_allclose(model.similarity(wide, Y), plain.similarity(X, Y), atol=1e-9)
    assert_allclose(model.predict(wide), plain.predict(X), atol=1e-9)
    assert_allclose(model.score_samples(wide, Y), plain.score_samples(X, Y), atol=1e-9)
    density = model.conditional(wide).log_prob(torch.from_numpy(Y))
    assert_allclose(density, plain.score_samples(X, Y), atol=1e-9)
    for name in ("conditional_covariance_", "canonical_correlations_", "divergence_"):
        assert_allclose(getattr(model, name), getattr(plain, name), atol=1e-10)


@each_objective
@each_dependent
def test_a_dependent_column_of_the_context_leaves_its_moments(case, objective, pairs):
    X, Y = pairs
    wide = with_dependent_column(X, case)
    model, plain = (LinearContrastive(objective).fit(view, Y) for view in (wide, X))
    # The column is that combination of the others in every conditional, too.
    predicted = with_dependent_column(plain.predict_reverse(Y), case)
    assert_allclose(model.predict_reverse(Y), predicted, rtol=1e-8, atol=1e-8)
    change = with_dependent_column(np.eye(5), case).T
    change[-1] -= DEPENDENT[case][1]
    covariance = change @ plain.conditional_covariance_reverse_ @ change.T
    ours = model.conditional_covariance_reverse_
    assert_allclose(ours, covariance, rtol=1e-8, atol=1e-8)
    assert_array_equal(ours, ours.T)
    assert np.linalg.matrix_rank(ours, hermitian=True) == 5
    assert np.linalg.eigvalsh(ours)[0] > -1e-14 * ours.max()


@each_dependent
def test_the_density_of_a_singular_context_is_that_on_its_range(case, pairs):
    X, Y = pairs
    wide = with_dependent_column(X, case)
    model = LinearContrastive().fit(wide, Y)
    marginal = multivariate_normal(
        wide.mean(0), np.cov(wide.T, bias=True), allow_singular=True
    )
    assert_allclose(model.score_samples(wide), marginal.logpdf(wide), rtol=1e-8)
    off = wide + 10 * (case == "constant") * np.eye(6)[-1]
    assert_allclose(model.score_samples(off), model.score_samples(wide))


@pytest.mark.parametrize(("repeated", "digits"), [(False, 60), (True, 5)])
def test_the_density_of_the_context_holds_in_other_units(repeated, digits, pairs):
    X, Y = pairs
    X = with_dependent_column(X, "repeated") if repeated else X
    scale = 10 ** np.random.default_rng(2).uniform(-digits, digits, X.shape[1])
    # A repeated column shares the unit of the first, and the volume is that of five.
    scale[-1] = scale[0]
    model, moved = (LinearContrastive().fit(view, Y) for view in (X, scale * X))
    volume = np.log(scale[:5]).sum()
    expected = model.score_samples(X) - volume
    assert_allclose(moved.score_samples(scale * X), expected, atol=1e-8)


@each_dependent
def test_a_singular_context_has_no_conditional_density(case, pairs):
    X, Y = pairs
    wide = with_dependent_column(X, case)
    model = LinearContrastive().fit(wide, Y)
    message = "X has no conditional density: it has 6 columns, .* rank 5.* ridge"
    with pytest.raises(ValueError, match=message):
        model.conditional_context(Y)
    ridged = LinearContrastive(ridge=1e-3).fit(wide, Y)
    density = ridged.conditional_context(Y).log_prob(torch.from_numpy(wide))
    assert torch.isfinite(density).all()


def test_the_rank_is_at_most_that_of_the_context(pairs):
    X, Y = pairs
    line = X[:, :1] * [1.0, 2.0, -3.0]
    model = LinearContrastive().fit(line, Y)
    assert model.transform(line).shape == (300, 1)
    assert model.context_components_.shape == (1, 3)
    assert model.canonical_correlations_.shape == (1,)
    assert_allclose(model.predict(line), LinearRegression().fit(line, Y).predict(line))
    with pytest.raises(ValueError, match=r"rank=2 exceeds .* smaller view, 1"):
        LinearContrastive(rank=2).fit(line, Y)


def test_a_wide_context_of_low_rank_needs_few_rows():
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(6, 1))
    for inner in (1, 4):
        X = rng.normal(size=(6, inner)) @ rng.normal(size=(inner, 10))
        model = LinearContrastive("quadratic_target").fit(X, Y)
        assert model.canonical_correlations_[0] < 0.999
        assert_allclose(model.predict(X), LinearRegression().fit(X, Y).predict(X))
    with pytest.raises(ValueError, match=r"rank 5.*too few rows"):
        LinearContrastive().fit(rng.normal(size=(6, 10)), Y)


@pytest.mark.parametrize("scale", [1.0, 0.3, 7.0])
def test_of_equal_weights_the_first_is_positive(scale, pairs):
    X, Y = pairs
    opposite = np.column_stack([X[:, 0], 1 - scale * X[:, 0]])
    model = LinearContrastive().fit(opposite, Y)
    assert model.context_components_[0, 0] > 0
    assert model.context_components_[0, 1] < 0


@each_quadratic
def test_views_that_determine_each_other_have_no_quadratic_optimum(objective, pairs):
    X, Y = pairs
    Y = np.column_stack([X[:, 0] - 2 * X[:, 3], Y[:, 0]])
    with pytest.raises(ValueError, match=r"correlation of one.*ridge"):
        LinearContrastive(objective).fit(X, Y)
    ridged = LinearContrastive(objective, ridge=1e-6).fit(X, Y)
    assert 0.999 < ridged.canonical_correlations_[0] < 1


def test_views_that_determine_each_other_have_finite_inner_products(pairs):
    X = pairs[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = LinearContrastive().fit(X, X[:, :2])
    assert_allclose(model.loss_, -1)
    assert model.mutual_information_ == np.inf
    assert_allclose(model.predict(X), X[:, :2], atol=1e-9)
    joint = LinearContrastive("inner_joint").fit(X, X[:, :2])
    assert_allclose(joint.coef_[:, :2], (np.sqrt(5) - 1) / 2 * np.eye(2), atol=1e-9)


def test_a_nearly_exact_relation_keeps_its_digits(pairs):
    X = pairs[0]
    noise = 1e-4 * np.random.default_rng(0).normal(size=(300, 2))
    model = LinearContrastive("quadratic_target").fit(X, X[:, :2] + noise)
    residual = X[:, :2] + noise - model.predict(X)
    expected = residual.T @ residual / 300
    assert_allclose(model.conditional_covariance_, expected, rtol=1e-5, atol=1e-14)


def test_independent_views_have_no_loss():
    for objective in OBJECTIVES:
        model = LinearContrastive.from_covariance(np.eye(4), 2, objective=objective)
        assert_allclose(model.loss_, 0, atol=1e-12)
        assert_allclose(model.coef_, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 4}, "rank=4 exceeds .* smaller view, 3"),
        ({"rank": 0}, "'rank' parameter"),
        ({"ridge": -1.0}, "'ridge' parameter"),
        ({"objective": "quadratic"}, "'objective' parameter"),
    ],
)
def test_bad_parameters_are_refused(change, message, pairs):
    with pytest.raises(ValueError, match=message):
        LinearContrastive(**change).fit(*pairs)


def test_bad_data_are_refused(pairs):
    X, Y = pairs
    with pytest.raises(ValueError, match="squares overflow"):
        LinearContrastive().fit(1e200 * X, Y)
    with pytest.raises(ValueError, match="NaN"):
        LinearContrastive().fit(X, np.where(Y > 2, np.nan, Y))
    model = LinearContrastive().fit(X, Y)
    for method in (model.transform_target, model.predict_reverse):
        with pytest.raises(ValueError, match=r"2 columns, .* fitted with 3"):
            method(Y[:, :2])
    with pytest.raises(ValueError, match="inconsistent numbers"):
        model.score_samples(X, Y[:5])


@pytest.mark.parametrize(
    ("covariance", "options", "message"),
    [
        (np.eye(4)[:3], {}, "square"),
        (np.eye(4), {"mean": np.zeros(3)}, "one value for each"),
        (np.eye(4), {"n_features": 4}, "between 1 and 3"),
        (np.eye(4), {"n_features": 0}, "between 1 and 3"),
        (np.triu(np.ones((4, 4))), {}, "symmetric"),
        (np.diag([1.0, 1, 1, -1]), {}, "negative variance"),
        (side_by_side(np.eye(2), np.eye(2), 2 * np.eye(2)), {}, "semi-definite"),
        (side_by_side(INDEFINITE, np.eye(2), 0 * UV), {}, "semi-definite"),
        (side_by_side(np.ones((2, 2)), np.eye(2), np.eye(2) / 2), {}, "semi-definite"),
        (
            side_by_side(NARROW, np.eye(2), NARROW_CROSS),
            {},
            "canonical correlation of 2",
        ),
        (side_by_side(np.zeros((2, 2)), np.eye(2), 0 * UV), {}, "X is singular"),
        (np.ones((4, 4)), {}, "y is singular"),
        (np.eye(4), {"rank": 3}, "exceeds"),
        (np.eye(4), {"ridge": -1}, "'ridge' parameter"),
    ],
)
def test_bad_covariances_are_refused(covariance, options, message):
    options = {"n_features": 2} | options
    with pytest.raises(ValueError, match=message):
        LinearContrastive.from_covariance(covariance, **options)


@pytest.mark.parametrize("unit", [1e-10, 1.0, 1e10])
def test_asymmetry_is_seen_at_any_scale(unit):
    covariance = unit * np.array([[1.0, 0.9], [0.0, 1.0]])
    with pytest.raises(ValueError, match="must be symmetric"):
        LinearContrastive.from_covariance(covariance, 1)


def test_a_refused_fit_leaves_the_estimator_as_it_was(pairs):
    X, Y = pairs
    model = LinearContrastive().fit(X, Y)
    expected = answers(model, X, Y)
    for views in ((X, Y[:, [0, 0]]), (X[:, :2], np.full(300, np.nan)), (X[:3], Y[:3])):
        with pytest.raises(ValueError, match=r"singular|NaN"):
            model.fit(*views)
        for before, after in zip(expected, answers(model, X, Y), strict=True):
            assert_array_equal(before, after)


def test_the_views_are_not_changed(pairs):
    X, Y = (view.copy() for view in pairs)
    LinearContrastive().fit(X, Y).score(X, Y)
    assert_array_equal(X, pairs[0])
    assert_array_equal(Y, pairs[1])
    covariance = FIXTURE.copy()
    LinearContrastive.from_covariance(covariance, 2, ridge=0.5)
    assert_array_equal(covariance, FIXTURE)


def test_the_retrieval_score_finds_targets_that_a_context_tells():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 4))
    Y = X @ rng.normal(size=(4, 3)) + 0.1 * rng.normal(size=(400, 3))
    model = LinearContrastive("quadratic_target").fit(X[:300], Y[:300])
    assert retrieval_score(model, X[300:], Y[300:], k=5) > 0.6
    assert retrieval_score(model, X[300:], Y[300:][::-1].copy(), k=5) < 0.2
