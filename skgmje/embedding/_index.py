"""Stored embeddings of one view, searched and weighted from the other."""

import copy
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmje._backend import as_numpy, as_tensor, make_generator, resolve_device
from skgmje._validation import check_array, check_consistent_length, check_sample_weight

# Rows that are encoded to be stored, and queries that search them together.
STORED_ROWS, QUERY_ROWS = 2**16, 256
# Numbers held at once in a search.
BLOCK_NUMBERS = 2**22


class EmbeddingIndex:
    r"""Stored rows of one view, to be retrieved or weighted by rows of the other.

    It is the empirical model of contrastive learning: a stored row j is drawn for a
    query with probability

    .. math:: w_j = \frac{p_j \exp \ell(\text{query}, j)}
              {\sum_i p_i \exp \ell(\text{query}, i)}

    where :math:`\ell` is the tilting of the embedder and p are the weights of the rows.
    :meth:`ContrastiveEmbedder.index_targets` and
    :meth:`ContrastiveEmbedder.index_contexts` make it. All rows are searched, block by
    block. The index keeps the encoders that it was made with: another fit of the
    embedder does not change it.

    Parameters
    ----------
    embedder : ContrastiveEmbedder
        A fitted embedder.
    stored : {'targets', 'contexts'}
        Which view is stored.
    rows : array-like of shape (n_stored, n_columns)
        Rows of that view.
    sample_weight : array-like of shape (n_stored,), default=None
        Weights of the rows, such as prior probabilities of classes; None means that all
        are equal. The order of neighbours does not depend on them.

    Attributes
    ----------
    embeddings : ndarray of shape (n_stored, embedding_dim)
        The stored embeddings, in the float type of the rows.

    References
    ----------
    Baptista, Stuart and Tran, "A Mathematical Perspective on Contrastive Learning",
    arXiv:2505.24134 (2025), equation 28 and algorithms 1 and 2.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje import ContrastiveEmbedder
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 3))
    >>> Y = X @ rng.normal(size=(3, 4))
    >>> embedder = ContrastiveEmbedder(3, max_iter=20, random_state=0).fit(X, Y)
    >>> index = embedder.index_targets(Y)
    >>> distances, rows = index.kneighbors(X[:2], n_neighbors=3)
    >>> rows.shape
    (2, 3)
    >>> index.moments(X[:2], Y).shape
    (2, 4)
    """

    def __init__(self, embedder, stored, rows, sample_weight=None):
        check_is_fitted(embedder)
        # A snapshot; the copy shares no network with the embedder.
        self.embedder, self.stored = copy.copy(embedder), stored
        rows = self._validate(rows, stored)
        # In blocks, since embeddings are of double precision until they are stored.
        self.embeddings = np.empty((len(rows), embedder._n_features_out), rows.dtype)
        for block in gen_batches(len(rows), STORED_ROWS):
            self.embeddings[block] = as_numpy(self._encode(rows[block], stored))
        self._log_weights = None
        if sample_weight is not None:
            weights = check_sample_weight(sample_weight, rows)
            with np.errstate(divide="ignore"):
                self._log_weights = np.log(weights / weights.sum())

    def __len__(self):
        return len(self.embeddings)

    # ---------------------------------------------------------------------- search

    def kneighbors(self, rows, n_neighbors=5, return_distance=True):
        """Find the stored rows that fit each query best.

        Parameters
        ----------
        rows : array-like of shape (n_queries, n_columns)
            Rows of the view that is not stored.
        n_neighbors : int, default=5
            Number of stored rows for each query.
        return_distance : bool, default=True
            Whether to return distances, too.

        Returns
        -------
        distances : ndarray of shape (n_queries, n_neighbors)
            In ascending order: cosine distances, Euclidean distances for the quadratic
            tilting, and negative inner products for ``'inner'``. Only if asked for.
        indices : ndarray of shape (n_queries, n_neighbors)
            Numbers of the stored rows.

        Raises
        ------
        ValueError
            If `n_neighbors` is not between one and the number of stored rows.
        """
        whole = isinstance(n_neighbors, Integral)
        if not whole or not 1 <= int(n_neighbors) <= len(self):
            raise ValueError(
                "Expected 1 <= n_neighbors <= n_stored, but n_neighbors = "
                f"{n_neighbors!r} and n_stored = {len(self)}."
            )
        queries = self._queries(rows)
        found = [self._top(z, int(n_neighbors)) for z in queries.split(QUERY_ROWS)]
        similarities, indices = (torch.cat(part) for part in zip(*found, strict=True))
        if not return_distance:
            return as_numpy(indices)
        return as_numpy(self._distance(similarities)), as_numpy(indices)

    def _top(self, z: Tensor, n_neighbors: int) -> tuple[Tensor, Tensor]:
        best = z.new_empty(len(z), 0)
        indices = torch.empty(len(z), 0, dtype=torch.int64, device=z.device)
        for block in self._blocks(len(z)):
            similarity = self._similarity(z, block)
            similarity, rows = similarity.topk(min(n_neighbors, similarity.shape[1]))
            best = torch.cat([best, similarity], dim=1)
            indices = torch.cat([indices, rows + block.start], dim=1)
            best, keep = best.topk(min(n_neighbors, best.shape[1]))
            indices = indices.gather(1, keep)
        return best, indices

    # --------------------------------------------------------------------- weights

    def weights(self, rows):
        """Return the probabilities of all stored rows for each query.

        Parameters
        ----------
        rows : array-like of shape (n_queries, n_columns)
            Rows of the view that is not stored.

        Returns
        -------
        weights : ndarray of shape (n_queries, n_stored)
            Each row sums to one.
        """
        return self._weigh(rows, len(self), lambda weights: weights)

    def sample(self, rows, n=1, *, random_state=None):
        """Draw stored rows for each query, with their probabilities.

        Parameters
        ----------
        rows : array-like of shape (n_queries, n_columns)
            Rows of the view that is not stored.
        n : int, default=1
            Number of draws for each query.
        random_state : int, RandomState instance or None, default=None
            Seed of this call. None draws anew at every call.

        Returns
        -------
        indices : ndarray of shape (n_queries, n)
            Numbers of the stored rows, with replacement.

        Raises
        ------
        ValueError
            If `n` is less than one.
        """
        if not isinstance(n, Integral) or n < 1:
            raise ValueError(
                f"The number of draws must be an integer of at least one; got {n!r}."
            )
        generator = make_generator(random_state, self._device)

        def draw(weights: Tensor) -> Tensor:
            total = weights.cumsum(1)
            uniform = torch.rand(
                len(weights), int(n), generator=generator, dtype=total.dtype,
                device=total.device,
            )  # fmt: skip
            drawn = torch.searchsorted(total, uniform * total[:, -1:], right=True)
            return drawn.clamp(max=len(self) - 1)

        return self._weigh(rows, len(self), draw)

    def moments(self, rows, values=None, *, return_cov=False):
        """Average over the stored rows by their probabilities.

        Parameters
        ----------
        rows : array-like of shape (n_queries, n_columns)
            Rows of the view that is not stored.
        values : array-like of shape (n_stored, n_values), default=None
            What is averaged, such as the stored rows in their own units; None means
            the stored embeddings.
        return_cov : bool, default=False
            Whether to return covariances, too.

        Returns
        -------
        mean : ndarray of shape (n_queries, n_values)
            Conditional means.
        covariance : ndarray of shape (n_queries, n_values, n_values)
            Conditional covariances. Only if asked for.
        """
        if values is None:
            values = self.embeddings
        values = check_array(values, dtype=[np.float64, np.float32])
        check_consistent_length(values, self.embeddings)
        value = as_tensor(values, self._device)
        mean = self._weigh(rows, len(self), lambda weights: weights @ value)
        if not return_cov:
            return mean

        def covariance(weights: Tensor) -> Tensor:
            centre = (weights @ value).unsqueeze(1)
            deviation = weights.sqrt().unsqueeze(2) * (value - centre)
            return deviation.mT @ deviation

        return mean, self._weigh(rows, len(self) * value.shape[1], covariance)

    def _weigh(
        self, rows: Any, numbers_per_query: int, function: Callable[[Tensor], Tensor]
    ) -> np.ndarray:
        """Apply a function to the weights of blocks of queries."""
        temperature = self.embedder.temperature_
        parts = []
        queries = self._queries(rows)
        for z in queries.split(max(1, 4 * BLOCK_NUMBERS // numbers_per_query)):
            logits = torch.cat(
                [self._similarity(z, block) for block in self._blocks(len(z))], dim=1
            ).div_(temperature)
            if self._log_weights is not None:
                logits += as_tensor(self._log_weights, z.device)
            parts.append(as_numpy(function(logits.softmax(1))))
        return np.concatenate(parts)

    # --------------------------------------------------------------------- helpers

    @property
    def _device(self) -> torch.device:
        return resolve_device(self.embedder.device)

    def _blocks(self, n_queries: int) -> Iterator[slice]:
        return gen_batches(len(self), max(1, BLOCK_NUMBERS // n_queries))

    def _validate(self, rows: Any, view: str) -> np.ndarray:
        if view == "contexts":
            return self.embedder._check_context(rows)
        return self.embedder._check_target(rows)

    def _encode(self, rows: np.ndarray, view: str) -> Tensor:
        encoders = self.embedder._encoders()
        encoder = encoders.context if view == "contexts" else encoders.target
        return self.embedder._embed_rows(encoder, rows)

    def _queries(self, rows: Any) -> Tensor:
        view = "targets" if self.stored == "contexts" else "contexts"
        return self._encode(self._validate(rows, view), view)

    def _similarity(self, z: Tensor, block: slice) -> Tensor:
        """Logits of queries and a block of stored rows, times the temperature."""
        stored = as_tensor(self.embeddings[block], z.device)
        similarity = z @ stored.mT  # Of unit vectors, with cosines.
        if self.embedder.tilting == "quadratic":
            similarity -= 0.5 * z.square().sum(1, keepdim=True)
            similarity -= 0.5 * stored.square().sum(1)
        return similarity

    def _distance(self, similarity: Tensor) -> Tensor:
        if self.embedder.tilting == "cosine":
            return (1 - similarity).clamp(min=0)
        if self.embedder.tilting == "quadratic":
            return (-2 * similarity).clamp(min=0).sqrt()
        return -similarity
