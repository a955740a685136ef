"""Retrieval of the right target among many candidates."""

import numpy as np
import torch
from torch import Tensor

from skgmje._backend import as_tensor, resolve_device
from skgmje._validation import check_consistent_length, safe_indexing
from skgmje.latent import pairwise_log_prob
from skgmje.linear import LinearContrastive


def retrieval_score(estimator, X, Y, *, k=10, n_candidates=1000):
    """Share of rows whose own target is among the k likeliest of many candidates.

    For each context, the targets of the same group of at most `n_candidates` rows are
    ranked by ``log p(z_t | z_c) - log p(z_t)``, with the mean over the contexts of the
    group as ``p(z_t)``: the posterior log-odds that a candidate is the right one. It
    compares models across target encoders, where likelihoods cannot.

    Parameters
    ----------
    estimator : embedder or LinearContrastive
        A fitted embedder of pairs.
    X : array-like of shape (n_samples, n_features)
        Context view of rows that were not fitted.
    Y : array-like of shape (n_samples, n_targets)
        Target view of the same rows.
    k : int, default=10
        Number of candidates that are returned.
    n_candidates : int, default=1000
        Size of a group; chance is ``k / n_candidates``.

    Returns
    -------
    recall : float
        Recall at k, from 0 to 1. A target that no context of its group can have, as
        far as float64 can tell, ranks last.

    Raises
    ------
    ValueError
        If the views differ in length, are empty, or have other columns than in fit.

    Examples
    --------
    >>> from sklearn.datasets import load_linnerud
    >>> from skgmje import GJEEmbedder
    >>> from skgmje.metrics import retrieval_score
    >>> X, Y = load_linnerud(return_X_y=True)
    >>> gje = GJEEmbedder(encoder="identity").fit(X, Y)
    >>> bool(retrieval_score(gje, X, Y, k=5) >= 5 / 20)
    True
    """
    check_consistent_length(X, Y)
    n_samples = len(X)
    if n_samples == 0:
        raise ValueError("The views have no rows; pass at least one pair to retrieve.")
    hits = 0
    for rows in np.array_split(np.arange(n_samples), -(-n_samples // n_candidates)):
        # Tables stay tables, so that the estimator sees the names of their columns.
        views = safe_indexing(X, rows), safe_indexing(Y, rows)
        rank = _ranks(_log_density_of_pairs(estimator, *views))
        hits += int(torch.count_nonzero(rank <= k))
    return hits / n_samples


def _ranks(log_prob: Tensor) -> Tensor:
    """Rank of each context's own target, from 1; ties count against it."""
    log_odds = log_prob - log_prob.logsumexp(1, keepdim=True)
    # Of a target that is out of every context's reach the log-odds are NaN.
    log_odds = log_odds.masked_fill(log_odds.isnan(), -torch.inf)
    return (log_odds >= log_odds.diagonal()).sum(0)


def _log_density_of_pairs(estimator, X, Y) -> Tensor:
    """Log-density of targets (rows) given contexts, up to a constant of each target."""
    if isinstance(estimator, LinearContrastive):
        target = as_tensor(estimator._check_target(Y), torch.device("cpu"))
        return pairwise_log_prob(estimator.conditional(X), target)
    z_c, z_t = (
        as_tensor(z, resolve_device(estimator.device))
        for z in (estimator.transform(X), estimator.transform_target(Y))
    )
    return estimator._pairwise_log_density(z_c, z_t)
