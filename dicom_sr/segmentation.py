"""DICOM Segmentation of label volumes and fractions (PS3.3 A.51), on the source grid, without empty frames.

What viewers need is said by the rules that this file follows: segments numbered from 1 without gaps, a colour, a label
and a Tracking UID for each, per-frame references to the source images, a series description that names the model, no
overlap in one object. The data sets equal those that highdicom builds, at a fraction of its time.
"""

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from dicom_sr import codes
from dicom_sr.errors import InvalidResult
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Map, Result
from dicom_sr.instance import Kind, add_raw, copy_compression, new_instance, refer_to_series, set_pixels, set_place
from dicom_sr.multiframe import Frame, add_functional_groups, slice_order
from dicom_sr.pixels import FrameStream, Mask, full_frames, label_frame, native_frames, packed_frames, quantise
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role, SegmentationFlavour
from dicom_sr.rle import encode_rle_frame
from dicom_sr.segment_description import background, content_creator, content_description, describe_segments
from dicom_sr.segment_numbering import SegmentNumbering, SegmentPlace, number_segments

SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.7"

RECORD = Kind(Role.SEGMENTATION, "SEG", "SEG")
FRACTIONS = Kind(Role.FRACTIONAL_SEGMENTATION, "SEG", "SEG fractions")


def encode_segmentations(
    result: Result,
    sources: Sequence[Dataset],
    profile: DestinationProfile = CONSERVATIVE,
    *,
    evidence: Evidence | None = None,
    numbering: SegmentNumbering | None = None,
) -> list[Dataset]:
    """The Segmentations of a Result: one for each label map that has a voxel, none when no segment has any.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        Headers of the source images, in slice order.
    profile : DestinationProfile
        Says whether they are BINARY or LABELMAP, and compressed or not.
    evidence, numbering : optional
        Given by a caller that has them already.

    Raises
    ------
    SourceMismatch, InvalidResult
    """
    evidence = evidence or check_evidence(result, sources)
    numbering = numbering or number_segments(result)
    encode = _encode_label_map if profile.segmentation_flavour is SegmentationFlavour.LABELMAP else _encode_masks
    return [encode(result, evidence, profile, places) for places in numbering.objects]


def encode_fractions(
    result: Result,
    sources: Sequence[Dataset],
    profile: DestinationProfile = CONSERVATIVE,
    *,
    evidence: Evidence | None = None,
) -> Dataset | None:
    """One FRACTIONAL Segmentation (PROBABILITY, of 255) of all maps that are fractions of a segment; None without such.

    Values are clipped to 0 to 1 and rounded to the nearest of 255 steps; slices without any step are left out.
    """
    evidence = evidence or check_evidence(result, sources)
    described = {segment.number: segment for segment in result.segments}
    maps = sorted((each for each in result.maps if each.segment_number is not None), key=_segment_of)
    unknown = [each.segment_number for each in maps if each.segment_number not in described]
    if unknown or len({each.segment_number for each in maps}) < len(maps):
        raise InvalidResult(f"maps of fractions need a described segment each, found segments {unknown or 'twice'}")
    order = slice_order(evidence)
    kept: list[tuple[Map, list[int]]] = []
    for each in maps:
        filled = [index for index in order if quantise(each.values[index]).any()]
        if filled:
            kept.append((each, filled))
    if not kept:
        return None
    dataset = _new(result, evidence, profile, FRACTIONS, SEGMENTATION_STORAGE, 1, ExplicitVRLittleEndian)
    dataset.SegmentationType = "FRACTIONAL"
    dataset.SegmentationFractionalType = "PROBABILITY"
    dataset.MaximumFractionalValue = 255
    dataset.SegmentsOverlap = "UNDEFINED" if len(kept) > 1 else "NO"
    dataset.SegmentSequence = describe_segments(result, [described[_segment_of(each)] for each, _ in kept])
    frames = [Frame(index, number) for number, (_, filled) in enumerate(kept, 1) for index in filled]
    planes = [(each.values, index) for each, filled in kept for index in filled]

    def frame(position: int) -> np.ndarray:
        values, index = planes[position]
        return quantise(values[index])

    _finish(dataset, evidence, frames, 8, native_frames(len(planes), frame, maps[0].values[0].size))
    return dataset


def _segment_of(fractions: Map) -> int:
    assert fractions.segment_number is not None
    return fractions.segment_number


def _encode_masks(
    result: Result, evidence: Evidence, profile: DestinationProfile, places: Sequence[SegmentPlace]
) -> Dataset:
    """One frame for each segment in each slice that it is in: a bit a pixel, or a byte a pixel of 0 and 255."""
    first = places[0]
    dataset = _new(
        result, evidence, profile, RECORD, SEGMENTATION_STORAGE, first.object_index + 1, ExplicitVRLittleEndian
    )
    pixels = int(evidence.images[0].Rows) * int(evidence.images[0].Columns)
    kind = profile.segmentation_type(pixels)
    dataset.SegmentationType = kind
    if kind == "FRACTIONAL":
        dataset.SegmentationFractionalType = "OCCUPANCY"
        dataset.MaximumFractionalValue = 255
    dataset.SegmentsOverlap = "NO"
    dataset.SegmentSequence = describe_segments(result, [place.segment for place in places])
    order = slice_order(evidence)
    shown = [(place, index) for place in places for index in order if place.voxels_of_slices[index]]
    bits = 8 if kind == "FRACTIONAL" else 1
    shown = _with_even_length(shown, places, order, pixels * bits)
    frames = [Frame(index, place.segment_number) for place, index in shown]
    masks = [mask_of(place, index) for place, index in shown]
    labels = result.label_maps[first.label_map]
    stream = packed_frames(labels, masks) if bits == 1 else full_frames(labels, masks)
    _finish(dataset, evidence, frames, bits, stream)
    return dataset


