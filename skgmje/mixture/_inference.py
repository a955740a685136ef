"""What a fitted mixture says about samples, complete or not."""

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skgmje._backend import as_numpy, make_generator, own_threads
from skgmje._validation import check_rows, check_sample_weight
from skgmje.mixture._evaluation import Evaluator
from skgmje.mixture._missing import (
    component_log_prob_with_missing,
    has_missing,
    impute,
    incomplete_rows,
)


class InferenceMixin:
    """Densities, components and imputations of samples."""

    n_components: int
    covariance_type: str
    density_: Any
    # The estimator that this is mixed into has these.
    _device: Any
    _n_parameters: Any
    _wrap_rows: Any

    def score_samples(self, X):
        """Log-density of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; of one with missing values (NaN), the density of the values that
            are there.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            Log-densities in nats.

        Examples
        --------
        >>> from skgmje.mixture import GaussianMixture
        >>> mixture = GaussianMixture.from_parameters(
        ...     [1.0], [[0, 5]], [[[1, 0], [0, 1]]]
        ... )
        >>> mixture.score_samples([[0, 5], [0, float("nan")]]).round(3)
        array([-1.838, -0.919])
        """
        X = self._check_samples(X)
        return self._answer(X, Evaluator.log_prob, torch.logsumexp)

    def score(self, X, y=None, sample_weight=None):
        """Mean log-density of the samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; NaN is a missing value.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        log_likelihood : float
            Mean log-density in nats.
        """
        log_prob = self.score_samples(X)
        if sample_weight is not None:
            sample_weight = check_sample_weight(sample_weight, log_prob)
        return float(np.average(log_prob, weights=sample_weight))

    def predict(self, X):
        """Likeliest component of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; NaN is a missing value.

        Returns
        -------
        labels : ndarray of int64 of shape (n_samples,)
            Components.
        """
        X = self._check_samples(X)
        return self._answer(X, Evaluator.predict, torch.argmax)

    def predict_proba(self, X):
        """Posterior probability of each component for each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; NaN is a missing value.

        Returns
        -------
        responsibilities : ndarray of shape (n_samples, n_components)
            Not negative; each row sums to one.
        """
        X = self._check_samples(X)
        return self._answer(X, Evaluator.responsibilities, torch.softmax)

    def bic(self, X, sample_weight=None):
        """Bayesian information criterion.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; NaN is a missing value.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples; their sum takes the place of the number of samples.

        Returns
        -------
        bic : float
            The lower the better.
        """
        total, log_likelihood = self._total_log_likelihood(X, sample_weight)
        return float(-2 * log_likelihood + self._n_parameters() * np.log(total))

    def aic(self, X, sample_weight=None):
        """Akaike information criterion.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; NaN is a missing value.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        aic : float
            The lower the better.
        """
        _, log_likelihood = self._total_log_likelihood(X, sample_weight)
        return -2 * log_likelihood + 2 * self._n_parameters()

    def _total_log_likelihood(self, X, sample_weight):
        log_prob = self.score_samples(X)
        if sample_weight is None:
            return len(log_prob), float(log_prob.mean()) * len(log_prob)
        sample_weight = check_sample_weight(sample_weight, log_prob)
        return sample_weight.sum(), float(sample_weight @ log_prob)

    def impute(self, X, *, n_draws=None, random_state=None):
        """Fill missing values in, given those that are there.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples with NaN where values are missing.
        n_draws : int, default=None
            Number of draws from the conditional distribution, for multiple
            imputation. None fills in the conditional mean.
        random_state : int, RandomState instance or None, default=None
            Seed of the draws. None draws new values at every call.

        Returns
        -------
        X : array of shape (n_samples, n_features), or list of `n_draws` of these
            Completed samples; values that were there are unchanged. Of the container
            that ``set_output`` asks for.

        Raises
        ------
        ValueError
            If `n_draws` is less than one.

        Examples
        --------
        >>> from skgmje.mixture import GaussianMixture
        >>> mixture = GaussianMixture.from_parameters(
        ...     [1.0], [[0, 5]], [[[1.0, 0.5], [0.5, 1.0]]]
        ... )
        >>> mixture.impute([[2.0, float("nan")]])
        array([[2., 6.]])
        """
        whole = isinstance(n_draws, (int, np.integer))
        if n_draws is not None and not (whole and n_draws >= 1):
            raise ValueError(f"n_draws must be a whole number from 1; got {n_draws}.")
        original, X = X, self._check_samples(X)
        incomplete = incomplete_rows(X)

        def completed(generator=None):
            filled = X.astype(np.float64)
            if incomplete.any():
                rows = impute(X[incomplete], self.density_, generator)
                filled[incomplete] = as_numpy(rows)
            return self._wrap_rows(filled, original)

        if n_draws is None:
            return completed()
        generator = make_generator(random_state, self._device())
        return [completed(generator) for _ in range(n_draws)]

    def _check_samples(self, X):
        check_is_fitted(self)
        return check_rows(self, X, reset=False, ensure_all_finite="allow-nan")

    def _answer(self, X, of_complete, of_log_joint):
        """Answer complete rows block by block, the others from what is observed."""
        # All of it: torch's own threads would go on spinning beside ours.
        with own_threads():
            return self._answer_by_rows(X, of_complete, of_log_joint)

    def _answer_by_rows(self, X, of_complete, of_log_joint):
        evaluator = Evaluator(self.density_, self.covariance_type)
        if not has_missing(X):
            return of_complete(evaluator, X)
        incomplete = incomplete_rows(X)
        complete = of_complete(evaluator, X[~incomplete])
        answer = np.empty((len(X), *complete.shape[1:]), dtype=complete.dtype)
        answer[~incomplete] = complete
        log_prob = component_log_prob_with_missing(X[incomplete], self.density_)
        log_joint = self.density_.log_weights + log_prob
        answer[incomplete] = as_numpy(of_log_joint(log_joint, -1))
        return answer
