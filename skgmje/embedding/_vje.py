"""VJE: each view's posterior explains the representation of the other view."""

import copy
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.utils import gen_batches
from torch import Tensor, nn

from skgmje._backend import as_numpy, as_tensor
from skgmje._validation import Interval, StrOptions
from skgmje.embedding._construction import Run
from skgmje.embedding._inference import SCORE_SEED
from skgmje.embedding._joint import DensityForm, JointDensityEmbedder
from skgmje.embedding._model import ENCODING_ROWS, Encoders, JointModel
from skgmje.embedding._variational_model import VariationalModel
from skgmje.latent import (
    PolarStudentT,
    SymmetricELBO,
    evidence_bounds,
    prior_divergence,
)
from skgmje.networks import Encoder, GaussianPosterior

# Draws from a posterior for a score, the same for every row.
SCORE_DRAWS = 16
# Rows whose draws are held at once.
SCORE_ROWS = 256


def _directional(likelihood, view, other, noise):
    latent = view.mean + view.scale * noise
    scale = view.likelihood_scale
    return likelihood.directional_log_prob(other.representation, latent, scale).mean(0)


# Scores that are high for rows like those of the fit.
NOVELTIES: dict[str, Callable[..., Tensor]] = {
    "directional": _directional,
    "elbo": lambda *arguments: evidence_bounds(*arguments)[0],
    "evidence": lambda *arguments: evidence_bounds(*arguments)[1],
    "scale": lambda likelihood, view, other, noise: -view.scale.log().sum(-1),
    "divergence": lambda likelihood, view, other, noise: -prior_divergence(view),
}


