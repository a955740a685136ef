"""Data frames in and out: columns by name, containers as set_output asks for."""

from typing import Any

import numpy as np
from sklearn.base import OneToOneFeatureMixin

from skgmje._backend import as_numpy, as_tensor, make_generator
from skgmje._validation import SetOutputMixin, check_numbers, output_adapter
from skgmje.mixture._distribution import MultivariateNormalMixture


class FrameOutputMixin(OneToOneFeatureMixin, SetOutputMixin):
    """``set_output`` for an estimator whose rows of features are not a `transform`."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        # Without a method `transform`, scikit-learn would not offer set_output.
        cls._sklearn_auto_wrap_output_keys = {"transform"}

    def set_output(self, *, transform=None):
        """Set the container of the rows that methods return.

        Parameters
        ----------
        transform : {"default", "pandas", "polars"}, default=None
            ``"pandas"`` and ``"polars"`` ask for data frames of the fitted feature
            names, and for a :class:`~skgmje.mixture.ConditionalFrame` from `condition`;
            ``"default"`` asks for arrays and for the density itself. None changes
            nothing.

        Returns
        -------
        self : estimator
            The estimator.
        """
        return super().set_output(transform=transform)

    def _wrap_rows(self, rows: np.ndarray, original: Any = None) -> Any:
        """Give rows of all features the container that set_output asks for.

        A pandas frame has the row index of `original`, if that is one as well.
        """
        adapter = output_adapter(self)
        if adapter is None:
            return rows
        names = self.get_feature_names_out()
        return adapter.create_container(rows, row_index(original), names)


class ConditionalFrame:
    """Conditional distribution of the other features, answered in data frames.

    What :meth:`GaussianMixture.condition` returns where ``set_output`` asks for data
    frames. Each row belongs to a row of the values that were given, and has its index
    in pandas.

    Parameters
    ----------
    density : MultivariateNormalMixture
        Batch of mixtures, one for each row.
    names : sequence of str
        Names of the features that are left.
    adapter : object
        scikit-learn's adapter of the data frame library.
    index : data frame, optional
        A frame with the rows' index.

    Attributes
    ----------
    density : MultivariateNormalMixture
        The batch of mixtures, for everything else that a density offers.
    mean, stddev, variance, mode : data frame of shape (n_samples, n_features_left)
        Moments and highest mode of each row.
    covariance_matrix : ndarray of shape (n_samples, n_features_left, n_features_left)
        Covariance of each row.

    Examples
    --------
    >>> import pandas as pd
    >>> from skgmje.mixture import GaussianMixture
    >>> X = pd.DataFrame({"size": [1.0, 2, 3, 4], "price": [2.0, 3, 6, 7]})
    >>> mixture = GaussianMixture(random_state=0).fit(X).set_output(transform="pandas")
    >>> conditional = mixture.condition("size", X[["size"]])
    >>> conditional.mean.round(2)
       price
    0    1.8
    1    3.6
    2    5.4
    3    7.2
    >>> conditional.quantile([0.05, 0.95]).round(1).columns.tolist()
    ['price_q0.05', 'price_q0.95']
    """

    def __init__(
        self,
        density: MultivariateNormalMixture,
        names: Any,
        adapter: Any,
        index: Any = None,
    ):
        self.density = density
        self._names = list(names)
        self._adapter = adapter
        self._index = index

    @property
    def mean(self) -> Any:
        """Mean of each row."""
        return self._frame(self.density.mean)

    @property
    def stddev(self) -> Any:
        """Standard deviation of each feature, row by row."""
        return self._frame(self.density.stddev)

    @property
    def variance(self) -> Any:
        """Variance of each feature, row by row."""
        return self._frame(self.density.variance)

    @property
    def mode(self) -> Any:
        """Highest mode of each row."""
        return self._frame(self.density.mode)

    @property
    def covariance_matrix(self) -> np.ndarray:
        """Covariance of each row."""
        return as_numpy(self.density.covariance_matrix)

    def quantile(self, q: Any) -> Any:
        """Quantiles of each feature, row by row.

        Parameters
        ----------
        q : float or sequence of float
            Probabilities from 0 to 1.

        Returns
        -------
        quantiles : data frame
            With the features as columns for one probability, and with columns such as
            ``"price_q0.05"`` for several.

        Raises
        ------
        ValueError
            If `q` has more than one dimension, or leaves the range.
        """
        if np.ndim(q) > 1:
            raise ValueError(
                f"q must be one probability or a list of them; got {np.ndim(q)} "
                "dimensions."
            )
        if np.ndim(q) == 0:
            return self._frame(self.density.quantile(q))
        names = [f"{name}_q{share:g}" for name in self._names for share in q]
        # (q, rows, features) to one block of columns for each feature.
        points = self.density.quantile(np.asarray(q)).permute(1, 2, 0).flatten(1)
        return self._frame(points, names)

    def log_prob(self, Y: Any) -> np.ndarray:
        """Log-density of one row of the features that are left, for each row given.

        Parameters
        ----------
        Y : array-like of shape (n_samples, n_features_left)
            Values; the columns of a data frame by name, in any order.

        Returns
        -------
        log_prob : ndarray of shape (n_samples,)
            Log-densities in nats.

        Raises
        ------
        ValueError
            If Y has another shape, or lacks a column.
        """
        Y = check_numbers(select_columns(Y, self._names, "Y"), "Y")
        shape = (len(self.density), len(self._names))
        if Y.shape != shape:
            raise ValueError(f"Y must have shape {shape}; got {Y.shape}.")
        value = as_tensor(Y, self.density._options["device"])
        return as_numpy(self.density.log_prob(value))

    def sample(self, n_samples: int = 1, *, random_state: Any = None) -> Any:
        """Draw from the conditional distribution of every row.

        Parameters
        ----------
        n_samples : int, default=1
            Number of draws for each row.
        random_state : int, RandomState instance or None, default=None
            Seed of this call. None draws new samples at every call.

        Returns
        -------
        samples : data frame of shape (n_rows * n_samples, n_features_left)
            Draws, those of a row together; a pandas index is repeated.

        Raises
        ------
        ValueError
            If `n_samples` is less than one.
        """
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1; got {n_samples}.")
        generator = make_generator(random_state, self.density._options["device"])
        draws = self.density.sample((n_samples,), generator=generator)
        return self._frame(draws.transpose(0, 1).flatten(0, 1), repeats=n_samples)

    def __len__(self) -> int:
        return len(self.density)

    def __repr__(self) -> str:
        return f"ConditionalFrame({', '.join(self._names)}; n_samples={len(self)})"

    def _frame(self, rows: Any, names: Any = None, repeats: int = 1) -> Any:
        index = self._index
        if index is not None and repeats > 1:
            index = index.iloc[np.repeat(np.arange(len(index)), repeats)]
        return self._adapter.create_container(
            as_numpy(rows), index, self._names if names is None else names
        )


def row_index(X: Any) -> Any:
    """Return a pandas frame without columns that has the rows' index, or None."""
    return X.iloc[:, :0] if hasattr(X, "iloc") and np.ndim(X) == 2 else None


def select_columns(X: Any, names: list[Any], input_name: str) -> Any:
    """Take named columns of a data frame, or entries of a series, in that order.

    Anything else, and features that are given by index, are left as they are.
    """
    labels = X.index if hasattr(X, "iloc") and np.ndim(X) == 1 else None
    # Columns of an Arrow table are its arrays.
    labels = getattr(X, "column_names", getattr(X, "columns", labels))
    by_name = names and all(isinstance(name, str) for name in names)
    if not by_name or labels is None:
        return X
    if not all(isinstance(label, str) for label in labels):
        return X
    missing = [name for name in names if name not in labels]
    if missing:
        raise ValueError(f"{input_name} has no column {missing[0]!r}.")
    return X.select(names) if hasattr(X, "column_names") else X[names]
