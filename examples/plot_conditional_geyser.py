"""
Two right answers: Old Faithful
===============================

How long will a geyser erupt, after the wait for it? After less than an hour Old
Faithful erupts for more than four minutes. After a longer wait it may do so again, or
stop after two. A regression answers three, which hardly ever happens.

One mixture of previous duration, wait and duration answers any question about some of
them given others, and needs no complete rows: it is fitted to rows with gaps, forecasts
the duration with a density, and fills in the durations that nobody measured.
"""

# %%
# Data
# ----
# 299 successive eruptions of August 1985, from A. Azzalini and A. W. Bowman, *A look at
# some data on the Old Faithful geyser*, Applied Statistics 39 (1990). At night most
# durations were only noted as short, medium or long, which the data give as exactly
# two, three and four minutes. Such durations are missing values here.
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from skgmje import GaussianMixture

start = time.perf_counter()
WAITS = """
80 71 57 80 75 77 60 86 77 56 81 50 89 54 90 73 60 83 65 82 84 54 85 58 79 57 88 68
76 78 74 85 75 65 76 58 91 50 87 48 93 54 86 53 78 52 83 60 87 49 80 60 92 43 89 60
84 69 74 71 108 50 77 57 80 61 82 48 81 73 62 79 54 80 73 81 62 81 71 79 81 74 59 81
66 87 53 80 50 87 51 82 58 81 49 92 50 88 62 93 56 89 51 79 58 82 52 88 52 78 69 75
77 53 80 55 87 53 85 61 93 54 76 80 81 59 86 78 71 77 76 94 75 50 83 82 72 77 75 65
79 72 78 77 79 75 78 64 80 49 88 54 85 51 96 50 80 78 81 72 75 78 87 69 55 83 49 82
57 84 57 84 73 78 57 79 57 90 62 87 78 52 98 48 78 79 65 84 50 83 60 80 50 88 50 84
74 76 65 89 49 88 51 78 85 65 75 77 69 92 68 87 61 81 55 93 53 84 70 73 93 50 87 77
74 72 82 74 80 49 91 53 86 49 79 89 87 76 59 80 89 45 93 72 71 54 79 74 65 78 57 87
72 84 47 84 57 87 68 86 75 73 53 82 93 77 54 96 48 89 63 84 76 62 83 50 85 78 78 81
78 76 74 81 66 84 48 93 47 87 51 78 54 87 52 85 58 88 79
"""  # minutes
DURATIONS = """
241 129 240 240 240 120 263 257 122 290 110 327 97 292 263 106 280 120 284 253 114
298 120 240 120 240 170 270 244 223 211 268 133 293 156 249 132 286 110 276 136 248
120 240 120 240 113 256 125 268 150 240 106 260 131 269 233 200 224 240 117 316 120
240 120 240 120 240 212 130 270 121 249 252 260 116 279 229 242 250 280 109 240 180
240 120 267 123 255 115 280 104 263 106 276 112 267 98 302 109 306 98 257 120 240
120 272 120 240 176 284 234 117 247 108 280 110 282 127 287 109 246 279 240 120 240
240 253 248 236 225 265 148 250 228 259 232 281 102 298 256 275 240 240 240 240 119
276 50 295 104 275 102 285 110 270 112 267 267 240 288 240 240 120 240 116 275 120
222 172 290 207 263 108 264 149 271 126 261 262 107 295 109 240 240 240 232 111 282
121 268 112 250 114 255 195 253 113 299 111 240 118 286 240 120 240 240 143 265 253
262 120 267 105 270 97 282 154 222 254 116 261 240 240 240 253 240 248 113 268 117
253 103 267 255 238 263 118 267 256 115 265 180 240 120 240 197 110 277 110 277 276
255 116 299 118 258 252 272 264 277 120 240 240 235 120 270 108 240 165 284 238 117
298 111 288 240 240 240 240 240 240 240 120 240 116 260 100 286 117 281 116 265 128
245 124 240 240 120
"""  # seconds
minutes = np.array(DURATIONS.split(), dtype=float) / 60
measured = ~np.isin(minutes, [2, 3, 4])
duration = pd.Series(np.where(measured, minutes, np.nan))
eruptions = pd.DataFrame(
    {
        "previous": duration.shift(),
        "wait": np.array(WAITS.split(), dtype=float),
        "duration": duration,
    }
)[1:]
train, test = eruptions[:200], eruptions[200:]
print(f"rows with a missing value: {eruptions.isna().any(axis=1).sum()} of 298")

# %%
# Fit
# ---
# The first 200 rows, with all their gaps. The Bayesian information criterion chooses
# the form of the mixture.
candidates = [
    GaussianMixture(
        n_components,
        covariance_type=covariance_type,
        init_params="short_runs",
        max_iter=500,
        reg_covar=1e-3,
        random_state=0,
    ).fit(train)
    for covariance_type in ("full", "tied")
    for n_components in range(1, 7)
]
mixture = min(candidates, key=lambda candidate: candidate.bic(train))
gaussian = candidates[0]
print(f"chosen: {mixture.n_components} components, {mixture.covariance_type}")

# %%
# Forecast
# --------
# The duration given the wait alone, for later rows whose duration was measured; the
# marginal leaves the previous duration out. One Gaussian is linear regression with its
# noise. Higher log-densities are better; so are smaller regions of probability 0.9, if
# nine of ten durations lie inside. The table counts how many regions are two intervals.
known = test.dropna(subset="duration")
truth = torch.tensor(known[["duration"]].to_numpy())


def forecast(model, wait):
    """Conditional distribution of the duration, one row for each wait."""
    return model.marginal(["wait", "duration"]).condition("wait", wait)


