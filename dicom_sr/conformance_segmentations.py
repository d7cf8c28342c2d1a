"""The gate's rules for Segmentations: geometry of the sources, flavour, segments, voxels."""

from collections.abc import Iterator, Mapping, Sequence
from io import BufferedIOBase

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import iter_pixels
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from dicom_sr.source_frames import measure_spacing, plane_of

POSITION_TOLERANCE_MM = 1e-3
FLAVOURS = {"BINARY": (ExplicitVRLittleEndian,), "LABELMAP": (ExplicitVRLittleEndian, RLELossless),
            "FRACTIONAL": (ExplicitVRLittleEndian, RLELossless)}  # fmt: skip
"""Segmentation Type -> transfer syntaxes that readers take."""

Found = Iterator[tuple[str, str]]
"""(code, message) of problems."""


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
    frames = segmentation.PerFrameFunctionalGroupsSequence
    for frame, voxels in zip(frames, _voxels_of_frames(segmentation, kind), strict=True):
        number = int(_functional_group(segmentation, frame, "SegmentIdentificationSequence").ReferencedSegmentNumber)
        counts[number] = counts.get(number, 0) + voxels
    return counts


def _voxels_of_frames(segmentation: Dataset, kind: str) -> Iterator[int]:
    """Voxels of each frame; those of a BINARY Segmentation are bits, and its frames need not begin with a byte."""
    if kind != "BINARY":
        yield from (int(np.count_nonzero(plane)) for plane in iter_pixels(segmentation))
        return
    size = int(segmentation.Rows) * int(segmentation.Columns)
    for index in range(len(segmentation.PerFrameFunctionalGroupsSequence)):
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


def _functional_group(segmentation: Dataset, frame: Dataset, keyword: str) -> Dataset:
    """A functional group of a frame, which is shared where it is the same for all (PS3.3 C.7.6.16)."""
    owner = frame if keyword in frame else segmentation.SharedFunctionalGroupsSequence[0]
    group: Dataset = owner[keyword].value[0]
    return group


def check_geometry(item: Dataset, sources: Sequence[Dataset]) -> Found:
    """Grid, frame of reference, spacing, orientation, and each frame where its source image is."""
    for keyword in ("FrameOfReferenceUID", "Rows", "Columns"):
        if (item.get(keyword) or None) != (sources[0].get(keyword) or None) and sources[0].get(keyword):
            yield "geometry", f"{keyword} is not that of the source images"
    yield from _check_plane(item, sources)
    by_uid = {str(source.SOPInstanceUID): source for source in sources}
    for index, frame in enumerate(item.PerFrameFunctionalGroupsSequence, 1):
        references = [
            reference
            for derivation in frame.get("DerivationImageSequence", ())
            for reference in derivation.get("SourceImageSequence", ())
        ]
        if len(references) != 1:
            yield "viewer", f"frame {index} refers to {len(references)} source images, expected one"
            return
        number = references[0].get("ReferencedFrameNumber")
        source = by_uid[str(references[0].ReferencedSOPInstanceUID)]
        there = plane_of(source, int(number) if number else None, "ImagePositionPatient")
        if there is None:
            continue
        place = _functional_group(item, frame, "PlanePositionSequence").ImagePositionPatient
        if np.abs(np.subtract(place, there, dtype=float)).max() > POSITION_TOLERANCE_MM:
            yield "geometry", f"frame {index} does not lie where its source image does"
            return


def _check_plane(item: Dataset, sources: Sequence[Dataset]) -> Found:
    """Spacing and orientation, where the sources have any."""
    orientation = plane_of(sources[0], 1, "ImageOrientationPatient")
    spacing_mm = measure_spacing(sources)
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


def check_segments(item: Dataset, flavour: str | None) -> Found:
    """Rules for segmentations: flavour, numbers, names, colours, no empty segment.

    `flavour` is the Segmentation Type that the destination's profile wants; None takes any but FRACTIONAL.
    """
    kind = str(item.SegmentationType)
    if kind not in FLAVOURS or item.file_meta.TransferSyntaxUID not in FLAVOURS[kind]:
        yield "viewer", f"a {kind} Segmentation in {item.file_meta.TransferSyntaxUID.name} does not open everywhere"
    if kind != (flavour or kind) or (flavour is None and kind == "FRACTIONAL"):
        yield "viewer", f"a {kind} Segmentation, where the destination takes {flavour or 'BINARY'}"
    segments = [segment for segment in item.SegmentSequence if int(segment.SegmentNumber) != 0]
    if [int(segment.SegmentNumber) for segment in segments] != list(range(1, len(segments) + 1)):
        yield "viewer", "segment numbers do not run from 1 without gaps"
    if len({segment.SegmentLabel for segment in segments}) < len(segments):
        yield "viewer", "two segments have the same label"
    for segment in segments:
        for keyword in ("RecommendedDisplayCIELabValue", "SegmentAlgorithmName", "TrackingID", "TrackingUID"):
            if not segment.get(keyword):
                yield "viewer", f"segment {segment.SegmentNumber}: {keyword} is missing"
    empty = [number for number, voxels in count_voxels(item).items() if number and not voxels]
    if empty:
        yield "viewer", f"segments {empty} have no voxel"
