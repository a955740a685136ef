"""The particle bank: resampling, the weight rule, bandwidths, and the estimator."""

import copy
import math
import os
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from mixture_strategies import PROFILE, SEEDS, double
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

import skgmje
from skgmje import GrowingNeuralGas, ParticleBank
from skgmje.datasets import branch_log_density, make_branches
from skgmje.mixture._particles import (
    Particles,
    effective_sample_size,
    systematic_resampling,
)

WEIGHTS = arrays(
    np.float64, st.integers(1, 30), elements=st.floats(0, 1, width=32)
).filter(lambda weights: weights.max() > 1e-6)
RATES = st.floats(0, 1)


def bank_at(positions, weights=None, bandwidths=1.0, **options):
    """Return a bank in a given state; weights of any sum."""
    positions = double(positions)
    bank = Particles(len(positions), **options)
    bank.positions = positions
    weights = np.ones(len(positions)) if weights is None else weights
    bank.weights = double(weights) / double(weights).mean()
    bank.bandwidths = double(bandwidths).expand(positions.shape[1]).clone()
    return bank


def random_bank(rng, n=20, n_features=2, **options):
    return bank_at(
        rng.normal(size=(n, n_features)),
        rng.gamma(1.0, size=n) + 1e-3,
        rng.uniform(0.1, 2, n_features),
        **options,
    )


def brute_force_joint(z, bank):
    """Log of weight times kernel, pair by pair, where copies explain nothing."""
    shares = (bank.weights / bank.weights.sum()).numpy()
    h = bank.bandwidths.numpy()
    log_joint = np.empty((len(z), len(shares)))
    for b, point in enumerate(z):
        for m, particle in enumerate(bank.positions.numpy()):
            kernel = -0.5 * ((point - particle) / h) ** 2
            kernel = kernel - np.log(h) - 0.5 * math.log(2 * math.pi)
            is_copy = (point == particle).all()
            log_joint[b, m] = -np.inf if is_copy else np.log(shares[m]) + kernel.sum()
    return log_joint


def branches(kind, seed, n_train=3000, n_test=5000):
    """Return standardised train and test pairs, the oracle and log std of y."""
    train = np.hstack(make_branches(n_train, kind=kind, random_state=seed))
    X, y = make_branches(n_test, kind=kind, random_state=1000 + seed)
    mean, scale = train.mean(0), train.std(0)
    test = (np.hstack([X, y]) - mean) / scale
    oracle = branch_log_density(X, y, kind=kind).mean() + np.log(scale[1])
    return (train - mean) / scale, test, oracle


def conditional_log_likelihood(bank, test):
    conditional = bank.condition([0], test[:, :1])
    return float(conditional.log_prob(double(test[:, 1:])).mean())


# --------------------------------------------------------------------------- resampling


def test_systematic_resampling_of_the_fixture():
    weights = double([0.5, 0.2, 0.2, 0.1])
    # Positions 0.1 + j / 4.
    assert systematic_resampling(weights, 4, 0.4).tolist() == [0, 0, 1, 2]
    assert float(effective_sample_size(weights)) == pytest.approx(2.941176470588)


@PROFILE
@given(WEIGHTS, st.integers(1, 40), st.floats(0, 1, exclude_max=True))
def test_counts_are_their_mean_rounded_up_or_down(weights, n_draws, offset):
    indices = systematic_resampling(double(weights), n_draws, offset)
    counts = np.bincount(indices, minlength=len(weights))
    expected = n_draws * weights / weights.sum()
    assert counts.sum() == n_draws
    assert (counts >= np.floor(expected - 1e-6)).all()
    assert (counts <= np.ceil(expected + 1e-6)).all()
    assert (counts[weights == 0] == 0).all()
    assert (np.diff(indices) >= 0).all()


