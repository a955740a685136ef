"""The ways to place components, and the other parts that GMJE puts together."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
from embedding_helpers import answers, assert_same_answers, gje, gmje, jepa, mdn
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import skgmje
from skgmje import (
    GJEEmbedder,
    GMJEEmbedder,
    GrowingNeuralGas,
    ParticleBank,
)
from skgmje.datasets import branch_log_density, make_branches
from skgmje.embedding._structures import STRUCTURES
from skgmje.latent import (
    ENTROPIES,
    BankInfoNCE,
    MomentKL,
    NearestNeighbour,
    Negentropy,
    NeuralGas,
    ParticleKernels,
    StepwiseEM,
)

COMPONENTS = ("prototypes", "em", "gng", "bank")
each_kind = pytest.mark.parametrize("components", COMPONENTS)
each_structure = pytest.mark.parametrize("components", STRUCTURES)
each_encoder = pytest.mark.parametrize("encoder", ["mlp", "identity"])
MODELS = [
    *(
        gmje(n_components=8, components=components, encoder=encoder, embedding_dim=2)
        for components in STRUCTURES
        for encoder in ("mlp", "identity")
    ),
    # The encoder of one view trains, so that no bank is on the sphere.
    gmje(n_components=8, components="bank", target_encoder="identity"),
    gmje(n_components=8, components="gng", likelihood="joint", entropy="whitening"),
]


def name_of(model):
    return "-".join(
        str(part)
        for part in (model.components, model.encoder, model.target_encoder)
        if part is not None
    )


each_model = pytest.mark.parametrize("model", MODELS, ids=name_of)


def run_of(model, X, Y):
    """Everything that a fit would train, as it is before the first step."""
    return model._start(*model._validate_views(X, Y, None, reset=True))


# ----------------------------------------------------------------- the gas and the bank


@each_model
def test_files_and_pickles_keep_the_structure_and_its_answers(model, pairs, tmp_path):
    model = clone(model).fit(*pairs)
    model.save(tmp_path / "model")
    said = answers(model, *pairs)
    assert all(np.isfinite(value).all() for value in said.values())
    name = STRUCTURES[model.components]
    probe = np.zeros((1, model.density_.event_shape[0]))
    for again in (
        pickle.loads(pickle.dumps(model)),
        skgmje.load(tmp_path / "model"),
    ):
        assert_same_answers(answers(again, *pairs), said)
        structure, expected = getattr(again, name), getattr(model, name)
        assert type(structure) is type(expected)
        if name == "gas_":
            np.testing.assert_array_equal(structure.edges_, expected.edges_)
            np.testing.assert_array_equal(structure.nodes_, expected.nodes_)
        else:
            np.testing.assert_array_equal(structure.particles_, expected.particles_)
            assert structure.score(probe) == expected.score(probe)


@each_model
def test_an_unpickled_model_goes_on_where_the_first_would(model, pairs):
    first = clone(model).partial_fit(*pairs)
    again = pickle.loads(pickle.dumps(first))
    for one in (first, again):
        one.partial_fit(*pairs)
    assert_same_answers(answers(again, *pairs), answers(first, *pairs))


@each_model
def test_a_clone_has_the_parameters_and_nothing_else(model, pairs):
    copied = clone(clone(model).fit(*pairs))
    assert str(copied) == str(model)
    with pytest.raises(NotFittedError):
        _ = copied.usage_
    assert not any(hasattr(copied, name) for name in STRUCTURES.values())


@each_kind
@each_encoder
def test_the_usage_sums_to_one_and_is_that_of_the_rows(components, encoder, pairs):
    model = gmje(n_components=6, components=components, encoder=encoder).fit(*pairs)
    assert model.usage_.shape == (model.density_.n_components,)
    assert model.usage_.min() >= 0
    assert model.usage_.sum() == pytest.approx(1)
    if components != "bank":
        z = np.hstack([model.transform(pairs[0]), model.transform_target(pairs[1])])
        shares = model.density_.responsibilities(torch.from_numpy(z)).mean(0)
        np.testing.assert_allclose(model.usage_, shares, atol=0.02)


@each_kind
def test_only_the_chosen_structure_is_kept(components, pairs):
    model = gmje(components=components, encoder="identity").fit(*pairs)
    kinds = {"gas_": GrowingNeuralGas, "bank_": ParticleBank}
    for name, kind in kinds.items():
        assert hasattr(model, name) == (STRUCTURES.get(components) == name)
        assert isinstance(getattr(model, name, kind()), kind)


@each_structure
def test_a_new_fit_drops_what_another_kind_of_components_left(components, pairs):
    X, Y = pairs
    model = gmje(n_components=8, components=components, encoder="identity").fit(X, Y)
    model.set_params(components="em").fit(X, Y)
    fresh = gmje(n_components=8, components="em", encoder="identity").fit(X, Y)
    assert vars(model).keys() == vars(fresh).keys()


@each_kind
@each_encoder
def test_the_density_is_over_both_embeddings_in_their_order(components, encoder, pairs):
    X, Y = pairs
    model = gmje(n_components=6, components=components, encoder=encoder).fit(X, Y)
    z_c, z_t = (
        torch.from_numpy(z) for z in (model.transform(X), model.transform_target(Y))
    )
    density, n_context = model.density_, z_c.shape[1]
    assert density.event_shape[0] == n_context + z_t.shape[1]
    expected = density.log_prob(torch.cat([z_c, z_t], dim=1))
    given = density.marginal(range(n_context)).log_prob(z_c)
    torch.testing.assert_close(model.conditional(X).log_prob(z_t), expected - given)
    np.testing.assert_allclose(model.score_samples(X), given)


@each_structure
def test_several_answers_lie_between_one_gaussian_and_the_truth(components):
    X, Y = make_branches(800, random_state=0)
    X_test, Y_test = make_branches(1000, random_state=1)
    model = GMJEEmbedder(
        {"gng": 40, "bank": 256}[components],
        components=components,
        encoder="identity",
        random_state=0,
    ).fit(X, Y)
    one = GJEEmbedder(encoder="identity", random_state=0).fit(X, Y)
    truth = branch_log_density(X_test, Y_test).mean()
    score = model.score(X_test, Y_test)
    assert one.score(X_test, Y_test) + 1.5 < score < truth
    if components == "gng":
        assert model.gas_.n_connected_components_ == 3


@each_structure
def test_units_change_a_density_by_their_jacobian(components, pairs):
    X, Y = pairs
    options = {"n_components": 8, "components": components, "encoder": "identity"}
    plain, scaled = gmje(**options).fit(X, Y), gmje(**options).fit(X * 1e6, Y * 1e-3)
    change = Y.shape[1] * np.log(1e-3)
    assert scaled.score(X * 1e6, Y * 1e-3) + change == pytest.approx(plain.score(X, Y))
    np.testing.assert_allclose(scaled.predict(X * 1e6), 1e-3 * plain.predict(X))


@each_structure
@each_encoder
def test_the_seed_decides(components, encoder, pairs):
    options = {"n_components": 8, "components": components, "encoder": encoder}
    first, second, other = (
        gmje(**options | {"random_state": seed}).fit(*pairs) for seed in (0, 0, 1)
    )
    assert_same_answers(answers(first, *pairs), answers(second, *pairs))
    assert not np.array_equal(first.predict(pairs[0]), other.predict(pairs[0]))


@each_structure
def test_batches_come_near_a_fit_to_all_rows(components):
    X, Y = make_branches(1200, random_state=0)
    X_test, Y_test = make_branches(500, random_state=1)
    options = {"n_components": 100, "components": components, "encoder": "identity"}
    whole, batches = gmje(**options).fit(X, Y), gmje(**options)
    for rows in np.split(np.arange(1200), 6):
        batches.partial_fit(X[rows], Y[rows])
    assert batches.n_samples_seen_ == 1200
    assert len(batches.loss_curve_) == batches.n_iter_ == 6
    score, expected = batches.score(X_test, Y_test), whole.score(X_test, Y_test)
    assert score > expected - 0.4


@each_structure
@each_encoder
def test_more_components_than_rows_are_fewer_components(components, encoder, pairs):
    X, Y = (view[:12] for view in pairs)
    model = gmje(n_components=50, components=components, encoder=encoder).fit(X, Y)
    assert 1 <= model.density_.n_components <= 12
    assert all(np.isfinite(value).all() for value in answers(model, X, Y).values())


@each_structure
@each_encoder
def test_one_row_is_refused(components, encoder, pairs):
    with pytest.raises(ValueError, match=r"1 sample\(s\).*minimum of 2"):
        gmje(components=components, encoder=encoder).fit(*(v[:1] for v in pairs))


@each_structure
@each_encoder
def test_two_rows_fit(components, encoder, pairs):
    X, Y = (view[:2] for view in pairs)
    model = gmje(components=components, encoder=encoder).fit(X, Y)
    assert all(np.isfinite(value).all() for value in answers(model, X, Y).values())


@each_structure
@each_encoder
def test_duplicated_rows_and_constant_columns_fit(components, encoder, pairs):
    X, Y = (np.repeat(view[:6], 20, axis=0) for view in pairs)
    X[:, 0], Y[:, 1] = 3.0, Y[:, 0]
    model = gmje(n_components=8, components=components, encoder=encoder).fit(X, Y)
    assert all(np.isfinite(value).all() for value in answers(model, X, Y).values())


@each_structure
def test_one_component_fits(components, pairs):
    model = gmje(n_components=1, components=components, encoder="identity")
    said = answers(model.fit(*pairs), *pairs)
    assert all(np.isfinite(value).all() for value in said.values())


@each_structure
def test_views_that_are_drawn_from_x_fit(components, pairs):
    model = gmje(n_components=8, components=components, target="augment")
    X = pairs[0]
    said = answers(model.fit(X), X)
    assert all(np.isfinite(value).all() for value in said.values())
    assert model.encoder_ is model.target_encoder_


# -------------------------------------------------------------------------- the wiring


def test_every_kind_of_components_has_its_rule(pairs):
    rules = dict(
        zip(
            COMPONENTS,
            (StepwiseEM, StepwiseEM, NeuralGas, ParticleKernels),
            strict=True,
        )
    )
    for components, rule in rules.items():
        model = gmje(components=components, target_encoder="identity")
        latent = run_of(model, *pairs).model.latent
        assert type(latent.components) is rule
        assert latent.each_epoch == (components in ("em", "gng"))


def test_a_bank_of_two_learned_views_is_contrastive_and_on_the_sphere(pairs):
    model = gmje(n_components=32, components="bank")
    assert type(run_of(model, *pairs).model.latent) is BankInfoNCE
    X, Y = pairs
    model.fit(X, Y)
    for z in (model.transform(X), model.transform_target(Y)):
        np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1)
    for options in (
        {"components": "gng"},
        {"components": "bank", "target_encoder": "identity"},
    ):
        z = gmje(**options).fit(X, Y).transform(X)
        assert np.ptp(np.linalg.norm(z, axis=1)) > 0.1


@pytest.mark.parametrize("entropy", ENTROPIES)
@pytest.mark.parametrize("likelihood", ["conditional", "joint"])
def test_the_likelihood_and_the_entropy_are_those_asked_for(likelihood, entropy, pairs):
    model = gmje(likelihood=likelihood, entropy=entropy)
    latent = run_of(model, *pairs).model.latent
    assert latent.likelihood == likelihood
    assert type(latent.entropy) is ENTROPIES[entropy]


def test_the_joint_likelihood_adds_neighbours_to_the_moments(pairs):
    conditional = run_of(gmje(), *pairs).model.latent.entropy
    joint = run_of(gmje(likelihood="joint"), *pairs).model.latent.entropy
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    moments = MomentKL()(z)
    torch.testing.assert_close(conditional(z), moments + Negentropy()(z))
    torch.testing.assert_close(joint(z), moments + NearestNeighbour()(z))


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("components", "tree"), ("likelihood", "marginal"), ("entropy", "renyi")],
)
def test_unknown_parts_are_refused(parameter, value, pairs):
    message = f"The '{parameter}' parameter of GMJEEmbedder must be"
    with pytest.raises(ValueError, match=message):
        GMJEEmbedder(**{parameter: value}).fit(*pairs)


# ----------------------------------------------------------------- one encoder for both

SHARED = {"target_encoder": "shared"}
LEARNERS = {
    "gje": gje,
    "prototypes": gmje,
    "gng": partial(gmje, components="gng", n_components=8),
    "bank": partial(gmje, components="bank", n_components=100),
    "mdn": mdn,
}
each_learner = pytest.mark.parametrize("make", LEARNERS.values(), ids=LEARNERS)


@pytest.fixture
def twins(pairs):
    """Two noisy views of the same 5 columns."""
    X = pairs[0]
    return X, X + 0.3 * np.random.default_rng(1).normal(size=X.shape)


@each_learner
@each_encoder
def test_a_shared_encoder_is_one_object(make, encoder, twins, tmp_path):
    X, Y = (view[:120] for view in twins)
    model = make(encoder=encoder, **SHARED).fit(X, Y)
    model.save(tmp_path / "model")
    for one in (
        model,
        pickle.loads(pickle.dumps(model)),
        skgmje.load(tmp_path / "model"),
    ):
        assert one.encoder_ is one.target_encoder_
        np.testing.assert_array_equal(one.transform(X), one.transform_target(X))
        assert_same_answers(answers(one, X, Y), answers(model, X, Y))
    assert model.partial_fit(X, Y).encoder_ is model.target_encoder_


@each_learner
def test_a_shared_encoder_sees_both_views_in_the_units_of_x(make, twins):
    X, Y = twins
    model = make(encoder="identity", **SHARED).fit(X, 10 * Y + 3)
    np.testing.assert_array_equal(model.y_mean_, model.x_mean_)
    np.testing.assert_array_equal(model.y_scale_, model.x_scale_)
    np.testing.assert_array_equal(model.transform_target(Y), Y)


@each_learner
def test_a_shared_encoder_predicts_in_the_units_of_y(make, twins):
    X, Y = twins
    model = make(encoder="identity", **SHARED | {"max_iter": 60}).fit(X, Y)
    error = model.predict(X) - Y
    assert (error.var(axis=0) < 0.6 * Y.var(axis=0)).all()


@pytest.mark.parametrize("make", [gje, gmje, jepa, mdn])
def test_a_shared_encoder_needs_views_of_equal_width(make, pairs):
    message = "views of equal width.*5 columns of X and the target view has 3"
    with pytest.raises(ValueError, match=message):
        make(**SHARED).fit(*pairs)
    with pytest.raises(ValueError, match="views of equal width"):
        make(**SHARED).partial_fit(*pairs)


@pytest.mark.parametrize("make", [gje, gmje, mdn])
def test_shared_is_the_default_of_views_drawn_from_x(make, pairs):
    X = pairs[0]
    shared, default = make(**SHARED).fit(X), make().fit(X)
    assert_same_answers(answers(shared, X), answers(default, X))


def test_jepa_averages_the_encoder_that_it_shares(twins):
    X, Y = twins
    model = jepa(**SHARED).fit(X, Y)
    assert model.encoder_ is not model.target_encoder_
    np.testing.assert_array_equal(model.y_mean_, model.x_mean_)
    follows = jepa(momentum=0.0, **SHARED).fit(X, Y)
    np.testing.assert_allclose(follows.transform(X), follows.transform_target(X))
    assert not np.allclose(model.transform(X), model.transform_target(X))


# ------------------------------------------------------------- interrupts and failures

STRUCTURE_CLASSES = {"gng": GrowingNeuralGas, "bank": ParticleBank}


@pytest.mark.parametrize("components", STRUCTURE_CLASSES)
def test_an_interrupted_structure_still_gives_a_density(components, pairs, monkeypatch):
    calls = []
    fit = STRUCTURE_CLASSES[components].fit

    def interrupted_once(self, X, y=None):
        calls.append(len(X))
        if len(calls) == 1:
            raise KeyboardInterrupt
        return fit(self, X)

    monkeypatch.setattr(STRUCTURE_CLASSES[components], "fit", interrupted_once)
    estimator = GMJEEmbedder(
        8, components=components, encoder="identity", random_state=0
    )
    with pytest.warns(UserWarning, match="interrupted by user; it knows the first"):
        estimator.fit(*pairs)
    assert len(calls) == 2
    assert np.isfinite(estimator.score(*pairs))


@pytest.mark.parametrize("components", STRUCTURE_CLASSES)
def test_a_batch_that_fails_leaves_the_structure_alone(components, pairs, monkeypatch):
    estimator = GMJEEmbedder(
        8, components=components, encoder="identity", random_state=0
    ).fit(*pairs)
    name = STRUCTURES[components]
    structure, before = getattr(estimator, name), estimator.score(*pairs)
    kept = {k: np.copy(v) for k, v in vars(structure).items() if k.endswith("s_")}
    monkeypatch.setattr("skgmje.embedding._structures._attributes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        estimator.partial_fit(*pairs)
    assert getattr(estimator, name) is structure
    for key, value in kept.items():
        np.testing.assert_array_equal(getattr(structure, key), value)
    assert estimator.score(*pairs) == before
