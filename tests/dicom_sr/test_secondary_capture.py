"""Secondary Captures: which images, what is drawn on them, and that they say what they are."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr.displayed import displayed_frame
from dicom_sr.errors import SourceMismatch
from dicom_sr.evidence import check_evidence
from dicom_sr.findings import Finding, Likelihood, Segment, SpatialRegion, SpatialShape
from dicom_sr.key_objects import encode_key_objects
from dicom_sr.part10 import to_part10
from dicom_sr.secondary_capture import LINE_PIXELS, LONGEST_SIDE, MOST_FRAMES, encode_secondary_capture, slices_shown
from dicom_sr.segment_numbering import number_segments
from tests.dicom_sr.cases import CASES, CERTAINTY
from tests.dicom_sr.counterparts import assert_clean


def capture_of(result, sources) -> Dataset:
    """Written and read again."""
    return dcmread(BytesIO(to_part10(encode_secondary_capture(result, sources))))


def test_shows_the_slices_where_segments_are_largest(result, sources):
    capture = capture_of(result, sources)
    shown = slices_shown(result, check_evidence(result, sources), number_segments(result))
    referred = [item.ReferencedSOPInstanceUID for item in capture.SourceImageSequence]
    assert referred == [sources[index].SOPInstanceUID for index in shown]
    assert capture.NumberOfFrames == len(shown) == len(set(number_segments(result).largest_slices))


def test_colours_of_the_segments_are_in_the_picture(result, sources):
    pixels = capture_of(result, sources).pixel_array.reshape(-1, 3)
    for segment in result.segments:
        drawn = (pixels == segment.rgb).all(axis=1).sum()
        assert (drawn > 100) == (segment.label != "Lesion")


def test_outline_lies_around_the_voxels(result, sources):
    """The image is scaled, its pixels made square, below the heading."""
    index = number_segments(result).places[0].largest_slice
    changed = replace(result, labels=np.where(result.labels == 2, 2, 0).astype(np.uint8), findings=())
    picture = capture_of(changed, sources).pixel_array
    picture = picture[0] if picture.ndim == 4 else picture
    drawn = (picture == result.segments[0].rgb).all(axis=2)
    height = LONGEST_SIDE  # 30 rows of 1.5 mm beside 26 columns of 1.25 mm
    rows = np.flatnonzero(drawn[: height + 40].sum(axis=1) > 60)
    inside = np.flatnonzero((changed.labels[index] == 2).any(axis=1))
    scale = height / 30
    assert (rows[-1] - rows[0]) == pytest.approx((inside[-1] + 1 - inside[0]) * scale, abs=4)


def test_is_marked_but_says_nothing_about_the_patient(result, sources):
    capture = capture_of(result, sources)
    assert capture.BurnedInAnnotation == "NO"
    assert "not verified" in capture.DerivationDescription
    assert capture.ImageType == ["DERIVED", "SECONDARY"]
    assert capture.PhotometricInterpretation == "RGB"


def test_heading_is_there_and_is_the_same_whoever_the_patient_is(result, sources):
    first = capture_of(result, sources).pixel_array
    for source in sources:
        source.PatientName, source.PatientID = "Other^Name", "CANARY"
    np.testing.assert_array_equal(capture_of(result, sources).pixel_array, first)
    assert first[0, :40].any()


def test_only_a_handful_of_many_segments(result, sources):
    labels = np.zeros(result.labels.shape, np.uint8)
    for number in range(1, 13):
        labels[number - 1, 2 : 4 + number, 3:9] = number
    segments = tuple(
        Segment(number, f"Part {number}", result.segments[0].category, result.segments[0].type, (9, 9, 9 + number))
        for number in range(1, 13)
    )
    many = replace(result, labels=labels, segments=segments, findings=())
    shown = slices_shown(many, check_evidence(many, sources), number_segments(many))
    assert shown == list(range(12 - MOST_FRAMES, 12))  # those of the largest segments


def test_what_has_no_place_is_told_on_every_image(result, sources):
    without = capture_of(result, sources)
    bleeding = Finding(Code("50960005", "SCT", "Hemorrhage"), "Bleeding", likelihood=Likelihood(0.9, CERTAINTY))
    found = capture_of(replace(result, findings=(*result.findings, bleeding)), sources)
    assert found.NumberOfFrames == without.NumberOfFrames
    assert found.Rows == without.Rows + LINE_PIXELS


def test_slice_of_a_place_in_space_is_shown_and_a_key_image(result, sources):
    evidence = check_evidence(result, sources)
    point = SpatialRegion(SpatialShape.POINT, (evidence.frames[10].position_mm,), evidence.frame_of_reference_uid)
    nodule = Finding(Code("27925004", "SCT", "Nodule"), "Nodule", regions=(point,))
    only = replace(result, labels=None, segments=(), findings=(nodule,))
    assert slices_shown(only, evidence, number_segments(only)) == [10]
    (image,) = [item for item in encode_key_objects(only, sources).ContentSequence if item.ValueType == "IMAGE"]
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == sources[10].SOPInstanceUID


def test_empty_result_has_its_middle_image(empty_result, sources):
    capture = capture_of(replace(empty_result, findings=()), sources)
    assert capture.NumberOfFrames == 1
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == sources[6].SOPInstanceUID


def test_images_of_different_size_share_one_object():
    case = CASES["mammography"]()
    capture = capture_of(case.result, case.sources)
    assert capture.NumberOfFrames == len(capture.SourceImageSequence) > 1
    assert capture.pixel_array.shape[0] == capture.NumberOfFrames


def test_image_without_pixels_is_refused_by_name(result, sources):
    for source in sources:
        del source.PixelData
    assert displayed_frame(sources[0]) is None
    with pytest.raises(SourceMismatch, match="pixels are not there"):
        encode_secondary_capture(result, sources)


@pytest.mark.counterpart("dicom3tools")
@pytest.mark.parametrize("name", ["lung mask", "empty", "chest boxes", "mammography"])
def test_dciodvfy_has_nothing_to_say(name, tmp_path):
    case = CASES[name]()
    assert_clean(encode_secondary_capture(case.result, case.sources), tmp_path)
