"""Segmentations, read back."""

from dataclasses import replace
from io import BytesIO

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread

from dicom_sr.conformance import check
from dicom_sr.errors import InvalidResult
from dicom_sr.identity import tracking_uid
from dicom_sr.profile import CONSERVATIVE, Role
from dicom_sr.profile_files import named_profile
from dicom_sr.provenance import LONG_STRING
from dicom_sr.render import RenderedObject
from dicom_sr.segment_numbering import number_segments
from dicom_sr.segmentation import encode_segmentations
from tests.dicom_sr.conftest import SEGMENTS

SLICER = named_profile("slicer")


@pytest.fixture
def segmentation(result, sources) -> hd.seg.Segmentation:
    """Written and read again."""
    (dataset,) = encode_segmentations(result, sources)
    return hd.seg.segread(BytesIO(RenderedObject(Role.SEGMENTATION, dataset).to_bytes()))


def labels_of(segmentation, sources):
    """Label map on the source grid, by reference to the source images."""
    uids = [source.SOPInstanceUID for source in sources]
    return segmentation.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)


def test_voxels_come_back_under_numbers_without_gaps(segmentation, result, sources):
    expected = np.select([result.labels == 2, result.labels == 7], [1, 2], 0)
    np.testing.assert_array_equal(labels_of(segmentation, sources), expected)


def test_geometry_is_that_of_the_sources(segmentation, result, sources):
    volume = segmentation.get_volume(combine_segments=True, allow_missing_positions=True)
    step, along_column, along_row = volume.spacing
    assert (step, along_column, along_row) == pytest.approx((3.0, 1.5, 1.25))
    first = int(np.flatnonzero(result.labels.any(axis=(1, 2)))[0])
    last = int(np.flatnonzero(result.labels.any(axis=(1, 2)))[-1])
    corners = [sources[first].ImagePositionPatient, sources[last].ImagePositionPatient]
    ends = [volume.affine[:3, 3], (volume.affine @ [volume.shape[0] - 1, 0, 0, 1])[:3]]
    distance = min(np.abs(np.subtract(corners, ends)).max(), np.abs(np.subtract(corners[::-1], ends)).max())
    assert distance < 1e-3
    assert segmentation.FrameOfReferenceUID == sources[0].FrameOfReferenceUID


def test_empty_frames_and_absent_segments_are_left_out(segmentation, result):
    slices = sum(int((result.labels == label).any(axis=(1, 2)).sum()) for label in (2, 7))
    shown = segmentation.pixel_array.any(axis=(1, 2))
    assert shown.sum() == slices
    assert slices <= segmentation.NumberOfFrames < slices + 8
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == ["Brain", "Left ventricle"]


