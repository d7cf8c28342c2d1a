"""Segmentations of every form and source: read back by highdicom, dcmqi and plain arithmetic."""

import gzip
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_sr import codes
from dicom_sr.conformance import check, count_voxels
from dicom_sr.errors import InvalidResult
from dicom_sr.findings import Map, Result, SourceImage
from dicom_sr.frame_groups import read_frame_groups
from dicom_sr.identity import tracking_uid
from dicom_sr.part10 import to_part10
from dicom_sr.profile import CONSERVATIVE, Role, SegmentationFlavour
from dicom_sr.render import render
from dicom_sr.segment_numbering import number_segments
from dicom_sr.segmentation import encode_segmentations
from tests.dicom_sr.cases import CASES
from tests.dicom_sr.conftest import make_labels
from tests.dicom_sr.counterparts import assert_clean, complaints, run
from tests.dicom_sr.enhanced import enhanced_image
from tests.dicom_sr.radiographs import radiograph

LABELMAP = replace(CONSERVATIVE, name="labelmap", segmentation_flavour=SegmentationFlavour.LABELMAP)
FLAVOURS = {"binary": CONSERVATIVE, "labelmap": LABELMAP}


def of_image(result: Result, image: Dataset, **changes: object) -> Result:
    """The result, of one image instead."""
    return replace(
        result,
        study_instance_uid=image.StudyInstanceUID,
        series_instance_uid=image.SeriesInstanceUID,
        source_images=(SourceImage(str(image.SOPClassUID), str(image.SOPInstanceUID)),),
        **changes,  # type: ignore[arg-type]
    )


def radiograph_result(result: Result) -> tuple[Result, list[Dataset]]:
    """A radiograph without a place in space, two segments on it."""
    image = radiograph()
    labels = np.zeros((1, image.Rows, image.Columns), np.uint8)
    labels[0, 5:20, 4:15], labels[0, 25:31, 7:30] = 2, 7
    return of_image(result, image, labels=labels, findings=()), [image]


def enhanced_result(result: Result) -> tuple[Result, list[Dataset]]:
    """The phantom as one multi-frame image."""
    image = enhanced_image((12, 30, 26), (3.0, 1.5, 1.25), "oblique")
    return of_image(result, image), [image]


SOURCES = {"radiograph": radiograph_result, "enhanced": enhanced_result}


def labels_of(segmentation: Dataset, shape: tuple[int, ...], uids: list[str]) -> np.ndarray:
    """Label map in segment numbers by plain arithmetic: each frame goes to the slice that it names."""
    labels = np.zeros(shape, np.uint16)
    pixels = segmentation.pixel_array.reshape(-1, *shape[1:])
    shared = segmentation.SharedFunctionalGroupsSequence[0].get("SegmentIdentificationSequence")
    for frame, plane in zip(read_frame_groups(segmentation), pixels, strict=True):
        (uid, number), *_ = frame.sources
        index = number - 1 if number else uids.index(uid)
        if segmentation.SegmentationType == "LABELMAP":
            labels[index] = plane
        else:
            segment = frame.segment_number or int(shared[0].ReferencedSegmentNumber)
            labels[index][plane != 0] = segment
    return labels


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("kind", SOURCES)
def test_projections_and_multi_frame_sources(result, kind, flavour):
    changed, sources = SOURCES[kind](result)
    (dataset,) = encode_segmentations(changed, sources, FLAVOURS[flavour])
    again = dcmread(BytesIO(to_part10(dataset)))
    expected = np.select([changed.labels == 2, changed.labels == 7], [1, 2], 0)
    found = labels_of(again, changed.labels.shape, [str(each.SOPInstanceUID) for each in sources])
    np.testing.assert_array_equal(found, expected)
    assert check([again], sources) == []
    assert ("FrameOfReferenceUID" in again) == (kind == "enhanced")
    if kind == "enhanced":
        by_highdicom = hd.seg.segread(BytesIO(to_part10(dataset))).get_pixels_by_source_frame(
            sources[0].SOPInstanceUID,
            list(range(1, 13)),
            combine_segments=True,
            assert_missing_frames_are_empty=True,
            ignore_spatial_locations=True,
        )
        np.testing.assert_array_equal(by_highdicom, expected)


