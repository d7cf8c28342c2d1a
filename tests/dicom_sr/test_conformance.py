"""The gate lets good objects through and names what is wrong with each bad one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_sr import codes, content_tree
from dicom_sr.conformance import check, check_files, count_voxels
from dicom_sr.findings import Measurement
from dicom_sr.render import render


@pytest.fixture
def objects(result, sources) -> list[Dataset]:
    return [item.dataset for item in render(result, sources)]


def test_rendered_objects_conform(objects, sources):
    assert check(objects, sources) == []


def test_empty_result_conforms(empty_result, sources):
    assert check([item.dataset for item in render(empty_result, sources)], sources) == []


def test_looking_at_objects_leaves_their_bytes(result, sources):
    rendered = render(result, sources)
    assert check([item.dataset for item in rendered], sources) == []
    for item, untouched in zip(rendered, render(result, sources), strict=True):
        assert item.to_bytes() == untouched.to_bytes()
    assert rendered[-1].dataset.get_item("ContentSequence").is_raw, "a parsed content is written a hundred times slower"


def test_files_conform(result, sources, tmp_path):
    paths = []
    for item in render(result, sources):
        paths.append(tmp_path / f"{item.role.value}.dcm")
        paths[-1].write_bytes(item.to_bytes())
    assert check_files(paths, sources) == []


def test_voxels_are_counted_in_frames_that_end_within_a_byte(objects, result):
    assert int(objects[0].Rows) * int(objects[0].Columns) % 8 != 0
    assert count_voxels(objects[0]) == {number: (result.labels == label).sum() for label, number in ((2, 1), (7, 2))}


def test_voxels_are_counted_in_whole_bytes(sources, make_result, result):
    dataset = Dataset()
    dataset.Rows, dataset.Columns = 8, 4
    dataset.SegmentSequence, dataset.PerFrameFunctionalGroupsSequence = [Dataset()], [Dataset(), Dataset()]
    dataset.SegmentSequence[0].SegmentNumber = 1
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.SegmentIdentificationSequence = [Dataset()]
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = 1
    dataset.PixelData = bytes([255, 0, 1, 0, 3, 0, 0, 128])
    assert count_voxels(dataset) == {1: 12}


def first_group(report: Dataset) -> Dataset:
    return content_tree.measurement_groups(report)[0]


def drop(item: Dataset, value: str) -> None:
    item.ContentSequence = [child for child in item.ContentSequence if content_tree.concept_value(child) != value]


def wrong_number(report: Dataset, value: str) -> None:
    for group in content_tree.measurement_groups(report):
        for item in content_tree.children_named(group, value):
            item.MeasuredValueSequence[0].FloatingPointValue *= 1.001


def no_coordinates(report: Dataset) -> None:
    container = content_tree.children_named(report, "126010")[0]
    container.ContentSequence = [
        group for group in container.ContentSequence if not content_tree.has_coordinates(group)
    ]


def rectangle(report: Dataset) -> None:
    outline = next(item for item in content_tree.walk(report) if item.ValueType == "SCOORD")
    outline.GraphicData = [0, 0, 2, 0, 2, 2, 0, 2, 0, 0]


def no_evidence_of_segmentation(report: Dataset) -> None:
    entry = report.CurrentRequestedProcedureEvidenceSequence[0]
    entry.ReferencedSeriesSequence = [entry.ReferencedSeriesSequence[0]]


def other_source_image(segmentation: Dataset) -> None:
    frames = segmentation.PerFrameFunctionalGroupsSequence
    other = frames[1].DerivationImageSequence
    frames[0].DerivationImageSequence = other


def other_spacing(segmentation: Dataset) -> None:
    segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [1, 1]


def emptied_segment(segmentation: Dataset) -> None:
    segmentation.PixelData = bytes(len(segmentation.PixelData))


def set_segment(keyword: str, value: object) -> Callable[[Dataset], None]:
    def change(segmentation: Dataset) -> None:
        setattr(segmentation.SegmentSequence[0], keyword, value)

    return change


BREAKS: list[tuple[int, str, Callable[[Dataset], object]]] = [
    (0, "attribute", lambda seg: delattr(seg, "PatientBirthDate")),
    (0, "attribute", lambda seg: setattr(seg, "DeviceSerialNumber", "")),
    (0, "attribute", lambda seg: setattr(seg, "PatientID", "other")),
    (0, "attribute", lambda seg: setattr(seg, "Modality", "MR")),
    (0, "geometry", lambda seg: setattr(seg, "FrameOfReferenceUID", "1.2.9")),
    (0, "geometry", other_source_image),
    (0, "viewer", emptied_segment),
    (0, "viewer", lambda seg: delattr(seg.SegmentSequence[0], "RecommendedDisplayCIELabValue")),
    (0, "viewer", set_segment("SegmentLabel", "Left ventricle")),
    (0, "viewer", set_segment("SegmentNumber", 5)),
    (0, "tracking", set_segment("TrackingUID", "1.2.9")),
    (0, "viewer", lambda seg: setattr(seg, "SegmentationFractionalType", "PROBABILITY")),
    (0, "geometry", other_spacing),
    (1, "attribute", lambda report: setattr(report, "PreliminaryFlag", "FINAL")),
    (1, "evidence", no_evidence_of_segmentation),
    (1, "viewer", lambda report: drop(first_group(report), "112040")),
    (1, "viewer", no_coordinates),
    (1, "viewer", rectangle),
    (1, "volume", lambda report: wrong_number(report, "118565006")),
    (1, "area", lambda report: wrong_number(report, "42798000")),
]


@pytest.mark.parametrize("position, code, change", BREAKS)
def test_problem_is_named(objects, sources, position, code, change):
    change(objects[position])
    problems = check(objects, sources)
    assert code in {problem.code for problem in problems}, problems


def test_missing_object_is_an_open_reference(objects, sources):
    problems = check(objects[1:], sources)
    assert [problem.code for problem in problems] == ["reference"]
    assert objects[0].SOPInstanceUID in problems[0].message


def test_report_of_a_wrong_volume_does_not_pass(result, sources):
    wrong = Measurement(codes.VOLUME, 3.0, codes.MILLILITER)
    changed = replace(result, findings=(replace(result.findings[0], measurements=(wrong,)), *result.findings[1:]))
    (problem,) = check([item.dataset for item in render(changed, sources)], sources)
    assert problem.code == "volume"


def test_a_volume_of_what_has_no_voxel_does_not_pass(objects, sources):
    """Of nothing, whatever its size, there is no share that uneven slices allow."""
    emptied_segment(objects[0])
    for group in content_tree.measurement_groups(objects[1]):
        for item in content_tree.children_named(group, "118565006"):
            item.MeasuredValueSequence[0].FloatingPointValue = 1.0
            item.MeasuredValueSequence[0].NumericValue = "1"
    assert "volume" in {problem.code for problem in check(objects, sources)}


def test_messages_hold_no_patient_data(objects, sources):
    for source in sources:
        source.PatientID = "CANARY"
    problems = check(objects, sources)
    assert problems
    assert not any("CANARY" in problem.message or "PH-1" in problem.message for problem in problems)


def test_labels_are_counted_as_numpy_does(objects, result):
    assert sum(count_voxels(objects[0]).values()) == np.count_nonzero(result.labels)
