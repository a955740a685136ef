"""Device, dtype and seeds: the one place that asks torch about the machine."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state, gen_batches

# Working set, in numbers, of one block of samples: about two megabytes of float64.
BLOCK_NUMBERS = 2**18
# Networks with fewer parameters train on one thread.
SMALL_NETWORK = 2**20


def resolve_device(device: Any) -> torch.device:
    """Turn a ``device=`` parameter into a torch device.

    None means the CPU; ``"auto"`` means CUDA where there is one.
    """
    if device is None:
        return torch.device("cpu")
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not a torch device; use None, 'auto', 'cpu' or "
            "'cuda'."
        ) from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device={device!r} was asked for, but torch sees no CUDA device; use "
            "device='auto' to fall back to the CPU."
        )
    return resolved


def resolve_random_state(random_state: Any) -> np.random.RandomState:
    """Return a private RandomState; None draws fresh entropy, not the global state."""
    if random_state is None:
        return np.random.RandomState(np.random.SeedSequence().generate_state(8))
    return check_random_state(random_state)


def make_generator(random_state: Any, device: torch.device) -> torch.Generator:
    """Return a private torch generator on `device`, seeded from `random_state`."""
    seed = int(resolve_random_state(random_state).randint(np.iinfo(np.int32).max))
    return torch.Generator(device=device).manual_seed(seed)


def as_tensor(
    array: Any, device: torch.device, dtype: torch.dtype = torch.float64
) -> torch.Tensor:
    """Copy a NumPy array of any order, strides, byte order or writability."""
    array = np.asarray(array)
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=True)
    return torch.from_numpy(native).to(device=device, dtype=dtype)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Bring a tensor back to NumPy: the boundary on the way out."""
    return tensor.detach().cpu().numpy()


def blocks(n_samples: int, numbers_per_sample: int) -> Iterator[slice]:
    """Slices of samples whose working set stays near the size of the cache."""
    size = max(64, min(8192, BLOCK_NUMBERS // max(1, numbers_per_sample)))
    return gen_batches(n_samples, size)


@contextmanager
def private_torch_rng(seed: int, device: torch.device, active: bool) -> Iterator[None]:
    """Seed torch's global RNG for code of the user's, and put its state back.

    Modules and augmentations that a user supplies draw from the global RNG; everything
    of the library's own has its private generator.
    """
    if not active:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@contextmanager
def few_threads(device: torch.device, n_parameters: int) -> Iterator[None]:
    """Train small networks on one thread, and put the user's thread count back.

    The barriers inside small products cost more than a second thread gains.
    """
    n_threads = torch.get_num_threads()
    if device.type != "cpu" or n_parameters > SMALL_NETWORK or n_threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
