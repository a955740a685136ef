"""The Kalman embedder: forms of sequences, states, forecasts, scores, files."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sklearn
import torch
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skgmje import KalmanEmbedder, load
from skgmje.embedding import _sequence_model
from skgmje.latent import kalman_filter

QUICK = {"max_iter": 3, "hidden_layer_sizes": (8,), "random_state": 0}
each_noise = pytest.mark.parametrize("noise", ["constant", "input"])
each_encoder = pytest.mark.parametrize("encoder", ["mlp", "identity"])


def quick(**options):
    return KalmanEmbedder(**QUICK | options)


def circles(n_sequences=12, n_steps=20, seed=0, noise=0.1):
    """Points that go round, and where they are."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, (n_sequences, 1)) + 0.4 * np.arange(n_steps)
    place = np.stack([np.cos(angle), np.sin(angle)], axis=2)
    X = np.concatenate([place, place[..., :1] * place[..., 1:]], axis=2)
    return X + noise * rng.normal(size=X.shape), place


def with_gaps(X, seed=1):
    X = X.copy()
    X[np.random.default_rng(seed).uniform(size=X.shape[:2]) < 0.2] = np.nan
    return X


@pytest.fixture(scope="module")
def fitted():
    X = with_gaps(circles()[0])
    return {
        (encoder, noise): quick(
            encoder=encoder, observation_noise=noise, state_dim=3
        ).fit(X)
        for encoder in ("mlp", "identity")
        for noise in ("constant", "input")
    }


# ------------------------------------------------------------------- forms of sequences


def said(estimator, X, **groups):
    """Return what is said of every step."""
    return [
        estimator.transform(X, **groups),
        *estimator.filter(X, **groups),
        *estimator.smooth(X, **groups),
        estimator.score_samples(X, **groups),
    ]


@each_encoder
@each_noise
def test_an_array_a_list_and_groups_are_the_same_sequences(encoder, noise, fitted):
    estimator, X = fitted[encoder, noise], with_gaps(circles(seed=2)[0])
    rows = X.reshape(-1, 3)
    groups = np.repeat(np.arange(12), 20)
    # The first steps of all sequences, then the second ones.
    mixed = np.argsort(np.tile(np.arange(20), 12), kind="stable")
    forms = [
        said(estimator, list(X)),
        said(estimator, rows, groups=groups),
        [
            part[np.argsort(mixed)]
            for part in said(estimator, rows[mixed], groups=groups[mixed].astype(str))
        ],
    ]
    array = said(estimator, X)
    assert array[0].shape == (12, 20, 3)
    assert array[2].shape == (12, 20, 3, 3)
    assert array[5].shape == (12, 20)
    for form in forms:
        for ours, theirs in zip(form, array, strict=True):
            np.testing.assert_allclose(
                ours, theirs.reshape(240, *theirs.shape[2:]), atol=1e-12
            )


def test_fits_to_all_forms_are_equal():
    X = circles()[0]
    groups = np.repeat(np.arange(12), 20)
    estimators = [
        quick().fit(X),
        quick().fit(list(X)),
        quick().fit(X.reshape(-1, 3), groups=groups),
    ]
    for estimator in estimators[1:]:
        np.testing.assert_array_equal(estimator.transition_, estimators[0].transition_)


@each_encoder
@each_noise
def test_sequences_of_different_lengths_are_each_as_alone(encoder, noise, fitted):
    estimator, X = fitted[encoder, noise], with_gaps(circles(seed=2)[0])
    X = [own[: 1 + 3 * i] for i, own in enumerate(X[:6])]
    together = said(estimator, X)
    alone = [said(estimator, own[None]) for own in X]
    for ours, parts in zip(together, zip(*alone, strict=True), strict=True):
        np.testing.assert_allclose(
            ours, np.concatenate([p[0] for p in parts]), atol=1e-12
        )
    forecasts = estimator.forecast(X, 4)
    for i, own in enumerate(X):
        alone = estimator.forecast(own[None], 4)
        for ours, theirs in zip(forecasts, alone, strict=True):
            np.testing.assert_allclose(ours[i], theirs[0], atol=1e-12)


