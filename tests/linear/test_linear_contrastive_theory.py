"""The closed forms of linear contrastive learning against brute force and theorems."""

import numpy as np
import pytest
import torch
from contrastive_gaussians import (
    OBJECTIVES,
    UU,
    UV,
    VV,
    batch_loss,
    blocks,
    gaussian_kl,
    inverse_root,
    mutual_information,
    population_loss,
    random_covariance,
    random_pair,
    root,
    side_by_side,
    tilted_conditional,
    truncated,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from skgmje import LinearContrastive

EXAMPLES = settings(deadline=None, max_examples=20, derandomize=True)
FEW = settings(deadline=None, max_examples=6, derandomize=True)
SEEDS = st.integers(0, 2**31 - 1)
FIXTURE = side_by_side(UU, VV, UV)
each_objective = pytest.mark.parametrize("objective", OBJECTIVES)
each_quadratic = pytest.mark.parametrize("objective", OBJECTIVES[2:])


def solve(covariance, n_features, objective="inner_conditional", rank=None):
    return LinearContrastive.from_covariance(
        covariance, n_features, objective=objective, rank=rank
    )


def tilting(model):
    return model.context_components_.T @ model.target_components_


# -------------------------------------------------------------------------- fixtures


@pytest.mark.parametrize(
    ("objective", "rank", "loss"),
    [
        ("inner_conditional", 1, -0.167013185630),
        ("inner_conditional", 2, -0.227005870841),
        ("inner_joint", 2, -0.203856737098),
    ],
)
def test_losses_of_inner_products(objective, rank, loss):
    assert_allclose(solve(FIXTURE, 2, objective, rank).loss_, loss, atol=1e-11)


@pytest.mark.parametrize(
    ("objective", "rank", "divergence"),
    [
        ("quadratic_target", 1, 0.063908373564),
        ("quadratic_context", 1, 0.063908373564),
        ("quadratic_target", 2, 0.0),
        ("quadratic_joint", 2, 0.085393167427),
    ],
)
def test_divergences_of_quadratic_tiltings(objective, rank, divergence):
    model = solve(FIXTURE, 2, objective, rank)
    assert_allclose(model.divergence_, divergence, atol=1e-11)
    assert_allclose(model.mutual_information_, 0.267161076421, atol=2e-7)
    assert_allclose(model.mutual_information_, mutual_information(FIXTURE, 2))


@pytest.mark.parametrize(
    ("objective", "rank", "expected"),
    [
        ("inner_conditional", 2, [[0.22309198, -0.2446184], [-0.04305284, 0.60861057]]),
        (
            "inner_conditional",
            1,
            [[0.05557951, -0.26471597], [-0.12570136, 0.59869468]],
        ),
        ("inner_joint", 2, [[0.1951121, -0.1912571], [-0.02485553, 0.48251708]]),
    ],
)
def test_products_of_encoders(objective, rank, expected):
    assert_allclose(tilting(solve(FIXTURE, 2, objective, rank)), expected, atol=1e-8)


@pytest.mark.parametrize(
    ("objective", "squares"),
    [
        ("inner_conditional", [0.57795015, 0.34638904]),
        ("inner_joint", [0.45716085, 0.31255096]),
        ("quadratic_conditional", [0.83152796, 0.33710043]),
        ("quadratic_joint", [0.68469417, 0.26498106]),
    ],
)
def test_gains_of_both_encoders(objective, squares):
    model = solve(FIXTURE, 2, objective)
    for components, covariance in (
        (model.context_components_, UU),
        (model.target_components_, VV),
    ):
        gains = components @ covariance @ components.T
        assert_allclose(gains, np.diag(squares), atol=1e-8)
    correlations = [0.57795015, 0.34638904]
    assert_allclose(model.canonical_correlations_, correlations, atol=1e-8)


def test_the_example_of_two_columns():
    covariance = np.array([[1.5, 1.0], [1.0, 1.5]])
    conditional = solve(covariance, 1)
    assert_allclose(tilting(conditional), 4 / 9)
    assert_allclose(conditional.coef_, 2 / 3)
    assert_allclose(tilting(solve(covariance, 1, "inner_joint")), 1 / 3)
    exact = solve(covariance, 1, "quadratic_context")
    assert_allclose(exact.context_components_, 0.7303, atol=5e-5)
    assert_allclose(exact.target_components_, 1.0954, atol=5e-5)
    assert_allclose(exact.conditional_covariance_reverse_, 5 / 6)


@pytest.mark.parametrize("s", [0.0, 0.2, 2 / 3, 0.95])
def test_slopes_and_variances_of_one_pair(s):
    h = 0.0 if s == 0 else (np.sqrt(1 + 4 * s**2) - 1) / (2 * s)
    m = 2 / (np.sqrt(9 - 8 * s) - 1)
    assert_allclose(1 / m + 1 / m**2, 2 * (1 - s))
    table = {
        "inner_conditional": (s, 1),
        "inner_joint": (h, 1),
        "quadratic_target": (s, 1 - s**2),
        "quadratic_conditional": ((m - 1) / m, 1 / m),
        "quadratic_joint": (s / (2 - s), 2 * (1 - s) / (2 - s)),
    }
    for objective, (slope, variance) in table.items():
        model = solve([[1, s], [s, 1]], 1, objective)
        assert_allclose(model.coef_, slope, atol=1e-12)
        assert_allclose(model.conditional_covariance_, variance, atol=1e-12)
        if objective == "quadratic_target":
            objective = "quadratic_context"
            model = solve([[1, s], [s, 1]], 1, objective)
        assert_allclose(model.coef_reverse_, slope, atol=1e-12)
        assert_allclose(model.conditional_covariance_reverse_, variance, atol=1e-12)


# ------------------------------------------------------------------------- optimality


def trained_loss(objective, covariance, n_features, rank, rng):
    """Minimise the loss over both encoders from a random start."""
    moments = blocks(covariance, n_features)
    widths = n_features, len(covariance) - n_features
    # White coordinates are only a kinder start: every encoder can be reached.
    whiteners = [torch.from_numpy(inverse_root(view)) for view in moments[:2]]

    def loss_and_gradient(flat):
        flat = torch.tensor(flat, requires_grad=True)
        parts = flat.split([rank * width for width in widths])
        encoders = [
            part.reshape(rank, -1) @ whitener
            for part, whitener in zip(parts, whiteners, strict=True)
        ]
        loss = population_loss(objective, *encoders, *moments)
        if not torch.isfinite(loss):
            return 1e6, np.zeros(len(flat))
        loss.backward()
        return loss.item(), flat.grad.numpy()

    start = 0.3 * rng.normal(size=rank * sum(widths))
    return minimize(
        loss_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-8}
    ).fun


