"""What a model demands of the series that feed its inputs: `[inputs.requires]` of `model.toml`."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from node.infer.fields import NotNegative, Positive, Section, Text

RANGES = ("slices", "echo_time_ms", "repetition_time_ms", "inversion_time_ms", "b_value", "kvp")
"""What has both a `minimum_` and a `maximum_`."""


class Requirements(Section):
    """`[inputs.requires]`: which series can feed an input. All that are given must hold; a list means any
    of its values.
    """

    modality: tuple[Text, ...] = Field(min_length=1, description="Modality (0008,0060): CT, MR.")
    sop_class_uid: tuple[Text, ...] = Field((), description="SOP Class UIDs; empty means any that can be read.")
    body_part_examined: tuple[Text, ...] = Field(
        (), description="Body Part Examined (0018,0015), any case. A series without one passes; selection says so."
    )
    series_description: str = Field("", description="Regular expression found in Series Description, any case.")
    series_description_excludes: str = Field("", description="Regular expression that must not be found in it.")
    scanning_sequence: tuple[Text, ...] = Field((), description="Scanning Sequence (0018,0020): GR, IR, SE, EP, RM.")
    mr_acquisition_type: tuple[Literal["2D", "3D"], ...] = Field((), description="MR Acquisition Type (0018,0023).")
    contrast: Literal["any", "with", "without"] = Field("any", description="Contrast/Bolus Agent given or not.")
    view_position: tuple[Text, ...] = Field(
        (),
        description="View Position (0018,5101), any case: CC, MLO, PA. Images that stand alone are asked one by one.",
    )
    image_laterality: tuple[Literal["L", "R", "B"], ...] = Field(
        (), description="Image Laterality (0020,0062), or Laterality (0020,0060) of the series where that is absent."
    )
    presentation_intent: tuple[Literal["FOR PRESENTATION", "FOR PROCESSING"], ...] = Field(
        (), description="Presentation Intent Type (0008,0068)."
    )
    timepoint: Literal["current", "prior"] = Field(
        "current",
        description="prior: taken from the nearest earlier study of the same patient that meets the requirements.",
    )
    optional: bool = Field(False, description="The model runs without this input when nothing fits it.")
    same_frame_of_reference: bool = Field(
        False, description="Frame of Reference UID (0020,0052) must be that of the model's first input."
    )
    temporal_position: int | None = Field(
        None, ge=1, description="Temporal Position Identifier (0020,0100): one phase of a dynamic series."
    )
    image_type_excludes: tuple[Text, ...] = Field(
        ("LOCALIZER",), description="Values of Image Type (0008,0008) that rule a series out: DERIVED, LOCALIZER, MPR."
    )
    orientation: tuple[Literal["axial", "sagittal", "coronal"], ...] = Field(
        (), description="Closest plane of the images; empty means any."
    )
    minimum_echo_time_ms: Positive | None = Field(None, description="Shortest Echo Time (0018,0081), in ms.")
    maximum_echo_time_ms: Positive | None = Field(None, description="Longest Echo Time, in ms.")
    minimum_repetition_time_ms: Positive | None = Field(
        None, description="Shortest Repetition Time (0018,0080), in ms."
    )
    maximum_repetition_time_ms: Positive | None = Field(None, description="Longest Repetition Time, in ms.")
    minimum_inversion_time_ms: Positive | None = Field(None, description="Shortest Inversion Time (0018,0082), in ms.")
    maximum_inversion_time_ms: Positive | None = Field(None, description="Longest Inversion Time, in ms.")
    minimum_b_value: NotNegative | None = Field(
        None, description="Least Diffusion b-value (0018,9087), in s/mm2; a series is split by it."
    )
    maximum_b_value: NotNegative | None = Field(None, description="Largest Diffusion b-value, in s/mm2.")
    minimum_kvp: Positive | None = Field(None, description="Least KVP (0018,0060), in kV: one energy of two.")
    maximum_kvp: Positive | None = Field(None, description="Largest KVP, in kV.")
    minimum_slices: int = Field(2, ge=1, description="Fewest images; 1 for a radiograph or a loop.")
    maximum_slices: int | None = Field(None, ge=1, description="Most images.")
    maximum_slice_thickness_mm: Positive | None = Field(None, description="Largest Slice Thickness, in mm.")
    maximum_slice_spacing_mm: Positive | None = Field(
        None, description="Largest distance between centres of neighbouring slices, in mm."
    )
    maximum_pixel_spacing_mm: Positive | None = Field(None, description="Largest Pixel Spacing, in mm.")
    minimum_slice_coverage_mm: Positive | None = Field(
        None, description="Least extent of the stack along its normal, in mm."
    )
    minimum_in_plane_coverage_mm: Positive | None = Field(
        None, description="Least extent of an image along rows and along columns, in mm."
    )

    @field_validator("series_description", "series_description_excludes")
    @classmethod
    def _compiles(cls, expression: str) -> str:
        try:
            re.compile(expression)
        except re.error as error:
            raise ValueError(f"a regular expression ({error})") from None
        return expression

    @model_validator(mode="after")
    def _ranges(self) -> "Requirements":
        for name in RANGES:
            lowest, highest = getattr(self, f"minimum_{name}"), getattr(self, f"maximum_{name}")
            if lowest is not None and highest is not None and highest < lowest:
                raise ValueError(f"maximum_{name} of at least minimum_{name}")
        return self

    @model_validator(mode="after")
    def _same_study(self) -> "Requirements":
        if self.same_frame_of_reference and self.timepoint == "prior":
            raise ValueError("same_frame_of_reference within one study; an earlier one has a frame of its own")
        return self
