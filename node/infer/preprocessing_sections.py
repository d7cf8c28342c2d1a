"""`[preprocessing]` of `model.toml`: from images to tensor, for volumes and for single images. Frozen.

Axes of volumes are named by where they increase to in the patient: L, R, P, A, S or I. Axes of images are rows
(downwards) and columns (to the right).
"""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from node.infer.fields import Identifier, Orientation, Positive, Section, Share, Size, Text
from node.infer.intensity_sections import IntensityStep

Spacing = Positive | Literal["images"]


class Region(Section):
    """`[[preprocessing.regions]]`: what an earlier stage found, and what it is used for."""

    stage: Identifier = Field(description="Name of the stage.")
    names: tuple[Text, ...] = Field((), description="Its labels, classes or points that count; empty means all.")
    use: Literal["crop", "mask", "channel", "keep", "gate"] = Field(
        description="crop: look only at the box around it (a fixed grid is centred on it); mask: replace what lies "
        "outside; channel: give it to the network as one more channel of 0 and 1, for each name in turn; keep: "
        "remove labels outside it; gate: run only where it was found."
    )
    margin_mm: Annotated[float, Field(ge=0)] = Field(0.0, description="Added around a crop of a volume, in mm.")
    margin_pixels: Annotated[int, Field(ge=0)] = Field(0, description="Added around a crop of an image, in pixels.")
    order: Literal["before", "after"] = Field(
        "before", description="Whether crop or mask comes before or after the intensity steps."
    )
    value: float = Field(
        0.0, description="What a mask puts outside: modality units before the intensity steps, scaled after."
    )
    minimum_ml: Annotated[float, Field(ge=0)] = Field(
        0.0, description="For gate: the labels together must be larger than this, in mL."
    )


class GridSection(Section):
    """`[preprocessing.grid]`: extent of the grid that the model sees."""

    kind: Literal["fixed", "cover", "resized", "source"] = Field(
        "cover",
        description="fixed: `shape` voxels centred on the middle of the volume; cover: as many as cover the volume; "
        "resized: their number rounded, and the spacing such that they fill the volume exactly, as nnU-Net and "
        "scikit-image resize; source: the images' own voxels, only turned.",
    )
    shape: tuple[Size, Size, Size] | None = Field(None, description="Voxels along each axis, for kind = fixed.")
    around: Literal["images", "nonzero"] = Field(
        "images",
        description="What it covers, fills or is centred on: all of the images, or the box of voxels that are not 0 in "
        "every input (inputs on other voxels than the first do not count), to which they are cut before anything else.",
    )

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


class Preprocessing(Section):
    """`[preprocessing]` of volumes: orient and resample, scale, crop."""

    dimensions: Literal[3] = Field(3, description="3: the inputs are series of slices.")
    orientation: Orientation = Field(description='Where the tensor\'s axes increase to, e.g. "LPS", "LIA", "SPL".')
    alignment: Literal["patient", "acquisition"] = Field(
        "patient",
        description="patient: axes exactly along the patient's; acquisition: the images' own axes, turned.",
    )
    spacing_mm: tuple[Spacing, Spacing, Spacing] | None = Field(
        None,
        description="Distance of voxel centres along each axis, in mm; `images` keeps that of the images along this "
        "axis, absent along all.",
    )
    interpolation: Literal["linear", "nearest", "cubic", "cubic-clipped"] = Field(
        "linear",
        description="How the images are resampled; cubic-clipped: cubic, cut off at their lowest and highest value, as "
        "scikit-image does.",
    )
    coarse_axis: Literal["as-others", "nearest"] = Field(
        "as-others",
        description="nearest: where voxels of the images, or else of the grid, are more than 3 times as long along one "
        "axis as along another, nothing is interpolated along it, neither images nor what the network says of them: "
        "the nearest slice is taken, as nnU-Net does.",
    )
    outside: float | Literal["minimum", "edge"] = Field(
        0.0,
        description="Value outside the centres of the images' outermost voxels, in modality units; their minimum; or "
        "edge: that of the nearest voxel.",
    )
    grid: GridSection = Field(GridSection(), description="Extent of the grid.")
    intensity: tuple[IntensityStep, ...] = Field(
        (), description="Steps applied in order to the whole grid, to each input on its own."
    )
    intensity_of: dict[Identifier, tuple[IntensityStep, ...]] = Field(
        {}, description="Other steps for single inputs, by name."
    )
    intensity_on: Literal["grid", "images"] = Field(
        "grid",
        description="Where the steps are applied: on the grid, after resampling; or on the images' own voxels, before "
        "it (`grid` in a step then means these, and a number in `outside` is a scaled value).",
    )
    crop: Crop | None = Field(None, description="Cut down to the body after scaling; absent keeps the grid.")
    regions: tuple[Region, ...] = Field((), description="What earlier stages found, and what it is used for.")
    same_frame_of_reference: bool = Field(
        True, description="Refuse inputs that do not share a frame of reference: nothing says that they are aligned."
    )

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
        if self.alignment == "patient" and "images" in (self.spacing_mm or ()):
            raise ValueError('alignment = "acquisition" where spacing_mm keeps that of the images')
        if self.coarse_axis == "nearest" and (self.alignment == "patient" or self.spacing_mm is None):
            raise ValueError('alignment = "acquisition" and spacing_mm where coarse_axis is nearest')
        if self.grid.kind == "source" and (self.alignment == "patient" or self.spacing_mm is not None):
            raise ValueError('alignment = "acquisition" and no spacing_mm where grid.kind is source')
        early = any(each.use in ("crop", "mask") and each.order == "before" for each in self.regions)
        if self.intensity_on == "images" and early:
            raise ValueError('order = "after" for crop and mask where intensity_on is images')
        return self


