"""Networks that say how sure they are: a diagonal Gaussian over a latent variable."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from skgmje.networks._mlp import linear

# Smallest standard deviation, where the prior has one.
SCALE_FLOOR = 1e-2


class GaussianPosterior(NamedTuple):
    """Representations and the diagonal Gaussians that are inferred from them.

    Attributes
    ----------
    representation : tensor of shape (n_samples, width)
        What the Gaussians are inferred from.
    mean, scale : tensor of shape (n_samples, width)
        Means and standard deviations.
    likelihood_scale : tensor of shape (n_samples, width)
        Scale of the likelihood, which is that of the posterior where both are tied.

    Examples
    --------
    >>> import torch
    >>> from skgmje.networks import GaussianPosterior
    >>> one = torch.ones(5, 2)
    >>> GaussianPosterior(one, 0 * one, one, one).detach_representation().scale.shape
    torch.Size([5, 2])
    """

    representation: Tensor
    mean: Tensor
    scale: Tensor
    likelihood_scale: Tensor

    def detach_representation(self) -> "GaussianPosterior":
        """Stop gradients through the representation, but not through the others."""
        return self._replace(representation=self.representation.detach())


class InferenceHead(nn.Sequential):
    """Layers that follow the representations, and not these them."""

    learning_rate_factor = 10.0


class PosteriorNetwork(nn.Module):
    """Network followed by an inference head; its output is the posterior mean.

    Representations are standardised outputs of the network. Steps of the head are ten
    times as large as others.

    Parameters
    ----------
    network : nn.Module
        Network from rows to representations.
    width : int
        Width of the representations, and of the latent variable.
    hidden_layer_sizes : sequence of int, default=(64,)
        Hidden layers of the head, with batch normalisation and rectifiers.
    is_tied : bool, default=True
        Whether the likelihood has the scale of the posterior.
    generator : torch.Generator, optional
        Source of the initial weights.

    Examples
    --------
    >>> import torch
    >>> from skgmje.networks import MLP, PosteriorNetwork
    >>> network = PosteriorNetwork(MLP(4, 2, (8,)), 2)
    >>> network.posterior(torch.zeros(5, 4)).scale.shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        network: nn.Module,
        width: int,
        hidden_layer_sizes: Sequence[int] = (64,),
        is_tied: bool = True,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        # Without a common centre all directions may become one.
        standardise = nn.BatchNorm1d(width, affine=False, dtype=torch.float32)
        self.network, self.standardise = network, standardise
        self.width, self.is_tied = width, is_tied
        widths = [width, *hidden_layer_sizes]
        layers: list[nn.Module] = []
        for width_in, width_out in itertools.pairwise(widths):
            layers += [
                linear(width_in, width_out, generator),
                nn.BatchNorm1d(width_out, dtype=torch.float32),
                nn.ReLU(),
            ]
        n_outputs = (2 if is_tied else 3) * width
        self.head = InferenceHead(*layers, linear(widths[-1], n_outputs, generator))

    def posterior(self, x: Tensor) -> GaussianPosterior:
        """Return representations and posteriors of standardised rows."""
        return self.infer(self.network(x))

    def infer(self, output: Tensor) -> GaussianPosterior:
        """Return representations and posteriors from outputs of the network."""
        representation = self.standardise(output)
        mean, *scales = self.head(representation).split(self.width, dim=-1)
        scales = [F.softplus(scale) + SCALE_FLOOR for scale in scales]
        return GaussianPosterior(representation, mean, scales[0], scales[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Return the posterior means of standardised rows."""
        return self.posterior(x).mean
