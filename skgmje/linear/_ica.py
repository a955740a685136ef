"""Linear independent component analysis: distribution matching with a linear map."""

import warnings
from numbers import Integral, Real

import numpy as np
from scipy.linalg import expm, expm_frechet
from scipy.optimize import minimize
from scipy.stats import special_ortho_group
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from skgmje._backend import resolve_random_state
from skgmje._validation import (
    Interval,
    StrOptions,
    check_array,
    check_rows,
    fit_context,
    unchanged_on_error,
)
from skgmje.io import SaveMixin
from skgmje.linear._sources import (
    SOURCE_DENSITIES,
    SourceDensity,
    checked,
    each_its_own,
    likelier,
    turn_pairs,
)

# Steps after which the densities of the sources are looked at again.
STEPS_WITH_DENSITIES = 10


class LDMICA(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, SaveMixin, BaseEstimator
):
    r"""Linear ICA by latent distribution matching, which is maximum likelihood.

    .. math:: F = \mathrm E \log P(W x) + \tfrac12 \log |W W^\top|, \qquad
              P(s) = \prod_i p_i(s_i)

    The first term aligns the sources with their density, and the second is the entropy
    of W x, up to that of the data. F is the mean log-likelihood of x = W⁻¹ s, so that
    `score` compares models on held-out rows.

    Read more in the :ref:`User Guide <ica>`.

    Parameters
    ----------
    n_components : int or None, default=None
        Number of sources. None is the rank of the data. With fewer, the likelihood is
        that of the leading principal components.
    density : {'auto', 'logcosh', 'exponent4'} or callable, default='auto'
        Density of the sources. ``'logcosh'``: logistic, for heavy tails.
        ``'exponent4'``: :math:`\exp(-c s^4)`, for light ones. ``'auto'``: for each
        source the one of the two under which it is likelier. A callable is given
        sources of shape (n_samples, n_components), and returns their log-densities,
        and the derivatives of the sum of these, both of the same shape. It may look
        along the rows, if they are in the order of time.
    whiten : bool, default=True
        Whether the data are whitened first, which costs nothing that W cannot undo.
        Without it they are only centred, and turned to their principal components if
        there are to be fewer sources than columns.
    orthogonal : bool, default=False
        Whether W is the whitening followed by a rotation. Without whitening it then
        preserves the volume, for sources whose variance is known.
    max_iter : int, default=1000
        Largest number of steps.
    tol : float, default=1e-5
        Largest entry of the relative gradient at which the fit has converged.
    random_state : int, RandomState instance or None, default=None
        Seed of the rotation to start from, with whitened data.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        The matrix W, in the units of the data.
    mixing_ : ndarray of shape (n_features, n_components)
        Its pseudo-inverse.
    mean_ : ndarray of shape (n_features,)
        Mean of the data.
    whitening_ : ndarray of shape (n_components, n_features)
        The matrix that whitens. Only with ``whiten=True``.
    densities_ : list of str
        Density of each source. Not with a callable.
    loss_ : float
        Negative mean log-likelihood of the data, in nats.
    n_iter_ : int
        Number of steps.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names of X, if they were strings.

    See Also
    --------
    sklearn.decomposition.FastICA : A fixed-point iteration with orthogonal W.
    LDMEmbedder : Distribution matching of pairs of views.

    Notes
    -----
    L-BFGS on :math:`W \leftarrow \exp(E) W`, with a skew-symmetric E if W is to be
    orthogonal. F has no unique maximum over order and sign of the sources.

    References
    ----------
    Mikulasch and Zenke, "Understanding Self-Supervised Learning via Latent Distribution
    Matching", arXiv:2605.03517 (2026), equation 3. Bell and Sejnowski, "An
    Information-Maximization Approach to Blind Separation and Blind Deconvolution",
    Neural Computation 7, 1995. The choice among densities follows Lee, Girolami and
    Sejnowski, "Independent Component Analysis Using an Extended Infomax Algorithm",
    Neural Computation 11, 1999.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje import LDMICA
    >>> rng = np.random.default_rng(0)
    >>> S = np.stack([rng.laplace(size=2000), rng.uniform(size=2000)], axis=1)
    >>> X = S @ [[1.0, 0.7], [0.7, 1.0]]
    >>> ica = LDMICA(random_state=0).fit(X)
    >>> sorted(ica.densities_)
    ['exponent4', 'logcosh']
    >>> correlation = np.corrcoef(ica.transform(X), S, rowvar=False)
    >>> np.abs(correlation[:2, 2:]).max(axis=0).round(2)
    array([1., 1.])
    """

    # A pipeline asks about sample_weight=None, too, which the score does not take.
    __metadata_request__score = {"sample_weight": None}  # noqa: RUF012

    _parameter_constraints: dict = {  # noqa: RUF012
        "n_components": [Interval(Integral, 1, None, closed="left"), None],
        "density": [StrOptions({"auto", *SOURCE_DENSITIES}), callable],
        "whiten": ["boolean"],
        "orthogonal": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components=None,
        *,
        density="auto",
        whiten=True,
        orthogonal=False,
        max_iter=1000,
        tol=1e-5,
        random_state=None,
    ):
        self.n_components = n_components
        self.density = density
        self.whiten = whiten
        self.orthogonal = orthogonal
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Find the sources.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Mixed signals, one a column.
        y : None
            Ignored.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X holds NaN or infinities, or has not the rank of `n_components`.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` steps did not suffice.
        """
        with unchanged_on_error(self):
            return self._solve(X)

    def _solve(self, X):
        X = check_rows(self, X, ensure_min_samples=2)
        X = X.astype(np.float64)
        # From the first row, so that a constant column is zero to the last bit.
        self.mean_ = X[0] + (X - X[0]).mean(axis=0)
        first = self._first_map(X - self.mean_)
        S = (X - self.mean_) @ first.T
        if self.whiten and isinstance(self.density, str):
            turn = turn_pairs(S)
            S, first = S @ turn.T, turn @ first
        rotation = self._maximise(S)
        self.components_ = rotation @ first
        self.mixing_ = np.linalg.pinv(self.components_)
        self._n_features_out = len(self.components_)
        self.loss_ = -float(np.mean(self._log_likelihood(X)))
        return self

    def transform(self, X):
        """Unmix signals.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Mixed signals.

        Returns
        -------
        S : ndarray of shape (n_samples, n_components)
            Sources, in the float type of X.
        """
        X = self._check(X)
        return ((X - self.mean_) @ self.components_.T).astype(X.dtype, copy=False)

    def inverse_transform(self, S):
        """Mix sources.

        Parameters
        ----------
        S : array-like of shape (n_samples, n_components)
            Sources.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Mixed signals, in the float type of S.
        """
        check_is_fitted(self)
        S = check_array(S, dtype=[np.float64, np.float32], input_name="S")
        if S.shape[1] != len(self.components_):
            raise ValueError(
                f"S has {S.shape[1]} columns, but LDMICA found {len(self.components_)} "
                "sources."
            )
        return (S @ self.mixing_.T + self.mean_).astype(S.dtype, copy=False)

    def score_samples(self, X):
        """Exact log-likelihood of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Mixed signals.

        Returns
        -------
        log_likelihood : ndarray of shape (n_samples,)
            In nats; with fewer sources than columns, in their subspace.
        """
        return self._log_likelihood(self._check(X).astype(np.float64))

    def score(self, X, y=None):
        """Mean log-likelihood.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Mixed signals.
        y : None
            Ignored.

        Returns
        -------
        score : float
            In nats a row.
        """
        return float(np.mean(self.score_samples(X)))

    # ---------------------------------------------------------------------- the parts

    def _check(self, X):
        check_is_fitted(self)
        return check_rows(self, X, reset=False)

    def _log_likelihood(self, X: np.ndarray) -> np.ndarray:
        log_density = self._source_density()((X - self.mean_) @ self.components_.T)[0]
        volume = np.log(np.linalg.svd(self.components_, compute_uv=False)).sum()
        return log_density.sum(axis=1) + volume

    def _source_density(self) -> SourceDensity:
        if callable(self.density):
            return checked(self.density)
        return each_its_own(self.densities_)

    def _names(self) -> list[str]:
        """Names of the densities that a source may have."""
        return list(SOURCE_DENSITIES) if self.density == "auto" else [self.density]

    def _first_map(self, centred: np.ndarray) -> np.ndarray:
        """Whitening of the leading components and a random rotation, or nothing."""
        n_samples, n_features = centred.shape
        _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
        floor = sizes[0] * max(centred.shape) * np.finfo(float).eps
        rank = int((sizes > floor).sum())
        n_components = rank if self.n_components is None else self.n_components
        if not rank or n_components > rank:
            raise ValueError(
                f"X has the rank {rank} after centring, which does not suffice for "
                f"{max(1, n_components)} sources; lower n_components, or drop columns "
                "that are constant or repeat others."
            )
        if not self.whiten:
            whole = n_components == n_features
            return np.eye(n_features) if whole else directions[:n_components]
        scale = np.sqrt(n_samples) / sizes[:n_components]
        self.whitening_ = scale[:, None] * directions[:n_components]
        if n_components == 1:
            return self.whitening_
        random_state = resolve_random_state(self.random_state)
        rotation = special_ortho_group.rvs(n_components, random_state=random_state)
        return rotation @ self.whitening_

    def _maximise(self, S: np.ndarray) -> np.ndarray:
        """Return the map of sources to likelier ones."""
        total = np.eye(S.shape[1])
        self.n_iter_, settled = 0, self.density != "auto"
        if isinstance(self.density, str):
            self.densities_ = likelier(S, self._names())
        while True:
            steps = self.max_iter - self.n_iter_
            if not settled:
                steps = min(steps, STEPS_WITH_DENSITIES)
            step, n_steps, converged = self._climb(S, steps)
            S, total = S @ step.T, step @ total
            self.n_iter_ += n_steps
            changed = False
            if self.density == "auto":
                before, self.densities_ = self.densities_, likelier(S, self._names())
                changed = self.densities_ != before
            if self.n_iter_ >= self.max_iter or (converged and not changed):
                break
            settled = not changed
        if not converged:
            warnings.warn(
                f"LDMICA did not converge in {self.max_iter} steps. Raise max_iter or "
                "tol.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return total

    def _climb(self, S: np.ndarray, n_steps: int) -> tuple[np.ndarray, int, bool]:
        """Take L-BFGS steps from the identity."""
        density, n = self._source_density(), S.shape[1]

        def generator_of(free: np.ndarray) -> np.ndarray:
            E = free.reshape(n, n)
            return E - E.T if self.orthogonal else E

        def loss(free: np.ndarray) -> tuple[float, np.ndarray]:
            E = generator_of(free)
            log_density, slope = density(S @ expm(E).T)
            gradient = -slope.T @ S / len(S)
            # The logarithm of the determinant of exp(E) is the trace of E.
            value = -log_density.sum() / len(S) - np.trace(E)
            gradient = expm_frechet(E.T, gradient, compute_expm=False) - np.eye(n)
            return value, generator_of(gradient).ravel()

        options = {"maxiter": n_steps, "gtol": self.tol, "ftol": 0.0, "maxcor": 20}
        found = minimize(
            loss, np.zeros(n * n), jac=True, method="L-BFGS-B", options=options
        )
        return expm(generator_of(found.x)), max(1, found.nit), found.nit < n_steps

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
