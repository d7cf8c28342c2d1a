"""Sums and circles that are the same on every machine."""

import numpy as np
import pytest

from dicom_sr import arithmetic


def test_dot_is_the_scalar_product():
    vectors = np.random.default_rng(1).normal(size=(5, 4, 3))
    assert arithmetic.dot(vectors, np.array([1.5, -2, 0.25])) == pytest.approx(vectors @ [1.5, -2, 0.25])


def test_equal_vectors_have_equal_products_wherever_they_stand():
    """A kernel that takes four rows at once, and the rest by another way, gives them different last bits."""
    vectors = np.tile(np.random.default_rng(2).normal(size=3), (37, 1))
    assert len(set(arithmetic.dot(vectors, np.array([0.1, 0.7, -0.3])).tolist())) == 1


def test_sum_is_rounded_once():
    assert arithmetic.total(np.array([1e16, 1.0, -1e16, 0.5])) == 1.5


@pytest.mark.parametrize("clockwise", [True, False])
def test_area_of_a_polygon_has_a_sign(clockwise):
    square = np.array([(0, 0), (2, 0), (2, 3), (0, 3), (0, 0)], float)
    assert arithmetic.polygon_area(square if clockwise else square[::-1]) == (6 if clockwise else -6)


def test_lengths():
    assert arithmetic.lengths(np.array([(3.0, 4.0), (0.0, 0.0)])).tolist() == [5, 0]


def test_circle_is_closed_and_round():
    points = arithmetic.circle(36)
    assert points.shape == (37, 2)
    assert points[0].tolist() == points[-1].tolist() == [1, 0]
    assert points[9].tolist() == [0, 1]
    assert np.hypot(*points.T) == pytest.approx(1)


@pytest.mark.parametrize("count", [32, 36, 72])
def test_no_cosine_lies_where_machines_would_round_it_differently(count):
    """Half way between two of the decimals: the last bit of a cosine would decide."""
    angles = 2 * np.pi * np.arange(count) / count
    scaled = np.concatenate([np.cos(angles), np.sin(angles)]) * 10.0**arithmetic.DECIMALS
    assert np.abs(scaled % 1 - 0.5).min() > 1e-3
