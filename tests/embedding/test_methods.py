"""What the methods of the three embedders promise."""

import pickle
import warnings
from functools import cache

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from embedding_helpers import (
    MAKERS,
    FrozenNetwork,
    LinearFactory,
    answers,
    assert_same_answers,
    gje,
    gmje,
    mdn,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from torch import nn

from skgmje.embedding import _inference
from skgmje.mixture import GaussianMixture
from skgmje.networks import MLP
from skgmje.training import Trainer

each_estimator = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
each_joint = pytest.mark.parametrize("make", [gje, gmje])
IDENTITY = {"encoder": "identity"}
LEARNED = {"encoder": "mlp", "target_encoder": "linear", "embedding_dim": 2}
each_space = pytest.mark.parametrize(
    "options", [IDENTITY, LEARNED], ids=["identity", "learned"]
)


def one_gaussian(make):
    return {} if make is gje else {"n_components": 1}


# ------------------------------------------------------------- conditionals and means


@each_estimator
@each_space
def test_predict_is_the_mean_of_the_conditional(make, options, pairs):
    X, Y = pairs
    estimator = make(**options).fit(X, Y)
    conditional = estimator.conditional(X)
    weights, means = conditional.weights.numpy(), conditional.means.numpy()
    mean = np.einsum("nk,nkd->nd", weights, means)
    np.testing.assert_allclose(estimator.predict(X), mean, rtol=1e-10, atol=1e-12)


@each_estimator
def test_identity_target_follows_the_units_of_y(make, pairs):
    X, Y = pairs
    factor, shift = np.array([1e-3, 50.0, 2.0]), np.array([5.0, -100.0, 0.0])
    plain = make(**IDENTITY).fit(X, Y)
    moved = make(**IDENTITY).fit(X, Y * factor + shift)
    np.testing.assert_allclose(
        moved.predict(X), plain.predict(X) * factor + shift, rtol=1e-3
    )
    np.testing.assert_allclose(
        moved.conditional(X).stddev.numpy(),
        plain.conditional(X).stddev.numpy() * factor,
        rtol=1e-3,
    )
    np.testing.assert_allclose(
        moved.score(X, Y * factor + shift),
        plain.score(X, Y) - np.log(factor).sum(),
        atol=1e-3,
    )


@each_estimator
def test_the_units_of_the_context_do_not_matter(make, pairs):
    X, Y = pairs
    factor = np.array([1e-4, 3.0, 1e5, 1.0, 7.0])
    plain, moved = make(**IDENTITY).fit(X, Y), make(**IDENTITY).fit(X * factor + 9, Y)
    np.testing.assert_allclose(
        moved.predict(X * factor + 9), plain.predict(X), rtol=1e-3, atol=1e-4
    )


def test_identity_gje_is_linear_regression_with_its_residual_covariance(pairs):
    X, Y = pairs
    estimator = gje(**IDENTITY, reg_covar=0.0).fit(X, Y)
    regression = LinearRegression().fit(X, Y)
    residual = Y - regression.predict(X)
    np.testing.assert_allclose(estimator.predict(X), regression.predict(X), atol=1e-10)
    np.testing.assert_allclose(
        estimator.conditional(X[:1]).covariance_matrix[0],
        residual.T @ residual / len(X),
        atol=1e-10,
    )


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_identity_gmje_is_a_conditioned_gaussian_mixture(covariance_type, pairs):
    X, Y = pairs
    estimator = gmje(**IDENTITY, n_components=3, covariance_type=covariance_type)
    estimator.fit(X, Y)
    density = estimator.density_
    assert density.n_components == 3
    mixture = GaussianMixture.from_parameters(
        density.weights.numpy(),
        density.means.numpy(),
        density.component_covariances.numpy(),
    )
    expected = mixture.condition(range(5), X)
    conditional = estimator.conditional(X)
    np.testing.assert_allclose(conditional.mean, expected.mean, atol=1e-8)
    np.testing.assert_allclose(
        estimator.score_samples(X, Y),
        expected.log_prob(torch.tensor(Y)),
        atol=1e-8,
    )


def test_identity_gmje_fits_as_well_as_a_gaussian_mixture(pairs):
    both = np.hstack(pairs)
    estimator = gmje(**IDENTITY, n_components=3).fit(*pairs)
    mixture = GaussianMixture(3, n_init=5, random_state=0).fit(both)
    joint = float(estimator.density_.log_prob(torch.tensor(both)).mean())
    assert joint > mixture.score(both) - 0.05
    np.testing.assert_allclose(-estimator.loss_curve_[-1], joint, atol=0.01)


@each_joint
@each_space
def test_conditional_context_is_the_reverse_direction(make, options, pairs):
    X, Y = pairs
    estimator = make(**options).fit(X, Y)
    z_c = torch.tensor(estimator.transform(X))
    z_t = torch.tensor(estimator.transform_target(Y))
    joint = estimator.density_.log_prob(torch.cat([z_c, z_t], dim=1))
    width = z_c.shape[1]
    marginal = estimator.density_.marginal(range(width, width + z_t.shape[1]))
    reverse = estimator.conditional_context(Y).log_prob(z_c)
    np.testing.assert_allclose(reverse + marginal.log_prob(z_t), joint, atol=1e-8)


@each_estimator
@each_space
def test_a_single_row_has_the_shapes_of_many(make, options, pairs):
    X, Y = pairs
    estimator = make(**options).fit(X, Y)
    for many, one in (
        (estimator.transform(X), estimator.transform(X[:1])),
        (estimator.predict(X), estimator.predict(X[:1])),
        (estimator.score_samples(X, Y), estimator.score_samples(X[:1], Y[:1])),
        (
            estimator.sample_conditional(X, 4, random_state=0),
            estimator.sample_conditional(X[:1], 4, random_state=0),
        ),
    ):
        assert many.ndim == one.ndim
        assert many.shape[1:] == one.shape[1:]
        assert (len(many), len(one)) == (len(X), 1)
    np.testing.assert_allclose(estimator.predict(X[:1]), estimator.predict(X)[:1])
    assert len(estimator.conditional(X[:1])) == 1


@each_estimator
def test_one_dimensional_y_comes_back_one_dimensional(make, pairs):
    X, Y = pairs
    estimator = make(**IDENTITY, target="y").fit(X, Y[:, 0])
    column = make(**IDENTITY, target="y").fit(X, Y[:, :1])
    assert estimator.predict(X).shape == (len(X),)
    assert column.predict(X).shape == (len(X), 1)
    np.testing.assert_array_equal(estimator.predict(X), column.predict(X)[:, 0])
    assert estimator.score(X, Y[:, 0]) == column.score(X, Y[:, :1])
    assert estimator.conditional(X).event_shape == (1,)


# --------------------------------------------------------------------------- samples


@each_joint
def test_samples_have_the_moments_of_the_joint_density(make, pairs):
    estimator = make(**IDENTITY).fit(*pairs)
    both = np.hstack(estimator.sample(200_000, random_state=0))
    scale = estimator.density_.stddev.numpy()
    np.testing.assert_allclose(
        (both.mean(0) - estimator.density_.mean.numpy()) / scale, 0, atol=0.01
    )
    correlation = (np.cov(both.T) - estimator.density_.covariance_matrix.numpy()) / (
        scale[:, None] * scale
    )
    np.testing.assert_allclose(correlation, 0, atol=0.02)


def test_samples_of_an_mdn_follow_its_conditional(pairs):
    X, Y = pairs
    estimator = mdn(**IDENTITY, max_iter=60).fit(X, Y)
    Z_c, Z_t = estimator.sample(50_000, random_state=0)
    residual = Z_t - estimator.predict(Z_c)
    spread = Y.std(axis=0)
    np.testing.assert_allclose(residual.mean(0) / spread, 0, atol=0.02)
    variance = estimator.conditional(Z_c).variance.numpy().mean(0)
    np.testing.assert_allclose(residual.var(0), variance, rtol=0.05)


def test_samples_are_not_sorted_by_component():
    rng = np.random.default_rng(0)
    sign = rng.choice([-1.0, 1.0], (400, 1))
    X = 10 * sign + rng.normal(size=(400, 1))
    Y = 10 * sign + rng.normal(size=(400, 1))
    Z_c, _ = gmje(**IDENTITY, target="y").fit(X, Y).sample(1000, random_state=0)
    changes = np.count_nonzero(np.diff(np.sign(Z_c[:, 0])))
    assert 400 < changes < 600


@each_estimator
def test_conditional_draws_have_the_moments_of_the_conditional(make, pairs):
    X, Y = pairs
    estimator = make(**IDENTITY).fit(X, Y)
    draws = estimator.sample_conditional(X[:4], 40_000, random_state=0)
    conditional = estimator.conditional(X[:4])
    assert draws.shape == (4, 40_000, 3)
    spread = conditional.stddev.numpy()
    np.testing.assert_allclose(
        (draws.mean(1) - conditional.mean.numpy()) / spread, 0, atol=0.03
    )
    np.testing.assert_allclose(
        draws.var(1) / conditional.variance.numpy(), 1, atol=0.06
    )


@each_estimator
def test_draws_repeat_by_seed_only(make, pairs):
    X, Y = pairs
    estimator = make(**IDENTITY).fit(X, Y)
    same = [estimator.sample(5, random_state=3)[1] for _ in range(2)]
    np.testing.assert_array_equal(*same)
    fresh = [estimator.sample(5)[1] for _ in range(2)]
    assert not np.array_equal(*fresh)
    fresh = [estimator.sample_conditional(X, 2) for _ in range(2)]
    assert not np.array_equal(*fresh)


@each_estimator
def test_conditional_draws_of_different_rows_are_independent(make, pairs):
    X, Y = pairs
    estimator = make(**IDENTITY).fit(X, Y)
    same_row = np.repeat(X[:1], 2500, axis=0)
    draws = estimator.sample_conditional(same_row, random_state=0)[:, 0, 0]
    assert len(np.unique(draws)) == len(draws)


# ---------------------------------------------------------------------------- scores


@each_estimator
def test_score_with_identity_target_is_the_mean_log_likelihood(make, pairs):
    X, Y = pairs
    estimator = make(**IDENTITY).fit(X, Y)
    log_prob = estimator.conditional(X).log_prob(torch.tensor(Y)).numpy()
    np.testing.assert_allclose(estimator.score_samples(X, Y), log_prob, atol=1e-10)
    assert estimator.score(X, Y) == pytest.approx(log_prob.mean(), abs=1e-10)
    assert estimator.score_unit_ == "nats of conditional log-likelihood"
    assert isinstance(estimator.score(X, Y), float)


@each_estimator
def test_score_samples_with_learned_target_is_a_log_ratio(make, pairs):
    X, Y = pairs
    estimator = make(**LEARNED).fit(X, Y)
    z_t = torch.tensor(estimator.transform_target(Y))
    conditional = estimator.conditional(X).log_prob(z_t)
    marginal = (
        estimator.target_density_
        if hasattr(estimator, "target_density_")
        else estimator.density_.marginal(range(2, 4))
    )
    np.testing.assert_allclose(
        estimator.score_samples(X, Y),
        conditional - marginal.log_prob(z_t),
        atol=1e-8,
    )
    assert estimator.score_unit_ == "nats of mutual information"


@each_estimator
@each_space
def test_unusual_rows_have_a_low_density(make, options, pairs):
    X, Y = pairs
    estimator = make(**options).fit(X, Y)
    usual = estimator.score_samples(X)
    assert estimator.score_samples(X + 20 * X.std(axis=0)).max() < usual.mean()


@each_estimator
@pytest.mark.parametrize("augmentation", ["corrupt", "jitter"])
def test_score_of_drawn_views_is_the_same_at_every_call(make, augmentation, pairs):
    X = pairs[0]
    estimator = make(target="augment", augmentation=augmentation).fit(X)
    assert estimator.score(X) == estimator.score(X)
    assert estimator.score(X) == estimator.score(X, np.zeros(len(X)))


@each_estimator
def test_target_view_wins_over_y_in_score(make, pairs):
    X, Y = pairs
    estimator = make(**IDENTITY).fit(X, np.arange(len(X)) % 2, target_view=Y)
    assert estimator.target_source_ == "target_view"
    labels = np.zeros(len(X))
    assert estimator.score(X, labels, target_view=Y) == estimator.score(X, Y)


# -------------------------------------------------------------------- inputs, outputs


@each_estimator
def test_identity_encoders_return_the_views(make, pairs):
    X, Y = pairs
    estimator = make(**IDENTITY).fit(X, Y)
    np.testing.assert_array_equal(estimator.transform(X), X)
    np.testing.assert_array_equal(estimator.transform_target(Y), Y)


@each_estimator
def test_transform_keeps_the_float_type(make, pairs):
    X, Y = pairs
    estimator = make(**LEARNED).fit(X, Y)
    for dtype in (np.float32, np.float64):
        assert estimator.transform(X.astype(dtype)).dtype == dtype
        assert estimator.transform_target(Y.astype(dtype)).dtype == dtype
    assert estimator.transform(X.astype(int)).dtype == np.float64


@each_estimator
def test_embedding_dim_and_names_of_the_output(make, pairs):
    X, Y = pairs
    estimator = make(encoder="linear", embedding_dim=3).fit(X, Y)
    assert estimator.transform(X).shape == (len(X), 3)
    prefix = type(estimator).__name__.lower()
    assert list(estimator.get_feature_names_out()) == [f"{prefix}{i}" for i in range(3)]


@each_estimator
def test_names_of_both_views_are_kept(make, pairs):
    X = pd.DataFrame(pairs[0], columns=list("abcde"))
    Y = pd.DataFrame(pairs[1], columns=["u", "v", "w"])
    estimator = make().fit(X, Y)
    assert list(estimator.feature_names_in_) == list("abcde")
    assert list(estimator.target_feature_names_in_) == ["u", "v", "w"]
    estimator.fit(*pairs)
    assert not hasattr(estimator, "target_feature_names_in_")


@each_estimator
def test_named_columns_raise_no_warning_in_any_method(make, pairs):
    X = pd.DataFrame(pairs[0], columns=list("abcde"))
    Y = pd.DataFrame(pairs[1], columns=["u", "v", "w"])
    estimator = make(**IDENTITY).fit(X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        answers(estimator, X, Y)
        estimator.score_samples(X, Y)
        estimator.conditional(X)


def inputs(array):
    """The same numbers in every dress."""
    padded = np.zeros((2 * array.shape[0], 2 * array.shape[1]))
    padded[::2, ::2] = array
    read_only = array.copy()
    read_only.setflags(write=False)
    names = [f"c{i}" for i in range(array.shape[1])]
    return {
        "list": array.tolist(),
        "Fortran": np.asfortranarray(array),
        "strided": padded[::2, ::2],
        "negative strides": array[::-1, ::-1].copy()[::-1, ::-1],
        "big-endian": array.astype(">f8"),
        "read-only": read_only,
        "object": array.astype(object),
        "pandas": pd.DataFrame(array),
        "polars": pl.DataFrame(array, schema=names, orient="row"),
        "torch": torch.tensor(array),
    }


@pytest.fixture(scope="module")
def learned(rows_of_pairs):
    """Fit each estimator once, for tests that leave it as it is."""
    return cache(lambda make: make(**LEARNED).fit(*rows_of_pairs))


@each_estimator
@pytest.mark.parametrize("kind", list(inputs(np.eye(2))))
def test_unusual_containers_give_the_same_answers(make, kind, pairs, learned):
    plain = learned(make)
    X, Y = (inputs(view)[kind] for view in pairs)
    estimator = make(**LEARNED).fit(X, Y)
    for name in ("transform", "predict", "score_samples"):
        np.testing.assert_allclose(
            getattr(estimator, name)(X),
            getattr(plain, name)(pairs[0]),
            rtol=1e-5,
            atol=1e-6,
        )
    assert estimator.score(X, Y) == pytest.approx(plain.score(*pairs), abs=1e-5)


@each_estimator
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.int8, bool])
def test_other_number_types_give_the_answers_of_float64(make, dtype, pairs):
    X, Y = (np.round(4 * view) for view in pairs)
    if dtype is bool:
        X, Y = X > 0, Y
    else:
        X, Y = X.astype(dtype), Y.astype(dtype)
    estimator = make(**IDENTITY, target="y").fit(X, Y)
    double = make(**IDENTITY, target="y").fit(X.astype(float), Y.astype(float))
    np.testing.assert_allclose(estimator.predict(X), double.predict(X.astype(float)))


