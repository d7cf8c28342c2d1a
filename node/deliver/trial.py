"""What an administrator wants to know of a destination before the first patient: is it there, and what does it take?"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from dicom_sr.identity import IMPLEMENTATION_CLASS_UID
from dicom_sr.profile import (
    OTHER_CLASS_UIDS,
    REPORT_CLASS_UIDS,
    REPORTS,
    SEGMENTATION_CLASS_UIDS,
    DestinationProfile,
    ReportClass,
    Role,
    SegmentationFlavour,
)
from node.deliver.association import associate
from node.deliver.commitment import STORAGE_COMMITMENT_PUSH_MODEL
from node.deliver.dimse import VERIFICATION_SOP_CLASS_UID
from node.deliver.fallback import IMPLICIT_VR_LITTLE_ENDIAN
from node.deliver.find_scu import STUDY_ROOT_FIND
from node.deliver.line import Patience
from node.deliver.storage_scu import name_of
from node.deliver.upper_layer import describe_context_result, propose
from node.settings import Destination

_SERVICES = (VERIFICATION_SOP_CLASS_UID, STORAGE_COMMITMENT_PUSH_MODEL, STUDY_ROOT_FIND)


@dataclass(frozen=True)
class Negotiated:
    """One row of the table: what was proposed, and in which transfer syntaxes it is taken; else why not."""

    sop_class_uid: str
    name: str
    transfer_syntaxes: tuple[str, ...]
    reason: str = ""

    @property
    def is_taken(self) -> bool:
        return bool(self.transfer_syntaxes)


def negotiate(
    destination: Destination, profile: DestinationProfile, calling_ae_title: str, timeout_seconds: float
) -> tuple[float, list[Negotiated]]:
    """Propose all that the profile and its fallbacks may use; the seconds that it took, and what the destination takes.

    Raises
    ------
    Transient, Permanent
        As `associate`.
    """
    syntaxes = (str(ExplicitVRLittleEndian), IMPLICIT_VR_LITTLE_ENDIAN)
    storage = storage_classes(profile)
    pairs = [(uid, syntax) for uid in storage for syntax in syntaxes]
    pairs += [(uid, IMPLICIT_VR_LITTLE_ENDIAN) for uid in _SERVICES]
    started = time.monotonic()
    with associate(destination, calling_ae_title, propose(pairs), Patience(timeout_seconds)) as association:
        seconds = time.monotonic() - started
        accepted, refused = association.accepted, association.refused
    return seconds, [_row(uid, accepted, refused) for uid in (*_SERVICES, *storage)]


def storage_classes(profile: DestinationProfile) -> list[str]:
    """SOP classes that a result may be sent in, the wanted ones first."""
    found = [profile.sop_class_uid(role) for role in profile.roles]
    found += [REPORT_CLASS_UIDS[one] for one in profile.report_fallback if set(REPORTS) & set(profile.roles)]
    for choice in profile.segmentation_fallback if Role.SEGMENTATION in profile.roles else ():
        if isinstance(choice, SegmentationFlavour):
            found.append(SEGMENTATION_CLASS_UIDS[choice])
        else:
            found.append(OTHER_CLASS_UIDS[choice])
    return list(dict.fromkeys(found))


def send_trial_object(store: Callable[[Path], object], now: datetime) -> str:
    """Send a report that says it is a test, of a patient who is none; its Study Instance UID. `store` sends a file."""
    with tempfile.TemporaryDirectory(prefix="overread-") as folder:
        path = Path(folder) / "trial.dcm"
        made = trial_report(now)
        made.save_as(path, enforce_file_format=True)
        store(path)
    return str(made.StudyInstanceUID)


def trial_report(now: datetime) -> Dataset:
    """A Comprehensive 3D SR of one sentence, marked as a test in every place that people look at."""
    made = Dataset()
    made.SOPClassUID = REPORT_CLASS_UIDS[ReportClass.COMPREHENSIVE_3D]
    made.SOPInstanceUID = generate_uid(None)
    made.StudyInstanceUID, made.SeriesInstanceUID = generate_uid(None), generate_uid(None)
    made.PatientName, made.PatientID = "OVERREAD^TEST", "OVERREAD-TEST"
    made.PatientBirthDate = made.PatientSex = made.ReferringPhysicianName = made.AccessionNumber = ""
    made.StudyDate = made.ContentDate = made.SeriesDate = now.strftime("%Y%m%d")
    made.StudyTime = made.ContentTime = made.SeriesTime = now.strftime("%H%M%S")
    made.StudyID, made.SeriesNumber, made.InstanceNumber = "TEST", 1, 1
    made.StudyDescription = made.SeriesDescription = "TEST of an Overread destination: delete"
    made.Modality, made.Manufacturer = "SR", "Overread"
    made.ManufacturerModelName, made.DeviceSerialNumber, made.SoftwareVersions = "Overread AI node", "test", "test"
    made.CompletionFlag, made.VerificationFlag, made.PreliminaryFlag = "COMPLETE", "UNVERIFIED", "PRELIMINARY"
    made.ReferencedPerformedProcedureStepSequence, made.PerformedProcedureCodeSequence = [], []
    made.ValueType, made.ContinuityOfContent = "CONTAINER", "SEPARATE"
    made.ConceptNameCodeSequence = [_code("18748-4", "LN", "Diagnostic imaging report")]
    sentence = Dataset()
    sentence.RelationshipType, sentence.ValueType = "CONTAINS", "TEXT"
    sentence.ConceptNameCodeSequence = [_code("121106", "DCM", "Comment")]
    sentence.TextValue = "Test of a destination. No patient, no finding. May be deleted."
    made.ContentSequence = [sentence]
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    return made


def _row(uid: str, accepted: dict[tuple[str, str], int], refused: dict[tuple[str, str], int]) -> Negotiated:
    taken = tuple(name_of(syntax).split(" (")[0] for sop_class, syntax in accepted if sop_class == uid)
    reasons = [describe_context_result(result) for (sop_class, _), result in refused.items() if sop_class == uid]
    return Negotiated(uid, _short(uid), taken, "" if taken else reasons[0])


def _short(uid: str) -> str:
    return name_of(uid).split(" (")[0]


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def verdict(destination: Destination, profile: DestinationProfile, rows: Sequence[Negotiated]) -> list[str]:
    """What the table means for this destination as it is configured; problems begin with ``problem:``."""
    taken = {row.sop_class_uid for row in rows if row.is_taken}
    refused = [uid for uid in storage_classes(profile) if uid not in taken]
    form = profile.without(refused)
    said = []
    if form is None:
        said.append(f"problem: it takes nothing that tells findings: enable {_short(refused[0])} there")
    elif form != profile and destination.fallback:
        said.append(f"results are sent as {form.name}")
    elif form != profile:
        names = ", ".join(_short(uid) for uid in refused if uid in {profile.sop_class_uid(r) for r in profile.roles})
        said.append(f"problem: it refuses {names}, and fallback is off: enable it there")
    if destination.confirm == "storage-commitment" and STORAGE_COMMITMENT_PUSH_MODEL not in taken:
        said.append('problem: it has no storage commitment: set confirm = "find" or enable it there')
    if destination.confirm == "find" and STUDY_ROOT_FIND not in taken:
        said.append('problem: it refuses queries: set confirm = "storage-commitment" or allow them there')
    if destination.confirm == "none" and taken & {STORAGE_COMMITMENT_PUSH_MODEL, STUDY_ROOT_FIND}:
        how = "storage-commitment" if STORAGE_COMMITMENT_PUSH_MODEL in taken else "find"
        said.append(f'it could confirm what it keeps: set confirm = "{how}"')
    return said
