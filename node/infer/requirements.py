"""What a model demands of the series that feed its inputs: `[inputs.requires]` of `model.toml`."""

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from node.infer.fields import Positive, Section, Text


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
    image_type_excludes: tuple[Text, ...] = Field(
        ("LOCALIZER",), description="Values of Image Type (0008,0008) that rule a series out: DERIVED, LOCALIZER, MPR."
    )
    orientation: tuple[Literal["axial", "sagittal", "coronal"], ...] = Field(
        (), description="Closest plane of the images; empty means any."
    )
    minimum_slices: int = Field(2, ge=1, description="Fewest images.")
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
    def _range(self) -> "Requirements":
        if self.maximum_slices is not None and self.maximum_slices < self.minimum_slices:
            raise ValueError("maximum_slices of at least minimum_slices")
        return self
