"""
A filter that learns to see
===========================

A spot runs along a figure of eight, in noisy images of ten by ten pixels. Nobody tells
where it is, nor how it moves. A Kalman filter needs both: coordinates, and a linear law
for them. :class:`~skgmje.KalmanEmbedder` finds coordinates in which the law is linear.

The encoder embeds each image by itself. A state of eight numbers, of which the
embedding shows four, moves by a matrix that is learned with the encoder. What is
predicted is the embedding, never the pixels. An entropy keeps embeddings from shrinking
to a point, which would be the easiest to predict (Mikulasch and Zenke, 2026).
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LinearRegression

from skgmje import KalmanEmbedder

# %%
# A spot on a figure of eight
# ---------------------------
#
# One round takes twenty images. The second coordinate swings twice as fast as the
# first. In the last sequences the images fail for a while.

N_PIXELS, N_STEPS, NOISE = 10, 60, 0.3


def make_images(n, rng):
    """Return images of a spot, and where it is."""
    phase = rng.uniform(0, 2 * np.pi, (n, 1)) + 0.1 * np.pi * np.arange(N_STEPS)
    place = np.stack([np.cos(phase), np.sin(phase) * np.cos(phase)], axis=2)
    centre = (place + 3) * N_PIXELS / 6
    pixels = np.arange(N_PIXELS)
    across, down = ((pixels - centre[..., [axis]]) ** 2 for axis in (0, 1))
    images = np.exp(-0.5 * (across[..., None, :] + down[..., :, None]))
    images = images + NOISE * rng.normal(size=images.shape)
    return images.reshape(n, N_STEPS, -1), place


rng = np.random.default_rng(0)
X, place = make_images(300, rng)
X_test, place_test = make_images(50, rng)
gap = slice(25, 33)
X_test[:, gap] = np.nan

fig, axes = plt.subplots(1, 8, figsize=(8, 1.3), layout="constrained")
for ax, image in zip(axes, X[0], strict=False):
    pixels = image.reshape(N_PIXELS, N_PIXELS)
    ax.imshow(pixels, cmap="Greys", origin="lower", vmin=-0.5, vmax=1.3)
    ax.set(xticks=[], yticks=[])
fig.suptitle("The first images of a sequence", fontsize="medium")
plt.show()

# %%
# The law of motion
# -----------------
#
# The fit sees images alone. The eigenvalues of its transition tell what moves, and how
# fast: a pair that goes round in twenty steps, one twice as fast, and overtones,
# since an image is a curved function of the place.

kalman = KalmanEmbedder(
    4,
    state_dim=8,
    learning_rate_init=2e-3,
    max_iter=12,
    random_state=0,
).fit(X)
values = np.linalg.eigvals(kalman.transition_)
lasting = values[(np.abs(values) > 0.9) & (values.imag > 0)]
print("steps in a round:", np.sort(2 * np.pi / np.angle(lasting)).round(1))

# %%
# Where it is
# -----------
#
# States hold the place up to a linear map, if the theory is right. The map is fitted on
# the sequences of the fit and judged on others, away from the images that fail. There
# the filter goes on without them, and says how sure it is.

states = kalman.transform(X)
readout = LinearRegression().fit(states.reshape(-1, 8), place.reshape(-1, 2))
means, covariances = kalman.filter(X_test)
found = readout.predict(means.reshape(-1, 8)).reshape(place_test.shape)
spread = readout.coef_ @ covariances @ readout.coef_.T
deviation = np.sqrt(spread.diagonal(axis1=2, axis2=3))
seen = np.r_[5:25, 36:N_STEPS]
error = ((found - place_test) ** 2)[:, seen].mean()
print(f"R2 of the place: {1 - error / place_test.var(axis=(0, 1)).mean():.3f}")


def band(ax, time, mean, deviation, color, label):
    """Draw a mean and two standard deviations about it."""
    ax.plot(time, mean, color=color, label=label)
    lower, upper = mean - 2 * deviation, mean + 2 * deviation
    ax.fill_between(time, lower, upper, color=color, alpha=0.25, lw=0)


# %%
# Where it will be
# ----------------
#
# The first forty images are filtered, with a gap where they fail (red), and the rest is
# a forecast. Bands are two standard deviations.

ahead = 20
future, future_covariance = kalman.forecast(X_test[:, :-ahead], ahead, of="state")
forecast = readout.predict(future.reshape(-1, 8)).reshape(len(future), ahead, 2)
spread = readout.coef_ @ future_covariance @ readout.coef_.T
forecast_deviation = np.sqrt(spread.diagonal(axis1=2, axis2=3))

fig = plt.figure(figsize=(9, 4.2), layout="constrained")
left, right = fig.subfigures(1, 2, width_ratios=[1, 1.8])
ax = left.subplots()
ax.plot(*place_test[0].T, ".", color="black", ms=5, label="truth")
ax.plot(*found[0, 5:25].T, color="tab:blue", label="filtered")
ax.plot(*found[0, gap].T, color="tab:red", label="no images")
ax.plot(*forecast[0].T, color="tab:orange", label="forecast")
ax.set(aspect="equal", xlabel="first coordinate", ylabel="second coordinate")
ax.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, -0.25), frameon=False)
axes = right.subplots(2, sharex=True)
time, past = np.arange(N_STEPS), N_STEPS - ahead
for axis, ax in enumerate(axes):
    ax.plot(time, place_test[0, :, axis], ".", color="black", ms=5)
    band(
        ax,
        time[:past],
        found[0, :past, axis],
        deviation[0, :past, axis],
        "tab:blue",
        "filtered",
    )
    band(
        ax,
        time[past:],
        forecast[0, :, axis],
        forecast_deviation[0, :, axis],
        "tab:orange",
        "forecast",
    )
    ax.axvspan(gap.start - 0.5, gap.stop - 0.5, color="tab:red", alpha=0.1, lw=0)
    ax.set_ylabel(["first coordinate", "second coordinate"][axis])
axes[1].set_xlabel("step")
plt.show()
