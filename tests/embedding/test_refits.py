import numpy as np
import pytest
import torch
from embedding_helpers import MAKERS, gmje
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from skgmje import GJEEmbedder, GMJEEmbedder, MDNEmbedder
from skgmje.latent import GaussianMutualInformation, JointMixture
from skgmje.mixture import _gaussian_mixture


@pytest.fixture
def views():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    return X, np.tanh(X[:, :2]) + 0.3 * rng.normal(size=(300, 2))


def test_partial_fit_keeps_the_head_that_fit_trained(views):
    mdn = MDNEmbedder(2, max_iter=40, random_state=0).fit(*views)
    before = mdn.score(*views)
    assert mdn.partial_fit(*views).score(*views) > before - 0.1


def test_partial_fit_keeps_the_mixture_that_fit_trained(views):
    gmje = GMJEEmbedder(2, embedding_dim=2, max_iter=30, random_state=0).fit(*views)
    before = gmje.score(*views)
    assert gmje.partial_fit(*views).score(*views) > before - 0.1


def test_a_refit_without_target_forgets_the_shape_of_the_old_one(views):
    X, Y = views
    gje = GJEEmbedder(encoder="identity", target="y").fit(X, Y[:, 0])
    assert gje.predict(X).shape == (300,)
    assert gje.set_params(target="augment").fit(X).predict(X).shape == X.shape


def test_a_refused_refit_leaves_the_estimator_as_it_was(views):
    X, Y = views
    gje = GJEEmbedder(encoder="identity").fit(X, Y)
    expected = gje.predict(X)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        gje.fit(X[:, :2], Y[:10])
    np.testing.assert_array_equal(gje.predict(X), expected)


def refuse(*args):
    raise LookupError("the user's own")


class Refusing:
    """A callback that fails at the end of every epoch."""

    def __init__(self):
        self.n_torn_down = 0

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        self.n_torn_down += 1

    def on_fit_task_begin(self, estimator, context, **data):
        pass

    def on_fit_task_end(self, estimator, context, **data):
        refuse()


@pytest.mark.parametrize(
    "change",
    [
        {"device": "nonsense"},
        {"encoder": refuse},
        {"target": "augment", "augmentation": refuse},
        {"decoder": "conv"},
    ],
)
def test_a_refit_that_fails_after_validation_changes_nothing(change, views):
    X, Y = views
    gje = GJEEmbedder(2, encoder="linear", max_iter=2, random_state=0).fit(X, Y)
    before, parameters, expected = dict(vars(gje)), gje.get_params(), gje.transform(X)
    with pytest.raises((LookupError, ValueError)):
        gje.set_params(**change).fit(X[:, :2], Y)
    gje.set_params(**parameters)
    assert vars(gje) == before
    np.testing.assert_array_equal(gje.transform(X), expected)


def test_a_refit_that_a_callback_fails_changes_nothing(views):
    X, Y = views
    gje = GJEEmbedder(2, encoder="linear", max_iter=2, random_state=0).fit(X, Y)
    callback = Refusing()
    before = dict(vars(gje.set_callbacks(callback)))
    with pytest.raises(LookupError, match="the user's own"):
        gje.fit(X[:, :2], Y)
    assert vars(gje) == before
    assert callback.n_torn_down == 1


def test_a_first_batch_that_fails_leaves_an_estimator_unfitted(views):
    gje = GJEEmbedder(device="nonsense")
    before = dict(vars(gje))
    with pytest.raises(ValueError, match="not a torch device"):
        gje.partial_fit(*views)
    assert vars(gje) == before


class FailingOnce(nn.Linear):
    """An encoder that fails in one of two ways at the second training step."""

    def __init__(self, how):
        super().__init__(3, 2)
        self.how, self.n_calls = how, 0

    def forward(self, rows):
        self.n_calls += self.training
        if self.training and self.n_calls == 2:
            if self.how == "interrupt":
                raise KeyboardInterrupt
            return super().forward(rows) * torch.nan
        return super().forward(rows)


FORMS = {name: {"components": name} for name in ("em", "gng", "bank")}
CASES = [(make, {}) for make in MAKERS.values()]
CASES += [(gmje, options) for options in FORMS.values()]


