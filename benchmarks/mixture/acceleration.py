"""E steps of accelerated EM relative to plain EM, on twenty hard data sets.

    python benchmarks/mixture/acceleration.py

Both start from one k-means start. Plain EM stops where a step gains less than ``tol``.
Printed are the E steps that the accelerated run needs to reach the likelihood at which
plain EM stopped, as a share of plain EM's, then its E steps up to its own stop and what
it ends with beyond plain EM, in nats a sample. "-" means that it never got there: it
went to another maximum.
"""

import argparse
import warnings
from typing import Any

import numpy as np
import torch
from _hard_data import HARD_DATA
from sklearn.exceptions import ConvergenceWarning

from skgmje.mixture import GaussianMixture
from skgmje.mixture._acceleration import Accelerator
from skgmje.mixture._em import MixtureParameters, expectation, maximization

REG_COVAR = 1e-6
TOLERANCES = (1e-3, 1e-6)
MAX_ITER = 3000


def start_of(data: Any, X: np.ndarray) -> MixtureParameters:
    mixture = GaussianMixture(**data.mixture(), max_iter=0, random_state=0).fit(X)
    arrays = (mixture.weights_, mixture.means_, mixture.covariances_)
    return MixtureParameters(*map(torch.from_numpy, arrays))


def plain_bounds(X, covariance_type, parameters, tol):
    """Mean log-likelihoods of plain EM at its E steps."""
    bounds = []
    while len(bounds) < MAX_ITER:
        density = parameters.density(covariance_type)
        statistics = expectation(X, density, covariance_type)
        parameters = maximization(statistics, REG_COVAR)
        bounds.append(statistics.mean_log_likelihood)
        if len(bounds) > 1 and abs(bounds[-1] - bounds[-2]) < tol:
            break
    return bounds


def accelerated_bounds(X, covariance_type, parameters, tol):
    """The same with an accelerator, and how many E steps it threw away."""
    bounds, n_rejected = [], 0
    accelerator = Accelerator(covariance_type, REG_COVAR)
    while len(bounds) < MAX_ITER:
        density = parameters.density(covariance_type)
        statistics = expectation(X, density, covariance_type)
        image = maximization(statistics, REG_COVAR)
        parameters = accelerator.step(parameters, image, statistics.mean_log_likelihood)
        bounds.append(accelerator.bound)
        n_rejected += not accelerator.accepted
        small = len(bounds) > 1 and abs(bounds[-1] - bounds[-2]) < tol
        if small and accelerator.is_settled(tol):
            break
    return bounds, n_rejected


def stop(bounds, tol):
    """Number of E steps up to where plain EM would have stopped."""
    small = np.flatnonzero(np.abs(np.diff(bounds)) < tol)
    return len(bounds) if len(small) == 0 else small[0] + 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip", nargs="*", default=[], help="names of data sets")
    skip = parser.parse_args().skip
    warnings.simplefilter("ignore", ConvergenceWarning)
    print(
        f"{'data':18}" + 2 * f"{'plain':>7}{'share':>7}{'own':>6}{'lost':>5}{'gain':>9}"
    )
    table = []
    for data in HARD_DATA:
        if data.name in skip:
            continue
        X, covariance_type = data.samples(0), data.covariance_type
        start = start_of(data, X)
        plain = plain_bounds(X, covariance_type, start, min(TOLERANCES))
        row = []
        for tol in TOLERANCES:
            n_plain = stop(plain, tol)
            target = plain[n_plain - 1]
            bounds, n_rejected = accelerated_bounds(X, covariance_type, start, tol)
            reached = np.flatnonzero(np.array(bounds) >= target - 1e-9)
            share = (reached[0] + 1) / n_plain if len(reached) else np.inf
            row += [n_plain, share, len(bounds), n_rejected, bounds[-1] - target]
        table.append(row)
        print(f"{data.name:18}" + "".join(cells(row)), flush=True)
    table = np.array(table)
    for name, share, gain in (("tol 1e-3", 1, 4), ("tol 1e-6", 6, 9)):
        levels = (0.0, 0.25, 0.5, 0.75, 1.0)
        shares = np.quantile(table[:, share], levels, method="nearest")
        gains = np.quantile(table[:, gain], levels)
        print(f"{name}: share, quantiles 0 to 1: {np.round(shares, 2)}")
        print(f"{name}: gain,  quantiles 0 to 1: {np.round(gains, 4)}")
        own = np.median(table[:, share + 1] / table[:, share - 1])
        print(f"{name}: E steps up to the own stop, median share: {own:.2f}")


def cells(row):
    for n_plain, share, n_own, n_rejected, gain in np.reshape(row, (2, 5)):
        shown = f"{share:7.2f}" if np.isfinite(share) else f"{'-':>7}"
        yield f"{n_plain:7.0f}{shown}{n_own:6.0f}{n_rejected:5.0f}{gain:9.4f}"


if __name__ == "__main__":
    main()
