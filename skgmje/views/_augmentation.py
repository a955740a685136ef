"""Augmentations of tabular rows: a batch in, a batch of changed copies out.

Batches are standardised, so that strengths are in standard deviations.
"""

from collections.abc import Callable

import torch
from torch import Tensor

CORRUPTION_RATE = 0.3
NOISE_SCALE = 0.3


def corrupt(batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Replace random entries by the same feature of another row of the batch.

    Parameters
    ----------
    batch : tensor of shape (n_samples, n_features)
        Rows.
    generator : torch.Generator, optional
        Source of randomness.

    Returns
    -------
    corrupted : tensor of shape (n_samples, n_features)
        Copies in which each entry was replaced with probability 0.3.

    References
    ----------
    Bahri et al., "SCARF: Self-Supervised Contrastive Learning using Random Feature
    Corruption", ICLR 2022.

    Examples
    --------
    >>> import torch
    >>> from skgmje.views import corrupt
    >>> corrupt(torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """
    donors = torch.randint(
        len(batch), batch.shape, generator=generator, device=batch.device
    )
    mask = torch.rand(batch.shape, generator=generator, device=batch.device)
    return torch.where(mask < CORRUPTION_RATE, batch.gather(0, donors), batch)


def jitter(batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Add Gaussian noise of 0.3 standard deviations to every entry.

    Parameters
    ----------
    batch : tensor of shape (n_samples, n_features)
        Standardised rows.
    generator : torch.Generator, optional
        Source of randomness.

    Returns
    -------
    noisy : tensor of shape (n_samples, n_features)
        Copies with noise.

    Examples
    --------
    >>> import torch
    >>> from skgmje.views import jitter
    >>> jitter(torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """
    noise = torch.empty_like(batch).normal_(generator=generator)
    return batch + NOISE_SCALE * noise


AUGMENTATIONS: dict[str, Callable[..., Tensor]] = {"corrupt": corrupt, "jitter": jitter}
