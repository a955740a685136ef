"""Distribution matching: equal to textbook losses where theory says so."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from scipy.stats import dirichlet

from skgmje.latent import (
    LATENT_DENSITIES,
    CategoricalDensity,
    CategoricalEntropy,
    DirichletDensity,
    DistributionMatching,
    InfoNCE,
    IsotropicGaussian,
    KernelDensity,
    LatentPrediction,
    LogDet,
    NearestNeighbour,
    VonMisesFisher,
)
from skgmje.latent._distribution_matching import make_density, make_estimate
from skgmje.networks import Predictor

PROFILE = settings(deadline=None, max_examples=30, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)
LEARNED = sorted(set(LATENT_DENSITIES) - {"categorical"})


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def two_views(name, n_samples, n_features, seed=0):
    """Correlated points of the space of a density."""
    z, noise = (normal(n_samples, n_features, seed=seed + s) for s in (0, 1))
    project = LATENT_DENSITIES[name](1.0).project
    return project(z), project(z + 0.5 * noise)


# --------------------------------------------------------------------- textbook losses


def nt_xent(z_c, z_t, temperature):
    """The loss of SimCLR, written from its paper."""
    z = np.concatenate([z_c, z_t])
    logits = z @ z.T / temperature
    np.fill_diagonal(logits, -np.inf)
    n = len(z_c)
    partner = np.concatenate([np.arange(n) + n, np.arange(n)])
    return -log_softmax(logits, axis=1)[np.arange(2 * n), partner].mean()


@PROFILE
@given(SEEDS, st.floats(0.05, 2))
def test_twice_the_loss_of_simclr_has_targets_twice_as_narrow_as_kernels(
    seed, temperature
):
    """Under a flat prior both views pay for alignment, but only one density does."""
    latent = DistributionMatching(
        VonMisesFisher(2 / temperature),
        KernelDensity(VonMisesFisher(1 / temperature)),
        pooled=True,
    )
    z = two_views("von_mises_fisher", 12, 3, seed)
    constant = VonMisesFisher(2 / temperature).log_normaliser(3)
    constant -= 2 * (math.log(23) + VonMisesFisher(1 / temperature).log_normaliser(3))
    expected = 2 * nt_xent(*map(np.asarray, z), temperature) + constant
    assert float(latent(*z)) == pytest.approx(expected, abs=1e-6)


@PROFILE
@given(SEEDS, st.floats(0.05, 2))
def test_with_an_empirical_prior_it_is_the_loss_of_simclr(seed, temperature):
    density = VonMisesFisher(1 / temperature)
    latent = DistributionMatching(
        density, KernelDensity(density), prior="empirical", pooled=True
    )
    z = two_views("von_mises_fisher", 12, 3, seed)
    # The constants of density and kernel cancel.
    expected = nt_xent(*map(np.asarray, z), temperature) - math.log(23)
    assert float(latent(*z)) == pytest.approx(expected, abs=1e-6)


@PROFILE
@given(SEEDS, st.floats(0.1, 10))
def test_the_sphere_with_kernels_is_equation_11(seed, beta):
    latent = DistributionMatching(
        VonMisesFisher(beta), KernelDensity(VonMisesFisher(beta)), pooled=True
    )
    z_c, z_t = two_views("von_mises_fisher", 10, 4, seed)
    z = np.concatenate([z_c, z_t])
    logits = beta * z @ z.T
    np.fill_diagonal(logits, -np.inf)
    objective = beta * float((z_c * z_t).sum(1).mean())
    objective -= 2 * (logsumexp(logits, axis=1) - math.log(19)).mean()
    constant = VonMisesFisher(beta).log_normaliser(4)
    assert -float(latent(z_c, z_t)) == pytest.approx(objective + constant, abs=1e-6)


@PROFILE
@given(SEEDS, st.floats(0.1, 10))
def test_the_joint_objective_on_the_sphere_is_equation_47(seed, beta):
    density = VonMisesFisher(beta)
    latent = DistributionMatching(density, KernelDensity(density), objective="ldm")
    z_c, z_t = two_views("von_mises_fisher", 10, 4, seed)
    logits = beta * (z_c @ z_c.T + z_t @ z_t.T).numpy()
    np.fill_diagonal(logits, -np.inf)
    objective = beta * float((z_c * z_t).sum(1).mean())
    objective -= (logsumexp(logits, axis=1) - math.log(9)).mean()
    constant = density.log_normaliser(4)
    assert -float(latent(z_c, z_t)) == pytest.approx(objective + constant, abs=1e-6)


@pytest.mark.parametrize("objective", ["mi", "ldm"])
def test_the_plane_with_determinants_is_vicreg_of_equations_8_and_9(objective):
    z_c, z_t = two_views("gaussian", 200, 3)
    precision = 2.5
    latent = DistributionMatching(
        IsotropicGaussian(precision), LogDet(ridge=0.0), objective=objective
    )

    def half_log_det(*views):
        moments = np.cov(np.concatenate(views, axis=1).T, bias=True)
        return 0.5 * np.linalg.slogdet(moments).logabsdet

    distance = 0.5 * precision * float((z_c - z_t).square().sum(1).mean())
    spread = half_log_det(z_c, z_t)
    if objective == "mi":
        spread = half_log_det(z_c) + half_log_det(z_t)
    constant = 1.5 * math.log(precision / (2 * math.pi)) + 3 * math.log(
        2 * math.pi * math.e
    )
    assert float(latent(z_c, z_t)) == pytest.approx(
        distance - spread - constant, abs=1e-6
    )


def test_the_contrastive_entropy_gives_infonce():
    z_c, z_t = two_views("von_mises_fisher", 30, 3)
    latent = DistributionMatching(VonMisesFisher(4.0), None, prior="empirical")
    one_way = InfoNCE(0.25, symmetric=False)
    # That of the targets is normalised over the contexts.
    expected = float(one_way(z_t, z_c)) - math.log(30)
    assert float(latent(z_c, z_t)) == pytest.approx(expected, abs=1e-6)
    predictor = Predictor(3, 3, (4,)).double().requires_grad_(False)
    latent = DistributionMatching(
        VonMisesFisher(4.0), None, prior="empirical", predictor=predictor
    )
    expected = float(one_way(z_t, predictor(z_c))) - math.log(30)
    assert float(latent(z_c, z_t)) == pytest.approx(expected, abs=1e-6)


def test_the_plug_in_on_the_sphere_is_the_negative_cosine_of_simsiam():
    z_c, z_t = two_views("von_mises_fisher", 30, 3)
    predictor = Predictor(3, 3, (4,)).double()
    latent = LatentPrediction(predictor, density=VonMisesFisher(2.0))
    z_t.requires_grad_()
    cosine = torch.nn.functional.cosine_similarity(predictor(z_c), z_t.detach())
    loss = latent(z_c, z_t)
    assert loss.item() == pytest.approx(-2 * cosine.mean().item(), abs=1e-6)
    loss.backward()
    assert z_t.grad is None


def test_the_plug_in_in_the_plane_is_half_the_squared_error():
    z_c, z_t = two_views("gaussian", 30, 3)
    predictor = Predictor(3, 3).double().requires_grad_(False)
    expected = 0.5 * (predictor(z_c) - z_t).square().sum(1).mean()
    assert float(LatentPrediction(predictor)(z_c, z_t)) == pytest.approx(
        float(expected), abs=1e-12
    )


def test_the_simplex_is_equations_49_to_51():
    z_c, z_t = two_views("dirichlet", 8, 3)
    density = DirichletDensity(6.0)
    latent = DistributionMatching(density, KernelDensity(density))

    def log_kernel(z, centre):
        return dirichlet.logpdf(z / z.sum(), 6 * centre + 1)

    def entropy(z):
        sums = [
            logsumexp([log_kernel(a, b) for j, b in enumerate(z) if j != i])
            for i, a in enumerate(z)
        ]
        return math.log(7) - np.mean(sums)

    context, target = z_c.numpy(), z_t.numpy()
    alignment = np.mean([*map(log_kernel, target, context)])
    expected = alignment + entropy(context) + entropy(target)
    assert -float(latent(z_c, z_t)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("objective", ["mi", "ldm"])
def test_classes_are_equations_79_to_82(objective):
    z_c, z_t = (z.numpy() for z in two_views("categorical", 20, 4))
    beta = 3.0
    latent = DistributionMatching(
        CategoricalDensity(beta), CategoricalEntropy(), objective=objective
    )

    def entropy(p):
        return -(p * np.log(p)).sum()

    table = np.einsum("ik,il->kl", z_c, z_t) / 20
    alignment = beta * (z_c * z_t).sum(1).mean() - math.log(math.exp(beta) + 3)
    spread = entropy(table)
    if objective == "mi":
        spread = entropy(table.sum(0)) + entropy(table.sum(1))
    loss = float(latent(torch.from_numpy(z_c), torch.from_numpy(z_t)))
    assert -loss == pytest.approx(alignment + spread, abs=1e-6)


# -------------------------------------------------------------------------- identities


@PROFILE
@given(SEEDS, st.sampled_from(LEARNED))
def test_the_gradient_of_the_plug_in_is_that_of_a_difference(seed, name):
    """Equation 54, for encoders and predictor alike.

    The plug-in is alignment minus the log-likelihood of targets with a gradient under a
    predictor, and a context, that have none.
    """
    density = LATENT_DENSITIES[name](2.0)
    predictor = Predictor(3, 3, (5,), "tanh").double()
    free = [normal(12, 3, seed=seed + s).requires_grad_() for s in (0, 1)]
    z_c, z_t = map(density.project, free)
    variables = [*free, *predictor.parameters()]
    plug_in = -LatentPrediction(predictor, density=density)(z_c, z_t)
    centre = density.project(predictor(z_c))
    difference = density.affinity(z_t, centre) - density.affinity(z_t, centre.detach())

    def gradient(value):
        parts = torch.autograd.grad(
            value, variables, retain_graph=True, allow_unused=True
        )
        return [
            torch.zeros_like(v) if g is None else g
            for v, g in zip(variables, parts, strict=True)
        ]

    torch.testing.assert_close(gradient(plug_in), gradient(difference.mean()))
    assert float(gradient(plug_in)[0].abs().max()) > 0


@PROFILE
@given(SEEDS, st.integers(2, 5), st.floats(1e-3, 0.02))
def test_the_determinant_is_that_of_vicreg_to_second_order(seed, n_features, size):
    """Variances enter by their logarithms, and correlations squared, once."""
    between = normal(n_features, n_features, seed=seed).tanh().triu(1)
    correlation = torch.eye(n_features).double() + size * (between + between.mT)
    scale = normal(n_features, seed=seed).exp()
    moments = scale[:, None] * correlation * scale
    # Points whose covariance is the matrix.
    root = torch.linalg.cholesky(moments)
    z = n_features**0.5 * torch.cat([root.mT, -root.mT])
    expansion = 2 * scale.log().sum() - (size * between).square().sum()
    constant = 0.5 * n_features * (1 + math.log(2 * math.pi))
    actual = 2 * (float(LogDet(ridge=0.0).entropy(z)) - constant)
    error = abs(actual - float(expansion))
    third_order = (n_features * size) ** 3
    assert error <= third_order
    assert abs(actual - float(2 * scale.log().sum())) > error


@PROFILE
@given(SEEDS, st.sampled_from(["log_det", "categorical"]))
def test_the_objectives_differ_by_the_mutual_information(seed, name):
    space = "categorical" if name == "categorical" else "gaussian"
    z = two_views(space, 40, 3, seed)
    density = make_density(space, 1.0, 3)
    estimate = make_estimate(name, density, None)
    losses = [
        float(DistributionMatching(density, estimate, objective=objective)(*z))
        for objective in ("ldm", "mi")
    ]
    information = sum(float(estimate.entropy(view)) for view in z)
    information -= float(estimate.entropy(*z))
    assert losses[0] - losses[1] == pytest.approx(information, abs=1e-9)
    assert information > 0


def test_an_empirical_prior_takes_the_entropy_of_the_context_out():
    z = two_views("gaussian", 50, 2)
    flat, empirical = (
        DistributionMatching(IsotropicGaussian(), LogDet(), prior=prior)(*z)
        for prior in ("flat", "empirical")
    )
    expected = float(LogDet().entropy(z[0]))
    assert float(empirical - flat) == pytest.approx(expected)


def test_a_conditional_entropy_has_no_gradient_in_the_context():
    z_c, z_t = (z.requires_grad_() for z in two_views("gaussian", 50, 2))
    latent = DistributionMatching(
        IsotropicGaussian(), LogDet(), objective="ldm", prior="empirical"
    )
    spread = latent.uniformity(z_c, z_t)
    expected = (LogDet().entropy(z_c, z_t) - LogDet().entropy(z_c)).item()
    assert spread.item() == pytest.approx(expected)
    gradients = torch.autograd.grad(spread, (z_c, z_t), allow_unused=True)
    assert gradients[0] is None
    assert float(gradients[1].abs().max()) > 0


@pytest.mark.parametrize("latent", LEARNED)
@pytest.mark.parametrize("entropy", ["log_det", "knn", "kde"])
@pytest.mark.parametrize("objective", ["mi", "ldm"])
@pytest.mark.parametrize("prior", ["flat", "empirical"])
def test_every_density_goes_with_every_entropy(latent, entropy, objective, prior):
    density = make_density(latent, None, 3)
    matching = DistributionMatching(
        density,
        make_estimate(entropy, density, None),
        objective=objective,
        prior=prior,
    )
    free = [normal(40, 3, seed=s).float().requires_grad_() for s in (0, 1)]
    loss = matching(*map(density.project, free))
    assert loss.dtype == torch.float64
    for gradient in torch.autograd.grad(loss, free):
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("latent", LEARNED)
@pytest.mark.parametrize("entropy", ["log_det", "knn", "kde"])
def test_the_estimates_of_a_space_agree(latent, entropy):
    """One law with a known density in each space, seen by all estimates."""
    density = make_density(latent, 50.0, 3)
    centre = density.project(torch.tensor([[0.3, -0.2, 0.1]]).double())
    n = 2000
    if latent == "gaussian":
        z = centre + 0.02**0.5 * normal(n, 3)
    elif latent == "dirichlet":
        counts = 50 * centre[0].numpy() + 1
        z = torch.from_numpy(np.random.default_rng(0).dirichlet(counts, n))
    else:
        # Wood's exact sampler on the sphere of three dimensions.
        u = torch.rand(n, generator=torch.Generator().manual_seed(0)).double()
        height = 1 + (u + (1 - u) * math.exp(-100)).log() / 50
        angle = 2 * math.pi * normal(n, seed=3)
        radius = (1 - height**2).clamp(min=0).sqrt()
        z = torch.stack([radius * angle.cos(), radius * angle.sin(), height], dim=1)
        centre = torch.tensor([[0.0, 0.0, 1.0]]).double()
    truth = -float(density.log_prob(z, centre.expand(n, -1)).mean())
    estimate = make_estimate(entropy, density, bandwidth=0.05)
    if entropy == "knn":
        inner = getattr(estimate, "estimate", estimate)
        inner.clip_quantile = None
    value = float(estimate.entropy(z))
    if latent == "von_mises_fisher" and entropy == "log_det":
        # A Gaussian around the sphere is a density in space, which is not comparable.
        assert value < truth
    else:
        assert value == pytest.approx(truth, abs=0.15)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="objective must be one of"):
        DistributionMatching(IsotropicGaussian(), LogDet(), objective="kl")
    with pytest.raises(ValueError, match="prior must be one of"):
        DistributionMatching(IsotropicGaussian(), LogDet(), prior="uniform")
    with pytest.raises(ValueError, match="that of targets alone"):
        DistributionMatching(IsotropicGaussian(), None)
    with pytest.raises(ValueError, match="at least two embeddings"):
        DistributionMatching(IsotropicGaussian(), NearestNeighbour())(
            normal(1, 2), normal(1, 2)
        )
