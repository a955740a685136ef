"""Fit ten million rows from a file in little memory.

Writes 10 million x 16 float32 numbers (640 MB) to a temporary file, maps it, and prints
the time of an EM iteration and the memory that the fit needs beyond the mapped file.

    python benchmarks/mixture/streaming.py [--rows 10000000]
"""

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from _machine import PeakMemory, describe

from skgmje import GaussianMixture

N_FEATURES, N_COMPONENTS, CHUNK = 16, 8, 100_000


def write(path, n_samples):
    """Write clusters to a file, chunk by chunk."""
    rng = np.random.default_rng(0)
    means = 4 * rng.normal(size=(N_COMPONENTS, N_FEATURES))
    X = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(n_samples, N_FEATURES)
    )
    for start in range(0, n_samples, CHUNK):
        labels = rng.integers(N_COMPONENTS, size=min(CHUNK, n_samples - start))
        noise = rng.normal(size=(len(labels), N_FEATURES))
        X[start : start + len(labels)] = means[labels] + noise
    X.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    n_samples = parser.parse_args().rows
    warnings.simplefilter("ignore")
    describe("scikit-learn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.npy"
        write(path, n_samples)
        for n in (n_samples // 10, n_samples):
            X = np.load(path, mmap_mode="r")[:n]
            mixture = GaussianMixture(
                N_COMPONENTS, init_params="k-means++", max_iter=5, random_state=0
            )
            start = time.perf_counter()
            with PeakMemory() as memory:
                mixture.fit(X)
            seconds = (time.perf_counter() - start) / mixture.n_iter_
            print(
                f"{n:>12,d} rows: {seconds:6.2f} s an iteration, "
                f"{memory.growth:5.0f} MB beyond the file",
                flush=True,
            )


if __name__ == "__main__":
    main()
