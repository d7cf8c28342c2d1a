"""The tables of `model.toml`, version 1: what a model is, needs, does and means. Frozen; unknown keys are
refused.

Axes are named by where they increase to in the patient: L, R, P, A, S or I. Units are in the names.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from node.infer.fields import (
    Byte,
    Coded,
    Identifier,
    Orientation,
    Positive,
    RelativePath,
    Section,
    Share,
    Size,
    Text,
)
from node.infer.requirements import Requirements


class ModelSection(Section):
    """`[model]`: what it is, who made it, what it is for."""

    identifier: Identifier = Field(
        description="Machine name, as routes use it; lower case letters, digits, `.`, `_`, `-`."
    )
    name: Text = Field(description="Name for people, as shown in the viewer.")
    version: Text = Field(description="Version of the model; another version is another device.")
    maker: Text = Field(description="Who made it (Manufacturer).")
    licence: Text = Field(description="Licence of the weights, an SPDX expression where there is one.")
    intended_use: Text = Field(description="What it is for, in one sentence; written into every object.")
    limits: tuple[Text, ...] = Field((), description="What it does not do, and where it was seen to fail.")
    regulatory_status: Text = Field(description='Clearance with its region, or "none: research use only".')
    clinical_use: bool = Field(
        False, description="true only for a model cleared for what the site does; otherwise objects say so."
    )
    family: Coded = Field(
        Coded(value="123109", scheme="DCM", meaning="Artificial Intelligence"),
        description="Algorithm Family Code (CID 7162).",
    )


class Input(Section):
    """`[[inputs]]`: one series the model takes. Version 1 has exactly one."""

    name: Identifier = Field("image", description="Name of the input, for messages.")
    requires: Requirements = Field(description="Which series can feed it.")


class GridSection(Section):
    """`[preprocessing.grid]`: extent of the grid that the model sees."""

    kind: Literal["fixed", "cover", "source"] = Field(
        "cover",
        description="fixed: `shape` voxels centred on the middle of the volume; cover: as many as cover the volume; "
        "source: the images' own voxels, only turned.",
    )
    shape: tuple[Size, Size, Size] | None = Field(None, description="Voxels along each axis, for kind = fixed.")

    @model_validator(mode="after")
    def _shape(self) -> "GridSection":
        if (self.kind == "fixed") != (self.shape is not None):
            raise ValueError("shape when kind is fixed, and only then")
        return self


class Crop(Section):
    """`[preprocessing.crop]`: cut the grid down to what is brighter than a share of the maximum."""

    threshold_fraction: Share = Field(0.05, description="Share of the way from minimum to maximum of the scaled grid.")
    margin_voxels: int = Field(10, ge=0, description="Voxels kept around it, as far as the grid reaches.")
    minimum_voxels_per_plane: int = Field(
        1, ge=1, description="A plane of the grid with fewer bright voxels does not count: specks of noise."
    )


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
    mean: float | None = Field(None, description="Fixed mean; absent means of the image.")
    deviation: Positive | None = Field(None, description="Fixed standard deviation; absent means of the image.")
    over: Literal["grid", "positive"] = Field("grid", description="Over all voxels, or over voxels above 0.")


class Window(Section):
    """Map a window linearly onto `low`..`high` and clip."""

    step: Literal["window"]
    centre: float = Field(description="Window centre, in modality units (HU for CT).")
    width: Positive = Field(description="Window width.")
    low: float = Field(0.0, description="Value at the lower end of the window.")
    high: float = Field(1.0, description="Value at the upper end.")


class AffineStep(Section):
    """value x scale + offset."""

    step: Literal["affine"]
    scale: float = Field(1.0, description="Factor.")
    offset: float = Field(0.0, description="Added after the factor.")


IntensityStep = Annotated[Clip | ClipPercentiles | MinMax | ZScore | Window | AffineStep, Field(discriminator="step")]


class Preprocessing(Section):
    """`[preprocessing]`: from the volume to the tensor: orient and resample, scale, crop."""

    orientation: Orientation = Field(description='Where the tensor\'s axes increase to, e.g. "LPS", "LIA", "SPL".')
    alignment: Literal["patient", "acquisition"] = Field(
        "patient",
        description="patient: axes exactly along the patient's; acquisition: the images' own axes, turned.",
    )
    spacing_mm: tuple[Positive, Positive, Positive] | None = Field(
        None, description="Distance of voxel centres along each axis, in mm; absent keeps that of the images."
    )
    interpolation: Literal["linear", "nearest", "cubic"] = Field("linear", description="How the images are resampled.")
    outside: float | Literal["minimum"] = Field(
        0.0, description="Value outside the images' field of view, in modality units, or their minimum."
    )
    grid: GridSection = Field(GridSection(), description="Extent of the grid.")
    intensity: tuple[IntensityStep, ...] = Field((), description="Steps applied in order to the whole grid.")
    crop: Crop | None = Field(None, description="Cut down to the body after scaling; absent keeps the grid.")

    @field_validator("orientation")
    @classmethod
    def _three_axes(cls, letters: str) -> str:
        if {frozenset("LR"), frozenset("PA"), frozenset("SI")} != {_pair(letter) for letter in letters}:
            raise ValueError("one of L and R, one of P and A, one of S and I, in any order")
        return letters

    @model_validator(mode="after")
    def _consistent(self) -> "Preprocessing":
        if self.alignment == "patient" and self.spacing_mm is None:
            raise ValueError('spacing_mm, or alignment = "acquisition"')
        if self.grid.kind == "source" and (self.alignment == "patient" or self.spacing_mm is not None):
            raise ValueError('alignment = "acquisition" and no spacing_mm where grid.kind is source')
        return self


def _pair(letter: str) -> frozenset[str]:
    return next(frozenset(pair) for pair in ("LR", "PA", "SI") if letter in pair)


class Run(Section):
    """`[run]`: how the network is called. Tensors are (batch, channel, axis 0, axis 1, axis 2)."""

    file: RelativePath = Field("model.onnx", description="The ONNX file, one of [files].")
    input: Text = Field("image", description="Name of the input tensor.")
    output: Text = Field("logits", description="Name of the output tensor.")
    channels: int = Field(ge=1, le=1024, description="Channels of the output.")
    mode: Literal["whole", "sliding-window", "slices"] = Field(
        "whole",
        description="The whole grid at once, patches that overlap, or slices along axis 0 as (batch, channel, 1, 2).",
    )
    patch: tuple[Size, Size, Size] | None = Field(None, description="Voxels of a patch, for sliding-window.")
    overlap: Share = Field(0.25, description="Share of a patch that overlaps the next.")
    blending: Literal["constant", "gaussian"] = Field("gaussian", description="Weights where patches overlap.")
    batch: int = Field(1, ge=1, le=256, description="Patches or slices in one call.")
    multiple: tuple[Size, Size, Size] = Field(
        (1, 1, 1), description="The grid is padded at its far ends until each side is a multiple of these."
    )
    padding_value: float = Field(0.0, description="Scaled value of voxels added by padding.")

    @model_validator(mode="after")
    def _patch(self) -> "Run":
        if (self.mode == "sliding-window") != (self.patch is not None):
            raise ValueError("patch when mode is sliding-window, and only then")
        return self


class BodyMask(Section):
    """`[postprocessing.body]`: keep labels only inside the body, found slice by slice along the images'
    slices.
    """

    above: float = Field(
        description="The largest component above this modality value is the body; its holes belong to it."
    )


class Postprocessing(Section):
    """`[postprocessing]`: from the network's output to labels on the images' own voxels."""

    activation: Literal["none", "softmax", "sigmoid"] = Field("none", description="Applied to the output.")
    decision: Literal["argmax", "threshold"] = Field(
        "argmax", description="argmax: the largest channel; threshold: channels above `threshold`, later labels first."
    )
    threshold: float = Field(0.5, description="For decision = threshold.")
    resample: Literal["probabilities", "labels"] = Field(
        "probabilities", description="What is brought back to the images' voxels: scores (linear) or labels (nearest)."
    )
    body: BodyMask | None = Field(None, description="Remove labels outside the body.")
    largest_component: Literal["none", "foreground", "each-label"] = Field(
        "none", description="Keep only the largest connected component of all labels together, or of each."
    )
    connectivity: Literal["faces", "corners"] = Field("faces", description="Which voxels touch: 6 or 26 neighbours.")
    minimum_component_ml: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Components of a label below this volume are removed, in mL."
    )
    fill_holes: bool = Field(False, description="Fill background that a label encloses.")


class Label(Section):
    """`[[labels]]`: a segment. Labels are numbered from 1 in the order in which they stand."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=64)] = Field(
        description="Short unique name (Segment Label)."
    )
    channels: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1, description="Output channels that mean this label; several are merged."
    )
    category: Coded = Field(
        Coded(value="123037004", meaning="Anatomical Structure"),
        description="Segmented Property Category (CID 7150).",
    )
    type: Coded = Field(description="Segmented Property Type (CID 7166 and others).")
    region: Coded | None = Field(None, description="Anatomic region, where the type does not say it.")
    laterality: Coded | None = Field(None, description="Right (24028007), left (7771000) or both (51440002), SCT.")
    rgb: tuple[Byte, Byte, Byte] = Field(description="Display colour, 0 to 255 each.")


