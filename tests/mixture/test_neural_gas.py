"""The growing neural gas: its rule, the graph it makes, the mixture of the nodes."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixture_strategies import PROFILE, SEEDS, double
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_circles, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skgmje import GrowingNeuralGas, load
from skgmje.datasets import branch_log_density, make_branches
from skgmje.exceptions import IllDefinedCovarianceError
from skgmje.mixture._node_graph import ERROR_SPLIT, NO_EDGE, GrowthRule, NodeGraph

QUICK = {"n_nodes": 20, "max_iter": 2, "random_state": 0}


@pytest.fixture(scope="module")
def rings():
    return make_circles(1000, noise=0.04, factor=0.5, random_state=0)[0]


@pytest.fixture(scope="module")
def fitted(rings):
    return GrowingNeuralGas(40, random_state=0).fit(rings)


def branches(seed, kind="separated", n_samples=3000):
    return np.hstack(make_branches(n_samples, kind=kind, random_state=seed))


def same(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def assert_same_ages(a, b):
    a, b = np.maximum(np.asarray(a), -1), np.maximum(np.asarray(b), -1)
    np.testing.assert_array_equal(a, b)


def assert_same_state(a, b):
    for name, value in a.state().items():
        if name == "ages":
            assert_same_ages(value, b.ages)
        else:
            same(value, b.state()[name])


# ---------------------------------------------------------------------------- the rule


class PlainGraph:
    """The rule, one sample after the other."""

    def __init__(self, rule, nodes):
        self.rule, self.n_seen = rule, 0
        self.nodes, self.errors = np.array(nodes), np.zeros(len(nodes))
        self.ages = np.full((len(nodes),) * 2, -1)
        self.idle = np.zeros(len(nodes), dtype=int)

    def keep(self, mask):
        self.nodes, self.errors = self.nodes[mask], self.errors[mask]
        self.ages, self.idle = self.ages[mask][:, mask], self.idle[mask]

    def step(self, x):
        rule = self.rule
        distance = ((self.nodes - x) ** 2).sum(axis=1)
        winner, second = np.argsort(distance)[:2]
        neighbors = self.ages[winner] >= 0
        self.ages[winner, neighbors] += 1
        self.ages[neighbors, winner] += 1
        self.errors[winner] += distance[winner]
        step = x - self.nodes
        self.nodes[winner] += rule.epsilon_winner * step[winner]
        self.nodes[neighbors] += rule.epsilon_neighbor * step[neighbors]
        self.ages[winner, second] = self.ages[second, winner] = 0
        self.errors *= rule.error_decay
        self.idle += 1
        self.idle[winner] = 0
        if (self.ages > rule.max_age).any():
            self.ages[self.ages > rule.max_age] = -1
            self.keep((self.ages >= 0).any(axis=1))
        active = self.idle <= rule.max_age * rule.n_nodes
        if active.sum() >= 2:
            self.keep(active)
        self.n_seen += 1
        full = len(self.nodes) >= rule.n_nodes
        if self.n_seen % rule.insertion_interval == 0 and not full:
            self.insert()

    def insert(self):
        worst = self.errors.argmax()
        if (self.ages[worst] < 0).all():
            return
        other = np.where(self.ages[worst] >= 0, self.errors, -1).argmax()
        middle = (self.nodes[worst] + self.nodes[other]) / 2
        self.nodes = np.vstack([self.nodes, middle])
        self.errors[[worst, other]] *= ERROR_SPLIT
        self.errors = np.append(self.errors, self.errors[worst])
        self.ages = np.pad(self.ages, ((0, 1), (0, 1)), constant_values=-1)
        self.ages[worst, other] = self.ages[other, worst] = -1
        self.idle = np.append(self.idle, 0)
        for end in (worst, other):
            self.ages[-1, end] = self.ages[end, -1] = 0


@PROFILE
@given(SEEDS, st.integers(1, 4), st.integers(8, 20), st.integers(1, 30))
def test_samples_one_by_one_follow_the_classic_rule(seed, width, interval, max_age):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(120, width))
    rule = GrowthRule(8, 0.2, 0.01, max_age, interval, 0.98)
    graph = NodeGraph(rule)
    graph.initialize(double(rng.normal(size=(9, width))), seed=seed)
    plain = PlainGraph(rule, graph.nodes.numpy())
    for x in z:
        graph.step(double(x[None]))
        plain.step(x)
    same(graph.nodes, plain.nodes)
    same(graph.errors, plain.errors)
    assert_same_ages(graph.ages, plain.ages)
    np.testing.assert_array_equal(graph.idle, plain.idle)


def line_graph(max_age=20):
    """Nodes so far apart that a batch cannot change who is nearest."""
    graph = NodeGraph(GrowthRule(6, 0.1, 1e-4, max_age, 10**6))
    position = torch.tensor([0.0, 10.0, 25.0, 45.0, 70.0]).double()
    ages = torch.full((5, 5), NO_EDGE)
    for a, b, age in ((0, 1, 3), (1, 2, 15), (2, 3, 0), (3, 4, 20), (0, 4, 2)):
        ages[a, b] = ages[b, a] = age
    errors = torch.arange(5.0).double()
    idle, progress = torch.zeros(5).long(), torch.zeros(2).double()
    state = {"nodes": position[:, None], "errors": errors, "ages": ages}
    graph.set_state(state | {"idle": idle, "progress": progress})
    return graph


@PROFILE
@given(SEEDS, st.integers(2, 60))
def test_a_batch_is_its_steps_where_the_nearest_nodes_stay(seed, n_samples):
    rng = np.random.default_rng(seed)
    chosen = rng.integers(2 + seed % 4, size=n_samples)
    at_once, one_by_one = line_graph(1000), line_graph(1000)
    z = at_once.nodes[chosen] + double(rng.uniform(-1, 1, (n_samples, 1)))
    at_once.step(z)
    for row in z:
        one_by_one.step(row[None])
    same(at_once.nodes, one_by_one.nodes)
    assert_same_ages(at_once.ages, one_by_one.ages)
    np.testing.assert_array_equal(at_once.idle, one_by_one.idle)
    # Distances are measured from where the batch began.
    np.testing.assert_allclose(at_once.errors, one_by_one.errors, atol=n_samples)


def test_errors_decay_after_each_sample():
    graph = line_graph()
    graph.step(double([[1.0], [12.0], [1.0]]))
    decay = graph.rule.error_decay
    expected = decay**3 * np.arange(5)
    expected[0] += decay**3 + decay
    expected[1] += 4 * decay**2
    same(graph.errors, expected)


def test_an_edge_goes_past_its_greatest_age_and_so_does_a_node_without_edges():
    graph = line_graph()
    graph.step(double([[71.0]]))  # its edge to 45 is the youngest again
    assert graph.ages[3, 4] == 0
    assert graph.ages[0, 4] == 3
    graph = line_graph()
    graph.step(double([[9.0]] * 6))  # the edge from 10 to 25 had age 15
    assert graph.ages[1, 2] < 0
    assert len(graph.nodes) == 5
    graph.ages[0, 4] = graph.ages[4, 0] = NO_EDGE
    graph.step(double([[44.0]]))  # the edge from 45 to 70 had age 20
    assert graph.nodes[:, 0].round().tolist() == [0, 10, 25, 45]


def test_a_graph_comes_back_from_its_state(rings):
    z = double(rings)
    graph = NodeGraph(GrowthRule(15))
    graph.initialize(z, seed=0)
    graph.step(z[:433])
    again = NodeGraph(graph.rule)
    again.set_state(graph.state())
    for one in (graph, again):
        one.step(z[433:])
    assert_same_state(graph, again)


def test_batches_of_any_size_end_at_insertions(rings):
    z = double(rings)
    whole, parts = NodeGraph(GrowthRule(15)), NodeGraph(GrowthRule(15))
    for graph in (whole, parts):
        graph.initialize(z, seed=1)
    whole.step(z)
    for rows in z.split(200):
        parts.step(rows)
    assert_same_state(whole, parts)


def test_samples_in_float32_move_nodes_in_float64(rings):
    graph = NodeGraph(GrowthRule(5))
    graph.initialize(torch.tensor(rings).float(), seed=0)
    graph.step(torch.tensor(rings).float())
    assert graph.nodes.dtype == graph.density(double(rings)).means.dtype == torch.double


def test_settling_keeps_the_edges_that_rows_confirm():
    graph = line_graph()
    near = np.repeat([-0.5, 9.5, 26.0, 48.0, 72.0], 100)
    graph.settle(double([*near, 34.0])[:, None])
    edges = (graph.ages >= 0).triu().nonzero().tolist()
    # 34 joins 25 to 45, but the 200 other rows that they won do not.
    assert edges == [[0, 1], [1, 2], [3, 4]]
    assert graph.ages[0, 1] == 0  # each of 200 wins is the edge's own
    assert graph.ages[1, 2] == 1  # of 201, 100 are
    graph.settle(double([*near[:300], 34.0])[:, None])
    assert len(graph.nodes) == 3


# --------------------------------------------------------------------------- the graph

SHAPES = {
    "rings": (
        lambda seed: make_circles(1500, noise=0.04, factor=0.5, random_state=seed),
        2,
    ),
    "moons": (lambda seed: make_moons(1500, noise=0.04, random_state=seed), 2),
    "branches": (
        lambda seed: (
            branches(seed, n_samples=1500),
            make_branches(1500, random_state=seed, return_branch=True)[2],
        ),
        3,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_connected_components_are_the_branches_for_every_seed(shape):
    make, n_components = SHAPES[shape]
    for seed in range(10):
        X, y = make(seed)
        X = StandardScaler().fit_transform(X)
        gas = GrowingNeuralGas(50, max_iter=3, random_state=seed).fit(X)
        assert gas.n_connected_components_ == n_components, seed
        assert adjusted_rand_score(y, gas.labels_) > 0.999, seed


def test_nodes_are_as_near_as_those_of_the_classic_rule():
    z = StandardScaler().fit_transform(branches(0))
    gas = GrowingNeuralGas(40, max_iter=2, random_state=0).fit(z)
    rule = GrowthRule(40)
    plain = PlainGraph(rule, z[:2])
    rng = np.random.default_rng(0)
    for row in rng.integers(len(z), size=8000):
        plain.step(z[row])
    nearest = cdist(z, plain.nodes).min(axis=1)
    classic = np.sqrt((nearest**2).mean())
    assert abs(gas.quantization_error_ / classic - 1) < 0.05


def test_attributes_describe_one_graph(rings, fitted):
    gas = fitted
    assert gas.nodes_.shape == (40, 2)
    assert gas.errors_.shape == gas.node_labels_.shape == (40,)
    assert gas.edge_ages_.shape == (len(gas.edges_),)
    assert (gas.edges_[:, 0] < gas.edges_[:, 1]).all()
    assert (gas.edge_ages_ >= 0).all()
    assert (gas.edge_ages_ <= gas.max_age).all()
    ends = gas.node_labels_[gas.edges_]
    assert (ends[:, 0] == ends[:, 1]).all()
    assert set(gas.labels_) == set(range(gas.n_connected_components_))
    assert gas.labels_.dtype == gas.edges_.dtype == np.int64
    distance = cdist(rings, gas.nodes_)
    same(gas.transform(rings), distance)
    same(gas.quantization_error_, np.sqrt((distance.min(axis=1) ** 2).mean()))
    expected = gas.node_labels_[distance.argmin(axis=1)]
    np.testing.assert_array_equal(gas.labels_, expected)
    np.testing.assert_array_equal(gas.predict(rings), expected)


def test_growth_stops_near_enough(rings):
    target = 0.2
    gas = GrowingNeuralGas(target_error=target, random_state=0).fit(rings)
    assert len(gas.nodes_) < 60
    assert 0.7 * target < gas.quantization_error_ < 1.2 * target


def test_the_same_seed_gives_the_same_graph_and_another_seed_another(rings):
    gas = GrowingNeuralGas(**QUICK)
    first, again = (clone(gas).fit(rings).nodes_ for _ in range(2))
    other = clone(gas).set_params(random_state=1).fit(rings).nodes_
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.allclose(first, other)


def test_answers_do_not_depend_on_the_other_rows(rings, fitted):
    order = np.random.default_rng(0).permutation(len(rings))
    np.testing.assert_array_equal(
        fitted.predict(rings[order]), fitted.predict(rings)[order]
    )
    np.testing.assert_array_equal(
        fitted.transform(rings[order[:7]]), fitted.transform(rings)[order[:7]]
    )


def test_arrays_of_any_layout_give_the_same_graph(rings):
    expected = GrowingNeuralGas(**QUICK).fit(rings).nodes_
    readonly = rings.copy()
    readonly.setflags(write=False)
    strided = np.zeros((2 * len(rings), 4))
    strided[::2, ::2] = rings
    for X in (
        readonly,
        strided[::2, ::2],
        np.asfortranarray(rings),
        rings.astype(rings.dtype.newbyteorder()),
    ):
        before = X.copy()
        gas = GrowingNeuralGas(**QUICK).fit(X)
        np.testing.assert_array_equal(gas.nodes_, expected)
        np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("exponent", [-330, -20, 20, 330])
def test_units_of_the_data_change_nothing(exponent, rings, fitted):
    scale = 2.0**exponent
    gas = GrowingNeuralGas(40, random_state=0).fit(scale * rings)
    np.testing.assert_array_equal(gas.nodes_, scale * fitted.nodes_)
    np.testing.assert_array_equal(gas.edges_, fitted.edges_)
    np.testing.assert_array_equal(gas.labels_, fitted.labels_)


def test_a_far_origin_costs_no_accuracy(rings, fitted):
    gas = GrowingNeuralGas(40, random_state=0).fit(rings + 1e6)
    assert gas.n_connected_components_ == 2
    same_places = cdist(gas.nodes_ - 1e6, fitted.nodes_).min(axis=1)
    assert same_places.max() < 0.1


# -------------------------------------------------------------------------- degenerate


def test_few_rows_make_few_nodes(rings):
    assert len(GrowingNeuralGas(random_state=0).fit(rings[:52]).nodes_) <= 10
    gas = GrowingNeuralGas(random_state=0).fit([[0.0], [1.0]])
    np.testing.assert_allclose(np.sort(gas.nodes_.ravel()), [0, 1], atol=0.05)
    assert gas.n_connected_components_ == 1


def test_equal_rows_are_one_component():
    gas = GrowingNeuralGas(random_state=0).fit(np.full((30, 3), 0.1))
    assert gas.n_connected_components_ == 1
    assert set(gas.labels_) == {0}
    assert gas.quantization_error_ < 1e-15
    same(gas.nodes_, 0.1)
    with pytest.raises(IllDefinedCovarianceError, match="lies on a node"):
        gas.to_mixture(np.full((30, 3), 0.1))


def test_repeated_rows_and_constant_columns_are_fitted(rings):
    X = np.column_stack([np.repeat(rings[:250], 4, axis=0), np.full(1000, 7.0)])
    gas = GrowingNeuralGas(40, random_state=0).fit(X)
    assert gas.n_connected_components_ == 2
    same(gas.nodes_[:, 2], 7.0)
    mixture = gas.to_mixture(X)
    assert mixture.log_prob(double(X)).isfinite().all()


def test_rows_of_few_kinds_are_clusters():
    X = np.random.default_rng(0).integers(3, size=(300, 1)) * [[1.0, 5.0]]
    gas = GrowingNeuralGas(random_state=0).fit(X)
    assert np.isfinite(gas.nodes_).all()
    assert np.isfinite(gas.errors_).all()
    assert gas.quantization_error_ < 0.2


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_one_row_is_refused(method):
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        getattr(GrowingNeuralGas(), method)([[1.0, 2.0]])


def test_bad_input_is_refused(rings, fitted):
    with pytest.raises(ValueError, match="NaN"):
        GrowingNeuralGas().fit([[np.nan], [1.0]])
    with pytest.raises(ValueError, match="X"):
        GrowingNeuralGas().fit([[1e200], [1.0]])
    with pytest.raises(ValueError, match="features"):
        fitted.predict(rings[:, :1])
    with pytest.raises(NotFittedError):
        GrowingNeuralGas().to_mixture(rings)


# ------------------------------------------------------------------------------ stream


def test_a_stream_gives_the_graph_of_its_samples(rings):
    gas = GrowingNeuralGas(12, random_state=0)
    for rows in np.split(rings, 4):
        gas.partial_fit(rows)
    assert gas.n_iter_ == 4
    assert len(gas.labels_) == 250
    graph = NodeGraph(GrowthRule(12))
    graph.initialize(
        double(rings[:250]), np.random.RandomState(0).randint(np.iinfo(np.int32).max)
    )
    for rows in np.split(rings, 4):
        graph.step(double(rows))
    np.testing.assert_allclose(gas.nodes_, graph.nodes, atol=1e-9)
    np.testing.assert_allclose(gas.errors_, graph.errors, atol=1e-9)
    np.testing.assert_array_equal(
        gas.edges_, (graph.ages >= 0).triu().nonzero().numpy()
    )


def test_a_stream_may_give_one_row_at_a_time(rings):
    gas = GrowingNeuralGas(12, insertion_interval=10, random_state=0)
    gas.partial_fit(rings[:2])
    for row in rings[2:202]:
        gas.partial_fit(row[None])
    assert len(gas.nodes_) == 12


def test_nodes_follow_a_stream_that_moves():
    rng = np.random.default_rng(0)
    gas = GrowingNeuralGas(10, random_state=0)
    for centre in np.linspace(0, 20, 60):
        gas.partial_fit(centre + rng.normal(size=(250, 2)))
    # Nodes that are left behind win nothing more, and go.
    near = np.abs(gas.nodes_ - 20).max(axis=1) < 4
    assert near.mean() >= 0.8


def test_a_fit_goes_on_as_a_stream(rings):
    gas = GrowingNeuralGas(**QUICK).fit(rings)
    before = gas.quantization_error_
    gas.set_params(n_nodes=30)
    for _ in range(4):
        gas.partial_fit(rings)
    assert len(gas.nodes_) == 30
    assert gas.quantization_error_ < before


# ----------------------------------------------------------------------------- mixture


def textbook_mixture(gas, X):
    """Equation (1.18), node by node."""
    n_features = X.shape[1]
    distance = cdist(X, gas.nodes_)
    cell = distance.argmin(axis=1)
    variance = (distance.min(axis=1) ** 2).mean() / n_features
    weights, covariances = [], []
    for k, node in enumerate(gas.nodes_):
        inside = X[cell == k] - node
        neighbors = [
            gas.nodes_[a if b == k else b] for a, b in gas.edges_ if k in (a, b)
        ]
        half_edge = np.mean(
            [np.outer(w - node, w - node) / 4 for w in neighbors], axis=0
        )
        prior = half_edge + 0.1 * variance * np.eye(n_features)
        strength = n_features + 1
        covariances.append(
            (inside.T @ inside + strength * prior) / (len(inside) + strength)
        )
        weights.append(len(inside) + 0.1)
    return np.array(weights) / np.sum(weights), np.array(covariances)


def test_the_mixture_has_a_component_for_each_node(rings, fitted):
    mixture = fitted.to_mixture(rings)
    weights, covariances = textbook_mixture(fitted, rings)
    same(mixture.means, fitted.nodes_)
    same(mixture.weights, weights)
    same(mixture.component_covariances, covariances)
    same(float(mixture.weights.sum()), 1.0)


@pytest.mark.parametrize("scale", [1e-100, 1e-3, 1e100])
@pytest.mark.parametrize("n_em_steps", [0, 3])
def test_covariances_are_definite_at_any_scale(scale, n_em_steps, rings):
    gas = GrowingNeuralGas(**QUICK).fit(scale * rings)
    factor = gas.to_mixture(scale * rings, n_em_steps=n_em_steps).scale_tril
    assert ((factor / scale).diagonal(dim1=1, dim2=2) > 1e-2).all()
    assert (factor / scale).isfinite().all()


def test_cells_without_rows_have_components_too(rings, fitted):
    mixture = fitted.to_mixture(rings[:5])
    assert mixture.weights.min() > 0
    assert mixture.log_prob(double(rings)).isfinite().all()


def test_em_steps_raise_the_likelihood(rings, fitted):
    scores = [
        fitted.to_mixture(rings, n_em_steps=n).log_prob(double(rings)).mean()
        for n in (0, 1, 3)
    ]
    assert scores[0] < scores[1] < scores[2]


@pytest.mark.parametrize(
    ("kind", "n_em_steps", "gap"),
    [("separated", 0, 0.1), ("separated", 5, 0.06), ("intersecting", 5, 0.1)],
)
def test_the_conditional_density_is_near_the_oracle(kind, n_em_steps, gap):
    scaler = StandardScaler()
    Z = scaler.fit_transform(branches(0, kind))
    gas = GrowingNeuralGas(50, random_state=0).fit(Z)
    X, y = make_branches(5000, kind=kind, random_state=1000)
    pairs = double(scaler.transform(np.hstack([X, y])))
    mixture = gas.to_mixture(Z, n_em_steps=n_em_steps)
    log_density = mixture.log_prob(pairs) - mixture.marginal([0]).log_prob(pairs[:, :1])
    nats = float(log_density.mean()) - np.log(scaler.scale_[1])
    assert branch_log_density(X, y, kind=kind).mean() - nats < gap


# -------------------------------------------------------------------------- estimators


def test_a_file_and_a_pickle_bring_the_graph_back(rings, fitted, tmp_path):
    path = tmp_path / "gas.safetensors"
    fitted.save(path)
    for again in (load(path), pickle.loads(pickle.dumps(fitted))):
        assert vars(again).keys() == vars(fitted).keys()
        np.testing.assert_array_equal(again.transform(rings), fitted.transform(rings))
        np.testing.assert_array_equal(again.predict(rings), fitted.predict(rings))
        again.partial_fit(rings)
        expected = pickle.loads(pickle.dumps(fitted)).partial_fit(rings)
        np.testing.assert_array_equal(again.nodes_, expected.nodes_)


def test_data_frames_come_out_with_a_column_for_each_node(rings):
    X = pd.DataFrame(rings, columns=["a", "b"])
    gas = GrowingNeuralGas(**QUICK).fit(X).set_output(transform="pandas")
    distances = gas.transform(X)
    assert distances.shape == (1000, len(gas.nodes_))
    assert list(distances.columns) == list(gas.get_feature_names_out())
    assert distances.columns[0] == "growingneuralgas0"


@parametrize_with_checks([GrowingNeuralGas(), GrowingNeuralGas(**QUICK)])
def test_common_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:X (does not have|has):UserWarning")
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_set_output_transform,
        estimator_checks.check_set_output_transform_pandas,
        estimator_checks.check_set_output_transform_polars,
        estimator_checks.check_global_output_transform_pandas,
        estimator_checks.check_global_set_output_transform_polars,
        estimator_checks.check_transformer_get_feature_names_out,
        estimator_checks.check_transformer_get_feature_names_out_pandas,
        estimator_checks.check_dataframe_column_names_consistency,
        estimator_checks.check_param_validation,
        estimator_checks.check_inplace_ensure_writeable,
    ],
    ids=lambda check: check.__name__,
)
def test_checks_that_check_estimator_leaves_out(check):
    check("GrowingNeuralGas", GrowingNeuralGas(**QUICK))


@pytest.mark.gpu
def test_a_graph_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    X, y = make_blobs(1000, centers=3, cluster_std=0.3, random_state=0)
    gas = GrowingNeuralGas(30, random_state=0, device="cuda").fit(X)
    assert adjusted_rand_score(y, gas.labels_) == 1.0
    assert gas.to_mixture(X, n_em_steps=2).means.is_cuda
