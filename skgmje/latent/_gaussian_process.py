"""Gaussian process from context to target: a density in dual space."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from skgmje._backend import as_numpy, blocks
from skgmje.latent._moments import moments
from skgmje.mixture import MultivariateNormalMixture

# Bounds of the length scale, the signal variance and the noise variance, and where
# further searches start, in units of standardised views.
BOUNDS = ((1e-2, 1e3), (1e-3, 1e3), (1e-6, 1e1))
FIRST_START = (1.0, 1.0, 0.1)
STARTS = ((0.1, 10.0), (0.3, 3.0), (1e-3, 1.0))
_LOG_2PI = math.log(2 * math.pi)


class GaussianProcess(nn.Module):
    r"""Gaussian process for each target coordinate, with one kernel and one noise.

    .. math:: k(a, b) = s^2 \exp\left(-\frac{\|a - b\|^2}{2 \ell^2}\right), \qquad
              z_t \mid z_c \sim \mathcal N\left(m(z_c), v(z_c) I\right)

    It works in the space of the samples (dual), whose kernel matrix takes the place of
    the covariance of the features (primal). Both views are standardised inside. With
    more rows than `n_points`, the kernel is fitted to a sample of them, and the process
    of all rows is described by the values at that sample (Titsias' inducing points).

    Parameters
    ----------
    n_features_in : int
        Width of the context embedding.
    n_features_out : int
        Width of the target embedding.
    n_points : int
        Number of rows that are kept.
    rank : int or None, default=None
        Rank of the kernel of the inducing points; None where all rows are kept.

    References
    ----------
    C. Rasmussen, C. Williams, *Gaussian Processes for Machine Learning*, MIT Press
    2006, algorithm 2.1. M. Titsias, "Variational Learning of Inducing Variables in
    Sparse Gaussian Processes", AISTATS 2009.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import GaussianProcess
    >>> x = torch.linspace(-1, 1, 20, dtype=torch.float64).unsqueeze(1)
    >>> process, _ = GaussianProcess.fit(x, x.square(), 100, 0, seed=0)
    >>> process(x[:2]).mean.round(decimals=2).ravel()
    tensor([1.0000, 0.8000], dtype=torch.float64)
    """

    input_mean: Tensor
    input_scale: Tensor
    output_mean: Tensor
    output_scale: Tensor
    hyperparameters: Tensor
    points: Tensor
    coefficients: Tensor
    factor: Tensor
    projection: Tensor

    def __init__(
        self,
        n_features_in: int,
        n_features_out: int,
        n_points: int,
        rank: int | None = None,
    ):
        super().__init__()
        self.recipe = {
            "n_features_in": n_features_in,
            "n_features_out": n_features_out,
            "n_points": n_points,
            "rank": rank,
        }
        self.rank = rank
        size = n_points if rank is None else rank
        shapes: dict[str, tuple[int, ...]] = {
            "input_mean": (n_features_in,),
            "input_scale": (n_features_in,),
            "output_mean": (n_features_out,),
            "output_scale": (n_features_out,),
            "hyperparameters": (3,),
            "points": (n_points, n_features_in),
            "coefficients": (n_points, n_features_out),
            "factor": (size, size),
            "projection": (n_points, 0 if rank is None else rank),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @property
    def length_scale(self) -> float:
        """Length over which the mean varies, in standard deviations of the context."""
        return float(self.hyperparameters[0])

    @property
    def signal_variance(self) -> float:
        """Variance of the mean, in variances of the target."""
        return float(self.hyperparameters[1])

    @property
    def noise_variance(self) -> float:
        """Variance about the mean, in variances of the target."""
        return float(self.hyperparameters[2])

    @torch.no_grad()
    def forward(self, z_c: Tensor) -> MultivariateNormalMixture:
        """Return the batch of predictive Gaussians, noise included, in target units."""
        length, signal, noise = self.hyperparameters
        x = (z_c - self.input_mean) / self.input_scale
        kernel = signal * rbf(x, self.points, length)
        if self.rank is None:
            explained = _solved_norm(self.factor, kernel)
            variance = noise + (signal - explained).clamp(min=0)
        else:
            features = kernel @ self.projection
            missed = (signal - features.square().sum(1)).clamp(min=0)
            variance = noise * (1 + _solved_norm(self.factor, features)) + missed
        mean = self.output_mean + self.output_scale * (kernel @ self.coefficients)
        deviation = variance.sqrt().unsqueeze(1) * self.output_scale
        return MultivariateNormalMixture.from_log_weights(
            torch.zeros(1, dtype=mean.dtype, device=mean.device),
            mean.unsqueeze(1),
            scale_diag=deviation.unsqueeze(1),
        )

    # ----------------------------------------------------------------------- fitting

    @classmethod
    def fit(
        cls, z_c: Tensor, z_t: Tensor, n_points: int, n_restarts: int, seed: int
    ) -> tuple["GaussianProcess", list[float]]:
        """Fit the kernel by marginal likelihood, and condition on all rows.

        Parameters
        ----------
        z_c : tensor of float64 of shape (n_samples, n_features_in)
            Context embeddings.
        z_t : tensor of float64 of shape (n_samples, n_features_out)
            Target embeddings.
        n_points : int
            Largest number of rows to keep and to fit the kernel to.
        n_restarts : int
            Number of searches for a kernel after the first, from random starts.
        seed : int
            Seed of the kept rows and of the starts.

        Returns
        -------
        process : GaussianProcess
            The process given all rows.
        loss_curve : list of float
            Negative log marginal likelihood per kept row after each iteration of the
            best search, in nats and in units of the target.
        """
        rng = np.random.RandomState(seed)
        n_samples = len(z_c)
        (in_mean, in_scale), (out_mean, out_scale) = moments(z_c), moments(z_t)
        X, Y = (z_c - in_mean) / in_scale, (z_t - out_mean) / out_scale
        kept = torch.arange(n_samples, device=X.device)
        if n_samples > n_points:
            order = rng.permutation(n_samples)[:n_points]
            kept = torch.as_tensor(np.sort(order), device=X.device)
        hyperparameters, losses = _search(X[kept], Y[kept], n_restarts, rng)
        if len(kept) == n_samples:
            parts = _condition_on_all(X, Y, hyperparameters)
        else:
            parts = _condition_on_points(X, Y, X[kept], hyperparameters)
        rank = parts["projection"].shape[1] if len(kept) < n_samples else None
        process = cls(z_c.shape[1], z_t.shape[1], len(kept), rank).to(z_c.device)
        arrays = {
            "input_mean": in_mean,
            "input_scale": in_scale,
            "output_mean": out_mean,
            "output_scale": out_scale,
            "hyperparameters": hyperparameters,
            "points": X[kept],
        }
        process.load_state_dict(arrays | parts)
        log_jacobian = float(out_scale.log().sum())
        return process, [loss / len(kept) + log_jacobian for loss in losses]

    @torch.no_grad()
    def log_marginal_likelihood(self, z_c: Tensor, z_t: Tensor) -> float:
        """Log marginal likelihood of the rows that the process was fitted to.

        Parameters
        ----------
        z_c : tensor of float64 of shape (n_samples, n_features_in)
            Context embeddings.
        z_t : tensor of float64 of shape (n_samples, n_features_out)
            Target embeddings.

        Returns
        -------
        log_marginal_likelihood : float
            In nats and in units of the target; with inducing points, the lower bound of
            Titsias.
        """
        X = (z_c - self.input_mean) / self.input_scale
        Y = (z_t - self.output_mean) / self.output_scale
        value = (
            log_marginal_likelihood(pairwise_squares(X, X), Y, self.hyperparameters)
            if self.rank is None
            else _inducing_bound(X, Y, self.points, self.hyperparameters)
        )
        return float(value - len(X) * self.output_scale.log().sum())


def pairwise_squares(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances of all pairs of rows, from their differences."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


def rbf(a: Tensor, b: Tensor, length_scale: Tensor) -> Tensor:
    """Squared-exponential kernel of all pairs of rows, with unit variance."""
    return (-0.5 * pairwise_squares(a, b) / length_scale.square()).exp()


def log_marginal_likelihood(
    squares: Tensor, Y: Tensor, hyperparameters: Tensor
) -> Tensor:
    r"""Log marginal likelihood of a Gaussian process, in nats.

    .. math:: -\tfrac12 \mathrm{tr}(Y^\top K^{-1} Y) - \tfrac{D}{2} \log |K|
              - \tfrac{N D}{2} \log 2\pi

    Parameters
    ----------
    squares : tensor of shape (n_samples, n_samples)
        Squared distances of the contexts.
    Y : tensor of shape (n_samples, n_features_out)
        Centred targets.
    hyperparameters : tensor of shape (3,)
        Length scale, signal variance and noise variance.

    Returns
    -------
    log_marginal_likelihood : tensor of shape ()
        With its gradient.
    """
    factor = _kernel_factor(squares, hyperparameters)
    whitened = torch.linalg.solve_triangular(factor, Y, upper=False)
    log_det = factor.diagonal().log().sum()
    return (
        -0.5 * whitened.square().sum()
        - Y.shape[1] * log_det
        - 0.5 * Y.numel() * _LOG_2PI
    )


def _kernel_factor(squares: Tensor, hyperparameters: Tensor) -> Tensor:
    length, signal, noise = hyperparameters
    kernel = signal * (-0.5 * squares / length.square()).exp()
    diagonal = noise.expand(len(kernel)).diag_embed()
    return torch.linalg.cholesky(kernel + diagonal)


def _solved_norm(factor: Tensor, rows: Tensor) -> Tensor:
    """Return the squared norm of L^-1 x for each row x."""
    solved = torch.linalg.solve_triangular(factor, rows.mT, upper=False)
    return solved.square().sum(0)


def _search(
    X: Tensor, Y: Tensor, n_restarts: int, rng: np.random.RandomState
) -> tuple[Tensor, list[float]]:
    """Maximise the marginal likelihood from several starts; lengths grow with width."""
    unit = np.log([math.sqrt(X.shape[1]), 1.0, 1.0])
    low, high = np.log(np.array(STARTS)).T
    starts = [np.log(FIRST_START), *rng.uniform(low, high, size=(n_restarts, 3))]
    loss_and_gradient = _loss_and_gradient(pairwise_squares(X, X), Y)
    searches = [_search_from(unit + start, loss_and_gradient) for start in starts]
    logs, losses = min(searches, key=lambda search: search[1][-1])
    return torch.as_tensor(np.exp(logs)).to(X), losses


def _search_from(start: np.ndarray, loss_and_gradient: Any) -> tuple[Any, list[float]]:
    losses: list[float] = []

    def record(intermediate_result):
        losses.append(float(intermediate_result.fun))

    result = minimize(
        loss_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[tuple(np.log(pair)) for pair in BOUNDS],
        callback=record,
    )
    return result.x, losses or [float(result.fun)]


def _loss_and_gradient(
    squares: Tensor, Y: Tensor
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    def loss_and_gradient(logs: np.ndarray) -> tuple[float, np.ndarray]:
        with torch.enable_grad():
            parameters = torch.tensor(logs).to(squares).requires_grad_()
            loss = -log_marginal_likelihood(squares, Y, parameters.exp())
            (gradient,) = torch.autograd.grad(loss, parameters)
        return float(loss.detach()), as_numpy(gradient)

    return loss_and_gradient


def _condition_on_all(X: Tensor, Y: Tensor, hyperparameters: Tensor):
    factor = _kernel_factor(pairwise_squares(X, X), hyperparameters)
    return {
        "factor": factor,
        "coefficients": torch.cholesky_solve(Y, factor),
        "projection": X.new_zeros(len(X), 0),
    }


def _condition_on_points(
    X: Tensor, Y: Tensor, points: Tensor, hyperparameters: Tensor
) -> dict[str, Tensor]:
    projection = _projection(points, hyperparameters)
    gram, cross, _ = _feature_sums(X, Y, points, projection, hyperparameters)
    factor = _primal_factor(gram, hyperparameters[2])
    return {
        "factor": factor,
        "coefficients": projection @ torch.cholesky_solve(cross, factor),
        "projection": projection,
    }


def _projection(points: Tensor, hyperparameters: Tensor) -> Tensor:
    """Map from kernels at the points to features whose products are the kernel."""
    length, signal, _ = hyperparameters
    values, vectors = torch.linalg.eigh(signal * rbf(points, points, length))
    # Directions in which the kernel is rounding noise carry no feature.
    real = values > len(points) * torch.finfo(values.dtype).eps * values[-1]
    return vectors[:, real] * values[real].rsqrt()


def _feature_sums(
    X: Tensor, Y: Tensor, points: Tensor, projection: Tensor, hyperparameters: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum products of features with themselves and with targets, and their squares."""
    length, signal, _ = hyperparameters
    rank = projection.shape[1]
    gram, cross = X.new_zeros(rank, rank), X.new_zeros(rank, Y.shape[1])
    for rows in blocks(len(X), len(points)):
        features = signal * rbf(X[rows], points, length) @ projection
        gram += features.mT @ features
        cross += features.mT @ Y[rows]
    return gram, cross, gram.trace()


def _primal_factor(gram: Tensor, noise: Tensor) -> Tensor:
    """Factor of gram / noise + I, times the root of the noise."""
    return torch.linalg.cholesky(gram + noise.expand(len(gram)).diag_embed())


def _inducing_bound(
    X: Tensor, Y: Tensor, points: Tensor, hyperparameters: Tensor
) -> Tensor:
    """Lower bound on the log marginal likelihood, from sums of features."""
    _, signal, noise = hyperparameters
    projection = _projection(points, hyperparameters)
    gram, cross, explained = _feature_sums(X, Y, points, projection, hyperparameters)
    factor = _primal_factor(gram, noise)
    solved = torch.linalg.solve_triangular(factor, cross, upper=False)
    quadratic = (Y.square().sum() - solved.square().sum()) / noise
    # The determinant of all rows is that of the features (primal and dual agree).
    n_left = len(X) - len(factor)
    log_det = n_left * noise.log() + 2 * factor.diagonal().log().sum()
    missed = (len(X) * signal - explained) / noise
    return -0.5 * (quadratic + Y.shape[1] * (log_det + missed) + Y.numel() * _LOG_2PI)
