"""Curves in the plane as conditional problems: several y, or none, for one x."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp
from sklearn.utils import gen_batches

from skgmje._backend import resolve_random_state
from skgmje._validation import check_consistent_length
from skgmje.datasets._branches import as_column, check_noise

# Gauss-Legendre nodes of a panel that is at most two standard deviations of the noise
# long: exact to rounding, at the ends of a curve too.
PANEL_NODES = 10
# Numbers of one block of the quadrature.
BLOCK_NUMBERS = 2**22
_HALF_LOG_2PI = 0.5 * np.log(2 * np.pi)


class _Curve(NamedTuple):
    """Pieces ``t -> (x, y)`` of a curve over 0 < t < 1, and where it has noise."""

    pieces: Callable[[np.ndarray], np.ndarray]
    top_speed: float
    noise_on_y: bool = True


def _inverse(t: np.ndarray) -> np.ndarray:
    return np.stack([t + 0.3 * np.sin(2 * np.pi * t), t])[np.newaxis]


def _moons(t: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(np.pi * t), np.sin(np.pi * t)
    return np.stack([np.stack([cos, sin]), np.stack([1 - cos, 0.5 - sin])])


def _spiral(t: np.ndarray) -> np.ndarray:
    angle = 4 * np.pi * t
    return (t * np.stack([np.cos(angle), np.sin(angle)]))[np.newaxis]


_INVERSE = _Curve(_inverse, top_speed=3.0, noise_on_y=False)
_CURVES = {
    "moons": _Curve(_moons, top_speed=np.pi),
    "spiral": _Curve(_spiral, top_speed=4 * np.pi),
}


def make_inverse(n_samples=1000, *, noise=0.05, random_state=None):
    """Make Bishop's inverse problem: find y from ``x = y + 0.3 sin(2 pi y)`` and noise.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of pairs.
    noise : float, default=0.05
        Standard deviation of x about the curve.
    random_state : int, RandomState instance or None, default=None
        Seed.

    Returns
    -------
    X : ndarray of shape (n_samples, 1)
        Inputs. In the middle three y give the same x.
    y : ndarray of shape (n_samples, 1)
        Answers, uniform on (0, 1).

    Raises
    ------
    ValueError
        If `noise` is not positive and finite.

    See Also
    --------
    inverse_log_density : The true conditional log-density.

    References
    ----------
    C. Bishop, "Mixture Density Networks" (1994), with Gaussian noise in place of
    uniform noise.

    Examples
    --------
    >>> from skgmje.datasets import make_inverse
    >>> X, y = make_inverse(5, random_state=0)
    >>> X.shape, y.shape
    ((5, 1), (5, 1))
    """
    return _draw(_INVERSE, n_samples, noise, random_state)


def inverse_log_density(X, y, *, noise=0.05):
    """Conditional log-density of the pairs of `make_inverse`, by quadrature over y.

    Parameters
    ----------
    X : array-like of shape (n_samples, 1) or (n_samples,)
        Inputs.
    y : array-like of shape (n_samples, 1) or (n_samples,)
        Answers; outside of (0, 1) the density is zero.
    noise : float, default=0.05
        As in `make_inverse`.

    Returns
    -------
    log_density : ndarray of shape (n_samples,)
        ``log p(y | x)`` in nats.

    Raises
    ------
    ValueError
        If `noise` is not positive and finite, or X and y are not two columns of one
        length.

    Examples
    --------
    >>> from skgmje.datasets import inverse_log_density
    >>> inverse_log_density([[0.5]], [[0.5]]).round(2)
    array([1.03])
    """
    return _log_density(_INVERSE, X, y, noise)


def make_curves(n_samples=1000, *, kind="moons", noise=0.05, random_state=None):
    """Make two moons or a spiral as pairs: one x has up to four answers y.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of pairs.
    kind : {'moons', 'spiral'}, default='moons'
        The two half circles of :func:`sklearn.datasets.make_moons`, with equal
        probability, or a spiral of two turns to radius one. Both are uniform in their
        angle.
    noise : float, default=0.05
        Standard deviation of x and of y about the curve.
    random_state : int, RandomState instance or None, default=None
        Seed.

    Returns
    -------
    X : ndarray of shape (n_samples, 1)
        Horizontal coordinates.
    y : ndarray of shape (n_samples, 1)
        Vertical coordinates.

    Raises
    ------
    ValueError
        If `kind` is not known or `noise` is not positive and finite.

    See Also
    --------
    curve_log_density : The true conditional log-density.

    Examples
    --------
    >>> from skgmje.datasets import make_curves
    >>> X, y = make_curves(5, kind="spiral", random_state=0)
    >>> X.shape, y.shape
    ((5, 1), (5, 1))
    """
    return _draw(_curve(kind), n_samples, noise, random_state)


def curve_log_density(X, y, *, kind="moons", noise=0.05):
    """Conditional log-density of the pairs of `make_curves`, by quadrature.

    Parameters
    ----------
    X : array-like of shape (n_samples, 1) or (n_samples,)
        Horizontal coordinates.
    y : array-like of shape (n_samples, 1) or (n_samples,)
        Vertical coordinates.
    kind : {'moons', 'spiral'}, default='moons'
        As in `make_curves`.
    noise : float, default=0.05
        As in `make_curves`.

    Returns
    -------
    log_density : ndarray of shape (n_samples,)
        ``log p(y | x)`` in nats.

    Raises
    ------
    ValueError
        If `kind` is not known, `noise` is not positive and finite, or X and y are not
        two columns of one length.

    Examples
    --------
    >>> from skgmje.datasets import curve_log_density
    >>> curve_log_density([[0.0]], [[1.0]]).round(2)
    array([0.76])
    """
    return _log_density(_curve(kind), X, y, noise)


def _curve(kind: str) -> _Curve:
    if kind not in _CURVES:
        raise ValueError(f"kind must be one of {sorted(_CURVES)}; got {kind!r}.")
    return _CURVES[kind]


def _draw(
    curve: _Curve, n_samples: int, noise: float, random_state
) -> tuple[np.ndarray, np.ndarray]:
    check_noise(noise)
    rng = resolve_random_state(random_state)
    pieces = curve.pieces(rng.uniform(size=n_samples))
    piece = rng.randint(len(pieces), size=n_samples)
    x, y = pieces[piece, :, np.arange(n_samples)].T
    x = x + noise * rng.standard_normal(n_samples)
    if curve.noise_on_y:
        y = y + noise * rng.standard_normal(n_samples)
    return x[:, np.newaxis], y[:, np.newaxis]


def _log_density(curve: _Curve, X, y, noise: float) -> np.ndarray:
    """``log p(x, y) - log p(x)``; the common factor of the noise on x drops out."""
    check_noise(noise)
    check_consistent_length(X, y)
    x, y = as_column(X, "X"), as_column(y, "y")
    nodes, log_weights = _quadrature(int(np.ceil(curve.top_speed / (2 * noise))))
    pieces = curve.pieces(nodes)
    node_x, node_y = (pieces[:, axis].ravel() for axis in (0, 1))
    log_weights = np.tile(log_weights, len(pieces))
    log_density = np.empty(len(x))
    for rows in gen_batches(len(x), max(1, BLOCK_NUMBERS // len(node_x))):
        context = log_weights - 0.5 * ((x[rows] - node_x) / noise) ** 2
        if curve.noise_on_y:
            pair = context - 0.5 * ((y[rows] - node_y) / noise) ** 2
            log_pair = logsumexp(pair, axis=1) - np.log(noise) - _HALF_LOG_2PI
        else:
            log_pair = _log_pair_on_curve(curve, x[rows, 0], y[rows, 0], noise)
        log_density[rows] = log_pair - logsumexp(context, axis=1)
    return log_density


def _log_pair_on_curve(
    curve: _Curve, x: np.ndarray, y: np.ndarray, noise: float
) -> np.ndarray:
    """``log p(x, y)`` where y is the parameter itself, up to the same factor."""
    curve_x = curve.pieces(y)[0, 0]
    inside = (y > 0) & (y < 1)
    return np.where(inside, -0.5 * ((x - curve_x) / noise) ** 2, -np.inf)


def _quadrature(n_panels: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and log-weights of an integral from 0 to 1."""
    node, weight = np.polynomial.legendre.leggauss(PANEL_NODES)
    panels = (np.arange(n_panels)[:, np.newaxis] + (1 + node) / 2) / n_panels
    return panels.ravel(), np.tile(np.log(weight / (2 * n_panels)), n_panels)
