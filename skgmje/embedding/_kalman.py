"""KalmanEmbedder: a Kalman filter that learns to see."""

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from skgmje._backend import (
    as_numpy,
    few_threads,
    private_torch_rng,
    resolve_device,
    resolve_random_state,
)
from skgmje._validation import (
    Interval,
    StrOptions,
    fit_context,
    unchanged_on_error,
)
from skgmje.embedding._construction import MAX_SEED
from skgmje.embedding._decoding import DecodingMixin, _has_decoder
from skgmje.embedding._encoder_construction import (
    ENCODERS,
    EncoderConstructionMixin,
)
from skgmje.embedding._epochs import run_epochs
from skgmje.embedding._kalman_inference import KalmanInferenceMixin, check_states
from skgmje.embedding._sequence_model import SequenceModel
from skgmje.embedding._sequences import Sequences, read_sequences, rows_of
from skgmje.embedding._state import StateMixin
from skgmje.io import SaveMixin
from skgmje.latent import ENTROPIES, KalmanPrediction
from skgmje.networks import ACTIVATIONS, Encoder
from skgmje.networks._encoders import embedding_width
from skgmje.training import Trainer


class KalmanEmbedder(
    CallbackSupportMixin,
    EncoderConstructionMixin,
    KalmanInferenceMixin,
    DecodingMixin,
    StateMixin,
    SaveMixin,
    BaseEstimator,
):
    r"""Kalman filter on learned embeddings of a sequence.

    An encoder embeds each step by itself. A linear-Gaussian state space model predicts
    the next embedding from those before it:

    .. math:: h_t = A (h_{t-1} - b) + b + \mathcal N(0, Q), \qquad
              z_t = f(x_t) = C h_t + \mathcal N(0, R)

    Encoder and model are trained together to make embeddings predictable without
    collapsing them. What comes out has the whole of a Kalman filter: states with
    covariances, smoothing, forecasts, missing steps, and one step at a time as data
    come. C is a rectangular identity, so that the first coordinates of the state are
    the embedding without its noise, and the others are hidden, such as velocities.

    With ``encoder='identity'`` this is a linear state space model of the observations,
    fitted by maximum likelihood; its forecasts are in their units.

    Sequences come as an array of shape (n_sequences, n_steps, n_features), as a list of
    arrays of different lengths, or as a table whose rows `groups` sorts into sequences.
    A table without groups is one of sequences of length one. A row of NaN is a missing
    step; sequences of nothing else take no part in training.

    Read more in the :ref:`User Guide <sequences>`.

    Parameters
    ----------
    embedding_dim : int, default=2
        Width of the embeddings. An identity encoder keeps the width of X.
    state_dim : int, default=None
        Width of the state, not less; None is the width of the embedding.
    encoder : str, nn.Module or callable, default='mlp'
        Encoder of a step: ``'mlp'``, ``'linear'``, ``'conv'`` or ``'identity'``. A
        module is copied and trained, or kept as it is if no weight of it requires a
        gradient; a factory is called as ``factory(n_features_in, embedding_dim)``. Both
        are given standardised rows.
    hidden_layer_sizes : array-like of int, default=(64, 64)
        Hidden layers of ``'mlp'`` encoders.
    activation : str, default='relu'
        Activation of all hidden layers: ``'relu'``, ``'tanh'``, ``'silu'``,
        ``'gelu'``, ``'logistic'`` or ``'identity'``.
    input_shape : tuple of int or None, default=None
        Shape of the images that steps hold, ``(height, width)`` or ``(channels, height,
        width)``; ``'conv'`` encoders need it. All pixels of a channel are standardised
        alike.
    decoder : {'mlp', 'conv'} or None, default=None
        What `inverse_transform` decodes states with. It is trained on the filtered
        states after everything else, with the settings of the encoder and layers in
        reverse order.
    observation_noise : {'constant', 'input'}, default='constant'
        Whether all embeddings have one variance of noise, or a network reads that of
        each from the step, in steps of 0.03 times the size of the encoder's.
    entropy : {'log_det', 'knn', 'stop_gradient'}, default='log_det'
        What keeps embeddings from collapsing: an entropy of the embeddings of a batch,
        from their covariance or their neighbours, or no gradient in what is predicted.
    learning_rate_init : float, default=1e-3
        First step size of AdamW; it falls to zero along a half cosine. The parameters
        of the state space take steps of 100 times this size, since they have to follow
        the encoder; with stopped gradients of up to 300 times, if that is not above
        0.4.
    weight_decay : float, default=1e-4
        Decoupled weight decay.
    batch_size : int, default=8
        Sequences in a batch. Batches are of nearly equal size.
    max_iter : int, default=100
        Largest number of epochs.
    tol : float, default=1e-4
        Smallest improvement of the loss, in nats, that counts.
    n_iter_no_change : int, default=100
        Epochs without improvement after which training ends. With stopped gradients the
        loss may rise while the embeddings get better.
    random_state : int, RandomState instance or None, default=None
        Seed of weights and batches.
    verbose : int, default=0
        Whether to print the loss of every epoch.
    device : str, torch.device or None, default=None
        Where to compute: None is the CPU, ``"auto"`` is CUDA where there is one.

    Attributes
    ----------
    encoder_ : Encoder
        The encoder, in float64.
    noise_encoder_ : Encoder or None
        The network of the noise, if each step has its own. Its variances are the
        softplus of what it gives.
    noise_scale_ : float or None
        What these variances are multiplied with.
    state_space_ : LinearGaussianStateSpace
        The model of embeddings; in the units of X with an identity encoder.
    transition_ : ndarray of shape (state_dim, state_dim)
        Matrix A. Its eigenvalues tell periods and decay times.
    transition_covariance_ : ndarray of shape (state_dim, state_dim)
        Covariance Q.
    observation_covariance_ : ndarray of shape (embedding_dim, embedding_dim)
        Covariance R; its mean over the fitted steps, if each has its own.
    offset_ : ndarray of shape (state_dim,)
        Fixed point b.
    decoder_ : Decoder
        The fitted decoder, if one was asked for.
    loss_curve_ : list of float
        Training loss of each epoch, in nats a step.
    best_loss_ : float
        Smallest training loss.
    n_iter_ : int
        Number of epochs.
    x_mean_, x_scale_ : ndarray of shape (`n_features_in_`,)
        Moments by which steps were standardised.
    n_features_in_ : int
        Number of columns of a step.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names of X, if they were strings.

    See Also
    --------
    JEPAEmbedder : One pair of views in place of a sequence.
    skgmje.latent.kalman_filter : The filter, without an estimator.

    References
    ----------
    F. Mikulasch, F. Zenke, "Understanding Self-Supervised Learning via Latent
    Distribution Matching", arXiv:2605.03517 (2026), equation 15 and its appendix.
    R. Kalman, "A New Approach to Linear Filtering and Prediction Problems", Journal of
    Basic Engineering 82, 1960.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje import KalmanEmbedder
    >>> rng = np.random.default_rng(0)
    >>> angle = rng.uniform(0, 6, (40, 1)) + 0.3 * np.arange(50)
    >>> circle = np.stack([np.cos(angle), np.sin(angle)], axis=2)
    >>> X = circle + 0.1 * rng.normal(size=circle.shape)
    >>> kalman = KalmanEmbedder(encoder="identity", max_iter=30, random_state=0).fit(X)
    >>> means, covariances = kalman.forecast(X, 10)
    >>> means.shape, covariances.shape
    ((40, 10, 2), (40, 10, 2, 2))
    >>> turn = np.angle(np.linalg.eigvals(kalman.transition_))
    >>> bool(np.allclose(np.abs(turn), 0.3, atol=0.01))
    True
    """

    # Which rows belong together travels as metadata.
    __metadata_request__fit = {"groups": True}  # noqa: RUF012
    __metadata_request__transform = {"groups": True}  # noqa: RUF012
    # A pipeline asks about sample_weight=None, too, which is not taken.
    __metadata_request__score = {"groups": True, "sample_weight": None}  # noqa: RUF012

    _parameter_constraints: dict = {  # noqa: RUF012
        "embedding_dim": [Interval(Integral, 1, None, closed="left")],
        "state_dim": [Interval(Integral, 1, None, closed="left"), None],
        "encoder": [StrOptions(ENCODERS), callable],
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "input_shape": [tuple, list, None],
        "decoder": [StrOptions({"mlp", "conv"}), None],
        "observation_noise": [StrOptions({"constant", "input"})],
        "entropy": [StrOptions({"stop_gradient", "knn", "log_det"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "device": [str, torch.device, None],
    }

    def __init__(
        self,
        embedding_dim=2,
        *,
        state_dim=None,
        encoder="mlp",
        hidden_layer_sizes=(64, 64),
        activation="relu",
        input_shape=None,
        decoder=None,
        observation_noise="constant",
        entropy="log_det",
        learning_rate_init=1e-3,
        weight_decay=1e-4,
        batch_size=8,
        max_iter=100,
        tol=1e-4,
        n_iter_no_change=100,
        random_state=None,
        verbose=0,
        device=None,
    ):
        self.embedding_dim = embedding_dim
        self.state_dim = state_dim
        self.encoder = encoder
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.input_shape = input_shape
        self.decoder = decoder
        self.observation_noise = observation_noise
        self.entropy = entropy
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    # ------------------------------------------------------------------------ fit

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, groups=None):
        """Fit encoder and state space model to sequences.

        Parameters
        ----------
        X : array-like of shape (n_sequences, n_steps, n_features) or (n_rows, \
n_features), or list of array-like of shape (n_steps, n_features)
            Sequences. A row of NaN is a missing step.
        y : None
            Ignored.
        groups : array-like of shape (n_rows,), default=None
            The sequence that each row of a table belongs to; the rows of a sequence are
            in the order of time. Without groups each row is a sequence of its own. It
            is requested by default when metadata routing is enabled.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X has another form, holds infinities or rows that are NaN in part, or if
            the state is narrower than the embedding.

        Warns
        -----
        ConvergenceWarning
            If the loss stopped being finite; the last good weights are kept.
        UserWarning
            If a table has an index of times and no groups are given: each of its rows
            is a sequence of its own.
        """
        context = self._init_callback_context(max_subtasks=self.max_iter)
        with unchanged_on_error(self):
            sequences = read_sequences(self, X, groups, reset=True)
            device = resolve_device(self.device)
            random_state = resolve_random_state(self.random_state)
            seed = int(random_state.randint(MAX_SEED))
            with self._user_rng(seed, device):
                model, attributes = self._start(sequences, seed, device)
            trainer = self._make_trainer(model, sequences, seed, device)
            data = {"X": X, "y": y}
            if groups is not None:
                data["metadata"] = {"groups": groups}
            context.call_on_fit_task_begin(estimator=self, **data)

            def fitted_attributes() -> dict[str, Any]:
                return attributes | self._final_attributes(model, trainer, sequences)

            with self._user_rng(seed, device), few_threads(device, model):
                run_epochs(self, trainer, context, data, fitted_attributes)
            self.__dict__.pop("decoder_", None)
            for name, value in fitted_attributes().items():
                setattr(self, name, value)
            if self.decoder is not None:
                self.decoder_ = self._decoder_of_states(sequences, seed)
            context.call_on_fit_task_end(
                estimator=self, **data, reconstruction_attributes={}
            )
        return self

    def fit_transform(self, X, y=None, *, groups=None):
        """Fit to sequences and filter them.

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
        states : ndarray of shape (n_sequences, n_steps, state_dim) or (n_rows, \
state_dim)
            What `transform` returns.
        """
        return self.fit(X, y, groups=groups).transform(X, groups=groups)

    @available_if(_has_decoder)
    def inverse_transform(self, Z):
        """Decode states to steps.

        Parameters
        ----------
        Z : array-like of shape (..., state_dim)
            States, of `transform`, `forecast` or `sample`.

        Returns
        -------
        X : ndarray of shape (..., n_features)
            Steps in the units of X, in the float type of Z.

        Raises
        ------
        ValueError
            If Z has another width than the states.
        """
        rows, shape = check_states(Z)
        decoded = super().inverse_transform(rows)
        return decoded.reshape(*shape, decoded.shape[1])

    # -------------------------------------------------------------------- training

    def _start(
        self, sequences: Sequences, seed: int, device: torch.device
    ) -> tuple[SequenceModel, dict[str, Any]]:
        rows = sequences.rows[sequences.observed]
        moments = self._moments(rows, is_image=self.input_shape is not None)
        weights = torch.Generator().manual_seed(seed)

        def make(kind: Any, width: int | None = None) -> Encoder:
            return self._make_encoder(kind, rows, moments, weights, device, width=width)

        encoder = make(self.encoder)
        width = embedding_width(encoder.network, rows.shape[1], device)
        entropy = None
        if self.entropy != "stop_gradient":
            entropy = ENTROPIES[self.entropy]()
        state_dim = width if self.state_dim is None else self.state_dim
        latent = KalmanPrediction(width, state_dim, entropy, weights).to(device)
        if entropy is None:
            latent.learning_rate_factor = _factor_when_stopped(self.learning_rate_init)
        noise_encoder = None
        if self.observation_noise == "input":
            noise_encoder = make("mlp", width)
        attributes = {"x_mean_": moments[0], "x_scale_": moments[1]}
        return SequenceModel(encoder, latent, noise_encoder), attributes

    def _make_trainer(
        self,
        model: SequenceModel,
        sequences: Sequences,
        seed: int,
        device: torch.device,
    ) -> Trainer:
        sequences = sequences.with_observations()
        steps = model.encoder.standardise(rows_of(sequences, device)).float()
        trainer = Trainer(
            model,
            sequences.views(steps),
            torch.Generator(device=device).manual_seed(seed),
            learning_rate=self.learning_rate_init,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            max_iter=self.max_iter,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            verbose=bool(self.verbose),
        )
        trainer.optimizer.register_step_post_hook(
            lambda *_: model.latent.limit_growth()
        )
        return trainer

    def _final_attributes(
        self, model: SequenceModel, trainer: Trainer, sequences: Sequences
    ) -> dict[str, Any]:
        """Return the fitted attributes for the present weights."""
        encoder, noise = model.encoder.for_inference(), model.noise()
        space = model.state_space()
        if noise is not None:
            rows = rows_of(sequences, space.device)[sequences.observed]
            mean = noise.variances(encoder, rows).mean(0)
            space = space.replace(observation_covariance=mean.diag())
        space = space.to(torch.device("cpu"))
        curve = list(trainer.history.loss_curve)
        return {
            "encoder_": encoder,
            "noise_encoder_": None if noise is None else noise.encoder,
            "noise_scale_": None if noise is None else noise.scale,
            "state_space_": space,
            "transition_": as_numpy(space.transition),
            "transition_covariance_": as_numpy(space.transition_covariance),
            "observation_covariance_": as_numpy(space.observation_covariance),
            "offset_": as_numpy(space.offset),
            "loss_curve_": curve,
            "best_loss_": min(curve, default=float("nan")),
            "n_iter_": trainer.n_epochs,
        }

    def _decoder_of_states(self, sequences: Sequences, seed: int):
        filtered = self._filter_sequences(sequences)
        observed = sequences.observed
        states: Tensor = filtered.result.mean
        rows = filtered.views.index(
            torch.arange(len(filtered.views), device=states.device)
        )[1]
        states = states[rows][torch.as_tensor(observed, device=states.device)]
        steps = self.batch_size * max(1, round(float(np.mean(sequences.lengths))))
        return self._fit_decoder(
            self.encoder_.to(self._device()),
            states,
            sequences.rows[observed],
            seed,
            steps,
        )

    def _user_rng(self, seed: int, device: torch.device):
        """Guard the global RNG where code of the user's may draw from it."""
        return private_torch_rng(seed, device, callable(self.encoder))

    def __sklearn_is_fitted__(self):
        return hasattr(self, "state_space_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.three_d_array = True
        return tags


def _factor_when_stopped(learning_rate: float) -> float:
    """Return how much longer than the encoder's the steps of the state space are.

    A slower one is left behind, and embeddings shrink; longer steps are too coarse.
    """
    slowest, fastest, longest = 100.0, 300.0, 0.4
    return max(slowest, min(fastest, longest / learning_rate))
