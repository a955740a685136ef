"""Low-rank covariances, ``U U' + diag(s)^2``, that are never formed.

With loadings U of shape (D, r) and noise s of shape (D,) a deviation is
``x = U f + s e`` of independent standard normal f and e. Everything rests on the
loadings in units of the noise, ``A = U / s``, and on the small matrix ``M = I + A' A``:
Woodbury's identity and the determinant lemma.
"""

from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints

from skgmje.mixture._scale import (
    Scale,
    TrilScale,
    products_by_component,
    recording,
    take_component,
    triangularise,
)

# Smaller pivots, as shares of the diagonal of M, are too much its rounding error.
MIN_PIVOT = 1e4 * torch.finfo(torch.float64).eps


class Posterior(NamedTuple):
    """What a point says about its factors, with the noise as unit of length.

    Attributes
    ----------
    loadings : tensor of shape (*batch, K or 1, D, r)
        ``A = U / s``.
    gain : tensor of shape (*batch, K or 1, r, D)
        ``M^-1 A'``, which maps deviations to the mean of their factors.
    root : tensor of shape (*batch, K or 1, r, r)
        Cholesky factor of M.
    """

    loadings: Tensor
    gain: Tensor
    root: Tensor


class LowRankScale(Scale):
    """Loadings and noise as one tensor ``[U, s]`` of shape (*batch, K or 1, D, r + 1).

    Whitened deviations have D + r numbers, the noise ``e`` and the factors ``f`` that
    explain x best: the squared distance is the least ``|e|^2 + |f|^2`` with
    ``x = U f + s e``. This sum has no negative terms, unlike Woodbury's, and at its
    minimum errors of f hardly count.
    """

    n_matrix_dims = 2
    constraints: ClassVar = {
        "cov_factor": constraints.independent(constraints.real, 2),
        "cov_diag": constraints.positive,
    }
    is_nested = False

    @classmethod
    def of(cls, cov_factor: Tensor, cov_diag: Tensor) -> "LowRankScale":
        """Store factors (*batch, K or 1, D, r) and variances (*batch, K or 1, D)."""
        shapes = cov_factor.shape[:-1], cov_diag.shape
        n_features = {shape[-1:] for shape in shapes}
        try:
            leading = torch.broadcast_shapes(*shapes)
        except RuntimeError:
            leading = torch.Size()
        if len(leading) < 2 or len(n_features) > 1:
            raise ValueError(
                "Shapes do not fit together: cov_factor must be (*batch, K, D, rank) "
                f"and cov_diag (*batch, K, D); got {tuple(cov_factor.shape)} and "
                f"{tuple(cov_diag.shape)}."
            )
        loadings = cov_factor.expand(*leading, -1)
        noise = cov_diag.sqrt().expand(leading).unsqueeze(-1)
        return cls(torch.cat([loadings, noise], -1))

    @property
    def event_sizes(self) -> set[int]:
        return {self.factor.shape[-2]}

    @property
    def rank(self) -> int:
        """Number of factors r."""
        return self.factor.shape[-1] - 1

    @property
    def loadings(self) -> Tensor:
        """U, of shape (*batch, K or 1, D, r)."""
        return self.factor[..., :-1]

    @property
    def noise(self) -> Tensor:
        """Standard deviations s, of shape (*batch, K or 1, D)."""
        return self.factor[..., -1]

    @cached_property
    def posterior(self) -> Posterior:
        """Factorise M and solve with it in float64, since M squares the loadings."""
        with recording():
            loadings = self.loadings / self.noise.unsqueeze(-1)
            columns = loadings.double()
            identity = torch.eye(self.rank, dtype=columns.dtype, device=columns.device)
            precision = identity + columns.mT @ columns
            root = torch.linalg.cholesky_ex(precision).L
            _check_pivots(root, precision)
            gain = torch.cholesky_solve(columns.mT, root)
            return Posterior(loadings, gain.to(loadings), root.to(loadings))

    def parameters(self) -> dict[str, Tensor]:
        return {"cov_factor": self.loadings, "cov_diag": self.noise.square()}

    def n_whitened(self, event_size: int) -> int:
        return event_size + self.rank

    def whiten_columns(self, deviation: Tensor) -> Tensor:
        scaled = deviation / self.noise.unsqueeze(-1)
        factors = self.posterior.gain @ scaled
        return torch.cat([scaled - self.posterior.loadings @ factors, factors], -2)

    def color(
        self, noise: Tensor, component: Tensor, batch_shape: torch.Size
    ) -> Tensor:
        n_features = self.factor.shape[-2]
        own, factors = noise.split([n_features, self.rank], -1)
        scale = take_component(self.noise, component, batch_shape, 1)
        if self.factor.dim() == 3:
            explained = products_by_component(self.loadings, factors, component)
        else:
            loadings = take_component(self.loadings, component, batch_shape, 2)
            explained = (loadings @ factors.unsqueeze(-1)).squeeze(-1)
        return explained + scale * own

    def log_determinant(self, event_size: int) -> Tensor:
        root = self.posterior.root.diagonal(dim1=-2, dim2=-1)
        return self.noise.log().sum(-1) + root.log().sum(-1)

    def covariance(self, event_size: int) -> Tensor:
        return self.loadings @ self.loadings.mT + torch.diag_embed(self.noise.square())

    def variance(self, event_size: int) -> Tensor:
        return self.factor.square().sum(-1)

    def dense(self) -> TrilScale:
        """Return the Cholesky factors, at a cost of O(D^3)."""
        square_root = torch.cat([torch.diag_embed(self.noise), self.loadings], -1)
        return TrilScale(triangularise(square_root))

    def precision_weighted_mean(self, weights: Tensor, means: Tensor) -> Tensor:
        return self.dense().precision_weighted_mean(weights, means)

    def marginal(self, indices: Tensor) -> "LowRankScale":
        return LowRankScale(self.factor[..., indices, :])

    def split(self, n_given: int) -> tuple[Scale, Tensor | None, Scale]:
        given = LowRankScale(self.factor[..., :n_given, :])
        loadings = self.loadings[..., n_given:, :]
        # The factors given the leading block have covariance M^-1 = R^-T R^-1.
        root: Any = given.posterior.root
        left = torch.linalg.solve_triangular(root, loadings.mT, upper=False).mT
        rest = torch.cat([left, self.factor[..., n_given:, -1:]], -1)
        return given, loadings if self.rank else None, LowRankScale(rest)

    def multiply(self, scale: Tensor) -> "LowRankScale":
        loadings = scale.unsqueeze(-1) * self.loadings
        noise = scale.abs() * self.noise
        return LowRankScale(torch.cat([loadings, noise.unsqueeze(-1)], dim=-1))

    def with_noise(self, stddev: Tensor) -> "LowRankScale":
        noise = torch.hypot(self.noise, stddev)
        return LowRankScale(torch.cat([self.loadings, noise.unsqueeze(-1)], dim=-1))


def _check_pivots(root: Tensor, precision: Tensor) -> None:
    """Raise ValueError for a factor that failed or is mostly rounding error."""
    if root.device.type == "meta":
        return
    pivots, sizes = (m.diagonal(dim1=-2, dim2=-1) for m in (root, precision))
    if not bool((pivots.square() > MIN_PIVOT * sizes).all()):
        raise ValueError(
            "Low-rank covariances are not finite, or the columns of cov_factor depend "
            "on each other too strongly beside so small a cov_diag; lower the rank or "
            "raise cov_diag."
        )