@PROFILE
@given(WEIGHTS)
def test_counts_are_right_on_average(weights):
    n, n_offsets = len(weights), 400
    counts = sum(
        np.bincount(
            systematic_resampling(double(weights), n, (i + 0.5) / n_offsets),
            minlength=n,
        )
        for i in range(n_offsets)
    )
    expected = n * weights / weights.sum()
    np.testing.assert_allclose(counts / n_offsets, expected, atol=2 / n_offsets)


@PROFILE
@given(WEIGHTS, st.floats(1e-250, 1e250))
def test_the_effective_sample_size_lies_between_one_and_all(weights, factor):
    size = float(effective_sample_size(double(weights)))
    assert 1 - 1e-9 <= size <= len(weights) + 1e-9
    scaled = float(effective_sample_size(double(weights) * factor))
    assert scaled == pytest.approx(size, rel=1e-6)


def test_the_effective_sample_size_of_equal_and_of_single_weights():
    assert float(effective_sample_size(torch.ones(7))) == 7
    assert float(effective_sample_size(double([0, 1e-300, 0]))) == 1


# ------------------------------------------------------------------------- one EM step


def test_the_weight_step_of_the_fixture():
    bank = bank_at([[0.0], [1.0], [3.0]], bandwidth=1.0)
    shares = bank._expectation(double([[0.2], [1.1]]))
    alpha = shares.particles / shares.n_samples * 3
    expected = [1.33201893, 1.50608851, 0.16189255]
    np.testing.assert_allclose(alpha, expected, rtol=1e-7)
    bank.refine(double([[0.2], [1.1]]))
    weights = bank.weights / bank.weights.sum()
    np.testing.assert_allclose(weights, [0.44400631, 0.5020295, 0.05396418], rtol=1e-7)


@PROFILE
@given(SEEDS, st.integers(1, 40))
def test_weights_times_alpha_sum_to_one(seed, n_samples):
    rng = np.random.default_rng(seed)
    bank = random_bank(rng)
    z = double(rng.normal(scale=3, size=(n_samples, 2)))
    density = bank.density
    log_ratio = density.component_log_prob(z) - density.log_prob(z).unsqueeze(1)
    alpha = log_ratio.exp().mean(0)
    assert float((density.weights * alpha).sum()) == pytest.approx(1)
    shares = bank._expectation(z)
    np.testing.assert_allclose(
        shares.particles / n_samples, density.weights * alpha, rtol=1e-9, atol=1e-12
    )


@PROFILE
@given(SEEDS, RATES, RATES)
def test_the_likelihood_of_a_batch_never_falls(seed, weights_rate, bandwidth_rate):
    rng = np.random.default_rng(seed)
    bank = random_bank(rng)
    # Some samples are particles: the likelihood is that of the other particles.
    z = double(rng.normal(scale=rng.uniform(0.1, 3), size=(15, 2)))
    z = torch.cat([z, bank.positions[:5]])
    before = logsumexp(brute_force_joint(z.numpy(), bank), axis=1).sum()
    bank._learn(z, weights_rate, bandwidth_rate)
    after = logsumexp(brute_force_joint(z.numpy(), bank), axis=1).sum()
    assert after >= before - 1e-9 * abs(before)


def test_a_step_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    bank = random_bank(rng)
    z = np.vstack([rng.normal(size=(7, 2)), bank.positions[3:5].numpy()])
    log_joint = brute_force_joint(z, bank)
    shares = np.exp(log_joint - logsumexp(log_joint, axis=1, keepdims=True))
    squares = (z[:, None] - bank.positions.numpy()) ** 2
    bank.refine(double(z))
    expected = np.sqrt(np.einsum("bm,bmd->d", shares, squares) / len(z))
    np.testing.assert_allclose(bank.bandwidths, expected, rtol=1e-9)
    weights = bank.weights / bank.weights.sum()
    np.testing.assert_allclose(weights, shares.mean(0), rtol=1e-9)


