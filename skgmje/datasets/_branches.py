"""Inputs with several right answers: y lies on one of a few curves over x."""

import numpy as np
from scipy.special import logsumexp

from skgmje._backend import resolve_random_state


def _separated(x: np.ndarray) -> np.ndarray:
    wave = 0.5 * np.sin(np.pi * x)
    return np.stack([wave + 1.5, 0.3 * x, -wave - 1.5])


def _intersecting(x: np.ndarray) -> np.ndarray:
    return np.stack([x, -x, 0.6 * np.sin(2 * np.pi * x)])


_BRANCHES = {"separated": _separated, "intersecting": _intersecting}


def make_branches(
    n_samples=1000,
    *,
    kind="separated",
    noise=0.05,
    random_state=None,
    return_branch=False,
):
    """Make pairs in which each input has three equally likely answers.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of pairs.
    kind : {'separated', 'intersecting'}, default='separated'
        Three curves that keep apart, or three that cross.
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

    See Also
    --------
    branch_log_density : The true conditional density.

    References
    ----------
    Three separated branches with noise 0.05 are those of Y. Huang, "Gaussian Joint
    Embeddings for Self-Supervised Representation Learning", arXiv:2603.26799 (2026);
    the curves themselves are our choice.

    Examples
    --------
    >>> from skgmje.datasets import make_branches
    >>> X, y = make_branches(5, random_state=0)
    >>> X.shape, y.shape
    ((5, 1), (5, 1))
    """
    rng = resolve_random_state(random_state)
    x = rng.uniform(-1, 1, n_samples)
    curves = _BRANCHES[kind](x)
    branch = rng.randint(len(curves), size=n_samples)
    y = curves[branch, np.arange(n_samples)] + noise * rng.standard_normal(n_samples)
    pair = x[:, np.newaxis], y[:, np.newaxis]
    return (*pair, branch) if return_branch else pair


def branch_log_density(X, y, *, kind="separated", noise=0.05):
    """Conditional log-density of the pairs of `make_branches`: the oracle.

    Parameters
    ----------
    X : array-like of shape (n_samples, 1)
        Inputs.
    y : array-like of shape (n_samples, 1)
        Answers.
    kind : {'separated', 'intersecting'}, default='separated'
        The curves.
    noise : float, default=0.05
        Standard deviation of y about its curve.

    Returns
    -------
    log_density : ndarray of shape (n_samples,)
        ``log p(y | x)`` in nats.

    Examples
    --------
    >>> from skgmje.datasets import branch_log_density
    >>> branch_log_density([[0.0]], [[0.0]]).round(3)
    array([0.978])
    """
    curves = _BRANCHES[kind](np.asarray(X, dtype=float)[:, 0])
    residual = (np.asarray(y, dtype=float)[:, 0] - curves) / noise
    log_norm = np.log(len(curves)) + np.log(noise) + 0.5 * np.log(2 * np.pi)
    return logsumexp(-0.5 * residual**2, axis=0) - log_norm
