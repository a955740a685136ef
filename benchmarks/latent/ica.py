"""Linear ICA: distances to the true mixing beside FastICA, two images, two processes.

    python benchmarks/latent/ica.py          # a minute
    python benchmarks/latent/ica.py --full   # a hundred mixtures

The second and third parts are the experiments of Mikulasch and Zenke
(arXiv:2605.03517): two photographs mixed by [[1, .7], [.7, 1]], and two
Ornstein-Uhlenbeck processes turned by 45 degrees. The photographs are the two of
scikit-learn, not the paper's.
"""

import sys
import time
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
from sklearn.datasets import load_sample_image
from sklearn.decomposition import FastICA

sys.path.insert(0, str(Path(__file__).parents[1] / "embedding"))
from _experiment import argument_parser, cell, mean_and_deviation, run

from skgmje import LDMICA

mpl.use("agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
DRAWS = [
    lambda rng, n: rng.laplace(size=n),
    lambda rng, n: rng.uniform(size=n),
    lambda rng, n: rng.standard_t(5, size=n),
    lambda rng, n: rng.choice([-1, 1], n) + 0.4 * rng.normal(size=n),
    lambda rng, n: rng.exponential(size=n),
]
METHODS = {
    "LDMICA": lambda seed: LDMICA(random_state=seed),
    "LDMICA, logcosh": lambda seed: LDMICA(density="logcosh", random_state=seed),
    "LDMICA, orthogonal": lambda seed: LDMICA(orthogonal=True, random_state=seed),
    "FastICA, logcosh": lambda seed: FastICA(random_state=seed, max_iter=1000),
    "FastICA, cube": lambda seed: FastICA(fun="cube", random_state=seed, max_iter=1000),
}
MIXING = np.array([[1.0, 0.7], [0.7, 1.0]])
DECAY_RATES, NOISE, STEP, N_STEPS = np.array([2.0, 0.2]), 0.3, 0.1, 50_000


def amari_distance(product):
    """Zero if a matrix is a scaled permutation, at most one."""
    size = np.abs(product)
    rows = (size / size.max(axis=1, keepdims=True)).sum()
    columns = (size / size.max(axis=0, keepdims=True)).sum()
    n = len(size)
    return float((rows + columns - 2 * n) / (2 * n * (n - 1)))


def mixture(method, n_sources, seed):
    """Unmix 2,000 samples of sources with heavy and light tails."""
    rng = np.random.default_rng(seed)
    S = np.stack([DRAWS[i % 5](rng, 2000) for i in range(n_sources)], axis=1)
    mixing = rng.normal(size=(n_sources, n_sources))
    start = time.perf_counter()
    ica = METHODS[method](seed).fit(S @ mixing.T)
    seconds = time.perf_counter() - start
    return {
        "distance": amari_distance(ica.components_ @ mixing),
        "milliseconds": 1000 * seconds,
    }


# ----------------------------------------------------------------------------- images


def photographs():
    """Two colour images of 200 x 200 pixels, standardised, one a column."""
    images = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    pixels = [image[:400:2, 100:500:2].reshape(-1) / 255.0 for image in images]
    S = np.stack(pixels, axis=1)
    return (S - S.mean(0)) / S.std(0)


def unmix_photographs():
    S = photographs()
    found = {}
    for name, ica in {
        "FastICA": FastICA(random_state=0, max_iter=1000),
        "LDMICA": LDMICA(random_state=0),
        "LDMICA, exponent4": LDMICA(density="exponent4", random_state=0),
    }.items():
        ica.fit(S @ MIXING.T)
        found[name] = ica.components_ @ MIXING, ica.transform(S @ MIXING.T)
    return S, found


# -------------------------------------------------------------------------- processes


class OrnsteinUhlenbeck:
    """Log-density of processes of known decay and variance, along the rows."""

    def __init__(self, variance):
        self.decay, self.variance = np.exp(-DECAY_RATES * STEP), np.asarray(variance)

    def draw(self, rng):
        noise = rng.normal(size=(N_STEPS, 2)) * np.sqrt(self.variance)
        S = noise.copy()
        for t in range(1, N_STEPS):
            S[t] = self.decay * S[t - 1] + np.sqrt(1 - self.decay**2) * noise[t]
        return S

    def __call__(self, S):
        variance = self.variance * (1 - self.decay**2)
        error = S[1:] - self.decay * S[:-1]
        log_density = -0.5 * (S**2 / self.variance + np.log(2 * np.pi * self.variance))
        log_density[1:] = -0.5 * (error**2 / variance + np.log(2 * np.pi * variance))
        slope = np.zeros_like(S)
        slope[0] = -S[0] / self.variance
        slope[1:] -= error / variance
        slope[:-1] += self.decay * error / variance
        return log_density, slope


class Marginal(OrnsteinUhlenbeck):
    """The same, blind to the order of the rows."""

    def __call__(self, S):
        log_density = -0.5 * (S**2 / self.variance + np.log(2 * np.pi * self.variance))
        return log_density, -S / self.variance


def turn(degrees):
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def unmix_processes(variance):
    """Distances of three methods, and the signals of the first."""
    density = OrnsteinUhlenbeck(variance)
    S = density.draw(np.random.default_rng(0))
    X = S @ turn(45).T
    keeps_volume = {"whiten": False, "orthogonal": True}
    methods = {
        "transition density": LDMICA(density=density, **keeps_volume),
        "marginal density": LDMICA(density=Marginal(variance), **keeps_volume),
        "FastICA": FastICA(random_state=0, max_iter=1000),
    }
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, ica in methods.items():
            found[name] = amari_distance(ica.fit(X).components_ @ turn(45))
    return S, X, methods["transition density"].transform(X), found


# ----------------------------------------------------------------------------- report


def as_image(column, like):
    """Scale a signal to a picture, with the sign of what it is most like."""
    sign = np.sign(np.corrcoef(column, like)[0, 1])
    low, high = np.quantile(sign * column, [0.01, 0.99])
    return np.clip((sign * column - low) / (high - low), 0, 1).reshape(200, 200, 3)


def in_order(recovered, S):
    """Columns of recovered signals in the order of the sources."""
    size = np.abs(np.corrcoef(recovered, S, rowvar=False)[:2, 2:])
    return recovered[:, [0, 1] if np.trace(size) > 0.5 * size.sum() else [1, 0]]


def picture(results, sizes, images, processes, path):
    S, found = images
    figure = plt.figure(figsize=(11, 8.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.25, 1])
    axes = top.subplots(2, 4)
    columns = {
        "sources": S,
        "mixtures": S @ MIXING.T,
        "FastICA": in_order(found["FastICA"][1], S),
        "LDMICA": in_order(found["LDMICA"][1], S),
    }
    for (name, signals), pair in zip(columns.items(), axes.T, strict=True):
        for i, axis in enumerate(pair):
            axis.imshow(as_image(signals[:, i], S[:, i]))
            axis.set_axis_off()
        distance = amari_distance(found[name][0]) if name in found else None
        text = "" if distance is None else f", distance {distance:.3f}"
        pair[0].set_title(name + text, fontsize=10)
    left, right = bottom.subfigures(1, 2, width_ratios=[1, 1.1])
    axis = left.subplots()
    ours, theirs = (
        {t[1:]: r["distance"] for t, r in results.items() if t[0] == name}
        for name in ("LDMICA", "FastICA, logcosh")
    )
    for n_sources in sizes:
        tasks = [task for task in ours if task[0] == n_sources]
        axis.scatter(
            [theirs[t] for t in tasks],
            [ours[t] for t in tasks],
            s=18,
            label=f"{n_sources} sources",
        )
    axis.axline((0.01, 0.01), slope=1, color="black", linewidth=0.8)
    axis.set(xlabel="Amari distance of FastICA", ylabel="of LDMICA")
    axis.set(xscale="log", yscale="log")
    ticks = [0.003, 0.01, 0.03, 0.1]
    axis.set_xticks(ticks, ticks)
    axis.set_yticks(ticks, ticks)
    axis.minorticks_off()
    axis.legend()
    sources, mixed, recovered, _ = processes
    recovered = in_order(recovered, sources)
    recovered = recovered * np.sign((recovered * sources).sum(0))
    axes = right.subplots(3, 1, sharex=True)
    window = slice(1000, 1400)
    for axis, (name, signals) in zip(
        axes,
        {"processes": sources, "turned by 45°": mixed, "LDMICA": recovered}.items(),
        strict=True,
    ):
        axis.plot(STEP * np.arange(400), signals[window], linewidth=1)
        axis.set_title(name, fontsize=10)
    axes[-1].set_xlabel("time")
    figure.savefig(path, dpi=110)


def main():
    options = argument_parser(__doc__).parse_args()
    seeds = range(options.seeds or (100 if options.full else 20))
    sizes = (2, 5, 10)
    tasks = [(m, n, seed) for m in METHODS for n in sizes for seed in seeds]
    results = run(mixture, tasks, RESULTS / "ica.json", options.jobs)
    lines = ["Amari distance to the true mixing, 2,000 samples", ""]
    lines.append(f"{'':20s}" + "".join(f"{n:>10d} sources" for n in sizes) + "   ms")
    for name in METHODS:
        cells = [
            cell(
                *mean_and_deviation(
                    results, lambda t, k=(name, n): t[:2] == k, "distance"
                ),
                18,
            )
            for n in sizes
        ]
        duration, _ = mean_and_deviation(
            results, lambda t, k=name: t[:2] == (k, 10), "milliseconds"
        )
        lines.append(f"{name:20s}" + "".join(cells) + f"{duration:7.0f}")
    wins = [
        results["LDMICA", n, s]["distance"]
        < results["FastICA, logcosh", n, s]["distance"]
        for n in sizes
        for s in seeds
    ]
    lines.append(f"LDMICA is nearer than FastICA, logcosh, in {np.mean(wins):.0%}")
    images = unmix_photographs()
    lines += ["", "Two photographs, 120,000 values, mixed by [[1, .7], [.7, 1]]", ""]
    correlation = np.corrcoef(images[0], rowvar=False)[0, 1]
    lines.append(f"correlation of the sources {correlation:.3f}")
    for name, (product, _) in images[1].items():
        lines.append(f"{name:20s}{amari_distance(product):8.3f}")
    lines += ["", "Two Ornstein-Uhlenbeck processes, turned by 45 degrees", ""]
    own = NOISE**2 / (2 * DECAY_RATES)
    processes = unmix_processes(own)
    equal = unmix_processes(np.ones(2))
    lines.append(f"{'':20s}{'own variances':>15s}{'equal variances':>17s}")
    for name in processes[3]:
        lines.append(f"{name:20s}{processes[3][name]:15.3f}{equal[3][name]:17.3f}")
    text = "\n".join(lines)
    print(text)
    (RESULTS / "ica.txt").write_text(text + "\n")
    picture(results, sizes, images, processes, RESULTS / "ica.png")


if __name__ == "__main__":
    main()
