"""Warnings and errors of the library."""

__all__ = ["IgnoredTargetWarning", "IllDefinedCovarianceError"]


class IgnoredTargetWarning(UserWarning):
    """Class labels were passed as ``y`` and are not used.

    Raised by the embedders under ``target="auto"``, which never take labels for a
    second view. Pass ``target="augment"`` to say that this is meant.

    Examples
    --------
    >>> import warnings
    >>> from skgmje.exceptions import IgnoredTargetWarning
    >>> warnings.simplefilter("ignore", IgnoredTargetWarning)
    """


class IllDefinedCovarianceError(ValueError, ArithmeticError):
    """A covariance is not positive definite, so that a mixture has no density.

    Examples
    --------
    >>> from skgmje.exceptions import IllDefinedCovarianceError
    >>> from skgmje.mixture import GaussianMixture
    >>> try:
    ...     GaussianMixture(reg_covar=0.0).fit([[0.0, 1.0], [0.0, 2.0], [0.0, 4.0]])
    ... except IllDefinedCovarianceError:
    ...     print("constant column")
    constant column
    """
