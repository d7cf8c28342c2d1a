"""What people and programs are shown of findings."""

from datetime import UTC, datetime

import pytest
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr.findings import Finding, Likelihood, Measurement, Presence, Refusal, Result
from node.cli.shared import said_of
from node.pipeline import Analysis
from tests.dicom_sr.conftest import ALGORITHM, EQUIPMENT

NODULE = Code("27925004", "SCT", "Nodule")
LUNG = Code("39607008", "SCT", "Lung")
VOLUME = Measurement(codes.VOLUME, 1.25, codes.MILLILITER)
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")


def summary_of(*findings: Finding, not_analysed: Refusal | None = None) -> Analysis:
    when = datetime(2025, 1, 2, tzinfo=UTC)
    return Analysis(
        Result("1", "1.2", "ab", 1, when, ALGORITHM, EQUIPMENT, (), findings=findings, not_analysed=not_analysed), ()
    )


SAID = (
    (
        Finding(NODULE, "N1", finding_site=LUNG, laterality=codes.LEFT, measurements=(VOLUME,)),
        "left lung, Volume 1.25 ml",
    ),
    (Finding(NODULE, "Nodule, left lung", finding_site=LUNG, laterality=codes.LEFT), "present"),
    (Finding(NODULE, "N3", laterality=codes.RIGHT, likelihood=Likelihood(0.75, CERTAINTY)), "present, right, 0.750"),
    (Finding(NODULE, "N4", presence=Presence.ABSENT, finding_site=LUNG), "absent, lung"),
    (Finding(NODULE, "N5"), "present"),
)


@pytest.mark.parametrize(("finding", "said"), SAID)
def test_finding_has_the_site_and_side_of_the_report(finding: Finding, said: str) -> None:
    (shown,) = summary_of(finding).summary
    assert shown.get("laterality") == (finding.laterality.meaning if finding.laterality else None)
    assert shown.get("site") == (finding.finding_site.meaning if finding.finding_site else None)
    assert said_of(shown) == said


def test_refusal_says_why() -> None:
    (shown,) = summary_of(not_analysed=Refusal("gap-in-stack", "slice 7 is missing")).summary
    assert said_of(shown) == "slice 7 is missing"
