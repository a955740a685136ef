"""Densities that a neural gas or a bank of particles spans over the embeddings."""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor

from skgmje._backend import as_numpy, as_tensor
from skgmje.latent._moments import moments
from skgmje.mixture import GrowingNeuralGas, MultivariateNormalMixture, ParticleBank

STRUCTURES = {"gng": "gas_", "bank": "bank_"}
# EM iterations, with the prior of the graph, that follow the conversion of the nodes.
EM_STEPS = 5
# Rows that are enough for some density after an interrupt.
INTERRUPTED_ROWS = 512
# Rows whose distances to all particles are held at once.
SCORED_ROWS = 256


def fit_structure(
    kind: str, n_components: int, z: Tensor, reg_covar: float, seed: int
) -> dict[str, Any]:
    """Fit a structure to standardised embeddings, and the density that it spans.

    Parameters
    ----------
    kind : {'gng', 'bank'}
        A growing neural gas or a particle bank.
    n_components : int
        The most nodes or particles.
    z : tensor of float64 of shape (n_samples, n_features)
        Embeddings of both views.
    reg_covar : float
        Added to the covariances of the nodes, in units of the variances.
    seed : int
        Seed of the structure.

    Returns
    -------
    attributes : dict
        The structure under its name, ``density_``, ``loss_curve_`` and the moments.
    """
    loc, scale = moments(z)
    structure: Any
    if kind == "gng":
        structure = GrowingNeuralGas(
            max(2, n_components), random_state=seed, device=z.device
        )
    else:
        structure = ParticleBank(n_components, random_state=seed, device=z.device)
    rows = as_numpy((z - loc) / scale)
    try:
        structure.fit(rows)
    except KeyboardInterrupt:
        warnings.warn(
            "Fitting the density was interrupted by user; it knows the first "
            f"{INTERRUPTED_ROWS} rows alone.",
            UserWarning,
            stacklevel=2,
        )
        structure.fit(rows[:INTERRUPTED_ROWS])
    return _attributes(kind, structure, z, loc, scale, reg_covar)


def update_structure(
    kind: str, structure: Any, frame: tuple[Any, Any], z: Tensor, reg_covar: float
) -> dict[str, Any]:
    """Move a structure towards a batch of embeddings.

    `frame` holds the moments with which :func:`fit_structure` standardised; everything
    else is as there.
    """
    loc, scale = (as_tensor(moment, z.device) for moment in frame)
    # A batch that fails leaves the fitted structure as it was.
    structure = copy.deepcopy(structure)
    structure.device = z.device
    structure.partial_fit(as_numpy((z - loc) / scale))
    return _attributes(kind, structure, z, loc, scale, reg_covar)


def _attributes(
    kind: str, structure: Any, z: Tensor, loc: Tensor, scale: Tensor, reg_covar: float
) -> dict[str, Any]:
    density: MultivariateNormalMixture
    if kind == "gng":
        rows = as_numpy((z - loc) / scale)
        density = structure.to_mixture(rows, reg_covar=reg_covar, n_em_steps=EM_STEPS)
    else:
        density = structure.density_
    density = density.affine(loc, scale)
    log_prob = torch.cat([density.log_prob(block) for block in z.split(SCORED_ROWS)])
    # The structure computes where it is asked to, and not where it was fitted.
    structure.device = None
    return {
        STRUCTURES[kind]: structure,
        "density_": density,
        "loss_curve_": [-float(log_prob.mean())],
        "_structure_frame": (as_numpy(loc), as_numpy(scale)),
    }
