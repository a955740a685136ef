"""Factor analysis of covariances: the M step of low-rank components.

The likelihood of a covariance ``U U' + diag(psi)`` given a scatter S has no closed-form
maximum, but two conditional ones: U is principal components of S in units of the
noise, given psi (Lawley); and given both, psi has an EM step (Rubin and Thayer), which
for this U is the diagonal of ``S - U U'``. Each raises the likelihood, and so do both.
"""

import torch
from torch import Tensor

from skgmje.mixture._distribution import MultivariateNormalMixture

# Conditional steps in one M step; EM itself repeats them.
INNER_STEPS = 2
# Steps to a first factorisation.
FIRST_STEPS = 50
# A smaller share of a variance is the rounding error of the rest of it.
NOISE_SHARE = torch.finfo(torch.float64).eps


def factor_covariances(
    covariances: Tensor,
    factor: Tensor,
    floor: float | Tensor,
    n_steps: int = INNER_STEPS,
) -> Tensor:
    """Raise the likelihood of low-rank covariances, given those of the samples.

    Parameters
    ----------
    covariances : tensor of shape (K, D, D)
        Covariances S of the samples of each component.
    factor : tensor of shape (K, D, r + 1)
        Present loadings U and standard deviations of the noise, side by side.
    floor : float or tensor of shape (D,)
        Smallest variance of the noise.
    n_steps : int, default=2
        Number of steps, of an eigendecomposition each.

    Returns
    -------
    factor : tensor of shape (K, D, r + 1)
        The next loadings and standard deviations.

    References
    ----------
    Rubin and Thayer, *EM algorithms for ML factor analysis* (1982). Lawley and Maxwell,
    *Factor analysis as a statistical method* (1971), for the loadings.
    """
    rank = factor.shape[-1] - 1
    variances = covariances.diagonal(dim1=-2, dim2=-1)
    least = torch.maximum(NOISE_SHARE * variances, torch.as_tensor(floor).to(variances))
    loadings, noise = factor[..., :-1], factor[..., -1]
    # What is not finite or has no noise is refused by whoever makes a density of it.
    if not bool(torch.isfinite(covariances).all()) or not bool((least > 0).all()):
        return torch.cat([loadings, least.sqrt().unsqueeze(-1)], -1)
    noise = torch.maximum(noise, least.sqrt())
    for _ in range(n_steps):
        loadings = _principal_loadings(covariances, noise, rank)
        rest = variances - loadings.square().sum(-1)
        noise = torch.maximum(rest, least).sqrt()
    return torch.cat([loadings, noise.unsqueeze(-1)], -1)


def factorise(
    density: MultivariateNormalMixture, rank: int, floor: float
) -> MultivariateNormalMixture:
    """Return the mixture with low-rank covariances near its own: a start for EM.

    Parameters
    ----------
    density : MultivariateNormalMixture
        Mixture without batch dimensions.
    rank : int
        Number of factors; more than D - 1, which give any covariance, are left out.
    floor : float
        Smallest variance of the noise.

    Returns
    -------
    density : MultivariateNormalMixture
        The same weights and means with the likeliest factors.
    """
    covariances = density.component_covariances
    rank = min(rank, covariances.shape[-1] - 1)
    start = covariances.new_zeros(*covariances.shape[:-1], rank + 1)
    start[..., -1] = (0.5 * covariances.diagonal(dim1=-2, dim2=-1)).sqrt()
    factor = factor_covariances(covariances, start, floor, FIRST_STEPS)
    return MultivariateNormalMixture.from_log_weights(
        density.log_weights,
        density.means,
        cov_factor=factor[..., :-1],
        cov_diag=factor[..., -1].square(),
    )


def _principal_loadings(covariances: Tensor, noise: Tensor, rank: int) -> Tensor:
    """Likeliest loadings, given the standard deviations of the noise (K, D)."""
    scaled = covariances / (noise.unsqueeze(-1) * noise.unsqueeze(-2))
    values, vectors = torch.linalg.eigh(0.5 * (scaled + scaled.mT))
    first = covariances.shape[-1] - rank
    size = (values[..., first:] - 1.0).clamp(min=0).sqrt()
    return noise.unsqueeze(-1) * vectors[..., first:] * size.unsqueeze(-2)
