"""Segmentations beside those that highdicom builds from the same arrays: equal, attribute by attribute."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import highdicom as hd
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DatasetSequence
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from dicom_sr import codes
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Map, Result, Segment, SourceImage
from dicom_sr.profile import CONSERVATIVE, Role, SegmentationFlavour
from dicom_sr.render import RenderedObject
from dicom_sr.segment_description import content_creator, content_description, describe_segments
from dicom_sr.segment_numbering import number_segments
from dicom_sr.segmentation import encode_fractions, encode_segmentations
from tests.dicom_sr.conftest import ALGORITHM, EQUIPMENT
from tests.phantoms import make_series

SHAPE = (4, 6, 9)
BY_TIME_OR_CHANCE = {
    "DimensionOrganizationUID", "InstanceCreationDate", "InstanceCreationTime", "ContentDate", "ContentTime",
    "SeriesDate", "SeriesTime", "ContributingEquipmentSequence", "PatientName", "TimezoneOffsetFromUTC",
}  # fmt: skip
"""Set from the Result here, from the clock or by chance there; the equipment lists the algorithm here."""

SEGMENTS = tuple(
    Segment(
        number,
        f"Part {number}",
        codes.ANATOMICAL_STRUCTURE,
        codes.LUNG,
        (number, 100, 255 - number),
        codes.BRAIN if number % 3 == 0 else None,
        codes.LEFT if number % 2 else None,
    )
    for number in range(1, 256)
)


def make_result(sources: Sequence[Dataset], **changes) -> Result:
    return Result(
        study_instance_uid=sources[0].StudyInstanceUID,
        series_instance_uid=sources[0].SeriesInstanceUID,
        input_digest="cd" * 32,
        revision=1,
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        algorithm=ALGORITHM,
        equipment=EQUIPMENT,
        source_images=tuple(SourceImage(str(i.SOPClassUID), str(i.SOPInstanceUID)) for i in sources),
        **changes,
    )


def by_highdicom(ours: Dataset, result: Result, evidence: Evidence, sources, pixels, segments, flavour) -> Dataset:
    """highdicom's Segmentation of the same pixels, under the same UIDs and names."""
    kind = hd.seg.SegmentationTypeValues(flavour)
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=describe_segments(result, segments),
        series_instance_uid=ours.SeriesInstanceUID,
        series_number=ours.SeriesNumber,
        sop_instance_uid=ours.SOPInstanceUID,
        instance_number=ours.InstanceNumber,
        manufacturer="Overread",
        manufacturer_model_name="Overread AI node",
        software_versions="0.1.0",
        device_serial_number="node-1",
        series_description=ours.SeriesDescription,
        content_label="AI_SEG",
        content_description=content_description(result),
        content_creator_name=content_creator(result),
        transfer_syntax_uid=ours.file_meta.TransferSyntaxUID,
        max_fractional_value=255,
        specific_character_set=evidence.character_set or None,
    )


def written_again(dataset: Dataset) -> Dataset:
    return dcmread(BytesIO(RenderedObject(Role.SEGMENTATION, dataset).to_bytes()))


