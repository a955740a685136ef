"""
The trace trap
==============

A joint Gaussian over the embeddings of two views can align them, but a loss that is
only its likelihood shrinks them to a point. With the covariance of the batch the
Mahalanobis term is even a constant: the *Mahalanobis trace trap*. Here it is: in free
embeddings, where it can be computed; in an encoder, where the usual repairs do not
help; and beside the entropies that do. :ref:`maths_collapse` has the proofs.
"""

# %%
# The trap without an encoder
# ---------------------------
# A gradient flow on the embeddings themselves. The theory says that every eigenvalue of
# their covariance falls at the same rate, 2 / N, until the smallest is zero.
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.special import entr
from sklearn.linear_model import LinearRegression
from torch import nn

from skgmje import MultivariateNormalMixture
from skgmje.datasets import make_sphere_views
from skgmje.latent import (
    GaussianLikelihood,
    JointMixture,
    LogDet,
    MomentKL,
    NearestNeighbour,
    VarianceCovariance,
    Whitening,
    covariance,
)
from skgmje.networks import MLP
from skgmje.training import Trainer
from skgmje.views import PairedViews

start = time.perf_counter()
N = 200
rng = np.random.default_rng(0)
free = torch.from_numpy(rng.normal(size=(N, 4)) * [1.0, 0.85, 0.7, 0.55])
trap = GaussianLikelihood(moments="batch")
before = torch.linalg.eigvalsh(covariance(free))
step = float(before[0]) * N / 2 / 200
flow = [before]
while flow[-1][0] > 0.01:
    free.requires_grad_()
    (gradient,) = torch.autograd.grad(trap(free[:, :2], free[:, 2:]), free)
    free = (free - step * gradient).detach()
    flow.append(torch.linalg.eigvalsh(covariance(free)))
flow = torch.stack(flow).numpy()
times = step * np.arange(len(flow))
predicted = before.numpy() - 2 * times[:, np.newaxis] / N
print(f"largest distance from the straight lines: {abs(flow - predicted).max():.1e}")

# %%
# Two views and an encoder
# ------------------------
# The views are ten noisy numbers each, bent out of a point y on the sphere. One encoder
# serves both. It is good if y can be read from the embedding by a linear regression.
X, X_target, y = make_sphere_views(5120, random_state=0)
X_test, _, y_test = make_sphere_views(2000, random_state=1)
views = PairedViews(*(torch.from_numpy(view).float() for view in (X, X_target)))


class Pair(nn.Module):
    """One encoder, a latent density, and the spread of each batch of embeddings."""

    def __init__(self, latent):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.encoder = MLP(10, 3, (64, 64), "relu", generator)
        self.latent, self.traces = latent, []

    @torch.no_grad()
    def begin_epoch(self, views, rows):
        if not self.traces and hasattr(self.latent, "initialize"):
            context, target = views.batch(rows, None)
            self.latent.initialize(self.encoder(context), self.encoder(target), seed=0)

    def forward(self, context, target):
        z_c, z_t = self.encoder(context), self.encoder(target)
        self.traces.append(float(covariance(z_c.detach()).trace()))
        return self.latent(z_c, z_t)


class Prototypes(nn.Module):
    """A joint mixture of eight components that gradients move, faster than the encoder.

    A mixture that lags behind the embeddings says nothing about them.
    """

    speed = 20

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(8, dtype=torch.float64))
        self.means = nn.Parameter(torch.zeros(8, 6, dtype=torch.float64))
        self.log_scales = nn.Parameter(torch.zeros(8, 6, dtype=torch.float64))
        self.below = nn.Parameter(torch.zeros(8, 6, 6, dtype=torch.float64))

    def initialize(self, z_c, z_t, seed):
        z = torch.cat([z_c, z_t], dim=1)
        self.means.copy_(z[:8] / self.speed)
        self.log_scales.copy_((z.std(0).log() / self.speed).expand(8, -1))

    def forward(self, z_c, z_t):
        scales = (self.speed * self.log_scales).exp() + 0.01
        mixture = MultivariateNormalMixture(
            (self.speed * self.logits).softmax(0),
            self.speed * self.means,
            scale_tril=(self.speed * self.below).tril(-1) + scales.diag_embed(),
        )
        return -mixture.log_prob(torch.cat([z_c, z_t], dim=1).double()).mean()


class WithEntropies(nn.Module):
    """A latent density and entropies of each view."""

    def __init__(self, latent, *entropies):
        super().__init__()
        self.latent, self.entropies = latent, nn.ModuleList(entropies)

    def initialize(self, z_c, z_t, seed):
        self.latent.initialize(z_c, z_t, seed)

    def forward(self, z_c, z_t):
        parts = [part(z) for part in self.entropies for z in (z_c, z_t)]
        return self.latent(z_c, z_t) + sum(parts)