@each_estimator
@each_space
def test_blocks_of_inference_do_not_matter(make, options, pairs, monkeypatch):
    X, Y = pairs
    estimator = make(**options).fit(X, Y)
    whole = estimator.predict(X), estimator.score_samples(X, Y)
    monkeypatch.setattr(_inference, "CONDITIONAL_ROWS", 7)
    np.testing.assert_allclose(estimator.predict(X), whole[0], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(estimator.score_samples(X, Y), whole[1], rtol=1e-10)


@each_estimator
@each_space
def test_the_order_of_the_rows_asked_for_does_not_matter(make, options, pairs):
    X, Y = pairs
    estimator = make(**options).fit(X, Y)
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(
        estimator.predict(X[order]), estimator.predict(X)[order], atol=1e-10
    )
    np.testing.assert_allclose(
        estimator.transform(X[order]), estimator.transform(X)[order], atol=1e-12
    )


# ------------------------------------------------------------------------ randomness


@each_estimator
@pytest.mark.parametrize("target", ["y", "augment"])
def test_one_seed_gives_one_fit_to_the_bit(make, target, pairs):
    X, Y = pairs
    Y = Y if target == "y" else None
    options = {"target": target, "encoder": "mlp", "embedding_dim": 2}
    fits = [make(**options).fit(X, Y) for _ in range(2)]
    assert_same_answers(*(answers(fit, X, Y) for fit in fits))
    assert fits[0].loss_curve_ == fits[1].loss_curve_


@each_estimator
def test_other_seeds_give_other_fits(make, pairs):
    X, Y = pairs
    fits = [make(random_state=seed, **LEARNED).fit(X, Y) for seed in (0, 1, None, None)]
    embeddings = [fit.transform(X) for fit in fits]
    for i in range(4):
        for j in range(i):
            assert not np.allclose(embeddings[i], embeddings[j])


@each_estimator
def test_a_random_state_instance_is_consumed(make, pairs):
    X, Y = pairs
    random_state = np.random.RandomState(0)
    estimator = make(**LEARNED, random_state=random_state)
    first, second = (estimator.fit(X, Y).transform(X) for _ in range(2))
    assert not np.allclose(first, second)


# ------------------------------------------------------------ training and its traces


@each_estimator
def test_curves_have_one_entry_an_epoch(make, pairs):
    estimator = make(early_stopping=True, max_iter=5).fit(*pairs)
    assert estimator.n_iter_ == 5
    assert len(estimator.loss_curve_) == len(estimator.validation_loss_curve_) == 5
    assert estimator.best_loss_ == min(estimator.validation_loss_curve_)
    estimator = make(early_stopping=False, max_iter=5).fit(*pairs)
    assert estimator.validation_loss_curve_ is None
    assert estimator.best_loss_ == min(estimator.loss_curve_)


@each_estimator
def test_training_lowers_the_loss(make, pairs):
    estimator = make(**LEARNED, max_iter=40, early_stopping=False).fit(*pairs)
    curve = estimator.loss_curve_
    assert np.mean(curve[-5:]) < np.mean(curve[:3]) - 0.05


@each_estimator
def test_early_stopping_restores_the_best_weights(make, monkeypatch):
    """The fitted weights have the best loss on the rows that were kept out."""
    trainers = []

    class Recorded(Trainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            trainers.append(self)

    monkeypatch.setattr("skgmje.embedding._base.Trainer", Recorded)
    # Noise and large steps: the last weights are worse than the best ones.
    options = {"validation_fraction": 0.5, "learning_rate_init": 0.03, "max_iter": 60}
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(200, 3)), rng.normal(size=(200, 2))
    estimator = make(**LEARNED, **options, early_stopping=True).fit(X, Y)
    curve = estimator.validation_loss_curve_
    assert curve[-1] > min(curve) + 1e-4
    (trainer,) = trainers
    rows = trainer.validation_rows
    assert len(rows) == 100
    model = trainer.model.eval()
    with torch.no_grad():
        loss = float(model(*trainer.views.batch(rows, None)))
    assert loss == pytest.approx(min(curve), abs=1e-6)
    fitted = estimator.encoder_.network.state_dict()
    for name, weight in model.encoder.network.state_dict().items():
        assert torch.equal(weight.double(), fitted[name])


def test_early_stopping_ends_where_nothing_improves():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(200, 3)), rng.normal(size=(200, 2))
    estimator = mdn(
        early_stopping=True, max_iter=300, n_iter_no_change=3, validation_fraction=0.3
    ).fit(X, Y)
    assert estimator.n_iter_ < 150


