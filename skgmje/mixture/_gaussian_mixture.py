"""Gaussian mixture estimator: scikit-learn's interface on the library's density."""

import warnings
from typing import Any

import numpy as np
import sklearn
import sklearn.mixture
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import validate_data

from skgmje._backend import (
    as_numpy,
    as_tensor,
    blocks,
    resolve_device,
    resolve_random_state,
)
from skgmje._validation import StrOptions, fit_context
from skgmje.io import SaveMixin
from skgmje.mixture._conditioning import ConditioningMixin
from skgmje.mixture._em import (
    MixtureParameters,
    expectation,
    maximization,
    statistics_of_responsibilities,
)
from skgmje.mixture._starts import best_of_short_runs


class GaussianMixture(ConditioningMixin, SaveMixin, sklearn.mixture.GaussianMixture):
    """Gaussian mixture that can be conditioned.

    A drop-in for :class:`sklearn.mixture.GaussianMixture`: the same parameters,
    attributes, methods, errors and warnings, and from the same start the same fit; the
    :ref:`User Guide <mixture>` names the few deliberate differences. On
    top of it come conditional and marginal distributions, construction from given
    parameters, samples that are shuffled and seeded per call, a start that picks the
    best of several short runs, and ``device=``. All sums are float64, whatever the
    type of X.

    Parameters
    ----------
    n_components : int, default=1
        The number of mixture components.
    covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
        The form of the covariances: one free matrix a component, one matrix for all
        components, one diagonal a component, one variance a component.
    tol : float, default=1e-3
        EM stops when the mean log-likelihood, in nats, gains less.
    reg_covar : float, default=1e-6
        Added to the diagonal of the covariances, in squared units of X.
    max_iter : int, default=100
        The number of EM iterations to perform.
    n_init : int, default=1
        The number of initialisations; the best result is kept.
    init_params : {'kmeans', 'k-means++', 'random', 'random_from_data', \
'short_runs'}, default='kmeans'
        The start. The first four are scikit-learn's; ``'short_runs'`` runs a few EM
        iterations from one k-means, three k-means++ and three random starts on a
        subsample and goes on from the one with the best likelihood on held-out rows.
    weights_init : array-like of shape (n_components,), default=None
        Initial weights.
    means_init : array-like of shape (n_components, n_features), default=None
        Initial means.
    precisions_init : array-like, default=None
        Initial precisions, of a shape that depends on `covariance_type`.
    random_state : int, RandomState instance or None, default=None
        Seed of the start.
    warm_start : bool, default=False
        Whether a further call of `fit` goes on from the last solution.
    verbose : int, default=0
        Whether to print progress.
    verbose_interval : int, default=10
        Number of iterations between two prints.
    device : str, torch.device or None, default=None
        Where to compute: None is the CPU, ``"auto"`` is CUDA where there is one.

    Attributes
    ----------
    weights_ : ndarray of shape (n_components,)
        Mixture weights.
    means_ : ndarray of shape (n_components, n_features)
        Means.
    covariances_ : ndarray
        Covariances, of shape (n_components, n_features, n_features), (n_features,
        n_features), (n_components, n_features) or (n_components,).
    precisions_ : ndarray
        Inverses of the covariances, in the same shape.
    precisions_cholesky_ : ndarray
        Upper-triangular Cholesky factors of the precisions.
    converged_ : bool
        Whether the best run converged.
    n_iter_ : int
        Number of iterations of the best run.
    lower_bound_ : float
        Mean log-likelihood of the training data, in nats, at the last E step.
    lower_bounds_ : list of float
        Its values at every E step of the best run.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had string column names.

    See Also
    --------
    skgmje.MultivariateNormalMixture : The density that `condition` returns.
    skgmje.GMJEEmbedder : Mixtures over learned embeddings of two views.

    References
    ----------
    Bishop, *Pattern Recognition and Machine Learning* (2006), section 9.2.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje.mixture import GaussianMixture
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-1, 1, 500)
    >>> X = np.column_stack([x, np.sign(rng.normal(size=500)) * x])
    >>> mixture = GaussianMixture(2, init_params="short_runs", random_state=0).fit(X)
    >>> conditional = mixture.condition([0], [[0.8]])
    >>> conditional.means.shape
    torch.Size([1, 2, 1])
    >>> mixture.sample(3, random_state=0)[0].shape
    (3, 2)
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **sklearn.mixture.GaussianMixture._parameter_constraints,
        "init_params": [
            StrOptions(
                {"kmeans", "random", "random_from_data", "k-means++", "short_runs"}
            )
        ],
        "device": [str, torch.device, None],
    }
    lower_bound_: float

    def __init__(
        self,
        n_components=1,
        *,
        covariance_type="full",
        tol=1e-3,
        reg_covar=1e-6,
        max_iter=100,
        n_init=1,
        init_params="kmeans",
        weights_init=None,
        means_init=None,
        precisions_init=None,
        random_state=None,
        warm_start=False,
        verbose=0,
        verbose_interval=10,
        device=None,
    ):
        super().__init__(
            n_components=n_components,
            covariance_type=covariance_type,
            tol=tol,
            reg_covar=reg_covar,
            max_iter=max_iter,
            n_init=n_init,
            init_params=init_params,
            weights_init=weights_init,
            means_init=means_init,
            precisions_init=precisions_init,
            random_state=random_state,
            warm_start=warm_start,
            verbose=verbose,
            verbose_interval=verbose_interval,
        )
        self.device = device

    @fit_context(prefer_skip_nested_validation=True)
    def fit_predict(self, X, y=None):
        """Fit the mixture and predict the component of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            Component of each sample.

        Raises
        ------
        ValueError
            If X holds NaN or infinities, has fewer rows than components, or leads to a
            covariance that is not positive definite.
        """
        # Arrays are NumPy's here, whatever scikit-learn dispatches elsewhere.
        with sklearn.config_context(array_api_dispatch=False):
            return self._fit_predict(X)

    def _fit_predict(self, X):
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        if X.shape[0] < self.n_components:
            raise ValueError(
                "Expected n_samples >= n_components but got n_components = "
                f"{self.n_components}, n_samples = {X.shape[0]}"
            )
        self._check_parameters(X, xp=np)
        # A unique initialisation if warm_start goes on from an earlier fit.
        do_init = not (self.warm_start and hasattr(self, "converged_"))
        random_state = resolve_random_state(self.random_state)
        samples = self._samples_on_device(X)

        self.converged_ = False
        best_bound, best_bounds, best_n_iter = -np.inf, [], 0
        best_parameters: Any = None
        for init in range(self.n_init if do_init else 1):
            self._print_verbose_msg_init_beg(init)
            if do_init:
                self._initialize_parameters(X, random_state, xp=np)
            previous = -np.inf if do_init else self.lower_bound_
            parameters, bounds, converged = self._run_em(samples, previous)
            bound = bounds[-1] if bounds else -np.inf
            if self.max_iter == 0 or best_parameters is None or bound > best_bound:
                best_bound, best_bounds = bound, bounds
                best_parameters, best_n_iter = parameters, len(bounds)
                self.converged_ = converged
            interrupted = not converged and len(bounds) < self.max_iter
            if interrupted:
                break
        if not self.converged_ and self.max_iter > 0:
            warnings.warn(
                "Best performing initialization did not converge. Try different init "
                "parameters, or increase max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
                stacklevel=4,
            )
        self._store(best_parameters)
        self.n_iter_ = best_n_iter
        self.lower_bound_, self.lower_bounds_ = best_bound, best_bounds
        return self._estimate_weighted_log_prob(X).argmax(axis=1)

    def _run_em(self, samples, previous):
        """Iterate from the stored parameters; return the new ones and the bounds."""
        parameters = self._stored()
        density = parameters.density(self.covariance_type)
        bounds, converged = [], False
        for n_iter in range(1, self.max_iter + 1):
            try:
                statistics = expectation(samples, density, self.covariance_type)
                parameters = maximization(statistics, self.reg_covar)
                density = parameters.density(self.covariance_type)
            except KeyboardInterrupt:
                warnings.warn(
                    "Fitting interrupted by user; the parameters so far are kept.",
                    UserWarning,
                    stacklevel=5,
                )
                break
            bounds.append(statistics.mean_log_likelihood)
            change = bounds[-1] - previous
            previous = bounds[-1]
            self._print_verbose_msg_iter_end(n_iter, change)
            if abs(change) < self.tol:
                converged = True
                break
        if bounds:
            self._print_verbose_msg_init_end(bounds[-1], converged)
        return parameters, bounds, converged

    def _initialize_parameters(self, X, random_state, xp=None):
        if self.init_params != "short_runs":
            super()._initialize_parameters(X, random_state, xp=xp)
            return
        self._store(best_of_short_runs(self, X, random_state), precisions=False)

    def _initialize(self, X, resp, xp=None):
        """Set the start from responsibilities and from the ``*_init`` parameters."""
        device = self._device()
        if resp is not None:
            statistics = statistics_of_responsibilities(
                X, resp, self.covariance_type, device
            )
            start = maximization(statistics, self.reg_covar)
            self._store(start, precisions=False)
        if self.weights_init is not None:
            self.weights_ = np.asarray(self.weights_init, dtype=np.float64)
        if self.means_init is not None:
            self.means_ = np.asarray(self.means_init, dtype=np.float64)
        if self.precisions_init is not None:
            precisions = np.asarray(self.precisions_init, dtype=np.float64)
            if self.covariance_type in ("full", "tied"):
                self.covariances_ = np.linalg.inv(precisions)
            else:
                self.covariances_ = 1.0 / precisions

    # ------------------------------------------------------------------ parameters

    def _device(self) -> torch.device:
        return resolve_device(self.device)

    def _samples_on_device(self, X):
        device = self._device()
        return X if device.type == "cpu" else as_tensor(X, device)

    def _stored(self) -> MixtureParameters:
        device = self._device()
        return MixtureParameters(
            as_tensor(self.weights_, device),
            as_tensor(self.means_, device),
            as_tensor(self.covariances_, device),
        )

    def _store(self, parameters: MixtureParameters, precisions: bool = True) -> None:
        weights = as_numpy(parameters.weights)
        means = as_numpy(parameters.means)
        covariances = as_numpy(parameters.covariances)
        self.weights_, self.means_, self.covariances_ = weights, means, covariances
        if precisions:
            cholesky = self._precisions_cholesky(parameters)
            self._set_parameters((weights, means, covariances, cholesky), xp=np)

    def _precisions_cholesky(self, parameters: MixtureParameters) -> np.ndarray:
        """Upper-triangular U with precision U U', as scikit-learn stores it."""
        factor = parameters.density(self.covariance_type)._scale.factor
        if self.covariance_type in ("diag", "spherical"):
            return as_numpy(1.0 / factor)
        identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        inverse = torch.linalg.solve_triangular(factor, identity, upper=False).mT
        return as_numpy(inverse if self.covariance_type == "full" else inverse[0])

    def _estimate_log_weights(self, xp=None):
        with np.errstate(divide="ignore"):  # a component of weight zero
            return np.log(self.weights_)

    def _estimate_log_prob(self, X, xp=None):
        density, device = self.density_, self._device()
        log_prob = np.empty((X.shape[0], self.n_components))
        for rows in blocks(X.shape[0], 2 * self.means_.size):
            block = as_tensor(X[rows], device)
            log_prob[rows] = as_numpy(density.component_log_prob(block))
        return log_prob

    def __sklearn_tags__(self):
        """Take no array-API namespaces: arrays enter torch at one boundary."""
        tags = super().__sklearn_tags__()
        tags.array_api_support = False
        return tags
