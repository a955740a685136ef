"""Fits from "short_runs" against ten restarts, on twenty hard data sets.

    python benchmarks/mixture/starts.py

For each data set are printed, as means over seeds: the final mean log-likelihood from
"short_runs" minus that of the best of ten k-means starts, and minus that of the best of
forty starts (ten of each kind of scikit-learn's), in nats a sample; then its cost as a
share of that of the ten k-means starts, counted in rows times EM iterations (k-means
itself is free there) and in time.
"""

import argparse
import time
import warnings
from unittest import mock

import numpy as np
import torch
from _hard_data import HARD_DATA
from sklearn.exceptions import ConvergenceWarning

from skgmje.mixture import GaussianMixture, _splits, _starts

RESTARTS = ("kmeans", "k-means++", "random_from_data", "random")
MAX_ITER = 300


def fit(data, X, init_params, random_state):
    """Return the score, rows times iterations, and seconds of one fit."""
    mixture = GaussianMixture(
        **data.mixture(),
        init_params=init_params,
        random_state=random_state,
        max_iter=MAX_ITER,
    )
    begin = time.perf_counter()
    try:
        mixture.fit(X)
    except ValueError:  # a singular start
        return -np.inf, 0.0, time.perf_counter() - begin
    seconds = time.perf_counter() - begin
    return mixture.score(X), mixture.n_iter_ * len(X), seconds


def best_of_ten(data, X, init_params, seed):
    random_state = np.random.RandomState(1000 + seed)
    runs = np.array([fit(data, X, init_params, random_state) for _ in range(10)])
    return runs[:, 0].max(), runs[:, 1].sum(), runs[:, 2].sum()


def short_runs(data, X, seed):
    """Fit from "short_runs"; the rows of its search count too."""
    rows = 0.0
    pair_step, expectation = _splits.pair_step, _starts.expectation

    def counted_pair_step(columns, *args):
        nonlocal rows
        rows += 2 * columns.shape[0] * columns.shape[2] / data.n_components
        return pair_step(columns, *args)

    def counted_expectation(X, *args):
        nonlocal rows
        rows += len(X)
        return expectation(X, *args)

    with (
        mock.patch.object(_splits, "pair_step", counted_pair_step),
        mock.patch.object(_starts, "expectation", counted_expectation),
    ):
        score, fit_rows, seconds = fit(data, X, "short_runs", seed)
    return score, rows + fit_rows, seconds


def compare(data, seed):
    X = data.samples(seed)
    score, rows, seconds = short_runs(data, X, seed)
    restarts = [best_of_ten(data, X, kind, seed) for kind in RESTARTS]
    best, all_rows, all_seconds = restarts[0]
    best_of_all = max(restart[0] for restart in restarts)
    return score - best, score - best_of_all, rows / all_rows, seconds / all_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--skip", nargs="*", default=[], help="names of data sets")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(1)
    header = ("k-means x 10", "best of 40", "rows", "time")
    print(f"{'data':18}" + "".join(f"{name:>14}" for name in header))
    table = []
    for data in HARD_DATA:
        if data.name in arguments.skip:
            continue
        runs = [compare(data, seed) for seed in range(arguments.seeds)]
        table.append(np.mean(runs, axis=0))
        numbers = "".join(f"{x:14.4f}" for x in table[-1][:2])
        numbers += "".join(f"{x:14.3f}" for x in table[-1][2:])
        print(f"{data.name:18}{numbers}", flush=True)
    for name, column in zip(header, np.transpose(table), strict=True):
        levels = np.round([column.min(), np.median(column), column.max()], 4)
        print(f"{name}: mean {column.mean():.4f}; least, median, most {levels}")


if __name__ == "__main__":
    main()
