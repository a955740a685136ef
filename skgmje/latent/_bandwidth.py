"""Bandwidth of the kernels that smooth the conditionals of a contrastive model."""

import torch
from torch import Tensor

MAX_ITER, TOL = 100, 1e-3


@torch.no_grad()
def leave_one_out_bandwidth(logits: Tensor, z: Tensor, reg_covar: float) -> Tensor:
    r"""Width at which the kernels of the other rows make each row likeliest, by EM.

    .. math:: \prod_i \sum_{k \ne i} w_{ik}\, \mathcal N(z_i; z_k, h^2 I), \qquad
              w_{ik} \propto e^{\ell_{ik}}

    Parameters
    ----------
    logits : tensor of shape (n, n)
        Logarithms of the weights of rows k in what is said about row i.
    z : tensor of shape (n, n_features)
        The rows.
    reg_covar : float
        Least variance of a kernel, in units of the mean variance of the rows.

    Returns
    -------
    bandwidth : tensor of shape ()
        The standard deviation h.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent._bandwidth import leave_one_out_bandwidth
    >>> z = torch.tensor([[0.0], [1.0]])
    >>> leave_one_out_bandwidth(torch.zeros(2, 2), z, 1e-6)
    tensor(1.)
    """
    spread = float(z.var(0, correction=0).mean()) or 1.0
    floor = max(reg_covar * spread, torch.finfo(z.dtype).tiny)
    others = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_weights = logits.masked_fill(others, -torch.inf).log_softmax(1)
    distance = (
        torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist").square()
        / z.shape[1]
    )
    variance = (log_weights.exp() * distance).sum(1).mean().clamp(min=floor)
    for _ in range(MAX_ITER):
        exponent = log_weights - 0.5 * z.shape[1] * distance / variance
        before = variance
        variance = (exponent.softmax(1) * distance).sum(1).mean().clamp(min=floor)
        if abs(float(variance / before) - 1) < TOL:
            break
    return variance.sqrt()
