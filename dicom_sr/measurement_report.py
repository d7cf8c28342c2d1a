"""Comprehensive 3D SR of the findings by TID 1500 (Measurement Report), preliminary and unverified.

A finding that a segment shows is written as two measurement groups under one Tracking Unique Identifier: TID
1411 with the reference to the segment and all its measurements, and TID 1410 with its outline in the slice
where it is largest. OHIF merges the two, and opens a report titled 126000 only when every tracked finding has
coordinates. Findings without a place stand in TID 1501 groups of a report with another title, which OHIF
shows as text.
"""

from collections.abc import Sequence

from pydicom.dataset import Dataset

from dicom_sr import provenance
from dicom_sr.errors import InvalidResult
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Finding, Presence, Result
from dicom_sr.impression import draft_impression
from dicom_sr.instance import Kind, refer_to_predecessors
from dicom_sr.measurement_groups import Group, GroupWriter
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role
from dicom_sr.report_document import Content, references_to, write_report
from dicom_sr.segment_numbering import SegmentNumbering, number_segments


def placed_findings(result: Result, numbering: SegmentNumbering) -> tuple[Finding, ...]:
    """Findings with a region or a segment with voxels; a segment that no finding names is one without measurements."""
    named = {finding.segment_number for finding in result.findings}
    unnamed = (segment for segment in numbering.present if segment.number not in named)
    return (
        *(finding for finding in result.findings if _has_place(finding, numbering)),
        *(
            Finding(segment.type, segment.label, segment.number, segment.anatomic_region, segment.laterality)
            for segment in unnamed
        ),
    )


def findings_of(result: Result, numbering: SegmentNumbering, role: Role) -> tuple[Finding, ...]:
    """What a report says: those with a place, or without; a result without any place has one report with all.

    A finding whose segment has no voxel is a remark beside others that are there, unless it says more than its size:
    that it is absent, or how likely it is.
    """
    placed = placed_findings(result, numbering)
    if role is Role.REPORT:
        return placed or result.findings
    if not placed:
        return ()
    return tuple(
        finding
        for finding in result.findings
        if not _has_place(finding, numbering)
        and (finding.segment_number is None or finding.presence is not Presence.PRESENT or finding.likelihood)
    )


def _has_place(finding: Finding, numbering: SegmentNumbering) -> bool:
    return bool(finding.regions) or finding.segment_number in numbering.segment_numbers


def has_report(result: Result, numbering: SegmentNumbering, role: Role) -> bool:
    """Whether there is anything for a report of this role: the main one is always written."""
    if role is Role.REPORT:
        return True
    return bool(findings_of(result, numbering, role) or (placed_findings(result, numbering) and _compared(result)))


def _compared(result: Result) -> tuple[Finding, ...]:
    """Findings with a measurement that an earlier study has too."""
    return tuple(finding for finding in result.findings if any(each.prior is not None for each in finding.measurements))


def encode_measurement_report(
    result: Result,
    sources: Sequence[Dataset],
    segmentations: Sequence[Dataset],
    profile: DestinationProfile = CONSERVATIVE,
    *,
    role: Role = Role.REPORT,
    evidence: Evidence | None = None,
    numbering: SegmentNumbering | None = None,
) -> Dataset:
    """A report of a Result.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        Headers of the source images, in slice order.
    segmentations : sequence of Dataset
        The Segmentations of the same Result, several where segments overlap. Empty where no segment has a voxel, or
        where they are not delivered: then the measurements stand in TID 1501 groups, under the Tracking Unique
        Identifiers of the outlines.
    profile : DestinationProfile
    role : Role
        REPORT, or REPORT_WITHOUT_PLACE for the image-level findings that stand beside others with a place.
    evidence, numbering : optional
        Given by a caller that has them already.

    Raises
    ------
    SourceMismatch, InvalidResult
    """
    evidence = evidence or check_evidence(result, sources)
    numbering = numbering or number_segments(result)
    _check_findings(result)
    findings = findings_of(result, numbering, role)
    writer = GroupWriter(result, sources, profile, evidence, numbering, segmentations)
    with_place = role is Role.REPORT and bool(placed_findings(result, numbering))
    groups: list[Group] = [group for finding in findings for group in writer.groups(finding)]
    if not with_place:  # beside the present ones viewers would not tell them apart
        groups += [group for finding in _compared(result) for group in writer.priors(finding)]
    content = Content(
        title=profile.title_with_place if with_place else profile.title_without_place,
        groups=tuple(groups) or (writer.nothing_found(),),
        # as text, OHIF would print a line of noise for each image
        image_library=tuple(sources) if profile.image_library and with_place else (),
        comments=tuple(_comments(result, numbering)),
        impression=draft_impression(result) if profile.draft_text and role is Role.REPORT else "",
    )
    referenced = [*references_to([*evidence.images, *segmentations]), *result.further_images]
    dataset = write_report(result, evidence, profile, Kind(role, "SR", "report"), content, referenced)
    refer_to_predecessors(dataset, result)
    return dataset


def _check_findings(result: Result) -> None:
    identifiers = [finding.tracking_identifier for finding in result.findings]
    if len(set(identifiers)) < len(identifiers) or not all(identifiers):
        raise InvalidResult("each finding needs a tracking identifier of its own")
    known = {None, *(segment.number for segment in result.segments)}
    unknown = sorted({finding.segment_number for finding in result.findings} - known, key=str)
    if unknown:
        raise InvalidResult(f"findings name segments {unknown} that the result does not describe")


def _comments(result: Result, numbering: SegmentNumbering) -> list[str]:
    """What a reader has to know beside the findings, as sentences."""
    comments = [f"{provenance.NOT_FOR_CLINICAL_USE}."] if result.not_for_clinical_use else []
    comments.append("Result of an AI algorithm, not verified by a physician.")
    comments += [result.algorithm.intended_use] if result.algorithm.intended_use else []
    comments += [f"No voxel found of: {segment.label}; it is not in the segmentation." for segment in numbering.absent]
    comments += provenance.alarms(result)
    if result.text:
        algorithm = result.algorithm
        comments.append(f"Text written by the algorithm {algorithm.name} {algorithm.version}: {result.text}")
    return [*comments, *result.remarks]
