"""Entropy terms that keep embeddings from collapsing."""

import torch
from torch import Tensor

# Added to the diagonal of batch covariances, relative to their mean variance: part of
# the objective (it bounds it), not a repair.
RIDGE = 1e-4


def covariance(z: Tensor) -> Tensor:
    """Covariance of a batch of embeddings, in float64.

    Parameters
    ----------
    z : tensor of shape (n_samples, n_features)
        Embeddings.

    Returns
    -------
    covariance : tensor of shape (n_features, n_features)
        Maximum-likelihood covariance (division by ``n_samples``).

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import covariance
    >>> covariance(torch.tensor([[1.0], [3.0]]))
    tensor([[1.]], dtype=torch.float64)
    """
    centred = z.double() - z.double().mean(0)
    return centred.mT @ centred / len(z)


def log_det(matrix: Tensor) -> Tensor:
    """Logarithm of the determinant of a positive definite matrix, by Cholesky.

    Parameters
    ----------
    matrix : tensor of shape (n_features, n_features)
        Positive definite matrix.

    Returns
    -------
    log_det : tensor of shape ()
        Its log-determinant; NaN if the matrix is not positive definite.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import log_det
    >>> log_det(torch.eye(3))
    tensor(0.)
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    value = 2 * factor.diagonal().log().sum()
    return torch.where(info == 0, value, torch.full_like(value, torch.nan))


def ridge(matrix: Tensor, strength: float = RIDGE) -> Tensor:
    """Add `strength` times the mean variance, and a little, to the diagonal."""
    size = matrix.diagonal().mean() * strength + 1e-12
    return matrix + size * torch.eye(
        len(matrix), dtype=matrix.dtype, device=matrix.device
    )


def moment_kl(z: Tensor, strength: float = RIDGE) -> Tensor:
    """Divergence KL(N(mean z, cov z) || N(0, I)) of a batch of embeddings.

    Its log-determinant repels embeddings from each other, its trace keeps them from
    flying apart. With a weight above one it outweighs the pull of a Gaussian
    likelihood.

    Parameters
    ----------
    z : tensor of shape (n_samples, n_features)
        Embeddings.
    strength : float, default=1e-4
        Ridge on the covariance, relative to its mean variance.

    Returns
    -------
    divergence : tensor of shape ()
        Divergence in nats, zero for whitened embeddings.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import moment_kl
    >>> z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    >>> bool(moment_kl(z) < 1e-3)
    True
    """
    moments = covariance(z)
    mean = z.double().mean(0)
    trace = moments.diagonal().sum() + mean.square().sum()
    return 0.5 * (trace - z.shape[1] - log_det(ridge(moments, strength)))
