"""What the given coordinates of many rows say about what is left.

Block by block, the rows come with the log-joint of given values and components, and
with the causes that shift the means of what is left. By natural parameters the cause
is the row itself; whitened for each component it keeps every digit and every gradient.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from skgmje.mixture._evaluation import Evaluator
from skgmje.mixture._natural import (
    leading_marginal,
    natural_blocks,
    natural_evaluator,
)
from skgmje.mixture._protocol import Mixture
from skgmje.mixture._scale import Scale, TrilScale, moving

# Numbers in the largest temporary of one block of rows: what stays in the cache, or
# what keeps an accelerator busy.
CACHED_NUMBERS, ACCELERATOR_NUMBERS = 2**18, 2**25


class GivenBlock(NamedTuple):
    """Some rows, their log-joint (K, n) up to a constant, and causes (K or 1, m, n).

    `memory` is room for numbers (K, m, n), if there is any.
    """

    rows: slice
    log_joint: Tensor
    causes: Tensor
    memory: Tensor | None = None


class Given(ABC):
    """Rows of given values under a mixture.

    Attributes
    ----------
    offsets : tensor of shape (K, D - n_given)
        Means of what is left where the causes are zero.
    cross : tensor of shape (K or 1, D - n_given, m), or None
        What a unit of each cause adds to them; None where nothing does.
    """

    offsets: Tensor
    cross: Tensor | None

    @abstractmethod
    def blocks(self) -> Iterator[GivenBlock]:
        """Yield the rows block by block; a block is overwritten by the next."""


def given_rows(joint: Mixture, values: Tensor) -> Given:
    """Choose how rows of shape (n, n_given) are evaluated under a joint mixture."""
    given = leading_marginal(joint, values.shape[1])
    evaluator = natural_evaluator(given, values)
    if evaluator is None:
        return WhitenedGiven(joint, values)
    return NaturalGiven(joint, values, evaluator)


class WhitenedGiven(Given):
    """Rows whitened for each component.

    Parameters
    ----------
    joint : MultivariateNormalMixture
        The mixture, the given coordinates first.
    values : tensor of shape (n, n_given)
        The rows.
    """

    def __init__(self, joint: Mixture, values: Tensor):
        n_given = values.shape[1]
        self.values, self.joint = values, joint
        self.means, self.offsets = joint._means.tensor_split([n_given], dim=1)
        self.scale, self.cross, _ = joint._scale.split(n_given)
        # Without the powers of 2 pi, which cancel in every row.
        log_determinant = self.scale.log_determinant(n_given)
        self.log_heights = (joint._log_weights - log_determinant).unsqueeze(-1)

    def blocks(self) -> Iterator[GivenBlock]:
        for rows, whitened in self.whitened():
            causes = whitened
            if self.cross is not None:
                causes = moving(whitened, self.cross, 1)
            yield GivenBlock(rows, self.log_joint(whitened.square()), causes)

    def log_joint(self, squares: Tensor) -> Tensor:
        """Return the log-joint of whitened squares (K, n_whitened, n)."""
        return torch.add(self.log_heights, squares.sum(1), alpha=-0.5)

    def whitened(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield blocks of whitened rows (K, n_whitened, n)."""
        return _whitened_blocks(self.values, self.means, self.scale)

    def squares_with(self, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield whitened squares of the rows, and of values of what is left."""
        if self.joint._scale.is_nested:
            joint = torch.cat([self.values, values], dim=-1)
            parts = [self.values.shape[-1], values.shape[-1]]
            for _, whitened in _whitened_blocks(
                joint, self.joint._means, self.joint._scale
            ):
                given, rest = whitened.square().split(parts, dim=1)
                yield given, rest
            return
        _, _, rest_scale = self.joint._scale.split(self.values.shape[1])
        for rows, whitened in self.whitened():
            deviation = values[rows].T - self.offsets.unsqueeze(-1)
            if self.cross is not None:
                deviation = deviation - self.cross @ moving(whitened, self.cross, 1)
            yield whitened.square(), rest_scale.whiten_columns(deviation).square()


def _whitened_blocks(
    points: Tensor, means: Tensor, scale: Scale
) -> Iterator[tuple[slice, Tensor]]:
    whiten: Callable[[Tensor], Tensor] = scale.whitener(means, len(points))
    on_cpu = points.device.type == "cpu"
    numbers = CACHED_NUMBERS if on_cpu else ACCELERATOR_NUMBERS
    size = max(1, numbers // means.numel())
    for start in range(0, max(1, len(points)), size):
        rows = slice(start, start + size)
        yield rows, whiten(points[rows].T)


class NaturalGiven(Given):
    """Rows evaluated by natural parameters.

    Parameters
    ----------
    joint : MultivariateNormalMixture
        The mixture, the given coordinates first.
    values : tensor of shape (n, n_given)
        The rows.
    evaluator : Evaluator
        Of the marginal of the given coordinates, as `natural_evaluator` returns it.
    """

    def __init__(self, joint: Mixture, values: Tensor, evaluator: Evaluator):
        n_given = values.shape[1]
        self.values, self.evaluator, self.cross = values, evaluator, None
        means, self.offsets = joint._means.tensor_split([n_given], dim=1)
        scale, cross, _ = joint._scale.split(n_given)
        if cross is not None and isinstance(scale, TrilScale):
            # The regression of what is left on the rows, as these are standardised.
            slope = torch.linalg.solve_triangular(
                scale.factor, cross, upper=False, left=False
            )
            away = evaluator.centre.T - means
            self.offsets = self.offsets + (slope @ away.unsqueeze(-1)).squeeze(-1)
            self.cross = slope / evaluator.inverse_spread.T

    def blocks(self) -> Iterator[GivenBlock]:
        n_components, n_given = self.evaluator.n_components, self.values.shape[1]
        n_own = n_components * n_given
        for block in natural_blocks(self.evaluator, self.values, n_own):
            memory = block.empty("causes", n_own).view(n_components, n_given, -1)
            yield GivenBlock(block.rows, block.evaluate(), block.x[None], memory)