@pytest.mark.parametrize(("make", "options"), CASES, ids=[*MAKERS, *FORMS])
@pytest.mark.parametrize("how", ["interrupt", "nan"])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_partial_fit_goes_on_after_an_epoch_that_failed(
    make, options, how, method, views
):
    torch.manual_seed(0)
    options = {"target_encoder": "linear", "embedding_dim": 2} | options
    estimator = make(encoder=FailingOnce(how), **options)
    with pytest.warns(UserWarning, match=r"interrupted by user|became nan"):
        getattr(estimator, method)(*views)
    estimator.partial_fit(*views)
    assert np.isfinite(estimator.loss_curve_[-1])
    assert np.isfinite(estimator.score(*views))


def test_components_that_cannot_start_say_why(views):
    # With more components than distinct rows the tied covariance is round-off.
    X, Y = (np.repeat(view[:2], 5, axis=0) for view in views)
    gmje = GMJEEmbedder(10, covariance_type="tied", max_iter=2, random_state=0)
    with pytest.warns(ConvergenceWarning) as record:
        gmje.fit(X, Y)
    messages = [str(warning.message) for warning in record]
    (message,) = (text for text in messages if "in epoch 1" in text)
    assert "number of components" in message
    assert "learning_rate_init" not in message
    with pytest.warns(ConvergenceWarning, match="number of components"):
        gmje.partial_fit(X, Y)


def test_rows_for_validation_are_not_counted_as_rows_for_components(views):
    X, Y = (view[:11] for view in views)
    gmje = GMJEEmbedder(10, early_stopping=True, max_iter=2, random_state=0)
    with pytest.raises(ValueError, match="n_samples = 9 without the 2 that early_stop"):
        gmje.fit(X, Y)
    gmje.set_params(n_components=9).fit(X, Y)


def test_later_batches_may_have_fewer_rows_than_components(views):
    X, Y = views
    gmje = GMJEEmbedder(10, encoder="identity", random_state=0).partial_fit(X, Y)
    gmje.partial_fit(X[:4], Y[:4])
    assert gmje.n_samples_seen_ == 304
    assert np.isfinite(gmje.score(X, Y))


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "low_rank"])
@pytest.mark.parametrize("encoder", ["identity", "linear"])
def test_the_variance_of_a_constant_target_stays_with_every_batch(
    encoder, covariance_type, views
):
    X, Y = views[0], np.column_stack([views[1][:, 0], np.full(300, 5.0)])
    options = {"encoder": encoder, "target_encoder": "identity", "embedding_dim": 2}
    gmje = GMJEEmbedder(
        2, covariance_type=covariance_type, max_iter=2, random_state=0, **options
    ).fit(X, Y)
    mdn = MDNEmbedder(2, max_iter=2, random_state=0, **options).fit(X, Y)
    for _ in range(10):
        gmje.partial_fit(X, Y)
        mdn.partial_fit(X, Y)
    assert float(gmje.density_.variance[-1]) == pytest.approx(1e-6, rel=1e-3)
    assert float(mdn.target_density_.variance[-1]) == pytest.approx(1e-6, rel=1e-3)


def test_spheres_stay_spheres_in_standardised_units(views):
    X, Y = views
    gmje = GMJEEmbedder(
        2, encoder="identity", covariance_type="spherical", random_state=0
    )
    gmje.partial_fit(X * [1, 10, 100], Y).partial_fit(X * [1, 10, 100], Y * [1, 5])
    units = np.concatenate([gmje.x_scale_, gmje.y_scale_])
    radii = gmje.density_.scale_diag.numpy() / units
    np.testing.assert_allclose(radii, np.broadcast_to(radii[:, :1], radii.shape))


@pytest.mark.parametrize("latent", [JointMixture, GaussianMutualInformation])
def test_validation_rows_are_kept_from_the_latent_density(views, latent, monkeypatch):
    seen = []
    initialize = latent.initialize

    def recorded(self, z_c, z_t, seed):
        seen.append(len(z_c))
        return initialize(self, z_c, z_t, seed)

    monkeypatch.setattr(latent, "initialize", recorded)
    options = {"early_stopping": True, "max_iter": 2, "random_state": 0}
    if latent is JointMixture:
        estimator = GMJEEmbedder(2, components="em", **options)
    else:
        estimator = GJEEmbedder(**options)
    estimator.fit(*views)
    assert set(seen) == {270}


def test_early_stopping_finds_no_information_between_independent_views():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(200, 10)), rng.normal(size=(200, 10))
    gje = GJEEmbedder(8, early_stopping=True, max_iter=30, random_state=0).fit(X, Y)
    # A loss below zero would claim mutual information; there is none.
    assert gje.best_loss_ > -0.1
    assert gje.loss_curve_[-1] < -0.5


