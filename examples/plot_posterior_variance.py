"""
====================================
How sure an embedding is of a digit
====================================

:class:`~skgmje.VJEEmbedder` infers a Gaussian for every image: a mean, which is the
embedding, and a variance for every coordinate. It is trained without labels to explain
one augmented view by another, and what it cannot tell from an image should widen the
posterior. Here the images are blurred after training, more and more.
"""

# %%
# One model of clean digits
# -------------------------
#
# The augmentation shifts, turns and scales a little. No image is blurred in training. A
# small weight `beta` of the prior leaves the variances more room than the default.

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skgmje import VJEEmbedder
from skgmje.views import ImageAugmentation

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
vje = VJEEmbedder(
    16,
    target="augment",
    augmentation=ImageAugmentation(
        (8, 8), shift=0.7, rotation=10, scale=0.1, elastic=0.3
    ),
    beta=0.2,
    max_iter=60,
    random_state=0,
).fit(X_train)


def blurred(images, strength):
    """Blur images by a Gaussian of a width in pixels."""
    pictures = images.reshape(-1, 8, 8)
    return gaussian_filter(pictures, (0, strength, strength)).reshape(len(images), -1)


# %%
# Blur widens the posterior
# -------------------------
#
# Standard deviations of each coordinate, in units of the prior's, over the test images.
# They grow until hardly anything of a digit is left. Then the images are unlike all
# that was seen in training, and no posterior promises to notice that: for what does not
# belong there are densities (:ref:`outliers`).

strengths = np.linspace(0, 2.5, 11)
deviations = np.array(
    [np.sqrt(vje.posterior(blurred(X_test, s))[1]) for s in strengths]
)

fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
axes[0].plot(strengths, deviations.mean(axis=1), color="0.75", linewidth=0.8)
axes[0].plot(strengths, deviations.mean(axis=(1, 2)), color="tab:blue", linewidth=2.5)
axes[0].set_xlabel("width of the blur in pixels")
axes[0].set_ylabel("posterior standard deviation")
axes[0].set_title("mean over images, each coordinate (grey) and all")
for index, color in ((0, "tab:blue"), (4, "tab:orange"), (10, "tab:red")):
    axes[1].hist(
        deviations[index].mean(axis=1),
        bins=40,
        alpha=0.6,
        color=color,
        label=f"blur {strengths[index]:.1f}",
    )
axes[1].set_xlabel("posterior standard deviation, mean over coordinates")
axes[1].set_ylabel("images")
axes[1].legend()

# %%
# The images that it is most and least sure of
# --------------------------------------------
#
# Among clean test images, without a look at any label. Below, one digit under growing
# blur, with the standard deviations of all sixteen coordinates.

certainty = deviations[0].mean(axis=1)
order = np.argsort(certainty)
fig, axes = plt.subplots(4, 10, figsize=(10, 4.6), layout="constrained")
rows = {"most sure": order[:10], "least sure": order[-10:][::-1]}
for row, (title, chosen) in zip(axes[:2], rows.items(), strict=True):
    row[0].set_ylabel(title)
    for axis, index in zip(row, chosen, strict=True):
        axis.imshow(X_test[index].reshape(8, 8), cmap="gray_r")
        axis.set_title(f"{certainty[index]:.2f}", fontsize=8)
example = order[len(order) // 2]
axes[2, 0].set_ylabel("blurred")
axes[3, 0].set_ylabel("deviation")
for column in range(10):
    image = blurred(X_test[example : example + 1], strengths[column])
    axes[2, column].imshow(image.reshape(8, 8), cmap="gray_r")
    axes[3, column].bar(range(16), deviations[column, example], color="tab:blue")
    axes[3, column].set_ylim(0, deviations[:, example].max() * 1.05)
for axis in axes.ravel():
    axis.set_xticks([])
    axis.set_yticks([])
plt.show()
