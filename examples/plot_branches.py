"""
Three right answers
===================

Every input has three right answers here. A regression gives their average, which is
wrong almost everywhere. Joint embeddings give a density, and some densities suit
better than others: one Gaussian, a few, many on the nodes of a graph that grows along
the data, or a mixture that a network reads from the input.
"""

# %%
# Data
# ----
# Three curves over x, all equally likely, with noise of standard deviation 0.05. The
# true conditional density is known, so that models compare with the best there is.
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import PowerNorm

from skgmje import (
    GaussianProcessEmbedder,
    GMJEEmbedder,
    JEPAEmbedder,
    MDNEmbedder,
)
from skgmje.datasets import branch_conditional, branch_log_density, make_branches
from skgmje.metrics import branch_recovery, calibration_error

start = time.perf_counter()
X, y = make_branches(3000, random_state=0)
X_test, y_test = make_branches(5000, random_state=1)
oracle = branch_log_density(X_test, y_test).mean()

# %%
# Models
# ------
# With an identity target a model is a conditional density in the units of y. JEPA and
# the Gaussian process are baselines: a network that predicts a point, and a smooth
# function of x, each with a Gaussian around it. The joint mixtures are fitted in closed
# form or by EM; the network of MDN trains.
own_units = {"encoder": "identity", "target": "y", "random_state": 0}
models = {
    "JEPA": JEPAEmbedder(target="y", target_encoder="identity", random_state=0),
    "Gaussian process": GaussianProcessEmbedder(target="y", random_state=0),
    "GMJE, K = 1": GMJEEmbedder(1, **own_units),
    "GMJE, K = 3": GMJEEmbedder(3, **own_units),
    "GMJE on a neural gas": GMJEEmbedder(50, components="gng", **own_units),
    "MDN, K = 3": MDNEmbedder(3, **own_units),
}

# %%
# Scores
# ------
# How many nats a pair each model loses against the true density; how many of its draws
# are within three standard deviations of a curve; how far the branches that it draws
# are from the true ones, in total variation; and how far its probabilities are from
# the frequencies of what happens.
few = X_test[:200]
print(f"{'':26}{'nats lost':>10}{'recovery':>10}{'usage':>8}{'calibration':>13}")
losses = {}
for name, model in models.items():
    model.fit(X, y)
    losses[name] = oracle - model.score(X_test, y_test)
    draws = model.sample_conditional(few, 1000, random_state=0)
    share, usage = branch_recovery(draws, branch_conditional(few))
    error = calibration_error(model.conditional(X_test), y_test)
    print(f"{name:26}{losses[name]:10.3f}{share:10.1%}{usage:8.3f}{error:13.3f}")

# %%
# Around one point there is a broad band, whatever the function that gives the point,
# and four of five draws are no answer. Three Gaussians are rigid where the curves bend.
# Those on the nodes of a neural gas follow them piece by piece; nobody has to say that
# there are three curves, since the graph falls into three parts. The network needs only
# three components, because they bend.
gas = models["GMJE on a neural gas"].gas_
print("connected parts of the graph:", gas.n_connected_components_)

x = np.linspace(-1, 1, 241)[:, np.newaxis]
heights = torch.linspace(-3.1, 3.1, 621).double()
curves = branch_conditional(x).means[..., 0]
true = {"color": "black", "lw": 1, "ls": (0, (4, 3))}
# One scale for all; its root shows broad bands beside narrow ridges.
scale = PowerNorm(0.5, vmin=0, vmax=4)
fig, axes = plt.subplots(
    2, 3, figsize=(10, 6.8), sharex=True, sharey=True, layout="constrained"
)
for (name, model), ax in zip(models.items(), axes.flat, strict=True):
    density = model.conditional(x).log_prob(heights[:, None, None]).exp()
    image = ax.pcolormesh(
        x[:, 0], heights, density, cmap="Blues", norm=scale, shading="gouraud"
    )
    ax.plot(x, curves, **true)
    draws = model.sample_conditional(X_test[:150], random_state=0)
    ax.plot(X_test[:150], draws[:, 0], ".", color="tab:orange", ms=2.5)
    ax.plot(x, model.predict(x), color="tab:red", lw=1.2)
    ax.set_title(f"{name} ({losses[name]:.2f} nats lost)", fontsize=9, loc="left")
axes[0, 0].set(xlim=(-1, 1), ylim=(-3.1, 3.1), xticks=(-0.5, 0, 0.5))
for ax in axes[1]:
    ax.set_xlabel("x")
for ax in axes[:, 0]:
    ax.set_ylabel("y")
bar = fig.colorbar(image, ax=axes, label="density of y given x", aspect=40, pad=0.02)
bar.set_ticks((0, 0.25, 1, 2, 3))

# %%
# Blue is the density of y for each x, orange are draws from it, dashed the true curves.
# The red line is the conditional mean, the answer of a regression.
#
# The network's components are the branches: gates near 1/3, means along the curves,
# standard deviations near 0.05.
conditional = models["MDN, K = 3"].conditional(x)
order = conditional.means.mean(0)[:, 0].argsort()
parts = {
    "gates": (conditional.weights, 1 / 3, 1),
    "standard deviations": (
        conditional.component_covariances[..., 0, 0].sqrt(),
        0.05,
        0.1,
    ),
}
fig, axes = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
for ax, (name, (values, truth, limit)) in zip(axes, parts.items(), strict=True):
    ax.plot(x, values[:, order], lw=1.8)
    ax.axhline(truth, **true)
    ax.set(xlabel="x", ylim=(0, limit), xlim=(-1, 1), xticks=(-1, 0, 1))
    ax.set_title(name, fontsize=10, loc="left")
print(f"\nseconds: {time.perf_counter() - start:.0f}")
