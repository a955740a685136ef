"""Latent densities against closed forms, and what they must not see."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skgmje import MultivariateNormalMixture
from skgmje.latent import (
    ConditionalMixture,
    GaussianMutualInformation,
    JointMixture,
    contrastive_bound,
    covariance,
    log_det,
    moment_kl,
    pairwise_log_prob,
)
from skgmje.networks import MixtureDensityHead

RHO = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def whitened_pair(n_samples=500):
    """Return two views whose sample canonical correlations are exactly RHO."""
    z = normal(n_samples, 6)
    z = z - z.mean(0)
    white = z @ torch.linalg.inv(torch.linalg.cholesky(covariance(z))).mT
    u, v = white[:, :3], white[:, 3:]
    return u, RHO * u + (1 - RHO**2).sqrt() * v


INFORMATION = float(-0.5 * torch.log(1 - RHO**2).sum())


def pure_information():
    """Switch off what is added to the information to make it trainable."""
    return GaussianMutualInformation(noise_share=0.0, whitening_weight=0.0)


# --------------------------------------------------------------- Gaussian information


def test_information_is_that_of_the_canonical_correlations():
    loss = pure_information()(*whitened_pair())
    assert float(loss) == pytest.approx(-INFORMATION, abs=1e-8)


def test_information_does_not_change_under_affine_maps():
    u, v = whitened_pair()
    maps = normal(2, 3, 3, seed=1)
    moved = pure_information()(u @ maps[0] + 5, 1e-3 * (v @ maps[1]) - 7)
    # The absolute part of the ridge, 1e-12, shows on a view of scale 1e-3.
    assert float(moved) == pytest.approx(-INFORMATION, abs=1e-4)


def test_the_gradient_of_the_information_is_exact():
    u, v = (z[:12].clone().requires_grad_() for z in whitened_pair(60))
    assert torch.autograd.gradcheck(pure_information(), (u, v), atol=1e-6)


def test_the_loss_does_not_reward_shrinking():
    u, v = whitened_pair()
    latent = GaussianMutualInformation()
    plain = float(latent(u, v))
    for factor in (1e-1, 1e-3, 1e-6):
        assert float(latent(factor * u, factor * v)) >= plain - 1e-6
        assert float(latent(factor * u, v)) >= plain - 1e-6


def test_the_loss_rewards_dependence_and_stays_bounded():
    u, v = whitened_pair()
    latent = GaussianMutualInformation()
    independent, dependent, equal = (
        float(latent(u, other)) for other in (normal(500, 3, seed=3), v, u)
    )
    assert equal < dependent < independent
    assert equal > -50


def test_the_loss_is_finite_for_embeddings_that_hardly_vary():
    u, v = whitened_pair()
    flat = torch.cat([u[:, :1], 1e-9 * u[:, 1:]], dim=1).requires_grad_()
    loss = GaussianMutualInformation()(flat, v)
    (gradient,) = torch.autograd.grad(loss, flat)
    assert math.isfinite(loss.item())
    assert bool(torch.isfinite(gradient).all())


# ------------------------------------------------------------------------ entropy terms


def test_moment_kl_is_the_closed_form():
    z = 0.5 * normal(300, 4) @ normal(4, 4, seed=2) + 1.5
    reference = torch.distributions.MultivariateNormal(
        torch.zeros(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    )
    batch = torch.distributions.MultivariateNormal(z.mean(0), covariance(z))
    expected = torch.distributions.kl_divergence(batch, reference)
    assert float(moment_kl(z, 0.0)) == pytest.approx(float(expected), abs=1e-8)
    assert float(moment_kl(z)) == pytest.approx(float(expected), abs=1e-2)


def test_moment_kl_is_zero_for_white_embeddings_only():
    u, _ = whitened_pair()
    assert float(moment_kl(u)) == pytest.approx(0, abs=1e-3)
    for other in (
        2 * u,
        0.5 * u,
        u + 1,
        u @ torch.diag(torch.tensor([1, 2, 1.0]).double()),
    ):
        assert float(moment_kl(other)) > 0.1


def test_covariance_divides_by_the_number_of_rows():
    z = normal(50, 3)
    np.testing.assert_allclose(covariance(z), np.cov(z.numpy().T, bias=True))


def test_log_det_of_what_is_not_definite_is_nan():
    matrix = normal(4, 4)
    matrix = matrix @ matrix.mT
    expected = float(torch.linalg.slogdet(matrix).logabsdet)
    assert float(log_det(matrix)) == pytest.approx(expected)
    assert math.isnan(float(log_det(-matrix)))


# -------------------------------------------------------------------- contrastive bound

log_densities = st.integers(1, 7).flatmap(
    lambda n: arrays(np.float64, (n, n), elements=st.floats(-300, 300, allow_nan=False))
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(log_densities)
def test_the_bound_is_at_most_the_logarithm_of_the_rows(log_prob):
    bound = float(contrastive_bound(torch.tensor(log_prob)))
    assert bound <= math.log(len(log_prob)) + 1e-9


@settings(max_examples=30, deadline=None, derandomize=True)
@given(log_densities, st.floats(-100, 100))
def test_the_bound_ignores_the_units_of_the_target(log_prob, change):
    log_prob = torch.tensor(log_prob)
    moved = contrastive_bound(log_prob + change)
    assert float(moved) == pytest.approx(float(contrastive_bound(log_prob)), abs=1e-8)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 8), st.floats(-100, 100))
def test_the_bound_of_a_constant_is_zero(n, value):
    log_prob = torch.full((n, n), value, dtype=torch.float64)
    assert float(contrastive_bound(log_prob)) == pytest.approx(0, abs=1e-9)


def test_the_bound_reaches_the_logarithm_of_the_rows():
    sharp = 1000 * torch.eye(16, dtype=torch.float64)
    assert float(contrastive_bound(sharp)) == pytest.approx(math.log(16))


@pytest.mark.parametrize("block_numbers", [1, 10**6])
def test_pairs_are_every_target_under_every_context(block_numbers, monkeypatch):
    monkeypatch.setattr("skgmje.latent._information.PAIR_BLOCK_NUMBERS", block_numbers)
    conditional = MultivariateNormalMixture(
        torch.tensor([[0.3, 0.7]] * 4, dtype=torch.float64),
        normal(4, 2, 3),
        scale_spherical=torch.ones(4, 2, dtype=torch.float64),
    )
    targets = normal(5, 3, seed=1)
    pairs = pairwise_log_prob(conditional, targets)
    assert pairs.shape == (5, 4)
    for i in range(5):
        for j in range(4):
            expected = conditional[j].log_prob(targets[i])
            assert float(pairs[i, j]) == pytest.approx(float(expected))


# ------------------------------------------------------------------------ joint mixture


def dependent_embeddings(n_samples=400):
    z_c = normal(n_samples, 2)
    return z_c, 0.8 * z_c + 0.6 * normal(n_samples, 2, seed=1)


def joint_mixture(**options):
    latent = JointMixture(3, "full", **options)
    latent.initialize(*dependent_embeddings(), seed=0)
    return latent.eval()


def test_the_forward_term_gives_the_target_no_gradient():
    """The gradient for z_t is that of the backward term, whose target is z_c."""
    latent = joint_mixture(marginal_weight=0.0)
    density = latent._density
    z_c, z_t = (z.requires_grad_() for z in dependent_embeddings())
    gradients = torch.autograd.grad(latent(z_c, z_t), (z_c, z_t))
    both = torch.cat([z_c.detach(), z_t], dim=1)
    backward = density.log_prob(both) - density.marginal([2, 3]).log_prob(z_t)
    (expected,) = torch.autograd.grad(-0.5 * backward.mean(), z_t)
    torch.testing.assert_close(gradients[1], expected)
    both = torch.cat([z_c, z_t.detach()], dim=1)
    forward = density.log_prob(both) - density.marginal([0, 1]).log_prob(z_c)
    (expected,) = torch.autograd.grad(-0.5 * forward.mean(), z_c)
    torch.testing.assert_close(gradients[0], expected)


def test_the_marginal_term_reaches_both_views():
    z_c, z_t = (z.requires_grad_() for z in dependent_embeddings())
    without = torch.autograd.grad(
        joint_mixture(marginal_weight=0.0)(z_c, z_t), (z_c, z_t)
    )
    with_it = torch.autograd.grad(
        joint_mixture(marginal_weight=2.0)(z_c, z_t), (z_c, z_t)
    )
    for view, a, b in zip((z_c, z_t), without, with_it, strict=True):
        (expected,) = torch.autograd.grad(2 * moment_kl(view), view)
        torch.testing.assert_close(b - a, expected)


def test_the_loss_is_the_symmetric_conditional_likelihood():
    latent = joint_mixture(marginal_weight=0.0)
    z_c, z_t = dependent_embeddings()
    density = latent._density
    forward = density.condition([0, 1], z_c).log_prob(z_t)
    backward = density.condition([2, 3], z_t).log_prob(z_c)
    expected = -0.5 * float((forward + backward).mean())
    assert float(latent(z_c, z_t)) == pytest.approx(expected, abs=1e-9)


def test_stepwise_em_follows_the_data_in_training_only():
    latent = joint_mixture()
    z_c, z_t = dependent_embeddings()
    before = latent._density.mean.clone()
    latent(z_c + 3, z_t - 3)
    torch.testing.assert_close(latent._density.mean, before)
    latent.train()
    for _ in range(150):
        latent(z_c + 3, z_t - 3)
    expected = torch.cat([z_c + 3, z_t - 3], dim=1)
    torch.testing.assert_close(
        latent._density.mean, expected.mean(0), atol=0.02, rtol=0
    )
    torch.testing.assert_close(
        latent._density.covariance_matrix, covariance(expected), atol=0.05, rtol=0
    )


def test_em_of_each_epoch_does_not_move_between_epochs():
    latent = joint_mixture(each_epoch=True).train()
    before = latent._density.mean.clone()
    z_c, z_t = dependent_embeddings()
    latent(z_c + 3, z_t - 3)
    torch.testing.assert_close(latent._density.mean, before)
    latent.initialize(z_c + 3, z_t - 3, seed=0)
    expected = torch.cat([z_c + 3, z_t - 3], dim=1).mean(0)
    torch.testing.assert_close(latent._density.mean, expected, atol=1e-3, rtol=0)


def test_the_state_of_a_joint_mixture_can_be_stored():
    latent = joint_mixture()
    again = JointMixture(3, "full")
    again.load_state_dict(latent.state_dict())
    again.eval()
    z_c, z_t = dependent_embeddings()
    assert float(again(z_c, z_t)) == pytest.approx(float(latent(z_c, z_t)), abs=1e-9)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_every_covariance_type_has_a_finite_loss_and_gradient(covariance_type):
    latent = JointMixture(3, covariance_type)
    z_c, z_t = (z.requires_grad_() for z in dependent_embeddings())
    latent.initialize(z_c, z_t, seed=0)
    for gradient in torch.autograd.grad(latent.train()(z_c, z_t), (z_c, z_t)):
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.abs().max()) > 0


# ------------------------------------------------------------------ conditional mixture


def head(n_in=2, n_out=2):
    generator = torch.Generator().manual_seed(0)
    return MixtureDensityHead(n_in, 3, n_out, "diag", (8,), "tanh", generator).double()


def test_the_prediction_cannot_see_the_target():
    latent = ConditionalMixture(head(), None, 2.0)
    z_c, z_t = (z.requires_grad_() for z in dependent_embeddings())
    gradients = torch.autograd.grad(latent(z_c, z_t), (z_c, z_t), allow_unused=True)
    assert float(gradients[0].abs().max()) > 0
    assert gradients[1] is None
    weights = latent.head(z_c).log_prob(z_t.detach()).mean()
    assert torch.autograd.grad(weights, z_t, allow_unused=True) == (None,)


def test_the_loss_is_the_conditional_likelihood_and_the_divergence():
    z_c, z_t = dependent_embeddings()
    latent = ConditionalMixture(head(), None, 1.5)
    expected = 1.5 * moment_kl(z_c) - latent.head(z_c).log_prob(z_t).mean()
    assert latent(z_c, z_t).item() == pytest.approx(expected.item())


def test_a_reverse_head_trains_the_target_on_the_detached_context():
    latent = ConditionalMixture(head(), head(), 0.0)
    z_c, z_t = (z.requires_grad_() for z in dependent_embeddings())
    gradients = torch.autograd.grad(latent(z_c, z_t), (z_c, z_t))
    forward = -latent.head(z_c).log_prob(z_t.detach()).mean()
    backward = -latent.reverse_head(z_t).log_prob(z_c.detach()).mean()
    torch.testing.assert_close(gradients[0], torch.autograd.grad(forward, z_c)[0])
    torch.testing.assert_close(gradients[1], torch.autograd.grad(backward, z_t)[0])


@pytest.mark.parametrize(
    ("options", "has_reverse"),
    [
        ({"target": "y"}, False),
        ({"target": "y", "target_encoder": "linear"}, True),
        ({"target": "augment"}, False),
        ({"target": "augment", "target_encoder": "linear"}, True),
    ],
)
def test_only_a_target_encoder_of_its_own_has_a_reverse_head(options, has_reverse):
    from skgmje import MDNEmbedder

    X, Y = normal(60, 4).numpy(), normal(60, 3, seed=1).numpy()
    mdn = MDNEmbedder(max_iter=1, random_state=0, **options)
    made = []
    make = mdn._make_latent
    mdn._make_latent = lambda *arguments: made.append(make(*arguments)) or made[-1]
    mdn.fit(X, Y)
    (latent,) = made
    assert (latent.reverse_head is not None) is has_reverse
