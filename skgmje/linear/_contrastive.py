"""Contrastive learning with linear encoders, in closed form."""

from numbers import Integral, Real
from typing import Self

import numpy as np
from sklearn.base import BaseEstimator

from skgmje._validation import (
    Interval,
    StrOptions,
    check_array,
    fit_context,
    unchanged_on_error,
    validate_data,
)
from skgmje.io import SaveMixin
from skgmje.linear._inference import DTYPES, LinearInferenceMixin
from skgmje.linear._moments import PairMoments, log_volume, lower_triangle
from skgmje.linear._objectives import OBJECTIVES
from skgmje.mixture._samples import check_range


class LinearContrastive(LinearInferenceMixin, SaveMixin, BaseEstimator):
    r"""Contrastive learning with linear encoders, at its optimum and without training.

    A contrastive loss matches the conditionals of the pairs (u, v) by those of a
    *tilting* of the product of the marginals,
    :math:`\rho(u, v)\, \mu_u(\mathrm du)\, \mu_v(\mathrm dv)`, with
    :math:`\rho \propto e^{\langle Gu, Hv \rangle}` or, if quadratic,
    :math:`\rho \propto e^{-\|Gu - Hv\|^2 / 2}`. For Gaussian views and encoders of
    `rank` rows the best G and H follow from the canonical correlations. They need the
    mean and the covariance of the data alone.

    ============================  ==============================  ====================
    objective                     slope, of canonical pairs       variance (truth:
                                  (truth: s)                      :math:`1 - s^2`)
    ============================  ==============================  ====================
    ``'inner_conditional'``       :math:`s`                       1
    ``'inner_joint'``             :math:`h(s) < s`                1
    ``'quadratic_target'``        :math:`s`                       :math:`1 - s^2`, of v
                                                                  given u
    ``'quadratic_context'``       :math:`s`                       :math:`1 - s^2`, of u
                                                                  given v
    ``'quadratic_conditional'``   :math:`(m - 1) / m`             :math:`1 / m`
    ``'quadratic_joint'``         :math:`s / (2 - s)`             :math:`2 (1 - s) /
                                                                  (2 - s)`
    ============================  ==============================  ====================

    The default is canonical correlation analysis: conditional means are the best of
    their rank, and conditional covariances are those of the marginals, which is too
    wide. Read more in the :ref:`User Guide <contrastive>`.

    Parameters
    ----------
    objective : str, default='inner_conditional'
        Tilting and loss, by a name of the table. ``'..._conditional'`` is the symmetric
        loss of CLIP, ``'..._target'`` its half for the target given the context, and
        ``'..._context'`` the other half. With an inner product both halves, and any
        weights of them, have the optimum of ``'inner_conditional'``. ``'..._joint'``
        matches the joint distribution instead.
    rank : int or None, default=None
        Number of rows of each encoder: the width of the embeddings. None is the
        smaller rank of the covariances of both views, which is the number of columns
        of the smaller view unless columns of X depend on each other.
    ridge : float, default=0.0
        Added to the diagonal of the covariance of each view, in units of the variances
        of its columns. Needed where columns of y are constant or depend on each other,
        for `conditional_context` with such an X, and useful where rows are few.

    Attributes
    ----------
    context_components_ : ndarray of shape (rank, n_features)
        The encoder G of the context.
    target_components_ : ndarray of shape (rank, n_targets)
        The encoder H of the target.
    canonical_correlations_ : ndarray of shape (n_pairs,)
        Canonical correlations of the views, in descending order: as many as the smaller
        rank of their covariances.
    coef_ : ndarray of shape (n_targets, n_features)
        Slopes of the model's mean of the target given the context.
    coef_reverse_ : ndarray of shape (n_features, n_targets)
        Slopes of the mean of the context given the target.
    conditional_covariance_ : ndarray of shape (n_targets, n_targets)
        The model's covariance of the target given the context.
    conditional_covariance_reverse_ : ndarray of shape (n_features, n_features)
        Covariance of the context given the target.
    context_mean_, target_mean_ : ndarray
        Means of the views.
    context_covariance_, target_covariance_ : ndarray
        Covariances of the views, with the ridge: the marginals that are tilted.
    loss_ : float
        Value of the objective at the optimum, in nats: the loss of a batch without end,
        less the logarithm of its size. At least minus `mutual_information_`.
    mutual_information_ : float
        Mutual information of Gaussian views with these moments, in nats.
    divergence_ : float
        What separates the model from such views, in nats: ``loss_`` plus
        `mutual_information_`. A Kullback-Leibler divergence of the joint distribution,
        or the mean one of the conditionals that the objective looks at.
    rank_ : int
        Number of rows of each encoder.
    n_features_in_, n_targets_in_ : int
        Number of columns of each view.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names of X, if they were strings.
    target_feature_names_in_ : ndarray of shape (`n_targets_in_`,)
        Column names of y, if they were strings.

    See Also
    --------
    GJEEmbedder : One joint Gaussian, with encoders of any kind.
    sklearn.cross_decomposition.CCA : The default objective, by iterations.

    Notes
    -----
    Encoders may be turned by any orthogonal matrix, and those of an inner product
    scaled against each other; these have diagonal gains in canonical coordinates, and
    the largest entry of each row of `context_components_` in standard deviations of X
    is positive.

    Columns of X may be constant or depend on each other. Encoders and slopes then lie
    in the range of its covariance, in standard units, and all that is said of the
    target is unchanged. Only `conditional_context` does not exist, and the density of
    the context is that on the range. Directions of less than about 1e-7 standard
    deviations count as constant.

    References
    ----------
    R. Baptista, A. Stuart, S. Tran, "A Mathematical Perspective on Contrastive
    Learning", arXiv:2505.24134 (2025): theorems 5.1 and 5.6 (inner products), and
    equation 49 (the one-sided quadratic loss of full rank). The closed forms of the
    other quadratic losses, and of lower ranks, are ours:
    :ref:`maths_linear_contrastive`.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje import LinearContrastive
    >>> rng = np.random.default_rng(0)
    >>> U = rng.normal(size=(1000, 3))
    >>> V = U[:, :2] + 0.6 * rng.normal(size=(1000, 2))
    >>> model = LinearContrastive("quadratic_target").fit(U, V)
    >>> model.predict([[1.0, -1.0, 0.0]]).round(1)
    array([[ 1.1, -1. ]])
    >>> model.conditional_covariance_.diagonal().round(2)
    array([0.35, 0.36])
    >>> LinearContrastive().fit(U, V).conditional_covariance_.diagonal().round(2)
    array([1.38, 1.3 ])
    """

    # A pipeline asks about sample_weight=None, too, which the score does not take.
    __metadata_request__score = {"sample_weight": None}  # noqa: RUF012

    _parameter_constraints: dict = {  # noqa: RUF012
        "objective": [StrOptions(set(OBJECTIVES))],
        "rank": [Interval(Integral, 1, None, closed="left"), None],
        "ridge": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(self, objective="inner_conditional", *, rank=None, ridge=0.0):
        self.objective = objective
        self.rank = rank
        self.ridge = ridge

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y):
        """Fit both encoders to pairs of rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view, u.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Target view, v.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If, without a ridge, the covariance of y has no inverse, or that of X has
            none for want of rows; if the views determine each other and the objective
            is quadratic, so that it has no optimum; or if `rank` exceeds that of a
            covariance.

        Notes
        -----
        In an initialised ``torch.distributed`` group every process passes its own
        rows, moments are added up, and all processes end with the same encoders.
        """
        with unchanged_on_error(self):
            return self._solve(PairMoments.of_rows(*self._validate_views(X, y)))

    @classmethod
    def from_covariance(
        cls,
        covariance,
        n_features: int,
        *,
        mean=None,
        objective="inner_conditional",
        rank=None,
        ridge=0.0,
    ) -> Self:
        """Build the fitted estimator of a population, or of moments from elsewhere.

        Weighted rows, streams and clusters need no more than to add up moments.

        Parameters
        ----------
        covariance : array-like of shape (n_columns, n_columns)
            Joint covariance of both views, those of the context first.
        n_features : int
            Number of columns of the context.
        mean : array-like of shape (n_columns,), default=None
            Mean of both views; None is zero.
        objective, rank, ridge : str, int or None, float
            As in the constructor.

        Returns
        -------
        estimator : LinearContrastive
            The estimator, as if fitted.

        Raises
        ------
        ValueError
            As in `fit`, whatever the number of rows behind the moments, and if shapes
            do not fit or the covariance is not symmetric and positive semi-definite.

        Examples
        --------
        >>> from skgmje import LinearContrastive
        >>> covariance = [[1.5, 1.0], [1.0, 1.5]]
        >>> model = LinearContrastive.from_covariance(covariance, 1)
        >>> model.canonical_correlations_.round(3), model.coef_.round(3)
        (array([0.667]), array([[0.667]]))
        """
        covariance = check_array(covariance, dtype=np.float64, input_name="covariance")
        size = len(covariance)
        mean = np.zeros(size) if mean is None else mean
        mean = check_array(mean, dtype=np.float64, ensure_2d=False, input_name="mean")
        if covariance.shape != (size, size) or mean.shape != (size,):
            raise ValueError(
                "covariance must be a square matrix and mean must have one value for "
                f"each of its rows; got shapes {covariance.shape} and {mean.shape}."
            )
        if not isinstance(n_features, Integral) or not 0 < n_features < size:
            raise ValueError(
                f"n_features must leave columns to each view, between 1 and {size - 1};"
                f" got {n_features!r}."
            )
        gap = np.abs(covariance - covariance.T).max()
        if gap > 1e-8 * np.abs(covariance).max() or covariance.diagonal().min() < 0:
            raise ValueError("covariance must be symmetric, with no negative variance.")
        self = cls(objective, rank=rank, ridge=ridge)
        self._validate_params()
        self.n_features_in_ = int(n_features)
        self._target_is_column = False
        return self._solve(PairMoments.of_covariance(mean, covariance, n_features))

    def _solve(self, moments: PairMoments) -> Self:
        objective = OBJECTIVES[self.objective]
        pairs = moments.canonical_pairs(self.ridge)
        n_pairs = len(pairs.correlations)
        rank = n_pairs if self.rank is None else self.rank
        if rank > n_pairs:
            raise ValueError(
                f"rank={rank} exceeds the rank of the covariance of the smaller view, "
                f"{n_pairs}: further rows of the encoders would change nothing. Lower "
                "rank, or leave it None."
            )
        s = pairs.correlations[:rank]
        if objective.is_quadratic and 1 - s[0] <= 1e-12:
            raise ValueError(
                "X and y determine each other in some direction (a canonical "
                "correlation of one), so that a quadratic objective has no finite "
                "optimum. Set ridge > 0, or use objective='inner_conditional'."
            )
        g, h = objective.gains(s)
        context_weights = pairs.context_weights[:, :rank]
        target_weights = pairs.target_weights[:, :rank]
        self.context_components_ = g[:, np.newaxis] * context_weights.T
        self.target_components_ = h[:, np.newaxis] * target_weights.T
        slope, variance = objective.target_given_context(g, h)
        self.coef_, self._scale_tril = _conditional(
            pairs.target_factor, context_weights, slope, variance
        )
        slope, variance = objective.context_given_target(g, h)
        self.coef_reverse_, self._scale_tril_reverse = _conditional(
            pairs.context_factor, target_weights, slope, variance
        )
        self.conditional_covariance_ = _square(self._scale_tril)
        self.conditional_covariance_reverse_ = _square(self._scale_tril_reverse)
        self._context_weights = pairs.context_weights
        self._context_log_volume = log_volume(pairs.context_factor)
        self.context_covariance_ = _square(pairs.context_factor)
        self.target_covariance_ = _square(pairs.target_factor)
        self.context_mean_, self.target_mean_ = moments.split(moments.mean)
        self.canonical_correlations_ = pairs.correlations
        with np.errstate(divide="ignore"):
            information = -np.log1p(-(pairs.correlations**2)) / 2
        self.mutual_information_ = float(information.sum())
        self.loss_ = float(objective.loss(g, h, s).sum())
        self.divergence_ = max(0.0, self.loss_ + self.mutual_information_)
        self.rank_, self.n_targets_in_ = rank, len(self.target_mean_)
        return self

    def _validate_views(self, X, y) -> tuple[np.ndarray, np.ndarray]:
        columns = getattr(y, "columns", None)
        X, y = validate_data(
            self,
            X,
            y,
            dtype=DTYPES,
            multi_output=True,
            y_numeric=True,
            ensure_min_samples=2,
        )
        Y = check_array(y.reshape(len(X), -1), dtype=DTYPES, input_name="y")
        check_range(X, "X")
        check_range(Y, "y")
        self._target_is_column = y.ndim == 1
        self.__dict__.pop("target_feature_names_in_", None)
        if columns is not None and all(isinstance(name, str) for name in columns):
            self.target_feature_names_in_ = np.array(columns, dtype=object)
        return X, Y

    @property
    def _n_features_out(self) -> int:
        return self.rank_

    def __sklearn_is_fitted__(self):
        return hasattr(self, "loss_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.target_tags.two_d_labels = True
        return tags


def _conditional(
    factor: np.ndarray, weights: np.ndarray, slope: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return slopes and a triangular factor of one view given the other.

    The first columns of `factor` move with the canonical coordinates, of which slope
    and variance are given; the others keep the variance one.
    """
    rank = len(slope)
    narrowed = factor.copy()
    narrowed[:, :rank] *= np.sqrt(variance)
    return factor[:, :rank] * slope @ weights.T, lower_triangle(narrowed)


def _square(factor: np.ndarray) -> np.ndarray:
    return factor @ factor.T
