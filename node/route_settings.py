"""The parts of the settings that say when a study is whole and where it goes: `[settle]` and `[[routes]]`."""

import re
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import ConfigDict, Field, model_validator

from node.settings_types import AeTitle, Name, Priority, Section


class CountingArchive(Section):
    """`[[settle.archives]]`: an archive that says how many images a study has, and for whose studies it is asked."""

    name: Name = Field(description="Unique name, shown in the log.")
    calling_ae_titles: tuple[AeTitle, ...] = Field(
        (), description="Senders whose studies it holds; empty means all senders."
    )
    kind: Literal["dimse", "dicomweb"] = Field("dimse", description="How it is asked: C-FIND, or QIDO-RS.")
    ae_title: str = Field("", max_length=16, description="Called AE title, for `dimse`.")
    host: str = Field("", description="Host name or address, for `dimse`.")
    port: int = Field(104, ge=1, le=65535, description="TCP port, for `dimse`.")
    url: str = Field(
        "", description="Root of its DICOMweb service, for `dicomweb`; https://pacs.example.org/dicom-web."
    )
    timeout_seconds: float = Field(5, gt=0, description="Longest wait for its answer; receiving never waits for it.")
    whole_studies: bool = Field(
        True,
        description="It sends whole studies: a series that it has and that has not begun to come is waited for. "
        "False: only series that have begun are counted.",
    )

    @model_validator(mode="after")
    def _reachable(self) -> "CountingArchive":
        if self.kind == "dimse" and not (self.ae_title and self.host):
            raise ValueError("an archive of kind dimse needs ae_title and host")
        if self.kind == "dicomweb" and not self.url.startswith(("http://", "https://")):
            raise ValueError("an archive of kind dicomweb needs a url that begins with http:// or https://")
        return self


class SettleSettings(Section):
    """`[settle]`: when a study counts as whole."""

    released_quiet_seconds: float = Field(
        2,
        ge=0,
        description="Wait after the association was released, if a stack without holes has come. A sender that is "
        "known to go on later is given longer.",
    )
    quiet_seconds: float = Field(
        30,
        ge=0,
        description="Wait after the association was released, if there is no stack to judge by.",
    )
    limit_seconds: float = Field(
        300,
        ge=0,
        description="Longest wait after the last image, when evidence says that images are missing: no release, a "
        "hole in a stack, a count that is not reached.",
    )
    begin_early: bool = Field(
        True,
        description="Begin decoding and inference once a stack without holes has come and its association was "
        "released; nothing is delivered before the study settles.",
    )
    archives: tuple[CountingArchive, ...] = Field(
        (), description="Archives that are asked how many images a study has; the first that fits the sender."
    )


class Match(Section):
    """`match` of a route: all conditions given must hold for a series; a list means any of its values.

    Text compares case-insensitively. `all`, `any` and `not` hold further tables of conditions.
    """

    model_config = ConfigDict(populate_by_name=True)

    calling_ae_title: tuple[str, ...] = Field((), description="Calling AE titles of the sender.")
    called_ae_title: tuple[str, ...] = Field((), description="AE titles that the sender called.")
    modality: tuple[str, ...] = Field((), description="Modality (0008,0060).")
    sop_class_uid: tuple[str, ...] = Field((), description="SOP Class UIDs.")
    body_part_examined: tuple[str, ...] = Field((), description="Body Part Examined (0018,0015).")
    patient_sex: tuple[str, ...] = Field((), description="Patient's Sex (0010,0040): F, M, O.")
    manufacturer: str = Field("", description="Regular expression found in Manufacturer (0008,0070).")
    manufacturer_model_name: str = Field(
        "", description="Regular expression found in Manufacturer's Model Name (0008,1090)."
    )
    series_description: str = Field("", description="Regular expression found in Series Description (0008,103E).")
    study_description: str = Field("", description="Regular expression found in Study Description (0008,1030).")
    protocol_name: str = Field("", description="Regular expression found in Protocol Name (0018,1030).")
    minimum_instances: int = Field(1, ge=1, description="Fewest instances in the series.")
    maximum_instances: int | None = Field(None, ge=1, description="Most instances in the series.")
    minimum_age_years: float | None = Field(
        None, ge=0, description="Youngest patient, by Patient's Age (0010,1010); without an age it does not hold."
    )
    maximum_age_years: float | None = Field(None, ge=0, description="Oldest patient.")
    minimum_slice_spacing_mm: float | None = Field(None, ge=0, description="Least distance of neighbouring slices.")
    maximum_slice_spacing_mm: float | None = Field(None, ge=0, description="Largest distance of neighbouring slices.")
    minimum_slice_thickness_mm: float | None = Field(None, ge=0, description="Least Slice Thickness (0018,0050).")
    maximum_slice_thickness_mm: float | None = Field(None, ge=0, description="Largest Slice Thickness (0018,0050).")
    time_of_day: str = Field(
        "",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$",
        description="When the last image came: `22:00-06:00`; the end is not part of it.",
    )
    time_zone: str = Field("UTC", description="Time zone of time_of_day: `Europe/Vienna`.")
    private: dict[str, str] = Field(
        {},
        description="Private attributes by name, `CREATOR (gggg,ee)`, each with a regular expression found in its "
        'value: `{ "SIEMENS MR HEADER (0019,0C)" = "1000" }`.',
    )
    all: tuple["Match", ...] = Field((), description="Tables of conditions that must all hold.")
    any: tuple["Match", ...] = Field((), description="Tables of conditions of which one must hold.")
    none: tuple["Match", ...] = Field((), alias="not", description="Tables of conditions of which none may hold.")

    @model_validator(mode="after")
    def _can_be_evaluated(self) -> "Match":
        expressions = {
            key: getattr(self, key)
            for key in (
                "manufacturer",
                "manufacturer_model_name",
                "series_description",
                "study_description",
                "protocol_name",
            )
        }
        for key, expression in {
            **expressions,
            **{f"private.{name}": text for name, text in self.private.items()},
        }.items():
            try:
                re.compile(expression)
            except re.error as error:
                raise ValueError(f"{key} is not a regular expression: {error}") from None
        for name in self.private:
            if not re.fullmatch(r".+ \([0-9A-Fa-f]{4},[0-9A-Fa-f]{2}\)", name):
                raise ValueError(f"private attribute {name!r} is not written as `CREATOR (gggg,ee)`")
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"time_zone {self.time_zone!r} is not a time zone, e.g. Europe/Vienna") from None
        return self


class Route(Section):
    """`[[routes]]`: which studies go to which models, and the results to which destinations. All that match apply."""

    name: Name = Field(description="Unique name, shown by `overread explain`.")
    match: Match = Field(Match(), description="Conditions on a series; empty matches everything.")
    models: tuple[str, ...] = Field(min_length=1, description="Identifiers of models to run.")
    destinations: tuple[str, ...] = Field(
        (), description="Names of destinations; empty means keep results in the node only."
    )
    priority: Priority = Field("routine", description="Lane of the jobs made by this route.")
    retention_hours: float | None = Field(
        None,
        ge=0,
        description="How long the images of its studies are kept, instead of `retention.images_hours`; 0: for ever. "
        "The longest of all routes of a study counts.",
    )
