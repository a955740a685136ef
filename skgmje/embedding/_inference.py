"""What a fitted joint embedding answers: embeddings, conditionals, samples, scores."""

from abc import abstractmethod
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import gen_batches
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmje._backend import as_numpy, make_generator, resolve_device
from skgmje._validation import check_consistent_length, check_rows, check_target
from skgmje.embedding._model import Encoders, encode, encode_views
from skgmje.latent import contrastive_bound, pairwise_log_prob
from skgmje.mixture import MultivariateNormalMixture
from skgmje.networks import Encoder

# Rows whose conditional mixtures are held at once.
CONDITIONAL_ROWS = 1024
# Contexts among which a mutual information is estimated; it bounds the estimate.
SCORE_CONTEXTS = 1000
# Every score of one model draws the same views.
SCORE_SEED = 0


class InferenceMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin):
    """Methods of a fitted joint embedding."""

    # Set by the estimator that these methods are mixed into.
    augmentation: Any
    device: Any
    n_features_in_: int
    encoder_: Encoder
    target_encoder_: Encoder
    target_source_: str

    # ---------------------------------------------------------------------- hooks

    @abstractmethod
    def _conditional(self, z_c: Tensor) -> MultivariateNormalMixture:
        """Return p(z_t | z_c) for a batch of context embeddings."""

    @abstractmethod
    def _context_density(self) -> MultivariateNormalMixture:
        """Return p(z_c)."""

    @abstractmethod
    def _target_density(self) -> MultivariateNormalMixture:
        """Return p(z_t)."""

    @abstractmethod
    def _draw_pairs(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n pairs of embeddings from the joint density."""

    def _pairwise_log_density(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Log-density of every target (rows) given every context (columns).

        A constant for each target makes no difference.
        """
        return pairwise_log_prob(self._conditional(z_c), z_t)

    def _scores_likelihood(self, target_encoder: Encoder) -> bool:
        """Say whether the score is a likelihood, and not a mutual information."""
        return target_encoder.is_identity

    # ----------------------------------------------------------------- embeddings

    def transform(self, X):
        """Embed the context view.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.

        Returns
        -------
        Z : ndarray of shape (n_samples, embedding_dim)
            Embeddings, in the float type of X. An identity encoder returns X.
        """
        X = self._check_context(X)
        return as_numpy(encode(self._encoders().context, X)).astype(X.dtype, copy=False)

    def transform_target(self, Y):
        """Embed the target view.

        Parameters
        ----------
        Y : array-like of shape (n_samples, n_targets)
            Target view; where both views were drawn from X, rows of X.

        Returns
        -------
        Z : ndarray of shape (n_samples, target_embedding_dim)
            Embeddings, in the float type of Y. An identity encoder returns Y.
        """
        check_is_fitted(self)
        Y = self._check_target(Y)
        return as_numpy(encode(self._encoders().target, Y)).astype(Y.dtype, copy=False)

    # --------------------------------------------------------------- conditionals

    def conditional(self, X):
        """Conditional density of the target embedding for each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.

        Returns
        -------
        conditional : MultivariateNormalMixture
            Batch of `n_samples` mixtures, in units of y with an identity target
            encoder, of the latent space otherwise.
        """
        X = self._check_context(X)
        return self._conditional(encode(self._encoders().context, X))

    def predict(self, X):
        """Conditional mean of the target embedding.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.

        Returns
        -------
        mean : ndarray of shape (n_samples, target_embedding_dim) or (n_samples,)
            Means, in units of y with an identity target encoder; one-dimensional if
            y was.
        """
        X = self._check_context(X)
        mean = self._map_rows(X, lambda conditional, rows: conditional.mean)
        column = getattr(self, "_target_is_column", False)
        return mean[:, 0] if column and self.target_encoder_.is_identity else mean

    def sample_conditional(self, X, n=1, *, random_state=None):
        """Draw targets for each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.
        n : int, default=1
            Number of draws for each row.
        random_state : int, RandomState instance or None, default=None
            Seed of this call. None draws anew at every call.

        Returns
        -------
        draws : ndarray of shape (n_samples, n, target_embedding_dim)
            Draws, in units of y with an identity target encoder.

        Raises
        ------
        ValueError
            If `n` is less than one.
        """
        X = self._check_context(X)
        _check_number_of_draws(n)
        generator = make_generator(random_state, resolve_device(self.device))
        return self._map_rows(
            X,
            lambda conditional, rows: conditional.sample(
                (n,), generator=generator
            ).movedim(0, 1),
        )

    def sample(self, n=1, *, random_state=None):
        """Draw pairs of embeddings from the joint density.

        Parameters
        ----------
        n : int, default=1
            Number of pairs.
        random_state : int, RandomState instance or None, default=None
            Seed of this call. None draws anew at every call.

        Returns
        -------
        Z_c : ndarray of shape (n, embedding_dim)
            Context embeddings, in random order of components.
        Z_t : ndarray of shape (n, target_embedding_dim)
            Target embeddings.

        Raises
        ------
        ValueError
            If `n` is less than one.
        """
        check_is_fitted(self)
        _check_number_of_draws(n)
        generator = make_generator(random_state, resolve_device(self.device))
        z_c, z_t = self._draw_pairs(n, generator)
        return as_numpy(z_c), as_numpy(z_t)

    # --------------------------------------------------------------------- scores

    def score_samples(self, X, y=None):
        """Log-density of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.
        y : array-like of shape (n_samples, n_targets), default=None
            Target view.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            In nats. Without y, ``log p(z_c)``, which is low for unusual rows. With y,
            ``log p(z_t | z_c)`` if the target encoder is the identity, and
            ``log p(z_t | z_c) - log p(z_t)`` otherwise.

        Raises
        ------
        ValueError
            If y is given where both views were drawn from X.
        """
        if y is None:
            return self._context_log_density(X)
        X = self._check_context(X)
        if self.target_source_ == "augment":
            raise ValueError(
                "Both views were drawn from X, so there is no target view to score; "
                "call score_samples(X), or score(X) for the agreement of two views."
            )
        return self._pair_scores(X, self._check_target(y, like=X))

    def score(self, X, y=None, *, target_view=None):
        """How well the context tells the target, on rows that were not fitted.

        With an identity target encoder, the mean conditional log-likelihood. With a
        learned one a likelihood means nothing, since it grows without bound as the
        latent space shrinks; the score is then a lower bound on the mutual information
        of the views, ``mean log [p(z_t | z_c) / mean_j p(z_t | z_c^j)]`` over groups of
        at most 1,000 rows. On average no encoder can raise it above the mutual
        information of the data; it never exceeds the logarithm of the number of rows,
        is zero for a point and at most log K for K clusters.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.
        y : array-like of shape (n_samples, n_targets), default=None
            Target view. Ignored where both views were drawn from X.
        target_view : array-like of shape (n_samples, n_targets), default=None
            Target view that wins over y, as in `fit`.

        Returns
        -------
        score : float
            In nats a sample; `score_unit_` says of what.

        Raises
        ------
        ValueError
            If the target view is missing or has another width.
        """
        X = self._check_context(X)
        if target_view is None and np.ndim(y) == 1:
            self._refuse_labels()
        target = self._score_target(X, y if target_view is None else target_view)
        is_likelihood = self._scores_likelihood(self.target_encoder_)
        if target is not None and is_likelihood:
            return float(np.mean(self._pair_scores(X, target)))
        z_c, z_t = encode_views(
            self._encoders(), X, target, self.augmentation, SCORE_SEED
        )
        if is_likelihood:
            parts = zip(
                z_c.split(CONDITIONAL_ROWS), z_t.split(CONDITIONAL_ROWS), strict=True
            )
            log_prob = [self._conditional(c).log_prob(t) for c, t in parts]
            return float(torch.cat(log_prob).mean())
        order = np.random.default_rng(SCORE_SEED).permutation(len(X))
        groups = np.array_split(order, -(-len(X) // SCORE_CONTEXTS))
        bounds = [
            float(contrastive_bound(self._pairwise_log_density(z_c[rows], z_t[rows])))
            for rows in groups
        ]
        return float(np.average(bounds, weights=[len(rows) for rows in groups]))

    def _pair_scores(self, X: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Score validated pairs, as `score_samples` says."""
        z_t = encode(self._encoders().target, target)
        log_prob = self._log_conditional(X, z_t)
        if self._scores_likelihood(self.target_encoder_):
            return log_prob
        return log_prob - as_numpy(self._target_density().log_prob(z_t))

    def _context_log_density(self, X: Any) -> np.ndarray:
        """Return log p(z_c) of each row."""
        X = self._check_context(X)
        density = self._context_density()
        z_c = encode(self._encoders().context, X)
        return np.concatenate(
            [
                as_numpy(density.log_prob(z_c[rows]))
                for rows in gen_batches(len(X), CONDITIONAL_ROWS)
            ]
        )

    def _conditional_log_density(self, X: Any, y: Any) -> np.ndarray:
        """Return log p(z_t | z_c) of each pair, also where it has no units."""
        X = self._check_context(X)
        target = self._check_target(y, like=X)
        return self._log_conditional(X, encode(self._encoders().target, target))

    def _log_conditional(self, X: np.ndarray, z_t: Tensor) -> np.ndarray:
        return self._map_rows(
            X, lambda conditional, rows: conditional.log_prob(z_t[rows])
        )

    def _refuse_labels(self) -> None:
        if self.target_source_ == "target_view":
            raise ValueError(
                "This estimator was fitted with target_view=, so a one-dimensional y "
                "is taken for labels; pass target_view= to score too."
            )

    def _score_target(self, X: np.ndarray, y: Any) -> np.ndarray | None:
        if self.target_source_ == "augment":
            return None
        if y is None:
            raise ValueError(
                f"This {type(self).__name__} was fitted with a target view, so score "
                "needs one too: pass y (or target_view). score_samples(X) gives the "
                "density of X alone."
            )
        return self._check_target(y, like=X)

    # -------------------------------------------------------------------- helpers

    def _encoders(self) -> Encoders:
        """Return the fitted encoders, on the device of now."""
        device = resolve_device(self.device)
        return Encoders(self.encoder_, self.target_encoder_).map(
            lambda encoder: encoder.to(device)
        )

    def _on_device(self, density: MultivariateNormalMixture):
        return density.to(device=resolve_device(self.device))

    def _check_context(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return check_rows(self, X, reset=False)

    def _check_target(self, Y: Any, like: np.ndarray | None = None) -> np.ndarray:
        width = getattr(self, "n_targets_in_", self.n_features_in_)
        Y = check_target(self, Y, self._target_names(), width)
        if like is not None:
            check_consistent_length(like, Y)
        return Y

    def _target_names(self) -> np.ndarray | None:
        """Return the names of the target's columns, which may be those of X."""
        of_context = self.target_source_ == "augment"
        name = "feature_names_in_" if of_context else "target_feature_names_in_"
        return getattr(self, name, None)

    @torch.no_grad()
    def _map_rows(
        self,
        X: np.ndarray,
        function: Callable[[MultivariateNormalMixture, slice], Tensor],
    ) -> np.ndarray:
        """Apply a function to the conditional mixtures of blocks of rows."""
        encoder = self._encoders().context
        parts = []
        for rows in gen_batches(len(X), CONDITIONAL_ROWS):
            conditional = self._conditional(encode(encoder, X[rows]))
            parts.append(as_numpy(function(conditional, rows)))
        return np.concatenate(parts)


def _check_number_of_draws(n: Any) -> None:
    if not isinstance(n, Integral) or n < 1:
        raise ValueError(
            f"The number of draws must be an integer of at least one; got {n!r}."
        )
