"""Contrastive losses, and the mixture whose limit they are."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from skgmje.latent import BankInfoNCE, InfoNCE, contrastive_mixture

PROFILE = settings(deadline=None, max_examples=50, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)
TEMPERATURES = st.floats(0.05, 5)
# Fixture: three pairs on the circle, temperature one half.
Z_C = torch.tensor([[1, 0], [0, 1], [0.6, 0.8]], dtype=torch.float64)
Z_T = torch.tensor([[0.8, 0.6], [0, 1], [1, 0]], dtype=torch.float64)
ROWS = [0.99092359, 0.46037255, 1.51430446]


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def pairs(seed, n=None, d=None):
    rng = np.random.default_rng(seed)
    shape = (n or rng.integers(2, 9), d or rng.integers(2, 5))
    return torch.tensor(rng.normal(size=shape)), torch.tensor(rng.normal(size=shape))


def loss_of_row(z_c, z_t, i, temperature):
    """One direction by the textbook."""
    z_c, z_t = normalize(z_c, dim=1), normalize(z_t, dim=1)
    scores = [math.exp(float(z_c[i] @ other) / temperature) for other in z_t]
    return -math.log(scores[i] / sum(scores))


def started(z_c, z_t, **options):
    latent = BankInfoNCE(**options)
    latent.initialize(z_c, z_t, seed=0)
    return latent


@PROFILE
@given(SEEDS)
def test_turning_a_view_changes_nothing_up_to_rotation(seed):
    z_c, z_t = pairs(seed, n=9, d=3)
    turn = torch.linalg.qr(normal(3, 3, seed=seed % 1000)).Q
    for orthogonal in (turn, -turn):
        values = [
            float(started(z_c, other, up_to_rotation=True)(z_c, other))
            for other in (z_t, z_t @ orthogonal)
        ]
        assert values[0] == pytest.approx(values[1], abs=1e-9)


def test_a_reflected_view_is_as_good_as_an_equal_one_up_to_rotation_only():
    z = normal(50, 3)
    reflected = z * torch.tensor([1.0, 1.0, -1.0])
    equal = float(started(z, z)(z, z))
    turned = float(started(z, reflected, up_to_rotation=True)(z, reflected))
    assert turned == pytest.approx(equal, abs=1e-9)
    assert float(started(z, reflected)(z, reflected)) > equal + 1


# ------------------------------------------------------------------------------ InfoNCE


def test_the_loss_of_the_fixture():
    loss = InfoNCE(0.5, symmetric=False)(Z_C, Z_T)
    assert float(loss) == pytest.approx(0.988533533202, abs=1e-11)
    rows = [loss_of_row(Z_C, Z_T, i, 0.5) for i in range(3)]
    np.testing.assert_allclose(rows, ROWS, atol=1e-8)


@PROFILE
@given(SEEDS, TEMPERATURES)
def test_the_loss_is_that_of_the_textbook(seed, temperature):
    z_c, z_t = pairs(seed)
    forward = [loss_of_row(z_c, z_t, i, temperature) for i in range(len(z_c))]
    backward = [loss_of_row(z_t, z_c, i, temperature) for i in range(len(z_c))]
    one_way = InfoNCE(temperature, symmetric=False)(z_c, z_t)
    assert float(one_way) == pytest.approx(np.mean(forward))
    both = InfoNCE(temperature)(z_c, z_t)
    assert float(both) == pytest.approx(np.mean(forward + backward))
    assert float(InfoNCE(temperature)(z_t, z_c)) == pytest.approx(float(both))


@PROFILE
@given(SEEDS, TEMPERATURES, st.floats(1e-3, 1e3))
def test_the_scale_of_embeddings_does_not_matter(seed, temperature, factor):
    z_c, z_t = pairs(seed)
    latent = InfoNCE(temperature)
    loss = float(latent(factor * z_c, z_t / factor))
    assert loss == pytest.approx(float(latent(z_c, z_t)))


def test_collapsed_embeddings_have_the_loss_of_a_guess():
    one = torch.ones(16, 3)
    assert float(InfoNCE(0.1)(one, one)) == pytest.approx(math.log(16), rel=1e-6)


def test_the_gradient_is_exact():
    z_c, z_t = (z.requires_grad_() for z in pairs(0, n=5, d=3))
    assert torch.autograd.gradcheck(InfoNCE(0.3), (z_c, z_t))
    latent = started(*pairs(1, n=7, d=3), temperature=0.3).eval()
    assert torch.autograd.gradcheck(latent, (z_c, z_t))


@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_single_precision_and_large_batches_are_safe(temperature):
    z_c, z_t = normal(4096, 16), normal(4096, 16, seed=1)
    exact = float(InfoNCE(temperature)(z_c, z_t))
    z_c, z_t = (z.float().requires_grad_() for z in (z_c, z_t))
    loss = InfoNCE(temperature)(z_c, z_t)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-5)
    for gradient in torch.autograd.grad(loss, (z_c, z_t)):
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("maker", [InfoNCE, BankInfoNCE])
def test_temperatures_that_are_not_positive_are_refused(maker, temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        maker(temperature)


def test_views_of_different_widths_are_refused():
    with pytest.raises(ValueError, match="embeddings of one width"):
        InfoNCE()(normal(4, 2), normal(4, 3))


# ------------------------------------------------------------ the limit of the mixture


def test_the_gates_of_the_fixture():
    mixture = contrastive_mixture(Z_T, 0.5, 0.1)
    gates = mixture.condition([0, 1], Z_C).log_weights
    np.testing.assert_allclose(-gates.diagonal(), ROWS, atol=1e-8)


@PROFILE
@given(SEEDS, TEMPERATURES)
def test_the_loss_is_the_negative_log_posterior_of_the_right_component(
    seed, temperature
):
    z_c, z_t = pairs(seed)
    d = z_c.shape[1]
    mixture = contrastive_mixture(z_t, temperature, 0.3)
    gates = mixture.condition(range(d), normalize(z_c, dim=1)).log_weights
    loss = InfoNCE(temperature, symmetric=False)(z_c, z_t)
    assert float(-gates.diagonal().mean()) == pytest.approx(float(loss))


@PROFILE
@given(SEEDS, TEMPERATURES, st.floats(0.02, 1))
def test_the_likelihood_is_the_loss_up_to_a_residual_that_is_bounded(
    seed, temperature, bandwidth
):
    z_c, z_t = (normalize(z, dim=1) for z in pairs(seed))
    n, d = z_c.shape
    mixture = contrastive_mixture(z_t, temperature, bandwidth)
    conditional = mixture.condition(range(d), z_c)
    log_gates = conditional.log_weights
    likelihood = conditional.log_prob(z_t)
    constant = 0.5 * d * math.log(2 * math.pi * bandwidth**2)
    residual = -log_gates.diagonal() - (-likelihood - constant)
    distance = torch.cdist(z_t, z_t) + torch.diag(torch.full((n,), torch.inf))
    overlap = torch.exp(-distance.amin(1).square() / (2 * bandwidth**2))
    log_own = log_gates.diagonal()
    odds = torch.exp(torch.log1p(-log_own.exp()) - log_own)
    assert bool((residual >= -1e-9).all())
    assert bool((residual <= odds * overlap + 1e-9).all())


def test_the_residual_vanishes_with_the_bandwidth():
    loss = float(InfoNCE(0.5, symmetric=False)(Z_C, Z_T))
    residuals = []
    for bandwidth in (1.0, 0.3, 0.1):
        conditional = contrastive_mixture(Z_T, 0.5, bandwidth).condition([0, 1], Z_C)
        constant = math.log(2 * math.pi * bandwidth**2)
        nll = float(-conditional.log_prob(Z_T).mean())
        residuals.append(loss - (nll - constant))
    assert residuals[0] > residuals[1] > residuals[2]
    assert residuals[0] > 0.1
    assert residuals[2] == pytest.approx(0, abs=1e-6)


# ------------------------------------------------------------------- weighted negatives


@PROFILE
@given(SEEDS, TEMPERATURES)
def test_the_bank_gives_the_weighted_loss(seed, temperature):
    z_c, z_t = (normalize(z, dim=1) for z in pairs(seed))
    latent = started(*pairs(seed + 1, n=9, d=z_c.shape[1]), temperature=temperature)
    weights = np.random.default_rng(seed).gamma(1.0, size=9)
    latent._bank.weights = torch.tensor(9 * weights / weights.sum())
    latent.eval()
    bank_c, bank_t = latent._bank.positions.tensor_split(2, dim=1)
    losses = []
    for a, b, others in ((z_c, z_t, bank_t), (z_t, z_c, bank_c)):
        own = torch.exp((a * b).sum(1) / temperature)
        negatives = torch.exp(a @ others.mT / temperature) @ latent._bank.weights
        losses.append(torch.log(own + negatives) - own.log())
    assert float(latent(z_c, z_t)) == pytest.approx(float(sum(losses).mean()) / 2)
    latent.symmetric = False
    assert float(latent(z_c, z_t)) == pytest.approx(float(losses[0].mean()))


@PROFILE
@given(SEEDS, TEMPERATURES)
def test_the_weighted_loss_is_the_posterior_under_weighted_components(
    seed, temperature
):
    """The own pair has the mean weight of the bank's."""
    z_c, z_t = (normalize(z, dim=1) for z in pairs(seed, n=1))
    d = z_c.shape[1]
    latent = started(
        *pairs(seed + 1, n=6, d=d), temperature=temperature, symmetric=False
    )
    bank = latent._bank
    bank.weights = torch.tensor(np.random.default_rng(seed).gamma(1.0, size=6))
    bank.weights = bank.weights / bank.weights.mean()
    mixture = contrastive_mixture(
        torch.cat([z_t, bank.positions[:, d:]]),
        temperature,
        0.1,
        weights=torch.cat([torch.ones(1).double(), bank.weights]) / 7,
    )
    gate = mixture.condition(range(d), z_c).log_weights[0, 0]
    assert float(latent.eval()(z_c, z_t)) == pytest.approx(float(-gate))


