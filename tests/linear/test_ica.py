"""Linear ICA: exact likelihoods, its optimum, and sources that are known."""

import pickle

import numpy as np
import pytest
from scipy.integrate import quad
from sklearn.base import clone
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skgmje import LDMICA, load
from skgmje.linear._sources import SOURCE_DENSITIES, turn_pairs

every_density = pytest.mark.parametrize("name", sorted(SOURCE_DENSITIES))
DRAWS = [
    lambda rng, n: rng.laplace(size=n),
    lambda rng, n: rng.uniform(size=n),
    lambda rng, n: rng.standard_t(5, size=n),
    lambda rng, n: rng.choice([-1, 1], n) + 0.4 * rng.normal(size=n),
    lambda rng, n: rng.exponential(size=n),
]


def mixture(seed, n_samples=2000, n_sources=5):
    """Mixed signals, and the matrix that mixed them."""
    rng = np.random.default_rng(seed)
    S = np.stack([draw(rng, n_samples) for draw in DRAWS[:n_sources]], axis=1)
    mixing = rng.normal(size=(n_sources, n_sources))
    return S @ mixing.T + rng.normal(size=n_sources), mixing


def amari_distance(product):
    """Zero if a matrix is a scaled permutation, at most one."""
    size = np.abs(product)
    rows = (size / size.max(axis=1, keepdims=True)).sum()
    columns = (size / size.max(axis=0, keepdims=True)).sum()
    n = len(size)
    return (rows + columns - 2 * n) / (2 * n * (n - 1))


# ------------------------------------------------------------------------- densities


@every_density
def test_source_densities_have_unit_mass_and_variance(name):
    def density(s, power):
        return s**power * np.exp(SOURCE_DENSITIES[name](np.array([s]))[0][0])

    for power, moment in ((0, 1), (1, 0), (2, 1)):
        value = quad(density, -40, 40, args=(power,), points=[0], limit=200)[0]
        assert value == pytest.approx(moment, abs=1e-7)


@every_density
def test_slopes_are_those_of_finite_differences(name):
    s, step = np.linspace(-3, 3, 13), 1e-6
    density = SOURCE_DENSITIES[name]
    expected = (density(s + step)[0] - density(s - step)[0]) / (2 * step)
    np.testing.assert_allclose(density(s)[1], expected, atol=1e-8)
    assert np.isfinite(density(np.array([-1e4, 1e4]))[0]).all()


# --------------------------------------------------------------------------- sources


def test_sources_are_found_as_well_as_by_the_fixed_point_iteration():
    ours, theirs = [], []
    for seed in range(20):
        X, mixing = mixture(seed)
        ours.append(amari_distance(LDMICA(random_state=0).fit(X).components_ @ mixing))
        peer = FastICA(random_state=0, max_iter=2000).fit(X)
        theirs.append(amari_distance(peer.components_ @ mixing))
    assert max(ours) < 0.05
    assert np.mean(ours) < np.mean(theirs)
    assert np.mean(np.array(ours) < theirs) > 0.7


def test_each_source_gets_the_density_of_its_kind():
    X, mixing = mixture(1)
    ica = LDMICA(random_state=0).fit(X)
    order = np.abs(ica.components_ @ mixing).argmax(axis=0)
    names = [ica.densities_[i] for i in order]
    assert names == ["logcosh", "exponent4", "logcosh", "exponent4", "logcosh"]


@pytest.mark.parametrize("orthogonal", [False, True])
def test_the_relative_gradient_vanishes_at_the_optimum(orthogonal):
    X, _ = mixture(2)
    ica = LDMICA(random_state=0, orthogonal=orthogonal).fit(X)
    S = ica.transform(X)
    slopes = [
        SOURCE_DENSITIES[name](column)[1]
        for name, column in zip(ica.densities_, S.T, strict=True)
    ]
    gradient = -np.stack(slopes) @ S / len(S)
    if orthogonal:
        np.testing.assert_allclose(gradient, gradient.T, atol=1e-4)
        np.testing.assert_allclose(np.cov(S.T, bias=True), np.eye(5), atol=1e-8)
    else:
        np.testing.assert_allclose(gradient, np.eye(5), atol=1e-4)


def test_mixing_the_data_further_changes_no_source():
    X, _ = mixture(3)
    again = np.random.default_rng(0).normal(size=(5, 5))
    first, second = (LDMICA(random_state=0).fit(data) for data in (X, X @ again))
    product = np.corrcoef(first.transform(X), second.transform(X @ again), rowvar=False)
    assert amari_distance(product[:5, 5:]) < 1e-2
    assert second.loss_ - np.linalg.slogdet(again).logabsdet == pytest.approx(
        first.loss_, abs=1e-4
    )


