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
    Entropy,
    GaussianMutualInformation,
    JointMixture,
    LearnedGaussian,
    MomentKL,
    Negentropy,
    NeuralGas,
    ParticleKernels,
    StepwiseEM,
    VarianceCovariance,
    Whitening,
    contrastive_bound,
    covariance,
    log_det,
    moment_kl,
    pairwise_log_prob,
)
from skgmje.latent._components import DEAD_SHARE
from skgmje.mixture._statistics import maximization, statistics_of_density
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
    return GaussianMutualInformation(0.0, 0.0, 0.0)


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


class NoEntropy(Entropy):
    """No penalty, so that a test sees the likelihood alone."""

    def forward(self, z):
        return z.new_zeros(())


def joint_mixture(rule=None, **options):
    latent = JointMixture(StepwiseEM(3) if rule is None else rule, **options)
    latent.initialize(*dependent_embeddings(), seed=0)
    return latent.eval()


def moment_matched(density):
    return MultivariateNormalMixture(
        torch.ones(1, dtype=torch.float64),
        density.mean.unsqueeze(0),
        scale_tril=torch.linalg.cholesky(density.covariance_matrix).unsqueeze(0),
    )


def conditional_likelihood(density, z_c, z_t):
    """Mean of the forward and the backward conditional log-likelihood."""
    forward = density.condition([0, 1], z_c).log_prob(z_t)
    backward = density.condition([2, 3], z_t).log_prob(z_c)
    return 0.5 * (forward + backward).mean()


def test_the_forward_term_gives_the_target_no_gradient():
    """The gradient for z_t is that of the backward term, whose target is z_c."""
    latent = joint_mixture(StepwiseEM(1), entropy=NoEntropy())
    density = latent.components.density
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


@pytest.mark.parametrize("likelihood", ["conditional", "joint"])
def test_the_entropy_reaches_both_views(likelihood):
    z_c, z_t = (z.requires_grad_() for z in dependent_embeddings())
    without, with_it = (
        torch.autograd.grad(
            joint_mixture(likelihood=likelihood, entropy=entropy)(z_c, z_t), (z_c, z_t)
        )
        for entropy in (NoEntropy(), MomentKL(2.0))
    )
    for view, a, b in zip((z_c, z_t), without, with_it, strict=True):
        (expected,) = torch.autograd.grad(2 * moment_kl(view), view)
        torch.testing.assert_close(b - a, expected)


def test_the_density_sees_prepared_embeddings():
    latent = joint_mixture(entropy=Whitening())
    z_c, z_t = dependent_embeddings()
    assert float(latent(z_c, z_t)) == pytest.approx(
        float(latent(5 * z_c + 1, 0.1 * z_t)), abs=1e-3
    )


def test_the_loss_is_half_of_the_mixture_and_half_of_its_gaussian():
    latent = joint_mixture(entropy=NoEntropy())
    pair, density = dependent_embeddings(), latent.components.density
    of_mixture = conditional_likelihood(density, *pair)
    of_gaussian = conditional_likelihood(moment_matched(density), *pair)
    expected = -0.5 * float(of_mixture + of_gaussian)
    assert float(latent(*pair)) == pytest.approx(expected, abs=1e-9)


def test_with_the_information_the_loss_is_a_fifth_of_the_mixture_and_that_of_gje():
    latent = joint_mixture(entropy=GaussianMutualInformation())
    pair, density = dependent_embeddings(), latent.components.density
    gje = GaussianMutualInformation()
    gje.initialize(*pair, seed=0)
    of_mixture = -float(conditional_likelihood(density, *pair))
    expected = 0.2 * of_mixture + 0.8 * float(gje.eval()(*pair))
    assert float(latent(*pair)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("likelihood", ["conditional", "joint"])
def test_with_the_information_a_mixture_trains_and_its_state_can_be_stored(likelihood):
    options = {"likelihood": likelihood, "entropy": GaussianMutualInformation()}
    latent = joint_mixture(**options).train()
    z_c, z_t = (z.requires_grad_() for z in dependent_embeddings())
    for gradient in torch.autograd.grad(latent(z_c, z_t), (z_c, z_t)):
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.abs().max()) > 0
    again = JointMixture(3, **options | {"entropy": GaussianMutualInformation()})
    again.load_state_dict(latent.state_dict())
    pair = dependent_embeddings()
    expected = float(latent.eval()(*pair))
    assert float(again.eval()(*pair)) == pytest.approx(expected, abs=1e-9)