def test_blocks_of_samples_add_up(monkeypatch):
    rng = np.random.default_rng(0)
    z = double(rng.normal(size=(200, 2)))
    whole, parts = (random_bank(np.random.default_rng(1)) for _ in range(2))
    whole.refine(z)
    monkeypatch.setattr("skgmje._backend.BLOCK_NUMBERS", 1)
    parts.refine(z)
    np.testing.assert_allclose(parts.weights, whole.weights, rtol=1e-12)
    np.testing.assert_allclose(parts.bandwidths, whole.bandwidths, rtol=1e-12)
    np.testing.assert_allclose(parts.log_prob(z), parts.density.log_prob(z))


def test_far_samples_leave_weights_and_bandwidths_finite():
    bank = random_bank(np.random.default_rng(0))
    z = double([[1e8, -1e8], [0.0, 0.0], [1e100, 0.0]])
    bank.step(z)
    assert torch.isfinite(bank.weights).all()
    assert torch.isfinite(bank.bandwidths).all()
    assert float(bank.weights.mean()) == pytest.approx(1)
    assert torch.isfinite(bank.log_prob(z[:2])).all()


def test_the_first_bandwidth_maximises_the_likelihood_of_each_under_the_others():
    x = np.random.default_rng(0).normal(size=(80, 1)) ** 3

    def loss(log_h):
        bank = bank_at(x, bandwidths=math.exp(log_h))
        return -logsumexp(brute_force_joint(x, bank), axis=1).sum()

    bank = Particles(100)
    bank.initialize(double(x), 0)
    best = minimize_scalar(loss, bounds=(-6, 2), method="bounded")
    log_h = math.log(float(bank.bandwidths[0]))
    assert loss(log_h) - best.fun < 0.05
    assert log_h == pytest.approx(best.x, abs=0.1)


def test_silverman_is_the_rule():
    z = double(np.random.default_rng(0).normal(size=(50, 3))) * double([1, 2, 5])
    bank = Particles(60, bandwidth="silverman", learning_rate=0.0)
    bank.initialize(z, 0)
    expected = 50 ** (-1 / 7) * z.std(0, correction=0)
    np.testing.assert_allclose(bank.bandwidths, expected)
    bank.step(10 * z)
    expected = 60 ** (-1 / 7) * bank.positions.std(0, correction=0)
    np.testing.assert_allclose(bank.bandwidths, expected)


# ----------------------------------------------------------------------------- turnover


@pytest.mark.parametrize("n_particles", [49, 64, 100])
def test_without_learning_the_bank_is_a_queue(n_particles):
    X = np.random.default_rng(0).normal(size=(300, 2))
    bank = ParticleBank(n_particles, learning_rate=0, n_refinements=0, random_state=0)
    bank.fit(X[:20])
    for start in range(20, 300, 35):
        bank.partial_fit(X[start : start + 35])
    np.testing.assert_array_equal(bank.particles_, X[-n_particles:])
    np.testing.assert_array_equal(bank.weights_, bank.weights_[0])
    assert bank.effective_sample_size_ == pytest.approx(n_particles)


def test_the_least_weights_go_first():
    bank = bank_at([[0.0], [1.0], [2.0], [3.0]], [4, 1, 2, 3], learning_rate=0.0)
    bank.step(double([[9.0]]))
    assert bank.positions.ravel().tolist() == [0, 2, 3, 9]
    expected = np.array([1.6, 0.8, 1.2, 1.0]) / np.mean([1.6, 0.8, 1.2, 1.0])
    np.testing.assert_allclose(bank.weights, expected)


def test_few_effective_particles_are_drawn_anew():
    def step(**options):
        weights = [1e-9] * 7 + [8]
        bank = bank_at(np.arange(8.0)[:, None], weights, learning_rate=0.0, **options)
        bank.step(double([[20.0]]))
        return bank

    bank = step()
    assert bank.weights.tolist() == [1] * 8
    assert set(bank.positions.ravel().tolist()) == {7.0, 20.0}
    assert len(step(min_ess=0.0).positions.unique()) == 8
    jittered = step(jitter=0.1)
    assert len(jittered.positions.unique()) == 8
    assert float((jittered.positions - bank.positions).abs().max()) < 1


