"""RT Structure Sets: contours in space, made voxels again."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian

from dicom_sr.conformance import check
from dicom_sr.evidence import check_evidence
from dicom_sr.findings import SourceImage
from dicom_sr.part10 import to_part10
from dicom_sr.structure_set import encode_structure_set
from tests.dicom_sr.cases import CASES
from tests.dicom_sr.conftest import make_labels
from tests.dicom_sr.counterparts import assert_clean
from tests.dicom_sr.enhanced import enhanced_image
from tests.dicom_sr.test_contours import rasterise


@pytest.fixture
def structure_set(result, sources) -> Dataset:
    """Written and read again."""
    return dcmread(BytesIO(to_part10(encode_structure_set(result, sources))))


def voxels_of(structure_set: Dataset, number: int, sources: list[Dataset]) -> np.ndarray:
    """The region as a mask on the grid of the sources, by the images that its contours name and the points alone."""
    mask = np.zeros((len(sources), sources[0].Rows, sources[0].Columns), bool)
    place = {str(source.SOPInstanceUID): index for index, source in enumerate(sources)}
    (region,) = (item for item in structure_set.ROIContourSequence if item.ReferencedROINumber == number)
    for contour in region.ContourSequence:
        index = place[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        source = sources[index]
        along_row, along_column = np.array(source.ImageOrientationPatient, float).reshape(2, 3)
        way = np.array(contour.ContourData, float).reshape(-1, 3) - np.array(source.ImagePositionPatient, float)
        assert np.abs(way @ np.cross(along_row, along_column)).max() < 2e-3  # in the plane of the image
        columns = way @ along_row / float(source.PixelSpacing[1]) + 0.5
        rows = way @ along_column / float(source.PixelSpacing[0]) + 0.5
        points = np.stack([columns, rows], axis=1)
        assert contour.NumberOfContourPoints == len(points)
        mask[index] ^= rasterise([np.vstack([points, points[:1]])], mask[index].shape)
    return mask


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_contours_hold_the_voxels_of_the_segments(structure_set, result, sources):
    for number, label in ((1, 2), (2, 7)):
        assert dice(voxels_of(structure_set, number, sources), result.labels == label) == 1


def test_ragged_regions_with_holes_too(result, sources):
    labels = np.zeros(result.labels.shape, np.uint8)
    labels[4:6, :14, :12] = np.random.default_rng(4).choice([0, 2, 7], (2, 14, 12))
    again = dcmread(BytesIO(to_part10(encode_structure_set(replace(result, labels=labels), sources))))
    for number, label in ((1, 2), (2, 7)):
        assert dice(voxels_of(again, number, sources), labels == label) == 1


def test_regions_are_named_coded_and_coloured(structure_set, sources):
    assert structure_set.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    brain, ventricle = structure_set.StructureSetROISequence
    assert (brain.ROIName, ventricle.ROIName) == ("Brain", "Left ventricle")
    assert {item.ROIGenerationAlgorithm for item in (brain, ventricle)} == {"AUTOMATIC"}
    assert {item.ReferencedFrameOfReferenceUID for item in (brain, ventricle)} == {sources[0].FrameOfReferenceUID}
    assert list(structure_set.ROIContourSequence[1].ROIDisplayColor) == [70, 130, 255]
    observation = structure_set.RTROIObservationsSequence[1]
    assert observation.RTROIIdentificationCodeSequence[0].CodeMeaning == "Brain ventricle"
    assert structure_set.ApprovalStatus == "UNAPPROVED"
    assert "Not for clinical use" in structure_set.StructureSetDescription


def test_volume_is_that_of_the_voxels(structure_set, result, sources):
    voxel_ml = check_evidence(result, sources).voxel_volumes_ml[0]
    for roi, label in zip(structure_set.StructureSetROISequence, (2, 7), strict=True):
        assert float(roi.ROIVolume) == pytest.approx((result.labels == label).sum() * voxel_ml)


def test_volume_of_uneven_slices_is_that_of_each_slice(result, sources):
    """Each slice reaches half way to its neighbours; contours at the mean distance would enclose another volume."""
    spread_mm = [3.0 * (index + max(index - 6, 0) / 2) for index in range(12)]
    reach_mm = np.array([3.0] * 6 + [3.75] + [4.5] * 5)
    first = sources[0]
    normal = np.cross(first.ImageOrientationPatient[:3], first.ImageOrientationPatient[3:])
    start = np.array(first.ImagePositionPatient, float)
    for source, height_mm in zip(sources, spread_mm, strict=True):
        source.ImagePositionPatient = [f"{value:.6f}" for value in start + height_mm * normal]
    structure_set = encode_structure_set(result, sources)
    for roi, label in zip(structure_set.StructureSetROISequence, (2, 7), strict=True):
        voxels = (result.labels == label).sum(axis=(1, 2))
        exact_ml = float(voxels @ reach_mm) * 1.5 * 1.25 / 1000
        assert float(roi.ROIVolume) == pytest.approx(exact_ml, rel=1e-4)
        assert float(roi.ROIVolume) != pytest.approx(voxels.sum() * reach_mm.mean() * 1.5 * 1.25 / 1000, rel=1e-3)
    assert not list(check([structure_set], sources, result=result))
    structure_set.StructureSetROISequence[0].ROIVolume = exact_ml
    assert [each.code for each in check([structure_set], sources, result=result)] == ["volume"]


def test_every_image_is_referred_to(structure_set, sources):
    (frame,) = structure_set.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    found = {item.ReferencedSOPInstanceUID for item in series.ContourImageSequence}
    assert found == {source.SOPInstanceUID for source in sources}


def test_overlapping_segments_are_all_there():
    case = CASES["overlap"]()
    structure_set = encode_structure_set(case.result, case.sources)
    assert len(structure_set.StructureSetROISequence) == len({*np.unique(case.result.label_maps)} - {0})


def test_a_multi_frame_image_is_referred_to_frame_by_frame(result):
    image = enhanced_image((12, 30, 26), (3.0, 1.5, 1.25), "oblique")
    source = SourceImage(str(image.SOPClassUID), str(image.SOPInstanceUID))
    changed = replace(
        result,
        study_instance_uid=image.StudyInstanceUID,
        series_instance_uid=image.SeriesInstanceUID,
        source_images=(source,),
    )
    structure_set = dcmread(BytesIO(to_part10(encode_structure_set(changed, [image]))))
    frames = {
        int(contour.ContourImageSequence[0].ReferencedFrameNumber)
        for contour in structure_set.ROIContourSequence[0].ContourSequence
    }
    assert frames == {int(index) + 1 for index in np.flatnonzero((make_labels() == 2).any(axis=(1, 2)))}


@pytest.mark.parametrize("name", ["empty", "chest boxes", "mammography"])
def test_nothing_in_space_gives_no_structure_set(name):
    case = CASES[name]()
    assert encode_structure_set(case.result, case.sources) is None


@pytest.mark.counterpart("dicom3tools")
@pytest.mark.parametrize("name", ["lung mask", "overlap", "17 labels"])
def test_dciodvfy_has_nothing_to_say(name, tmp_path):
    case = CASES[name]()
    assert_clean(encode_structure_set(case.result, case.sources), tmp_path)
