"""Sums and circles whose last bit is the same on every machine.

A product of matrices is left to a kernel that the BLAS chooses by the processor, and a cosine to the library of the
system: both differ in the last bit from machine to machine, which rounding to decimals can make a digit of a file.
"""

import math

import numpy as np

DECIMALS = 12
"""To which cosines are rounded: far more than coordinates keep, far fewer than those that machines differ in."""


def dot(vectors: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Scalar products of vectors, shape (..., n), with one, term after term: shape (...)."""
    products = np.asarray(vectors, float) * np.asarray(direction, float)
    total = products[..., 0]
    for axis in range(1, products.shape[-1]):
        total = total + products[..., axis]
    return np.asarray(total)


def total(values: np.ndarray) -> float:
    """The sum of some numbers, rounded once."""
    return math.fsum(np.ravel(values).tolist())


def polygon_area(points: np.ndarray) -> float:
    """Area of a closed polygon of (column, row) points, shape (n, 2), whose last is the first: positive when it is
    walked clockwise, as it is seen.
    """
    column, row = points.T
    return total(np.concatenate([column[:-1] * row[1:], -row[:-1] * column[1:]])) / 2


def lengths(steps: np.ndarray) -> np.ndarray:
    """How long steps of shape (..., n) are: shape (...)."""
    return np.asarray(np.sqrt(dot(steps, steps)))


def circle(count: int) -> np.ndarray:
    """The unit circle as a closed polygon of so many steps, shape (count + 1, 2)."""
    angles = [2 * math.pi * step / count for step in range(count)]
    points = [(round(math.cos(angle), DECIMALS), round(math.sin(angle), DECIMALS)) for angle in angles]
    return np.array([*points, points[0]])
