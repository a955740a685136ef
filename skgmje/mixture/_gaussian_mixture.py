"""Gaussian mixture estimator: scikit-learn's interface on the library's density."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import sklearn
import sklearn.mixture
import torch
from sklearn.exceptions import ConvergenceWarning

from skgmje._backend import (
    all_gather,
    as_numpy,
    as_tensor,
    own_threads,
    resolve_device,
    resolve_random_state,
)
from skgmje._validation import (
    StrOptions,
    check_rows,
    check_sample_weight,
    fit_context,
    unchanged_on_error,
)
from skgmje.io import SaveMixin
from skgmje.mixture._acceleration import Accelerator
from skgmje.mixture._conditioning import ConditioningMixin
from skgmje.mixture._em import (
    MixtureParameters,
    covariances_shape,
    has_cancelled,
    maximization,
    statistics_of_density,
    statistics_of_responsibilities,
    stepwise,
)
from skgmje.mixture._inference import InferenceMixin
from skgmje.mixture._initialization import (
    rows_to_start_from,
    weighted_responsibilities,
)
from skgmje.mixture._samples import (
    Rows,
    check_range,
    is_chunks,
    read_chunks,
    samples_in_chunks,
    samples_in_memory,
    samples_on_disk,
)
from skgmje.mixture._starts import best_of_short_runs

# Exponent at which the weight of a batch decays in `partial_fit`.
STEPWISE_DECAY = 0.7


@contextmanager
def _without_dispatch() -> Iterator[None]:
    """Spare what scikit-learn and torch do beside the numbers, and own the threads.

    Arrays are NumPy's here, whatever scikit-learn dispatches elsewhere, and nothing
    asks for gradients, which makes each of torch's calls cheaper.
    """
    with (
        sklearn.config_context(array_api_dispatch=False),
        torch.inference_mode(),
        own_threads(),
    ):
        yield


class Run(NamedTuple):
    """What EM made of one start."""

    parameters: Any
    bound: float
    bounds: list[float]
    converged: bool


class GaussianMixture(
    ConditioningMixin, InferenceMixin, SaveMixin, sklearn.mixture.GaussianMixture
):
    """Gaussian mixture that can be conditioned.

    A drop-in for :class:`sklearn.mixture.GaussianMixture`: the same parameters,
    attributes, methods, errors and warnings, and from the same start the same fit; the
    :ref:`User Guide <mixture>` names the few deliberate differences. On
    top of it come conditional and marginal distributions, missing values and their
    imputation, sample weights, data larger than memory or in several processes,
    construction from given parameters, samples that are shuffled and seeded per call,
    a better start, fewer iterations, and ``device=``. All sums are float64, whatever
    the type of X.

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
        The start. The first four are scikit-learn's; ``'short_runs'`` goes on from the
        likeliest of a few short runs on a subset of the rows, after it has moved
        components to where they are needed.
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
    acceleration : {'quasi-newton'} or None, default=None
        Whether quasi-Newton steps go between the EM steps: fewer iterations where
        components overlap. A step that would lower the likelihood is taken back.
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
        "acceleration": [StrOptions({"quasi-newton"}), None],
        "device": [str, torch.device, None],
    }
    lower_bound_: float
    weights_: np.ndarray
    means_: np.ndarray
    covariances_: np.ndarray

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
        acceleration=None,
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
        self.acceleration = acceleration
        self.device = device

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the mixture by expectation maximisation.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or iterable of chunks
            Samples; NaN is a value that is missing at random. A ``numpy.memmap`` is
            read in place. Of an iterable of chunks (arrays, or pairs of an array and
            its sample weights) each EM iteration makes one pass. Where the samples are
            not in memory, the start is made from a random subset of 50,000 rows.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, not negative: a weight of two counts as two equal
            rows.

        Returns
        -------
        self : object
            The fitted mixture.

        Raises
        ------
        ValueError
            If X holds infinities, has fewer rows than components or a column without
            any value, if all weights are zero, or if a covariance is not positive
            definite.

        Notes
        -----
        In an initialised ``torch.distributed`` group every process passes its own
        samples; sums go over all of them, and all processes end with the same mixture.
        """
        with _without_dispatch(), unchanged_on_error(self):
            rows, samples = self._read(X, sample_weight)
            self._fit(rows, samples)
        return self

    def fit_predict(self, X, y=None, sample_weight=None):
        """Fit the mixture and predict the component of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, as for `fit`.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        labels : ndarray of int64 of shape (n_samples,)
            Component of each sample.

        Raises
        ------
        ValueError
            If X is an iterable of chunks.
        """
        if is_chunks(X):
            raise ValueError(
                "fit_predict takes one array; for chunks call fit, and predict for "
                "each of them."
            )
        return self.fit(X, sample_weight=sample_weight).predict(X)

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Move the mixture towards a batch of samples (stepwise EM).

        The first batch is fitted as by `fit`. Each further one makes an E step, and its
        statistics get the weight ``(1 + n_seen / n_batch) ** -0.7``, which decays
        slowly enough to forget the first, poor responsibilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            A batch of samples; NaN is a value that is missing at random.
        y : Ignored
            Not used, present for API consistency by convention.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        self : object
            The mixture.

        Raises
        ------
        ValueError
            As in `fit`, and if the batch has other columns than those before. The
            mixture stays as it was.

        References
        ----------
        Cappé and Moulines, *On-line expectation-maximization algorithm for latent data
        models* (2009).
        """
        if not hasattr(self, "weights_"):
            return self.fit(X, sample_weight=sample_weight)
        with _without_dispatch(), unchanged_on_error(self):
            _, samples = self._read(X, sample_weight, reset=False)
            self._step(samples)
        return self

    def _step(self, samples):
        """Take one step of stepwise EM."""
        density = self.density_
        batch = samples.statistics(density, self.covariance_type)
        running = statistics_of_density(density)
        # Known parameters are only a start.
        n_seen = getattr(self, "_n_samples_seen", 0.0)
        rate = (1.0 + n_seen / batch.total) ** -STEPWISE_DECAY
        # What reg_covar added before is part of the statistics.
        parameters = maximization(stepwise(running, batch, rate), rate * self.reg_covar)
        self._store(parameters)
        self._n_samples_seen = n_seen + batch.total
        self.lower_bound_ = batch.mean_log_likelihood
        self.lower_bounds_.append(self.lower_bound_)
        self.n_iter_ += 1

    # ---------------------------------------------------------------------- samples

    def _read(self, X, sample_weight, reset=True):
        """Check samples; return them as one array, if they are one, and in pieces."""
        if is_chunks(X):
            return None, self._read_chunks(X, sample_weight, reset)
        rows = self._check_rows(X, sample_weight, reset, ensure_min_samples=1 + reset)
        device = self._device()
        if device.type == "cpu" and isinstance(X, np.memmap):
            rows = Rows(X, rows.sample_weight)
            return rows, samples_on_disk(rows)
        rows = rows.with_weight()
        on_device = rows if device.type == "cpu" else rows.to(device)
        return rows, samples_in_memory(on_device)

    def _read_chunks(self, X, sample_weight, reset):
        if sample_weight is not None:
            raise ValueError(
                "sample_weight goes with one array; give chunks their weights as pairs "
                "(X, sample_weight)."
            )
        first = True

        def check(chunk, weight):
            nonlocal first
            new, first = first and reset, False
            return self._check_rows(chunk, weight, new, allow_all_zero_weights=True)

        samples = samples_in_chunks(read_chunks(X, check))
        if next(iter(samples.pieces()), None) is None:
            raise ValueError(
                "X has no chunks with a row of positive weight; at least one is "
                "required."
            )
        return samples

    def _check_rows(
        self, X, sample_weight, reset, ensure_min_samples=1, **weight_options
    ):
        options = {"reset": reset, "ensure_min_samples": ensure_min_samples}
        X = check_rows(self, X, ensure_all_finite="allow-nan", **options)
        check_range(X, "X")
        if sample_weight is None:
            return Rows(X)
        sample_weight = check_sample_weight(sample_weight, X, **weight_options)
        if sample_weight.max() > np.finfo(np.float64).max / len(sample_weight):
            raise ValueError("The sum of sample_weight overflows; scale the weights.")
        return Rows(X, sample_weight)

    # -------------------------------------------------------------------------- EM

    def _fit(self, rows, samples):
        random_state = resolve_random_state(self.random_state)
        # A unique initialisation if warm_start goes on from an earlier fit.
        do_init = not (self.warm_start and hasattr(self, "converged_"))
        start_rows = rows
        if do_init or rows is None:
            start_rows = rows_to_start_from(rows, samples, random_state)
            self._check_enough_rows(start_rows.X)
        self._check_parameters(start_rows.X, xp=np)

        self.converged_ = False
        best = Run(None, -np.inf, [], False)
        for init in range(self.n_init if do_init else 1):
            self._print_verbose_msg_init_beg(init)
            if do_init:
                self._start(start_rows, random_state)
            previous = -np.inf if do_init else self.lower_bound_
            run = self._run_em(samples, previous)
            if self.max_iter == 0 or best.parameters is None or run.bound > best.bound:
                best = run
            if not run.converged and len(run.bounds) < self.max_iter:
                break  # interrupted
        self.converged_ = best.converged
        if not self.converged_ and self.max_iter > 0:
            warnings.warn(
                "Best performing initialization did not converge. Try different init "
                "parameters, or increase max_iter, tol, or check for degenerate data.",
                ConvergenceWarning,
                stacklevel=4,
            )
        self._store(best.parameters)
        self.n_iter_ = len(best.bounds)
        self.lower_bound_, self.lower_bounds_ = best.bound, best.bounds

    def _check_enough_rows(self, X):
        if X.shape[0] < self.n_components:
            raise ValueError(
                "Expected n_samples >= n_components but got n_components = "
                f"{self.n_components}, n_samples = {X.shape[0]}"
            )

    def _run_em(self, samples, previous):
        """Iterate from the stored parameters."""
        parameters = image = self._stored()
        density = parameters.density(self.covariance_type)
        accelerator = None
        if self.acceleration is not None:
            accelerator = Accelerator(self.covariance_type, self.reg_covar)
        bounds, converged = [], False
        for n_iter in range(1, self.max_iter + 1):
            try:
                statistics = samples.statistics(density, self.covariance_type)
                step = maximization(statistics, self.reg_covar)
                if has_cancelled(statistics, step):
                    step = self._careful_step(samples, density, step.means)
                bound, settled = statistics.mean_log_likelihood, True
                if accelerator is None:
                    parameters = image = step
                else:
                    parameters = accelerator.step(parameters, step, bound)
                    image, bound = accelerator.image, accelerator.bound
                    settled = accelerator.is_settled(self.tol)
                density = parameters.density(self.covariance_type)
            except KeyboardInterrupt:
                warnings.warn(
                    "Fitting interrupted by user; the parameters so far are kept.",
                    UserWarning,
                    stacklevel=5,
                )
                break
            self._n_samples_seen = statistics.total
            bounds.append(bound)
            change = bounds[-1] - previous
            previous = bounds[-1]
            self._print_verbose_msg_iter_end(n_iter, change)
            if abs(change) < self.tol and settled:
                converged = True
                break
        if bounds:
            self._print_verbose_msg_init_end(bounds[-1], converged)
        bound = bounds[-1] if bounds else -np.inf
        return Run(image, bound, bounds, converged)

    def _careful_step(self, samples, density, means):
        """Repeat an EM step, with moments measured from the means that it led to."""
        statistics = samples.statistics_about(density, self.covariance_type, means)
        return maximization(statistics, self.reg_covar)

    # ------------------------------------------------------------------------ start

    def _start(self, rows, random_state):
        """Store the parameters that EM starts from, the same in all processes."""
        X, weight = rows.X, rows.sample_weight
        if self.init_params == "short_runs":
            start = best_of_short_runs(self, X, random_state, weight)
            self._store(start, precisions=False)
            self._initialize(X, None)
        elif weight is None:
            self._initialize_parameters(X, random_state, xp=np)
        else:
            shares = weighted_responsibilities(
                self.init_params, self.n_components, rows, random_state
            )
            self._initialize(X, shares, sample_weight=weight)
        stored = all_gather((self.weights_, self.means_, self.covariances_))[0]
        self.weights_, self.means_, self.covariances_ = stored

    def _initialize(self, X, resp, xp=None, sample_weight=None):
        """Set the start from responsibilities and from the ``*_init`` parameters."""
        if resp is not None:
            statistics = statistics_of_responsibilities(
                X, resp, self.covariance_type, self._device(), sample_weight
            )
            start = maximization(statistics, self.reg_covar)
            self._store(start, precisions=False)
        if self.weights_init is not None:
            self.weights_ = np.asarray(self.weights_init, dtype=np.float64)
        if self.means_init is not None:
            self.means_ = np.asarray(self.means_init, dtype=np.float64)
            check_range(self.means_, "means_init")
        if self.precisions_init is not None:
            precisions = np.asarray(self.precisions_init, dtype=np.float64)
            with np.errstate(over="ignore"):
                if self.covariance_type in ("full", "tied"):
                    self.covariances_ = np.linalg.inv(precisions)
                else:
                    self.covariances_ = 1.0 / precisions
            if not np.isfinite(self.covariances_).all():
                raise ValueError("precisions_init has no finite inverse.")

    # ------------------------------------------------------------------ parameters

    def _device(self) -> torch.device:
        return resolve_device(self.device)

    def _stored(self) -> MixtureParameters:
        device = self._device()
        by_hand = not hasattr(self, "covariances_")
        covariances = self._of_precisions() if by_hand else self.covariances_
        expected = covariances_shape(self.covariance_type, *np.shape(self.means_))
        if np.shape(covariances) != expected:
            raise ValueError(
                f"The covariances have shape {np.shape(covariances)}, but "
                f"covariance_type={self.covariance_type!r} needs {expected}; call fit "
                "anew after a change of covariance_type."
            )
        return MixtureParameters(
            as_tensor(self.weights_, device),
            as_tensor(self.means_, device),
            as_tensor(covariances, device),
        )

    def _of_precisions(self) -> np.ndarray:
        """Return the covariances where only ``precisions_cholesky_`` was set."""
        factor = self.precisions_cholesky_
        if self.covariance_type in ("diag", "spherical"):
            return 1.0 / np.square(factor)
        inverse = np.linalg.inv(factor)
        return inverse.swapaxes(-1, -2) @ inverse

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

    def __sklearn_tags__(self):
        """Take no array-API namespaces: arrays enter torch at one boundary."""
        tags = super().__sklearn_tags__()
        tags.array_api_support = False
        tags.input_tags.allow_nan = True
        return tags
