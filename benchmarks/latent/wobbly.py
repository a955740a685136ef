"""A wobbly orbit behind a swirl: are its places recovered up to an affine map?

    python benchmarks/latent/wobbly.py          # three seeds: minutes

The nonlinear dynamics of Mikulasch and Zenke (arXiv:2605.03517, figure 5, equation 16):
a point goes round in the plane, four times a round towards the centre and back, and
every step of 0.3 adds Gaussian noise of variance 0.1. What is seen is the point after a
swirl, which turns it the further the nearer it is to the centre, by up to ten radians.
The noise is the same everywhere, so that by their theorem 1 an encoder with a Gaussian
about the prediction from the last embedding recovers the places up to an affine map.

R2 is that of a linear regression of the places on the embeddings, fitted on the
training sequences and judged on others. The paper reports 0.94 with nearest neighbours,
about the same with kernels, and less with the two other entropies, after 300 epochs of
10,000 sequences with a recurrent predictor. Ours sees 20 steps of 500 sequences, and of
the past the last embedding alone, since the orbit has no other memory. Where sequences
start, and that the swirl has ten pixels to a unit, are ours.
"""

import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from sklearn.linear_model import LinearRegression

sys.path.insert(0, str(Path(__file__).parents[1] / "embedding"))
from _experiment import argument_parser, cell, mean_and_deviation, run

from skgmje import LDMEmbedder

