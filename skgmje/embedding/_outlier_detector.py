"""Rows, or pairs of rows, that a fitted density finds unlikely."""

from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, OutlierMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from skgmje._validation import (
    HasMethods,
    Interval,
    StrOptions,
    fit_context,
    unchanged_on_error,
)
from skgmje.io import SaveMixin
from skgmje.mixture import GaussianMixture


class OutlierDetector(SaveMixin, MetaEstimatorMixin, OutlierMixin, BaseEstimator):
    """Outliers under the density of an embedder or of a mixture.

    The estimator is cloned and fitted, and rows whose log-density is low are outliers:
    as many of the training rows as `contamination` says. With a target view there are
    also pairs that are outliers because their halves do not belong together, which no
    look at one view finds.

    Read more in the :ref:`User Guide <outliers>`.

    Parameters
    ----------
    embedder : estimator or None, default=None
        Unfitted estimator with the methods `fit` and `score_samples`: any embedder of
        this library, a mixture, a bank, or a density of scikit-learn. None is
        ``GaussianMixture()``, one Gaussian.
    density : {'marginal', 'conditional', 'joint'}, default='marginal'
        What has to be low. ``'marginal'``: what `score_samples` of the embedder says
        of the row of X, mostly the density of its embedding, without a look at y.
        ``'conditional'``: that of the target given the context,
        ``log p(z_t | z_c)``, low where y does not fit X. ``'joint'``: that of both, the
        sum of the two. The last two need an embedder that was given a target view, and
        y at every call.
    contamination : float, default=0.1
        Share of the training rows that are outliers, at most one half.

    Attributes
    ----------
    embedder_ : estimator
        The fitted estimator.
    offset_ : float
        Log-density below which a row is an outlier, in nats.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names of X, if they were strings.

    See Also
    --------
    sklearn.covariance.EllipticEnvelope : One Gaussian, fitted robustly.
    sklearn.ensemble.IsolationForest : Trees, without a density.

    Notes
    -----
    The density is fitted to all rows, outliers too. An encoder was trained to tell what
    the views share, and may map a strange row to a common embedding: where every column
    matters, use ``encoder='identity'`` or a mixture.

    Examples
    --------
    The second row is common in each view, and the pair is not.

    >>> import numpy as np
    >>> from skgmje import GJEEmbedder, OutlierDetector
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 1))
    >>> Y = X + 0.1 * rng.normal(size=(500, 1))
    >>> gje = GJEEmbedder(encoder="identity")
    >>> detector = OutlierDetector(gje, density="conditional", contamination=0.01)
    >>> detector.fit(X, Y).predict([[1.0], [1.0]], [[1.1], [-1.0]])
    array([ 1, -1])
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "embedder": [HasMethods(["fit", "score_samples"]), None],
        "density": [StrOptions({"marginal", "conditional", "joint"})],
        "contamination": [Interval(Real, 0, 0.5, closed="right")],
    }
    embedder_: Any

    def __init__(self, embedder=None, *, density="marginal", contamination=0.1):
        self.embedder = embedder
        self.density = density
        self.contamination = contamination

    @fit_context(prefer_skip_nested_validation=False)
    def fit(self, X, y=None):
        """Fit the density, and find the level that outliers do not reach.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, or the context view.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            Target view, if the embedder takes one.

        Returns
        -------
        self : object
            The fitted detector.

        Raises
        ------
        ValueError
            If the density asks for pairs, and there is no target view.
        """
        with unchanged_on_error(self):
            self.embedder_ = clone(self._embedder()).fit(X, y)
            scores = self.score_samples(X, y)
            self.offset_ = float(np.percentile(scores, 100 * self.contamination))
        return self

    def fit_predict(self, X, y=None):
        """Fit the detector and say which training rows are outliers.

        Parameters
        ----------
        X, y : array-like
            As in `fit`.

        Returns
        -------
        label : ndarray of shape (n_samples,)
            1 for inliers and -1 for outliers.
        """
        return self.fit(X, y).predict(X, y)

    def score_samples(self, X, y=None):
        """Log-density of each row, or of each pair.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, or the context view.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            Target view. Not looked at with ``density='marginal'``.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats, in the units of the embeddings. High is common.

        Raises
        ------
        ValueError
            If the density asks for pairs, and there is no target view.
        """
        check_is_fitted(self)
        if self.density == "marginal":
            return self.embedder_.score_samples(X)
        conditional = self._conditional_log_density(X, y)
        if self.density == "conditional":
            return conditional
        embedder = self.embedder_
        # What `score_samples` says of X alone need not be its density.
        marginal = getattr(embedder, "_context_log_density", embedder.score_samples)
        return marginal(X) + conditional

    def decision_function(self, X, y=None):
        """Log-density above the level of outliers.

        Parameters
        ----------
        X, y : array-like
            As in `score_samples`.

        Returns
        -------
        decision : ndarray of shape (n_samples,)
            In nats; negative for outliers.
        """
        return self.score_samples(X, y) - self.offset_

    def predict(self, X, y=None):
        """Say which rows, or pairs, are outliers.

        Parameters
        ----------
        X, y : array-like
            As in `score_samples`.

        Returns
        -------
        label : ndarray of shape (n_samples,)
            1 for inliers and -1 for outliers.
        """
        return np.where(self.decision_function(X, y) < 0, -1, 1)

    def _conditional_log_density(self, X, y) -> np.ndarray:
        """Return log p(z_t | z_c), in units of y with an identity target."""
        embedder = self.embedder_
        name = type(embedder).__name__
        if not hasattr(embedder, "conditional"):
            raise ValueError(
                f"density={self.density!r} needs an embedder with a conditional, which "
                f"{name} has not; use density='marginal'."
            )
        if y is None or getattr(embedder, "target_source_", "y") == "augment":
            raise ValueError(
                f"density={self.density!r} compares pairs, so that {name} needs a "
                "target view: pass y as a matrix of numbers. density='marginal' looks "
                "at X alone."
            )
        # With a learned target the public method subtracts the density of the target.
        method = getattr(embedder, "_conditional_log_density", embedder.score_samples)
        return method(X, y)

    def _embedder(self) -> Any:
        return GaussianMixture() if self.embedder is None else self.embedder

    @property
    def n_features_in_(self) -> int:
        """Number of columns of X."""
        check_is_fitted(self)
        return self.embedder_.n_features_in_

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Column names of X, if they were strings."""
        return self.embedder_.feature_names_in_

    def __sklearn_is_fitted__(self):
        return hasattr(self, "embedder_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self._embedder()).input_tags
        return tags
