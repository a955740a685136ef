"""Text that is printed and kept."""

import contextlib
import sys
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


class _Both:
    def __init__(self, *streams):
        self.streams = streams

    def write(self, text):
        for stream in self.streams:
            stream.write(text)

    def flush(self):
        for stream in self.streams:
            stream.flush()


@contextlib.contextmanager
def kept(name):
    """Print what is printed inside, and keep it under ``results/``."""
    RESULTS.mkdir(exist_ok=True)
    with (
        open(RESULTS / name, "w", encoding="utf-8") as file,
        contextlib.redirect_stdout(_Both(sys.stdout, file)),
    ):
        yield