@each_estimator
def test_verbose_prints_and_silence_is_silent(make, pairs, capsys):
    make().fit(*pairs)
    assert capsys.readouterr() == ("", "")
    make(verbose=1).fit(*pairs)
    assert len(capsys.readouterr().out.splitlines()) == 4


# ----------------------------------------------------------------------- partial_fit


@pytest.mark.parametrize(("reg_covar", "tolerance"), [(0.0, 1e-9), (1e-6, 1e-5)])
def test_chunks_of_identity_gje_give_the_fit_to_all_rows(reg_covar, tolerance, pairs):
    X, Y = pairs
    whole = gje(**IDENTITY, reg_covar=reg_covar).fit(X, Y)
    chunked = gje(**IDENTITY, reg_covar=reg_covar)
    for rows in np.array_split(np.arange(len(X)), [40, 90, 200]):
        chunked.partial_fit(X[rows], Y[rows])
    assert chunked.n_samples_seen_ == len(X)
    np.testing.assert_allclose(chunked.predict(X), whole.predict(X), atol=tolerance)
    np.testing.assert_allclose(
        chunked.density_.covariance_matrix,
        whole.density_.covariance_matrix,
        atol=tolerance,
    )
    assert chunked.score(X, Y) == pytest.approx(whole.score(X, Y), abs=tolerance)


