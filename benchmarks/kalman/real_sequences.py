"""Forecasts of real sequences with intervals, beside statsmodels and persistence.

* elnino: monthly temperatures of the sea, 1950 to 2010 (statsmodels). The model is
  fitted to months up to 1989; each month after that is an origin of twelve forecasts.
* sunspots: yearly numbers of sunspots since 1700, square roots of them (statsmodels),
  with origins from 1900 and eleven forecasts.
* digits: handwritten digits (scikit-learn) that swing over a canvas of 400 pixels; new
  digits in the test. What is forecast is the place of the digit, read from states by a
  linear regression; its intervals add the error of that regression.

Series are one number a step with ``encoder="identity"`` and a wider state. The peers
are statsmodels' unobserved components, which are told the season or to look for a cycle
and have an autoregression too; and for the video a vector autoregression of principal
components.

    python benchmarks/kalman/real_sequences.py

The data and the peers need statsmodels: ``pip install statsmodels``.
"""

import argparse
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from _report import RESULTS, kept
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from skgmje import KalmanEmbedder

warnings.simplefilter("ignore")
COVERAGE = 0.9
HALF_WIDTH = norm.ppf(0.5 + COVERAGE / 2)


def line(name, truth, mean, deviation, seconds):
    """Print the errors of forecasts, and how often the interval holds the truth."""
    error = truth - mean
    inside = np.abs(error) <= HALF_WIDTH * deviation
    density = norm.logpdf(truth, mean, deviation).mean()
    last = np.sqrt(np.square(error[:, -1]).mean())
    print(
        f"  {name:24}{np.sqrt(np.square(error).mean()):8.3f}{last:10.3f}"
        f"{inside.mean():10.1%}{2 * HALF_WIDTH * np.mean(deviation):9.3f}"
        f"{density:9.3f}{seconds:9.1f}",
        flush=True,
    )


def head(title):
    print(f"\n{title}")
    print(
        f"  {'':24}{'RMSE':>8}{'last step':>10}{'in 90 %':>10}{'width':>9}"
        f"{'nats':>9}{'seconds':>9}"
    )


# ------------------------------------------------------------------------------- series


def windows(series, length, stride, start=0):
    """Return overlapping pieces of a series, as sequences of one column."""
    pieces = np.lib.stride_tricks.sliding_window_view(series[start:], length)[::stride]
    return pieces[..., None]


