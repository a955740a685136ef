"""Device, dtype and seeds: the one place that asks torch about the machine."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from threadpoolctl import ThreadpoolController

# Working set, in numbers, of one block of samples: about two megabytes of float64.
BLOCK_NUMBERS = 2**18
# Work, in numbers touched, that is worth a second thread, and the most seconds that
# one of them holds the interpreter while another waits.
THREAD_WORK, SWITCH_INTERVAL = 2**20, 1e-4
# Networks with fewer parameters train on one thread.
SMALL_NETWORK = 2**20
CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


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


def tensor_view(array: Any) -> torch.Tensor:
    """View an array of the CPU as a tensor; a tensor is returned as it is."""
    return torch.from_numpy(array) if isinstance(array, np.ndarray) else array


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Bring a tensor back to NumPy: the boundary on the way out."""
    return tensor.detach().cpu().numpy()


def blocks(n_samples: int, numbers_per_sample: int) -> Iterator[slice]:
    """Slices of samples whose working set stays near the size of the cache."""
    size = max(64, min(8192, BLOCK_NUMBERS // max(1, numbers_per_sample)))
    size -= size % 8  # rows of as many float64 numbers end where lines of the cache do
    for start in range(0, n_samples, size):
        yield slice(start, min(start + size, n_samples))


class Workers:
    """Threads for spans of samples, and memory that each of them works in.

    Both are kept for the next call of the same thread: a new thread and new memory cost
    more than a pass over a hundred thousand samples.
    """

    _kept = threading.local()

    def __init__(self, n_threads: int):
        self.n_threads, self.process = n_threads, os.getpid()
        self.scratch: list[dict[str, Any]] = [{} for _ in range(n_threads)]
        self.pool = ThreadPoolExecutor(n_threads - 1) if n_threads > 1 else None

    @classmethod
    def of_this_thread(cls, n_threads: int) -> "Workers":
        """Return the workers that were kept, or new ones after a fork or a change."""
        kept = getattr(cls._kept, "workers", None)
        if kept is None or (kept.n_threads, kept.process) != (n_threads, os.getpid()):
            kept = cls._kept.workers = cls(n_threads)
        return kept


def memory_of_this_thread() -> dict[str, Any]:
    """Return a place for arrays that are written anew at every call.

    Fresh memory of megabytes is mapped page by page, which can take longer than what
    is then computed in it.
    """
    return vars(_MEMORY)


_MEMORY = threading.local()


def map_spans(
    function: Callable[[slice, dict[str, Any]], Any], n_samples: int, work: int
) -> list[Any]:
    """Apply a function to equal spans of samples, each on a thread of its own.

    There are as many threads as torch may use, or one where the work is small. The
    second argument of the function is memory to keep arrays in from call to call.
    """
    with own_threads() as workers:
        if work < THREAD_WORK or workers.pool is None:
            return [function(slice(0, n_samples), workers.scratch[0])]
        edges = np.linspace(0, n_samples, workers.n_threads + 1).astype(int).tolist()
        spans = [slice(*edge) for edge in pairwise(edges)]
        others = [
            workers.pool.submit(function, *arguments)
            for arguments in zip(spans[1:], workers.scratch[1:], strict=True)
        ]
        own = function(spans[0], workers.scratch[0])
        return [own, *(other.result() for other in others)]


@contextmanager
def own_threads() -> Iterator[Workers]:
    """Keep products on the thread that asks for them, and put all limits back.

    Threads of ours share the work by samples; more threads inside their small products
    would only wait for each other. Inside another such block it gives its workers.
    """
    workers = _WORKERS.get()
    if workers is not None:
        yield workers
        return
    n_threads = torch.get_num_threads()
    workers = Workers.of_this_thread(n_threads)
    token = _WORKERS.set(workers)
    try:
        with _PROCESS_LIMITS:
            torch.set_num_threads(1)
            yield workers
    finally:
        torch.set_num_threads(n_threads)
        _WORKERS.reset(token)


_WORKERS: ContextVar[Any] = ContextVar("workers", default=None)


class ProcessLimits:
    """NumPy's BLAS on one thread, and short turns of the interpreter.

    Both belong to the process, whose threads may fit at the same time: the first that
    comes sets them, and the last that goes puts them back.
    """

    def __init__(self) -> None:
        self.lock, self.n_users, self.undo = threading.Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self.lock:
            if self.n_users == 0:
                limit = _threadpools().limit(limits=1, user_api="blas")
                self.undo.enter_context(limit)
                interval = sys.getswitchinterval()
                self.undo.callback(sys.setswitchinterval, interval)
                sys.setswitchinterval(min(interval, SWITCH_INTERVAL))
            self.n_users += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.n_users -= 1
            if self.n_users == 0:
                self.undo.close()


_PROCESS_LIMITS = ProcessLimits()


@cache
def _threadpools() -> ThreadpoolController:
    return ThreadpoolController()


def is_distributed() -> bool:
    """Whether this process is one of several in an initialised process group."""
    return (
        torch.distributed.is_available()
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


def all_reduce(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Sum tensors over the processes of a group; without one, leave them alone."""
    if not is_distributed():
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    shared = flat.to(_group_device(flat.device))
    torch.distributed.all_reduce(shared)
    parts = shared.to(flat.device).split([tensor.numel() for tensor in tensors])
    return tuple(
        part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)
    )


def all_gather(value: Any) -> list[Any]:
    """Collect a picklable value of every process, in the order of their ranks."""
    if not is_distributed():
        return [value]
    values = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Join rows without gradients of all processes, in the order of their ranks."""
    if not is_distributed():
        return rows
    return torch.cat([part.to(rows.device) for part in all_gather(rows.cpu())])


def _group_device(device: torch.device) -> torch.device:
    """Where the group can talk: NCCL knows CUDA tensors alone."""
    if torch.distributed.get_backend() == "nccl" and device.type == "cpu":
        return torch.device("cuda", torch.cuda.current_device())
    return device


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


def bfloat16_products(device: torch.device) -> torch.autocast:
    """Let products run in bfloat16 where the processor multiplies in it.

    Elsewhere it would be emulated, and slower than float32.
    """
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Not public, and not in every version of torch.
        ask = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
        supported = device.type == "cpu" and ask()
    return torch.autocast(device.type, torch.bfloat16, enabled=supported)


def few_threads(
    device: torch.device, network: torch.nn.Module
) -> AbstractContextManager[None]:
    """Train small networks on one thread.

    The barriers inside small products cost more than a second thread gains. A
    convolution is not small: it uses each of its weights at every pixel.
    """
    n_parameters = sum(weight.numel() for weight in network.parameters())
    is_small = n_parameters <= SMALL_NETWORK and not any(
        isinstance(module, CONVOLUTIONS) for module in network.modules()
    )
    return one_thread(device, active=is_small)


@contextmanager
def one_thread(device: torch.device, active: bool = True) -> Iterator[None]:
    """Let torch compute on one thread of the CPU, and put the user's number back."""
    n_threads = torch.get_num_threads()
    if device.type != "cpu" or not active or n_threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
