"""Presentation states: what is drawn, where, in which layer, and over images that look as they did."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_sr import codes
from dicom_sr.contours import mask_contours
from dicom_sr.findings import Finding, PlanarRegion, PlanarShape, Presence, SourceImage
from dicom_sr.identity import tracking_uid
from dicom_sr.part10 import to_part10
from dicom_sr.presentation_state import FINDINGS_LAYER, UNVERIFIED_LAYER, encode_presentation_states
from tests.dicom_sr.cases import CASES
from tests.dicom_sr.counterparts import assert_clean
from tests.dicom_sr.enhanced import enhanced_image


def states_of(result, sources) -> list[Dataset]:
    """Written and read again."""
    return [dcmread(BytesIO(to_part10(each))) for each in encode_presentation_states(result, sources)]


def annotations(state: Dataset, layer: str) -> list[Dataset]:
    return [item for item in state.GraphicAnnotationSequence if item.GraphicLayer == layer]


def test_every_contour_of_every_slice_is_drawn(result, sources):
    (state,) = states_of(result, sources)
    place = {str(source.SOPInstanceUID): index for index, source in enumerate(sources)}
    for layer, label in (("SEGMENT_1", 2), ("SEGMENT_2", 7)):
        drawn = annotations(state, layer)
        assert len(drawn) == (result.labels == label).any(axis=(1, 2)).sum()
        for item in drawn:
            index = place[item.ReferencedImageSequence[0].ReferencedSOPInstanceUID]
            expected = [contour.points for contour in mask_contours(result.labels[index] == label)]
            found = [np.reshape(each.GraphicData, (-1, 2)) for each in item.GraphicObjectSequence]
            assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))
            assert {each.GraphicType for each in item.GraphicObjectSequence} == {"POLYLINE"}


def test_each_segment_is_named_once_in_its_colour(result, sources):
    (state,) = states_of(result, sources)
    texts = [
        text.UnformattedTextValue
        for item in annotations(state, "SEGMENT_1")
        for text in item.get("TextObjectSequence", ())
    ]
    assert texts == ["Brain"]
    layers = {item.GraphicLayer: item for item in state.GraphicLayerSequence}
    assert layers["SEGMENT_2"].GraphicLayerDescription == "Left ventricle"
    assert [item.GraphicLayerOrder for item in state.GraphicLayerSequence] == [1, 2, 3]
    colours = {tuple(item.GraphicLayerRecommendedDisplayCIELabValue) for item in layers.values()}
    assert len(colours) == 3


def test_graphics_carry_the_tracking_uids_of_the_report(result, sources):
    (state,) = states_of(result, sources)
    found = {each.TrackingUID for item in annotations(state, "SEGMENT_2") for each in item.GraphicObjectSequence}
    assert found == {tracking_uid(result, "Left ventricle 1")}


def test_every_image_says_that_nobody_has_verified_it(result, sources):
    (state,) = states_of(result, sources)
    (item,) = annotations(state, UNVERIFIED_LAYER)
    assert "not verified" in item.TextObjectSequence[0].UnformattedTextValue
    listed = {each.ReferencedSOPInstanceUID for each in item.ReferencedImageSequence}
    assert listed == {
        each.ReferencedSOPInstanceUID for each in state.ReferencedSeriesSequence[0].ReferencedImageSequence
    }


def test_regions_of_findings_are_drawn_in_their_kinds(result, sources):
    uid = str(sources[3].SOPInstanceUID)
    points = {
        PlanarShape.POINT: ((4.5, 5.5),),
        PlanarShape.MULTIPOINT: ((1.0, 2.0), (3.0, 4.0)),
        PlanarShape.POLYLINE: ((1.0, 1.0), (6.0, 1.0), (6.0, 4.0), (1.0, 4.0), (1.0, 1.0)),
        PlanarShape.CIRCLE: ((9.0, 9.0), (12.0, 9.0)),
        PlanarShape.ELLIPSE: ((1.0, 5.0), (9.0, 5.0), (5.0, 3.0), (5.0, 7.0)),
    }
    findings = [
        Finding(codes.LUNG, f"Spot {shape.value}", regions=(PlanarRegion(uid, shape, where),))
        for shape, where in points.items()
    ]
    absent = replace(findings[0], tracking_identifier="Not there", presence=Presence.ABSENT)
    (state,) = states_of(replace(result, labels=None, findings=(*findings, absent)), sources)
    (item,) = annotations(state, FINDINGS_LAYER)
    kinds = [(each.GraphicType, each.NumberOfGraphicPoints) for each in item.GraphicObjectSequence]
    assert kinds == [("POINT", 1), ("POINT", 1), ("POINT", 1), ("POLYLINE", 5), ("CIRCLE", 2), ("ELLIPSE", 4)]
    assert "Not there" not in str(state)


def test_images_look_as_they_did(result, sources):
    for number, source in enumerate(sources):
        source.RescaleIntercept, source.RescaleSlope, source.RescaleType = -1024, 2, "HU"
        source.WindowCenter, source.WindowWidth = (40, 400) if number < 6 else (-600, 1500)
    (state,) = states_of(result, sources)
    assert (state.RescaleIntercept, state.RescaleSlope, state.RescaleType) == (-1024, 2, "HU")
    assert {(item.WindowCenter, item.WindowWidth) for item in state.SoftcopyVOILUTSequence} == {(40, 400), (-600, 1500)}
    (area,) = state.DisplayedAreaSelectionSequence
    assert list(area.DisplayedAreaBottomRightHandCorner) == [sources[0].Columns, sources[0].Rows]
    assert state.PresentationLUTShape == "IDENTITY"


def test_images_of_different_rescaling_are_in_different_states(result, sources):
    """As in PET: the Modality LUT holds for all images of a state."""
    for number, source in enumerate(sources):
        source.RescaleIntercept, source.RescaleSlope = 0, 1 + number % 2
    states = states_of(result, sources)
    assert [float(state.RescaleSlope) for state in states] == [2.0, 1.0] or len(states) == 2
    assert [state.InstanceNumber for state in states] == [1, 2]
    assert len({state.SOPInstanceUID for state in states}) == 2


def test_frames_of_a_multi_frame_image_are_named(result):
    image = enhanced_image((12, 30, 26), (3.0, 1.5, 1.25), "oblique")
    source = SourceImage(str(image.SOPClassUID), str(image.SOPInstanceUID))
    changed = replace(
        result,
        study_instance_uid=image.StudyInstanceUID,
        series_instance_uid=image.SeriesInstanceUID,
        source_images=(source,),
    )
    (state,) = states_of(changed, [image])
    frames = [item.ReferencedImageSequence[0].ReferencedFrameNumber for item in annotations(state, "SEGMENT_1")]
    assert frames == [int(index) + 1 for index in np.flatnonzero((result.labels == 2).any(axis=(1, 2)))]


@pytest.mark.parametrize("name", ["empty"])
def test_nothing_to_draw_gives_no_state(name):
    case = CASES[name]()
    assert encode_presentation_states(case.result, case.sources) == []


@pytest.mark.counterpart("dicom3tools")
@pytest.mark.parametrize("name", ["lung mask", "overlap", "chest boxes", "mammography", "in space"])
def test_dciodvfy_has_nothing_to_say(name, tmp_path):
    case = CASES[name]()
    states = encode_presentation_states(case.result, case.sources)
    assert states
    for state in states:
        assert_clean(state, tmp_path)
