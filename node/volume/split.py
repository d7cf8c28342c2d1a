"""Several volumes in one series: slices at the same places, told apart by what differs. Pure."""

from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from node.volume.pixels import VALUE_ERRORS, numbers
from node.volume.slices import Slice

DISTINGUISHING = (
    "ImageType",
    "EchoTime",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "AcquisitionNumber",
    "KVP",
    "StackID",
    "ComplexImageComponent",
    "AcquisitionTime",
)
"""What may set images at one place apart, in the order in which it is tried: kind, echo, diffusion, time, phase of a
cycle, phase of contrast, energy.
"""


UNSHOWN = {"AcquisitionTime": "one AcquisitionTime", "StackID": "one StackID"}
"""What is not told of a volume in words that are logged: a time of the patient's, and free text."""


def split_slices(slices: Sequence[Slice]) -> dict[str, list[Slice]]:
    """Slices by the volume they belong to: as few attributes as set apart what lies at one place.

    An attribute that differs within every place in the same way makes parts; those that do not help are left alone, so
    that a series without two images at one place is one volume, named ``""``. What nothing sets apart stays together,
    and is refused by the geometry checks.
    """
    parts: dict[str, list[Slice]] = {"": list(slices)}
    for keyword in DISTINGUISHING:
        if not any(_has_repeats(part) for part in parts.values()):
            break
        made: dict[str, list[Slice]] = {}
        for name, part in parts.items():
            by_value = _by_value(part, keyword) if _has_repeats(part) else {}
            if len(by_value) < 2 or min(len(each) for each in by_value.values()) < 2:
                made[name] = part
                continue
            for value, members in by_value.items():
                made[", ".join(each for each in (name, f"{keyword} {value}") if each)] = members
        parts = made
    return parts


def choose_part(slices: Sequence[Slice]) -> tuple[list[Slice], tuple[str, ...]]:
    """One of the volumes that the frames of multi-frame images make, and what it is, in words for the report.

    Single-frame images are chosen among before they are loaded (`node.select`). Here, too, what is derived comes last,
    then what has fewer slices, then what is later in the order of what differs (the lowest echo time, b-value or
    energy, the first time or phase, magnitude before phase).
    """
    if all(each.frame_number is None for each in slices):
        return list(slices), ()
    parts = split_slices(slices)
    if len(parts) < 2:
        return list(slices), ()
    name = min(parts, key=lambda each: (_is_derived(parts[each][0]), -len(parts[each])))
    known_by = ", ".join(UNSHOWN.get(each.split()[0], each) for each in name.split(", "))
    note = f"The images hold {len(parts)} volumes: only that of {known_by} was analysed"
    return parts[name], (f"{note} ({len(parts[name])} of {len(slices)} slices).",)


def _is_derived(one: Slice) -> bool:
    return "DERIVED" in _shown(raw_value(one.header, "ImageType")).upper().split("\\")


def _has_repeats(slices: Sequence[Slice]) -> bool:
    """Whether two lie at one place with one orientation; what has no place is left to the checks of the geometry."""
    places = [
        (position, numbers(each.header, "ImageOrientationPatient", 6))
        for each in slices
        if (position := numbers(each.header, "ImagePositionPatient", 3)) is not None
    ]
    return len(set(places)) < len(places)


def _by_value(slices: Sequence[Slice], keyword: str) -> dict[str, list[Slice]]:
    found: dict[str, list[Slice]] = {}
    for each in slices:
        found.setdefault(_shown(raw_value(each.header, keyword)), []).append(each)
    return dict(sorted(found.items(), key=lambda each: _rank(each[0])))


def _rank(shown: str) -> tuple[bool, float, str]:
    """Numbers in their order, before words."""
    try:
        return False, float(shown), ""
    except ValueError:
        return True, 0.0, shown


def raw_value(header: Dataset, keyword: str) -> Any:
    """Value of an attribute for comparing; None where it is absent or cannot be converted."""
    try:
        return header.get(keyword)
    except VALUE_ERRORS:
        return None


def _shown(value: Any) -> str:
    if isinstance(value, MultiValue):
        return "\\".join(_shown(each) for each in value)
    return "absent" if value is None or value == "" else f"{value:g}" if isinstance(value, float) else str(value)
