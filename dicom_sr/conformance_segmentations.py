"""The gate's rules for Segmentations: geometry of the sources, flavour, segments, voxels."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from io import BufferedIOBase

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from dicom_sr.frame_groups import read_frame_groups
from dicom_sr.source_frames import measure_spacing, plane_of

POSITION_TOLERANCE_MM = 1e-3
FLAVOURS = {"BINARY": (ExplicitVRLittleEndian,), "LABELMAP": (ExplicitVRLittleEndian, RLELossless),
            "FRACTIONAL": (ExplicitVRLittleEndian, RLELossless)}  # fmt: skip
"""Segmentation Type -> transfer syntaxes that readers take."""

Found = Iterator[tuple[str, str]]
"""(code, message) of problems."""


class Basis:
    """What objects of one result are checked against; what is dear to know is found out once.

    Parameters
    ----------
    segmentations : sequence of Dataset
    sources : sequence of Dataset
        Headers of the source images, in slice order.
    """

    def __init__(self, segmentations: Sequence[Dataset], sources: Sequence[Dataset]) -> None:
        self.sources = sources
        self.segmentations = {str(item.SOPInstanceUID): item for item in segmentations}
        self._voxels: dict[str, Mapping[int, int]] = {}

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """(slice, row, column) of the sources."""
        return measure_spacing(self.sources)

    def voxels_of(self, sop_instance_uid: str) -> Mapping[int, int]:
        """Voxels of each segment of a Segmentation; nothing of one that is none of these."""
        if sop_instance_uid not in self._voxels:
            item = self.segmentations.get(sop_instance_uid)
            self._voxels[sop_instance_uid] = {} if item is None else count_voxels(item)
        return self._voxels[sop_instance_uid]


def count_voxels(segmentation: Dataset) -> Mapping[int, int]:
    """Voxels of each segment, counted in the Pixel Data; in a FRACTIONAL Segmentation those above 0."""
    counts: dict[int, int] = {int(item.SegmentNumber): 0 for item in segmentation.SegmentSequence}
    kind = segmentation.get("SegmentationType", "BINARY")
    if kind == "LABELMAP":
        for plane in iter_pixels(segmentation):
            numbers, voxels_of_numbers = np.unique(plane, return_counts=True)
            for number, voxels in zip(numbers.tolist(), voxels_of_numbers.tolist(), strict=True):
                counts[number] = counts.get(number, 0) + voxels
        counts.pop(0, None)
        return counts
    frames = read_frame_groups(segmentation)
    for frame, voxels in zip(frames, _voxels_of_frames(segmentation, kind, len(frames)), strict=True):
        number = frame.segment_number
        if number is None:  # the same for all frames (PS3.3 C.7.6.16)
            shared = segmentation.SharedFunctionalGroupsSequence[0]
            number = int(shared.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        counts[number] = counts.get(number, 0) + voxels
    return counts


def _voxels_of_frames(segmentation: Dataset, kind: str, frames: int) -> Iterator[int]:
    """Voxels of each frame; those of a BINARY Segmentation are bits, and its frames need not begin with a byte."""
    if kind != "BINARY":
        yield from (int(np.count_nonzero(plane)) for plane in iter_pixels(segmentation))
        return
    size = int(segmentation.Rows) * int(segmentation.Columns)
    for index in range(frames):
        first, end = index * size, (index + 1) * size
        packed = np.frombuffer(_part(segmentation.PixelData, first // 8, -(-end // 8)), np.uint8)
        if first % 8 == 0 and end % 8 == 0:
            yield int(np.bitwise_count(packed).sum(dtype=np.int64))
        else:
            bits = np.unpackbits(packed, bitorder="little")
            yield int(np.count_nonzero(bits[first % 8 : first % 8 + size]))


def _part(pixels: bytes | BufferedIOBase, first: int, end: int) -> bytes:
    """Some bytes of Pixel Data, which may be a stream."""
    if isinstance(pixels, BufferedIOBase):
        pixels.seek(first)
        return pixels.read(end - first)
    return pixels[first:end]


def check_geometry(item: Dataset, basis: Basis) -> Found:
    """Grid, frame of reference, spacing, orientation, and each frame where its source image is."""
    sources = basis.sources
    for keyword in ("FrameOfReferenceUID", "Rows", "Columns"):
        if (item.get(keyword) or None) != (sources[0].get(keyword) or None) and sources[0].get(keyword):
            yield "geometry", f"{keyword} is not that of the source images"
    yield from _check_plane(item, basis)
    by_uid = {str(source.SOPInstanceUID): source for source in sources}
    shared_position_mm = plane_of(item, None, "ImagePositionPatient")
    positions: dict[tuple[str, int | None], tuple[float, ...] | None] = {}
    for index, frame in enumerate(read_frame_groups(item), 1):
        if len(frame.sources) != 1:
            yield "viewer", f"frame {index} refers to {len(frame.sources)} source images, expected one"
            return
        uid, number = frame.sources[0]
        if (uid, number) not in positions:
            positions[uid, number] = plane_of(by_uid[uid], number, "ImagePositionPatient")
        there = positions[uid, number]
        if there is None:
            continue
        place = frame.position_mm or shared_position_mm
        if place is None or np.abs(np.subtract(place, there, dtype=float)).max() > POSITION_TOLERANCE_MM:
            yield "geometry", f"frame {index} does not lie where its source image does"
            return


def _check_plane(item: Dataset, basis: Basis) -> Found:
    """Spacing and orientation, where the sources have any."""
    orientation = plane_of(basis.sources[0], 1, "ImageOrientationPatient")
    spacing_mm = basis.spacing_mm
    shared = item.SharedFunctionalGroupsSequence[0]
    if spacing_mm is not None and orientation is not None:
        measures = shared.PixelMeasuresSequence[0]
        found_mm = (float(measures.get("SpacingBetweenSlices", 0)), *(float(value) for value in measures.PixelSpacing))
        if not np.allclose(found_mm, spacing_mm, rtol=1e-5):
            yield "geometry", f"spacing (slice, row, column) is {found_mm} mm, that of the sources {spacing_mm} mm"
    if orientation is not None:
        found = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        if not np.allclose(found, orientation, atol=1e-5):
            yield "geometry", "ImageOrientationPatient is not that of the source images"


def check_segments(item: Dataset, taken: Collection[str], basis: Basis) -> Found:
    """Rules for segmentations: flavour, numbers, names, colours, no empty segment.

    `taken` are the Segmentation Types that the destination takes.
    """
    kind = str(item.SegmentationType)
    if kind not in FLAVOURS or item.file_meta.TransferSyntaxUID not in FLAVOURS[kind]:
        yield "viewer", f"a {kind} Segmentation in {item.file_meta.TransferSyntaxUID.name} does not open everywhere"
    if kind not in taken:
        yield "viewer", f"a {kind} Segmentation, where the destination takes {' or '.join(sorted(taken))}"
    segments = [segment for segment in item.SegmentSequence if int(segment.SegmentNumber) != 0]
    if [int(segment.SegmentNumber) for segment in segments] != list(range(1, len(segments) + 1)):
        yield "viewer", "segment numbers do not run from 1 without gaps"
    if len({segment.SegmentLabel for segment in segments}) < len(segments):
        yield "viewer", "two segments have the same label"
    for segment in segments:
        for keyword in ("RecommendedDisplayCIELabValue", "SegmentAlgorithmName", "TrackingID", "TrackingUID"):
            if not segment.get(keyword):
                yield "viewer", f"segment {segment.SegmentNumber}: {keyword} is missing"
    empty = [number for number, voxels in basis.voxels_of(str(item.SOPInstanceUID)).items() if number and not voxels]
    if empty:
        yield "viewer", f"segments {empty} have no voxel"
