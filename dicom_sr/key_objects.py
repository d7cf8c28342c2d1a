"""Key Object Selection Documents (TID 2010): the images that show findings, and the notice that retracts a result.

A notice of rejection is what IHE Imaging Object Change Management (IOCM) knows: an Image Manager that receives it hides
the objects it lists, an archive that does not know IOCM keeps it as one more document.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from enum import Enum

import highdicom as hd
from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes, provenance
from dicom_sr.errors import InvalidResult
from dicom_sr.evidence import Evidence, check_evidence, study_header
from dicom_sr.findings import Predecessor, Presence, Result
from dicom_sr.identity import uid_for
from dicom_sr.places import Place, places_of
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role
from dicom_sr.provenance import device_observer
from dicom_sr.segment_numbering import SegmentNumbering, number_segments

MAXIMUM_KEY_IMAGES = 60
OF_INTEREST = codes.concept("113000", "DCM", "Of Interest")
DOCUMENT_TITLE_MODIFIER = codes.concept("113011", "DCM", "Document Title Modifier")
OTHER_FAILURE = codes.concept("111220", "DCM", "Other failure")
"""CID 7011: the modifier that the title (113001, DCM) must have; none of them says "replaced"."""


class Rejection(Enum):
    """Why objects are retracted: the titles of a rejection note (CID 7031)."""

    REPLACED = codes.concept("113001", "DCM", "Rejected for Quality Reasons")
    """A later result of the same algorithm takes their place. They may still be looked at."""
    WRONG = codes.concept("113037", "DCM", "Rejected for Patient Safety Reasons")
    """They must not be shown any more: a person judged them wrong, or they were made by mistake."""
    WRONG_PATIENT = codes.concept("113038", "DCM", "Incorrect Modality Worklist Entry")
    """The images that they are about were filed under a wrong patient or order."""
    EXPIRED = codes.concept("113039", "DCM", "Data Retention Policy Expired")
    """They may be deleted."""


def encode_key_objects(
    result: Result,
    sources: Sequence[Dataset],
    profile: DestinationProfile = CONSERVATIVE,
    *,
    evidence: Evidence | None = None,
    numbering: SegmentNumbering | None = None,
) -> Dataset | None:
    """The images, or frames, that show findings that are present; None where no finding has a place.

    Of a finding with a segment the slice where it is largest is taken, at most 60 images in all.

    Raises
    ------
    SourceMismatch, InvalidResult
    """
    evidence = evidence or check_evidence(result, sources)
    numbering = numbering or number_segments(result)
    shown: dict[Place, list[str]] = {}
    for finding in result.findings:
        if finding.presence is not Presence.ABSENT:
            for place in places_of(finding, evidence, numbering):
                shown.setdefault(place, []).append(finding.tracking_identifier)
    if not shown:
        return None
    kept = sorted(list(shown)[:MAXIMUM_KEY_IMAGES], key=lambda place: place.slice_index)
    names = list(dict.fromkeys(name for place in kept for name in shown[place]))
    left_out = f" {len(shown) - len(kept)} further images are not listed." if len(shown) > len(kept) else ""
    description = f"{provenance.standing(result)} Images that show: {', '.join(names)}.{left_out}"
    images = [evidence.image_of(place.slice_index) for place in kept]
    document = _document(result, profile, evidence, Role.KEY_OBJECTS, OF_INTEREST, images, description, "key images")
    references = [item for item in document.ContentSequence if item.ValueType == "IMAGE"]
    for place, item in zip(kept, references, strict=True):
        if place.frame_number is not None:
            item.ReferencedSOPSequence[0].ReferencedFrameNumber = place.frame_number
    return document


def encode_rejection_note(
    result: Result,
    source: Dataset,
    rejected: Sequence[Predecessor],
    reason: Rejection,
    rejected_at: datetime,
    profile: DestinationProfile = CONSERVATIVE,
    *,
    explanation: str = "",
) -> Dataset:
    """The notice that objects of a Result that were delivered are not valid any more (IHE IOCM).

    Parameters
    ----------
    result : Result
        The one whose objects are retracted.
    source : Dataset
        Header of one of its source images, for patient and study.
    rejected : sequence of Predecessor
        Every object retracted, with series and SOP class.
    reason : Rejection
    rejected_at : datetime
        Aware; the time of content, so that a retry gives the same bytes.
    profile : DestinationProfile
        The one that the objects were rendered with: a note belongs to what one destination got.
    explanation : str
        One sentence for people, without patient data.

    Raises
    ------
    InvalidResult
        Nothing is rejected.
    SourceMismatch
        The source image is not of the study.
    """
    if not rejected:
        raise InvalidResult("a rejection note needs at least one rejected object")
    evidence = study_header(source)
    said = explanation or _EXPLANATIONS[reason]
    objects = [_reference(result, each) for each in rejected]
    note = _document(
        replace(result, created_at=rejected_at),
        profile,
        evidence,
        Role.REJECTION,
        reason.value,
        objects,
        said,
        "retracted",
        part=f"{reason.value.value}:{rejected_at.isoformat()}",
    )
    if reason is Rejection.REPLACED:
        _modify_title(note, OTHER_FAILURE)
    return note


_EXPLANATIONS = {
    Rejection.REPLACED: "These AI results are replaced by a later result of the same algorithm.",
    Rejection.WRONG: "These AI results are not valid and must not be used.",
    Rejection.WRONG_PATIENT: "These AI results were made from images filed under a wrong patient or order.",
    Rejection.EXPIRED: "These AI results are not kept any longer.",
}


def _document(
    result: Result,
    profile: DestinationProfile,
    evidence: Evidence,
    role: Role,
    title: Code,
    referenced: Sequence[Dataset],
    description: str,
    what: str,
    part: str = "",
) -> Dataset:
    content = hd.ko.KeyObjectSelection(
        document_title=title,
        referenced_objects=referenced,
        observer_device_context=device_observer(result.algorithm),
        description=description,
    )
    dataset = hd.ko.KeyObjectSelectionDocument(
        evidence=[_with_patient_and_study(referenced[0], evidence), *referenced[1:]],
        content=content,
        series_instance_uid=uid_for(result, f"{role.value}-series@{profile.name}"),
        series_number=provenance.series_number(result, profile, provenance.SERIES_OFFSETS[role]),
        sop_instance_uid=uid_for(result, f"{role.value}{part and ':'}{part}@{profile.name}"),
        instance_number=1,
        series_description=provenance.series_description(result, what),
        specific_character_set=provenance.character_set(result, evidence, profile),
        **provenance.equipment_arguments(result),
    )
    dataset.copy_patient_and_study_information(evidence.images[0])
    provenance.complete(dataset, result, evidence, profile)
    return dataset


def _with_patient_and_study(referenced: Dataset, evidence: Evidence) -> Dataset:
    """The first evidence, from which highdicom copies; only what is selected may be listed as evidence."""
    first = Dataset()
    identity = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID")
    first.update({element.tag: element for element in evidence.images[0] if element.keyword not in identity})
    for keyword in identity:
        setattr(first, keyword, referenced[keyword].value)
    return first


def _reference(result: Result, rejected: Predecessor) -> Dataset:
    """A retracted object, as far as a reference needs it."""
    item = Dataset()
    item.SOPClassUID, item.SOPInstanceUID = rejected.sop_class_uid, rejected.sop_instance_uid
    item.StudyInstanceUID, item.SeriesInstanceUID = result.study_instance_uid, rejected.series_instance_uid
    return item


def _modify_title(document: Dataset, modifier: Code) -> None:
    """TID 2010 row 2: HAS CONCEPT MOD (113011, DCM), which belongs before all other content items."""
    item = sr.CodeContentItem(
        name=sr.CodedConcept.from_code(DOCUMENT_TITLE_MODIFIER),
        value=modifier,
        relationship_type=sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
    )
    document.add_new("ContentSequence", "SQ", [item, *document.ContentSequence])
