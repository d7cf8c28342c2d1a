"""A small report that says that a study was wanted and could not be analysed, and why: silence is not "nothing found".

TID 1500 with one group (TID 1501) whose finding is that the algorithm was not run, the reason as code and as text, and
the images of the study that were looked at. OHIF shows it as text, since it has no coordinates and another title than
126000.
"""

from collections.abc import Sequence

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from dicom_sr import codes, provenance
from dicom_sr.errors import InvalidResult
from dicom_sr.evidence import Evidence, study_header
from dicom_sr.findings import Refusal, Result
from dicom_sr.identity import uid_for
from dicom_sr.measurement_report import REPORT_CLASSES, add_evidence
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role
from dicom_sr.provenance import SERIES_OFFSETS, device_observer

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
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=device_observer(result.algorithm)),
        procedure_reported=codes.PROCEDURES_REPORTED.get(
            str(evidence.images[0].get("Modality", "")), codes.PROCEDURE_OF_OTHER_MODALITY
        ),
        imaging_measurements=[_group(result, evidence, reason)],
        title=profile.title_without_place,
    )
    dataset = REPORT_CLASSES[profile.report_class](
        evidence=evidence.images,
        content=content[0],
        series_instance_uid=uid_for(result, f"{Role.NOT_ANALYSED.value}-series@{profile.name}"),
        series_number=provenance.series_number(result, profile, SERIES_OFFSETS[Role.NOT_ANALYSED]),
        sop_instance_uid=uid_for(result, f"{Role.NOT_ANALYSED.value}:{reason.code}@{profile.name}"),
        instance_number=1,
        series_description=provenance.series_description(result, "not analysed"),
        is_complete=True,
        is_final=False,
        is_verified=False,
        specific_character_set=provenance.character_set(result, evidence),
        **provenance.equipment_arguments(result),
    )
    others = [image for image in result.source_images if image.sop_instance_uid != evidence.images[0].SOPInstanceUID]
    add_evidence(dataset.CurrentRequestedProcedureEvidenceSequence[0], others[: MOST_IMAGES - 1], result)
    provenance.complete(dataset, result, evidence, profile)
    return dataset


def _group(result: Result, evidence: Evidence, reason: Refusal) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501; what viewers print of it stands in the tracking identifier."""
    image = evidence.images[0]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=uid_for(result, f"tracking:not-analysed:{reason.code}"),
            identifier=f"Not analysed by {result.algorithm.name}: {reason.text}",
        ),
        algorithm_id=provenance.algorithm_identification(result),
        source_images=[sr.SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(codes.PROCESSING_SUMMARY, NO_ALGORITHM_SUCCEEDED),
            sr.QualitativeEvaluation(REASON, reason_code(reason)),
        ],
        finding_type=NOT_ANALYSED,
    )
    group[0].ContentSequence.append(sr.TextContentItem(codes.COMMENT, reason.text, sr.RelationshipTypeValues.CONTAINS))
    return group
