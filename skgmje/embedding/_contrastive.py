"""Contrastive learning: pairs are told from rows that do not belong together."""

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skgmje._backend import as_numpy
from skgmje._validation import Interval, StrOptions
from skgmje.embedding._conditional import (
    ConditionalDensityEmbedder,
    in_own_units,
)
from skgmje.embedding._construction import Run
from skgmje.embedding._inference import CONDITIONAL_ROWS
from skgmje.embedding._model import Encoders, JointModel, encode
from skgmje.embedding._retrieval import RetrievalMixin
from skgmje.latent import (
    TILTINGS,
    ConditionalDiscrepancy,
    ConditionalMatching,
    JointDiscrepancy,
    JointMatching,
    Tilting,
)
from skgmje.latent._bandwidth import leave_one_out_bandwidth
from skgmje.mixture import MultivariateNormalMixture
from skgmje.networks import Encoder

LOSSES = {
    "conditional",
    "joint",
    "joint_shifted",
    "conditional_mmd",
    "joint_mmd",
}


class ContrastiveModel(JointModel):
    """Loss of a batch; some losses compare the views themselves, too."""

    def forward(self, context: Tensor, target: Tensor) -> Tensor:
        """Return the loss."""
        embeddings = self.embed(context, target)
        if self.latent.compares_views:
            return self.latent(*embeddings, context, target)
        return self.latent(*embeddings)

    def after_step(self) -> None:
        """Keep a learned temperature in its range."""
        self.latent.tilting.bound_temperature()


