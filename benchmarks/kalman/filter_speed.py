"""Speed of the Kalman filter beside its peers.

256 sequences of 200 steps with 8 states and 8 observations, filtered and smoothed on
one thread: this library, a plain NumPy loop over sequences and steps, pykalman and
statsmodels. Then the covariances alone, by the parallel scan and step by step.

    python benchmarks/kalman/filter_speed.py

The peers are optional: ``pip install pykalman statsmodels``.
"""

import contextlib
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).parents[1] / "mixture"))
from _machine import describe, median_time
from _report import kept

from skgmje.latent import LinearGaussianStateSpace, kalman_filter, kalman_smoother
from skgmje.latent._kalman_gains import _parallel, _sequential

N_SEQUENCES, N_STEPS, DIM = 256, 200, 8
# A slow peer is given this many sequences, and its time is multiplied.
N_SLOW = 8


def random_covariance(rng, n):
    root = rng.normal(size=(n, n))
    return root @ root.T / n + 0.1 * np.eye(n)


def make_space(rng, dim):
    transition = rng.normal(size=(dim, dim))
    transition *= 0.95 / np.abs(np.linalg.eigvals(transition)).max()
    return LinearGaussianStateSpace(
        transition,
        random_covariance(rng, dim),
        rng.normal(size=(dim, dim)),
        random_covariance(rng, dim),
        initial_covariance=random_covariance(rng, dim),
    )


def arrays(space):
    return [value.numpy() for value in space.parameters().values()]


def plain_filter(space, sequence):
    """One sequence, one step at a time, as in a textbook."""
    A, Q, C, R, b, mean, P = arrays(space)
    means, total = [], 0.0
    for z in sequence:
        mean, P = A @ (mean - b) + b, A @ P @ A.T + Q
        S = C @ P @ C.T + R
        gain = np.linalg.solve(S, C @ P).T
        error = z - C @ mean
        total -= 0.5 * (
            error @ np.linalg.solve(S, error)
            + np.linalg.slogdet(S)[1]
            + len(z) * np.log(2 * np.pi)
        )
        mean = mean + gain @ error
        kept = np.eye(len(A)) - gain @ C
        P = kept @ P @ kept.T + gain @ R @ gain.T
        means.append(mean)
    return np.array(means), total


def pykalman_model(space):
    from pykalman import KalmanFilter

    A, Q, C, R, b, m, P = arrays(space)
    first = A @ (m - b) + b, A @ P @ A.T + Q
    return KalmanFilter(A, C, Q, R, b - A @ b, np.zeros(len(C)), *first)


def statsmodels_model(space, sequence):
    from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother

    A, Q, C, R, b, m, P = arrays(space)
    model = KalmanSmoother(len(C), len(A), transition=A, design=C)
    model["selection"] = np.eye(len(A))
    model.bind(np.ascontiguousarray(sequence))
    model["state_cov"], model["obs_cov"] = Q, R
    model["state_intercept"] = b - A @ b
    model.initialize_known(A @ (m - b) + b, A @ P @ A.T + Q)
    return model


def check(space, z):
    """The means of all are the same, or there is nothing to compare."""
    ours = kalman_filter(space, z).mean[0].numpy()
    np.testing.assert_allclose(plain_filter(space, z[0].numpy())[0], ours, atol=1e-8)
    for peer in (
        lambda: pykalman_model(space).filter(z[0].numpy())[0],
        lambda: statsmodels_model(space, z[0].numpy()).filter().filtered_state.T,
    ):
        try:
            np.testing.assert_allclose(peer(), ours, atol=1e-8)
        except ModuleNotFoundError as error:
            print(f"{error.name} is not installed")


def times(space, z):
    """Seconds of filtering and of filtering and smoothing, by name."""
    slow = z[:N_SLOW].numpy()
    factor = len(z) / N_SLOW

    def each(function):
        return lambda: [function(sequence) for sequence in slow]

    def smooth():
        kalman_smoother(space, kalman_filter(space, z))

    yield "skgmje", median_time(lambda: kalman_filter(space, z)), median_time(smooth)
    yield (
        "plain loop",
        factor * median_time(each(lambda x: plain_filter(space, x)), 1),
        np.nan,
    )
    with contextlib.suppress(ModuleNotFoundError):
        model = pykalman_model(space)
        yield (
            "pykalman",
            factor * median_time(each(lambda x: model.filter(x)), 1),
            factor * median_time(each(lambda x: model.smooth(x)), 1),
        )
    with contextlib.suppress(ModuleNotFoundError):
        yield (
            "statsmodels",
            factor * median_time(each(lambda x: statsmodels_model(space, x).filter())),
            factor * median_time(each(lambda x: statsmodels_model(space, x).smooth())),
        )


def table_of_peers():
    rng = np.random.default_rng(0)
    space = make_space(rng, DIM)
    z = space.sample(N_SEQUENCES, N_STEPS, torch.Generator().manual_seed(0))[1]
    check(space, z)
    print(f"\n{N_SEQUENCES} sequences x {N_STEPS} steps x {DIM} states, milliseconds")
    print(f"{'':12}{'filter':>12}{'ratio':>9}{'smoother':>12}{'ratio':>9}")
    ours = None
    for name, filtering, smoothing in times(space, z):
        ours = ours or (filtering, smoothing)
        print(
            f"{name:12}{1e3 * filtering:12.1f}{filtering / ours[0]:8.0f}x"
            f"{1e3 * smoothing:12.1f}{smoothing / ours[1]:8.0f}x",
            flush=True,
        )


def table_of_scans():
    print("\nCovariances alone: milliseconds step by step / in parallel")
    patterns = (0, 1, 8, 64)
    heads = ["no gaps", *(f"{n} patterns" for n in patterns[1:])]
    print(f"{'states':>6}{'steps':>7}" + "".join(f"{head:>20}" for head in heads))
    for dim in (2, 8):
        space = make_space(np.random.default_rng(0), dim)
        for n_steps in (100, 1000, 5000):
            cells = []
            for n_patterns in patterns:
                generator = torch.Generator().manual_seed(0)
                seen = torch.rand(n_steps, n_patterns, generator=generator) > 0.2
                arguments = space, seen, space.observation_covariance
                loop = median_time(lambda a=arguments: _sequential(*a), 1)
                scan = median_time(lambda a=arguments: _parallel(*a), 1)
                cells.append(f"{1e3 * loop:9.1f} /{1e3 * scan:7.1f}")
            print(
                f"{dim:6}{n_steps:7}" + "".join(f"{c:>20}" for c in cells), flush=True
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    with kept("filter_speed.txt"):
        describe()
        table_of_peers()
        table_of_scans()