def test_frames_may_be_named_in_another_order(result):
    """Slices ascend along the normal of the image plane, frames come as the scanner wrote them."""
    changed, (image,) = enhanced_result(result)
    ordered = tuple(
        SourceImage(str(image.SOPClassUID), str(image.SOPInstanceUID), frame_number=number)
        for number in range(12, 0, -1)
    )
    (dataset,) = encode_segmentations(replace(changed, source_images=ordered), [image])
    again = dcmread(BytesIO(to_part10(dataset)))
    expected = np.select([make_labels() == 2, make_labels() == 7], [1, 2], 0)[::-1]
    np.testing.assert_array_equal(labels_of(again, changed.labels.shape, []), expected)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_overlaps_are_split_over_objects(flavour):
    case = CASES["overlap"]()
    encoded = encode_segmentations(case.result, case.sources, FLAVOURS[flavour])
    assert len(encoded) == len(case.result.label_maps) == 2
    assert [each.InstanceNumber for each in encoded] == [1, 2]
    assert len({each.SeriesInstanceUID for each in encoded}) == 1
    uids = [str(each.SOPInstanceUID) for each in case.sources]
    for dataset, labels in zip(encoded, case.result.label_maps, strict=True):
        again = dcmread(BytesIO(to_part10(dataset)))
        found = labels_of(again, labels.shape, uids)
        np.testing.assert_array_equal(found != 0, labels != 0)
        assert again.SegmentsOverlap == "NO"
        assert [item.SegmentNumber for item in again.SegmentSequence if item.SegmentNumber] == [1]
    tracked = {item.TrackingUID for each in encoded for item in each.SegmentSequence if item.SegmentNumber}
    assert tracked == {tracking_uid(case.result, each.tracking_identifier) for each in case.result.findings}


def test_label_map_without_a_voxel_gives_no_object(result, sources):
    other = replace(result, labels=np.zeros_like(result.labels), overlapping_labels=(result.labels,))
    (dataset,) = encode_segmentations(other, sources)
    assert dataset.InstanceNumber == 1
    assert number_segments(other).place_of[7].label_map == 1


def test_a_label_in_two_maps_is_refused(result):
    with pytest.raises(InvalidResult, match="several label maps"):
        number_segments(replace(result, overlapping_labels=(result.labels,)))


@pytest.mark.parametrize("name", ["17 labels", "overlap", "follow-up", "brain"])
def test_segmentation_and_report_agree_on_volumes(name):
    case = CASES[name]()
    rendered = render(case.result, case.sources)
    volumes: dict[tuple[str, int], float] = {}
    for each in rendered:
        if each.role is Role.SEGMENTATION:
            spacing = each.dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
            voxel_ml = float(np.prod([spacing.SpacingBetweenSlices, *spacing.PixelSpacing], dtype=float)) / 1000
            counts = count_voxels(each.dataset)
            volumes |= {(str(each.dataset.SOPInstanceUID), n): count * voxel_ml for n, count in counts.items()}
    report = next(each.dataset for each in rendered if each.role is Role.REPORT)
    compared = 0
    for group in _groups(report):
        segment = [
            item
            for item in group
            if item.ValueType == "IMAGE" and "ReferencedSegmentNumber" in item.ReferencedSOPSequence[0]
        ]
        stated = [
            item
            for item in group
            if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeValue == "118565006"
        ]
        for image, number in zip(segment, stated, strict=False):
            reference = image.ReferencedSOPSequence[0]
            key = str(reference.ReferencedSOPInstanceUID), int(reference.ReferencedSegmentNumber)
            assert float(number.MeasuredValueSequence[0].NumericValue) == pytest.approx(volumes[key], rel=1e-6)
            compared += 1
    assert compared == sum(
        1 for finding in case.result.findings if finding.segment_number in number_segments(case.result).place_of
    )


