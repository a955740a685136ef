"""Fit one mixture in several processes; compare it with a fit in one.

Each process makes its own shard. Start it with any launcher that initialises
torch.distributed's environment:

    torchrun --standalone --nproc-per-node=2 benchmarks/mixture/distributed.py
    python benchmarks/mixture/distributed.py --ray 2
    spark-submit benchmarks/mixture/distributed.py --spark 2
"""

import argparse
import time

import numpy as np
import torch.distributed
from em import make_data, make_start

from skgmje import GaussianMixture

SHAPE = (200_000, 16, 8)


def mixture_from(start):
    """A mixture with an explicit start and a fixed number of iterations."""
    return GaussianMixture(
        SHAPE[2], max_iter=10, tol=0.0, init_params="random", random_state=0, **start
    )


def fit_shard():
    """Fit in a process of the group; print what rank 0 finds."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    torch.set_num_threads(1)
    rank, n_processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    X = make_data(*SHAPE, "float64")
    start = make_start(X, SHAPE[2], "full")
    shard = np.array_split(X, n_processes)[rank]
    seconds, mixture = time_fit(start, shard)
    means = [None] * n_processes
    torch.distributed.all_gather_object(means, mixture.means_)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    if rank == 0:
        alone, whole = time_fit(start, X)
        gap = np.abs(mixture.means_ - whole.means_).max() / np.abs(whole.means_).max()
        same = all(np.array_equal(means[0], other) for other in means)
        print(
            f"{n_processes} processes {seconds:.2f} s, one process {alone:.2f} s; "
            f"largest relative difference {gap:.1e}, ranks equal to the bit: {same}"
        )


def time_fit(start, X):
    """Seconds of a fit, and the mixture."""
    begin = time.perf_counter()
    mixture = mixture_from(start).fit(X)
    return time.perf_counter() - begin, mixture


def with_ray(n_processes):
    """Launch by Ray Train, which sets up the group for every worker."""
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        fit_shard,
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=n_processes),
    ).fit()


def with_spark(n_processes):
    """Launch by Spark's TorchDistributor."""
    from pyspark.ml.torch.distributor import TorchDistributor

    TorchDistributor(num_processes=n_processes, local_mode=False, use_gpu=False).run(
        fit_shard
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ray", type=int, help="number of Ray workers")
    parser.add_argument("--spark", type=int, help="number of Spark tasks")
    arguments = parser.parse_args()
    if arguments.ray:
        with_ray(arguments.ray)
    elif arguments.spark:
        with_spark(arguments.spark)
    else:
        fit_shard()


if __name__ == "__main__":
    main()
