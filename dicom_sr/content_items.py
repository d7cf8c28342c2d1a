"""Content items of a Structured Report (PS3.3 C.17.3) as bytes: as data sets each costs more than all it says.

Texts are UTF-8, of which ASCII is a part: a report with others declares it (`provenance.character_set`).
"""

import struct
from collections.abc import Iterable

import numpy as np
from pydicom.sr.coding import Code
from pydicom.valuerep import DSfloat

from dicom_sr import element_bytes as write
from dicom_sr.errors import InvalidResult

CONTAINS, PROPERTIES, CONTEXT = "CONTAINS", "HAS PROPERTIES", "HAS OBS CONTEXT"
ACQUISITION, MODIFIER, INFERRED, SELECTED = "HAS ACQ CONTEXT", "HAS CONCEPT MOD", "INFERRED FROM", "SELECTED FROM"
LONGEST_COORDINATES = 0xFFFE
"""Bytes of Graphic Data, whose length has 16 bits in Explicit VR."""


def code(relationship: str, name: Code, value: Code, children: Iterable[bytes] = ()) -> bytes:
    """A CODE item."""
    return _item("CODE", relationship, name, write.coded("ConceptCodeSequence", value), children)


def text(relationship: str, name: Code, value: str) -> bytes:
    """A TEXT item."""
    return _item("TEXT", relationship, name, write.words("TextValue", "UT", value))


def uid(relationship: str, name: Code, value: str) -> bytes:
    """A UIDREF item."""
    return _item("UIDREF", relationship, name, write.text("UID", "UI", value))


def number(relationship: str, name: Code, value: float, unit: Code, children: Iterable[bytes] = ()) -> bytes:
    """A NUM item of a number that ten digits hold, or `InvalidResult`; an integer has no Floating Point Value."""
    if not np.isfinite(value):
        raise InvalidResult(f"measurement {name.value}: {value} is no number")
    exact = write.number("FloatingPointValue", value) if isinstance(value, float) else b""
    measured = write.item(
        write.coded("MeasurementUnitsCodeSequence", unit),
        exact,
        write.text("NumericValue", "DS", str(DSfloat(value, auto_format=True))),
    )
    return _item("NUM", relationship, name, write.sequence("MeasuredValueSequence", measured), children)


def container(
    relationship: str, name: Code, children: Iterable[bytes], *, template: str = "", continuity: str = "CONTINUOUS"
) -> bytes:
    """A CONTAINER item, with the template of PS3.16 that its content follows."""
    value = write.text("ContinuityOfContent", "CS", continuity) + (template_sequence(template) if template else b"")
    return _item("CONTAINER", relationship, name, value, children)


def image(
    relationship: str,
    name: Code,
    sop_class_uid: str,
    sop_instance_uid: str,
    *,
    frame_number: int | None = None,
    segment_number: int | None = None,
    children: Iterable[bytes] = (),
) -> bytes:
    """An IMAGE item: an image, a frame of it, or a segment of a Segmentation."""
    referenced = write.item(
        write.text("ReferencedSOPClassUID", "UI", sop_class_uid),
        write.text("ReferencedSOPInstanceUID", "UI", sop_instance_uid),
        b"" if frame_number is None else write.text("ReferencedFrameNumber", "IS", str(frame_number)),
        b"" if segment_number is None else write.unsigned("ReferencedSegmentNumber", "US", segment_number),
    )
    before = write.sequence("ReferencedSOPSequence", referenced)
    return _item("IMAGE", relationship, name, children=children, before=before)


def coordinates(relationship: str, name: Code, graphic_type: str, points: np.ndarray, selected_from: bytes) -> bytes:
    """An SCOORD item of (column, row) points with the image that they are on."""
    return _item("SCOORD", relationship, name, children=[selected_from], after=_graphic(graphic_type, points))


def coordinates_in_space(
    relationship: str, name: Code, graphic_type: str, points: np.ndarray, frame_of_reference_uid: str
) -> bytes:
    """An SCOORD3D item of LPS points in millimetres."""
    frame = write.text("ReferencedFrameOfReferenceUID", "UI", frame_of_reference_uid)
    return _item("SCOORD3D", relationship, name, after=_graphic(graphic_type, points) + frame)


def template_sequence(template: str) -> bytes:
    """Content Template Sequence (PS3.3 C.18.8.1.2)."""
    named = (write.text("MappingResource", "CS", "DCMR"), write.text("TemplateIdentifier", "CS", template))
    return write.sequence("ContentTemplateSequence", write.item(*named))


def _graphic(graphic_type: str, points: np.ndarray) -> bytes:
    values = np.asarray(points, float).ravel()
    if 4 * len(values) > LONGEST_COORDINATES:
        raise InvalidResult(f"{graphic_type} with {len(points)} points is too long for coordinates of a report")
    packed = struct.pack(f"<{len(values)}f", *values.tolist())
    return write.element("GraphicData", "FL", packed) + write.text("GraphicType", "CS", graphic_type)


def _item(
    value_type: str,
    relationship: str,
    name: Code,
    value: bytes = b"",
    children: Iterable[bytes] = (),
    *,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """An item; `before` and `after` are what comes before its relationship, and after its children, in the order of
    tags."""
    content = b"".join(children)
    return write.item(
        before,
        write.text("RelationshipType", "CS", relationship),
        write.text("ValueType", "CS", value_type),
        write.coded("ConceptNameCodeSequence", name),
        value,
        write.sequence("ContentSequence", content) if content else b"",
        after,
    )
