"""The pictures of the branches experiment."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from _branch_data import DATA
from matplotlib.colors import PowerNorm

PANELS = {
    "JEPA": "(a) JEPA: the average",
    "RBF kernel": "(b) RBF kernel: one broad band",
    "EM, K = 1": "(c) EM, K = 1: one ellipse",
    "EM, K = 3": "(d) EM, K = 3: rigid ellipses",
    "GNG": "(e) GNG: prototypes along the ridges",
    "MDN, K = 3": "(f) MDN, K = 3: follows the branches",
}
COLOURS = ("tab:blue", "tab:orange", "tab:green")
TRUE = {"color": "black", "lw": 1.0, "ls": (0, (4, 3))}
LABEL = {
    "ha": "right",
    "fontsize": 8,
    "bbox": {"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 2},
}
# One scale for all panels; its root shows broad bands beside narrow ridges.
SCALE = PowerNorm(0.5, vmin=0, vmax=4)


def draw_panels(methods, path):
    """Conditional densities of six methods on A, with the true branches."""
    data = DATA["A"]
    train, test = (
        data.make(data.n_train, random_state=0),
        data.make(5000, random_state=1000),
    )
    oracle = data.log_density(*test).mean()
    x = np.linspace(-1, 1, 241)[:, np.newaxis]
    y = torch.linspace(-3.1, 3.1, 621).double()
    branches = data.truth(x).means[..., 0].numpy()
    fig, axes = plt.subplots(
        2, 3, figsize=(10, 6.8), sharex=True, sharey=True, layout="constrained"
    )
    for (name, title), ax in zip(PANELS.items(), axes.flat, strict=True):
        model = methods[name](0).fit(*train)
        conditional = model.conditional(x)
        density = conditional.log_prob(y[:, None, None]).exp().numpy()
        shading = ax.pcolormesh(
            x[:, 0], y, density, cmap="Blues", norm=SCALE, shading="gouraud"
        )
        ax.plot(x, branches[:, 0], label="true answers", **TRUE)
        ax.plot(x, branches[:, 1:], **TRUE)
        draws = model.sample_conditional(test[0][:150], 1, random_state=0)
        ax.plot(
            *(test[0][:150], draws[:, 0]),
            ".",
            color="tab:orange",
            ms=2.5,
            label="draws",
        )
        ax.plot(x, model.predict(x), color="tab:red", lw=1.2, label="conditional mean")
        ax.set_title(title, fontsize=10, loc="left")
        loss = oracle - model.score(*test)
        ax.text(0.96, 2.87, f"{loss:.2f} nats lost", va="top", **LABEL)
    axes[0, 0].set(xlim=(-1, 1), ylim=(-3.1, 3.1), xticks=(-0.5, 0, 0.5))
    for ax in axes[1]:
        ax.set_xlabel("x")
    for ax in axes[:, 0]:
        ax.set_ylabel("y")
    bar = fig.colorbar(
        shading, ax=axes, label="density of y given x", aspect=40, pad=0.02
    )
    bar.set_ticks((0, 0.25, 1, 2, 3))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def draw_routing(make, path):
    """Gates, means and standard deviations of an MDN on A."""
    data = DATA["A"]
    train = data.make(data.n_train, random_state=0)
    x = np.linspace(-1, 1, 201)[:, np.newaxis]
    conditional, truth = make(0).fit(*train).conditional(x), data.truth(x)
    order = conditional.means.mean(0)[:, 0].argsort(descending=True)
    parts = {
        "gates": (conditional.weights, truth.weights, (0, 1)),
        "means": (conditional.means[..., 0], truth.means[..., 0], (-2.6, 2.6)),
        "standard deviations": (
            conditional.component_covariances[..., 0, 0].sqrt(),
            truth.component_covariances[..., 0, 0].sqrt(),
            (0, 0.1),
        ),
    }
    fig, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
    for ax, (name, (found, true, limits)) in zip(axes, parts.items(), strict=True):
        if name == "means":
            ax.plot(*train, ".", color="0.8", ms=1.5, zorder=0)
        for number, k in enumerate(order):
            ax.plot(
                x,
                found[:, k],
                color=COLOURS[number],
                lw=1.8,
                label=f"component {number + 1}",
            )
        lines = ax.plot(x, true, **TRUE)
        lines[0].set_label("truth")
        ax.set(xlim=(-1, 1), ylim=limits, xlabel="x", xticks=(-1, -0.5, 0, 0.5, 1))
        ax.set_title(name, fontsize=10, loc="left")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    fig.savefig(path, dpi=110)
    plt.close(fig)


def draw_component_curve(results, counts, path):
    """Excess negative log-likelihood on A against the number of components."""
    fig, ax = plt.subplots(figsize=(5.8, 4), layout="constrained")
    for form, colour in (("full", "tab:blue"), ("spherical", "tab:orange")):
        for data_name, style in (("A", "o--"), ("A, 30,000 pairs", "o-")):
            n_train = DATA[data_name].n_train
            losses = [
                [
                    result["excess"]
                    for task, result in results.items()
                    if task[:2] == (data_name, f"EM, {form}, K = {count}")
                ]
                for count in counts
            ]
            ax.plot(
                counts,
                [np.mean(loss) for loss in losses],
                style,
                color=colour,
                ms=4,
                lw=1 if style == "o--" else 1.8,
                label=f"{form}, {n_train:,} training pairs",
            )
            low, high = zip(*((min(loss), max(loss)) for loss in losses), strict=True)
            ax.fill_between(counts, low, high, color=colour, alpha=0.15, lw=0)
    ax.set(xscale="log", yscale="log", xlabel="components K", xticks=counts)
    ax.set_xticklabels(counts)
    ax.minorticks_off()
    ax.set_ylabel("nats above the true density")
    ax.legend(frameon=False, fontsize=8)
    fig.savefig(path, dpi=110)
    plt.close(fig)
