"""What each step towards fast training buys: seconds of an epoch, and ratios.

    python benchmarks/embedding/training_speed.py [--epochs 8]

One encoder is shared by both views, as with views drawn from X. Every row but the first
changes one thing; a ratio above one is what the library's choice buys. Epochs of all
rows of a table take turns, and the fastest of each counts.
"""

import argparse
import time
from contextlib import ExitStack, nullcontext
from unittest import mock

import numpy as np
import torch

from skgmje import GJEEmbedder
from skgmje.embedding import _base, _model
from skgmje.views import ImageAugmentation

N_ROWS, SIDE = 2048, 28
CASES = {
    "convolutions, 28 x 28": {
        "encoder": "conv",
        "input_shape": (SIDE, SIDE),
        "augmentation": ImageAugmentation((SIDE, SIDE)),
        "embedding_dim": 64,
    },
    "perceptron, 128 x 128, 64 columns": {"embedding_dim": 8},
}


def one_pass(model, context, target):
    """Encode both views at once, which changes batch normalisation."""
    both = torch.cat([context, target])
    return _model._encode_batch(model.encoder.network, both).split(len(context))


def adamw(*arguments, **options):
    return ADAMW(*arguments, **options | {"fused": False})


ADAMW = torch.optim.AdamW
VARIANTS = {
    "as it is": [],
    "float32 products": [
        mock.patch.object(_model, "bfloat16_products", return_value=nullcontext())
    ],
    "AdamW weight by weight": [mock.patch.object(torch.optim, "AdamW", adamw)],
    "all threads": [
        mock.patch.object(_base, "few_threads", return_value=nullcontext())
    ],
    "one thread": [],
    "tried: one pass for both views": [
        mock.patch.object(_model.JointModel, "embed", one_pass)
    ],
    "tried: channels last": [],
}


class Epochs:
    """Epochs of one variant of training."""

    def __init__(self, variant, options, X):
        self.patches = VARIANTS[variant]
        self.n_threads = 1 if variant == "one thread" else torch.get_num_threads()
        self.estimator = GJEEmbedder(
            target="augment", max_iter=1000, random_state=0, **options
        )
        with self.patched():
            views = self.estimator._validate_views(X, None, None, reset=True)
            self.run = self.estimator._start(*views)
            if variant.endswith("channels last"):
                self.run.model.to(memory_format=torch.channels_last)
            self.trainer = self.estimator._make_trainer(self.run, 1000, False)
        self.seconds = []

    def patched(self):
        stack = ExitStack()
        for patch in self.patches:
            stack.enter_context(patch)
        return stack

    def time_one(self):
        before = torch.get_num_threads()
        torch.set_num_threads(self.n_threads)
        with self.patched(), self.estimator._training_context(self.run):
            start = time.perf_counter()
            self.trainer.run_epoch()
            self.seconds.append(time.perf_counter() - start)
        torch.set_num_threads(before)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    n_epochs = parser.parse_args().epochs
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    rng = np.random.default_rng(0)
    for case, options in CASES.items():
        X = rng.random((N_ROWS, SIDE**2 if "input_shape" in options else 64))
        skipped = set() if "input_shape" in options else {"tried: channels last"}
        epochs = {
            name: Epochs(name, options, X) for name in VARIANTS if name not in skipped
        }
        for _ in range(n_epochs + 1):
            for one in epochs.values():
                one.time_one()
        print(f"\n{case}, {N_ROWS} rows, batches of 256")
        base = min(epochs["as it is"].seconds[1:])
        for name, one in epochs.items():
            seconds = min(one.seconds[1:])
            print(f"  {name:32s}{seconds:8.3f} s{seconds / base:8.2f}")


if __name__ == "__main__":
    main()