def _groups(item: Dataset) -> list[list[Dataset]]:
    """The content of every container."""
    found = [list(item.get("ContentSequence", ()))]
    for child in found[0]:
        found += _groups(child) if child.ValueType == "CONTAINER" else []
    return found


@pytest.mark.counterpart("dicom3tools")
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("kind", SOURCES)
def test_dciodvfy_has_nothing_to_say(result, kind, flavour, tmp_path):
    changed, sources = SOURCES[kind](result)
    (dataset,) = encode_segmentations(changed, sources, FLAVOURS[flavour])
    assert_clean(dataset, tmp_path)


@pytest.mark.counterpart("dcmqi")
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", ["17 labels", "overlap", "lung mask"])
def test_dcmqi_reads_the_same_voxels(name, flavour, tmp_path):
    case = CASES[name]()
    numbering = number_segments(case.result)
    for index, dataset in enumerate(encode_segmentations(case.result, case.sources, FLAVOURS[flavour])):
        folder = tmp_path / str(index)
        folder.mkdir()
        path = assert_clean(dataset, folder)
        output = run("segimage2itkimage", "--inputDICOM", path, "--outputDirectory", folder, "-t", "nii")
        assert complaints(output) == []
        for place in numbering.objects[index]:
            mask = case.result.label_maps[place.label_map] == place.segment.number
            found = read_nifti(folder, place.segment_number, place.segment.label, mask.shape)
            assert found.sum() == mask.sum()
            rows = mask.any(axis=0)
            np.testing.assert_array_equal(found.any(axis=0), rows)


def read_nifti(folder: Path, number: int, label: str, shape: tuple[int, ...]) -> np.ndarray:
    """The mask of a segment as dcmqi wrote it: a file for each segment, or for the segments together."""
    meta = json.loads((folder / "meta.json").read_text())
    for group, items in enumerate(meta["segmentAttributes"], 1):
        for item in items:
            if item["SegmentLabel"] == label:
                content = gzip.decompress((folder / f"{group}.nii.gz").read_bytes())
                kind = {2: np.uint8, 4: np.int16, 512: np.uint16}[int.from_bytes(content[70:72], "little")]
                voxels = np.frombuffer(content[352:], kind).reshape(-1, *shape[1:])
                return np.asarray(voxels == item["labelID"])
    raise AssertionError(f"segment {number} is not in {meta}")


ALL_IMAGES = replace(
    CONSERVATIVE,
    name="all",
    roles=(
        Role.SEGMENTATION,
        Role.FRACTIONAL_SEGMENTATION,
        Role.PARAMETRIC_MAP,
        Role.STRUCTURE_SET,
        Role.PRESENTATION_STATE,
        Role.SECONDARY_CAPTURE,
    ),
)


@pytest.mark.parametrize("flavour", [SegmentationFlavour.BINARY, SegmentationFlavour.LABELMAP])
def test_every_kind_of_object_is_byte_equal_when_rendered_again(flavour):
    case = CASES["overlap"]()
    shape = case.result.labels.shape
    fractions = np.random.default_rng(3).random(shape).astype(np.float32)
    maps = (Map("Lung", codes.RATIO, codes.NO_UNITS, fractions, case.result.segments[0].number),)
    result = replace(case.result, maps=maps)
    profile = replace(ALL_IMAGES, segmentation_flavour=flavour)
    first = [(each.role, each.to_bytes()) for each in render(result, case.sources, profile)]
    assert {role for role, _ in first} == set(profile.roles)
    again = CASES["overlap"]()
    second = render(replace(again.result, maps=maps), again.sources, profile)
    assert [(each.role, each.to_bytes()) for each in second] == first
    assert [b"".join(each.parts()) for each in second] == [content for _, content in first]
    assert check([dcmread(BytesIO(content)) for _, content in first], case.sources, profile=profile) == []
