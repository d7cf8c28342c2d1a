"""The tables of `model.toml`, version 1: what a model is, what it takes, how its networks are called. Frozen; unknown
keys are refused. Units are in the names.

What leads to a tensor is in `preprocessing_sections`, what comes out of one in `output_sections`.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from node.infer.fields import Coded, Identifier, RelativePath, Section, Share, Size, Text
from node.infer.output_sections import AnyOutput
from node.infer.preprocessing_sections import AnyPreprocessing
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
    """`[[inputs]]`: one series, or one image, that the model takes."""

    name: Identifier = Field("image", description="Name of the input, unique in the model.")
    requires: Requirements = Field(description="Which series can feed it.")


class Run(Section):
    """`[run]`: how the network is called. Tensors are (batch, channel, axis 0, axis 1, axis 2), and (batch, channel,
    row, column) for slices and images.
    """

    file: RelativePath | tuple[RelativePath, ...] = Field(
        "model.onnx", description="The ONNX file, one of [files]; several are folds, whose answers are averaged."
    )
    input: Text | dict[Text, tuple[Identifier, ...]] = Field(
        "image",
        description="Name of the input tensor, which has the inputs as channels in their order; or, for several "
        'tensors or some of the inputs only, each tensor with its inputs: { image = ["t1", "flair"] }.',
    )
    layout: Literal["channels-first", "channels-last"] = Field(
        "channels-first", description="Where the tensors of images have their channels: second, or last."
    )
    each: Literal["exam", "view"] = Field(
        "exam",
        description="exam: the network sees all inputs together, as channels; view: it is called for each on its own.",
    )
    mode: Literal["whole", "sliding-window", "slices"] = Field(
        "whole",
        description="The whole grid at once, patches that overlap, or slices along axis 0 as (batch, channel, 1, 2). "
        "Images are always called whole, frame by frame.",
    )
    neighbours: int = Field(
        0,
        ge=0,
        le=16,
        description="For slices: so many slices before and behind are channels too, the outermost repeated.",
    )
    patch: tuple[Size, Size, Size] | None = Field(
        None, description="Voxels of a patch, for sliding-window; for slices, of a part of each: [1, rows, columns]."
    )
    small_patch: tuple[Size, Size, Size] | None = Field(
        None,
        description="Patch when memory does not suffice for `patch`, for a network of free sides; the report says that "
        "it was used. Absent: patches are never made smaller, since the answer would be slightly another.",
    )
    overlap: Share = Field(0.25, description="Share of a patch that overlaps the next.")
    halo: int = Field(
        0,
        ge=0,
        le=1024,
        description="For sliding-window, of a network of free sides: so many voxels at the sides of a patch are seen, "
        "but their scores are not used. Where that is as far as the network looks (for each convolution its dilation x "
        "half its kernel, added up), the answer is that of `whole` with less memory. Patches have `patch` at most, and "
        "`overlap` and `blending` do not count. 0: patches overlap.",
    )
    blending: Literal["constant", "gaussian"] = Field("gaussian", description="Weights where patches overlap.")
    batch: int = Field(1, ge=1, le=256, description="Patches, slices or frames in one call.")
    multiple: tuple[Size, Size, Size] = Field(
        (1, 1, 1), description="The grid is padded at its far ends until each side is a multiple of these."
    )
    padding_value: float = Field(0.0, description="Scaled value of voxels added by padding.")
    flips: tuple[Annotated[int, Field(ge=0, le=2)], ...] = Field(
        (),
        description="Axes (0 to 2; in an image 1 is rows, 2 columns) that are mirrored, in every combination; the "
        "answers are mirrored back and averaged.",
    )
    average: Literal["probabilities", "logits"] = Field(
        "probabilities", description="Whether folds and flips are averaged after the activation or before it."
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Run":
        if (self.mode == "sliding-window" and not self.patch) or (self.mode == "whole" and self.patch):
            raise ValueError("patch when mode is sliding-window, and only then (or for slices)")
        if self.mode == "slices" and self.patch and self.patch[0] != 1:
            raise ValueError("patch = [1, rows, columns] for slices")
        if self.neighbours and self.mode != "slices":
            raise ValueError("mode = slices where neighbours are given")
        if self.small_patch and (self.mode != "sliding-window" or not self.patch or self._is_above(self.patch)):
            raise ValueError("small_patch of at most patch, when mode is sliding-window")
        self._check_halo()
        if isinstance(self.file, tuple) and not self.file:
            raise ValueError("at least one file")
        return self

    def _check_halo(self) -> None:
        if self.halo and (self.mode != "sliding-window" or self.batch > 1):
            raise ValueError("halo when mode is sliding-window, with batch = 1: patches differ in size")
        for patch in (self.patch, self.small_patch):
            least = [2 * (self.halo + step - 1) for step in self.multiple]
            if self.halo and patch and any(side <= most for side, most in zip(patch, least, strict=True)):
                raise ValueError(f"sides of patch and small_patch above {least}, twice the halo (and a multiple)")

    def _is_above(self, patch: tuple[int, int, int]) -> bool:
        return any(small > side for small, side in zip(self.small_patch or (), patch, strict=True))

    @property
    def files(self) -> tuple[str, ...]:
        """The ONNX files, one for each fold."""
        return (self.file,) if isinstance(self.file, str) else self.file


class Stage(Section):
    """`[[stages]]`: a network that runs before the model's last one, which `[preprocessing]`, `[run]` and `[[outputs]]`
    at the top describe. The last and the later ones use what it found by `[[preprocessing.regions]]`.
    """

    name: Identifier = Field(description="Short name, by which regions refer to it.")
    preprocessing: AnyPreprocessing = Field(description="From images to tensor.")
    run: Run = Field(Run(), description="How the network is called.")
    outputs: tuple[AnyOutput, ...] = Field(min_length=1, description="What its output tensors mean.")


class Example(Section):
    """`[example]`: a small input with what is expected of it, for `overread models check`."""

    input: RelativePath = Field(
        "example/input.npz",
        description="Arrays voxels, affine_lps and text modality; or array pixels of an image. With several inputs "
        "the name of the input and a dot before each.",
    )
    expected: RelativePath = Field(
        "example/expected.npz",
        description="Array labels on the voxels of the first input; or, in a .json file, findings by name with "
        "presence, score, grade, and measurements by meaning.",
    )
    minimum_dice: Annotated[float, Field(gt=0, le=1)] = Field(0.99, description="Least Dice of each label.")
    tolerance: Annotated[float, Field(ge=0)] = Field(
        1e-3, description="Largest difference of a score; of a measurement, as a share of the expected value."
    )
