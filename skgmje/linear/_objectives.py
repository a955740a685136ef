"""Linear contrastive learning of Gaussian views: one canonical pair at a time.

A tilting multiplies the product of the marginals of two views by
``exp(<G u, H v>)``, or by ``exp(-|G u - H v|^2 / 2)`` if it is quadratic. In canonical
coordinates optimal encoders are diagonal. Of each pair, with correlation s, an
objective asks for two numbers: the gains g and h of the encoders of context and target.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

Gains = tuple[ndarray, ndarray]


@dataclass(frozen=True)
class Objective:
    """A contrastive objective in canonical coordinates.

    Attributes
    ----------
    is_quadratic : bool
        Whether the tilting is quadratic, or an inner product.
    gains : callable
        Optimal gains of context and target from the canonical correlations.
    loss : callable
        Loss of each pair, in nats, from the gains and the correlations. It is that of
        a batch without end, less the logarithm of its size.
    """

    is_quadratic: bool
    gains: Callable[[ndarray], Gains]
    loss: Callable[[ndarray, ndarray, ndarray], ndarray]

    def target_given_context(self, g: ndarray, h: ndarray) -> Gains:
        """Slope and variance of the target coordinate given that of the context."""
        variance = 1 / (1 + h**2) if self.is_quadratic else np.ones_like(h)
        return g * h * variance, variance

    def context_given_target(self, g: ndarray, h: ndarray) -> Gains:
        """Slope and variance of the context coordinate given that of the target."""
        return self.target_given_context(h, g)


def _equal(product: Callable[[ndarray], ndarray]) -> Callable[[ndarray], Gains]:
    """Share a product of gains equally among both encoders."""
    return lambda s: (np.sqrt(product(s)), np.sqrt(product(s)))


def _joint_inner(s: ndarray) -> ndarray:
    # (sqrt(1 + 4 s^2) - 1) / (2 s), without the difference.
    return 2 * s / (1 + np.sqrt(1 + 4 * s**2))


def _conditional_quadratic(s: ndarray) -> ndarray:
    # m - 1 for the root m of 2 (1 - s) = 1/m + 1/m^2, without the difference.
    root = np.sqrt(9 - 8 * s)
    return 8 * s / ((3 + root) * (root - 1))


def _joint_quadratic(s: ndarray) -> ndarray:
    return s / (2 * (1 - s))


def _exact(s: ndarray) -> Gains:
    """Gains that make slope and variance of the second view exact."""
    deviation = np.sqrt((1 - s) * (1 + s))
    return 1 / deviation, s / deviation


def _inner_conditional_loss(g: ndarray, h: ndarray, s: ndarray) -> ndarray:
    return (g * h) ** 2 / 2 - g * h * s


def _inner_joint_loss(g: ndarray, h: ndarray, s: ndarray) -> ndarray:
    return -g * h * s - np.log1p(-((g * h) ** 2)) / 2


def _alignment(g: ndarray, h: ndarray, s: ndarray) -> ndarray:
    return ((g - h) ** 2 + 2 * g * h * (1 - s)) / 2


def _quadratic_target_loss(g: ndarray, h: ndarray, s: ndarray) -> ndarray:
    normaliser = np.log1p(h**2) + g**2 / (1 + h**2)
    return _alignment(g, h, s) - normaliser / 2


def _quadratic_context_loss(g: ndarray, h: ndarray, s: ndarray) -> ndarray:
    return _quadratic_target_loss(h, g, s)


def _quadratic_conditional_loss(g: ndarray, h: ndarray, s: ndarray) -> ndarray:
    return (_quadratic_target_loss(g, h, s) + _quadratic_context_loss(g, h, s)) / 2


def _quadratic_joint_loss(g: ndarray, h: ndarray, s: ndarray) -> ndarray:
    return _alignment(g, h, s) - np.log1p(g**2 + h**2) / 2


OBJECTIVES = {
    "inner_conditional": Objective(False, _equal(lambda s: s), _inner_conditional_loss),
    "inner_joint": Objective(False, _equal(_joint_inner), _inner_joint_loss),
    "quadratic_target": Objective(True, _exact, _quadratic_target_loss),
    "quadratic_context": Objective(
        True, lambda s: _exact(s)[::-1], _quadratic_context_loss
    ),
    "quadratic_conditional": Objective(
        True, _equal(_conditional_quadratic), _quadratic_conditional_loss
    ),
    "quadratic_joint": Objective(True, _equal(_joint_quadratic), _quadratic_joint_loss),
}
