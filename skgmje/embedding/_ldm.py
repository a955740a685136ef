"""LDM: a latent density and an entropy, which combine into the methods of the field."""

from numbers import Integral, Real
from typing import Any

import torch
from torch import nn

from skgmje._validation import Interval, StrOptions
from skgmje.embedding._averaging import AveragedTargetMixin
from skgmje.embedding._joint import DensityForm, JointDensityEmbedder
from skgmje.embedding._model import Encoders
from skgmje.latent import LATENT_DENSITIES, DistributionMatching
from skgmje.latent._distribution_matching import (
    OBJECTIVES,
    PRIORS,
    make_density,
    make_estimate,
)

ENTROPY_OF_LATENT = {
    "gaussian": "log_det",
    "von_mises_fisher": "kde",
    "dirichlet": "kde",
    "categorical": "categorical",
}

_PREDICTIVE = {"prior": "empirical", "predictor_hidden_layer_sizes": (64, 64)}
_PLUG_IN = {
    "entropy": "plug_in",
    "objective": "ldm",
    "activation": "tanh",
    "learning_rate_init": 2e-3,
    **_PREDICTIVE,
}
# The methods of the field as parameters of LDMEmbedder.
LDM_METHODS: dict[str, dict[str, Any]] = {
    "vicreg": {"latent": "gaussian", "entropy": "log_det", "objective": "mi"},
    "simclr": {
        "latent": "von_mises_fisher",
        "entropy": "kde",
        "objective": "mi",
        "concentration": 10.0,
        "bandwidth": 5**-0.5,
    },
    "cpc": {
        "latent": "von_mises_fisher",
        "entropy": "contrastive",
        "objective": "mi",
        **_PREDICTIVE,
    },
    "byol": {"latent": "von_mises_fisher", **_PLUG_IN, "momentum": 0.99},
    "simsiam": {"latent": "von_mises_fisher", **_PLUG_IN, "momentum": 0.0},
    "jepa": {"latent": "gaussian", **_PLUG_IN, "momentum": 0.99},
    "dirichlet": {"latent": "dirichlet", "entropy": "kde", "objective": "mi"},
    "categorical": {
        "latent": "categorical",
        "entropy": "categorical",
        "objective": "ldm",
    },
}