@each_estimator
def test_partial_fit_refuses_other_widths(make, pairs):
    X, Y = pairs
    estimator = make().partial_fit(X, Y)
    with pytest.raises(ValueError, match="X has 4 features"):
        estimator.partial_fit(X[:, :4], Y)
    with pytest.raises(ValueError, match="target view has 2 columns"):
        estimator.partial_fit(X, Y[:, :2])
    with pytest.raises(ValueError, match="same kind of views"):
        estimator.partial_fit(X)


@each_estimator
@pytest.mark.parametrize("space", ["identity", "learned", "augment"])
def test_partial_fit_goes_on_after_a_pickle(make, space, pairs):
    X, Y = pairs
    options = {"identity": IDENTITY, "learned": LEARNED, "augment": {"encoder": "mlp"}}
    options, Y = options[space], (None if space == "augment" else Y)
    half = slice(0, 150), slice(150, 300)

    def part(rows):
        return X[rows], None if Y is None else Y[rows]

    straight, trip = (make(**options).partial_fit(*part(half[0])) for _ in range(2))
    trip = pickle.loads(pickle.dumps(trip))
    for _ in range(2):
        straight.partial_fit(*part(half[1]))
        trip.partial_fit(*part(half[1]))
    assert_same_answers(answers(straight, X, Y), answers(trip, X, Y))


