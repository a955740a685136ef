"""Training of a module on pairs of views, an epoch at a time."""

import copy
import math
import warnings
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from skgmje.exceptions import IllDefinedCovarianceError

GRADIENT_NORM = 10.0
VALIDATION_SEED = 0
VALIDATION_BATCH = 4096


class Views(Protocol):
    """What the loop needs to know about data."""

    def __len__(self) -> int: ...

    def batch(
        self, rows: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return both views of some rows."""


@dataclass
class TrainingHistory:
    """What training leaves behind.

    Attributes
    ----------
    loss_curve : list of float
        Mean training loss of each epoch, in nats.
    validation_loss_curve : list of float or None
        Validation loss after each epoch, or None without early stopping.
    best_loss : float
        Smallest loss that was monitored.
    best_epoch : int
        Number of epochs after which it was reached.

    Examples
    --------
    >>> from skgmje.training import TrainingHistory
    >>> TrainingHistory().loss_curve
    []
    """

    loss_curve: list[float] = field(default_factory=list)
    validation_loss_curve: list[float] | None = None
    best_loss: float = math.inf
    best_epoch: int = 0


class Trainer:
    """Minimise ``model(context, target)`` over mini-batches.

    Parameters
    ----------
    model : nn.Module
        Returns the loss of a batch of both views. Its ``begin_epoch(views, rows)`` is
        called before every epoch with the rows that are trained on. A module in it that
        has a ``learning_rate_factor`` takes steps of that many times the step size.
    views : Views
        The data, on the model's device.
    generator : torch.Generator
        Source of the order of samples and of augmentations, on the model's device.
    learning_rate : float
        Step size of AdamW; it falls to zero along a half cosine over `max_iter`.
    weight_decay : float
        Decoupled weight decay.
    batch_size : int
        Number of samples in a batch; batches are of nearly equal size.
    max_iter : int
        Largest number of epochs.
    tol : float
        Improvement of the loss, in nats, that counts.
    n_iter_no_change : int
        Epochs without improvement after which training ends.
    validation_rows : tensor of int64 or None
        Rows kept out of training.
    early_stopping : bool, default=True
        Whether the loss on these rows is watched instead of the training loss, and the
        best weights on them are restored.
    verbose : bool
        Whether to print the losses of every epoch.

    Examples
    --------
    >>> import torch
    >>> from skgmje.training import Trainer
    >>> from skgmje.views import PairedViews
    >>> class Distance(torch.nn.Linear):
    ...     def begin_epoch(self, views, rows): ...
    ...     def forward(self, context, target):
    ...         return (super().forward(context) - target).square().mean()
    >>> x = torch.linspace(-1, 1, 64).unsqueeze(1)
    >>> trainer = Trainer(
    ...     Distance(1, 1), PairedViews(x, 2 * x), torch.Generator().manual_seed(0),
    ...     learning_rate=0.1, weight_decay=0.0, batch_size=16, max_iter=20, tol=0.0,
    ...     n_iter_no_change=5,
    ... )
    >>> while not trainer.done:
    ...     trainer.run_epoch()
    >>> bool(trainer.history.best_loss < 0.01)
    True
    """

    def __init__(
        self,
        model: nn.Module,
        views: Views,
        generator: torch.Generator,
        *,
        learning_rate: float,
        weight_decay: float,
        batch_size: int,
        max_iter: int,
        tol: float,
        n_iter_no_change: int,
        validation_rows: Tensor | None = None,
        early_stopping: bool = True,
        verbose: bool = False,
    ):
        self.model, self.views, self.generator = model, views, generator
        self.batch_size, self.max_iter = batch_size, max_iter
        self.tol, self.n_iter_no_change = tol, n_iter_no_change
        self.verbose = verbose
        rows = torch.arange(len(views), device=generator.device)
        self.validation_rows = validation_rows
        if validation_rows is not None:
            rows = rows[~torch.isin(rows, validation_rows)]
        self.training_rows = rows
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(model, learning_rate, weight_decay), fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._cosine)
        is_watched = early_stopping and validation_rows is not None
        self.history = TrainingHistory(validation_loss_curve=[] if is_watched else None)
        self._best = self._last = self._snapshot()
        self._stopped = False

    @property
    def n_epochs(self) -> int:
        """Number of epochs so far."""
        return len(self.history.loss_curve)

    @property
    def done(self) -> bool:
        """Whether training has ended."""
        waited = self.n_epochs - self.history.best_epoch
        return (
            self._stopped
            or self.n_epochs >= self.max_iter
            or waited >= self.n_iter_no_change
        )

    def run_epoch(self) -> None:
        """Train for one epoch.

        A loss or gradient that is not finite, a latent density that cannot start, or an
        interrupt ends training with the weights of the last good epoch and a warning.
        """
        has_begun = False
        try:
            self.model.begin_epoch(  # type: ignore[operator]
                self.views, self.training_rows
            )
            has_begun = True
            loss = self._pass_over_batches()
            if math.isfinite(loss):
                self._record(loss)
                return
        except KeyboardInterrupt:
            self._stop("Training interrupted by user.", UserWarning)
            return
        except ArithmeticError as error:
            # Before the first step of an epoch it cannot be the step size.
            if isinstance(error, IllDefinedCovarianceError) and not has_begun:
                self._stop(
                    f"Training ended in epoch {self.n_epochs + 1}; the weights of the "
                    f"epoch before are kept. {error}",
                    ConvergenceWarning,
                )
                return
            loss = math.nan
        self._stop(
            f"The loss or its gradient became {loss} in epoch {self.n_epochs + 1}; the "
            "weights of the epoch before are kept. Lower learning_rate_init or look "
            "for outliers in the data.",
            ConvergenceWarning,
        )

    def restore_best(self) -> None:
        """Bring back the weights of the best validation loss, if there is one."""
        if self.history.validation_loss_curve:
            self.model.load_state_dict(self._best)

    def _cosine(self, epoch: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / self.max_iter)))

    def _pass_over_batches(self) -> float:
        self.model.train()
        order = torch.randperm(
            len(self.training_rows),
            generator=self.generator,
            device=self.generator.device,
        )
        rows = self.training_rows[order]
        total = torch.zeros((), dtype=torch.float64, device=rows.device)
        # No batch of one row, which has no covariance.
        n_batches = min(math.ceil(len(rows) / self.batch_size), max(1, len(rows) // 2))
        for batch in rows.tensor_split(n_batches):
            loss = self.model(*self.views.batch(batch, self.generator))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            for group in self.optimizer.param_groups:
                norm = nn.utils.clip_grad_norm_(group["params"], GRADIENT_NORM)
                # NaN, if the gradient is not finite, although the loss may be.
                total += 0.0 * norm
            self.optimizer.step()
            total += loss.detach() * len(batch)
        self.schedule.step()
        return float(total) / len(rows)

    @torch.no_grad()
    def _validation_loss(self, rows: Tensor) -> float:
        self.model.eval()
        # The same augmentations after every epoch, so that losses compare.
        generator = torch.Generator(self.generator.device).manual_seed(VALIDATION_SEED)
        n_batches = math.ceil(len(rows) / VALIDATION_BATCH)
        total = 0.0
        for batch in rows.tensor_split(n_batches):
            loss = self.model(*self.views.batch(batch, generator))
            total += float(loss) * len(batch)
        return total / len(rows)

    def _record(self, loss: float) -> None:
        history = self.history
        watched, held_out = loss, ""
        if history.validation_loss_curve is not None:
            assert self.validation_rows is not None
            watched = self._validation_loss(self.validation_rows)
            if not math.isfinite(watched):
                raise ArithmeticError
            history.validation_loss_curve.append(watched)
            held_out = f", of validation {watched:.6f}"
        history.loss_curve.append(loss)
        self._last = self._snapshot()
        if self.verbose:
            print(f"Epoch {self.n_epochs}: loss {loss:.6f}{held_out}")
        if watched < history.best_loss:
            self._best = self._last
            if watched < history.best_loss - self.tol:
                history.best_epoch = self.n_epochs
            history.best_loss = watched

    def _stop(self, message: str, category: type[Warning]) -> None:
        self.model.load_state_dict(self._last)
        self._stopped = True
        warnings.warn(message, category, stacklevel=5)

    def _snapshot(self) -> dict[str, Any]:
        # A deep copy of tensors costs tens of times as much as their clones.
        return {
            name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value)
            for name, value in self.model.state_dict().items()
        }


def _parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Group the weights by the factor that the innermost module asks for."""
    groups: dict[float, list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()

    def visit(module: nn.Module, factor: float) -> None:
        factor = getattr(module, "learning_rate_factor", factor)
        for weight in module.parameters(recurse=False):
            if weight.requires_grad and weight not in seen:
                seen.add(weight)
                groups.setdefault(factor, []).append(weight)
        for child in module.children():
            visit(child, factor)

    visit(model, 1.0)
    # Decoupled decay is a share of the step size, and should not grow with it.
    return [
        {"params": weights, "lr": learning_rate * f, "weight_decay": weight_decay / f}
        for f, weights in groups.items()
    ]
