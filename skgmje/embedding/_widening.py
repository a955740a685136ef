"""How wide a density must be for rows that its encoders were not trained on.

Encoders that learn their rows by heart make the views of those agree better than the
views of others, so that a density of the former is too narrow. Rows that were kept out
of training say by how much.
"""

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from skgmje.latent import contrastive_bound, pairwise_log_prob
from skgmje.mixture import MultivariateNormalMixture

# Rows that are enough to choose one number by, and densities of single components that
# are enough for one score: the bound needs those of all pairs of rows.
MAX_ROWS, MAX_DENSITIES = 1000, 2**22
# Variances of the noise that are compared, in units of those of the embeddings.
COARSE = np.logspace(-4, 1, 11)
FINE = 10 ** np.array([-0.25, 0.25])
# Nats that are worth no more noise.
TOL = 0.01


@torch.no_grad()
def choose_width(
    density: MultivariateNormalMixture,
    z_c: Tensor,
    z_t: Tensor,
    is_likelihood: bool,
) -> float:
    """Return the least noise with which a density scores as well as with any.

    Parameters
    ----------
    density : MultivariateNormalMixture
        Joint density of the embeddings of rows that were trained on.
    z_c, z_t : tensor of float64 of shape (n_samples, n_features)
        Embeddings of both views of rows that were not.
    is_likelihood : bool
        Whether targets have units, so that their likelihood is what counts, and not the
        bound on the mutual information.

    Returns
    -------
    width : float
        Variance of the noise, in units of the variances of the density.

    Warns
    -----
    UserWarning
        If it is interrupted from the keyboard.
    """
    n_rows = MAX_ROWS
    if not is_likelihood:
        n_rows = min(n_rows, math.isqrt(MAX_DENSITIES // density.n_components))
    z_c, z_t = z_c[:n_rows], z_t[:n_rows]
    scores: dict[float, float] = {0.0: -np.inf}

    def compare(widths: np.ndarray) -> float:
        for width in widths.tolist():
            scores[width] = _score(widen(density, width), z_c, z_t, is_likelihood)
        return max(scores, key=lambda width: scores[width])

    try:
        best = compare(np.append(0.0, COARSE))
        if best:
            compare(best * FINE)
    except KeyboardInterrupt:
        warnings.warn(
            "Choosing the width of the density was interrupted by user; it is the best "
            "of those compared so far.",
            UserWarning,
            stacklevel=2,
        )
    enough = max(scores.values()) - TOL
    return min(width for width in scores if scores[width] >= enough)


def widen(
    density: MultivariateNormalMixture, width: float
) -> MultivariateNormalMixture:
    """Add noise, of `width` times the variance of each coordinate, to a density."""
    if width == 0:
        return density
    return density.convolve((width * density.variance).sqrt())


def _score(
    density: MultivariateNormalMixture, z_c: Tensor, z_t: Tensor, is_likelihood: bool
) -> float:
    conditional = density.condition(list(range(z_c.shape[1])), z_c)
    if is_likelihood:
        score = float(conditional.log_prob(z_t).mean())
    else:
        score = float(contrastive_bound(pairwise_log_prob(conditional, z_t)))
    return score if np.isfinite(score) else -np.inf
