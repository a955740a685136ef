"""GMJE-MDN: a mixture whose parameters a network reads from the context."""

from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from skgmje._validation import Interval, StrOptions
from skgmje.embedding._conditional import ConditionalDensityEmbedder, in_target_units
from skgmje.embedding._construction import Run
from skgmje.embedding._model import Encoders, JointModel
from skgmje.latent import ConditionalMixture
from skgmje.latent._joint_mixture import GAUSSIAN_SHARE
from skgmje.mixture import MultivariateNormalMixture
from skgmje.networks import MixtureDensityHead


class MDNEmbedder(ConditionalDensityEmbedder):
    """Mixture density network over embeddings: curved, input-dependent answers.

    A network reads the weights, means and scales of a mixture from the context
    embedding alone. It is trained on the conditional likelihood of the detached target,
    with a marginal loss on the context embedding. Where the target has a trained
    encoder of its own, half of the likelihood is that of one Gaussian, whose moments
    follow the embeddings (not with the marginals ``'gaussian'`` and ``'vicreg'``). By
    default a target view is modelled in its own units: a conditional density estimator
    for tabular data.

    A joint mixture (:class:`GMJEEmbedder`) is cheaper, and better where the joint
    density is a mixture; this one is better where the conditional is curved. It
    overfits a few hundred rows, hence the early stopping.

    Read more in the :ref:`User Guide <embedders>`.

    Parameters
    ----------
    n_components : int, default=5
        Number of mixture components; a few more than the number of answers.
    embedding_dim : int, default=8
        Width of the embeddings. An identity encoder keeps the width of its view.
    encoder : {'mlp', 'linear', 'conv', 'identity'}, Module or callable, default='mlp'
        Encoder of the context view. A module is copied and trained, or kept as it is if
        no weight of it requires a gradient; a factory is called as
        ``factory(n_features_in, embedding_dim)``. Both are given standardised rows.
    target_encoder : same as `encoder`, 'shared' or None, default=None
        Encoder of the target view. None means the encoder of the context
        where both views are drawn from X, and otherwise ``'identity'``: a density in
        the units of y. ``'shared'`` is the same encoder for two given views of one
        kind, both standardised by the moments of X.
    hidden_layer_sizes : array-like of int, default=(64, 64)
        Hidden layers of the parameter network and of ``'mlp'`` encoders.
    activation : str, default='silu'
        Activation of the layers before the last: ``'relu'``, ``'tanh'``, ``'silu'``,
        ``'gelu'``, ``'logistic'`` or ``'identity'``.
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
    covariance_type : {'diag', 'full', 'spherical', 'low_rank'}, default='diag'
        Form of the component covariances. Low-rank ones model the correlations of a
        wide target with few outputs of the network.
    rank : int, default=2
        Number of factors of low-rank covariances. It is cut to one less than the width
        of the target, at which they are full. Other forms do not use it.
    marginal : {'moment_kl', 'gaussian', 'vicreg'} or None, default=None
        Loss on the trained embeddings. None is ``'moment_kl'``; where the target
        encoder is trained too, a tenth of the negentropy is added, since moments do not
        see embeddings that fold. ``'moment_kl'``: divergence of their moments
        from the standard normal. ``'gaussian'``: negative log-likelihood of a learned
        Gaussian, which only attracts, so that embeddings may collapse; for comparison.
        ``'vicreg'``: hinges on standard deviations below one, and squared covariances.
    marginal_weight : float, default=2.0
        Weight of that loss; above one for None and ``'moment_kl'``, or embeddings
        collapse.
    reg_covar : float, default=1e-6
        Added to the diagonal of the covariances of the fitted densities, in units
        of the variances of the embeddings.
    learning_rate_init : float, default=4e-3
        First step size of AdamW; it falls to zero along a half cosine.
    weight_decay : float, default=1e-3
        Decoupled weight decay.
    batch_size : int, default=256
        Samples in a batch. Batches are of nearly equal size.
    max_iter : int, default=200
        Largest number of epochs.
    tol : float, default=1e-4
        Smallest improvement of the loss, in nats, that counts.
    n_iter_no_change : int, default=50
        Epochs without improvement after which training ends.
    early_stopping : bool, default=True
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
    encoder_, target_encoder_ : Encoder
        The fitted encoders, in float64; one object if the views share it.
    head_ : MixtureDensityHead
        The parameter network.
    decoder_ : Decoder
        The fitted decoder, if one was asked for.
    density_ : MultivariateNormalMixture
        Density of the context embedding, of at most `n_components` components.
    target_density_ : MultivariateNormalMixture
        Density of the target embedding, likewise.
    loss_curve_ : list of float
        Training loss of each epoch, in nats.
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
    GMJEEmbedder : One mixture over both views.

    References
    ----------
    Y. Huang, "Gaussian Joint Embeddings for Self-Supervised Representation Learning",
    arXiv:2603.26799 (2026), for the model; the
    marginal loss is our choice. C. Bishop, "Mixture Density Networks" (1994).

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje import MDNEmbedder
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-1, 1, (500, 1))
    >>> y = np.sin(3 * x) + 0.1 * rng.normal(size=(500, 1))
    >>> mdn = MDNEmbedder(2, encoder="identity", random_state=0).fit(x, y)
    >>> mdn.predict([[0.5]]).shape
    (1, 1)
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **ConditionalDensityEmbedder._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "covariance_type": [StrOptions({"diag", "full", "spherical", "low_rank"})],
        "rank": [Interval(Integral, 1, None, closed="left")],
        "marginal": [StrOptions({"moment_kl", "gaussian", "vicreg"}), None],
        "marginal_weight": [Interval(Real, 0, None, closed="left")],
    }
    _default_target_encoder = "identity"
    head_: MixtureDensityHead

    def __init__(
        self,
        n_components=5,
        *,
        embedding_dim=8,
        encoder="mlp",
        target_encoder=None,
        hidden_layer_sizes=(64, 64),
        activation="silu",
        input_shape=None,
        decoder=None,
        target="auto",
        augmentation="corrupt",
        covariance_type="diag",
        rank=2,
        marginal=None,
        marginal_weight=2.0,
        reg_covar=1e-6,
        learning_rate_init=4e-3,
        weight_decay=1e-3,
        batch_size=256,
        max_iter=200,
        tol=1e-4,
        n_iter_no_change=50,
        early_stopping=True,
        validation_fraction=0.1,
        random_state=None,
        verbose=0,
        device=None,
    ):
        self.n_components = n_components
        self.embedding_dim = embedding_dim
        self.encoder = encoder
        self.target_encoder = target_encoder
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.input_shape = input_shape
        self.decoder = decoder
        self.target = target
        self.augmentation = augmentation
        self.covariance_type = covariance_type
        self.rank = rank
        self.marginal = marginal
        self.marginal_weight = marginal_weight
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

    def _make_latent(
        self, encoders: Encoders, generator: torch.Generator
    ) -> torch.nn.Module:
        n_context, n_target = encoders.widths()
        form = (self.covariance_type, self.hidden_layer_sizes, self.activation)
        head = MixtureDensityHead(
            n_context, self.n_components, n_target, *form, generator, rank=self.rank
        )
        reverse_head = None
        if encoders.target.is_trainable and not encoders.shared:
            reverse_head = MixtureDensityHead(
                n_target,
                self.n_components,
                n_context,
                *form,
                generator,
                rank=self.rank,
            )
        marginal = self.marginal
        if marginal is None and not encoders.target.is_trainable:
            marginal = "moment_kl"
        # The others do not hold the scale that a Gaussian of moments has to follow.
        holds_scale = marginal in (None, "moment_kl")
        return ConditionalMixture(
            head,
            reverse_head,
            self.marginal_weight,
            encoders.context.is_trainable,
            marginal,
            GAUSSIAN_SHARE if holds_scale else 0.0,
        )

    def _n_density_components(self) -> int:
        return self.n_components

    def _fit_densities(self, run: Run, z_c: Tensor, z_t: Tensor) -> dict[str, Any]:
        head = run.model.latent.head_for_inference()
        return self._fit_marginals(z_c, z_t, run.seed) | {
            "head_": head,
            "loss_curve_": [],
        }

    def _update_densities(
        self, model: JointModel, z_c: Tensor, z_t: Tensor, rate: float
    ) -> dict[str, Any]:
        head = model.latent.head_for_inference()
        marginals = self._update_marginals(z_c, z_t, rate)
        return marginals | {"head_": head, "loss_curve_": []}

    @torch.no_grad()
    def _conditional(self, z_c: Tensor) -> MultivariateNormalMixture:
        encoders = self._encoders()
        head = self.head_.to(z_c.device)
        conditional = head(encoders.context.standardise_embedding(z_c))
        return in_target_units(conditional, encoders)
