"""Densities of learned embeddings that hold for rows which were not fitted."""

import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes

from skgmje import (
    GJEEmbedder,
    GMJEEmbedder,
    MultivariateNormalMixture,
    VJEEmbedder,
    load,
)
from skgmje.embedding._joint import JointDensityEmbedder
from skgmje.embedding._widening import _score, choose_width, widen
from skgmje.latent import contrastive_bound, pairwise_log_prob
from skgmje.training import Trainer

QUICK = {"embedding_dim": 2, "max_iter": 3, "random_state": 0}
JOINT = {
    "gje": GJEEmbedder(**QUICK),
    "gmje": GMJEEmbedder(3, **QUICK),
    "gas": GMJEEmbedder(10, components="gng", **QUICK),
    "bank": GMJEEmbedder(50, components="bank", **QUICK),
    "vje": VJEEmbedder(**QUICK),
}
each_joint = pytest.mark.parametrize("name", JOINT)


def fresh(name, **options):
    return JOINT[name].__class__(**JOINT[name].get_params() | options)


@pytest.fixture(scope="module")
def views():
    """Two views of 300 rows that share a little."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(300, 1))
    X = np.hstack([shared, rng.normal(size=(300, 9))])
    return X, np.hstack([shared + rng.normal(size=(300, 1)), rng.normal(size=(300, 4))])


def correlated(correlation, loc=0.0, scale=1.0):
    """Two coordinates of equal variance, as a joint density."""
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]]).double()
    return MultivariateNormalMixture(
        torch.ones(1, dtype=torch.float64),
        torch.full((1, 2), loc, dtype=torch.float64),
        scale_tril=scale * torch.linalg.cholesky(covariance).unsqueeze(0),
    )


def rows_of(correlation, n, loc=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    z = correlated(correlation, loc, scale).sample((n,), generator=generator)
    return z[:, :1], z[:, 1:]


# ------------------------------------------------------------------------- the width


@pytest.mark.parametrize("is_likelihood", [True, False])
@pytest.mark.parametrize("correlation", [0.9, 0.7, 0.4])
def test_the_width_is_that_of_the_best_score(correlation, is_likelihood):
    density = correlated(0.999)
    z_c, z_t = rows_of(correlation, 300)

    def score(width):
        conditional = widen(density, width).condition([0], z_c)
        if is_likelihood:
            return float(conditional.log_prob(z_t).mean())
        return float(contrastive_bound(pairwise_log_prob(conditional, z_t)))

    width = choose_width(density, z_c, z_t, is_likelihood)
    best = max(map(score, np.logspace(-6, 1, 71)))
    assert best - 0.03 <= score(width) <= best + 1e-9
    assert score(width / 2) < score(width)
    assert score(width) > score(0.0) + 0.5


def test_the_width_gives_the_correlation_of_other_rows():
    width = choose_width(correlated(0.999), *rows_of(0.7, 1000), is_likelihood=False)
    assert 0.999 / (1 + width) == pytest.approx(0.7, abs=0.1)


def test_a_density_that_holds_for_other_rows_stays_as_it_is():
    density = correlated(0.7)
    width = choose_width(density, *rows_of(0.7, 1000), is_likelihood=True)
    assert width < 0.05
    assert widen(density, 0.0) is density


@pytest.mark.parametrize(("loc", "scale"), [(3.0, 1e-3), (-1e4, 1e5)])
def test_the_width_has_no_unit(loc, scale):
    plain = choose_width(correlated(0.999), *rows_of(0.5, 400), is_likelihood=False)
    moved = choose_width(
        correlated(0.999, loc, scale), *rows_of(0.5, 400, loc, scale), False
    )
    assert moved == plain


def test_few_rows_are_compared_where_there_are_many_components(monkeypatch):
    n_rows = []

    def counted(density, z_c, z_t, is_likelihood):
        n_rows.append(len(z_c))
        return 0.0

    monkeypatch.setattr("skgmje.embedding._widening._score", counted)
    many = MultivariateNormalMixture(
        torch.full((400,), 1 / 400, dtype=torch.float64),
        torch.zeros(400, 2, dtype=torch.float64),
        scale_diag=torch.ones(1, 2, dtype=torch.float64),
    )
    for is_likelihood, expected in ((True, 1000), (False, 102)):
        choose_width(many, *rows_of(0.5, 3000), is_likelihood)
        assert set(n_rows) == {expected}
        n_rows.clear()


@pytest.mark.parametrize("is_likelihood", [True, False])
def test_no_noise_is_added_where_no_score_is_finite(is_likelihood):
    z_c, z_t = rows_of(0.5, 50)
    assert choose_width(correlated(0.999), z_c, 1e200 * z_t, is_likelihood) == 0.0


def test_an_interrupt_keeps_the_best_width_so_far(views, monkeypatch):
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return _score(*arguments)

    monkeypatch.setattr("skgmje.embedding._widening._score", interrupted)
    with pytest.warns(UserWarning, match="width of the density was interrupted"):
        model = fresh("gje", embedding_dim=8, max_iter=30).fit(*views)
    assert len(calls) == 10
    # No noise was compared, and widths from 1e-4 to 0.4.
    assert 1e-3 < model.reg_covar_ < 0.4
    assert np.isfinite(model.score(*views))


# ------------------------------------------------------------------- fitted estimators


@pytest.fixture(scope="module")
def learned_by_heart(views):
    """Each embedder, widened and not, of networks that know the same rows."""
    options = {"embedding_dim": 8, "max_iter": 25, "n_iter_no_change": 25}
    choices = {"auto": {}, "number": {"reg_covar": 1e-6}}
    with pytest.MonkeyPatch.context() as patch:
        # Rows are kept out whatever reg_covar is.
        patch.setattr(JointDensityEmbedder, "_n_held_out", lambda self, run: 30)
        return {
            name: [fresh(name, **options | c).fit(*views) for c in choices.values()]
            for name in JOINT
        }


@each_joint
def test_the_density_is_that_of_all_rows_and_wider(name, learned_by_heart):
    widened, plain = learned_by_heart[name]
    assert plain.reg_covar_ == 1e-6
    assert widened.n_iter_ == plain.n_iter_
    width = widened.reg_covar_ - 1e-6
    assert width > 0.01
    expected = widen(plain.density_, width)
    assert torch.equal(widened.density_.means, plain.density_.means)
    for key, parameter in expected.parameters().items():
        assert torch.allclose(widened.density_.parameters()[key], parameter)


@each_joint
def test_a_batch_keeps_the_width(name, views, learned_by_heart):
    def least_share(density):
        """Least variance in any direction, in units of those of the density."""
        stddev = density.stddev
        shares = density.component_covariances / stddev / stddev.unsqueeze(-1)
        return float(torch.linalg.eigvalsh(shares).min())

    widened, plain = (copy.deepcopy(each) for each in learned_by_heart[name])
    for model in (widened, plain):
        width = model.reg_covar_
        for _ in range(3):
            model.partial_fit(*views)
        assert model.reg_covar_ == width
    width = widened.reg_covar_ - 1e-6
    assert least_share(widened.density_) > 0.5 * width / (1 + width)
    assert least_share(widened.density_) > least_share(plain.density_)


def test_the_width_is_saved(views, tmp_path):
    model = fresh("gje", embedding_dim=8, max_iter=30).fit(*views)
    assert model.reg_covar_ > 1e-3
    model.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert loaded.reg_covar_ == model.reg_covar_
    assert torch.equal(loaded.density_.scale_tril, model.density_.scale_tril)


def test_a_constant_column_of_the_target_is_not_widened(views):
    X, Y = views
    Y = np.hstack([Y, np.full((len(Y), 1), 7.0)])
    options = {"embedding_dim": 8, "max_iter": 60, "target_encoder": "identity"}
    model = fresh("gje", **options).fit(X, Y)
    assert model.reg_covar_ > 1e-3
    assert model.conditional(X).stddev[:, -1].max() < 0.01


# ----------------------------------------------------------------- what it is good for


@pytest.mark.parametrize("name", ["gje", "gmje", "gas", "bank", "vje"])
def test_views_that_share_nothing_score_nothing(name):
    """Networks learn 500 pairs by heart; the density must not believe them."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(1500, 20)), rng.normal(size=(1500, 20))
    train, test = slice(0, 500), slice(500, None)
    options = {"embedding_dim": 8, "max_iter": 40}
    by_heart = fresh(name, reg_covar=1e-6, **options).fit(X[train], Y[train])
    honest = fresh(name, **options).fit(X[train], Y[train])
    assert by_heart.score(X[test], Y[test]) < -0.2
    assert -0.1 < honest.score(X[test], Y[test]) < 0.1


