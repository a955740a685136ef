"""Retrieval of the right target among many candidates."""

import numpy as np
import torch

from skgmje._backend import as_tensor, resolve_device


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
        Recall at k, from 0 to 1.

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
    X, Y = np.asarray(X), np.asarray(Y)
    hits = 0
    for rows in np.array_split(np.arange(len(X)), -(-len(X) // n_candidates)):
        log_prob = _log_density_of_pairs(estimator, X[rows], Y[rows])
        log_odds = log_prob - log_prob.logsumexp(1, keepdim=True)
        # Candidates that are as likely as the right one count against it.
        rank = (log_odds >= log_odds.diagonal()).sum(0)
        hits += int(torch.count_nonzero(rank <= k))
    return hits / len(X)


def _log_density_of_pairs(estimator, X: np.ndarray, Y: np.ndarray) -> torch.Tensor:
    """Log-density of targets (rows) given contexts, up to a constant of each target."""
    if hasattr(estimator, "similarity"):
        return torch.from_numpy(estimator.similarity(X, Y).T)
    z_c, z_t = (
        as_tensor(z, resolve_device(estimator.device))
        for z in (estimator.transform(X), estimator.transform_target(Y))
    )
    return estimator._pairwise_log_density(z_c, z_t)
