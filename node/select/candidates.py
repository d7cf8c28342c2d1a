"""What a model input can be fed with: series, or the parts of a series that holds several volumes or images. Pure.

A series with several images at one place holds several volumes (echoes, phases, time points, b-values, magnitude and
phase), and one with several orientations or matrices holds several stacks. Such a series is split by what differs,
never mixed. A series with a few strays is not split: it is refused as a whole when its geometry is checked.

Radiographs, mammograms and loops stand alone: each image is asked by itself, whether a series holds one or all of them.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any

from node.select.stack import FEWEST_OF_A_STACK, Stack, orientation_groups, stack_from, stack_of
from node.store.catalogue import StoredInstance, StoredSeries

Geometry = Mapping[str, Any]
ValuesOf = Callable[[Sequence[Geometry]], Sequence[Any]]
"""For each image the value that tells the parts apart."""

STAND_ALONE = frozenset({"CR", "DX", "MG", "IO", "PX", "RG", "RF", "XA", "US", "IVUS", "ES", "XC", "OP", "GM", "SM"})
"""Modalities whose images do not stack."""

OF_AN_IMAGE = (
    "ImageType",
    "EchoTime",
    "KVP",
    "DiffusionBValue",
    "TemporalPositionIdentifier",
    "ViewPosition",
    "ViewModifiers",
    "ImageLaterality",
    "PresentationIntentType",
    "InstanceNumber",
    "FrameOfReferenceUID",
)
"""What the header of a series says of its first image, and each image says of itself."""


@dataclass(frozen=True)
class Candidate:
    """A series, or a `part` of it (empty: the whole), with how its images are stacked.

    The header of its series is that of its own first image.
    """

    series: StoredSeries
    part: str
    stack: Stack

    @property
    def name(self) -> str:
        """What people know it by."""
        number = self.series.header.get("SeriesNumber")
        shown = f"series {number} ({self.series.series_instance_uid})" if number else self.series.series_instance_uid
        return f"{shown}, {self.part}" if self.part else shown


@dataclass(frozen=True)
class PriorStudy:
    """An earlier study of the same patient. `study_date_time` is Study Date and Time as `YYYYMMDDHHMMSS`."""

    study_instance_uid: str
    study_date_time: str
    series: tuple[StoredSeries, ...]


@dataclass(frozen=True)
class Priors:
    """The earlier studies of the patient, the nearest first; or why none are known, as a sentence for people."""

    studies: tuple[PriorStudy, ...] = ()
    none_because: str = "no earlier study of this patient is here"


def candidates_of(series: Sequence[StoredSeries]) -> tuple[Candidate, ...]:
    """All candidates of a study, in the order of the series; a series without images is none."""
    return tuple(candidate for each in series if each.instances for candidate in split_series(each))


def split_series(series: StoredSeries) -> tuple[Candidate, ...]:
    """The series as one candidate, or its parts by what differs."""
    if len(series.instances) == 1:
        return (_candidate(series, "", series.instances),)
    if _stands_alone(series):
        return tuple(_image(series, each) for each in series.instances)
    whole = _Part((), series.instances, [each.geometry or _NOTHING for each in series.instances])
    parts = [whole]
    for name, values_of in _ALWAYS_APART:
        parts = _split(parts, name, values_of)
    for name, values_of in _APART_WHERE_PLACES_REPEAT:
        if not any(part.stack.has_repeats for part in parts):
            break
        parts = _split(parts, name, values_of)
    return tuple(_candidate(series, ", ".join(part.names), part.members, part.stack) for part in parts)


def _stands_alone(series: StoredSeries) -> bool:
    """Whether each image is a candidate of its own: by modality, or since each holds frames of its own."""
    if str(series.header.get("Modality", "")).upper() in STAND_ALONE:
        return True
    return all((each.geometry or {}).get("NumberOfFrames", 1) > 1 for each in series.instances)


def _image(series: StoredSeries, instance: StoredInstance) -> Candidate:
    geometry = instance.geometry or {}
    number = geometry.get("InstanceNumber")
    seen = " ".join(str(geometry[key]) for key in ("ImageLaterality", "ViewPosition") if geometry.get(key))
    name = f"image {number}" if number is not None else f"image {instance.sop_instance_uid}"
    return _candidate(series, f"{name}{f' ({seen})' if seen else ''}", (instance,))


@dataclass(frozen=True)
class _Part:
    """Images of a series that were not told apart, by what they were told from the others."""

    names: tuple[str, ...]
    members: tuple[StoredInstance, ...]
    geometries: Sequence[Geometry]

    @cached_property
    def stack(self) -> Stack:
        return stack_from(self.geometries)


def _split(parts: list[_Part], name: str, values_of: ValuesOf) -> list[_Part]:
    made = []
    for part in parts:
        values = values_of(part.geometries)
        if _are_equal(values):
            made.append(part)
            continue
        keys = [_hashable(value) for value in values]
        if min(Counter(keys).values()) < FEWEST_OF_A_STACK:
            made.append(part)  # strays, not stacks: the geometry checks refuse what they spoil
            continue
        for key in sorted(set(keys), key=str):
            chosen = tuple(each for each, its in zip(part.members, keys, strict=True) if its == key)
            geometries = [each.geometry or _NOTHING for each in chosen]
            made.append(_Part((*part.names, f"{name} {_shown(key)}"), chosen, geometries))
    return made


def _candidate(
    series: StoredSeries, part: str, members: tuple[StoredInstance, ...], stack: Stack | None = None
) -> Candidate:
    header = dict(series.header)
    geometry = next((each.geometry for each in members if each.geometry), _NOTHING)
    header.update({keyword: geometry[keyword] for keyword in OF_AN_IMAGE if keyword in geometry})
    own = replace(series, header=header, instances=members)
    return Candidate(own, part, stack or stack_of(own))


_NOTHING: Geometry = {}


def _value(keyword: str) -> ValuesOf:
    there = itemgetter(keyword)

    def read(geometries: Sequence[Geometry]) -> list[Any]:
        try:
            return list(map(there, geometries))
        except KeyError:
            return [each.get(keyword) for each in geometries]

    return read


def _matrix(geometries: Sequence[Geometry]) -> Sequence[Any]:
    rows, columns = _rows(geometries), _columns(geometries)
    return rows if _are_equal(rows) and _are_equal(columns) else list(zip(rows, columns, strict=True))


def _are_equal(values: Sequence[Any]) -> bool:
    return not values or values.count(values[0]) == len(values)


def _hashable(value: Any) -> Hashable:
    return tuple(value) if isinstance(value, list) else value


def _shown(value: Hashable) -> str:
    if isinstance(value, tuple):
        return "\\".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
    return f"{value:g}" if isinstance(value, float) else "absent" if value is None else str(value)


_rows, _columns = _value("Rows"), _value("Columns")
_ALWAYS_APART: tuple[tuple[str, ValuesOf], ...] = (
    ("orientation", orientation_groups),
    ("matrix", _matrix),
    ("Frame of Reference", _value("FrameOfReferenceUID")),
)
_APART_WHERE_PLACES_REPEAT: tuple[tuple[str, ValuesOf], ...] = (
    ("Image Type", _value("ImageType")),
    ("Echo Time", _value("EchoTime")),
    ("b-value", _value("DiffusionBValue")),
    ("KVP", _value("KVP")),
    ("Temporal Position", _value("TemporalPositionIdentifier")),
    ("Acquisition Number", _value("AcquisitionNumber")),
)
