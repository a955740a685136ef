r"""Student-t likelihoods of a direction and a length: heavy tails in polar coordinates.

The form is ours: of "Joint Embedding Variational Bayes" (Oji and Fieguth, 2026) only
the ingredients are known to us, a Student-t on polar coordinates with a factor for the
direction and one for the length.
"""

import math

import torch
import torch.nn.functional as F
from scipy import integrate, stats
from torch import Tensor, nn

# Shorter vectors have no direction.
SHORTEST = 1e-12


def student_t_log_prob(
    deviation: Tensor, scale: Tensor, df: float, feature_wise: bool = True
) -> Tensor:
    r"""Log-density of a Student-t with a diagonal scale, over the last dimension.

    .. math:: \log \frac{\Gamma(\frac{\nu + d}{2})}{\Gamma(\frac{\nu}{2})}
        - \frac{d}{2} \log(\nu \pi) - \sum_j \log \sigma_j - \frac{\nu + d}{2}
        \log \Bigl[1 + \frac{1}{\nu} \sum_j \frac{x_j^2}{\sigma_j^2}\Bigr]

    Parameters
    ----------
    deviation : tensor of shape (\*batch, d)
        Differences from the location.
    scale : tensor that broadcasts with it
        Positive scales.
    df : float
        Degrees of freedom; infinity makes it a Gaussian.
    feature_wise : bool, default=True
        Whether every coordinate has a tail of its own: a product of univariate
        densities in place of one multivariate density.

    Returns
    -------
    log_prob : tensor of shape (\*batch,)
        In nats; the batch is that of both after they broadcast.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import student_t_log_prob
    >>> student_t_log_prob(torch.zeros(1), torch.ones(1), df=1.0)  # -log(pi)
    tensor(-1.1447)
    """
    deviation, scale = torch.broadcast_tensors(deviation, scale)
    n_features = deviation.shape[-1]
    squares = (deviation / scale).square()
    log_scale = scale.log().sum(-1)
    if math.isinf(df):
        log_norm = 0.5 * n_features * math.log(2 * math.pi)
        return -0.5 * squares.sum(-1) - log_scale - log_norm
    if feature_wise:
        tails = torch.log1p(squares / df).sum(-1)
        return n_features * _log_height(df, 1) - log_scale - 0.5 * (df + 1) * tails
    tail = torch.log1p(squares.sum(-1) / df)
    return _log_height(df, n_features) - log_scale - 0.5 * (df + n_features) * tail


def _log_height(df: float, n_features: int) -> float:
    """Log-density at the centre of a Student-t of unit scale."""
    return (
        math.lgamma(0.5 * (df + n_features))
        - math.lgamma(0.5 * df)
        - 0.5 * n_features * math.log(df * math.pi)
    )


def on_sphere(vector: Tensor) -> Tensor:
    """Scale vectors to the length sqrt(d), where coordinates are about one in size."""
    return math.sqrt(vector.shape[-1]) * F.normalize(vector, dim=-1, eps=SHORTEST)


