"""What a fitted mixture answers beyond scikit-learn's: conditionals and marginals."""

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import check_is_fitted

from skgmje._backend import as_numpy, as_tensor, make_generator
from skgmje._validation import check_numbers, output_adapter
from skgmje.mixture._distribution import MultivariateNormalMixture
from skgmje.mixture._em import (
    MixtureParameters,
    covariances_of_density,
    covariances_shape,
)
from skgmje.mixture._frames import (
    ConditionalFrame,
    FrameOutputMixin,
    row_index,
    select_columns,
)
from skgmje.mixture._samples import check_range


class ConditionalDensityMixin(FrameOutputMixin):
    """Conditionals and samples of an estimator that has a density."""

    density_: Any
    feature_names_in_: np.ndarray
    # The estimator that this is mixed into has this.
    _device: Any

    def condition(self, given, X_given):
        """Conditional distribution of the other features, for many rows at once.

        Parameters
        ----------
        given : int, str or sequence of these
            The features that are known, by index or by column name, in any order.
        X_given : array-like of shape (n_samples, n_given)
            Their values, in that order. One dimension is one row or, of one feature,
            its values in all rows. Where the features are named, the columns of a data
            frame are taken by name.

        Returns
        -------
        conditional : MultivariateNormalMixture or ConditionalFrame
            Batch of `n_samples` mixtures over the features that are left, in their
            order in X. Where `set_output` asks for data frames, these mixtures with
            answers in data frames.

        Raises
        ------
        ValueError
            If a feature is unknown or repeated, if all features are given, or if
            `X_given` has another width, lacks a column or holds NaN.

        Examples
        --------
        >>> from skgmje.mixture import GaussianMixture
        >>> mixture = GaussianMixture.from_parameters(
        ...     [1.0], [[0.0, 1.0]], [[[1.0, 0.5], [0.5, 1.0]]]
        ... )
        >>> mixture.condition([0], [[2.0]]).mean
        tensor([[2.]], dtype=torch.float64)
        """
        check_is_fitted(self)
        given = _as_list(given)
        indices = self._feature_indices(given)
        index = row_index(X_given)
        X_given = select_columns(X_given, given, "X_given")
        if np.ndim(X_given) < 2:
            X_given = np.reshape(X_given, (-1, 1) if len(given) == 1 else (1, -1))
        X_given = check_numbers(X_given, "X_given", ensure_min_features=0)
        check_range(X_given, "X_given")
        if X_given.shape[1] != len(given):
            raise ValueError(
                f"X_given must have {len(given)} columns, one for each of {given}; got "
                f"shape {X_given.shape}, where one dimension is read as one row."
            )
        density = self.density_.condition(indices, as_tensor(X_given, self._device()))
        adapter = output_adapter(self)
        if adapter is None:
            return density
        names = np.delete(self.get_feature_names_out(), indices)
        return ConditionalFrame(density, names, adapter, index)

    def _feature_indices(self, features: list[Any]) -> list[int]:
        names = list(getattr(self, "feature_names_in_", []))
        indices: list[int] = []
        for feature in features:
            if isinstance(feature, (int, np.integer)) and not isinstance(feature, bool):
                indices.append(int(feature))
            elif isinstance(feature, Hashable) and feature in names:
                indices.append(names.index(feature))
            else:
                raise ValueError(
                    f"Feature {feature!r} is unknown; the mixture was fitted on "
                    f"{names or 'data without column names, so use indices'}."
                )
        if len(set(indices)) < len(indices):
            raise ValueError(f"Features must not repeat; got {features}.")
        return indices

    def sample(self, n_samples=1, *, random_state=None):
        """Draw shuffled samples from the fitted mixture.

        Parameters
        ----------
        n_samples : int, default=1
            Number of samples.
        random_state : int, RandomState instance or None, default=None
            Seed of this call. None draws new samples at every call.

        Returns
        -------
        X : ndarray of shape (n_samples, n_features)
            Samples, in random order of components; a data frame where `set_output`
            asks for one.
        y : ndarray of int64 of shape (n_samples,)
            Component of each sample.

        Raises
        ------
        ValueError
            If `n_samples` is less than one.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise ValueError(
                f"Invalid value for 'n_samples': {n_samples} . The sampling requires "
                "at least one sample."
            )
        generator = make_generator(random_state, self._device())
        shape = (int(n_samples),)  # scikit-learn takes 1e3, too
        X, y = self.density_.sample_with_components(shape, generator=generator)
        return self._wrap_rows(as_numpy(X)), as_numpy(y)


class ConditioningMixin(ConditionalDensityMixin):
    """Marginals and given parameters of a mixture estimator, too."""

    covariance_type: str
    reg_covar: float
    weights_: np.ndarray
    device: Any
    # The estimator that this is mixed into keeps its parameters with these.
    _stored: Any
    _store: Any

    @classmethod
    def from_parameters(
        cls, weights, means, covariances, *, covariance_type="full", device=None
    ):
        """Build a fitted mixture from its parameters.

        Parameters
        ----------
        weights : array-like of shape (n_components,)
            Mixture weights, not negative, summing to one.
        means : array-like of shape (n_components, n_features)
            Means.
        covariances : array-like
            Covariances in the shape that `covariance_type` asks for.
        covariance_type : {'full', 'tied', 'diag', 'spherical'}, default='full'
            The form of the covariances.
        device : str, torch.device or None, default=None
            Where to compute.

        Returns
        -------
        mixture : GaussianMixture
            The mixture, as if fitted.

        Raises
        ------
        ValueError
            If shapes do not fit, weights are not a distribution, or a covariance is
            not positive definite.

        Examples
        --------
        >>> from skgmje.mixture import GaussianMixture
        >>> mixture = GaussianMixture.from_parameters(
        ...     [0.5, 0.5], [[0.0], [4.0]], [1.0, 2.0], covariance_type="spherical"
        ... )
        >>> mixture.predict([[3.5]])
        array([1])
        """
        means = check_numbers(means, "means")
        weights = check_numbers(weights, "weights", ensure_2d=False)
        covariances = check_numbers(
            covariances, "covariances", ensure_2d=False, allow_nd=True
        )
        n_components, n_features = means.shape
        shape = covariances_shape(covariance_type, n_components, n_features)
        for name, value, expected in (
            ("weights", weights, (n_components,)),
            ("covariances", covariances, shape),
        ):
            if value.shape != expected:
                raise ValueError(
                    f"{name} must have shape {expected} for {n_components} components "
                    f"of {n_features} features and covariance_type="
                    f"{covariance_type!r}; got {value.shape}."
                )
        if covariance_type in ("full", "tied") and not np.allclose(
            covariances,
            np.swapaxes(covariances, -1, -2),
            atol=1e-8 * np.abs(covariances).max(),
        ):
            raise ValueError("covariances must be symmetric.")
        if weights.min() < 0 or not np.isclose(weights.sum(), 1.0):
            raise ValueError("weights must not be negative and must sum to one.")
        estimator: Any = cls
        self = estimator(n_components, covariance_type=covariance_type, device=device)
        self.n_features_in_ = n_features
        self.converged_, self.n_iter_ = True, 0
        self.lower_bound_, self.lower_bounds_ = np.nan, []
        parameters = (weights / weights.sum(), means, covariances)
        self._store(MixtureParameters(*map(torch.from_numpy, parameters)))
        return self

    @property
    def density_(self) -> MultivariateNormalMixture:
        """The fitted mixture as a torch distribution, in float64 on ``device``."""
        check_is_fitted(self)
        return self._stored().density(self.covariance_type)

    def marginal(self, features):
        """Marginal distribution of some features, as a fitted mixture.

        Parameters
        ----------
        features : int, str or sequence of these
            The features to keep, by index or by column name, in any order.

        Returns
        -------
        mixture : GaussianMixture
            Mixture over those features, in the order given.

        Raises
        ------
        ValueError
            If `features` is empty, or a feature is unknown or repeated.

        Examples
        --------
        >>> from skgmje.mixture import GaussianMixture
        >>> mixture = GaussianMixture.from_parameters(
        ...     [1.0], [[0.0, 1.0]], [[[1.0, 0.5], [0.5, 2.0]]]
        ... )
        >>> mixture.marginal([1]).covariances_
        array([[[2.]]])
        """
        check_is_fitted(self)
        indices = self._feature_indices(_as_list(features))
        density = self.density_.marginal(indices)
        marginal = self.from_parameters(
            as_numpy(density.weights),
            as_numpy(density.means),
            as_numpy(covariances_of_density(density)).reshape(
                covariances_shape(
                    self.covariance_type, len(self.weights_), len(indices)
                )
            ),
            covariance_type=self.covariance_type,
            device=self.device,
        )
        marginal.reg_covar = self.reg_covar
        if hasattr(self, "_n_samples_seen"):
            marginal._n_samples_seen = self._n_samples_seen
        if hasattr(self, "feature_names_in_"):
            marginal.feature_names_in_ = self.feature_names_in_[indices]
        if hasattr(self, "_sklearn_output_config"):
            marginal._sklearn_output_config = dict(self._sklearn_output_config)
        return marginal


def _as_list(features: Any) -> list[Any]:
    if isinstance(features, (str, int, np.integer)):
        return [features]
    if not isinstance(features, Iterable):
        raise ValueError(
            "Features must be an index, a name or a sequence of these; got "
            f"{features!r}."
        )
    return list(features)
