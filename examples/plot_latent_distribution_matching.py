"""
One table of methods, six latent spaces
=======================================

Most methods of self-supervised learning are a latent density, which makes two views
agree, and an entropy, which keeps all embeddings from being the same.
:class:`~skgmje.LDMEmbedder` has the two as parameters. Here are six choices on the same
images of handwritten digits. No method sees a label; the colours are for us.
:ref:`maths_ldm` says which choice is which method.
"""

# %%
# The methods
# -----------
# In the plane VICReg and its relative with neighbours for determinants; on the circle
# SimCLR, and on the sphere contrastive predictive coding; on the simplex of three
# corners a Dirichlet density, and three classes.
import time

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from skgmje import LDMEmbedder
from skgmje.views import ImageAugmentation

start = time.perf_counter()
X, digit = load_digits(return_X_y=True)
shared = {
    "augmentation": ImageAugmentation((8, 8), shift=1, rotation=10, elastic=0.5),
    "target": "augment",
    "learning_rate_init": 3e-3,
    "max_iter": 80,
    "random_state": 0,
}
methods = {
    "plane: log-determinant (VICReg)": LDMEmbedder.from_method("vicreg", **shared),
    "plane: neighbours, joint entropy": LDMEmbedder(
        entropy="knn", objective="ldm", **shared
    ),
    "circle: kernels (SimCLR)": LDMEmbedder.from_method("simclr", **shared),
    "sphere: contrastive (CPC)": LDMEmbedder.from_method("cpc", **shared),
    "simplex: Dirichlet kernels": LDMEmbedder.from_method("dirichlet", **shared),
    "simplex: three classes": LDMEmbedder.from_method("categorical", **shared),
}
widths = [2, 2, 2, 3, 3, 3]

# %%
# The embeddings
# --------------
# How far apart digits are is told by the five nearest neighbours of each image: the
# share of images whose neighbours name the right digit.
embeddings = {}
for (name, method), width in zip(methods.items(), widths, strict=True):
    Z = method.set_params(embedding_dim=width).fit_transform(X)
    half = len(Z) // 2
    judge = KNeighborsClassifier(5).fit(Z[:half], digit[:half])
    embeddings[name] = Z
    share = judge.score(Z[half:], digit[half:])
    print(f"{name:34s} neighbours {share:.2f}, score {method.score(X):.2f} nats")


# %%
# Two coordinates hold less than ten digits need, and the spaces use them differently:
# the plane has room outwards, the circle only around, and the sphere has one direction
# more. The Dirichlet density fills the triangle, and the categorical one leaves it for
# the corners, since it takes each embedding for a choice among three classes.
def draw(axis, name, Z):
    """Draw embeddings in the space in which they lie."""
    points = {"c": digit, "cmap": "tab10", "s": 6, "alpha": 0.7}
    axis.set_title(name, fontsize=11)
    if name.startswith("circle"):
        # A little room outwards for each digit, since points hide each other.
        radius = 1 + 0.06 * digit + np.random.default_rng(0).uniform(0, 0.04, len(Z))
        axis.scatter(*(radius[:, None] * Z).T, **points)
        axis.add_patch(plt.Circle((0, 0), 1, fill=False, color="black", linewidth=0.8))
    elif name.startswith("sphere"):
        axis.scatter(*Z.T, **points | {"alpha": 0.5})
        axis.set_box_aspect((1, 1, 1), zoom=1.3)
    elif name.startswith("simplex"):
        angles = np.pi / 2 + 2 * np.pi / 3 * np.arange(4)
        corners = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        axis.plot(*corners.T, color="black", linewidth=0.8)
        # A little noise, since points in a corner hide each other.
        noise = np.random.default_rng(0).normal(scale=0.02, size=(len(Z), 2))
        axis.scatter(*(Z @ corners[:3] + noise).T, **points)
    else:
        axis.scatter(*Z.T, **points)
        axis.set(xlabel="first coordinate", ylabel="second coordinate")
        axis.set_aspect("equal", adjustable="datalim")
        return
    axis.set_axis_off()
    if not name.startswith("sphere"):
        axis.set_aspect("equal")


figure = plt.figure(figsize=(12, 8), layout="constrained")
for i, (name, Z) in enumerate(embeddings.items()):
    kind = "3d" if name.startswith("sphere") else None
    draw(figure.add_subplot(2, 3, i + 1, projection=kind), name, Z)
colours = plt.get_cmap("tab10")
handles = [
    plt.Line2D([], [], marker="o", linestyle="", color=colours(i), label=str(i))
    for i in range(10)
]
figure.legend(handles=handles, ncols=10, loc="outside lower center", title="digit")
print(f"{time.perf_counter() - start:.0f} s")
plt.show()
