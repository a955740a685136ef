"""From the arrays of a fit to the model that is trained on them."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from skgmje._backend import (
    as_tensor,
    private_torch_rng,
    resolve_device,
    resolve_random_state,
)
from skgmje._validation import check_rows, check_target_names, check_target_width
from skgmje.embedding._density import check_enough_rows
from skgmje.embedding._encoder_construction import EncoderConstructionMixin
from skgmje.embedding._inference import InferenceMixin
from skgmje.embedding._model import Encoders, JointModel
from skgmje.embedding._state import to_tensors
from skgmje.training import Trainer, Views
from skgmje.views import AugmentedViews, PairedViews, resolve_target

MAX_SEED = np.iinfo(np.int32).max


@dataclass
class Run:
    """What one fit works on."""

    model: JointModel
    X: np.ndarray
    target: np.ndarray | None
    views: Views
    seed: int
    attributes: dict[str, Any]
    trainer: Trainer | None = None

    @property
    def device(self) -> torch.device:
        return self.model.generator.device

    @property
    def held_out(self) -> Tensor | None:
        """Rows that were kept out of training."""
        return None if self.trainer is None else self.trainer.validation_rows


class ConstructionMixin(EncoderConstructionMixin, InferenceMixin):
    """Validate views and build networks, for new data or from a fitted state."""

    # The kind of target encoder where y is the second view and none is asked for;
    # None means the kind of the context encoder.
    _default_target_encoder: str | None = None

    # Last columns of X that are passed by the encoder.
    n_side_features = 0

    # Parameters of the estimator that this is mixed into, and its fitted state.
    target_encoder: Any
    target: str
    random_state: Any
    n_samples_seen_: int
    n_targets_in_: int
    _seed: int
    _training_state: dict[str, Any]

    @abstractmethod
    def _make_latent(self, encoders: Encoders, generator: torch.Generator) -> nn.Module:
        """Return the latent density to train over the embeddings of both views."""

    def _space(self, encoders: Encoders) -> str:
        """Say where embeddings are to lie: in the plane, on sphere or simplex."""
        return "plane"

    def _make_model(
        self, encoders: Encoders, latent: nn.Module, generator: torch.Generator
    ) -> JointModel:
        return JointModel(encoders, latent, generator)

    def _n_density_components(self) -> int:
        return 1

    def _n_latent_components(self) -> int:
        """Return how many rows the latent density needs at least to start from."""
        return 1

    def _shares_encoder(self, target: np.ndarray | None) -> bool:
        """Say whether one encoder embeds both views."""
        if isinstance(self.target_encoder, str) and self.target_encoder == "shared":
            return True
        return target is None and self.target_encoder is None

    def _check_shared(self, X: np.ndarray, target: np.ndarray | None) -> None:
        if target is None or not self._shares_encoder(target):
            return
        n_embedded = X.shape[1] - self.n_side_features
        if target.shape[1] != n_embedded:
            raise ValueError(
                "target_encoder='shared' needs views of equal width, but the encoder "
                f"is given {n_embedded} columns of X and the target view has "
                f"{target.shape[1]}; use target_encoder=None."
            )

    def _training_encoders(self) -> Encoders:
        """Return the encoders from which the training of a fitted estimator goes on."""
        return self._encoders()

    def _validate_views(
        self, X: Any, y: Any, target_view: Any, reset: bool
    ) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
        X = check_rows(self, X, ensure_min_samples=2, reset=reset)
        return X, *self._validate_target(X, y, target_view, reset)

    def _validate_target(
        self, X: np.ndarray, y: Any, target_view: Any, reset: bool
    ) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Return the target view as a matrix, and the attributes that a fit sets."""
        given = y if target_view is None else target_view
        target, source = resolve_target(X, y, target_view, self.target)
        is_column = target is not None and target.ndim == 1
        if target is not None:
            target = target.reshape(len(X), -1)
        if not reset:
            self._check_same_views(target, source, given)
            return target, {}
        self._check_shared(X, target)
        check_enough_rows(self._n_density_components(), len(X))
        attributes: dict[str, Any] = {"target_source_": source}
        if target is not None:
            attributes["_target_is_column"] = is_column
            attributes["n_targets_in_"] = target.shape[1]
            columns = getattr(given, "columns", None)
            if columns is not None and all(isinstance(name, str) for name in columns):
                attributes["target_feature_names_in_"] = np.array(columns, dtype=object)
        return target, attributes

    def _check_same_views(
        self, target: np.ndarray | None, source: str, given: Any
    ) -> None:
        if (source == "augment") != (self.target_source_ == "augment"):
            raise ValueError(
                f"The first batch took its target from {self.target_source_!r}, this "
                f"one from {source!r}; pass the same kind of views at every call."
            )
        if target is not None:
            check_target_names(given, self._target_names())
            check_target_width(self, target, self.n_targets_in_)

    # ------------------------------------------------------------- start and resume

    def _start(
        self, X: np.ndarray, target: np.ndarray | None, attributes: dict[str, Any]
    ) -> Run:
        """Build networks for new data."""
        device = resolve_device(self.device)
        random_state = resolve_random_state(self.random_state)
        seed = int(random_state.randint(MAX_SEED))
        generator = torch.Generator(device=device).manual_seed(seed)
        weights = torch.Generator().manual_seed(seed)
        kind = self._target_encoder_kind(target)
        x_moments = self._moments(X, is_image=self.input_shape is not None)
        attributes["x_mean_"], attributes["x_scale_"] = x_moments
        y_moments = x_moments
        if target is not None:
            if self._shares_encoder(target):
                mean, scale = (m[: target.shape[1]] for m in x_moments)
                y_moments = mean, scale
            else:
                y_moments = self._moments(target, is_image=kind == "conv")
            attributes["y_mean_"], attributes["y_scale_"] = y_moments
        with self._user_rng(seed, device):
            encoder = self._make_encoder(
                self.encoder, X, x_moments, weights, device, self.n_side_features
            )
            if self._shares_encoder(target):
                encoders = Encoders(encoder, encoder)
            else:
                encoders = Encoders(
                    encoder,
                    self._make_encoder(
                        kind,
                        X if target is None else target,
                        y_moments,
                        weights,
                        device,
                    ),
                )
            space = self._space(encoders)
            for each in set(encoders):
                each.put_on(space)
            attributes["_n_features_out"] = encoders.widths()[0]
            latent = self._make_latent(encoders, weights).to(device)
        attributes["score_unit_"] = (
            "nats of conditional log-likelihood"
            if self._scores_likelihood(encoders.target)
            else "nats of mutual information"
        )
        model = self._make_model(encoders, latent, generator)
        views = self._make_views(X, target, model.fitted_encoders)
        return Run(model, X, target, views, seed, attributes)

    def _resume(
        self, X: np.ndarray, target: np.ndarray | None, attributes: dict[str, Any]
    ) -> Run:
        """Rebuild the training model of a fitted estimator."""
        device = resolve_device(self.device)
        sequence = np.random.SeedSequence([self._seed, self.n_samples_seen_])
        seed = int(sequence.generate_state(1)[0])
        generator = torch.Generator(device=device).manual_seed(seed)
        encoders = self._training_encoders().map(
            lambda encoder: encoder.for_training().to(device)
        )
        weights = torch.Generator().manual_seed(seed)
        latent = self._make_latent(encoders, weights).to(device)
        model = self._make_model(encoders, latent, generator)
        if self._training_state:
            state = to_tensors(self._training_state["memory"], device)
            model.memory.load_state_dict(state)
            model.started = self._training_state["started"]
        views = self._make_views(X, target, model.fitted_encoders)
        return Run(model, X, target, views, self._seed, attributes)

    def _target_encoder_kind(self, target: np.ndarray | None) -> Any:
        """Return what encodes the target view."""
        if self._shares_encoder(target):
            return self.encoder
        if self.target_encoder is not None:
            return self.target_encoder
        return self._default_target_encoder or self.encoder

    def _make_views(
        self, X: np.ndarray, target: np.ndarray | None, encoders: Encoders
    ) -> Views:
        encoder, target_encoder = encoders
        device = encoder.mean.device
        context = encoder.standardise(as_tensor(X, device)).float()
        if target is not None:
            return PairedViews(
                context, target_encoder.standardise(as_tensor(target, device)).float()
            )
        return AugmentedViews(
            context, self.augmentation, encoder.mean.float(), encoder.scale.float()
        )

    def _user_rng(self, seed: int, device: torch.device):
        """Guard the global RNG where code of the user's may draw from it."""
        parts = (self.encoder, self.target_encoder, self.augmentation)
        return private_torch_rng(seed, device, any(map(callable, parts)))
