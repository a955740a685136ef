"""Entropies of embeddings from kernels and from class probabilities."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from skgmje.latent._entropies import Entropy, categorical_entropy
from skgmje.latent._latent_densities import IsotropicGaussian, LatentDensity

LogSums = Callable[[Tensor, tuple[Tensor, ...]], Tensor]
# Log-kernels in memory at once.
KERNEL_BLOCK_NUMBERS = 2**20


class KernelDensity(Entropy):
    r"""Entropy from a kernel density whose kernels sit on the other embeddings.

    .. math:: H(z) = -\frac1n \sum_i \log \frac1{n-1} \sum_{j \ne i}
              \kappa(z_i; z_j)

    The kernel is any latent density. On the sphere it is a von Mises-Fisher density,
    and the sum is that over the negatives of a contrastive loss. A kernel of fixed
    width cannot tell embeddings that lie closer than it, and gives a far one little
    gradient. The estimate is that of the density after smoothing, and so too large.
    The joint entropy of several views has the product of their kernels.

    Parameters
    ----------
    kernel : LatentDensity or None, default=None
        The kernel; None is a Gaussian of unit variance.
    weight : float, default=1.0
        Multiplies the entropy.
    leave_one_out : bool, default=True
        Whether embeddings do not count as their own neighbours. The estimate is then
        that of a density at new points, and has no bound of log n. But in the plane an
        embedding that is far from all others is pulled back the harder the farther it
        is; with its own kernel it is let go.

    Notes
    -----
    All pairs are compared, in blocks whose kernels are computed anew for the gradient:
    time grows with the square of the number of embeddings, memory with the number.

    References
    ----------
    Mikulasch and Zenke, "Understanding Self-Supervised Learning via Latent Distribution
    Matching", arXiv:2605.03517 (2026), equation 32, where embeddings are among their
    own neighbours.

    Examples
    --------
    >>> import math, torch
    >>> from skgmje.latent import KernelDensity, VonMisesFisher
    >>> z = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    >>> z = torch.nn.functional.normalize(z, dim=1)
    >>> sphere = KernelDensity(VonMisesFisher(20.0))
    >>> abs(sphere.entropy(z).item() - math.log(4 * math.pi)) < 0.02
    True
    """

    def __init__(
        self,
        kernel: LatentDensity | None = None,
        weight: float = 1.0,
        leave_one_out: bool = True,
    ):
        super().__init__()
        self.kernel: LatentDensity = IsotropicGaussian() if kernel is None else kernel
        self.weight, self.leave_one_out = weight, leave_one_out

    def entropy(self, *views: Tensor) -> Tensor:
        """Return the entropy in nats of embeddings of shape (n_samples, n_features).

        Raises
        ------
        ValueError
            If there are fewer than two embeddings.
        """
        n_samples = len(views[0])
        if n_samples < 2:
            raise ValueError(
                "The entropy of kernels needs at least two embeddings; got "
                f"{n_samples}. Use larger batches."
            )
        views = tuple(view.double() for view in views)
        if n_samples**2 <= KERNEL_BLOCK_NUMBERS:
            rows = torch.arange(n_samples, device=views[0].device)
            log_sums = self._log_sums(rows, views)
        else:
            log_sums = _BlockwiseLogSums.apply(self._log_sums, *views)
        return math.log(n_samples - self.leave_one_out) - log_sums.mean()

    def forward(self, z: Tensor) -> Tensor:
        """Return minus the weighted entropy of embeddings of shape (n, d)."""
        return -self.weight * self.entropy(z)

    def _log_sums(self, rows: Tensor, views: tuple[Tensor, ...]) -> Tensor:
        """Logarithm of the summed kernels at some rows."""
        log_kernels: Any = sum(
            self.kernel.pairwise_log_prob(view[rows], view) for view in views
        )
        if self.leave_one_out:
            columns = torch.arange(len(views[0]), device=rows.device)
            own = rows.unsqueeze(1) == columns
            log_kernels = log_kernels.masked_fill(own, -torch.inf)
        return log_kernels.logsumexp(1)


class _BlockwiseLogSums(torch.autograd.Function):
    """The same of all rows, in blocks that the backward pass computes again."""

    @staticmethod
    def forward(ctx: Any, function: LogSums, *views: Tensor) -> Tensor:
        ctx.function = function
        ctx.save_for_backward(*views)
        log_sums = views[0].new_empty(len(views[0]))
        for rows in _blocks(views):
            log_sums[rows] = function(rows, views)
        return log_sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        views = tuple(view.detach().requires_grad_() for view in ctx.saved_tensors)
        totals = [torch.zeros_like(view) for view in views]
        for rows in _blocks(views):
            with torch.enable_grad():
                log_sums = ctx.function(rows, views)
            parts = torch.autograd.grad(log_sums, views, gradient[rows])
            for total, part in zip(totals, parts, strict=True):
                total += part
        return None, *totals


def _blocks(views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    n_samples = len(views[0])
    rows = torch.arange(n_samples, device=views[0].device)
    return rows.split(max(1, KERNEL_BLOCK_NUMBERS // n_samples))


class CategoricalEntropy(Entropy):
    r"""Entropy of classes that are drawn from the embeddings, exactly.

    .. math:: H = -\sum_{k l} C_{kl} \log C_{kl}, \qquad
              C = \tfrac1n \sum_i z_c^i (z_t^i)^\top

    Of one view it is that of the mean probabilities.

    Parameters
    ----------
    weight : float, default=1.0
        Multiplies the entropy.

    References
    ----------
    Mikulasch and Zenke, "Understanding Self-Supervised Learning via Latent Distribution
    Matching", arXiv:2605.03517 (2026), and the code of its experiment on MNIST.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import CategoricalEntropy
    >>> z = torch.eye(4)
    >>> entropy = CategoricalEntropy().entropy
    >>> bool(entropy(z) == entropy(z, z))  # log 4
    True
    """

    def __init__(self, weight: float = 1.0):
        super().__init__()
        self.weight = weight

    def entropy(self, *views: Tensor) -> Tensor:
        """Return the entropy in nats of one view or two of shape (n_samples, d)."""
        views = tuple(view.double() for view in views)
        table = views[0].mean(0)
        if len(views) == 2:
            table = views[0].mT @ views[1] / len(views[0])
        return categorical_entropy(table)

    def forward(self, z: Tensor) -> Tensor:
        """Return minus the weighted entropy of embeddings of shape (n, d)."""
        return -self.weight * self.entropy(z)
