"""The estimator that all joint embeddings share: views in, networks and density out."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any

import torch
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin, with_callbacks
from torch import Tensor

from skgmje._backend import few_threads
from skgmje._validation import (
    Interval,
    StrOptions,
    fit_context,
    unchanged_on_error,
)
from skgmje.embedding._construction import ConstructionMixin, Run
from skgmje.embedding._decoding import DecodingMixin
from skgmje.embedding._density import check_enough_rows, training_rate
from skgmje.embedding._encoder_construction import ENCODERS
from skgmje.embedding._epochs import run_epochs
from skgmje.embedding._model import Encoders, JointModel, encode, encode_views
from skgmje.embedding._state import StateMixin, to_arrays, to_tensors
from skgmje.io import SaveMixin
from skgmje.networks import ACTIVATIONS, Encoder
from skgmje.training import Trainer
from skgmje.views import AUGMENTATIONS


class BaseJointEmbedder(
    CallbackSupportMixin,
    ConstructionMixin,
    DecodingMixin,
    StateMixin,
    SaveMixin,
    BaseEstimator,
    ABC,
):
    """Base of the joint embedders.

    A subclass gives the latent density that is trained (`_make_latent`), the densities
    that are fitted to the final embeddings (`_fit_densities`, `_update_densities`) and
    their conditional (`_conditional`).
    """

    # The second view travels as metadata, so that labels can be y.
    __metadata_request__fit = {"target_view": True}  # noqa: RUF012
    __metadata_request__partial_fit = {"target_view": True}  # noqa: RUF012
    # A pipeline asks about sample_weight=None, too, which no embedder takes.
    __metadata_request__score = {  # noqa: RUF012
        "target_view": True,
        "sample_weight": None,
    }

    _parameter_constraints: dict = {  # noqa: RUF012
        "embedding_dim": [Interval(Integral, 1, None, closed="left")],
        "encoder": [StrOptions(ENCODERS), callable],
        "target_encoder": [StrOptions(ENCODERS | {"shared"}), callable, None],
        "hidden_layer_sizes": ["array-like"],
        "activation": [StrOptions(set(ACTIVATIONS))],
        "input_shape": [tuple, list, None],
        "decoder": [StrOptions({"mlp", "conv"}), None],
        "target": [StrOptions({"auto", "y", "augment"})],
        "augmentation": [StrOptions(set(AUGMENTATIONS)), callable],
        "reg_covar": [Interval(Real, 0, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "batch_size": [Interval(Integral, 2, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "device": [str, torch.device, None],
    }

    # What not every fit sets, and what a new one must not keep of an old one.
    _optional_attributes: tuple[str, ...] = (
        "target_feature_names_in_",
        "n_targets_in_",
        "y_mean_",
        "y_scale_",
        "_target_is_column",
    )

    # ---------------------------------------------------------------------- hooks

    @abstractmethod
    def _fit_densities(self, run: Run, z_c: Tensor, z_t: Tensor) -> dict[str, Any]:
        """Return ``density_``, ``loss_curve_`` and what else depends on embeddings."""

    @abstractmethod
    def _update_densities(
        self, model: JointModel, z_c: Tensor, z_t: Tensor, rate: float
    ) -> dict[str, Any]:
        """Return the same, moved towards a further batch."""

    # ------------------------------------------------------------------------ fit

    @with_callbacks
    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, *, target_view=None):
        """Fit encoders and density to pairs of views.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            Target view, labels to ignore, or nothing, as ``target=`` says.
        target_view : array-like of shape (n_samples, n_targets), default=None
            Target view that wins over y, whatever ``target=`` says. It is requested by
            default when metadata routing is enabled.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X or the target view holds NaN, infinities or strings, if their lengths
            differ, if y is ambiguous, or if there are fewer rows than components.

        Warns
        -----
        IgnoredTargetWarning
            If y holds labels and ``target='auto'``.
        ConvergenceWarning
            If the loss stopped being finite; the last good weights are kept.
        """
        context = self._init_callback_context(max_subtasks=self.max_iter)
        with unchanged_on_error(self):
            X, target, attributes = self._validate_views(X, y, target_view, reset=True)
            run = self._start(X, target, attributes)
            data = {"X": X, "y": y}
            if target_view is not None:
                data["metadata"] = {"target_view": target_view}
            context.call_on_fit_task_begin(estimator=self, **data)
            if run.model.is_trainable:
                self._train(run, context, data)
            attributes = self._final_attributes(run)
            if self.decoder is not None:
                encoder = attributes["encoder_"]
                attributes["decoder_"] = self._fit_decoder(
                    encoder, encode(encoder, X), X, run.seed, self.batch_size
                )
            self._set(attributes)
            context.call_on_fit_task_end(
                estimator=self, **data, reconstruction_attributes={}
            )
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, *, target_view=None):
        """Learn from one more batch of pairs: one epoch over it.

        The first call sets the scale of both views. Encoders take one pass of gradient
        steps, and the density one step of stepwise EM. With nothing to train and one
        component the result is that of `fit` on all rows, up to `reg_covar`; a density
        over trained encoders forgets old batches, whose embeddings have changed. A
        decoder comes from `fit` alone.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Context view.
        y : array-like of shape (n_samples,) or (n_samples, n_targets), default=None
            As in `fit`.
        target_view : array-like of shape (n_samples, n_targets), default=None
            As in `fit`.

        Returns
        -------
        self : object
            The estimator.

        Raises
        ------
        ValueError
            As in `fit`, and if the batch has other columns than the batches before.
        """
        first = not self.__sklearn_is_fitted__()
        with unchanged_on_error(self):
            X, target, attributes = self._validate_views(X, y, target_view, reset=first)
            prepare = self._start if first else self._resume
            run = prepare(X, target, attributes)
            if run.model.is_trainable:
                self._train_once(run, first)
            self._set(self._attributes_after_batch(run, first))
        return self

    # -------------------------------------------------------------------- training

    def _n_validation(self, run: Run) -> int:
        """Return how many rows early stopping keeps out of training."""
        n_samples = len(run.views)
        n_validation = max(2, round(self.validation_fraction * n_samples))
        if n_samples - n_validation < 2:
            raise ValueError(
                "early_stopping=True needs at least two rows to train on and two "
                f"to validate on; got {n_samples} rows and validation_fraction="
                f"{self.validation_fraction}. Set early_stopping=False."
            )
        check_enough_rows(self._n_latent_components(), n_samples, n_validation)
        return n_validation

    def _n_held_out(self, run: Run) -> int:
        """Return how many rows to keep out of training for the density."""
        return 0

    def _make_trainer(self, run: Run, max_iter: int, n_held_out: int = 0) -> Trainer:
        rows = None
        if n_held_out:
            order = torch.randperm(
                len(run.views), generator=run.model.generator, device=run.device
            )
            rows = order[:n_held_out]
        trainer = Trainer(
            run.model,
            run.views,
            run.model.generator,
            learning_rate=self.learning_rate_init,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            max_iter=max_iter,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            validation_rows=rows,
            early_stopping=self.early_stopping,
            verbose=bool(self.verbose),
        )
        trainer.optimizer.register_step_post_hook(lambda *_: run.model.after_step())
        return trainer

    def _train(self, run: Run, context: Any, data: dict[str, Any]) -> None:
        count = self._n_validation if self.early_stopping else self._n_held_out
        trainer = self._make_trainer(run, self.max_iter, count(run))
        run.trainer = trainer
        with self._training_context(run):
            run_epochs(
                self, trainer, context, data, lambda: self._final_attributes(run)
            )
            trainer.restore_best()

    def _train_once(self, run: Run, first: bool) -> None:
        """Train for one epoch, with the optimizer of the batches before."""
        run.trainer = trainer = self._make_trainer(run, max_iter=1)
        if not first and "optimizer" in self._training_state:
            trainer.optimizer.load_state_dict(
                to_tensors(self._training_state["optimizer"], run.device)
                | {"param_groups": trainer.optimizer.state_dict()["param_groups"]}
            )
        with self._training_context(run):
            trainer.run_epoch()

    @contextmanager
    def _training_context(self, run: Run) -> Iterator[None]:
        with self._user_rng(run.seed, run.device), few_threads(run.device, run.model):
            yield

    # -------------------------------------------------------------- after training

    def _final_networks(self, run: Run) -> dict[str, Any]:
        encoder, target_encoder = run.model.fitted_encoders.map(Encoder.for_inference)
        return run.attributes | {
            "encoder_": encoder,
            "target_encoder_": target_encoder,
            "_seed": run.seed,
        }

    def _final_attributes(self, run: Run) -> dict[str, Any]:
        """Return all fitted attributes for the present weights."""
        attributes = self._final_networks(run)
        z_c, z_t = self._embed(run, attributes)
        attributes |= self._fit_densities(run, z_c, z_t)
        attributes["n_iter_"] = len(attributes["loss_curve_"])
        attributes["validation_loss_curve_"] = None
        attributes["n_samples_seen_"] = len(run.views)
        attributes["_training_state"] = self._keep_training_state(run)
        if run.trainer is not None:
            history = run.trainer.history
            attributes["loss_curve_"] = list(history.loss_curve)
            attributes["n_iter_"] = run.trainer.n_epochs
            if history.validation_loss_curve is not None:
                attributes["validation_loss_curve_"] = list(
                    history.validation_loss_curve
                )
        curve = attributes["validation_loss_curve_"] or attributes["loss_curve_"]
        attributes["best_loss_"] = min(curve, default=float("nan"))
        return attributes

    def _attributes_after_batch(self, run: Run, first: bool) -> dict[str, Any]:
        """Return all fitted attributes after one call of `partial_fit`."""
        n_seen = len(run.X) + (0 if first else self.n_samples_seen_)
        if first:
            final = self._final_attributes(run)
        else:
            rate = training_rate(len(run.X), n_seen, forget=run.model.is_trainable)
            final = self._final_networks(run)
            z_c, z_t = self._embed(run, final)
            final |= self._update_densities(run.model, z_c, z_t, rate)
            losses = [] if run.trainer is None else run.trainer.history.loss_curve
            final["loss_curve_"] = self.loss_curve_ + (losses or final["loss_curve_"])
            final["n_iter_"] = len(final["loss_curve_"])
        final["n_samples_seen_"] = n_seen
        final["best_loss_"] = min(final["loss_curve_"], default=float("nan"))
        final["validation_loss_curve_"] = None
        final["_training_state"] = self._keep_training_state(run, optimizer=True)
        return final

    def _embed(self, run: Run, attributes: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Embed all rows in float64 with the encoders that will be kept."""
        encoders = Encoders(attributes["encoder_"], attributes["target_encoder_"])
        z_c, z_t = encode_views(
            encoders, run.X, run.target, self.augmentation, run.seed
        )
        for name, z in (("context", z_c), ("target", z_t)):
            if not bool(torch.isfinite(z).all()):
                raise ValueError(
                    f"The {name} encoder gives embeddings that are not finite; lower "
                    "learning_rate_init or look for outliers in the data."
                )
        return z_c, z_t

    def _keep_training_state(self, run: Run, optimizer: bool = False) -> dict[str, Any]:
        state: dict[str, Any] = {
            "memory": to_arrays(run.model.memory.state_dict()),
            "started": run.model.started,
        }
        # The moments of an epoch that failed may be NaN.
        if optimizer and run.trainer is not None and run.trainer.n_epochs:
            moments = run.trainer.optimizer.state_dict()["state"]
            state["optimizer"] = {"state": to_arrays(moments)}
        return state

    def _set(self, attributes: dict[str, Any]) -> None:
        self.__dict__.pop("decoder_", None)
        if "x_mean_" in attributes:  # A new fit, and not one more batch.
            for name in self._optional_attributes:
                self.__dict__.pop(name, None)
        for name, value in attributes.items():
            setattr(self, name, value)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "density_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.target_tags.required = self.target == "y"
        tags.target_tags.multi_output = True
        tags.target_tags.two_d_labels = True
        return tags
