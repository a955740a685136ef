"""Entropy estimates against entropies that are known, in three spaces.

    python benchmarks/latent/entropies.py          # three seeds: minutes
    python benchmarks/latent/entropies.py --full   # ten seeds

For each law, dimension and number of samples: the error of every estimate in nats, mean
and standard deviation over seeds. Then what outliers do to neighbours, and the time and
memory of 50,000 points with a gradient. Results are kept as they come.
"""

import itertools
import math
import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from scipy.special import gammaln, logsumexp

sys.path.insert(0, str(Path(__file__).parents[1] / "embedding"))
from _experiment import argument_parser, cell, mean_and_deviation, run

from skgmje.latent import (
    DirichletDensity,
    IsotropicGaussian,
    KernelDensity,
    LogDet,
    NearestNeighbour,
    VonMisesFisher,
)
from skgmje.latent._distribution_matching import OnChart

mpl.use("agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
DIMENSIONS, SIZES = (2, 8, 32), (256, 1024, 4096)
N_CLUSTERS = 5


# ------------------------------------------------------------------------------- laws


def gaussian(n, d, rng):
    """Standard normal."""
    return rng.normal(size=(n, d)), 0.5 * d * math.log(2 * math.pi * math.e)


def clusters(n, d, rng):
    """Five narrow Gaussians whose centres are drawn once for each dimension."""
    centres = np.random.default_rng(d).normal(size=(N_CLUSTERS, d))

    def draw(size, source):
        labels = source.integers(N_CLUSTERS, size=size)
        return centres[labels] + 0.2 * source.normal(size=(size, d))

    many = draw(100_000, np.random.default_rng(0))
    distances = np.stack([((many - c) ** 2).sum(1) for c in centres], axis=1)
    log_density = logsumexp(-distances / (2 * 0.04), axis=1) - math.log(N_CLUSTERS)
    log_density -= 0.5 * d * math.log(2 * math.pi * 0.04)
    return draw(n, rng), -log_density.mean()


def sphere(n, d, rng):
    """Uniform directions in d dimensions."""
    z = rng.normal(size=(n, d))
    area = math.log(2) + 0.5 * d * math.log(math.pi) - gammaln(d / 2)
    return z / np.linalg.norm(z, axis=1, keepdims=True), area


def simplex(n, d, rng):
    """Uniform probabilities of d classes."""
    return rng.dirichlet(np.ones(d), size=n), -gammaln(d)


LAWS = {
    "Gaussian": ("plane", gaussian),
    "five clusters": ("plane", clusters),
    "sphere": ("sphere", sphere),
    "simplex": ("simplex", simplex),
}


# -------------------------------------------------------------------------- estimates


def estimates(space, n, d):
    """Estimates by name; kernels of fixed width, and narrower for more points."""
    kernel = {
        "plane": IsotropicGaussian,
        "sphere": VonMisesFisher,
        "simplex": DirichletDensity,
    }[space]
    # Scott's width, in standard deviations of a coordinate of the law.
    scott = n ** (-1 / (d + 4))
    fixed = {"plane": 1.0, "sphere": 5.0, "simplex": 20.0}[space]
    spread = {"plane": 1.0, "sphere": 1 / d, "simplex": 1 / d}[space]
    found = {
        "log-det": LogDet(),
        "knn": NearestNeighbour(geodesic=space == "sphere"),
        "knn, clipped": NearestNeighbour(geodesic=space == "sphere", clip_quantile=0.9),
    }
    if space == "simplex":
        found = {name: OnChart(estimate) for name, estimate in found.items()}
    return found | {
        "kde, fixed": KernelDensity(kernel(fixed)),
        "kde, Scott": KernelDensity(kernel(1 / (scott**2 * spread))),
    }


def errors(law, d, n, seed):
    """Error of every estimate in nats."""
    space, draw = LAWS[law]
    z, truth = draw(n, d, np.random.default_rng(seed))
    z = torch.from_numpy(z)
    return {
        name: float(estimate.entropy(z)) - float(truth)
        for name, estimate in estimates(space, n, d).items()
    }


def outliers(share, seed):
    """Error of neighbours on a Gaussian of which a share is thrown far away.

    The truth is that of the rest: what an encoder should be judged by.
    """
    rng = np.random.default_rng(seed)
    z, truth = gaussian(1024, 8, rng)
    z[: round(share * 1024)] *= 30
    z = torch.from_numpy(z)
    return {
        "knn": float(NearestNeighbour().entropy(z)) - truth,
        "knn, clipped": float(NearestNeighbour(clip_quantile=0.9).entropy(z)) - truth,
        "log-det": float(LogDet().entropy(z)) - truth,
    }


def large(name, n):
    """Seconds and gigabytes for value and gradient of n points in eight dimensions."""
    z = torch.from_numpy(gaussian(n, 8, np.random.default_rng(0))[0]).requires_grad_()
    estimate = {"kde": KernelDensity(), "knn": NearestNeighbour()}[name]
    before = peak_memory(reset=True)
    start = time.perf_counter()
    estimate.entropy(z).backward()
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "GB more": peak_memory() - before}


