"""What is known of a label map from the runs of equal pixels in its slices: much less work than pixel by pixel."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LabelExtents:
    """Where in each slice the pixels of each label are, the slice taken as one row of pixels.

    Parameters
    ----------
    voxels : ndarray of int64, shape (slice, label)
        How many there are.
    first, end : ndarray of int64, shape (slice, label)
        Index of the first pixel, and one more than that of the last; 0 where there is none.
    """

    voxels: np.ndarray
    first: np.ndarray
    end: np.ndarray


def label_extents(labels: np.ndarray, highest: int) -> LabelExtents:
    """Extents of the labels from 0.

    Parameters
    ----------
    labels : ndarray of unsigned integers, shape (slice, row, column)
    highest : int
        The result has at least ``highest + 1`` columns; labels beyond it widen it.
    """
    width = max(highest, int(labels.max(initial=0))) + 1
    voxels, first, end = (np.zeros((len(labels), width), np.int64) for _ in range(3))
    for index, plane in enumerate(labels):
        pixels = plane.ravel()
        starts = np.concatenate([[0], np.flatnonzero(pixels[1:] != pixels[:-1]) + 1])
        ends = np.append(starts[1:], pixels.size)
        values = pixels[starts]
        voxels[index] = np.bincount(values, weights=ends - starts, minlength=width)
        first[index, values[::-1]] = starts[::-1]  # the last assignment stands, so each way one extreme
        end[index, values] = ends
    return LabelExtents(voxels, first, end)
