"""Entropies against densities whose entropy is known, and what each cannot see."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import special_ortho_group

from skgmje import MultivariateNormalMixture
from skgmje.latent import (
    ENTROPIES,
    GaussianMutualInformation,
    LogDet,
    MomentKL,
    NearestNeighbour,
    Negentropy,
    VarianceCovariance,
    Whitening,
    covariance,
    moment_kl,
)
from skgmje.latent._neighbours import kth_neighbours

PROFILE = settings(deadline=None, max_examples=30, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)
ESTIMATES = ["log_det", "knn"]

every_entropy = pytest.mark.parametrize("name", sorted(ENTROPIES))
every_estimate = pytest.mark.parametrize("name", ESTIMATES)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def uniform(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def random_factor(n_features, seed):
    """Draw a well-conditioned square root of a covariance."""
    rng = np.random.default_rng(seed)
    scales = np.exp(rng.uniform(-1, 1, n_features))
    if n_features == 1:
        return torch.from_numpy(np.diag(scales))
    rotation = special_ortho_group.rvs(n_features, random_state=rng)
    return torch.from_numpy(rotation * scales)


def log_ball_volume(n_features):
    half = n_features / 2
    return half * math.log(math.pi) - math.lgamma(half + 1)


# ---------------------------------------------------------------------- known entropies


@every_estimate
@pytest.mark.parametrize(("n_features", "margin"), [(1, 0.06), (3, 0.1), (6, 0.25)])
@pytest.mark.parametrize("seed", range(2))
def test_the_entropy_of_a_gaussian(name, n_features, margin, seed):
    factor = random_factor(n_features, seed)
    z = 5 + normal(3000, n_features, seed=seed) @ factor.mT
    truth = 0.5 * n_features * math.log(2 * math.pi * math.e)
    truth += float(torch.linalg.slogdet(factor).logabsdet)
    assert float(ENTROPIES[name]().entropy(z)) == pytest.approx(truth, abs=margin)


@pytest.mark.parametrize(("n_features", "margin"), [(1, 0.04), (2, 0.06), (3, 0.15)])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_neighbours_give_the_entropy_of_a_box(n_features, margin, k):
    sides = torch.arange(1, n_features + 1).double() / 2
    z = sides * uniform(4000, n_features, seed=k)
    truth = float(sides.log().sum())
    assert float(NearestNeighbour(k=k).entropy(z)) == pytest.approx(truth, abs=margin)


@pytest.mark.parametrize(("n_features", "margin"), [(2, 0.1), (3, 0.2)])
def test_neighbours_give_the_entropy_of_a_shell(n_features, margin):
    inner = 0.5
    radius = (inner**n_features + uniform(4000, 1) * (1 - inner**n_features)) ** (
        1 / n_features
    )
    direction = normal(4000, n_features, seed=1)
    z = radius * direction / direction.norm(dim=1, keepdim=True)
    truth = log_ball_volume(n_features) + math.log(1 - inner**n_features)
    assert float(NearestNeighbour().entropy(z)) == pytest.approx(truth, abs=margin)
    assert float(LogDet().entropy(z)) > truth + 0.2


def clustered_mixture():
    factors = torch.stack([random_factor(2, seed) for seed in range(3)])
    return MultivariateNormalMixture(
        torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64),
        4 * normal(3, 2, seed=5),
        scale_tril=0.3 * torch.linalg.cholesky(factors @ factors.mT),
    )


def test_neighbours_give_the_entropy_of_a_mixture_and_second_moments_a_bound():
    mixture = clustered_mixture()
    generator = torch.Generator().manual_seed(0)
    draws = mixture.sample((50000,), generator=generator)
    truth = -float(mixture.log_prob(draws).mean())
    z = draws[:4000]
    assert float(NearestNeighbour().entropy(z)) == pytest.approx(truth, abs=0.07)
    assert float(LogDet().entropy(z)) > truth + 0.5


def test_more_points_bring_the_neighbours_nearer_to_the_truth():
    truth = 2 * math.log(2 * math.pi * math.e)
    errors = []
    for n_samples in (100, 700, 4000):
        estimates = [
            float(NearestNeighbour().entropy(normal(n_samples, 4, seed=s)))
            for s in range(4)
        ]
        errors.append(abs(np.mean(estimates) - truth))
    assert errors[2] < errors[1] < errors[0]


# --------------------------------------------------------------------------- identities


@PROFILE
@given(SEEDS, st.integers(1, 4), st.floats(-4, 4), st.sampled_from(ESTIMATES))
def test_scaling_adds_the_logarithm_of_the_scale(seed, n_features, log_scale, name):
    z = normal(40, n_features, seed=seed)
    entropy = ENTROPIES[name]().entropy
    expected = float(entropy(z)) + n_features * log_scale
    # The floor of distances, 1e-8, and of variances, 1e-12, leave a trace.
    assert float(entropy(math.exp(log_scale) * z)) == pytest.approx(expected, abs=1e-4)


@PROFILE
@given(SEEDS, st.integers(2, 4), st.sampled_from(sorted(ESTIMATES)))
def test_entropies_do_not_change_under_motions(seed, n_features, name):
    z = normal(40, n_features, seed=seed)
    rotation = torch.from_numpy(
        special_ortho_group.rvs(n_features, random_state=seed % 2**32)
    )
    entropy = ENTROPIES[name]().entropy
    moved = float(entropy(z @ rotation + 100))
    assert moved == pytest.approx(float(entropy(z)), abs=1e-7)


@PROFILE
@given(SEEDS, st.integers(1, 3), st.integers(1, 3))
def test_entropies_of_views_and_pairs_give_the_gaussian_information(seed, d_c, d_t):
    """The identity of canonical correlations."""
    z = normal(40, d_c + d_t, seed=seed) @ random_factor(d_c + d_t, seed).mT
    entropy = LogDet(ridge=0.0).entropy
    information = entropy(z[:, :d_c]) + entropy(z[:, d_c:]) - entropy(z)
    context, target = (
        np.linalg.qr(view - view.mean(0)).Q
        for view in (z[:, :d_c].numpy(), z[:, d_c:].numpy())
    )
    rho = np.linalg.svd(context.T @ target, compute_uv=False)
    expected = -0.5 * np.log1p(-(rho**2)).sum()
    assert float(information) == pytest.approx(expected, abs=1e-8)
    latent = GaussianMutualInformation(0.0, 0.0, 0.0)
    loss = float(latent(z[:, :d_c], z[:, d_c:]))
    assert loss == pytest.approx(-expected, abs=1e-8)


@PROFILE
@given(SEEDS, st.integers(1, 4), st.floats(1.1, 10))
def test_the_divergence_settles_at_its_own_variance(seed, n_features, weight):
    """The minimum over a common scale s is at s^2 = (w - 1) / w."""
    white = Whitening(ridge=0.0).prepare(normal(30, n_features, seed=seed))
    penalty = MomentKL(weight, ridge=0.0)

    def slope(variance):
        scale = torch.tensor(variance).double().sqrt().requires_grad_()
        pull = 0.5 * torch.linalg.slogdet(covariance(scale * white)).logabsdet
        return float(torch.autograd.grad(pull + penalty(scale * white), scale)[0])

    best = (weight - 1) / weight
    assert slope(best) == pytest.approx(0, abs=1e-6 * weight * n_features)
    assert slope(0.9 * best) < 0 < slope(1.1 * best)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_a_divergence_of_weight_one_or_less_does_not_hold(weight):
    white = Whitening(ridge=0.0).prepare(normal(30, 2))

    def loss(scale):
        pull = 0.5 * torch.linalg.slogdet(covariance(scale * white)).logabsdet
        return float(pull + MomentKL(weight, ridge=0.0)(scale * white))

    # At the weight one, the trace is left, and it pulls inwards too.
    assert loss(1e-4) < loss(1e-2) < loss(1.0)


@PROFILE
@given(SEEDS, st.integers(1, 4))
def test_whitened_embeddings_are_white_wherever_they_were(seed, n_features):
    z = 7 + normal(30, n_features, seed=seed) @ random_factor(n_features, seed).mT
    white = Whitening(ridge=0.0).prepare(z)
    torch.testing.assert_close(
        covariance(white), torch.eye(n_features).double(), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(white.mean(0), torch.zeros(n_features).double())
    moved = Whitening(ridge=0.0).prepare(0.01 * z - 3)
    torch.testing.assert_close(moved, white, atol=1e-5, rtol=0)
    assert float(Whitening()(z)) == 0


def test_vicreg_is_its_formula():
    z = normal(50, 3) * torch.tensor([0.5, 1.0, 2.0])
    moments = np.cov(z.numpy().T, bias=True)
    spread = np.maximum(0, 1 - np.sqrt(np.diag(moments) + 1e-4)).mean()
    between = (moments**2).sum() - (np.diag(moments) ** 2).sum()
    expected = 10 * spread + 2 * between / 3
    assert float(VarianceCovariance(10, 2)(z)) == pytest.approx(expected)


@every_estimate
def test_the_penalty_is_minus_the_weighted_entropy(name):
    z = normal(30, 2)
    entropy = ENTROPIES[name](0.7)
    assert float(entropy(z)) == pytest.approx(-0.7 * float(entropy.entropy(z)))
    assert float(MomentKL(0.7)(z)) == pytest.approx(0.7 * float(moment_kl(z)))


@every_entropy
def test_only_whitening_changes_what_the_density_sees(name):
    z = normal(30, 2)
    prepared = ENTROPIES[name]().prepare(z)
    assert torch.equal(prepared, z) is (name != "whitening")


# ---------------------------------------------------------------------------- gradients


@every_entropy
def test_gradients_are_those_of_finite_differences(name):
    entropy = ENTROPIES[name]()
    weights = normal(12, 2, seed=9)

    def value(z):
        return entropy(z) + (weights * entropy.prepare(z)).sum()

    z = (0.3 * normal(12, 2, seed=3)).requires_grad_()
    assert torch.autograd.gradcheck(value, (z,), atol=1e-5)


DEGENERATE = {
    "a point": torch.ones(20, 3),
    "two points": torch.ones(20, 3) * (torch.arange(20) % 2)[:, None],
    "duplicates": normal(10, 3).float().repeat(2, 1),
    "a constant column": torch.cat([normal(20, 2).float(), torch.ones(20, 1)], 1),
    "equal variances": torch.eye(3).repeat(4, 1) - torch.eye(3)[[1, 2, 0]].repeat(4, 1),
    "fewer rows than columns": normal(4, 9).float(),
    "tiny": 1e-12 * normal(20, 3).float(),
    "far away": 1e6 + normal(20, 3).float(),
}


@every_entropy
@pytest.mark.parametrize("case", sorted(DEGENERATE))
def test_values_and_gradients_are_finite_and_double_from_float32(name, case):
    entropy = ENTROPIES[name]()
    z = DEGENERATE[case].requires_grad_()
    value = entropy(z) + entropy.prepare(z).double().square().sum()
    assert value.dtype == torch.float64
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient.dtype == torch.float32
    assert math.isfinite(value.item())
    assert bool(torch.isfinite(gradient).all())


def test_a_step_along_the_gradient_spreads_the_embeddings():
    z = (0.1 * normal(50, 2)).requires_grad_()
    for name in ("log_det", "moment_kl", "vicreg", "knn"):
        (gradient,) = torch.autograd.grad(ENTROPIES[name]()(z), z)
        moved = (z - 1e-4 * gradient).detach()
        assert float(covariance(moved).trace()) > float(covariance(z.detach()).trace())


# --------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize("block_numbers", [1, 100, 10**6])
@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_are_those_of_a_full_sort(block_numbers, k, monkeypatch):
    monkeypatch.setattr(
        "skgmje.latent._neighbours.DISTANCE_BLOCK_NUMBERS", block_numbers
    )
    z = normal(37, 3)
    distances = torch.cdist(z, z)
    # A point itself comes first.
    expected = distances.sort(dim=1).indices[:, k]
    assert torch.equal(kth_neighbours(z, k), expected)


def test_neighbours_are_found_in_tight_clusters_far_from_the_origin():
    z = 1e3 + 1e-9 * normal(30, 2).round(decimals=3)
    centred = z - z.mean(0)
    expected = torch.cdist(centred, centred).sort(dim=1).values[:, 2]
    found = (z - z[kth_neighbours(z, 2)]).norm(dim=1)
    torch.testing.assert_close(found, expected, atol=1e-14, rtol=1e-3)


def test_few_embeddings_have_fewer_neighbours():
    z = torch.tensor([[0.0, 1.0], [2.0, 1.0], [3.0, -1.0]])
    assert float(NearestNeighbour(k=3).entropy(z)) == pytest.approx(
        float(NearestNeighbour(k=2).entropy(z))
    )
    with pytest.raises(ValueError, match="at least two embeddings; got 1"):
        NearestNeighbour()(z[:1])
    with pytest.raises(ValueError, match="k=0"):
        NearestNeighbour(k=0)


# --------------------------------------------------------------------------- negentropy


def white(z):
    return Whitening(ridge=0.0).prepare(z)


def test_the_negentropy_is_the_gap_of_both_entropies():
    z = normal(300, 3) ** 3
    gap = LogDet().entropy(z) - NearestNeighbour(k=2).entropy(z)
    actual = Negentropy(0.5, k=2)(z)
    assert float(actual) == pytest.approx(0.5 * float(gap), abs=1e-12)


@pytest.mark.parametrize("n_features", [1, 2, 3])
def test_gaussians_have_no_negentropy_and_boxes_what_theory_says(n_features):
    z = normal(4000, n_features) @ random_factor(n_features, 1)
    assert float(Negentropy(1.0)(z)) == pytest.approx(0, abs=0.12)
    box = uniform(4000, n_features)
    truth = 0.5 * n_features * math.log(2 * math.pi * math.e / 12)
    assert float(Negentropy(1.0)(box)) == pytest.approx(truth, abs=0.12)


def test_the_negentropy_does_not_change_with_scale():
    z = normal(200, 3) ** 3
    expected = float(Negentropy()(z))
    for scale in (1e-3, 10, 1e3):
        assert float(Negentropy()(scale * z + 5)) == pytest.approx(expected, abs=1e-4)


def test_second_moments_do_not_see_a_fold_and_the_negentropy_does():
    z = normal(1000, 3)
    open_, folded = white(z), white(torch.cat([z[:, :2], z[:, :1] ** 2], dim=1))
    assert float(MomentKL()(open_)) == pytest.approx(float(MomentKL()(folded)))
    assert float(LogDet()(open_)) == pytest.approx(float(LogDet()(folded)))
    assert float(Negentropy(1.0)(folded) - Negentropy(1.0)(open_)) > 0.5


@pytest.mark.parametrize("n_rows", [1, 2, 3])
def test_few_embeddings_have_no_negentropy(n_rows):
    assert float(Negentropy()(normal(n_rows, 2))) == 0
    assert float(Negentropy()(normal(4, 2))) != 0


def test_equal_embeddings_have_a_finite_negentropy_and_gradient():
    z = torch.ones(20, 2, dtype=torch.float64, requires_grad=True)
    value = Negentropy()(z)
    (gradient,) = torch.autograd.grad(value, z)
    assert math.isfinite(value.item())
    assert bool(torch.isfinite(gradient).all())


def test_duplicates_count_as_the_floor():
    z = torch.zeros(10, 2, dtype=torch.float64)
    spread = torch.arange(10).double()[:, None] * torch.ones(1, 2)
    gap = NearestNeighbour(k=1).entropy(spread) - NearestNeighbour(k=1).entropy(z)
    assert float(gap) == pytest.approx(2 * math.log(math.sqrt(2) / 1e-8), abs=1e-6)


# ---------------------------------------------------------------------------- blindness


def test_second_moments_do_not_see_clusters_and_neighbours_do():
    """Embeddings on d + 1 points keep a full covariance while their entropy falls."""
    corners = torch.cat([torch.zeros(1, 3), 2 * torch.eye(3)]).double()
    noise = normal(400, 3)

    def value(name, width):
        z = corners.repeat(100, 1) + width * noise
        entropy = ENTROPIES[name]()
        return float(entropy(z) + entropy.prepare(z).square().mean())

    for name in ("log_det", "moment_kl", "whitening", "vicreg"):
        assert value(name, 1e-6) == pytest.approx(value(name, 1e-3), abs=1e-2)
    change = value("knn", 1e-5) - value("knn", 1e-2)
    assert change == pytest.approx(3 * math.log(1000), rel=0.01)


@pytest.mark.parametrize(
    ("entropy", "change"),
    [(NearestNeighbour(), 0.0), (LogDet(ridge=0.0), math.log(1000))],
)
def test_neighbours_do_not_see_a_thin_direction_and_second_moments_do(entropy, change):
    z = normal(400, 3)
    thin, thinner = (
        float(entropy.entropy(z * torch.tensor([1.0, 1.0, width])))
        for width in (1e-2, 1e-5)
    )
    assert thin - thinner == pytest.approx(change, abs=0.03)


def test_vicreg_is_bounded_where_entropies_are_not():
    z = normal(50, 3)
    assert float(VarianceCovariance()(1e-9 * z)) < 25
    for name in ("log_det", "moment_kl", "knn"):
        assert float(ENTROPIES[name]()(1e-4 * z)) > 20


# ----------------------------------------------------------------------------- registry


@every_entropy
def test_every_entropy_has_no_weights_and_can_be_stored(name):
    entropy = ENTROPIES[name]()
    assert not entropy.state_dict()
    again = pickle.loads(pickle.dumps(entropy))
    z = normal(20, 2)
    assert torch.equal(again(z), entropy(z))


@every_entropy
def test_no_entropy_moves_its_input_or_the_global_seed(name):
    z = normal(20, 2)
    kept, state = z.clone(), torch.get_rng_state()
    entropy = ENTROPIES[name]()
    entropy(z)
    entropy.prepare(z)
    assert torch.equal(z, kept)
    assert torch.equal(torch.get_rng_state(), state)
