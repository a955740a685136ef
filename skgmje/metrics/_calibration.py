"""Calibration of conditional densities over one coordinate."""

import numpy as np

from skgmje._backend import as_numpy, as_tensor
from skgmje.mixture import ConditionalFrame


def pit_values(conditional, y):
    """Probability integral transform: the probability below each observed value.

    Parameters
    ----------
    conditional : MultivariateNormalMixture or ConditionalFrame
        Batch of n_samples mixtures over one coordinate, as `conditional` of an embedder
        or `condition` of a mixture gives it.
    y : array-like of shape (n_samples,) or (n_samples, 1)
        What was observed.

    Returns
    -------
    pit : ndarray of shape (n_samples,)
        ``F(y | x)``, from 0 to 1. Uniform if the densities are the true ones.

    Raises
    ------
    ValueError
        If the mixtures have several coordinates, or `y` does not match them.

    References
    ----------
    T. Gneiting, F. Balabdaoui and A. Raftery, "Probabilistic forecasts, calibration and
    sharpness", Journal of the Royal Statistical Society B 69 (2007).

    Examples
    --------
    >>> from skgmje.datasets import branch_conditional
    >>> from skgmje.metrics import pit_values
    >>> pit_values(branch_conditional([[0.0], [0.0]]), [0.0, 3.0]).round(3)
    array([0.5, 1. ])
    """
    if isinstance(conditional, ConditionalFrame):
        conditional = conditional.density
    y = as_tensor(y, conditional.mean.device)
    if y.numel() != len(conditional.mean):
        raise ValueError(
            f"y must have one value for each of the {len(conditional.mean)} densities; "
            f"got shape {tuple(y.shape)}."
        )
    return as_numpy(conditional.cdf(y.reshape(-1, 1)))


def calibration_error(conditional, y):
    """Distance of the probability integral transform from the uniform distribution.

    The area between the distribution function of the `pit_values` and the diagonal:
    the mean, over all levels q, of the gap between q and the share of observations
    below their own q-quantile. Zero means calibrated, not sharp.

    Parameters
    ----------
    conditional : MultivariateNormalMixture or ConditionalFrame
        Batch of n_samples mixtures over one coordinate.
    y : array-like of shape (n_samples,) or (n_samples, 1)
        What was observed.

    Returns
    -------
    error : float
        From 0 to 0.5. The true densities have about ``0.31 / sqrt(n_samples)``.

    Raises
    ------
    ValueError
        If the mixtures have several coordinates, or `y` does not match them.

    See Also
    --------
    calibration_scorer : The same for a fitted estimator.

    Examples
    --------
    >>> from skgmje.datasets import branch_conditional, make_branches
    >>> from skgmje.metrics import calibration_error
    >>> X, y = make_branches(1000, random_state=0)
    >>> calibration_error(branch_conditional(X), y) < 0.02
    True
    >>> calibration_error(branch_conditional(X, noise=0.5), y) > 0.03
    True
    """
    pit = np.sort(pit_values(conditional, y))
    edges = np.concatenate([[0.0], pit, [1.0]])
    share = np.arange(len(pit) + 1) / len(pit)
    # The integral of |share - q| over each step of the distribution function.
    above, below = edges[1:] - share, edges[:-1] - share
    return float((above * np.abs(above) - below * np.abs(below)).sum() / 2)


def calibration_scorer(estimator, X, y):
    """Minus the calibration error of an estimator: a scorer for model selection.

    Parameters
    ----------
    estimator : object with `conditional`
        A fitted embedder whose target encoder is the identity.
    X : array-like of shape (n_samples, n_features)
        Context view.
    y : array-like of shape (n_samples,) or (n_samples, 1)
        Target view.

    Returns
    -------
    score : float
        From -0.5 to 0; larger is better.

    Raises
    ------
    ValueError
        If the target has several columns, or an encoder that is not the identity.

    Examples
    --------
    >>> from sklearn.model_selection import cross_val_score
    >>> from skgmje import GMJEEmbedder
    >>> from skgmje.datasets import make_branches
    >>> from skgmje.metrics import calibration_scorer
    >>> X, y = make_branches(600, random_state=0)
    >>> gmje = GMJEEmbedder(9, encoder="identity", random_state=0)
    >>> scores = cross_val_score(gmje, X, y, scoring=calibration_scorer, cv=3)
    >>> bool(scores.min() > -0.1)
    True
    """
    encoder = getattr(estimator, "target_encoder_", None)
    if encoder is not None and not encoder.is_identity:
        raise ValueError(
            f"{type(estimator).__name__} has densities of a target that it embeds, not "
            "of y; fit an embedder whose target encoder is the identity."
        )
    return -calibration_error(estimator.conditional(X), y)
