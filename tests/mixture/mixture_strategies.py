"""Random mixtures and their reference formulas in plain NumPy."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from scipy.special import softmax

from skgmje import MultivariateNormalMixture

# Those of the estimator, and those of the density.
COVARIANCE_TYPES = ("full", "tied", "diag", "spherical")
DENSITY_TYPES = (*COVARIANCE_TYPES, "low_rank")
# The same examples at every run, so that a red test is never an unlucky draw.
PROFILE = settings(deadline=None, max_examples=40, derandomize=True)

SEEDS = st.integers(0, 2**31 - 1)
BATCH_SHAPES = st.sampled_from([(), (2,), (3, 2)])
# Which of weights, means and scale carry the batch dimensions.
LAYOUTS = st.sampled_from(
    [("weights", "means", "scale"), ("weights", "means"), ("means",), ("scale",)]
)


def double(array):
    return torch.tensor(array, dtype=torch.float64)


def random_factor(rng, covariance_type, leading_shape, n_features):
    """Draw well-conditioned scales of one covariance type.

    Those of low rank are [factor, diagonal], of any rank from none to more than enough.
    """
    if covariance_type == "spherical":
        return np.exp(rng.uniform(-0.6, 0.6, leading_shape))
    if covariance_type == "tied":
        leading_shape = (*leading_shape[:-1], 1)
    diagonal = np.exp(rng.uniform(-0.6, 0.6, (*leading_shape, n_features)))
    if covariance_type == "diag":
        return diagonal
    if covariance_type == "low_rank":
        rank = rng.integers(0, n_features + 2)
        loadings = rng.normal(scale=0.7, size=(*leading_shape, n_features, rank))
        return np.concatenate([loadings, diagonal[..., None]], axis=-1)
    below = rng.normal(scale=0.4, size=(*leading_shape, n_features, n_features))
    return np.tril(below, -1) + diagonal[..., None] * np.eye(n_features)


def scale_parameters(covariance_type, factor):
    """Return the arguments of a mixture for scales as `random_factor` draws them."""
    if covariance_type == "low_rank":
        return {"cov_factor": factor[..., :-1], "cov_diag": factor[..., -1]}
    names = {"diag": "scale_diag", "spherical": "scale_spherical"}
    return {names.get(covariance_type, "scale_tril"): factor}


def random_mixture(
    rng,
    covariance_type="full",
    n_components=3,
    n_features=3,
    batch_shape=(),
    layout=("weights", "means", "scale"),
):
    """Draw a float64 mixture; only the parameters in `layout` have the batch shape."""
    batch = {
        name: batch_shape if name in layout else ()
        for name in ("weights", "means", "scale")
    }
    weights = rng.dirichlet(np.full(n_components, 2.0), size=batch["weights"])
    means = rng.normal(scale=1.5, size=(*batch["means"], n_components, n_features))
    factor = random_factor(
        rng, covariance_type, (*batch["scale"], n_components), n_features
    )
    return MultivariateNormalMixture(
        double(weights),
        double(means),
        **scale_parameters(covariance_type, double(factor)),
    )


def random_points(rng, mixture, *sample_shape):
    shape = (*sample_shape, *mixture.batch_shape, *mixture.event_shape)
    return double(rng.normal(scale=2.0, size=shape))


@st.composite
def splits(draw, covariance_type, n_components=(1, 4), min_given=1, min_rest=1):
    """Draw (rng, mixture, given, rest): a mixture and a split of its coordinates.

    The given coordinates come in any order, the rest in ascending order.
    """
    rng = np.random.default_rng(draw(SEEDS))
    n_features = draw(st.integers(max(2, min_given + min_rest), 5))
    mixture = random_mixture(
        rng,
        covariance_type,
        draw(st.integers(*n_components)),
        n_features,
        draw(BATCH_SHAPES),
        draw(LAYOUTS),
    )
    order = draw(st.permutations(range(n_features)))
    n_given = draw(st.integers(min_given, n_features - min_rest))
    return rng, mixture, list(order[:n_given]), sorted(order[n_given:])


def with_covariances(weights, means, covariances, covariance_type):
    """Build a mixture from dense covariances of shape (*batch, K, D, D)."""
    if covariance_type == "spherical":
        factor = covariances[..., 0, 0].sqrt()
    elif covariance_type == "diag":
        factor = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    elif covariance_type == "low_rank":
        floor = 0.5 * torch.linalg.eigvalsh(covariances)[..., :1].expand(
            covariances.shape[:-1]
        )
        loadings = torch.linalg.cholesky(covariances - torch.diag_embed(floor))
        factor = torch.cat([loadings, floor.unsqueeze(-1)], dim=-1)
    else:
        factor = torch.linalg.cholesky(covariances)
        if covariance_type == "tied":
            factor = factor[..., :1, :, :]
    return MultivariateNormalMixture(
        weights, means, **scale_parameters(covariance_type, factor)
    )


def assert_close(actual, expected, tol=1e-9):
    """Compare in float64; well-conditioned draws lose at most a few digits."""
    actual, expected = (
        torch.as_tensor(value, dtype=torch.float64) for value in (actual, expected)
    )
    assert actual.shape == expected.shape
    torch.testing.assert_close(actual, expected, rtol=tol, atol=tol)


def assert_same_mixture(actual, expected):
    """Compare two batches of mixtures component by component."""
    assert actual.batch_shape == expected.batch_shape
    assert actual.event_shape == expected.event_shape
    assert_close(actual.weights, expected.weights)
    assert_close(actual.means, expected.means)
    assert_close(actual.component_covariances, expected.component_covariances)


def textbook_log_joint(weights, means, covariances, point):
    """Weighted log-densities of the components, by inverse and determinant."""
    deviations = point - means
    exponents = -0.5 * np.einsum(
        "ki,kij,kj->k", deviations, np.linalg.inv(covariances), deviations
    )
    log_norms = 0.5 * np.linalg.slogdet(2 * np.pi * covariances)[1]
    return np.log(weights) + exponents - log_norms


def textbook_condition(weights, means, covariances, given, rest, value):
    """Parameters of one conditioned mixture, component by component (1.13)."""
    new_means, new_covariances = [], []
    for mean, covariance in zip(means, covariances, strict=True):
        precision = np.linalg.inv(covariance[np.ix_(given, given)])
        gain = covariance[np.ix_(rest, given)] @ precision
        new_means.append(mean[rest] + gain @ (value - mean[given]))
        new_covariances.append(
            covariance[np.ix_(rest, rest)] - gain @ covariance[np.ix_(given, rest)]
        )
    block = covariances[:, given][:, :, given]
    new_weights = softmax(textbook_log_joint(weights, means[:, given], block, value))
    return new_weights, np.array(new_means), np.array(new_covariances)


def flat_parameters(mixture):
    """Yield NumPy (weights, means, covariances) of each mixture of the batch."""
    n_components, n_features = mixture.n_components, mixture.event_shape[0]
    yield from zip(
        mixture.weights.reshape(-1, n_components).numpy(),
        mixture.means.reshape(-1, n_components, n_features).numpy(),
        mixture.component_covariances.reshape(
            -1, n_components, n_features, n_features
        ).numpy(),
        strict=True,
    )
