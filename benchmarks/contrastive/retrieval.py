"""Retrieval of the other half of an image of a digit, by linear and by deep encoders.

    python benchmarks/contrastive/retrieval.py          # three seeds
    python benchmarks/contrastive/retrieval.py --full   # ten seeds

The upper half of an image asks for its lower half among those of the test images, and
the other way round: 500 of scikit-learn's digits and 1,000 of MNIST's. Recall@k is the
share of queries whose own half is among the first k.

`LinearContrastive` and `ContrastiveEmbedder` rank by the logarithm of their tilting.
scikit-learn's CCA, and RidgeCCA, deep CCA, DCCA-EY and Barlow Twins of cca-zoo rank by
the cosine of canonical variates, as they are or weighted by their correlations. All
that train have two hidden layers of 256 units in each encoder and 50 epochs; encodings
of cca-zoo's go through a linear CCA, as its manual says. Width, ridge and weights of
every method are chosen by Recall@10 on a quarter of the training rows.

Where a method failed with every width its row is blank, or has fewer seeds. Peers that
are missing are left out (`pip install "cca-zoo[deep]" mlxtend`). Results of
single runs are kept, so that a stopped run goes on where it was; the table and a
picture are saved to `results`.
"""

import itertools
import logging
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from sklearn.cross_decomposition import CCA
from sklearn.preprocessing import StandardScaler, normalize
from torch import nn

from skgmje import ContrastiveEmbedder, LinearContrastive
from skgmje.datasets import load_digit_halves

sys.path.append(str(Path(__file__).parents[1] / "embedding"))
from _experiment import argument_parser, cell, mean_and_deviation, run

RESULTS = Path(__file__).parent / "results"
N_TEST = {"digits": 500, "mnist": 1000}
RANKS = {"digits": (8, 16, 24), "mnist": (16, 32)}
RIDGES = (0.01, 0.03, 0.1, 0.3)
HIDDEN, N_EPOCHS, BATCH = 256, 50, 256
KS = (1, 5, 10)
WAYS = ("lower from upper", "upper from lower")


def tilted(objective):
    """Similarities of LinearContrastive."""

    def similarities(train, test, rank, ridge, seed):
        model = LinearContrastive(objective, rank=rank, ridge=ridge).fit(*train)
        return [model.similarity(*test)]

    return similarities


def trained(tilting):
    """Similarities of ContrastiveEmbedder."""

    def similarities(train, test, rank, ridge, seed):
        model = ContrastiveEmbedder(
            rank,
            tilting=tilting,
            hidden_layer_sizes=(HIDDEN, HIDDEN),
            max_iter=N_EPOCHS,
            batch_size=BATCH,
            random_state=seed,
        ).fit(*train)
        z_c, z_t = model.transform(test[0]), model.transform_target(test[1])
        similarity = z_c @ z_t.T
        if tilting == "quadratic":
            similarity -= (z_t**2).sum(axis=1) / 2
            similarity -= (z_c**2).sum(axis=1)[:, np.newaxis] / 2
        return [similarity]

    return similarities


def cosines(train, test):
    """Cosines of white variates, and of variates weighted by their correlations."""
    deviations = [z.std(axis=0) for z in train]
    means = [z.mean(axis=0) for z in train]
    white, white_test = (
        [(z - m) / d for z, m, d in zip(views, means, deviations, strict=True)]
        for views in (train, test)
    )
    correlations = (white[0] * white[1]).mean(axis=0).clip(min=0)
    return [
        normalize(white_test[0] * weights) @ normalize(white_test[1] * weights).T
        for weights in (1.0, np.sqrt(correlations))
    ]


def sklearn_cca(train, test, rank, ridge, seed):
    try:
        model = CCA(rank, max_iter=500).fit(*train)
    except np.linalg.LinAlgError:
        return []  # Its deflated views hold NaN.
    return cosines(model.transform(*train), model.transform(*test))


def scaled(train, test):
    """Standardise both views by the training rows."""
    scalers = [StandardScaler().fit(view) for view in train]
    return tuple(
        [scaler.transform(view) for scaler, view in zip(scalers, views, strict=True)]
        for views in (train, test)
    )


def ridge_cca(train, test, rank, ridge, seed):
    from cca_zoo.linear import RidgeCCA

    train, test = scaled(train, test)
    # The same ridge, but for the scale of the variates.
    model = RidgeCCA(rank, shrinkage=ridge / (1 + ridge)).fit(train)
    return cosines(model.transform(train), model.transform(test))


