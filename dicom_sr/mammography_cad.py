"""Mammography CAD SR (TID 4000): findings on each view, composite features of a lesion over views, breast composition.

What it can say is limited by its code lists (CID 6014, 6016): a result with any other finding, there or absent, gets no
such report, and is told by TID 1500: what was done would not be what it says.
"""

from collections.abc import Sequence
from datetime import date

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr import cad_tree as tree
from dicom_sr import codes
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Finding, Presence, Result
from dicom_sr.image_descriptors import IMAGE_LATERALITY, IMAGE_VIEW, orientation_of
from dicom_sr.instance import Kind
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role

SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.88.50"
KIND = Kind(Role.MAMMOGRAPHY_CAD, "SR", "CAD")
TITLE = codes.concept("111036", "DCM", "Mammography CAD Report")

BREAST_COMPOSITION = codes.concept("129715009", "SCT", "Breast composition")
CALCIFICATION_CLUSTER = codes.concept("129769006", "SCT", "Calcification Cluster")
BREAST_DENSITY = codes.concept("129793001", "SCT", "Mammography breast density")
BREAST_MASS = codes.concept("129788004", "SCT", "Mammographic breast mass")
SINGLE_IMAGE_FINDINGS = {
    BREAST_DENSITY.value: BREAST_DENSITY,
    CALCIFICATION_CLUSTER.value: CALCIFICATION_CLUSTER,
    BREAST_COMPOSITION.value: BREAST_COMPOSITION,
    "129770007": codes.concept("129770007", "SCT", "Individual Calcification"),
    "129792006": codes.concept("129792006", "SCT", "Architectural distortion of breast"),
    "443808008": codes.concept("443808008", "SCT", "Intramammary lymph node"),
    "129794007": codes.concept("129794007", "SCT", "Tubular density"),
}
"""CID 6014, as far as algorithms report it. A mass is a density there (CID 6014) and a breast mass over views."""
AS_DENSITY = ("4147007", BREAST_MASS.value)
"""(4147007, SCT, Mass) and (129788004, SCT, Mammographic breast mass): a density on one image, a mass over views."""

SIDES = {
    "L": codes.concept("80248007", "SCT", "Left breast"),
    "R": codes.concept("73056007", "SCT", "Right breast"),
    "B": codes.concept("63762007", "SCT", "Both breasts"),
}
"""Image Laterality -> CID 6022."""
VIEWS = {
    "CC": codes.concept("399162004", "SCT", "cranio-caudal"),
    "MLO": codes.concept("399368009", "SCT", "medio-lateral oblique"),
    "ML": codes.concept("399260004", "SCT", "medial-lateral"),
    "LM": codes.concept("399352003", "SCT", "latero-medial"),
    "XCCL": codes.concept("399192008", "SCT", "cranio-caudal exaggerated laterally"),
    "XCCM": codes.concept("399101009", "SCT", "cranio-caudal exaggerated medially"),
}
"""View Position -> CID 4014, where View Code Sequence is missing."""

IMPRESSION = codes.concept("111034", "DCM", "Individual Impression/Recommendation")
COMPOSITE_FEATURE = codes.concept("111015", "DCM", "Composite Feature")
COMPOSITE_TYPE = codes.concept("111016", "DCM", "Composite type")
SPATIAL = codes.concept("111154", "DCM", "Target content items are related spatially")
SCOPE_OF_FEATURE = codes.concept("111057", "DCM", "Scope of Feature")
ON_MULTIPLE_IMAGES = codes.concept("111157", "DCM", "Feature detected on images from multiple views")
CERTAINTY_OF_FEATURE = codes.concept("111011", "DCM", "Certainty of Feature")
STUDY_DATE = codes.concept("111060", "DCM", "Study Date")
ROW_SPACING = codes.concept("111026", "DCM", "Horizontal Pixel Spacing")
COLUMN_SPACING = codes.concept("111066", "DCM", "Vertical Pixel Spacing")
MICROMETERS = codes.unit("um", "um")
NUMBER_OF_CALCIFICATIONS = "111038"
PROPERTIES_OF_CALCIFICATIONS = ("111009", "111008", NUMBER_OF_CALCIFICATIONS)
PROPERTIES_OF_DENSITIES = ("111035", "107644003", "111037")
BREAST_COMPOSITION_ANALYSIS = codes.concept("133890006", "SCT", "Breast composition analysis")


