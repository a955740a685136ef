"""How many directions or components are in use."""

import numpy as np
from scipy.stats import entropy

from skgmje._validation import check_array


def effective_rank(Z):
    """Effective number of dimensions of embeddings: a sign of dimensional collapse.

    The exponential of the entropy of the eigenvalues of the covariance, as shares of
    their sum.

    Parameters
    ----------
    Z : array-like of shape (n_samples, n_features)
        Embeddings, of any scale.

    Returns
    -------
    rank : float
        From 1, for points on a line, to n_features, for a round cloud; 0 for one point.

    References
    ----------
    O. Roy and M. Vetterli, "The effective rank: a measure of effective dimensionality",
    EUSIPCO (2007), there of singular values.

    Examples
    --------
    >>> from skgmje.metrics import effective_rank
    >>> round(effective_rank([[1, 0], [-1, 0], [0, 1], [0, -1]]), 6)
    2.0
    """
    Z = check_array(Z, dtype=np.float64)
    deviation = Z - Z.mean(axis=0)
    # Below float64's own noise, which is that of its own numbers, a column is constant.
    noise = 10 * np.finfo(float).eps * np.abs(Z).max(axis=0)
    deviation[:, np.abs(deviation).max(axis=0) <= noise] = 0.0
    peak = np.abs(deviation).max()
    if peak == 0:
        return 0.0
    singular = np.linalg.svd(deviation / peak, compute_uv=False)
    return float(np.exp(entropy(singular**2)))


def usage_perplexity(responsibilities):
    """Effective number of components that are in use.

    The exponential of the entropy of the mean responsibilities.

    Parameters
    ----------
    responsibilities : array-like of shape (n_samples, n_components)
        Posterior probabilities of the components, as `predict_proba` gives them.

    Returns
    -------
    perplexity : float
        From 1, for one component that takes all rows, to n_components.

    Examples
    --------
    >>> from skgmje.metrics import usage_perplexity
    >>> usage_perplexity([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    2.0
    """
    usage = check_array(responsibilities, dtype=np.float64).mean(axis=0)
    return float(np.exp(entropy(usage)))
