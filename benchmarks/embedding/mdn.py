"""Forms and marginal losses of mixture density networks.

    OMP_NUM_THREADS=1 python benchmarks/embedding/mdn.py

First the negative log-likelihood of test rows above that of the true density, for each
form of the covariances: on one target with three answers, and on targets of 2 and 5
columns whose noise has two factors that turn with the input. Then what each marginal
loss makes of two views of points on a sphere: R^2 of a linear probe for the points,
effective rank and total variance of the embeddings, and the score.
"""

import time

import numpy as np
from scipy.stats import multivariate_normal
from sklearn.linear_model import LinearRegression

from skgmje import MDNEmbedder
from skgmje.datasets import branch_log_density, make_branches

N_TRAIN, N_TEST = 2000, 4000
FORMS = [("diag", 2), ("low_rank", 1), ("low_rank", 2), ("full", 2)]
MARGINALS = [("moment_kl", 2.0), ("vicreg", 2.0), ("gaussian", 1.0), ("gaussian", 2.0)]


def branches(n_samples, seed):
    X, y = make_branches(n_samples, random_state=seed)
    return X, y, branch_log_density(X, y).mean()


def correlated(n_samples, n_targets, seed):
    """Draw targets with correlated noise; return their mean log-density too."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n_samples, 1))
    column = np.arange(n_targets)
    first = 0.5 * np.sin(1 + 1.3 * column + 2 * x)
    second = 0.3 * np.cos(0.7 * column - x)
    loadings = np.stack([first, second], axis=2)
    noise = (loadings @ rng.normal(size=(n_samples, 2, 1)))[..., 0]
    noise += 0.05 * rng.normal(size=noise.shape)
    covariances = loadings @ loadings.swapaxes(1, 2) + 0.05**2 * np.eye(n_targets)
    log_density = [
        multivariate_normal.logpdf(row, cov=covariance)
        for row, covariance in zip(noise, covariances, strict=True)
    ]
    return x, np.sin(2 * x + column) + noise, np.mean(log_density)


def sphere_views(n_samples, seed):
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n_samples, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    maps = np.random.default_rng(1000).normal(size=(2, 3, 10))
    views = np.tanh(points @ maps) + 0.1 * rng.normal(size=(2, n_samples, 10))
    return points, *views


def effective_rank(Z):
    share = np.linalg.eigvalsh(np.cov(Z.T))
    share = np.clip(share / share.sum(), 1e-300, None)
    return np.exp(-(share * np.log(share)).sum())


def compare_forms():
    problems = {
        "branches": (5, branches(N_TRAIN, 0), branches(N_TEST, 1)),
        "2 columns": (3, correlated(N_TRAIN, 2, 0), correlated(N_TEST, 2, 1)),
        "5 columns": (3, correlated(N_TRAIN, 5, 0), correlated(N_TEST, 5, 1)),
    }
    print(f"{'target':12s}{'covariances':13s}{'rank':>5s}{'above truth':>13s}{'s':>7s}")
    for name, (n_components, (X, Y, _), (X_test, Y_test, truth)) in problems.items():
        for form, rank in FORMS:
            start = time.perf_counter()
            mdn = MDNEmbedder(
                n_components,
                encoder="identity",
                covariance_type=form,
                rank=rank,
                random_state=0,
            ).fit(X, Y)
            seconds = time.perf_counter() - start
            above = truth - mdn.score(X_test, Y_test)
            print(f"{name:12s}{form:13s}{rank:5d}{above:13.3f}{seconds:7.1f}")


def compare_marginals():
    points, X, Y = sphere_views(4000, 0)
    test_points, X_test, Y_test = sphere_views(4000, 50)
    print(
        f"\n{'marginal':12s}{'weight':>7s}{'R^2':>8s}{'rank':>7s}{'trace':>9s}  score"
    )
    for marginal, weight in MARGINALS:
        mdn = MDNEmbedder(
            embedding_dim=3,
            target_encoder="mlp",
            marginal=marginal,
            marginal_weight=weight,
            max_iter=40,
            early_stopping=False,
            random_state=0,
        ).fit(X, target_view=Y)
        Z, Z_test = mdn.transform(X), mdn.transform(X_test)
        probe = LinearRegression().fit(Z, points).score(Z_test, test_points)
        print(
            f"{marginal:12s}{weight:7.1f}{probe:8.3f}{effective_rank(Z_test):7.2f}"
            f"{np.trace(np.cov(Z_test.T)):9.4f}{mdn.score(X_test, Y_test):7.2f}"
        )


if __name__ == "__main__":
    compare_forms()
    compare_marginals()