def encode_mammography_cad(
    result: Result,
    sources: Sequence[Dataset],
    profile: DestinationProfile = CONSERVATIVE,
    *,
    evidence: Evidence | None = None,
) -> Dataset | None:
    """The CAD report of a result on mammograms; None where it is none, holds a finding that this SOP class has no code
    for, or none that says what was looked for.

    Raises
    ------
    SourceMismatch, InvalidResult
    """
    if {str(source.get("Modality", "")) for source in sources} != {"MG"}:
        return None
    looked_for = [_code_of(finding) for finding in result.findings]
    findings = [_Said.of(finding) for finding in result.findings if finding.presence is not Presence.ABSENT]
    if not looked_for or any(each is None for each in (*looked_for, *findings)):
        return None
    evidence = evidence or check_evidence(result, sources)
    said = [each for each in findings if each is not None]
    placed = [each for each in said if each.is_composition or tree.marks_of(each.finding, evidence)]
    if len(placed) < len(said):
        return None
    builder = _Builder(result, evidence)
    detected = dict.fromkeys(code for code in looked_for if code is not None and code != BREAST_COMPOSITION)
    composition = (
        [BREAST_COMPOSITION_ANALYSIS] if any(code == BREAST_COMPOSITION for code in looked_for if code) else []
    )
    children = [
        tree.library(evidence, [_described(source) for source in sources]),
        builder.findings(placed),
        tree.summary(
            tree.SUMMARY_OF_DETECTIONS,
            tree.SUCCESSFUL_DETECTIONS,
            tree.DETECTION_PERFORMED,
            list(detected),
            result,
            builder.paths,
        ),
        tree.summary(
            tree.SUMMARY_OF_ANALYSES,
            tree.SUCCESSFUL_ANALYSES,
            tree.ANALYSIS_PERFORMED,
            composition,
            result,
            builder.paths,
        ),
    ]
    return tree.document(result, evidence, profile, KIND, SOP_CLASS_UID, TITLE, "4000", children)


def _code_of(finding: Finding) -> Code | None:
    """The code by which this SOP class knows what a finding is."""
    value = finding.finding.value
    return BREAST_DENSITY if value in AS_DENSITY else SINGLE_IMAGE_FINDINGS.get(value)


class _Said:
    """A finding with the code by which this SOP class knows it."""

    def __init__(self, finding: Finding, code: Code) -> None:
        self.finding, self.code = finding, code

    @classmethod
    def of(cls, finding: Finding) -> "_Said | None":
        """The finding, or None if there is no code for it."""
        known = _code_of(finding)
        if known is None or (known == CALCIFICATION_CLUSTER and not _properties(cls(finding, known))):
            return None  # TID 4010: of a cluster its type, distribution or number must be known
        return cls(finding, known)

    @property
    def is_composition(self) -> bool:
        return self.code == BREAST_COMPOSITION


