"""Means and covariances of batches of embeddings, and what follows from them."""

import torch
from torch import Tensor, nn

# Added to the diagonal of batch covariances, relative to their mean variance: part of
# the objective (it bounds it), not a repair.
RIDGE = 1e-4
# Directions of less variance, relative to the largest, are not stretched: points beside
# the others would be thrown far away.
MIN_VARIANCE_RATIO = 1e-6


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
    return 2 * cholesky(matrix).diagonal().log().sum()


def cholesky(matrix: Tensor) -> Tensor:
    """Cholesky factors, all NaN where a matrix is not positive definite."""
    factor, info = torch.linalg.cholesky_ex(matrix)
    is_positive = (info == 0)[..., None, None]
    return torch.where(is_positive, factor, torch.full_like(factor, torch.nan))


def whiten(centred: Tensor, covariance: Tensor) -> Tensor:
    """Solve ``L w = x`` for every row x, with L the Cholesky factor of a covariance."""
    factor = cholesky(covariance)
    return torch.linalg.solve_triangular(factor, centred.mT, upper=False).mT


def mean_mahalanobis(centred: Tensor, covariance: Tensor) -> Tensor:
    """Mean squared Mahalanobis length of the rows."""
    return whiten(centred, covariance).square().sum(1).mean()


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


def moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column, at any scale; one if constant.

    Parameters
    ----------
    z : tensor of float64 of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    loc, scale : tensor of shape (n_features,)
        The moments.
    """
    loc = z.mean(0)
    deviation = z - loc
    # Squares of deviations relative to the largest neither overflow nor vanish.
    peak = deviation.abs().amax(0)
    # Below float64's own noise a column is constant.
    constant = peak <= 10 * torch.finfo(z.dtype).eps * loc.abs()
    peak = torch.where(constant, 1.0, peak)
    scale = peak * (deviation / peak).square().mean(0).sqrt()
    return loc, torch.where(constant, 1.0, scale)


def whitening(z: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of rows, and a matrix that gives them unit variance in all directions.

    Parameters
    ----------
    z : tensor of float64 of shape (n_samples, n_features)
        Rows.

    Returns
    -------
    loc : tensor of shape (n_features,)
        Mean.
    matrix : tensor of shape (n_features, n_features)
        W of ``W (z - loc)``. Directions whose standard deviation is less than a
        thousandth of the largest, with columns in units of theirs, keep that share.
    """
    loc, scale = moments(z)
    standardised = (z - loc) / scale
    variance, axes = torch.linalg.eigh(standardised.mT @ standardised / len(z))
    largest = torch.where(variance[-1] > 0, variance[-1], 1.0)
    held = variance > MIN_VARIANCE_RATIO * largest
    stretch = torch.where(held, variance, largest).rsqrt()
    return loc, (axes * stretch) @ axes.mT / scale


class RunningMoments(nn.Module):
    """Exponential moving average of the moments of batches, without gradients.

    Parameters
    ----------
    rate : float
        Weight of a batch.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        # Plain attributes of the width of the data, which is not known before.
        self._moments: dict[str, Tensor] = {}

    @property
    def started(self) -> bool:
        """Whether there are moments."""
        return bool(self._moments)

    @property
    def mean(self) -> Tensor:
        """Mean of shape (n_features,)."""
        return self._moments["mean"]

    @property
    def covariance(self) -> Tensor:
        """Covariance of shape (n_features, n_features)."""
        return self._moments["covariance"]

    @torch.no_grad()
    def start(self, z: Tensor) -> None:
        """Take the moments of embeddings of shape (n_samples, n_features)."""
        z = z.detach().double()
        self._moments = {"mean": z.mean(0), "covariance": covariance(z)}

    @torch.no_grad()
    def update(self, z: Tensor) -> None:
        """Move towards the moments of a batch, once there are moments to move."""
        batch = {"mean": z.double().mean(0), "covariance": covariance(z)}
        for name, running in self._moments.items():
            self._moments[name] = running.lerp(batch[name], self.rate)

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the moments for ``state_dict``."""
        return dict(self._moments)

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Take the moments back from ``state_dict``."""
        self._moments = dict(state)