def test_rows_without_groups_are_sequences_of_length_one(fitted):
    estimator, X = fitted["mlp", "constant"], circles(seed=2)[0]
    rows = X[0]
    np.testing.assert_allclose(
        estimator.transform(rows), estimator.transform(rows[:, None])[:, 0], atol=1e-12
    )
    # Only the first step of a sequence has no past.
    first, *later = estimator.transform(X)[0] - estimator.transform(rows)
    assert np.abs(first).max() < 1e-12
    assert np.abs(later).max() > 1e-3


def test_arrays_of_any_layout_are_read(fitted):
    estimator, X = fitted["mlp", "constant"], with_gaps(circles(seed=2)[0])
    frozen = X.copy()
    frozen.setflags(write=False)
    expected = estimator.transform(X)
    for form in (frozen, np.asfortranarray(X), X.astype(">f8"), X[::-1][::-1]):
        np.testing.assert_array_equal(estimator.transform(form), expected)
    single = estimator.transform(X.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, atol=1e-5)


# --------------------------------------------------------------- states and forecasts


@each_encoder
@each_noise
def test_one_step_at_a_time_gives_the_states_of_the_batch(encoder, noise, fitted):
    estimator, X = fitted[encoder, noise], with_gaps(circles(seed=2)[0])
    means, covariances = estimator.filter(X)
    state = None
    for t in range(X.shape[1]):
        state = estimator.step(X[:, t], state)
        np.testing.assert_allclose(state.mean, means[:, t], atol=1e-10)
        np.testing.assert_allclose(state.covariance, covariances[:, t], atol=1e-10)


@each_encoder
def test_a_forecast_is_a_state_with_nothing_observed(encoder, fitted):
    estimator, X = fitted[encoder, "constant"], circles(seed=2)[0]
    gone = X.copy()
    gone[:, 15:] = np.nan
    means, covariances = estimator.forecast(X[:, :15], 5, of="state")
    for ours, theirs in zip((means, covariances), estimator.filter(gone), strict=True):
        np.testing.assert_allclose(ours, theirs[:, 15:], atol=1e-12)
    z, spread = estimator.forecast(X[:, :15], 5)
    np.testing.assert_allclose(z, means[..., : z.shape[2]], atol=1e-12)
    seen = covariances[..., : z.shape[2], : z.shape[2]]
    np.testing.assert_allclose(
        spread, seen + estimator.observation_covariance_, atol=1e-12
    )


def test_smoothing_sees_what_comes_later(fitted):
    estimator, X = fitted["identity", "constant"], circles(seed=2)[0]
    filtered, smoothed = estimator.filter(X), estimator.smooth(X)
    np.testing.assert_allclose(smoothed[0][:, -1], filtered[0][:, -1])
    variances = [np.trace(part[1], axis1=2, axis2=3) for part in (filtered, smoothed)]
    assert (variances[1][:, :-1] < variances[0][:, :-1]).all()


def test_an_identity_encoder_fits_a_linear_model_in_the_units_of_x():
    rng = np.random.default_rng(0)
    A = np.array([[0.9, 0.2], [-0.2, 0.8]])
    state, steps = rng.normal(size=(60, 2)), []
    for _ in range(60):
        state = state @ A.T + 0.3 * rng.normal(size=(60, 2))
        steps.append(state)
    X = np.stack(steps, axis=1) + 0.2 * rng.normal(size=(60, 60, 2))
    loc, scale = np.array([100.0, -5.0]), np.array([10.0, 0.1])
    options = {"encoder": "identity", "max_iter": 20, "random_state": 0}
    estimator = KalmanEmbedder(**options).fit(X)
    moved = KalmanEmbedder(**options).fit(X * scale + loc)
    np.testing.assert_allclose(estimator.transition_, A, atol=0.05)
    noise = np.sqrt(np.diag(estimator.transition_covariance_))
    np.testing.assert_allclose(noise, 0.3, atol=0.05)
    noise = np.sqrt(np.diag(estimator.observation_covariance_))
    np.testing.assert_allclose(noise, 0.2, atol=0.06)
    for (ours, spread), (theirs, wide) in zip(
        (estimator.forecast(X, 3), estimator.filter(X)),
        (moved.forecast(X * scale + loc, 3), moved.filter(X * scale + loc)),
        strict=True,
    ):
        np.testing.assert_allclose(theirs, ours * scale + loc, rtol=1e-3)
        np.testing.assert_allclose(wide, spread * scale[:, None] * scale, rtol=1e-3)
    assert moved.score(X * scale + loc) == pytest.approx(
        estimator.score(X) - np.log(scale).sum(), abs=1e-3
    )
    result = kalman_filter(estimator.state_space_, torch.as_tensor(X))
    assert estimator.score(X) == pytest.approx(float(result.log_likelihood.mean()))


