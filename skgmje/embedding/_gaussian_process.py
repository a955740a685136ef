"""The dual-space baseline: a Gaussian process from context to target."""

from numbers import Integral, Real
from typing import Any

import torch
from sklearn.utils.metaestimators import available_if
from torch import Tensor, nn

from skgmje._validation import Interval, StrOptions
from skgmje.embedding._conditional import ConditionalDensityEmbedder
from skgmje.embedding._construction import Run
from skgmje.embedding._model import Encoders, JointModel
from skgmje.latent import GaussianProcess
from skgmje.mixture import MultivariateNormalMixture
from skgmje.views import AUGMENTATIONS


def _cannot_learn_in_batches(estimator):
    raise AttributeError(
        f"{type(estimator).__name__} has no partial_fit: its kernel is that of all "
        "rows; call fit."
    )


class GaussianProcessEmbedder(ConditionalDensityEmbedder):
    r"""Gaussian process from the context to the target: the dual-space baseline.

    Each target coordinate is a Gaussian process of the context embedding, with one
    squared-exponential kernel and one noise for all. Its conditional is one Gaussian:
    the mean is as flexible as the data ask for, but where there are several answers it
    runs between them, and the band is as broad as they lie apart.

    Encoders are not trained: they are the identity or modules without weights to train.

    Read more in the :ref:`User Guide <embedders>`.

    Parameters
    ----------
    encoder : 'identity' or nn.Module, default='identity'
        Encoder of the context view. No weight of a module may require a gradient. It is
        given standardised rows.
    target_encoder : 'identity', nn.Module or None, default=None
        Encoder of the target view. None means the encoder of the context where both
        views are drawn from X, and otherwise ``'identity'``: a density in the units of
        y.
    target : {'auto', 'y', 'augment'}, default='auto'
        Which array is the target view. ``'y'``: y is. ``'augment'``: two views are
        drawn from X, and y is ignored. ``'auto'``: y is, if it is a matrix of numbers;
        without y, or with class labels in y, two views are drawn from X. Labels are
        never taken for a view: in ``'auto'`` they are ignored with a warning, and what
        could be either is refused. `target_view` in `fit` wins over y.
    augmentation : {'corrupt', 'jitter'} or callable, default='corrupt'
        How a view is drawn from X: entries replaced by those of other rows, Gaussian
        noise, or a function of a batch (a tensor of rows in the units of X).
    n_points : int, default=1000
        Largest number of rows that are kept. With more rows, the kernel is fitted to a
        random sample of this size, which then serves as the inducing points of all
        rows. Time grows with the cube of it.
    n_restarts_optimizer : int, default=1
        Number of searches for the kernel after the first, from random starts.
    reg_covar : float, default=1e-6
        Added to the diagonal of the covariances of the marginal densities, in units of
        the variances of the embeddings.
    random_state : int, RandomState instance or None, default=None
        Seed of kept rows, augmentations and starts.
    device : str, torch.device or None, default=None
        Where to compute: None is the CPU, ``"auto"`` is CUDA where there is one.

    Attributes
    ----------
    encoder_, target_encoder_ : Encoder
        The encoders, in float64; one object if the views share it.
    process_ : GaussianProcess
        The process: kernel, kept rows and what follows from them. A file of the
        estimator therefore holds rows of the context embedding.
    length_scale_ : float
        Length scale of the kernel, in standard deviations of the context embedding.
    signal_variance_, noise_variance_ : float
        Variance of the mean and of the noise, in variances of the target embedding.
    log_marginal_likelihood_ : float
        Of all rows, in nats and in units of the target embedding; with inducing points
        a lower bound.
    density_ : MultivariateNormalMixture
        Gaussian of the context embedding.
    target_density_ : MultivariateNormalMixture
        Gaussian of the target embedding.
    loss_curve_ : list of float
        Negative log marginal likelihood per kept row after each iteration, in nats.
    validation_loss_curve_ : None
        There is no early stopping.
    best_loss_ : float
        Smallest value of the curve.
    n_iter_ : int
        Number of iterations of the best search for the kernel.
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
    GJEEmbedder : One joint Gaussian: the primal side.
    MDNEmbedder : Several answers, and noise that depends on the context.
    sklearn.gaussian_process.GaussianProcessRegressor : More kernels, no latent space.

    References
    ----------
    Y. Huang, "Gaussian Joint Embeddings for Self-Supervised Representation Learning",
    arXiv:2603.26799 (2026), names a dual-space RBF baseline; the form is ours.
    C. Rasmussen, C. Williams, *Gaussian Processes for Machine Learning* (2006).
    M. Titsias, "Variational Learning of Inducing Variables in Sparse Gaussian
    Processes", AISTATS 2009.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje import GaussianProcessEmbedder
    >>> rng = np.random.default_rng(0)
    >>> x = rng.uniform(-1, 1, (200, 1))
    >>> y = np.sin(3 * x) + 0.1 * rng.normal(size=(200, 1))
    >>> process = GaussianProcessEmbedder(random_state=0).fit(x, y)
    >>> process.predict([[0.5]]).round(1)
    array([[1.]])
    >>> process.conditional([[0.5]]).stddev.numpy().round(1)
    array([[0.1]])
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "encoder": [StrOptions({"identity"}), nn.Module],
        "target_encoder": [StrOptions({"identity"}), nn.Module, None],
        "target": [StrOptions({"auto", "y", "augment"})],
        "augmentation": [StrOptions(set(AUGMENTATIONS)), callable],
        "n_points": [Interval(Integral, 2, None, closed="left")],
        "n_restarts_optimizer": [Interval(Integral, 0, None, closed="left")],
        "reg_covar": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
        "device": [str, torch.device, None],
    }
    _default_target_encoder = "identity"
    # What the base asks of encoders that are trained; here none is.
    embedding_dim: Any = None
    hidden_layer_sizes: Any = ()
    activation = "identity"
    max_iter = 0
    process_: GaussianProcess

    def __init__(
        self,
        *,
        encoder="identity",
        target_encoder=None,
        target="auto",
        augmentation="corrupt",
        n_points=1000,
        n_restarts_optimizer=1,
        reg_covar=1e-6,
        random_state=None,
        device=None,
    ):
        self.encoder = encoder
        self.target_encoder = target_encoder
        self.target = target
        self.augmentation = augmentation
        self.n_points = n_points
        self.n_restarts_optimizer = n_restarts_optimizer
        self.reg_covar = reg_covar
        self.random_state = random_state
        self.device = device

    @available_if(_cannot_learn_in_batches)
    def partial_fit(self, X, y=None, *, target_view=None):
        """Not available: the kernel is that of all rows.

        Parameters
        ----------
        X, y, target_view : array-like
            As in `fit`.

        Raises
        ------
        AttributeError
            Always; ``hasattr`` says that there is no such method.
        """

    def _make_latent(self, encoders: Encoders, generator: torch.Generator) -> nn.Module:
        for encoder in encoders:
            if encoder.is_trainable:
                raise ValueError(
                    "GaussianProcessEmbedder trains no encoder, but a weight of the "
                    "module that was given requires a gradient; freeze it with "
                    "module.requires_grad_(False)."
                )
        return nn.Identity()

    def _fit_densities(self, run: Run, z_c: Tensor, z_t: Tensor) -> dict[str, Any]:
        process, losses = GaussianProcess.fit(
            z_c, z_t, self.n_points, self.n_restarts_optimizer, run.seed
        )
        return self._fit_marginals(z_c, z_t, run.seed) | {
            "process_": process,
            "length_scale_": process.length_scale,
            "signal_variance_": process.signal_variance,
            "noise_variance_": process.noise_variance,
            "log_marginal_likelihood_": process.log_marginal_likelihood(z_c, z_t),
            "loss_curve_": losses,
        }

    def _update_densities(
        self, model: JointModel, z_c: Tensor, z_t: Tensor, rate: float
    ) -> dict[str, Any]:
        raise NotImplementedError

    def _conditional(self, z_c: Tensor) -> MultivariateNormalMixture:
        return self.process_.to(z_c.device)(z_c)
