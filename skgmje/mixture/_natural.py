"""Many rows under one mixture by natural parameters, on the threads of torch."""

from collections.abc import Iterator

import torch
from torch import Tensor

from skgmje._backend import memory_of_this_thread
from skgmje.mixture._evaluation import Block, Evaluator
from skgmje.mixture._forms import NaturalForm
from skgmje.mixture._low_rank import LowRankScale
from skgmje.mixture._protocol import Mixture
from skgmje.mixture._standard_components import Components

# Work, in numbers touched, that repays the making of natural parameters.
NATURAL_WORK = 2**18
# Width up to which products of all pairs cost less than whitening; the number of them
# grows with its square, that of whitened numbers with the components.
MAX_WIDTH = 48
# How much larger than its value the sum of a quadratic form's terms may be at the
# farthest row, so that ten digits are left.
MAX_CANCELLATION = 1e6


def natural_evaluator(mixture: Mixture, values: Tensor) -> Evaluator | None:
    """Return an evaluator by natural parameters where it is quick and exact enough."""
    scale, covariance_type = mixture._scale, mixture.covariance_type
    n_components, n_features = mixture._means.shape
    parameters = (mixture._log_weights, mixture._means, scale.factor)
    if (
        len(values) * n_components * n_features < NATURAL_WORK
        or (covariance_type == "full" and n_features > min(2 * n_components, MAX_WIDTH))
        or values.device.type != "cpu"
        or {values.dtype, scale.factor.dtype} != {torch.float64}
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


def natural_blocks(
    evaluator: Evaluator, values: Tensor, n_own: int = 0
) -> Iterator[Block]:
    """Yield blocks of rows."""
    whole, memory = slice(0, len(values)), memory_of_this_thread()
    yield from evaluator.blocks(values, whole, memory, n_own)


def natural_log_prob(mixture: Mixture, values: Tensor) -> Tensor | None:
    """Return log-densities of rows, or None where natural parameters do not serve."""
    evaluator = natural_evaluator(mixture, values)
    if evaluator is None:
        return None
    blocks = natural_blocks(evaluator, values)
    return torch.cat([block.evaluate().logsumexp(0) for block in blocks])


def natural_conditional_log_prob(
    joint: Mixture, values: Tensor, n_given: int
) -> Tensor | None:
    """Return log-densities of values given the first of them, or None, likewise.

    The density of all values over that of the given ones: both are sums of the same
    products of coordinates.
    """
    evaluator = natural_evaluator(joint, values)
    form = evaluator and evaluator.forms[0]
    if evaluator is None or not isinstance(form, NaturalForm):
        return None
    marginal = leading_marginal(joint, n_given)
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


def leading_marginal(joint: Mixture, n_leading: int) -> Mixture:
    """Return the marginal of the leading coordinates of a mixture."""
    scale, _, _ = joint._scale.split(n_leading)
    return joint._from_parts(joint._log_weights, joint._means[:, :n_leading], scale)
