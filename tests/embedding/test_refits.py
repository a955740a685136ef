import numpy as np
import pytest
import torch
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


def test_later_batches_may_have_fewer_rows_than_components(views):
    X, Y = views
    gmje = GMJEEmbedder(10, encoder="identity", random_state=0).partial_fit(X, Y)
    gmje.partial_fit(X[:4], Y[:4])
    assert gmje.n_samples_seen_ == 304
    assert np.isfinite(gmje.score(X, Y))


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
