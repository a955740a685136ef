"""How two embeddings tilt the product of the marginals towards the joint."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from skgmje.mixture import MultivariateNormalMixture

TILTINGS = ("cosine", "inner", "quadratic")
# Where a learned temperature starts, and what it does not fall below.
START_TEMPERATURE, LEAST_TEMPERATURE = 0.1, 0.01


class Tilting(nn.Module):
    r"""Logarithm of the factor by which a pair is likelier than two single views.

    .. math:: \nu(du, dv) = \frac1Z \exp \ell(z_c, z_t) \, \mu_u(du) \, \mu_v(dv)

    with :math:`\ell = \bar z_c \cdot \bar z_t / \tau` of unit vectors (``'cosine'``),
    :math:`z_c \cdot z_t / \tau` (``'inner'``) or :math:`-\|z_c - z_t\|^2 / 2 \tau`
    (``'quadratic'``). On the unit sphere all three agree up to a constant.

    Parameters
    ----------
    tilting : {'cosine', 'inner', 'quadratic'}, default='cosine'
        The form of the logarithm.
    temperature : float or 'learned', default=0.1
        Positive. A learned one starts at 0.1 and is kept above 0.01.

    References
    ----------
    Baptista, Stuart and Tran, "A Mathematical Perspective on Contrastive Learning",
    arXiv:2505.24134 (2025), equations 14, 25 and 26. Learned temperatures: Radford et
    al., "Learning Transferable Visual Models From Natural Language Supervision", ICML
    2021.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import Tilting
    >>> Tilting("inner", temperature=0.5).logits(torch.eye(2), 2 * torch.eye(2))
    tensor([[4., 0.],
            [0., 4.]])
    """

    def __init__(self, tilting: str = "cosine", temperature: float | str = 0.1):
        super().__init__()
        if tilting not in TILTINGS:
            raise ValueError(f"tilting must be one of {TILTINGS}; got {tilting!r}.")
        self.tilting = tilting
        self.is_learned = temperature == "learned"
        if self.is_learned:
            # Relative to the start, so that weight decay pulls there and not to one.
            self.log_ratio = nn.Parameter(torch.zeros((), dtype=torch.float32))
            self._start = START_TEMPERATURE
        else:
            self._start = positive(temperature)

    @property
    def temperature(self) -> float | Tensor:
        """The temperature; a tensor with a gradient if it is learned."""
        return self._start * self.log_ratio.exp() if self.is_learned else self._start

    @property
    def value(self) -> float:
        """The temperature as a number."""
        with torch.no_grad():
            return float(self.temperature)

    @torch.no_grad()
    def bound_temperature(self) -> None:
        """Keep a learned temperature above its least value, after a gradient step."""
        if self.is_learned:
            self.log_ratio.clamp_(min=math.log(LEAST_TEMPERATURE / self._start))

    def factors(self, z_c: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
        """Rows whose inner products are the logits of all pairs.

        Parameters
        ----------
        z_c : tensor of shape (n_contexts, n_features)
            Context embeddings.
        z_t : tensor of shape (n_targets, n_features)
            Target embeddings.

        Returns
        -------
        a : tensor of shape (n_contexts, n_factors)
            Factors of the contexts.
        b : tensor of shape (n_targets, n_factors)
            Factors of the targets.

        Raises
        ------
        ValueError
            If the embeddings differ in width.
        """
        if z_c.shape[-1] != z_t.shape[-1]:
            raise ValueError(
                "Contrastive learning compares embeddings of one width; got shapes "
                f"{tuple(z_c.shape)} and {tuple(z_t.shape)}."
            )
        if self.tilting == "quadratic":
            return self._quadratic_factors(z_c, z_t)
        if self.tilting == "cosine":
            z_c, z_t = normalize(z_c, dim=1), normalize(z_t, dim=1)
        return z_c / self.temperature, z_t

    def _quadratic_factors(self, z_c: Tensor, z_t: Tensor) -> tuple[Tensor, Tensor]:
        # Distances do not change with the origin; digits do.
        origin = z_t.detach().mean(0)
        z_c, z_t = z_c - origin, z_t - origin
        bias_c, bias_t = (
            -z.square().sum(1, keepdim=True) / (2 * self.temperature)
            for z in (z_c, z_t)
        )
        return (
            torch.cat([z_c / self.temperature, bias_c, torch.ones_like(bias_c)], dim=1),
            torch.cat([z_t, torch.ones_like(bias_t), bias_t], dim=1),
        )

    def logits(self, z_c: Tensor, z_t: Tensor) -> Tensor:
        """Logarithms of all pairs, of shape (n_contexts, n_targets)."""
        a, b = self.factors(z_c, z_t)
        return a @ b.mT


@torch.no_grad()
def tilted_mixture(
    density: MultivariateNormalMixture, z: Tensor, tilting: str, temperature: float
) -> MultivariateNormalMixture:
    r"""Conditional density that a tilting makes of a marginal, in closed form.

    .. math:: \nu(v | u) \propto \exp \ell(z, v) \, \sum_k \pi_k
              \mathcal N(v; m_k, S_k)

    With the inner product, component k keeps its covariance, moves by
    :math:`S_k z / \tau`, and gets the weight :math:`\pi_k \exp(m_k \cdot z / \tau + z
    \cdot S_k z / 2\tau^2)`. With the quadratic tilting the result is the conditional of
    the joint mixture in which :math:`z` is :math:`v` with noise of variance
    :math:`\tau`. The cosine tilting is the quadratic one of unit vectors.

    Parameters
    ----------
    density : MultivariateNormalMixture
        Mixture of K components with full covariances over one embedding.
    z : tensor of shape (n_samples, n_features)
        Embeddings of the other view.
    tilting : {'cosine', 'inner', 'quadratic'}
        The form of :math:`\ell`.
    temperature : float
        Positive.

    Returns
    -------
    conditional : MultivariateNormalMixture
        Batch of `n_samples` mixtures of K components.

    References
    ----------
    Baptista, Stuart and Tran, "A Mathematical Perspective on Contrastive Learning",
    arXiv:2505.24134 (2025), equations 41 and 48 for one Gaussian; mixtures are ours.

    Examples
    --------
    >>> import torch
    >>> from skgmje import MultivariateNormalMixture
    >>> from skgmje.latent import tilted_mixture
    >>> density = MultivariateNormalMixture(
    ...     torch.ones(1), torch.zeros(1, 2), scale_tril=torch.eye(2).unsqueeze(0)
    ... )
    >>> tilted_mixture(density, torch.ones(1, 2), "quadratic", 1.0).mean
    tensor([[0.5000, 0.5000]])
    """
    means, scale_tril = density.means, density.scale_tril
    assert scale_tril is not None
    if tilting == "inner":
        whitened = torch.einsum("kij,ni->nkj", scale_tril, z / temperature)
        moves = torch.einsum("kij,nkj->nki", scale_tril, whitened)
        log_weights = (
            density.log_weights
            + z @ means.mT / temperature
            + 0.5 * whitened.square().sum(-1)
        )
        return MultivariateNormalMixture.from_log_weights(
            log_weights.log_softmax(-1), means + moves, scale_tril=scale_tril
        )
    width = means.shape[-1]
    noise = math.sqrt(temperature) * torch.eye(width, dtype=z.dtype, device=z.device)
    noise = noise.expand_as(scale_tril)
    joint = MultivariateNormalMixture.from_log_weights(
        density.log_weights,
        torch.cat([means, means], dim=-1),
        scale_tril=torch.cat(
            [
                torch.cat([scale_tril, torch.zeros_like(scale_tril)], dim=-1),
                torch.cat([scale_tril, noise], dim=-1),
            ],
            dim=-2,
        ),
    )
    return joint.condition(range(width, 2 * width), z)


def positive(temperature: float | str) -> float:
    """Return a temperature that is fit for use."""
    if isinstance(temperature, str) or not temperature > 0:
        raise ValueError(f"temperature must be positive; got {temperature}.")
    return temperature