def differences(ours: Dataset, theirs: Dataset, path: str = "") -> list[str]:
    """Attributes that differ; numbers count as equal when they are within what a DS of 16 characters holds."""
    found = []
    for tag in sorted({*ours.keys(), *theirs.keys()}):
        keyword = (ours if tag in ours else theirs)[tag].keyword
        if keyword in BY_TIME_OR_CHANCE:
            continue
        if tag not in ours or tag not in theirs:
            found.append(f"{path}{keyword} only in {'ours' if tag in ours else 'theirs'}")
            continue
        one, other = ours[tag], theirs[tag]
        if one.VR == "SQ":
            found += [f"{path}{keyword}: number of items"] if len(one.value) != len(other.value) else []
            for index, pair in enumerate(zip(one.value, other.value, strict=False)):
                found += differences(*pair, path=f"{path}{keyword}[{index}].")
        elif keyword == "PixelData":
            size = -(-ours.NumberOfFrames * ours.Rows * ours.Columns * ours.BitsAllocated // 8)
            found += [] if one.value[:size] == other.value[:size] else ["PixelData"]  # highdicom pads with the digit 0
        elif one.VR == "DS" and one.VM:
            found += [] if np.allclose(one.value, other.value, atol=1e-9, rtol=1e-12) else [f"{path}{keyword}"]
        elif one.VR != other.VR or one.value != other.value:
            found.append(f"{path}{keyword}: {one.value!r} != {other.value!r}"[:200])
    return found


@st.composite
def label_maps(draw) -> np.ndarray:
    """Label maps of few or many labels, with slices that may be empty, of any orientation of the series."""
    highest = draw(st.sampled_from([1, 2, 5]))
    seed = draw(st.integers(0, 2**32 - 1))
    chance = np.random.default_rng(seed)
    labels = chance.integers(1, highest + 1, SHAPE) * (chance.random(SHAPE) < draw(st.sampled_from([0.02, 0.3, 1.0])))
    labels[chance.random(SHAPE[0]) < draw(st.sampled_from([0.0, 0.5]))] = 0
    labels[draw(st.integers(0, SHAPE[0] - 1)), 2, 3] = draw(st.integers(1, highest))
    return labels.astype(draw(st.sampled_from([np.uint8, np.uint16])))


@pytest.mark.parametrize("orientation", ["axial", "oblique"])
@pytest.mark.parametrize("flavour", [SegmentationFlavour.BINARY, SegmentationFlavour.LABELMAP])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels=label_maps())
def test_data_set_equals_highdicoms(orientation, flavour, labels):
    sources = make_series(shape=SHAPE, spacing_mm=(3.0, 1.5, 1.25), orientation=orientation)
    result = make_result(sources, labels=labels, segments=SEGMENTS)
    frames = sum(int((labels == label).any(axis=(1, 2)).sum()) for label in np.unique(labels) if label)
    if flavour is SegmentationFlavour.BINARY:  # else ours has an empty frame more, which highdicom has not
        assume(-(-frames * SHAPE[1] * SHAPE[2] // 8) % 2 == 0)
    check_equal(result, sources, flavour)


def test_250_labels_equal_highdicoms():
    sources = make_series(shape=SHAPE, spacing_mm=(3.0, 1.5, 1.25))
    labels = np.zeros(SHAPE, np.uint8)
    labels.ravel()[:200], labels.ravel()[-50:] = np.arange(1, 201), np.arange(250, 200, -1)
    for flavour in SegmentationFlavour:
        check_equal(make_result(sources, labels=labels, segments=SEGMENTS), sources, flavour)


def check_equal(result: Result, sources: Sequence[Dataset], flavour: SegmentationFlavour) -> None:
    profile = replace(CONSERVATIVE, segmentation_flavour=flavour, compress_label_map=False, bits_across_bytes=True)
    (ours,) = encode_segmentations(result, sources, profile)
    numbering = number_segments(result)
    evidence = check_evidence(result, sources)
    lookup = np.zeros(256, np.uint8)
    for label, number in numbering.segment_numbers.items():
        lookup[label] = number
    theirs = by_highdicom(
        ours, result, evidence, evidence.images, lookup[result.labels], numbering.present, flavour.value.upper()
    )
    again = written_again(ours)
    if flavour is SegmentationFlavour.LABELMAP:
        put_background_first(again)
    again.pop("PatientOrientation", None)  # of a radiograph; dciodvfy misses it in highdicom's
    assert differences(again, written_again(theirs)) == []


def put_background_first(segmentation: Dataset) -> None:
    """As highdicom has it; ours is last, because viewers take the place of a segment for its number."""
    items = sorted(segmentation.SegmentSequence, key=lambda item: item.SegmentNumber)
    segmentation.SegmentSequence = DatasetSequence(items)


def test_single_image_equals_highdicoms():
    sources = make_series(shape=(1, 7, 5), spacing_mm=(3.0, 1.5, 1.25))
    labels = np.zeros((1, 7, 5), np.uint8)
    labels[0, 2:4, 1:4] = 3
    result = make_result(sources, labels=labels, segments=SEGMENTS)
    for flavour in SegmentationFlavour:
        check_equal(result, sources, flavour)


@pytest.mark.parametrize("calibrated", [True, False])
def test_projection_equals_highdicoms(calibrated):
    """A radiograph has no frame of reference and no place in space."""
    (source,) = make_series(shape=(1, 7, 5), spacing_mm=(3.0, 1.5, 1.25))
    source.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    source.Modality = "CR"
    for keyword in ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "SliceThickness",
                    "SpacingBetweenSlices", "PositionReferenceIndicator"):  # fmt: skip
        delattr(source, keyword)
    if not calibrated:
        del source.PixelSpacing
    labels = np.zeros((1, 7, 5), np.uint8)
    labels[0, 2:4, 1:4], labels[0, 5, 2] = 3, 9
    result = make_result([source], labels=labels, segments=SEGMENTS)
    for flavour in SegmentationFlavour:
        check_equal(result, [source], flavour)


def test_fractions_equal_highdicoms():
    sources = make_series(shape=SHAPE, spacing_mm=(3.0, 1.5, 1.25), orientation="oblique")
    chance = np.random.default_rng(3)
    stacked = chance.random((*SHAPE, 2)).astype(np.float32)
    stacked[1:3, ..., 0] = 0
    maps = tuple(
        Map(f"fraction {number}", codes.RATIO, codes.NO_UNITS, stacked[..., position], number)
        for position, number in enumerate((4, 9))
    )
    result = make_result(sources, maps=maps[::-1], segments=SEGMENTS)
    ours = encode_fractions(result, sources)
    evidence = check_evidence(result, sources)
    segments = (SEGMENTS[3], SEGMENTS[8])
    theirs = by_highdicom(ours, result, evidence, evidence.images, stacked, segments, "FRACTIONAL")
    found = differences(written_again(ours), written_again(theirs))
    assert [line for line in found if not line.startswith("SegmentsOverlap")] == []


def test_rle_holds_the_same_pixels(sources, result):
    plain = replace(CONSERVATIVE, segmentation_flavour=SegmentationFlavour.LABELMAP, compress_label_map=False)
    small = replace(plain, compress_label_map=True)
    again = [written_again(encode_segmentations(result, sources, profile)[0]) for profile in (plain, small)]
    assert [each.file_meta.TransferSyntaxUID for each in again] == [ExplicitVRLittleEndian, RLELossless]
    np.testing.assert_array_equal(again[0].pixel_array, again[1].pixel_array)


def test_writing_does_not_parse_the_frames(sources, result):
    """What makes many frames cheap."""
    (dataset,) = encode_segmentations(result, sources)
    RenderedObject(Role.SEGMENTATION, dataset).to_bytes()
    assert dataset.get_item("PerFrameFunctionalGroupsSequence").is_raw
    assert len(dataset.PerFrameFunctionalGroupsSequence) == dataset.NumberOfFrames
