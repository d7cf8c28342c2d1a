"""Key images and the notice that retracts a result."""

from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread

from dicom_sr import content_tree
from dicom_sr.errors import InvalidResult
from dicom_sr.findings import PlanarRegion, PlanarShape, Predecessor, Presence
from dicom_sr.key_objects import MAXIMUM_KEY_IMAGES, Rejection, encode_key_objects, encode_rejection_note
from dicom_sr.profile import CONSERVATIVE, Role
from dicom_sr.render import RenderedObject, render
from tests.dicom_sr.counterparts import assert_clean

AT = datetime(2026, 3, 5, 9, 0, tzinfo=UTC)
REJECTED = (
    Predecessor("1.2.50", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.51"),
    Predecessor("1.2.52", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.53"),
)


def description_of(document):
    return next(item.TextValue for item in content_tree.children_named(document, "113012"))


def test_key_images_are_those_where_findings_are_largest(result, sources):
    document = encode_key_objects(result, sources)
    assert (document.Modality, document.ConceptNameCodeSequence[0].CodeValue) == ("KO", "113000")
    largest = {int((result.labels == number).sum(axis=(1, 2)).argmax()) for number in (2, 7)}
    images = [item for item in document.ContentSequence if item.ValueType == "IMAGE"]
    uids = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in images]
    assert uids == [sources[index].SOPInstanceUID for index in sorted(largest)]
    text = description_of(document)
    assert text.startswith("Not for clinical use. ") and "Left ventricle 1, Brain 1" in text
    assert "Lesion" not in text, "a segment without a voxel is on no image"


def test_without_a_place_there_are_no_key_images(empty_result, result, sources):
    assert encode_key_objects(empty_result, sources) is None
    absent = tuple(replace(finding, presence=Presence.ABSENT) for finding in result.findings)
    assert encode_key_objects(replace(result, findings=absent), sources) is None


def test_many_key_images_are_cut_and_the_text_says_so(sources, make_result):
    many = sources * 6
    many = [deepcopy(source) for source in many]
    for number, source in enumerate(many):
        source.SOPInstanceUID = f"1.2.9.{number}"
        source.ImagePositionPatient = [0.0, 0.0, 3.0 * number]
        source.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    result = replace(make_result(many), labels=None)
    region = PlanarRegion("", PlanarShape.POINT, ((5.0, 5.0),))
    findings = tuple(
        replace(result.findings[0], tracking_identifier=f"F{n}", segment_number=None,
                regions=(replace(region, sop_instance_uid=source.SOPInstanceUID),))
        for n, source in enumerate(many)
    )  # fmt: skip
    document = encode_key_objects(replace(result, findings=findings), many)
    images = [item for item in document.ContentSequence if item.ValueType == "IMAGE"]
    assert len(images) == MAXIMUM_KEY_IMAGES
    assert "12 further images are not listed" in description_of(document)


@pytest.mark.parametrize("reason", Rejection)
def test_rejection_note_lists_what_is_retracted(result, sources, reason):
    note = encode_rejection_note(result, sources[3], REJECTED, reason, AT)
    assert note.ConceptNameCodeSequence[0].CodeValue == reason.value.value
    items = [item for item in note.ContentSequence if item.ValueType in ("IMAGE", "COMPOSITE")]
    uids = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items]
    assert uids == ["1.2.51", "1.2.53"]
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    evidence = {
        (series.SeriesInstanceUID, item.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert {("1.2.50", "1.2.51"), ("1.2.52", "1.2.53")} == evidence
    assert str(note.ContentDate) == "20260305"
    modifiers = [item for item in note.ContentSequence if item.RelationshipType == "HAS CONCEPT MOD"]
    assert len(modifiers) == (1 if reason is Rejection.REPLACED else 0), "TID 2010 row 2"


def test_the_same_rejection_gives_the_same_bytes(result, sources):
    first, second, other = (
        RenderedObject(Role.REJECTION, encode_rejection_note(result, sources[0], REJECTED, reason, AT)).to_bytes()
        for reason in (Rejection.WRONG, Rejection.WRONG, Rejection.REPLACED)
    )
    assert first == second
    assert dcmread(BytesIO(first)).SOPInstanceUID != dcmread(BytesIO(other)).SOPInstanceUID


def test_nothing_to_reject_is_refused(result, sources):
    with pytest.raises(InvalidResult, match="at least one"):
        encode_rejection_note(result, sources[0], (), Rejection.WRONG, AT)


@pytest.mark.counterpart("dicom3tools", "dcmtk")
@pytest.mark.parametrize("kind", ["key images", *Rejection])
def test_validators_have_nothing_to_say(result, sources, kind, tmp_path):
    if kind == "key images":
        document = encode_key_objects(result, sources)
    else:
        document = encode_rejection_note(result, sources[0], REJECTED, kind, AT)
    assert_clean(document, tmp_path)


def test_rendered_when_the_profile_asks(result, sources):
    profile = replace(CONSERVATIVE, name="keys", roles=(Role.REPORT, Role.KEY_OBJECTS))
    assert [item.role for item in render(result, sources, profile)] == [Role.REPORT, Role.KEY_OBJECTS]
    empty = replace(result, labels=np.zeros_like(result.labels))
    assert [item.role for item in render(empty, sources, profile)] == [Role.REPORT]