@each_objective
@FEW
@given(seed=SEEDS)
def test_training_approaches_the_closed_form(objective, seed):
    rng = np.random.default_rng(seed)
    covariance, n_features = random_pair(rng)
    narrow = min(n_features, len(covariance) - n_features)
    rank = int(rng.integers(1, narrow + 1))
    best = solve(covariance, n_features, objective, rank).loss_
    losses = [
        trained_loss(objective, covariance, n_features, rank, rng) for _ in range(3)
    ]
    assert min(losses) >= best - 1e-9
    assert min(losses) <= best + 1e-6


@each_objective
@EXAMPLES
@given(seed=SEEDS)
def test_the_loss_is_that_of_the_encoders(objective, seed):
    rng = np.random.default_rng(seed)
    covariance, n_features = random_pair(rng)
    model = solve(covariance, n_features, objective)
    G, H = model.context_components_, model.target_components_
    moments = blocks(covariance, n_features)
    assert_allclose(population_loss(objective, G, H, *moments), model.loss_)
    # No small change of the encoders is better.
    for size in (1e-2, 0.3):
        other = [m + size * rng.normal(size=m.shape) for m in (G, H)]
        assert population_loss(objective, *other, *moments) >= model.loss_ - 1e-12


@each_objective
def test_the_loss_is_that_of_a_large_batch(objective):
    rng = np.random.default_rng(0)
    model = solve(FIXTURE, 2, objective)
    rows = rng.multivariate_normal(np.zeros(4), FIXTURE, size=2500)
    logits = torch.from_numpy(model.similarity(rows[:, :2], rows[:, 2:]))
    assert_allclose(batch_loss(objective, logits), model.loss_, atol=0.025)


