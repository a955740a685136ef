"""The growing neural gas beside the classic loop and minigng, on two threads.

    python benchmarks/mixture/neural_gas.py

The first table grows 200 nodes on 100,000 rows of 16 columns; the peers draw as many
rows as growth needs, with the same parameters. Rates count draws and new nodes. The
error is the root mean squared distance to the nearest node, as a ratio to that of the
classic loop. The second table counts the seeds of ten for which the graph has exactly
the right connected components.
"""

import time

import numpy as np
import torch
from _machine import describe
from minigng import MiniGNG
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist
from sklearn.datasets import make_circles, make_moons
from sklearn.preprocessing import StandardScaler

from skgmje import GrowingNeuralGas
from skgmje.datasets import make_branches
from skgmje.mixture._node_graph import GrowthRule, NodeGraph

ROWS, COLUMNS, CLUSTERS, NODES = 100_000, 16, 20, 200
RULE = GrowthRule(NODES)


def clusters():
    rng = np.random.default_rng(0)
    centers = 2 * rng.normal(size=(CLUSTERS, COLUMNS))
    chosen = rng.integers(CLUSTERS, size=ROWS)
    return centers[chosen] + rng.normal(size=(ROWS, COLUMNS))


def batched(X, rule):
    """Return the nodes of our graph after one pass over the rows."""
    graph = NodeGraph(rule)
    graph.initialize(torch.from_numpy(X), seed=0)
    graph.step(torch.from_numpy(X))
    return graph.nodes.numpy(), graph.ages.numpy()


def classic(X, rule):
    """Fritzke's rule, one row after the other, each step in NumPy."""
    nodes, errors, ages = X[:2].copy(), np.zeros(2), np.full((2, 2), -1)
    for t, x in enumerate(X, start=1):
        distance = ((nodes - x) ** 2).sum(axis=1)
        winner, second = np.argpartition(distance, 1)[:2]
        neighbors = np.flatnonzero(ages[winner] >= 0)
        ages[winner, neighbors] += 1
        ages[neighbors, winner] += 1
        errors[winner] += distance[winner]
        nodes[winner] += rule.epsilon_winner * (x - nodes[winner])
        nodes[neighbors] += rule.epsilon_neighbor * (x - nodes[neighbors])
        ages[winner, second] = ages[second, winner] = 0
        old = np.flatnonzero(ages[winner] > rule.max_age)
        if len(old):
            ages[winner, old] = ages[old, winner] = -1
            joined = (ages >= 0).any(axis=1)
            nodes, errors = nodes[joined], errors[joined]
            ages = ages[joined][:, joined]
        errors *= rule.error_decay
        if t % rule.insertion_interval == 0 and len(nodes) < rule.n_nodes:
            worst = errors.argmax()
            other = np.where(ages[worst] >= 0, errors, -1).argmax()
            nodes = np.vstack([nodes, (nodes[worst] + nodes[other]) / 2])
            errors[[worst, other]] *= 0.5
            errors = np.append(errors, errors[worst])
            ages = np.pad(ages, ((0, 1), (0, 1)), constant_values=-1)
            ages[worst, other] = ages[other, worst] = -1
            ages[-1, [worst, other]] = ages[[worst, other], -1] = 0
    return nodes, ages


def minigng(X, rule):
    graph = MiniGNG(
        n_epochs=1,
        sigma=rule.insertion_interval,
        max_units=rule.n_nodes,
        eps_b=rule.epsilon_winner,
        eps_n=rule.epsilon_neighbor,
        max_edge_age=rule.max_age,
        d=rule.error_decay,
        shuffle=False,
    )
    graph.fit(X)
    place = {id(unit): index for index, unit in enumerate(graph.units)}
    ages = np.full((len(place), len(place)), -1)
    for edge in graph.edges:
        ages[place[id(edge.source)], place[id(edge.target)]] = edge.age
    return np.array([unit.prototype for unit in graph.units]), ages


def error(X, nodes):
    return np.sqrt((cdist(X, nodes).min(axis=1) ** 2).mean())


def rates():
    X, draws = clusters(), RULE.insertion_interval * NODES
    batched(X[:1000], RULE)  # warm up
    rows, reference = [], None
    for name, learn in (
        ("classic loop", classic),
        ("minigng", minigng),
        ("skgmje", batched),
    ):
        start = time.perf_counter()
        nodes, _ = learn(X[:draws], RULE)
        seconds = time.perf_counter() - start
        reference = reference or (seconds, error(X, nodes))
        rows.append((name, seconds, len(nodes), error(X, nodes) / reference[1]))
    print(f"\n{'growth':16}{'seconds':>9}{'draws/s':>10}{'nodes/s':>9}", end="")
    print(f"{'times faster':>14}{'error':>8}")
    for name, seconds, n_nodes, ratio in rows:
        print(f"{name:16}{seconds:9.2f}{draws / seconds:10.0f}", end="")
        print(f"{n_nodes / seconds:9.0f}{reference[0] / seconds:14.1f}{ratio:8.3f}")
    start = time.perf_counter()
    gas = GrowingNeuralGas(NODES, random_state=0).fit(X)
    seconds = time.perf_counter() - start
    print(f"{'fit, 5 rounds':16}{seconds:9.2f}{5 * ROWS / seconds:10.0f}", end="")
    print(f"{len(gas.nodes_) / seconds:9.0f}{'':14}", end="")
    print(f"{gas.quantization_error_ / reference[1]:8.3f}")


SHAPES = {
    "rings": (
        lambda seed: make_circles(3000, noise=0.04, factor=0.5, random_state=seed)[0],
        2,
    ),
    "moons": (lambda seed: make_moons(3000, noise=0.05, random_state=seed)[0], 2),
    "branches": (lambda seed: np.hstack(make_branches(3000, random_state=seed)), 3),
}


def topologies():
    rule = GrowthRule(50)
    print(f"\n{'right of 10':16}{'classic loop':>14}{'skgmje fit':>12}{'error':>8}")
    for name, (make, n_components) in SHAPES.items():
        right, errors = np.zeros(2, dtype=int), np.zeros(2)
        for seed in range(10):
            X = StandardScaler().fit_transform(make(seed))
            gas = GrowingNeuralGas(50, random_state=seed).fit(X)
            order = np.random.default_rng(seed).permuted(np.tile(np.arange(3000), 8))
            nodes, ages = classic(X[order], rule)
            found = connected_components(ages >= 0)[0], gas.n_connected_components_
            right += np.equal(found, n_components)
            errors += error(X, nodes), gas.quantization_error_
        ratio = errors[1] / errors[0]
        print(f"{name:16}{right[0]:14}{right[1]:12}{ratio:8.3f}", flush=True)


def main():
    torch.set_num_threads(2)
    describe("minigng")
    rates()
    topologies()


if __name__ == "__main__":
    main()