@pytest.mark.parametrize("make", [gmje, mdn])
@each_space
def test_partial_fit_improves_over_calls(make, options, pairs):
    X, Y = pairs
    estimator = make(**options, batch_size=32)
    scores = []
    for call in range(40):
        estimator.partial_fit(X, Y)
        if call == 0 or call >= 37:
            scores.append(estimator.score(X, Y))
    assert np.mean(scores[1:]) > scores[0] - (0.05 if make is gmje else -0.1)
    assert estimator.n_iter_ == len(estimator.loss_curve_)
    assert estimator.n_samples_seen_ == 40 * len(X)


@each_estimator
def test_partial_fit_goes_on_after_fit(make, pairs):
    X, Y = pairs
    estimator = make(**LEARNED).fit(X, Y)
    before = estimator.transform(X)
    estimator.partial_fit(X, Y)
    assert estimator.n_samples_seen_ == 2 * len(X)
    after = estimator.transform(X)
    assert not np.array_equal(before, after)
    # It goes on from the fitted weights: embeddings still point where they did.
    for old, new in zip(before.T, after.T, strict=True):
        assert np.corrcoef(old, new)[0, 1] > 0.8


@each_estimator
def test_fit_after_partial_fit_starts_anew(make, pairs):
    X, Y = pairs
    estimator = make(**LEARNED)
    for _ in range(2):
        estimator.partial_fit(X[:100], Y[:100])
    fresh = make(**LEARNED).fit(X, Y)
    assert_same_answers(answers(estimator.fit(X, Y), X, Y), answers(fresh, X, Y))


