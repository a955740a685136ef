"""Warnings of the library."""

__all__ = ["IgnoredTargetWarning"]


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
