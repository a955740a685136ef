"""The Rauch-Tung-Striebel smoother, over all sequences at once."""

import torch
from torch import Tensor

from skgmje.latent._kalman_filter import FilterResult, affine_recurrence
from skgmje.latent._moments import cholesky
from skgmje.latent._state_space import GaussianState, LinearGaussianStateSpace


def kalman_smoother(
    space: LinearGaussianStateSpace,
    filtered: FilterResult,
    *,
    lengths: Tensor | None = None,
) -> GaussianState:
    """Smooth filtered sequences: the states given all observations.

    Parameters
    ----------
    space : LinearGaussianStateSpace
        The model.
    filtered : FilterResult
        What :func:`kalman_filter` gave.
    lengths : tensor of int64 of shape (n_sequences,), optional
        Number of steps of each sequence, as for the filter.

    Returns
    -------
    states : GaussianState
        Means of shape (n_sequences, n_steps, state_dim) and covariances of shape
        (n_sequences, n_steps, state_dim, state_dim).

    Raises
    ------
    ValueError
        If a predicted covariance is singular: a state that moves without noise and is
        known exactly has no smoothing gain.

    Notes
    -----
    Covariances are sums of squares, as in Joseph's form of the filter.

    References
    ----------
    S. Särkkä, *Bayesian Filtering and Smoothing* (2013), section 8.2.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import (
    ...     LinearGaussianStateSpace, kalman_filter, kalman_smoother
    ... )
    >>> walk = LinearGaussianStateSpace([[1.0]], [[0.1]], [[1.0]], [[0.5]])
    >>> filtered = kalman_filter(walk, torch.tensor([[[0.0], [1.0], [2.0]]]))
    >>> smoothed = kalman_smoother(walk, filtered)
    >>> bool(smoothed.covariance[0, 0] < filtered.covariance[0, 0])
    True
    """
    if filtered.mean.shape[1] == 1:
        return GaussianState(filtered.mean, filtered.covariance)
    mean = filtered.mean.transpose(0, 1)
    predicted_mean = filtered.predicted_mean.transpose(0, 1)[1:]
    # Sequences that share all covariances are expanded from one.
    is_shared = filtered.covariance.stride(0) == 0 and lengths is None
    n_distinct = 1 if is_shared else len(filtered.mean)
    covariance = filtered.covariance[:n_distinct].transpose(0, 1)
    predicted = filtered.predicted_covariance[:n_distinct].transpose(0, 1)[1:]

    gain = _smoothing_gain(space, covariance[:-1], predicted)
    if lengths is not None:
        # The last step of a sequence is as it was, and so is what follows it.
        step = torch.arange(1, len(mean), device=mean.device)[:, None]
        gain = gain * (step < lengths.to(mean.device))[..., None, None]
    kept = _identity_like(gain) - gain @ space.transition
    noise = kept @ covariance[:-1] @ kept.mT
    noise = noise + gain @ space.transition_covariance @ gain.mT
    shift = mean[:-1] - (gain @ predicted_mean.unsqueeze(-1)).squeeze(-1)

    backwards = affine_recurrence(gain.flip(0), shift.flip(0), mean[-1])
    means = torch.cat([backwards.flip(0), mean[-1:]])
    last = covariance[-1]
    covariances = [last]
    for matrix, own in zip(gain.flip(0), noise.flip(0), strict=True):
        last = own + matrix @ last @ matrix.mT
        covariances.append(last)
    stacked = torch.stack(covariances[::-1], dim=1)
    return GaussianState(
        means.transpose(0, 1), stacked.expand(len(filtered.mean), -1, -1, -1)
    )


def _smoothing_gain(
    space: LinearGaussianStateSpace, covariance: Tensor, predicted: Tensor
) -> Tensor:
    """Return ``P_t A' (P_{t+1|t})^-1``."""
    factor = cholesky(predicted)
    if bool(factor.isnan().any()):
        raise ValueError(
            "A predicted covariance of the state is singular, so that there is nothing "
            "to smooth with; give transition_covariance a small variance where it has "
            "none."
        )
    return torch.cholesky_solve(space.transition @ covariance, factor).mT


def _identity_like(matrices: Tensor) -> Tensor:
    return torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