def peak_memory(reset=False):
    """Gigabytes that this process has held at most; Linux can forget its peak."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(s.split()[1]) for s in lines if s.startswith("VmHWM")) / 2**20


# ----------------------------------------------------------------------------- report


def table(results):
    names = list(estimates("plane", 100, 2))
    lines = [f"{'law':15s}{'d':>4s}{'n':>6s}" + "".join(f"{n:>17s}" for n in names)]
    for law, d, n in itertools.product(LAWS, DIMENSIONS, SIZES):
        cells = [
            cell(
                *mean_and_deviation(results, lambda t, k=(law, d, n): t[:3] == k, name)
            )
            for name in names
        ]
        lines.append(f"{law:15s}{d:4d}{n:6d}" + "".join(cells))
    return "\n".join(lines)


def picture(results, path):
    names = list(estimates("plane", 100, 2))
    figure, axes = plt.subplots(
        len(LAWS), len(DIMENSIONS), figsize=(9, 9), sharex=True, layout="constrained"
    )
    for (i, law), (j, d) in itertools.product(enumerate(LAWS), enumerate(DIMENSIONS)):
        axis = axes[i, j]
        axis.axhline(0, color="black", linewidth=0.8)
        for colour, name in enumerate(names):
            means = [
                mean_and_deviation(results, lambda t, k=(law, d, n): t[:3] == k, name)[
                    0
                ]
                / d
                for n in SIZES
            ]
            # On the sphere the determinant is that of space: not the same thing.
            if not (law == "sphere" and name == "log-det"):
                axis.plot(SIZES, means, f"C{colour}o-", markersize=4, label=name)
        axis.set(xscale="log", xticks=SIZES, xticklabels=SIZES)
        axis.minorticks_off()
        axis.set_title(f"{law}, {d} coordinates", fontsize=10)
    figure.supxlabel("samples")
    figure.supylabel("error of the entropy for each coordinate, nats")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=5, loc="outside upper center")
    figure.savefig(path, dpi=110)


def main():
    options = argument_parser(__doc__).parse_args()
    seeds = range(options.seeds or (10 if options.full else 3))
    tasks = list(itertools.product(LAWS, DIMENSIONS, SIZES, seeds))
    results = run(errors, tasks, RESULTS / "entropies.json", options.jobs)
    shares = (0.0, 0.02, 0.05, 0.1)
    tasks = list(itertools.product(shares, seeds))
    thrown = run(outliers, tasks, RESULTS / "entropies_outliers.json", options.jobs)
    lines = ["Error of entropy estimates in nats", "", table(results), ""]
    lines += ["Gaussian, d = 8, n = 1024, a share of which is 30 times as far", ""]
    names = ("knn", "knn, clipped", "log-det")
    lines.append(f"{'share':15s}" + "".join(f"{name:>17s}" for name in names))
    for share in shares:
        cells = [
            cell(*mean_and_deviation(thrown, lambda t, s=share: t[0] == s, name))
            for name in names
        ]
        lines.append(f"{share:<15.2f}" + "".join(cells))
    n = 50_000
    tasks = [("knn", n), ("kde", n)]
    big = run(large, tasks, RESULTS / "entropies_large.json", 1)
    lines += ["", f"{n:,} points, d = 8, value and gradient, one thread", ""]
    for (name, _), one in big.items():
        lines.append(f"{name:15s}{one['seconds']:8.1f} s{one['GB more']:8.2f} GB more")
    lines.append(f"{'all pairs once':15s}{'':10s}{n**2 * 8 / 2**30:8.2f} GB")
    text = "\n".join(lines)
    print(text)
    (RESULTS / "entropies.txt").write_text(text + "\n")
    picture(results, RESULTS / "entropies.png")


if __name__ == "__main__":
    main()
