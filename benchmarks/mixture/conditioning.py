"""Conditioning many rows at once, beside tgmm, cgmm and gmr.

    python benchmarks/mixture/conditioning.py

Half of 16 features are given for 10,000 rows of a mixture of 16 components; timed is
everything from the rows to the mean, to the log-density of the rest, or to one draw.
Peers that loop over rows get fewer of them. Answers have to agree to 1e-6.
"""

import statistics
import time
import warnings
from importlib.metadata import version

import numpy as np
import sklearn.mixture
import torch
from _machine import describe

from skgmje.mixture import GaussianMixture

N_ROWS, N_FEATURES, N_COMPONENTS = 10_000, 16, 16
LOOP_ROWS, REPEATS, LOOP_REPEATS = 200, 41, 3
GIVEN, REST = list(range(0, N_FEATURES, 2)), list(range(1, N_FEATURES, 2))


def problem(seed=0):
    """A mixture in plain arrays, and rows drawn from it."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(N_COMPONENTS, N_FEATURES, N_FEATURES))
    covariances = root @ root.swapaxes(1, 2) / N_FEATURES + 0.1 * np.eye(N_FEATURES)
    means = 2 * rng.normal(size=(N_COMPONENTS, N_FEATURES))
    weights = rng.dirichlet(np.full(N_COMPONENTS, 3.0))
    parameters = weights, means, covariances
    X = GaussianMixture.from_parameters(*parameters).sample(N_ROWS, random_state=0)[0]
    return parameters, X[:, GIVEN].copy(), X[:, REST].copy()


def ours(parameters, given, rest):
    mixture = GaussianMixture.from_parameters(*parameters)
    rest = torch.from_numpy(rest)
    return {
        "mean": lambda: mixture.condition(GIVEN, given).mean,
        "log-density": lambda: mixture.condition(GIVEN, given).log_prob(rest),
        "sample": lambda: mixture.condition(GIVEN, given).sample(),
    }


def tgmm(parameters, given, rest):
    import tgmm

    mixture = tgmm.GaussianMixture(N_COMPONENTS, N_FEATURES, device="cpu")
    mixture.weights_, mixture.means_, mixture.covariances_ = map(
        torch.from_numpy, parameters
    )
    mixture.dtype, mixture.fitted_ = torch.float64, True
    given, rest = torch.from_numpy(given), torch.from_numpy(rest)
    return {
        "mean": lambda: mixture.condition(given, GIVEN).mean(),
        "log-density": lambda: mixture.condition(given, GIVEN).log_prob(rest),
        "sample": lambda: mixture.condition(given, GIVEN).sample(),
    }


def cgmm(parameters, given, rest):
    from cgmm.conditioner import MixtureConditioner

    mixture = sklearn.mixture.GaussianMixture(N_COMPONENTS)
    mixture.weights_, mixture.means_, mixture.covariances_ = parameters
    mixture.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(parameters[2]))
    conditioner = MixtureConditioner(mixture, GIVEN, reg_covar=0.0).precompute()

    def each(function):
        rows = zip(conditioner.condition(given), rest, strict=True)
        return np.array([function(row, value) for row, value in rows])

    return {
        "mean": lambda: each(lambda row, value: row.weights_ @ row.means_),
        "log-density": lambda: each(lambda row, value: row.logpdf(value)[0]),
        "sample": lambda: each(lambda row, value: row.rvs(1)[0]),
    }


def gmr(parameters, given, rest):
    from gmr import GMM

    mixture = GMM(N_COMPONENTS, *parameters, random_state=np.random.RandomState(0))

    def each(function):
        rows = [mixture.condition(GIVEN, row) for row in given]
        return np.array([function(*row) for row in zip(rows, rest, strict=True)])

    return {
        "mean": lambda: mixture.predict(GIVEN, given),
        "log-density": lambda: each(
            lambda row, value: np.log(row.to_probability_density(value[None])[0])
        ),
        "sample": lambda: each(lambda row, value: row.sample(1)[0]),
    }


def seconds_a_row(function, n_rows, repeats):
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times) / n_rows


def main():
    warnings.simplefilter("ignore")
    parameters, given, rest = problem()
    answers = ours(parameters, given, rest)
    times = {
        name: seconds_a_row(function, N_ROWS, REPEATS)
        for name, function in answers.items()
    }
    describe()
    print(f"{'microseconds a row':22}", *[f"{name:>14}" for name in times])
    print(f"{'skgmje':22}", *[f"{1e6 * value:14.2f}" for value in times.values()])
    for peer, n_rows, repeats in (
        (tgmm, N_ROWS, REPEATS),
        (cgmm, LOOP_ROWS, LOOP_REPEATS),
        (gmr, LOOP_ROWS, LOOP_REPEATS),
    ):
        title = peer.__name__
        try:
            title = f"{title} {version(title)}"
            theirs = peer(parameters, given[:n_rows], rest[:n_rows])
        except ImportError:
            print(f"{title:22} is not installed")
            continue
        for name in ("mean", "log-density"):
            expected = np.asarray(answers[name]())[:n_rows]
            np.testing.assert_allclose(theirs[name](), expected, rtol=1e-6, atol=1e-6)
        their_times = {
            name: seconds_a_row(theirs[name], n_rows, repeats) for name in times
        }
        ratios = [their_times[name] / times[name] for name in times]
        print(
            f"{title:22}", *[f"{1e6 * value:14.2f}" for value in their_times.values()]
        )
        print(f"{'  times as long':22}", *[f"{ratio:14.1f}" for ratio in ratios])


if __name__ == "__main__":
    main()
