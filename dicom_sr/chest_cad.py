"""Chest CAD SR (TID 4100): findings on chest images, for workstations that know it.

What it can say is limited by its code lists (CID 6101, 6102): a result with any other finding, there or absent, gets no
such report, and is told by TID 1500: what was done would not be what it says.
"""

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr import cad_tree as tree
from dicom_sr import codes
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Finding, Presence, Result
from dicom_sr.instance import Kind
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role

SOP_CLASS_UID = "1.2.840.10008.5.1.4.1.1.88.65"
KIND = Kind(Role.CHEST_CAD, "SR", "CAD")
TITLE = codes.concept("112000", "DCM", "Chest CAD Report")
FINDING_MODIFIER = codes.concept("112024", "DCM", "Single Image Finding Modifier")
MODALITIES = ("CR", "DX", "CT")

OPACITY = codes.concept("112033", "DCM", "Abnormal opacity")
LUCENCY = codes.concept("112062", "DCM", "Abnormal lucency")
CALCIFICATIONS = codes.concept("112063", "DCM", "Abnormal calcifications")
TEXTURE = codes.concept("112064", "DCM", "Abnormal texture")
NON_LESION = codes.concept("111102", "DCM", "Non-lesion")

KNOWN: dict[str, tuple[Code, Code | None]] = {
    each.value: (group, each if each.value != group.value else None)
    for group, members in (
        (
            OPACITY,
            (
                OPACITY,
                codes.concept("27925004", "SCT", "Nodule"),
                codes.concept("4147007", "SCT", "Mass"),
                codes.concept("308689002", "SCT", "Coin lesion"),
                codes.concept("40779009", "SCT", "Plate-like atelectasis"),
                codes.concept("112001", "DCM", "Opacity"),
                codes.concept("112118", "DCM", "Density"),
                codes.concept("112120", "DCM", "Ground glass opacity"),
                codes.concept("112121", "DCM", "Infiltrate"),
                codes.concept("112122", "DCM", "Micronodule"),
            ),
        ),
        (
            LUCENCY,
            (
                LUCENCY,
                codes.concept("112084", "DCM", "Lucency"),
                codes.concept("36118008", "SCT", "Pneumothorax"),
                codes.concept("16838000", "SCT", "Pneumomediastinum"),
            ),
        ),
        (CALCIFICATIONS, (CALCIFICATIONS,)),
        (
            TEXTURE,
            (
                TEXTURE,
                codes.concept("112065", "DCM", "Reticulonodular pattern"),
                codes.concept("112067", "DCM", "Nodular pattern"),
            ),
        ),
        (
            NON_LESION,
            (
                NON_LESION,
                codes.concept("26412008", "SCT", "Endotracheal tube"),
                codes.concept("19923001", "SCT", "Catheter"),
                codes.concept("25062003", "SCT", "Feeding tube"),
                codes.concept("112173", "DCM", "Chest tube"),
            ),
        ),
    )
    for each in members
}
"""Code value of a finding -> CID 6101 and, if the finding says more, its modifier of CID 6102."""


def encode_chest_cad(
    result: Result,
    sources: Sequence[Dataset],
    profile: DestinationProfile = CONSERVATIVE,
    *,
    evidence: Evidence | None = None,
) -> Dataset | None:
    """The CAD report of a result on chest images; None where the images are of another kind, where a finding has no
    code in CID 6101 or 6102, or is there without a place on an image, and where no finding says what was looked for.

    Raises
    ------
    SourceMismatch, InvalidResult
    """
    if not {str(source.get("Modality", "")) for source in sources} <= set(MODALITIES):
        return None
    if not result.findings or any(finding.finding.value not in KNOWN for finding in result.findings):
        return None
    findings = [finding for finding in result.findings if finding.presence is not Presence.ABSENT]
    evidence = evidence or check_evidence(result, sources)
    if not all(tree.marks_of(finding, evidence) for finding in findings):
        return None
    paths = [(1, 2, place) for place in range(1, len(evidence.images) + 1)]
    detected = dict.fromkeys(KNOWN[finding.finding.value][0] for finding in result.findings)
    children = [
        tree.library(evidence, [()] * len(evidence.images)),
        _findings(result, findings, evidence, paths),
        tree.summary(
            tree.SUMMARY_OF_DETECTIONS,
            tree.SUCCESSFUL_DETECTIONS,
            tree.DETECTION_PERFORMED,
            list(detected),
            result,
            paths,
        ),
        tree.code(tree.CONTAINS, tree.SUMMARY_OF_ANALYSES, tree.NOT_ATTEMPTED),
    ]
    return tree.document(result, evidence, profile, KIND, SOP_CLASS_UID, TITLE, "4100", children)


def _findings(
    result: Result, findings: Sequence[Finding], evidence: Evidence, paths: Sequence[Sequence[int]]
) -> Dataset:
    """(111017, DCM) with the findings below it (TID 4101, 4104)."""
    if not findings:
        return tree.code(tree.CONTAINS, tree.SUMMARY_OF_FINDINGS, tree.WITHOUT_FINDINGS)
    single = [
        _single(result, finding, mark, paths[mark.image])
        for finding in findings
        for mark in tree.marks_of(finding, evidence)
    ]
    return tree.code(tree.CONTAINS, tree.SUMMARY_OF_FINDINGS, tree.WITH_FINDINGS, single)


def _single(result: Result, finding: Finding, mark: tree.Mark, path: Sequence[int]) -> Dataset:
    """TID 4104: one finding on one image."""
    group, modifier = KNOWN[finding.finding.value]
    children = [
        *([tree.code(tree.MODIFIER, FINDING_MODIFIER, modifier)] if modifier else []),
        tree.rendering_intent([finding]),
        *tree.tracking(result, finding),
        *tree.algorithm(result),
        *tree.likelihood(finding),
        *tree.marked(mark, path),
    ]
    return tree.code(tree.INFERRED, tree.SINGLE_IMAGE_FINDING, group, children)
