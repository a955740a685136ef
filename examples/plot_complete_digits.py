"""
Completing half a digit
=======================

The upper half of a handwritten digit often allows more than one lower half: a 4 and a 9
can begin alike. A regression answers with the average of both, which is neither. The
embedders of skgmje answer with a density, and draws from it are possible completions.

The context is the upper half of real MNIST images, the target the lower half. Targets
are the first 40 principal coordinates of the lower halves, so that densities of all
models compare and draws map back to pixels.
"""

# %%
# Data
# ----
# 4,000 images to fit, 1,000 to test. Principal axes are those of the training rows.
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skgmje import GaussianMixture, GJEEmbedder, GMJEEmbedder, MDNEmbedder
from skgmje.datasets import load_digit_halves
from skgmje.metrics import retrieval_score

start = time.perf_counter()
halves = load_digit_halves("mnist")
train, test = train_test_split(
    np.arange(len(halves.label)),
    train_size=4000,
    stratify=halves.label,
    random_state=0,
)
label, label_test = halves.label[train], halves.label[test]
upper_pca = PCA(25, random_state=0).fit(halves.upper[train])
lower_pca = PCA(40, random_state=0).fit(halves.lower[train])
X, X_test = (upper_pca.transform(halves.upper[rows]) for rows in (train, test))
Y, Y_test = (lower_pca.transform(halves.lower[rows]) for rows in (train, test))

# %%
# Densities
# ---------
# With identity encoders the joint models are fitted in closed form, in the units of y:
# GJE is linear regression with its noise, GMJE is Gaussian mixture regression. The
# network of MDN reads a mixture from the context. Higher is better, in nats an image; a
# Gaussian that does not look at the context is the yardstick. Retrieval asks for the
# right lower half among 1,000 (chance: 0.010).
models = {
    "GJE": GJEEmbedder(encoder="identity", target="y"),
    "GMJE, 20 components": GMJEEmbedder(
        20, encoder="identity", target="y", reg_covar=0.05, random_state=0
    ),
    "MDN, 3 components": MDNEmbedder(
        3,
        encoder="identity",
        target="y",
        covariance_type="full",
        weight_decay=1.0,
        random_state=0,
    ),
}
print(f"{'held-out log p(lower | upper)':32}{'nats':>8}{'recall@10':>11}")
unconditional = GaussianMixture(1).fit(Y).score(Y_test)
print(f"{'Gaussian, no context':32}{unconditional:8.2f}{'0.010':>11}")
for name, model in models.items():
    model.fit(X, Y)
    recall = retrieval_score(model, X_test, Y_test)
    print(f"{name:32}{model.score(X_test, Y_test):8.2f}{recall:11.3f}")

# %%
# Embeddings
# ----------
# Learned encoders embed the pixels of the upper half by what they tell about the lower
# half, without labels. A linear probe and nearest neighbours read the digit from it.
embedders = {
    "GJE": GJEEmbedder(
        32,
        early_stopping=True,
        learning_rate_init=1e-3,
        reg_covar=0.1,
        random_state=0,
    ),
    "GMJE": GMJEEmbedder(
        10, embedding_dim=32, early_stopping=True, reg_covar=0.1, random_state=0
    ),
}
upper, upper_test = halves.upper[train], halves.upper[test]
pca = PCA(32, random_state=0).fit(upper)
features = {
    "raw pixels (392)": (upper, upper_test),
    "PCA (32)": (pca.transform(upper), pca.transform(upper_test)),
}
recalls = {}
for name, embedder in embedders.items():
    embedder.fit(upper, Y)
    key = f"{name} embedding (32)"
    features[key] = (embedder.transform(upper), embedder.transform(upper_test))
    recalls[key] = f"{retrieval_score(embedder, upper_test, Y_test):.3f}"

print(f"\n{'digit from the upper half':32}{'linear':>8}{'5-NN':>8}{'recall@10':>11}")
for name, (Z, Z_test) in features.items():
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    accuracies = [
        probe.fit(Z, label).score(Z_test, label_test)
        for probe in (linear, KNeighborsClassifier(5))
    ]
    print(
        f"{name:32}{accuracies[0]:8.3f}{accuracies[1]:8.3f}{recalls.get(name, ''):>11}"
    )

