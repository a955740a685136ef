"""Why a likelihood of learned embeddings collapses: each statement is one test."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.covariance import shrunk_covariance

from skgmje import MultivariateNormalMixture
from skgmje.latent import (
    ENTROPIES,
    GaussianLikelihood,
    JointMixture,
    LogDet,
    MomentKL,
    VarianceCovariance,
    covariance,
    log_det,
)
from skgmje.latent._moments import mean_mahalanobis
from skgmje.mixture._em import expectation, maximization

PROFILE = settings(deadline=None, max_examples=25, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)
WIDTHS = st.integers(2, 5)
N_ROWS = 20
FIXTURE = torch.tensor([[0, 0], [2, 1], [1, 3], [-1, 2]], dtype=torch.float64)


def embeddings(seed, n_features, n_rows=N_ROWS):
    """Draw correlated embeddings with a mean of their own."""
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    mixing = torch.eye(n_features) + 0.4 * torch.randn(
        n_features, n_features, **options
    )
    return torch.randn(n_rows, n_features, **options) @ mixing + torch.randn(
        n_features, **options
    )


def centre(z):
    return z - z.mean(0)


def loss_of(latent, z):
    """Loss with the first coordinate as the context and the others as the target."""
    return latent(z[:, :1], z[:, 1:])


def gradient_of(latent, z):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(loss_of(latent, z), z)[0]


def given_moments(mean, moments):
    """Likelihood with moments from outside the batch."""
    latent = GaussianLikelihood("moving").eval()
    latent.running.set_extra_state({"mean": mean, "covariance": moments})
    return latent


def eigenvalues(z):
    return torch.linalg.eigvalsh(covariance(z))


def descend(latent, z, step, n_steps):
    for _ in range(n_steps):
        z = z - step * gradient_of(latent, z)
    return z


# ------------------------------------------------------------------------------ theorem


@PROFILE
@given(SEEDS, WIDTHS)
def test_a_the_mahalanobis_term_is_the_number_of_coordinates(seed, n_features):
    z = embeddings(seed, n_features)
    distance = mean_mahalanobis(centre(z), covariance(z))
    assert float(distance) == pytest.approx(n_features)
    volume = 0.5 * torch.linalg.slogdet(covariance(z)).logabsdet
    constant = 0.5 * n_features * (1 + math.log(2 * math.pi))
    loss = loss_of(GaussianLikelihood(), z)
    assert float(loss) == pytest.approx(float(volume) + constant)


@PROFILE
@given(SEEDS, WIDTHS)
def test_a_with_the_unbiased_covariance_it_is_a_little_less(seed, n_features):
    z = embeddings(seed, n_features)
    distance = mean_mahalanobis(centre(z), torch.cov(z.mT))
    assert float(distance) == pytest.approx(n_features * (N_ROWS - 1) / N_ROWS)


@PROFILE
@given(SEEDS, st.integers(3, 6))
def test_a_with_few_rows_it_is_the_rank_and_the_likelihood_has_no_value(seed, n_rows):
    n_features = n_rows + 1
    z = embeddings(seed, n_features, n_rows)
    inverse = torch.linalg.pinv(covariance(z), hermitian=True, rtol=1e-10)
    x = centre(z)
    assert float((x @ inverse * x).sum() / n_rows) == pytest.approx(n_rows - 1)
    assert float(eigenvalues(z)[0]) < 1e-12
    # Rounding decides whether the factorisation fails; it never gives a finite floor.
    loss = float(loss_of(GaussianLikelihood(), z))
    assert math.isnan(loss) or loss < -5


@PROFILE
@given(SEEDS, WIDTHS)
def test_b_the_mahalanobis_term_has_no_gradient(seed, n_features):
    z = embeddings(seed, n_features).requires_grad_()
    weights = torch.eye(n_features, dtype=torch.float64).requires_grad_()
    encoded = z @ weights
    distance = mean_mahalanobis(centre(encoded), covariance(encoded))
    for gradient in torch.autograd.grad(distance, (z, weights)):
        assert float(gradient.abs().max()) < 1e-9


@PROFILE
@given(SEEDS, WIDTHS)
def test_c_what_remains_pulls_every_embedding_to_the_mean(seed, n_features):
    z = embeddings(seed, n_features)
    expected = torch.linalg.solve(covariance(z), centre(z).mT).mT / N_ROWS
    gradient = gradient_of(GaussianLikelihood(), z)
    torch.testing.assert_close(gradient, expected)
    # Descent moves inwards: against the deviation, in every direction.
    assert bool((torch.linalg.eigvalsh(gradient.mT @ centre(z)) > 0).all())


@settings(PROFILE, max_examples=5)
@given(SEEDS, st.integers(2, 4))
def test_d_every_eigenvalue_falls_at_the_same_rate_to_zero(seed, n_features):
    z = embeddings(seed, n_features)
    start = eigenvalues(z)
    collapse = float(N_ROWS * start[0] / 2)
    passed = 0.0
    for share in (0.5, 0.45):
        z = descend(GaussianLikelihood(), z, share * collapse / 500, 500)
        passed += share
        expected = start - passed * start[0]
        torch.testing.assert_close(
            eigenvalues(z), expected, atol=5e-3 * float(start[0]), rtol=0
        )


@PROFILE
@given(SEEDS, WIDTHS, st.floats(-5, 5))
def test_d_scaling_changes_the_loss_by_the_logarithm_of_the_scale(
    seed, n_features, log_scale
):
    z = embeddings(seed, n_features)
    change = loss_of(GaussianLikelihood(), math.exp(log_scale) * z)
    change = change - loss_of(GaussianLikelihood(), z)
    assert float(change) == pytest.approx(n_features * log_scale, abs=1e-7)


@PROFILE
@given(SEEDS, WIDTHS)
def test_e_detached_moments_give_the_same_update(seed, n_features):
    z = embeddings(seed, n_features)
    batch, detached = (GaussianLikelihood(m) for m in ("batch", "detached"))
    torch.testing.assert_close(gradient_of(detached, z), gradient_of(batch, z))
    torch.testing.assert_close(loss_of(detached, z), loss_of(batch, z))


@PROFILE
@given(SEEDS, WIDTHS)
def test_f_the_best_gaussian_is_that_of_the_batch(seed, n_features):
    z = embeddings(seed, n_features)
    best = float(loss_of(GaussianLikelihood(), z))
    other = embeddings(seed + 1, n_features)
    for weight in (0.01, 0.3, 1.0):
        mean = z.mean(0).lerp(other.mean(0), weight)
        moments = covariance(z).lerp(covariance(other), weight)
        assert float(loss_of(given_moments(mean, moments), z)) > best
    same = given_moments(z.mean(0), covariance(z))
    assert float(loss_of(same, z)) == pytest.approx(best)


@PROFILE
@given(SEEDS, WIDTHS)
def test_f_moments_from_outside_attract_and_never_repel(seed, n_features):
    z, other = embeddings(seed, n_features), embeddings(seed + 1, n_features)
    latent = given_moments(other.mean(0), covariance(other))
    deviation = z - other.mean(0)
    gradient = gradient_of(latent, z)
    expected = torch.linalg.solve(covariance(other), deviation.mT).mT / N_ROWS
    torch.testing.assert_close(gradient, expected)
    assert bool(((gradient * deviation).sum(1) > 0).all())


def test_f_a_moving_average_collapses_later():
    z = embeddings(0, 3)
    latent = GaussianLikelihood("moving")
    latent.initialize(z[:, :1], z[:, 1:], seed=0)
    early = descend(latent, z, 0.01 * N_ROWS, 40)
    late = descend(latent, early, 0.01 * N_ROWS, 300)
    at_once = descend(GaussianLikelihood(), z, 1e-3 * N_ROWS, 40)
    assert float(eigenvalues(at_once)[0]) < float(eigenvalues(z)[0])
    assert float(eigenvalues(early).sum()) < 0.6 * float(eigenvalues(z).sum())
    assert float(eigenvalues(late).sum()) < 0.01 * float(eigenvalues(z).sum())


def test_the_numbers_of_the_fixture():
    moments = covariance(FIXTURE)
    torch.testing.assert_close(moments, 1.25 * torch.eye(2).double())
    assert float(mean_mahalanobis(centre(FIXTURE), moments)) == pytest.approx(2)
    assert float(0.5 * log_det(moments)) == pytest.approx(0.223143551314, abs=1e-12)
    expected = [[-0.1, -0.3], [0.3, -0.1], [0.1, 0.3], [-0.3, 0.1]]
    gradient = gradient_of(GaussianLikelihood(), FIXTURE)
    torch.testing.assert_close(gradient, torch.tensor(expected).double())
    ridged = moments + 0.5 * torch.eye(2)
    distance = float(mean_mahalanobis(centre(FIXTURE), ridged))
    assert distance == pytest.approx(1.428571428571, abs=1e-12)


# ------------------------------------------------------------------ ridge and shrinkage


@PROFILE
@given(SEEDS, WIDTHS, st.floats(0.01, 2))
def test_a_ridge_pulls_harder(seed, n_features, ridge):
    z = embeddings(seed, n_features)
    x, identity = centre(z), torch.eye(n_features).double()
    inverse = torch.linalg.inv(covariance(z) + ridge * identity)
    distance = mean_mahalanobis(x, covariance(z) + ridge * identity)
    shares = eigenvalues(z) / (eigenvalues(z) + ridge)
    assert float(distance) == pytest.approx(float(shares.sum()))
    expected = x @ (inverse + ridge * inverse @ inverse) / N_ROWS
    gradient = gradient_of(GaussianLikelihood(ridge=ridge), z)
    torch.testing.assert_close(gradient, expected)
    # Both terms pull inwards, where without a ridge only the volume does.
    volume = x @ inverse / N_ROWS
    assert float((gradient * x).sum()) > float((volume * x).sum())


@PROFILE
@given(SEEDS, WIDTHS, st.floats(0.01, 2))
def test_a_ridge_bounds_the_loss_by_its_value_at_a_point(seed, n_features, ridge):
    z = embeddings(seed, n_features)
    latent = GaussianLikelihood(ridge=ridge)
    floor = 0.5 * n_features * math.log(2 * math.pi * ridge)
    assert float(loss_of(latent, 0 * z)) == pytest.approx(floor)
    losses = [float(loss_of(latent, s * z)) for s in (1e-2, 0.1, 1, 10)]
    assert floor < losses[0]
    assert losses == sorted(losses)


@PROFILE
@given(SEEDS, WIDTHS, st.floats(0.01, 2))
def test_eigenvalues_flow_to_zero_under_a_ridge(seed, n_features, ridge):
    z = embeddings(seed, n_features)
    step = 1e-6
    moved = z - step * gradient_of(GaussianLikelihood(ridge=ridge), z)
    values = eigenvalues(z)
    speed = (eigenvalues(moved) - values) / step
    expected = -2 / N_ROWS * values * (values + 2 * ridge) / (values + ridge) ** 2
    torch.testing.assert_close(speed, expected, rtol=1e-3, atol=1e-6)


@PROFILE
@given(SEEDS, WIDTHS, st.floats(0, 0.9), st.floats(-5, 5))
def test_linear_shrinkage_does_not_change_the_scaling(
    seed, n_features, shrinkage, log_scale
):
    z = embeddings(seed, n_features)

    def loss(z):
        moments = torch.from_numpy(shrunk_covariance(covariance(z), shrinkage))
        gaussian = MultivariateNormalMixture(
            torch.ones(1).double(),
            z.mean(0, keepdim=True),
            scale_tril=torch.linalg.cholesky(moments)[None],
        )
        return -float(gaussian.log_prob(z).mean())

    change = loss(math.exp(log_scale) * z) - loss(z)
    assert change == pytest.approx(n_features * log_scale, abs=1e-7)


# ----------------------------------------------------------------------------- mixtures


@PROFILE
@given(SEEDS, WIDTHS, st.integers(1, 4))
def test_an_m_step_on_the_batch_falls_into_the_same_trap(
    seed, n_features, n_components
):
    z = embeddings(seed, n_features, 60)
    generator = torch.Generator().manual_seed(seed)
    before = MultivariateNormalMixture(
        torch.full((n_components,), 1 / n_components).double(),
        z[torch.randperm(60, generator=generator)[:n_components]],
        scale_tril=2 * torch.eye(n_features).double().expand(n_components, -1, -1),
    )
    statistics = expectation(z, before, "full")
    after = maximization(statistics, 0.0)
    deviations = z[:, None] - after.means
    inverses = torch.linalg.inv(after.covariances)
    distances = torch.einsum("nki,kij,nkj->nk", deviations, inverses, deviations)
    shares = before.responsibilities(z)
    total = float((shares * distances).sum())
    assert total == pytest.approx(60 * n_features, rel=1e-6)


@PROFILE
@given(SEEDS, WIDTHS, st.floats(0.01, 2))
def test_in_the_dual_the_quadratic_form_is_the_same(seed, n_features, ridge):
    x = centre(embeddings(seed, n_features))
    gram = x @ x.mT / N_ROWS + ridge * torch.eye(N_ROWS)
    dual = torch.trace(x.mT @ torch.linalg.solve(gram, x)) / N_ROWS
    values = eigenvalues(x)
    assert float(dual) == pytest.approx(float((values / (values + ridge)).sum()))
    primal = mean_mahalanobis(x, covariance(x) + ridge * torch.eye(n_features))
    assert float(dual) == pytest.approx(float(primal))


# ----------------------------------------------------------------------------- remedies


def test_an_entropy_of_weight_one_makes_the_loss_an_information():
    z = embeddings(0, 4, 50)
    latent = GaussianLikelihood(entropy=LogDet(ridge=0.0))
    whole = torch.linalg.slogdet(torch.corrcoef(z.mT)).logabsdet
    within = torch.linalg.slogdet(torch.corrcoef(z[:, 1:].mT)).logabsdet
    loss = loss_of(latent, z)
    assert float(loss) == pytest.approx(float(0.5 * (whole - within)), abs=1e-8)
    moved = torch.cat([1e-2 * z[:, :1], 30 * z[:, 1:] + 4], dim=1)
    assert float(loss_of(latent, moved)) == pytest.approx(float(loss), abs=1e-6)


def test_an_entropy_of_both_views_together_leaves_nothing_to_learn():
    z = embeddings(0, 4, 50)
    joint = LogDet(ridge=0.0)
    trap = GaussianLikelihood()
    for other in (z, 0.1 * z, embeddings(1, 4, 50)):
        assert float(loss_of(trap, other) + joint(other)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("name", [None, *sorted(ENTROPIES)])
def test_free_embeddings_collapse_without_an_entropy_and_not_with_one(name):
    generator = torch.Generator().manual_seed(0)
    z_c = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    z_t = z_c + 0.5 * torch.randn(60, 2, generator=generator, dtype=torch.float64)
    z = torch.cat([z_c, z_t], dim=1).requires_grad_()
    entropy = None if name is None else ENTROPIES[name]()
    latent = GaussianLikelihood(ridge=1e-2, entropy=entropy)
    optimizer = torch.optim.Adam([z], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        latent(z[:, :2], z[:, 2:]).backward()
        optimizer.step()
    smallest = float(eigenvalues(z.detach()[:, :2])[0])
    assert (smallest < 1e-3) if name is None else (smallest > 0.2)


@pytest.mark.parametrize(("n_features", "weight"), [(1, 25.0), (3, 25.0), (2, 8.0)])
def test_vicreg_holds_white_embeddings_above_its_threshold_only(n_features, weight):
    """Its penalty has a bound, and the likelihood has none."""
    latent = GaussianLikelihood(entropy=VarianceCovariance(weight))
    z = centre(embeddings(0, 2 * n_features, 50))
    z = z @ torch.linalg.inv(torch.linalg.cholesky(covariance(z))).mT

    def loss_and_slope(scale):
        scale = torch.tensor(scale, dtype=torch.float64, requires_grad=True)
        loss = latent(scale * z[:, :n_features], scale * z[:, n_features:])
        return float(loss.detach()), float(torch.autograd.grad(loss, scale)[0])

    threshold = n_features / weight
    assert loss_and_slope(1.5 * threshold)[1] < 0 < loss_and_slope(0.7 * threshold)[1]
    tiny, tinier = (loss_and_slope(scale)[0] for scale in (1e-4, 1e-6))
    assert tinier - tiny == pytest.approx(2 * n_features * math.log(0.01), abs=0.01)


def test_detached_targets_leave_no_pull_on_the_target():
    """In the conditional form of a mixture a gradient never gathers the targets."""
    z = embeddings(0, 4, 50)
    latent = JointMixture(1, entropy=MomentKL())
    latent.initialize(z[:, :2], z[:, 2:], seed=0)
    density = latent.eval().components.density
    target = z[:, 2:].clone().requires_grad_()
    conditional = density.condition([0, 1], z[:, :2])
    pull = torch.autograd.grad(-conditional.log_prob(target).mean(), target)[0]
    residual = target.detach() - conditional.mean
    assert bool(((pull * residual).sum(1) > 0).all())
    back = density.condition([2, 3], target).log_prob(z[:, :2])
    expected = torch.autograd.grad(MomentKL()(target) - 0.5 * back.mean(), target)[0]
    free = target.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(latent(z[:, :2], free), free)
    torch.testing.assert_close(gradient, expected)


# ------------------------------------------------------------------------------- module


def test_unknown_moments_are_refused():
    with pytest.raises(ValueError, match="moments must be one of"):
        GaussianLikelihood("empirical")


def test_moving_moments_follow_the_training_batches_only():
    z = embeddings(0, 3)
    latent = GaussianLikelihood("moving")
    latent.initialize(z[:, :1], z[:, 1:], seed=0)
    latent.eval()
    loss_of(latent, z + 5)
    torch.testing.assert_close(latent.running.mean, z.mean(0))
    latent.train()
    for _ in range(200):
        loss_of(latent, 2 * z + 5)
    torch.testing.assert_close(
        latent.running.mean, 2 * z.mean(0) + 5, atol=1e-3, rtol=0
    )
    torch.testing.assert_close(
        latent.running.covariance, 4 * covariance(z), atol=1e-2, rtol=0
    )
    again = GaussianLikelihood("moving")
    again.load_state_dict(latent.state_dict())
    torch.testing.assert_close(loss_of(again.eval(), z), loss_of(latent.eval(), z))


def test_the_loss_is_the_mean_log_density_of_torch():
    z = embeddings(0, 3)
    gaussian = torch.distributions.MultivariateNormal(
        z.mean(0), covariance(z) + 0.1 * torch.eye(3)
    )
    expected = -float(gaussian.log_prob(z).mean())
    assert float(loss_of(GaussianLikelihood(ridge=0.1), z)) == pytest.approx(expected)
    np.testing.assert_allclose(
        float(loss_of(GaussianLikelihood(ridge=0.1), z.float())), expected, rtol=1e-5
    )