def test_forecasts_cover_what_comes():
    X = circles(150, 40, noise=0.1)[0][..., :2]
    estimator = KalmanEmbedder(
        encoder="identity", learning_rate_init=3e-3, max_iter=15, random_state=0
    ).fit(X[:100])
    means, covariances = estimator.forecast(X[100:, :30], 10)
    deviation = np.sqrt(np.diagonal(covariances, axis1=2, axis2=3))
    inside = np.abs(X[100:, 30:] - means) < 1.645 * deviation
    assert inside.mean() == pytest.approx(0.9, abs=0.05)
    assert np.abs(means - X[100:, 30:]).mean() < 0.15


def test_draws_look_like_the_embeddings(fitted):
    estimator = fitted["identity", "constant"]
    states, z = estimator.sample(5, 7, random_state=0)
    assert states.shape == (5, 7, 3)
    assert z.shape == (5, 7, 3)
    np.testing.assert_array_equal(z, estimator.sample(5, 7, random_state=0)[1])
    assert not np.array_equal(z, estimator.sample(5, 7, random_state=1)[1])


def test_a_stopped_gradient_needs_no_more_than_the_default_steps():
    """At the paper's step of the state space two of three such fits fail."""
    X, place = circles(120, 30, noise=0.05)
    X = np.tanh(X @ np.random.default_rng(5).normal(size=(3, 12)))
    n_found = 0
    for seed in range(3):
        estimator = KalmanEmbedder(
            2, entropy="stop_gradient", hidden_layer_sizes=(32,), random_state=seed
        ).fit(X[:80])
        states = estimator.transform(X)[:, 5:].reshape(120, -1, 2)
        line = LinearRegression().fit(
            states[:80].reshape(-1, 2), place[:80, 5:].reshape(-1, 2)
        )
        score = line.score(states[80:].reshape(-1, 2), place[80:, 5:].reshape(-1, 2))
        n_found += score > 0.97
        if n_found == 2:
            return
    pytest.fail(f"Only {n_found} of three fits found the circle.")


@pytest.mark.parametrize("entropy", ["stop_gradient", "knn", "log_det"])
def test_states_are_an_affine_map_of_what_moves(entropy):
    """Identifiability, on curved observations of a rotation."""
    X, place = circles(120, 30, noise=0.05)
    lift = np.random.default_rng(5).normal(size=(3, 12))
    X = np.tanh(X @ lift)
    estimator = KalmanEmbedder(
        2,
        entropy=entropy,
        hidden_layer_sizes=(32,),
        learning_rate_init=4e-3,
        max_iter=25,
        random_state=0,
    ).fit(X[:80])
    states = estimator.transform(X)[:, 5:]
    train, test = (part.reshape(-1, 2) for part in (states[:80], states[80:]))
    place = place[:, 5:]
    regression = LinearRegression().fit(train, place[:80].reshape(-1, 2))
    assert regression.score(test, place[80:].reshape(-1, 2)) > 0.97
    turns = np.abs(np.angle(np.linalg.eigvals(estimator.transition_)))
    np.testing.assert_allclose(turns, 0.4, atol=0.03)
    assert estimator.score(X[80:]) > 0.8