# %%
# Completions
# -----------
# Twenty draws for each upper half, read by a classifier of real whole digits.
N_DRAWS = 20
gmje = models["GMJE, 20 components"]
whole = np.hstack([halves.upper, halves.lower])
reader = SVC(C=10).fit(whole[train], label)


def to_pixels(coordinates):
    """Lower halves for target coordinates of shape (..., 40)."""
    rows = lower_pca.inverse_transform(coordinates.reshape(-1, coordinates.shape[-1]))
    return np.clip(rows, 0, 1).reshape(*coordinates.shape[:-1], -1)


draws = to_pixels(gmje.sample_conditional(X_test, N_DRAWS, random_state=0))
given = np.broadcast_to(upper_test[:, np.newaxis], draws.shape)
completed = np.concatenate([given, draws], axis=2)
votes = reader.decision_function(completed.reshape(-1, whole.shape[1]))
reading = votes.argmax(axis=1).reshape(-1, N_DRAWS)
share = (reading[:, :, np.newaxis] == np.arange(10)).mean(axis=1)
second = np.sort(share, axis=1)[:, -2]
right = share[np.arange(len(test)), label_test]
reader_accuracy = reader.score(whole[test], label_test)
print(f"\nreader's accuracy on real whole digits:            {reader_accuracy:.3f}")
print(f"draws that are read as the true digit:             {right.mean():.3f}")
print(f"upper halves whose draws are mostly the true digit: {(right > 0.5).mean():.3f}")
print(
    f"upper halves with two digits in >= 20 % of draws:  {(second >= 0.2).sum()} "
    f"of {len(test)}"
)

# %%
# The four upper rows are ambiguous: draws disagree about the digit, and the conditional
# mean in the third column blurs them. The four lower rows are not.
top_two = np.sort(votes, axis=1)[:, -2:]
clarity = np.diff(top_two).reshape(-1, N_DRAWS).mean(axis=1)
ambiguous = np.flatnonzero((second >= 0.3) & (right >= 0.3))
ambiguous = ambiguous[np.argsort(-clarity[ambiguous])]  # clearly drawn ones first
certain = np.flatnonzero(right == 1)
_, first_of_pair = np.unique(
    np.sort(np.argsort(share[ambiguous])[:, -2:]), axis=0, return_index=True
)
evenness = np.minimum(share[:, 4], share[:, 9]) * np.isin(label_test, [4, 9])
four_or_nine = np.argsort(-evenness, kind="stable")[:2]
others = [i for i in ambiguous[first_of_pair] if i not in four_or_nine]
_, first_of_digit = np.unique(label_test[certain], return_index=True)
shown = [*four_or_nine, *others[:2], *certain[first_of_digit][[0, 3, 6, 8]]]

mean = to_pixels(gmje.predict(X_test[shown]))
side = halves.half_shape[1]
fig, axes = plt.subplots(len(shown), 11, figsize=(9, 1.02 * len(shown)))
for row, (index, ax_row) in enumerate(zip(shown, axes, strict=True)):
    hidden = np.full(mean.shape[1], np.nan)
    columns = [hidden, halves.lower[test][index], mean[row], *draws[index, :8]]
    for column, (lower, ax) in enumerate(zip(columns, ax_row, strict=True)):
        image = np.concatenate([upper_test[index], lower]).reshape(side, side)
        ax.imshow(np.ma.masked_invalid(image), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.axhline(side / 2 - 0.5, color="tab:red", linewidth=0.6)
        if column >= 3:
            ax.set_xlabel(f"{reading[index, column - 3]}", fontsize=7, labelpad=1)
        elif column == 1:
            ax.set_xlabel(f"{label_test[index]}", fontsize=7, labelpad=1)
titles = ["context", "truth", "mean", "draws, and how they are read"]
for title, ax in zip(titles, axes[0], strict=False):
    ax.set_title(title, fontsize=9, loc="left")
fig.subplots_adjust(0.01, 0.03, 0.99, 0.96, wspace=0.06, hspace=0.3)
folder = Path("doc/images")
if folder.parent.is_dir():
    folder.mkdir(exist_ok=True)
    fig.savefig(folder / "complete_digits.png", dpi=110)
    print(f"\npicture: {folder / 'complete_digits.png'}")
print(f"seconds: {time.perf_counter() - start:.0f}")
