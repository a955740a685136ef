"""Contrastive learning: the mixture with one component a sample, at its limit."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from skgmje._backend import gather_rows
from skgmje.latent._matching import ConditionalMatching
from skgmje.latent._tilting import Tilting, positive
from skgmje.mixture import MultivariateNormalMixture
from skgmje.mixture._particles import Particles


class InfoNCE(ConditionalMatching):
    r"""Contrastive loss of two views whose negatives are the other pairs of the batch.

    .. math:: -\frac1N \sum_i \log \frac{\exp(z_c^i \cdot z_t^i / \tau)}
              {\sum_k \exp(z_c^i \cdot z_t^k / \tau)}

    Embeddings are projected onto the unit sphere first. This is the mean negative
    log-posterior of the right component in :func:`contrastive_mixture`: the temperature
    is the variance of its context block. Nothing else is needed against collapse, since
    the sphere fixes the scale and the sum in the denominator repels. It is
    :class:`ConditionalMatching` with cosines, plus log n.

    Parameters
    ----------
    temperature : float, default=0.1
        Positive.
    symmetric : bool, default=True
        Whether to take the mean of both directions, context to target and back.

    References
    ----------
    van den Oord, Li and Vinyals, "Representation Learning with Contrastive Predictive
    Coding", arXiv:1807.03748 (2018); Radford et al., "Learning Transferable Visual
    Models From Natural Language Supervision", ICML 2021 (both directions).

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import InfoNCE
    >>> z_c = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> z_t = torch.tensor([[0.8, 0.6], [0.0, 1.0], [1.0, 0.0]])
    >>> round(InfoNCE(temperature=0.5, symmetric=False)(z_c, z_t).item(), 3)
    0.989
    """

    def __init__(self, temperature: float = 0.1, symmetric: bool = True):
        weights = (1.0, 1.0) if symmetric else (0.0, 2.0)
        super().__init__(Tilting("cosine", temperature), *weights)

    def forward(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, n_features)."""
        return super().forward(z_c, z_t) + math.log(len(z_c))


