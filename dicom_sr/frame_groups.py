"""What the gate asks of each frame of a multi-frame object, read from the bytes of its functional groups.

Thousands of items as data sets cost seconds; most of their elements are the same bytes again and are read once.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from dicom_sr.element_bytes import LONG_FORMS, tag_of

PER_FRAME = tag_of("PerFrameFunctionalGroupsSequence")
UNDEFINED = 0xFFFFFFFF

T = TypeVar("T")


@dataclass(frozen=True)
class FrameGroups:
    """Functional groups of one frame.

    Parameters
    ----------
    sources : tuple of (str, int or None)
        SOP Instance UID of each source image, and its frame number where it has one.
    position_mm : tuple of float, optional
        Image Position (Patient).
    segment_number : int, optional
        Referenced Segment Number; None where it is shared by all frames, or there is none.
    """

    sources: tuple[tuple[str, int | None], ...]
    position_mm: tuple[float, ...] | None
    segment_number: int | None


def read_frame_groups(dataset: Dataset) -> list[FrameGroups]:
    """The groups of each frame; from data sets where they are no bytes any more, or of undefined length."""
    raw = dataset.get_item(PER_FRAME)
    if isinstance(raw, RawDataElement) and not raw.is_implicit_VR and raw.is_little_endian and raw.value:
        try:
            return list(_read(raw.value))
        except _NotPlain:
            pass
    return [_of_item(item) for item in dataset.PerFrameFunctionalGroupsSequence]


class _NotPlain(Exception):
    """Lengths are not all defined."""


def _read(content: bytes) -> Iterator[FrameGroups]:
    sources = _once(_read_sources)
    position = _once(_read_position)
    segment = _once(_read_segment)
    for item in _items(content):
        elements = _elements(item)
        yield FrameGroups(
            sources(elements.get("DerivationImageSequence", b"")),
            position(elements.get("PlanePositionSequence", b"")),
            segment(elements.get("SegmentIdentificationSequence", b"")),
        )


def _once(read: Callable[[bytes], T]) -> Callable[[bytes], T]:
    return lru_cache(maxsize=None)(read)


def _read_sources(content: bytes) -> tuple[tuple[str, int | None], ...]:
    found = []
    for derivation in _items(content):
        for source in _items(_elements(derivation).get("SourceImageSequence", b"")):
            elements = _elements(source)
            number = elements.get("ReferencedFrameNumber", b"").decode("ascii").strip()
            found.append((_uid(elements.get("ReferencedSOPInstanceUID", b"")), int(number) if number else None))
    return tuple(found)


def _read_position(content: bytes) -> tuple[float, ...] | None:
    for item in _items(content):
        text = _elements(item).get("ImagePositionPatient", b"").decode("ascii").strip()
        if text:
            return tuple(float(value) for value in text.split("\\"))
    return None


def _read_segment(content: bytes) -> int | None:
    for item in _items(content):
        value = _elements(item).get("ReferencedSegmentNumber", b"")
        if len(value) == 2:
            return int.from_bytes(value, "little")
    return None


def _uid(value: bytes) -> str:
    return value.decode("ascii").rstrip("\0 ")


def _items(content: bytes) -> Iterator[bytes]:
    """Items of a sequence value (PS3.5 7.5)."""
    at = 0
    while at < len(content):
        tag, length = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        if tag != b"\xfe\xff\x00\xe0" or length == UNDEFINED:
            raise _NotPlain
        yield content[at + 8 : at + 8 + length]
        at += 8 + length


def _elements(content: bytes) -> Mapping[str, bytes]:
    """Values of the elements of an item that are asked for here, by keyword."""
    found = {}
    at = 0
    while at < len(content):
        group, number, vr, length = struct.unpack_from("<HH2sH", content, at)
        at += 8
        if vr.decode("ascii", "replace") in LONG_FORMS:
            (length,) = struct.unpack_from("<I", content, at)
            at += 4
            if length == UNDEFINED:
                raise _NotPlain
        keyword = _ASKED.get((group << 16) | number)
        if keyword:
            found[keyword] = content[at : at + length]
        at += length
    return found


_ASKED = {
    int(tag_of(keyword)): keyword
    for keyword in (
        "DerivationImageSequence",
        "SourceImageSequence",
        "ReferencedSOPInstanceUID",
        "ReferencedFrameNumber",
        "PlanePositionSequence",
        "ImagePositionPatient",
        "SegmentIdentificationSequence",
        "ReferencedSegmentNumber",
    )
}


def _of_item(item: Dataset) -> FrameGroups:
    """The same of a data set."""
    sources = tuple(
        (
            str(source.ReferencedSOPInstanceUID),
            int(source.ReferencedFrameNumber) if "ReferencedFrameNumber" in source else None,
        )
        for derivation in item.get("DerivationImageSequence") or ()
        for source in derivation.get("SourceImageSequence") or ()
    )
    position = next((each.get("ImagePositionPatient") for each in item.get("PlanePositionSequence") or ()), None)
    segment = next(
        (each.get("ReferencedSegmentNumber") for each in item.get("SegmentIdentificationSequence") or ()), None
    )
    return FrameGroups(
        sources,
        tuple(float(value) for value in position) if position else None,
        None if segment is None else int(segment),
    )
