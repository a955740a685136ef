"""Losses of other methods, trained by the library's own loop with the same encoder."""

import torch
from torch import nn
from torch.nn import functional as F

from skgmje import GJEEmbedder


class Loss(nn.Module):
    """A loss of two batches of embeddings that has no state of its own."""

    each_epoch = False

    def initialize(self, z_c, z_t, seed):
        """Do nothing: there is nothing to start."""


class InfoNCE(Loss):
    """Contrastive loss among all views of the batch (SimCLR's form of InfoNCE)."""

    temperature = 0.1

    def forward(self, z_c, z_t):
        z = F.normalize(torch.cat([z_c, z_t]), dim=1)
        n = len(z_c)
        itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
        logits = (z @ z.mT / self.temperature).masked_fill(itself, -torch.inf)
        partner = torch.arange(2 * n, device=z.device).roll(n)
        return F.cross_entropy(logits, partner)


class VICReg(Loss):
    """Variance, invariance and covariance, with the weights of the paper."""

    def forward(self, z_c, z_t):
        loss = 25 * F.mse_loss(z_c, z_t)
        for z in (z_c, z_t):
            covariance = z.mT.cov()
            deviation = (covariance.diagonal() + 1e-4).sqrt()
            others = covariance - torch.diag(covariance.diagonal())
            loss = loss + 25 * F.relu(1 - deviation).mean()
            loss = loss + others.square().sum() / z.shape[1]
        return loss


class InfoNCEEmbedder(GJEEmbedder):
    """Embeddings that were trained by InfoNCE."""

    def _make_latent(self, encoders, generator):
        return InfoNCE()


class VICRegEmbedder(GJEEmbedder):
    """Embeddings that were trained by VICReg."""

    def _make_latent(self, encoders, generator):
        return VICReg()
