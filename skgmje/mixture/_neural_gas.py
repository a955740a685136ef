"""Growing neural gas: a graph that takes the shape of the data."""

import math
from numbers import Integral, Real
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from skgmje._backend import (
    as_numpy,
    as_tensor,
    one_thread,
    resolve_device,
    resolve_random_state,
)
from skgmje._validation import (
    Interval,
    check_rows,
    fit_context,
    unchanged_on_error,
)
from skgmje.io import SaveMixin
from skgmje.mixture._distribution import MultivariateNormalMixture
from skgmje.mixture._node_graph import NO_EDGE, GrowthRule, NodeGraph
from skgmje.mixture._samples import check_range

# Fewer rows for each node leave gaps between the nodes.
ROWS_PER_NODE = 5
# Rows that are copied at a time.
DRAWS = 2**13


class Frame(NamedTuple):
    """Coordinates near one, in which no square overflows and no digit cancels.

    The unit is a power of two, so that it changes no digit.
    """

    origin: Tensor
    unit: float

    @classmethod
    def of(cls, points: Tensor) -> Self:
        """Return the frame of some points (n_points, D)."""
        origin = points.mean(0)
        spread = float((points - origin).abs().max())
        return cls(origin, 2.0 ** math.frexp(spread)[1] if spread else 1.0)

    def enter(self, points: Tensor) -> Tensor:
        """Return points in this frame."""
        return (points - self.origin) / self.unit

    def leave(self, points: Tensor) -> Tensor:
        """Return points in the units of the data."""
        return self.origin + self.unit * points


