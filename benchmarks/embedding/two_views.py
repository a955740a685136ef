"""Encoders that do not collapse: two bent and noisy views of points on a sphere.

    python benchmarks/embedding/two_views.py          # two seeds
    python benchmarks/embedding/two_views.py --full   # five seeds

Every embedder is fitted to 3,000 pairs with its defaults, but for three dimensions of
the embedding, once with an encoder for each view and once with one for both. All that
the views share is the point. So for each method are printed, on 1,000 fresh pairs,

R2       of a linear regression of the points on the embeddings of one view, fitted to
         the training rows: the mean over seeds and the worst seed; what is worse than
         no regression counts as zero
rank     effective rank of the embeddings, of three, in the worst seed
scale    root of their mean variance; the trapped objective shrinks it to nothing
seconds  of the fit, on one thread beside other runs

The references are an encoder before training and the likelihood of one joint Gaussian
without an entropy, which is the trace trap. An MDN without a learned target predicts
the other view in its own units. The table is saved to `results`, and numbers of single
runs too, so that a stopped run goes on where it was.
"""

import time

import numpy as np
from _experiment import RESULTS, argument_parser, run
from sklearn.linear_model import LinearRegression

from skgmje import (
    ContrastiveEmbedder,
    GJEEmbedder,
    GMJEEmbedder,
    JEPAEmbedder,
    LDMEmbedder,
    MDNEmbedder,
    VJEEmbedder,
)
from skgmje.datasets import make_sphere_views
from skgmje.latent import GaussianLikelihood
from skgmje.metrics import effective_rank

N_TRAIN, N_TEST = 3000, 1000
OWN, SHARED = "an encoder for each view", "one encoder for both views"
# What every row but the references should reach in every seed.
LEAST_R2, LEAST_RANK = 0.95, 2.8


class TrappedEmbedder(GJEEmbedder):
    """The likelihood of one joint Gaussian, and nothing that repels."""

    def _make_latent(self, encoders, generator):
        return GaussianLikelihood()


def method(estimator_class, *arguments, **options):
    """Return a constructor from a seed and the options of an encoder."""

    def make(seed, **encoders):
        fixed = {"embedding_dim": 3, "target": "y", "random_state": seed}
        return estimator_class(*arguments, **fixed | options | encoders)

    return make


REFERENCES = {
    "untrained": method(GJEEmbedder, max_iter=1, learning_rate_init=1e-12),
    "trapped": method(TrappedEmbedder),
}
DEFAULTS = {
    "GJE": method(GJEEmbedder),
    "GMJE, K = 1": method(GMJEEmbedder, 1),
    "GMJE, K = 4": method(GMJEEmbedder, 4),
    "GMJE, K = 8": method(GMJEEmbedder, 8),
    "GMJE": method(GMJEEmbedder),
    "GMJE, K = 30": method(GMJEEmbedder, 30),
    "GMJE, EM": method(GMJEEmbedder, components="em"),
    "GMJE, GNG": method(GMJEEmbedder, 30, components="gng"),
    "GMJE, bank": method(GMJEEmbedder, 512, components="bank"),
    "GMJE, joint": method(GMJEEmbedder, likelihood="joint"),
    "JEPA": method(JEPAEmbedder),
    "MDN": method(MDNEmbedder, target_encoder="mlp"),
    "MDN, own units": method(MDNEmbedder),
    "contrastive": method(ContrastiveEmbedder),
    "LDM": method(LDMEmbedder),
    "VJE": method(VJEEmbedder),
}
WITH_SHARED = ("GJE", "GMJE", "GMJE, GNG", "GMJE, bank", "JEPA", "MDN")
METHODS = {
    OWN: REFERENCES | DEFAULTS,
    SHARED: {name: DEFAULTS[name] for name in WITH_SHARED},
}


def measure(encoders, name, seed):
    """Fit one method, and return its numbers."""
    X, target, y = make_sphere_views(N_TRAIN, random_state=seed)
    X_test, _, y_test = make_sphere_views(N_TEST, random_state=1000 + seed)
    options = {"target_encoder": "shared"} if encoders == SHARED else {}
    model = METHODS[encoders][name](seed, **options)
    start = time.perf_counter()
    model.fit(X, target)
    seconds = time.perf_counter() - start
    embedded, embedded_test = model.transform(X), model.transform(X_test)
    scale = np.sqrt(embedded.var(axis=0).mean())
    # Of the embeddings' own size, for a probe that has no tolerance to trip over.
    probe = LinearRegression().fit(embedded / scale, y)
    return {
        "R2": max(0.0, probe.score(embedded_test / scale, y_test)),
        "rank": effective_rank(embedded_test),
        "scale": scale,
        "seconds": seconds,
    }


def table(encoders, results, names):
    """One table, in the order of the methods."""
    title = f"{'mean R2':>10}{'worst':>8}{'rank':>8}{'scale':>10}{'seconds':>9}"
    lines = [f"{encoders:28}{title}"]
    for name in names:
        runs = [r for task, r in results.items() if task[:2] == (encoders, name)]
        numbers = {key: np.array([r[key] for r in runs]) for key in runs[0]}
        worst, rank = numbers["R2"].min(), numbers["rank"].min()
        is_met = worst >= LEAST_R2 and rank >= LEAST_RANK
        verdict = "" if name in REFERENCES else ("  met" if is_met else "  MISSED")
        lines.append(
            f"{name:28}{numbers['R2'].mean():10.3f}{worst:8.3f}{rank:8.2f}"
            f"{numbers['scale'].mean():10.1e}{numbers['seconds'].mean():9.1f}{verdict}"
        )
    return "\n".join(lines)


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    n_seeds = arguments.seeds or (5 if arguments.full else 2)
    path = RESULTS / "two_views.json"
    if arguments.fresh:
        path.unlink(missing_ok=True)
    chosen = {
        encoders: [name for name in methods if name in (arguments.methods or methods)]
        for encoders, methods in METHODS.items()
    }
    tasks = [
        (encoders, name, seed)
        for seed in range(n_seeds)
        for encoders, names in chosen.items()
        for name in names
    ]
    results = run(measure, tasks, path, arguments.jobs)
    text = "\n\n".join(
        table(encoders, results, names) for encoders, names in chosen.items() if names
    )
    text = (
        f"{n_seeds} seeds, {N_TRAIN} training and {N_TEST} test pairs; met: an R2 of "
        f"{LEAST_R2} and a rank of {LEAST_RANK} in every seed\n\n{text}"
    )
    print("\n" + text)
    if arguments.methods is None:
        command = f"python benchmarks/embedding/two_views.py --seeds {n_seeds}"
        (RESULTS / "two_views.txt").write_text(f"{command}\n\n{text}\n")
        print(f"saved to {RESULTS}")


if __name__ == "__main__":
    main()