def test_the_default_entropies_are_the_divergence_and_a_tenth_of_the_negentropy():
    pair = dependent_embeddings()
    extra = joint_mixture()(*pair) - joint_mixture(entropy=NoEntropy())(*pair)
    expected = sum(MomentKL(2.0)(z) + 0.1 * Negentropy(1.0)(z) for z in pair)
    assert float(extra) == pytest.approx(float(expected), abs=1e-9)
    extra = GaussianMutualInformation()(*pair)
    extra = extra - GaussianMutualInformation(0.1, 0.0, 0.0)(*pair)
    expected = sum(0.1 * moment_kl(z) + 0.05 * Negentropy(1.0)(z) for z in pair)
    assert float(extra) == pytest.approx(float(expected), abs=1e-9)


def test_the_joint_loss_is_the_likelihood_and_the_usage():
    latent = joint_mixture(likelihood="joint", entropy=NoEntropy())
    z = torch.cat(dependent_embeddings(), dim=1)
    density = latent.components.density
    usage = density.responsibilities(z).mean(0).numpy()
    expected = -float(density.log_prob(z).mean()) + 0.1 * (usage * np.log(usage)).sum()
    actual = float(latent(*dependent_embeddings()))
    assert actual == pytest.approx(expected, abs=1e-9)


def test_the_joint_loss_has_a_gradient_where_no_row_needs_a_component():
    latent = joint_mixture(likelihood="joint", entropy=NoEntropy())
    density = latent.components.density
    means = density.means.clone()
    means[0] += 1e3
    latent.components.density = MultivariateNormalMixture.from_log_weights(
        density.log_weights,
        means,
        scale_tril=torch.linalg.cholesky(density.component_covariances),
    )
    pair = [z.requires_grad_() for z in dependent_embeddings()]
    shares = latent.components.density.responsibilities(torch.cat(pair, dim=1))
    assert bool((shares[:, 0] == 0).all())
    for gradient in torch.autograd.grad(latent(*pair), pair):
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.abs().max()) > 0


def test_an_unknown_likelihood_is_refused():
    with pytest.raises(ValueError, match="likelihood must be one of"):
        JointMixture(3, likelihood="marginal")


def test_stepwise_em_follows_the_data_in_training_only():
    latent = joint_mixture()
    z_c, z_t = dependent_embeddings()
    before = latent.components.density.mean.clone()
    latent(z_c + 3, z_t - 3)
    torch.testing.assert_close(latent.components.density.mean, before)
    latent.train()
    for _ in range(150):
        latent(z_c + 3, z_t - 3)
    expected = torch.cat([z_c + 3, z_t - 3], dim=1)
    density = latent.components.density
    torch.testing.assert_close(density.mean, expected.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(
        density.covariance_matrix, covariance(expected), atol=0.05, rtol=0
    )


def test_em_of_each_epoch_does_not_move_between_epochs():
    latent = joint_mixture(StepwiseEM(3, each_epoch=True)).train()
    before = latent.components.density.mean.clone()
    z_c, z_t = dependent_embeddings()
    latent(z_c + 3, z_t - 3)
    torch.testing.assert_close(latent.components.density.mean, before)
    latent.initialize(z_c + 3, z_t - 3, seed=0)
    expected = torch.cat([z_c + 3, z_t - 3], dim=1).mean(0)
    mean = latent.components.density.mean
    torch.testing.assert_close(mean, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "low_rank"])
def test_a_dead_component_is_put_where_the_batch_is_least_likely(covariance_type):
    z = normal(400, 4)
    z[:40] += 12
    rule = StepwiseEM(3, covariance_type)
    rule.initialize(z, seed=0)
    parameters = maximization(statistics_of_density(rule.density), 0.0)
    dead = torch.tensor([True, False, False])
    least = z[rule.density.log_prob(z).argmin()]
    rule._revive(parameters, dead, z)
    torch.testing.assert_close(rule.density.means[0], least)
    assert float(rule.density.weights[0]) > 0.2
    assert float(rule.density.weights.sum()) == pytest.approx(1)


