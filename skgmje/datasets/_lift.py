"""A narrow view, pushed through a random network to many columns."""

import numpy as np

from skgmje._backend import resolve_random_state


def lift_view(view, n_features=32, *, random_state=0):
    """Push a view through a fixed random network of one hidden layer.

    The network is analytic, and one-to-one almost surely if the lifted view is more
    than twice as wide as the view. It then hides the view without losing anything:

    * for a lifted context, ``p(y | lifted x) = p(y | x)``, so that the oracle and every
      conditional density, draw or branch of y compare as before;
    * for a lifted target a density no longer exists, but the mutual information of the
      views, what `score` bounds with a learned target, is that of the views below.

    Parameters
    ----------
    view : array-like of shape (n_samples, n_columns) or (n_samples,)
        The view, of a scale near one; one dimension is one column.
    n_features : int, default=32
        Width of the hidden layer and of the result.
    random_state : int or RandomState instance, default=0
        Seed of the network. Lift training and test rows with the same number.

    Returns
    -------
    lifted : ndarray of shape (n_samples, n_features)
        The wide view, of a scale near one.

    Raises
    ------
    ValueError
        If the view is no table of rows and columns.

    Examples
    --------
    >>> from skgmje.datasets import lift_view, make_branches
    >>> X, y = make_branches(5, random_state=0)
    >>> lift_view(X).shape
    (5, 32)
    """
    view = np.asarray(view, dtype=float)
    if view.ndim == 1:
        view = view.reshape(-1, 1)
    if view.ndim != 2:
        raise ValueError(
            "The view must have the shape (n_samples, n_columns) or (n_samples,); got "
            f"{view.shape}."
        )
    rng = resolve_random_state(random_state)
    weights = rng.standard_normal((view.shape[1], n_features))
    hidden = np.tanh(2 * view @ weights + rng.standard_normal(n_features))
    return hidden @ rng.standard_normal((n_features, n_features)) / np.sqrt(n_features)
