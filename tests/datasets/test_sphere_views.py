"""Two views of points on a sphere."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from skgmje.datasets import make_sphere_views


def test_points_are_uniform_on_the_sphere():
    y = make_sphere_views(20000, random_state=0)[2]
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1)
    np.testing.assert_allclose(y.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(np.cov(y.T), np.eye(3) / 3, atol=0.02)


def test_a_seed_makes_the_same_views_again():
    first, again, other = (make_sphere_views(9, random_state=s) for s in (0, 0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


def test_without_noise_two_draws_share_their_maps():
    """What one draw teaches about y holds for the other."""
    X, X_target, y = make_sphere_views(500, noise=0, random_state=0)
    X_test, X_target_test, y_test = make_sphere_views(500, noise=0, random_state=1)
    for view, test in ((X, X_test), (X_target, X_target_test)):
        probe = LinearRegression().fit(np.arctanh(view), y)
        assert probe.score(np.arctanh(test), y_test) == pytest.approx(1)
    assert not np.allclose(X, X_target)


def test_noise_is_of_the_given_size_and_of_each_view_alone():
    clean = make_sphere_views(20000, noise=0, random_state=0)
    noisy = make_sphere_views(20000, noise=0.3, random_state=0)
    first, second = (b - a for a, b in zip(clean[:2], noisy[:2], strict=True))
    assert first.std() == pytest.approx(0.3, rel=0.01)
    assert second.std() == pytest.approx(0.3, rel=0.01)
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.05
