"""Labels from scores that are all there."""

from collections.abc import Iterator

import numpy as np

from node.infer.mosaic import Block, Layout, Mosaic
from node.infer.paint import paint_labels
from node.infer.postprocess import Decision
from node.infer.sliding_window import patch_starts
from node.volume import Grid


def painted(
    scores: np.ndarray,
    grid: Grid,
    target: Grid,
    decision: Decision,
    patch: tuple[int, ...] | None = None,
    how: str = "probabilities",
    nearest_axis: int | None = None,
) -> np.ndarray:
    """Labels from scores that come at once, or patch by patch."""
    sides = scores.shape[1:]
    patch = patch or sides
    layout = Layout.of(sides, patch, patch_starts(sides, patch, 0.25))
    mosaic = Mosaic(layout, np.ones(patch, np.float32), 1 << 30)

    def blocks() -> Iterator[Block]:
        for start in layout.patches():
            box = tuple(slice(first, first + length) for first, length in zip(start, patch, strict=True))
            yield from mosaic.add(start, scores[(slice(None), *box)].copy())

    return paint_labels(blocks(), layout, grid, target, decision, resample=how, nearest_axis=nearest_axis)