def test_pairs_are_turned_by_a_rotation_towards_the_sources():
    X, mixing = mixture(4)
    values, vectors = np.linalg.eigh(np.cov(X.T, bias=True))
    white = (vectors / np.sqrt(values)).T
    turn = turn_pairs((X - X.mean(0)) @ white.T)
    np.testing.assert_allclose(turn @ turn.T, np.eye(5), atol=1e-12)
    assert amari_distance(turn @ white @ mixing) < 0.1


# ----------------------------------------------------------------------- likelihoods


@pytest.mark.parametrize("density", ["auto", "logcosh", "exponent4"])
def test_scores_are_exact_log_likelihoods(density):
    X, _ = mixture(0, n_sources=3)
    ica = LDMICA(density=density, random_state=0).fit(X)
    S = np.linalg.solve(ica.mixing_, (X - ica.mean_).T).T
    expected = np.linalg.slogdet(ica.components_).logabsdet + sum(
        SOURCE_DENSITIES[name](column)[0]
        for name, column in zip(ica.densities_, S.T, strict=True)
    )
    np.testing.assert_allclose(ica.score_samples(X), expected)
    assert ica.score(X) == pytest.approx(expected.mean()) == -ica.loss_


def test_the_likelihood_integrates_to_one():
    X, _ = mixture(0, n_sources=2)
    ica = LDMICA(random_state=0).fit(X)
    spread = 8 * X.std(axis=0)
    grid = [
        np.linspace(m - s, m + s, 600)
        for m, s in zip(X.mean(axis=0), spread, strict=True)
    ]
    points = np.stack(np.meshgrid(*grid), axis=-1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in grid])
    assert np.exp(ica.score_samples(points)).sum() * cell == pytest.approx(1, abs=1e-3)


def test_held_out_likelihood_prefers_the_right_densities():
    X, _ = mixture(5, n_samples=4000)
    scores = {
        density: LDMICA(density=density, random_state=0).fit(X[:2000]).score(X[2000:])
        for density in ("auto", "logcosh", "exponent4")
    }
    assert max(scores, key=scores.get) == "auto"


def test_a_callable_is_used_as_the_name_would_be():
    X, _ = mixture(6, n_sources=3)
    named, called = (
        LDMICA(density=density, random_state=0).fit(X)
        for density in ("logcosh", SOURCE_DENSITIES["logcosh"])
    )
    assert called.loss_ == pytest.approx(named.loss_, abs=1e-6)
    assert not hasattr(called, "densities_")


# ------------------------------------------------------------------------ in the time


class OrnsteinUhlenbeck:
    """Log-density of Gaussian sources with known decay, along the rows."""

    def __init__(self, decay, variance):
        self.decay, self.variance = np.array(decay), np.array(variance)

    def __call__(self, S):
        noise = self.variance * (1 - self.decay**2)
        error = S[1:] - self.decay * S[:-1]
        log_density = -0.5 * S**2 / self.variance - 0.5 * np.log(
            2 * np.pi * self.variance
        )
        log_density[1:] = -0.5 * error**2 / noise - 0.5 * np.log(2 * np.pi * noise)
        slope = np.zeros_like(S)
        slope[0] = -S[0] / self.variance
        slope[1:] -= error / noise
        slope[:-1] += self.decay * error / noise
        return log_density, slope


def test_gaussian_sources_are_told_apart_by_their_time_scales():
    """With equal variances nothing but the order of the rows tells them apart."""
    rng = np.random.default_rng(0)
    density = OrnsteinUhlenbeck([0.8, 0.98], [1.0, 1.0])
    S = np.zeros((4000, 2))
    S[0] = rng.normal(size=2)
    for t in range(1, 4000):
        noise = np.sqrt(1 - density.decay**2) * rng.normal(size=2)
        S[t] = density.decay * S[t - 1] + noise
    angle = np.pi / 4
    rotation = np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    ica = LDMICA(density=density, whiten=False, orthogonal=True).fit(S @ rotation.T)
    np.testing.assert_allclose(
        ica.components_ @ ica.components_.T, np.eye(2), atol=1e-12
    )
    assert np.linalg.det(ica.components_) == pytest.approx(1)
    # The right source in the right place.
    np.testing.assert_allclose(np.abs(ica.components_ @ rotation), np.eye(2), atol=0.05)


# -------------------------------------------------------------------- the estimator


@parametrize_with_checks(
    [
        LDMICA(random_state=0),
        LDMICA(density="logcosh", orthogonal=True, random_state=0),
        LDMICA(density="exponent4", whiten=False, random_state=0),
    ]
)
def test_common_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_param_validation,
        estimator_checks.check_transformer_get_feature_names_out,
        estimator_checks.check_set_output_transform,
        estimator_checks.check_dataframe_column_names_consistency,
    ],
    ids=lambda check: check.__name__,
)
def test_checks_that_check_estimator_leaves_out(check):
    check("LDMICA", LDMICA(random_state=0))


