"""Which flow moved this tracer? Retrieval of flows by paths, and the reverse.

    python benchmarks/contrastive/lagrangian.py          # one seed
    python benchmarks/contrastive/lagrangian.py --full   # three seeds

A random flow on the torus has a stream function of 12 waves, which travel; a tracer
starts at (.75, .75) and is seen at 60 times (scipy's DOP853, all flows at once). The
context is the path, encoded by convolutions over time, a module of the user's; the
target is the flow, 24 coefficients, which are kept as they are or encoded, too. 4,000
pairs are fitted. Among 1,000 other flows and their paths the table prints

R@k     share of paths whose own flow is among the k that are retrieved, and the reverse
score   mutual information, of at most log 1000 = 6.91 nats
rmse    of the mean of 100,000 further flows by their weights, relative to the stream
        function; without a path it is one. Flows are cheap to draw, and need no path
        to be stored

The example follows section 6.3 of Baptista, Stuart and Tran (2025), where the flow has
49 waves, the encoder is a transformer and 32,268 pairs are fitted. Table and picture
are saved to `results`.
"""

import sys
import time
from pathlib import Path

import numpy as np
from _flows import START, PathEncoder, draw_flows, stream_function, trace

from skgmje import ContrastiveEmbedder

sys.path.append(str(Path(__file__).parents[1] / "embedding"))
from _experiment import argument_parser, run

RESULTS = Path(__file__).parent / "results"
N_TRAIN, N_TEST, N_STORED = 4000, 1000, 100_000
STORED_SEED = 2**20
METHODS = {
    "coefficients, cosine": {"target_encoder": "identity", "temperature": "learned"},
    "coefficients, inner": {
        "target_encoder": "identity",
        "tilting": "inner",
        "temperature": 1.0,
    },
    "linear, quadratic": {"target_encoder": "linear", "tilting": "quadratic"},
    "mlp, cosine": {"target_encoder": "mlp", "temperature": "learned"},
    "mlp, quadratic": {"target_encoder": "mlp", "tilting": "quadratic"},
}
BEST = "mlp, quadratic"


def make_pairs(seed):
    """Paths and flows, for training and for testing."""
    flows = draw_flows(N_TRAIN + N_TEST, seed)
    paths = trace(flows).reshape(len(flows), -1)
    return (paths[:N_TRAIN], flows[:N_TRAIN]), (paths[N_TRAIN:], flows[N_TRAIN:])


def fit(name, seed, train):
    return ContrastiveEmbedder(
        24,
        encoder=PathEncoder,
        learning_rate_init=2e-3,
        max_iter=40,
        early_stopping=True,
        random_state=seed,
        **METHODS[name],
    ).fit(*train)


def recalls(rows):
    """Share of rows whose own number is among the first k."""
    hits = rows == np.arange(len(rows))[:, None]
    return [float(hits[:, :k].any(axis=1).mean()) for k in (1, 5, 10)]


def one_run(name, seed):
    train, (paths, flows) = make_pairs(seed)
    start = time.perf_counter()
    model = fit(name, seed, train)
    seconds = time.perf_counter() - start
    found = model.retrieve(paths, flows, 10, return_distance=False)
    back = model.retrieve_context(flows, paths, 10, return_distance=False)
    stored = draw_flows(N_STORED, STORED_SEED)
    mean = model.index_targets(stored).moments(paths, stored)
    # Waves are orthogonal, so that this is an error of the stream function.
    error = np.sum((mean - flows) ** 2) / np.sum(flows**2)
    result = {
        f"{way} R@{k}": recall
        for way, rows in (("path", found), ("flow", back))
        for k, recall in zip((1, 5, 10), recalls(rows), strict=True)
    }
    return result | {
        "score": model.score(paths, flows),
        "rmse": float(np.sqrt(error)),
        "seconds": seconds,
    }


