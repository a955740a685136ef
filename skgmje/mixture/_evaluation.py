"""A mixture evaluated on blocks of samples, several blocks at a time.

No array has a row for every sample and component: blocks fit the cache, and each thread
works through its span of the samples in memory of its own.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skgmje._backend import BLOCK_NUMBERS, as_tensor, blocks, map_spans, tensor_view
from skgmje.mixture._forms import DeviationForm, Groups, choose_forms
from skgmje.mixture._protocol import Mixture
from skgmje.mixture._standard_components import (
    LOG_ZERO_WEIGHT,
    MAX_COORDINATE,
    Components,
)

# Smaller responsibilities would be denormal products that slow the processor down.
LOG_RESPONSIBILITY_FLOOR = -80.0
# Below this logarithm, however, a component has no share in a sample: squares of such
# deviations times the floor would show.
NO_SHARE = -1e24
# Threads wait for the interpreter between blocks; that costs more than to leave the
# inner cache.
LARGE_BLOCK = 4
# Larger arrays are not kept from block to block.
MAX_KEPT_NUMBERS = 2 * LARGE_BLOCK * BLOCK_NUMBERS
WIDE = 32


class Evaluator:
    """A mixture made ready to be evaluated on many samples.

    Parameters
    ----------
    density : MultivariateNormalMixture
        Float64 mixture without batch dimensions.
    covariance_type : {"full", "tied", "diag", "spherical", "low_rank"}
        Which second moments its statistics keep.
    forms : callable, default=choose_forms
        Splits the components by how they are evaluated.
    by_torch : bool, default=False
        Whether torch evaluates the blocks on the CPU, too: its threads share a block,
        where otherwise each of ours has blocks of its own.
    """

    def __init__(
        self,
        density: Mixture,
        covariance_type: str,
        forms: Callable[[Components], Groups] = choose_forms,
        by_torch: bool = False,
    ):
        components = Components.of(density, covariance_type)
        self.covariance_type, self.scale = covariance_type, density._scale
        self.xp = torch if by_torch else components.xp
        self.device = density._means.device
        self.n_components, self.n_features = components.means.shape
        groups = forms(components)
        self.forms = [form(components.take(index)) for form, index in groups]
        for form in self.forms:
            form.xp = self.xp
        # Forms write contiguous rows; this puts components back in their own order.
        order = [index for _, index in groups if index is not None]
        self.inverse = components.xp.concatenate(order).argsort() if order else None
        self.is_careful = any(form is DeviationForm for form, _ in groups)
        has_weight = components.log_weights > LOG_ZERO_WEIGHT
        if order:
            has_weight = has_weight[components.xp.concatenate(order)]
        self.has_weight = tensor_view(has_weight)[:, None]
        self.centre = tensor_view(components.centre)[:, None]
        self.inverse_spread = 1.0 / tensor_view(components.spread)[:, None]

    @property
    def numbers_per_sample(self) -> int:
        """Working set of a sample, for blocks of `LARGE_BLOCK` times the usual size."""
        width = 1 + self.n_features + 2 * self.n_components
        own = sum(
            form.n_products + form.n_repeated + form.n_scratch for form in self.forms
        )
        return (width + own) // LARGE_BLOCK

    def map(
        self, function: Callable[[slice, dict[str, Any]], Any], n_samples: int
    ) -> list[Any]:
        """Apply a function to spans of samples, each on its own thread."""
        work = n_samples * self.n_components * self.n_features
        return map_spans(function, n_samples, 1 if self.xp is torch else work)

    def blocks(
        self, X: Any, span: slice, scratch: dict[str, Any], n_own: int = 0
    ) -> Iterator["Block"]:
        """Read the samples of a span, block by block, into the same memory.

        `n_own` is how many numbers for each sample the caller adds to a working set.
        """
        if self.xp is np and isinstance(X, Tensor):
            X = X.detach().numpy()
        block = None
        numbers = self.numbers_per_sample + n_own // LARGE_BLOCK
        for rows in blocks(span.stop - span.start, numbers):
            rows = slice(rows.start + span.start, rows.stop + span.start)
            n_samples = rows.stop - rows.start
            if block is None or block.n_samples != n_samples:
                block = Block(self, n_samples, scratch)
            block.read(X, rows)
            yield block

    def array(self, values: Any) -> Any:
        """Bring float64 numbers to where they are computed with."""
        if self.xp is np:
            return np.array(values, dtype=np.float64)
        if isinstance(values, Tensor):
            return values.to(self.device, torch.float64)
        return as_tensor(values, self.device)

    def in_order(self, by_component: Any) -> Any:
        """Put rows of components back in the order of the mixture."""
        if self.inverse is None:
            return by_component
        return by_component[self.inverse]

    def fill(self, X: Any, out: Any, function: Callable[["Block"], Any]) -> Any:
        """Write ``function(block)``, of shape (..., n_samples), to rows of `out`."""

        def write(span: slice, scratch: dict[str, Any]) -> None:
            for block in self.blocks(X, span, scratch):
                values = function(block)
                out[block.rows] = torch.as_tensor(values).cpu().numpy().T

        self.map(write, X.shape[0])
        return out

    def log_prob(self, X: Any) -> np.ndarray:
        """Log-densities in nats, of shape (n_samples,)."""
        return self.fill(
            X,
            np.empty(X.shape[0]),
            lambda block: block.posterior(LOG_RESPONSIBILITY_FLOOR),
        )

    def predict(self, X: Any) -> np.ndarray:
        """Likeliest component of each sample, of shape (n_samples,)."""
        labels = np.empty(X.shape[0], dtype=np.int64)
        return self.fill(
            X, labels, lambda block: self.in_order(block.evaluate()).argmax(0)
        )

    def responsibilities(self, X: Any) -> np.ndarray:
        """Posterior probabilities of the components, (n_samples, n_components)."""

        def posterior(block: Block) -> Any:
            block.posterior()
            return self.in_order(block.log_joint)

        return self.fill(X, np.empty((X.shape[0], self.n_components)), posterior)


class Block:
    """Memory for one block of samples, and what is computed in it."""

    def __init__(self, evaluator: Evaluator, n_samples: int, memory: dict[str, Any]):
        self.evaluator, self.n_samples, self.memory = evaluator, n_samples, memory
        self.xp, self.rows = evaluator.xp, slice(0)
        self.ones = max(form.n_products for form in evaluator.forms)
        n_repeated = max(form.n_repeated for form in evaluator.forms)
        self.stop = self.ones + 1 + evaluator.n_features
        self.z = self.empty("z", self.stop + n_repeated)
        self.z[self.ones] = 1.0
        self.x = self.z[self.ones + 1 : self.stop]
        self.log_joint = self.empty("log_joint", evaluator.n_components)
        self.scratch = [
            self.empty(type(form).__name__, form.n_scratch) for form in evaluator.forms
        ]

    def empty(self, name: str, n_rows: int) -> Any:
        """Memory with a column for each sample, kept from block to block by name."""
        name = f"{name} {self.evaluator.device}"
        size, flat = n_rows * self.n_samples, self.memory.get(name)
        if flat is None or len(flat) < size:
            device = self.evaluator.device
            with torch.inference_mode(False):  # other calls will write to it, too
                flat = torch.empty(size, dtype=torch.float64, device=device)
            if size <= MAX_KEPT_NUMBERS:
                self.memory[name] = flat
        array = flat[:size].view(n_rows, self.n_samples)
        # NumPy's own memory is not as well aligned as torch's.
        return array.numpy() if self.xp is np else array

    def parts(self, by_component: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
        """Forms with their coordinates, scratch memory and rows of an array."""
        start = 0
        for form, scratch in zip(self.evaluator.forms, self.scratch, strict=True):
            rows = by_component[start : start + form.n_components]
            z = self.z[self.ones - form.n_products : self.stop + form.n_repeated]
            yield form, z, scratch, rows
            start += form.n_components

    def read(self, X: Any, rows: slice) -> None:
        """Take in samples."""
        self.rows = rows
        samples = X[rows]
        if self.xp is torch and not isinstance(samples, Tensor):
            samples = as_tensor(samples, self.evaluator.device)
        raw, x = samples.T, tensor_view(self.x)
        if _is_wide(samples):
            # NumPy would jump from row to row; torch transposes tile by tile.
            x.copy_(torch.from_numpy(samples).T)
        else:
            self.x[:] = raw
        x.sub_(self.evaluator.centre).mul_(self.evaluator.inverse_spread)
        flat = x.flatten()
        if not flat @ flat < MAX_COORDINATE:
            x.clamp_(-MAX_COORDINATE, MAX_COORDINATE)
        for form, z, scratch, _ in self.parts(self.log_joint):
            form.prepare(z, raw, scratch)

    def evaluate(self) -> Any:
        """Return log weight plus log-density of all components."""
        for form, z, scratch, out in self.parts(self.log_joint):
            form.log_joint(z, scratch, out)
        return self.log_joint

    def posterior(self, floor: float | None = None) -> Any:
        """Turn `log_joint` into responsibilities; return log-densities."""
        # In place, for NumPy's arrays as well: torch's loops are the faster ones.
        joint = tensor_view(self.evaluate())
        top = joint.amax(0)
        joint.sub_(top)
        negligible = None
        if floor is not None:
            if self.evaluator.is_careful:
                negligible = (joint < NO_SHARE) & self.evaluator.has_weight
            joint.clamp_(floor)
        joint.exp_()
        if negligible is not None:
            # Squares of a far sample's deviations would outweigh even the smallest.
            joint[negligible] = 0.0
        total = joint.sum(0)
        joint.mul_(total.reciprocal())
        log_prob = total.log_().add_(top)
        return log_prob.numpy() if self.xp is np else log_prob

    def sums(self, resp: Any) -> list[Any]:
        """Sum what the M step needs of this block, form after form."""
        return [
            total
            for form, z, scratch, rows in self.parts(resp)
            for total in form.sums(z, scratch, rows)
        ]


def _is_wide(samples: Any) -> bool:
    return (
        isinstance(samples, np.ndarray)
        and samples.shape[1] >= WIDE
        and samples.dtype == np.float64
        and samples.flags.writeable
        and samples.flags.c_contiguous
    )