@each_objective
@EXAMPLES
@given(seed=SEEDS)
def test_the_divergence_is_that_of_the_conditionals_or_the_joint(objective, seed):
    rng = np.random.default_rng(seed)
    covariance, n_features = random_pair(rng)
    model = solve(covariance, n_features, objective)
    uu, vv, uv = blocks(covariance, n_features)
    if objective.endswith("joint"):
        G, H = model.context_components_, model.target_components_
        zero = np.zeros_like(uv)
        precision = np.linalg.inv(side_by_side(uu, vv, zero))
        if objective == "inner_joint":
            precision -= side_by_side(0 * uu, 0 * vv, G.T @ H)
        else:
            both = np.hstack([G, -H])
            precision += both.T @ both
        expected = gaussian_kl(covariance, np.linalg.inv(precision))
    else:
        target = mean_kl(uu, vv, uv, model.coef_, model.conditional_covariance_)
        context = mean_kl(
            vv, uu, uv.T, model.coef_reverse_, model.conditional_covariance_reverse_
        )
        kind = objective.split("_")[1]
        both = (target + context) / 2
        expected = {"target": target, "context": context, "conditional": both}[kind]
    assert_allclose(model.divergence_, expected, atol=1e-9)


def mean_kl(uu, vv, uv, coef, covariance):
    """Mean divergence of the true conditional of v given u from the model's."""
    slope = np.linalg.solve(uu, uv).T
    error = slope - coef
    return gaussian_kl(vv - slope @ uv, covariance, error @ uu @ error.T)


# --------------------------------------------------------------------------- theorems


@pytest.mark.parametrize("tilting", ["inner", "quadratic"])
@EXAMPLES
@given(seed=SEEDS)
def test_the_conditional_loss_is_at_most_the_joint_loss(tilting, seed):
    rng = np.random.default_rng(seed)
    covariance, n_features = random_pair(rng)
    moments = blocks(covariance, n_features)
    rank = int(rng.integers(1, 4))
    scale = np.exp(rng.uniform(-3, 0))
    G, H = (scale * rng.normal(size=(rank, len(m))) for m in moments[:2])
    losses = [
        population_loss(f"{tilting}_{kind}", G, H, *moments)
        for kind in ("conditional", "joint")
    ]
    assert losses[0] <= losses[1] + 1e-12
    optima = [
        solve(covariance, n_features, f"{tilting}_{kind}").loss_
        for kind in ("conditional", "joint")
    ]
    assert optima[0] <= optima[1] + 1e-12


@pytest.mark.parametrize("kind", ["target", "context"])
@EXAMPLES
@given(seed=SEEDS)
def test_one_sided_losses_cost_what_the_rank_leaves_out(kind, seed):
    rng = np.random.default_rng(seed)
    covariance, n_features = random_pair(rng, min_width=2)
    for rank in range(1, min(n_features, len(covariance) - n_features) + 1):
        model = solve(covariance, n_features, f"quadratic_{kind}", rank)
        left_out = model.canonical_correlations_[rank:]
        assert_allclose(
            model.divergence_, -np.log1p(-(left_out**2)).sum() / 2, atol=1e-12
        )


