"""What a fitted Kalman embedder answers: states, forecasts, samples and scores."""

from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmje._backend import as_numpy, as_tensor, make_generator, resolve_device
from skgmje._validation import check_array, output_adapter
from skgmje.embedding._inference import SCORE_CONTEXTS, SCORE_SEED
from skgmje.embedding._sequence_model import Noise, encode_steps
from skgmje.embedding._sequences import Sequences, pad, read_sequences, rows_of, unpad
from skgmje.latent import (
    FilterResult,
    GaussianState,
    LinearGaussianStateSpace,
    contrastive_bound,
    filter_step,
    kalman_filter,
    kalman_smoother,
    pairwise_log_prob,
)
from skgmje.latent._moments import cholesky
from skgmje.mixture import MultivariateNormalMixture
from skgmje.networks import Encoder
from skgmje.views import SequenceViews


class _Filtered(NamedTuple):
    """Sequences and what the filter made of them, padded."""

    sequences: Sequences
    views: SequenceViews
    z: Tensor
    result: FilterResult


class KalmanInferenceMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Methods of a fitted Kalman embedder."""

    # Set by the estimator that these methods are mixed into.
    device: Any
    encoder_: Encoder
    noise_encoder_: Encoder | None
    noise_scale_: Any
    state_space_: LinearGaussianStateSpace
    n_features_in_: int

    # --------------------------------------------------------------------- states

    def transform(self, X, *, groups=None):
        """Filter sequences: the mean of each state given the steps so far.

        Parameters
        ----------
        X : array-like
            Sequences, in any of the forms of `fit`.
        groups : array-like of shape (n_rows,), default=None
            The sequence of each row, where X is a table.

        Returns
        -------
        states : ndarray of shape (n_sequences, n_steps, state_dim) or (n_rows, \
state_dim)
            Means of the states, in the float type of X: three-dimensional if X is, and
            otherwise one row for each step, in the order given. The first
            `embedding_dim` coordinates are the denoised embedding.

        Raises
        ------
        ValueError
            If X is three-dimensional and `set_output` asks for data frames.
        """
        filtered = self._filter(X, groups)
        if filtered.sequences.shape is not None and output_adapter(self) is not None:
            raise ValueError(
                "A data frame cannot hold the states of a three-dimensional X; pass "
                "rows with groups=, or set_output(transform='default')."
            )
        dtype = filtered.sequences.rows.dtype
        return self._given(filtered, filtered.result.mean).astype(dtype, copy=False)

    def filter(self, X, *, groups=None):
        """Mean and covariance of each state given the steps so far.

        Parameters
        ----------
        X : array-like
            Sequences, in any of the forms of `fit`.
        groups : array-like of shape (n_rows,), default=None
            The sequence of each row, where X is a table.

        Returns
        -------
        means : ndarray of shape (..., state_dim)
            Means, laid out as by `transform`.
        covariances : ndarray of shape (..., state_dim, state_dim)
            Covariances.
        """
        filtered = self._filter(X, groups)
        result = filtered.result
        return self._given(filtered, result.mean), self._given(
            filtered, result.covariance
        )

    def smooth(self, X, *, groups=None):
        """Mean and covariance of each state given all steps, later ones too.

        Parameters
        ----------
        X : array-like
            Sequences, in any of the forms of `fit`.
        groups : array-like of shape (n_rows,), default=None
            The sequence of each row, where X is a table.

        Returns
        -------
        means : ndarray of shape (..., state_dim)
            Means, laid out as by `transform`.
        covariances : ndarray of shape (..., state_dim, state_dim)
            Covariances.
        """
        filtered = self._filter(X, groups)
        lengths = _lengths(filtered.views)
        states = kalman_smoother(self._space(), filtered.result, lengths=lengths)
        return self._given(filtered, states.mean), self._given(
            filtered, states.covariance
        )

    def forecast(self, X, n_steps=1, *, of="embedding", groups=None):
        """Mean and covariance of the steps that follow each sequence.

        Parameters
        ----------
        X : array-like
            Sequences, in any of the forms of `fit`.
        n_steps : int, default=1
            Number of steps ahead.
        of : {'embedding', 'state'}, default='embedding'
            What is forecast. The covariance of an embedding has the noise of the
            observation in it; with an identity encoder it is in the units of X.
        groups : array-like of shape (n_rows,), default=None
            The sequence of each row, where X is a table; forecasts are in the order of
            sorted groups.

        Returns
        -------
        means : ndarray of shape (n_sequences, n_steps, n_coordinates)
            Means.
        covariances : ndarray of shape (n_sequences, n_steps, n_coordinates, \
n_coordinates)
            Covariances.

        Raises
        ------
        ValueError
            If `n_steps` is less than one, or `of` has another value.
        """
        check_is_fitted(self)
        _check_count("n_steps", n_steps)
        if of not in ("embedding", "state"):
            raise ValueError(f"of must be 'embedding' or 'state'; got {of!r}.")
        filtered, space = self._filter(X, groups), self._space()
        last = filtered.views.lengths - 1
        every = torch.arange(len(last), device=last.device)
        state = GaussianState(
            filtered.result.mean[every, last], filtered.result.covariance[every, last]
        )
        states = space.forecast(state, n_steps)
        if of == "embedding":
            states = space.observe(states)
        return as_numpy(states.mean), as_numpy(states.covariance)

    def step(self, X, state=None):
        """Take in the next step of each sequence, as the data come.

        Parameters
        ----------
        X : array-like of shape (n_sequences, n_features)
            One row for each sequence; a row of NaN is a missing step.
        state : tuple of ndarray, default=None
            What the call for the step before returned; None before the first step.

        Returns
        -------
        state : GaussianState
            Mean of shape (n_sequences, state_dim) and covariance of shape (n_sequences,
            state_dim, state_dim) as NumPy arrays: what `filter` says of this step.

        Raises
        ------
        ValueError
            If there are not as many rows as there are states.
        """
        sequences = self._read(X, None)
        if sequences.shape is not None:
            raise ValueError("step takes one row for each sequence, not sequences.")
        rows, space = rows_of(sequences, self._device()), self._space()
        if state is None:
            before = space.initial_state(len(rows))
        else:
            mean, covariance = (as_tensor(part, self._device()) for part in state)
            before = GaussianState(mean, covariance)
        if len(before.mean) != len(rows):
            raise ValueError(
                f"There are {len(before.mean)} states, but {len(rows)} rows; each row "
                "is the next step of one sequence."
            )
        z, noise = self._encode(rows, sequences)
        spread = None if noise is None else noise.diag_embed()
        after = filter_step(space, before, z, spread)
        arrays: Any = [as_numpy(part) for part in after]
        return GaussianState(*arrays)

    # -------------------------------------------------------- samples and decoding

    def sample(self, n_sequences=1, n_steps=100, *, random_state=None):
        """Draw sequences from the state space model.

        Parameters
        ----------
        n_sequences : int, default=1
            Number of sequences.
        n_steps : int, default=100
            Number of steps of each.
        random_state : int, RandomState instance or None, default=None
            Seed of this call. None draws anew at every call.

        Returns
        -------
        states : ndarray of shape (n_sequences, n_steps, state_dim)
            States.
        Z : ndarray of shape (n_sequences, n_steps, embedding_dim)
            Embeddings, in the units of X with an identity encoder.

        Raises
        ------
        ValueError
            If a number is less than one.
        """
        check_is_fitted(self)
        _check_count("n_sequences", n_sequences)
        _check_count("n_steps", n_steps)
        generator = make_generator(random_state, self._device())
        states, z = self._space().sample(n_sequences, n_steps, generator)
        return as_numpy(states), as_numpy(z)

    # --------------------------------------------------------------------- scores

    def score_samples(self, X, *, groups=None):
        """Log-density of the embedding of each step given the steps before.

        Parameters
        ----------
        X : array-like
            Sequences, in any of the forms of `fit`.
        groups : array-like of shape (n_rows,), default=None
            The sequence of each row, where X is a table.

        Returns
        -------
        log_density : ndarray of shape (n_sequences, n_steps) or (n_rows,)
            In nats; zero for missing steps, which tell nothing.
        """
        filtered = self._filter(X, groups)
        return self._given(filtered, filtered.result.log_likelihood)

    def score(self, X, y=None, *, groups=None):
        """How well the steps before tell the next one, on sequences not fitted.

        With an identity encoder, the mean of `score_samples`. With a learned one a
        likelihood means nothing, since it grows without bound as the embeddings shrink;
        the score is then ``mean log [p(z_t | past of t) / mean_j p(z_t | past of j)]``
        over groups of at most 1,000 steps: an estimate of the information that the past
        holds on the next embedding. It never exceeds the logarithm of the number of
        steps. Were the steps independent, it would on average be a lower bound.

        Parameters
        ----------
        X : array-like
            Sequences, in any of the forms of `fit`.
        y : None
            Ignored.
        groups : array-like of shape (n_rows,), default=None
            The sequence of each row, where X is a table.

        Returns
        -------
        score : float
            In nats a step.

        Raises
        ------
        ValueError
            If no step was observed.
        """
        sequences = self._read(X, groups)
        if not sequences.observed.any():
            raise ValueError(
                "Input X contains NaN only: no step was observed that could be scored."
            )
        filtered = self._filter_sequences(sequences)
        observed = torch.as_tensor(sequences.observed)
        if self.encoder_.is_identity:
            steps = unpad(filtered.result.log_likelihood, filtered.views)
            return float(steps[observed.to(steps.device)].mean())
        predictive = self._space().observe(
            GaussianState(
                filtered.result.predicted_mean, filtered.result.predicted_covariance
            )
        )
        # A noise that is read from the step itself would give away what is to be told;
        # here all have the mean one.
        padded = (filtered.z, predictive.mean, predictive.covariance)
        z, mean, covariance = (
            unpad(part, filtered.views)[observed.to(part.device)] for part in padded
        )
        order = np.random.default_rng(SCORE_SEED).permutation(len(z))
        parts = np.array_split(order, -(-len(z) // SCORE_CONTEXTS))
        bounds = [
            float(_information(z[rows], mean[rows], covariance[rows])) for rows in parts
        ]
        return float(np.average(bounds, weights=[len(rows) for rows in parts]))

    # -------------------------------------------------------------------- helpers

    @property
    def _n_features_out(self) -> int:
        return self.state_space_.state_dim

    def _device(self) -> torch.device:
        return resolve_device(self.device)

    def _space(self) -> LinearGaussianStateSpace:
        return self.state_space_.to(self._device())

    def _read(self, X: Any, groups: Any) -> Sequences:
        check_is_fitted(self)
        return read_sequences(self, X, groups, reset=False)

    def _encode(
        self, rows: Tensor, sequences: Sequences
    ) -> tuple[Tensor, Tensor | None]:
        noise = None
        if self.noise_encoder_ is not None:
            noise = Noise(self.noise_encoder_, self.noise_scale_).to(rows.device)
        observed = torch.as_tensor(sequences.observed, device=rows.device)
        return encode_steps(self.encoder_.to(rows.device), noise, rows, observed)

    def _filter(self, X: Any, groups: Any) -> _Filtered:
        return self._filter_sequences(self._read(X, groups))

    @torch.no_grad()
    def _filter_sequences(self, sequences: Sequences) -> _Filtered:
        rows = rows_of(sequences, self._device())
        z, noise = self._encode(rows, sequences)
        views = sequences.views(rows)
        z = pad(z, views)
        noise = None if noise is None else pad(noise, views).diag_embed()
        result = kalman_filter(
            self._space(), z, lengths=_lengths(views), observation_covariance=noise
        )
        return _Filtered(sequences, views, z, result)

    def _given(self, filtered: _Filtered, values: Tensor) -> np.ndarray:
        """Lay out padded values as the user gave the steps."""
        return filtered.sequences.as_given(as_numpy(unpad(values, filtered.views)))


def _lengths(views: SequenceViews) -> Tensor | None:
    """Return lengths where there is padding."""
    is_even = bool((views.lengths == views.lengths[0]).all())
    return None if is_even else views.lengths


def _information(z: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Contrastive bound of Gaussian predictions."""
    predictions = MultivariateNormalMixture(
        mean.new_ones(len(mean), 1),
        mean.unsqueeze(1),
        cholesky(covariance).unsqueeze(1),
        validate_args=False,
    )
    return contrastive_bound(pairwise_log_prob(predictions, z))


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be an integer of at least one; got {value!r}.")


def check_states(Z: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return states as rows, and the shape to bring what is made of them to."""
    Z = check_array(Z, dtype=[np.float64, np.float32], allow_nd=True, input_name="Z")
    return Z.reshape(-1, Z.shape[-1]), Z.shape[:-1]