# ---------------------------------------------------------------- modules of the user


@each_estimator
def test_a_module_is_copied_and_trained(make, pairs):
    X, Y = pairs
    module = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
    before = [weight.detach().clone() for weight in module.parameters()]
    estimator = make(encoder=module, target_encoder="linear", embedding_dim=2)
    estimator.fit(X, Y)
    for weight, old in zip(module.parameters(), before, strict=True):
        assert torch.equal(weight, old)
    fitted = list(estimator.encoder_.network.parameters())
    assert any(
        not torch.allclose(weight.float(), old)
        for weight, old in zip(fitted, before, strict=True)
    )
    assert estimator.transform(X).shape == (len(X), 2)


@each_joint
def test_frozen_modules_are_fitted_in_closed_form(make, pairs):
    X, Y = pairs
    torch.manual_seed(0)
    modules = FrozenNetwork(nn.Linear(5, 3)), FrozenNetwork(nn.Linear(3, 2))
    estimator = make(
        encoder=modules[0], target_encoder=modules[1], **one_gaussian(make)
    ).fit(X, Y)
    scaled = torch.tensor((X - X.mean(0)) / X.std(0))
    expected = modules[0].double()(scaled).numpy()
    modules[0].float()
    np.testing.assert_allclose(estimator.transform(X), expected, atol=1e-6)
    both = np.hstack([estimator.transform(X), estimator.transform_target(Y)])
    np.testing.assert_allclose(estimator.density_.mean, both.mean(0), atol=1e-8)
    np.testing.assert_allclose(
        estimator.density_.covariance_matrix,
        np.cov(both.T, bias=True),
        rtol=1e-5,
        atol=1e-6,
    )
    assert len(estimator.loss_curve_) == estimator.n_iter_