class BankInfoNCE(nn.Module):
    r"""Contrastive loss whose negatives are a bank of weighted earlier pairs.

    .. math:: -\frac{s_{ii}}{\tau} + \log\Bigl[ e^{s_{ii} / \tau}
              + \sum_m M W_m\, e^{s_{im} / \tau} \Bigr], \qquad s = z_c \cdot z_t

    The bank of M detached pairs on the unit sphere is that of
    :class:`skgmje.mixture.ParticleBank`, with squared bandwidths equal to the
    temperature. In training mode each batch joins it after its loss was taken. With
    ``learning_rate=0`` the bank is a queue of the last pairs with equal weights, that
    of MoCo without its second encoder.

    Encoders may start with opposite orientations: then no continuous path of maps
    between spheres makes the two embeddings equal, and training ends with both folded
    along a circle. With ``up_to_rotation=True`` targets are turned first by the
    orthogonal matrix, rotation or reflection, that fits those of the bank best to their
    contexts. A joint density needs no more than embeddings that agree up to a rotation.

    Parameters
    ----------
    temperature : float, default=0.1
        Positive.
    n_particles : int, default=4096
        Number of pairs in the bank.
    learning_rate : float, default=0.1
        Part of an EM step on the weights that a batch makes.
    decay : float, default=1.0
        Factor on the weights of older pairs at every batch: pairs that a changed
        encoder left behind count less.
    symmetric : bool, default=True
        Whether to take the mean of both directions, context to target and back.
    up_to_rotation : bool, default=False
        Whether targets are turned towards their contexts. Leave it off where
        embeddings of both views are to be compared with each other.

    References
    ----------
    He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR
    2020 (the queue). The weighted form is our derivation for the memory bank that is
    named in Y. Huang, arXiv:2603.26799 (2026).

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import BankInfoNCE
    >>> z = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    >>> latent = BankInfoNCE(n_particles=64)
    >>> latent.initialize(z, z, seed=0)
    >>> latent(z[:10], z[:10]).shape
    torch.Size([])
    """

    each_epoch = False

    def __init__(
        self,
        temperature: float = 0.1,
        n_particles: int = 4096,
        learning_rate: float = 0.1,
        decay: float = 1.0,
        symmetric: bool = True,
        up_to_rotation: bool = False,
    ):
        super().__init__()
        self.temperature, self.symmetric = positive(temperature), symmetric
        self.up_to_rotation = up_to_rotation
        self._bank = Particles(
            n_particles,
            bandwidth=math.sqrt(temperature),
            learning_rate=learning_rate,
            decay=decay,
        )

    def initialize(self, z_c: Tensor, z_t: Tensor, seed: int) -> None:
        """Fill the bank with pairs of embeddings."""
        self._bank.initialize(_pairs(*_on_sphere(z_c, z_t)), seed)

    def forward(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Return the loss in nats for embeddings of shape (n_samples, n_features)."""
        z_c, z_t = _on_sphere(z_c, z_t)
        pairs = _pairs(z_c, z_t)
        bank_c, bank_t = self._bank.positions.to(z_c.dtype).tensor_split(2, dim=1)
        log_weights = self._bank.weights.log().to(z_c.dtype)
        if self.up_to_rotation:
            rotation = _best_rotation(bank_t, bank_c, log_weights.exp())
            z_t, bank_t = z_t @ rotation, bank_t @ rotation
        positive = (z_c * z_t).sum(1) / self.temperature

        def negative(z: Tensor, others: Tensor) -> Tensor:
            logits = torch.addmm(log_weights, z, others.mT, alpha=1 / self.temperature)
            return logits.logsumexp(1)

        loss = torch.logaddexp(positive, negative(z_c, bank_t)) - positive
        if self.symmetric:
            backward = torch.logaddexp(positive, negative(z_t, bank_c)) - positive
            loss = 0.5 * (loss + backward)
        if self.training:
            self._bank.step(pairs)
        return loss.mean()

    def get_extra_state(self) -> dict[str, Tensor]:
        """Return the bank for ``state_dict``."""
        return self._bank.state()

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        """Take the bank back from ``state_dict``."""
        self._bank.set_state(state)


def contrastive_mixture(
    z_t: Tensor,
    temperature: float,
    target_bandwidth: float,
    weights: Tensor | None = None,
) -> MultivariateNormalMixture:
    r"""Joint mixture over pairs of which contrastive learning is the limit.

    .. math:: \sum_k w_k\, \mathcal N\bigl(z_c; z_t^k, \tau I\bigr)\,
              \mathcal N\bigl(z_t; z_t^k, s^2 I\bigr)

    One component a pair, centred at its target embedding in both blocks. The posterior
    of component i given its context is the softmax of :class:`InfoNCE`, and
    the conditional log-density of its target is minus that loss, up to a constant, as
    the target bandwidth s tends to zero. :ref:`maths_contrastive` has the proof.

    Parameters
    ----------
    z_t : tensor of shape (n_samples, n_features)
        Target embeddings; they are projected onto the unit sphere.
    temperature : float
        Variance of the context block.
    target_bandwidth : float
        Standard deviation of the target block.
    weights : tensor of shape (n_samples,), optional
        Weights of the components, which sum to one; by default they are equal.

    Returns
    -------
    mixture : MultivariateNormalMixture
        Mixture over (context, target), of ``2 * n_features`` coordinates, in float64.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import contrastive_mixture
    >>> mixture = contrastive_mixture(torch.eye(2), 0.5, 0.01)
    >>> mixture.condition([0, 1], torch.tensor([[1.0, 0.0]])).weights.round(decimals=3)
    tensor([[0.8810, 0.1190]], dtype=torch.float64)
    """
    z_t = normalize(z_t.double(), dim=1)
    if weights is None:
        weights = z_t.new_ones(len(z_t)) / len(z_t)
    scale = z_t.new_tensor([math.sqrt(positive(temperature)), target_bandwidth])
    return MultivariateNormalMixture(
        weights.double(),
        torch.cat([z_t, z_t], dim=1),
        scale_diag=scale.repeat_interleave(z_t.shape[1]).unsqueeze(0),
    )


def _on_sphere(z_c: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
    if z_c.shape != z_t.shape:
        raise ValueError(
            "Contrastive learning compares embeddings of one width, row by row; got "
            f"shapes {tuple(z_c.shape)} and {tuple(z_t.shape)}."
        )
    return normalize(z_c, dim=1), normalize(z_t, dim=1)


def _best_rotation(moving: Tensor, fixed: Tensor, weights: Tensor) -> Tensor:
    """Orthogonal matrix that turns rows into others as well as one can (Procrustes)."""
    products = moving.mT @ (weights.unsqueeze(1) * fixed)
    # Embeddings that are not finite make the loss NaN, whatever the rotation.
    left, _, right = torch.linalg.svd(products.nan_to_num(0.0, 0.0, 0.0))
    return left @ right


def _pairs(z_c: Tensor, z_t: Tensor) -> Tensor:
    """Detached pairs of all processes, as the bank keeps them."""
    return gather_rows(torch.cat([z_c, z_t], dim=1).detach())