def test_noise_that_is_read_from_the_steps_follows_them(monkeypatch):
    # The network learns slowly by default, and this is to be a short fit.
    monkeypatch.setattr(_sequence_model, "NOISE_RATE_FACTOR", 1.0)
    rng = np.random.default_rng(0)
    X, _ = circles(100, 20, noise=0.05)
    bad = rng.uniform(size=X.shape[:2]) < 0.3
    X[bad] += rng.normal(size=(bad.sum(), 3))
    X = np.concatenate([X, bad[..., None] + 0.01 * rng.normal(size=(100, 20, 1))], 2)
    estimator = KalmanEmbedder(
        2,
        observation_noise="input",
        entropy="stop_gradient",
        hidden_layer_sizes=(32,),
        learning_rate_init=4e-3,
        max_iter=25,
        random_state=0,
    ).fit(X)
    covariance = estimator.filter(X)[1]
    uncertain = np.trace(covariance, axis1=2, axis2=3)[:, 5:]
    assert uncertain[bad[:, 5:]].mean() > 1.2 * uncertain[~bad[:, 5:]].mean()


@each_encoder
def test_forecasts_have_the_mean_noise_of_the_fitted_steps(encoder):
    X = 10 * with_gaps(circles()[0]) + 3
    estimator = quick(encoder=encoder, observation_noise="input").fit(X)
    rows = torch.as_tensor(X[~np.isnan(X[..., 0])])
    with torch.no_grad():
        noise = nn.functional.softplus(estimator.noise_encoder_(rows)) + 1e-5
    noise = noise * estimator.noise_scale_
    if encoder == "identity":
        noise = noise * torch.as_tensor(estimator.x_scale_) ** 2
    np.testing.assert_allclose(
        estimator.observation_covariance_, np.diag(noise.mean(0)), rtol=1e-9
    )
    state = estimator.forecast(X, 2, of="state")[1]
    spread, width = estimator.forecast(X, 2)[1], noise.shape[1]
    np.testing.assert_allclose(
        spread, state[..., :width, :width] + estimator.observation_covariance_
    )


def test_states_are_decoded_to_steps():
    X, _ = circles(60, 30, noise=0.02)
    estimator = KalmanEmbedder(
        encoder="identity",
        decoder="mlp",
        hidden_layer_sizes=(32,),
        learning_rate_init=5e-3,
        max_iter=15,
        random_state=0,
    ).fit(with_gaps(X))
    decoded = estimator.inverse_transform(estimator.transform(X))
    assert decoded.shape == X.shape
    assert np.square(decoded - X)[:, 5:].mean() < 0.1 * X.var()
    ahead = estimator.forecast(X[:, :20], 3, of="state")[0]
    assert estimator.inverse_transform(ahead).shape == (60, 3, 3)
    with pytest.raises(ValueError, match="columns, but embeddings have"):
        estimator.inverse_transform(ahead[..., :2])
    assert not hasattr(quick(), "inverse_transform")


# ------------------------------------------------------------------------------- scores


def test_the_score_does_not_rise_when_embeddings_shrink(fitted):
    X = circles(seed=3)[0]
    estimator = quick(max_iter=40, entropy="log_det").fit(circles(40)[0])
    score = estimator.score(X)
    assert 0.2 < score <= np.log(240)
    small = pickle.loads(pickle.dumps(estimator))
    with torch.no_grad():
        last = small.encoder_.network[-1]
        last.weight.mul_(1e-3)
        last.bias.mul_(1e-3)
    parameters = small.state_space_.parameters()
    for name in ("transition_covariance", "observation_covariance"):
        parameters[name] = parameters[name] * 1e-6
    parameters["initial_covariance"] = parameters["initial_covariance"] * 1e-6
    parameters["offset"] = parameters["offset"] * 1e-3
    small.state_space_ = type(small.state_space_)(**parameters)
    assert small.score_samples(X).mean() > estimator.score_samples(X).mean() + 10
    assert small.score(X) == pytest.approx(score, abs=1e-6)