def _pair(letter: str) -> frozenset[str]:
    return next(frozenset(pair) for pair in ("LR", "PA", "SI") if letter in pair)


class Foreground(Section):
    """`[preprocessing.foreground]`: cut an image down to what lies before a dark background, e.g. the breast."""

    threshold: float | Literal["otsu"] = Field(
        "otsu", description="Values above this are foreground; otsu finds the value that parts the image best."
    )
    margin_pixels: int = Field(0, ge=0, description="Pixels kept around it, as far as the image reaches.")


class ImagePreprocessing(Section):
    """`[preprocessing]` of images: cut, resize, scale, pad. Boxes, points and masks are brought back to the pixels
    of the image exactly.
    """

    dimensions: Literal[2] = Field(description="2: each input is one image, or one loop of frames.")
    values: Literal["modality", "presented"] = Field(
        "modality",
        description="modality: what the detector gave, larger is brighter; presented: through the image's own window, "
        "0 to 1.",
    )
    foreground: Foreground | None = Field(None, description="Cut away the background; absent keeps the image.")
    mirror: Literal["never", "right", "left"] = Field(
        "never", description="Swap left and right where Image Laterality is right (or left), so that all face one way."
    )
    size: tuple[Size, Size] | None = Field(
        None, description="Rows and columns of the tensor; absent keeps the image's."
    )
    fit: Literal["stretch", "pad", "cut", "keep"] = Field(
        "stretch",
        description="stretch: both sides to `size`; pad: keep the aspect, fill up; cut: keep the aspect, cut what is "
        "too long; keep: no scaling, fill up or cut.",
    )
    anchor: Literal["start", "middle"] = Field(
        "start", description="Where the image lies in `size`: at the upper left, or in the middle."
    )
    interpolation: Literal["area", "linear", "linear-antialias", "cubic", "nearest"] = Field(
        "area",
        description="area: mean of the pixels covered (linear where the image grows); linear-antialias: as Pillow and "
        "torchvision do by default.",
    )
    colours: Literal[1, 3] = Field(1, description="Channels of each input: 3 repeats grey, 1 makes grey of colours.")
    intensity: tuple[IntensityStep, ...] = Field(
        (), description="Steps applied in order to the resized image before it is padded, to each input on its own."
    )
    intensity_of: dict[Identifier, tuple[IntensityStep, ...]] = Field(
        {}, description="Other steps for single inputs, by name."
    )
    padding_value: float = Field(0.0, description="Scaled value of pixels added.")
    regions: tuple[Region, ...] = Field((), description="What earlier stages found, and what it is used for.")

    @model_validator(mode="after")
    def _consistent(self) -> "ImagePreprocessing":
        if self.fit != "stretch" and self.size is None:
            raise ValueError("size where fit is not stretch")
        for region in self.regions:
            if region.use == "crop" and region.order == "after":
                raise ValueError('order = "before" for a crop of an image: it is cut before it is resized')
        return self


def _dimensions(given: Any) -> str:
    found = given.get("dimensions", 3) if isinstance(given, dict) else getattr(given, "dimensions", 3)
    return "image" if found == 2 else "volume"


AnyPreprocessing = Annotated[
    Annotated[Preprocessing, Tag("volume")] | Annotated[ImagePreprocessing, Tag("image")], Discriminator(_dimensions)
]
"""Told apart by `dimensions`, which is 3 where it is absent."""