def test_decay_forgets_by_age():
    bank = bank_at(np.arange(4.0)[:, None], learning_rate=0.0, decay=0.5)
    bank.n_particles = 6
    for x in (10.0, 11.0):
        bank.step(double([[x]]))
    # Whatever is already there weighs one on average when a sample comes.
    w = np.array([0.5] * 4 + [1])
    w = w / w.mean()
    w = np.append(0.5 * w, 1)
    np.testing.assert_allclose(bank.weights, w / w.mean())


def test_further_passes_do_not_collapse_the_bandwidths():
    X = np.random.default_rng(0).normal(size=(200, 2))
    bank = ParticleBank(500, random_state=0).fit(X)
    once = bank.bandwidth_.copy()
    for _ in range(10):
        bank.partial_fit(X)
    assert (bank.bandwidth_ > 0.7 * once).all()


def test_the_state_goes_on_to_the_bit():
    rng = np.random.default_rng(0)
    z = double(rng.normal(size=(300, 2)))
    bank = Particles(40, learning_rate=1.0, jitter=0.1, min_ess=1.0)
    assert bank.state() == {}
    bank.initialize(z[:100], 7)
    state = {name: value.clone() for name, value in bank.state().items()}
    again = Particles(40, learning_rate=1.0, jitter=0.1, min_ess=1.0)
    again.set_state({})
    again.set_state(state)
    for batch in z[100:].split(50):
        bank.step(batch)
        again.step(batch)
    for name, value in bank.state().items():
        assert torch.equal(value, again.state()[name]), name


# ---------------------------------------------------------------------------- estimator


@pytest.mark.parametrize("seed", range(5))
def test_conditionals_of_the_separated_branches_are_near_the_oracle(seed):
    train, test, oracle = branches("separated", seed)
    bank = ParticleBank(1024, random_state=seed).fit(train)
    assert bank.particles_.shape == (1024, 2)
    assert oracle - conditional_log_likelihood(bank, test) < 0.15


def test_refinements_learn_from_samples_that_were_not_kept():
    train, test, _ = branches("separated", 0)
    plain, refined = (
        conditional_log_likelihood(
            ParticleBank(256, n_refinements=n, random_state=0).fit(train), test
        )
        for n in (0, 3)
    )
    assert refined > plain + 0.05


def test_weights_follow_a_drift_that_a_queue_lags_behind():
    def held_out(learning_rate):
        rng = np.random.default_rng(0)
        bank, scores = ParticleBank(512, learning_rate=learning_rate), []
        for t in range(25):
            centres = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]])
            X = centres[rng.integers(3, size=128)] + 0.3 * rng.normal(size=(128, 2))
            c, s = math.cos(0.1 * t), math.sin(0.1 * t)
            X = X @ np.array([[c, -s], [s, c]])
            if t > 5:
                scores.append(bank.score(X))
            bank.partial_fit(X)
        return np.mean(scores)

    assert held_out(1.0) > held_out(0.0) + 0.1


def test_equal_weights_and_a_given_bandwidth_are_the_kernel_density():
    X = np.random.default_rng(0).normal(size=(60, 3))
    bank = ParticleBank(bandwidth=0.4).fit(X)
    peer = KernelDensity(bandwidth=0.4, rtol=1e-12).fit(X)
    Z = 2 * X[:20] + 0.1
    np.testing.assert_allclose(bank.score_samples(Z), peer.score_samples(Z))
    assert bank.score(Z) == pytest.approx(peer.score(Z) / len(Z))


def test_the_conditional_mean_is_the_kernel_regression():
    train = branches("intersecting", 0, n_train=300)[0]
    bank = ParticleBank(100, random_state=0).fit(train)
    distance = (0.3 - bank.particles_[:, 0]) / bank.bandwidth_[0]
    kernel = bank.weights_ * np.exp(-0.5 * distance**2)
    expected = kernel @ bank.particles_[:, 1] / kernel.sum()
    conditional = bank.condition([0], [[0.3]])
    assert float(conditional.mean) == pytest.approx(expected)
    assert conditional.covariance_type == "diag"
    # One scale for all, never a copy for each particle.
    assert conditional.scale_diag.numel() == 1
    assert bank.density_.scale_diag.shape == (1, 2)


