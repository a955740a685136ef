"""Densities of independent sources, of unit variance, with their derivatives."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import gamma

SourceDensity = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

# The logistic density has unit variance with this rate, and that with exponent four
# with the other.
LOGISTIC_RATE = np.pi / (2 * np.sqrt(3))
QUARTIC_RATE = (gamma(3 / 4) / gamma(1 / 4)) ** 2

# Angles that are looked at in the plane of two sources, and the least relative gain of
# a turn. A quarter turn swaps them.
ANGLES = np.linspace(0, np.pi / 2, 64, endpoint=False)
TURN_GAIN, MAX_SWEEPS = 1e-3, 10


def logcosh(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Logistic density, whose tails are heavier than a Gaussian's.

    .. math:: \log p(s) = -2 \log \cosh(a s) + \log(a / 2), \qquad
              a = \pi / (2 \sqrt 3)
    """
    size = LOGISTIC_RATE * np.abs(s)
    log_cosh = size + np.log1p(np.exp(-2 * size)) - np.log(2)
    slope = -2 * LOGISTIC_RATE * np.tanh(LOGISTIC_RATE * s)
    return np.log(LOGISTIC_RATE / 2) - 2 * log_cosh, slope


def exponent4(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    r"""Generalised Gaussian with exponent four, whose tails are lighter.

    .. math:: \log p(s) = -c s^4 + \log \frac{2 c^{1/4}}{\Gamma(1/4)}, \qquad
              c = \left( \Gamma(3/4) / \Gamma(1/4) \right)^2
    """
    constant = np.log(2 * QUARTIC_RATE**0.25 / gamma(1 / 4))
    return constant - QUARTIC_RATE * s**4, -4 * QUARTIC_RATE * s**3


SOURCE_DENSITIES: dict[str, SourceDensity] = {
    "logcosh": logcosh,
    "exponent4": exponent4,
}


def likelier(S: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return the density under which each column is likeliest, at unit variance."""
    scaled = S / S.std(axis=0)
    means = [SOURCE_DENSITIES[name](scaled)[0].mean(axis=0) for name in names]
    return [names[i] for i in np.argmax(means, axis=0)]


def turn_pairs(S: np.ndarray) -> np.ndarray:
    """Turn white sources in the plane of each pair to the largest squared kurtoses.

    Gradients lead to a nearby maximum of the likelihood alone, at which a source with
    light tails may stay mixed with one that has heavy tails. The kurtosis at all angles
    of two sources follows from five moments (Comon, "Independent Component Analysis, a
    New Concept?", Signal Processing 36, 1994).

    Parameters
    ----------
    S : ndarray of shape (n_samples, n_components)
        White sources.

    Returns
    -------
    rotation : ndarray of shape (n_components, n_components)
        The product of all turns.
    """
    S, n_components = S.T.copy(), S.shape[1]
    rotation = np.eye(n_components)
    cos, sin = np.cos(ANGLES), np.sin(ANGLES)
    powers = np.stack([cos**4, 4 * cos**3 * sin, 6 * (cos * sin) ** 2])
    powers = np.concatenate([powers, [4 * cos * sin**3, sin**4]])
    # The other source is turned by a further quarter.
    others = powers[::-1] * np.array([1, -1, 1, -1, 1])[:, None]
    for _ in range(MAX_SWEEPS):
        n_turns = 0
        for pair in map(list, itertools.combinations(range(n_components), 2)):
            a, b = S[pair]
            aa, ab, bb = a * a, a * b, b * b
            moments = np.array([aa @ aa, aa @ ab, aa @ bb, ab @ bb, bb @ bb]) / len(a)
            contrast = (moments @ powers - 3) ** 2 + (moments @ others - 3) ** 2
            best = int(np.argmax(contrast))
            if contrast[best] > contrast[0] + TURN_GAIN * (1 + contrast[0]):
                n_turns += 1
                turn = np.array([[cos[best], sin[best]], [-sin[best], cos[best]]])
                S[pair] = turn @ S[pair]
                rotation[pair] = turn @ rotation[pair]
        if not n_turns:
            break
    return rotation


def each_its_own(names: Sequence[str]) -> SourceDensity:
    """Return the density of sources of which each has a density by name."""

    def density(S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_density, slope = np.empty_like(S), np.empty_like(S)
        for name, one in SOURCE_DENSITIES.items():
            columns = [other == name for other in names]
            log_density[:, columns], slope[:, columns] = one(S[:, columns])
        return log_density, slope

    return density


def checked(density: SourceDensity) -> SourceDensity:
    """Return a density of a user's that is refused if it has not the right form."""

    def wrapped(S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        answer = density(S)
        if (
            not isinstance(answer, tuple)
            or [np.shape(part) for part in answer] != [S.shape] * 2
        ):
            raise ValueError(
                "A density returns two arrays, log-densities and slopes, both of the "
                f"shape of the sources, {S.shape}."
            )
        return answer

    return wrapped