mpl.use("agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
PUBLISHED = 0.94
N_SEQUENCES, N_STEPS, EPOCHS, BATCH = 500, 20, 40, 256
LOBES, WOBBLE, PHASE, STEP, VARIANCE = 4, 0.5, -3 * np.pi / 8, 0.3, 0.1
# Angle at the centre, the length over which it falls, and pixels to a unit.
STRENGTH, FALL, PIXELS = 10, np.log(2) * 200 / 5, 10
PREDICTIVE = {"prior": "empirical", "predictor_hidden_layer_sizes": (64, 64)}
METHODS = {
    "observation": None,
    "kNN": {"entropy": "knn"},
    "KDE": {"entropy": "kde"},
    "log-det": {"entropy": "log_det"},
    "plug-in": {"entropy": "plug_in", "objective": "ldm", "momentum": 0.5},
}


# ---------------------------------------------------------------------------- the data


def velocity(place):
    """Equation (16) without noise."""
    radius = np.hypot(*np.moveaxis(place, -1, 0))
    angle = np.arctan2(place[..., 1], place[..., 0])
    inwards = WOBBLE * LOBES * np.cos(LOBES * (angle - PHASE))
    return np.stack(
        [
            inwards * np.cos(angle) - radius * np.sin(angle),
            inwards * np.sin(angle) + radius * np.cos(angle),
        ],
        axis=-1,
    )


def move(place):
    """One step of Runge and Kutta's method."""
    first = velocity(place)
    second = velocity(place + STEP / 2 * first)
    third = velocity(place + STEP / 2 * second)
    fourth = velocity(place + STEP * third)
    return place + STEP / 6 * (first + 2 * second + 2 * third + fourth)


def orbits(n_sequences, rng, variance=VARIANCE):
    """Places of shape (n_sequences, N_STEPS, 2)."""
    place = rng.normal(size=(n_sequences, 2))
    place *= 2 / np.linalg.norm(place, axis=1, keepdims=True)
    places = []
    for _ in range(N_STEPS):
        place = move(place) + np.sqrt(variance) * rng.normal(size=place.shape)
        places.append(place)
    return np.stack(places, axis=1)


def swirl(places):
    """What is seen of the places."""
    radius = np.linalg.norm(places, axis=-1)
    turn = np.exp(1j * STRENGTH * np.exp(-PIXELS * radius / FALL))
    seen = (places[..., 0] + 1j * places[..., 1]) * turn
    return np.stack([seen.real, seen.imag], axis=-1)


# ---------------------------------------------------------------------- the experiment


def fit(method, seed, X, X_next):
    return LDMEmbedder(
        2,
        target_encoder="shared",
        hidden_layer_sizes=(200, 200, 200),
        learning_rate_init=2e-3,
        batch_size=BATCH,
        max_iter=EPOCHS,
        random_state=seed,
        **PREDICTIVE | METHODS[method],
    ).fit(X, X_next)


def recovery(method, seed):
    rng = np.random.default_rng(seed)
    places, places_test = orbits(N_SEQUENCES, rng), orbits(N_SEQUENCES, rng)
    seen, Z_test = swirl(places), swirl(places_test).reshape(-1, 2)
    start = time.perf_counter()
    Z, n_iter = seen.reshape(-1, 2), 0
    if METHODS[method] is not None:
        before, after = (part.reshape(-1, 2) for part in (seen[:, :-1], seen[:, 1:]))
        model = fit(method, seed, before, after)
        Z, Z_test, n_iter = model.transform(Z), model.transform(Z_test), model.n_iter_
    minutes = (time.perf_counter() - start) / 60
    line = LinearRegression().fit(Z, places.reshape(-1, 2))
    n_batches = np.ceil(N_SEQUENCES * (N_STEPS - 1) / BATCH)
    return {
        "R2": float(line.score(Z_test, places_test.reshape(-1, 2))),
        "steps": float(n_iter * n_batches),
        "minutes": minutes,
    }


def picture():
    """The places, what is seen of them, and what the embeddings say, turned back."""
    rng = np.random.default_rng(0)
    places = orbits(N_SEQUENCES, rng)
    seen = swirl(places)
    before, after = (part.reshape(-1, 2) for part in (seen[:, :-1], seen[:, 1:]))
    Z = fit("kNN", 0, before, after).transform(seen.reshape(-1, 2))
    line = LinearRegression().fit(Z, places.reshape(-1, 2))
    found = line.predict(Z).reshape(seen.shape)
    titles = ("places", "what is seen", "embeddings, affinely turned back")
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.9), layout="constrained")
    hues = np.arctan2(places[..., 1], places[..., 0]).ravel()
    for ax, points, title in zip(axes, (places, seen, found), titles, strict=True):
        x, y = points.reshape(-1, 2).T
        ax.scatter(x, y, c=hues, cmap="hsv", s=2, alpha=0.5, linewidths=0)
        for sequence in points[:2]:
            ax.plot(*sequence.T, color="black", lw=0.9)
        ax.set(title=title, aspect="equal", xlim=(-6, 6), ylim=(-6, 6))
    fig.savefig(RESULTS / "wobbly.png", dpi=110)


def main():
    options = argument_parser(__doc__).parse_args()
    methods = options.methods or list(METHODS)
    tasks = [(m, seed) for m in methods for seed in range(options.seeds or 3)]
    path = RESULTS / "wobbly.json"
    if options.fresh:
        path.unlink(missing_ok=True)
    results = run(recovery, tasks, path, options.jobs)
    lines = [
        "R2 of a linear regression of the places on embeddings of other sequences "
        f"(published, kNN: {PUBLISHED})",
        "",
        f"{'':12s}{'R2':>17s}{'worst':>9s}{'steps':>9s}{'minutes':>9s}",
    ]
    for method in methods:
        runs = [r for t, r in results.items() if t[0] == method]
        mean, deviation = mean_and_deviation(
            results, lambda t, m=method: t[0] == m, "R2"
        )
        steps, minutes = (
            np.mean([r[key] for r in runs]) for key in ("steps", "minutes")
        )
        worst = min(r["R2"] for r in runs)
        lines.append(
            f"{method:12s}{cell(mean, deviation)}{worst:9.3f}{steps:9.0f}{minutes:9.2f}"
        )
    text = "\n".join(lines)
    print(text)
    (RESULTS / "wobbly.txt").write_text(text + "\n")
    picture()


if __name__ == "__main__":
    main()
