"""Outlines along pixel edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from dicom_sr.arithmetic import polygon_area
from dicom_sr.outline import MAXIMUM_POINTS, outline_points

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.booleans()).filter(np.any)


def test_square_is_no_rectangle_to_viewers():
    mask = np.zeros((5, 6), bool)
    mask[1:3, 2:5] = True
    points = outline_points(mask)
    assert len(points) == 9
    assert points.min(axis=0).tolist() == [2, 1]
    assert points.max(axis=0).tolist() == [5, 3]


def test_single_pixel_at_the_border():
    mask = np.zeros((4, 4), bool)
    mask[3, 3] = True
    points = outline_points(mask)
    assert abs(polygon_area(points)) == 1.0
    assert points.max() == 4


def test_largest_part_without_holes():
    mask = np.ones((8, 8), bool)
    mask[:, 2] = False
    mask[3, 5] = False
    assert abs(polygon_area(outline_points(mask))) == 8 * 5


@given(MASKS)
@settings(max_examples=200, deadline=None)
def test_area_is_that_of_the_filled_largest_part(mask):
    points = outline_points(mask)
    parts, count = ndimage.label(mask)
    areas = [ndimage.binary_fill_holes(parts == part).sum() for part in range(1, count + 1)]
    largest = np.bincount(parts.ravel())[1:].max()
    candidates = {area for part, area in enumerate(areas, 1) if (parts == part).sum() == largest}
    assert abs(polygon_area(points)) in candidates
    assert len(points) > 5
    assert points[0].tolist() == points[-1].tolist()
    steps = np.diff(points, axis=0)
    assert np.all((steps[:, 0] == 0) != (steps[:, 1] == 0)), "every step goes along one axis"


def test_ragged_mask_is_made_coarser():
    comb = np.zeros((128, 8400), bool)
    comb[0] = True
    comb[:, ::2] = True
    points = outline_points(comb)
    assert 5 < len(points) <= MAXIMUM_POINTS
    assert points.max(axis=0).tolist() == [8400, 128]
    odd = outline_points(comb[:, :8399])
    assert len(odd) <= MAXIMUM_POINTS
    assert odd.max(axis=0).tolist() == [8399, 128], "no point lies beyond the image"


def test_nothing_has_no_outline():
    with pytest.raises(ValueError, match="empty"):
        outline_points(np.zeros((3, 4), bool))
