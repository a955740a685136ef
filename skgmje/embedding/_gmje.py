"""GMJE: a mixture of Gaussians over the embeddings of two views."""

from numbers import Integral
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmje._backend import as_numpy
from skgmje._validation import Interval, StrOptions
from skgmje.embedding._joint import DensityForm, JointDensityEmbedder
from skgmje.embedding._model import Encoders
from skgmje.embedding._structures import STRUCTURES, fit_structure, update_structure
from skgmje.embedding._widening import widen
from skgmje.latent import (
    ENTROPIES,
    LIKELIHOODS,
    BankInfoNCE,
    ComponentRule,
    GaussianMutualInformation,
    JointMixture,
    NeuralGas,
    ParticleKernels,
    StepwiseEM,
)


class GMJEEmbedder(JointDensityEmbedder):
    """Gaussian mixture joint embedding: several answers where several are true.

    One mixture describes both embeddings, and its conditional, again a mixture, is the
    prediction. Encoders are trained on a likelihood, by default the symmetric
    conditional one with detached targets, and on an entropy of each view, by default a
    divergence of its moments from the standard normal; the mixture follows by a rule of
    its own. With identity encoders there is nothing to train: this is Gaussian mixture
    regression, in the units of y. The parameters of training, such as `max_iter` and
    `early_stopping`, are then not used, and `n_iter_` counts the steps of the mixture,
    at most 1,000 of EM.

    Read more in the :ref:`User Guide <embedders>`.

    Parameters
    ----------
    n_components : int, default=10
        Number of mixture components.
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
    components : {'prototypes', 'em', 'gng', 'bank'}, default='prototypes'
        How components are placed. ``'prototypes'`` take a step of stepwise EM at every
        batch, and EM at the end; ``'em'`` takes EM on all embeddings at every epoch.
        ``'gng'`` puts at most `n_components`, but at least two, on the nodes of a
        growing neural gas, whose edges show which answers are connected. ``'bank'``
        keeps `n_components` weighted particles, one component for each with the same
        bandwidth for all: take some hundreds. If both views have an encoder that
        trains, these train on the contrastive limit of the bank, on the unit sphere.
    likelihood : {'conditional', 'joint'}, default='conditional'
        What trains encoders: the conditional likelihood in both directions, with
        detached targets, or the joint likelihood. The contrastive loss of a bank uses
        neither this nor an entropy.
    entropy : {'moment_kl', 'log_det', 'whitening', 'vicreg', 'knn', \
'mutual_information'} or None, default=None
        What keeps the embeddings of each view from collapsing. None is ``'moment_kl'``
        and a tenth of the negentropy, since moments do not see embeddings that fold;
        with the joint likelihood, which rewards clusters, it is ``'moment_kl'`` and
        ``'knn'``. ``'mutual_information'`` is the loss of GJE beside a lesser share of
        the likelihood: stronger for wide embeddings of augmented images, and quicker to
        overfit few rows.
    covariance_type : {'full', 'tied', 'diag', 'spherical', 'low_rank'}, default='full'
        Form of the component covariances. Only full, tied and low-rank ones let a
        component's mean depend on the context. Low-rank ones (mixtures of factor
        analysers) have far fewer parameters where embeddings are wide and rows few.
        Those of a gas are full, and those of a bank diagonal and the same for all,
        whatever this says.
    rank : int, default=2
        Number of factors of low-rank covariances. It is cut to one less than the width
        of both embeddings, at which they are full. Other forms do not use it.
    reg_covar : float or 'auto', default='auto'
        Added to the diagonal of the covariances of the fitted density, in units of the
        variances of the embeddings. ``'auto'`` is 1e-6, and as much more as gives the
        rows that are kept out of training the best score, if these are ten at least.
        For this, rows are kept out where networks learn from a target view that is
        given, and with `early_stopping`.
        A bank learns its bandwidths: a number is not used, ``'auto'`` widens them.
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
        Joint mixture of both embeddings, refitted to all rows after training.
    usage_ : ndarray of shape (n_components,)
        Share of the rows that each component explains: the weights of `density_`. With
        few rows a gas or a bank has fewer than `n_components`.
    gas_ : GrowingNeuralGas
        Nodes and edges over the standardised embeddings of both views, with
        ``components='gng'``.
    bank_ : ParticleBank
        Particles over the standardised embeddings of both views, with
        ``components='bank'``.
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
    GJEEmbedder : One Gaussian.
    MDNEmbedder : A mixture whose parameters a network reads from the context.
    skgmje.mixture.GaussianMixture : The mixture alone.

    References
    ----------
    Y. Huang, "Gaussian Joint Embeddings for Self-Supervised Representation Learning",
    arXiv:2603.26799 (2026), for the model; the
    objective is our derivation.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje import GMJEEmbedder
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(1, 2, 500)
    >>> y = rng.choice([-1, 1], 500) * x + 0.05 * rng.normal(size=500)
    >>> gmje = GMJEEmbedder(2, encoder="identity", target="y", random_state=0)
    >>> conditional = gmje.fit(x[:, None], y).conditional([[1.5]])
    >>> np.sort(conditional.means.numpy().ravel()).round(1)
    array([-1.5,  1.5])
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **JointDensityEmbedder._parameter_constraints,
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "components": [StrOptions({"prototypes", "em", *STRUCTURES})],
        "likelihood": [StrOptions(set(LIKELIHOODS))],
        "entropy": [StrOptions({*ENTROPIES, "mutual_information"}), None],
        "covariance_type": [
            StrOptions({"full", "tied", "diag", "spherical", "low_rank"})
        ],
        "rank": [Interval(Integral, 1, None, closed="left")],
    }
    _optional_attributes = (
        *JointDensityEmbedder._optional_attributes,
        *STRUCTURES.values(),
        "_structure_frame",
    )

    def __init__(
        self,
        n_components=10,
        *,
        embedding_dim=8,
        encoder="mlp",
        target_encoder=None,
        hidden_layer_sizes=(128, 128),
        activation="relu",
        input_shape=None,
        decoder=None,
        target="auto",
        augmentation="corrupt",
        components="prototypes",
        likelihood="conditional",
        entropy=None,
        covariance_type="full",
        rank=2,
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
        self.components = components
        self.likelihood = likelihood
        self.entropy = entropy
        self.covariance_type = covariance_type
        self.rank = rank
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

    @property
    def usage_(self):
        """Share of the rows that each component explains."""
        check_is_fitted(self)
        return as_numpy(self.density_.weights)

    def _make_latent(
        self, encoders: Encoders, generator: torch.Generator
    ) -> torch.nn.Module:
        if self._space(encoders) == "sphere":
            return BankInfoNCE(n_particles=self.n_components, up_to_rotation=True)
        entropies = ENTROPIES | {"mutual_information": GaussianMutualInformation}
        entropy = None if self.entropy is None else entropies[self.entropy]()
        return JointMixture(
            self._component_rule(), likelihood=self.likelihood, entropy=entropy
        )

    def _component_rule(self) -> ComponentRule:
        if self.components == "gng":
            return NeuralGas(max(2, self.n_components))
        if self.components == "bank":
            return ParticleKernels(self.n_components)
        return StepwiseEM(
            self.n_components,
            self.covariance_type,
            self.rank,
            each_epoch=self.components == "em",
        )

    def _space(self, encoders: Encoders) -> str:
        is_bank = self.components == "bank" and all(e.is_trainable for e in encoders)
        return "sphere" if is_bank else "plane"

    def _density_form(self) -> DensityForm:
        return DensityForm(self.n_components, self.covariance_type, self.rank)

    def _n_density_components(self) -> int:
        # A gas or a bank of few rows has fewer components.
        return 1 if self.components in STRUCTURES else self.n_components

    def _n_latent_components(self) -> int:
        return self._n_density_components()

    def _fit_joint(self, z: Tensor, seed: int) -> dict[str, Any]:
        if self.components not in STRUCTURES:
            return super()._fit_joint(z, seed)
        return fit_structure(
            self.components, self.n_components, z, self._least_reg_covar, seed
        )

    def _update_joint(self, z: Tensor, rate: float) -> dict[str, Any]:
        if self.components not in STRUCTURES:
            return super()._update_joint(z, rate)
        structure = getattr(self, STRUCTURES[self.components])
        least = self._least_reg_covar
        attributes = update_structure(
            self.components, structure, self._structure_frame, z, least
        )
        # The structure knows nothing of how much wider its density was made.
        density = widen(attributes["density_"], self._known_reg_covar - least)
        return attributes | {"density_": density}