class GrowingNeuralGas(
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ClusterMixin,
    SaveMixin,
    BaseEstimator,
):
    """Growing neural gas: nodes and edges that take the shape of the data.

    The nodes follow the samples as the centres of k-means do. A sample also joins the
    two nodes that are nearest to it by an edge, and edges that no sample confirms go.
    So the graph shows what is connected: its connected components are clusters of any
    shape, whose number need not be known. `to_mixture` turns it into a Gaussian mixture
    with components that stretch along the edges.

    Read more in the :ref:`User Guide <neural_gas>`.

    Parameters
    ----------
    n_nodes : int, default=100
        The most nodes. `fit` makes at most one for every five rows, since fewer rows
        leave gaps in the graph.
    epsilon_winner : float, default=0.1
        Share of the way to a sample that its nearest node moves.
    epsilon_neighbor : float, default=0.001
        Share of the way that the neighbours of that node move. In many dimensions nodes
        have many neighbours, and a large share would draw them all to the centre.
    max_age : int, default=50
        An edge goes when its ends won more samples than this since the last sample
        whose two nearest nodes they were; a node goes with its last edge, or when it
        won none of the last ``max_age * n_nodes`` samples.
    insertion_interval : int, default=100
        Number of samples between two new nodes.
    error_decay : float, default=0.995
        Factor of all errors after each sample.
    target_error : float, default=0.0
        No node is added while the root mean squared distance of the samples since the
        last one to their nearest nodes is at most this, in the units of X.
    max_iter : int, default=5
        Rounds of `fit`. A round draws every row once, and goes on until the samples
        would suffice to grow all nodes.
    random_state : int, RandomState instance or None, default=None
        Seed of the first two nodes and of the order of the rows.
    device : str, torch.device or None, default=None
        Where to compute: None is the CPU, ``"auto"`` is CUDA where there is one.

    Attributes
    ----------
    nodes_ : ndarray of shape (n_nodes_grown, n_features)
        Positions of the nodes.
    edges_ : ndarray of int64 of shape (n_edges, 2)
        The two nodes of each edge, the smaller index first.
    edge_ages_ : ndarray of int64 of shape (n_edges,)
        Ages of the edges. After `fit` they are means over the rows of X.
    errors_ : ndarray of shape (n_nodes_grown,)
        Decaying sums of the squared distances of the samples that each node won.
    node_labels_ : ndarray of int64 of shape (n_nodes_grown,)
        Connected component of each node.
    labels_ : ndarray of int64 of shape (n_samples,)
        Connected component of the node nearest to each row of X.
    n_connected_components_ : int
        Number of connected components of the graph.
    quantization_error_ : float
        Root mean squared distance of the rows of X to their nearest nodes.
    n_iter_ : int
        Number of rounds, and of calls of `partial_fit`.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had string column names.

    See Also
    --------
    skgmje.GaussianMixture : A mixture fitted by EM, with a given number of components.
    sklearn.cluster.MiniBatchKMeans : Centres without edges.

    Notes
    -----
    Distances are Euclidean: scale the columns first. The samples between two insertions
    find their nearest nodes together; the moves, errors and ages that follow are those
    of the classic rule, which takes them one by one, in closed form. At the end `fit`
    keeps the edges that would survive in the mean over all rows, and not those that
    happened to survive the last draws. That step is ours, and so is the end of nodes
    that win nothing, in the spirit of Fritzke's later utility criterion.

    References
    ----------
    B. Fritzke, *A growing neural gas network learns topologies* (1995).

    Examples
    --------
    >>> from sklearn.datasets import make_circles
    >>> from skgmje import GrowingNeuralGas
    >>> X, _ = make_circles(2000, noise=0.03, factor=0.5, random_state=0)
    >>> gas = GrowingNeuralGas(50, random_state=0).fit(X)
    >>> gas.nodes_.shape, gas.n_connected_components_
    ((50, 2), 2)
    >>> gas.predict([[0.0, 1.0], [0.0, 0.5]]) == gas.predict([[1.0, 0.0], [-0.5, 0.0]])
    array([ True,  True])
    """

    _parameter_constraints: dict = {  # noqa: RUF012
        "n_nodes": [Interval(Integral, 2, None, closed="left")],
        "epsilon_winner": [Interval(Real, 0, 1, closed="neither")],
        "epsilon_neighbor": [Interval(Real, 0, 1, closed="left")],
        "max_age": [Interval(Integral, 1, None, closed="left")],
        "insertion_interval": [Interval(Integral, 1, None, closed="left")],
        "error_decay": [Interval(Real, 0, 1, closed="right")],
        "target_error": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
        "device": [str, torch.device, None],
    }

    def __init__(
        self,
        n_nodes=100,
        *,
        epsilon_winner=0.1,
        epsilon_neighbor=0.001,
        max_age=50,
        insertion_interval=100,
        error_decay=0.995,
        target_error=0.0,
        max_iter=5,
        random_state=None,
        device=None,
    ):
        self.n_nodes = n_nodes
        self.epsilon_winner = epsilon_winner
        self.epsilon_neighbor = epsilon_neighbor
        self.max_age = max_age
        self.insertion_interval = insertion_interval
        self.error_decay = error_decay
        self.target_error = target_error
        self.max_iter = max_iter
        self.random_state = random_state
        self.device = device

    # -------------------------------------------------------------------- learning

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Grow a graph on samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, at least two.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : object
            The fitted graph.

        Raises
        ------
        ValueError
            If X has fewer than two rows, or holds NaN or infinities.
        """
        with unchanged_on_error(self):
            self._fit(X)
        return self

    @fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None):
        """Learn from a batch of samples, in their order.

        The first batch gives the first two nodes. The graph follows samples whose
        distribution moves: what they left behind ages and goes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : object
            The graph. `labels_` and `quantization_error_` are those of the batch.

        Raises
        ------
        ValueError
            If X holds NaN or infinities, or if the first batch has fewer than two rows.
        """
        with unchanged_on_error(self):
            self._partial_fit(X)
        return self

    def _fit(self, X):
        X = self._check_rows(X, reset=True, ensure_min_samples=2)
        random_state = resolve_random_state(self.random_state)
        frame = Frame.of(X)
        z = frame.enter(X)
        n_nodes = min(self.n_nodes, max(2, len(z) // ROWS_PER_NODE))
        graph = self._start(frame, z, random_state, n_nodes)
        with one_thread(z.device):
            for _ in range(self.max_iter):
                for rows in self._draws(len(z), n_nodes, random_state):
                    graph.step(z[torch.as_tensor(rows, device=z.device)])
        graph.settle(z)
        self.n_iter_ = self.max_iter
        self._store(graph, frame, z)

    def _partial_fit(self, X):
        first = not hasattr(self, "nodes_")
        X = self._check_rows(X, reset=first, ensure_min_samples=2 if first else 1)
        if first:
            frame = Frame.of(X)
            z = frame.enter(X)
            random_state = resolve_random_state(self.random_state)
            graph = self._start(frame, z, random_state, self.n_nodes)
            self.n_iter_ = 0
        else:
            graph, frame = self._graph()
            z = frame.enter(X)
        with one_thread(z.device):
            graph.step(z)
        self.n_iter_ += 1
        self._store(graph, frame, z)

    def _start(self, frame, z, random_state, n_nodes):
        """Return a graph of two nodes."""
        graph = NodeGraph(self._rule(frame, n_nodes))
        graph.initialize(z, random_state.randint(np.iinfo(np.int32).max))
        return graph

    def _rule(self, frame, n_nodes):
        return GrowthRule(
            n_nodes,
            self.epsilon_winner,
            self.epsilon_neighbor,
            self.max_age,
            self.insertion_interval,
            self.error_decay,
            self.target_error / frame.unit,
        )

    def _draws(self, n_samples, n_nodes, random_state):
        """Yield the indices of the rows of one round, in pieces."""
        n_left = max(n_samples, n_nodes * self.insertion_interval)
        while n_left > 0:
            order = random_state.permutation(n_samples)[:n_left]
            n_left -= len(order)
            for start in range(0, len(order), DRAWS):
                yield order[start : start + DRAWS]

    def _check_rows(self, X, reset=False, ensure_min_samples=1):
        """Return checked samples as a float64 tensor."""
        X = check_rows(self, X, reset=reset, ensure_min_samples=ensure_min_samples)
        check_range(X, "X")
        return as_tensor(X, resolve_device(self.device))

    # ----------------------------------------------------------------------- state

    def _store(self, graph, frame, z):
        """Set the fitted attributes."""
        self.nodes_ = as_numpy(frame.leave(graph.nodes))
        self.errors_ = as_numpy(graph.errors) * frame.unit**2
        self._idle = as_numpy(graph.idle)
        self._progress = as_numpy(graph.progress) * [1.0, frame.unit**2]
        ages = as_numpy(graph.ages)
        self.edges_ = np.argwhere(np.triu(ages >= 0))
        self.edge_ages_ = ages[tuple(self.edges_.T)]
        n_nodes = len(self.nodes_)
        joined = np.ones(len(self.edges_), dtype=bool), tuple(self.edges_.T)
        n_components, labels = connected_components(
            coo_array(joined, shape=(n_nodes, n_nodes)), directed=False
        )
        self.n_connected_components_ = int(n_components)
        self.node_labels_ = labels.astype(np.int64)
        distance, node = graph.nearest(z)
        self.labels_ = self.node_labels_[as_numpy(node[:, 0])]
        self.quantization_error_ = frame.unit * float(distance.square().mean().sqrt())

    def _graph(self) -> Any:
        """Return the stored graph, in a frame of its own."""
        device = resolve_device(self.device)
        nodes = as_tensor(self.nodes_, device)
        frame = Frame.of(nodes)
        graph = NodeGraph(self._rule(frame, self.n_nodes))
        ages = np.full((len(nodes), len(nodes)), NO_EDGE)
        first, second = self.edges_.T
        ages[first, second] = ages[second, first] = self.edge_ages_
        graph.nodes = frame.enter(nodes)
        graph.errors = as_tensor(self.errors_ / frame.unit**2, device)
        graph.ages = as_tensor(ages, device, torch.int64)
        graph.idle = as_tensor(self._idle, device, torch.int64)
        graph.progress = as_tensor(self._progress / [1.0, frame.unit**2], device)
        return graph, frame

    # ------------------------------------------------------------------- inference

    def predict(self, X):
        """Predict the connected component of the node nearest to each sample.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        labels : ndarray of int64 of shape (n_samples,)
            Connected components, from 0 to ``n_connected_components_ - 1``.
        """
        check_is_fitted(self)
        X = self._check_rows(X)
        graph, frame = self._graph()
        _, node = graph.nearest(frame.enter(X))
        return self.node_labels_[as_numpy(node[:, 0])]

    def transform(self, X):
        """Return the distances of samples to the nodes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        distances : ndarray of shape (n_samples, n_nodes_grown)
            Euclidean distances; the smallest of a row is that to its nearest node.
        """
        check_is_fitted(self)
        X = self._check_rows(X)
        graph, frame = self._graph()
        return as_numpy(graph.distances(frame.enter(X)) * frame.unit)

    def to_mixture(
        self, X, *, reg_covar=0.0, n_em_steps=0
    ) -> MultivariateNormalMixture:
        r"""Turn the nodes into a Gaussian mixture that follows the graph.

        The covariance of a node stretches along its edges:

        .. math:: \Sigma_k = \frac{S_k + (D + 1) (E_k + 0.1 s^2 I)}{N_k + D + 1}

        S_k is the scatter of the rows nearest to the node, N_k their number, E_k the
        mean of ``d d' / 4`` over the differences d to the neighbours of the node, and
        s² the mean squared distance to the nearest node, divided by D. The weight of a
        node is proportional to ``N_k + 0.1``. The form is our derivation.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples that weights and covariances are taken from.
        reg_covar : float, default=0.0
            Added to the diagonal of the covariances, in squared units of X.
        n_em_steps : int, default=0
            Number of EM iterations that follow, with the same prior.

        Returns
        -------
        mixture : MultivariateNormalMixture
            One component a node, with full covariances, in the units of X.

        Raises
        ------
        IllDefinedCovarianceError
            If all rows lie on nodes and `reg_covar` is zero.
        ValueError
            If `n_em_steps` is negative.

        References
        ----------
        The step from nodes to a mixture is part of GMJE-GNG in Y. Huang, "Gaussian
        Joint Embeddings for Self-Supervised Representation Learning", arXiv:2603.26799
        (2026), whose formulas we could not recover.

        Examples
        --------
        >>> import numpy as np
        >>> from skgmje import GrowingNeuralGas
        >>> from skgmje.datasets import make_branches
        >>> X = np.hstack(make_branches(3000, random_state=0))
        >>> gas = GrowingNeuralGas(50, random_state=0).fit(X)
        >>> conditional = gas.to_mixture(X).condition([0], np.array([[0.5]]))
        >>> conditional.highest_density_intervals(0.9).shape
        torch.Size([1, 3, 2])
        """
        check_is_fitted(self)
        if n_em_steps < 0:
            raise ValueError(f"n_em_steps must not be negative; got {n_em_steps}.")
        X = self._check_rows(X)
        graph, frame = self._graph()
        density = graph.density(
            frame.enter(X), reg_covar=reg_covar / frame.unit**2, n_em_steps=n_em_steps
        )
        return density.affine(frame.origin, torch.full_like(frame.origin, frame.unit))

    @property
    def _n_features_out(self):
        return len(self.nodes_)