def _with_even_length(
    shown: list[tuple[SegmentPlace, int]], places: Sequence[SegmentPlace], order: Sequence[int], bits: int
) -> list[tuple[SegmentPlace, int]]:
    """The frames, of so many bits each, with as few empty ones as make their bytes even in number.

    Pixel Data of an odd length ends with a padding byte (PS3.5 8.1.1), over which OHIF 3.13 stumbles when it reads the
    object, and Orthanc 1.10.1 when it is then asked for single frames: nothing opens.
    """
    used = {index for _, index in shown}
    absent = [(place, index) for place in places for index in order if not place.voxels_of_slices[index]]
    absent.sort(key=lambda each: each[1] not in used)
    for added in range(min(len(absent), _FRAMES_OF_WHOLE_WORDS) + 1):
        if -(-(len(shown) + added) * bits // 8) % 2 == 0:
            wanted = {(place.segment_number, index) for place, index in [*shown, *absent[:added]]}
            return [(place, index) for place in places for index in order if (place.segment_number, index) in wanted]
    return shown


_FRAMES_OF_WHOLE_WORDS = 16
"""So many frames of one bit a pixel always come to an even number of bytes."""


def mask_of(place: SegmentPlace, slice_index: int) -> Mask:
    """The pixels of a segment in a slice."""
    label, extents = place.segment.number, place.extents
    return Mask(slice_index, label, int(extents.first[slice_index, label]), int(extents.end[slice_index, label]))


def _encode_label_map(
    result: Result, evidence: Evidence, profile: DestinationProfile, places: Sequence[SegmentPlace]
) -> Dataset:
    """One frame for each slice with a voxel, holding segment numbers; 0 is background, and padding."""
    first = places[0]
    syntax = RLELossless if profile.compress_label_map else ExplicitVRLittleEndian
    dataset = _new(result, evidence, profile, RECORD, LABEL_MAP_SEGMENTATION_STORAGE, first.object_index + 1, syntax)
    dataset.SegmentationType = "LABELMAP"
    dataset.SegmentsOverlap = "NO"
    dataset.PixelPaddingValue = 0
    dataset.SegmentSequence = [
        *describe_segments(result, [place.segment for place in places]),
        background(result),  # last: OHIF 3.13 takes the place of an item for its number when it colours
    ]
    occupied = np.sum([place.voxels_of_slices for place in places], axis=0)
    frames = [Frame(index) for index in slice_order(evidence) if occupied[index]]
    labels = result.label_maps[first.label_map]
    numbers = {place.segment.number: place.segment_number for place in places}
    bits = 8 if len(places) < 256 else 16

    def frame_of(position: int) -> np.ndarray:
        return label_frame(labels[frames[position].slice_index], numbers)

    pixels: bytes | FrameStream = native_frames(len(frames), frame_of, labels[0].size * bits // 8)
    if syntax.is_encapsulated:
        pixels = encapsulate([encode_rle_frame(frame_of(position)) for position in range(len(frames))])
    _finish(dataset, evidence, frames, bits, pixels)
    return dataset


def _new(
    result: Result,
    evidence: Evidence,
    profile: DestinationProfile,
    kind: Kind,
    sop_class_uid: str,
    instance_number: int,
    transfer_syntax_uid: str,
) -> Dataset:
    """Everything that does not depend on the voxels."""
    dataset = new_instance(
        result,
        evidence,
        profile,
        kind,
        sop_class_uid,
        instance_number=instance_number,
        transfer_syntax_uid=transfer_syntax_uid,
    )
    first = evidence.images[0]
    dataset.ImageType = ["DERIVED", "PRIMARY"]
    dataset.ContentLabel = "AI_SEG"
    dataset.ContentDescription = content_description(result)
    dataset.ContentCreatorName = content_creator(result)
    set_place(dataset, evidence)
    dataset.PresentationLUTShape = "IDENTITY"
    copy_compression(dataset, first)
    refer_to_series(dataset, evidence)
    return dataset


def _finish(
    dataset: Dataset, evidence: Evidence, frames: Sequence[Frame], bits: int, pixels: bytes | FrameStream
) -> None:
    """Image Pixel module, functional groups and the pixels themselves."""
    first = evidence.images[0]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = first.Rows, first.Columns
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = 0
    per_frame = add_functional_groups(dataset, evidence, frames, codes.SEGMENTATION)
    add_raw(dataset, per_frame)
    set_pixels(dataset, pixels)
