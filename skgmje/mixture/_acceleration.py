"""Fewer E steps: quasi-Newton steps between the EM steps.

An EM step is the gradient of the log-likelihood, preconditioned by the information that
complete data would have. In coordinates in which that information is the identity the
step *is* the gradient, so a quasi-Newton method needs nothing but EM steps.
"""

from itertools import pairwise
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from skgmje.mixture._statistics import MixtureParameters

# The first step is longer than that of EM by this; later ones follow the curvature.
FIRST_STRETCH = 2.5
# Largest scale of the quasi-Newton matrix away from the pairs that it remembers.
MAX_SCALE = 1.8
# A step may be this many times longer than that of EM, more after such steps succeed,
# and not longer than RADIUS unless EM's is: there the quadratic model ends.
START_STRETCH, STRETCH_GROWTH, STRETCH_SHRINKAGE = 4.0, 2.0, 0.25
RADIUS = 0.7
# Curvature, relative to that of complete data, below which a pair is left out.
MIN_CURVATURE = 1e-10
# Covariances may be smaller than reg_covar by this share of it: rounding.
ROUNDING = 1e-9


class Accelerator:
    """Proposes where to take the next E step.

    A step that lowers the likelihood or leaves the set of legal parameters is replaced
    by the plain EM step.

    Parameters
    ----------
    covariance_type : {"full", "tied", "diag", "spherical"}
        The form of the covariances.
    reg_covar : float or tensor of shape (D,), default=0.0
        What the M step adds to the diagonal of the covariances: no proposal has less.
    memory : int, default=5
        Number of earlier E steps that say how the gradient changes.

    Attributes
    ----------
    image : MixtureParameters
        The EM step from the best parameters so far.
    bound : float
        Mean log-likelihood of the best parameters so far, in nats.
    expected_gain : float
        Squared length of the EM step from there. Near a maximum the step gains between
        half of it and all of it, in nats a sample.
    accepted : bool
        Whether the last E step was at the best parameters so far.

    References
    ----------
    Jamshidian and Jennrich, *Acceleration of the EM algorithm by using quasi-Newton
    methods* (1997). Nocedal and Wright, *Numerical Optimization* (2006), section 7.2.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skgmje.mixture._em import MixtureParameters, expectation, maximization
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> X[:250] += 1.5
    >>> weights, means, covariance = np.full(2, 0.5), X[[0, -1]], np.eye(2)
    >>> parameters = MixtureParameters(
    ...     *map(torch.from_numpy, (weights, means, covariance))
    ... )
    >>> accelerator = Accelerator("tied")
    >>> for _ in range(10):
    ...     statistics = expectation(X, parameters.density("tied"), "tied")
    ...     image = maximization(statistics, 0.0)
    ...     bound = statistics.mean_log_likelihood
    ...     parameters = accelerator.step(parameters, image, bound)
    >>> accelerator.expected_gain < 1e-3
    True
    """

    image: MixtureParameters

    def __init__(
        self,
        covariance_type: str,
        reg_covar: float | Tensor = 0.0,
        memory: int = 5,
    ):
        self.covariance_type, self.reg_covar = covariance_type, reg_covar
        self.memory = memory
        self.bound, self.expected_gain, self.accepted = -np.inf, np.inf, False
        self._best: Evaluation | None = None
        self._earlier: list[Evaluation] = []
        self._stretch, self._length = START_STRETCH, 1.0
        self._plain = True

    def step(
        self, parameters: MixtureParameters, image: MixtureParameters, bound: float
    ) -> MixtureParameters:
        """Take in an E step and return the parameters of the next.

        Parameters
        ----------
        parameters : MixtureParameters
            Where the E step was: the start, or what the last call returned.
        image : MixtureParameters
            The M step that followed.
        bound : float
            Mean log-likelihood of `parameters`, in nats.

        Returns
        -------
        parameters : MixtureParameters
            Positive definite and with positive weights, unless `image` is not.
        """
        evaluation = Evaluation(
            *(Point.of(p, self.covariance_type) for p in (parameters, image))
        )
        # EM's own step is always taken: with reg_covar it need not raise the bound.
        better = bound >= self.bound and self._is_legal(image)
        self.accepted = self._plain or better
        if self.accepted:
            self._accept(evaluation, image, bound)
        else:
            self._remember(evaluation)
            self._stretch = max(1.0, self._length * STRETCH_SHRINKAGE)
        proposal = self._propose() if self.accepted else None
        self._plain = proposal is None
        return self.image if proposal is None else proposal

    def is_settled(self, tol: float) -> bool:
        """Whether EM, too, would gain less than `tol` from the best parameters.

        Parameters
        ----------
        tol : float
            Gain of the mean log-likelihood, in nats.

        Returns
        -------
        is_settled : bool
            True where a small gain of the last E step means convergence.
        """
        return self.accepted and self.expected_gain < tol

    def _accept(
        self, evaluation: "Evaluation", image: MixtureParameters, bound: float
    ) -> None:
        if self._best is not None:
            self._remember(self._best)
        if not self._plain and self._length >= self._stretch:
            self._stretch *= STRETCH_GROWTH
        self._best, self.image, self.bound = evaluation, image, bound
        self._frame = Frame(evaluation.point, self.covariance_type)
        self._gradient = self._frame.coordinates(evaluation.image)
        gain = float(self._gradient.square().sum())
        self.expected_gain = gain if np.isfinite(gain) else np.inf

    def _remember(self, evaluation: "Evaluation") -> None:
        self._earlier = [*self._earlier, evaluation][-self.memory :]

    def _propose(self) -> MixtureParameters | None:
        """Return a quasi-Newton step from the best parameters, if it is legal."""
        if self.expected_gain in (0.0, np.inf):
            return None
        direction = self._direction()
        gradient_norm = np.sqrt(self.expected_gain)
        length = float(direction.norm()) / gradient_norm
        self._length = min(length, self._stretch, max(1.0, RADIUS / gradient_norm))
        if not self._length > 0.0:
            return None
        proposal = self._frame.parameters(direction * (self._length / length))
        return proposal if self._is_legal(proposal) else None

    def _direction(self) -> Tensor:
        pairs = self._pairs()
        if not pairs:
            stretch = FIRST_STRETCH if not self._earlier else 1.0
            return stretch * self._gradient
        return quasi_newton_direction(self._gradient, pairs)

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return steps and the losses of gradient along them, oldest first."""
        origin = torch.zeros_like(self._gradient)
        evaluations = [
            (self._frame.coordinates(point), self._frame.coordinates(image))
            for point, image in self._earlier
        ]
        pairs = []
        for (x, image), (y, next_image) in pairwise(
            [*evaluations, (origin, self._gradient)]
        ):
            step = y - x
            change = (image - x) - (next_image - y)
            if float(step @ change) > MIN_CURVATURE * float(step @ step):
                pairs.append((step, change))
        return pairs

    def _is_legal(self, parameters: MixtureParameters) -> bool:
        weights, means, covariances = (
            parameters.weights,
            parameters.means,
            parameters.covariances,
        )
        if not bool(means.isfinite().all() & (weights > 0).all()):
            return False
        least = torch.as_tensor(self.reg_covar, dtype=means.dtype, device=means.device)
        least = least * (1.0 - ROUNDING)
        if self.covariance_type == "spherical":
            least = least.mean()
        if self.covariance_type in ("diag", "spherical"):
            excess = covariances - least
            return bool((excess.isfinite() & (covariances > 0) & (excess >= 0)).all())
        excess = covariances.clone()
        excess.diagonal(dim1=-2, dim2=-1).sub_(least)
        factor, info = torch.linalg.cholesky_ex(excess)
        return not bool(info.any()) and bool(factor.isfinite().all())


def quasi_newton_direction(
    gradient: Tensor, pairs: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Multiply by the inverse Hessian that the pairs suggest (L-BFGS, two loops).

    Parameters
    ----------
    gradient : tensor of shape (n,)
        Gradient of what is maximised.
    pairs : list of pairs of tensors of shape (n,)
        Steps and the losses of gradient along them, oldest first, with positive
        products.

    Returns
    -------
    direction : tensor of shape (n,)
        A direction of ascent.
    """
    shares = []
    direction = gradient
    for step, change in reversed(pairs):
        share = (step @ direction) / (step @ change)
        direction = direction - share * change
        shares.append(share)
    step, change = pairs[-1]
    # The Hessian is between zero and that of complete data, the identity.
    scale = float((step @ change) / (change @ change))
    direction = direction * min(max(scale, 1.0), MAX_SCALE)
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        direction = direction + (share - (change @ direction) / (step @ change)) * step
    return direction


