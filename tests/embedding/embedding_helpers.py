"""What the tests of the embedders share."""

import numpy as np
import torch
from torch import nn

from skgmje import GJEEmbedder, GMJEEmbedder, JEPAEmbedder, MDNEmbedder

# Small and quick, and the same for all.
QUICK = {"max_iter": 4, "batch_size": 64, "hidden_layer_sizes": (16,)}
FAST = {"random_state": 0, **QUICK}


def gje(**options):
    return GJEEmbedder(**FAST | options)


def gmje(**options):
    return GMJEEmbedder(**FAST | {"n_components": 2} | options)


def jepa(**options):
    return JEPAEmbedder(**FAST | {"predictor_hidden_layer_sizes": (16,)} | options)


def mdn(**options):
    return MDNEmbedder(**FAST | {"n_components": 2} | options)


MAKERS = {"gje": gje, "gmje": gmje, "jepa": jepa, "mdn": mdn}


class FrozenNetwork(nn.Module):
    """A network that is not trained, and whatever is done to its output."""

    def __init__(self, network, after=None):
        super().__init__()
        self.network = network.float().eval()
        self.after = nn.Identity() if after is None else after
        for weight in self.parameters():
            weight.requires_grad_(False)

    def forward(self, rows):
        return self.after(self.network(rows))


class LinearFactory:
    """A picklable factory of encoders."""

    def __call__(self, n_features_in, embedding_dim):
        return nn.Linear(n_features_in, embedding_dim)


class MLPWithDropout(nn.Sequential):
    """A module of a user's: it draws from torch's global generator."""

    def __init__(self, n_features_in, n_features_out):
        super().__init__(
            nn.Linear(n_features_in, 16),
            nn.Tanh(),
            nn.Dropout(0.2),
            nn.Linear(16, n_features_out),
        )


class RandomShift:
    """A picklable augmentation that draws from torch's global generator."""

    def __call__(self, batch):
        return batch + 0.1 * torch.rand_like(batch)


def answers(estimator, X, Y=None):
    """Everything that a fitted estimator says about some rows."""
    said = {
        "transform": estimator.transform(X),
        "predict": estimator.predict(X),
        "score_samples": estimator.score_samples(X),
        "sample": np.concatenate(estimator.sample(7, random_state=1), axis=1),
        "sample_conditional": estimator.sample_conditional(X, 2, random_state=1),
        "score": estimator.score(X, Y),
    }
    if Y is not None:
        said["transform_target"] = estimator.transform_target(Y)
    return said


def assert_same_answers(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
