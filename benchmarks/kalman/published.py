"""The published experiments on moving images, with three seeds each.

A spot moves behind noisy images of ten by ten pixels (Mikulasch and Zenke,
"Understanding Self-Supervised Learning via Latent Distribution Matching",
arXiv:2605.03517, 2026). R2 is that of a linear regression from the filtered states to
the place of the spot, fitted on the training sequences and judged on 200 others. Where
sequences start, the path of the square, and the schedule of the step size are ours.

    python benchmarks/kalman/published.py            # log-determinant entropy
    python benchmarks/kalman/published.py --full     # all three ways against collapse
"""

import sys
import time
from pathlib import Path

import _moving_images
import matplotlib.pyplot as plt
import numpy as np
from _report import RESULTS, kept
from sklearn.linear_model import LinearRegression

from skgmje import KalmanEmbedder

sys.path.append(str(Path(__file__).parents[1] / "embedding"))
from _experiment import argument_parser, run

# Published R2; widths of embedding and state; settings.
DATA = {
    "figure_eight": (0.990, 5, 10, {"learning_rate_init": 5e-4, "batch_size": 8}, 800),
    "square": (0.967, 2, 2, {"learning_rate_init": 6e-4, "batch_size": 8}, 800),
    "inferred_noise": (
        0.959,
        2,
        2,
        {
            "learning_rate_init": 1e-3,
            "batch_size": 32,
            "observation_noise": "input",
        },
        3200,
    ),
}
ENTROPIES = ("log_det", "knn", "stop_gradient")
N_EPOCHS, N_TEST = 20, 200
TURN = 2 * np.pi / 20


def experiment(data, entropy, seed):
    """Fit one model; return its R2 and the eigenvalues of its transition."""
    _, embedding_dim, state_dim, options, n = DATA[data]
    rng = np.random.default_rng(seed)
    make = getattr(_moving_images, data)
    (X, place), (X_test, place_test) = make(n, rng), make(N_TEST, rng)
    start = time.perf_counter()
    kalman = KalmanEmbedder(
        embedding_dim,
        state_dim=state_dim,
        entropy=entropy,
        hidden_layer_sizes=(100, 100),
        max_iter=N_EPOCHS,
        random_state=seed,
        **options,
    ).fit(X)
    seconds = time.perf_counter() - start
    states, states_test = (
        kalman.transform(x).reshape(-1, state_dim) for x in (X, X_test)
    )
    readout = LinearRegression().fit(states, place.reshape(-1, 2))
    values = np.linalg.eigvals(kalman.transition_)
    values = values[np.argsort(-np.abs(values))]
    result = {
        "r2": readout.score(states_test, place_test.reshape(-1, 2)),
        "score": kalman.score(X_test[:50]),
        "seconds": seconds,
    }
    for i, value in enumerate(values):
        result |= {f"re{i}": float(value.real), f"im{i}": float(value.imag)}
    return result


def eigenvalues(result):
    n = sum(key.startswith("re") for key in result)
    return np.array([result[f"re{i}"] + 1j * result[f"im{i}"] for i in range(n)])


def report(results, entropies):
    print(
        f"{'':16}{'against collapse':>18}{'published':>11}{'median R2':>11}  each seed"
    )
    for data, (published, *_) in DATA.items():
        for entropy in entropies:
            runs = [r for t, r in results.items() if t[:2] == (data, entropy)]
            if not runs:
                continue
            r2 = [r["r2"] for r in runs]
            print(
                f"{data:16}{entropy:>18}{published:11.3f}{np.median(r2):11.3f}  "
                + ", ".join(f"{value:.3f}" for value in r2)
            )
            # The pair that is nearest to one round in twenty steps.
            for run_ in runs:
                values = eigenvalues(run_)
                turning = values[values.imag > 0.01]
                if not len(turning):
                    print(f"{'':27}no eigenvalue turns")
                    continue
                nearest = turning[np.abs(np.angle(turning) - TURN).argmin()]
                print(
                    f"{'':27}eigenvalues {nearest.real:.3f}±{nearest.imag:.3f}i, "
                    f"modulus {abs(nearest):.3f}, "
                    f"{2 * np.pi / np.angle(nearest):.1f} steps a round (true: 20)"
                )


def picture(results, entropies):
    shown = [data for data in DATA if any(task[0] == data for task in results)]
    n = 1 + len(shown)
    fig, axes = plt.subplots(1, n, figsize=(3.3 * n, 3.4), layout="constrained")
    ax = axes[0]
    for row, data in enumerate(shown):
        published = DATA[data][0]
        ax.plot([published] * 2, [row - 0.35, row + 0.35], color="black", lw=1)
        for i, entropy in enumerate(entropies):
            r2 = [r["r2"] for t, r in results.items() if t[:2] == (data, entropy)]
            shift = 0.2 * (i - (len(entropies) - 1) / 2)
            ax.plot(
                np.clip(r2, 0.85, 1),
                np.full(len(r2), row + shift),
                "o",
                color=f"C{i}",
                label=entropy if row == 0 else None,
            )
    names = [data.replace("_", " ") for data in shown]
    ax.set(yticks=range(len(shown)), yticklabels=names, xlabel="R2")
    ax.set(xlim=(0.845, 1.005), ylim=(-0.5, len(shown) - 0.5))
    ax.set_title("line: published", fontsize="medium")
    ax.invert_yaxis()
    ax.legend(fontsize="small", loc="upper left")
    circle = np.exp(1j * np.linspace(0, 2 * np.pi, 200))
    for ax, data in zip(axes[1:], shown, strict=True):
        ax.plot(circle.real, circle.imag, color="black", lw=0.8)
        for harmonic in (1, 2):
            ray = np.exp(1j * harmonic * TURN * np.array([1, -1]))
            for end in ray:
                ax.plot([0, end.real], [0, end.imag], color="0.8", lw=0.8, zorder=0)
        for task, result in results.items():
            if task[:2] == (data, entropies[0]):
                values = eigenvalues(result)
                ax.plot(values.real, values.imag, ".", ms=9, alpha=0.6)
        ax.set(aspect="equal", xlabel="real part", title=data.replace("_", " "))
    axes[1].set_ylabel("imaginary part of eigenvalues")
    fig.savefig(RESULTS / "published.png", dpi=120)


def main():
    parser = argument_parser(__doc__)
    args = parser.parse_args()
    entropies = ENTROPIES if args.full else (args.methods or ENTROPIES[:1])
    tasks = [
        (data, entropy, seed)
        for seed in range(args.seeds or 3)
        for data in args.data or DATA
        for entropy in entropies
    ]
    path = RESULTS / "published.json"
    if args.fresh:
        path.unlink(missing_ok=True)
    results = run(experiment, [] if args.report else tasks, path, args.jobs)
    shown = [e for e in ENTROPIES if any(task[1] == e for task in results)]
    with kept("published.txt"):
        report(results, shown)
    picture(results, shown)


if __name__ == "__main__":
    main()
