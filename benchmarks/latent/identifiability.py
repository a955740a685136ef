"""Source recovery: are learned latents an affine map of the true ones?

    python benchmarks/latent/identifiability.py          # one seed: minutes
    python benchmarks/latent/identifiability.py --full   # three seeds

Figure A7 of Mikulasch and Zenke (arXiv:2605.03517). Latents are z ~ N(0, I) with N
coordinates and, one step later, z' ~ N(R z + 0.1 tanh(R z), 0.1 I) with a random
rotation R. Both are seen through one invertible network into 100 dimensions. Theorem 1
says that an encoder with a Gaussian about a predictor recovers z up to an affine map.
R2 is that of a linear regression of the true latents on the recovered ones, on rows
that were not fitted. "2N" has twice as many coordinates as there are latents. The
theorem speaks of the optimum, and a fit may end at a fold: of three starts the one with
the least loss is judged. The plug-in's loss is not a likelihood, and has one start. The
paper has 100,000 samples; here there are 5,000.
"""

import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from scipy.stats import ortho_group, special_ortho_group
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

sys.path.insert(0, str(Path(__file__).parents[1] / "embedding"))
from _experiment import argument_parser, cell, mean_and_deviation, run

from skgmje import LDMEmbedder

mpl.use("agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
N_SAMPLES, N_TEST, WIDTH, EPOCHS, STARTS = 5_000, 2_000, 100, 40, 3
SIZES = (2, 4, 6, 8, 10)
PREDICTIVE = {"prior": "empirical", "predictor_hidden_layer_sizes": (64,)}
METHODS = {
    "PCA": None,
    "log-det": {"entropy": "log_det", **PREDICTIVE},
    "kNN": {"entropy": "knn", **PREDICTIVE},
    "plug-in": {
        "entropy": "plug_in",
        "objective": "ldm",
        "activation": "tanh",
        **PREDICTIVE,
    },
    "kNN, 2N": {"entropy": "knn", **PREDICTIVE},
}


def pairs(n_latents, n_samples, seed):
    """Observations of both steps, and the latents of the first."""
    rng = np.random.default_rng(seed)
    rotation = special_ortho_group.rvs(n_latents, random_state=rng)
    z = rng.normal(size=(n_samples, n_latents))
    turned = z @ rotation.T
    following = turned + 0.1 * np.tanh(turned)
    following = following + np.sqrt(0.1) * rng.normal(size=z.shape)
    # Orthogonal columns and leaky units: each layer has an inverse on its image.
    layers = [ortho_group.rvs(n_latents, random_state=rng) for _ in range(2)]
    last = ortho_group.rvs(WIDTH, random_state=rng)[:, :n_latents]

    def observe(latents):
        for layer in (*layers, last):
            latents = latents @ layer.T
            latents = np.where(latents > 0, latents, 0.2 * latents)
        return latents

    return observe(z), observe(following), z


def recovered(X, X_next, n_latents, method, seed, epochs=EPOCHS):
    """Return a fitted transformer of observations."""
    if METHODS[method] is None:
        return PCA(n_latents).fit(X)
    return LDMEmbedder(
        2 * n_latents if method.endswith("2N") else n_latents,
        target_encoder="shared",
        hidden_layer_sizes=(128, 128, 128),
        learning_rate_init=2e-3,
        max_iter=epochs,
        random_state=seed,
        **METHODS[method],
    ).fit(X, X_next)


def best_start(X, X_next, n_latents, method, seed):
    """Return the fit with the least loss."""
    n_starts = 1 if method in ("PCA", "plug-in") else STARTS
    seeds = range(STARTS * seed, STARTS * seed + n_starts)
    models = [recovered(X, X_next, n_latents, method, s) for s in seeds]
    return min(models, key=lambda model: getattr(model, "loss_curve_", [0.0])[-1])


def recovery(method, n_latents, seed):
    X, X_next, z = pairs(n_latents, N_SAMPLES + N_TEST, seed)
    start = time.perf_counter()
    model = best_start(X[N_TEST:], X_next[N_TEST:], n_latents, method, seed)
    seconds = time.perf_counter() - start
    Z = model.transform(X)
    line = LinearRegression().fit(Z[N_TEST:], z[N_TEST:])
    return {"R2": float(line.score(Z[:N_TEST], z[:N_TEST])), "seconds": seconds}


def main():
    options = argument_parser(__doc__).parse_args()
    seeds = range(options.seeds or (3 if options.full else 1))
    methods = options.methods or list(METHODS)
    tasks = [(m, n, seed) for n in SIZES for m in methods for seed in seeds]
    results = run(recovery, tasks, RESULTS / "identifiability.json", options.jobs)
    lines = [
        "R2 of a linear regression of true latents on recovered ones, "
        f"{N_SAMPLES:,} pairs, {EPOCHS} epochs",
        "",
        f"{'N':14s}" + "".join(f"{n:>17d}" for n in SIZES) + "  seconds",
    ]
    figure, axis = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    for method in methods:
        found = [
            mean_and_deviation(results, lambda t, k=(method, n): t[:2] == k, "R2")
            for n in SIZES
        ]
        seconds, _ = mean_and_deviation(
            results, lambda t, k=method: t[0] == k, "seconds"
        )
        cells = "".join(cell(*one) for one in found)
        lines.append(f"{method:14s}{cells}{seconds:9.0f}")
        style = "--" if method == "PCA" else "-"
        axis.plot(SIZES, [mean for mean, _ in found], style, marker="o", label=method)
    axis.set(
        xlabel="number of latents N", ylabel="R2 of the true latents", xticks=SIZES
    )
    figure.legend(loc="outside right upper")
    figure.savefig(RESULTS / "identifiability.png", dpi=110)
    text = "\n".join(lines)
    print(text)
    (RESULTS / "identifiability.txt").write_text(text + "\n")


if __name__ == "__main__":
    main()