class LDMEmbedder(AveragedTargetMixin, JointDensityEmbedder):
    r"""Latent distribution matching: every method as a density and an entropy.

    Encoders are trained so that the law R of the embeddings of both views matches a
    latent density P:

    .. math:: F_{\text{LDM}} = \mathrm E \log P(z_c, z_t) + H[z_c, z_t], \qquad
              F_{\text{MI}} = \mathrm E \log P(z_c, z_t) + H[z_c] + H[z_t]

    The density aligns the views, and decides whether embeddings lie in the plane, on
    the sphere or on the simplex. The entropy keeps them apart. VICReg, SimCLR, CPC,
    BYOL, SimSiam and JEPA are choices of the two, which `from_method` makes by name.

    After training, a joint mixture is fitted to the embeddings, so that all choices
    have the densities and scores of the other embedders. P itself is a model of how the
    views agree, and need not have a normaliser.

    Read more in the :ref:`User Guide <ldm>`.

    Parameters
    ----------
    embedding_dim : int, default=8
        Width of the embeddings, or number of classes. An identity encoder keeps the
        width of its view.
    latent : str, default='gaussian'
        The latent density P of the target about the context. ``'gaussian'``: in the
        plane. ``'von_mises_fisher'``: embeddings have unit length. ``'dirichlet'``:
        embeddings are points of the simplex. ``'categorical'``: embeddings are the
        probabilities of classes.
    entropy : str or None, default=None
        Estimate of the entropies. ``'log_det'``: of the Gaussian with the same
        covariance. ``'knn'``: from nearest neighbours. ``'kde'``: from kernels of the
        form of P. ``'contrastive'``: from the average of P over the contexts of the
        batch. ``'plug_in'``: from P itself, by a stopped gradient. ``'categorical'``:
        exact, for classes. None is ``'log_det'`` in the plane, ``'categorical'`` for
        classes and ``'kde'`` otherwise.
    objective : {'mi', 'ldm'}, default='mi'
        Whether the entropies of both views are taken, or their joint one. They differ
        by the mutual information of the views.
    prior : {'flat', 'empirical'}, default='flat'
        P of the context embedding: a constant, or the law of the embeddings, which
        takes their entropy out of the objective.
    concentration : float or None, default=None
        How narrow P is: one over its variance, the concentration of a von Mises-Fisher
        density, the number of counts of a Dirichlet density, or the log-odds of one
        class. None is 1, 5, 20, or the log-odds at which views agree nine times in ten.
    bandwidth : float or None, default=None
        Standard deviation of the kernels of ``'kde'``, whose concentration is one over
        its square. None is that of P.
    predictor_hidden_layer_sizes : array-like of int or None, default=None
        Hidden layers of a network that predicts the target embedding from that of the
        context. None is no network: P is about the context embedding.
    momentum : float, default=0.99
        Share of the old moving average of the target encoder that is kept at every
        step. For ``entropy='plug_in'`` alone; zero is the encoder itself. Below 0.8
        the predictor takes larger steps than the encoders, up to five times as large.
    n_components : int, default=1
        Number of components of the mixture that is fitted after training.
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
    reg_covar : float, default=1e-6
        Added to the diagonal of the covariances of the fitted density, in units of the
        variances of the embeddings.
    learning_rate_init : float, default=1e-3
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
        Epochs without improvement after which training ends.
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
    encoder_, target_encoder_ : Encoder
        The fitted encoders, in float64; one object if the views share it, unless the
        target encoder is a moving average.
    decoder_ : Decoder
        The fitted decoder, if one was asked for.
    density_ : MultivariateNormalMixture
        Joint mixture of both embeddings, fitted to all rows after training.
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
    GJEEmbedder : The plane with one joint Gaussian that is learned.
    JEPAEmbedder : The plane with the plug-in entropy, and side information.
    LDM_METHODS : The parameters of each method.

    References
    ----------
    Mikulasch and Zenke, "Understanding Self-Supervised Learning via Latent Distribution
    Matching", arXiv:2605.03517 (2026), table 1. The names of the priors and the mixture
    after training are our choice.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skgmje import LDMEmbedder
    >>> X = load_digits().data
    >>> simclr = LDMEmbedder.from_method("simclr", max_iter=2, random_state=0)
    >>> simclr
    LDMEmbedder(bandwidth=0.4472135954999579, concentration=10.0, entropy='kde',
                latent='von_mises_fisher', max_iter=2, random_state=0)
    >>> Z = simclr.fit_transform(X)
    >>> (Z**2).sum(axis=1)[:3].round(6)
    array([1., 1., 1.])
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **JointDensityEmbedder._parameter_constraints,
        "latent": [StrOptions(set(LATENT_DENSITIES))],
        "entropy": [
            StrOptions(
                {"log_det", "knn", "kde", "contrastive", "plug_in", "categorical"}
            ),
            None,
        ],
        "objective": [StrOptions(set(OBJECTIVES))],
        "prior": [StrOptions(set(PRIORS))],
        "concentration": [Interval(Real, 0, None, closed="neither"), None],
        "bandwidth": [Interval(Real, 0, None, closed="neither"), None],
        "predictor_hidden_layer_sizes": ["array-like", None],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "n_components": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(
        self,
        embedding_dim=8,
        *,
        latent="gaussian",
        entropy=None,
        objective="mi",
        prior="flat",
        concentration=None,
        bandwidth=None,
        predictor_hidden_layer_sizes=None,
        momentum=0.99,
        n_components=1,
        encoder="mlp",
        target_encoder=None,
        hidden_layer_sizes=(128, 128),
        activation="relu",
        input_shape=None,
        decoder=None,
        target="auto",
        augmentation="corrupt",
        reg_covar=1e-6,
        learning_rate_init=1e-3,
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
        self.latent = latent
        self.entropy = entropy
        self.objective = objective
        self.prior = prior
        self.concentration = concentration
        self.bandwidth = bandwidth
        self.predictor_hidden_layer_sizes = predictor_hidden_layer_sizes
        self.momentum = momentum
        self.n_components = n_components
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

    @classmethod
    def from_method(cls, method, **parameters):
        """Return an embedder with the parameters of a method that has a name.

        Parameters
        ----------
        method : {'vicreg', 'simclr', 'cpc', 'byol', 'simsiam', 'jepa', 'dirichlet', \
'categorical'}
            A key of ``skgmje.embedding.LDM_METHODS``.
        **parameters : dict
            Parameters that win over those of the method.

        Returns
        -------
        embedder : LDMEmbedder
            The embedder, not fitted.

        Raises
        ------
        ValueError
            If no method has this name.
        """
        if method not in LDM_METHODS:
            raise ValueError(
                f"method must be one of {sorted(LDM_METHODS)}; got {method!r}."
            )
        return cls(**LDM_METHODS[method] | parameters)

    # -------------------------------------------------------------------- the model

    def _space(self, encoders: Encoders) -> str:
        return LATENT_DENSITIES[self.latent].space

    def _averages_targets(self) -> bool:
        return self.entropy == "plug_in"

    def _make_latent(self, encoders: Encoders, generator: torch.Generator) -> nn.Module:
        widths = encoders.widths()
        entropy = self.entropy or ENTROPY_OF_LATENT[self.latent]
        self._check_combination(entropy)
        self._check_widths(widths)
        density = make_density(self.latent, self.concentration, widths[1])
        if entropy == "plug_in":
            return self._make_prediction(encoders, generator, density)
        predictor = None
        if self.predictor_hidden_layer_sizes is not None:
            predictor, _ = self._make_predictors(encoders, generator)
        return DistributionMatching(
            density,
            make_estimate(entropy, density, self.bandwidth),
            objective=self.objective,
            prior=self.prior,
            predictor=predictor,
            # The nearest neighbours of one view would be the other view's.
            pooled=encoders.shared and entropy != "knn",
        )

    def _check_combination(self, entropy: str) -> None:
        if (self.latent == "categorical") != (entropy == "categorical"):
            raise ValueError(
                "The classes of latent='categorical' have the entropy 'categorical', "
                f"and nothing else has; got latent={self.latent!r} and "
                f"entropy={self.entropy!r}. Leave entropy=None."
            )
        if entropy != "plug_in":
            return
        if self.predictor_hidden_layer_sizes is None:
            raise ValueError(
                "entropy='plug_in' needs a predictor, which P is learned by; set "
                "predictor_hidden_layer_sizes, for example to (64,)."
            )
        if (self.objective, self.prior) != ("ldm", "empirical"):
            raise ValueError(
                "entropy='plug_in' is the entropy of a target given its context; use "
                "objective='ldm' and prior='empirical', not "
                f"{self.objective!r} and {self.prior!r}."
            )

    def _check_widths(self, widths: tuple[int, int]) -> None:
        if self.latent != "gaussian" and min(widths) < 2:
            raise ValueError(
                f"latent={self.latent!r} needs embeddings of at least two coordinates; "
                "got one. Raise embedding_dim, which identity encoders ignore."
            )
        if self.predictor_hidden_layer_sizes is None and widths[0] != widths[1]:
            raise ValueError(
                "Without a predictor both views need embeddings of one width, but that "
                f"of the context has {widths[0]} coordinates and that of the target "
                f"{widths[1]}; set embedding_dim or predictor_hidden_layer_sizes."
            )

    def _density_form(self) -> DensityForm:
        return DensityForm(self.n_components)
