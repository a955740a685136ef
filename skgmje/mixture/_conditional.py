"""A mixture conditioned on many rows, computed in blocks when an answer is asked for.

The rows share the scale of what is left and differ in weights and means. Means of all
rows and components cost more to write to memory than to use, and are seldom wanted:
the mean, the density and a draw of each row are read off the whitened given block.
"""

import math
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from skgmje.mixture._scale import Scale, moving, products_by_component, recording

# Numbers in the largest temporary of one block of rows: what stays in the cache, or
# what keeps an accelerator busy.
CACHED_NUMBERS, ACCELERATOR_NUMBERS = 2**18, 2**25


class Conditional:
    """One mixture given the values of its leading coordinates, row by row.

    Parameters
    ----------
    log_weights : tensor of shape (K,)
        Log-weights of the joint mixture.
    means : tensor of shape (K, D)
        Its means, the given coordinates first.
    scale : Scale
        Its scale, without batch dimensions, in the same order of coordinates.
    values : tensor of shape (*rows, n_given)
        Values of the leading coordinates.
    """

    def __init__(
        self, log_weights: Tensor, means: Tensor, scale: Scale, values: Tensor
    ):
        n_given = values.shape[-1]
        self.n_components = means.shape[0]
        self.batch_shape = values.shape[:-1]
        self.event_shape = torch.Size([means.shape[1] - n_given])
        self._values = values.reshape(-1, n_given)
        self._joint_means, self._joint_scale = means, scale
        self._given_means, self._rest_means = means[:, :n_given], means[:, n_given:]
        self._given_scale, self._cross, self.rest_scale = scale.split(n_given)
        # Without the powers of 2 pi, which cancel in every row.
        log_determinant = self._given_scale.log_determinant(n_given)
        self._log_heights = (log_weights - log_determinant).unsqueeze(-1)

    @cached_property
    def log_weights(self) -> Tensor:
        """Log-weights of shape (*rows, K)."""
        with recording():
            log_weights = [
                self._log_joint(whitened.square()).log_softmax(0).T
                for _, whitened in self._given_blocks()
            ]
            return self._of_rows(log_weights)

    @cached_property
    def means(self) -> Tensor:
        """Component means of shape (*rows, K, D - n_given)."""
        if self._cross is None:
            return self._rest_means.expand(*self.batch_shape, -1, -1)
        with recording():
            means = [
                self._rest_means
                + (self._cross @ moving(whitened, self._cross, 1)).permute(2, 0, 1)
                for _, whitened in self._given_blocks()
            ]
            return self._of_rows(means)

    def mean(self) -> Tensor:
        """Mean of each row's mixture, of shape (*rows, D - n_given)."""
        cross, wide, means = self._cross, None, []
        if cross is not None:  # the components side by side, for one wide product
            wide = cross.expand(self.n_components, -1, -1).transpose(0, 1).flatten(1)
        for _, whitened in self._given_blocks():
            weights = self._log_joint(whitened.square()).softmax(0)
            mean = self._rest_means.T @ weights
            if cross is not None and wide is not None:
                # The block is used up: a product in place spares memory traffic.
                multiply = torch.mul if whitened.requires_grad else Tensor.mul_
                weighted = multiply(moving(whitened, cross, 1), weights.unsqueeze(1))
                mean = torch.addmm(mean, wide, weighted.flatten(0, 1))
            means.append(mean.T)
        return self._of_rows(means)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of one value of shape (*rows, D - n_given) for each row."""
        n_rest = self.event_shape[0]
        log_norm = self.rest_scale.log_determinant(n_rest).unsqueeze(-1)
        log_norm = log_norm + 0.5 * n_rest * math.log(2 * math.pi)
        log_prob = []
        for given, rest in self._squares(value.reshape(-1, n_rest)):
            log_weights = self._log_joint(given).log_softmax(0)
            log_rest = -0.5 * rest.sum(1) - log_norm
            log_prob.append((log_weights + log_rest).logsumexp(0))
        return self._of_rows(log_prob)

    def _squares(self, values: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the whitened squares of given blocks and of values of the rest."""
        if self._joint_scale.is_nested:
            joint = torch.cat([self._values, values], dim=-1)
            parts = [self._values.shape[-1], values.shape[-1]]
            blocks = self._blocks(joint, self._joint_means, self._joint_scale)
            for _, whitened in blocks:
                given, rest = whitened.square().split(parts, dim=1)
                yield given, rest
            return
        means = self._rest_means.unsqueeze(-1)
        for rows, whitened in self._given_blocks():
            deviation = values[rows].T - means
            if self._cross is not None:
                deviation = deviation - self._cross @ moving(whitened, self._cross, 1)
            rest = self.rest_scale.whiten_columns(deviation)
            yield whitened.square(), rest.square()

    def sample(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draw once for each row; return the draws and their components."""
        n_rows, n_rest = len(self._values), self.event_shape[0]
        uniform = self._values.new_empty(n_rows).uniform_(generator=generator)
        noise = self._values.new_empty(n_rows, self.rest_scale.n_whitened(n_rest))
        noise = noise.normal_(generator=generator)
        components, causes = [], []
        for rows, whitened in self._given_blocks():
            cumulative = self._log_joint(whitened.square()).softmax(0).cumsum(0)
            target = uniform[rows] * cumulative[-1]
            component = (cumulative[:-1] <= target).sum(0)
            components.append(component)
            if self._cross is not None:
                cause = moving(whitened, self._cross, 1)
                index = component.expand(1, cause.shape[1], -1)
                causes.append(cause.gather(0, index).squeeze(0).T)
        component = torch.cat(components)
        sample = self._rest_means[component]
        sample += self.rest_scale.color(noise, component, component.shape)
        if self._cross is not None:
            sample += products_by_component(self._cross, torch.cat(causes), component)
        return self._of_rows([sample]), self._of_rows([component])

    def _of_rows(self, parts: list[Tensor]) -> Tensor:
        """Join blocks of rows, and give the rows their shape."""
        whole = torch.cat(parts)
        return whole.reshape(self.batch_shape + whole.shape[1:])

    def _log_joint(self, squares: Tensor) -> Tensor:
        """Log-weights of shape (K, n_block), not normalised, from whitened squares."""
        return torch.add(self._log_heights, squares.sum(1), alpha=-0.5)

    def _given_blocks(self) -> Iterator[tuple[slice, Tensor]]:
        return self._blocks(self._values, self._given_means, self._given_scale)

    def _blocks(
        self, points: Tensor, means: Tensor, scale: Scale
    ) -> Iterator[tuple[slice, Tensor]]:
        """Whiten points (n, D); yield rows and their block (K, D, n_block)."""
        whiten = scale.whitener(means, len(points))
        on_cpu = points.device.type == "cpu"
        numbers = CACHED_NUMBERS if on_cpu else ACCELERATOR_NUMBERS
        size = max(1, numbers // means.numel())
        for start in range(0, max(1, len(points)), size):
            rows = slice(start, start + size)
            yield rows, whiten(points[rows].T)