def deep(name):
    """Cosines after a deep method of cca-zoo."""

    def similarities(train, test, rank, ridge, seed):
        import cca_zoo.deep
        import lightning.pytorch as pl
        from cca_zoo.linear import RidgeCCA

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        pl.seed_everything(seed, verbose=False)
        train, test = scaled(train, test)
        encoders = [
            nn.Sequential(
                nn.Linear(view.shape[1], HIDDEN),
                nn.ReLU(),
                nn.Linear(HIDDEN, HIDDEN),
                nn.ReLU(),
                nn.Linear(HIDDEN, rank),
            )
            for view in train
        ]
        model = getattr(cca_zoo.deep, name)(n_components=rank, encoders=encoders)
        loader = torch.utils.data.DataLoader(
            cca_zoo.deep.MultiviewDataset(train), BATCH, shuffle=True, drop_last=True
        )
        trainer = pl.Trainer(
            max_epochs=N_EPOCHS,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(model, loader)
        model.eval()
        with torch.no_grad():
            encodings = [
                [z.numpy() for z in model([torch.from_numpy(v).float() for v in views])]
                for views in (train, test)
            ]
        linear = RidgeCCA(rank, shrinkage=1e-4).fit(encodings[0])
        return cosines(*map(linear.transform, encodings))

    return similarities


# Each method, the package it needs, and whether it has a ridge.
METHODS = {
    "CCA (scikit-learn)": (sklearn_cca, "sklearn", False),
    "RidgeCCA (cca-zoo)": (ridge_cca, "cca_zoo", True),
    "DCCA (cca-zoo)": (deep("DCCA"), "lightning", False),
    "DCCA-EY (cca-zoo)": (deep("DCCAEY"), "lightning", False),
    "Barlow Twins (cca-zoo)": (deep("BarlowTwins"), "lightning", False),
    "ContrastiveEmbedder, cosine": (trained("cosine"), "skgmje", False),
    "ContrastiveEmbedder, quadratic": (trained("quadratic"), "skgmje", False),
    **{
        objective: (tilted(objective), "skgmje", True)
        for objective in (
            "inner_conditional",
            "inner_joint",
            "quadratic_target",
            "quadratic_context",
            "quadratic_conditional",
            "quadratic_joint",
        )
    },
}


def recalls(similarity):
    """Recall at each k, both ways."""
    result = {}
    for way, matrix in zip(WAYS, (similarity, similarity.T), strict=True):
        rank = (matrix >= matrix.diagonal()[:, None]).sum(axis=1)
        result |= {f"{way} @{k}": float(np.mean(rank <= k)) for k in KS}
    return result


def mean_recall(similarity):
    return np.mean([recalls(similarity)[f"{way} @10"] for way in WAYS])


def evaluate(data, method, seed):
    """Choose width and ridge on training rows, and rank the test rows."""
    halves = load_digit_halves(data)
    order = np.random.default_rng(seed).permutation(len(halves.upper))
    test, rest = np.split(order, [N_TEST[data]])
    held_out, fitted = np.split(rest, [len(rest) // 4])
    similarities, _, has_ridge = METHODS[method]

    def views(rows):
        return halves.upper[rows], halves.lower[rows]

    quality = {}
    for option in itertools.product(RANKS[data], RIDGES if has_ridge else (0.0,)):
        tried = similarities(views(fitted), views(held_out), *option, seed)
        for form, similarity in enumerate(tried):
            quality[*option, form] = mean_recall(similarity)
    for *option, form in sorted(quality, key=quality.get, reverse=True):
        ranked = similarities(views(rest), views(test), *option, seed)
        if ranked:
            chosen = dict(zip(("rank", "ridge"), option, strict=True))
            return recalls(ranked[form]) | chosen
    return {}


def summary(results, data, method, key):
    """Mean and deviation over seeds of one number."""
    return mean_and_deviation(results, lambda task: task[:2] == (data, method), key)


def table(results, data):
    lines = [f"{data}: Recall@k among {N_TEST[data]}, ± deviation over seeds", ""]
    keys = [f"{way} @{k}" for way in WAYS for k in KS]
    lines.append(f"{'':32}{WAYS[0]:^51}{WAYS[1]:^51}")
    lines.append(f"{'':32}" + "".join(f"{'@' + str(k):>8}{'':9}" for k in 2 * KS))
    for method in METHODS:
        numbers = [summary(results, data, method, key) for key in keys]
        lines.append(f"{method:32}{''.join(cell(*number) for number in numbers)}")
    return "\n".join([*lines, ""])


def picture(results, path):
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for ax, data in zip(axes, N_TEST, strict=True):
        for place, method in enumerate(METHODS):
            color = "C1" if method in OURS else "C0"
            for k, marker in zip(KS, "^so", strict=True):
                keys = [f"{way} @{k}" for way in WAYS]
                values = [summary(results, data, method, key)[0] for key in keys]
                ax.plot(values, [place] * 2, color=color, lw=1, alpha=0.4)
                ax.plot(values[0], place, marker, color=color, ms=6)
                ax.plot(values[1], place, marker, color=color, ms=6, mfc="white")
        ax.set_title(f"{data}, {N_TEST[data]} candidates", fontsize=10, loc="left")
        ax.set(xlim=(0, 1), xlabel="Recall")
        ax.grid(axis="y", alpha=0.3)
    axes[0].set_yticks(range(len(METHODS)), METHODS)
    axes[0].invert_yaxis()
    for k, marker in zip(KS, "^so", strict=True):
        axes[0].plot([], [], marker, color="0.4", label=f"@{k}")
    axes[0].plot([], [], "o", color="0.4", label=WAYS[0])
    axes[0].plot([], [], "o", color="0.4", mfc="white", label=WAYS[1])
    axes[0].legend(frameon=False, fontsize=8, loc="lower right")
    fig.savefig(path, dpi=120)


OURS = [name for name, (_, package, _) in METHODS.items() if package == "skgmje"]


def main():
    arguments = argument_parser(__doc__).parse_args()
    n_seeds = arguments.seeds or (10 if arguments.full else 3)
    path = RESULTS / "retrieval.json"
    if arguments.fresh:
        path.unlink(missing_ok=True)
    present = [name for name, (_, package, _) in METHODS.items() if find_spec(package)]
    if missing := [name for name in METHODS if name not in present]:
        print(f"left out, as their package is missing: {', '.join(missing)}")
    tasks = [
        (data, method, seed)
        for seed in range(n_seeds)
        for data in arguments.data or N_TEST
        for method in arguments.methods or present
    ]
    if arguments.report:
        tasks = []
    results = run(evaluate, tasks, path, arguments.jobs)
    text = "\n".join(table(results, data) for data in N_TEST)
    print(text)
    (RESULTS / "retrieval.txt").write_text(text)
    picture(results, RESULTS / "retrieval.png")


if __name__ == "__main__":
    main()
