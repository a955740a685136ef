"""Linear encoders of a Gaussian process: trained by batches, and in closed form.

    python benchmarks/contrastive/gaussian_process.py          # three seeds
    python benchmarks/contrastive/gaussian_process.py --full   # ten seeds

The example of Baptista, Stuart and Tran (arXiv:2505.24134, section 6.1): u are noisy
values of a random function on twelve points, v its first five coefficients. Encoders
are linear without normalisation, the loss is the symmetric one of CLIP, and the
conditional means of the tilting are compared with the true ones in both directions, by

    E |mean of the model - true mean|^2 / E |true mean|^2

over 10,000 draws: zero is exact, and one is as good as the marginal mean. One setting
is changed at a time: the width of the embeddings, the pairs in a batch, the rows to
learn from. Beside the trained encoders are those of `LinearContrastive` on the same
rows, and on the true covariance, which is the best that a width can do.

The paper trains for 500 epochs by Adam with step size 1e-4. Here views are
standardised, and all runs take 3,000 steps from 1e-2 down to zero, whatever the
number of rows. Results of single runs are kept, so that a stopped run goes on where it
was; the table and a picture are saved to `results`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from skgmje import LinearContrastive

sys.path.append(str(Path(__file__).parents[1] / "embedding"))
from _experiment import argument_parser, cell, mean_and_deviation, run

RESULTS = Path(__file__).parent / "results"
N_POINTS, N_COEFFICIENTS, N_MODES = 12, 5, 1000
SMOOTHNESS, INVERSE_LENGTH, NOISE = 2, 3.0, 0.05
N_DRAWS, N_STEPS, STEP_SIZE = 10_000, 3_000, 1e-2
WIDTH, BATCH, ROWS = 5, 512, 10_000
SWEEPS = {
    "width": (2, 3, 4, 5, 6),
    "batch": (128, 256, 512, 1024),
    "rows": (2_000, 5_000, 10_000, 20_000, 50_000, 100_000),
}
LABELS = {
    "width": "width of the embeddings",
    "batch": "pairs in a batch",
    "rows": "rows to learn from",
}
METHODS = ("trained", "closed form", "true covariance")
DIRECTIONS = {"v|u": "coefficients given values", "u|v": "values given coefficients"}


def true_covariance():
    """Covariance of u and v side by side, from the eigenfunctions of the process."""
    points = np.arange(1, N_POINTS + 1) / (N_POINTS + 1)
    modes = np.arange(1, N_MODES + 1)
    eigenvalues = ((np.pi * modes) ** 2 + INVERSE_LENGTH**2) ** -SMOOTHNESS
    waves = np.sqrt(2) * np.cos(np.pi * np.outer(points, modes))
    loadings = waves * np.sqrt(eigenvalues)
    values = loadings @ loadings.T + NOISE**2 * np.eye(N_POINTS)
    cross = loadings[:, :N_COEFFICIENTS]
    return np.block([[values, cross], [cross.T, np.eye(N_COEFFICIENTS)]])


COVARIANCE = true_covariance()
EXACT = LinearContrastive.from_covariance(COVARIANCE, N_POINTS)


def draw(n, rng):
    rows = rng.standard_normal((n, len(COVARIANCE)))
    return np.split(rows @ np.linalg.cholesky(COVARIANCE).T, [N_POINTS], axis=1)


def train(U, V, width, batch, seed):
    """Train both encoders, and return the slopes of both conditional means."""
    generator = torch.Generator().manual_seed(seed)
    views = [torch.from_numpy(view / view.std(0)).float() for view in (U, V)]
    encoders = [
        (0.1 * torch.randn(view.shape[1], width, generator=generator)).requires_grad_()
        for view in views
    ]
    optimizer = torch.optim.Adam(encoders, lr=STEP_SIZE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, N_STEPS)
    right = torch.arange(batch)
    rows = torch.empty(0, dtype=torch.long)
    for _ in range(N_STEPS):
        if len(rows) < batch:
            rows = torch.randperm(len(U), generator=generator)
        chosen, rows = rows[:batch], rows[batch:]
        z_u, z_v = (
            view[chosen] @ encoder
            for view, encoder in zip(views, encoders, strict=True)
        )
        logits = z_u @ z_v.T
        loss = (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    G, H = (
        encoder.detach().double().numpy().T / view.std(0)
        for encoder, view in zip(encoders, (U, V), strict=True)
    )
    return np.cov(V.T) @ H.T @ G, np.cov(U.T) @ G.T @ H


def errors(name, slopes, U, V):
    """Relative squared errors of conditional means with these slopes."""
    truth = {"v|u": (U, EXACT.coef_), "u|v": (V, EXACT.coef_reverse_)}
    result = {}
    for (direction, (given, exact)), slope in zip(truth.items(), slopes, strict=True):
        wrong = given @ (slope - exact).T
        right = given @ exact.T
        result[f"{name} {direction}"] = float((wrong**2).sum() / (right**2).sum())
    return result


def evaluate(width, batch, rows, seed):
    """Fit all three on the same rows, and compare them on the same draws."""
    rng = np.random.default_rng(seed)
    U, V = draw(rows, rng)
    fresh = draw(N_DRAWS, np.random.default_rng(10_000 + seed))
    rank = min(width, N_COEFFICIENTS)
    closed = LinearContrastive(rank=rank).fit(U, V)
    exact = LinearContrastive.from_covariance(COVARIANCE, N_POINTS, rank=rank)
    slopes = {
        "trained": train(U, V, width, batch, seed),
        "closed form": (closed.coef_, closed.coef_reverse_),
        "true covariance": (exact.coef_, exact.coef_reverse_),
    }
    result = {}
    for name, pair in slopes.items():
        result |= errors(name, pair, *fresh)
    return result


def settings(sweep, value):
    chosen = {"width": WIDTH, "batch": BATCH, "rows": ROWS} | {sweep: value}
    return chosen["width"], chosen["batch"], chosen["rows"]


def summary(results, sweep, value, key):
    """Mean and deviation over seeds of one number of one setting, in percent."""
    setting = settings(sweep, value)
    numbers = mean_and_deviation(results, lambda task: task[:3] == setting, key)
    return tuple(100 * number for number in numbers)


def table(results):
    lines = ["Squared error of conditional means, percent, ± deviation over seeds", ""]
    for direction, meaning in DIRECTIONS.items():
        lines += [f"{direction}: {meaning}", ""]
        for sweep, values in SWEEPS.items():
            heads = "".join(f"{method:>17}" for method in METHODS)
            lines.append(f"{LABELS[sweep]:24}{heads}")
            for value in values:
                cells = [
                    cell(*summary(results, sweep, value, f"{method} {direction}"))
                    for method in METHODS
                ]
                lines.append(f"{value:<24}{''.join(cells)}")
            lines.append("")
    return "\n".join(lines)


def picture(results, path):
    import matplotlib.pyplot as plt

    styles = {"trained": "C0o-", "closed form": "C1s-", "true covariance": "k:"}
    fig, axes = plt.subplots(
        2, 3, figsize=(10, 6), sharex="col", sharey="row", layout="constrained"
    )
    for row, (direction, meaning) in zip(axes, DIRECTIONS.items(), strict=True):
        for ax, (sweep, values) in zip(row, SWEEPS.items(), strict=True):
            for method, style in styles.items():
                means, deviations = np.array(
                    [
                        summary(results, sweep, v, f"{method} {direction}")
                        for v in values
                    ]
                ).T
                shown = means > 1e-7  # The truth at full width is exact.
                x = np.array(values)[shown]
                ax.plot(x, means[shown], style, lw=1.5, ms=4, label=method)
                if method != "true covariance":
                    low = np.maximum(means - deviations, means / 3)
                    ax.fill_between(
                        values,
                        low,
                        means + deviations,
                        color=style[:2],
                        alpha=0.2,
                        lw=0,
                    )
            ax.set_yscale("log")
            if sweep != "width":
                ax.set_xscale("log")
                ax.set_xticks(values, [f"{v:,}" for v in values], rotation=30)
                ax.minorticks_off()
        row[0].set_ylabel(f"error of the mean, %\n{meaning}")
    for ax, sweep in zip(axes[1], SWEEPS, strict=True):
        ax.set_xlabel(LABELS[sweep])
    axes[0, 0].legend(frameon=False, fontsize=9)
    axes[0, 0].set_xticks(SWEEPS["width"])
    fig.savefig(path, dpi=120)


def main():
    arguments = argument_parser(__doc__).parse_args()
    n_seeds = arguments.seeds or (10 if arguments.full else 3)
    path = RESULTS / "gaussian_process.json"
    if arguments.fresh:
        path.unlink(missing_ok=True)
    chosen = dict.fromkeys(
        settings(s, v) for s, values in SWEEPS.items() for v in values
    )
    tasks = [(*setting, seed) for seed in range(n_seeds) for setting in chosen]
    if arguments.report:
        tasks = []
    results = run(evaluate, tasks, path, arguments.jobs)
    text = table(results)
    print(text)
    (RESULTS / "gaussian_process.txt").write_text(text)
    picture(results, RESULTS / "gaussian_process.png")


if __name__ == "__main__":
    main()