def test_held_out_information_of_the_training_rows_is_their_information():
    rng = torch.Generator().manual_seed(0)
    z_c = torch.randn(500, 2, generator=rng)
    z_t = z_c + torch.randn(500, 2, generator=rng)
    latent = GaussianMutualInformation(noise_share=0.0)
    latent.initialize(z_c, z_t, 0)
    held_out = latent.eval()(z_c, z_t)
    torch.testing.assert_close(held_out, latent.train()(z_c, z_t))


def test_a_frozen_encoder_stays_as_it_is(views):
    X, Y = views
    frozen = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)).requires_grad_(False)
    gje = GJEEmbedder(2, encoder=frozen, target_encoder="linear", max_iter=3)
    gje.fit(5 + 3 * X, Y)
    assert int(gje.encoder_.network[0].num_batches_tracked) == 0
    assert not gje.encoder_.network[0].running_mean.any()


def test_a_trained_target_is_kept_from_collapse_where_the_context_is_not(views):
    spreads = []
    for weight in (0.0, 5.0):
        mdn = MDNEmbedder(
            2,
            encoder="identity",
            target_encoder="mlp",
            embedding_dim=2,
            marginal_weight=weight,
            max_iter=30,
            random_state=0,
        ).fit(*views)
        covariance = np.cov(mdn.transform_target(views[1]).T)
        spreads.append(np.abs(covariance - np.eye(2)).max())
    assert spreads[1] < 0.5 < spreads[0]


def test_the_score_does_not_depend_on_sorted_rows():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2500, 1))
    y = x + 0.3 * rng.normal(size=(2500, 1))
    gje = GJEEmbedder(1, encoder="linear", max_iter=10, random_state=0).fit(x, y)
    order = np.argsort(x[:, 0])
    assert gje.score(x[order], y[order]) == pytest.approx(gje.score(x, y), abs=0.02)


@pytest.mark.parametrize("scale", [1e-200, 1e-150, 1e150, 1e160])
def test_no_scale_of_the_context_matters(views, scale):
    X, Y = views
    plain = GJEEmbedder(encoder="identity").fit(X, Y).score(X, Y)
    scaled = GJEEmbedder(encoder="identity").fit(X * scale, Y).score(X * scale, Y)
    assert scaled == pytest.approx(plain, abs=1e-6)


def test_columns_of_the_target_in_another_order_are_refused(views):
    pd = pytest.importorskip("pandas")
    X, Y = views
    frame = pd.DataFrame(Y, columns=["u", "v"])
    gje = GJEEmbedder(encoder="identity").fit(X, frame)
    with pytest.raises(ValueError, match="in that order"):
        gje.score(X, frame[["v", "u"]])
    with pytest.raises(ValueError, match="in that order"):
        gje.partial_fit(X, frame[["v", "u"]])
    assert gje.n_samples_seen_ == 300


def test_columns_of_rows_of_the_context_in_another_order_are_refused(views):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(views[0], columns=["a", "b", "c"])
    gje = GJEEmbedder(encoder="identity", target="augment").fit(frame)
    np.testing.assert_array_equal(gje.transform_target(frame), views[0])
    with pytest.raises(ValueError, match="in that order"):
        gje.transform_target(frame[["b", "a", "c"]])


def test_later_batches_leave_names_and_shape_of_the_target_as_they_were(views):
    pd = pytest.importorskip("pandas")
    X, y = views[0], views[1][:, :1]
    gje = GJEEmbedder(encoder="identity", target="y").partial_fit(X, y[:, 0])
    gje.partial_fit(X, pd.DataFrame(y, columns=["u"]))
    assert not hasattr(gje, "target_feature_names_in_")
    assert gje.predict(X).shape == (300,)


def test_labels_are_not_scored_as_the_view_that_was_metadata(views):
    X, Y = views
    labels = (X[:, 0] > 0).astype(int)
    gje = GJEEmbedder(encoder="identity").fit(X, labels, target_view=Y[:, 0])
    with pytest.raises(ValueError, match="pass target_view="):
        gje.score(X, labels)
    assert np.isfinite(gje.score(X, labels, target_view=Y[:, 0]))


def test_an_interrupted_start_leaves_one_component(views, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(_gaussian_mixture, "best_of_short_runs", interrupted)
    gmje = GMJEEmbedder(3, encoder="identity", random_state=0)
    with pytest.warns(UserWarning, match="one component"):
        gmje.fit(*views)
    assert gmje.density_.n_components == 1
    assert np.isfinite(gmje.score(*views))