def coverage_of_intervals(model, X, y):
    """Share of the rows in the central 90 % of their conditional."""
    cdf = model.conditional(X).cdf(y[:, np.newaxis]).numpy()
    return np.mean(np.abs(cdf - 0.5) < 0.45)


@pytest.mark.parametrize("name", ["gje", "gmje"])
def test_intervals_of_other_rows_cover_what_they_say(name):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 20))
    y = np.sin(X[:, 0]) + X[:, 1] + rng.normal(size=4000)
    train, test = slice(0, 1000), slice(1000, None)
    options = {"target": "y", "target_encoder": "identity"}
    options |= {"embedding_dim": 8, "max_iter": 60}
    honest = fresh(name, **options).fit(X[train], y[train])
    by_heart = fresh(name, reg_covar=1e-6, **options).fit(X[train], y[train])
    assert 0.86 < coverage_of_intervals(honest, X[test], y[test]) < 0.94
    assert coverage_of_intervals(by_heart, X[test], y[test]) < 0.85


def test_intervals_of_few_rows_cover_more_than_without():
    X, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[:300], order[300:]
    options = {"target": "y", "target_encoder": "identity"}
    options |= {"embedding_dim": 8, "max_iter": 100}
    honest = fresh("gje", **options).fit(X[train], y[train])
    by_heart = fresh("gje", reg_covar=1e-6, **options).fit(X[train], y[train])
    gain = coverage_of_intervals(honest, X[test], y[test]) - coverage_of_intervals(
        by_heart, X[test], y[test]
    )
    assert gain > 0.2


