"""Heads: networks from the context embedding to what is said of the target."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from skgmje._backend import as_numpy
from skgmje.mixture import MultivariateNormalMixture
from skgmje.networks._mlp import MLP

# Smallest standard deviation of a component, in standard deviations of the target.
SCALE_FLOOR = 1e-3
# Over one column a density head starts with a first layer wider than torch's by this
# factor, which falls to one with the root of the number of columns. From torch's law it
# bends slowly there, and where answers cross, its components stay with wrong turns.
# Over many columns wide weights only fit noise sooner.
FIRST_LAYER_GAIN = 2.0


class MixtureDensityHead(nn.Module):
    """Network that reads the parameters of a Gaussian mixture from its input.

    It is never given the target: its only argument is the context embedding, so that
    it cannot copy the answer (maths of Bishop, *Mixture Density Networks*, 1994).

    Parameters
    ----------
    n_features_in : int
        Width of the context embedding.
    n_components : int
        Number of components K.
    n_features_out : int
        Width of the target D.
    covariance_type : {'diag', 'full', 'spherical', 'low_rank'}, default='diag'
        Form of the component covariances.
    hidden_layer_sizes : sequence of int, default=()
        Hidden layers.
    activation : str, default='relu'
        Activation of the hidden layers.
    generator : torch.Generator, optional
        Source of the initial weights.
    rank : int, default=2
        Number of factors of low-rank covariances, cut to `n_features_out` - 1, at which
        they are full.

    Examples
    --------
    >>> import torch
    >>> from skgmje.networks import MixtureDensityHead
    >>> MixtureDensityHead(4, 3, 2)(torch.zeros(5, 4))
    MultivariateNormalMixture(n_components=3, n_features=2, covariance_type='diag', \
batch_shape=(5,))
    """

    def __init__(
        self,
        n_features_in: int,
        n_components: int,
        n_features_out: int,
        covariance_type: str = "diag",
        hidden_layer_sizes: Sequence[int] = (),
        activation: str = "relu",
        generator: torch.Generator | None = None,
        *,
        rank: int = 2,
    ):
        super().__init__()
        self.recipe = {
            "n_features_in": n_features_in,
            "n_components": n_components,
            "n_features_out": n_features_out,
            "covariance_type": covariance_type,
            "hidden_layer_sizes": tuple(hidden_layer_sizes),
            "activation": activation,
            "rank": rank,
        }
        self.n_features_in, self.n_features_out = n_features_in, n_features_out
        self.n_components = n_components
        self.covariance_type = covariance_type
        n_scales = 1 if covariance_type == "spherical" else n_features_out
        self.rank = min(rank, n_features_out - 1)
        n_extra = {
            "full": n_features_out * (n_features_out - 1) // 2,
            "low_rank": n_features_out * self.rank,
        }
        self._sizes = [
            n_components,
            n_components * n_features_out,
            n_components * n_scales,
            n_components * n_extra.get(covariance_type, 0),
        ]
        self.network = MLP(
            n_features_in, sum(self._sizes), hidden_layer_sizes, activation, generator
        )
        if hidden_layer_sizes:
            first: Any = self.network[0]
            gain = max(1.0, FIRST_LAYER_GAIN / n_features_in**0.5)
            with torch.no_grad():
                first.weight.mul_(gain)
                first.bias.mul_(gain)

    def forward(self, context: Tensor) -> MultivariateNormalMixture:
        """Return the batch of mixtures for contexts of shape (n_samples, D_in)."""
        logits, means, raw, extra = self.network(context).split(self._sizes, dim=-1)
        shape = (*context.shape[:-1], self.n_components)
        means = means.reshape(*shape, self.n_features_out)
        scale = SCALE_FLOOR + F.softplus(raw).reshape(*shape, -1)
        log_weights = logits.log_softmax(-1)
        if self.covariance_type == "diag":
            return MultivariateNormalMixture.from_log_weights(
                log_weights, means, scale_diag=scale
            )
        if self.covariance_type == "spherical":
            return MultivariateNormalMixture.from_log_weights(
                log_weights, means, scale_spherical=scale.squeeze(-1)
            )
        if self.covariance_type == "low_rank":
            return MultivariateNormalMixture.from_log_weights(
                log_weights,
                means,
                cov_factor=extra.reshape(*means.shape, self.rank),
                cov_diag=scale.square(),
            )
        rows, columns = torch.tril_indices(
            self.n_features_out, self.n_features_out, -1, device=context.device
        )
        scale_tril = torch.diag_embed(scale)
        scale_tril[..., rows, columns] = extra.reshape(*shape, -1)
        return MultivariateNormalMixture.from_log_weights(
            log_weights, means, scale_tril=scale_tril
        )

    @torch.no_grad()
    def initialize(self, target: Tensor, seed: int) -> None:
        """Start from the k-means centres of the targets and the spread about them."""
        rows = as_numpy(target.double())
        n_clusters = min(self.n_components, len(np.unique(rows, axis=0)))
        # One start often cuts a large branch in two and misses a rare one.
        kmeans = KMeans(n_clusters, n_init=10, random_state=seed).fit(rows)
        residual = rows - kmeans.cluster_centers_[kmeans.labels_]
        spread = np.maximum(residual.std(axis=0), 10 * SCALE_FLOOR)
        if self.covariance_type == "spherical":
            spread = spread.mean(keepdims=True)
        last: Any = self.network[-1]
        centres = np.resize(
            kmeans.cluster_centers_, (self.n_components, self.n_features_out)
        )
        scales = np.tile(np.log(np.expm1(spread)), self.n_components)
        bias = np.concatenate(
            [
                np.zeros(self._sizes[0]),
                centres.ravel(),
                scales,
                np.zeros(self._sizes[3]),
            ]
        )
        last.bias.copy_(torch.as_tensor(bias))


class Predictor(MLP):
    """Multilayer perceptron that predicts one point: the head of a JEPA.

    Parameters
    ----------
    n_features_in : int
        Width of the context embedding.
    n_features_out : int
        Width of the target embedding.
    hidden_layer_sizes : sequence of int, default=()
        Hidden layers.
    activation : str, default='relu'
        Activation of the hidden layers.
    generator : torch.Generator, optional
        Source of the initial weights.

    Examples
    --------
    >>> import torch
    >>> from skgmje.networks import Predictor
    >>> Predictor(4, 2, (8,))(torch.zeros(5, 4)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        n_features_in: int,
        n_features_out: int,
        hidden_layer_sizes: Sequence[int] = (),
        activation: str = "relu",
        generator: torch.Generator | None = None,
    ):
        sizes = tuple(hidden_layer_sizes)
        super().__init__(n_features_in, n_features_out, sizes, activation, generator)
        self.recipe = {
            "n_features_in": n_features_in,
            "n_features_out": n_features_out,
            "hidden_layer_sizes": sizes,
            "activation": activation,
        }
