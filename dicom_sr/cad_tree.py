"""What Mammography and Chest CAD SR have in common (TID 4000, TID 4100): documents, content items, summaries.

Plain data sets: highdicom has neither the templates nor content items by reference. A reference names its target by the
path of places from the root (1), each from 1 (PS3.3 C.17.3.2.5).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.valuerep import DSfloat

from dicom_sr import arithmetic, codes
from dicom_sr.errors import InvalidResult
from dicom_sr.evidence import Evidence
from dicom_sr.findings import Finding, PlanarRegion, PlanarShape, Presence, Result
from dicom_sr.identity import tracking_uid
from dicom_sr.instance import Kind, code_item, new_instance, refer_to_predecessors, reference
from dicom_sr.profile import DestinationProfile
from dicom_sr.provenance import content_moment

CONTAINS, PROPERTIES, CONTEXT = "CONTAINS", "HAS PROPERTIES", "HAS OBS CONTEXT"
ACQUISITION, MODIFIER, INFERRED, SELECTED = "HAS ACQ CONTEXT", "HAS CONCEPT MOD", "INFERRED FROM", "SELECTED FROM"


def _dcm(value: str, meaning: str) -> Code:
    return codes.concept(value, "DCM", meaning)


SINGLE_IMAGE_FINDING = _dcm("111059", "Single Image Finding")
SUMMARY_OF_FINDINGS = _dcm("111017", "CAD Processing and Findings Summary")
WITH_FINDINGS = _dcm("111242", "All algorithms succeeded; with findings")
WITHOUT_FINDINGS = _dcm("111241", "All algorithms succeeded; without findings")
SUMMARY_OF_DETECTIONS = _dcm("111064", "Summary of Detections")
SUMMARY_OF_ANALYSES = _dcm("111065", "Summary of Analyses")
SUCCEEDED = _dcm("111222", "Succeeded")
NOT_ATTEMPTED = _dcm("111225", "Not Attempted")
SUCCESSFUL_DETECTIONS = _dcm("111063", "Successful Detections")
SUCCESSFUL_ANALYSES = _dcm("111062", "Successful Analyses")
DETECTION_PERFORMED = _dcm("111022", "Detection Performed")
ANALYSIS_PERFORMED = _dcm("111004", "Analysis Performed")
ALGORITHM_NAME, ALGORITHM_VERSION = _dcm("111001", "Algorithm Name"), _dcm("111003", "Algorithm Version")
CERTAINTY_OF_FINDING = _dcm("111012", "Certainty of Finding")
CENTER, OUTLINE = _dcm("111010", "Center"), _dcm("111041", "Outline")
TRACKING_IDENTIFIER = _dcm("112039", "Tracking Identifier")
TRACKING_UNIQUE_IDENTIFIER = _dcm("112040", "Tracking Unique Identifier")
RENDERING_INTENT = _dcm("111056", "Rendering Intent")
PRESENTATION_OPTIONAL = _dcm("111151", "Presentation Optional: Rendering device may present")
NOT_FOR_PRESENTATION = _dcm("111152", "Not for Presentation: Rendering device expected not to present")
LANGUAGE = _dcm("121049", "Language of Content Item and Descendants")
ENGLISH = codes.concept("en", "RFC5646", "English")
IMAGE_LIBRARY = _dcm("111028", "Image Library")


@dataclass(frozen=True)
class Mark:
    """Where a finding is on one image.

    Parameters
    ----------
    image : int
        Index into the images of the Evidence.
    center : tuple of float
        (column, row).
    outline : ndarray of float, shape (n, 2), optional
    """

    image: int
    center: tuple[float, float]
    outline: np.ndarray | None


def item(value_type: str, relationship: str | None, name: Code | None, children: Sequence[Dataset] = ()) -> Dataset:
    """A content item without its value (PS3.3 C.17.3)."""
    made = Dataset()
    if relationship is not None:
        made.RelationshipType = relationship
    made.ValueType = value_type
    if name is not None:
        made.ConceptNameCodeSequence = [code_item(name)]
    if children:
        made.ContentSequence = list(children)
    return made


def code(relationship: str, name: Code, value: Code, children: Sequence[Dataset] = ()) -> Dataset:
    """A CODE item."""
    made = item("CODE", relationship, name, children)
    made.ConceptCodeSequence = [code_item(codes.check(value))]
    return made


def text(relationship: str, name: Code, value: str) -> Dataset:
    """A TEXT item."""
    made = item("TEXT", relationship, name)
    made.TextValue = value
    return made


def uid(relationship: str, name: Code, value: str) -> Dataset:
    """A UIDREF item."""
    made = item("UIDREF", relationship, name)
    made.UID = value
    return made


def number(relationship: str, name: Code, value: float, unit: Code) -> Dataset:
    """A NUM item, of ten digits at most (PS3.5 6.2, DS)."""
    if not np.isfinite(value):
        raise InvalidResult(f"measurement {name.value}: {value} is no number")
    made = item("NUM", relationship, codes.check(name))
    measured = Dataset()
    measured.NumericValue = DSfloat(float(f"{value:.9g}"), auto_format=True)
    measured.MeasurementUnitsCodeSequence = [code_item(codes.check(unit))]
    made.MeasuredValueSequence = [measured]
    return made


def container(relationship: str | None, name: Code, children: Sequence[Dataset]) -> Dataset:
    """A CONTAINER item."""
    made = item("CONTAINER", relationship, name, children)
    made.ContinuityOfContent = "SEPARATE"
    return made


def by_reference(relationship: str, path: Sequence[int]) -> Dataset:
    """A reference to another item of the document."""
    made = Dataset()
    made.RelationshipType = relationship
    made.ReferencedContentItemIdentifier = list(path)
    return made


def library(evidence: Evidence, described: Sequence[Sequence[Dataset]]) -> Dataset:
    """(111028, DCM, Image Library): every image, with what is said of each."""
    images = []
    for image, children in zip(evidence.images, described, strict=True):
        made = item("IMAGE", CONTAINS, None, children)
        made.ReferencedSOPSequence = [reference(image)]
        images.append(made)
    return container(CONTAINS, IMAGE_LIBRARY, images)


def coordinates(name: Code, graphic_type: str, points: np.ndarray, path: Sequence[int]) -> Dataset:
    """An SCOORD on the image of the library at this path."""
    made = item("SCOORD", PROPERTIES, name, [by_reference(SELECTED, path)])
    made.GraphicData = [float(value) for value in np.asarray(points, float).ravel()]
    made.GraphicType = graphic_type
    return made


def marked(mark: Mark, path: Sequence[int]) -> list[Dataset]:
    """Center, and outline if there is one."""
    found = [coordinates(CENTER, "POINT", np.array([mark.center]), path)]
    if mark.outline is not None:
        found.append(coordinates(OUTLINE, "POLYLINE", mark.outline, path))
    return found


def marks_of(finding: Finding, evidence: Evidence) -> list[Mark]:
    """The regions of a finding in images, one for each image that has one."""
    found: dict[int, Mark] = {}
    places = {str(image.SOPInstanceUID): index for index, image in enumerate(evidence.images)}
    for region in finding.regions:
        if isinstance(region, PlanarRegion) and region.sop_instance_uid in places:
            mark = _mark(places[region.sop_instance_uid], region)
            found.setdefault(mark.image, mark)
    return list(found.values())


def _mark(image: int, region: PlanarRegion) -> Mark:
    points = np.array(region.points, float)
    if region.shape is PlanarShape.POLYLINE and len(points) > 2:
        corners = points[:-1] if np.array_equal(points[0], points[-1]) else points
        column, row = (float(value) for value in corners.mean(axis=0))
        closed = points if np.array_equal(points[0], points[-1]) else np.vstack([points, points[:1]])
        return Mark(image, (column, row), closed)
    if region.shape is PlanarShape.CIRCLE:
        radius = float(arithmetic.lengths(points[1] - points[0]))
        outline = points[0] + radius * arithmetic.circle(32)
        return Mark(image, (float(points[0, 0]), float(points[0, 1])), outline)
    column, row = (float(value) for value in points.mean(axis=0))
    return Mark(image, (column, row), None)


def algorithm(result: Result, relationship: str = PROPERTIES) -> list[Dataset]:
    """Name and version of the algorithm (TID 4019)."""
    return [
        text(relationship, ALGORITHM_NAME, result.algorithm.name),
        text(relationship, ALGORITHM_VERSION, result.algorithm.version),
    ]


def rendering_intent(findings: Sequence[Finding]) -> Dataset:
    """What we find may be shown, and nothing of it must be. A mark upon which doubt rests is not to be shown as if it
    were any other: these templates have no item for doubt, only for whether a mark is to be shown (CID 6034).
    """
    doubtful = all(finding.presence is Presence.INDETERMINATE for finding in findings)
    return code(MODIFIER, RENDERING_INTENT, NOT_FOR_PRESENTATION if doubtful else PRESENTATION_OPTIONAL)


def tracking(result: Result, finding: Finding) -> list[Dataset]:
    """The same tracking as in every other object of the Result."""
    identifier = finding.tracking_identifier
    return [
        text(CONTEXT, TRACKING_IDENTIFIER, identifier),
        uid(CONTEXT, TRACKING_UNIQUE_IDENTIFIER, tracking_uid(result, identifier)),
    ]


def likelihood(finding: Finding) -> list[Dataset]:
    """The score as what it is a score of, in per cent: a certainty of the finding, or a probability of cancer."""
    score = finding.likelihood
    if score is None:
        return []
    if not 0 <= score.value <= 1:
        raise InvalidResult(f"a likelihood of {score.value}, expected 0 to 1")
    return [number(PROPERTIES, score.meaning, 100 * score.value, codes.PERCENT)]


def are_present(findings: Sequence[Finding]) -> bool:
    """Whether any of them is there, or not certain to be absent."""
    return any(finding.presence is not Presence.ABSENT for finding in findings)


def summary(
    relationship_name: Code,
    container_name: Code,
    performed_name: Code,
    performed: Sequence[Code],
    result: Result,
    paths: Sequence[Sequence[int]],
) -> Dataset:
    """Summary of Detections (TID 4015) or of Analyses (TID 4016): what was done, by what, on which images."""
    if not performed:
        return code(CONTAINS, relationship_name, NOT_ATTEMPTED)
    done = [
        code(
            CONTAINS,
            performed_name,
            value,
            [*algorithm(result), *(by_reference(PROPERTIES, path) for path in paths)],
        )
        for value in performed
    ]
    return code(CONTAINS, relationship_name, SUCCEEDED, [container(INFERRED, container_name, done)])


def document(
    result: Result,
    evidence: Evidence,
    profile: DestinationProfile,
    kind: Kind,
    sop_class_uid: str,
    title: Code,
    template: str,
    children: Sequence[Dataset],
) -> Dataset:
    """The report with its root (PS3.3 A.35): unverified, all images as evidence."""
    dataset = new_instance(result, evidence, profile, kind, sop_class_uid)
    moment = content_moment(result, evidence)
    dataset.ContentDate, dataset.ContentTime = moment.strftime("%Y%m%d"), moment.strftime("%H%M%S.%f")
    dataset.CompletionFlag, dataset.VerificationFlag = "COMPLETE", "UNVERIFIED"
    dataset.PreliminaryFlag = "PRELIMINARY"
    dataset.ReferencedPerformedProcedureStepSequence = []
    dataset.PerformedProcedureCodeSequence = []
    series: dict[str, list[Dataset]] = {}
    for image in evidence.images:
        series.setdefault(str(image.SeriesInstanceUID), []).append(reference(image))
    study = Dataset()
    study.StudyInstanceUID, study.ReferencedSeriesSequence = result.study_instance_uid, []
    for series_uid, images in series.items():
        entry = Dataset()
        entry.SeriesInstanceUID, entry.ReferencedSOPSequence = series_uid, images
        study.ReferencedSeriesSequence.append(entry)
    dataset.CurrentRequestedProcedureEvidenceSequence = [study]
    refer_to_predecessors(dataset, result)
    dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
    dataset.ConceptNameCodeSequence = [code_item(title)]
    template_item = Dataset()
    template_item.MappingResource, template_item.TemplateIdentifier = "DCMR", template
    dataset.ContentTemplateSequence = [template_item]
    dataset.ContentSequence = [code(MODIFIER, LANGUAGE, ENGLISH), *children]
    return dataset


def says_everything(reports: Sequence[Dataset], result: Result) -> bool:
    """Whether these CAD reports leave nothing of a result out. Doubt, words and remarks have no place in them, nor has
    how likely it is that something absent is there, a second place on one image, or what is known about a number.
    """
    if result.text or result.remarks:
        return False
    written = {values for report in reports for values in _said(report)}
    return all(_is_said(finding, written) for finding in result.findings)


def _said(item: Dataset) -> Iterator[tuple[str, str]]:
    """(code value of the name, code value) of CODE items, and (name, "") of NUM items, at any depth."""
    value_type = item.get("ValueType")
    if value_type in ("CODE", "NUM") and "ConceptNameCodeSequence" in item:
        value = str(item.ConceptCodeSequence[0].CodeValue) if value_type == "CODE" else ""
        yield str(item.ConceptNameCodeSequence[0].CodeValue), value
    for child in item.get("ContentSequence") or ():
        yield from _said(child)


def _is_said(finding: Finding, written: Collection[tuple[str, str]]) -> bool:
    places = [region.sop_instance_uid for region in finding.regions if isinstance(region, PlanarRegion)]
    return (
        finding.presence is not Presence.INDETERMINATE
        and not (finding.presence is Presence.ABSENT and finding.likelihood)
        and not finding.is_alarm
        and len(places) == len(set(places)) == len(finding.regions)
        and all((each.concept.value, each.value.value) in written for each in finding.qualifiers)
        and all(
            (each.concept.value, "") in written
            and not (each.prior or each.normality or each.normal_range or each.uncertainty)
            for each in finding.measurements
        )
    )
