"""Data whose truth is known: canonical correlations, and answers on three branches."""

import numpy as np
import pytest
from sklearn.cross_decomposition import CCA

from skgmje import (
    GaussianProcessEmbedder,
    GJEEmbedder,
    GMJEEmbedder,
    JEPAEmbedder,
    MDNEmbedder,
)
from skgmje.datasets import branch_log_density, make_branches

# The conditional entropy of the branches: log 3 + log(2 pi e 0.05^2) / 2.
ORACLE = np.log(3) + 0.5 * np.log(2 * np.pi * np.e * 0.05**2)
RHO = np.array([0.95, 0.7, 0.4])


def canonical_correlations(covariance, n_context):
    """Singular values of the whitened cross-covariance."""
    context, target = (
        np.linalg.cholesky(block)
        for block in (
            covariance[:n_context, :n_context],
            covariance[n_context:, n_context:],
        )
    )
    cross = np.linalg.solve(context, covariance[:n_context, n_context:])
    return np.linalg.svd(np.linalg.solve(target, cross.T), compute_uv=False)


@pytest.fixture(scope="module")
def correlated_views():
    """Views of eight and six columns with three canonical correlations."""
    rng = np.random.default_rng(0)
    shared, noise = rng.normal(size=(2, 4000, 3))
    u, v = rng.normal(size=(4000, 8)), rng.normal(size=(4000, 6))
    u[:, :3] = shared
    v[:, :3] = RHO * shared + np.sqrt(1 - RHO**2) * noise
    mixes = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (8, 6))
    return tuple(view @ mix for view, mix in zip((u, v), mixes, strict=True))


@pytest.fixture(scope="module")
def linear_gje(correlated_views):
    return GJEEmbedder(
        3,
        encoder="linear",
        batch_size=1000,
        learning_rate_init=0.02,
        max_iter=60,
        n_iter_no_change=60,
        random_state=0,
    ).fit(*correlated_views)


def test_linear_gje_finds_the_canonical_correlations_of_cca(
    linear_gje, correlated_views
):
    found = canonical_correlations(linear_gje.density_.covariance_matrix.numpy(), 3)
    scores = (
        CCA(3, scale=False, max_iter=2000)
        .fit(*correlated_views)
        .transform(*correlated_views)
    )
    expected = [
        np.corrcoef(a, b)[0, 1] for a, b in zip(*(s.T for s in scores), strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_linear_gje_finds_the_canonical_correlations_of_the_population(linear_gje):
    found = canonical_correlations(linear_gje.density_.covariance_matrix.numpy(), 3)
    # The sample's own correlations lie within three standard errors of these.
    errors = 3 * (1 - RHO**2) / np.sqrt(4000)
    assert (np.abs(found - RHO) <= errors + 0.005).all()


def branches(n_samples, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, n_samples)
    wave = 0.5 * np.sin(np.pi * x)
    curves = np.stack([wave + 1.5, 0.3 * x, -wave - 1.5])
    y = curves[rng.integers(3, size=n_samples), np.arange(n_samples)]
    return x[:, None], (y + 0.05 * rng.normal(size=n_samples))[:, None]


def mean_negative_log_likelihood(make):
    """Mean over three data sets and seeds, on 5,000 fresh pairs each."""
    values = [
        -make(seed).fit(*branches(3000, seed)).score(*branches(5000, 100 + seed))
        for seed in range(3)
    ]
    return np.mean(values)


def test_the_oracle_of_the_branches():
    assert pytest.approx(-0.4782, abs=1e-4) == ORACLE


def test_mdn_is_near_the_oracle_on_branches():
    value = mean_negative_log_likelihood(
        lambda seed: MDNEmbedder(
            3,
            encoder="identity",
            target="y",
            learning_rate_init=1e-2,
            max_iter=100,
            random_state=seed,
        )
    )
    assert value < ORACLE + 0.05


def test_a_mixture_of_twenty_is_near_the_oracle_on_branches():
    value = mean_negative_log_likelihood(
        lambda seed: GMJEEmbedder(20, encoder="identity", target="y", random_state=seed)
    )
    assert value < ORACLE + 0.10


def test_one_gaussian_is_far_from_the_oracle_on_branches():
    value = mean_negative_log_likelihood(
        lambda seed: GMJEEmbedder(1, encoder="identity", target="y", random_state=seed)
    )
    assert 1.5 < value < 1.75


def test_the_branches_of_an_mdn_have_their_weights_and_noise():
    mdn = MDNEmbedder(
        3,
        encoder="identity",
        target="y",
        learning_rate_init=1e-2,
        max_iter=100,
        random_state=0,
    ).fit(*branches(3000, 0))
    conditional = mdn.conditional(np.linspace(-0.9, 0.9, 20)[:, None])
    np.testing.assert_allclose(conditional.weights.numpy(), 1 / 3, atol=0.06)
    deviation = conditional.component_covariances.numpy()[..., 0, 0] ** 0.5
    np.testing.assert_allclose(deviation.mean(), 0.05, atol=0.01)


@pytest.fixture(scope="module")
def one_gaussian():
    return GMJEEmbedder(1, encoder="identity", target="y").fit(*branches(3000, 0))


def test_a_neural_gas_finds_the_three_branches_and_is_near_the_oracle():
    gas = GMJEEmbedder(
        50, components="gng", encoder="identity", target="y", random_state=0
    ).fit(*branches(3000, 0))
    assert gas.gas_.n_connected_components_ == 3
    assert -gas.score(*branches(5000, 100)) < ORACLE + 0.10


def test_a_bank_of_particles_is_near_the_oracle_on_branches():
    bank = GMJEEmbedder(
        1024, components="bank", encoder="identity", target="y", random_state=0
    ).fit(*branches(3000, 0))
    assert -bank.score(*branches(5000, 100)) < ORACLE + 0.30


@pytest.mark.parametrize(
    "baseline",
    [
        JEPAEmbedder(
            target_encoder="identity", target="y", max_iter=30, random_state=0
        ),
        GaussianProcessEmbedder(target="y", random_state=0),
    ],
    ids=["jepa", "gaussian process"],
)
def test_a_point_for_an_answer_is_as_far_from_branches_as_one_gaussian(
    baseline, one_gaussian
):
    test = branches(5000, 100)
    score = baseline.fit(*branches(600, 0)).score(*test)
    assert pytest.approx(one_gaussian.score(*test), abs=0.1) == score
    # The average of the answers is between them, on the middle branch.
    assert np.abs(baseline.predict(test[0])).max() < 0.7


def test_an_mdn_of_three_components_follows_branches_that_cross():
    X, y = make_branches(3000, kind="intersecting", random_state=1)
    test = make_branches(5000, kind="intersecting", random_state=1001)
    mdn = MDNEmbedder(3, encoder="identity", target="y", random_state=1).fit(X, y)
    oracle = branch_log_density(*test, kind="intersecting").mean()
    assert oracle - mdn.score(*test) < 0.15