class MeasurementSection(Section):
    """`[[measurements]]`: a number taken from labels on the images' own voxels."""

    kind: Literal["volume", "ratio"] = Field(
        description="volume: of `labels` together, in mL; ratio: volume of `labels` over that of `of`."
    )
    labels: tuple[Text, ...] = Field(min_length=1, description="Names of labels, added up.")
    of: tuple[Text, ...] = Field((), description="Names of labels in the denominator of a ratio, added up.")
    name: Text | None = Field(None, description="Tracking identifier; absent means the label's name.")
    concept: Coded = Field(
        Coded(value="118565006", meaning="Volume"), description="What is measured (CID 7469 and others)."
    )
    unit: Literal["mL", "mm3", "%", "1"] = Field(
        "mL", description="UCUM unit: mL or mm3 for volumes, % or 1 for ratios."
    )
    finding: Coded | None = Field(None, description="What it is measured of; absent means the type of the one label.")
    finding_site: Coded | None = Field(None, description="Where it lies.")

    @model_validator(mode="after")
    def _consistent(self) -> "MeasurementSection":
        if (self.kind == "ratio") != bool(self.of):
            raise ValueError("of when kind is ratio, and only then")
        if (self.kind == "ratio") != (self.unit in ("%", "1")):
            raise ValueError("unit mL or mm3 for a volume, % or 1 for a ratio")
        if len(self.labels) > 1 and (self.finding is None or self.name is None):
            raise ValueError("finding and name where more than one label is measured")
        return self


class Example(Section):
    """`[example]`: a small input with the labels expected of it, for `overread models check`."""

    input: RelativePath = Field("example/input.npz", description="Arrays voxels, affine_lps; text modality.")
    expected: RelativePath = Field("example/expected.npz", description="Array labels on the same voxels.")
    minimum_dice: Annotated[float, Field(gt=0, le=1)] = Field(0.99, description="Least Dice of each label.")
