"""A small report that says that a study was wanted and could not be analysed, and why: silence is not "nothing found".

TID 1500 with one group (TID 1501) whose finding is that the algorithm was not run, the reason as code and as text, and
the images of the study that were looked at. OHIF shows it as text, since it has no coordinates and another title than
126000.
"""

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr import content_items as items
from dicom_sr.errors import InvalidResult
from dicom_sr.evidence import Evidence, study_header
from dicom_sr.findings import Refusal, Result
from dicom_sr.identity import uid_for
from dicom_sr.instance import Kind
from dicom_sr.measurement_groups import FINDING, SOURCE_OF_MEASUREMENT, WHOLE_IMAGE, Common
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role
from dicom_sr.report_document import Content, algorithm_items, references_to, write_report

SCHEME = "99OVERREAD"
NOT_ANALYSED = codes.concept("not-analysed", SCHEME, "Not analysed by the AI algorithm")
REASON = codes.concept("reason", SCHEME, "Reason why it was not analysed")
NO_ALGORITHM_SUCCEEDED = codes.concept("111245", "DCM", "No algorithms succeeded; without findings")
LONGEST_CODE = 16
MOST_IMAGES = 200
"""More images than that are not all listed: the statement is about the study."""


def reason_code(refusal: Refusal) -> Code:
    """The refusal in our private scheme: its name, cut to the 16 characters that a code value may have."""
    return codes.concept(refusal.code[:LONGEST_CODE].rstrip("-") or "unknown", SCHEME, refusal.code[:64] or "unknown")


def encode_not_analysed(
    result: Result, sources: Sequence[Dataset], profile: DestinationProfile = CONSERVATIVE
) -> Dataset:
    """The statement of a Result that is a refusal, as a report in a series of its own.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        The header of at least one of its source images, for patient and study.
    profile : DestinationProfile

    Raises
    ------
    InvalidResult
        It was analysed, or has findings.
    SourceMismatch
        The first header lacks its UIDs.
    """
    reason = result.not_analysed
    if reason is None or result.findings or result.label_maps or result.maps:
        raise InvalidResult("only a result without findings can say that it was not analysed")
    evidence = study_header(sources[0])
    kind = Kind(Role.NOT_ANALYSED, "SR", "not analysed", part=reason.code)
    content = Content(profile.title_without_place, (_group(result, evidence, reason),))
    others = [image for image in result.source_images if image.sop_instance_uid != evidence.images[0].SOPInstanceUID]
    referenced = [*references_to(evidence.images), *others[: MOST_IMAGES - 1]]
    return write_report(result, evidence, profile, kind, content, referenced)


def _group(result: Result, evidence: Evidence, reason: Refusal) -> bytes:
    """TID 1501; what viewers print of it stands in the tracking identifier."""
    image = evidence.images[0]
    finding = items.code(items.CONTAINS, FINDING, NOT_ANALYSED)
    return Common(
        uid_for(result, f"tracking:not-analysed:{reason.code}"),
        f"Not analysed by {result.algorithm.name}: {reason.text}",
        finding + algorithm_items(result),
    ).group(
        WHOLE_IMAGE,
        items.code(items.CONTAINS, codes.PROCESSING_SUMMARY, NO_ALGORITHM_SUCCEEDED),
        items.code(items.CONTAINS, REASON, reason_code(reason)),
        items.image(items.CONTAINS, SOURCE_OF_MEASUREMENT, str(image.SOPClassUID), str(image.SOPInstanceUID)),
        items.text(items.CONTAINS, codes.COMMENT, reason.text),
    )
