"""What is read of a mixture below the class of mixtures itself."""

from typing import Any, Protocol, Self

from torch import Tensor

from skgmje.mixture._scale import Scale


class Mixture(Protocol):
    """A `MultivariateNormalMixture`, to modules that its own imports."""

    @property
    def covariance_type(self) -> str: ...

    @property
    def _log_weights(self) -> Tensor: ...

    @property
    def _means(self) -> Tensor: ...

    @property
    def _scale(self) -> Any: ...

    @classmethod
    def _from_parts(cls, log_weights: Tensor, means: Tensor, scale: Scale) -> Self: ...
