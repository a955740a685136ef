"""The Kalman filter and smoother against the joint Gaussian of a whole sequence."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from skgmje.latent import (
    KalmanPrediction,
    LinearGaussianStateSpace,
    LogDet,
    NearestNeighbour,
    filter_step,
    kalman_filter,
    kalman_smoother,
)
from skgmje.latent._associative_scan import associative_powers, associative_scan
from skgmje.latent._kalman_filter import filter_means, log_likelihood
from skgmje.latent._kalman_gains import (
    Gains,
    _are_equal,
    _gains,
    _parallel,
    _sequential,
    make_gains,
)

B7 = {
    "transition": [[0.9]],
    "transition_covariance": [[0.2]],
    "observation": [[1.0]],
    "observation_covariance": [[0.5]],
}
B7_LIKELIHOODS = [-1.456119186433, -0.909526119263, -1.135449439890]


def random_covariance(rng, n):
    root = rng.normal(size=(n, n))
    return root @ root.T / n + 0.1 * np.eye(n)


def random_space(seed, n_states, n_seen):
    rng = np.random.default_rng(seed)
    transition = rng.normal(size=(n_states, n_states))
    transition *= 0.95 / np.abs(np.linalg.eigvals(transition)).max()
    return LinearGaussianStateSpace(
        transition,
        random_covariance(rng, n_states),
        rng.normal(size=(n_seen, n_states)),
        random_covariance(rng, n_seen),
        offset=rng.normal(size=n_states),
        initial_mean=rng.normal(size=n_states),
        initial_covariance=random_covariance(rng, n_states),
    )


def draws(space, n_sequences, n_steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return space.sample(n_sequences, n_steps, generator)[1]


def with_gaps(z, seed, share=0.3):
    z = z.clone()
    z[np.random.default_rng(seed).uniform(size=z.shape[:2]) < share] = torch.nan
    return z


class WholeGaussian:
    """The joint Gaussian of all states and observations of one sequence."""

    def __init__(self, space, n_steps, noise=None):
        A, Q, C, R, b, m, P = (p.numpy() for p in space.parameters().values())
        self.n, self.n_steps = len(A), n_steps
        mean, cov = [], np.zeros((n_steps, n_steps, self.n, self.n))
        for t in range(n_steps):
            m, P = A @ (m - b) + b, A @ P @ A.T + Q
            mean.append(m)
            cov[t, t] = P
            for s in range(t):
                cov[s, t] = cov[s, t - 1] @ A.T
                cov[t, s] = cov[s, t].T
        whole = cov.transpose(0, 2, 1, 3).reshape(n_steps * self.n, -1)
        self.mean, self.cov = np.concatenate(mean), whole
        seen = np.kron(np.eye(n_steps), C)
        noise = [R] * n_steps if noise is None else noise
        self.cross = whole @ seen.T
        self.z_mean = seen @ self.mean
        self.z_cov = seen @ self.cross
        for t, R_t in enumerate(noise):
            rows = slice(t * len(R), (t + 1) * len(R))
            self.z_cov[rows, rows] += R_t
        self.m = len(C)

    def states(self, z, upto):
        """Moments of all states given the steps of z before `upto`."""
        z = z.copy()
        z[upto:] = np.nan
        index = np.flatnonzero(~np.isnan(z.ravel()))
        gain = np.linalg.solve(self.z_cov[np.ix_(index, index)], self.cross[:, index].T)
        mean = self.mean + gain.T @ (z.ravel()[index] - self.z_mean[index])
        cov = self.cov - gain.T @ self.cross[:, index].T
        blocks = cov.reshape(self.n_steps, self.n, self.n_steps, self.n)
        each = np.arange(self.n_steps)
        return mean.reshape(self.n_steps, self.n), blocks[each, :, each]

    def log_density(self, z):
        index = np.flatnonzero(~np.isnan(z.ravel()))
        if not len(index):
            return 0.0
        return multivariate_normal.logpdf(
            z.ravel()[index], self.z_mean[index], self.z_cov[np.ix_(index, index)]
        )


def assert_filter_and_smoother_are_exact(space, z, noise=None):
    given = None if noise is None else torch.as_tensor(noise)
    result = kalman_filter(space, z, observation_covariance=given)
    smoothed = kalman_smoother(space, result)
    for i, own in enumerate(z.numpy()):
        whole = WholeGaussian(space, len(own), None if noise is None else noise[i])
        close = {"rtol": 1e-8, "atol": 1e-8}
        for t in range(len(own)):
            mean, cov = whole.states(own, t + 1)
            np.testing.assert_allclose(result.mean[i, t], mean[t], **close)
            np.testing.assert_allclose(result.covariance[i, t], cov[t], **close)
            mean, cov = whole.states(own, t)
            np.testing.assert_allclose(result.predicted_mean[i, t], mean[t], **close)
            np.testing.assert_allclose(
                result.predicted_covariance[i, t], cov[t], **close
            )
        mean, cov = whole.states(own, len(own))
        np.testing.assert_allclose(smoothed.mean[i], mean, **close)
        np.testing.assert_allclose(smoothed.covariance[i], cov, **close)
        total = float(result.log_likelihood[i].sum())
        assert total == pytest.approx(whole.log_density(own), rel=1e-8, abs=1e-8)


# ------------------------------------------------------------------ filter and smoother


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n_states=st.integers(1, 4),
    n_seen=st.integers(1, 4),
    n_steps=st.integers(1, 6),
    share=st.sampled_from([0.0, 0.4, 1.0]),
)
def test_moments_and_densities_are_those_of_the_joint_gaussian(
    seed, n_states, n_seen, n_steps, share
):
    space = random_space(seed, n_states, n_seen)
    z = with_gaps(draws(space, 3, n_steps, seed), seed, share)
    assert_filter_and_smoother_are_exact(space, z)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.sampled_from([0.0, 0.4]))
def test_every_step_may_have_a_noise_of_its_own(seed, share):
    space = random_space(seed, 3, 2)
    rng = np.random.default_rng(seed)
    noise = np.stack([[random_covariance(rng, 2) for _ in range(5)] for _ in range(2)])
    assert_filter_and_smoother_are_exact(
        space, with_gaps(draws(space, 2, 5), seed, share), noise
    )


def test_the_fixture_in_one_dimension():
    z = torch.tensor([[[1.0], [0.5], [-0.2]]], dtype=torch.float64)
    result = kalman_filter(LinearGaussianStateSpace(**B7), z)
    np.testing.assert_allclose(result.log_likelihood[0], B7_LIKELIHOODS, atol=1e-12)
    innovation = result.predicted_covariance.ravel() + 0.5
    np.testing.assert_allclose(innovation, [1.51, 0.970894039735, 0.896429350977])
    assert float(result.mean[0, -1]) == pytest.approx(0.188915129828, abs=1e-12)
    assert float(result.covariance[0, -1]) == pytest.approx(0.221115780371, abs=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_pykalman_says_the_same(share):
    pykalman = pytest.importorskip("pykalman")
    space = random_space(1, 4, 3)
    z = with_gaps(draws(space, 2, 30), 0, share)
    A, Q, C, R, b, m, P = (p.numpy() for p in space.parameters().values())
    other = pykalman.KalmanFilter(
        A, C, Q, R, b - A @ b, np.zeros(3), A @ (m - b) + b, A @ P @ A.T + Q
    )
    result = kalman_filter(space, z)
    smoothed = kalman_smoother(space, result)
    for i in range(2):
        own = np.ma.masked_invalid(z[i].numpy())
        filtered = other.filter(own)
        for ours, theirs in zip(
            (result.mean, result.covariance, *smoothed),
            (*filtered, *other.smooth(own)),
            strict=True,
        ):
            np.testing.assert_allclose(ours[i], theirs, atol=1e-8)
        if not share:  # Its total skips what follows a missing step.
            total = float(result.log_likelihood[i].sum())
            assert total == pytest.approx(other.loglikelihood(own), abs=1e-8)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_statsmodels_says_the_same(share):
    pytest.importorskip("statsmodels")
    from statsmodels.tsa.statespace.kalman_smoother import KalmanSmoother

    space = random_space(2, 4, 3)
    z = with_gaps(draws(space, 2, 30), 0, share)
    A, Q, C, R, b, m, P = (p.numpy() for p in space.parameters().values())
    result = kalman_filter(space, z)
    smoothed = kalman_smoother(space, result)
    for i in range(2):
        other = KalmanSmoother(3, 4, transition=A, design=C, selection=np.eye(4))
        other.bind(np.ascontiguousarray(z[i].numpy()))
        other["state_cov"], other["obs_cov"], other["state_intercept"] = Q, R, b - A @ b
        other.initialize_known(A @ (m - b) + b, A @ P @ A.T + Q)
        theirs = other.smooth()
        for ours, own in (
            (result.mean, theirs.filtered_state),
            (result.covariance, theirs.filtered_state_cov),
            (smoothed.mean, theirs.smoothed_state),
            (smoothed.covariance, theirs.smoothed_state_cov),
            (result.log_likelihood, theirs.llf_obs),
        ):
            np.testing.assert_allclose(ours[i], np.moveaxis(own, -1, 0), atol=1e-8)


def test_padding_changes_nothing():
    space = random_space(3, 3, 2)
    z = with_gaps(draws(space, 3, 9), 0)
    lengths = torch.tensor([9, 4, 1])
    padded = z.clone()
    for row, length in zip(padded, lengths, strict=True):
        row[length:] = 7.0
    result = kalman_filter(space, padded, lengths=lengths)
    smoothed = kalman_smoother(space, result, lengths=lengths)
    for i, length in enumerate(lengths):
        alone = kalman_filter(space, z[i : i + 1, :length])
        for ours, own in zip(result, alone, strict=True):
            np.testing.assert_allclose(ours[i, :length], own[0], atol=1e-12)
        states = kalman_smoother(space, alone)
        for ours, own in zip(smoothed, states, strict=True):
            np.testing.assert_allclose(ours[i, :length], own[0], atol=1e-12)


def test_one_observation_at_a_time_gives_the_states_of_the_batch():
    space = random_space(4, 3, 2)
    z = with_gaps(draws(space, 5, 12), 0)
    result = kalman_filter(space, z)
    state = space.initial_state(5)
    for t in range(12):
        state = filter_step(space, state, z[:, t])
        np.testing.assert_allclose(state.mean, result.mean[:, t], atol=1e-12)
        np.testing.assert_allclose(
            state.covariance, result.covariance[:, t], atol=1e-12
        )


def test_forecasts_are_states_with_nothing_observed():
    space = random_space(5, 3, 2)
    z = draws(space, 4, 10)
    z[:, 6:] = torch.nan
    result = kalman_filter(space, z)
    last = kalman_filter(space, z[:, :6])
    state = type(space.initial_state())(last.mean[:, -1], last.covariance[:, -1])
    states = space.forecast(state, 4)
    np.testing.assert_allclose(states.mean, result.mean[:, 6:], atol=1e-12)
    np.testing.assert_allclose(states.covariance, result.covariance[:, 6:], atol=1e-12)
    seen = space.observe(states)
    C, R = space.observation, space.observation_covariance
    np.testing.assert_allclose(
        seen.covariance[0, 0], C @ states.covariance[0, 0] @ C.mT + R, atol=1e-12
    )


def test_sequences_with_the_same_gaps_share_their_covariances():
    space = random_space(6, 3, 2)
    z = draws(space, 50, 10)
    z[:, 4] = torch.nan
    result = kalman_filter(space, z)
    assert result.covariance.stride(0) == 0
    z[0, 5] = torch.nan
    assert kalman_filter(space, z).covariance.stride(0) != 0


def test_draws_have_the_moments_of_the_model():
    space = random_space(7, 2, 2)
    z = draws(space, 20000, 4).numpy().reshape(20000, -1)
    whole = WholeGaussian(space, 4)
    deviation = np.sqrt(np.diag(whole.z_cov))
    np.testing.assert_allclose(z.mean(0), whole.z_mean, atol=0.05 * deviation.max())
    both = deviation[:, None] * deviation
    np.testing.assert_allclose(np.cov(z.T) / both, whole.z_cov / both, atol=0.05)


def test_a_model_in_other_units_gives_the_same_states():
    base = random_space(8, 4, 2)
    parameters = base.parameters() | {"observation": torch.eye(2, 4).double()}
    space = LinearGaussianStateSpace(**parameters)
    z = draws(space, 3, 8)
    loc, scale = torch.tensor([3.0, -50.0]).double(), torch.tensor([0.1, 1e3]).double()
    moved = space.affine(loc, scale)
    ours, theirs = kalman_filter(space, z), kalman_filter(moved, z * scale + loc)
    np.testing.assert_allclose(
        theirs.mean[..., :2], ours.mean[..., :2] * scale + loc, rtol=1e-9
    )
    np.testing.assert_allclose(theirs.mean[..., 2:], ours.mean[..., 2:], rtol=1e-9)
    np.testing.assert_allclose(
        theirs.log_likelihood, ours.log_likelihood - scale.log().sum(), atol=1e-9
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("transition", [[1.0, 2.0]], "transition must have the shape"),
        ("transition", [[np.nan]], "transition holds NaN"),
        ("observation", [1.0], "observation must be a matrix"),
        ("observation_covariance", [[0.0]], "must be positive definite"),
        ("transition_covariance", [[-1.0]], "must not be negative"),
    ],
)
def test_parameters_that_are_none_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        LinearGaussianStateSpace(**B7 | {name: value})


def test_a_covariance_must_be_symmetric():
    eye, skew = np.eye(2), [[1.0, 0.5], [0.0, 1.0]]
    with pytest.raises(ValueError, match="must be symmetric"):
        LinearGaussianStateSpace(eye, skew, eye, eye)


def test_observations_of_another_width_or_in_part_are_refused():
    space = random_space(0, 2, 2)
    with pytest.raises(ValueError, match="must have the shape"):
        kalman_filter(space, torch.zeros(1, 3, 1))
    with pytest.raises(ValueError, match="NaN in part"):
        kalman_filter(space, torch.tensor([[[0.0, torch.nan]]]))


def test_no_steps_are_refused():
    space = random_space(0, 2, 2)
    with pytest.raises(ValueError, match="at least one step; got shape"):
        kalman_filter(space, torch.zeros(1, 0, 2))
    for n_steps in (0, -1):
        with pytest.raises(ValueError, match=f"at least 1.*got {n_steps}"):
            space.forecast(space.initial_state(), n_steps)


def test_variances_too_far_apart_are_refused():
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    space = LinearGaussianStateSpace(
        turn,
        1e-13 * np.eye(3),
        rng.normal(size=(1, 3)),
        [[1e-14]],
        initial_covariance=1e10 * np.eye(3),
    )
    with pytest.raises(ValueError, match="too far apart"):
        kalman_filter(space, torch.zeros(1, 30, 1))


def test_a_state_that_is_known_exactly_cannot_be_smoothed():
    eye, zero = np.eye(1), np.zeros((1, 1))
    space = LinearGaussianStateSpace(eye, zero, eye, eye, initial_covariance=zero)
    result = kalman_filter(space, torch.zeros(1, 3, 1))
    with pytest.raises(ValueError, match="singular"):
        kalman_smoother(space, result)


# ------------------------------------------------------------------------ parallel scan


@settings(max_examples=20, deadline=None)
@given(n_steps=st.integers(1, 40), seed=st.integers(0, 10**6))
def test_the_scan_is_the_product_so_far(n_steps, seed):
    matrices = torch.as_tensor(np.random.default_rng(seed).normal(size=(n_steps, 2, 2)))

    def then(first, second):
        return type(first)(*(b @ a for a, b in zip(first, second, strict=True)))

    element = Gains(matrices, *[matrices] * 3)
    product, expected = torch.eye(2).double(), []
    for matrix in matrices:
        product = matrix @ product
        expected.append(product)
    scanned = associative_scan(then, element).covariance
    torch.testing.assert_close(scanned, torch.stack(expected))
    first = Gains(*(part[:1] for part in element))
    powers = associative_powers(then, first, n_steps).covariance
    torch.testing.assert_close(
        powers, torch.stack([matrices[0].matrix_power(t + 1) for t in range(n_steps)])
    )


@pytest.mark.parametrize("n_steps", [1, 2, 37])
@pytest.mark.parametrize("kind", ["complete", "gaps", "own noise"])
def test_parallel_covariances_are_those_of_the_loop(kind, n_steps):
    space = random_space(9, 4, 2)
    rng = np.random.default_rng(0)
    observed = torch.as_tensor(rng.uniform(size=(n_steps, 3)) > 0.3)
    noise = space.observation_covariance
    if kind == "complete":
        observed = observed[:, :0]
    elif kind == "own noise":
        covariances = [random_covariance(rng, 2) for _ in range(n_steps * 3)]
        noise = torch.as_tensor(np.stack(covariances)).reshape(n_steps, 3, 2, 2)
    parallel, before = _parallel(space, observed, noise)
    for ours, theirs in zip(parallel, _sequential(space, observed, noise), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert _are_equal(before[1:], parallel.covariance[:-1])


def test_gradients_of_both_ways_agree():
    space = random_space(10, 3, 2)
    transition = space.transition.requires_grad_()
    observed, gradients = torch.ones(1, 20, dtype=torch.bool).mT, []
    for way in (_parallel, _sequential):
        gains = way(space, observed, space.observation_covariance)
        gains = gains[0] if way is _parallel else gains
        gradients += torch.autograd.grad(gains.covariance.square().sum(), transition)
    torch.testing.assert_close(*gradients)


def test_where_the_scan_loses_digits_the_loop_takes_over():
    rng = np.random.default_rng(0)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    space = LinearGaussianStateSpace(
        turn,
        1e-10 * np.eye(3),
        rng.normal(size=(1, 3)),
        [[1e-8]],
        initial_covariance=1e6 * np.eye(3),
    )
    observed = torch.ones(30, 0, dtype=torch.bool)
    noise = space.observation_covariance
    parallel, before = _parallel(space, observed, noise)
    assert not _are_equal(before[1:], parallel.covariance[:-1])
    for ours, theirs in zip(
        _gains(space, observed, noise),
        _sequential(space, observed, noise),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


# ----------------------------------------------------------------------------- training


def latent_of(space, entropy=None):
    """Make a latent density with the parameters of the fixture."""
    latent = KalmanPrediction(1, 1, entropy)
    with torch.no_grad():
        latent.transition.fill_(0.9)
        latent.log_transition_variance.fill_(np.log(0.2))
        latent.log_observation_variance.fill_(np.log(0.5))
    return latent


def test_the_loss_is_the_mean_of_the_fixture():
    latent = latent_of(B7)
    z = torch.tensor([[[1.0], [0.5], [-0.2], [9.0]]])
    loss = latent(z, torch.tensor([[True, True, True, False]]))
    assert loss.item() == pytest.approx(-np.mean(B7_LIKELIHOODS), abs=1e-7)


def test_an_entropy_is_added_over_all_embeddings_that_are_there():
    z = torch.randn(4, 6, 1, generator=torch.Generator().manual_seed(0)).double()
    observed = torch.rand(4, 6, generator=torch.Generator().manual_seed(0)) > 0.2
    with_entropy = latent_of(B7, LogDet())(z, observed)
    alone = latent_of(B7)(z, observed)
    entropy = LogDet().entropy(z[observed])
    assert (with_entropy - alone + entropy).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("n_observed", [0, 1])
def test_an_entropy_of_fewer_than_two_embeddings_is_left_out(n_observed):
    z = torch.ones(2, 3, 1, dtype=torch.float64, requires_grad=True)
    observed = torch.zeros(2, 3, dtype=torch.bool)
    observed[0, :n_observed] = True
    loss = latent_of(B7, NearestNeighbour())(z, observed)
    assert loss.item() == pytest.approx(latent_of(B7)(z, observed).item())
    loss.backward()
    assert torch.isfinite(z.grad).all()


def test_noise_of_each_embedding_is_in_units_of_the_common_one():
    latent = latent_of(B7)
    z = torch.randn(2, 5, 1, generator=torch.Generator().manual_seed(0)).double()
    observed = torch.ones(2, 5, dtype=torch.bool)
    ours = latent(z, observed, torch.full((2, 5, 1), 3.0))
    parameters = B7 | {"observation_covariance": [[1.5]]}
    result = kalman_filter(LinearGaussianStateSpace(**parameters), z)
    expected = -result.log_likelihood.mean().item()
    assert ours.item() == pytest.approx(expected, abs=1e-6)


def test_padded_sequences_count_by_their_steps():
    latent = KalmanPrediction(2, 3, generator=torch.Generator().manual_seed(0))
    z = torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(1)).double()
    observed = torch.ones(2, 7, dtype=torch.bool)
    observed[0, 2], observed[1, 4:] = False, False
    alone = [latent(z[:1], observed[:1]), latent(z[1:, :4], observed[1:, :4])]
    expected = (6 * alone[0] + 4 * alone[1]) / 10
    assert latent(z, observed).item() == pytest.approx(expected.item(), abs=1e-12)


def test_a_stopped_gradient_is_the_likelihood_less_the_plug_in_entropy():
    """Equation 54: the gradient of the loss is that of both terms of the identity."""
    generator = torch.Generator().manual_seed(0)
    latent = KalmanPrediction(2, 3, generator=generator)
    encoder = torch.randn(4, 2, generator=generator).double().requires_grad_()
    x = torch.randn(5, 8, 4, generator=generator).double()
    observed = torch.ones(5, 8, dtype=torch.bool)

    def likelihood(target, past, space):
        gains = make_gains(space, observed)
        predicted = filter_means(space, past, gains)[1]
        return log_likelihood(space, target, predicted, gains).mean()

    weights = [encoder, *latent.parameters()]
    ours = torch.autograd.grad(-latent(x @ encoder, observed), weights)
    z = x @ encoder
    full = torch.autograd.grad(likelihood(z, z, latent.state_space()), weights)
    frozen = LinearGaussianStateSpace(
        **{k: v.detach() for k, v in latent.state_space().parameters().items()}
    )
    z = x @ encoder
    entropy = torch.autograd.grad(-likelihood(z, z.detach(), frozen), encoder)[0]
    torch.testing.assert_close(ours[0], full[0] + entropy)
    for a, b in zip(ours[1:], full[1:], strict=True):
        torch.testing.assert_close(a, b)


def test_a_transition_that_explodes_is_shrunk():
    latent = KalmanPrediction(2, 4, generator=torch.Generator().manual_seed(0))
    radius = torch.linalg.eigvals(latent.transition).abs().max().item()
    assert radius == pytest.approx(1 / 1.1)
    before = latent.transition.clone()
    latent.limit_growth()
    assert torch.equal(latent.transition, before)
    with torch.no_grad():
        latent.transition.mul_(2.0)
    latent.limit_growth()
    radius = torch.linalg.eigvals(latent.transition).abs().max().item()
    assert radius == pytest.approx(1.02)


def test_a_state_narrower_than_the_embedding_is_refused():
    with pytest.raises(ValueError, match="raise state_dim"):
        KalmanPrediction(3, 2)
