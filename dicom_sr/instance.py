"""A new object of a Result without its content: patient, study, series, equipment and SOP Common modules.

highdicom's base class writes them; what it takes from the clock is set from the Result.
"""

from dataclasses import dataclass
from io import BufferedIOBase
from typing import Literal

import highdicom as hd
from pydicom.charset import convert_encodings
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import correct_ambiguous_vr
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian

from dicom_sr import provenance
from dicom_sr.element_bytes import tag_of
from dicom_sr.evidence import Evidence
from dicom_sr.findings import Result
from dicom_sr.identity import uid_for
from dicom_sr.profile import DestinationProfile, Role


@dataclass(frozen=True)
class Kind:
    """What distinguishes the objects of one role.

    Parameters
    ----------
    role : Role
    modality : str
    description : str
        Last word of the Series Description.
    part : str
        Part of the SOP Instance UID, where one Result can have several objects of the role.
    """

    role: Role
    modality: str
    description: str
    part: str = ""


def new_instance(
    result: Result,
    evidence: Evidence,
    profile: DestinationProfile,
    kind: Kind,
    sop_class_uid: str,
    *,
    instance_number: int = 1,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
    names_highdicom: bool = False,
) -> Dataset:
    """The object of a role, or the n-th in its series."""
    first = evidence.images[0]
    dataset = hd.SOPClass(
        study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=uid_for(result, f"{kind.role.value}-series@{profile.name}"),
        series_number=provenance.series_number(result, profile, provenance.SERIES_OFFSETS[kind.role]),
        sop_instance_uid=instance_uid(result, profile, kind, instance_number),
        instance_number=instance_number,
        sop_class_uid=sop_class_uid,
        modality=kind.modality,
        transfer_syntax_uid=transfer_syntax_uid,
        patient_id=first.PatientID,
        patient_name=first.PatientName,
        patient_birth_date=first.PatientBirthDate,
        patient_sex=first.PatientSex,
        accession_number=first.AccessionNumber,
        study_id=first.StudyID,
        study_date=first.StudyDate,
        study_time=first.StudyTime,
        referring_physician_name=first.ReferringPhysicianName,
        series_description=provenance.series_description(result, kind.description),
        specific_character_set=provenance.character_set(result, evidence, profile),
        **provenance.equipment_arguments(result),
    )
    dataset.copy_patient_and_study_information(first)
    equipment = [hd.ContributingEquipment.for_image_acquisition(first)] if first.get("Manufacturer") else []
    equipment += [hd.ContributingEquipment.for_highdicom()] if names_highdicom else []
    if equipment:
        dataset.ContributingEquipmentSequence = equipment
    provenance.complete(dataset, result, evidence, profile)
    plain = Dataset(dataset)
    plain.file_meta = dataset.file_meta
    plain.preamble = dataset.preamble
    return plain


def instance_uid(result: Result, profile: DestinationProfile, kind: Kind, instance_number: int = 1) -> str:
    """SOP Instance UID of the n-th object of a kind."""
    name = kind.role.value if instance_number == 1 else f"{kind.role.value}-{instance_number}"
    name += f":{kind.part}" if kind.part else ""
    return uid_for(result, f"{name}@{profile.name}")


def add_raw(dataset: Dataset, *elements: RawDataElement) -> None:
    """Put elements that are already bytes into a data set that is complete but for them and its Pixel Data.

    From now on what is not raw is known to have its right VR, so that writing does not parse what is.
    """
    correct_ambiguous_vr(dataset, is_little_endian=True)
    for element in elements:
        dataset[element.tag] = element
    dataset.set_original_encoding(False, True, convert_encodings(dataset.get("SpecificCharacterSet") or "ISO_IR 6"))


