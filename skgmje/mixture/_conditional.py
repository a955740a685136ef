"""A mixture conditioned on many rows, computed in blocks when an answer is asked for.

The rows share the scale of what is left and differ in weights and means. Means of all
rows and components cost more to write to memory than to use, and are seldom wanted:
the mean, the density and a draw of each row are read off the given block.
"""

import math
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from skgmje.mixture._given import Given, WhitenedGiven, given_rows
from skgmje.mixture._natural import natural_conditional_log_prob
from skgmje.mixture._protocol import Mixture
from skgmje.mixture._scale import products_by_component, recording


class Conditional:
    """One mixture given the values of its leading coordinates, row by row.

    Parameters
    ----------
    joint : MultivariateNormalMixture
        The joint mixture, without batch dimensions, the given coordinates first.
    values : tensor of shape (*rows, n_given)
        Values of the leading coordinates.
    """

    def __init__(self, joint: Mixture, values: Tensor):
        n_given = values.shape[-1]
        self.n_components, n_features = joint._means.shape
        self.batch_shape = values.shape[:-1]
        self.event_shape = torch.Size([n_features - n_given])
        self._joint, self._values = joint, values.reshape(-1, n_given)
        _, _, self.rest_scale = joint._scale.split(n_given)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made anew from the rest, and holds modules."""
        return {name: part for name, part in vars(self).items() if name != "_given"}

    @cached_property
    def _given(self) -> Given:
        return given_rows(self._joint, self._values)

    @cached_property
    def log_weights(self) -> Tensor:
        """Log-weights of shape (*rows, K)."""
        with recording():
            return self._of_rows(
                [block.log_joint.log_softmax(0).T for block in self._given.blocks()]
            )

    @cached_property
    def means(self) -> Tensor:
        """Component means of shape (*rows, K, D - n_given)."""
        offsets, cross = self._given.offsets, self._given.cross
        if cross is None:
            return offsets.expand(*self.batch_shape, -1, -1)
        with recording():
            return self._of_rows(
                [
                    offsets + (cross @ block.causes).permute(2, 0, 1)
                    for block in self._given.blocks()
                ]
            )

    def mean(self) -> Tensor:
        """Mean of each row's mixture, of shape (*rows, D - n_given)."""
        offsets, cross = self._given.offsets, self._given.cross
        means = []
        for _, log_joint, causes, memory in self._given.blocks():
            weights = log_joint.softmax(0)
            mean = offsets.T @ weights
            if cross is not None and len(cross) == len(causes) == 1:
                mean = torch.addmm(mean, cross[0], causes[0])
            elif cross is not None:  # the components side by side: one wide product
                wide = cross.expand(self.n_components, -1, -1).transpose(0, 1)
                weighted = torch.mul(causes, weights.unsqueeze(1), out=memory)
                mean = torch.addmm(mean, wide.flatten(1), weighted.flatten(0, 1))
            means.append(mean.T)
        return self._of_rows(means)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density of one value of shape (*rows, D - n_given) for each row."""
        n_given, n_rest = self._values.shape[1], self.event_shape[0]
        value = value.reshape(-1, n_rest)
        joint_values = torch.cat([self._values, value], dim=-1)
        natural = natural_conditional_log_prob(self._joint, joint_values, n_given)
        if natural is not None:
            return self._of_rows([natural])
        rows = WhitenedGiven(self._joint, self._values)
        log_norm = self.rest_scale.log_determinant(n_rest).unsqueeze(-1)
        log_norm = log_norm + 0.5 * n_rest * math.log(2 * math.pi)
        log_prob = []
        for given_squares, squares in rows.squares_with(value):
            log_weights = rows.log_joint(given_squares).log_softmax(0)
            log_rest = -0.5 * squares.sum(1) - log_norm
            log_prob.append((log_weights + log_rest).logsumexp(0))
        return self._of_rows(log_prob)

    def sample(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draw once for each row; return the draws and their components."""
        n_rows, n_rest = len(self._values), self.event_shape[0]
        uniform = self._values.new_empty(n_rows).uniform_(generator=generator)
        noise = self._values.new_empty(n_rows, self.rest_scale.n_whitened(n_rest))
        noise = noise.normal_(generator=generator)
        components, chosen_causes = [], []
        for rows, log_joint, causes, _ in self._given.blocks():
            cumulative = log_joint.softmax(0).cumsum(0)
            target = uniform[rows] * cumulative[-1]
            component = (cumulative[:-1] <= target).sum(0)
            components.append(component)
            if self._given.cross is not None:
                index = component.expand(1, causes.shape[1], -1)
                chosen = causes if len(causes) == 1 else causes.gather(0, index)
                chosen_causes.append(chosen.squeeze(0).T.contiguous())
        component = torch.cat(components)
        sample = self._given.offsets[component]
        sample += self.rest_scale.color(noise, component, component.shape)
        if self._given.cross is not None:
            sample += products_by_component(
                self._given.cross, torch.cat(chosen_causes), component
            )
        return self._of_rows([sample]), self._of_rows([component])

    def _of_rows(self, parts: list[Tensor]) -> Tensor:
        """Join blocks of rows, and give the rows their shape."""
        whole = torch.cat(parts)
        return whole.reshape(self.batch_shape + whole.shape[1:])