def table(results):
    keys = [f"{way} R@{k}" for way in ("path", "flow") for k in (1, 5, 10)]
    keys += ["score", "rmse", "seconds"]
    lines = [
        f"{'':<22}{'path to flow: R@':>21}{'flow to path: R@':>24}",
        f"{'flow encoder, tilting':<22}"
        + "".join(f"{k:>8}" for k in ("1", "5", "10", "1", "5", "10"))
        + f"{'score':>8}{'rmse':>8}{'seconds':>9}",
    ]
    for name in METHODS:
        runs = [result for task, result in results.items() if task[0] == name]
        if not runs:
            continue
        means = [np.mean([result[key] for result in runs]) for key in keys]
        cells = "".join(f"{value:>8.3f}" for value in means[:-1])
        lines.append(f"{name:<22}{cells}{means[-1]:>9.0f}")
    lines.append(f"{'chance':<22}" + "".join(f"{k / N_TEST:>8.3f}" for k in (1, 5, 10)))
    return "\n".join(lines)


def picture(path):
    """Draw true flows, retrieved ones, and mean and deviation of the stored ones."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    train, (paths, flows) = make_pairs(0)
    model = fit(BEST, 0, train)
    # The truth is not among the stored flows.
    stored = draw_flows(N_STORED, STORED_SEED)
    index = model.index_targets(stored)
    shown = np.argsort(
        np.abs(np.diff(paths.reshape(N_TEST, -1, 2), axis=1)).sum((1, 2))
    )
    shown = shown[[N_TEST // 2, 3 * N_TEST // 4, 19 * N_TEST // 20]]
    nearest = index.kneighbors(paths[shown], 2, return_distance=False)
    draws = index.sample(paths[shown], 200, random_state=0)
    side = np.linspace(0, 1, 60)
    grid = np.stack(np.meshgrid(side, side), axis=-1)[..., None, :]
    figure, axes = plt.subplots(3, 5, figsize=(10.5, 6.5), layout="constrained")
    titles = "true flow", "best match", "second", "mean of the model", "deviation"
    for row, axis_row in zip(range(3), axes, strict=True):
        drawn = stream_function(
            stored[draws[row]][:, None, None], grid[None, ..., 0, :]
        )
        truth = stream_function(flows[shown[row]], grid[..., 0, :])
        matches = [stream_function(stored[n], grid[..., 0, :]) for n in nearest[row]]
        panels = [truth, *matches, drawn.mean(0), drawn.std(0)]
        limit = np.abs(truth).max()
        walk = np.vstack([[START, START], paths[shown[row]].reshape(-1, 2)]) % 1.0
        for axis, panel, title in zip(axis_row, panels, titles, strict=True):
            deviation = title == "deviation"
            image = axis.pcolormesh(
                side,
                side,
                panel,
                cmap="viridis" if deviation else "RdBu_r",
                vmin=0 if deviation else -limit,
                vmax=limit / 2 if deviation else limit,
                rasterized=True,
            )
            axis.plot(*walk.T, "k.", markersize=2.5)
            axis.plot(START, START, "kx")
            axis.set(xticks=[], yticks=[], aspect="equal")
            if row == 0:
                axis.set_title(title)
            if title in ("mean of the model", "deviation"):
                figure.colorbar(image, ax=axis, shrink=0.8)
    figure.suptitle("Stream functions that fit the path of a tracer (dots)")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main():
    parser = argument_parser(__doc__)
    arguments = parser.parse_args()
    path = RESULTS / "lagrangian.json"
    if arguments.fresh:
        path.unlink(missing_ok=True)
    n_seeds = arguments.seeds or (3 if arguments.full else 1)
    methods = arguments.methods or list(METHODS)
    tasks = [(name, seed) for seed in range(n_seeds) for name in methods]
    results = run(one_run, [] if arguments.report else tasks, path, arguments.jobs)
    text = f"Means over seeds; {N_TRAIN} pairs fitted, {N_TEST} tested\n" + table(
        results
    )
    print(text)
    (RESULTS / "lagrangian.txt").write_text(text + "\n")
    picture(RESULTS / "lagrangian.png")


if __name__ == "__main__":
    main()