def test_steps_without_a_past_have_nothing_to_tell(fitted):
    rows = circles(seed=3)[0].reshape(-1, 3)
    assert fitted["mlp", "constant"].score(rows) == pytest.approx(0, abs=1e-9)


def test_missing_steps_count_for_nothing(fitted):
    estimator, X = fitted["identity", "constant"], with_gaps(circles(seed=2)[0])
    log_density = estimator.score_samples(X)
    missing = np.isnan(X[..., 0])
    assert (log_density[missing] == 0).all()
    assert estimator.score(X) == pytest.approx(log_density[~missing].mean())


# --------------------------------------------------------------------- files and state


@each_encoder
@each_noise
def test_files_and_pickles_answer_alike(encoder, noise, fitted, tmp_path):
    estimator, X = fitted[encoder, noise], with_gaps(circles(seed=2)[0])
    parameters = estimator.state_space_.parameters().values()
    assert not any(parameter.requires_grad for parameter in parameters)
    estimator.save(tmp_path / "file")
    pickled = pickle.dumps(estimator)
    assert b"torch" not in pickled
    for other in (load(tmp_path / "file"), pickle.loads(pickled)):
        for ours, theirs in zip(said(estimator, X), said(other, X), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert other.score(X) == estimator.score(X)
        assert not hasattr(other, "target_encoder_")


def test_a_seed_decides_everything_and_nothing_else_changes():
    X = circles()[0]
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    twice = [quick(observation_noise="input").fit(X) for _ in range(2)]
    for estimator in twice:
        estimator.sample(2, 3), estimator.forecast(X), estimator.score(X)
    np.testing.assert_array_equal(twice[0].transform(X), twice[1].transform(X))
    assert twice[0].loss_curve_ == twice[1].loss_curve_
    assert torch.equal(torch.get_rng_state(), state[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    other = quick(random_state=1).fit(X)
    assert not np.array_equal(other.transform(X), twice[0].transform(X))


def test_a_module_with_dropout_leaves_no_trace():
    X = circles()[0]
    module = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 2))
    state = torch.get_rng_state()
    twice = [quick(encoder=module).fit(X).transform(X) for _ in range(2)]
    np.testing.assert_array_equal(*twice)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_frozen_encoder_is_kept():
    X = circles()[0]
    module = nn.Linear(3, 2).requires_grad_(False)
    estimator = quick(encoder=module).fit(X)
    scaled = torch.as_tensor((X - estimator.x_mean_) / estimator.x_scale_)
    z = module.double()(scaled)
    result = kalman_filter(estimator.state_space_, z)
    np.testing.assert_allclose(estimator.transform(X), result.mean.detach(), atol=1e-9)


def test_images_are_encoded_by_a_convolution():
    X = np.random.default_rng(0).normal(size=(6, 5, 64))
    estimator = quick(encoder="conv", input_shape=(8, 8), decoder="mlp").fit(X)
    assert estimator.transform(X).shape == (6, 5, 2)
    assert estimator.inverse_transform(estimator.transform(X)).shape == X.shape


# ---------------------------------------------------------------- scikit-learn's tools


def test_groups_are_routed():
    X = circles()[0].reshape(-1, 3)
    groups = np.repeat(np.arange(12), 20)
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = make_pipeline(StandardScaler(), quick())
        states = pipeline.fit(X, groups=groups).transform(X, groups=groups)
        alone = quick().fit(StandardScaler().fit_transform(X), groups=groups)
        np.testing.assert_allclose(
            states, alone.transform(StandardScaler().fit_transform(X), groups=groups)
        )
        search = GridSearchCV(
            quick(encoder="identity"), {"state_dim": [3, 4]}, cv=GroupKFold(2)
        ).fit(X, groups=groups)
        # Without sequences there would be nothing to tell apart.
        folds = GroupKFold(2).split(X, groups=groups)
        scores = [
            quick(encoder="identity", state_dim=3)
            .fit(X[a], groups=groups[a])
            .score(X[b], groups=groups[b])
            for a, b in folds
        ]
        states_last = make_pipeline(StandardScaler(), quick()).fit(X, groups=groups)
        score = states_last.score(X, groups=groups)
    assert search.cv_results_["mean_test_score"][0] == pytest.approx(np.mean(scores))
    scaled = StandardScaler().fit_transform(X)
    assert score == pytest.approx(alone.score(scaled, groups=groups))


def test_rows_in_time_that_are_sequences_of_one_step_are_warned_of():
    steps = np.random.default_rng(0).normal(size=(30, 2))
    frame = pd.DataFrame(steps, pd.date_range("2020-01-01", periods=30), [*"ab"])
    with pytest.warns(UserWarning, match=r"pass \[X\] if all rows are one sequence"):
        quick().fit(frame)
    quick().fit([frame]).transform([frame])
    quick().fit(frame, groups=np.zeros(30))


@pytest.mark.parametrize("hole", [None, np.nan, pd.NA, pd.NaT])
@pytest.mark.parametrize("kind", [object, float, "datetime64[s]"])
def test_rows_without_a_group_are_refused(hole, kind):
    if kind is not object:
        hole = np.nan if kind is float else "NaT"
    groups = np.array([0] * 10 + [hole] * 10, dtype=object).astype(kind)
    with pytest.raises(ValueError, match="groups has missing values"):
        quick().fit(np.random.default_rng(0).normal(size=(20, 2)), groups=groups)


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table])
def test_columns_of_a_list_of_tables_are_known_by_name(make):
    steps = np.random.default_rng(0).normal(size=(2, 30, 2)) * [1.0, 10.0]
    tables = [make({"a": part[:, 0], "b": part[:, 1]}) for part in steps]
    swapped = [make({"b": part[:, 1], "a": part[:, 0]}) for part in steps]
    with pytest.raises(ValueError, match="the same columns in the same order"):
        quick().fit([tables[0], swapped[1]])
    estimator = quick().fit(tables)
    assert estimator.n_features_in_ == 2
    if make is not pa.table:  # scikit-learn reads no names of these
        assert list(estimator.feature_names_in_) == ["a", "b"]
        with pytest.raises(ValueError, match="must be in the same order"):
            estimator.transform(swapped)
    with pytest.raises(ValueError, match="the same columns in the same order"):
        estimator.transform([swapped[0], tables[1]])
    assert estimator.score(tables) == quick().fit(list(steps)).score(list(steps))


