"""Contours: what is inside them is the mask, to the pixel."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from dicom_sr.arithmetic import polygon_area
from dicom_sr.contours import DISTANCES_AT_ONCE, keyhole, mask_contours

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.booleans())


def rasterise(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres lie within an odd number of turns."""
    rows, columns = np.arange(shape[0]) + 0.5, np.arange(shape[1]) + 0.5
    inside = np.zeros(shape, bool)
    for points in polygons:
        for (x0, y0), (x1, y1) in pairwise(points):
            if y0 != y1:
                crossed = (rows > min(y0, y1)) & (rows < max(y0, y1))
                at = x0 + (rows - y0) * (x1 - x0) / (y1 - y0)
                inside ^= crossed[:, None] & (columns[None] < at[:, None])
    return inside


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_inside_is_the_mask(mask):
    contours = mask_contours(mask)
    np.testing.assert_array_equal(rasterise([each.points for each in contours], mask.shape), mask)
    assert sum(polygon_area(each.points) for each in contours) == mask.sum()
    for part in {each.part for each in contours}:
        assert [each.is_hole for each in contours if each.part == part].count(False) == 1


@settings(max_examples=60, deadline=None)
@given(MASKS)
def test_keyholes_hold_the_same(mask):
    contours = mask_contours(mask)
    parts = {each.part for each in contours}
    polygons = [keyhole([each for each in contours if each.part == part]) for part in parts]
    assert len(polygons) == ndimage.label(mask)[1]
    np.testing.assert_array_equal(rasterise(polygons, mask.shape), mask)


def test_large_contours_are_joined_where_they_are_nearest():
    """A comb around a comb: more distances than are looked at once."""
    mask = np.ones((80, 1600), bool)
    mask[0:30, ::2] = False
    mask[40:70, 1:-1:2] = False
    mask[55, 1:-1] = False
    contours = mask_contours(mask)
    assert len(contours) == 2 and len(contours[0].points) * len(contours[1].points) > 2 * DISTANCES_AT_ONCE
    joined = keyhole(contours)
    assert polygon_area(joined) == mask.sum()
    ring = contours[1].points[:-1]
    nearest = min(np.abs(contours[0].points - point).sum(axis=1).min() for point in ring)
    steps = np.abs(np.diff(joined, axis=0)).sum(axis=1)
    channel = len(contours[0].points) - 1 + len(contours[1].points) - 1 + 2
    assert len(joined) == channel + 1 and nearest in steps


def test_only_corners_are_kept():
    mask = np.zeros((9, 9), bool)
    mask[2:6, 3:8] = True
    (contour,) = mask_contours(mask)
    assert {tuple(point) for point in contour.points} == {(3, 2), (8, 2), (8, 6), (3, 6)}
    assert (contour.points[0] == contour.points[-1]).all()


@pytest.mark.parametrize("shape", [(0, 0), (4, 5)])
def test_nothing_gives_no_contour(shape):
    assert mask_contours(np.zeros(shape, bool)) == []