def persistence(series, first, horizon, period):
    """The value one period before, with the spread that this had before `first`."""
    past = series[:first]
    origins = np.arange(first, len(series) - horizon + 1)
    steps = np.arange(horizon)
    lag = period * (1 + steps // period)
    mean = series[origins[:, None] + steps - lag]
    spread = np.array([np.std(past[k:] - past[:-k]) for k in lag])
    return mean, np.broadcast_to(spread, mean.shape)


def last_value(series, first, horizon):
    past = series[:first]
    origins = np.arange(first, len(series) - horizon + 1)
    mean = np.repeat(series[origins - 1][:, None], horizon, axis=1)
    spread = np.array([np.std(past[k:] - past[:-k]) for k in range(1, horizon + 1)])
    return mean, np.broadcast_to(spread, mean.shape)


def unobserved_components(series, first, horizon, **structure):
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    fitted = UnobservedComponents(series[:first], **structure).fit(disp=False)
    means, deviations = [], []
    for origin in range(first, len(series) - horizon + 1):
        ahead = fitted.apply(series[:origin]).get_forecast(horizon)
        means.append(ahead.predicted_mean)
        deviations.append(np.sqrt(ahead.var_pred_mean))
    return np.array(means), np.array(deviations)


def kalman(series, first, horizon, context, state_dim, seed):
    model = KalmanEmbedder(
        encoder="identity",
        state_dim=state_dim,
        learning_rate_init=5e-4,
        max_iter=150,
        random_state=seed,
    ).fit(windows(series[:first], context, 5))
    origins = np.arange(first, len(series) - horizon + 1)
    pasts = np.stack([series[t - context : t] for t in origins])[..., None]
    means, covariances = model.forecast(pasts, horizon)
    return means[..., 0], np.sqrt(covariances[..., 0, 0])


def series_table(title, series, first, horizon, context, state_dim, period, structure):
    head(title)
    truth = np.stack(
        [series[t : t + horizon] for t in range(first, len(series) - horizon + 1)]
    )
    methods = {
        "KalmanEmbedder": lambda: kalman(series, first, horizon, context, state_dim, 0),
        "statsmodels": lambda: unobserved_components(
            series, first, horizon, **structure
        ),
        "last value": lambda: last_value(series, first, horizon),
        f"{period} steps before": lambda: persistence(series, first, horizon, period),
    }
    forecasts = {}
    for name, method in methods.items():
        start = time.perf_counter()
        mean, deviation = forecasts[name] = method()
        line(name, truth, mean, deviation, time.perf_counter() - start)
    return forecasts["KalmanEmbedder"]


def elnino():
    from statsmodels.datasets import elnino

    table = elnino.load_pandas().data
    series = table.drop(columns="YEAR").to_numpy(float).ravel()
    first = 12 * 40
    forecast = series_table(
        "elnino: degrees, 12 months ahead",
        series,
        first,
        12,
        120,
        8,
        12,
        {
            "level": "fixed intercept",
            "freq_seasonal": [{"period": 12, "harmonics": 3}],
            "autoregressive": 2,
        },
    )
    return "elnino, months", series, first, forecast


def sunspots():
    from statsmodels.datasets import sunspots

    series = np.sqrt(sunspots.load_pandas().data["SUNACTIVITY"].to_numpy(float))
    first = 200
    forecast = series_table(
        "sunspots: square roots, 11 years ahead",
        series,
        first,
        11,
        66,
        6,
        11,
        {
            "level": "fixed intercept",
            "cycle": True,
            "stochastic_cycle": True,
            "damped_cycle": True,
            "cycle_period_bounds": (8, 15),
            "autoregressive": 1,
        },
    )
    return "sunspots, years", series, first, forecast


# -------------------------------------------------------------------------------- video


SIDE, N_FRAMES, N_AHEAD = 20, 50, 10


def make_videos(digits, rng):
    """Let each digit swing over a canvas; return frames and places."""
    n = len(digits)
    time_ = np.arange(N_FRAMES)
    phases = rng.uniform(0, 2 * np.pi, (2, n, 1))
    sizes = rng.uniform(3, 6, (2, n, 1))
    rates = 2 * np.pi / np.array([16, 25])
    place = np.stack(
        [
            s * np.sin(p + r * time_)
            for s, p, r in zip(sizes, phases, rates, strict=True)
        ],
        axis=-1,
    )
    corner = np.rint(place + (SIDE - 8) / 2).astype(int)
    canvas = np.zeros((n, N_FRAMES, SIDE, SIDE))
    rows = corner[..., 1, None, None] + np.arange(8)[:, None]
    columns = corner[..., 0, None, None] + np.arange(8)
    index = np.arange(n)[:, None, None, None], time_[:, None, None], rows, columns
    canvas[index] = digits.reshape(n, 1, 8, 8) / 16
    canvas += 0.1 * rng.normal(size=canvas.shape)
    return canvas.reshape(n, N_FRAMES, -1), place


def vector_autoregression(X, place, X_past, n_components=6, n_sequences=10):
    """Forecasts of principal components by statsmodels, and a regression of places."""
    from statsmodels.tsa.statespace.varmax import VARMAX

    pca = PCA(n_components, random_state=0).fit(X.reshape(-1, X.shape[2]))
    z = pca.transform(X.reshape(-1, X.shape[2])).reshape(*X.shape[:2], -1)
    scale = z.std(axis=(0, 1))
    z = z / scale
    readout = LinearRegression().fit(z.reshape(-1, n_components), place.reshape(-1, 2))
    residual = place - readout.predict(z.reshape(-1, n_components)).reshape(place.shape)
    gap = np.full((N_FRAMES, n_components), np.nan)
    joined = np.concatenate(
        [part for own in z[:n_sequences] for part in (own, gap)], axis=0
    )
    model = VARMAX(joined, order=(2, 0), trend="n")
    fitted = model.fit(disp=False, maxiter=15)
    means, deviations = [], []
    for frames in X_past:
        own = pca.transform(frames) / scale
        ahead = fitted.apply(own).get_forecast(N_AHEAD)
        covariance = ahead.prediction_results.forecasts_error_cov.T
        covariance = covariance[-N_AHEAD:] if covariance.ndim == 3 else covariance
        means.append(readout.predict(np.asarray(ahead.predicted_mean)))
        spread = readout.coef_ @ covariance @ readout.coef_.T
        variance = spread.diagonal(axis1=1, axis2=2) + residual.var(axis=(0, 1))
        deviations.append(np.sqrt(variance))
    return np.array(means), np.array(deviations)


def kalman_video(X, place, X_past):
    model = KalmanEmbedder(
        6,
        state_dim=12,
        hidden_layer_sizes=(200, 100),
        learning_rate_init=1e-3,
        max_iter=15,
        random_state=0,
    ).fit(X)
    states = model.transform(X)
    width = states.shape[2]
    late = slice(5, None)
    readout = LinearRegression().fit(
        states[:, late].reshape(-1, width), place[:, late].reshape(-1, 2)
    )
    residual = place - readout.predict(states.reshape(-1, width)).reshape(place.shape)
    means, covariances = model.forecast(X_past, N_AHEAD, of="state")
    mean = readout.predict(means.reshape(-1, width)).reshape(len(means), N_AHEAD, 2)
    # The covariance of the state is in the residual too; what it grows by is not.
    now = model.filter(X_past)[1][:, -1:]
    spread = readout.coef_ @ (covariances - now) @ readout.coef_.T
    variance = spread.diagonal(axis1=2, axis2=3).clip(0)
    return mean, np.sqrt(variance + residual[:, late].var(axis=(0, 1)))


def video():
    head("digits: pixels, 10 frames ahead, both coordinates")
    digits = load_digits().data
    rng = np.random.default_rng(0)
    X, place = make_videos(digits[:600], rng)
    X_test, place_test = make_videos(digits[1400:1600], rng)
    past = N_FRAMES - N_AHEAD
    truth = place_test[:, past:]
    lags = np.arange(1, N_AHEAD + 1)
    change = np.stack([np.std(place[:, k:] - place[:, :-k], axis=(0, 1)) for k in lags])
    methods = {
        "KalmanEmbedder": lambda: kalman_video(X, place, X_test[:, :past]),
        "PCA + statsmodels VAR(2)": lambda: vector_autoregression(
            X, place, X_test[:, :past]
        ),
        # It is told the true place of the last frame.
        "true last place": lambda: (
            np.repeat(place_test[:, past - 1 : past], N_AHEAD, axis=1),
            np.broadcast_to(change, truth.shape),
        ),
    }
    forecasts = {}
    for name, method in methods.items():
        start = time.perf_counter()
        mean, deviation = forecasts[name] = method()
        line(name, truth, mean, deviation, time.perf_counter() - start)
    return X_test, place_test, forecasts["KalmanEmbedder"]


# ------------------------------------------------------------------------------ picture


def band(ax, steps, mean, deviation, color):
    """Draw a forecast and its interval."""
    ax.plot(steps, mean, color=color)
    lower, upper = mean - HALF_WIDTH * deviation, mean + HALF_WIDTH * deviation
    ax.fill_between(steps, lower, upper, color=color, alpha=0.25, lw=0)


def picture(shown, shown_video):
    fig, axes = plt.subplots(3, 1, figsize=(9, 8), layout="constrained")
    for ax, (title, series, first, (mean, deviation)) in zip(axes, shown, strict=False):
        horizon = mean.shape[1]
        span = np.arange(first - horizon, first + 7 * horizon)
        ax.plot(span, series[span], ".-", color="black", ms=4, lw=0.6)
        for start in range(0, 7 * horizon, horizon):
            steps = first + start + np.arange(horizon)
            band(ax, steps, mean[start], deviation[start], "tab:orange")
        title = f"{title}: forecasts from seven origins, intervals of 90 %"
        ax.set_title(title, loc="left", fontsize="medium")
    _, place, (mean, deviation) = shown_video
    ax, steps = axes[2], np.arange(N_FRAMES - N_AHEAD, N_FRAMES)
    for axis, color in enumerate(("tab:blue", "tab:orange")):
        ax.plot(place[0, :, axis], ".", color=color, ms=5)
        band(ax, steps, mean[0, :, axis], deviation[0, :, axis], color)
    title = "digit, frames: both coordinates of the place in pixels, and forecasts"
    ax.set_title(title, loc="left", fontsize="medium")
    fig.savefig(RESULTS / "real_sequences.png", dpi=120)


def main():
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with kept("real_sequences.txt"):
        shown = [elnino(), sunspots()]
        shown_video = video()
    picture(shown, shown_video)


if __name__ == "__main__":
    main()