@each_estimator
def test_a_factory_makes_the_encoder(make, pairs):
    X, Y = pairs
    estimator = make(
        encoder=LinearFactory(), target_encoder=LinearFactory(), embedding_dim=3
    ).fit(X, Y)
    assert estimator.transform(X).shape == (len(X), 3)
    assert estimator.transform_target(Y).shape == (len(X), 3)


@each_estimator
def test_a_factory_is_seeded(make, pairs):
    X, Y = pairs
    embeddings = [
        make(encoder=LinearFactory(), random_state=seed).fit(X, Y).transform(X)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    assert not np.allclose(embeddings[0], embeddings[2])


class Flat(nn.Module):
    def forward(self, rows):
        return rows.sum(dim=1)


class NoTensor(nn.Module):
    def forward(self, rows):
        return rows.tolist()


class WrongWidth(nn.Linear):
    def __init__(self):
        super().__init__(9, 2)


@each_estimator
@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda n, d: "no module", r"must return a torch\.nn\.Module; got str"),
        (lambda n, d: Flat(), r"for 2 samples of 5 features it gave \(2,\)"),
        (lambda n, d: NoTensor(), r"must map .* it gave <class 'list'>"),
    ],
    ids=["no module", "flat", "no tensor"],
)
def test_bad_factories_are_refused_with_the_reason(make, factory, message, pairs):
    with pytest.raises(ValueError, match=message):
        make(encoder=factory).fit(*pairs)


@each_estimator
def test_a_module_of_another_width_is_refused_with_the_reason(make, pairs):
    with pytest.raises((ValueError, RuntimeError), match="5"):
        make(encoder=WrongWidth()).fit(*pairs)


@each_estimator
@pytest.mark.parametrize(
    "augmentation", [lambda batch: batch[:, :2], lambda batch: batch.tolist()]
)
def test_a_bad_augmentation_is_refused_with_the_reason(make, augmentation, pairs):
    with pytest.raises(ValueError, match="must return a tensor of the shape"):
        make(augmentation=augmentation).fit(pairs[0])


