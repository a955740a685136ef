"""GJE: one joint Gaussian over the embeddings of two views."""

import torch

from skgmje.embedding._joint import DensityForm, JointDensityEmbedder
from skgmje.embedding._model import Encoders
from skgmje.latent import GaussianMutualInformation


class GJEEmbedder(JointDensityEmbedder):
    r"""Gaussian joint embedding: one Gaussian over the embeddings of two views.

    Encoders are trained to maximise the Gaussian mutual information of their
    embeddings, :math:`-\tfrac12 \sum_j \log(1 - \rho_j^2)` over the canonical
    correlations :math:`\rho_j` (deep canonical correlation analysis), with a little
    noise on each view and a pull towards white embeddings. It does not
    change with the scale of the embeddings, so they cannot collapse. The joint Gaussian
    then gives predictions with uncertainty in closed form. With identity encoders there
    is nothing to train: linear regression with its noise.

    Read more in the :ref:`User Guide <embedders>`.

    Parameters
    ----------
    embedding_dim : int, default=8
        Width of the embeddings. An identity encoder keeps the width of its view.
    encoder : {'mlp', 'linear', 'conv', 'identity'}, Module or callable, default='mlp'
        Encoder of the context view. A module is copied and trained, or kept as it is if
        no weight of it requires a gradient; a factory is called as
        ``factory(n_features_in, embedding_dim)``. Both are given standardised rows.
    target_encoder : same as `encoder`, 'shared' or None, default=None
        Encoder of the target view. None means the same encoder for both
        views where both are drawn from X, and otherwise a second one of the kind of
        `encoder`. ``'shared'`` is the same encoder for two given views of one kind,
        both standardised by the moments of X.
    hidden_layer_sizes : array-like of int, default=(128, 128)
        Hidden layers of ``'mlp'`` encoders.
    activation : str, default='relu'
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
    reg_covar : float or 'auto', default='auto'
        Added to the diagonal of the covariances of the fitted density, in units of the
        variances of the embeddings. ``'auto'`` is 1e-6, and as much more as gives the
        rows that are kept out of training the best score, if these are ten at least.
        For this, rows are kept out where networks learn from a target view that is
        given, and with `early_stopping`.
    learning_rate_init : float, default=3e-3
        First step size of AdamW; it falls to zero along a half cosine.
    weight_decay : float, default=1e-2
        Decoupled weight decay.
    batch_size : int, default=256
        Samples in a batch. Batches are of nearly equal size.
    max_iter : int, default=100
        Largest number of epochs.
    tol : float, default=1e-4
        Smallest improvement of the loss, in nats, that counts.
    n_iter_no_change : int, default=20
        Epochs without improvement after which training ends.
    early_stopping : bool, default=False
        Whether to keep rows out of training, watch the loss on them, and restore the
        weights that were best.
    validation_fraction : float, default=0.1
        Share of the rows that are kept out, for `early_stopping` or for `reg_covar`.
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
    decoder_ : Decoder
        The fitted decoder, if one was asked for.
    density_ : MultivariateNormalMixture
        Joint Gaussian of both embeddings, refitted to all rows after training, and as
        wide as `reg_covar_` says.
    reg_covar_ : float
        Value of `reg_covar` that was used, in units of the variances.
    loss_curve_ : list of float
        Training loss of each epoch, in nats;
        without anything to train, negative log-likelihoods of the EM iterations.
    validation_loss_curve_ : list of float or None
        Loss on the rows kept out, or None without early stopping.
    best_loss_ : float
        Smallest value of the curve that was watched.
    n_iter_ : int
        Number of epochs, or of EM iterations without anything to train.
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
    GMJEEmbedder : Several Gaussians, for several answers.
    MDNEmbedder : A mixture whose parameters a network reads from the context.

    References
    ----------
    Y. Huang, "Gaussian Joint Embeddings for Self-Supervised Representation Learning",
    arXiv:2603.26799 (2026), for the model; the
    objective is our derivation. Andrew et al., "Deep Canonical Correlation Analysis",
    ICML 2013.

    Examples
    --------
    >>> from sklearn.datasets import load_linnerud
    >>> from skgmje import GJEEmbedder
    >>> X, Y = load_linnerud(return_X_y=True)
    >>> gje = GJEEmbedder(encoder="identity", random_state=0).fit(X, Y)
    >>> gje.predict(X[:1]).round(1)
    array([[176.2,  35.1,  57.1]])
    >>> gje.conditional(X[:1]).stddev.numpy().round(1)
    array([[20.6,  2.1,  6.8]])
    """

    def __init__(
        self,
        embedding_dim=8,
        *,
        encoder="mlp",
        target_encoder=None,
        hidden_layer_sizes=(128, 128),
        activation="relu",
        input_shape=None,
        decoder=None,
        target="auto",
        augmentation="corrupt",
        reg_covar="auto",
        learning_rate_init=3e-3,
        weight_decay=1e-2,
        batch_size=256,
        max_iter=100,
        tol=1e-4,
        n_iter_no_change=20,
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
        self.activation = activation
        self.input_shape = input_shape
        self.decoder = decoder
        self.target = target
        self.augmentation = augmentation
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
        # A linear map cannot fold, and is that of canonical correlations without it.
        if all(encoder.is_linear for encoder in encoders):
            return GaussianMutualInformation(negentropy_weight=0.0)
        return GaussianMutualInformation()

    def _density_form(self) -> DensityForm:
        return DensityForm(1)