@EXAMPLES
@given(seed=SEEDS)
def test_an_exact_tilting_ranks_by_the_posterior(seed):
    rng = np.random.default_rng(seed)
    covariance, n_features = random_pair(rng)
    model = solve(covariance, n_features, "quadratic_target")
    U, V = rng.normal(size=(4, n_features)), rng.normal(size=(6, model.n_targets_in_))
    similarity = model.similarity(U, V)
    conditional = np.stack([model.score_samples(np.tile(u, (6, 1)), V) for u in U])
    marginal = multivariate_normal(cov=model.target_covariance_).logpdf(V)
    constant = similarity - (conditional - marginal)
    assert_allclose(constant, np.tile(constant[:, :1], (1, 6)), atol=1e-9)


@each_objective
@EXAMPLES
@given(seed=SEEDS)
def test_conditionals_are_those_of_the_tilting(objective, seed):
    rng = np.random.default_rng(seed)
    covariance, n_features = random_pair(rng)
    rank = min(n_features, len(covariance) - n_features, int(rng.integers(1, 4)))
    model = solve(covariance, n_features, objective, rank)
    uu, vv, _ = blocks(covariance, n_features)
    G, H = model.context_components_, model.target_components_
    coef, conditional = tilted_conditional(objective, G, H, vv)
    assert_allclose(model.coef_, coef, atol=1e-9)
    assert_allclose(model.conditional_covariance_, conditional, atol=1e-9)
    coef, conditional = tilted_conditional(objective, H, G, uu)
    assert_allclose(model.coef_reverse_, coef, atol=1e-9)
    assert_allclose(model.conditional_covariance_reverse_, conditional, atol=1e-9)


@EXAMPLES
@given(seed=SEEDS)
def test_inner_products_give_the_best_means_of_a_rank_and_no_covariance(seed):
    rng = np.random.default_rng(seed)
    covariance, n_features = random_pair(rng)
    uu, vv, uv = blocks(covariance, n_features)
    model = solve(covariance, n_features)
    assert_allclose(model.coef_, np.linalg.solve(uu, uv).T, atol=1e-9)
    assert_allclose(model.coef_reverse_, np.linalg.solve(vv, uv.T).T, atol=1e-9)
    narrowed = solve(covariance, n_features, rank=1)
    whitened = inverse_root(uu) @ uv @ inverse_root(vv)
    best = root(vv) @ truncated(whitened, 1).T @ inverse_root(uu)
    assert_allclose(narrowed.coef_, best, atol=1e-9)
    for fitted in (model, narrowed):
        assert_allclose(fitted.conditional_covariance_, vv, atol=1e-9)
        assert_allclose(fitted.conditional_covariance_reverse_, uu, atol=1e-9)


@EXAMPLES
@given(seed=SEEDS)
def test_one_sided_quadratic_losses_are_exact_in_their_direction_alone(seed):
    rng = np.random.default_rng(seed)
    # With fewer targets a context that is exact needs as many rows as there are.
    covariance, n_features = random_pair(rng)
    uu, vv, uv = blocks(covariance, n_features)
    target = solve(covariance, n_features, "quadratic_target")
    context = solve(covariance, n_features, "quadratic_context")
    slope, slope_reverse = np.linalg.solve(uu, uv).T, np.linalg.solve(vv, uv.T).T
    assert_allclose(target.coef_, slope, atol=1e-9)
    assert_allclose(target.conditional_covariance_, vv - slope @ uv, atol=1e-9)
    assert_allclose(context.coef_reverse_, slope_reverse, atol=1e-9)
    assert_allclose(
        context.conditional_covariance_reverse_, uu - slope_reverse @ uv.T, atol=1e-9
    )
    wrong = target.conditional_covariance_reverse_ - (uu - slope_reverse @ uv.T)
    assert abs(wrong).max() > 1e-3


