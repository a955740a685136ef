"""Whether draws find the answers that there are."""

from skgmje._backend import as_tensor

# Standard deviations within which a draw belongs to a branch.
BRANCH_RADIUS = 3.0


def branch_recovery(draws, truth):
    """Share of draws that are near a true branch, and how evenly they use them.

    Parameters
    ----------
    draws : array-like of shape (n_samples, n_draws, n_features)
        Draws for each context, as `sample_conditional` gives them.
    truth : MultivariateNormalMixture
        Batch of n_samples true conditional mixtures, with a component for each branch.

    Returns
    -------
    share : float
        Share of draws within three standard deviations of some branch; 0.997 for draws
        of the truth over one coordinate.
    total_variation : float
        Mean over contexts of the total variation, from 0 to 1, between the branches of
        the draws and those of the truth. A draw near no branch counts as an answer that
        does not exist; one near two is shared by its posterior probabilities. With few
        draws it is above zero by chance: for K branches by about
        ``sqrt((K - 1) / (2 pi n_draws))``.

    Raises
    ------
    ValueError
        If the shapes of draws and truth do not match.

    Examples
    --------
    >>> import numpy as np
    >>> from skgmje.datasets import branch_conditional
    >>> from skgmje.metrics import branch_recovery
    >>> truth = branch_conditional([[0.0]])  # branches at -1.5, 0 and 1.5
    >>> share, total_variation = branch_recovery([[[0.0], [1.5], [0.8], [0.0]]], truth)
    >>> share, round(total_variation, 3)
    (0.75, 0.417)
    """
    draws = as_tensor(draws, truth.mean.device)
    if draws.dim() != 3 or draws[:, 0].shape != truth.mean.shape:
        raise ValueError(
            "draws must have shape (n_samples, n_draws, n_features) with n_samples, "
            f"n_features = {tuple(truth.mean.shape)} as the truth has; got "
            f"{tuple(draws.shape)}."
        )
    draws = draws.movedim(1, 0)
    log_prob = truth.component_log_prob(draws)
    # Each component at its own mean, where its log-density is highest.
    means = truth.means.movedim(-2, 0)
    peak = truth.component_log_prob(means).diagonal(dim1=0, dim2=-1)
    near = (2 * (peak - log_prob) <= BRANCH_RADIUS**2).any(-1)
    usage = (truth.responsibilities(draws) * near.unsqueeze(-1)).mean(0)
    share = near.double().mean(0)
    missing = (usage - truth.weights).abs().sum(-1) + (1 - share)
    return float(share.mean()), float(missing.mean() / 2)
