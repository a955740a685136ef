"""Log-sum-exps of all pairs of rows, in memory that does not grow with the pairs."""

from typing import Any

import torch
from torch import Tensor

# Numbers of the largest block of logits that is held at once.
LOGIT_BLOCK_NUMBERS = 2**20


def pair_log_sum_exp(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    r"""Log-sum-exp of the inner products of all pairs of rows, over rows and columns.

    A small matrix of products is formed as it is. Of a large one only blocks are held:
    the backward pass computes them again, so that the gradients are exact and memory
    grows with the rows and not with the pairs.

    Parameters
    ----------
    a : tensor of shape (n, n_features)
        Rows of the matrix of products.
    b : tensor of shape (m, n_features)
        Its columns.

    Returns
    -------
    over_b : tensor of shape (n,)
        :math:`\log \sum_j \exp(a_i \cdot b_j)`.
    over_a : tensor of shape (m,)
        :math:`\log \sum_i \exp(a_i \cdot b_j)`.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import pair_log_sum_exp
    >>> over_b, over_a = pair_log_sum_exp(torch.zeros(2, 3), torch.zeros(4, 3))
    >>> over_b.exp(), over_a.exp()
    (tensor([4., 4.]), tensor([2., 2., 2., 2.]))
    """
    if len(a) * len(b) <= LOGIT_BLOCK_NUMBERS:
        logits = a @ b.mT
        return logits.logsumexp(1), logits.logsumexp(0)
    over_b, over_a = _Streamed.apply(a, b)
    return over_b, over_a


def logit_blocks(n_rows: int, n_columns: int) -> list[slice]:
    """Slices of rows whose products with all columns are held at once."""
    size = max(1, LOGIT_BLOCK_NUMBERS // max(1, n_columns))
    return [slice(start, start + size) for start in range(0, n_rows, size)]


class _Streamed(torch.autograd.Function):
    """Both log-sum-exps, block by block."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        over_b = a.new_empty(len(a))
        over_a = b.new_full((len(b),), -torch.inf)
        for rows in logit_blocks(len(a), len(b)):
            logits = a[rows] @ b.mT
            over_b[rows] = logits.logsumexp(1)
            over_a = torch.logaddexp(over_a, logits.logsumexp(0))
        ctx.save_for_backward(a, b, over_b, over_a)
        ctx.set_materialize_grads(False)
        return over_b, over_a

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_over_b: Tensor | None, grad_over_a: Tensor | None):
        a, b, over_b, over_a = ctx.saved_tensors
        grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
        for rows in logit_blocks(len(a), len(b)):
            logits = a[rows] @ b.mT
            grad = torch.zeros_like(logits)
            # Posteriors of both directions, weighted by what they matter.
            if grad_over_b is not None:
                posterior = (logits - over_b[rows].unsqueeze(1)).exp_()
                grad = posterior.mul_(grad_over_b[rows].unsqueeze(1))
            if grad_over_a is not None:
                posterior = logits.sub_(over_a).exp_()
                grad.addcmul_(posterior, grad_over_a.expand_as(posterior))
            grad_a[rows] = grad @ b
            grad_b.addmm_(grad.mT, a[rows])
        return grad_a, grad_b
