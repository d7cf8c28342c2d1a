"""A Result for a destination: the objects that its profile wants, in the order of their delivery."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from pydicom import dcmwrite
from pydicom.dataset import Dataset

from dicom_sr.evidence import check_evidence
from dicom_sr.findings import Result
from dicom_sr.measurement_report import encode_measurement_report, findings_of
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role
from dicom_sr.segmentation import encode_segmentation, number_segments


@dataclass(frozen=True, eq=False)
class RenderedObject:
    """One object of a Result.

    Parameters
    ----------
    role : Role
    dataset : Dataset
        With file meta information, ready to be written.
    """

    role: Role
    dataset: Dataset

    def to_bytes(self) -> bytes:
        """The object in the DICOM File Format (PS3.10 7); the same Result and profile give the same bytes."""
        buffer = BytesIO()
        dcmwrite(buffer, self.dataset, enforce_file_format=True)
        return buffer.getvalue()


def render(
    result: Result, sources: Sequence[Dataset], profile: DestinationProfile = CONSERVATIVE
) -> list[RenderedObject]:
    """All objects of a Result for a destination, the segmentation before the reports that refer to it.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        Headers of the source images, in slice order; never changed.
    profile : DestinationProfile

    Raises
    ------
    SourceMismatch, InvalidResult
    """
    evidence = check_evidence(result, sources)
    numbering = number_segments(result)
    rendered = []
    segmentation = None
    if Role.SEGMENTATION in profile.roles:
        segmentation = encode_segmentation(result, sources, profile, evidence=evidence, numbering=numbering)
    if segmentation is not None:
        rendered.append(RenderedObject(Role.SEGMENTATION, segmentation))
    for role in (Role.REPORT, Role.REPORT_WITHOUT_PLACE):
        if role in profile.roles and (role is Role.REPORT or findings_of(result, numbering, role)):
            report = encode_measurement_report(
                result, sources, segmentation, profile, role=role, evidence=evidence, numbering=numbering
            )
            rendered.append(RenderedObject(role, report))
    return rendered
