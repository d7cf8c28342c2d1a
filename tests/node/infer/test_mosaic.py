"""Blocks of overlapping patches: the same sums as on the whole grid, given out early, cells each exactly once."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.infer.cells import CellMaker
from node.infer.mosaic import Layout, Mosaic
from node.infer.sliding_window import patch_starts, patch_weights

CHANNELS = 3


def layout_of(shape: tuple[int, ...], patch: tuple[int, ...], overlap: float) -> Layout:
    return Layout.of(shape, patch, patch_starts(shape, patch, overlap))


def fed(layout: Layout, weights: np.ndarray, seed: int, budget: int = 1 << 40):
    """Patches of noise, the mean that they give on the whole grid, and the mosaic with its blocks."""
    chance = np.random.default_rng(seed)
    sums = np.zeros((CHANNELS, *layout.shape), np.float32)
    total = np.zeros(layout.shape, np.float32)
    mosaic = Mosaic(layout, weights, budget)
    blocks = []
    for start in layout.patches():
        scores = chance.normal(size=(CHANNELS, *layout.patch)).astype(np.float32)
        box = tuple(slice(first, first + length) for first, length in zip(start, layout.patch, strict=True))
        inner = tuple(slice(0, total[box].shape[axis]) for axis in range(3))
        sums[(slice(None), *box)] += (scores * weights)[(slice(None), *inner)]
        total[box] += weights[inner]
        blocks += mosaic.add(start, scores)
    return sums / total, mosaic, blocks


@given(
    st.tuples(*[st.integers(1, 20)] * 3),
    st.tuples(*[st.integers(1, 12)] * 3),
    st.sampled_from([0, 0.25, 0.5, 0.75]),
    st.integers(0, 10**6),
)
@settings(max_examples=50, deadline=None)
def test_blocks_are_the_weighted_mean_and_cells_come_once(shape, patch, overlap: float, seed: int) -> None:
    patch = tuple(min(side, length) for side, length in zip(shape, patch, strict=True))
    layout = layout_of(shape, patch, overlap)
    expected, mosaic, blocks = fed(layout, np.ascontiguousarray(patch_weights(patch, "gaussian")), seed)
    assert mosaic.held_bytes == 0
    found = np.full((CHANNELS, *shape), np.nan, np.float32)
    times = np.zeros([max(1, side - 1) for side in shape], int)
    maker = CellMaker(layout)
    doubled = expected
    for axis in range(3):
        if shape[axis] == 1:
            doubled = np.repeat(doubled, 2, axis=axis + 1)
    for block in blocks:
        found[(slice(None), *block.box)] = block.scores
        for cells in maker.take(block):
            corners = tuple(
                slice(first, first + n) for first, n in zip(cells.start, cells.scores.shape[1:], strict=True)
            )
            np.testing.assert_allclose(cells.scores, doubled[(slice(None), *corners)], atol=1e-4)
            times[tuple(slice(side.start, side.stop - 1) for side in corners)] += 1
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (times == 1).all()


def test_what_is_held_does_not_grow_with_the_volume() -> None:
    patch = (16, 16, 16)
    held = []
    for depth in (64, 256):
        layout = layout_of((depth, 32, 32), patch, 0.25)
        mosaic = Mosaic(layout, np.ones(patch, np.float32), 1 << 40)
        most = 0
        for start in layout.patches():
            for _ in mosaic.add(start, np.zeros((CHANNELS, *patch), np.float32)):
                pass
            most = max(most, mosaic.held_bytes)
        held.append(most)
    assert held[0] == held[1] < 4 * CHANNELS * 64 * 32 * 32 / 4


def test_over_the_budget_less_is_held_with_less_precision() -> None:
    layout = layout_of((40, 40, 40), (16, 16, 16), 0.5)
    weights = np.ascontiguousarray(patch_weights((16, 16, 16), "gaussian"))
    expected, _, blocks = fed(layout, weights, 3, budget=0)
    found = np.zeros_like(expected)
    for block in blocks:
        assert block.scores.dtype == np.float32
        found[(slice(None), *block.box)] = block.scores
    assert 0 < np.abs(found - expected).max() < 1e-3


@pytest.mark.parametrize("score", [0.0, 1e-9, -3.0, 1e9])
def test_scores_of_any_size_are_held_with_less_precision(score: float) -> None:
    layout = layout_of((6, 4, 4), (4, 4, 4), 0.5)
    mosaic = Mosaic(layout, np.ones((4, 4, 4), np.float32), 0)
    scores = np.full((1, 4, 4, 4), score, np.float32)
    blocks = [block for start in layout.patches() for block in mosaic.add(start, scores)]
    np.testing.assert_allclose([value for block in blocks for value in block.scores.flat], score, rtol=1e-6)


@pytest.mark.parametrize("shape, axis", [((64, 16, 16), 0), ((16, 64, 16), 1), ((16, 16, 64), 2)])
def test_the_outer_loop_runs_where_patches_share_the_least(shape, axis: int) -> None:
    layout = layout_of(shape, (8, 8, 8), 0.25)
    along = [start[axis] for start in layout.patches()]
    assert all(later > earlier - 8 for earlier, later in itertools.pairwise(along))


@pytest.mark.parametrize(("overlap", "most"), [(0.25, 0.065), (0.5, 0.115)])
def test_what_the_last_two_patches_share_is_not_held_across_a_sweep(overlap: float, most: float) -> None:
    """300 x 512 x 512 voxels in patches of 96, at a sixth; one by one 0.076 and 0.124 of the volume are held."""
    layout = layout_of((50, 86, 86), (16, 16, 16), overlap)
    mosaic = Mosaic(layout, np.ones((16, 16, 16), np.float32), 1 << 40)
    held = 0
    for start in layout.patches():
        for _ in mosaic.add(start, np.zeros((1, 16, 16, 16), np.float32)):
            pass
        held = max(held, mosaic.held_bytes)
    assert held < most * 4 * math.prod(layout.shape)
    assert sorted(layout.patches()) == sorted(itertools.product(*layout.starts))