def test_without_learning_the_negatives_are_the_last_pairs():
    latent = started(normal(8, 3), normal(8, 3, seed=1), n_particles=8, learning_rate=0)
    for seed in range(2, 8, 2):
        z_c, z_t = normal(4, 3, seed=seed), normal(4, 3, seed=seed + 1)
        latent.train()(z_c, z_t)
    last = [normalize(normal(4, 3, seed=seed), dim=1) for seed in (4, 5, 6, 7)]
    expected = torch.cat([torch.cat(last[:2], dim=1), torch.cat(last[2:], dim=1)])
    torch.testing.assert_close(latent._bank.positions, expected)
    assert latent._bank.weights.tolist() == [1] * 8


def test_the_bank_holds_detached_pairs_and_follows_in_training_only():
    latent = started(normal(8, 3), normal(8, 3, seed=1), n_particles=8)
    z_c, z_t = (normal(4, 3, seed=s).requires_grad_() for s in (2, 3))
    before = latent._bank.positions
    held_out = latent.eval()(z_c, z_t)
    assert latent._bank.positions is before
    loss = latent.train()(z_c, z_t)
    # The batch meets the bank before it joins.
    assert loss.item() == held_out.item()
    assert not latent._bank.positions.requires_grad
    assert not torch.equal(latent._bank.positions, before)
    torch.testing.assert_close(
        latent._bank.positions.square().sum(1), torch.full((8,), 2.0).double()
    )


