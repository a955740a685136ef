"""Draws from the density of embeddings against real embeddings that were held out.

    python benchmarks/embedding/sampling.py [--epochs 40] [--picture digits.png]

GMJE draws from its mixture. Beside it are one Gaussian on the same embeddings and one
Gaussian on those of a JEPA, which has no density of its own. Real embeddings are those
of augmented test images, as the densities were fitted to augmented training images.
Columns are divided by their standard deviation on the real rows. An energy distance
near zero and a two-sample accuracy near 50 % mean that nobody can tell them apart.
Training rows show what is left to a density that knows them by heart.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from vision import make, split

from skgmje.embedding._model import Encoders, encode_views
from skgmje.metrics import energy_distance, two_sample_accuracy
from skgmje.mixture import GaussianMixture

MIXTURES = ("GMJE K=10", "GMJE K=50", "GMJE GNG", "GMJE bank")
N_DRAWS, SEED, PICTURE_SIDE = 1000, 0, 12


def embed(estimator, X, seed):
    """Context embeddings of augmented images, as the density of a fit sees them."""
    encoders = Encoders(estimator.encoder_, estimator.target_encoder_)
    z_c, _ = encode_views(encoders, X, None, estimator.augmentation, seed)
    return z_c.numpy()


def one_gaussian(Z):
    """Draws from the Gaussian with the moments of some embeddings."""
    gaussian = GaussianMixture(1, random_state=SEED).fit(Z)
    return gaussian.sample(N_DRAWS, random_state=SEED)[0]


def judge(name, draws, real):
    """Print both distances of draws from real embeddings."""
    scale = real.std(axis=0)
    draws, real = draws / scale, real / scale
    distance = energy_distance(draws, real)
    accuracy = two_sample_accuracy(draws, real, random_state=SEED)
    print(f"{name:34s}{distance:12.4f}{100 * accuracy:12.1f} %", flush=True)


def fit(method, X, augmentation, epochs, **options):
    estimator = make(method, augmentation, epochs, SEED).set_params(**options)
    return estimator.fit(X)


def compare(method, X_train, X_test, augmentation, epochs):
    """Fit one mixture and judge it beside one Gaussian on the same embeddings."""
    estimator = fit(method, X_train, augmentation, epochs)
    train, real = embed(estimator, X_train, SEED), embed(estimator, X_test, SEED)
    draws = estimator.sample(N_DRAWS, random_state=SEED)[0]
    judge(f"{method}: training rows", train[:N_DRAWS], real)
    judge(f"{method}: its own density", draws, real)
    judge(f"{method}: one Gaussian", one_gaussian(train), real)


def draw_picture(path, X_train, augmentation, epochs):
    """Save decoded draws of the mixture above decoded draws of one Gaussian."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    estimator = fit("GMJE K=50", X_train, augmentation, epochs, decoder="conv")
    n = 6 * PICTURE_SIDE
    Z = {
        "GMJE": estimator.sample(n, random_state=SEED)[0],
        "one Gaussian": one_gaussian(embed(estimator, X_train, SEED))[:n],
    }
    figure, axes = plt.subplots(2, 1, figsize=(6, 6.4), layout="constrained")
    for axis, (name, draws) in zip(axes, Z.items(), strict=True):
        images = estimator.inverse_transform(draws).reshape(
            6, PICTURE_SIDE, *augmentation.input_shape
        )
        framed = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)])
        sheet = np.block([list(row) for row in framed])
        axis.imshow(sheet, cmap="gray_r", vmin=0, vmax=1)
        axis.set(title=name, xticks=[], yticks=[])
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--methods", nargs="+", default=MIXTURES)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    X_train, X_test, _, _, augmentation = split(options.data)
    print(f"{'':34s}{'energy distance':>12s}{'accuracy':>11s}")
    for method in options.methods:
        compare(method, X_train, X_test, augmentation, options.epochs)
    jepa = fit("JEPA", X_train, augmentation, options.epochs)
    train, real = embed(jepa, X_train, SEED), embed(jepa, X_test, SEED)
    judge("JEPA: one Gaussian", one_gaussian(train), real)
    if options.picture is not None:
        draw_picture(options.picture, X_train, augmentation, options.epochs)


if __name__ == "__main__":
    main()