class ContrastiveEmbedder(RetrievalMixin, ConditionalDensityEmbedder):
    r"""Contrastive learning: which rows of the two views belong together.

    The joint distribution of the views is modelled as the product of their marginals,
    tilted by how well the embeddings of a pair agree. Training matches the conditionals
    of this model to those of the data, in both directions (CLIP), in one, or jointly.
    Nothing else is needed against collapse: a tilting that is constant says that the
    views are independent.

    The model lives on the data's own marginals. Given rows of a view it retrieves,
    classifies and draws them (:meth:`index_targets`, :meth:`index_contexts`). The
    densities of the other embedders are here kernel densities over the embeddings of
    training pairs: the tilting weights the kernels.

    `score` is always an estimate of the mutual information, also with an identity
    encoder of the target: a tilting says how much likelier a target is than without the
    context, ``log p(z_t | z_c) - log p(z_t)``, and not how likely it is. Its normaliser
    is the mean over the references.

    Read more in the :ref:`User Guide <contrastive_embedder>`.

    Parameters
    ----------
    embedding_dim : int, default=8
        Width of both embeddings. An identity encoder keeps the width of its view.
    encoder : {'mlp', 'linear', 'conv', 'identity'}, Module or callable, default='mlp'
        Encoder of the context view. A module is copied and trained, or kept as it is if
        no weight of it requires a gradient; a factory is called as
        ``factory(n_features_in, embedding_dim)``. Both are given standardised rows.
    target_encoder : same as `encoder`, 'shared' or None, default=None
        Encoder of the target view. None means the encoder of the context where both
        views are drawn from X, and otherwise a second encoder of its kind. ``'shared'``
        is the same encoder for two given views of one kind, both standardised by the
        moments of X.
    hidden_layer_sizes : array-like of int, default=(128, 128)
        Hidden layers of ``'mlp'`` encoders.
    activation : str, default='relu'
        Activation of all hidden layers: ``'relu'``, ``'tanh'``, ``'silu'``,
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
    tilting : {'cosine', 'inner', 'quadratic'}, default='cosine'
        How the agreement of embeddings is measured: by cosines, for which all
        embeddings are scaled to unit length, also those of ``'identity'``; by inner
        products, whose conditionals move but do not narrow; or by squared distances,
        whose conditionals do both.
    loss : str, default='conditional'
        What is matched to the data: ``'conditional'``, both conditionals in
        Kullback-Leibler divergence; ``'joint'``, the joint distribution;
        ``'joint_shifted'``, the same with a normaliser that costs as many pairs as
        rows; or ``'conditional_mmd'`` and ``'joint_mmd'``, both in maximum mean
        discrepancy of the standardised views.
    context_given_target : float, default=1.0
        Weight of the distribution of the context given the target, in conditional
        losses.
    target_given_context : float, default=1.0
        Weight of the distribution of the target given the context. With 2 here and 0
        there only this direction is learned.
    temperature : float or 'learned', default=0.1
        What the agreement is divided by. A learned one starts at 0.1. Inner products
        and distances of learned embeddings can make up for any temperature.
    n_references : int, default=1000
        Number of training pairs whose embeddings are kept. Densities and predictions
        are weighted sums over them.
    reg_covar : float, default=1e-6
        Least variance of the kernels of the densities, in units of the variance of the
        embeddings.
    learning_rate_init : float, default=3e-3
        First step size of AdamW; it falls to zero along a half cosine.
    weight_decay : float, default=1e-2
        Decoupled weight decay.
    batch_size : int, default=256
        Samples in a batch. Batches are of nearly equal size. Each row is told from the
        others of its batch.
    max_iter : int, default=100
        Largest number of epochs.
    tol : float, default=1e-4
        Smallest improvement of the loss that counts.
    n_iter_no_change : int, default=20
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
        The fitted encoders, in float64; one object if the views share it.
    temperature_ : float
        The temperature.
    density_, target_density_ : MultivariateNormalMixture
        Kernel densities of both embeddings, with the references for means, in the same
        order. A file of the estimator therefore holds embeddings of training rows.
    decoder_ : Decoder
        The fitted decoder, if one was asked for.
    loss_curve_ : list of float
        Training loss of each epoch. The negative of the first three losses is an
        estimate of the mutual information of the views, in nats.
    validation_loss_curve_ : list of float or None
        Loss on the rows kept out, or None without early stopping.
    best_loss_ : float
        Smallest value of the curve that was watched.
    n_iter_ : int
        Number of epochs.
    target_source_ : {'target_view', 'y', 'augment'}
        Where the target view came from.
    score_unit_ : str
        What `score` measures: mutual information.
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
    GMJEEmbedder : A mixture over both embeddings in place of a tilting.
    EmbeddingIndex : Retrieval, weights and draws among stored rows.

    References
    ----------
    Baptista, Stuart and Tran, "A Mathematical Perspective on Contrastive Learning",
    arXiv:2505.24134 (2025). Radford et al., "Learning Transferable Visual Models From
    Natural Language Supervision", ICML 2021 (the symmetric loss). Kernels and score are
    ours.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje import ContrastiveEmbedder
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 3))
    >>> Y = np.tanh(X @ rng.normal(size=(3, 4)))
    >>> embedder = ContrastiveEmbedder(3, max_iter=30, random_state=0).fit(X, Y)
    >>> rows = embedder.retrieve(X, Y, k=10, return_distance=False)
    >>> bool(np.mean((rows == np.arange(500)[:, None]).any(axis=1)) > 0.9)
    True
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        **ConditionalDensityEmbedder._parameter_constraints,
        "tilting": [StrOptions(set(TILTINGS))],
        "loss": [StrOptions(LOSSES)],
        "context_given_target": [Interval(Real, 0, None, closed="left")],
        "target_given_context": [Interval(Real, 0, None, closed="left")],
        "temperature": [
            Interval(Real, 0, None, closed="neither"),
            StrOptions({"learned"}),
        ],
        "n_references": [Interval(Integral, 2, None, closed="left")],
    }
    temperature_: float

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
        tilting="cosine",
        loss="conditional",
        context_given_target=1.0,
        target_given_context=1.0,
        temperature=0.1,
        n_references=1000,
        reg_covar=1e-6,
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
        self.tilting = tilting
        self.loss = loss
        self.context_given_target = context_given_target
        self.target_given_context = target_given_context
        self.temperature = temperature
        self.n_references = n_references
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

    def _space(self, encoders: Encoders) -> str:
        return "sphere" if self.tilting == "cosine" else "plane"

    def _make_model(
        self, encoders: Encoders, latent: nn.Module, generator: torch.Generator
    ) -> JointModel:
        return ContrastiveModel(encoders, latent, generator)

    def _make_latent(self, encoders: Encoders, generator: torch.Generator) -> nn.Module:
        n_context, n_target = encoders.widths()
        if n_context != n_target:
            raise ValueError(
                "Contrastive learning compares embeddings of one width, but those of "
                f"the context have {n_context} coordinates and those of the target "
                f"{n_target}; with an identity encoder or a module for one view, set "
                "embedding_dim to its width for the other."
            )
        weights = self.context_given_target, self.target_given_context
        if "conditional" in self.loss and not any(weights):
            raise ValueError(
                "context_given_target and target_given_context are both zero, which "
                "leaves nothing to learn; make one of them positive."
            )
        tilting = Tilting(self.tilting, self.temperature)
        if self.loss == "conditional":
            return ConditionalMatching(tilting, *weights)
        if self.loss == "conditional_mmd":
            return ConditionalDiscrepancy(tilting, *weights)
        if self.loss == "joint_mmd":
            return JointDiscrepancy(tilting)
        return JointMatching(tilting, "all" if self.loss == "joint" else "shifted")

    # ------------------------------------------------------------------ the density

    def _scores_likelihood(self, target_encoder: Encoder) -> bool:
        return False

    def _fit_densities(self, run: Run, z_c: Tensor, z_t: Tensor) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(run.seed)
        rows = torch.randperm(len(z_c), generator=generator)[: self.n_references]
        rows = rows.to(z_c.device)
        return self._kernels(run.model, z_c[rows], z_t[rows])

    def _update_densities(
        self, model: JointModel, z_c: Tensor, z_t: Tensor, rate: float
    ) -> dict[str, Any]:
        kept = self._context_density().means, self._target_density().means
        return self._kernels(
            model,
            *(
                torch.cat([new, old])[: self.n_references]
                for new, old in zip((z_c, z_t), kept, strict=True)
            ),
        )

    def _kernels(self, model: JointModel, z_c: Tensor, z_t: Tensor) -> dict[str, Any]:
        """Put kernels around references, as wide as the others' say about each."""
        context, target = model.fitted_encoders
        rows_c = context.standardise_embedding(z_c)
        rows_t = target.standardise_embedding(z_t)
        temperature = model.latent.tilting.value
        logits = Tilting(self.tilting, temperature).logits(rows_c, rows_t)
        return {
            "density_": self._kernel_density(rows_c, logits.mT, context),
            "target_density_": self._kernel_density(rows_t, logits, target),
            "temperature_": temperature,
            "loss_curve_": [],
        }

    def _kernel_density(
        self, rows: Tensor, logits: Tensor, encoder: Encoder
    ) -> MultivariateNormalMixture:
        width = leave_one_out_bandwidth(logits, rows, self.reg_covar)
        density = MultivariateNormalMixture.from_log_weights(
            rows.new_full((len(rows),), -math.log(len(rows))),
            rows,
            scale_spherical=width.reshape(1),
        )
        return in_own_units(density, encoder)

    def _embed_rows(self, encoder: Encoder, rows: np.ndarray) -> Tensor:
        """Embed rows as the tilting compares them."""
        return encoder.standardise_embedding(encode(encoder, rows))

    def _reweighted(
        self, density: MultivariateNormalMixture, logits: Tensor
    ) -> MultivariateNormalMixture:
        """Conditional density: the kernels, with weights for each row of logits."""
        parameters = density.parameters() | {"means": density.means.unsqueeze(0)}
        del parameters["weights"]
        return MultivariateNormalMixture.from_log_weights(
            logits.log_softmax(1), **parameters
        )

    def _conditional(self, z_c: Tensor) -> MultivariateNormalMixture:
        density = self._target_density()
        return self._reweighted(density, self._logits(z_c, density.means))

    def _factors(self, z_c: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the logits of embeddings in the units of `transform`."""
        context, target = self._encoders()
        return Tilting(self.tilting, self.temperature_).factors(
            context.standardise_embedding(z_c), target.standardise_embedding(z_t)
        )

    def _logits(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        a, b = self._factors(z_c, z_t)
        return a @ b.mT

    def _log_normaliser(self, z_c: Tensor) -> Tensor:
        """Logarithm of the mean tilting of each context, over the references."""
        logits = self._logits(z_c, self._target_density().means)
        return logits.logsumexp(1) - math.log(logits.shape[1])

    def _pairwise_log_density(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        log_odds = self._logits(z_c, z_t) - self._log_normaliser(z_c).unsqueeze(1)
        return log_odds.mT

    def _pair_scores(self, X: np.ndarray, target: np.ndarray) -> np.ndarray:
        context, target_encoder = self._encoders()
        scores = []
        for rows in gen_batches(len(X), CONDITIONAL_ROWS):
            z_c, z_t = encode(context, X[rows]), encode(target_encoder, target[rows])
            a, b = self._factors(z_c, z_t)
            scores.append(as_numpy((a * b).sum(1) - self._log_normaliser(z_c)))
        return np.concatenate(scores)

    def conditional_context(self, Y):
        """Conditional density of the context embedding for each target: the reverse.

        Parameters
        ----------
        Y : array-like of shape (n_samples, n_targets)
            Target view.

        Returns
        -------
        conditional : MultivariateNormalMixture
            Batch of `n_samples` mixtures over the context embedding.
        """
        check_is_fitted(self)
        z_t = encode(self._encoders().target, self._check_target(Y))
        density = self._context_density()
        return self._reweighted(density, self._logits(density.means, z_t).mT)
