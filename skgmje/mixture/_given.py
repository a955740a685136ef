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

from skgmje._backend import memory_of_this_thread
from skgmje.mixture._evaluation import Block, Evaluator
from skgmje.mixture._forms import NaturalForm
from skgmje.mixture._low_rank import LowRankScale
from skgmje.mixture._protocol import Mixture
from skgmje.mixture._scale import Scale, TrilScale, moving
from skgmje.mixture._standard_components import Components

# Numbers in the largest temporary of one block of rows: what stays in the cache, or
# what keeps an accelerator busy.
CACHED_NUMBERS, ACCELERATOR_NUMBERS = 2**18, 2**25
# Work, in numbers touched, that repays the making of natural parameters.
NATURAL_WORK = 2**18
# Width up to which products of all pairs cost less than whitening; the number of them
# grows with its square, that of whitened numbers with the components.
MAX_WIDTH = 48
# How much larger than its value the sum of a quadratic form's terms may be at the
# farthest row, so that ten digits are left.
MAX_CANCELLATION = 1e6


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
    given = given_marginal(joint, values.shape[1])
    evaluator = natural_evaluator(given, values)
    if evaluator is None:
        return WhitenedGiven(joint, values)
    return NaturalGiven(joint, values, evaluator)


def given_marginal(joint: Mixture, n_given: int) -> Mixture:
    """Return the marginal of the leading coordinates of a mixture."""
    scale, _, _ = joint._scale.split(n_given)
    return joint._from_parts(joint._log_weights, joint._means[:, :n_given], scale)


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


def natural_evaluator(mixture: Mixture, values: Tensor) -> Evaluator | None:
    """Return an evaluator by natural parameters where it is quick and exact enough."""
    scale, covariance_type = mixture._scale, mixture.covariance_type
    n_components, n_features = mixture._means.shape
    parameters = (mixture._log_weights, mixture._means, scale.factor)
    if (
        len(values) * n_components * n_features < NATURAL_WORK
        or (covariance_type == "full" and n_features > min(2 * n_components, MAX_WIDTH))
        or values.device.type != "cpu"
        or values.dtype != torch.float64
        or isinstance(scale, LowRankScale)
        or (len(scale.factor) < n_components and covariance_type != "tied")
        or any(tensor.requires_grad for tensor in (values, *parameters))
        or not bool(mixture._log_weights.isfinite().all())
    ):
        return None
    evaluator = Evaluator(mixture, covariance_type, by_torch=True)
    if evaluator.is_careful:
        return None
    standardised = (values - evaluator.centre.T) * evaluator.inverse_spread.T
    (form,) = evaluator.forms
    loss = form.components.cancellation(float(standardised.abs().max()))
    return evaluator if bool((loss <= MAX_CANCELLATION).all()) else None


def natural_log_prob(joint: Mixture, values: Tensor, n_given: int) -> Tensor | None:
    """Return log-densities of values given the first of them, or None as above.

    The density of all values over that of the given ones: both are sums of the same
    products of coordinates.
    """
    evaluator = natural_evaluator(joint, values)
    form = evaluator and evaluator.forms[0]
    if evaluator is None or not isinstance(form, NaturalForm):
        return None
    marginal = given_marginal(joint, n_given)
    given = NaturalForm(Components.of(marginal, joint.covariance_type))
    both = torch.zeros(2, *form.natural.shape, dtype=torch.float64)
    both[0] = form.natural
    both[1, :, form.places_of(given)] = given.natural
    log_prob = []
    for block in natural_blocks(evaluator, values):
        log_joint = both.flatten(0, 1) @ block.z[: both.shape[2]]
        log_joint, log_given = log_joint.unflatten(0, (2, -1)).logsumexp(1)
        log_prob.append(log_joint - log_given)
    return torch.cat(log_prob)


def natural_blocks(
    evaluator: Evaluator, values: Tensor, n_own: int = 0
) -> Iterator[Block]:
    """Yield blocks of rows."""
    whole, memory = slice(0, len(values)), memory_of_this_thread()
    yield from evaluator.blocks(values, whole, memory, n_own)
