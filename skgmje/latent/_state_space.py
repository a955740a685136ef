"""The linear-Gaussian state space model: parameters, prediction and draws."""

from typing import NamedTuple, Self

import torch
from torch import Tensor

from skgmje.latent._moments import cholesky


class GaussianState(NamedTuple):
    """What is known of the state at one step.

    Attributes
    ----------
    mean : tensor of shape (n_sequences, state_dim)
        Mean of the state.
    covariance : tensor of shape (n_sequences, state_dim, state_dim)
        Its covariance; the first dimension may be one.

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import GaussianState
    >>> GaussianState(torch.zeros(1, 2), torch.eye(2).unsqueeze(0)).mean
    tensor([[0., 0.]])
    """

    mean: Tensor
    covariance: Tensor


class LinearGaussianStateSpace:
    r"""A state that moves linearly and is seen linearly, both with Gaussian noise.

    .. math:: h_t = A (h_{t-1} - b) + b + \mathcal N(0, Q), \qquad
              z_t = C h_t + \mathcal N(0, R)

    The state before the first step has the initial moments. Parameters are kept in
    float64 and broadcast over sequences.

    Parameters
    ----------
    transition : array-like of shape (state_dim, state_dim)
        Matrix A.
    transition_covariance : array-like of shape (state_dim, state_dim)
        Covariance Q of the steps.
    observation : array-like of shape (observation_dim, state_dim)
        Matrix C.
    observation_covariance : array-like of shape (observation_dim, observation_dim)
        Covariance R of the observations.
    offset : array-like of shape (state_dim,), default=None
        Fixed point b of the motion; zero by default.
    initial_mean : array-like of shape (state_dim,), default=None
        Mean of the state before the first step; zero by default.
    initial_covariance : array-like of shape (state_dim, state_dim), default=None
        Its covariance; the identity by default.
    validate_args : bool, default=True
        Whether to check the parameters.

    Raises
    ------
    ValueError
        If shapes do not fit, if a parameter is not finite, or if a covariance is not
        symmetric or not positive (Q and the initial covariance may be singular).

    See Also
    --------
    kalman_filter : States given the observations so far.
    kalman_smoother : States given all observations.

    References
    ----------
    S. Särkkä, *Bayesian Filtering and Smoothing* (2013), chapter 4; the form with a
    fixed point is that of Mikulasch and Zenke, "Understanding Self-Supervised Learning
    via Latent Distribution Matching", arXiv:2605.03517 (2026).

    Examples
    --------
    >>> import torch
    >>> from skgmje.latent import LinearGaussianStateSpace, kalman_filter
    >>> walk = LinearGaussianStateSpace([[1.0]], [[0.1]], [[1.0]], [[0.5]])
    >>> states, z = walk.sample(3, 100, torch.Generator().manual_seed(0))
    >>> kalman_filter(walk, z).mean.shape
    torch.Size([3, 100, 1])
    """

    def __init__(
        self,
        transition,
        transition_covariance,
        observation,
        observation_covariance,
        *,
        offset=None,
        initial_mean=None,
        initial_covariance=None,
        validate_args=True,
    ):
        self.transition = _float64(transition)
        like = self.transition
        self.transition_covariance = _float64(transition_covariance, like)
        self.observation = _float64(observation, like)
        self.observation_covariance = _float64(observation_covariance, like)
        n_states = like.shape[-1]
        zero = like.new_zeros(n_states)
        self.offset = zero if offset is None else _float64(offset, like)
        self.initial_mean = (
            zero if initial_mean is None else _float64(initial_mean, like)
        )
        self.initial_covariance = (
            torch.eye(n_states, dtype=like.dtype, device=like.device)
            if initial_covariance is None
            else _float64(initial_covariance, like)
        )
        if validate_args:
            self._check()

    @property
    def state_dim(self) -> int:
        """Width of the state."""
        return self.observation.shape[1]

    @property
    def observation_dim(self) -> int:
        """Width of an observation."""
        return self.observation.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.transition.device

    def parameters(self) -> dict[str, Tensor]:
        """Return the parameters by name, as the constructor takes them.

        Returns
        -------
        parameters : dict of str to tensor
            The parameters.
        """
        return {name: getattr(self, name) for name in _PARAMETERS}

    def replace(self, **parameters: Tensor) -> Self:
        """Return the model with other parameters, which are not checked.

        Parameters
        ----------
        **parameters : tensor
            What replaces the parameters of the same name.

        Returns
        -------
        space : LinearGaussianStateSpace
            The model.
        """
        return type(self)(**self.parameters() | parameters, validate_args=False)

    def to(self, device: torch.device) -> Self:
        """Return the model on a device.

        Parameters
        ----------
        device : torch.device
            Where to.

        Returns
        -------
        space : LinearGaussianStateSpace
            The model.
        """
        parameters = self.parameters().items()
        return self.replace(**{name: value.to(device) for name, value in parameters})

    def affine(self, loc: Tensor, scale: Tensor) -> Self:
        """Return the model of ``scale * z + loc`` where C is a rectangular identity.

        The state is scaled with what is seen of it, so that C stays as it is.

        Parameters
        ----------
        loc, scale : tensor of shape (observation_dim,)
            Shift and factors of the observations.

        Returns
        -------
        space : LinearGaussianStateSpace
            The model.
        """
        n_hidden = self.state_dim - self.observation_dim
        state_scale = torch.cat([scale, scale.new_ones(n_hidden)])
        state_loc = torch.cat([loc, loc.new_zeros(n_hidden)])
        both = state_scale[:, None] * state_scale
        return self.replace(
            transition=self.transition * state_scale[:, None] / state_scale,
            transition_covariance=self.transition_covariance * both,
            observation_covariance=self.observation_covariance * scale[:, None] * scale,
            offset=self.offset * state_scale + state_loc,
            initial_mean=self.initial_mean * state_scale + state_loc,
            initial_covariance=self.initial_covariance * both,
        )

    def initial_state(self, n_sequences: int = 1) -> GaussianState:
        """Return what is known before the first step.

        Parameters
        ----------
        n_sequences : int, default=1
            Number of sequences.

        Returns
        -------
        state : GaussianState
            The initial moments, for every sequence.
        """
        return GaussianState(
            self.initial_mean.expand(n_sequences, -1),
            self.initial_covariance.expand(n_sequences, -1, -1),
        )

    def predict_mean(self, mean: Tensor) -> Tensor:
        """Move means by one step; the last dimension is that of the state."""
        return (mean - self.offset) @ self.transition.mT + self.offset

    def predict_covariance(self, covariance: Tensor) -> Tensor:
        """Move covariances by one step; the last two dimensions are of the state."""
        moved = self.transition @ covariance @ self.transition.mT
        return moved + self.transition_covariance

    def observe(self, state: GaussianState) -> GaussianState:
        """Moments of the observations of states, noise included.

        Parameters
        ----------
        state : GaussianState
            Moments of states, with any leading dimensions.

        Returns
        -------
        observation : GaussianState
            Moments of observations, with the same leading dimensions.
        """
        seen = self.observation @ state.covariance @ self.observation.mT
        return GaussianState(
            state.mean @ self.observation.mT, seen + self.observation_covariance
        )

    def forecast(self, state: GaussianState, n_steps: int) -> GaussianState:
        """States of the next steps, of which there are no observations yet.

        Parameters
        ----------
        state : GaussianState
            Moments of the last states, one for each sequence.
        n_steps : int
            Number of steps, at least one.

        Returns
        -------
        states : GaussianState
            Means of shape (n_sequences, n_steps, state_dim) and covariances of shape
            (n_sequences, n_steps, state_dim, state_dim).

        Raises
        ------
        ValueError
            If there are no steps.
        """
        if n_steps < 1:
            raise ValueError(
                f"n_steps must be at least 1, the step after the state; got {n_steps}."
            )
        means, covariances = [], []
        mean, covariance = state
        for _ in range(n_steps):
            mean = self.predict_mean(mean)
            covariance = self.predict_covariance(covariance)
            means.append(mean)
            covariances.append(covariance)
        return GaussianState(torch.stack(means, 1), torch.stack(covariances, 1))

    @torch.no_grad()
    def sample(
        self, n_sequences: int, n_steps: int, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw sequences.

        Parameters
        ----------
        n_sequences, n_steps : int
            How many, and how long.
        generator : torch.Generator, optional
            Source of the draws, on the device of the parameters.

        Returns
        -------
        states : tensor of shape (n_sequences, n_steps, state_dim)
            Drawn states.
        observations : tensor of shape (n_sequences, n_steps, observation_dim)
            What is seen of them.
        """

        def draw(covariance: Tensor, *shape: int) -> Tensor:
            noise = torch.randn(
                *shape,
                len(covariance),
                dtype=covariance.dtype,
                device=covariance.device,
                generator=generator,
            )
            return noise @ _square_root(covariance).mT

        mean = self.initial_mean + draw(self.initial_covariance, n_sequences)
        states = []
        for noise in draw(self.transition_covariance, n_steps, n_sequences):
            mean = self.predict_mean(mean) + noise
            states.append(mean)
        stacked = torch.stack(states, 1)
        noise = draw(self.observation_covariance, n_sequences, n_steps)
        return stacked, stacked @ self.observation.mT + noise

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(state_dim={self.state_dim}, "
            f"observation_dim={self.observation_dim})"
        )

    def _check(self) -> None:
        if self.observation.dim() != 2:
            raise ValueError(
                "observation must be a matrix of shape (observation_dim, state_dim); "
                f"got {tuple(self.observation.shape)}."
            )
        n, m = self.state_dim, self.observation_dim
        shapes = {
            "transition": (n, n),
            "transition_covariance": (n, n),
            "observation": (m, n),
            "observation_covariance": (m, m),
            "offset": (n,),
            "initial_mean": (n,),
            "initial_covariance": (n, n),
        }
        for name, value in self.parameters().items():
            if tuple(value.shape) != shapes[name]:
                raise ValueError(
                    f"{name} must have the shape {shapes[name]} with an observation "
                    f"matrix of shape {(m, n)}; got {tuple(value.shape)}."
                )
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} holds NaN or infinity.")
            if name.endswith("covariance"):
                _check_covariance(name, value)


_PARAMETERS = (
    "transition",
    "transition_covariance",
    "observation",
    "observation_covariance",
    "offset",
    "initial_mean",
    "initial_covariance",
)


def _float64(value, like: Tensor | None = None) -> Tensor:
    device = None if like is None else like.device
    return torch.as_tensor(value, dtype=torch.float64, device=device)


def _check_covariance(name: str, value: Tensor) -> None:
    if not torch.allclose(value, value.mT, rtol=1e-8, atol=1e-12):
        raise ValueError(f"{name} must be symmetric; average it with its transpose.")
    smallest = float(torch.linalg.eigvalsh(value)[0])
    if name == "observation_covariance" and bool(cholesky(value).isnan().any()):
        raise ValueError(
            f"{name} must be positive definite; its smallest eigenvalue is "
            f"{smallest:.3g}. Add a small variance to its diagonal."
        )
    if smallest < -1e-10 * float(value.diagonal().abs().amax()):
        raise ValueError(
            f"{name} must not be negative; its smallest eigenvalue is {smallest:.3g}."
        )


def _square_root(covariance: Tensor) -> Tensor:
    """Return a root of a covariance that may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()
