"""Two bent and noisy views of points on a sphere."""

import numpy as np

from skgmje._backend import resolve_random_state

# Widths of a view and of what is behind it.
VIEW_WIDTH, LATENT_WIDTH = 10, 3
# The maps belong to the data set, as curves would: two draws have one distribution.
MAPS = np.random.RandomState(0).standard_normal((2, LATENT_WIDTH, VIEW_WIDTH))


def make_sphere_views(n_samples=1000, *, noise=0.1, random_state=None):
    """Make two views of points that are uniform on the sphere.

    A view is ``tanh(y M)`` with a matrix M of its own, plus Gaussian noise. All that
    the views share is y, so that an embedding is as good as y can be read from it.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of pairs.
    noise : float, default=0.1
        Standard deviation of the noise.
    random_state : int, RandomState instance or None, default=None
        Seed of the points and the noise. The matrices are always the same.

    Returns
    -------
    X : ndarray of shape (n_samples, 10)
        First view.
    X_target : ndarray of shape (n_samples, 10)
        Second view.
    y : ndarray of shape (n_samples, 3)
        Points of length one.

    Examples
    --------
    >>> from skgmje.datasets import make_sphere_views
    >>> X, X_target, y = make_sphere_views(5, random_state=0)
    >>> X.shape, X_target.shape, y.shape
    ((5, 10), (5, 10), (5, 3))
    """
    rng = resolve_random_state(random_state)
    y = rng.standard_normal((n_samples, LATENT_WIDTH))
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    views = np.tanh(y @ MAPS)
    views += noise * rng.standard_normal(views.shape)
    return views[0], views[1], y
