"""Intensity steps of `model.toml`: how values become what the network was trained on. Frozen."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from node.infer.fields import Positive, Section


class Clip(Section):
    """Clip to fixed values."""

    step: Literal["clip"]
    low: float = Field(description="Lowest value kept, in modality units.")
    high: float = Field(description="Highest value kept.")


class ClipPercentiles(Section):
    """Clip to percentiles of the image."""

    step: Literal["clip-percentiles"]
    low: Annotated[float, Field(ge=0, le=100)] = Field(0.0, description="Percentile that becomes the lowest value.")
    high: Annotated[float, Field(ge=0, le=100)] = Field(100.0, description="Percentile that becomes the highest value.")
    over: Literal["grid", "source", "positive"] = Field(
        "grid", description="Taken over the whole grid, over the images before resampling, or over voxels above 0."
    )


class MinMax(Section):
    """Scale so that minimum and maximum become `low` and `high`."""

    step: Literal["min-max"]
    low: float = Field(0.0, description="Value of the minimum.")
    high: float = Field(1.0, description="Value of the maximum.")


class ZScore(Section):
    """Subtract a mean, divide by a standard deviation."""

    step: Literal["z-score"]
    mean: float | tuple[float, ...] | None = Field(
        None, description="Fixed mean, or one for each colour, e.g. [0.485, 0.456, 0.406]; absent means of the image."
    )
    deviation: Positive | tuple[Positive, ...] | None = Field(
        None, description="Fixed standard deviation, or one for each colour; absent means of the image."
    )
    over: Literal["grid", "positive", "nonzero"] = Field(
        "grid", description="Mean and deviation of all voxels, of those above 0, or of those that are not 0."
    )
    only_there: bool = Field(False, description="Change only the voxels of `over`; the others keep their value.")

    @model_validator(mode="after")
    def _colours(self) -> "ZScore":
        counts = {len(each) for each in (self.mean, self.deviation) if isinstance(each, tuple)}
        if len(counts) > 1 or 0 in counts:
            raise ValueError("mean and deviation for the same number of colours")
        return self


class Window(Section):
    """Map a window linearly onto `low`..`high` and clip."""

    step: Literal["window"]
    centre: float = Field(description="Window centre, in modality units (HU for CT).")
    width: Positive = Field(description="Window width.")
    low: float = Field(0.0, description="Value at the lower end of the window.")
    high: float = Field(1.0, description="Value at the upper end.")


class PercentileWindow(Section):
    """Map two percentiles of the image linearly onto `low`..`high`."""

    step: Literal["percentile-window"]
    lower: Annotated[float, Field(ge=0, le=100)] = Field(description="Percentile that becomes `low`.")
    upper: Annotated[float, Field(ge=0, le=100)] = Field(description="Percentile that becomes `high`.")
    low: float = Field(0.0, description="Value of the lower percentile.")
    high: float = Field(1.0, description="Value of the upper percentile.")
    clip: bool = Field(False, description="Whether what lies beyond `low` and `high` is cut off.")
    over: Literal["grid", "source", "positive"] = Field(
        "grid", description="Taken over the whole grid, over the images before resampling, or over voxels above 0."
    )

    @model_validator(mode="after")
    def _ascending(self) -> "PercentileWindow":
        if self.lower >= self.upper:
            raise ValueError("lower below upper")
        return self


class AffineStep(Section):
    """value x scale + offset."""

    step: Literal["affine"]
    scale: float = Field(1.0, description="Factor.")
    offset: float = Field(0.0, description="Added after the factor.")


IntensityStep = Annotated[
    Clip | ClipPercentiles | MinMax | ZScore | Window | PercentileWindow | AffineStep, Field(discriminator="step")
]
