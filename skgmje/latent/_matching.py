"""Contrastive losses: a tilted product of the marginals is matched to the data."""

import math

import torch
from torch import Tensor, nn

from skgmje.latent._log_sum_exp import pair_log_sum_exp
from skgmje.latent._tilting import Tilting


class _Matching(nn.Module):
    """Base of the losses."""

    each_epoch = False
    # Whether the loss is given the views behind the embeddings, too.
    compares_views = False

    def __init__(self, tilting: Tilting | None = None):
        super().__init__()
        self.tilting = Tilting() if tilting is None else tilting

    def initialize(self, z_c: Tensor, z_t: Tensor, seed: int) -> None:
        """Do nothing: the loss has no state that depends on data."""

    def _factors(self, z_c: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
        if z_c.shape != z_t.shape:
            raise ValueError(
                "Contrastive learning compares embeddings of one width, row by row; "
                f"got shapes {tuple(z_c.shape)} and {tuple(z_t.shape)}."
            )
        return self.tilting.factors(z_c, z_t)


class ConditionalMatching(_Matching):
    r"""Match both conditionals of the pairs: contrastive learning of CLIP's form.

    .. math:: -\frac{\lambda_u}{2} \mathrm E \log \rho(u | v)
              - \frac{\lambda_v}{2} \mathrm E \log \rho(v | u), \qquad
              \rho(u | v) = \frac{e^{\ell(u, v)}}{\mathrm E_{u'} e^{\ell(u', v)}}

    with expectations over the batch; u is the context and v the target. Up to a
    constant this is the sum of the mean divergences of the data's conditionals from
    those of the model. With weights of one it is the symmetric loss of CLIP minus log
    n, so that its negative is a lower bound on the mutual information that does not
    depend on the size of the batch.

    Logits of large batches are never held at once (:func:`pair_log_sum_exp`).

    Parameters
    ----------
    tilting : Tilting, optional
        The logarithm :math:`\ell`; by default cosines at a temperature of 0.1.
    context_given_target : float, default=1.0
        Weight :math:`\lambda_u` of the context given the target.
    target_given_context : float, default=1.0
        Weight :math:`\lambda_v` of the target given the context. Weights of zero and
        two make a loss in one direction.

    References
    ----------
    Baptista, Stuart and Tran, "A Mathematical Perspective on Contrastive Learning",
    arXiv:2505.24134 (2025), equation 11, problem 3.13 and theorems 2.8 and 3.2.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import ConditionalMatching
    >>> z = torch.ones(16, 3)
    >>> abs(ConditionalMatching()(z, z).item()) < 1e-6
    True
    """

    def __init__(
        self,
        tilting: Tilting | None = None,
        context_given_target: float = 1.0,
        target_given_context: float = 1.0,
    ):
        super().__init__(tilting)
        self.context_given_target = context_given_target
        self.target_given_context = target_given_context

    def forward(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, n_features)."""
        a, b = self._factors(z_c, z_t)
        own = (a * b).sum(1)
        over_targets, over_contexts = pair_log_sum_exp(a, b)
        halves = 0.5 * self.context_given_target * (
            over_contexts - own
        ) + 0.5 * self.target_given_context * (over_targets - own)
        weight = 0.5 * (self.context_given_target + self.target_given_context)
        return halves.mean() - weight * math.log(len(z_c))


class JointMatching(_Matching):
    r"""Match the joint distribution of the pairs.

    .. math:: -\mathrm E\, \ell(u, v) + \log \mathrm E_{u, v'} e^{\ell(u, v')}

    Up to a constant this is the divergence of the data's joint from that of the model.
    With the same pairs it is never less than :class:`ConditionalMatching`.

    Parameters
    ----------
    tilting : Tilting, optional
        The logarithm :math:`\ell`; by default cosines at a temperature of 0.1.
    pairs : {'all', 'shifted'}, default='all'
        Which pairs the normaliser is the mean of: all of the batch, or each context
        with the target of the row before it. The latter costs no more than the rows of
        a batch, which the loop shuffles, but is a noisier estimate.

    References
    ----------
    Baptista, Stuart and Tran, "A Mathematical Perspective on Contrastive Learning",
    arXiv:2505.24134 (2025), theorems 3.8 and 3.10 and remark 3.9 (a product batch).

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import JointMatching
    >>> z = torch.ones(16, 3)
    >>> abs(JointMatching()(z, z).item()) < 1e-6
    True
    """

    def __init__(self, tilting: Tilting | None = None, pairs: str = "all"):
        super().__init__(tilting)
        if pairs not in ("all", "shifted"):
            raise ValueError(f"pairs must be 'all' or 'shifted'; got {pairs!r}.")
        self.pairs = pairs

    def forward(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, n_features)."""
        a, b = self._factors(z_c, z_t)
        if self.pairs == "all":
            normaliser = pair_log_sum_exp(a, b)[0] - math.log(len(b))
        else:
            normaliser = (a * b.roll(1, 0)).sum(1)
        return normaliser.logsumexp(0) - math.log(len(a)) - (a * b).sum(1).mean()


