"""Contrastive losses as matching of distributions, and the tilting behind them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from skgmje import MultivariateNormalMixture
from skgmje.latent import (
    ConditionalDiscrepancy,
    ConditionalMatching,
    InfoNCE,
    JointDiscrepancy,
    JointMatching,
    Tilting,
    _log_sum_exp,
    pair_log_sum_exp,
    tilted_mixture,
)
from skgmje.latent._bandwidth import leave_one_out_bandwidth
from skgmje.latent._matching import gaussian_kernel

PROFILE = settings(deadline=None, max_examples=40, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)
TEMPERATURES = st.floats(0.1, 5)
FORMS = st.sampled_from(["cosine", "inner", "quadratic"])
WEIGHTS = st.floats(0, 3)
each_tilting = pytest.mark.parametrize("form", ["cosine", "inner", "quadratic"])


def pairs(seed, n=None, d=None):
    rng = np.random.default_rng(seed)
    shape = (n or rng.integers(2, 9), d or rng.integers(1, 5))
    return torch.tensor(rng.normal(size=shape)), torch.tensor(rng.normal(size=shape))


def logit(form, a, b, temperature):
    """One logarithm of the tilting by the textbook."""
    if form == "quadratic":
        return -float(((a - b) ** 2).sum()) / (2 * temperature)
    inner = float(a @ b)
    if form == "cosine":
        inner /= float(a.norm() * b.norm())
    return inner / temperature


def all_logits(form, z_c, z_t, temperature):
    return np.array([[logit(form, a, b, temperature) for b in z_t] for a in z_c])


# ---------------------------------------------------------------------------- tiltings


@PROFILE
@given(SEEDS, FORMS, TEMPERATURES)
def test_the_logits_are_those_of_the_textbook(seed, form, temperature):
    z_c, z_t = pairs(seed)
    found = Tilting(form, temperature).logits(z_c, z_t)
    expected = all_logits(form, z_c, z_t, temperature)
    np.testing.assert_allclose(found, expected, atol=1e-10)


@each_tilting
def test_on_the_sphere_all_tiltings_agree_up_to_a_constant(form):
    z_c, z_t = (F.normalize(z, dim=1) for z in pairs(0, 7, 3))
    gap = Tilting(form, 0.3).logits(z_c, z_t) - Tilting("inner", 0.3).logits(z_c, z_t)
    torch.testing.assert_close(gap, gap[0, 0].expand_as(gap))


def test_far_from_the_origin_distances_keep_their_digits():
    z_c, z_t = pairs(0, 50, 3)
    expected = Tilting("quadratic").logits(z_c, z_t)
    moved = Tilting("quadratic").logits((z_c + 1000).float(), (z_t + 1000).float())
    torch.testing.assert_close(moved.double(), expected, rtol=1e-3, atol=0.02)


def test_a_learned_temperature_has_a_gradient_and_a_floor():
    tilting = Tilting(temperature="learned")
    assert tilting.value == pytest.approx(0.1)
    ConditionalMatching(tilting)(*pairs(0, 8, 3)).backward()
    assert float(tilting.log_ratio.grad.abs()) > 0
    with torch.no_grad():
        tilting.log_ratio.fill_(-10.0)
    tilting.bound_temperature()
    assert tilting.value == pytest.approx(0.01)
    assert not list(Tilting(temperature=0.2).parameters())


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, "cold"])
def test_temperatures_that_make_no_sense_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        Tilting(temperature=temperature)


def test_names_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="tilting must be one of"):
        Tilting("cubic")
    with pytest.raises(ValueError, match="pairs must be"):
        JointMatching(pairs="none")
    with pytest.raises(ValueError, match="of one width"):
        Tilting().logits(torch.ones(2, 2), torch.ones(2, 3))
    with pytest.raises(ValueError, match="row by row"):
        ConditionalMatching()(torch.ones(2, 2), torch.ones(3, 2))


# ------------------------------------------------------------------ references' losses


def open_clip(image_features, text_features, logit_scale):
    """Contrastive loss as OpenCLIP has it for one process."""
    logits_per_image = logit_scale * image_features @ text_features.T
    logits_per_text = logit_scale * text_features @ image_features.T
    labels = torch.arange(len(image_features))
    return (
        F.cross_entropy(logits_per_image, labels)
        + F.cross_entropy(logits_per_text, labels)
    ) / 2


@PROFILE
@given(SEEDS, TEMPERATURES)
def test_infonce_is_the_loss_of_openclip(seed, temperature):
    z_c, z_t = pairs(seed)
    expected = open_clip(F.normalize(z_c), F.normalize(z_t), 1 / temperature)
    assert float(InfoNCE(temperature)(z_c, z_t)) == pytest.approx(float(expected))


@PROFILE
@given(SEEDS, TEMPERATURES)
def test_theorem_2_8_the_loss_of_clip_is_the_conditional_one_plus_log_n(
    seed, temperature
):
    z_c, z_t = pairs(seed)
    clip = open_clip(F.normalize(z_c), F.normalize(z_t), 1 / temperature)
    found = ConditionalMatching(Tilting("cosine", temperature))(z_c, z_t)
    assert float(found) == pytest.approx(float(clip) - math.log(len(z_c)), abs=1e-10)


@PROFILE
@given(SEEDS, FORMS, TEMPERATURES, WEIGHTS, WEIGHTS)
def test_the_conditional_loss_is_that_of_the_textbook(
    seed, form, temperature, of_context, of_target
):
    z_c, z_t = pairs(seed)
    rho = np.exp(all_logits(form, z_c, z_t, temperature))
    context_given_target = np.diag(rho / rho.mean(0))
    target_given_context = np.diag(rho / rho.mean(1, keepdims=True))
    expected = -0.5 * (
        of_context * np.log(context_given_target)
        + of_target * np.log(target_given_context)
    )
    loss = ConditionalMatching(Tilting(form, temperature), of_context, of_target)
    assert float(loss(z_c, z_t)) == pytest.approx(expected.mean(), abs=1e-9)


@PROFILE
@given(SEEDS, FORMS, TEMPERATURES)
def test_exchanging_the_views_exchanges_the_weights(seed, form, temperature):
    z_c, z_t = pairs(seed)
    tilting = Tilting(form, temperature)
    one = ConditionalMatching(tilting, 2.0, 0.5)(z_c, z_t)
    other = ConditionalMatching(tilting, 0.5, 2.0)(z_t, z_c)
    assert float(one) == pytest.approx(float(other), abs=1e-9)


@PROFILE
@given(SEEDS, FORMS, TEMPERATURES)
def test_theorem_3_10_the_joint_loss_is_not_below_the_conditional_one(
    seed, form, temperature
):
    z_c, z_t = pairs(seed)
    tilting = Tilting(form, temperature)
    joint = float(JointMatching(tilting)(z_c, z_t))
    assert float(ConditionalMatching(tilting)(z_c, z_t)) <= joint + 1e-9
    rho = np.exp(all_logits(form, z_c, z_t, temperature))
    assert joint == pytest.approx(-np.log(np.diag(rho / rho.mean())).mean(), abs=1e-9)


@PROFILE
@given(SEEDS, FORMS)
def test_shifted_pairs_cost_a_row_each(seed, form):
    z_c, z_t = pairs(seed)
    rho = np.exp(all_logits(form, z_c, z_t, 0.7))
    n = len(rho)
    shifted = rho[np.arange(n), (np.arange(n) - 1) % n]
    expected = np.log(shifted.mean()) - np.log(np.diag(rho)).mean()
    loss = JointMatching(Tilting(form, 0.7), "shifted")(z_c, z_t)
    assert float(loss) == pytest.approx(expected, abs=1e-9)


# ----------------------------------------------------- what is matched, by brute force


def divergence(p, q):
    return (p * np.log(p / q)).sum()


@pytest.mark.parametrize("weights", [(1.0, 1.0), (2.0, 0.0), (0.3, 1.4)])
@each_tilting
def test_theorem_3_2_the_loss_is_a_sum_of_divergences(form, weights):
    """On finite sets: embeddings of 4 contexts and 5 targets, and any joint of them."""
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 6, (4, 5))
    mu = counts / counts.sum()
    mu_u, mu_v = mu.sum(1), mu.sum(0)
    rows, columns = (np.repeat(i.ravel(), counts.ravel()) for i in np.indices((4, 5)))

    def both(seed):
        g_u, g_v = pairs(seed, 5, 3)
        g_u = g_u[:4]
        tilting = Tilting(form, 0.6)
        loss = ConditionalMatching(tilting, *weights)(g_u[rows], g_v[columns])
        tilted = np.exp(tilting.logits(g_u, g_v).numpy()) * np.outer(mu_u, mu_v)
        u_given_v, v_given_u = tilted / tilted.sum(0), tilted / tilted.sum(1)[:, None]
        divergences = 0.5 * weights[0] * sum(
            mu_v[j] * divergence(mu[:, j] / mu_v[j], u_given_v[:, j]) for j in range(5)
        ) + 0.5 * weights[1] * sum(
            mu_u[i] * divergence(mu[i] / mu_u[i], v_given_u[i]) for i in range(4)
        )
        joint = JointMatching(tilting)(g_u[rows], g_v[columns])
        return np.array([float(loss), float(joint)]), np.array(
            [divergences, divergence(mu, tilted / tilted.sum())]
        )

    information = divergence(mu, np.outer(mu_u, mu_v))
    constant = np.array([0.5 * sum(weights), 1.0]) * information
    for seed in range(5):
        losses, divergences = both(seed)
        np.testing.assert_allclose(losses + constant, divergences, atol=1e-10)


def squared_discrepancy(weights, others, rows, kernel):
    """Square of the discrepancy of two weighted sets of rows, by a double sum."""
    gap = weights - others
    return sum(
        gap[i] * gap[j] * kernel(rows[i], rows[j])
        for i in range(len(rows))
        for j in range(len(rows))
    )


def kernel_of(bandwidth, d):
    return lambda a, b: math.exp(-float(((a - b) ** 2).sum()) / (2 * bandwidth**2 * d))


@each_tilting
def test_the_conditional_discrepancy_is_that_of_the_models_conditionals(form):
    (z_c, z_t), (x, y) = pairs(0, 6, 2), pairs(1, 6, 3)
    rho = np.exp(all_logits(form, z_c, z_t, 0.8))
    expected = 0.0
    for weight, model, rows in ((0.4, (rho / rho.sum(0)).T, x),
                                (1.7, rho / rho.sum(1)[:, None], y)):  # fmt: skip
        gaps = [
            squared_discrepancy(model[i], np.eye(6)[i], rows, kernel_of(0.6, 3))
            for i in range(6)
        ]
        expected += 0.5 * weight * np.mean(gaps)
    loss = ConditionalDiscrepancy(Tilting(form, 0.8), 0.4, 1.7, bandwidth=0.6)
    assert float(loss(z_c, z_t, x, y)) == pytest.approx(expected, abs=1e-10)


@each_tilting
def test_the_joint_discrepancy_is_that_of_the_joint_models(form):
    (z_c, z_t), (x, y) = pairs(0, 5, 2), pairs(1, 5, 3)
    rho = np.exp(all_logits(form, z_c, z_t, 0.8))
    rows = [(x[i], y[j]) for i in range(5) for j in range(5)]
    kernel = kernel_of(1.3, 3)
    expected = squared_discrepancy(
        (rho / rho.sum()).ravel(),
        np.eye(5).ravel() / 5,
        rows,
        lambda a, b: kernel(a[0], b[0]) * kernel(a[1], b[1]),
    )
    loss = JointDiscrepancy(Tilting(form, 0.8), bandwidth=1.3)
    assert float(loss(z_c, z_t, x, y)) == pytest.approx(expected, abs=1e-12)
    assert float(loss(z_c, z_t, x, y)) >= 0


def test_the_kernel_does_not_care_about_repeated_columns():
    rows = pairs(0, 6, 2)[0]
    torch.testing.assert_close(
        gaussian_kernel(rows, 0.5), gaussian_kernel(torch.cat([rows, rows], 1), 0.5)
    )


# ------------------------------------------------------------------- blocks of logits


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(_log_sum_exp, "LOGIT_BLOCK_NUMBERS", 50)


LOSSES = [
    lambda form: ConditionalMatching(Tilting(form, "learned")),
    lambda form: ConditionalMatching(Tilting(form, "learned"), 0.3, 1.1),
    lambda form: JointMatching(Tilting(form, "learned")),
]


@each_tilting
@pytest.mark.parametrize("maker", LOSSES)
@pytest.mark.parametrize("n_numbers", [1, 50, 96])
def test_blocks_change_neither_values_nor_gradients(
    form, maker, n_numbers, monkeypatch
):
    results = []
    for numbers in (2**20, n_numbers):
        monkeypatch.setattr(_log_sum_exp, "LOGIT_BLOCK_NUMBERS", numbers)
        z_c, z_t = (z.requires_grad_() for z in pairs(3, 23, 4))
        loss = maker(form)
        value = loss(z_c, z_t)
        gradients = torch.autograd.grad(value, [z_c, z_t, *loss.parameters()])
        results.append([value.detach(), *gradients])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_blocks_is_exact(small_blocks):
    z_c, z_t = (z.requires_grad_() for z in pairs(0, 11, 3))
    for one in ([0], [1], [0, 1]):
        assert torch.autograd.gradcheck(
            lambda a, b, one=one: tuple(pair_log_sum_exp(a, b)[i] for i in one),
            (z_c, z_t),
        )


def test_rows_and_columns_may_differ_in_number(small_blocks):
    a, b = torch.zeros(13, 2), torch.zeros(7, 2)
    over_b, over_a = pair_log_sum_exp(a, b)
    torch.testing.assert_close(over_b, torch.full((13,), math.log(7)))
    torch.testing.assert_close(over_a, torch.full((7,), math.log(13)))


# -------------------------------------------------------------- tilted Gaussian forms


def one_gaussian(mean, covariance):
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    return MultivariateNormalMixture(
        torch.ones(1, dtype=torch.float64),
        torch.as_tensor(mean, dtype=torch.float64).unsqueeze(0),
        scale_tril=torch.linalg.cholesky(covariance).unsqueeze(0),
    )


C_UU = torch.tensor([[2, 0.5], [0.5, 1]], dtype=torch.float64)
C_VV = torch.tensor([[1.5, 0.2], [0.2, 1]], dtype=torch.float64)
C_UV = torch.tensor([[0.6, -0.1], [0.2, 0.5]], dtype=torch.float64)


def test_equation_41_an_inner_product_moves_the_mean_alone():
    """Linear encoders whose conditional means are exact, by theorem 5.1."""
    best = torch.linalg.solve(C_UU, C_UV) @ torch.linalg.inv(C_VV)
    np.testing.assert_allclose(
        best, [[0.22309198, -0.2446184], [-0.04305284, 0.60861057]], atol=1e-8
    )
    v = pairs(0, 4, 2)[0]
    conditional = tilted_mixture(
        one_gaussian([0, 0], C_UU), v @ best.T, "inner", temperature=1.0
    )
    expected = v @ torch.linalg.solve(C_VV, C_UV.T)
    torch.testing.assert_close(conditional.mean, expected)
    torch.testing.assert_close(conditional.covariance_matrix, C_UU.expand(4, 2, 2))


def test_equation_48_squared_distances_make_mean_and_covariance_exact():
    """The best linear encoders of one direction, in closed form."""
    whiten_u, whiten_v = (torch.linalg.inv(_root(c)) for c in (C_UU, C_VV))
    left, s, right = torch.linalg.svd(whiten_u @ C_UV @ whiten_v)
    np.testing.assert_allclose(s, [0.57795015, 0.34638904], atol=1e-8)
    g = torch.diag(s / (1 - s**2).sqrt()) @ left.T @ whiten_u
    h = torch.diag(1 / (1 - s**2).sqrt()) @ right @ whiten_v
    v = pairs(0, 4, 2)[0]
    conditional = tilted_mixture(
        one_gaussian([0, 0], g @ C_UU @ g.T), v @ h.T, "quadratic", temperature=1.0
    )
    back = torch.linalg.inv(g)
    torch.testing.assert_close(
        conditional.mean @ back.T, v @ torch.linalg.solve(C_VV, C_UV.T)
    )
    torch.testing.assert_close(
        back @ conditional.covariance_matrix @ back.T,
        (C_UU - C_UV @ torch.linalg.solve(C_VV, C_UV.T)).expand(4, 2, 2),
    )


def _root(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.sqrt() @ vectors.T


@pytest.mark.parametrize("form", ["inner", "quadratic"])
def test_a_tilted_mixture_is_the_normalised_product(form):
    """By quadrature, on one coordinate and two components."""
    density = MultivariateNormalMixture(
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        torch.tensor([[-1.0], [1.5]], dtype=torch.float64),
        scale_tril=torch.tensor([[[0.5]], [[0.8]]], dtype=torch.float64),
    )
    z = torch.tensor([[0.4], [-2.0]], dtype=torch.float64)
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64).unsqueeze(1)
    log_product = Tilting(form, 0.7).logits(z, grid) + density.log_prob(grid)
    step = float(grid[1] - grid[0])
    expected = log_product.exp() / (log_product.exp().sum(1, keepdim=True) * step)
    conditional = tilted_mixture(density, z, form, 0.7)
    found = conditional.log_prob(grid.unsqueeze(1)).exp().mT
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


# --------------------------------------------------------------------------- bandwidth


def test_the_bandwidth_is_the_likeliest_one():
    z = pairs(0, 30, 2)[0]
    logits = Tilting("quadratic", 0.5).logits(z, z)
    best = float(leave_one_out_bandwidth(logits, z, 1e-6))

    def log_likelihood(width):
        weights = logits.clone().fill_diagonal_(-torch.inf).log_softmax(1)
        distance = torch.cdist(z, z).square()
        kernels = -0.5 * distance / width**2 - 2 * math.log(width)
        return float((weights + kernels).logsumexp(1).mean())

    for factor in (0.95, 1.05):
        assert log_likelihood(best) > log_likelihood(factor * best)


def test_rows_that_are_equal_have_a_bandwidth():
    z = torch.ones(5, 2, dtype=torch.float64)
    width = leave_one_out_bandwidth(torch.zeros(5, 5).double(), z, 1e-6)
    assert float(width) == pytest.approx(1e-3)
    twice = torch.tensor([[0.0], [0.0], [2.0], [2.0]], dtype=torch.float64)
    logits = Tilting("quadratic", 1e-3).logits(twice, twice)
    assert float(leave_one_out_bandwidth(logits, twice, 1e-6)) == pytest.approx(1e-3)
