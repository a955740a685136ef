"""Sequences as tensors on the device, served by index and padded in batches."""

import torch
from torch import Tensor


class SequenceViews:
    """Sequences of any lengths, which a batch pads to the longest in it.

    Parameters
    ----------
    rows : tensor of shape (n_rows, n_features)
        Steps of all sequences, one sequence after the other.
    lengths : tensor of int64 of shape (n_sequences,)
        Number of steps of each.
    observed : tensor of bool of shape (n_rows,)
        Which steps are there; the others are missing.

    Examples
    --------
    >>> import torch
    >>> from skgmje.views import SequenceViews
    >>> views = SequenceViews(
    ...     torch.arange(5.0)[:, None], torch.tensor([2, 3]), torch.ones(5).bool()
    ... )
    >>> steps, observed = views.batch(torch.tensor([0, 1]), None)
    >>> steps.shape, observed.sum(1)
    (torch.Size([2, 3, 1]), tensor([2, 3]))
    """

    def __init__(self, rows: Tensor, lengths: Tensor, observed: Tensor):
        self.rows, self.lengths, self.observed = rows, lengths, observed
        self.starts = lengths.cumsum(0) - lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(
        self, rows: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Return the steps of some sequences, and which of them are there."""
        index, inside = self.index(rows)
        return self.rows[index], self.observed[index] & inside

    def index(self, sequences: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row of every step of some sequences, and what is no padding."""
        lengths = self.lengths[sequences]
        step = torch.arange(int(lengths.max()), device=lengths.device)
        inside = step < lengths[:, None]
        index = self.starts[sequences][:, None] + torch.where(inside, step, 0)
        return index, inside
