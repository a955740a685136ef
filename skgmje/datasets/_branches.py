"""Inputs with several right answers: y lies on one of a few curves over x."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from skgmje._backend import as_numpy, resolve_random_state
from skgmje._validation import check_consistent_length
from skgmje.mixture import MultivariateNormalMixture


class _Branches(NamedTuple):
    """Curves over x, the probability of each, and how the noise grows with x."""

    curves: Callable[[np.ndarray], np.ndarray]
    weights: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)
    noise_factor: Callable[[np.ndarray], np.ndarray] = np.ones_like


def _separated(x: np.ndarray) -> np.ndarray:
    wave = 0.5 * np.sin(np.pi * x)
    return np.stack([wave + 1.5, 0.3 * x, -wave - 1.5])


def _intersecting(x: np.ndarray) -> np.ndarray:
    return np.stack([x, -x, 0.6 * np.sin(2 * np.pi * x)])


_BRANCHES = {
    "separated": _Branches(_separated),
    "intersecting": _Branches(_intersecting),
    "heteroscedastic": _Branches(_separated, noise_factor=lambda x: 4.0**x),
    "unequal": _Branches(_separated, weights=(0.6, 0.3, 0.1)),
}


def make_branches(
    n_samples=1000,
    *,
    kind="separated",
    noise=0.05,
    random_state=None,
    return_branch=False,
):
    """Make pairs in which each input has three right answers.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of pairs.
    kind : {'separated', 'intersecting', 'heteroscedastic', 'unequal'}, \
default='separated'
        Three curves that keep apart, or three that cross, all equally likely;
        ``'heteroscedastic'``: curves apart, with noise times ``4 ** x``;
        ``'unequal'``: curves apart, with probabilities 0.6, 0.3 and 0.1.
    noise : float, default=0.05
        Standard deviation of y about its curve.
    random_state : int, RandomState instance or None, default=None
        Seed.
    return_branch : bool, default=False
        Whether to return the curve of each pair too.

    Returns
    -------
    X : ndarray of shape (n_samples, 1)
        Inputs, uniform on (-1, 1).
    y : ndarray of shape (n_samples, 1)
        Answers.
    branch : ndarray of int of shape (n_samples,)
        Index of the curve; only if `return_branch`.

    Raises
    ------
    ValueError
        If `kind` is not known or `noise` is not positive and finite.

    See Also
    --------
    branch_conditional : The true conditional density.
    branch_log_density : Its logarithm at the pairs.

    References
    ----------
    Three separated branches with noise 0.05 are those of Y. Huang, "Gaussian Joint
    Embeddings for Self-Supervised Representation Learning", arXiv:2603.26799 (2026);
    the curves themselves, and the other kinds, are our choice.

    Examples
    --------
    >>> from skgmje.datasets import make_branches
    >>> X, y = make_branches(5, random_state=0)
    >>> X.shape, y.shape
    ((5, 1), (5, 1))
    """
    branches = _branches(kind, noise)
    rng = resolve_random_state(random_state)
    x = rng.uniform(-1, 1, n_samples)
    curves = branches.curves(x)
    branch = _draw_branch(rng, branches.weights, n_samples)
    scale = noise * branches.noise_factor(x)
    y = curves[branch, np.arange(n_samples)] + scale * rng.standard_normal(n_samples)
    pair = x[:, np.newaxis], y[:, np.newaxis]
    return (*pair, branch) if return_branch else pair


def branch_conditional(X, *, kind="separated", noise=0.05):
    """Conditional density of the pairs of `make_branches`: the oracle.

    Parameters
    ----------
    X : array-like of shape (n_samples, 1) or (n_samples,)
        Inputs.
    kind : {'separated', 'intersecting', 'heteroscedastic', 'unequal'}, \
default='separated'
        As in `make_branches`.
    noise : float, default=0.05
        As in `make_branches`.

    Returns
    -------
    conditional : MultivariateNormalMixture
        Batch of `n_samples` mixtures over y, with a component for each curve.

    Raises
    ------
    ValueError
        If `kind` is not known, `noise` is not positive and finite, or X has several
        columns.

    Examples
    --------
    >>> from skgmje.datasets import branch_conditional
    >>> branch_conditional([[0.0]]).means.ravel()
    tensor([ 1.5000,  0.0000, -1.5000], dtype=torch.float64)
    """
    branches = _branches(kind, noise)
    x = as_column(X, "X")[:, 0]
    means = branches.curves(x).T
    scale = (noise * branches.noise_factor(x))[:, np.newaxis]
    weights = np.broadcast_to(branches.weights, means.shape)
    return MultivariateNormalMixture(
        torch.tensor(weights),
        torch.tensor(means[:, :, np.newaxis]),
        scale_spherical=torch.tensor(np.broadcast_to(scale, means.shape)),
    )


def branch_log_density(X, y, *, kind="separated", noise=0.05):
    """Conditional log-density of the pairs of `make_branches`: the oracle's score.

    Parameters
    ----------
    X : array-like of shape (n_samples, 1) or (n_samples,)
        Inputs.
    y : array-like of shape (n_samples, 1) or (n_samples,)
        Answers.
    kind : {'separated', 'intersecting', 'heteroscedastic', 'unequal'}, \
default='separated'
        As in `make_branches`.
    noise : float, default=0.05
        As in `make_branches`.

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
    >>> from skgmje.datasets import branch_log_density
    >>> branch_log_density([[0.0]], [[0.0]]).round(3)
    array([0.978])
    """
    check_consistent_length(X, y)
    conditional = branch_conditional(X, kind=kind, noise=noise)
    return as_numpy(conditional.log_prob(torch.tensor(as_column(y, "y"))))


def _branches(kind: str, noise: float) -> _Branches:
    if kind not in _BRANCHES:
        raise ValueError(f"kind must be one of {sorted(_BRANCHES)}; got {kind!r}.")
    check_noise(noise)
    return _BRANCHES[kind]


def check_noise(noise: float) -> None:
    """Refuse a noise that has no density."""
    if not 0 < noise < np.inf:
        raise ValueError(f"noise must be positive and finite; got {noise!r}.")


def as_column(view, name: str) -> np.ndarray:
    """Return a view of one coordinate as numbers of shape (n_samples, 1)."""
    values = np.asarray(view, dtype=float)
    column = values.reshape(-1, 1) if values.ndim == 1 else values
    if column.ndim != 2 or column.shape[1] != 1:
        raise ValueError(
            f"{name} must have one column, of shape (n_samples, 1); got shape "
            f"{values.shape}."
        )
    return column


def _draw_branch(
    rng: np.random.RandomState, weights: tuple[float, ...], n_samples: int
) -> np.ndarray:
    # Equal weights keep the draws that seeds have always given.
    if len(set(weights)) == 1:
        return rng.randint(len(weights), size=n_samples)
    return rng.choice(len(weights), size=n_samples, p=weights)
