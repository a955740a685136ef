"""The Kalman filter, over all sequences at once."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skgmje.latent._kalman_gains import (
    Gains,
    joseph_update,
    kalman_gain,
    kept_share,
    make_gains,
)
from skgmje.latent._state_space import GaussianState, LinearGaussianStateSpace


class FilterResult(NamedTuple):
    """What a filter knows at every step.

    Attributes
    ----------
    mean : tensor of shape (n_sequences, n_steps, state_dim)
        Means of the states given the observations up to the step itself.
    covariance : tensor of shape (n_sequences, n_steps, state_dim, state_dim)
        Their covariances; a view of fewer matrices where sequences share them.
    predicted_mean, predicted_covariance : tensor
        The same given the observations before the step.
    log_likelihood : tensor of shape (n_sequences, n_steps)
        Log-density of each observation given those before, in nats; zero where there
        is none.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import LinearGaussianStateSpace, kalman_filter
    >>> walk = LinearGaussianStateSpace([[1.0]], [[0.1]], [[1.0]], [[0.5]])
    >>> kalman_filter(walk, torch.zeros(2, 5, 1)).log_likelihood.shape
    torch.Size([2, 5])
    """

    mean: Tensor
    covariance: Tensor
    predicted_mean: Tensor
    predicted_covariance: Tensor
    log_likelihood: Tensor


def kalman_filter(
    space: LinearGaussianStateSpace,
    z: Tensor,
    *,
    lengths: Tensor | None = None,
    observation_covariance: Tensor | None = None,
) -> FilterResult:
    """Filter sequences: the states given the observations so far.

    Parameters
    ----------
    space : LinearGaussianStateSpace
        The model.
    z : tensor of shape (n_sequences, n_steps, observation_dim)
        Observations. A step whose row is all NaN is missing.
    lengths : tensor of int64 of shape (n_sequences,), optional
        Number of steps of each sequence; later rows of z are padding, and what comes
        out there means nothing. By default all steps count.
    observation_covariance : tensor, optional
        Covariances of the noise of each observation, of shape (n_sequences, n_steps,
        observation_dim, observation_dim), in place of the model's one.

    Returns
    -------
    result : FilterResult
        Moments and log-likelihoods, in float64.

    Raises
    ------
    ValueError
        If z has another shape, no steps or rows that are NaN in part, or if variances
        are too far apart for float64.

    Notes
    -----
    Covariances do not depend on what was observed, but only on which steps are missing.
    They are computed once for each pattern of missing steps: for a few patterns by a
    parallel scan, whose passes are a logarithm of the number of steps, for many step by
    step. Every covariance is a sum of squares, in Joseph's form, and where the scan has
    lost digits the steps are computed again in turn.

    References
    ----------
    S. Särkkä, *Bayesian Filtering and Smoothing* (2013), section 4.3. S. Särkkä,
    Á. García-Fernández, "Temporal Parallelization of Bayesian Smoothers", IEEE
    Transactions on Automatic Control 66, 2021.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import LinearGaussianStateSpace, kalman_filter
    >>> model = LinearGaussianStateSpace([[0.9]], [[0.2]], [[1.0]], [[0.5]])
    >>> result = kalman_filter(model, torch.tensor([[[1.0], [0.5], [-0.2]]]))
    >>> round(result.log_likelihood.sum().item(), 4), round(result.mean[0, 2].item(), 4)
    (-3.5011, 0.1889)
    """
    z = z.double()
    if z.dim() != 3 or z.shape[2] != space.observation_dim:
        raise ValueError(
            "Observations must have the shape (n_sequences, n_steps, "
            f"{space.observation_dim}); got {tuple(z.shape)}."
        )
    if z.shape[1] == 0:
        raise ValueError(
            f"Observations must have at least one step; got shape {tuple(z.shape)}. "
            "Before the first step the state is space.initial_state()."
        )
    missing = z.isnan()
    observed = ~missing.all(-1)
    if bool((missing.any(-1) & observed).any()):
        raise ValueError(
            "A row of the observations is NaN in part; a missing step is a row that is "
            "all NaN."
        )
    if lengths is not None:
        # Padding that counts as observed gives sequences of all lengths one pattern.
        steps = torch.arange(z.shape[1], device=z.device)
        observed = observed | (steps >= lengths.to(z.device)[:, None])
    z = z.nan_to_num(nan=0.0)
    gains = make_gains(space, observed, observation_covariance)
    if bool(gains.factor.isnan().any()):
        raise ValueError(
            "The covariance of an innovation is not positive definite; its variances "
            "lie too far apart for float64. Lower initial_covariance, or raise "
            "observation_covariance."
        )
    mean, predicted_mean = filter_means(space, z, gains)
    likelihood = log_likelihood(space, z, predicted_mean, gains)
    covariance, predicted_covariance = (
        part.transpose(0, 1).expand(len(z), -1, -1, -1)
        for part in (gains.covariance, gains.predicted_covariance)
    )
    return FilterResult(
        mean,
        covariance,
        predicted_mean,
        predicted_covariance,
        torch.where(observed, likelihood, 0.0),
    )


def filter_step(
    space: LinearGaussianStateSpace,
    state: GaussianState,
    z: Tensor,
    observation_covariance: Tensor | None = None,
) -> GaussianState:
    """Take in one more observation of every sequence.

    Parameters
    ----------
    space : LinearGaussianStateSpace
        The model.
    state : GaussianState
        What was known after the step before, or the initial state.
    z : tensor of shape (n_sequences, observation_dim)
        Observations; a row of NaN is missing.
    observation_covariance : tensor, optional
        Covariances of the noise, of shape (n_sequences, observation_dim,
        observation_dim).

    Returns
    -------
    state : GaussianState
        What is known now: the same as from :func:`kalman_filter` on all steps.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import LinearGaussianStateSpace, filter_step
    >>> model = LinearGaussianStateSpace([[0.9]], [[0.2]], [[1.0]], [[0.5]])
    >>> state = model.initial_state()
    >>> for value in (1.0, 0.5, -0.2):
    ...     state = filter_step(model, state, torch.tensor([[value]]))
    >>> round(state.mean.item(), 4), round(state.covariance.item(), 4)
    (0.1889, 0.2211)
    """
    z = z.double()
    observed = ~z.isnan().all(-1)
    noise = observation_covariance
    if noise is None:
        noise = space.observation_covariance
    predicted = space.predict_covariance(state.covariance)
    gain, _ = kalman_gain(space, predicted, noise, observed)
    mean = space.predict_mean(state.mean)
    innovation = z.nan_to_num(nan=0.0) - mean @ space.observation.mT
    return GaussianState(
        mean + (gain @ innovation.unsqueeze(-1)).squeeze(-1),
        joseph_update(space, predicted, gain, noise),
    )


def filter_means(
    space: LinearGaussianStateSpace, z: Tensor, gains: Gains
) -> tuple[Tensor, Tensor]:
    """Return filtered and predicted means: one affine recurrence of the states.

    With given gains the state is ``(I - KC) A h + (I - KC)(b - A b) + K z``.
    """
    kept = kept_share(space, gains.gain)
    constant = kept @ space.predict_mean(torch.zeros_like(space.offset))
    seen = _apply(gains.gain, z.transpose(0, 1))
    start = space.initial_mean.expand(len(z), -1)
    mean = affine_recurrence(kept @ space.transition, constant + seen, start)
    before = torch.cat([start.unsqueeze(0), mean[:-1]])
    return mean.transpose(0, 1), space.predict_mean(before).transpose(0, 1)


def affine_recurrence(factors: Tensor, shifts: Tensor, start: Tensor) -> Tensor:
    """Return all ``x_t = F_t x_{t-1} + u_t``.

    Parameters
    ----------
    factors : tensor of shape (n_steps, n_sequences or 1, d, d)
        The matrices F.
    shifts : tensor of shape (n_steps, n_sequences, d)
        The vectors u.
    start : tensor of shape (n_sequences, d)
        The vector before the first step.

    Returns
    -------
    x : tensor of shape (n_steps, n_sequences, d)
        The vectors.
    """
    x, steps = start, []
    if factors.shape[1] == 1:
        for factor, shift in zip(factors[:, 0].mT, shifts, strict=True):
            x = torch.addmm(shift, x, factor)
            steps.append(x)
        return torch.stack(steps)
    x = start.unsqueeze(1)
    for factor, shift in zip(factors.mT, shifts.unsqueeze(2), strict=True):
        x = torch.baddbmm(shift, x, factor)
        steps.append(x)
    return torch.stack(steps).squeeze(2)


def log_likelihood(
    space: LinearGaussianStateSpace, z: Tensor, predicted_mean: Tensor, gains: Gains
) -> Tensor:
    """Log-density of every observation of shape (n_sequences, n_steps), in nats."""
    innovation = (z - predicted_mean @ space.observation.mT).transpose(0, 1)
    if gains.factor.shape[1] == 1:
        rows = innovation.mT
        white = torch.linalg.solve_triangular(gains.factor[:, 0], rows, upper=False)
        distance = white.square().sum(1)
    else:
        rows = innovation.unsqueeze(-1)
        white = torch.linalg.solve_triangular(gains.factor, rows, upper=False)
        distance = white.square().sum((-2, -1))
    half_log_det = gains.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = 0.5 * space.observation_dim * math.log(2 * math.pi)
    return -(0.5 * distance + half_log_det + constant).mT


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Multiply vectors (T, n, m) by matrices (T, n or 1, d, m)."""
    if matrices.shape[1] == 1:
        return vectors @ matrices[:, 0].mT
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)
