"""Particle bank estimator: a weighted kernel density that follows a stream."""

import numbers
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils.validation import check_is_fitted

from skgmje._backend import (
    all_gather,
    as_numpy,
    as_tensor,
    resolve_device,
    resolve_random_state,
)
from skgmje._validation import (
    Interval,
    StrOptions,
    check_numbers,
    check_rows,
    fit_context,
    unchanged_on_error,
)
from skgmje.io import SaveMixin
from skgmje.mixture._conditioning import ConditionalDensityMixin
from skgmje.mixture._distribution import MultivariateNormalMixture
from skgmje.mixture._particles import Particles, effective_sample_size
from skgmje.mixture._samples import check_range

# Samples that become particles at once.
BATCH_ROWS = 256


class ParticleBank(ConditionalDensityMixin, SaveMixin, DensityMixin, BaseEstimator):
    r"""Weighted kernel density that follows a stream of samples.

    .. math:: p(x) = \sum_m w_m \, \mathcal{N}\bigl(x; x^m, \mathrm{diag}(h^2)\bigr)

    A bounded number of samples is kept as *particles*. Every batch first moves the
    weights and the bandwidths by a part of an EM step, and then becomes particles
    itself. Beyond `n_particles` those of the least weight go; where few are effective,
    all are drawn anew (sequential Monte Carlo). With ``learning_rate=0`` the weights
    stay equal and the bank is a queue of the last samples.

    Read more in the :ref:`User Guide <particle_bank>`.

    Parameters
    ----------
    n_particles : int, default=1024
        The number of samples that are kept.
    bandwidth : {'ml', 'silverman'}, float or array-like, default='ml'
        Standard deviations of the kernel: a rule, one for all columns or one for each.
        ``'ml'`` maximises the likelihood of samples
        that are not yet particles, column by column; ``'silverman'`` is the standard
        deviation of each column times ``n ** (-1 / (n_features + 4))``, which is too
        wide for clusters and curves.
    learning_rate : float, default=0.1
        Part of an EM step on the weights that a batch makes. More follows a drift
        faster, and is noisier.
    decay : float, default=1.0
        Factor on the weights of older particles at every batch, for streams that
        drift.
    min_ess : float, default=0.5
        Where the effective sample size is a smaller share of the particles, they are
        drawn anew in proportion to their weights (systematic resampling).
    jitter : float, default=0.0
        Standard deviation, in bandwidths, of noise on particles that are drawn anew.
    min_bandwidth : float, default=1e-6
        Floor of the bandwidths, in units of X: what a constant column gets.
    n_refinements : int, default=3
        EM steps on all samples at the end of `fit`, if there are more than particles.
        A few make up for samples that were not kept; many would fit the weights to
        noise.
    random_state : int, RandomState instance or None, default=None
        Seed of the order of samples and of draws.
    device : str, torch.device or None, default=None
        Where to compute: None is the CPU, ``"auto"`` is CUDA where there is one.

    Attributes
    ----------
    particles_ : ndarray of shape (n, n_features)
        Samples that are kept, at most `n_particles`.
    weights_ : ndarray of shape (n,)
        Their weights, which sum to one.
    bandwidth_ : ndarray of shape (n_features,)
        Standard deviations of the kernel.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had string column names.

    See Also
    --------
    skgmje.GaussianMixture : Few components of any shape.
    sklearn.neighbors.KernelDensity : All samples, of equal weight.

    Notes
    -----
    The likelihood behind weights and bandwidths is that of samples that are not yet
    particles. Where a sample is one already, as in a further pass over the same data,
    its copies do not count as an explanation of it. So bandwidths cannot collapse onto
    samples that are repeated. :ref:`maths_bank` has the formulas and proofs.

    A sample far from all others widens the ``'ml'`` kernel, as it has to be explained
    too; give a bandwidth where outliers are expected.

    References
    ----------
    A memory bank by sequential Monte Carlo is named in Y. Huang, "Gaussian Joint
    Embeddings for Self-Supervised Representation Learning", arXiv:2603.26799 (2026).
    Its equations were not available to us; the form of the updates is ours.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje.datasets import make_branches
    >>> from skgmje.mixture import ParticleBank
    >>> X = np.hstack(make_branches(1000, random_state=0))
    >>> bank = ParticleBank(300, random_state=0).fit(X)
    >>> bank.condition([0], [[0.5], [0.7]]).mean.shape
    torch.Size([2, 1])
    >>> bank.partial_fit(X[:10]).particles_.shape
    (300, 2)
    """

    # A pipeline asks about sample_weight=None, too, which the score does not take.
    __metadata_request__score = {"sample_weight": None}  # noqa: RUF012

    _parameter_constraints: dict = {  # noqa: RUF012
        "n_particles": [Interval(numbers.Integral, 1, None, closed="left")],
        "bandwidth": [
            StrOptions({"ml", "silverman"}),
            Interval(numbers.Real, 0, None, closed="neither"),
            "array-like",
        ],
        "learning_rate": [Interval(numbers.Real, 0, 1, closed="both")],
        "decay": [Interval(numbers.Real, 0, 1, closed="right")],
        "min_ess": [Interval(numbers.Real, 0, 1, closed="both")],
        "jitter": [Interval(numbers.Real, 0, None, closed="left")],
        "min_bandwidth": [Interval(numbers.Real, 0, None, closed="neither")],
        "n_refinements": [Interval(numbers.Integral, 0, None, closed="left")],
        "random_state": ["random_state"],
        "device": [str, torch.device, None],
    }
    particles_: np.ndarray
    weights_: np.ndarray
    bandwidth_: np.ndarray

    def __init__(
        self,
        n_particles=1024,
        *,
        bandwidth="ml",
        learning_rate=0.1,
        decay=1.0,
        min_ess=0.5,
        jitter=0.0,
        min_bandwidth=1e-6,
        n_refinements=3,
        random_state=None,
        device=None,
    ):
        self.n_particles = n_particles
        self.bandwidth = bandwidth
        self.learning_rate = learning_rate
        self.decay = decay
        self.min_ess = min_ess
        self.jitter = jitter
        self.min_bandwidth = min_bandwidth
        self.n_refinements = n_refinements
        self.random_state = random_state
        self.device = device

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Fit the bank to samples, in one pass in random order.

        If all samples fit into the bank, it is a kernel density of equal weights, whose
        bandwidths maximise the likelihood of each sample under the others, to within
        a few thousandths of a nat.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : object
            The fitted bank.

        Raises
        ------
        ValueError
            If X holds NaN or infinities, or has fewer than two rows.

        Notes
        -----
        In an initialised ``torch.distributed`` group every process passes its own
        samples; they are gathered, and all processes end with the same bank.
        """
        with unchanged_on_error(self):
            self._fit(X)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None):
        """Take in samples in the order in which they come.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples; the first ones are fitted as by `fit`.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : object
            The bank.
        """
        if not hasattr(self, "particles_"):
            return self.fit(X)
        with unchanged_on_error(self):
            X = np.concatenate(all_gather(self._check(X, reset=False)))
            bank = self._stored()
            self._take_in(bank, as_tensor(X, self._device()))
            self._store(bank)
        return self

    def _fit(self, X):
        X = self._check(X, reset=True)
        bank = self._new_bank(X.shape[1])
        random_state = resolve_random_state(self.random_state)
        seed = int(random_state.randint(np.iinfo(np.int32).max))
        X, seed = np.concatenate(all_gather(X)), all_gather(seed)[0]
        order = np.random.RandomState(seed).permutation(len(X))
        z = as_tensor(X[order], self._device())
        bank.initialize(z[: self.n_particles], seed)
        rest = z[self.n_particles :]
        self._take_in(bank, rest)
        if len(rest):
            for _ in range(self.n_refinements):
                bank.refine(z)
        self._store(bank)

    def score_samples(self, X):
        """Log-density of each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            Log-densities in nats.
        """
        check_is_fitted(self)
        X = self._check(X, reset=False)
        return as_numpy(self._stored().log_prob(as_tensor(X, self._device())))

    def score(self, X, y=None):
        """Mean log-density of the samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        log_likelihood : float
            Mean log-density in nats.
        """
        return float(self.score_samples(X).mean())

    @property
    def density_(self) -> MultivariateNormalMixture:
        """The weighted kernel density as a torch distribution, in float64."""
        check_is_fitted(self)
        return self._stored().density

    @property
    def effective_sample_size_(self) -> float:
        """Number of particles of equal weight that would be as even."""
        check_is_fitted(self)
        return float(effective_sample_size(torch.from_numpy(self.weights_)))

    # -------------------------------------------------------------------- the bank

    def _check(self, X: Any, reset: bool) -> np.ndarray:
        X = check_rows(self, X, reset=reset, ensure_min_samples=1 + reset)
        check_range(X, "X")
        return X

    def _new_bank(self, n_features: int) -> Particles:
        bandwidth = self.bandwidth
        if not isinstance(bandwidth, str):
            bandwidth = np.atleast_1d(bandwidth)
            bandwidth = check_numbers(bandwidth, "bandwidth", ensure_2d=False)
            if bandwidth.shape not in ((1,), (n_features,)) or bandwidth.min() <= 0:
                raise ValueError(
                    f"bandwidth must be a positive number or {n_features} of them, one "
                    f"for each column of X; got {self.bandwidth!r}."
                )
        return Particles(
            self.n_particles,
            bandwidth=bandwidth,
            learning_rate=self.learning_rate,
            decay=self.decay,
            min_ess=self.min_ess,
            jitter=self.jitter,
            min_bandwidth=self.min_bandwidth,
        )

    def _take_in(self, bank: Particles, z: torch.Tensor) -> None:
        for batch in z.split(BATCH_ROWS):
            if len(batch):
                bank.step(batch)

    def _device(self) -> torch.device:
        return resolve_device(self.device)

    def _stored(self) -> Particles:
        bank, device = self._new_bank(self.n_features_in_), self._device()
        # Equal weights come back equal to the bit, whatever their number.
        weights = as_tensor(self.weights_ / self.weights_.max(), device)
        bank.weights = weights / weights.mean()
        bank.positions = as_tensor(self.particles_, device)
        bank.bandwidths = as_tensor(self.bandwidth_, device)
        bank.seed, bank.n_steps = self._seed, self._n_steps
        return bank

    def _store(self, bank: Particles) -> None:
        self.particles_ = as_numpy(bank.positions)
        self.weights_ = as_numpy(bank.weights / bank.weights.sum())
        self.bandwidth_ = as_numpy(bank.bandwidths)
        self._seed, self._n_steps = bank.seed, bank.n_steps
