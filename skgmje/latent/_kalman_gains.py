"""The half of a Kalman filter that sees no number: covariances and gains."""

from typing import NamedTuple

import torch
from torch import Tensor

from skgmje.latent._associative_scan import associative_powers, associative_scan
from skgmje.latent._moments import cholesky
from skgmje.latent._state_space import LinearGaussianStateSpace

# Numbers in the covariances of one step up to which steps are computed in parallel, and
# the error, in standard deviations, above which they are computed again in turn.
PARALLEL_NUMBERS, PARALLEL_TOL = 512, 1e-9


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


def _gains(space: LinearGaussianStateSpace, observed: Tensor, noise: Tensor) -> Gains:
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
    before = space.initial_covariance.expand(1, max(1, observed.shape[1]), -1, -1)
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
        before = torch.cat([before, after])
    predicted = space.predict_covariance(before)
    gain, factor = kalman_gain(space, predicted, noise, is_seen)
    covariance = joseph_update(space, predicted, gain, noise)
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
        gain, factor = kalman_gain(space, predicted, of_step, is_seen)
        covariance = joseph_update(space, predicted, gain, of_step)
        steps.append((covariance, predicted, gain, factor))
    return Gains(*(torch.stack(part) for part in zip(*steps, strict=True)))


def _element(
    space: LinearGaussianStateSpace, noise: Tensor, observed: Tensor | None
) -> _Riccati:
    """Elements of the parallel filter, of one step each."""
    gain, factor = kalman_gain(
        space, space.transition_covariance[None, None], noise, observed
    )
    kept = kept_share(space, gain)
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
    # Where the system is singular what comes out is found to be wrong later.
    solution = torch.linalg.solve_ex(system, sides).result
    moved, spread = solution.split(n_states, dim=-1)
    return _Riccati(
        second_t @ moved,
        second_t @ spread @ second_t.mT + second_c,
        first_t.mT @ second_j @ moved + first_j,
    )


def kalman_gain(
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


def kept_share(space: LinearGaussianStateSpace, gain: Tensor) -> Tensor:
    """Return ``I - K C``."""
    eye = torch.eye(space.state_dim, dtype=gain.dtype, device=gain.device)
    return eye - gain @ space.observation


def joseph_update(
    space: LinearGaussianStateSpace, predicted: Tensor, gain: Tensor, noise: Tensor
) -> Tensor:
    """Covariance after an observation: a sum of squares, which rounding keeps one."""
    kept = kept_share(space, gain)
    covariance = kept @ predicted @ kept.mT + gain @ noise @ gain.mT
    return 0.5 * (covariance + covariance.mT)
