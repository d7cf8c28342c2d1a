"""Encapsulated PDF (PS3.3 A.45.1) of a Result: one page with patient, findings, key images, and what made it."""

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import PersonName

from dicom_sr import codes, provenance
from dicom_sr.displayed import displayed_frame
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Finding, Presence, Result
from dicom_sr.impression import comparison, draft_impression, english_phrases, likelihood_words, number
from dicom_sr.instance import Kind, code_item, new_instance, reference
from dicom_sr.outline import outline_points
from dicom_sr.page import UNPRINTABLE, Page, Picture, draw_page
from dicom_sr.places import Place, places_of
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role
from dicom_sr.regions import draw
from dicom_sr.segment_numbering import SegmentNumbering, number_segments
from dicom_sr.source_frames import pixel_spacing_mm

SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.104.1"
KIND = Kind(Role.DOCUMENT, "DOC", "page")
MOST_PICTURES = 3
REGION_RGB = (255, 190, 60)
COLUMNS = ("Finding", "Where", "Is it there", "Measured")
WORDS = {Presence.PRESENT: "present", Presence.ABSENT: "not found", Presence.INDETERMINATE: "not certain"}


def encode_document(
    result: Result,
    sources: Sequence[Dataset],
    profile: DestinationProfile = CONSERVATIVE,
    *,
    evidence: Evidence | None = None,
    numbering: SegmentNumbering | None = None,
) -> Dataset:
    """The page as a DICOM object.

    Parameters
    ----------
    sources : sequence of Dataset
        With their pixel data, if the page is to have pictures.

    Raises
    ------
    SourceMismatch, InvalidResult
    """
    evidence = evidence or check_evidence(result, sources)
    numbering = numbering or number_segments(result)
    content = draw_page(_page(result, sources, evidence, numbering))
    dataset = new_instance(result, evidence, profile, KIND, SOP_CLASS_UID)
    moment = provenance.content_moment(result, evidence)
    dataset.ConversionType = "WSD"
    dataset.ContentDate, dataset.ContentTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    dataset.AcquisitionDateTime = ""
    dataset.BurnedInAnnotation = "YES"
    dataset.SourceInstanceSequence = [reference(image) for image in evidence.images]
    dataset.DocumentTitle = _title(result)
    dataset.ConceptNameCodeSequence = [code_item(codes.DIAGNOSTIC_IMAGING_REPORT)]
    dataset.VerificationFlag = "UNVERIFIED"
    dataset.MIMETypeOfEncapsulatedDocument = "application/pdf"
    dataset.EncapsulatedDocumentLength = len(content)
    dataset.EncapsulatedDocument = content + b"\0" * (len(content) % 2)
    return dataset


def _title(result: Result) -> str:
    return f"AI result: {result.algorithm.name} {result.algorithm.version}"


def _page(result: Result, sources: Sequence[Dataset], evidence: Evidence, numbering: SegmentNumbering) -> Page:
    shown = [finding for finding in result.findings if _is_told(finding, numbering)]
    paragraphs = [f"Remark: {remark}" for remark in result.remarks]
    paragraphs += [f"Text written by the algorithm: {result.text}"] if result.text else []
    return Page(
        title=_title(result),
        warning=" ".join(
            [
                provenance.standing(result),
                *provenance.alarms(result),
                *([] if shown else ["The algorithm reports no finding."]),
            ]
        ),
        banner=_banner(sources[0], evidence),
        columns=COLUMNS,
        rows=tuple(_row(finding) for finding in shown),
        paragraphs=(*draft_impression(result).splitlines(), *paragraphs),
        pictures=_pictures(result, sources, evidence, numbering),
        footer=_footer(result),
    )


def _is_told(finding: Finding, numbering: SegmentNumbering) -> bool:
    absent = {segment.number for segment in numbering.absent}
    return finding.segment_number not in absent or finding.presence is not Presence.PRESENT


def _banner(source: Dataset, evidence: Evidence) -> tuple[tuple[str, str], ...]:
    """Patient and study as the source has them; what it lacks stays empty."""
    first = evidence.images[0]
    return (
        ("Patient", _name(evidence.patient_name)),
        ("Patient ID", str(first.get("PatientID") or "")),
        ("Born", _date(first.get("PatientBirthDate"))),
        ("Sex", str(first.get("PatientSex") or "")),
        ("Study", str(source.get("StudyDescription") or "")),
        ("Study date", _date(first.get("StudyDate"))),
        ("Accession", str(first.get("AccessionNumber") or "")),
        ("Modality", str(first.get("Modality") or "")),
    )


