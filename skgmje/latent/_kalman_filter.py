"""The Kalman filter, over all sequences at once."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from skgmje.latent._associative_scan import associative_powers, associative_scan
from skgmje.latent._moments import cholesky
from skgmje.latent._state_space import GaussianState, LinearGaussianStateSpace


# Numbers in the covariances of one step up to which steps are computed in parallel, and
# the error, in standard deviations, above which they are computed again in turn.
PARALLEL_NUMBERS, PARALLEL_TOL = 512, 1e-9


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


class Gains(NamedTuple):
    """What a filter knows before it sees a number; time is the first dimension.

    The second dimension is that of patterns of missing steps, and one if all sequences
    share theirs.
    """

    covariance: Tensor
    predicted_covariance: Tensor
    gain: Tensor
    factor: Tensor


class _Riccati(NamedTuple):
    """Covariance part of an element of the parallel filter."""

    transition: Tensor
    covariance: Tensor
    information: Tensor


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
        If z has another shape, or rows that are NaN in part.

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
    gain, _ = _gain(space, predicted, noise, observed)
    mean = space.predict_mean(state.mean)
    innovation = z.nan_to_num(nan=0.0) - mean @ space.observation.mT
    return GaussianState(
        mean + (gain @ innovation.unsqueeze(-1)).squeeze(-1),
        _joseph(space, predicted, gain, noise),
    )


def make_gains(
    space: LinearGaussianStateSpace,
    observed: Tensor,
    observation_covariance: Tensor | None = None,
) -> Gains:
    """Run the recursion of the covariances, once for each pattern of missing steps."""
    if observation_covariance is not None:
        return _gains(space, observed.mT, observation_covariance.transpose(0, 1))
    noise = space.observation_covariance
    if bool(observed.all()):
        return _gains(space, observed.mT[:, :0], noise)
    patterns, pattern = torch.unique(observed, dim=0, return_inverse=True)
    gains = _gains(space, patterns.mT, noise)
    if len(patterns) == 1:
        return gains
    return Gains(*(part[:, pattern] for part in gains))


def filter_means(
    space: LinearGaussianStateSpace, z: Tensor, gains: Gains
) -> tuple[Tensor, Tensor]:
    """Filtered and predicted means: one affine recurrence of the states.

    With given gains the state is ``(I - KC) A h + (I - KC)(b - A b) + K z``.
    """
    kept = _kept(space, gains.gain)
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


# ------------------------------------------------------------------------ covariances


def _gains(
    space: LinearGaussianStateSpace, observed: Tensor, noise: Tensor
) -> Gains:
    """Covariances of all steps, by the faster way that is accurate enough.

    The shape of `observed` is (n_steps, n_patterns); with no pattern, nothing is
    missing. One covariance of the noise serves all steps, or each has its own.
    """
    if observed.shape[1] * space.state_dim**2 <= PARALLEL_NUMBERS:
        gains, before = _parallel(space, observed, noise)
        if _are_equal(before[1:], gains.covariance[:-1]):
            return gains
    return _sequential(space, observed, noise)


def _are_equal(a: Tensor, b: Tensor) -> bool:
    """Say whether covariances agree, in units of standard deviations."""
    deviation = b.detach().diagonal(dim1=-2, dim2=-1).sqrt()
    scale = deviation.unsqueeze(-1) * deviation.unsqueeze(-2)
    return bool(((a - b).detach().abs() <= PARALLEL_TOL * scale).all())


def _parallel(
    space: LinearGaussianStateSpace, observed: Tensor, noise: Tensor
) -> tuple[Gains, Tensor]:
    """Covariances of all steps at once, and those that each step starts from.

    If nothing is missing all elements are one, and their prefixes its powers.
    """
    n_steps, is_seen = len(observed), observed if observed.shape[1] else None
    before = space.initial_covariance[None, None]
    if n_steps > 1:
        if is_seen is None:
            element = _element(space, noise[None, None], None)
            prefixes = associative_powers(_combine, element, n_steps - 1)
        else:
            of_steps = noise[:-1] if noise.dim() > 2 else noise
            element = _element(space, of_steps, is_seen[:-1])
            prefixes = associative_scan(_combine, element)
        nothing = torch.zeros_like(before)
        start = _Riccati(nothing, before, nothing)
        after = _combine(start, prefixes).covariance
        before = torch.cat([before.expand(1, after.shape[1], -1, -1), after])
    predicted = space.predict_covariance(before)
    gain, factor = _gain(space, predicted, noise, is_seen)
    covariance = _joseph(space, predicted, gain, noise)
    return Gains(covariance, predicted, gain, factor), before


def _sequential(
    space: LinearGaussianStateSpace, observed: Tensor, noise: Tensor
) -> Gains:
    """Covariances step by step."""
    n_steps, n_patterns = observed.shape
    covariance = space.initial_covariance.expand(max(1, n_patterns), -1, -1)
    steps = []
    for step in range(n_steps):
        predicted = space.predict_covariance(covariance)
        of_step = noise[step] if noise.dim() > 2 else noise
        is_seen = observed[step] if n_patterns else None
        gain, factor = _gain(space, predicted, of_step, is_seen)
        covariance = _joseph(space, predicted, gain, of_step)
        steps.append((covariance, predicted, gain, factor))
    return Gains(*(torch.stack(part) for part in zip(*steps, strict=True)))


def _element(
    space: LinearGaussianStateSpace, noise: Tensor, observed: Tensor | None
) -> _Riccati:
    """Elements of the parallel filter, of one step each."""
    gain, factor = _gain(space, space.transition_covariance[None, None], noise, observed)
    kept = _kept(space, gain)
    seen = space.observation @ space.transition
    white = torch.linalg.solve_triangular(factor, seen[None, None], upper=False)
    information = white.mT @ white
    if observed is not None:
        information = information * observed[..., None, None]
    return _Riccati(
        kept @ space.transition, kept @ space.transition_covariance, information
    )


def _combine(first: _Riccati, second: _Riccati) -> _Riccati:
    """Associative operation of the parallel filter, without the means."""
    first_t, first_c, first_j = first
    second_t, second_c, second_j = second
    n_states = first_t.shape[-1]
    eye = torch.eye(n_states, dtype=first_t.dtype, device=first_t.device)
    system = eye + first_c @ second_j
    sides = torch.cat([first_t, first_c], dim=-1).expand(*system.shape[:-2], -1, -1)
    moved, spread = torch.linalg.solve(system, sides).split(n_states, dim=-1)
    return _Riccati(
        second_t @ moved,
        second_t @ spread @ second_t.mT + second_c,
        first_t.mT @ second_j @ moved + first_j,
    )


def _gain(
    space: LinearGaussianStateSpace,
    predicted: Tensor,
    noise: Tensor,
    observed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Kalman gain, zero where nothing was observed, and the factor of innovations."""
    seen = space.observation @ predicted
    factor = cholesky(seen @ space.observation.mT + noise)
    gain = torch.cholesky_solve(seen, factor).mT
    if observed is not None:
        gain = gain * observed[..., None, None]
    return gain, factor


def _kept(space: LinearGaussianStateSpace, gain: Tensor) -> Tensor:
    """Return ``I - K C``."""
    eye = torch.eye(space.state_dim, dtype=gain.dtype, device=gain.device)
    return eye - gain @ space.observation


def _joseph(
    space: LinearGaussianStateSpace, predicted: Tensor, gain: Tensor, noise: Tensor
) -> Tensor:
    """Covariance after an observation: a sum of squares, which rounding keeps one."""
    kept = _kept(space, gain)
    covariance = kept @ predicted @ kept.mT + gain @ noise @ gain.mT
    return 0.5 * (covariance + covariance.mT)


def _apply(matrices: Tensor, vectors: Tensor) -> Tensor:
    """Multiply vectors (T, n, m) by matrices (T, n or 1, d, m)."""
    if matrices.shape[1] == 1:
        return vectors @ matrices[:, 0].mT
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1)
