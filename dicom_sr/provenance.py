"""Who made an object, when, and that it is not verified: what all objects of one Result have in common.

highdicom writes the present time and random UIDs in a few places; here they are set from the Result, so that
rendering twice gives the same bytes.
"""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zlib import crc32

import highdicom as hd
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID
from pydicom.valuerep import DA, DT, TM

from dicom_sr import codes
from dicom_sr.evidence import UTF_8, Evidence
from dicom_sr.findings import Algorithm, Result
from dicom_sr.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, device_uid
from dicom_sr.profile import DestinationProfile, Role

LONG_STRING = 64
"""Longest LO value (PS3.5 Table 6.2-1), in characters."""

NOT_FOR_CLINICAL_USE = "Not for clinical use"

SERIES_OFFSETS = {
    role: offset
    for offset, role in enumerate(
        (
            Role.SEGMENTATION,
            Role.REPORT,
            Role.REPORT_WITHOUT_PLACE,
            Role.FRACTIONAL_SEGMENTATION,
            Role.PARAMETRIC_MAP,
            Role.STRUCTURE_SET,
            Role.PRESENTATION_STATE,
            Role.SECONDARY_CAPTURE,
            Role.MAMMOGRAPHY_CAD,
            Role.CHEST_CAD,
            Role.KEY_OBJECTS,
            Role.DOCUMENT,
            Role.NOT_ANALYSED,
            Role.REJECTION,
        )
    )
}
"""The `offset` of each role in `series_number`; never to be reordered, since objects carry the numbers."""


def series_description(result: Result, what: str) -> str:
    """`AI <model> <version> <what>, not for clinical use`: often the only text shown about the series."""
    version = clean_text(result.algorithm.version)[:16]
    end = f" {version} {what}" + (f", {NOT_FOR_CLINICAL_USE.lower()}" if result.not_for_clinical_use else "")
    return f"AI {clean_text(result.algorithm.name)}"[: LONG_STRING - len(end)].rstrip() + end


def series_number(result: Result, profile: DestinationProfile, offset: int) -> int:
    """A number that depends on the model and the kind of object only; `offset` is one of `SERIES_OFFSETS`.

    The first three kinds lie beside each other in the 900 numbers that begin with the profile's, the next three in the
    next 900, and so on.
    """
    place = 3 * (crc32(result.algorithm.identifier.encode()) % 300)
    return profile.first_series_number + 900 * (offset // 3) + place + offset % 3


def clean_text(text: str) -> str:
    """The text as an LO value can hold it: no backslash, no control character."""
    return "".join(" " if character == "\\" or not character.isprintable() else character for character in text).strip()


def content_moment(result: Result, evidence: Evidence) -> datetime:
    """Time of the content on the clock of the source, as far as the source says which clock that is."""
    offset = evidence.timezone_offset
    if len(offset) == 5 and offset[0] in "+-" and offset[1:].isdigit():
        minutes = int(offset[1:3]) * 60 + int(offset[3:])
        return result.created_at.astimezone(timezone(timedelta(minutes=minutes if offset[0] == "+" else -minutes)))
    return result.created_at


def equipment_arguments(result: Result) -> dict[str, Any]:
    """Enhanced General Equipment (PS3.3 C.7.5.2) as keyword arguments of highdicom's constructors."""
    equipment = result.equipment
    versions = tuple(clean_text(version)[:LONG_STRING] for version in equipment.software_versions)
    return {
        "manufacturer": clean_text(equipment.manufacturer)[:LONG_STRING],
        "manufacturer_model_name": clean_text(equipment.manufacturer_model_name)[:LONG_STRING],
        "software_versions": versions[0] if len(versions) == 1 else versions,
        "device_serial_number": clean_text(equipment.device_serial_number)[:LONG_STRING],
    }


def character_set(result: Result, evidence: Evidence, profile: DestinationProfile) -> str | list[str] | None:
    """The source's character set, or UTF-8 when our own texts need more than ASCII."""
    algorithm, equipment = result.algorithm, result.equipment
    texts = [algorithm.name, algorithm.version, algorithm.manufacturer, algorithm.intended_use]
    texts += [text for pair in algorithm.parameters for text in pair]
    texts += [equipment.manufacturer, equipment.manufacturer_model_name, *equipment.software_versions]
    texts += [equipment.device_serial_number, *result.remarks, result.text]
    texts += [result.not_analysed.text] if result.not_analysed else []
    texts += [segment.label for segment in result.segments]
    texts += [finding.tracking_identifier for finding in result.findings]
    texts += [code.meaning for code in coded_concepts(result)]
    texts += [
        code.meaning for code in (profile.algorithm_purpose, profile.title_with_place, profile.title_without_place)
    ]
    ranges = [each.normal_range for finding in result.findings for each in finding.measurements]
    texts += [text for normal in ranges if normal is not None for text in (normal.description, normal.authority)]
    return (evidence.character_set or None) if all(text.isascii() for text in texts) else UTF_8


def coded_concepts(result: Result) -> list[Code]:
    """Every code that a Result brings along."""
    found: list[Code | None] = [result.algorithm.family]
    for segment in result.segments:
        found += [segment.category, segment.type, segment.anatomic_region, segment.laterality]
    for finding in result.findings:
        found += [finding.finding, finding.finding_site, finding.laterality]
        for measurement in finding.measurements:
            found += [measurement.concept, measurement.unit, measurement.derivation, measurement.method]
            found.append(measurement.normality)
        for qualifier in finding.qualifiers:
            found += [qualifier.concept, qualifier.value]
        found.append(finding.likelihood.meaning if finding.likelihood else None)
    return [code for code in found if code is not None]


def contributing_algorithm(result: Result, profile: DestinationProfile) -> Dataset:
    """The algorithm in the Contributing Equipment Sequence (0018,A001), as IHE AI Results wants it."""
    algorithm = result.algorithm
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept.from_code(profile.algorithm_purpose)]
    item.Manufacturer = clean_text(algorithm.manufacturer)[:LONG_STRING]
    item.ManufacturerModelName = clean_text(algorithm.name)[:LONG_STRING]
    item.SoftwareVersions = clean_text(algorithm.version)[:LONG_STRING]
    item.DeviceSerialNumber = algorithm.digest[:LONG_STRING]
    item.DeviceUID = device_uid(algorithm)
    item.ContributionDateTime = _universal(result.created_at)
    description = f"{algorithm.identifier} {algorithm.version}. {algorithm.intended_use}".strip()
    item.ContributionDescription = description[:1024]
    return item