@pytest.mark.parametrize("objective", ["inner_conditional", "inner_joint"])
@EXAMPLES
@given(seed=SEEDS)
def test_the_joint_loss_widens_marginals_less_and_biases_means(objective, seed):
    rng = np.random.default_rng(seed)
    covariance, n_features = random_pair(rng)
    uu, vv, uv = blocks(covariance, n_features)
    model = solve(covariance, n_features, objective)
    s = model.canonical_correlations_
    shrunk = s if objective == "inner_conditional" else 2 * s / (1 + np.hypot(1, 2 * s))
    precision = np.linalg.inv(side_by_side(uu, vv, 0 * uv))
    precision -= side_by_side(0 * uu, 0 * vv, tilting(model))
    marginal = np.linalg.inv(precision)[:n_features, :n_features]
    left, _, _ = np.linalg.svd(inverse_root(uu) @ uv @ inverse_root(vv))
    gains = np.concatenate([1 / (1 - shrunk**2), np.ones(n_features - len(s))])
    expected = root(uu) @ (left * gains) @ left.T @ root(uu)
    assert_allclose(marginal, expected, atol=1e-9, rtol=1e-7)
    exact = solve(covariance, n_features)
    means = np.linalg.svd(inverse_root(vv) @ model.coef_ @ root(uu), compute_uv=False)
    assert_allclose(means, shrunk, atol=1e-9)
    if objective == "inner_joint":
        assert abs(model.coef_ - exact.coef_).max() > 1e-6


# ------------------------------------------------------------------------- invariances


@each_objective
@EXAMPLES
@given(seed=SEEDS)
def test_losses_do_not_change_with_turned_encoders(objective, seed):
    rng = np.random.default_rng(seed)
    covariance, n_features = random_pair(rng)
    moments = blocks(covariance, n_features)
    model = solve(covariance, n_features, objective)
    turn = np.linalg.qr(rng.normal(size=(model.rank_, model.rank_)))[0]
    factor = np.exp(rng.normal()) if objective.startswith("inner") else 1.0
    G = factor * turn @ model.context_components_
    H = turn @ model.target_components_ / factor
    assert_allclose(population_loss(objective, G, H, *moments), model.loss_)


@each_objective
@EXAMPLES
@given(seed=SEEDS)
def test_an_affine_change_of_views_changes_only_the_coordinates(objective, seed):
    rng = np.random.default_rng(seed)
    covariance, n_features = random_pair(rng)
    n_targets = len(covariance) - n_features
    change = [
        np.eye(width) + 0.2 * rng.normal(size=(width, width))
        for width in (n_features, n_targets)
    ]
    both = side_by_side(*change, np.zeros((n_features, n_targets)))
    rows = rng.multivariate_normal(np.zeros(len(covariance)), covariance, size=200)
    moved = rows @ both.T + 5 * rng.normal(size=len(covariance))
    n = n_features
    model = LinearContrastive(objective).fit(rows[:, :n], rows[:, n:])
    other = LinearContrastive(objective).fit(moved[:, :n], moved[:, n:])
    assert_allclose(other.loss_, model.loss_, atol=1e-9)
    assert_allclose(
        other.similarity(moved[:5, :n], moved[:5, n:]),
        model.similarity(rows[:5, :n], rows[:5, n:]),
        atol=1e-7,
    )
    centred = other.predict(moved[:5, :n]) - other.target_mean_
    expected = (model.predict(rows[:5, :n]) - model.target_mean_) @ change[1].T
    assert_allclose(centred, expected, atol=1e-8)
    assert_allclose(
        other.conditional_covariance_,
        change[1] @ model.conditional_covariance_ @ change[1].T,
        atol=1e-9,
    )


@each_quadratic
def test_swapped_views_swap_the_answers(objective):
    covariance = random_covariance(np.random.default_rng(3), 5)
    order = [2, 3, 4, 0, 1]
    swap = {"quadratic_target": "quadratic_context"}
    swap |= {value: key for key, value in swap.items()}
    model = solve(covariance, 2, objective)
    other = solve(covariance[np.ix_(order, order)], 3, swap.get(objective, objective))
    assert_allclose(other.loss_, model.loss_)
    assert_allclose(other.coef_, model.coef_reverse_, atol=1e-12)
    assert_allclose(
        other.conditional_covariance_, model.conditional_covariance_reverse_
    )
