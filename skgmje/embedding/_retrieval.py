"""Questions that a contrastive model answers with rows given after the fit."""

import numpy as np

from skgmje.embedding._index import EmbeddingIndex


class RetrievalMixin:
    """Retrieval and classification with rows that were given after the fit."""

    def index_targets(self, Y, sample_weight=None):
        """Store targets, to be found or weighted by contexts.

        Parameters
        ----------
        Y : array-like of shape (n_stored, n_targets)
            Target view.
        sample_weight : array-like of shape (n_stored,), default=None
            Weights of the rows; None means that all are equal.

        Returns
        -------
        index : EmbeddingIndex
            The index, which is asked with rows of X.
        """
        return EmbeddingIndex(self, "targets", Y, sample_weight)

    def index_contexts(self, X, sample_weight=None):
        """Store contexts, to be found or weighted by targets: the reverse direction.

        Parameters
        ----------
        X : array-like of shape (n_stored, n_features)
            Context view.
        sample_weight : array-like of shape (n_stored,), default=None
            Weights of the rows; None means that all are equal.

        Returns
        -------
        index : EmbeddingIndex
            The index, which is asked with rows of Y.
        """
        return EmbeddingIndex(self, "contexts", X, sample_weight)

    def retrieve(self, X, targets, k=5, *, return_distance=True):
        """Find the targets that fit each context best.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.
        targets : array-like of shape (n_candidates, n_targets)
            Candidates of the target view. To ask the same ones again, keep
            ``index_targets(targets)`` and call its method `kneighbors`.
        k : int, default=5
            Number of candidates for each row.
        return_distance : bool, default=True
            Whether to return distances, too.

        Returns
        -------
        distances : ndarray of shape (n_samples, k)
            As :meth:`EmbeddingIndex.kneighbors` says. Only if asked for.
        indices : ndarray of shape (n_samples, k)
            Rows of `targets`, the best first.
        """
        return self.index_targets(targets).kneighbors(X, k, return_distance)

    def retrieve_context(self, Y, contexts, k=5, *, return_distance=True):
        """Find the contexts that fit each target best: the reverse direction.

        Parameters
        ----------
        Y : array-like of shape (n_samples, n_targets)
            Target view.
        contexts : array-like of shape (n_candidates, n_features)
            Candidates of the context view.
        k : int, default=5
            Number of candidates for each row.
        return_distance : bool, default=True
            Whether to return distances, too.

        Returns
        -------
        distances : ndarray of shape (n_samples, k)
            As :meth:`EmbeddingIndex.kneighbors` says. Only if asked for.
        indices : ndarray of shape (n_samples, k)
            Rows of `contexts`, the best first.
        """
        return self.index_contexts(contexts).kneighbors(Y, k, return_distance)

    def classify(self, X, class_targets, *, class_prior=None):
        """Say which of a few targets is likeliest: classification without labels.

        Probabilities are those of ``index_targets(class_targets,
        class_prior).weights(X)``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.
        class_targets : array-like of shape (n_classes, n_targets)
            One row of the target view for each class.
        class_prior : array-like of shape (n_classes,), default=None
            Prior probabilities of the classes; None means that all are equal.

        Returns
        -------
        classes : ndarray of shape (n_samples,)
            Rows of `class_targets`.

        Raises
        ------
        ValueError
            If `class_prior` has another length than `class_targets`.
        """
        n_classes = len(class_targets)
        if class_prior is not None and np.shape(class_prior) != (n_classes,):
            raise ValueError(
                f"class_prior must have one probability for each of the {n_classes} "
                f"classes; got shape {np.shape(class_prior)}."
            )
        return self.index_targets(class_targets, class_prior).weights(X).argmax(1)