def complete(dataset: Dataset, result: Result, evidence: Evidence, profile: DestinationProfile) -> None:
    """Set on a new highdicom object what it took from the clock, and what it could not know."""
    moment = content_moment(result, evidence)
    for name in ("InstanceCreation", "Series", "Content"):
        if name == "Content" and "ContentDate" not in dataset:
            continue  # an RT Structure Set has its own
        setattr(dataset, f"{name}Date", DA(moment.date()))
        setattr(dataset, f"{name}Time", TM(moment.time()))
    if evidence.timezone_offset:
        dataset.TimezoneOffsetFromUTC = evidence.timezone_offset
    dataset.add_new("PatientName", "PN", evidence.patient_name)  # anew: highdicom shares elements with the source
    if "EthnicGroup" in evidence.images[0]:  # retired, so highdicom leaves it out; the study should agree with itself
        dataset.EthnicGroup = evidence.images[0].EthnicGroup
    items = list(dataset.get("ContributingEquipmentSequence") or ())
    library = [item for item in items if "ContributionDateTime" in item]  # highdicom's own says when it wrote
    for item in library:
        item.ContributionDateTime = _universal(result.created_at)
    others = [item for item in items if "ContributionDateTime" not in item]
    dataset.ContributingEquipmentSequence = [*others, contributing_algorithm(result, profile), *library]
    meta = dataset.file_meta
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME


def device_observer(algorithm: Algorithm) -> hd.sr.ObserverContext:
    """The algorithm as device observer (TID 1004)."""
    return hd.sr.ObserverContext(
        observer_type=hd.sr.CodedConcept.from_code(codes.DEVICE),
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=device_uid(algorithm),
            name=algorithm.name,
            manufacturer_name=algorithm.manufacturer,
            model_name=algorithm.identifier,
            serial_number=algorithm.version,
        ),
    )


def standing(result: Result) -> str:
    """What may be done with a result, as sentences that stand before everything else."""
    return standing_of(not_for_clinical_use=result.not_for_clinical_use)


def standing_of(*, not_for_clinical_use: bool) -> str:
    """The same where only this is known of a result."""
    use = f"{NOT_FOR_CLINICAL_USE}. " if not_for_clinical_use else ""
    return f"{use}Result of an AI algorithm, not verified by a physician."


def alarms(result: Result) -> list[str]:
    """What somebody is to be told at once, as sentences; they stand where people look first."""
    return [
        f"Critical finding, somebody is to be told at once: {finding.tracking_identifier}."
        for finding in result.findings
        if finding.is_alarm
    ]


def _universal(moment: datetime) -> DT:
    """A DT value in UTC, with its offset."""
    return DT(moment.astimezone(UTC).strftime("%Y%m%d%H%M%S.%f+0000"))
