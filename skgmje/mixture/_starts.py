"""Starts of EM: the best of several short runs."""

import warnings
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skgmje.exceptions import IllDefinedCovarianceError
from skgmje.mixture._em import ILL_DEFINED_COVARIANCE, MixtureParameters

STARTS = ("kmeans", *("k-means++",) * 3, *("random_from_data",) * 3)
ITERATIONS = 15
# Half of these rows are fitted, all of them judge.
ROWS = 10_000


def best_of_short_runs(
    mixture: Any, X: np.ndarray, random_state: np.random.RandomState
) -> MixtureParameters:
    """Run a few EM iterations from several starts; return the likeliest parameters.

    Parameters
    ----------
    mixture : GaussianMixture
        Gives the form of the mixture.
    X : ndarray of shape (n_samples, n_features)
        Samples.
    random_state : RandomState
        Source of the subsample and of the starts.

    Returns
    -------
    parameters : MixtureParameters
        The best parameters, by the likelihood of rows of which half were not fitted.

    Raises
    ------
    IllDefinedCovarianceError
        If every start ends in a singular component.
    """
    rows = random_state.permutation(X.shape[0])[:ROWS]
    half = len(rows) // 2
    fitted = rows[:half] if half >= 10 * mixture.n_components else rows
    best_score, best = -np.inf, None
    for start in STARTS:
        run = clone(mixture).set_params(
            init_params=start,
            max_iter=ITERATIONS,
            n_init=1,
            warm_start=False,
            verbose=0,
            random_state=random_state.randint(np.iinfo(np.int32).max),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            try:
                run.fit(X[fitted])
            except IllDefinedCovarianceError:
                continue
            except KeyboardInterrupt:
                if best is None:
                    raise
                break
        score = run.score(X[rows])
        if score > best_score:
            best_score, best = score, run._stored()
    if best is None:
        raise IllDefinedCovarianceError(ILL_DEFINED_COVARIANCE)
    return best
