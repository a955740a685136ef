"""JEPA: a network predicts the target embedding as a point; the classic baseline."""

from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skgmje._validation import Interval
from skgmje.embedding._averaging import AveragedTargetMixin
from skgmje.embedding._conditional import ConditionalDensityEmbedder, in_target_units
from skgmje.embedding._construction import Run
from skgmje.embedding._density import fit_centred_gaussian, update_centred_gaussian
from skgmje.embedding._model import Encoders, JointModel
from skgmje.mixture import MultivariateNormalMixture
from skgmje.networks import Predictor


class JEPAEmbedder(AveragedTargetMixin, ConditionalDensityEmbedder):
    r"""Joint-embedding predictive architecture: a point for an answer.

    A predictor maps the context embedding to the target embedding. The target comes
    from a moving average of an encoder and carries no gradient, and the loss is the
    squared error. Nothing in the loss keeps the embeddings apart; in practice the slow
    target does. With ``momentum=0`` the target is the encoder itself (SimSiam).

    The moving average is that of the context encoder where both views share it: where
    they are drawn from X, or with ``target_encoder='shared'``. A target encoder with
    weights of its own cannot be an average of the context encoder. It is trained to
    predict, with a second predictor, the averaged context encoder; what the context
    predicts is its average.

    After training, a Gaussian with the covariance of the training residuals is put
    around the prediction, so that this baseline has the densities and scores of the
    other embedders. With ``target_encoder='identity'`` the prediction is that of least
    squares: between the answers, where there are several.

    Read more in the :ref:`User Guide <embedders>`.

    Parameters
    ----------
    embedding_dim : int, default=8
        Width of the embeddings. An identity encoder keeps the width of its view.
    encoder : {'mlp', 'linear', 'identity'}, nn.Module or callable, default='mlp'
        Encoder of the context view. A module is copied and trained, or kept as it is if
        no weight of it requires a gradient; a factory is called as
        ``factory(n_features_in, embedding_dim)``. Both are given standardised rows.
    target_encoder : same as `encoder`, 'shared' or None, default=None
        Encoder of the target view. ``'shared'`` means the context encoder, for target
        views with the columns of the context. None means ``'shared'`` where both views
        are drawn from X, and otherwise a second encoder of the kind of `encoder`.
    hidden_layer_sizes : array-like of int, default=(64, 64)
        Hidden layers of ``'mlp'`` encoders.
    predictor_hidden_layer_sizes : array-like of int, default=(64, 64)
        Hidden layers of the predictor. With few or none the embeddings tend to collapse
        to fewer dimensions.
    activation : str, default='tanh'
        Activation of all hidden layers: ``'relu'``, ``'tanh'``, ``'silu'``,
        ``'gelu'``, ``'logistic'`` or ``'identity'``. With ``'relu'`` small networks
        lose dimensions of the embedding in training.
    input_shape : tuple of int or None, default=None
        Shape of the images that rows of X hold, ``(height, width)`` or ``(channels,
        height, width)``; ``'conv'`` encoders need it. All pixels of a channel are
        standardised alike.
    decoder : {'mlp', 'conv'} or None, default=None
        What `inverse_transform` decodes embeddings of X with. It is trained after
        everything else, with the settings of the encoder and layers in reverse order.
    target : {'auto', 'y', 'augment'}, default='auto'
        Which array is the target view. ``'y'``: y is. ``'augment'``: two views are
        drawn from X, and y is ignored. ``'auto'``: y is, if it is a matrix of numbers;
        without y, or with class labels in y, two views are drawn from X. Labels are
        never taken for a view: in ``'auto'`` they are ignored with a warning, and what
        could be either is refused. `target_view` in `fit` wins over y.
    augmentation : {'corrupt', 'jitter'} or callable, default='corrupt'
        How a view is drawn from X: entries replaced by those of other rows, Gaussian
        noise, or a function of a batch (a tensor of rows in the units of X).
    momentum : float, default=0.99
        Share of the old moving average that is kept at every step. Below 0.8 the
        predictor takes larger steps than the encoders, up to five times as large.
    n_side_features : int, default=0
        Number of last columns of X that the encoder is not given, but the predictor is:
        an action, a time, a noise. They follow the embedding in `transform`, in
        standard deviations from their means.
    reg_covar : float, default=1e-6
        Added to the diagonal of the covariances of the fitted densities, in units of
        the variances.
    learning_rate_init : float, default=2e-3
        First step size of AdamW; it falls to zero along a half cosine.
    weight_decay : float, default=1e-4
        Decoupled weight decay.
    batch_size : int, default=256
        Samples in a batch. Batches are of nearly equal size.
    max_iter : int, default=100
        Largest number of epochs.
    tol : float, default=1e-4
        Smallest improvement of the loss, in nats, that counts.
    n_iter_no_change : int, default=100
        Epochs without improvement after which training ends. The target of the loss
        moves, so that it may rise while the embeddings get better.
    early_stopping : bool, default=False
        Whether to keep rows out of training, watch the loss on them, and restore the
        weights that were best.
    validation_fraction : float, default=0.1
        Share of the rows that are kept out.
    random_state : int, RandomState instance or None, default=None
        Seed of weights, batches, augmentations and starts.
    verbose : int, default=0
        Whether to print the loss of every epoch.
    device : str, torch.device or None, default=None
        Where to compute: None is the CPU, ``"auto"`` is CUDA where there is one.

    Attributes
    ----------
    encoder_ : Encoder
        The context encoder, in float64.
    target_encoder_ : Encoder
        The moving average of the target encoder, in float64.
    predictor_ : Predictor
        The predictor.
    residual_density_ : MultivariateNormalMixture
        Gaussian of the training residuals about zero; of standardised targets with an
        identity target encoder.
    density_ : MultivariateNormalMixture
        Gaussian of the context embedding.
    target_density_ : MultivariateNormalMixture
        Gaussian of the target embedding.
    decoder_ : Decoder
        The fitted decoder, if one was asked for.
    loss_curve_ : list of float
        Training loss of each epoch: half the squared error, which is in nats for a
        Gaussian with unit variance.
    validation_loss_curve_ : list of float or None
        Loss on the rows kept out, or None without early stopping.
    best_loss_ : float
        Smallest value of the curve that was watched.
    n_iter_ : int
        Number of epochs.
    target_source_ : {'target_view', 'y', 'augment'}
        Where the target view came from.
    score_unit_ : str
        What `score` measures: conditional log-likelihood or mutual information.
    x_mean_, x_scale_, y_mean_, y_scale_ : ndarray
        Moments by which the views were standardised.
    n_features_in_ : int
        Number of columns of the context view.
    n_targets_in_ : int
        Number of columns of the target view, if there was one.
    n_samples_seen_ : int
        Number of rows seen.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Column names of X, if they were strings.
    target_feature_names_in_ : ndarray of shape (`n_targets_in_`,)
        Column names of the target view, if they were strings.

    See Also
    --------
    GJEEmbedder : One joint Gaussian, whose entropy keeps the embeddings apart.
    MDNEmbedder : A density in place of the point.

    References
    ----------
    Y. Huang, "Gaussian Joint Embeddings for Self-Supervised Representation Learning",
    arXiv:2603.26799 (2026), figure 1, for the architecture. Grill et al., "Bootstrap
    Your Own Latent", NeurIPS 2020. Chen and He, "Exploring Simple Siamese
    Representation Learning", CVPR 2021. The target encoder with weights of its own and
    the Gaussian are our choice.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje import JEPAEmbedder
    >>> rng = np.random.default_rng(0)
    >>> state, action = rng.normal(size=(500, 3)), rng.normal(size=(500, 1))
    >>> next_state = np.tanh(state + action)
    >>> jepa = JEPAEmbedder(
    ...     2, target_encoder="shared", n_side_features=1, max_iter=10, random_state=0
    ... ).fit(np.hstack([state, action]), next_state)
    >>> jepa.predict(np.hstack([state, action])).shape
    (500, 2)
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **ConditionalDensityEmbedder._parameter_constraints,
        "predictor_hidden_layer_sizes": ["array-like"],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "n_side_features": [Interval(Integral, 0, None, closed="left")],
    }
    predictor_: Predictor
    residual_density_: MultivariateNormalMixture

    def __init__(
        self,
        embedding_dim=8,
        *,
        encoder="mlp",
        target_encoder=None,
        hidden_layer_sizes=(64, 64),
        predictor_hidden_layer_sizes=(64, 64),
        activation="tanh",
        input_shape=None,
        decoder=None,
        target="auto",
        augmentation="corrupt",
        momentum=0.99,
        n_side_features=0,
        reg_covar=1e-6,
        learning_rate_init=2e-3,
        weight_decay=1e-4,
        batch_size=256,
        max_iter=100,
        tol=1e-4,
        n_iter_no_change=100,
        early_stopping=False,
        validation_fraction=0.1,
        random_state=None,
        verbose=0,
        device=None,
    ):
        self.embedding_dim = embedding_dim
        self.encoder = encoder
        self.target_encoder = target_encoder
        self.hidden_layer_sizes = hidden_layer_sizes
        self.predictor_hidden_layer_sizes = predictor_hidden_layer_sizes
        self.activation = activation
        self.input_shape = input_shape
        self.decoder = decoder
        self.target = target
        self.augmentation = augmentation
        self.momentum = momentum
        self.n_side_features = n_side_features
        self.reg_covar = reg_covar
        self.learning_rate_init = learning_rate_init
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose
        self.device = device

    # -------------------------------------------------------------------- the views

    def _validate_target(
        self, X: np.ndarray, y: Any, target_view: Any, reset: bool
    ) -> tuple[np.ndarray | None, dict[str, Any]]:
        target, attributes = super()._validate_target(X, y, target_view, reset)
        if reset:
            self._check_side_features(X, target)
        return target, attributes

    def _check_side_features(self, X: np.ndarray, target: np.ndarray | None) -> None:
        n_embedded = X.shape[1] - self.n_side_features
        if n_embedded < 1:
            raise ValueError(
                f"n_side_features={self.n_side_features} leaves none of the "
                f"{X.shape[1]} columns of X to the encoder; lower it."
            )
        if target is None and self.n_side_features:
            raise ValueError(
                "n_side_features needs a target view: pass y or target_view=, since "
                "two views that are drawn from X have the same side features."
            )

    # -------------------------------------------------------------------- the model

    def _make_latent(self, encoders: Encoders, generator: torch.Generator) -> nn.Module:
        return self._make_prediction(encoders, generator)

    # ------------------------------------------------------------------ the density

    def _fit_densities(self, run: Run, z_c: Tensor, z_t: Tensor) -> dict[str, Any]:
        predictor = run.model.latent.predictor_for_inference()
        residual = _residual(predictor, run.model.fitted_encoders, z_c, z_t)
        return self._fit_marginals(z_c, z_t, run.seed) | {
            "predictor_": predictor,
            "residual_density_": fit_centred_gaussian(residual, self.reg_covar),
            "loss_curve_": [],
        }

    def _update_densities(
        self, model: JointModel, z_c: Tensor, z_t: Tensor, rate: float
    ) -> dict[str, Any]:
        predictor = model.latent.predictor_for_inference()
        residual = _residual(predictor, model.fitted_encoders, z_c, z_t)
        density = update_centred_gaussian(
            self._on_device(self.residual_density_), residual, rate, self.reg_covar
        )
        return self._update_marginals(z_c, z_t, rate) | {
            "predictor_": predictor,
            "residual_density_": density,
            "loss_curve_": [],
        }

    @torch.no_grad()
    def _conditional(self, z_c: Tensor) -> MultivariateNormalMixture:
        encoders = self._encoders()
        predictor = self.predictor_.to(z_c.device)
        residual = self._on_device(self.residual_density_)
        prediction = predictor(encoders.context.standardise_embedding(z_c))
        conditional = MultivariateNormalMixture.from_log_weights(
            residual.log_weights,
            prediction.unsqueeze(1),
            scale_tril=residual.scale_tril,
        )
        return in_target_units(conditional, encoders)


@torch.no_grad()
def _residual(
    predictor: Predictor, encoders: Encoders, z_c: Tensor, z_t: Tensor
) -> Tensor:
    """Error of the prediction, in units in which it was trained."""
    context, target = encoders
    return target.standardise_embedding(z_t) - predictor(
        context.standardise_embedding(z_c)
    )