@pytest.mark.parametrize("bits_across_bytes", [False, True])
def test_pixels_come_to_an_even_number_of_bytes(result, sources, bits_across_bytes):
    """OHIF reads nothing that is padded, and Orthanc gives out no frame of it."""
    profile = replace(CONSERVATIVE, bits_across_bytes=bits_across_bytes)
    for slices in range(1, len(result.labels) - 4):
        labels = np.zeros_like(result.labels)
        labels[:slices] = 2
        (segmentation,) = encode_segmentations(replace(result, labels=labels), sources, profile)
        written = dcmread(BytesIO(RenderedObject(Role.SEGMENTATION, segmentation).to_bytes()))
        frames, bits = written.NumberOfFrames, written.Rows * written.Columns * written.BitsAllocated
        assert -(-frames * bits // 8) % 2 == 0
        numbers = [
            tuple(item.FrameContentSequence[0].DimensionIndexValues)
            for item in written.PerFrameFunctionalGroupsSequence
        ]
        assert numbers == sorted(numbers) and len(set(numbers)) == frames


def test_every_frame_refers_to_its_image_and_all_images_are_listed(segmentation, sources):
    listed = {
        item.ReferencedSOPInstanceUID for item in segmentation.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert listed == {source.SOPInstanceUID for source in sources}
    position = {source.SOPInstanceUID: source.ImagePositionPatient for source in sources}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        reference = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert list(frame.PlanePositionSequence[0].ImagePositionPatient) == list(position[reference])


def test_segments_are_described(segmentation, result):
    brain, ventricle = segmentation.SegmentSequence
    assert (brain.TrackingID, brain.TrackingUID) == ("Brain 1", tracking_uid(result, "Brain 1"))
    assert brain.SegmentAlgorithmType == "AUTOMATIC"
    assert brain.SegmentAlgorithmName == "Brain and ventricles"
    assert brain.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "1.2.0"
    assert "RecommendedDisplayCIELabValue" in brain
    modifier = ventricle.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert modifier.CodeMeaning == "Left"


def test_says_who_made_it_and_not_for_clinical_use(segmentation, result):
    assert segmentation.SeriesDescription == "AI Brain and ventricles 1.2.0 SEG, not for clinical use"
    assert "Not for clinical use" in segmentation.ContentDescription
    assert segmentation.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    contributors = segmentation.ContributingEquipmentSequence
    algorithm = next(item for item in contributors if item.ManufacturerModelName == "Brain and ventricles")
    assert algorithm.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert (algorithm.SoftwareVersions, algorithm.DeviceSerialNumber) == ("1.2.0", result.algorithm.digest)


def test_long_names_fit(result, sources):
    algorithm = replace(result.algorithm, name="Brain " * 20, version="1.0.0+build.20260304.abcdef")
    (dataset,) = encode_segmentations(replace(result, algorithm=algorithm), sources)
    assert len(dataset.SeriesDescription) <= LONG_STRING
    assert dataset.SeriesDescription.endswith(", not for clinical use")


def test_nothing_present_gives_no_segmentation(empty_result, sources):
    assert encode_segmentations(empty_result, sources) == []


def test_consecutive_labels_keep_their_numbers(result, sources):
    labels = np.where(result.labels == 2, 1, np.where(result.labels == 7, 2, 0)).astype(np.uint16)
    segments = tuple(replace(segment, number=i) for i, segment in enumerate((SEGMENTS[0], SEGMENTS[2]), 1))
    changed = replace(result, labels=labels, segments=segments, findings=())
    (dataset,) = encode_segmentations(changed, sources)
    read = hd.seg.segread(BytesIO(RenderedObject(Role.SEGMENTATION, dataset).to_bytes()))
    np.testing.assert_array_equal(labels_of(read, sources), labels)


def test_numbering_knows_present_absent_and_largest_slice(result):
    numbering = number_segments(result)
    assert numbering.segment_numbers == {2: 1, 7: 2}
    assert [segment.label for segment in numbering.absent] == ["Lesion"]
    brain = (result.labels == 2).sum(axis=(1, 2))
    assert brain[numbering.largest_slices[0]] == brain.max()


def test_label_without_segment_is_refused(result):
    labels = result.labels.copy()
    labels[0, 0, 0] = 9
    with pytest.raises(InvalidResult, match=r"holds \[9\]"):
        number_segments(replace(result, labels=labels))


@pytest.mark.parametrize("change", [{"number": 2}, {"label": "Brain"}])
def test_segments_that_cannot_be_told_apart_are_refused(result, change):
    twice = (*result.segments[:-1], replace(result.segments[-1], **change))
    with pytest.raises(InvalidResult, match="distinct"):
        number_segments(replace(result, segments=twice))


def test_read_again_without_highdicom(result, sources):
    (dataset,) = encode_segmentations(result, sources, replace(CONSERVATIVE, bits_across_bytes=True))
    again = dcmread(BytesIO(RenderedObject(Role.SEGMENTATION, dataset).to_bytes()))
    assert again.pixel_array.sum() == (result.labels > 0).sum()


def test_bits_that_do_not_fill_bytes_are_written_as_bytes(result, sources):
    """OHIF 3.13 draws frames that begin within a byte in the wrong place."""
    encoded = [encode_segmentations(result, sources, profile)[0] for profile in (SLICER, CONSERVATIVE)]
    bits, octets = (dcmread(BytesIO(RenderedObject(Role.SEGMENTATION, each).to_bytes())) for each in encoded)
    assert (bits.SegmentationType, bits.BitsAllocated) == ("BINARY", 1)
    assert (octets.SegmentationType, octets.BitsAllocated) == ("FRACTIONAL", 8)
    assert (octets.SegmentationFractionalType, octets.MaximumFractionalValue) == ("OCCUPANCY", 255)
    shown = bits.pixel_array[bits.pixel_array.any(axis=(1, 2))]
    np.testing.assert_array_equal(octets.pixel_array, shown * np.uint8(255))
    for profile, written, wrong in ((CONSERVATIVE, octets, bits), (SLICER, bits, octets)):
        assert check([written], sources, result=result, profile=profile) == []
        assert [problem.code for problem in check([wrong], sources, result=result, profile=profile)] == ["viewer"]