def test_names_are_those_of_the_peer():
    X, _ = mixture(7)
    ours, theirs = LDMICA(3, random_state=0).fit(X), FastICA(3, random_state=0).fit(X)
    for name in ("components_", "mixing_", "mean_", "whitening_"):
        assert getattr(ours, name).shape == getattr(theirs, name).shape
    assert ours.n_iter_ > 0
    assert list(ours.get_feature_names_out()) == ["ldmica0", "ldmica1", "ldmica2"]


def test_sources_are_mixed_again():
    X, _ = mixture(8)
    ica = LDMICA(random_state=0).fit(X)
    np.testing.assert_allclose(ica.inverse_transform(ica.transform(X)), X)
    leading = LDMICA(2, random_state=0).fit(X)
    S = leading.transform(X)
    np.testing.assert_allclose(leading.transform(leading.inverse_transform(S)), S)


def test_an_estimator_is_stored_and_copied(tmp_path):
    X, _ = mixture(9, n_samples=300)
    ica = LDMICA(random_state=0).fit(X)
    ica.save(tmp_path / "file")
    for again in (load(tmp_path / "file"), pickle.loads(pickle.dumps(ica))):
        np.testing.assert_array_equal(again.transform(X), ica.transform(X))
        assert again.score(X) == ica.score(X)
    again = clone(ica).fit(X)
    np.testing.assert_array_equal(again.components_, ica.components_)


def test_awkward_arrays_are_as_good_as_others():
    X, _ = mixture(10, n_samples=300)
    expected = LDMICA(random_state=0).fit(X).components_
    awkward = np.asfortranarray(X).astype(">f8")[::1]
    awkward.flags.writeable = False
    np.testing.assert_allclose(
        LDMICA(random_state=0).fit(awkward).components_, expected
    )
    single = LDMICA(random_state=0).fit(X.astype(np.float32))
    assert single.transform(X.astype(np.float32)).dtype == np.float32


def test_the_scale_of_the_data_does_not_matter():
    X, _ = mixture(11, n_samples=500)
    first = LDMICA(random_state=0).fit(X)
    for scale in (1e-100, 1e100):
        other = LDMICA(random_state=0).fit(scale * X)
        np.testing.assert_allclose(
            other.transform(scale * X), first.transform(X), atol=1e-6
        )


def test_columns_that_say_nothing_new_get_no_source():
    X, _ = mixture(12, n_samples=300, n_sources=3)
    wider = np.column_stack([X, np.ones(300), X[:, 0] - X[:, 1]])
    ica = LDMICA(random_state=0).fit(wider)
    assert ica.components_.shape == (3, 5)
    assert np.isfinite(ica.score_samples(wider)).all()
    np.testing.assert_allclose(ica.inverse_transform(ica.transform(wider)), wider)
    plain = LDMICA(whiten=False, density="logcosh").fit(wider)
    assert plain.components_.shape == (3, 5)


@pytest.mark.parametrize("constant", [98.6, 37.2, 12345.678, 1e8 / 3])
def test_a_constant_column_of_any_size_is_no_source(constant):
    X, _ = mixture(12, n_samples=500, n_sources=2)
    wider = np.column_stack([X, np.full(500, constant)])
    ica = LDMICA(random_state=0).fit(wider)
    assert ica.components_.shape == (2, 3)
    moved = ica.score(wider + np.array([0.0, 0.0, 1e-9]))
    assert ica.score(wider) == pytest.approx(LDMICA(random_state=0).fit(X).score(X))
    assert moved == pytest.approx(ica.score(wider))
    with pytest.raises(ValueError, match="rank 0"):
        LDMICA().fit(np.full((500, 2), constant))


def test_sources_of_another_number_are_refused():
    ica = LDMICA(random_state=0).fit(mixture(12, n_samples=300, n_sources=3)[0])
    with pytest.raises(ValueError, match="S has 2 columns, but LDMICA found 3 sources"):
        ica.inverse_transform(np.ones((4, 2)))


def test_what_cannot_be_fitted_is_refused():
    X, _ = mixture(13, n_samples=50, n_sources=3)
    with pytest.raises(ValueError, match=r"rank 3 .* for 4 sources"):
        LDMICA(4).fit(X)
    with pytest.raises(ValueError, match="rank 0"):
        LDMICA().fit(np.ones((5, 2)))
    with pytest.raises(ValueError, match="returns two arrays"):
        LDMICA(density=lambda S: S.sum(axis=1)).fit(X)


def test_a_refused_fit_leaves_the_sources_as_they_were():
    X, _ = mixture(13, n_samples=50, n_sources=3)
    ica = LDMICA(random_state=0).fit(X)
    before = ica.transform(X)
    with pytest.raises(ValueError, match="rank 0"):
        ica.fit(np.ones((5, 3)))
    np.testing.assert_array_equal(ica.transform(X), before)


def test_too_few_steps_give_a_warning():
    with pytest.warns(ConvergenceWarning, match="did not converge in 2 steps"):
        LDMICA(max_iter=2, random_state=0).fit(mixture(0)[0])
