"""
Branches that nobody counted: growing neural gas
================================================

How many clusters are there, and of what shape? A growing neural gas spreads nodes over
the data and joins the two that are nearest to each sample. The connected components of
its graph are the clusters: rings inside each other, or the branches on which the
answers to a question lie.

The same graph is a density. Components that stretch along its edges follow each branch,
so that the conditional distribution has as many modes as there are answers.
"""

# %%
# Graphs
# ------
# Nobody says how many branches there are. Columns are scaled first, since distances
# decide everything.
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import LineCollection
from sklearn.datasets import make_circles
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler

from skgmje import GrowingNeuralGas
from skgmje.datasets import branch_log_density, make_branches

start = time.perf_counter()
rings, ring = make_circles(3000, noise=0.04, factor=0.5, random_state=0)
x, y, branch = make_branches(3000, random_state=0, return_branch=True)
scaler = StandardScaler()
pairs = scaler.fit_transform(np.hstack([x, y]))
data = {"rings": (rings, ring), "branches": (pairs, branch)}

print(f"{'':10}{'nodes':>6}{'edges':>7}{'components':>12}{'rows right':>12}")
graphs = {}
for name, (X, truth) in data.items():
    gas = graphs[name] = GrowingNeuralGas(60, random_state=0).fit(X)
    n_components = gas.n_connected_components_
    right = adjusted_rand_score(truth, gas.labels_)
    print(f"{name:10}{len(gas.nodes_):6}{len(gas.edges_):7}", end="")
    print(f"{n_components:12}{right:12.1%}")

# %%
# Growth
# ------
# Batches of a stream show how the graph finds the rings. Early edges lead from one to
# the other; no sample confirms them once there are nodes enough.
growing = GrowingNeuralGas(60, random_state=0)
stages = {}
for n_seen, rows in enumerate(np.array_split(np.tile(rings, (5, 1)), 30), start=1):
    growing.partial_fit(rows)
    if n_seen in (1, 4, 30):
        stages[500 * n_seen] = (growing.nodes_, growing.edges_, growing.node_labels_)

# %%
# A density
# ---------
# The mixture of the nodes beside the truth, in nats for each answer on new pairs.
mixture = graphs["branches"].to_mixture(pairs, n_em_steps=5)
new_x, new_y = make_branches(5000, random_state=1)
new = torch.from_numpy(scaler.transform(np.hstack([new_x, new_y])))
log_density = mixture.log_prob(new) - mixture.marginal([0]).log_prob(new[:, :1])
nats = float(log_density.mean()) - np.log(scaler.scale_[1])
oracle = branch_log_density(new_x, new_y).mean()
print(f"\nlog-density of y given x: {nats:.3f} nats; the truth has {oracle:.3f}")

# %%
# Edges have the colour of their component. On the right are the mixture's density of y
# at every x, and its conditional density at three values of x.
colors = np.array(["tab:blue", "tab:orange", "tab:green"])


def draw(ax, rows, nodes, edges, labels, title):
    """Rows in grey, and the graph over them."""
    ax.plot(*rows.T, ".", color="0.8", ms=2, rasterized=True)
    shade = colors[labels % len(colors)]
    ax.add_collection(
        LineCollection(nodes[edges], colors=shade[edges[:, 0]], linewidths=1.6)
    )
    ax.scatter(*nodes.T, s=16, c=shade, edgecolors="white", linewidths=0.5, zorder=3)
    ax.set_title(title, fontsize=10, loc="left")


fig, axes = plt.subplot_mosaic("abc\nghi", figsize=(10, 6.6), layout="constrained")
for key, (n_seen, (nodes, edges, labels)) in zip("abc", stages.items(), strict=True):
    n_components = int(labels.max()) + 1
    title = f"{n_seen} samples, {n_components} component"
    draw(axes[key], rings, nodes, edges, labels, title + "s"[: n_components - 1])
    axes[key].set_aspect("equal", adjustable="datalim")
    axes[key].set(xticks=[], yticks=[])

gas = graphs["branches"]
draw(
    axes["g"],
    scaler.inverse_transform(pairs),
    scaler.inverse_transform(gas.nodes_),
    gas.edges_,
    gas.node_labels_,
    f"Branches: {len(gas.nodes_)} nodes, {gas.n_connected_components_} components",
)

grid_x, grid_y = np.linspace(-1, 1, 201), np.linspace(-2.4, 2.4, 481)
scaled_x, scaled_y = (
    torch.from_numpy((grid - mean) / scale)
    for grid, mean, scale in zip(
        (grid_x, grid_y), scaler.mean_, scaler.scale_, strict=True
    )
)
conditional = mixture.condition([0], scaled_x[:, None])
density = conditional.log_prob(scaled_y[:, None, None]).exp() / scaler.scale_[1]
axes["h"].pcolormesh(
    grid_x, grid_y, density, cmap="Blues", vmax=2.7, shading="gouraud", rasterized=True
)
axes["h"].set_title("Density of y given x", fontsize=10, loc="left")

for place, column in enumerate((30, 100, 170)):
    edge = place + 0.3 * density[:, column]
    axes["i"].fill_betweenx(grid_y, place, edge, color="tab:blue", alpha=0.3, lw=0)
    axes["i"].plot(edge, grid_y, color="tab:blue", lw=1)
    axes["h"].axvline(grid_x[column], color="0.5", lw=0.8, ls=":")
ticks = [f"{grid_x[column]:.1f}" for column in (30, 100, 170)]
axes["i"].set(xticks=range(3), xticklabels=ticks)
axes["i"].set_title("At three values of x", fontsize=10, loc="left")
for key in "ghi":
    axes[key].set(ylim=grid_y[[0, -1]], xlabel="x")
axes["g"].set(ylabel="y", xlim=(-1.05, 1.05))
print(f"\nseconds: {time.perf_counter() - start:.0f}")