def test_names_and_data_frames():
    X = circles()[0].reshape(-1, 3)
    groups = np.repeat(np.arange(12), 20)
    frame = pd.DataFrame(X, columns=["a", "b", "c"], index=np.arange(240) + 7)
    estimator = quick().set_output(transform="pandas").fit(frame, groups=groups)
    assert list(estimator.feature_names_in_) == ["a", "b", "c"]
    states = estimator.transform(frame, groups=pd.Series(groups))
    assert list(states.columns) == ["kalmanembedder0", "kalmanembedder1"]
    assert list(states.index) == list(frame.index)
    unnamed = quick().set_output(transform="pandas").fit(X.reshape(12, 20, 3))
    with pytest.raises(ValueError, match="three-dimensional X"):
        unnamed.transform(X.reshape(12, 20, 3))


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (np.full((4, 3), np.nan), {}, "NaN only"),
        (np.array([[0.0, np.nan], [1.0, 1.0]]), {}, "NaN in a part of row 0"),
        (np.zeros((3, 0, 2)), {}, "at least one step"),
        ([np.zeros((3, 2)), np.zeros((3, 1))], {}, r"columns; got \[1, 2\]"),
        ([np.zeros((3, 2)), np.zeros(3)], {}, "must hold arrays of shape"),
        (np.zeros((2, 3, 2)), {"groups": [0, 1]}, "leave groups out"),
        (np.zeros((3, 2)), {"groups": [0, 1]}, "inconsistent numbers"),
        (np.zeros((2, 2, 2, 2)), {}, "Found array with dim 4"),
        (np.full((3, 2, 2), np.inf), {}, "infinity"),
    ],
)
def test_what_is_no_sequence_is_refused(X, options, message):
    estimator = quick().fit(circles()[0])
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, **options)
    assert estimator.n_features_in_ == 3


