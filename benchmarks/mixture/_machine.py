"""What a table of ratios has to say about the machine it was made on."""

import platform
import re
import threading
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_info


def median_time(function, repeats=5):
    """Median wall time of a call in seconds, after one call to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def gemm_peak(dtype):
    """Floating-point operations a second of a large square product."""
    matrix = torch.ones(2048, 2048, dtype=getattr(torch, dtype))
    return 2 * 2048**3 / median_time(lambda: matrix @ matrix)


def torch_blas():
    """Name of the library that multiplies torch's matrices."""
    found = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    return found[1] if found else "unknown BLAS"


def describe(*packages):
    """Print the processor, the threads, the BLAS kernels and the versions."""
    blas = {
        f"{pool['internal_api']} {pool.get('architecture')} x{pool['num_threads']}"
        for pool in threadpool_info()
        if pool["user_api"] == "blas"
    }
    blas.add(f"torch's {torch_blas()}")
    print(f"{platform.machine()}, {torch.get_num_threads()} threads; BLAS {blas}")
    versions = [f"{name} {version(name)}" for name in ("numpy", "torch", *packages)]
    print(", ".join(versions))


def anonymous_memory():
    """Resident memory that is no mapped file, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status has no RssAnon")


class PeakMemory:
    """Watch the memory of this process from a thread."""

    def __enter__(self):
        self.before = self.peak = anonymous_memory()
        self.running = True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self):
        while self.running:
            self.peak = max(self.peak, anonymous_memory())
            time.sleep(0.01)

    def __exit__(self, *exception):
        self.running = False
        self.thread.join()

    @property
    def growth(self):
        """What was needed at most beyond what there was, in MB."""
        return self.peak - self.before