def test_density_and_scores_agree():
    train, test, _ = branches("separated", 0, n_train=500, n_test=50)
    bank = ParticleBank(200, random_state=0).fit(train)
    expected = bank.density_.log_prob(double(test))
    np.testing.assert_allclose(bank.score_samples(test), expected, rtol=1e-10)
    assert bank.weights_.sum() == pytest.approx(1)


def test_samples_are_those_of_the_density():
    bank = ParticleBank(50, random_state=0).fit(branches("separated", 0)[0])
    X, particle = bank.sample(20_000, random_state=0)
    np.testing.assert_allclose(X.mean(0), bank.density_.mean, atol=0.03)
    np.testing.assert_allclose(np.cov(X.T), bank.density_.covariance_matrix, atol=0.05)
    distance = (X - bank.particles_[particle]) / bank.bandwidth_
    np.testing.assert_allclose(distance.std(0), 1, atol=0.03)


def test_names_and_data_frames_work():
    X = pd.DataFrame(branches("separated", 0, n_train=100)[0], columns=["x", "y"])
    bank = ParticleBank(50, random_state=0).fit(X).set_output(transform="pandas")
    assert bank.condition("x", X[["x"]][:3]).mean.columns.tolist() == ["y"]
    assert bank.sample(4)[0].columns.tolist() == ["x", "y"]


def test_the_bandwidth_can_be_searched_for():
    X = np.random.default_rng(0).normal(size=(200, 1))
    search = GridSearchCV(ParticleBank(), {"bandwidth": [1e-3, 0.3, 30.0]}).fit(X)
    assert search.best_params_ == {"bandwidth": 0.3}


def test_the_same_bank_comes_back_and_goes_on(tmp_path):
    train, test, _ = branches("separated", 0, n_train=600, n_test=50)
    bank = ParticleBank(200, learning_rate=1.0, random_state=0).fit(train[:400])
    bank.save(tmp_path / "bank.safetensors")
    for again in (
        skgmje.load(tmp_path / "bank.safetensors"),
        pickle.loads(pickle.dumps(bank)),
        clone(bank).fit(train[:400]),
    ):
        np.testing.assert_array_equal(
            again.score_samples(test), bank.score_samples(test)
        )
        np.testing.assert_array_equal(
            again.partial_fit(train[400:]).weights_,
            pickle.loads(pickle.dumps(bank)).partial_fit(train[400:]).weights_,
        )


@pytest.mark.parametrize(
    "bandwidth", [[1.0, 2.0, 3.0], [1.0, -1.0], [[1.0, 1.0]], [np.nan, 1.0]]
)
def test_bandwidths_that_do_not_fit_are_refused(bandwidth):
    with pytest.raises(ValueError, match="bandwidth"):
        ParticleBank(bandwidth=bandwidth).fit(np.eye(2))


@pytest.mark.parametrize("bandwidth", ["ml", "silverman"])
@pytest.mark.parametrize(
    "X",
    [
        np.ones((30, 2)),
        np.column_stack([np.arange(30.0), np.full(30, 5.0)]),
        np.repeat(np.random.default_rng(0).normal(size=(10, 2)), 5, axis=0),
        np.random.default_rng(0).normal(size=(4, 9)),
        np.random.default_rng(0).integers(2, size=(50, 3)).astype(float),
        1e9 + np.random.default_rng(0).normal(size=(50, 2)),
        np.array([[0.0], [1.0]]),
    ],
    ids=["point", "constant", "repeated", "wide", "binary", "offset", "two"],
)
def test_degenerate_data_have_a_finite_density(X, bandwidth):
    for n_particles in (8, 100):
        bank = ParticleBank(n_particles, bandwidth=bandwidth, random_state=0).fit(X)
        bank.partial_fit(X)
        assert np.isfinite(bank.score_samples(X)).all()
        assert np.isfinite(bank.score_samples(X + 1)).all()
        assert (bank.bandwidth_ > 0).all()
        assert bank.weights_.sum() == pytest.approx(1)