class Point(NamedTuple):
    """Parameters as log-weights, means and factors of the covariances."""

    log_weights: Tensor
    means: Tensor
    factor: Tensor

    @classmethod
    def of(cls, parameters: MixtureParameters, covariance_type: str) -> Self:
        """Factorise; what has no factor becomes NaN and is never extrapolated from."""
        covariances = parameters.covariances
        if covariance_type in ("full", "tied"):
            factor, info = torch.linalg.cholesky_ex(covariances)
            factor = factor.masked_fill((info != 0)[..., None, None], torch.nan)
        else:
            factor = covariances.sqrt()
        return cls(parameters.weights.log(), parameters.means, factor)


class Evaluation(NamedTuple):
    """A point at which an E step was taken, and the EM step from it."""

    point: Point
    image: Point


class Frame:
    """Coordinates around a point in which complete data have identity information.

    They are the logarithms of the weights, the means in units of the component, and the
    Cholesky factor relative to the component's with its diagonal in logarithms, each
    times the root of the weight: any coordinates are legal parameters.

    Parameters
    ----------
    origin : Point
        The point whose coordinates are zero.
    covariance_type : {"full", "tied", "diag", "spherical"}
        The form of the covariances.
    """

    def __init__(self, origin: Point, covariance_type: str):
        self.origin, self.covariance_type = origin, covariance_type
        self.n_components, self.n_features = origin.means.shape
        self.root = (0.5 * origin.log_weights).exp()
        # Information about the logarithm of a scale, whose root multiplies it.
        scale_root = np.sqrt(2.0) * self.root
        if covariance_type == "tied":
            self.scale_root = torch.full_like(scale_root[:1], np.sqrt(2.0))
        elif covariance_type == "spherical":
            self.scale_root = np.sqrt(self.n_features) * scale_root
        else:
            self.scale_root = scale_root.unsqueeze(-1)

    def coordinates(self, point: Point) -> Tensor:
        """Return the coordinates of a point as one vector."""
        origin, root = self.origin, self.root
        deviation = point.means - origin.means
        if self.covariance_type in ("full", "tied"):
            whitened = torch.linalg.solve_triangular(
                origin.factor, self._columns(deviation), upper=False
            )
            whitened = self._rows(whitened)
            relative = torch.linalg.solve_triangular(
                origin.factor, point.factor, upper=False
            )
            scale = relative.diagonal(dim1=-2, dim2=-1).log() * self.scale_root
            below = relative.tril(-1) * (self.scale_root.unsqueeze(-1) / np.sqrt(2.0))
        else:
            whitened = deviation / self._by_feature(origin.factor)
            scale = (point.factor / origin.factor).log() * self.scale_root
            below = scale[:0]
        weights = root * (point.log_weights - origin.log_weights)
        parts = (weights, root.unsqueeze(-1) * whitened, scale, below)
        return torch.cat([part.reshape(-1) for part in parts])

    def parameters(self, coordinates: Tensor) -> MixtureParameters:
        """Return the parameters at given coordinates."""
        origin, root = self.origin, self.root
        sizes = [root.numel(), origin.means.numel(), self._n_scales()]
        sizes.append(coordinates.numel() - sum(sizes))
        weights, whitened, scale, below = coordinates.split(sizes)
        log_weights = origin.log_weights + weights / root
        whitened = whitened.view_as(origin.means) / root.unsqueeze(-1)
        if self.covariance_type in ("full", "tied"):
            shift = self._rows(origin.factor @ self._columns(whitened))
            diagonal = scale.view(origin.factor.shape[:-1]) / self.scale_root
            relative = below.view_as(origin.factor)
            relative = relative / (self.scale_root.unsqueeze(-1) / np.sqrt(2.0))
            factor = origin.factor @ (relative + torch.diag_embed(diagonal.exp()))
            covariances = factor @ factor.mT
        else:
            shift = whitened * self._by_feature(origin.factor)
            logarithm = scale.view_as(origin.factor) / self.scale_root
            covariances = (origin.factor * logarithm.exp()).square()
        return MixtureParameters(
            log_weights.softmax(0), origin.means + shift, covariances
        )

    def _n_scales(self) -> int:
        factor = self.origin.factor
        triangular = self.covariance_type in ("full", "tied")
        return factor[..., 0].numel() if triangular else factor.numel()

    def _columns(self, rows: Tensor) -> Tensor:
        """Turn a vector for each component into columns that factors multiply."""
        return rows.mT if self.covariance_type == "tied" else rows.unsqueeze(-1)

    def _rows(self, columns: Tensor) -> Tensor:
        return columns.mT if self.covariance_type == "tied" else columns.squeeze(-1)

    def _by_feature(self, factor: Tensor) -> Tensor:
        return factor if self.covariance_type == "diag" else factor.unsqueeze(-1)