def test_no_component_stays_dead_while_embeddings_move():
    rule = StepwiseEM(4)
    z = normal(600, 4)
    z[:150] += 8
    rule.initialize(z, seed=0)
    # The cluster that some components explained has gone.
    for seed in range(100):
        rule.step(normal(256, 4, seed=seed + 1))
    assert float(rule.density.weights.min()) >= DEAD_SHARE / 4


RULES = {
    "prototypes": lambda: StepwiseEM(3),
    "low_rank": lambda: StepwiseEM(3, "low_rank", rank=1),
    "gas": lambda: NeuralGas(5),
    "bank": lambda: ParticleKernels(50),
}


@pytest.mark.parametrize("rule", RULES)
def test_the_state_of_a_joint_mixture_can_be_stored(rule):
    latent = joint_mixture(RULES[rule]())
    latent.train()(*dependent_embeddings())
    again = JointMixture(RULES[rule]())
    again.load_state_dict(latent.state_dict())
    pair = dependent_embeddings()
    expected = float(latent.eval()(*pair))
    assert float(again.eval()(*pair)) == pytest.approx(expected, abs=1e-9)
    # And it goes on from there.
    assert math.isfinite(float(again.train()(*pair)))


def test_a_mixture_that_has_not_started_has_no_state():
    for make in RULES.values():
        latent = JointMixture(make())
        latent.load_state_dict(latent.state_dict())
        assert latent.components.density is None


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("likelihood", ["conditional", "joint"])
def test_every_rule_has_a_finite_loss_and_gradient(rule, likelihood):
    latent = JointMixture(RULES[rule](), likelihood=likelihood)
    z_c, z_t = (z.requires_grad_() for z in dependent_embeddings())
    latent.initialize(z_c, z_t, seed=0)
    for gradient in torch.autograd.grad(latent.train()(z_c, z_t), (z_c, z_t)):
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical"])
def test_every_covariance_type_has_a_finite_loss_and_gradient(covariance_type):
    latent = JointMixture(StepwiseEM(3, covariance_type))
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


def test_a_share_of_the_likelihood_is_that_of_the_running_gaussian():
    z_c, z_t = dependent_embeddings()
    plain, single, mixed = (
        ConditionalMixture(head(), head(), 1.0, gaussian_share=share).eval()
        for share in (0.0, 1.0, 0.3)
    )
    for latent in (plain, single, mixed):
        latent.initialize(z_c, z_t, seed=0)
    joint = torch.cat([z_c, z_t], dim=1)
    density = MultivariateNormalMixture(
        torch.ones(1, dtype=torch.float64),
        joint.mean(0).unsqueeze(0),
        scale_tril=torch.linalg.cholesky(covariance(joint)).unsqueeze(0),
    )
    expected = moment_kl(z_c) + moment_kl(z_t)
    expected = expected - 2 * conditional_likelihood(density, z_c, z_t)
    values = [latent(z_c, z_t).item() for latent in (plain, single, mixed)]
    assert values[1] == pytest.approx(float(expected), abs=1e-2)
    assert values[2] == pytest.approx(0.7 * values[0] + 0.3 * values[1], abs=1e-9)


def test_the_running_gaussian_follows_in_training_only_and_is_stored():
    z_c, z_t = dependent_embeddings()
    latent = ConditionalMixture(head(), head(), 1.0, gaussian_share=0.5)
    latent.initialize(z_c, z_t, seed=0)
    before = latent.moments.mean.clone()
    latent.eval()(z_c + 3, z_t)
    torch.testing.assert_close(latent.moments.mean, before)
    latent.train()(z_c + 3, z_t)
    assert float((latent.moments.mean - before).abs().max()) > 0.1
    again = ConditionalMixture(head(), head(), 1.0, gaussian_share=0.5)
    again.load_state_dict(latent.state_dict())
    expected = latent.eval()(z_c, z_t).item()
    assert again.eval()(z_c, z_t).item() == pytest.approx(expected, abs=1e-9)


def test_the_parameters_of_the_mixture_depend_on_the_context_alone():
    """The bottleneck is one of structure: the head is not given the target."""
    latent = ConditionalMixture(head(), None, 2.0)
    z_c, z_t = (z.requires_grad_() for z in dependent_embeddings())
    calls = []
    latent.head.register_forward_hook(
        lambda module, arguments, mixture: calls.append((arguments, mixture))
    )
    latent(z_c, z_t)
    ((arguments, mixture),) = calls
    assert len(arguments) == 1
    assert arguments[0] is z_c
    for parameter in mixture.parameters().values():
        total = parameter.square().sum()
        gradients = torch.autograd.grad(
            total, (z_c, z_t), allow_unused=True, retain_graph=True
        )
        assert float(gradients[0].abs().max()) > 0
        assert gradients[1] is None
    with pytest.raises(TypeError, match="positional argument"):
        latent.head(z_c, z_t)