def test_repeated_rows_do_not_narrow_the_kernel():
    X = np.random.default_rng(0).normal(size=(60, 2))
    once = ParticleBank(random_state=0).fit(X)
    often = ParticleBank(random_state=0).fit(np.repeat(X, 3, axis=0))
    np.testing.assert_allclose(often.bandwidth_, once.bandwidth_, rtol=0.05)


@pytest.mark.parametrize("change", [np.asfortranarray, lambda X: X[:, ::-1][:, ::-1]])
def test_layout_and_byte_order_change_nothing(change):
    X = np.random.default_rng(0).normal(size=(60, 2))
    expected = ParticleBank(30, random_state=0).fit(X).score_samples(X)
    other = change(X.astype(">f8"))
    other.flags.writeable = False
    bank = ParticleBank(30, random_state=0).fit(other)
    np.testing.assert_array_equal(bank.score_samples(other), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_bank_on_cuda_agrees_with_the_cpu():
    train, test, _ = branches("separated", 0, n_train=800, n_test=50)
    on_cpu, on_cuda = (
        ParticleBank(200, min_ess=1.0, random_state=0, device=device)
        .fit(train[:600])
        .partial_fit(train[600:])
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(on_cuda.particles_, on_cpu.particles_)
    np.testing.assert_allclose(on_cuda.score_samples(test), on_cpu.score_samples(test))
    conditional = on_cuda.condition([0], test[:, :1])
    assert conditional.mean.device.type == "cuda"


# ---------------------------------------------------------------------------- processes

PROCESS = """
import sys, numpy as np, torch.distributed
from skgmje import ParticleBank

torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
X = np.load(sys.argv[1])
cut = slice(0, 90) if rank == 0 else slice(90, None)
bank = ParticleBank(64, random_state=rank).fit(X[cut]).partial_fit(X[cut])
np.savez(
    f"{sys.argv[1]}.{rank}",
    particles=bank.particles_, weights=bank.weights_, bandwidth=bank.bandwidth_,
)
torch.distributed.destroy_process_group()
"""


def test_two_processes_end_with_the_bank_of_one(tmp_path):
    script, data = tmp_path / "fit.py", tmp_path / "data.npy"
    script.write_text(PROCESS)
    X = np.random.default_rng(0).normal(size=(300, 2))
    np.save(data, X)
    process = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node=2", str(script), str(data)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    one = ParticleBank(64, random_state=0).fit(X).partial_fit(X)
    for rank in range(2):
        found = np.load(f"{data}.{rank}.npz")
        np.testing.assert_array_equal(found["particles"], one.particles_)
        np.testing.assert_allclose(found["weights"], one.weights_)
        np.testing.assert_allclose(found["bandwidth"], one.bandwidth_)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("where", ["device", "state"])
@pytest.mark.parametrize(
    "estimator", [ParticleBank(20, random_state=0), GrowingNeuralGas(9, random_state=0)]
)
def test_a_fit_that_fails_leaves_everything_as_it_was(
    estimator, where, method, monkeypatch
):
    rng = np.random.default_rng(0)
    estimator = clone(estimator).fit(rng.normal(size=(60, 2)))
    before = copy.deepcopy(vars(estimator))
    with monkeypatch.context() as context:
        if where == "device":
            context.setattr(torch.cuda, "is_available", lambda: False)
            context.setattr(estimator, "device", "cuda")
        else:
            context.setattr(estimator, "_store", interrupt)
        X = rng.normal(size=(60, 3 if method == "fit" else 2))
        with pytest.raises((ValueError, KeyboardInterrupt)):
            getattr(estimator, method)(X)
    assert vars(estimator).keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(estimator, name), value)


def interrupt(*arguments):
    raise KeyboardInterrupt
