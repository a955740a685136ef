"""The parameters of a batch of mixtures: how they are held, checked and moved."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from skgmje._backend import as_tensor
from skgmje.mixture._conditional import Conditional
from skgmje.mixture._low_rank import LowRankScale
from skgmje.mixture._scale import DiagonalScale, Scale, SphericalScale, TrilScale


class Components(NamedTuple):
    """Log-weights (*batch, K) and means (*batch, K, D), as they are stored."""

    log_weights: Tensor
    means: Tensor

    @property
    def n_components(self) -> int:
        return self.means.shape[-2]


class MixtureBase(Distribution):
    """A batch of mixtures without its mathematics."""

    _components: Components | Conditional
    _scale: Scale

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        scale_tril: Tensor | None = None,
        *,
        scale_diag: Tensor | None = None,
        scale_spherical: Tensor | None = None,
        cov_factor: Tensor | None = None,
        cov_diag: Tensor | None = None,
        validate_args: bool | None = None,
    ):
        scale = _make_scale(
            scale_tril, scale_diag, scale_spherical, cov_factor, cov_diag
        )
        if means.dim() < 2 or weights.dim() < 1:
            raise ValueError(
                "weights must have shape (*batch, K) and means (*batch, K, D); got "
                f"{tuple(weights.shape)} and {tuple(means.shape)}."
            )
        self._set(weights.log(), means, scale)
        validate = self._validate_args if validate_args is None else validate_args
        if validate:
            self._validate(weights, scale)
        super().__init__(self._batch_shape, self._event_shape, validate_args=False)
        self._validate_args = validate

    @classmethod
    def from_log_weights(
        cls, log_weights: Tensor, means: Tensor, **scale: Tensor
    ) -> Self:
        r"""Build a mixture from the logarithms of its weights, unchecked.

        Logarithms keep what weights would lose to underflow, and their gradient.

        Parameters
        ----------
        log_weights : tensor of shape (\*batch, K)
            Normalised log-weights.
        means : tensor of shape (\*batch, K, D)
            Component means.
        **scale : tensor
            ``scale_tril``, ``scale_diag``, ``scale_spherical``, or ``cov_factor`` and
            ``cov_diag``.

        Returns
        -------
        mixture : MultivariateNormalMixture
            The mixture.
        """
        return cls._from_parts(log_weights, means, _make_scale(**scale))

    @classmethod
    def _from_parts(cls, log_weights: Tensor, means: Tensor, scale: Scale) -> Self:
        """Build from normalised log-weights, unchecked."""
        self = cls.__new__(cls)
        self._set(log_weights, means, scale)
        Distribution.__init__(
            self, self._batch_shape, self._event_shape, validate_args=False
        )
        return self

    @classmethod
    def _from_conditional(cls, conditional: Conditional) -> Self:
        """Build a batch whose weights and means are computed when they are needed."""
        self = cls.__new__(cls)
        self._components, self._scale = conditional, conditional.rest_scale
        Distribution.__init__(
            self, conditional.batch_shape, conditional.event_shape, validate_args=False
        )
        return self

    def _set(self, log_weights: Tensor, means: Tensor, scale: Scale) -> None:
        n_components, n_features = means.shape[-2:]
        shapes = (log_weights.shape, means.shape[:-1], scale.leading_shape)
        leading = shapes[0]
        if shapes.count(leading) < len(shapes):
            try:  # NumPy's is the faster one
                leading = torch.Size(np.broadcast_shapes(*map(tuple, shapes)))
            except ValueError:
                leading = torch.Size()
        if (
            leading[-1:] != (n_components,)
            or log_weights.shape[-1] != n_components
            or len(scale.leading_shape) == 0
            or (scale.event_sizes - {n_features})
        ):
            shapes_of_scale = " and ".join(
                f"{name} {tuple(value.shape)}"
                for name, value in scale.parameters().items()
            )
            raise ValueError(
                f"Shapes do not fit together: weights {tuple(log_weights.shape)}, "
                f"means {tuple(means.shape)} and {shapes_of_scale}."
            )
        if len(scale.leading_shape) > 1:
            means = means.expand(*leading, n_features)
        self._components, self._scale = Components(log_weights, means), scale
        self._batch_shape = leading[:-1]
        self._event_shape = torch.Size([n_features])

    def _validate(self, weights: Tensor, scale: Scale) -> None:
        values = {"weights": weights, "means": self._means} | scale.parameters()
        for name, constraint in self.arg_constraints.items():
            value = values[name]
            if not bool(constraint.check(value).all()):
                raise ValueError(
                    f"The parameter {name} of MultivariateNormalMixture must satisfy "
                    f"the constraint {constraint}."
                )

    @property
    def arg_constraints(self) -> dict[str, Any]:
        """Constraints of the parameters that are stored."""
        return {
            "weights": constraints.simplex,
            "means": constraints.real,
            **self._scale.constraints,
        }

    # ------------------------------------------------------------------ parameters

    def _points(self, value: Any) -> Tensor:
        """Return points in the dtype of the mixture; arrays become tensors."""
        options = self._options
        if isinstance(value, Tensor):
            return value.to(options["dtype"])
        return as_tensor(value, **options)

    @property
    def _log_weights(self) -> Tensor:
        return self._components.log_weights

    @property
    def _means(self) -> Tensor:
        return self._components.means

    @property
    def _options(self) -> dict[str, Any]:
        """Dtype and device, for new tensors."""
        factor = self._scale.factor
        return {"dtype": factor.dtype, "device": factor.device}

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return self._components.n_components

    @property
    def covariance_type(self) -> str:
        """``"full"``, ``"tied"``, ``"diag"``, ``"spherical"`` or ``"low_rank"``."""
        if isinstance(self._scale, LowRankScale):
            return "low_rank"
        if isinstance(self._scale, DiagonalScale):
            return "diag"
        if isinstance(self._scale, SphericalScale):
            return "spherical"
        return "full" if self._scale.leading_shape[-1] == self.n_components else "tied"

    @property
    def weights(self) -> Tensor:
        r"""Mixture weights of shape (\*batch, K)."""
        return self._log_weights.exp().expand(*self.batch_shape, -1)

    @property
    def log_weights(self) -> Tensor:
        r"""Logarithms of the weights, of shape (\*batch, K), exact for tiny weights."""
        return self._log_weights.expand(*self.batch_shape, -1)

    @property
    def means(self) -> Tensor:
        r"""Component means of shape (\*batch, K, D)."""
        return self._means.expand(*self.batch_shape, -1, -1)

    @property
    def scale_tril(self) -> Tensor | None:
        """Cholesky factors as stored, or None for other scales."""
        return self._scale.factor if isinstance(self._scale, TrilScale) else None

    @property
    def scale_diag(self) -> Tensor | None:
        """Diagonal standard deviations as stored, or None for other scales."""
        return self._scale.factor if isinstance(self._scale, DiagonalScale) else None

    @property
    def scale_spherical(self) -> Tensor | None:
        """Spherical standard deviations as stored, or None for other scales."""
        return self._scale.factor if isinstance(self._scale, SphericalScale) else None

    @property
    def cov_factor(self) -> Tensor | None:
        """Factors of low-rank covariances as stored, or None for other scales."""
        return self._scale.loadings if isinstance(self._scale, LowRankScale) else None

    @property
    def cov_diag(self) -> Tensor | None:
        """Diagonal parts of low-rank covariances, or None for other scales."""
        scale = self._scale
        return scale.noise.square() if isinstance(scale, LowRankScale) else None

    @property
    def component_covariances(self) -> Tensor:
        r"""Component covariances of shape (\*batch, K, D, D)."""
        covariance = self._scale.covariance(self._event_shape[0])
        return covariance.expand(*self.batch_shape, self.n_components, -1, -1)

    def parameters(self) -> dict[str, Tensor]:
        """Return the constructor arguments that rebuild this distribution.

        Returns
        -------
        parameters : dict of str to tensor
            ``weights``, ``means`` and the scale that is stored.
        """
        return {
            "weights": self._log_weights.exp(),
            "means": self._means,
            **self._scale.parameters(),
        }

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the distribution on another device or in another dtype.

        Parameters
        ----------
        *args, **kwargs
            As of :meth:`torch.Tensor.to`.

        Returns
        -------
        mixture : MultivariateNormalMixture
            The moved distribution.
        """
        return self._map(lambda tensor: tensor.to(*args, **kwargs))

    def detach(self) -> Self:
        """Return the distribution cut from the gradient graph.

        Returns
        -------
        mixture : MultivariateNormalMixture
            The same density, through which no gradient flows.
        """
        return self._map(Tensor.detach)

    def _map(self, function: Any) -> Self:
        return self._from_parts(
            function(self._log_weights),
            function(self._means),
            self._scale.map(function),
        )

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Self:
        """Return the distribution with its batch expanded, without copies.

        Parameters
        ----------
        batch_shape : sequence of int
            The new batch shape.

        Returns
        -------
        mixture : MultivariateNormalMixture
            The expanded batch of mixtures.
        """
        batch_shape = torch.Size(batch_shape)
        return self._from_parts(
            self._log_weights.expand(*batch_shape, -1),
            self._means.expand(*batch_shape, -1, -1),
            self._scale,
        )

    def __getitem__(self, index: Any) -> Self:
        """Return some of the mixtures of a batch."""
        if not self.batch_shape:
            raise IndexError("A single mixture cannot be indexed; only a batch can.")
        n_mixtures = self.batch_shape.numel()
        chosen = torch.arange(n_mixtures, device=self._scale.factor.device)
        chosen = chosen.reshape(self.batch_shape)[index]

        def choose(parameter: Tensor) -> Tensor:
            return parameter.flatten(0, len(self.batch_shape) - 1)[chosen]

        scale = self._scale
        if len(scale.leading_shape) > 1:
            scale = scale.expand(self.batch_shape).map(choose)
        return self._from_parts(choose(self.log_weights), choose(self.means), scale)

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("A single mixture has no length.")
        return self.batch_shape[0]

    def __repr__(self) -> str:
        return (
            f"MultivariateNormalMixture(n_components={self.n_components}, "
            f"n_features={self._event_shape[0]}, "
            f"covariance_type={self.covariance_type!r}, "
            f"batch_shape={tuple(self.batch_shape)})"
        )


def _make_scale(
    scale_tril: Tensor | None = None,
    scale_diag: Tensor | None = None,
    scale_spherical: Tensor | None = None,
    cov_factor: Tensor | None = None,
    cov_diag: Tensor | None = None,
) -> Scale:
    given: list[Scale] = []
    if scale_tril is not None:
        given.append(TrilScale(scale_tril))
    if scale_diag is not None:
        given.append(DiagonalScale(scale_diag))
    if scale_spherical is not None:
        given.append(SphericalScale(scale_spherical))
    if cov_factor is not None and cov_diag is not None:
        given.append(LowRankScale.of(cov_factor, cov_diag))
    elif cov_factor is not None or cov_diag is not None:
        raise ValueError("cov_factor and cov_diag go together; give both or neither.")
    if len(given) != 1:
        raise ValueError(
            "Give exactly one of scale_tril, scale_diag, scale_spherical and the pair "
            f"of cov_factor and cov_diag; got {len(given)}."
        )
    return given[0]
