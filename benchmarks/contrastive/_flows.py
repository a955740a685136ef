"""Flows on the torus, tracers that they carry, and an encoder of their paths."""

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import nn

# Half of the wave vectors of smallest length; the other half are their conjugates.
WAVES = np.array(
    [
        *[(1, 0), (0, 1), (1, 1), (1, -1), (2, 0), (0, 2)],
        *[(2, 1), (2, -1), (1, 2), (1, -2), (2, 2), (2, -2)],
    ]
)
LENGTH = np.linalg.norm(WAVES, axis=1)
# Rossby waves: long ones travel fastest.
FREQUENCY = -2 * np.pi * WAVES[:, 0] / LENGTH**2
START, END, N_STEPS = 0.75, 1.5, 60


def draw_flows(n_flows, seed):
    """Coefficients of stream functions: real parts, then imaginary ones."""
    rng = np.random.default_rng(seed)
    deviation = 0.12 / LENGTH**2
    return rng.normal(size=(n_flows, 2 * len(WAVES))) * np.tile(deviation, 2)


def _waves(coefficients, position, time):
    real, imaginary = np.split(coefficients, 2, axis=-1)
    phase = 2 * np.pi * position @ WAVES.T + FREQUENCY * time
    return real, imaginary, np.cos(phase), np.sin(phase)


def stream_function(coefficients, position, time=0.0):
    """Real part of the sum of waves, at positions of the torus."""
    real, imaginary, cosine, sine = _waves(coefficients, position, time)
    return (real * cosine - imaginary * sine).sum(-1)


def velocity(coefficients, position, time):
    """Gradient of the stream function, turned by a right angle."""
    real, imaginary, cosine, sine = _waves(coefficients, position, time)
    slope = -(real * sine + imaginary * cosine)
    gradient = 2 * np.pi * slope @ WAVES
    return np.stack([-gradient[..., 1], gradient[..., 0]], axis=-1)


def trace(coefficients):
    """Paths of one tracer in each flow, of shape (n_flows, n_steps, 2), unwrapped."""
    n_flows = len(coefficients)
    solution = solve_ivp(
        lambda time, state: velocity(
            coefficients, state.reshape(n_flows, 2), time
        ).ravel(),
        (0.0, END),
        np.full(2 * n_flows, START),
        t_eval=np.linspace(0, END, N_STEPS + 1)[1:],
        method="DOP853",
        rtol=1e-6,
        atol=1e-8,
    )
    return solution.y.reshape(n_flows, 2, N_STEPS).transpose(0, 2, 1)


class PathEncoder(nn.Module):
    """Convolutions over time on positions and their differences."""

    def __init__(self, n_features_in, embedding_dim, width=64):
        super().__init__()
        n_steps = n_features_in // 2
        self.convolutions = nn.Sequential(
            nn.Conv1d(4, width, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv1d(width, width, 5, stride=2, padding=2),
            nn.GELU(),
        )
        self.head = nn.Sequential(
            nn.Linear(width * -(-n_steps // 4), 256),
            nn.GELU(),
            nn.Linear(256, embedding_dim),
        )

    def forward(self, rows):
        """Encode rows that hold x and y of one time after the other."""
        path = rows.unflatten(1, (-1, 2)).mT
        step = torch.diff(path, dim=2, prepend=path[:, :, :1])
        return self.head(self.convolutions(torch.cat([path, 10 * step], 1)).flatten(1))
