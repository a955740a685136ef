"""
What a contrastive loss learns of a Gaussian
============================================

Two views u and v of one column each, from a Gaussian whose conditionals are known. A
contrastive loss fits a *tilting* of the two marginals, an exponential of a similarity
of embeddings. Linear encoders can be as good as they like, and still most losses get a
conditional wrong: an inner product cannot narrow its variance, a joint loss shrinks its
mean, and a quadratic loss of both directions is too sure of a mean that is too small.
:ref:`maths_linear_contrastive` has the proofs.
"""

# %%
# Five objectives, one population
# -------------------------------
# The covariance is the example of Baptista, Stuart and Tran (2025). `from_covariance`
# takes it as it is, so that no sampling noise is in the way.
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse

from skgmje import LinearContrastive

COVARIANCE = np.array([[1.5, 1.0], [1.0, 1.5]])
OBJECTIVES = {
    "inner product, conditional": "inner_conditional",
    "inner product, joint": "inner_joint",
    "quadratic, v given u": "quadratic_target",
    "quadratic, conditional": "quadratic_conditional",
    "quadratic, joint": "quadratic_joint",
}
models = {
    name: LinearContrastive.from_covariance(COVARIANCE, 1, objective=objective)
    for name, objective in OBJECTIVES.items()
}

# %%
# The truth has the slope 2/3 and the variance 5/6. The divergence is what each loss
# leaves on the table, in nats: the mean one of the conditionals it looks at, or that of
# the joint density.
print(f"{'':28}{'slope':>8}{'variance':>10}{'loss':>9}{'divergence':>12}")
print(f"{'truth':28}{2 / 3:8.3f}{5 / 6:10.3f}")
for name, model in models.items():
    slope, variance = model.coef_.item(), model.conditional_covariance_.item()
    print(
        f"{name:28}{slope:8.3f}{variance:10.3f}{model.loss_:9.3f}"
        f"{model.divergence_:12.3f}"
    )

# %%
# The model's joint density
# -------------------------
# Two linear Gaussian conditionals that a tilting has in common belong to one joint
# Gaussian. Its precision is the inverse marginals plus what the similarity adds.


def joint_covariance(model):
    """Covariance of the tilting: precision of the marginals minus its exponent."""
    G, H = model.context_components_.item(), model.target_components_.item()
    precision = np.diag([1 / COVARIANCE[0, 0], 1 / COVARIANCE[1, 1]])
    precision -= np.array([[0, G * H], [G * H, 0]])
    if model.objective.startswith("quadratic"):
        precision += np.diag([G**2, H**2])
    return np.linalg.inv(precision)


def ellipse(covariance, **style):
    """Curve that holds half of a Gaussian."""
    values, vectors = np.linalg.eigh(covariance)
    width, height = 2 * np.sqrt(2 * np.log(2) * values)
    angle = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
    return Ellipse((0, 0), width, height, angle=angle, fill=False, **style)


# %%
# Grey is the truth: the curve that holds half of the pairs, the mean of v given u, and
# a band of one standard deviation around it. In colour are the models.
fig, axes = plt.subplots(
    2, 3, figsize=(9, 6.2), sharex=True, sharey=True, layout="constrained"
)
u = np.linspace(-3, 3, 50)
TRUTH = {"color": "0.35", "lw": 1.5}


def draw(ax, slope, variance, covariance, style, fill):
    """Draw a joint Gaussian and its conditional."""
    ax.add_patch(ellipse(covariance, **style))
    ax.plot(u, slope * u, **style)
    deviation = np.sqrt(variance)
    ax.fill_between(u, slope * u - deviation, slope * u + deviation, **fill)


rng = np.random.default_rng(0)
rows = rng.multivariate_normal([0, 0], COVARIANCE, size=300)
for ax, name in zip(axes.flat, ["truth", *models], strict=True):
    grey = {"facecolor": "0.6", "alpha": 0.35, "lw": 0}
    draw(ax, 2 / 3, 5 / 6, COVARIANCE, TRUTH, grey)
    ax.set_title(name, fontsize=10, loc="left")
    ax.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal")
    if name == "truth":
        ax.plot(*rows.T, ".", ms=3, color="0.35", zorder=0)
        continue
    model = models[name]
    color = "C0" if name.startswith("inner") else "C1"
    coloured = {"color": color, "lw": 1.5}
    band = {"facecolor": "none", "edgecolor": color, "hatch": "////", "alpha": 0.5}
    slope, variance = model.coef_.item(), model.conditional_covariance_.item()
    draw(ax, slope, variance, joint_covariance(model), coloured, band)
    ax.text(
        0.97,
        0.05,
        f"slope {slope:.2f}\nvariance {variance:.2f}",
        transform=ax.transAxes,
        ha="right",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8},
    )
for ax in axes[1]:
    ax.set_xlabel("u")
for ax in axes[:, 0]:
    ax.set_ylabel("v")

# %%
# The stronger the dependence, the more it matters
# ------------------------------------------------
# With two standard normal views of correlation s the slope ought to be s and the
# variance 1 - s². Near s = 1, where retrieval is easy, an inner product still says that
# v could be anywhere.
s = np.linspace(0, 0.99, 100)
fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
curves = {
    name: np.array(
        [
            [m.coef_.item(), m.conditional_covariance_.item()]
            for m in (
                LinearContrastive.from_covariance(
                    [[1, r], [r, 1]], 1, objective=objective
                )
                for r in s
            )
        ]
    )
    for name, objective in OBJECTIVES.items()
}
STYLES = dict(zip(OBJECTIVES, ["C0-", "C0--", "C1-", "C1-.", "C1--"], strict=True))
for ax, column, truth, label in (
    (axes[0], 0, s, "slope of v given u"),
    (axes[1], 1, 1 - s**2, "variance of v given u"),
):
    ax.plot(s, truth, color="0.75", lw=6, label="truth")
    for name, curve in curves.items():
        ax.plot(s, curve[:, column], STYLES[name], lw=1.5, label=name)
    ax.set(xlim=(0, 1), xlabel="canonical correlation s", ylabel=label)
axes[0].legend(frameon=False, fontsize=8)
plt.show()
