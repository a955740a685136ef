"""The Kalman filter as a latent density over a sequence of embeddings."""

import torch
from torch import Tensor, nn

from skgmje.latent._entropies import Entropy
from skgmje.latent._kalman_filter import filter_means, log_likelihood, make_gains
from skgmje.latent._state_space import LinearGaussianStateSpace

# Of the transition: before training, and the most that a step may leave behind.
INITIAL_RADIUS, LARGEST_RADIUS = 1 / 1.1, 1.02
# Logarithm of all variances before training.
INITIAL_LOG_VARIANCE = 1.0
# Embeddings that are enough for the entropy of a batch: neighbours cost their square.
ENTROPY_ROWS = 2048


class KalmanPrediction(nn.Module):
    r"""Negative log-likelihood of embeddings that a Kalman filter predicts.

    .. math:: -\frac1T \sum_t \log \mathcal N(z_t; \hat z_t, S_t), \qquad
              \hat z_t = C \hat h_{t|t-1}

    Without an entropy, the embedding that is predicted carries no gradient; those
    before it do, by way of the state. In derivative this is the likelihood plus the
    entropy of each embedding given those before it, as far as the model's own
    conditional density is right: it must learn faster than the encoder, hence the
    larger step size of these parameters. With an entropy nothing is stopped, and the
    entropy of all embeddings of the batch is added.

    The observation matrix is a rectangular identity: what the state has more than the
    embedding is hidden. Both noises are diagonal, that of observations the same in all
    directions.

    Parameters
    ----------
    observation_dim : int
        Width of the embedding.
    state_dim : int
        Width of the state, not less.
    entropy : Entropy or None, default=None
        Entropy that keeps the embeddings apart; None stops gradients instead.
    generator : torch.Generator, optional
        Source of the initial transition.

    Raises
    ------
    ValueError
        If the state is narrower than the embedding.

    References
    ----------
    Mikulasch and Zenke, "Understanding Self-Supervised Learning via Latent Distribution
    Matching", arXiv:2605.03517 (2026), equations 15, 54 and 55. That the variances have
    one logarithm for each direction and none in common is our choice.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import KalmanPrediction
    >>> generator = torch.Generator().manual_seed(0)
    >>> latent = KalmanPrediction(2, 4, generator=generator)
    >>> z = torch.randn(8, 20, 2, generator=generator)
    >>> latent(z, torch.ones(8, 20, dtype=torch.bool)).shape
    torch.Size([])
    """

    # The density has to follow the encoder, not the other way round.
    learning_rate_factor = 100.0

    def __init__(
        self,
        observation_dim: int,
        state_dim: int,
        entropy: Entropy | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if state_dim < observation_dim:
            raise ValueError(
                f"state_dim={state_dim} is less than the width {observation_dim} of "
                "the embedding, of which every coordinate is seen in the state; raise "
                "state_dim or lower embedding_dim."
            )
        self.entropy = entropy
        noise = torch.randn(
            state_dim, state_dim, dtype=torch.float64, generator=generator
        )
        transition = torch.eye(state_dim, dtype=torch.float64) + 0.1 * noise
        self.transition = nn.Parameter(_with_radius(transition, INITIAL_RADIUS))
        self.offset = nn.Parameter(torch.zeros(state_dim, dtype=torch.float64))
        start = torch.full((state_dim,), INITIAL_LOG_VARIANCE, dtype=torch.float64)
        self.log_transition_variance = nn.Parameter(start)
        self.log_observation_variance = nn.Parameter(start[0].clone())
        self.observation: Tensor
        self.register_buffer(
            "observation", torch.eye(observation_dim, state_dim, dtype=torch.float64)
        )

    def state_space(self) -> LinearGaussianStateSpace:
        """Return the model of the present parameters; gradients flow through it."""
        variance = self.log_observation_variance.exp()
        return LinearGaussianStateSpace(
            self.transition,
            self.log_transition_variance.exp().diag(),
            self.observation,
            variance * (self.observation @ self.observation.mT),
            offset=self.offset,
            validate_args=False,
        )

    def forward(
        self, z: Tensor, observed: Tensor, noise_variance: Tensor | None = None
    ) -> Tensor:
        """Return the loss in nats a step.

        Parameters
        ----------
        z : tensor of shape (n_sequences, n_steps, observation_dim)
            Embeddings.
        observed : tensor of bool of shape (n_sequences, n_steps)
            Which of them are there; the others are missing or padding.
        noise_variance : tensor of shape (n_sequences, n_steps, observation_dim), \
optional
            Variances of each embedding's noise, in units of the common one.

        Returns
        -------
        loss : tensor of shape ()
            Mean over the steps that are there, zero without any. The entropy is that of
            at least two embeddings, and otherwise left out.
        """
        space = self.state_space()
        z = torch.where(observed[..., None], z.double(), 0.0)
        # What follows the last observation counts for nothing, and as observed keeps
        # sequences of all lengths in one pattern.
        later = observed.flip(1).cumsum(1).flip(1) == 0
        noise = None
        if noise_variance is not None:
            common = self.log_observation_variance.exp()
            noise = (common * noise_variance.double()).diag_embed()
        gains = make_gains(space, observed | later, noise)
        predicted = filter_means(space, z, gains)[1]
        target = z.detach() if self.entropy is None else z
        likelihood = log_likelihood(space, target, predicted, gains)
        rows = z[observed]
        loss = -torch.where(observed, likelihood, 0.0).sum() / max(1, len(rows))
        if self.entropy is None or len(rows) < 2:
            return loss
        return loss + self.entropy(rows[:: -(-len(rows) // ENTROPY_ROWS)])

    @torch.no_grad()
    def limit_growth(self) -> None:
        """Shrink a transition that makes states explode."""
        if bool(torch.isfinite(self.transition).all()):
            self.transition.copy_(
                _with_radius(self.transition, LARGEST_RADIUS, only_above=True)
            )


def _with_radius(matrix: Tensor, radius: float, only_above: bool = False) -> Tensor:
    """Scale a matrix to a spectral radius."""
    present = torch.linalg.eigvals(matrix).abs().amax()
    if only_above and bool(present <= radius):
        return matrix
    return matrix * (radius / present)
