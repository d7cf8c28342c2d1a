"""Reading a Structured Report's content tree (PS3.3 C.17.3), as plain data sets."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from pydicom.dataset import Dataset

COORDINATES = ("SCOORD", "SCOORD3D")


def walk(item: Dataset) -> Iterator[Dataset]:
    """Every content item below `item`, parents first."""
    for child in item.get("ContentSequence", ()):
        yield child
        yield from walk(child)


def item_at(report: Dataset, path: Sequence[int]) -> Dataset | None:
    """The content item that a Referenced Content Item Identifier names: 1 is the root, then places from 1 (PS3.3
    C.17.3.2.5); None where there is none.
    """
    places = [int(place) for place in (path if isinstance(path, Sequence) else [path])]
    item = report
    for place in places[1:]:
        children = item.get("ContentSequence", ())
        if not 1 <= place <= len(children):
            return None
        item = children[place - 1]
    return item if places[:1] == [1] else None


def concept_value(item: Dataset) -> str:
    """Code Value of the item's concept name, or nothing."""
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].get("CodeValue", "")) if names else ""


def measurement_groups(report: Dataset) -> list[Dataset]:
    """Containers named (125007, DCM, Measurement Group), which stand in containers."""
    return [item for item in _containers(report) if concept_value(item) == "125007"]


def _containers(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence", ()):
        if child.ValueType == "CONTAINER":
            yield child
            yield from _containers(child)


def children_named(item: Dataset, value: str) -> list[Dataset]:
    """Direct children whose concept name has this Code Value."""
    return [child for child in item.get("ContentSequence", ()) if concept_value(child) == value]


def tracking_uid_of(group: Dataset) -> str:
    """Tracking Unique Identifier (112040, DCM) of a group, or nothing."""
    return next((str(item.UID) for item in children_named(group, "112040")), "")


def tracking_identifier_of(group: Dataset) -> str:
    """Tracking Identifier (112039, DCM) of a group, or nothing."""
    return next((str(item.TextValue) for item in children_named(group, "112039")), "")


def has_coordinates(item: Dataset) -> bool:
    """Whether any coordinates stand below the item."""
    return any(child.ValueType in COORDINATES for child in walk(item))


def referenced_segment(group: Dataset) -> tuple[str, int] | None:
    """(SOP Instance UID, segment number) of the Referenced Segment (121191, DCM) of a group."""
    for item in children_named(group, "121191"):
        reference = item.ReferencedSOPSequence[0]
        return str(reference.ReferencedSOPInstanceUID), int(reference.ReferencedSegmentNumber)
    return None


def number_of(item: Dataset) -> tuple[float, str]:
    """(value, Code Value of the unit) of a NUM item."""
    measured = item.MeasuredValueSequence[0]
    value = measured.get("FloatingPointValue", measured.NumericValue)
    return float(value), str(measured.MeasurementUnitsCodeSequence[0].CodeValue)


def polygon_area_mm2(coordinates: Dataset, row_spacing_mm: float, column_spacing_mm: float) -> float:
    """Area of a closed POLYLINE on an image with this spacing."""
    data = [float(value) for value in coordinates.GraphicData]
    points = list(zip(data[::2], data[1::2], strict=True))
    doubled = sum(a[0] * b[1] - b[0] * a[1] for a, b in pairwise(points))
    return abs(doubled) / 2 * row_spacing_mm * column_spacing_mm