# --------------------------------------------------------------------- marginal losses


@pytest.mark.parametrize("marginal", ["moment_kl", "gaussian", "vicreg", None])
def test_the_marginal_loss_is_the_one_that_is_named(marginal):
    z_c, z_t = dependent_embeddings()
    latent = ConditionalMixture(head(), head(), 1.5, marginal=marginal)
    latent.initialize(z_c, z_t, seed=0)
    losses = {
        "moment_kl": moment_kl,
        "vicreg": VarianceCovariance(),
        None: lambda z: moment_kl(z) + Negentropy(0.1)(z),
        "gaussian": lambda z: (
            -torch.distributions.MultivariateNormal(z.mean(0), covariance(z))
            .log_prob(z)
            .mean()
        ),
    }
    expected = 1.5 * (losses[marginal](z_c) + losses[marginal](z_t))
    expected = expected - latent.head(z_c).log_prob(z_t).mean()
    expected = expected - latent.reverse_head(z_t).log_prob(z_c).mean()
    assert latent(z_c, z_t).item() == pytest.approx(expected.item(), abs=1e-3)


def test_a_learned_gaussian_makes_the_loss_that_of_the_joint():
    z_c, z_t = dependent_embeddings()
    latent = ConditionalMixture(head(), None, 1.0, marginal="gaussian")
    latent.initialize(z_c, z_t, seed=0)
    joint = latent.marginal.density().log_prob(z_c) + latent.head(z_c).log_prob(z_t)
    assert latent(z_c, z_t).item() == pytest.approx(-joint.mean().item())


def test_a_learned_gaussian_follows_the_embeddings_by_gradients():
    z = 0.5 * normal(300, 3) @ normal(3, 3, seed=2) + 1.5
    marginal = LearnedGaussian(3).double()
    optimiser = torch.optim.Adam(marginal.parameters(), 0.05)
    for _ in range(400):
        optimiser.zero_grad()
        marginal(z).backward()
        optimiser.step()
    density = marginal.density()
    torch.testing.assert_close(density.mean, z.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(
        density.covariance_matrix, covariance(z), atol=0.05, rtol=0.05
    )


def test_only_the_learned_gaussian_rewards_shrinking():
    z, _ = whitened_pair()
    marginal = LearnedGaussian(3)

    def gaussian(z):
        marginal.initialize(z)
        return marginal(z)

    for loss, is_attractive in (
        (gaussian, True),
        (moment_kl, False),
        (VarianceCovariance(), False),
    ):
        values = [loss(scale * z).item() for scale in (1.0, 0.1, 0.01)]
        assert (values[0] > values[1] > values[2]) is is_attractive
        assert (values[0] < values[1] < values[2]) is not is_attractive


def test_a_learned_gaussian_starts_from_a_point_too():
    marginal = LearnedGaussian(2)
    marginal.initialize(torch.ones(10, 2))
    assert math.isfinite(marginal(torch.ones(10, 2)).item())


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


@pytest.mark.parametrize("distance", [1.0, 200.0])
def test_pairs_of_contexts_that_share_components_are_those_of_each_context(distance):
    # Kernels with independent blocks, as of a bank; far ones underflow as products.
    generator = torch.Generator().manual_seed(0)
    means = distance * torch.randn(40, 4, generator=generator, dtype=torch.float64)
    weights = torch.full((40,), 1 / 40, dtype=torch.float64)
    kernels = MultivariateNormalMixture(
        weights, means, scale_diag=torch.ones(1, 4, dtype=torch.float64)
    )
    conditional = kernels.condition([0, 1], means[:, :2])
    targets = means[:, 2:] + 0.1
    expected = conditional.log_prob(targets.unsqueeze(1))
    assert bool(expected.isfinite().all())
    torch.testing.assert_close(
        pairwise_log_prob(conditional, targets), expected, rtol=1e-12, atol=1e-10
    )
