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


def _has_repeats(slices: Sequence[Slice]) -> bool:
    """Whether two lie at one place with one orientation."""
    places = [
        (numbers(each.header, "ImagePositionPatient", 3), numbers(each.header, "ImageOrientationPatient", 6))
        for each in slices
    ]
    return len(set(places)) < len(places)


def _by_value(slices: Sequence[Slice], keyword: str) -> dict[str, list[Slice]]:
    found: dict[str, list[Slice]] = {}
    for each in slices:
        found.setdefault(_shown(raw_value(each.header, keyword)), []).append(each)
    return dict(sorted(found.items()))


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
