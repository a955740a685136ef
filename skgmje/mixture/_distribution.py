"""The one density object of the library: a batch of Gaussian mixtures."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from skgmje.mixture._indices import check_indices, remaining_indices
from skgmje.mixture._regions import highest_density_level, highest_mode
from skgmje.mixture._scale import (
    DiagonalScale,
    Scale,
    SphericalScale,
    TrilScale,
    take_component,
)

_SCALE_NAMES: dict[type[Scale], str] = {
    TrilScale: "scale_tril",
    DiagonalScale: "scale_diag",
    SphericalScale: "scale_spherical",
}
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class MultivariateNormalMixture(Distribution):
    r"""Mixture of multivariate normal distributions, or a batch of such mixtures.

    .. math:: p(z) = \sum_k \pi_k \, \mathcal{N}(z; \mu_k, L_k L_k^\top)

    Exactly one of `scale_tril`, `scale_diag` and `scale_spherical` is given, and the
    covariances are stored in that form.

    Read more in the :ref:`User Guide <density>`.

    Parameters
    ----------
    weights : tensor of shape (\*batch, K)
        Mixture weights, not negative, summing to one.
    means : tensor of shape (\*batch, K, D)
        Component means.
    scale_tril : tensor of shape (\*batch, K, D, D) or (\*batch, 1, D, D), optional
        Lower-triangular Cholesky factors of the covariances. A component dimension of
        one makes them tied: one covariance for all components.
    scale_diag : tensor of shape (\*batch, K, D), optional
        Standard deviations of components with diagonal covariances.
    scale_spherical : tensor of shape (\*batch, K), optional
        Standard deviations of components with spherical covariances.
    validate_args : bool, optional
        Whether to check the parameters and the arguments of methods; by default as
        ``torch.distributions`` is set.

    Attributes
    ----------
    batch_shape : torch.Size
        Shape of the batch of mixtures; the leading shapes broadcast.
    event_shape : torch.Size
        ``(D,)``.
    weights, means : tensor
        The parameters, with all batch dimensions.
    mean : tensor of shape (\*batch, D)
        Mean of the mixture.
    variance, stddev : tensor of shape (\*batch, D)
        Variance and standard deviation of each coordinate.
    covariance_matrix : tensor of shape (\*batch, D, D)
        Covariance of the mixture.

    Notes
    -----
    Densities are in nats. Batch dimensions broadcast, so that a conditioned mixture
    keeps one scale for all its rows. Gradients flow through every method but `sample`,
    `mode` and `highest_density_level`.

    References
    ----------
    Bishop, *Pattern Recognition and Machine Learning* (2006), sections 2.3 and 9.2.

    Examples
    --------
    >>> import torch
    >>> from skgmje import MultivariateNormalMixture
    >>> mixture = MultivariateNormalMixture(
    ...     torch.tensor([0.3, 0.7], dtype=torch.float64),
    ...     torch.tensor([[0.0, 1.0], [2.0, -1.0]], dtype=torch.float64),
    ...     scale_diag=torch.ones(2, 2, dtype=torch.float64),
    ... )
    >>> conditional = mixture.condition([0], torch.tensor([[0.0], [2.0]]).double())
    >>> conditional.batch_shape, conditional.event_shape
    (torch.Size([2]), torch.Size([1]))
    >>> conditional.mean.ravel().round(decimals=3)
    tensor([ 0.5200, -0.8900], dtype=torch.float64)
    """

    support = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        weights: Tensor,
        means: Tensor,
        scale_tril: Tensor | None = None,
        *,
        scale_diag: Tensor | None = None,
        scale_spherical: Tensor | None = None,
        validate_args: bool | None = None,
    ):
        scale = _make_scale(scale_tril, scale_diag, scale_spherical)
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
    ) -> "MultivariateNormalMixture":
        r"""Build a mixture from the logarithms of its weights, unchecked.

        Logarithms keep what weights would lose to underflow, and their gradient.

        Parameters
        ----------
        log_weights : tensor of shape (\*batch, K)
            Normalised log-weights.
        means : tensor of shape (\*batch, K, D)
            Component means.
        **scale : tensor
            One of ``scale_tril``, ``scale_diag`` and ``scale_spherical``.

        Returns
        -------
        mixture : MultivariateNormalMixture
            The mixture.
        """
        return cls._from_parts(log_weights, means, _make_scale(**scale))

    @classmethod
    def _from_parts(
        cls, log_weights: Tensor, means: Tensor, scale: Scale
    ) -> "MultivariateNormalMixture":
        """Build from normalised log-weights, unchecked."""
        self = cls.__new__(cls)
        self._set(log_weights, means, scale)
        Distribution.__init__(
            self, self._batch_shape, self._event_shape, validate_args=False
        )
        return self

    def _set(self, log_weights: Tensor, means: Tensor, scale: Scale) -> None:
        n_components, n_features = means.shape[-2:]
        try:
            leading = torch.broadcast_shapes(
                log_weights.shape, means.shape[:-1], scale.leading_shape
            )
        except RuntimeError:
            leading = torch.Size()
        sizes = set(scale.factor.shape[len(scale.leading_shape) :])
        if (
            leading[-1:] != (n_components,)
            or log_weights.shape[-1] != n_components
            or len(scale.leading_shape) == 0
            or (sizes - {n_features})
        ):
            raise ValueError(
                f"Shapes do not fit together: weights {tuple(log_weights.shape)}, "
                f"means {tuple(means.shape)} and {_SCALE_NAMES[type(scale)]} "
                f"{tuple(scale.factor.shape)}."
            )
        self._log_weights, self._means, self._scale = log_weights, means, scale
        self._batch_shape = leading[:-1]
        self._event_shape = torch.Size([n_features])
        if len(scale.leading_shape) > 1:
            self._means = means.expand(*leading, n_features)

    def _validate(self, weights: Tensor, scale: Scale) -> None:
        for name, constraint in self.arg_constraints.items():
            value = {"weights": weights, "means": self._means}.get(name, scale.factor)
            if not bool(constraint.check(value).all()):
                raise ValueError(
                    f"The parameter {name} of MultivariateNormalMixture must satisfy "
                    f"the constraint {constraint}."
                )

    @property
    def arg_constraints(self) -> dict[str, Any]:
        """Constraints of the parameters that are stored."""
        scale_constraint = {
            TrilScale: constraints.lower_cholesky,
            DiagonalScale: constraints.positive,
            SphericalScale: constraints.positive,
        }[type(self._scale)]
        return {
            "weights": constraints.simplex,
            "means": constraints.real,
            _SCALE_NAMES[type(self._scale)]: scale_constraint,
        }

    # ------------------------------------------------------------------ parameters

    @property
    def n_components(self) -> int:
        """Number of components K."""
        return self._means.shape[-2]

    @property
    def covariance_type(self) -> str:
        """``"full"``, ``"tied"``, ``"diag"`` or ``"spherical"``."""
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
        """Cholesky factors as stored, or None for diagonal and spherical scales."""
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
        scale_name = _SCALE_NAMES[type(self._scale)]
        return {
            "weights": self._log_weights.exp(),
            "means": self._means,
            scale_name: self._scale.factor,
        }

    def to(self, *args: Any, **kwargs: Any) -> "MultivariateNormalMixture":
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

    def detach(self) -> "MultivariateNormalMixture":
        """Return the distribution cut from the gradient graph.

        Returns
        -------
        mixture : MultivariateNormalMixture
            The same density, through which no gradient flows.
        """
        return self._map(Tensor.detach)

    def _map(self, function: Any) -> "MultivariateNormalMixture":
        return self._from_parts(
            function(self._log_weights),
            function(self._means),
            self._scale.map(function),
        )

    def expand(
        self, batch_shape: Sequence[int], _instance: Any = None
    ) -> "MultivariateNormalMixture":
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

    def __getitem__(self, index: Any) -> "MultivariateNormalMixture":
        """Return some of the mixtures of a batch."""
        if not self.batch_shape:
            raise IndexError("A single mixture cannot be indexed; only a batch can.")
        n_mixtures = self.batch_shape.numel()
        chosen = torch.arange(n_mixtures, device=self._means.device)
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

    # --------------------------------------------------------------------- moments

    @property
    def mean(self) -> Tensor:
        r"""Mean of the mixture, of shape (\*batch, D)."""
        mean = torch.einsum("...k,...kd->...d", self._log_weights.exp(), self._means)
        return mean.expand(*self.batch_shape, -1)

    @property
    def variance(self) -> Tensor:
        r"""Variance of each coordinate, of shape (\*batch, D)."""
        deviation = self._means - self.mean.unsqueeze(-2)
        within = self._scale.variance(self._event_shape[0])
        return torch.einsum(
            "...k,...kd->...d", self._log_weights.exp(), within + deviation.square()
        )

    @property
    def covariance_matrix(self) -> Tensor:
        r"""Covariance of the mixture, of shape (\*batch, D, D), by total variance."""
        weights = self._log_weights.exp()
        deviation = self._means - self.mean.unsqueeze(-2)
        between = torch.einsum("...k,...ki,...kj->...ij", weights, deviation, deviation)
        within = self._scale.covariance(self._event_shape[0])
        if within.shape[-3] == 1:
            return within.squeeze(-3) + between
        return torch.einsum("...k,...kij->...ij", weights, within) + between

    # --------------------------------------------------------------------- density

    def component_log_prob(self, value: Tensor) -> Tensor:
        r"""Log-density of each component, without its weight.

        Parameters
        ----------
        value : tensor of shape (\*sample, \*batch, D)
            Points.

        Returns
        -------
        log_prob : tensor of shape (\*sample, \*batch, K)
            Log-densities in nats.
        """
        if value.shape[-1:] != self._event_shape:
            raise ValueError(
                f"Points must have {self._event_shape[0]} coordinates; got shape "
                f"{tuple(value.shape)}."
            )
        whitened = self._scale.whiten(value.unsqueeze(-2) - self._means)
        n_features = self._event_shape[0]
        return (
            -0.5 * whitened.square().sum(-1)
            - self._scale.log_determinant(n_features)
            - n_features * _HALF_LOG_2PI
        )

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Log-density of the mixture.

        Parameters
        ----------
        value : tensor of shape (\*sample, \*batch, D)
            Points.

        Returns
        -------
        log_prob : tensor of shape (\*sample, \*batch)
            Log-densities in nats.
        """
        if self._validate_args:
            self._validate_sample(value)
        return self._log_joint(value).logsumexp(-1)

    def responsibilities(self, value: Tensor) -> Tensor:
        r"""Posterior probabilities of the components.

        Parameters
        ----------
        value : tensor of shape (\*sample, \*batch, D)
            Points.

        Returns
        -------
        responsibilities : tensor of shape (\*sample, \*batch, K)
            Not negative; each row sums to one, however far the point.
        """
        return self._log_joint(value).softmax(-1)

    def _log_joint(self, value: Tensor) -> Tensor:
        return self._log_weights + self.component_log_prob(value)

    # ---------------------------------------------------- marginals and conditionals

    def marginal(self, indices: Any) -> "MultivariateNormalMixture":
        """Marginal distribution of some coordinates.

        Parameters
        ----------
        indices : int, list, tuple, array or tensor of int
            Coordinates to keep, in any order; negative ones count from the end.

        Returns
        -------
        mixture : MultivariateNormalMixture
            Mixture over those coordinates, in the order given.

        Raises
        ------
        ValueError
            If `indices` is empty, repeats a coordinate or leaves the range.
        """
        kept = check_indices(indices, self._event_shape[0], self._means.device)
        if len(kept) == 0:
            raise ValueError("A marginal needs at least one coordinate; got none.")
        return self._from_parts(
            self._log_weights, self._means[..., kept], self._scale.marginal(kept)
        )

    def condition(self, indices: Any, values: Tensor) -> "MultivariateNormalMixture":
        r"""Conditional distribution of the other coordinates, in closed form.

        Parameters
        ----------
        indices : int, list, tuple, array or tensor of int
            Coordinates that are known, in any order. None of them gives the marginal.
        values : tensor of shape (\*rows, len(indices))
            Their values; ``rows`` broadcasts against the batch shape.

        Returns
        -------
        mixture : MultivariateNormalMixture
            Batch of mixtures, of shape ``rows``, over the coordinates that are left, in
            ascending order.

        Raises
        ------
        ValueError
            If `indices` repeats a coordinate, leaves the range or covers all
            coordinates, or if `values` has another width.

        Notes
        -----
        With the Cholesky factor ordered as [given, rest],
        ``m_k = mu_k,rest + L_k,rest,given y_k`` where ``y_k`` is the whitened deviation
        of the given block, and the new factor is ``L_k,rest,rest``.
        """
        given = check_indices(indices, self._event_shape[0], self._means.device)
        values = torch.as_tensor(
            values, dtype=self._means.dtype, device=self._means.device
        )
        if values.dim() == 0 or values.shape[-1] != len(given):
            raise ValueError(
                f"values must have {len(given)} columns, one for each index; got shape "
                f"{tuple(values.shape)}."
            )
        rows = torch.broadcast_shapes(values.shape[:-1], self.batch_shape)
        rest = remaining_indices(given, self._event_shape[0])
        if len(rest) == 0:
            raise ValueError(
                "condition needs at least one coordinate that is not given; got all "
                f"{self._event_shape[0]} of them."
            )
        if len(given) == 0:
            return self.expand(rows)
        given_scale, cross, rest_scale = self._scale.condition(given, rest)
        block = self._from_parts(
            self._log_weights, self._means[..., given], given_scale
        )
        values = values.expand(*rows, len(given))
        log_weights = block._log_joint(values).log_softmax(-1)
        means = self._means[..., rest]
        if cross is not None:
            whitened = given_scale.whiten(values.unsqueeze(-2) - block._means)
            means = means + torch.einsum(
                "...krg,...kg->...kr", *_match(cross, whitened)
            )
        return self._from_parts(log_weights, means, rest_scale)

    def affine(self, loc: Tensor, scale: Tensor) -> "MultivariateNormalMixture":
        """Distribution of ``loc + scale * z``, coordinate by coordinate.

        Parameters
        ----------
        loc : tensor of shape (D,)
            Shift.
        scale : tensor of shape (D,)
            Positive factors.

        Returns
        -------
        mixture : MultivariateNormalMixture
            The transformed mixture. Spherical components become diagonal unless all
            factors are equal.
        """
        return self._from_parts(
            self._log_weights, loc + scale * self._means, self._scale.multiply(scale)
        )

    # -------------------------------------------------------------------- sampling

    @torch.no_grad()
    def sample(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Draw samples.

        Parameters
        ----------
        sample_shape : sequence of int, default=()
            Shape of independent draws.
        generator : torch.Generator, optional
            Source of randomness on the distribution's device; by default torch's own.

        Returns
        -------
        sample : tensor of shape (\*sample_shape, \*batch, D)
            Draws in random order of components.
        """
        return self.sample_with_components(sample_shape, generator=generator)[0]

    @torch.no_grad()
    def sample_with_components(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        r"""Draw samples, and say which component each came from.

        Parameters
        ----------
        sample_shape : sequence of int, default=()
            Shape of independent draws.
        generator : torch.Generator, optional
            Source of randomness on the distribution's device; by default torch's own.

        Returns
        -------
        sample : tensor of shape (\*sample_shape, \*batch, D)
            Draws.
        component : tensor of int64 of shape (\*sample_shape, \*batch)
            Index of the component of each draw.
        """
        sample_shape = torch.Size(sample_shape)
        shape = sample_shape + self.batch_shape
        component = torch.zeros(shape, dtype=torch.long, device=self._means.device)
        if shape.numel():
            weights = self.weights.reshape(-1, self.n_components)
            draws = torch.multinomial(
                weights, sample_shape.numel(), replacement=True, generator=generator
            )
            component = draws.T.reshape(shape)
        noise = torch.empty(
            shape + self._event_shape,
            dtype=self._means.dtype,
            device=self._means.device,
        ).normal_(generator=generator)
        means = take_component(self._means, component, self.batch_shape, 1)
        return means + self._scale.color(noise, component, self.batch_shape), component

    # ---------------------------------------------------------- modes and regions

    @property
    def mode(self) -> Tensor:
        r"""Highest mode of each mixture, of shape (\*batch, D).

        From the mean of every component, and from where it crosses another one highest,
        the fixed point
        ``z = (sum_k q_k S_k^-1)^-1 sum_k q_k S_k^-1 m_k``, with ``q`` the
        responsibilities at ``z``, climbs to a mode; the highest one is returned.
        """
        return highest_mode(self)

    @torch.no_grad()
    def highest_density_level(
        self,
        mass: float,
        *,
        n_samples: int = 4096,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Log-density above which a share `mass` of the probability lies.

        The region ``{z: log p(z) >= level}`` is the smallest that holds this share. One
        component has a closed form (chi-squared); otherwise the level is a quantile of
        the log-density over draws, whose coverage has a standard error of
        ``sqrt(mass (1 - mass) / n_samples)``.

        Parameters
        ----------
        mass : float
            Probability of the region, strictly between 0 and 1.
        n_samples : int, default=4096
            Number of draws.
        generator : torch.Generator, optional
            Source of the draws; by default a private one with a fixed seed, so that
            the level of a mixture is always the same.

        Returns
        -------
        level : tensor of shape (\*batch,)
            Log-densities in nats.

        Raises
        ------
        ValueError
            If `mass` is not strictly between 0 and 1.
        """
        if not 0 < mass < 1:
            raise ValueError(f"mass must lie strictly between 0 and 1; got {mass!r}.")
        return highest_density_level(self, mass, n_samples, generator)


def _make_scale(
    scale_tril: Tensor | None = None,
    scale_diag: Tensor | None = None,
    scale_spherical: Tensor | None = None,
) -> Scale:
    given: list[Scale] = []
    if scale_tril is not None:
        given.append(TrilScale(scale_tril))
    if scale_diag is not None:
        given.append(DiagonalScale(scale_diag))
    if scale_spherical is not None:
        given.append(SphericalScale(scale_spherical))
    if len(given) != 1:
        raise ValueError(
            "Give exactly one of scale_tril, scale_diag and scale_spherical; got "
            f"{len(given)}."
        )
    return given[0]


def _match(cross: Tensor, whitened: Tensor) -> tuple[Tensor, Tensor]:
    """Give the cross factor of a tied scale its component dimension."""
    n_components = whitened.shape[-2]
    return cross.expand(*cross.shape[:-3], n_components, *cross.shape[-2:]), whitened
