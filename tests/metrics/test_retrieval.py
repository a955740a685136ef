"""Retrieval of the right target: the ranking, unreachable targets and tables."""

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from skgmje import ContrastiveEmbedder, GJEEmbedder, LinearContrastive
from skgmje.metrics import retrieval_score


def views(n_samples=200, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, 3))
    return X, X[:, :2] + noise * rng.normal(size=(n_samples, 2))


def gje(X, Y):
    return GJEEmbedder(encoder="identity", target="y").fit(X, Y)


def linear(X, Y):
    return LinearContrastive().fit(X, Y)


def contrastive(X, Y):
    return ContrastiveEmbedder(
        2, hidden_layer_sizes=(8,), max_iter=3, random_state=0
    ).fit(X, Y)


def brute_score(log_prob, k):
    """Recall at k from densities of candidates (rows) given contexts, one by one."""
    log_odds = log_prob - logsumexp(log_prob, axis=1, keepdims=True)
    hits = [(column >= column[i]).sum() <= k for i, column in enumerate(log_odds.T)]
    return np.mean(hits)


@pytest.mark.parametrize("objective", ["inner_conditional", "quadratic_target"])
def test_linear_encoders_are_ranked_by_their_conditional_density(objective):
    X, Y = views(noise=1.0)
    model = LinearContrastive(objective).fit(X, Y)
    covariance = model.conditional_covariance_
    log_prob = np.stack(
        [multivariate_normal(m, covariance).logpdf(Y) for m in model.predict(X)], axis=1
    )
    for k in (1, 10, 50):
        assert retrieval_score(model, X, Y, k=k) == brute_score(log_prob, k)


@pytest.mark.parametrize("maker", [gje, contrastive])
def test_embedders_are_ranked_by_the_scores_of_all_pairs(maker):
    X, Y = views()
    model = maker(X, Y)
    scores = [model.score_samples(np.tile(x, (len(Y), 1)), Y) for x in X]
    expected = brute_score(np.stack(scores, axis=1), 10)
    assert retrieval_score(model, X, Y) == pytest.approx(expected, abs=0.011)


@pytest.mark.parametrize("maker", [gje, linear])
def test_targets_that_no_context_reaches_are_misses(maker):
    X, Y = views()
    model = maker(X, Y)
    far = Y * 1e160
    assert retrieval_score(model, X, far) == 0
    far[20:] = Y[20:]
    # Out of reach, they are in nobody's way either.
    near = retrieval_score(model, X, Y)
    assert 0 < retrieval_score(model, X, far) <= near + 0.1


@pytest.mark.parametrize("maker", [gje, linear])
@pytest.mark.parametrize("library", [pd, pl])
@pytest.mark.filterwarnings("error")
def test_tables_keep_the_names_of_their_columns(library, maker):
    X, Y = views()
    table = library.DataFrame(dict(zip("abc", X.T, strict=True)))
    targets = library.DataFrame(dict(zip("uv", Y.T, strict=True)))
    model = maker(table, targets)
    found = retrieval_score(model, table, targets, n_candidates=60)
    assert found == retrieval_score(maker(X, Y), X, Y, n_candidates=60)
    with pytest.raises(ValueError, match="feature names should match"):
        retrieval_score(model, table[["b", "a", "c"]], targets)
    with pytest.raises(ValueError, match="should have the columns"):
        retrieval_score(model, table, targets[["v", "u"]])


def test_lists_are_taken():
    X, Y = views(40)
    model = gje(X, Y)
    assert retrieval_score(model, X.tolist(), Y.tolist()) == retrieval_score(
        model, X, Y
    )


def test_views_must_have_rows_and_one_length():
    X, Y = views(40)
    model = gje(X, Y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        retrieval_score(model, X, Y[:-1])
    with pytest.raises(ValueError, match="no rows; pass at least one pair"):
        retrieval_score(model, X[:0], Y[:0])
