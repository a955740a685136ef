"""One EM iteration with missing values, beside tgmm, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/mixture/missing.py

Values are missing completely at random, so that nearly every row has a pattern of its
own in the first problem, and a pattern some 25 rows in the second. The peer's
iteration is the difference between fits of three and of one iteration.
"""

import statistics
import time
import warnings
from importlib.metadata import version

import numpy as np
import torch

from skgmje.mixture._missing import expectation_with_missing
from skgmje.mixture._statistics import MixtureParameters, maximization

# Rows, columns, share missing.
PROBLEMS = [(3000, 20, 0.3), (5000, 8, 0.2)]
N_COMPONENTS, REG_COVAR, REPEATS = 3, 1e-6, 5


def problem(n_samples, n_features, share, seed=0):
    """Correlated rows with holes, and a start."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features))
    X = X @ rng.normal(size=(n_features, n_features)) / n_features**0.5
    X[rng.random(X.shape) < share] = np.nan
    start = MixtureParameters(
        torch.full((N_COMPONENTS,), 1 / N_COMPONENTS, dtype=torch.float64),
        torch.from_numpy(rng.normal(size=(N_COMPONENTS, n_features))),
        torch.eye(n_features, dtype=torch.float64).repeat(N_COMPONENTS, 1, 1),
    )
    return X, start


def iterate(X, parameters, n_iterations):
    for _ in range(n_iterations):
        density = parameters.density("full")
        moments = expectation_with_missing(X, density, "full")
        parameters = maximization(moments, REG_COVAR)
    return parameters.means


def iterate_tgmm(X, parameters, n_iterations):
    import tgmm

    mixture = tgmm.GaussianMixture(
        N_COMPONENTS,
        missing="em",
        init_weights=parameters.weights,
        init_means=parameters.means,
        init_covariances=parameters.covariances,
        reg_covar=REG_COVAR,
        max_iter=n_iterations,
        tol=1e-300,
        device="cpu",
    )
    return mixture.fit(torch.from_numpy(X)).means_


def seconds(function, *arguments):
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def seconds_per_iteration(fit, X, start):
    """Median over repeats of half of what two more iterations take."""
    fit(X, start, 1)
    differences = [
        seconds(fit, X, start, 3) - seconds(fit, X, start, 1) for _ in range(REPEATS)
    ]
    return statistics.median(differences) / 2


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    blas = "MKL" if torch.backends.mkl.is_available() else "no MKL"
    print(f"torch {torch.__version__} ({blas}), tgmm {version('tgmm')}, one thread")
    print(f"{'rows':>6}{'columns':>9}{'missing':>9}{'patterns':>10}", end="")
    print(f"{'skgmje ms':>11}{'tgmm ms':>10}{'ratio':>7}{'difference':>12}")
    for n_samples, n_features, share in PROBLEMS:
        X, start = problem(n_samples, n_features, share)
        n_patterns = len(np.unique(np.isnan(X), axis=0))
        ours, theirs = (
            1e3 * seconds_per_iteration(fit, X, start)
            for fit in (iterate, iterate_tgmm)
        )
        difference = (iterate(X, start, 3) - iterate_tgmm(X, start, 3)).abs().max()
        print(f"{n_samples:6}{n_features:9}{share:9.0%}{n_patterns:10}", end="")
        print(f"{ours:11.1f}{theirs:10.0f}{theirs / ours:7.0f}{difference:12.0e}")


if __name__ == "__main__":
    main()
