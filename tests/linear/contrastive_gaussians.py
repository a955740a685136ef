"""Gaussian views, and the losses of linear encoders in plain matrices."""

import numpy as np
import torch

OBJECTIVES = (
    "inner_conditional",
    "inner_joint",
    "quadratic_target",
    "quadratic_context",
    "quadratic_conditional",
    "quadratic_joint",
)
# The fixture of two pairs of columns.
UU = np.array([[2.0, 0.5], [0.5, 1.0]])
VV = np.array([[1.5, 0.2], [0.2, 1.0]])
UV = np.array([[0.6, -0.1], [0.2, 0.5]])


def side_by_side(uu, vv, uv):
    return np.block([[uu, uv], [uv.T, vv]])


def blocks(covariance, n_features):
    n = n_features
    return covariance[:n, :n], covariance[n:, n:], covariance[:n, n:]


def random_covariance(rng, n_columns):
    """Draw a covariance whose canonical correlations are far from one."""
    factor = rng.normal(size=(n_columns, 2 * n_columns))
    scale = np.exp(rng.uniform(-1, 1, n_columns))
    return scale[:, None] * (factor @ factor.T / (2 * n_columns)) * scale


def random_pair(rng, min_width=1):
    """Draw a joint covariance and the width of the context."""
    widths = rng.integers(min_width, 4, size=2)
    return random_covariance(rng, widths.sum()), int(widths[0])


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values) @ vectors.T


def inverse_root(matrix):
    return np.linalg.inv(root(matrix))


def truncated(matrix, rank):
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] * values[:rank] @ right[:rank]


def gaussian_kl(covariance, other, second_moment=None):
    """KL of two Gaussians, given the second moment of the difference of means."""
    shift = 0 if second_moment is None else second_moment
    solved = np.linalg.solve(other, covariance + shift)
    log_ratio = np.linalg.slogdet(other)[1] - np.linalg.slogdet(covariance)[1]
    return 0.5 * (np.trace(solved) - len(other) + log_ratio)


def mutual_information(covariance, n_features):
    uu, vv, _ = blocks(covariance, n_features)
    log_dets = [np.linalg.slogdet(m)[1] for m in (uu, vv, covariance)]
    return 0.5 * (log_dets[0] + log_dets[1] - log_dets[2])


# -------------------------------------------------------- losses of any linear encoders


def _log_det(matrix):
    return torch.linalg.slogdet(matrix)[1]


def _eye(matrix):
    return torch.eye(len(matrix), dtype=matrix.dtype)


def _mean_log_normaliser(G, H, uu, vv):
    """E_u log E_v exp(-|G u - H v|^2 / 2), by completing the square."""
    precision = torch.linalg.inv(vv) + H.T @ H
    cross = H.T @ G
    log_det = _log_det(_eye(vv) + vv @ H.T @ H)
    explained = torch.trace(cross.T @ torch.linalg.solve(precision, cross) @ uu)
    return 0.5 * (explained - log_det - torch.trace(G.T @ G @ uu))


def population_loss(objective, G, H, uu, vv, uv):
    """Loss of linear encoders on Gaussian views, as a tensor of float64."""
    G, H, uu, vv, uv = (
        torch.as_tensor(m, dtype=torch.float64) for m in (G, H, uu, vv, uv)
    )
    inner = torch.trace(G @ uv @ H.T)
    A = G.T @ H
    if objective == "inner_conditional":
        return 0.5 * torch.trace(A.T @ uu @ A @ vv) - inner
    if objective == "inner_joint":
        halves = torch.linalg.cholesky(uu), torch.linalg.cholesky(vv)
        gains = halves[0].T @ A @ halves[1]
        if torch.linalg.matrix_norm(gains, 2) >= 1:
            return torch.tensor(torch.inf, dtype=torch.float64)
        return -0.5 * _log_det(_eye(vv) - gains.T @ gains) - inner
    energy = 0.5 * (torch.trace(G.T @ G @ uu) + torch.trace(H.T @ H @ vv)) - inner
    if objective == "quadratic_joint":
        both = G @ uu @ G.T + H @ vv @ H.T
        return energy - 0.5 * _log_det(_eye(both) + both)
    target = energy + _mean_log_normaliser(G, H, uu, vv)
    context = energy + _mean_log_normaliser(H, G, vv, uu)
    return {
        "quadratic_target": target,
        "quadratic_context": context,
        "quadratic_conditional": (target + context) / 2,
    }[objective]


def tilted_conditional(objective, G, H, vv):
    """Slopes and covariance of v given u in the tilted model."""
    precision = np.linalg.inv(vv)
    if objective.startswith("quadratic"):
        precision = precision + H.T @ H
    covariance = np.linalg.inv(precision)
    return covariance @ H.T @ G, covariance


def batch_loss(objective, logits):
    """Loss of logits, context in the rows, less the logarithm of their number."""
    n = len(logits)
    right = logits.diagonal().mean()
    target = (logits.logsumexp(1) - np.log(n)).mean() - right
    context = (logits.logsumexp(0) - np.log(n)).mean() - right
    joint = logits.flatten().logsumexp(0) - 2 * np.log(n) - right
    kind = objective.rsplit("_", maxsplit=1)[1]
    both = (target + context) / 2
    losses = {"target": target, "context": context, "conditional": both, "joint": joint}
    return losses[kind]
