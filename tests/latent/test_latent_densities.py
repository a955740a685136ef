"""Latent densities of three spaces against quadrature and peers, and their kernels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import ive
from scipy.stats import dirichlet
from torch.nn.functional import normalize

from skgmje.latent import (
    LATENT_DENSITIES,
    CategoricalDensity,
    CategoricalEntropy,
    DirichletDensity,
    IsotropicGaussian,
    KernelDensity,
    LogDet,
    NearestNeighbour,
    VonMisesFisher,
)

PROFILE = settings(deadline=None, max_examples=25, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)
every_density = pytest.mark.parametrize("name", sorted(LATENT_DENSITIES))


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def points(name, n_samples, n_features, seed=0):
    """Points of the space of a density."""
    return LATENT_DENSITIES[name](1.0).project(normal(n_samples, n_features, seed=seed))


def on_sphere(n_samples, n_features, seed=0):
    return normalize(normal(n_samples, n_features, seed=seed), dim=1)


def log_area(n_features):
    """Logarithm of the area of the unit sphere."""
    half = n_features / 2
    return math.log(2) + half * math.log(math.pi) - math.lgamma(half)


# ---------------------------------------------------------------------------- densities


@pytest.mark.parametrize("concentration", [0.3, 4.0, 50.0])
def test_directions_on_the_circle_and_the_sphere_integrate_to_one(concentration):
    density = VonMisesFisher(concentration)

    def value(angle, n_features):
        z = torch.zeros(1, n_features, dtype=torch.float64)
        z[0, 0], z[0, 1] = math.cos(angle), math.sin(angle)
        pole = torch.eye(n_features, dtype=torch.float64)[:1]
        return float(density.log_prob(z, pole).exp())

    circle = 2 * quad(value, 0, math.pi, args=(2,))[0]
    sphere = quad(lambda a: 2 * math.pi * math.sin(a) * value(a, 3), 0, math.pi)[0]
    assert circle == pytest.approx(1, abs=1e-8)
    assert sphere == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("n_features", [2, 5, 40])
@pytest.mark.parametrize("concentration", [0.01, 1.0, 300.0])
def test_the_constant_of_directions_is_that_of_the_bessel_function(
    n_features, concentration
):
    order = n_features / 2 - 1
    bessel = math.log(ive(order, concentration)) + concentration
    expected = n_features / 2 * math.log(2 * math.pi) + bessel
    expected -= order * math.log(concentration)
    actual = VonMisesFisher(concentration).log_normaliser(n_features)
    assert actual == pytest.approx(expected, abs=1e-9)


def test_the_constant_of_directions_does_not_underflow():
    # A flat density: the logarithm of the area.
    actual = VonMisesFisher(1e-3).log_normaliser(4096)
    assert actual == pytest.approx(log_area(4096), rel=1e-9)


def test_points_of_plane_and_simplex_have_the_densities_of_peers():
    z, centre = normal(5, 3), normal(5, 3, seed=1)
    peer = torch.distributions.Normal(centre, 0.5**0.5).log_prob(z).sum(1)
    torch.testing.assert_close(IsotropicGaussian(2.0).log_prob(z, centre), peer)
    z, centre = points("dirichlet", 5, 4), points("dirichlet", 5, 4, seed=1)
    peer = [
        dirichlet.logpdf(a / a.sum(), 7 * b + 1)
        for a, b in zip(z.numpy(), centre.numpy(), strict=True)
    ]
    np.testing.assert_allclose(DirichletDensity(7.0).log_prob(z, centre), peer)


def test_a_corner_of_the_simplex_has_a_dirichlet_density():
    corners = torch.eye(2, dtype=torch.float64)
    density = DirichletDensity(20.0)
    # Beta(21, 1) at one and at zero.
    expected = torch.tensor([[math.log(21), -math.inf], [-math.inf, math.log(21)]])
    torch.testing.assert_close(
        density.pairwise_log_prob(corners, corners), expected.double()
    )
    rows = density.log_prob(corners, corners)
    torch.testing.assert_close(rows, expected.diagonal().double())
    assert float(density.log_prob(corners[:1], corners[1:])) == -math.inf


def test_the_categorical_density_is_the_expectation_over_classes():
    z, centre = points("categorical", 5, 4), points("categorical", 5, 4, seed=1)
    beta = 1.7
    p = math.exp(beta) / (math.exp(beta) + 3)
    table = np.full((4, 4), (1 - p) / 3) + (p - (1 - p) / 3) * np.eye(4)
    expected = np.einsum("ik,kl,il->i", centre, np.log(table), z)
    actual = CategoricalDensity(beta).log_prob(z, centre)
    np.testing.assert_allclose(actual, expected)
    again = CategoricalDensity.with_agreement(p, 4)
    assert again.concentration == pytest.approx(beta)


@every_density
def test_pairs_have_the_densities_of_rows(name):
    density = LATENT_DENSITIES[name](3.0)
    z, centres = points(name, 6, 4), points(name, 5, 4, seed=1)
    pairs = density.pairwise_log_prob(z, centres)
    rows = [density.log_prob(z, centre.expand(6, -1)) for centre in centres]
    torch.testing.assert_close(pairs, torch.stack(rows, dim=1))


def test_pairs_far_from_the_origin_keep_their_digits():
    z = 1e4 + normal(6, 3)
    near = IsotropicGaussian(9.0).pairwise_log_prob(z - 1e4, z - 1e4)
    torch.testing.assert_close(IsotropicGaussian(9.0).pairwise_log_prob(z, z), near)


@every_density
@pytest.mark.parametrize("concentration", [0.0, -1.0, math.inf, math.nan])
def test_a_concentration_that_is_none_is_refused(name, concentration):
    with pytest.raises(ValueError, match="must be positive and finite"):
        LATENT_DENSITIES[name](concentration)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_logarithms_of_points_of_the_simplex_are_finite(dtype):
    z = DirichletDensity().project(torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype))
    assert bool(torch.isfinite(z.log()).all())
    torch.testing.assert_close(z.sum(1), torch.ones(1, dtype=dtype))


# ------------------------------------------------------------------- kernel densities


@every_density
@pytest.mark.parametrize("leave_one_out", [True, False])
def test_the_entropy_of_kernels_is_its_formula(name, leave_one_out):
    kernel = LATENT_DENSITIES[name](3.0)
    z = points(name, 12, 3)
    total = 0.0
    for i, row in enumerate(z):
        others = torch.cat([z[:i], z[i + leave_one_out :]])
        values = [float(kernel.log_prob(row[None], other[None])) for other in others]
        total -= math.log(np.mean(np.exp(values)))
    actual = float(KernelDensity(kernel, 1.0, leave_one_out).entropy(z))
    assert actual == pytest.approx(total / 12, abs=1e-10)
    loss = KernelDensity(kernel, 0.7, leave_one_out)(z)
    assert float(loss) == pytest.approx(-0.7 * total / 12)


@given(st.floats(0.1, 20.0), st.floats(0.1, 10.0))
def test_its_own_kernel_holds_an_embedding_that_is_alone(distance, bandwidth):
    def pull(leave_one_out):
        z = torch.tensor([[0.0], [distance]], dtype=torch.float64, requires_grad=True)
        kernel = IsotropicGaussian(bandwidth**-2)
        entropy = KernelDensity(kernel, leave_one_out=leave_one_out).entropy(z)
        return abs(float(torch.autograd.grad(entropy, z)[0][1]))

    assert pull(True) == pytest.approx(distance / bandwidth**2)
    assert pull(False) <= 0.4 / bandwidth


@pytest.mark.parametrize("bandwidth", [0.3, 1.0])
@pytest.mark.parametrize("n_features", [1, 3])
def test_kernels_in_the_plane_give_the_entropy_after_smoothing(bandwidth, n_features):
    """The cross entropy of a Gaussian from the same with the variance of a kernel."""
    z = normal(2000, n_features)
    variance = 1 + bandwidth**2
    truth = 0.5 * n_features * (math.log(2 * math.pi * variance) + 1 / variance)
    estimate = KernelDensity(IsotropicGaussian(bandwidth**-2)).entropy(z)
    assert float(estimate) == pytest.approx(truth, abs=0.08)


@pytest.mark.parametrize("n_features", [2, 3, 6])
def test_kernels_on_the_sphere_give_the_logarithm_of_its_area(n_features):
    z = on_sphere(3000, n_features)
    for concentration in (1.0, 20.0):
        estimate = KernelDensity(VonMisesFisher(concentration)).entropy(z)
        assert float(estimate) == pytest.approx(log_area(n_features), abs=0.05)


@pytest.mark.parametrize("n_features", [2, 4])
def test_kernels_on_the_simplex_give_the_logarithm_of_its_volume(n_features):
    generator = np.random.default_rng(0)
    z = torch.from_numpy(generator.dirichlet(np.ones(n_features), 3000))
    estimate = float(KernelDensity(DirichletDensity(100.0)).entropy(z))
    assert estimate == pytest.approx(-math.lgamma(n_features), abs=0.1)


@every_density
@pytest.mark.parametrize("block_numbers", [1, 70])
def test_blocks_change_neither_values_nor_gradients(name, block_numbers, monkeypatch):
    estimate = KernelDensity(LATENT_DENSITIES[name](2.0)).entropy
    views = [points(name, 20, 3, seed=s).requires_grad_() for s in (0, 1)]
    value = estimate(*views)
    gradients = torch.autograd.grad(value, views)
    monkeypatch.setattr(
        "skgmje.latent._kernel_density.KERNEL_BLOCK_NUMBERS", block_numbers
    )
    again = estimate(*views)
    torch.testing.assert_close(again, value)
    torch.testing.assert_close(torch.autograd.grad(again, views), gradients)


def test_no_array_of_all_pairs_is_made(monkeypatch):
    limit = 2**12
    monkeypatch.setattr("skgmje.latent._kernel_density.KERNEL_BLOCK_NUMBERS", limit)
    sizes = []

    class Recorded(VonMisesFisher):
        def pairwise_log_prob(self, z, centres):
            kernels = super().pairwise_log_prob(z, centres)
            sizes.append(kernels.numel())
            return kernels

    z = on_sphere(1000, 3).requires_grad_()
    KernelDensity(Recorded()).entropy(z).backward()
    # Forwards and again backwards.
    assert len(sizes) == 500
    assert max(sizes) <= limit


@every_density
def test_gradients_of_kernels_are_those_of_finite_differences(name):
    kernel = LATENT_DENSITIES[name](2.0)

    def value(z):
        return KernelDensity(kernel)(kernel.project(z))

    assert torch.autograd.gradcheck(value, (normal(8, 3).requires_grad_(),))


# ----------------------------------------------------------- neighbours on the sphere


@pytest.mark.parametrize(("n_features", "margin"), [(2, 0.06), (3, 0.08), (5, 0.2)])
def test_neighbours_on_the_sphere_give_the_logarithm_of_its_area(n_features, margin):
    z = on_sphere(4000, n_features)
    estimate = float(NearestNeighbour(geodesic=True).entropy(z))
    assert estimate == pytest.approx(log_area(n_features), abs=margin)


def test_neighbours_along_arcs_are_found_among_pairs_of_directions():
    views = [on_sphere(40, 3, seed=s) for s in (0, 1)]
    cosines = [(view @ view.mT).clamp(-1, 1) for view in views]
    arcs = sum(cosine.acos() ** 2 for cosine in cosines).sqrt()
    nearest = arcs.fill_diagonal_(math.inf).sort(dim=1).values[:, 1]
    estimate = NearestNeighbour(k=2, geodesic=True)
    constant = float(estimate.entropy(*views)) - 4 * float(nearest.log().mean())
    # Psi(40) - psi(2) and the volume of a ball of four dimensions.
    expected = 3.676327374 - 0.422784335 + math.log(math.pi**2 / 2)
    assert constant == pytest.approx(expected, abs=1e-5)


def test_equal_and_opposite_directions_have_finite_gradients():
    z = torch.tensor([[1.0, 0.0]] * 3 + [[-1.0, 0.0]], requires_grad=True)
    value = NearestNeighbour(k=1, geodesic=True).entropy(z)
    (gradient,) = torch.autograd.grad(value, z)
    assert math.isfinite(value.item())
    assert bool(torch.isfinite(gradient).all())


def test_outliers_are_cut_off_at_a_quantile_and_have_no_pull():
    z = torch.cat([normal(99, 2), torch.full((1, 2), 100.0).double()])
    z.requires_grad_()
    whole, cut = NearestNeighbour(), NearestNeighbour(clip_quantile=0.9)
    assert cut.entropy(z).item() < whole.entropy(z).item()
    assert float(torch.autograd.grad(whole.entropy(z), z)[0][-1].abs().sum()) > 0
    assert float(torch.autograd.grad(cut.entropy(z), z)[0][-1].abs().sum()) == 0


# ------------------------------------------------------------------- several views


ESTIMATES = {
    "log_det": LogDet(),
    "knn": NearestNeighbour(),
    "kde": KernelDensity(IsotropicGaussian(9.0)),
}


@pytest.mark.parametrize("name", sorted(ESTIMATES))
def test_entropies_of_independent_views_add_up(name):
    entropy = ESTIMATES[name].entropy
    views = normal(1500, 1), 0.5 * normal(1500, 1, seed=1)
    apart = sum(float(entropy(view)) for view in views)
    assert float(entropy(*views)) == pytest.approx(apart, abs=0.08)
    again = float(entropy(torch.cat(views, dim=1)))
    assert float(entropy(*views)) == pytest.approx(again, abs=1e-9)


@PROFILE
@given(SEEDS, st.integers(2, 5))
def test_the_entropies_of_classes_are_those_of_their_table(seed, n_classes):
    views = [points("categorical", 9, n_classes, seed=seed + s) for s in (0, 1)]
    table = np.mean([np.outer(a, b) for a, b in zip(*views, strict=True)], axis=0)
    entropy = CategoricalEntropy().entropy
    joint = float(entropy(*views))
    assert joint == pytest.approx(-(table * np.log(table)).sum(), abs=1e-9)
    first, second = (float(entropy(view)) for view in views)
    assert max(first, second) <= joint + 1e-9 <= first + second + 2e-9


def test_the_entropy_of_classes_has_a_gradient_where_one_has_no_probability():
    logits = torch.tensor([[0.0, 1.0, -1e4]] * 4, requires_grad=True)
    entropy = CategoricalEntropy().entropy(logits.softmax(-1))
    (gradient,) = torch.autograd.grad(entropy, logits)
    p = torch.tensor([0.0, 1.0]).softmax(0)
    slope = p * (-p.log() - torch.special.entr(p).sum()) / 4
    torch.testing.assert_close(gradient[0, :2], slope, atol=1e-6, rtol=0)
    assert not gradient[:, 2].any()


def test_kernels_need_two_embeddings():
    with pytest.raises(ValueError, match="at least two embeddings; got 1"):
        KernelDensity()(normal(1, 2))
