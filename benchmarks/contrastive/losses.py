"""Contrastive losses beside OpenCLIP's and lightly's: values, time and memory.

    python benchmarks/contrastive/losses.py

`clip` is the symmetric loss of two views, beside that of OpenCLIP as it is for one
process (two matrices of logits and their cross-entropies). `nt-xent` is SimCLR's loss,
in which both views of the other rows count against a row, from `pair_log_sum_exp`,
beside lightly's, if that is installed. For batches of several sizes of embeddings of
128 coordinates in float32 the table prints

difference  of the two losses, and the largest of their gradients, relative to the
            largest gradient
ours        seconds of the processor for a loss with its gradients, on one thread, the
            best of several
ratio       seconds of the peer in parts of ours: above one, ours is faster
memory      growth of a fresh process during the first call, ours and the peer's

The largest batches are left to ours alone: there the matrix of logits has a gigabyte,
and a peer holds several of its size.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.nn import functional as F

from skgmje.latent import InfoNCE, Tilting, pair_log_sum_exp

RESULTS = Path(__file__).parent / "results"
TEMPERATURE, WIDTH = 0.1, 128
SIZES = 256, 1024, 2048, 4096
LARGEST = 16384


def open_clip(z_c, z_t):
    z_c, z_t = F.normalize(z_c, dim=1), F.normalize(z_t, dim=1)
    per_context = z_c @ z_t.T / TEMPERATURE
    per_target = z_t @ z_c.T / TEMPERATURE
    own = torch.arange(len(z_c))
    return (F.cross_entropy(per_context, own) + F.cross_entropy(per_target, own)) / 2


def our_nt_xent(z_c, z_t):
    z = torch.cat([z_c, z_t])
    a, b = Tilting("cosine", TEMPERATURE).factors(z, z)
    everything, itself = pair_log_sum_exp(a, b)[0], 1 / TEMPERATURE
    others = everything + torch.log1p(-torch.exp(itself - everything))
    return (others - (a * b.roll(len(z_c), 0)).sum(1)).mean()


def lightly_nt_xent(z_c, z_t):
    from lightly.loss import NTXentLoss

    return NTXentLoss(TEMPERATURE)(z_c, z_t)


LOSSES = {
    "clip": (InfoNCE(TEMPERATURE), open_clip),
    "nt-xent": (our_nt_xent, lightly_nt_xent),
}


def views(n, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shared, *noise = torch.randn(3, n, WIDTH, generator=generator, dtype=dtype)
    return [(shared + 0.5 * each).requires_grad_() for each in noise]


def step(loss, pair):
    value = loss(*pair)
    return value.detach(), *torch.autograd.grad(value, pair)


def seconds(loss, pair):
    times = []
    while len(times) < 3 or (sum(times) < 1 and len(times) < 50):
        start = time.process_time()
        step(loss, pair)
        times.append(time.process_time() - start)
    return min(times)


def memory(name, which, n):
    """Growth of a fresh process, in megabytes."""
    command = [sys.executable, __file__, "--memory", name, str(which), str(n)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


def growth(name, which, n):
    loss = LOSSES[name][which]
    step(loss, views(8))  # Libraries are loaded before.
    pair = views(n)
    before = peak_memory()
    step(loss, pair)
    return peak_memory() - before


def peak_memory():
    """Largest resident memory of this process so far, in megabytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def difference(name, n):
    """Largest difference of losses and gradients in double precision."""
    pair = views(min(n, 1024), torch.float64)
    ours, peers = (step(loss, pair) for loss in LOSSES[name])
    gradient = max(float(g.abs().max()) for g in peers[1:])
    gaps = [float((a - b).abs().max()) for a, b in zip(ours, peers, strict=True)]
    return gaps[0], max(gaps[1:]) / gradient


def line(name, n, peer=True):
    pair = views(n)
    ours = seconds(LOSSES[name][0], pair)
    cells = f"{name:<9}{n:>7}"
    used = memory(name, 0, n)
    if not peer:
        return f"{cells}{'':>22}{ours:>9.4f}{'':>8}{used:>9.0f}"
    ratio = seconds(LOSSES[name][1], pair) / ours
    loss, gradient = difference(name, n)
    cells += f"{loss:>11.1e}{gradient:>11.1e}{ours:>9.4f}{ratio:>8.2f}"
    return f"{cells}{used:>9.0f}{memory(name, 1, n):>9.0f}"


def has_lightly():
    try:
        import lightly  # noqa: F401
    except ImportError:
        return False
    return True


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        name, which, n = arguments.memory
        print(growth(name, int(which), int(n)))
        return
    lines = [
        f"{'':<16}{'difference':>22}{'seconds':>9}{'':>8}{'memory, MB':>18}",
        f"{'loss':<9}{'batch':>7}{'loss':>11}{'gradient':>11}{'ours':>9}{'ratio':>8}"
        f"{'ours':>9}{'peer':>9}",
    ]
    print("\n".join(lines))
    for name in LOSSES:
        if name == "nt-xent" and not has_lightly():
            print("lightly is not installed: no table of nt-xent")
            continue
        for n in SIZES:
            lines.append(line(name, n))
            print(lines[-1], flush=True)
    lines.append(line("clip", LARGEST, peer=False))
    print(lines[-1])
    logits = 4 * LARGEST**2 / 2**20
    lines.append(f"One matrix of logits of the last batch: {logits:.0f} MB")
    print(lines[-1])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "losses.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
