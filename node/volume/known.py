"""A stack of images whose headers were already read once, when they were received.

What reception noted of each image (place, format, where its pixels begin) is enough to place it; one header is read
whole, and the pixels of all go straight into the volume, plain ones from their files, compressed ones decoded or from
where they were decoded before. This is for the ordinary case only: whatever differs, lacks or
does not agree with the bytes on disk makes `read_known` give None, and the caller reads every header instead, which
ends in the same volume or in the exact reason why not.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from node.errors import NotAnalysed
from node.volume.cache import fill
from node.volume.codecs import CODECS
from node.volume.decode import keep_stored_bits
from node.volume.geometry import Plane, Stack, stack_planes
from node.volume.instance import UNDEFINED_LENGTH, Instance, read_instance
from node.volume.pixels import PixelFormat, read_format
from node.volume.slices import Slice
from node.volume.values import Rescale, read_rescale, rescale_in_place
from node.volume.voxels import ReadImage

PLAIN = frozenset({ExplicitVRLittleEndian, ImplicitVRLittleEndian})
SAME_IN_ALL = (
    "SOPClassUID",
    "FrameOfReferenceUID",
    "PixelSpacing",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "LossyImageCompression",
)
"""Noted attributes that must be equal, or absent, throughout: then one header speaks for all."""

NEEDED = ("SOPClassUID", "FrameOfReferenceUID", "Rows", "Columns", "PixelSpacing", "BitsAllocated")
"""What must be noted; images received by an earlier version lack the last."""

EVERY_HEADER = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "Modality",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "PixelSpacing",
    "Rows",
    "Columns",
    "LossyImageCompression",
)
"""What the headers after the first share with it."""

PIXEL_START = b"\xe0\x7f\x10\x00"
START_BYTES = 12
"""Tag, VR and length of Pixel Data, as read to be sure that the pixels are where they were."""


@dataclass(frozen=True)
class KnownInstance:
    """What reception noted of one instance; `geometry` holds values by keyword, as `node.receive.header` reads them."""

    path: Path
    sop_instance_uid: str
    series_instance_uid: str
    transfer_syntax_uid: str
    pixel_offset: int | None
    pixel_length: int | None
    geometry: Mapping[str, Any] | None = field(repr=False)


@dataclass(frozen=True, eq=False)
class KnownStack:
    """Images in slice order, ready to be read; `first` is the one whose header was read.

    `read_image` reads plain ones; others are read as `slices`.
    """

    stack: Stack
    first: Instance
    form: PixelFormat
    rescale: Rescale
    headers: "KnownHeaders"
    slices: tuple[Slice, ...]
    read_image: ReadImage

    @property
    def is_plain(self) -> bool:
        """Whether pixels lie in the files as they are."""
        return self.first.transfer_syntax_uid in PLAIN


class NotAsKnown(Exception):
    """A file is not what was noted of it."""


def read_known(known: Sequence[KnownInstance]) -> KnownStack | None:
    """The stack that these instances make, or None where they have to be read one by one.

    Raises
    ------
    Transient
        When the file of the first slice cannot be opened.
    """
    if not _is_ordinary(known):
        return None
    try:
        stack = stack_planes([_plane(each) for each in known])
        ordered = [known[i] for i in stack.order]
        first = read_instance(ordered[0].path, stack.order[0] + 1)
        form, rescale = read_format(first.header, first.name), read_rescale(first.header, first.name)
    except NotAnalysed:
        return None
    noted, header = ordered[0], first.header
    is_as_noted = (
        str(header.get("SOPInstanceUID", "")) == noted.sop_instance_uid
        and str(header.get("SeriesInstanceUID", "")) == noted.series_instance_uid
        and bool(header.get("StudyInstanceUID"))
        and first.transfer_syntax_uid == noted.transfer_syntax_uid
        and first.pixel_offset == noted.pixel_offset
        and first.pixel_length == (UNDEFINED_LENGTH if noted.pixel_length is None else noted.pixel_length)
    )
    is_plain = first.transfer_syntax_uid in PLAIN
    if not is_as_noted or form.high_bit is not None or rescale.table is not None:
        return None
    if is_plain and form.bits_allocated != 16:
        return None
    if str(header.get("LossyImageCompression", "")) == "01":  # ratios differ from image to image
        return None

    def read_image(index: int, into: np.ndarray, rescale: Rescale) -> None:
        _read_plain(ordered[index], form, into)
        rescale_in_place(into, rescale)

    slices = () if is_plain else tuple(_slice(each, form, first.transfer_syntax_uid) for each in ordered)
    return KnownStack(stack, first, form, rescale, KnownHeaders(header, ordered), slices, read_image)


def _slice(known: KnownInstance, form: PixelFormat, syntax: UID) -> Slice:
    """A compressed image as far as it has to be known to be decoded."""
    named = Dataset()
    _set(named, "SOPInstanceUID", "UI", known.sop_instance_uid)
    instance = Instance(known.path, named, syntax, False, True, known.pixel_offset, UNDEFINED_LENGTH, "OB")
    return Slice(instance, named, form)


def _is_ordinary(known: Sequence[KnownInstance]) -> bool:
    if len(known) < 2:
        return False
    first = known[0]
    for each in known:
        facts = each.geometry
        if (
            facts is None
            or each.pixel_offset is None
            or each.pixel_offset < START_BYTES
            or not each.sop_instance_uid.isascii()
            or not _has_place(each, facts)
            or each.transfer_syntax_uid != first.transfer_syntax_uid
            or each.series_instance_uid != first.series_instance_uid
            or any(keyword not in facts for keyword in NEEDED)
            or len(facts.get("ImagePositionPatient", ())) != 3
            or len(facts.get("ImageOrientationPatient", ())) != 6
            or len(facts["PixelSpacing"]) != 2
            or min(facts["PixelSpacing"]) <= 0
        ):
            return False
    shared = {repr([(each.geometry or {}).get(keyword) for keyword in SAME_IN_ALL]) for each in known}
    return len(shared) == 1


def _has_place(known: KnownInstance, facts: Mapping[str, Any]) -> bool:
    """Whether plain pixels are long enough, or others are encapsulated in a known way."""
    syntax = known.transfer_syntax_uid
    if known.pixel_length is None:
        return syntax in CODECS and facts.get("NumberOfFrames", 1) == 1
    return syntax in PLAIN and known.pixel_length >= 2 * facts.get("Rows", 0) * facts.get("Columns", 0)


def _plane(known: KnownInstance) -> Plane:
    facts = known.geometry
    assert facts is not None
    x, y, z = facts["ImagePositionPatient"]
    a, b, c, d, e, f = facts["ImageOrientationPatient"]
    row_mm, column_mm = facts["PixelSpacing"]
    return Plane(
        position_mm=(x, y, z),
        orientation=(a, b, c, d, e, f),
        pixel_spacing_mm=(row_mm, column_mm),
        rows=facts["Rows"],
        columns=facts["Columns"],
        frame_of_reference_uid=facts["FrameOfReferenceUID"],
    )


def _read_plain(known: KnownInstance, form: PixelFormat, into: np.ndarray) -> None:
    """Pixels straight into their place, with a look at the element that holds them, in one call of the system."""
    assert known.pixel_offset is not None
    start, target = bytearray(START_BYTES), into.view(np.uint8).reshape(-1).data
    file = os.open(known.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        done = os.preadv(file, [start, target], known.pixel_offset - START_BYTES) - START_BYTES
        if not _is_pixel_start(start, known) or not fill(file, target, known.pixel_offset, done):
            raise NotAsKnown
    finally:
        os.close(file)
    keep_stored_bits(into, form)


def _is_pixel_start(start: bytearray, known: KnownInstance) -> bool:
    """Whether these bytes are tag, VR and length of the Pixel Data noted (PS3.5 7.1.2, 7.1.3)."""
    assert known.pixel_length is not None
    length = known.pixel_length.to_bytes(4, "little")
    if known.transfer_syntax_uid == ImplicitVRLittleEndian:
        return start[4:] == PIXEL_START + length
    return start[:4] == PIXEL_START and start[4:8] in (b"OW\0\0", b"OB\0\0") and start[8:] == length


class KnownHeaders(Sequence[Dataset]):
    """Headers in slice order: the first as it is in its file, the others made when they are asked for, with what names
    and places an image and what it shares with the first.
    """

    def __init__(self, first: Dataset, known: Sequence[KnownInstance]) -> None:
        self._known = known
        self._made: dict[int, Dataset] = {0: first}
        tags = [Tag(keyword) for keyword in EVERY_HEADER]
        self._shared = {tag: first.get_item(tag) for tag in tags if tag in first}

    def __len__(self) -> int:
        return len(self._known)

    @overload
    def __getitem__(self, index: int) -> Dataset: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Dataset, ...]: ...

    def __getitem__(self, index: int | slice) -> Dataset | tuple[Dataset, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        place = range(len(self))[index]
        if place not in self._made:
            self._made[place] = self._make(self._known[place])
        return self._made[place]

    def __iter__(self) -> Iterator[Dataset]:
        return (self[index] for index in range(len(self)))

    def _make(self, known: KnownInstance) -> Dataset:
        header = Dataset(dict(self._shared))
        facts = known.geometry
        assert facts is not None
        _set(header, "SOPInstanceUID", "UI", known.sop_instance_uid)
        _set(header, "ImagePositionPatient", "DS", _decimals(facts["ImagePositionPatient"]))
        _set(header, "ImageOrientationPatient", "DS", _decimals(facts["ImageOrientationPatient"]))
        if "SliceThickness" in facts:
            _set(header, "SliceThickness", "DS", _decimals([facts["SliceThickness"]]))
        if "InstanceNumber" in facts:
            _set(header, "InstanceNumber", "IS", str(facts["InstanceNumber"]))
        return header


def _set(header: Dataset, keyword: str, vr: str, text: str) -> None:
    """An element as it would be read from a file: converted when it is asked for."""
    tag, value = Tag(keyword), text.encode("ascii")
    header[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def _decimals(values: Sequence[float]) -> str:
    return "\\".join(repr(value).removesuffix(".0") for value in values)