class ConditionalDiscrepancy(_Matching):
    r"""Match both conditionals in maximum mean discrepancy.

    .. math:: \frac{\lambda_u}{2} \mathrm E_v \Bigl\| \sum_i w_i(v)\, \varphi(u_i)
              - \varphi(u) \Bigr\|^2 + \frac{\lambda_v}{2} \mathrm E_u \Bigl\| \sum_j
              w_j(u)\, \varphi(v_j) - \varphi(v) \Bigr\|^2

    where w are the weights of the batch's rows under the model and :math:`\varphi` are
    the features of a Gaussian kernel on the views themselves. It differs from the mean
    of the squared discrepancies by a constant. Each pair costs a row of n products.

    Parameters
    ----------
    tilting : Tilting, optional
        The logarithm of the weights; by default cosines at a temperature of 0.1.
    context_given_target, target_given_context : float, default=1.0
        As in :class:`ConditionalMatching`.
    bandwidth : float, default=1.0
        Width of the kernel, in units of the root mean square of a standardised row.

    References
    ----------
    Baptista, Stuart and Tran, "A Mathematical Perspective on Contrastive Learning",
    arXiv:2505.24134 (2025), appendix B. The printed signs are hard to read; these come
    from the expansion of the square, and the kernel is our choice.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import ConditionalDiscrepancy, Tilting
    >>> z = 9 * torch.eye(4)
    >>> loss = ConditionalDiscrepancy(Tilting("inner", 0.5))
    >>> loss(z, z, torch.eye(4), torch.eye(4)).round(decimals=3)
    tensor(0.)
    """

    compares_views = True

    def __init__(
        self,
        tilting: Tilting | None = None,
        context_given_target: float = 1.0,
        target_given_context: float = 1.0,
        bandwidth: float = 1.0,
    ):
        super().__init__(tilting)
        self.context_given_target = context_given_target
        self.target_given_context = target_given_context
        self.bandwidth = bandwidth

    def forward(
        self, z_c: Tensor, z_t: Tensor, context: Tensor, target: Tensor
    ) -> Tensor:
        """Return the loss for embeddings and the standardised views behind them."""
        a, b = self._factors(z_c, z_t)
        logits = a @ b.mT
        loss = logits.new_zeros(())
        for weight, own, rows in (
            (self.context_given_target, logits.mT, context),
            (self.target_given_context, logits, target),
        ):
            if weight:
                kernel = gaussian_kernel(rows, self.bandwidth).to(logits.dtype)
                gap = own.softmax(1) - torch.eye(
                    len(own), dtype=own.dtype, device=own.device
                )
                loss = loss + 0.5 * weight * ((gap @ kernel) * gap).sum(1).mean()
        return loss


class JointDiscrepancy(_Matching):
    r"""Match the joint distribution of the pairs in maximum mean discrepancy.

    .. math:: \mathrm E_{\mu \times \mu} k - 2\, \mathrm E_{\mu \times \nu} k +
              \mathrm E_{\nu \times \nu} k

    between the pairs of a batch and all its pairs of rows, weighted by the model. The
    kernel is the product of Gaussian kernels on the two views. A step costs products of
    n x n matrices.

    Parameters
    ----------
    tilting : Tilting, optional
        The logarithm of the weights; by default cosines at a temperature of 0.1.
    bandwidth : float, default=0.3
        As in :class:`ConditionalDiscrepancy`. It has to be narrow: in the joint
        distribution a right pair is one among all pairs of the batch.

    References
    ----------
    Baptista, Stuart and Tran, "A Mathematical Perspective on Contrastive Learning",
    arXiv:2505.24134 (2025), problem 3.11; the kernel is our choice.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import JointDiscrepancy, Tilting
    >>> z = 9 * torch.eye(4)
    >>> loss = JointDiscrepancy(Tilting("inner", 0.5))
    >>> loss(z, z, torch.eye(4), torch.eye(4)).round(decimals=3)
    tensor(0.)
    """

    compares_views = True

    def __init__(self, tilting: Tilting | None = None, bandwidth: float = 0.3):
        super().__init__(tilting)
        self.bandwidth = bandwidth

    def forward(
        self, z_c: Tensor, z_t: Tensor, context: Tensor, target: Tensor
    ) -> Tensor:
        """Return the loss for embeddings and the standardised views behind them."""
        a, b = self._factors(z_c, z_t)
        logits = a @ b.mT
        model = logits.flatten().softmax(0).reshape(logits.shape)
        gap = model - torch.eye(len(a), dtype=a.dtype, device=a.device) / len(a)
        kernel_c, kernel_t = (
            gaussian_kernel(rows, self.bandwidth).to(a.dtype)
            for rows in (context, target)
        )
        return (gap * (kernel_c @ gap @ kernel_t)).sum()


def gaussian_kernel(rows: Tensor, bandwidth: float) -> Tensor:
    """Gaussian kernel of all pairs of rows, free of their number of columns."""
    distance = torch.cdist(rows, rows) / bandwidth
    return torch.exp(-0.5 * distance.square() / rows.shape[1])