# %%
# What does not help, and what does
# ---------------------------------
# All runs have the same encoder at the start, the same batches and 600 steps. The first
# six collapse: a ridge, a covariance that is held constant or averaged over batches,
# and prototypes leave a likelihood that rewards shrinking. VICReg's penalty is bounded
# while the likelihood is not, and this encoder starts with embeddings so small that
# the likelihood pulls harder.
#
# The next three keep a part of y. Each of these terms is blind to something:
#
# * With larger weights VICReg holds variances, but not every direction: the
#   log-likelihood of a thin one has no bound either.
# * Distances to neighbours hardly notice that a direction gets thinner than they are.
#   The covariance of one Gaussian does.
# * Second moments do not notice that embeddings gather around the prototypes.
#
# The last six hold.
N_STEPS, BATCH_SIZE = 600, 256
COLLAPSED, PARTLY, HELD = "C3", "C1", "C0"
LATENTS = {
    "batch covariance": (COLLAPSED, GaussianLikelihood(ridge=1e-4)),
    "ridge 0.1": (COLLAPSED, GaussianLikelihood(ridge=0.1)),
    "constant covariance": (COLLAPSED, GaussianLikelihood("detached", ridge=1e-4)),
    "averaged covariance": (COLLAPSED, GaussianLikelihood("moving", ridge=1e-4)),
    "8 prototypes": (COLLAPSED, Prototypes()),
    "VICReg": (COLLAPSED, GaussianLikelihood(entropy=VarianceCovariance())),
    "VICReg, weights 100": (
        PARTLY,
        GaussianLikelihood(entropy=VarianceCovariance(100.0, 100.0)),
    ),
    "neighbours": (PARTLY, GaussianLikelihood(entropy=NearestNeighbour())),
    "8 prototypes, moments": (PARTLY, WithEntropies(Prototypes(), MomentKL())),
    "8 prototypes, neighbours": (HELD, WithEntropies(Prototypes(), NearestNeighbour())),
    "neighbours and moments": (
        HELD,
        WithEntropies(GaussianLikelihood(), NearestNeighbour(), MomentKL(1.0)),
    ),
    "log-determinant": (HELD, GaussianLikelihood(entropy=LogDet())),
    "whitening": (HELD, GaussianLikelihood(entropy=Whitening())),
    "moments": (HELD, GaussianLikelihood(entropy=MomentKL())),
    "8 components, conditional": (HELD, JointMixture(8)),
}


def train(latent):
    model = Pair(latent)
    n_epochs = N_STEPS * BATCH_SIZE // len(X)
    trainer = Trainer(
        model,
        views,
        torch.Generator().manual_seed(1),
        learning_rate=2e-3,
        weight_decay=0.0,
        batch_size=BATCH_SIZE,
        max_iter=n_epochs,
        tol=0.0,
        n_iter_no_change=n_epochs,
    )
    while not trainer.done:
        trainer.run_epoch()
    return model


@torch.no_grad()
def embed(model, rows):
    return model.encoder(torch.from_numpy(rows).float()).double().numpy()


def describe(name, model):
    """Print trace, effective rank and the probe's score, and return the score."""
    z, z_test = embed(model, X), embed(model, X_test)
    values = np.linalg.eigvalsh(np.cov(z.T))
    shares = values / values.sum()
    rank = np.exp(entr(shares).sum())
    # In units of their spread: least squares drops numbers that are tiny.
    score = LinearRegression().fit(z / z.std(), y).score(z_test / z.std(), y_test)
    print(f"{name:28}{values.sum():10.1e}{rank:8.2f}{score:8.3f}")
    return score


# %%
# Effective rank is the exponential of the entropy of the shares of the eigenvalues, at
# most 3. R² is that of a linear regression of y on the embedding, for new rows.
threads = torch.get_num_threads()
torch.set_num_threads(1)  # the fastest for networks of this size
print(f"{'':28}{'trace':>10}{'rank':>8}{'R²':>8}")
untrained = describe("not trained", Pair(None))
models = {name: train(latent) for name, (_, latent) in LATENTS.items()}
scores = {name: describe(name, model) for name, model in models.items()}
torch.set_num_threads(threads)

# %%
# A trace of the covariance that is not small does not yet make an embedding good.
fig, axes = plt.subplot_mosaic(
    "fs\nts", figsize=(10, 7), width_ratios=[1, 1], layout="constrained"
)
ax = axes["f"]
ax.plot(times, flow, lw=3, color=COLLAPSED, alpha=0.4)
ax.plot(times, predicted, "--", lw=1, color="black")
ax.plot([], [], lw=3, color=COLLAPSED, alpha=0.4, label="gradient flow")
ax.plot([], [], "--", lw=1, color="black", label=r"$\lambda_j(0) - 2\tau / N$")
ax.set(xlim=(0, None), ylim=(0, None))
ax.set(xlabel=r"time $\tau$", ylabel="eigenvalues of the covariance")
ax.legend(frameon=False)
ax.set_title("The trap: free embeddings", fontsize=10, loc="left")

ax = axes["t"]
for name, (color, _) in LATENTS.items():
    ax.semilogy(models[name].traces, color=color, lw=1, alpha=0.8)
for color, label in {HELD: "held", PARTLY: "partly", COLLAPSED: "collapsed"}.items():
    ax.plot([], [], color=color, label=label)
ax.legend(frameon=False, ncols=3, loc="upper right", bbox_to_anchor=(1, 0.62))
ax.set(xlabel="step", ylabel="trace of the covariance", xlim=(0, N_STEPS))
ax.set_title("Embeddings of an encoder", fontsize=10, loc="left")

ax = axes["s"]
names, values = list(scores), np.array(list(scores.values()))
colors = [LATENTS[name][0] for name in names]
ax.barh(names, values.clip(min=0.004), color=colors)
for place, value in enumerate(values.clip(min=0)):
    label, box = f" {value:.2f}", {"facecolor": "white", "edgecolor": "none", "pad": 0}
    ax.text(value + 0.01, place, label, va="center", fontsize=9, bbox=box)
ax.axvline(untrained, color="black", ls="--", lw=1, zorder=0)
ax.text(untrained + 0.02, -0.9, "not trained", fontsize=9)
ax.set(xlim=(0, 1.12), ylim=(len(names) - 0.4, -1.4), xlabel="R² of y, new rows")
ax.spines[["top", "right"]].set_visible(False)
ax.set_title("What is left of y", fontsize=10, loc="left")
print(f"\nseconds: {time.perf_counter() - start:.0f}")