def test_the_state_of_the_bank_can_be_stored():
    latent = started(normal(8, 3), normal(8, 3, seed=1), n_particles=8)
    again = BankInfoNCE(n_particles=8)
    again.load_state_dict(BankInfoNCE(n_particles=8).state_dict())
    again.load_state_dict(latent.state_dict())
    for seed in (2, 4):
        batch = normal(4, 3, seed=seed), normal(4, 3, seed=seed + 1)
        assert float(again(*batch)) == float(latent(*batch))


@pytest.mark.parametrize("bank", [False, True])
def test_training_aligns_views_and_does_not_collapse(bank):
    """A linear map of noisy views recovers what they share."""
    signal = normalize(normal(512, 3, dtype=torch.float32), dim=1)
    mix = normal(2, 3, 6, seed=1, dtype=torch.float32)
    noise = 0.1 * normal(2, 512, 6, seed=2, dtype=torch.float32)
    views = signal @ mix + noise
    maps = (0.3 * normal(2, 6, 3, seed=3, dtype=torch.float32)).requires_grad_()
    latent = BankInfoNCE(n_particles=256) if bank else InfoNCE()
    latent.initialize(*(views @ maps), seed=0)
    optimiser = torch.optim.Adam([maps], lr=0.02)
    order = torch.Generator().manual_seed(0)
    for _ in range(120):
        rows = torch.randperm(512, generator=order)[:128]
        loss = latent(*(views[:, rows] @ maps))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    z_c, z_t = normalize(views @ maps.detach(), dim=-1)
    assert float((z_c * z_t).sum(1).mean()) > 0.9
    spectrum = torch.linalg.eigvalsh(torch.cov(z_c.T))
    assert float(spectrum[0] / spectrum[-1]) > 0.2