# ---------------------------------------------------------- which rows are kept out


@each_joint
@pytest.mark.parametrize(("n_samples", "n_held_out"), [(94, 0), (96, 10), (300, 30)])
def test_a_tenth_of_enough_rows_is_kept_out(
    name, n_samples, n_held_out, views, monkeypatch
):
    kept = []

    class Recorded(Trainer):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            kept.append(self.validation_rows)

    monkeypatch.setattr("skgmje.embedding._base.Trainer", Recorded)
    X, Y = (view[:n_samples] for view in views)
    estimator = fresh(name, max_iter=1).fit(X, Y)
    assert estimator.validation_loss_curve_ is None
    assert len(estimator.loss_curve_) == 1
    (rows,) = kept
    assert (0 if rows is None else len(rows)) == n_held_out
    estimator.fit(X)
    estimator.set_params(reg_covar=1e-6).fit(X, Y)
    assert kept[1:] == [None, None]


@pytest.mark.parametrize("encoder", ["linear", "identity"])
def test_linear_encoders_learn_from_all_rows(encoder, views):
    automatic = fresh("gje", encoder=encoder).fit(*views)
    number = fresh("gje", encoder=encoder, reg_covar=1e-6).fit(*views)
    assert automatic.reg_covar_ == 1e-6
    assert torch.equal(automatic.density_.scale_tril, number.density_.scale_tril)


def test_early_stopping_keeps_the_same_rows_for_both(views):
    stopped = fresh("gje", early_stopping=True, max_iter=30, embedding_dim=8)
    stopped.fit(*views)
    assert len(stopped.validation_loss_curve_) == stopped.n_iter_
    assert stopped.reg_covar_ > 1e-6


def test_rows_are_not_kept_out_if_the_components_need_them(views):
    X, Y = (view[:100] for view in views)
    model = GMJEEmbedder(95, max_iter=1, random_state=0).fit(X, Y)
    assert model.reg_covar_ == 1e-6


def test_a_density_of_more_components_than_training_rows_is_not_widened(views):
    X, Y = (view[:120] for view in views)
    model = VJEEmbedder(2, n_components=110, early_stopping=True, max_iter=1)
    assert model.fit(X, Y).reg_covar_ == 1e-6


def test_a_handful_of_rows_says_nothing_about_the_width(views):
    X, Y = (view[:40] for view in views)
    assert fresh("gje", early_stopping=True).fit(X, Y).reg_covar_ == 1e-6


@each_joint
def test_another_reg_covar_counts_from_the_next_batch_on(name, views, learned_by_heart):
    model = copy.deepcopy(learned_by_heart[name][0])
    model.set_params(reg_covar=50.0).partial_fit(*views)
    assert model.reg_covar_ == 50.0
    assert bool(model.density_.variance.isfinite().all())