print(f"\n{'duration given wait':22}{'nats':>6}{'inside':>8}{'minutes':>9}{'two':>6}")
for name, model in {"one Gaussian": gaussian, "mixture": mixture}.items():
    conditional = forecast(model, known[["wait"]])
    nats = conditional.log_prob(truth).mean()
    inside = conditional.in_highest_density_region(truth, 0.9).double().mean()
    intervals = conditional.highest_density_intervals(0.9)
    length = intervals.diff(dim=-1).nansum(dim=1).mean()
    two = (intervals.isfinite().all(dim=-1).sum(dim=-1) == 2).double().mean()
    print(f"{name:22}{nats:6.2f}{inside:8.0%}{length:9.2f}{two:6.0%}")

# %%
# Nights
# ------
# Every row is completed from what it has: the wait that followed, and the next duration
# if it was measured. Fifty draws show what is uncertain. The notes, which the mixture
# never saw, tell whether they are right.
draws = np.stack(mixture.impute(eruptions, n_draws=50, random_state=0))[:, :, 0]
share_long = (draws > 3).mean(axis=0)
note = minutes[:-1]
night = eruptions["previous"].isna().to_numpy() & np.isin(note, [2, 4])
right = (share_long > 0.5) == (note == 4)
print(f"\nnotes 'short' and 'long':             {night.sum()}")
print(f"draws agree with the note:            {right[night].mean():.1%}")
print(f"share of 'long', the commoner note:   {(note[night] == 4).mean():.1%}")

# %%
# The mean (dashed) runs through the gap between the two answers. The mode is one of
# them, and the outlined region of probability 0.9 holds both where both are likely.
waits = np.linspace(42, 109, 269)
durations = np.linspace(0.6, 5.8, 521)
points = torch.from_numpy(durations)[:, np.newaxis, np.newaxis]
conditional = forecast(mixture, waits[:, np.newaxis])
log_density = conditional.log_prob(points)
above_level = (log_density - conditional.highest_density_level(0.9)).numpy()

fig, axes = plt.subplot_mosaic(
    "mmr\nttt", figsize=(9, 7), height_ratios=[3, 2], layout="constrained"
)
ax = axes["m"]
density = log_density.exp().numpy()
ax.pcolormesh(waits, durations, density, cmap="Blues", vmax=1.3, shading="gouraud")
ax.contour(waits, durations, above_level, [0], colors="tab:blue", linewidths=1)
for rows, color, label in ((train, "0.5", "fitted"), (test, "black", "later")):
    ax.plot(rows["wait"], rows["duration"], ".", color=color, ms=5, label=label)
mode = conditional.mode.numpy().ravel()
mode[1:][abs(np.diff(mode)) > 1] = np.nan  # no line where it jumps
ax.plot(waits, mode, color="tab:orange", lw=2, label="mode")
ax.plot(waits, conditional.mean.numpy(), "--", color="tab:red", lw=2, label="mean")
ax.legend(loc="lower left", fontsize=8, ncols=2)
ax.set(xlabel="wait (minutes)", ylabel="duration (minutes)", ylim=durations[[0, -1]])
ax.set_title("Duration given the wait, and its 90 % region", fontsize=10, loc="left")

ax = axes["r"]
three = [55, 70, 85]
conditional = forecast(mixture, np.reshape(three, (-1, 1)))
densities = conditional.log_prob(points).exp().numpy()
intervals = conditional.highest_density_intervals(0.9).numpy()
answers = zip(conditional.mean.numpy(), conditional.mode.numpy(), strict=True)
for place, (mean, mode) in enumerate(answers):
    edge = place + 0.55 * densities[:, place]
    low, high = intervals[place].T
    within = ((durations[:, None] >= low) & (durations[:, None] <= high)).any(axis=1)
    ax.fill_betweenx(durations, place, edge, within, color="tab:blue", alpha=0.3, lw=0)
    ax.plot(edge, durations, color="tab:blue", lw=1)
    ax.plot([place, place + 0.35], [mode, mode], color="tab:orange", lw=2)
    ax.plot([place, place + 0.35], [mean, mean], "--", color="tab:red", lw=2)
ax.set(xticks=range(3), xticklabels=three, xlabel="wait (minutes)", yticklabels=[])
ax.set(ylim=durations[[0, -1]])
ax.set_title("Three waits", fontsize=10, loc="left")

ax = axes["t"]
number = np.arange(1, len(minutes))
shown = number <= 110
gaps = shown & eruptions["previous"].isna().to_numpy()
ax.plot(
    number[shown],
    eruptions["previous"][shown],
    ".-",
    color="0.5",
    lw=0.7,
    label="measured",
)
ax.plot(
    np.broadcast_to(number[gaps], draws[:, gaps].shape).ravel(),
    draws[:, gaps].ravel(),
    "_",
    color="tab:blue",
    alpha=0.35,
    label="drawn",
)
for value, edge, name, marker in (
    (4, 5.55, "long", "^"),
    (3, 3.0, "medium", "d"),
    (2, 0.85, "short", "v"),
):
    noted = gaps & (note == value)
    ax.plot(
        number[noted],
        np.full(noted.sum(), edge),
        marker,
        color="tab:orange",
        ms=4,
        label=f"noted: {name}",
    )
ax.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
ax.set(xlabel="eruption", ylabel="duration (minutes)", ylim=durations[[0, -1]])
ax.set_title("Durations that nobody measured, drawn 50 times", fontsize=10, loc="left")
print(f"\nseconds: {time.perf_counter() - start:.0f}")