class PolarStudentT(nn.Module):
    r"""Likelihood of a representation, given a latent vector of the same width.

    .. math:: \log p(e \mid s) = \log t_\nu\bigl(\bar e; \bar s, \sigma\bigr)
        + \omega \log t_\nu\bigl(\log |e|; \log |s|, s_r\bigr), \qquad
        \bar x = \sqrt{d}\, x / |x|

    The first factor is about the direction alone, the second about the length. The
    first is a Student-t of :math:`R^d` restricted to the sphere of radius
    :math:`\sqrt d`; its mass there is at most one wherever the scales are not too
    small (`log_mass_bound`).

    Parameters
    ----------
    df : float, default=4.0
        Degrees of freedom: how heavy the tails are. Infinity makes Gaussians.
    feature_wise : bool, default=True
        Whether every coordinate of the direction has a tail of its own.
    radial_weight : float, default=0.1
        Weight of the factor of the length.

    References
    ----------
    Oji and Fieguth, "Joint Embedding Variational Bayes", arXiv:2602.05639 (2026),
    for the idea; the equations are ours.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import PolarStudentT
    >>> likelihood = PolarStudentT(radial_weight=0.0)
    >>> vector, scale = torch.tensor([1.0, 2.0]), torch.ones(2)
    >>> one = likelihood.log_prob(vector, vector, scale)
    >>> bool(one == likelihood.log_prob(2 * vector, vector, scale))  # of any length
    True
    """

    def __init__(
        self, df: float = 4.0, feature_wise: bool = True, radial_weight: float = 0.1
    ):
        super().__init__()
        self.df, self.feature_wise = df, feature_wise
        self.radial_weight = radial_weight
        self.log_radial_scale = nn.Parameter(torch.zeros((), dtype=torch.float32))

    @property
    def recipe(self) -> dict[str, float]:
        """The arguments of the constructor."""
        return {
            "df": self.df,
            "feature_wise": self.feature_wise,
            "radial_weight": self.radial_weight,
        }

    def log_prob(self, representation: Tensor, latent: Tensor, scale: Tensor) -> Tensor:
        r"""Return the log-density of representations.

        Parameters
        ----------
        representation : tensor of shape (\*batch, d)
            Where the density is wanted.
        latent : tensor of shape (\*batch, d)
            The latent vectors that are given.
        scale : tensor of shape (\*batch, d)
            Scale of the direction.

        Returns
        -------
        log_prob : tensor of shape (\*batch,)
            In nats, of the direction on the sphere of radius sqrt(d) and, times
            `radial_weight`, of the logarithm of the length.
        """
        log_prob = self.directional_log_prob(representation, latent, scale)
        if not self.radial_weight:
            return log_prob
        radial = self.radial_log_prob(representation, latent)
        return log_prob + self.radial_weight * radial

    def directional_log_prob(
        self, representation: Tensor, latent: Tensor, scale: Tensor
    ) -> Tensor:
        """Return the factor of the direction alone."""
        deviation = on_sphere(representation) - on_sphere(latent)
        return student_t_log_prob(deviation, scale, self.df, self.feature_wise)

    def radial_log_prob(self, representation: Tensor, latent: Tensor) -> Tensor:
        """Return the factor of the length alone."""
        lengths = (
            vector.norm(dim=-1, keepdim=True).clamp(min=SHORTEST)
            for vector in (representation, latent)
        )
        length, centre = (length.log() for length in lengths)
        return student_t_log_prob(length - centre, self.log_radial_scale.exp(), self.df)

    def log_mass_bound(self, scale: Tensor) -> Tensor:
        r"""Upper bound of the logarithm of the directional factor's mass.

        The mass on a sphere is the density of the length of a Student-t vector there.
        Given its tail variables that length is a scaled non-central chi variable, whose
        density is at most ``surface_mass_bound / min_j scale_j``. Where the bound is
        positive, subtracting it makes the factor a sub-density, and a lower bound of
        its logarithm a lower bound of the evidence.

        Parameters
        ----------
        scale : tensor of shape (\*batch, d)
            Scale of the direction.

        Returns
        -------
        log_mass : tensor of shape (\*batch,)
            In nats; zero where the mass is at most one anyway.
        """
        bound = surface_mass_bound(scale.shape[-1], self.df, self.feature_wise)
        return (math.log(bound) - scale.amin(-1).log()).clamp(min=0)


def surface_mass_bound(n_features: int, df: float, feature_wise: bool) -> float:
    r"""Largest mass on any sphere of a Student-t of unit scale, or a bound of it.

    The largest density of a chi variable, times the mean of
    :math:`\sqrt{W / \nu}` with W a chi-squared variable: the largest of `n_features` of
    them where each coordinate has its own tail.

    Parameters
    ----------
    n_features : int
        Dimension of the space around the sphere.
    df : float
        Degrees of freedom.
    feature_wise : bool
        Whether every coordinate has a tail of its own.

    Returns
    -------
    bound : float
        Divided by the smallest scale, this bounds the mass for any scales.

    Examples
    --------
    >>> from skgmje.latent import surface_mass_bound
    >>> round(surface_mass_bound(2, float("inf"), feature_wise=False), 4)
    0.6065
    """
    chi = float(stats.chi(n_features).pdf(math.sqrt(n_features - 1)))
    if math.isinf(df):
        return chi
    if not feature_wise:
        root = stats.chi(df).mean() / math.sqrt(df)
        return chi * float(root)
    tail = stats.chi(df)

    def above(x: float) -> float:
        return -math.expm1(n_features * float(tail.logcdf(x))) if x > 0 else 1.0

    top = float(tail.isf(1e-12 / n_features))
    return chi * integrate.quad(above, 0, top, limit=200)[0] / math.sqrt(df)
