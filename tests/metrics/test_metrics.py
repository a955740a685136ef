"""Metrics against closed forms, brute force and scipy."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

from skgmje import (
    ContrastiveEmbedder,
    GaussianMixture,
    GMJEEmbedder,
    MultivariateNormalMixture,
)
from skgmje.datasets import branch_conditional, make_branches
from skgmje.metrics import (
    branch_recovery,
    calibration_error,
    calibration_scorer,
    effective_rank,
    energy_distance,
    pit_values,
    two_sample_accuracy,
    usage_perplexity,
)


def normal(loc, scale=1.0):
    """A batch of one-component mixtures over one coordinate."""
    loc = torch.as_tensor(loc).double()
    return MultivariateNormalMixture(
        torch.ones(len(loc), 1).double(),
        loc[:, None, None],
        scale_spherical=torch.full((len(loc), 1), scale).double(),
    )


def draws_of(truth, n_draws, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return truth.sample((n_draws,), generator=generator).movedim(0, 1).numpy()


# ---------------------------------------------------------------------- calibration


def test_pit_values_are_those_of_the_normal_distribution():
    y = np.linspace(-3, 3, 9)
    expected = stats.norm.cdf(y, loc=0.5, scale=2.0)
    found = pit_values(normal(np.full(9, 0.5), 2.0), y)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_pit_values_take_columns_and_rows_alike():
    y = np.linspace(-1, 1, 4)
    conditional = normal(np.zeros(4))
    np.testing.assert_array_equal(
        pit_values(conditional, y), pit_values(conditional, y[:, np.newaxis])
    )


@pytest.mark.parametrize("y", [[0.0], [0.0] * 6, np.zeros((3, 2))])
def test_pit_values_refuse_y_of_another_length(y):
    with pytest.raises(ValueError, match="one value for each of the 3 densities"):
        pit_values(normal(np.zeros(3)), y)


def test_calibration_refuses_several_coordinates():
    conditional = MultivariateNormalMixture(
        torch.ones(2, 1).double(),
        torch.zeros(2, 1, 3).double(),
        scale_spherical=torch.ones(2, 1).double(),
    )
    with pytest.raises(ValueError, match="one coordinate"):
        calibration_error(conditional, np.zeros(2))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-4, 4), min_size=1, max_size=20))
def test_the_calibration_error_is_the_area_beside_the_diagonal(y):
    conditional = normal(np.zeros(len(y)))
    pit = stats.norm.cdf(y)
    level = (np.arange(40_000) + 0.5) / 40_000
    share = np.searchsorted(np.sort(pit), level, side="right") / len(y)
    expected = np.abs(share - level).mean()
    np.testing.assert_allclose(calibration_error(conditional, y), expected, atol=1e-4)


def test_the_calibration_error_of_a_constant_shift_has_a_closed_form():
    # All observations far above: the distribution function of the PIT is zero.
    np.testing.assert_allclose(calibration_error(normal(np.zeros(5)), [50.0] * 5), 0.5)


def test_the_true_density_is_calibrated_and_others_are_not():
    X, y = make_branches(20_000, random_state=0)
    error = calibration_error(branch_conditional(X), y)
    assert error < 3 * 0.31 / np.sqrt(len(X))
    wide = calibration_error(branch_conditional(X, noise=0.3), y)
    shifted = calibration_error(branch_conditional(X), y + 0.05)
    assert min(wide, shifted) > 10 * error


def test_calibration_selects_a_model():
    X, y = make_branches(900, random_state=0)
    search = GridSearchCV(
        GMJEEmbedder(encoder="identity", random_state=0),
        {"n_components": [1, 9]},
        scoring=calibration_scorer,
        cv=2,
    ).fit(X, y)
    assert search.best_params_ == {"n_components": 9}
    best = calibration_error(search.best_estimator_.conditional(X), y)
    assert search.score(X, y) == -best


# -------------------------------------------------------------------------- branches


def test_calibration_takes_conditionals_that_answer_in_data_frames():
    X, y = make_branches(100, random_state=0)
    rows = pd.DataFrame({"x": X[:, 0], "y": y[:, 0]})
    mixture = GaussianMixture(3, random_state=0).fit(rows)
    expected = pit_values(mixture.condition("x", X), y)
    frame = mixture.set_output(transform="pandas").condition("x", rows[["x"]])
    np.testing.assert_array_equal(pit_values(frame, rows["y"]), expected)
    assert 0 < calibration_error(frame, y) < 0.5


def test_the_calibration_of_a_learned_target_is_refused():
    X, y = make_branches(60, random_state=0)
    options = {"random_state": 0, "max_iter": 1, "hidden_layer_sizes": (4,)}
    learned = GMJEEmbedder(2, target_encoder="linear", embedding_dim=1, **options)
    with pytest.raises(
        ValueError, match="GMJEEmbedder has densities of a target that it"
    ):
        calibration_scorer(learned.fit(X, y), X, y)
    # Its score is of information, but its density is that of y.
    identity = ContrastiveEmbedder(
        1, target_encoder="identity", tilting="quadratic", **options
    )
    assert calibration_scorer(identity.fit(X, y), X, y) <= 0


def test_draws_of_the_truth_recover_the_branches():
    X, _ = make_branches(50, random_state=0)
    truth = branch_conditional(X)
    share, total_variation = branch_recovery(draws_of(truth, 2000), truth)
    assert share == pytest.approx(0.9973, abs=0.001)
    assert total_variation < 2 * np.sqrt(2 / (2 * np.pi * 2000))


def test_crossing_branches_share_their_draws():
    truth = branch_conditional([[0.0], [0.01]], kind="intersecting")
    share, total_variation = branch_recovery(draws_of(truth, 5000), truth)
    assert share > 0.99
    assert total_variation < 0.02


def test_recovery_of_one_branch_alone_has_a_closed_form():
    truth = branch_conditional(np.zeros((4, 1)), kind="unequal")
    draws = np.full((4, 10, 1), 1.5)
    share, total_variation = branch_recovery(draws, truth)
    assert share == 1
    assert total_variation == pytest.approx(0.4)


def test_draws_between_the_branches_recover_nothing():
    truth = branch_conditional(np.zeros((4, 1)))
    assert branch_recovery(np.full((4, 10, 1), 0.75), truth) == (0, 1)


def test_recovery_tells_a_model_that_takes_one_branch_for_each_context():
    # Over all contexts the usage is even; for each context it is not.
    truth = branch_conditional(np.zeros((3, 1)))
    draws = np.repeat([[[1.5]], [[0.0]], [[-1.5]]], 10, axis=1)
    assert branch_recovery(draws, truth)[1] == pytest.approx(2 / 3)


@pytest.mark.parametrize("form", ["scale_tril", "scale_diag"])
def test_recovery_measures_distance_in_the_covariance_of_the_branch(form):
    scale = torch.tensor([0.1, 2.0]).double()
    parameters = {"scale_diag": scale, "scale_tril": torch.diag(scale)}
    truth = MultivariateNormalMixture(
        torch.full((1, 2), 0.5).double(),
        torch.tensor([[[0.0, 0.0], [50.0, 0.0]]]).double(),
        **{form: parameters[form].expand(1, 2, *parameters[form].shape)},
    )
    draws = [[[0.29, 0.0], [0.31, 0.0], [0.0, 5.9], [0.0, 6.1], [50.2, 4.0]]]
    assert branch_recovery(draws, truth)[0] == pytest.approx(3 / 5)


def test_recovery_refuses_draws_of_another_shape():
    truth = branch_conditional(np.zeros((3, 1)))
    for draws in (np.zeros((3, 5)), np.zeros((2, 5, 1)), np.zeros((3, 5, 2))):
        with pytest.raises(ValueError, match="n_samples, n_draws, n_features"):
            branch_recovery(draws, truth)


# ---------------------------------------------------------------------------- spread


@pytest.mark.parametrize("scale", [1e-150, 1.0, 1e150])
def test_the_effective_rank_of_known_spectra(scale):
    rng = np.random.default_rng(0)
    rows = np.linalg.qr(rng.normal(size=(50, 5)) - 0.0)[0]
    rows = np.linalg.qr(rows - rows.mean(axis=0))[0][:, :4]
    variances = np.array([4.0, 2.0, 1.0, 1.0])
    Z = scale * (rows * np.sqrt(variances)) @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    expected = np.exp(stats.entropy(variances))
    np.testing.assert_allclose(effective_rank(Z + 3 * scale), expected, rtol=1e-9)


def test_the_effective_rank_of_lines_and_points():
    line = np.linspace(-1, 1, 20)[:, np.newaxis] * [1.0, 2.0, 3.0]
    assert effective_rank(line) == pytest.approx(1)
    assert effective_rank(np.full((20, 3), 0.1)) == 0
    assert effective_rank(np.zeros((20, 3))) == 0
    # A large constant in one column says nothing of the noise of another.
    assert effective_rank([[1e8, 1e-9], [1e8, -1e-9]]) == pytest.approx(1)


def test_the_usage_perplexity_of_known_usages():
    assert usage_perplexity(np.eye(5)) == pytest.approx(5)
    assert usage_perplexity([[0.0, 1.0], [0.0, 1.0]]) == 1
    uneven = np.repeat(np.eye(2), [3, 1], axis=0)
    assert usage_perplexity(uneven) == pytest.approx(4 / 3**0.75)


# ----------------------------------------------------------------------- two samples


def brute_energy_distance(X, Y):
    def mean(A, B, count):
        return sum(np.linalg.norm(a - b) for a in A for b in B) / count

    n, m = len(X), len(Y)
    return 2 * mean(X, Y, n * m) - mean(X, X, n * (n - 1)) - mean(Y, Y, m * (m - 1))


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 8), st.integers(2, 8), st.integers(1, 3), st.integers(0, 99))
def test_the_energy_distance_is_that_of_a_double_loop(n, m, d, seed):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    expected = brute_energy_distance(X, Y)
    np.testing.assert_allclose(energy_distance(X, Y), expected, atol=1e-12)


def test_the_energy_distance_approaches_that_of_scipy():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=3000), rng.normal(0.7, 1.5, size=2500)
    found = energy_distance(X[:, np.newaxis], Y[:, np.newaxis])
    # scipy's estimate also counts the pairs of a row with itself.
    own = [np.abs(Z[:, None] - Z).sum() / len(Z) ** 2 / (len(Z) - 1) for Z in (X, Y)]
    expected = stats.energy_distance(X, Y) ** 2 - sum(own)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_energy_distance_has_no_bias():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(400, 2, 10, 3))
    distances = [energy_distance(X, Y) for X, Y in samples]
    error = np.std(distances) / np.sqrt(len(distances))
    assert abs(np.mean(distances)) < 3 * error
    assert min(distances) < 0


def test_the_energy_distance_does_not_depend_on_blocks(monkeypatch):
    X, Y = np.random.default_rng(0).normal(size=(2, 70, 4))
    whole = energy_distance(X, Y)
    monkeypatch.setattr("skgmje.metrics._two_samples.BLOCK_ROWS", 32)
    np.testing.assert_allclose(energy_distance(X, Y), whole, rtol=1e-12)


@pytest.mark.parametrize("metric", [energy_distance, two_sample_accuracy])
def test_two_samples_must_have_the_same_columns(metric):
    with pytest.raises(ValueError, match="same columns; got 2 and 3"):
        metric(np.zeros((5, 2)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        metric(np.zeros((1, 2)), np.zeros((5, 2)))


def test_the_two_sample_accuracy_is_near_that_of_the_best_classifier():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(2, 1500, 1))
    best = stats.norm.cdf(0.5)  # of two normal distributions at distance one
    judge = LogisticRegression()
    for classifier in (judge, None):
        found = two_sample_accuracy(X, Y + 1, classifier=classifier, random_state=0)
        assert found == pytest.approx(best, abs=0.03)


def test_samples_of_unequal_size_and_one_distribution_give_one_half():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(1000, 2)), rng.normal(size=(150, 2))
    assert two_sample_accuracy(X, Y, random_state=0) == pytest.approx(0.5, abs=0.05)


def test_each_sample_must_have_a_row_for_every_fold():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(20, 2)), rng.normal(size=(4, 2))
    for pair in ((X, Y), (Y, X)):
        with pytest.raises(ValueError, match=r"each of the 5 folds; got .*Lower cv"):
            two_sample_accuracy(*pair)
    assert 0 <= two_sample_accuracy(X, Y, cv=4, random_state=0) <= 1


def test_the_default_judge_sees_what_moments_do_not_show():
    rng = np.random.default_rng(0)
    X = rng.choice([-1.0, 1.0], (600, 2)) + 0.2 * rng.normal(size=(600, 2))
    Y = rng.normal(size=(600, 2)) * X.std(axis=0)
    assert two_sample_accuracy(X, Y, random_state=0) > 0.75