@each_estimator
def test_an_augmentation_sees_rows_in_their_own_units(make, pairs):
    X = 100 * pairs[0] + 1000
    seen = []

    def record(batch):
        seen.append(batch.double().mean(dim=0))
        return batch + 10 * torch.randn_like(batch)

    make(augmentation=record).fit(X)
    mean = torch.stack(seen).mean(dim=0).numpy()
    np.testing.assert_allclose(mean / X.mean(axis=0), 1, atol=0.05)


# ------------------------------------------------------------- interrupts and failures


class FailLater(MLP):
    """After some training calls, fail in one of two ways."""

    def __init__(self, n_good_calls, how):
        super().__init__(5, 2, (8,))
        self.n_good_calls, self.how, self.n_calls = n_good_calls, how, 0

    def forward(self, rows):
        self.n_calls += self.training
        if self.training and self.n_calls > self.n_good_calls:
            if self.how == "interrupt":
                raise KeyboardInterrupt
            return super().forward(rows) * torch.nan
        return super().forward(rows)


# 300 rows in batches of 64: five batches an epoch, so that twelve is the third epoch.
def failing(make, how, n_good_calls=12, **options):
    torch.manual_seed(0)
    return make(
        encoder=FailLater(n_good_calls, how),
        target_encoder="linear",
        embedding_dim=2,
        early_stopping=False,
        max_iter=10,
        **options,
    )


@each_estimator
def test_an_interrupt_leaves_a_usable_estimator(make, pairs):
    X, Y = pairs
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        estimator = failing(make, "interrupt").fit(X, Y)
    assert estimator.n_iter_ == 2
    assert np.isfinite(estimator.score(X, Y))
    assert np.isfinite(estimator.predict(X)).all()


@each_estimator
def test_an_interrupt_in_an_augmentation_leaves_a_usable_estimator(make, pairs):
    X = pairs[0]
    calls = []

    def interrupt(batch):
        calls.append(len(batch))
        if len(calls) == 30:
            raise KeyboardInterrupt
        return batch + 0.1 * torch.randn_like(batch)

    estimator = make(augmentation=interrupt, early_stopping=False, max_iter=50)
    with pytest.warns(UserWarning, match="interrupted by user"):
        estimator.fit(X)
    assert 1 <= estimator.n_iter_ < 10
    assert np.isfinite(estimator.score_samples(X)).all()


@each_estimator
def test_an_interrupt_in_the_first_epoch_leaves_a_usable_estimator(make, pairs):
    X, Y = pairs
    with pytest.warns(UserWarning, match="interrupted by user"):
        estimator = failing(make, "interrupt", n_good_calls=0).fit(X, Y)
    assert np.isfinite(estimator.score(X, Y))


@each_estimator
def test_a_loss_that_stops_being_finite_keeps_the_last_good_weights(make, pairs):
    X, Y = pairs
    with pytest.warns(ConvergenceWarning) as record:
        estimator = failing(make, "nan").fit(X, Y)
    assert len(record) == 1
    message = str(record[0].message)
    assert "in epoch 3" in message
    assert "learning_rate_init" in message
    assert estimator.n_iter_ == 2
    assert np.isfinite(estimator.loss_curve_).all()
    # The same training, ended in the same place, has the same weights.
    with pytest.warns(UserWarning, match="interrupted"):
        interrupted = failing(make, "interrupt").fit(X, Y)
    np.testing.assert_array_equal(estimator.transform(X), interrupted.transform(X))


@each_estimator
def test_a_loss_that_never_was_finite_says_so(make, pairs):
    with pytest.warns(ConvergenceWarning, match="in epoch 1"):
        estimator = failing(make, "nan", n_good_calls=0).fit(*pairs)
    assert np.isfinite(estimator.predict(pairs[0])).all()


class Broken(FailLater):
    """An error of the user's own."""

    def forward(self, rows):
        self.n_calls += self.training
        if self.training and self.n_calls > self.n_good_calls:
            raise LookupError("the user's own")
        return MLP.forward(self, rows)


@each_estimator
def test_errors_of_the_users_own_code_are_not_swallowed(make, pairs):
    with pytest.raises(LookupError, match="the user's own"):
        make(encoder=Broken(3, ""), target_encoder="linear").fit(*pairs)
