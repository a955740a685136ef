"""Pairs of views as tensors on the device, served by row index."""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from skgmje.views._augmentation import AUGMENTATIONS


class PairedViews:
    """Two given views, row by row.

    Parameters
    ----------
    context : tensor of shape (n_samples, n_features)
        First view, standardised.
    target : tensor of shape (n_samples, n_targets)
        Second view, standardised.

    Examples
    --------
    >>> import torch
    >>> from skgmje.views import PairedViews
    >>> views = PairedViews(torch.zeros(4, 2), torch.ones(4, 3))
    >>> [view.shape for view in views.batch(torch.tensor([0, 2]), None)]
    [torch.Size([2, 2]), torch.Size([2, 3])]
    """

    def __init__(self, context: Tensor, target: Tensor):
        self.context, self.target = context, target

    def __len__(self) -> int:
        return len(self.context)

    def batch(
        self, rows: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return both views of some rows."""
        return self.context[rows], self.target[rows]


class AugmentedViews:
    """Two views of each row, drawn anew by an augmentation at every call.

    Parameters
    ----------
    rows : tensor of shape (n_samples, n_features)
        The data, standardised.
    augmentation : str or callable
        A name, or a function of a batch of rows in the data's own units. If it has a
        parameter `generator`, it is given the source of randomness.
    mean, scale : tensor of shape (n_features,)
        What undoes the standardisation.

    Examples
    --------
    >>> import torch
    >>> from skgmje.views import AugmentedViews
    >>> views = AugmentedViews(torch.eye(4), "jitter", torch.zeros(4), torch.ones(4))
    >>> [view.shape for view in views.batch(torch.tensor([0, 2]), None)]
    [torch.Size([2, 4]), torch.Size([2, 4])]
    """

    def __init__(
        self, rows: Tensor, augmentation: str | Callable, mean: Tensor, scale: Tensor
    ):
        self.rows = rows
        self.augmentation, self.mean, self.scale = augmentation, mean, scale
        self._takes_generator = (
            callable(augmentation)
            and "generator" in inspect.signature(augmentation).parameters
        )

    def __len__(self) -> int:
        return len(self.rows)

    def batch(
        self, rows: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return two augmented copies of some rows."""
        batch = self.rows[rows]
        return self._augment(batch, generator), self._augment(batch, generator)

    def _augment(self, batch: Tensor, generator: torch.Generator | None) -> Tensor:
        if isinstance(self.augmentation, str):
            return AUGMENTATIONS[self.augmentation](batch, generator)
        source = {"generator": generator} if self._takes_generator else {}
        own_units = self.augmentation(batch * self.scale + self.mean, **source)
        if not isinstance(own_units, Tensor) or own_units.shape != batch.shape:
            raise ValueError(
                "An augmentation must return a tensor of the shape of its batch, "
                f"{tuple(batch.shape)}; got "
                f"{tuple(getattr(own_units, 'shape', ())) or type(own_units).__name__}."
            )
        return ((own_units - self.mean) / self.scale).to(batch.dtype)
