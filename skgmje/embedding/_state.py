"""What a fitted estimator is pickled as: parameters, recipes and NumPy arrays."""

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import InconsistentVersionWarning
from torch import Tensor

import skgmje
from skgmje._backend import as_numpy, as_tensor
from skgmje.latent import GaussianProcess, LinearGaussianStateSpace, PolarStudentT
from skgmje.mixture import MultivariateNormalMixture
from skgmje.networks import Decoder, Encoder, MixtureDensityHead, Predictor

STATE_VERSION = 1
# Modules that are built again from their recipes.
_MODULES: dict[str, Any] = {
    module.__name__: module
    for module in (
        Decoder,
        Encoder,
        GaussianProcess,
        MixtureDensityHead,
        PolarStudentT,
        Predictor,
    )
}


class StateMixin:
    """Pickle without torch: networks as recipes and arrays, densities as arrays."""

    def __getstate__(self):
        state = dict(super().__getstate__())  # type: ignore[call-overload]
        if state.get("target_encoder_") is state.get("encoder_"):
            state.pop("target_encoder_", None)
        for name, value in state.items():
            if type(value).__name__ in _MODULES:
                state[name] = {
                    "module": type(value).__name__,
                    "recipe": value.recipe,
                    "arrays": to_arrays(dict(value.state_dict())),
                }
            elif isinstance(value, MultivariateNormalMixture):
                # Logarithms, so that the weights come back to the bit.
                parameters = value.parameters() | {"log_weights": value.log_weights}
                del parameters["weights"]
                state[name] = {"density": to_arrays(parameters)}
            elif isinstance(value, LinearGaussianStateSpace):
                state[name] = {"state_space": to_arrays(value.parameters())}
        return state | {
            "_state_version": STATE_VERSION,
            "_skgmje_version": skgmje.__version__,
        }

    def __setstate__(self, state):
        state = dict(state)
        version = state.pop("_skgmje_version", None)
        state.pop("_state_version", None)
        if version != skgmje.__version__:
            warnings.warn(
                InconsistentVersionWarning(
                    estimator_name=type(self).__name__,
                    current_sklearn_version=skgmje.__version__,
                    original_sklearn_version=version,
                ),
                stacklevel=2,
            )
        for name, value in state.items():
            if isinstance(value, dict) and "recipe" in value:
                state[name] = _build(**value)
            elif isinstance(value, dict) and "density" in value:
                state[name] = MultivariateNormalMixture.from_log_weights(
                    **to_tensors(value["density"], torch.device("cpu"))
                )
            elif isinstance(value, dict) and "state_space" in value:
                state[name] = LinearGaussianStateSpace(
                    **to_tensors(value["state_space"], torch.device("cpu")),
                    validate_args=False,
                )
        if "encoder_" in state and "target_encoder" in state:
            state.setdefault("target_encoder_", state["encoder_"])
        super().__setstate__(state)  # type: ignore[misc]


def _build(module: str, recipe: dict[str, Any], arrays: dict[str, np.ndarray]):
    """Build a network from its recipe, and leave torch's global RNG as it was."""
    with torch.random.fork_rng(devices=[]):
        if module == "Encoder":
            moments = torch.zeros(len(arrays["mean"]))
            built: Any = Encoder(recipe, moments, moments.clone())
        elif module == "Decoder":
            sizes = (recipe["n_features_in"], recipe["n_features_out"])
            n_in, n_out = map(torch.zeros, sizes)
            built = Decoder(recipe, (n_in, n_in.diag()), (n_out, n_out.clone()))
        else:
            built = _MODULES[module](**recipe)
    try:
        built.double().load_state_dict(to_tensors(arrays, torch.device("cpu")))
    except RuntimeError as error:
        raise ValueError(
            "The stored weights do not fit the network; give load the encoders that "
            "the estimator was fitted with, as encoder= and target_encoder=."
        ) from error
    return built.eval()


def to_arrays(tree: Any) -> Any:
    """Replace the tensors of nested dicts, lists and tuples by NumPy arrays."""
    return _map(tree, Tensor, as_numpy)


def to_tensors(tree: Any, device: torch.device) -> Any:
    """Replace the NumPy arrays of nested containers by tensors on a device."""

    def convert(array: np.ndarray) -> Tensor:
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        # The last bit of a product may depend on how memory is aligned: torch's own.
        return as_tensor(array, device, dtype).clone()

    return _map(tree, np.ndarray, convert)


def _map(tree: Any, leaf: type, function: Any) -> Any:
    if isinstance(tree, leaf):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _map(value, leaf, function) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(_map(value, leaf, function) for value in tree)
    return tree
