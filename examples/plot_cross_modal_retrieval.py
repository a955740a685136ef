"""
Retrieval across views
======================

Which lower half belongs to this upper half of a digit? Contrastive learning does not
draw an answer, it finds one: among the halves that exist, with a probability for each.
The probabilities say where the upper half leaves the digit open.
"""

# %%
# Two encoders and a tilting
# --------------------------
# The views are the halves of 1,797 digits of 8 by 8 pixels. Each has an encoder of its
# own; training makes the embeddings of a pair agree, and no others.
import matplotlib.pyplot as plt
import numpy as np

from skgmje import ContrastiveEmbedder
from skgmje.datasets import load_digit_halves

halves = load_digit_halves()
order = np.random.default_rng(0).permutation(len(halves.label))
train, test = order[:1297], order[1297:]
embedder = ContrastiveEmbedder(
    16, tilting="quadratic", early_stopping=True, random_state=0
).fit(halves.upper[train], halves.lower[train])
print(f"{embedder.n_iter_} epochs")

# %%
# How often the right half is found
# ---------------------------------
# Among the 500 lower halves of the test set, and in the reverse direction. Many halves
# look alike, so that the right one is often among the first without being the first.
# For comparison: how often the first lower half that is found is of the right digit.
upper, lower, digit = halves.upper[test], halves.lower[test], halves.label[test]
own = np.arange(len(test))[:, np.newaxis]
found = embedder.retrieve(upper, lower, k=50, return_distance=False)
back = embedder.retrieve_context(lower, upper, k=50, return_distance=False)
for k in (1, 5, 10, 50):
    recalls = [(rows[:, :k] == own).any(axis=1).mean() for rows in (found, back)]
    print(
        f"among the first {k:2}: lower half {recalls[0]:.2f}, upper half "
        f"{recalls[1]:.2f}, chance {k / len(test):.3f}"
    )
print(f"first lower half of the same digit: {np.mean(digit[found[:, 0]] == digit):.2f}")
print(f"mutual information: at least {embedder.score(upper, lower):.2f} nats")

# %%
# The uncertainty of an answer
# ----------------------------
# An index of the lower halves of the training set weights each of them. Summed over the
# halves of a digit, the weights are probabilities of the digits. Their entropy, as a
# number of equally likely digits, measures how much is left open: where it is small the
# answer is seldom wrong.
index = embedder.index_targets(halves.lower[train])
weights = index.weights(upper)
by_digit = weights @ np.eye(10)[halves.label[train]]
n_digits = np.exp(-np.sum(by_digit * np.log(np.maximum(by_digit, 1e-300)), axis=1))
right = by_digit.argmax(axis=1) == digit
print(f"digit by the weights: {right.mean():.2f} right")
ranked = np.argsort(n_digits)
for name, rows in zip(
    ("surest", "middle", "last"), np.array_split(ranked, 3), strict=True
):
    print(f"  {name} third of the answers: {right[rows].mean():.2f}")

# %%
# From the surest to the least sure
# ---------------------------------
# Upper halves (above the line) with their own lower half, the five that fit best, and
# the mean and deviation of all by their weights. On the right, what digit the weights
# believe in.
mean, covariance = index.moments(upper, halves.lower[train], return_cov=True)
deviation = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
nearest = index.kneighbors(upper, 5, return_distance=False)
shown = ranked[(np.array([0.1, 0.5, 0.75, 0.9, 0.99]) * len(test)).astype(int)]
columns = ["the digit", *(f"match {k}" for k in range(1, 6)), "mean", "deviation"]
figure, axes = plt.subplots(
    len(shown),
    9,
    figsize=(9.5, 6.2),
    layout="constrained",
    width_ratios=[1] * 8 + [2],
)
for row, axis_row in zip(shown, axes, strict=True):
    lowers = [
        lower[row],
        *halves.lower[train][nearest[row]],
        mean[row],
        deviation[row],
    ]
    for axis, half, title in zip(axis_row, lowers, columns, strict=False):
        top = np.zeros(32) if title == "deviation" else upper[row]
        image = np.concatenate([top, half]).reshape(8, 8)
        axis.imshow(image, cmap="gray_r", vmin=0, vmax=0.5 if not top.any() else 1)
        axis.axhline(3.5, color="C0")
        axis.set(xticks=[], yticks=[])
        if row == shown[0]:
            axis.set_title(title, fontsize="small")
    axis_row[0].set_ylabel(f"{n_digits[row]:.1f} digits")
    colours = ["C1" if k == digit[row] else "0.6" for k in range(10)]
    axis_row[-1].bar(range(10), by_digit[row], color=colours)
    axis_row[-1].set(xticks=range(10), yticks=[], ylim=(0, 1))
    if row == shown[0]:
        axis_row[-1].set_title("digit (true one orange)", fontsize="small")
plt.show()

# %%
# Draws and not only the best
# ---------------------------
# Drawing by the weights gives whole digits that exist, and several kinds where several
# are possible. The best match alone would always give the same one.
drawn = index.sample(upper[shown], 12, random_state=0)
figure, axes = plt.subplots(1, len(shown), figsize=(9.5, 2.9), layout="constrained")
for axis, row, rows in zip(axes, shown, drawn, strict=True):
    tops = np.broadcast_to(upper[row].reshape(1, 4, 8), (12, 4, 8))
    digits = np.concatenate([tops, halves.lower[train][rows].reshape(12, 4, 8)], axis=1)
    framed = np.pad(digits, [(0, 0), (1, 1), (1, 1)])
    sheet = framed.reshape(4, 3, 10, 10).swapaxes(1, 2).reshape(40, 30)
    axis.imshow(sheet, cmap="gray_r")
    axis.hlines(10 * np.arange(1, 4) - 0.5, -0.5, 29.5, color="C0", linewidth=0.5)
    axis.vlines(10 * np.arange(1, 3) - 0.5, -0.5, 39.5, color="C0", linewidth=0.5)
    axis.set(xticks=[], yticks=[], title=f"{n_digits[row]:.1f} digits")
figure.suptitle("Twelve draws of the lower half for each upper half")
plt.show()
