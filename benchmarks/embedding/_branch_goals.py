"""What the branches experiment should show, and whether it does."""

from itertools import pairwise

import numpy as np

ORDER = ("MDN, K = 3", "GNG", "EM, K = 3", "EM, K = 1")
AVERAGES = ("RBF kernel", "JEPA")


def goals(results):
    """One line for each goal that was measured; means over seeds."""
    lines = [""]

    def values(data_name, method, key="excess"):
        return np.array(
            [r[key] for task, r in results.items() if task[:2] == (data_name, method)]
        )

    def below(text, value, limit):
        word = "met" if value <= limit else "MISSED"
        lines.append(f"{text:54}{value:8.4f} <= {limit:<8}{word}")

    def excess(data_name, method, limit):
        found = values(data_name, method)
        if len(found):
            below(f"{method}, on {data_name}: excess NLL", found.mean(), limit)
            lines[-1] += f" (worst seed {found.max():.4f})"

    def routing():
        gates = [values("A", "MDN, K = 3", f"gate {k}").mean() for k in range(3)]
        below("  gates from 1/3", np.abs(np.array(gates) - 1 / 3).max(), 0.02)
        deviation = values("A", "MDN, K = 3", "deviation").mean()
        below("  standard deviations from 0.05", abs(deviation - 0.05), 0.005)

    def order():
        for better, worse in pairwise(ORDER):
            gap = values("A", better).mean() - values("A", worse).mean()
            below(f"{better} before {worse} on A", gap, 0.0)
        for name in AVERAGES:
            gap = abs(values("A", name).mean() - values("A", "EM, K = 1").mean())
            below(f"{name} as EM, K = 1, on A", gap, 0.1)

    excess("A", "MDN, K = 3", 0.03)
    if len(values("A", "MDN, K = 3")):
        routing()
    excess("A", "GNG", 0.1)
    parts = values("A", "GNG", "parts")
    if len(parts):
        below("  connected components from 3", np.abs(parts - 3).max(), 0)
    excess("A", "EM, K = 20", 0.05)
    excess("A", "bank", 0.3)
    for method in ("MDN, K = 3", "MDN", "EM, K = 20"):
        excess("B", method, 0.08)
    if all(len(values("A", name)) for name in (*ORDER, *AVERAGES)):
        order()
    return "\n".join(lines)
