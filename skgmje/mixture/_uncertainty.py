"""What a mixture says about uncertainty: modes, quantiles and regions."""

from typing import Any

import torch
from torch import Tensor

from skgmje.mixture._quantiles import Coordinates
from skgmje.mixture._regions import (
    highest_density_intervals,
    highest_density_level,
    highest_mode,
)


class UncertaintyMixin:
    """Modes, quantiles and highest-density regions of a batch of mixtures."""

    batch_shape: torch.Size
    event_shape: torch.Size
    _options: dict[str, Any]
    log_prob: Any
    _points: Any

    @property
    def mode(self) -> Tensor:
        r"""Highest mode of each mixture, of shape (\*batch, D).

        From the mean of every component, and from where it crosses another one highest,
        the fixed point
        ``z = (sum_k q_k S_k^-1)^-1 sum_k q_k S_k^-1 m_k``, with ``q`` the
        responsibilities at ``z``, climbs to a mode; the highest one is returned. Of
        more than 64 components the search starts from the 64 at whose means the
        density is highest. After 30 steps only the eight highest points climb on. Over
        one coordinate the turning points of the density are found instead.
        """
        return highest_mode(self)

    # ------------------------------------------------------------------- quantiles

    def cdf(self, value: Tensor) -> Tensor:
        r"""Probability of a smaller number, for mixtures over one coordinate.

        Small probabilities keep all their digits.

        Parameters
        ----------
        value : tensor or array-like of shape (\*sample, \*batch, 1)
            Points.

        Returns
        -------
        probability : tensor of shape (\*sample, \*batch)
            Probabilities.

        Raises
        ------
        ValueError
            If the mixture has several coordinates.
        """
        self._check_one_coordinate("cdf")
        return Coordinates.of(self).log_tail(self._points(value), 1.0).exp().squeeze(-1)

    def icdf(self, value: Tensor) -> Tensor:
        r"""Inverse of `cdf`, for mixtures over one coordinate.

        Parameters
        ----------
        value : tensor of shape (\*sample, \*batch)
            Probabilities from 0 to 1.

        Returns
        -------
        point : tensor of shape (\*sample, \*batch, 1)
            Points.

        Raises
        ------
        ValueError
            If the mixture has several coordinates, or a probability leaves its range.
        """
        self._check_one_coordinate("icdf")
        probability = _check_probability(value, self._options)
        return self._quantile(probability.unsqueeze(-1))

    def quantile(self, q: Any) -> Tensor:
        r"""Quantiles of each coordinate, for every mixture of the batch.

        Parameters
        ----------
        q : float, array-like or tensor of any shape
            Probabilities from 0 to 1.

        Returns
        -------
        point : tensor of shape (\*q.shape, \*batch, D)
            Points. The tails are right to all digits of `q`.

        Raises
        ------
        ValueError
            If a probability leaves its range.

        Notes
        -----
        With several coordinates these are the quantiles of their marginals.

        Examples
        --------
        >>> import torch
        >>> from skgmje import MultivariateNormalMixture
        >>> mixture = MultivariateNormalMixture(
        ...     torch.tensor([0.5, 0.5]).double(),
        ...     torch.tensor([[-4.0], [4.0]]).double(),
        ...     scale_spherical=torch.ones(2).double(),
        ... )
        >>> mixture.quantile([0.25, 0.75]).ravel().round(decimals=3)
        tensor([-4.,  4.], dtype=torch.float64)
        """
        probability = _check_probability(q, self._options)
        ones = (1,) * (len(self.batch_shape) + 1)
        return self._quantile(probability.reshape(*probability.shape, *ones))

    @torch.no_grad()
    def _quantile(self, probability: Tensor) -> Tensor:
        shape = torch.broadcast_shapes(
            probability.shape, self.batch_shape + self.event_shape
        )
        return Coordinates.of(self).quantile(probability.expand(shape))

    def _check_one_coordinate(self, name: str) -> None:
        if self.event_shape[0] != 1:
            raise ValueError(
                f"{name} is for mixtures over one coordinate; this one has "
                f"{self.event_shape[0]}. Take a marginal first."
            )

    # --------------------------------------------------------------------- regions

    def highest_density_level(
        self,
        mass: float,
        *,
        n_samples: int = 4096,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Log-density above which a share `mass` of the probability lies.

        The region ``{z: log p(z) >= level}`` is the smallest that holds this share. The
        level is exact for one component (chi-squared) and for one coordinate (by root
        finding); otherwise it is a quantile of the log-density over draws, whose
        coverage has a standard error of ``sqrt(mass (1 - mass) / n_samples)``.

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
        return highest_density_level(self, mass, n_samples, generator)

    @torch.no_grad()
    def in_highest_density_region(
        self,
        value: Tensor,
        mass: float,
        *,
        n_samples: int = 4096,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Whether points lie in the smallest region of probability `mass`.

        Parameters
        ----------
        value : tensor or array-like of shape (\*sample, \*batch, D)
            Points.
        mass : float
            Probability of the region, strictly between 0 and 1.
        n_samples : int, default=4096
            Number of draws, as of `highest_density_level`.
        generator : torch.Generator, optional
            Source of the draws, as of `highest_density_level`.

        Returns
        -------
        inside : tensor of bool of shape (\*sample, \*batch)
            True inside the region.

        Raises
        ------
        ValueError
            If `mass` is not strictly between 0 and 1.
        """
        level = highest_density_level(self, mass, n_samples, generator)
        return self.log_prob(value) >= level

    def highest_density_intervals(self, mass: float) -> Tensor:
        r"""Smallest set of intervals of probability `mass`, over one coordinate.

        Parameters
        ----------
        mass : float
            Probability of the intervals together, strictly between 0 and 1.

        Returns
        -------
        intervals : tensor of shape (\*batch, n_intervals, 2)
            Lower and upper ends, in ascending order. `n_intervals` is the most that a
            mixture of the batch needs, at most K; the others are padded with NaN.

        Raises
        ------
        ValueError
            If the mixture has several coordinates, or `mass` is not strictly between 0
            and 1.

        Examples
        --------
        >>> import torch
        >>> from skgmje import MultivariateNormalMixture
        >>> mixture = MultivariateNormalMixture(
        ...     torch.tensor([0.5, 0.5]).double(),
        ...     torch.tensor([[-4.0], [4.0]]).double(),
        ...     scale_spherical=torch.ones(2).double(),
        ... )
        >>> mixture.highest_density_intervals(0.9).round(decimals=2)
        tensor([[-5.6400, -2.3600],
                [ 2.3600,  5.6400]], dtype=torch.float64)
        """
        self._check_one_coordinate("highest_density_intervals")
        return highest_density_intervals(self, mass)


def _check_probability(probability: Any, options: dict[str, Any]) -> Tensor:
    probability = torch.as_tensor(probability, **options)
    if not bool(((probability >= 0) & (probability <= 1)).all()):
        raise ValueError("Probabilities must lie between 0 and 1.")
    return probability
