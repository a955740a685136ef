"""Images of a spot that moves, as in the experiments of Mikulasch and Zenke (2026)."""

import numpy as np

N_PIXELS = 10
STEPS = 100


def render(place, variance, rng):
    """Draw a Gaussian spot of one pixel's width at every place, and noise."""
    centre = (place + 3) * N_PIXELS / 6
    pixels = np.arange(N_PIXELS)
    squares = [(pixels - centre[..., [axis]]) ** 2 for axis in (0, 1)]
    distance = squares[0][..., None, :] + squares[1][..., :, None]
    images = np.exp(-0.5 * distance)
    noise = np.sqrt(np.broadcast_to(variance, place.shape[:-1]))[..., None, None]
    images = images + noise * rng.normal(size=images.shape)
    return images.reshape(*place.shape[:-1], -1).astype(np.float32)


def _phase(n, rate, rng):
    return rng.uniform(0, 2 * np.pi, (n, 1)) + rate * np.arange(STEPS)


def figure_eight(n, rng):
    """A figure of eight in 20 steps."""
    phase = _phase(n, 0.1 * np.pi, rng)
    place = np.stack([np.cos(phase), np.sin(phase) * np.cos(phase)], axis=-1)
    return render(place, 0.01, rng), place


def square(n, rng):
    """A square in 20 steps, at a constant speed; a noisier image."""
    turn = _phase(n, 0.1 * np.pi, rng) / (2 * np.pi) % 1
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1], [1, 1]])
    place = np.stack(
        [np.interp(turn, np.arange(5) / 4, corners[:, axis]) for axis in (0, 1)],
        axis=-1,
    )
    return render(place, 0.1, rng), place


def inferred_noise(n, rng):
    """A circle with random steps, in images whose noise changes all the time."""
    place = np.exp(1j * rng.uniform(0, 2 * np.pi, n))
    places = []
    for _ in range(STEPS):
        step = rng.normal(size=(2, n)) * np.sqrt(0.05)
        place = place * np.exp(0.1j * np.pi) + step[0] + 1j * step[1]
        place = place / np.abs(place)
        places.append(np.stack([place.real, place.imag], axis=-1))
    places = np.stack(places, axis=1)
    variance = np.maximum(0, rng.exponential(0.3, places.shape[:2]) - 0.09)
    return render(places, variance, rng), places
