"""What linear encoders of Gaussian views answer: embeddings, conditionals, scores."""

import numpy as np
import torch
from scipy.linalg import solve_triangular
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from skgmje._validation import check_consistent_length, check_rows, check_target
from skgmje.linear._objectives import OBJECTIVES
from skgmje.mixture import MultivariateNormalMixture

DTYPES = [np.float64, np.float32]


class LinearInferenceMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Methods of a fitted pair of linear encoders."""

    # Set by the estimator that these methods are mixed into.
    objective: str
    n_targets_in_: int
    context_components_: np.ndarray
    target_components_: np.ndarray
    context_mean_: np.ndarray
    target_mean_: np.ndarray
    coef_: np.ndarray
    coef_reverse_: np.ndarray
    _scale_tril: np.ndarray
    _scale_tril_reverse: np.ndarray
    _context_weights: np.ndarray
    _context_log_volume: float
    _target_is_column: bool

    # ------------------------------------------------------------------ embeddings

    def transform(self, X):
        """Embed the context view: ``G (u - mean)``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.

        Returns
        -------
        Z : ndarray of shape (n_samples, rank)
            Embeddings, in the float type of X.
        """
        X = self._check_context(X)
        return self._embed(X).astype(X.dtype, copy=False)

    def transform_target(self, Y):
        """Embed the target view: ``H (v - mean)``.

        Parameters
        ----------
        Y : array-like of shape (n_samples, n_targets)
            Target view.

        Returns
        -------
        Z : ndarray of shape (n_samples, rank)
            Embeddings, in the float type of Y.
        """
        Y = self._check_target(Y)
        return self._embed_target(Y).astype(Y.dtype, copy=False)

    def similarity(self, X, Y):
        """Logarithm of the tilting of every pair of rows, up to a constant.

        What a batch loss takes for its logits. For one context the targets of the
        largest values are those to retrieve, and the other way round. A quadratic
        objective ranks better: inner products favour embeddings that are long.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.
        Y : array-like of shape (n_others, n_targets)
            Target view, of any number of rows.

        Returns
        -------
        similarity : ndarray of shape (n_samples, n_others)
            Inner products of embeddings, or minus half their squared distances.
        """
        z_c = self._embed(self._check_context(X))
        z_t = self._embed_target(self._check_target(Y))
        similarity = z_c @ z_t.T
        if OBJECTIVES[self.objective].is_quadratic:
            similarity -= (z_c**2).sum(1)[:, np.newaxis] / 2 + (z_t**2).sum(1) / 2
        return similarity

    # ---------------------------------------------------------------- conditionals

    def predict(self, X):
        """Mean of the target given the context, under the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.

        Returns
        -------
        mean : ndarray of shape (n_samples, n_targets) or (n_samples,)
            Means; one-dimensional if y was.
        """
        mean = self._mean(self._check_context(X))
        return mean[:, 0] if self._target_is_column else mean

    def predict_reverse(self, Y):
        """Mean of the context given the target, under the model.

        Parameters
        ----------
        Y : array-like of shape (n_samples, n_targets)
            Target view.

        Returns
        -------
        mean : ndarray of shape (n_samples, n_features)
            Means.
        """
        return self._mean_reverse(self._check_target(Y))

    def conditional(self, X):
        """Density of the target given the context, under the model.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.

        Returns
        -------
        conditional : MultivariateNormalMixture
            Batch of `n_samples` Gaussians over the target, in its units.
        """
        return _gaussians(self._mean(self._check_context(X)), self._scale_tril)

    def conditional_context(self, Y):
        """Density of the context given the target, under the model.

        Parameters
        ----------
        Y : array-like of shape (n_samples, n_targets)
            Target view.

        Returns
        -------
        conditional : MultivariateNormalMixture
            Batch of `n_samples` Gaussians over the context, in its units.

        Raises
        ------
        ValueError
            If the covariance of X is singular: there is no density, only the mean of
            `predict_reverse` and ``conditional_covariance_reverse_``.
        """
        means = self._mean_reverse(self._check_target(Y))
        self._check_context_density()
        return _gaussians(means, self._scale_tril_reverse)

    # --------------------------------------------------------------------- scores

    def score_samples(self, X, y=None):
        """Log-density of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            Target view.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats: ``log p(v | u)`` under the model, or ``log p(u)`` under the
            marginal Gaussian without y. If the covariance of X is singular, ``p(u)``
            is the density on its range, to which rows are projected first.
        """
        X = self._check_context(X)
        if y is None:
            whitened = (X - self.context_mean_) @ self._context_weights
            return _log_density(whitened, self._context_log_volume)
        Y = self._check_target(y)
        check_consistent_length(X, Y)
        deviations = (Y - self._mean(X)).T
        whitened = solve_triangular(self._scale_tril, deviations, lower=True).T
        return _log_density(whitened, np.log(self._scale_tril.diagonal()).sum())

    def score(self, X, y):
        """Mean log-likelihood of the target given the context, under the model.

        It compares objectives, ranks and ridges on rows that were not fitted: it is low
        where a conditional mean is wrong, and where a conditional covariance is. Leave
        constant columns of y out: their variance is the ridge, so that a smaller one
        would always score higher.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Target view.

        Returns
        -------
        score : float
            In nats a sample.
        """
        return float(self.score_samples(X, y).mean())

    # -------------------------------------------------------------------- helpers

    def _embed(self, X: np.ndarray) -> np.ndarray:
        return (X - self.context_mean_) @ self.context_components_.T

    def _embed_target(self, Y: np.ndarray) -> np.ndarray:
        return (Y - self.target_mean_) @ self.target_components_.T

    def _mean(self, X: np.ndarray) -> np.ndarray:
        return self.target_mean_ + (X - self.context_mean_) @ self.coef_.T

    def _mean_reverse(self, Y: np.ndarray) -> np.ndarray:
        return self.context_mean_ + (Y - self.target_mean_) @ self.coef_reverse_.T

    def _check_context(self, X) -> np.ndarray:
        check_is_fitted(self)
        return check_rows(self, X, reset=False)

    def _check_context_density(self) -> None:
        width, rank = self._scale_tril_reverse.shape
        if rank < width:
            raise ValueError(
                f"X has no conditional density: it has {width} columns, but its "
                f"covariance has rank {rank}. Columns are constant or combinations of "
                "others; set ridge > 0 or drop columns."
            )

    def _check_target(self, Y) -> np.ndarray:
        check_is_fitted(self)
        names = getattr(self, "target_feature_names_in_", None)
        return check_target(self, Y, names, self.n_targets_in_)


def _gaussians(means: np.ndarray, scale_tril: np.ndarray) -> MultivariateNormalMixture:
    return MultivariateNormalMixture(
        torch.ones(1, dtype=torch.float64),
        torch.from_numpy(means[:, np.newaxis]),
        torch.from_numpy(scale_tril.copy())[np.newaxis],
    )


def _log_density(whitened: np.ndarray, log_volume: float) -> np.ndarray:
    log_norm = log_volume + whitened.shape[1] * np.log(2 * np.pi) / 2
    return -(whitened**2).sum(axis=1) / 2 - log_norm
