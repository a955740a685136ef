"""Polar Student-t likelihoods and variational bounds, against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from torch.distributions import Normal, StudentT

from skgmje.latent import (
    PolarStudentT,
    SymmetricELBO,
    evidence_bounds,
    prior_divergence,
    student_t_log_prob,
    surface_mass_bound,
)
from skgmje.networks import GaussianPosterior

DF = 4.0
PROFILE = settings(deadline=None, max_examples=40, derandomize=True)
FEW = settings(PROFILE, max_examples=8)
# A direction, a location, scales and their log-densities, computed independently.
DIRECTION, LOCATION, SCALE = torch.tensor(
    [[0.6, 0.8, 0.0], [1.0, 0.0, 0.0], [0.7, 0.5, 0.9]], dtype=torch.float64
)

numbers = st.floats(-3, 3)
vectors = st.lists(numbers, min_size=3, max_size=3).map(
    lambda x: torch.tensor(x, dtype=torch.float64)
)
scales = st.lists(st.floats(0.05, 3), min_size=3, max_size=3).map(
    lambda x: torch.tensor(x, dtype=torch.float64)
)
degrees = st.sampled_from([0.7, 1.0, 4.0, 30.0, math.inf])


def draw(shape, seed=0):
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def posterior(seed, n=6, d=3, tied=True):
    representation, mean, scale, other = (draw((n, d), seed + i) for i in range(4))
    scale, other = (0.3 + value.abs() for value in (scale, other))
    return GaussianPosterior(representation, mean, scale, scale if tied else other)


def mass(likelihood, latent, scale, radius):
    """Integrate the directional factor over the sphere by quadrature."""
    if len(latent) == 2:
        angle = 2 * math.pi * torch.arange(4000).double() / 4000
        points = torch.stack([angle.cos(), angle.sin()], 1)
        weights = torch.full_like(angle, 2 * math.pi / 4000)
    else:
        nodes, weight = map(torch.tensor, np.polynomial.legendre.leggauss(80))
        angle = 2 * math.pi * torch.arange(120).double() / 120
        root = (1 - nodes.square()).sqrt().unsqueeze(1)
        points = torch.stack(
            [
                root * angle.cos(),
                root * angle.sin(),
                nodes.unsqueeze(1).expand(-1, 120),
            ],
            -1,
        ).reshape(-1, 3)
        weights = (
            (weight.unsqueeze(1) * (2 * math.pi / 120)).expand(-1, 120).reshape(-1)
        )
    log_prob = likelihood.directional_log_prob(points, latent, scale)
    return float((weights * radius ** (len(latent) - 1) * log_prob.exp()).sum())


# -------------------------------------------------------------------- the Student-t


def test_both_forms_have_the_values_of_the_fixture():
    deviation = DIRECTION - LOCATION
    multivariate = student_t_log_prob(deviation, SCALE, DF, feature_wise=False)
    feature_wise = student_t_log_prob(deviation, SCALE, DF)
    assert float(multivariate) == pytest.approx(-3.341835829200, abs=1e-11)
    assert float(feature_wise) == pytest.approx(-3.220224762073, abs=1e-11)


@PROFILE
@given(vectors, scales, st.sampled_from([0.7, 1.0, 4.0, 30.0]))
def test_forms_are_those_of_scipy_and_torch(deviation, scale, df):
    expected = stats.multivariate_t(shape=np.diag(scale.numpy() ** 2), df=df).logpdf(
        deviation.numpy()
    )
    ours = student_t_log_prob(deviation, scale, df, feature_wise=False)
    assert float(ours) == pytest.approx(expected, abs=1e-9)
    product = StudentT(df, 0.0, scale).log_prob(deviation).sum()
    torch.testing.assert_close(student_t_log_prob(deviation, scale, df), product)


@PROFILE
@given(vectors, scales, st.booleans())
def test_many_degrees_of_freedom_make_a_gaussian(deviation, scale, feature_wise):
    gaussian = Normal(0.0, scale).log_prob(deviation).sum()
    infinite = student_t_log_prob(deviation, scale, math.inf, feature_wise)
    torch.testing.assert_close(infinite, gaussian)
    many = student_t_log_prob(deviation / 3, scale, 1e9, feature_wise)
    limit = student_t_log_prob(deviation / 3, scale, math.inf, feature_wise)
    torch.testing.assert_close(many, limit, rtol=1e-4, atol=1e-5)


@PROFILE
@given(st.floats(-50, 50), st.floats(0.01, 3), st.sampled_from([1.0, 4.0, 30.0]))
def test_influence_is_bounded(deviation, scale, df):
    x = torch.tensor([deviation], dtype=torch.float64).requires_grad_()
    student_t_log_prob(x, torch.tensor([scale], dtype=torch.float64), df).backward()
    assert abs(float(x.grad)) <= (df + 1) / (2 * math.sqrt(df) * scale) * (1 + 1e-12)


# ------------------------------------------------------------- directions and lengths


@PROFILE
@given(vectors, vectors, scales, st.floats(0.1, 50), st.booleans())
def test_length_of_the_target_changes_the_radial_factor_alone(
    target, latent, scale, factor, feature_wise
):
    likelihood = PolarStudentT(DF, feature_wise).double()
    target = target + torch.tensor([4.0, 0.0, 0.0]).double()  # not of length zero
    torch.testing.assert_close(
        likelihood.directional_log_prob(factor * target, latent, scale),
        likelihood.directional_log_prob(target, latent, scale),
    )
    change = likelihood.log_prob(factor * target, latent, scale) - likelihood.log_prob(
        target, latent, scale
    )
    radial = likelihood.radial_log_prob(
        factor * target, latent
    ) - likelihood.radial_log_prob(target, latent)
    torch.testing.assert_close(change, 0.1 * radial)


@pytest.mark.parametrize("df", [4.0, math.inf])
@pytest.mark.parametrize("feature_wise", [True, False])
def test_deviations_and_scales_broadcast_with_each_other(df, feature_wise):
    deviation, scale = draw(3), 0.5 + draw((5, 3)).abs()
    found = student_t_log_prob(deviation, scale, df, feature_wise)
    whole = student_t_log_prob(deviation.expand(5, 3), scale, df, feature_wise)
    torch.testing.assert_close(found, whole)
    # A density of three coordinates, though the deviation is one number.
    found = student_t_log_prob(deviation[:1], scale, df, feature_wise)
    whole = student_t_log_prob(deviation[:1].expand(5, 3), scale, df, feature_wise)
    torch.testing.assert_close(found, whole)


def test_vectors_of_length_zero_have_finite_densities_and_gradients():
    latent = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    likelihood = PolarStudentT().double()
    log_prob = likelihood.log_prob(torch.zeros(2, 3).double(), latent, SCALE)
    log_prob.sum().backward()
    assert bool(log_prob.isfinite().all())
    assert bool(latent.grad.isfinite().all())


# ------------------------------------------------------------------ the sub-density


def test_surface_integral_is_the_density_of_the_length():
    generator = np.random.default_rng(0)
    covariance = np.diag(SCALE.numpy() ** 2)
    law = stats.multivariate_t(LOCATION.numpy(), covariance, df=DF)
    lengths = np.linalg.norm(law.rvs(500_000, random_state=generator), axis=1)
    estimate = np.mean(np.abs(lengths - 1) < 0.02) / 0.04
    assert estimate == pytest.approx(0.49455, rel=0.03)

    def density(height, angle):
        root = math.sqrt(1 - height**2)
        return law.pdf([root * math.cos(angle), root * math.sin(angle), height])

    integral = integrate.dblquad(
        density, 0, 2 * math.pi, -1, 1, epsabs=1e-5, epsrel=1e-5
    )[0]
    assert integral == pytest.approx(0.49455, abs=3e-5)


@pytest.mark.parametrize("n_features", [2, 3])
@FEW
@given(latent=vectors, scale=scales, df=degrees, feature_wise=st.booleans())
def test_mass_on_the_sphere_is_bounded(n_features, latent, scale, df, feature_wise):
    latent, scale = latent[:n_features] + 0.01, scale[:n_features].clamp(min=0.2)
    likelihood = PolarStudentT(df, feature_wise).double()
    bound = float(likelihood.log_mass_bound(scale).exp())
    integral = mass(likelihood, latent, scale, math.sqrt(n_features))
    assert integral <= bound * (1 + 1e-6)


@FEW
@given(latent=vectors, scale=scales, df=degrees)
def test_scales_of_at_least_0607_make_a_sub_density(latent, scale, df):
    scale = scale.clamp(min=0.607)
    likelihood = PolarStudentT(df, feature_wise=False).double()
    assert float(likelihood.log_mass_bound(scale)) == 0.0
    assert mass(likelihood, latent + 0.01, scale, math.sqrt(3)) <= 1 + 1e-6


@pytest.mark.parametrize(
    ("n_features", "peak"), [(1, 0.798), (2, 0.6065), (3, 0.587), (8, 0.571)]
)
def test_bound_of_the_gaussian_is_the_peak_of_a_chi(n_features, peak):
    bound = surface_mass_bound(n_features, math.inf, feature_wise=True)
    assert bound == pytest.approx(peak, abs=6e-4)
    assert surface_mass_bound(n_features, 4.0, feature_wise=False) < bound


# ------------------------------------------------------------------------- the bounds


def test_divergence_has_the_value_of_the_fixture():
    mean = torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64)
    divergence = prior_divergence(GaussianPosterior(mean, mean, SCALE, SCALE))
    assert float(divergence) == pytest.approx(1.055182640157, abs=1e-11)


@PROFILE
@given(vectors, scales)
def test_divergence_is_not_negative(mean, scale):
    view = GaussianPosterior(mean, mean, scale, scale)
    assert float(prior_divergence(view)) >= 0


@pytest.mark.parametrize("tied", [True, False])
def test_swapping_the_views_leaves_the_loss(tied):
    loss = SymmetricELBO(PolarStudentT()).double()
    first, second, noise = (
        posterior(0, tied=tied),
        posterior(9, tied=tied),
        draw((2, 6, 3)),
    )
    torch.testing.assert_close(
        loss(first, second, noise),
        loss(second, first, noise.flip(0)),
        rtol=1e-13,
        atol=0,
    )


@pytest.mark.parametrize("stops", [True, False])
def test_gradients_stop_at_the_representation_that_is_explained(stops):
    loss = SymmetricELBO(PolarStudentT(), target_stop_gradient=stops).double()
    representation = draw((6, 3), 5).requires_grad_()
    target = posterior(3)._replace(representation=representation)
    value = loss(posterior(0), target, draw((2, 6, 3)))
    gradient = torch.autograd.grad(value, representation, allow_unused=True)[0]
    assert (gradient is None) == stops


def test_divergence_warms_up_over_epochs():
    cold = SymmetricELBO(PolarStudentT(), beta=0.5, n_warmup=4).double()
    warm = SymmetricELBO(PolarStudentT(), beta=0.5).double()
    free = SymmetricELBO(PolarStudentT(), beta=0.0).double()
    views = posterior(0), posterior(9), draw((2, 6, 3))
    with torch.no_grad():
        excess = warm(*views) - free(*views)
        for epoch in range(1, 7):
            cold.begin_epoch()
            share = float((cold(*views) - free(*views)) / excess)
            assert share == pytest.approx(min(1.0, epoch / 4))


def test_tied_scales_have_no_logarithmic_reward():
    # Far below every deviation, the bound loses what the Student-t gains.
    likelihood = PolarStudentT(df=4.0, radial_weight=0.0).double()
    views = [
        GaussianPosterior(draw((500, 3), 1), draw((500, 3), 2), scale, scale)
        for scale in (torch.full((500, 3), s).double() for s in (1e-3, 1e-5))
    ]
    other = posterior(9, n=500)
    bounds = [
        float(
            (
                likelihood.log_prob(other.representation, v.mean, v.scale)
                - prior_divergence(v)
            ).mean()
        )
        for v in views
    ]
    # Each coordinate: -log s from the likelihood, + log s from the prior, and 5 log s
    # from the tail.
    assert bounds[1] - bounds[0] == pytest.approx(15 * math.log(1e-2), rel=1e-3)


def test_importance_weights_tighten_the_bound_up_to_the_evidence():
    likelihood = PolarStudentT(df=4.0, radial_weight=0.5).double()
    likelihood.requires_grad_(False)
    scale = torch.tensor([[0.8], [0.8]], dtype=torch.float64)
    view = GaussianPosterior(
        scale, torch.tensor([[0.5], [-1.0]]).double(), scale, scale
    )
    other = view._replace(representation=torch.tensor([[1.3], [0.4]]).double())
    grid = torch.linspace(-12, 12, 200_001).double().unsqueeze(1)
    for row in range(2):
        values = likelihood.log_prob(
            other.representation[row], grid, scale[row]
        ) + Normal(0.0, 1.0).log_prob(grid.squeeze(1))
        evidence = float(torch.trapezoid(values.exp(), grid.squeeze(1)).log())
        evidence -= float(likelihood.log_mass_bound(scale[row]))
        bounds = [
            [
                float(b[row])
                for b in evidence_bounds(likelihood, view, other, draw((n, 1, 1), n))
            ]
            for n in (200_000, 8)
        ]
        (elbo, weighted), _ = bounds
        assert elbo < weighted
        assert weighted == pytest.approx(evidence, abs=0.02)


@PROFILE
@given(st.integers(0, 10_000))
def test_weighted_bound_is_never_below_that_of_the_same_draws(seed):
    likelihood = PolarStudentT(df=4.0).double()
    view, other = posterior(seed), posterior(seed + 50)
    noise = draw((16, 6, 3), seed)
    _, weighted = evidence_bounds(likelihood, view, other, noise)
    latent = view.mean + view.scale * noise
    log_ratio = (
        likelihood.log_prob(other.representation, latent, view.scale)
        - likelihood.log_mass_bound(view.scale)
        + Normal(0.0, 1.0).log_prob(latent).sum(-1)
        - Normal(view.mean, view.scale).log_prob(latent).sum(-1)
    )
    assert bool((weighted >= log_ratio.mean(0) - 1e-9).all())
