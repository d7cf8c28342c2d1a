"""What a destination gets whose limits an object exceeds: the next form of the fallback order, and the next."""

from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_sr import codes
from dicom_sr.conformance import check
from dicom_sr.errors import NothingToShow
from dicom_sr.findings import Map, Result, SourceImage
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role
from dicom_sr.profile_files import named_profile
from dicom_sr.render import RenderedObject, render
from tests.dicom_sr.cases import Case, brain, lung_mask
from tests.phantoms import make_series

REPORTS = [Role.REPORT]
LARGE = (6, 512, 512)


@pytest.fixture
def case() -> Case:
    return brain()


@pytest.fixture
def large() -> Case:
    """A small segment on a grid of more than a megabyte."""
    sources = make_series(shape=LARGE, spacing_mm=(3, 1, 1), study_instance_uid="1.2.3", series_instance_uid="1.2.4")
    labels = np.zeros(LARGE, np.uint8)
    labels[2:4, 200:220, 100:130] = 1
    listed = tuple(SourceImage(str(each.SOPClassUID), str(each.SOPInstanceUID)) for each in sources)
    return Case(replace(lung_mask().result, labels=labels, findings=(), source_images=listed), sources)


def rendered(result: Result, sources: list[Dataset], profile: DestinationProfile) -> list[RenderedObject]:
    """What passes the gate of the very profile."""
    objects = render(result, sources, profile)
    assert check([each.dataset for each in objects], sources, result=result, profile=profile) == []
    return objects


def without_pixels(sources: list[Dataset]) -> list[Dataset]:
    for source in sources:
        del source.PixelData
    return sources


def test_capture_takes_the_place_of_a_large_segmentation(case):
    objects = rendered(case.result, case.sources, replace(named_profile("ohif"), maximum_frames=3))
    assert [each.role for each in objects] == [Role.REPORT, Role.SECONDARY_CAPTURE]


def test_without_pixels_there_is_no_capture_and_the_report_stands_alone(case):
    profile = replace(named_profile("ohif"), maximum_frames=3)
    assert [each.role for each in rendered(case.result, without_pixels(case.sources), profile)] == REPORTS


def test_a_capture_that_the_profile_wants_is_not_left_out(case):
    with pytest.raises(NothingToShow):
        render(case.result, without_pixels(case.sources), named_profile("legacy"))


def test_a_form_that_is_too_large_as_well_is_replaced_again(case):
    profile = replace(named_profile("labelmap"), maximum_frames=1)  # which neither form nor the capture keeps
    assert [each.role for each in rendered(case.result, case.sources, profile)] == REPORTS


def test_bits_take_the_place_of_a_large_label_map(large):
    labels = large.result.labels.copy()
    labels[:, 0, 0] = 1  # a frame for each slice: more than a megabyte with a byte a pixel
    result = replace(large.result, labels=labels)
    profile = replace(named_profile("labelmap"), compress_label_map=False)
    assert rendered(result, large.sources, profile)[0].dataset.SegmentationType == "LABELMAP"
    small = replace(profile, maximum_megabytes=1)
    assert rendered(result, large.sources, small)[0].dataset.SegmentationType == "BINARY"


def test_large_fractions_are_left_out_and_the_segmentation_of_record_stays(large):
    certainty = codes.concept("111012", "DCM", "Certainty of Finding")
    fractions = Map("Lung", certainty, codes.NO_UNITS, np.full(LARGE, 0.5, np.float32), 1)
    roles = (*CONSERVATIVE.roles, Role.FRACTIONAL_SEGMENTATION)
    profile = replace(CONSERVATIVE, name="fractions", roles=roles)
    result = replace(large.result, maps=(fractions,))
    both = [Role.SEGMENTATION, Role.FRACTIONAL_SEGMENTATION, Role.REPORT]
    assert [each.role for each in rendered(result, large.sources, profile)] == both
    small = replace(profile, maximum_megabytes=1)
    assert [each.role for each in rendered(result, large.sources, small)] == [Role.SEGMENTATION, Role.REPORT]
