"""What a result says, for receivers that take no DICOM: the findings, and the patient and order that they belong to."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.sr.coding import Code

from dicom_sr import archive
from dicom_sr.errors import ArchiveError
from dicom_sr.findings import Algorithm, Finding, Presence, Result
from dicom_sr.identity import derived_uid, device_uid
from dicom_sr.impression import draft_impression
from dicom_sr.provenance import standing_of
from node.deliver.transport import Parcel
from node.errors import Permanent
from node.store.results import ResultObject

PRESENCE = {
    Presence.PRESENT: Code("52101004", "SCT", "Present"),
    Presence.ABSENT: Code("2667000", "SCT", "Absent"),
    Presence.INDETERMINATE: Code("82334004", "SCT", "Indeterminate"),
}
FINDING_SITE = Code("363698007", "SCT", "Finding Site")
LATERALITY = Code("272741003", "SCT", "Laterality")
NO_UNITS = Code("1", "UCUM", "no units")


@dataclass(frozen=True)
class Order:
    """Patient, study and order, as the DICOM report carries them over from the images; empty where they lack it."""

    patient_id: str
    patient_name: str
    birth_date: str
    sex: str
    accession_number: str
    placer_order_number: str
    filler_order_number: str
    study_instance_uid: str
    study_date: str
    study_time: str
    study_description: str


@dataclass(frozen=True)
class Statement:
    """A result in plain values. `identifier` is the same for the same result, whoever asks and how often; `draft` are
    lines made from the findings; `documents` are PDFs."""

    identifier: str
    order: Order
    algorithm: Algorithm
    device_uid: str
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]
    created_at: datetime
    revision: int
    not_for_clinical_use: bool
    draft: tuple[str, ...] = ()
    documents: tuple[bytes, ...] = ()

    @property
    def is_critical(self) -> bool:
        """Somebody is to be told at once."""
        return any(finding.is_alarm for finding in self.findings)

    @property
    def standing(self) -> str:
        """What may be done with it, in the words of the DICOM objects."""
        return standing_of(not_for_clinical_use=self.not_for_clinical_use)

    @property
    def impression(self) -> tuple[str, ...]:
        """Lines for a draft report; the first says what may be done with it, and that nobody has verified it."""
        return (self.standing, *self.draft, *self.remarks)


def read_statement(parcel: Parcel, documents: tuple[bytes, ...] = ()) -> Statement:
    """The statement of a result on disk, with these PDFs; `Permanent` when it is not there."""
    try:
        result = archive.load_result(parcel.data_dir / parcel.result.folder)
    except ArchiveError as error:
        raise Permanent(
            f"result {parcel.result.result_id} is not on disk ({error}): restore data_dir, then retry the job"
        ) from None
    parcel.existing_paths()
    objects = sorted(parcel.result.objects, key=lambda one: not one.role.startswith("report"))
    if not objects:
        raise Permanent(f"result {parcel.result.result_id} has no object to take patient and order from")
    first = dcmread(parcel.data_dir / objects[0].path, stop_before_pixels=True)
    return make_statement(result, first, documents)


def make_statement(result: Result, report: Dataset, documents: tuple[bytes, ...] = ()) -> Statement:
    """The statement of a Result, with patient and order of a DICOM object that was rendered from it."""
    algorithm = result.algorithm
    parts = (result.study_instance_uid, algorithm.identifier, algorithm.digest, result.input_digest)
    return Statement(
        identifier=statement_identifier(*parts, result.revision),
        order=read_order(report),
        algorithm=result.algorithm,
        device_uid=device_uid(result.algorithm),
        findings=result.findings,
        remarks=result.remarks,
        created_at=result.created_at,
        revision=result.revision,
        not_for_clinical_use=result.not_for_clinical_use,
        draft=tuple(draft_impression(result).split("\n")),
        documents=documents,
    )


def statement_identifier(
    study_instance_uid: str, model: str, model_digest: str, input_digest: str, revision: int
) -> str:
    """What names the statement of a result, wherever it is made and however often."""
    return derived_uid("statement", study_instance_uid, model, model_digest, input_digest, str(revision))


def read_order(report: Dataset) -> Order:
    """Patient, study and order in a data set."""
    requested = (report.get("ReferencedRequestSequence") or [Dataset()])[0]

    def text(keyword: str, other: str = "") -> str:
        return str(report.get(keyword) or requested.get(other or keyword) or "")

    return Order(
        patient_id=text("PatientID"),
        patient_name=text("PatientName"),
        birth_date=text("PatientBirthDate"),
        sex=text("PatientSex"),
        accession_number=text("AccessionNumber"),
        placer_order_number=text("PlacerOrderNumberImagingServiceRequest"),
        filler_order_number=text("FillerOrderNumberImagingServiceRequest"),
        study_instance_uid=text("StudyInstanceUID"),
        study_date=text("StudyDate"),
        study_time=text("StudyTime"),
        study_description=text("StudyDescription"),
    )


def read_documents(data_dir: Path, objects: Iterable[ResultObject]) -> tuple[bytes, ...]:
    """The PDFs of Encapsulated PDF objects (PS3.3 C.24.2), without the byte that makes their length even."""
    found = []
    for one in objects:
        encapsulated = dcmread(data_dir / one.path)
        content = bytes(encapsulated.EncapsulatedDocument)
        found.append(content[: int(encapsulated.get("EncapsulatedDocumentLength") or len(content))])
    return tuple(found)