def refuse(*args):
    raise LookupError("the user's own")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"device": "nonsense"}, ValueError),
        ({"encoder": refuse}, LookupError),
        ({"decoder": "conv"}, ValueError),
    ],
)
def test_a_refit_that_fails_leaves_the_estimator_as_it_was(change, error):
    X = circles()[0]
    estimator = quick().fit(X)
    before, parameters = dict(vars(estimator)), estimator.get_params()
    with pytest.raises(error):
        estimator.set_params(**change).fit(X[..., :2])
    estimator.set_params(**parameters)
    assert vars(estimator) == before


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("entropy", ["stop_gradient", "knn", "log_det"])
def test_sequences_without_an_observed_step_take_no_part_in_training(entropy):
    X = circles()[0]
    gone = np.full_like(X[:5], np.nan)
    options = {"entropy": entropy, "batch_size": 2, "encoder": "linear"}
    estimator = quick(**options).fit(X)
    with_gone = quick(**options).fit(np.concatenate([gone, X]))
    assert with_gone.loss_curve_ == estimator.loss_curve_
    np.testing.assert_array_equal(with_gone.transform(X), estimator.transform(X))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("entropy", ["stop_gradient", "knn", "log_det"])
def test_one_observed_step_is_enough_to_train_on(entropy):
    X = circles()[0][:2]
    X.reshape(-1, 3)[1:] = np.nan
    estimator = quick(entropy=entropy).fit(X)
    assert np.isfinite(estimator.loss_curve_).all()
    assert estimator.n_iter_ == 3


@each_encoder
def test_what_was_not_observed_cannot_be_scored(encoder, fitted):
    estimator = fitted[encoder, "constant"]
    gone = np.full((2, 4, 3), np.nan)
    with pytest.raises(ValueError, match="no step was observed"):
        estimator.score(gone)
    assert not estimator.score_samples(gone).any()


def test_other_misuse_is_refused(fitted):
    estimator, X = fitted["mlp", "constant"], circles()[0]
    with pytest.raises(ValueError, match="raise state_dim"):
        quick(state_dim=1).fit(X)
    with pytest.raises(ValueError, match="n_steps must be an integer"):
        estimator.forecast(X, 0)
    with pytest.raises(ValueError, match="of must be"):
        estimator.forecast(X, of="steps")
    with pytest.raises(ValueError, match="n_sequences must be"):
        estimator.sample(0)
    with pytest.raises(ValueError, match="There are 12 states, but 3 rows"):
        estimator.step(X[:3, 0], estimator.step(X[:, 0]))
    with pytest.raises(ValueError, match="one row for each sequence"):
        estimator.step(X)
    with pytest.raises(ValueError, match="3 features"):
        estimator.transform(X[..., :2])


@each_encoder
def test_degenerate_sequences_fit(encoder):
    X = np.zeros((4, 5, 2))
    estimator = quick(encoder=encoder).fit(X)
    assert np.isfinite(estimator.transform(X)).all()
    one = circles(1, 30)[0]
    assert np.isfinite(quick(encoder=encoder).fit(one).score_samples(one)).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_encoder
@each_noise
def test_cuda_agrees_with_the_cpu(encoder, noise, fitted):
    estimator, X = fitted[encoder, noise], with_gaps(circles(seed=2)[0])
    on_cpu = said(estimator, X), estimator.score(X), estimator.forecast(X, 3)
    moved = pickle.loads(pickle.dumps(estimator)).set_params(device="cuda")
    for ours, theirs in zip(said(moved, X), on_cpu[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-8)
    assert moved.score(X) == pytest.approx(on_cpu[1], abs=1e-8)
    trained = quick(device="cuda", encoder=encoder, observation_noise=noise).fit(X)
    assert np.isfinite(trained.transform(X)).all()
