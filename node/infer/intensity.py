"""Intensity steps applied to an image. Each becomes an `IntensityMap`, which has an inverse within its limits. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from node.infer.arrays import Array, copied, namespace_of, on_host
from node.infer.intensity_sections import (
    AffineStep,
    Clip,
    ClipPercentiles,
    IntensityStep,
    MinMax,
    PercentileWindow,
    Window,
    ZScore,
)

LEAST_SPREAD = 1e-30
"""An image whose values spread less than this counts as one of a single value: its scale would not fit float32."""


@dataclass(frozen=True)
class IntensityMap:
    """y = (clip(x, low, high) - shift) x scale + offset, in this order: nothing cancels that need not.

    `shift` and `scale` may be arrays that broadcast over the image (one value for each colour).
    """

    low: float = -np.inf
    high: float = np.inf
    shift: float | np.ndarray = 0.0
    scale: float | np.ndarray = 1.0
    offset: float = 0.0

    def apply(self, values: Array) -> Array:
        """Change float values in place, and return them."""
        if self.low > -np.inf or self.high < np.inf:
            if isinstance(values, np.ndarray):
                np.clip(values, self.low, self.high, out=values)
            else:
                values[...] = namespace_of(values).clip(values, self.low, self.high)
        if np.any(self.shift):
            values -= self.shift
        if np.any(self.scale != 1):
            values *= self.scale
        if self.offset:
            values += self.offset
        return values

    def invert(self, values: np.ndarray) -> np.ndarray:
        """The values that `apply` maps here; what was clipped stays at the limit."""
        return np.asarray((values - self.offset) / self.scale + self.shift)


def scale_intensities(image: Array, source: np.ndarray, steps: Sequence[IntensityStep]) -> list[IntensityMap]:
    """Apply the steps to `image` in place; the maps that were fitted, in order.

    Parameters
    ----------
    image : array of float32
        Of colours, the first axis counts them. May lie on a GPU.
    source : ndarray
        The values before resampling.
    """
    maps: list[IntensityMap] = []
    for step in steps:
        fitted = _fit(step, image, source, maps)
        if isinstance(step, ZScore) and step.only_there:
            there = _chosen(step.over, image)
            changed = fitted.apply(copied(image))
            image[...] = namespace_of(image).where(there, changed, image)
        else:
            fitted.apply(image)
        maps.append(fitted)
    return maps


def _fit(step: IntensityStep, image: Array, source: np.ndarray, earlier: Sequence[IntensityMap]) -> IntensityMap:
    match step:
        case Clip():
            return IntensityMap(step.low, step.high)
        case ClipPercentiles():
            low, high = _percentiles((step.low, step.high), step.over, image, source, earlier)
            return IntensityMap(low if step.low > 0 else -np.inf, high if step.high < 100 else np.inf)
        case MinMax():
            xp = namespace_of(image)
            return _onto(float(xp.min(image)), float(xp.max(image)), step.low, step.high)
        case Window():
            low, high = step.centre - step.width / 2, step.centre + step.width / 2
            fitted = _onto(low, high, step.low, step.high)
            return replace(fitted, low=low, high=high)
        case PercentileWindow():
            low, high = _percentiles((step.lower, step.upper), step.over, image, source, earlier)
            fitted = _onto(low, high, step.low, step.high)
            return replace(fitted, low=low, high=high) if step.clip else fitted
        case ZScore():
            return _standardised(step, image)
        case AffineStep():
            return IntensityMap(scale=step.scale, offset=step.offset)


def _chosen(over: str, image: Array) -> Array:
    if over == "positive":
        return image > 0
    xp = namespace_of(image)
    return image != 0 if over == "nonzero" else xp.ones(image.shape, dtype=xp.bool)


def _standardised(step: ZScore, image: Array) -> IntensityMap:
    both = step.mean is not None and step.deviation is not None
    chosen = image if both or step.over == "grid" else image[_chosen(step.over, image)]
    mean, deviation = step.mean, step.deviation
    if mean is None:
        mean = _mean(chosen) if chosen.size else 0.0
    if deviation is None:
        deviation = _deviation(chosen) if chosen.size else 1.0
        deviation = deviation if deviation > LEAST_SPREAD else 1.0
    scale = 1 / _by_colour(deviation, image.ndim)
    return IntensityMap(shift=_by_colour(mean, image.ndim), scale=scale)


def _mean(values: Array) -> float:
    if isinstance(values, np.ndarray):
        return float(values.mean(dtype=np.float64))
    xp = namespace_of(values)
    return float(xp.sum(values, dtype=xp.float64)) / values.size


def _deviation(values: Array) -> float:
    if isinstance(values, np.ndarray):
        return float(values.std(dtype=np.float64))
    return float(np.sqrt(_mean((values - _mean(values)) ** 2)))


def _by_colour(value: float | tuple[float, ...], axes: int) -> float | np.ndarray:
    """One value, or one for each place on the first axis."""
    if isinstance(value, tuple):
        return np.array(value, np.float32).reshape((-1,) + (1,) * (axes - 1))
    return value


def _onto(low: float, high: float, new_low: float, new_high: float) -> IntensityMap:
    """The linear map of low..high onto new_low..new_high; an image of one value becomes new_low."""
    scale = (new_high - new_low) / (high - low) if high - low > LEAST_SPREAD else 1.0
    return IntensityMap(shift=low, scale=scale, offset=new_low)


def _percentiles(
    wanted: tuple[float, float], over: str, image: Array, source: np.ndarray, earlier: Sequence[IntensityMap]
) -> tuple[float, float]:
    values = source if over == "source" else on_host(image)
    if over == "positive":
        values = values[values > 0] if (values > 0).any() else values
    found = np.array(np.percentile(values, wanted), dtype=np.float64)
    if over == "source":
        for one in earlier:
            one.apply(found)
    return float(found.min()), float(found.max())
