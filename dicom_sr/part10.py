"""The DICOM File Format (PS3.10 7) of a data set, pixels written as they are or as they are made."""

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, cast

from pydicom import dcmwrite
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset

from dicom_sr.element_bytes import tag_of
from dicom_sr.pixels import FrameStream

PIXELS = tuple(tag_of(keyword) for keyword in ("FloatPixelData", "PixelData"))
UNDEFINED = 0xFFFFFFFF
DELIMITATION = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
"""Sequence Delimitation Item, the end of encapsulated pixels (PS3.5 A.4)."""


def write_part10(dataset: Dataset, file: BinaryIO) -> None:
    """Write a data set with its file meta information; the same data set gives the same bytes."""
    for part in part10_parts(dataset):
        file.write(part)


def to_part10(dataset: Dataset) -> bytes:
    """The file as bytes."""
    buffer = BytesIO()
    write_part10(dataset, buffer)
    return buffer.getvalue()


def pixel_bytes(dataset: Dataset) -> int:
    """Length of the pixels in the file."""
    for tag in PIXELS:
        if tag in dataset:
            value = dataset.get_item(tag).value
            return len(value) if value is not None else 0
    return 0


def part10_parts(dataset: Dataset) -> Iterator[bytes]:
    """The file in consecutive parts: what comes before raw or streamed pixels, their element header, value and end.

    Joined they are the whole; one after the other they need no memory for it.
    """
    pixels = dataset.get_item(max(dataset.keys()))
    buffer = BytesIO()
    if pixels.tag not in PIXELS or not (pixels.is_raw or isinstance(pixels.value, FrameStream)):
        dcmwrite(buffer, dataset, enforce_file_format=True)
        yield buffer.getvalue()
        return
    dcmwrite(buffer, _without(dataset, pixels), enforce_file_format=True)
    yield buffer.getvalue()
    length = pixels.length if isinstance(pixels, RawDataElement) else len(pixels.value)
    yield struct.pack("<HH2sHI", pixels.tag.group, pixels.tag.element, str(pixels.VR).encode(), 0, length)
    if isinstance(pixels.value, FrameStream):
        yield from pixels.value.chunks()
    else:
        yield cast(bytes, pixels.value)
    if length == UNDEFINED:
        yield DELIMITATION


def _without(dataset: Dataset, element: DataElement | RawDataElement) -> Dataset:
    """The same elements, still raw where they were, but for one."""
    head = Dataset({tag: dataset.get_item(tag) for tag in dataset.keys() - {element.tag}})
    head.file_meta = dataset.file_meta
    head.preamble = dataset.preamble
    implicit, little = dataset.original_encoding
    head.set_original_encoding(implicit, little, dataset.original_character_set)
    return head
