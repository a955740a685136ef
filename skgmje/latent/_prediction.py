"""Prediction of embeddings by points: the latent part of a classic JEPA."""

import copy

from torch import Tensor, nn

from skgmje.latent._distribution_matching import predict
from skgmje.latent._latent_densities import IsotropicGaussian, LatentDensity
from skgmje.networks import Predictor


class LatentPrediction(nn.Module):
    r"""Log-likelihood of a predictor, with targets that carry no gradient.

    .. math:: -\mathrm{E} \log P(\bar z_t | g(z_c)) = \tfrac12 \mathrm{E} \,
              \| g(z_c) - \bar z_t \|^2 + \text{const}

    A bar stands for the embedding by a moving average of the encoder. The second form
    is that of a Gaussian with unit variance; the constant is left out. The entropy of
    P, held by the stopped gradient, stands in for the entropy that keeps
    embeddings apart, provided that the predictor learns faster than the target moves
    (Mikulasch and Zenke, equations 54 to 60): by the moving average, or by a
    `learning_rate_factor` above one.

    A target encoder with weights of its own has no gradient from this. It gets one from
    a second predictor in the reverse direction. That is our choice, not a paper's.

    Parameters
    ----------
    predictor : Predictor
        From context to target.
    reverse_predictor : Predictor or None, default=None
        From target to context, or None if the target encoder is not trained on its
        own. It predicts the first coordinates of the context, as many as it is wide.
    density : LatentDensity or None, default=None
        The density P about the prediction; None is a Gaussian with unit variance.
    learning_rate_factor : float, default=1.0
        Steps of the predictors, in steps of the encoders.

    References
    ----------
    F. Mikulasch, F. Zenke, "Understanding Self-Supervised Learning via Latent
    Distribution Matching", arXiv:2605.03517 (2026). Grill et al., "Bootstrap Your Own
    Latent", NeurIPS 2020.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import LatentPrediction
    >>> from skgmje.networks import Predictor
    >>> latent = LatentPrediction(Predictor(2, 1))
    >>> latent(torch.eye(2), torch.ones(2, 1)).shape
    torch.Size([])
    """

    def __init__(
        self,
        predictor: Predictor,
        reverse_predictor: Predictor | None = None,
        density: LatentDensity | None = None,
        learning_rate_factor: float = 1.0,
    ):
        super().__init__()
        self.predictor, self.reverse_predictor = predictor, reverse_predictor
        self.density: LatentDensity = density or IsotropicGaussian()
        self.learning_rate_factor = learning_rate_factor

    def predictor_for_inference(self) -> Predictor:
        """Return a copy of the predictor in float64, in evaluation mode."""
        return copy.deepcopy(self.predictor).double().eval()

    def forward(self, z_c: Tensor, average_t: Tensor) -> Tensor:
        """Return the loss in nats of a context and of the averaged target."""
        return self._loss(predict(self.density, self.predictor, z_c), average_t)

    def reverse(self, z_t: Tensor, average_c: Tensor) -> Tensor:
        """Return the loss in nats of a target and of the averaged context."""
        assert self.reverse_predictor is not None
        prediction = predict(self.density, self.reverse_predictor, z_t)
        return self._loss(prediction, average_c[:, : prediction.shape[1]])

    def _loss(self, prediction: Tensor, target: Tensor) -> Tensor:
        return -self.density.affinity(target.detach(), prediction).mean()