class _Builder:
    """Writes the findings; knows where everything stands, for references."""

    def __init__(self, result: Result, evidence: Evidence) -> None:
        self.result, self.evidence = result, evidence
        self.paths = [(1, 2, place) for place in range(1, len(evidence.images) + 1)]

    def findings(self, said: Sequence[_Said]) -> Dataset:
        """(111017, DCM) with one impression that holds everything (TID 4001, 4002)."""
        if not said:
            return tree.code(tree.CONTAINS, tree.SUMMARY_OF_FINDINGS, tree.WITHOUT_FINDINGS)
        children: list[Dataset] = [tree.rendering_intent([each.finding for each in said])]
        for each in said:
            first = len(children) + 1
            marks = tree.marks_of(each.finding, self.evidence)
            if each.is_composition:
                children.append(self._composition(each.finding))
                continue
            children += [self._single(each, mark) for mark in marks]
            if len(marks) > 1:
                children.append(self._composite(each, range(first, first + len(marks))))
        impression = tree.container(tree.INFERRED, IMPRESSION, children)
        return tree.code(tree.CONTAINS, tree.SUMMARY_OF_FINDINGS, tree.WITH_FINDINGS, [impression])

    def _single(self, said: _Said, mark: tree.Mark) -> Dataset:
        """TID 4006: one finding on one image."""
        finding = said.finding
        children = [
            tree.rendering_intent([finding]),
            *tree.tracking(self.result, finding),
            *tree.algorithm(self.result),
            *tree.likelihood(finding),
            *tree.marked(mark, self.paths[mark.image]),
            *_properties(said),
        ]
        return tree.code(tree.CONTAINS, tree.SINGLE_IMAGE_FINDING, said.code, children)

    def _composite(self, said: _Said, places: range) -> Dataset:
        """TID 4004: the same lesion on several views, from the single findings that stand before it."""
        finding = said.finding
        children = [
            tree.rendering_intent([finding]),
            tree.code(tree.PROPERTIES, COMPOSITE_TYPE, SPATIAL),
            tree.code(tree.PROPERTIES, SCOPE_OF_FEATURE, ON_MULTIPLE_IMAGES),
            *tree.algorithm(self.result),
        ]
        if finding.likelihood is not None:
            score = 100 * finding.likelihood.value
            children.append(tree.number(tree.PROPERTIES, CERTAINTY_OF_FEATURE, score, codes.PERCENT))
        children += [tree.by_reference(tree.INFERRED, (1, 3, 1, place)) for place in places]
        code = BREAST_MASS if finding.finding.value in AS_DENSITY else said.code
        return tree.code(tree.CONTAINS, COMPOSITE_FEATURE, code, children)

    def _composition(self, finding: Finding) -> Dataset:
        """TID 4007: breast composition, in the middle of the first image that it is about."""
        images = [str(image.SOPInstanceUID) for image in self.evidence.images]
        about = next((images.index(each) for each in finding.images if each in images), 0)
        image = self.evidence.images[about]
        center = (float(image.Columns) / 2, float(image.Rows) / 2)
        children = [
            tree.rendering_intent([finding]),
            *tree.tracking(self.result, finding),
            *tree.algorithm(self.result),
            *tree.likelihood(finding),
            *tree.marked(tree.Mark(about, center, None), self.paths[about]),
        ]
        for qualifier in finding.qualifiers:
            children.append(tree.code(tree.PROPERTIES, codes.check(qualifier.concept), qualifier.value))
        for each in finding.measurements:
            children.append(tree.number(tree.PROPERTIES, each.concept, each.value, each.unit))
        return tree.code(tree.CONTAINS, tree.SINGLE_IMAGE_FINDING, BREAST_COMPOSITION, children)


def _properties(said: _Said) -> list[Dataset]:
    """What the code list of a finding allows to be said of it (TID 4010, 4011); other numbers stay in TID 1500."""
    allowed = PROPERTIES_OF_CALCIFICATIONS if said.code == CALCIFICATION_CLUSTER else PROPERTIES_OF_DENSITIES
    finding = said.finding
    found = [
        tree.code(tree.PROPERTIES, codes.check(each.concept), each.value)
        for each in finding.qualifiers
        if each.concept.value in allowed
    ]
    return found + [
        tree.number(tree.PROPERTIES, each.concept, each.value, each.unit)
        for each in finding.measurements
        if each.concept.value in allowed
    ]


def _described(source: Dataset) -> list[Dataset]:
    """What the library says of an image, as far as the image says it (TID 4020)."""
    found = []
    side = SIDES.get(str(source.get("ImageLaterality") or source.get("Laterality") or ""))
    if side is not None:
        found.append(tree.code(tree.ACQUISITION, IMAGE_LATERALITY, side))
    view = _view(source)
    if view is not None:
        found.append(tree.code(tree.ACQUISITION, IMAGE_VIEW, view))
    found += [tree.text(tree.ACQUISITION, name, value) for name, value in orientation_of(source)]
    study_date = str(source.get("StudyDate") or "")
    if len(study_date) == 8 and _is_date(study_date):
        dated = tree.item("DATE", tree.ACQUISITION, STUDY_DATE)
        dated.Date = study_date
        found.append(dated)
    spacing = source.get("ImagerPixelSpacing") or source.get("PixelSpacing") or ()
    if len(spacing) == 2 and min(float(value) for value in spacing) > 0:
        row_mm, column_mm = (float(value) for value in spacing)
        found.append(tree.number(tree.ACQUISITION, ROW_SPACING, 1000 * column_mm, MICROMETERS))
        found.append(tree.number(tree.ACQUISITION, COLUMN_SPACING, 1000 * row_mm, MICROMETERS))
    return found


def _view(source: Dataset) -> Code | None:
    """The view by its code, if it is one of CID 4014, else by View Position."""
    known = {code.value: code for code in VIEWS.values()}
    for item in source.get("ViewCodeSequence") or ():
        if item.get("CodeValue") in known:
            return known[item.CodeValue]
    return VIEWS.get(str(source.get("ViewPosition", "")))


def _is_date(value: str) -> bool:
    try:
        date(int(value[:4]), int(value[4:6]), int(value[6:]))
    except ValueError:
        return False
    return True