def _name(name: PersonName | str) -> str:
    """The alphabetic part of a person's name, family name first."""
    person = PersonName(str(name)) if name else PersonName("")
    parts = [part for part in (person.family_name, person.given_name, person.middle_name) if part]
    shown = ", ".join([parts[0], " ".join(parts[1:])]) if len(parts) > 1 else "".join(parts)
    return shown or (UNPRINTABLE if str(name).strip("^= ") else "")


def _date(value: object) -> str:
    text = str(value or "")
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) == 8 and text.isdigit() else text


def _row(finding: Finding) -> tuple[str, ...]:
    side = finding.laterality.meaning if finding.laterality else ""
    site = finding.finding_site.meaning if finding.finding_site else ""
    there = WORDS[finding.presence]
    if finding.likelihood is not None:
        there += f": {likelihood_words(finding.likelihood)}"
    phrases = english_phrases()
    measured = [number(each) for each in finding.measurements]
    measured += [f"{each.concept.meaning}: {each.value.meaning}" for each in finding.qualifiers]
    measured += [text for text in (comparison(each, phrases) for each in finding.measurements) if text]
    name = finding.finding.meaning
    label = name if finding.tracking_identifier == name else f"{finding.tracking_identifier} ({name})"
    return label, f"{side} {site.lower()}".strip(), there, "; ".join(measured)


def _pictures(
    result: Result, sources: Sequence[Dataset], evidence: Evidence, numbering: SegmentNumbering
) -> tuple[Picture, ...]:
    """The first images that show findings, each with what lies on it."""
    shown: dict[Place, list[Finding]] = {}
    for finding in sorted(result.findings, key=lambda each: not each.is_alarm):
        if finding.presence is not Presence.ABSENT:
            for place in places_of(finding, evidence, numbering):
                shown.setdefault(place, []).append(finding)
    by_uid = {str(source.SOPInstanceUID): source for source in sources}
    pictures = []
    for place, findings in list(shown.items())[:MOST_PICTURES]:
        source = by_uid[place.sop_instance_uid]
        grey = displayed_frame(source, place.frame_number)
        if grey is None:
            continue
        spacing_mm = pixel_spacing_mm(source, place.frame_number) or (1.0, 1.0)
        aspect = spacing_mm[0] / spacing_mm[1] if min(spacing_mm) > 0 else 1.0
        outlines = tuple(
            line for finding in findings for line in _outlines(finding, place, result, evidence, numbering)
        )
        names = ", ".join(finding.tracking_identifier for finding in findings)
        pictures.append(Picture(grey, aspect, outlines, f"Image {place.slice_index + 1}: {names}"))
    return tuple(pictures)


def _outlines(
    finding: Finding, place: Place, result: Result, evidence: Evidence, numbering: SegmentNumbering
) -> list[tuple[np.ndarray, tuple[int, int, int]]]:
    found = []
    segment = numbering.place_of.get(finding.segment_number or 0)
    if segment is not None:
        mask = result.label_maps[segment.label_map][place.slice_index] == finding.segment_number
        if mask.any():
            found.append((outline_points(mask), segment.segment.rgb))
    for region in finding.regions:
        drawn = draw(region, evidence)
        if drawn.slice_index == place.slice_index and len(drawn.points) > 1:
            found.append((drawn.points, REGION_RGB))
    return found


def _footer(result: Result) -> tuple[str, ...]:
    """The model card line."""
    algorithm = result.algorithm
    use = f" Intended use: {algorithm.intended_use}" if algorithm.intended_use else ""
    return (
        f"{algorithm.name} {algorithm.version} by {algorithm.manufacturer} ({algorithm.identifier}, "
        f"{algorithm.digest[:12]}).{use} Written by {result.equipment.manufacturer_model_name} "
        f"{', '.join(result.equipment.software_versions)} at {result.created_at.isoformat(timespec='seconds')}, "
        f"revision {result.revision}.",
    )
