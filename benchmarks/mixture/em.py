"""EM and scoring against scikit-learn: the same start, the same number of iterations.

Prints milliseconds an iteration, the ratio, and the share of the machine's matrix
product peak in classical operations, 4 n K d^2 an iteration for full covariances.

    python benchmarks/mixture/em.py [--repeats 5] [--rows A,B]
"""

import argparse
import time
import warnings
from multiprocessing import get_context

import numpy as np
import sklearn.mixture
from _machine import PeakMemory, describe, gemm_peak, median_time

import skgmje

SHAPES = {  # n_samples, n_features, n_components
    "S": (1_000, 4, 3),
    "A": (10_000, 8, 8),
    "B": (100_000, 16, 16),
    "C": (200_000, 32, 32),
    "D": (50_000, 128, 16),
}
ROWS = (
    *((shape, "full", "float64") for shape in "SABCD"),
    *((shape, "full", "float32") for shape in "BCD"),
    *((shape, "diag", "float64") for shape in "BD"),
    *((shape, "tied", "float64") for shape in "BD"),
    ("B", "spherical", "float64"),
)
ITERATIONS = {"S": (5, 105), "A": (3, 33), "B": (2, 14), "C": (2, 5), "D": (2, 6)}


def make_data(n_samples, n_features, n_components, dtype):
    """Overlapping components of different shapes."""
    rng = np.random.default_rng(0)
    means = 2 * rng.normal(size=(n_components, n_features))
    factors = rng.normal(size=(n_components, n_features, n_features))
    factors = factors / np.sqrt(n_features) + 0.5 * np.eye(n_features)
    labels = rng.integers(n_components, size=n_samples)
    X = rng.normal(size=(n_samples, n_features))
    for k in range(n_components):
        X[labels == k] = X[labels == k] @ factors[k].T + means[k]
    return X.astype(dtype)


def make_start(X, n_components, covariance_type):
    """Random points with the variances of the data, as constructor parameters."""
    rng = np.random.default_rng(1)
    variance = X.var(axis=0, dtype=np.float64)
    precisions = {
        "full": np.stack([np.diag(1 / variance)] * n_components),
        "tied": np.diag(1 / variance),
        "diag": np.stack([1 / variance] * n_components),
        "spherical": np.full(n_components, 1 / variance.mean()),
    }[covariance_type]
    start = {
        "weights_init": np.full(n_components, 1 / n_components),
        "means_init": X[rng.choice(len(X), n_components, replace=False)],
        "precisions_init": precisions,
    }
    return {name: value.astype(X.dtype) for name, value in start.items()}


def mixture_of(cls, start, covariance_type, n_iter):
    """A mixture that makes exactly n_iter iterations."""
    return cls(
        len(start["weights_init"]),
        covariance_type=covariance_type,
        tol=0.0,
        max_iter=n_iter,
        init_params="random",
        random_state=0,
        **start,
    )


def time_iteration(cls, X, start, covariance_type, counts):
    """Seconds an iteration: a long fit less a short one."""
    times = []
    for n_iter in counts:
        mixture = mixture_of(cls, start, covariance_type, n_iter)
        begin = time.perf_counter()
        try:
            mixture.fit(X)
        except ValueError:  # ill-defined covariance
            return np.nan, mixture
        times.append(time.perf_counter() - begin)
    return (times[1] - times[0]) / (counts[1] - counts[0]), mixture


def print_iterations(rows, repeats):
    """Compare the time of EM, alternating between the two."""
    peaks = {dtype: gemm_peak(dtype) for dtype in ("float32", "float64")}
    print({dtype: f"peak {peak / 1e9:.0f} GF/s" for dtype, peak in peaks.items()})
    print(
        f"{'row':22s}{'theirs ms':>11s}{'ours ms':>9s}{'ratio':>8s}{'of peak':>9s}"
        f"{'difference of log-likelihoods':>32s}"
    )
    for shape, covariance_type, dtype in rows:
        n_samples, n_features, n_components = SHAPES[shape]
        X = make_data(*SHAPES[shape], dtype)
        start = make_start(X, n_components, covariance_type)
        arguments = (X, start, covariance_type, ITERATIONS[shape])
        seconds, models = [], None
        for _ in range(repeats):
            pair = [time_iteration(cls, *arguments) for cls in CLASSES]
            seconds.append([one for one, _ in pair])
            models = [model for _, model in pair]
        theirs, ours = np.median(seconds, axis=0)
        work = 4 * n_samples * n_components * n_features**2
        share = f"{work / ours / peaks[dtype]:.0%}" if covariance_type == "full" else ""
        bounds = [getattr(model, "lower_bound_", np.nan) for model in models]
        gap = bounds[1] / bounds[0] - 1
        print(
            f"{shape} {covariance_type:10s}{dtype:9s} {1e3 * theirs:11.2f}"
            f"{1e3 * ours:9.2f}{theirs / ours:7.1f}x{share:>9s}{gap:>32.1e}",
            flush=True,
        )


def print_scoring(repeats):
    """Compare `score_samples`, float64, at B."""
    X = make_data(*SHAPES["B"], "float64")
    start = make_start(X, SHAPES["B"][2], "full")
    models = [mixture_of(cls, start, "full", 2).fit(X) for cls in CLASSES]
    theirs, ours = (
        median_time(lambda m=m: m.score_samples(X), repeats) for m in models
    )
    print(
        f"score_samples B: {len(X) / ours / 1e6:.2f} million rows/s, "
        f"{theirs / ours:.1f}x"
    )


def memory_of_fit(cls, shape):
    """What a fit needs beyond the data, in MB."""
    warnings.simplefilter("ignore")
    X = make_data(*SHAPES[shape], "float64")
    start = make_start(X, SHAPES[shape][2], "full")
    mixture_of(cls, start, "full", 1).fit(X[:100])  # loads what it uses
    with PeakMemory() as memory:
        mixture_of(cls, start, "full", 8).fit(X)
    return memory.growth


def print_memory():
    """Compare the memory of a fit, each in a process of its own."""
    for shape in "BC":
        with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            tasks = [(cls, shape) for cls in CLASSES]
            theirs, ours = pool.starmap(memory_of_fit, tasks, chunksize=1)
        print(f"memory of fit {shape}: theirs {theirs:.0f} MB, ours {ours:.0f} MB")


CLASSES = (sklearn.mixture.GaussianMixture, skgmje.GaussianMixture)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", default="S,A,B,C,D")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    describe("scikit-learn")
    shapes = arguments.rows.split(",")
    print_iterations([row for row in ROWS if row[0] in shapes], arguments.repeats)
    print_scoring(arguments.repeats)
    print_memory()


if __name__ == "__main__":
    main()