class VJEEmbedder(JointDensityEmbedder):
    r"""Variational joint embedding: a posterior for every row, and heavy tails.

    An encoder makes representations :math:`e`, and a head infers a Gaussian posterior
    :math:`q(s \mid e)` with a scale for every coordinate. What one view says about
    :math:`s` has to explain the direction and the length of the other view's
    representation, under Student-t likelihoods whose scale is that of the posterior;
    the loss is the symmetric evidence lower bound
    (:class:`~skgmje.latent.SymmetricELBO`). Embeddings are posterior means, and their
    standard deviations say how sure they are (`posterior`).

    A mixture over the embeddings of both views is fitted after training. It gives
    conditionals, samples and scores, as in the other embedders.

    Read more in the :ref:`User Guide <variational>`.

    Parameters
    ----------
    embedding_dim : int, default=8
        Width of the representations and of the latent variable. An identity encoder
        keeps the width of its view.
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
    head_hidden_layer_sizes : array-like of int, default=(64, 64)
        Hidden layers of the inference head, with batch normalisation.
    activation : str, default='tanh'
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
    df : float, default=4.0
        Degrees of freedom of the likelihood, how heavy its tails are; ``inf`` makes it
        Gaussian.
    likelihood : {'feature_wise', 'multivariate'}, default='feature_wise'
        Whether every coordinate of the direction has a tail of its own, or all of them
        have one together.
    tied_scale : bool, default=True
        Whether the scale of the likelihood is that of the posterior. Without this a
        likelihood may grow ever sharper.
    radial_weight : float, default=0.1
        Weight of the factor of the lengths.
    beta : float, default=1.0
        Weight of the divergence of the posteriors from the prior.
    n_warmup : int, default=0
        Epochs over which `beta` grows from zero.
    target_stop_gradient : bool, default=True
        Whether gradients stop at the representation that is explained. Without this
        representations tend to collapse to one direction.
    novelty : str, default='directional'
        What `score_samples` returns for rows without a target; all are meant to be high
        for rows like those of the fit. ``'directional'``: the expected log-likelihood
        of the row's own direction; ``'density'``: the log-density of the posterior
        mean, which needs several components, since strange rows are often mapped to the
        middle; ``'elbo'`` or ``'evidence'``: the evidence lower bound, or the
        importance-weighted one, of the row given itself; ``'scale'``: minus the
        log-scale of the posterior; ``'divergence'``: minus its divergence from the
        prior.
    n_components : int, default=1
        Number of components of the density that is fitted to the embeddings of both
        views after training.
    reg_covar : float or 'auto', default='auto'
        Added to the diagonal of the covariances of the fitted density, in units of the
        variances of the embeddings. ``'auto'`` is 1e-6, and as much more as gives the
        rows that are kept out of training the best score, if these are ten at least.
        For this, rows are kept out where networks learn from a target view that is
        given, and with `early_stopping`.
    learning_rate_init : float, default=3e-3
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
        The fitted encoders with their heads, in float64; one object if the views share
        it.
    likelihood_ : PolarStudentT
        The fitted likelihood.
    density_ : MultivariateNormalMixture
        Joint mixture of the embeddings of both views.
    decoder_ : Decoder
        The fitted decoder, if one was asked for.
    reg_covar_ : float
        Value of `reg_covar` that was used, in units of the variances.
    loss_curve_ : list of float
        Negative evidence lower bound of each epoch, in nats, with the weight that the
        divergence had then.
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
    JEPAEmbedder : A point in place of the posterior.
    GJEEmbedder : One joint Gaussian that encoders are trained for.

    References
    ----------
    Oji and Fieguth, "Joint Embedding Variational Bayes", arXiv:2602.05639 (2026),
    for the idea: polar likelihoods with heavy tails, symmetric bounds, and a scale that
    is shared. Equations and defaults are ours.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skgmje import VJEEmbedder
    >>> X, _ = load_wine(return_X_y=True)
    >>> vje = VJEEmbedder(2, max_iter=20, random_state=0).fit(X)
    >>> mean, variance = vje.posterior(X)
    >>> mean.shape, variance.shape
    ((178, 2), (178, 2))
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **JointDensityEmbedder._parameter_constraints,
        "head_hidden_layer_sizes": ["array-like"],
        "df": [Interval(Real, 0, None, closed="right")],
        "likelihood": [StrOptions({"feature_wise", "multivariate"})],
        "tied_scale": ["boolean"],
        "radial_weight": [Interval(Real, 0, None, closed="left")],
        "beta": [Interval(Real, 0, None, closed="left")],
        "n_warmup": [Interval(Integral, 0, None, closed="left")],
        "target_stop_gradient": ["boolean"],
        "novelty": [StrOptions({"density", *NOVELTIES})],
        "n_components": [Interval(Integral, 1, None, closed="left")],
    }
    likelihood_: PolarStudentT

    def __init__(
        self,
        embedding_dim=8,
        *,
        encoder="mlp",
        target_encoder=None,
        hidden_layer_sizes=(128, 128),
        head_hidden_layer_sizes=(64, 64),
        activation="tanh",
        input_shape=None,
        decoder=None,
        target="auto",
        augmentation="corrupt",
        df=4.0,
        likelihood="feature_wise",
        tied_scale=True,
        radial_weight=0.1,
        beta=1.0,
        n_warmup=0,
        target_stop_gradient=True,
        novelty="directional",
        n_components=1,
        reg_covar="auto",
        learning_rate_init=3e-3,
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
        self.head_hidden_layer_sizes = head_hidden_layer_sizes
        self.activation = activation
        self.input_shape = input_shape
        self.decoder = decoder
        self.target = target
        self.augmentation = augmentation
        self.df = df
        self.likelihood = likelihood
        self.tied_scale = tied_scale
        self.radial_weight = radial_weight
        self.beta = beta
        self.n_warmup = n_warmup
        self.target_stop_gradient = target_stop_gradient
        self.novelty = novelty
        self.n_components = n_components
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

    # -------------------------------------------------------------------- the model

    def _make_encoder(self, *arguments: Any, **options: Any) -> Encoder:
        encoder = super()._make_encoder(*arguments, **options)
        generator = arguments[3]
        sizes = tuple(self.head_hidden_layer_sizes)
        encoder.add_posterior_head(sizes, self.tied_scale, generator)
        return encoder

    def _make_latent(self, encoders: Encoders, generator: torch.Generator) -> nn.Module:
        widths = encoders.widths()
        if widths[0] != widths[1]:
            raise ValueError(
                "One view's posterior explains the other's representation, so both "
                f"need one width; they have {widths[0]} and {widths[1]} coordinates. "
                "Use trained encoders for both views."
            )
        return SymmetricELBO(
            PolarStudentT(
                float(self.df), self.likelihood == "feature_wise", self.radial_weight
            ),
            self.beta,
            self.n_warmup,
            self.target_stop_gradient,
        )

    def _make_model(
        self, encoders: Encoders, latent: nn.Module, generator: torch.Generator
    ) -> JointModel:
        return VariationalModel(encoders, latent, generator)

    # ------------------------------------------------------------------ the density

    def _density_form(self) -> DensityForm:
        return DensityForm(self.n_components)

    def _fit_densities(self, run: Run, z_c: Tensor, z_t: Tensor) -> dict[str, Any]:
        return super()._fit_densities(run, z_c, z_t) | _fitted(run.model)

    def _update_densities(
        self, model: JointModel, z_c: Tensor, z_t: Tensor, rate: float
    ) -> dict[str, Any]:
        return super()._update_densities(model, z_c, z_t, rate) | _fitted(model)

    # --------------------------------------------------------------- the posterior

    def posterior(self, X):
        """Posterior of the latent variable for each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.

        Returns
        -------
        mean, variance : ndarray of shape (n_samples, embedding_dim)
            Of a Gaussian with independent coordinates. The mean is the embedding.
        """
        X = self._check_context(X)
        encoder = self._encoders().context
        batches = gen_batches(len(X), ENCODING_ROWS)
        posteriors = [_posterior(encoder, X[rows]) for rows in batches]
        mean = np.concatenate([as_numpy(q.mean) for q in posteriors])
        variance = np.concatenate([as_numpy(q.scale.square()) for q in posteriors])
        return mean.astype(X.dtype, copy=False), variance.astype(X.dtype, copy=False)

    def elbo(self, X, y=None, *, importance_weighted=False):
        """Lower bound of the evidence of the target's representation, given the row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.
        y : array-like of shape (n_samples, n_targets), default=None
            Target view. Without it the row has to explain its own representation.
        importance_weighted : bool, default=False
            Whether to average importance weights over the draws before their logarithm
            is taken: a tighter bound.

        Returns
        -------
        bound : ndarray of shape (n_samples,)
            In nats, over 16 draws that are the same for every row. It compares rows
            under one model, and not models: representations have no unit.

        Raises
        ------
        ValueError
            If X or y has another width than in `fit`, or lengths differ.
        """
        name = "evidence" if importance_weighted else "elbo"
        return self._novelty_scores(name, X, y)

    def score_samples(self, X, y=None):
        """How well each row fits those of the fit, as `novelty` measures it.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.
        y : array-like of shape (n_samples, n_targets), default=None
            Target view.

        Returns
        -------
        score : ndarray of shape (n_samples,)
            High for rows like those of the fit. Without y, what `novelty` names, in
            nats. With y, ``log p(z_t | z_c) - log p(z_t)``.

        Raises
        ------
        ValueError
            If y is given where both views were drawn from X.
        """
        if y is not None or self.novelty == "density":
            return super().score_samples(X, y)
        if self.novelty not in NOVELTIES:  # set after the fit
            self._validate_params()
        return self._novelty_scores(self.novelty, X)

    def _novelty_scores(self, name: str, X: Any, y: Any = None) -> np.ndarray:
        X = self._check_context(X)
        target = X if y is None else self._check_target(y, like=X)
        context_encoder, target_encoder = self._encoders()
        if y is None:
            target_encoder = context_encoder
        device = context_encoder.mean.device
        likelihood = self.likelihood_.to(device)
        generator = torch.Generator(device).manual_seed(SCORE_SEED)
        noise = torch.empty(
            SCORE_DRAWS, 1, self._n_features_out, dtype=torch.float64, device=device
        ).normal_(generator=generator)
        score, parts = NOVELTIES[name], []
        for rows in gen_batches(len(X), SCORE_ROWS):
            view = _posterior(context_encoder, X[rows])
            other = _posterior(target_encoder, target[rows])
            parts.append(as_numpy(score(likelihood, view, other, noise)))
        return np.concatenate(parts)


@torch.no_grad()
def _posterior(encoder: Encoder, X: np.ndarray) -> GaussianPosterior:
    network: Any = encoder.network
    return network.posterior(encoder.standardise(as_tensor(X, encoder.mean.device)))


def _fitted(model: JointModel) -> dict[str, Any]:
    likelihood = copy.deepcopy(model.latent.likelihood)
    return {"likelihood_": likelihood.double().eval()}
