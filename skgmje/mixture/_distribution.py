"""The one density object of the library: a batch of Gaussian mixtures."""

import math
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import constraints

from skgmje.mixture._base import MixtureBase
from skgmje.mixture._conditional import Conditional
from skgmje.mixture._indices import check_indices, remaining_indices
from skgmje.mixture._natural import natural_log_prob
from skgmje.mixture._scale import Scale, moving, take_component
from skgmje.mixture._uncertainty import UncertaintyMixin

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class MultivariateNormalMixture(UncertaintyMixin, MixtureBase):
    r"""Mixture of multivariate normal distributions, or a batch of such mixtures.

    .. math:: p(z) = \sum_k \pi_k \, \mathcal{N}(z; \mu_k, L_k L_k^\top)

    Exactly one of `scale_tril`, `scale_diag`, `scale_spherical` and the pair of
    `cov_factor` and `cov_diag` is given, and the covariances are stored in that form.

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
    scale_diag : tensor of shape (\*batch, K, D) or (\*batch, 1, D), optional
        Standard deviations of components with diagonal covariances; a component
        dimension of one makes them shared.
    scale_spherical : tensor of shape (\*batch, K) or (\*batch, 1), optional
        Standard deviations of components with spherical covariances, likewise.
    cov_factor : tensor of shape (\*batch, K, D, rank), optional
        Factors U of low-rank covariances ``U U' + diag(cov_diag)``: mixtures of factor
        analysers. The rank may be zero, or exceed D.
    cov_diag : tensor of shape (\*batch, K, D), optional
        Their positive diagonal parts (variances).
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
    keeps one scale for all its rows. Gradients flow through densities, `cdf`, moments,
    marginals and conditionals; samples, modes, quantiles and regions carry none.

    Low-rank components cost O(D rank) a point: only matrices of the size of the rank
    are factorised, and marginals and conditionals are of the same form. `mode` forms
    matrices of size D.

    References
    ----------
    Bishop, *Pattern Recognition and Machine Learning* (2006), sections 2.3 and 9.2.
    Low-rank covariances: Ghahramani and Hinton, *The EM algorithm for mixtures of
    factor analyzers* (1996).

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

    # --------------------------------------------------------------------- moments

    @property
    def mean(self) -> Tensor:
        r"""Mean of the mixture, of shape (\*batch, D)."""
        if isinstance(self._components, Conditional):
            return self._components.mean()
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
        value : tensor or array-like of shape (\*sample, \*batch, D)
            Points.

        Returns
        -------
        log_prob : tensor of shape (\*sample, \*batch, K)
            Log-densities in nats.

        Raises
        ------
        ValueError
            If the points have another number of coordinates.
        """
        value = self._points(value)
        if value.shape[-1:] != self._event_shape:
            raise ValueError(
                f"Points must have {self._event_shape[0]} coordinates; got shape "
                f"{tuple(value.shape)}."
            )
        distance = _squared_distance(value, self._means, self._scale)
        n_features = self._event_shape[0]
        return (
            -0.5 * distance
            - self._scale.log_determinant(n_features)
            - n_features * _HALF_LOG_2PI
        )

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Log-density of the mixture.

        Parameters
        ----------
        value : tensor or array-like of shape (\*sample, \*batch, D)
            Points.

        Returns
        -------
        log_prob : tensor of shape (\*sample, \*batch)
            Log-densities in nats.
        """
        value = self._points(value)
        if self._validate_args:
            self._validate_sample(value)
        if (
            isinstance(self._components, Conditional)
            and value.shape == self.batch_shape + self.event_shape
        ):
            return self._components.log_prob(value)
        if not self.batch_shape and value.shape[-1:] == self.event_shape:
            log_prob = natural_log_prob(self, value.reshape(-1, value.shape[-1]))
            if log_prob is not None:
                return log_prob.reshape(value.shape[:-1])
        return self._log_joint(value).logsumexp(-1)

    def responsibilities(self, value: Tensor) -> Tensor:
        r"""Posterior probabilities of the components.

        Parameters
        ----------
        value : tensor or array-like of shape (\*sample, \*batch, D)
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

    def marginal(self, indices: Any) -> Self:
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
        kept = check_indices(indices, self._event_shape[0], self._options["device"])
        if len(kept) == 0:
            raise ValueError("A marginal needs at least one coordinate; got none.")
        return self._from_parts(
            self._log_weights, self._means[..., kept], self._scale.marginal(kept)
        )

    def condition(self, indices: Any, values: Tensor) -> Self:
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
        given = check_indices(indices, self._event_shape[0], self._options["device"])
        values = torch.as_tensor(values, **self._options)
        if values.dim() == 0 or values.shape[-1] != len(given):
            raise ValueError(
                f"values must have {len(given)} columns, one for each index; got shape "
                f"{tuple(values.shape)}."
            )
        rest = remaining_indices(given, self._event_shape[0])
        if len(rest) == 0:
            raise ValueError(
                "condition needs at least one coordinate that is not given; got all "
                f"{self._event_shape[0]} of them."
            )
        rows = values.shape[:-1]
        if self.batch_shape:
            rows = torch.broadcast_shapes(rows, self.batch_shape)
        if len(given) == 0:
            return self.expand(rows)
        order = torch.cat([given, rest])
        means, scale = self._means[..., order], self._scale.marginal(order)
        if not self.batch_shape:
            joint = self._from_parts(self._log_weights, means, scale)
            return self._from_conditional(Conditional(joint, values))
        return self._condition_each(means, scale, values.expand(*rows, len(given)))

    def _condition_each(self, means: Tensor, scale: Scale, values: Tensor) -> Self:
        """Condition every mixture of a batch on its leading coordinates."""
        n_given = values.shape[-1]
        given_scale, cross, rest_scale = scale.split(n_given)
        block = self._from_parts(self._log_weights, means[..., :n_given], given_scale)
        log_weights = block._log_joint(values).log_softmax(-1)
        means = means[..., n_given:]
        if cross is not None:
            whitened = given_scale.whiten(values.unsqueeze(-2) - block._means)
            whitened = moving(whitened, cross, -1)
            means = means + torch.einsum(
                "...krg,...kg->...kr", *_match(cross, whitened)
            )
        return self._from_parts(log_weights, means, rest_scale)

    def affine(self, loc: Tensor, scale: Tensor) -> Self:
        """Distribution of ``loc + scale * z``, coordinate by coordinate.

        Parameters
        ----------
        loc : tensor of shape (D,)
            Shift.
        scale : tensor of shape (D,)
            Factors, none of them zero.

        Returns
        -------
        mixture : MultivariateNormalMixture
            The transformed mixture. Spherical components become diagonal unless all
            factors are of one size.
        """
        return self._from_parts(
            self._log_weights, loc + scale * self._means, self._scale.multiply(scale)
        )

    def convolve(self, stddev: Tensor) -> Self:
        """Distribution of the sum with independent normal noise.

        Parameters
        ----------
        stddev : tensor or array-like of shape (D,)
            Standard deviations of the noise of each coordinate; zero for none.

        Returns
        -------
        mixture : MultivariateNormalMixture
            The wider mixture. Spherical components become diagonal unless all standard
            deviations are equal.

        Raises
        ------
        ValueError
            If `stddev` does not hold one number for each coordinate that is not
            negative.

        Examples
        --------
        >>> import torch
        >>> from skgmje import MultivariateNormalMixture
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> normal = MultivariateNormalMixture(
        ...     one, torch.zeros(1, 2, dtype=torch.float64), scale_spherical=one
        ... )
        >>> normal.convolve([0.0, 3.0]).variance.round(decimals=3)
        tensor([ 1., 10.], dtype=torch.float64)
        """
        stddev = torch.as_tensor(stddev, **self._options)
        if stddev.shape != self._event_shape or not bool((stddev >= 0).all()):
            raise ValueError(
                f"stddev must hold {self._event_shape[0]} numbers that are not "
                f"negative, one for each coordinate; got {stddev}."
            )
        return self._from_parts(
            self._log_weights, self._means, self._scale.with_noise(stddev)
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
        if isinstance(self._components, Conditional) and not sample_shape:
            return self._components.sample(generator)
        shape = sample_shape + self.batch_shape
        component = torch.zeros(shape, dtype=torch.long, device=self._means.device)
        if shape.numel():
            weights = self.weights.reshape(-1, self.n_components)
            draws = torch.multinomial(
                weights, sample_shape.numel(), replacement=True, generator=generator
            )
            component = draws.T.reshape(shape)
        n_noise = self._scale.n_whitened(self._event_shape[0])
        noise = torch.empty(*shape, n_noise, **self._options)
        noise = noise.normal_(generator=generator)
        means = take_component(self._means, component, self.batch_shape, 1)
        return means + self._scale.color(noise, component, self.batch_shape), component


def _squared_distance(value: Tensor, means: Tensor, scale: Scale) -> Tensor:
    """Squared Mahalanobis distances of shape (*sample, *batch, K)."""
    if means.dim() > 2:
        return scale.whiten(value.unsqueeze(-2) - means).square().sum(-1)
    columns = value.reshape(-1, value.shape[-1]).T
    distance = scale.whitener(means, columns.shape[1])(columns).square().sum(1)
    return distance.reshape(len(means), *value.shape[:-1]).movedim(0, -1)


def _match(cross: Tensor, whitened: Tensor) -> tuple[Tensor, Tensor]:
    """Give the cross factor of a tied scale its component dimension."""
    n_components = whitened.shape[-2]
    return cross.expand(*cross.shape[:-3], n_components, *cross.shape[-2:]), whitened