def set_pixels(
    dataset: Dataset,
    pixels: bytes | BufferedIOBase,
    keyword: Literal["PixelData", "FloatPixelData"] = "PixelData",
) -> None:
    """Pixels of even length, as they will stand in the file, without a copy (PS3.5 8.1.2, A.2, A.4).

    VR is OW above 8 bits, else OB; encapsulated frames have an undefined length. A stream is read when it is written.
    """
    encapsulated = dataset.file_meta.TransferSyntaxUID.is_encapsulated
    vr = "OF" if keyword == "FloatPixelData" else "OW" if dataset.BitsAllocated > 8 and not encapsulated else "OB"
    if isinstance(pixels, BufferedIOBase):
        dataset.add_new(keyword, vr, pixels)
        return
    length = 0xFFFFFFFF if encapsulated else len(pixels)
    tag = tag_of(keyword)
    dataset[tag] = RawDataElement(tag, vr, length, pixels, 0, False, True)


def copy_compression(dataset: Dataset, image: Dataset) -> None:
    """Whether the source was ever compressed lossily, which holds for what is derived from it too (C.7.6.1.1.5)."""
    for keyword in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if keyword in image:
            dataset[keyword] = image[keyword]
    dataset.LossyImageCompression = image.get("LossyImageCompression") or "00"


def set_laterality(dataset: Dataset, evidence: Evidence) -> None:
    """Laterality of the body part (type 2C, PS3.3 C.7.3.1) as far as the images say it; empty where they do not, since
    whether the part is paired is not known here.
    """
    first = evidence.images[0]
    dataset.Laterality = next(
        (first.get(keyword) for keyword in ("Laterality", "ImageLaterality") if first.get(keyword) in ("L", "R")), ""
    )


def set_place(dataset: Dataset, evidence: Evidence) -> None:
    """Frame of reference, or for an image without a place in space the orientation of the patient on it (type 2C,
    PS3.3 C.7.6.1).
    """
    first = evidence.images[0]
    if evidence.frame_of_reference_uid:
        dataset.FrameOfReferenceUID = evidence.frame_of_reference_uid
        dataset.PositionReferenceIndicator = first.get("PositionReferenceIndicator")
    if not evidence.in_space:
        dataset.PatientOrientation = first.get("PatientOrientation") or ""


def code_item(code: Code) -> Dataset:
    """An item of a code sequence (PS3.3 Table 8.8-1)."""
    return hd.sr.CodedConcept.from_code(code)


def reference(image: Dataset, *frame_numbers: int) -> Dataset:
    """An item that refers to an image, or to frames of it (PS3.3 Table 10-3, 10-11)."""
    item = Dataset()
    item.ReferencedSOPClassUID = image.SOPClassUID
    item.ReferencedSOPInstanceUID = image.SOPInstanceUID
    if frame_numbers:
        item.ReferencedFrameNumber = list(frame_numbers) if len(frame_numbers) > 1 else frame_numbers[0]
    return item


def refer_to_series(dataset: Dataset, evidence: Evidence) -> None:
    """Common Instance Reference and Source Image Sequence: every image, which viewers find by the first of them."""
    dataset.SourceImageSequence = [reference(image) for image in evidence.images]
    series: dict[str, list[Dataset]] = {}
    for image, item in zip(evidence.images, dataset.SourceImageSequence, strict=True):
        series.setdefault(str(image.SeriesInstanceUID), []).append(item)
    dataset.ReferencedSeriesSequence = []
    for uid, items in series.items():
        entry = Dataset()
        entry.ReferencedInstanceSequence = items
        entry.SeriesInstanceUID = uid
        dataset.ReferencedSeriesSequence.append(entry)


def refer_to_predecessors(dataset: Dataset, result: Result) -> None:
    """Predecessor Documents Sequence (PS3.3 C.17.2): the reports that this one replaces, in one item for the study."""
    if not result.predecessors:
        return
    series: dict[str, Dataset] = {}
    for predecessor in result.predecessors:
        item = Dataset()
        item.ReferencedSOPClassUID = predecessor.sop_class_uid
        item.ReferencedSOPInstanceUID = predecessor.sop_instance_uid
        uid = predecessor.series_instance_uid
        if uid not in series:
            series[uid] = Dataset()
            series[uid].SeriesInstanceUID = uid
            series[uid].ReferencedSOPSequence = []
        series[uid].ReferencedSOPSequence.append(item)
    study = Dataset()
    study.StudyInstanceUID = result.study_instance_uid
    study.ReferencedSeriesSequence = list(series.values())
    dataset.PredecessorDocumentsSequence = [study]
