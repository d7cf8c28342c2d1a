"""The gate before delivery: objects are read again, with their sources beside them, and what is wrong is listed.

Checked are the attributes that must be there, that every reference resolves and is evidence, that no content item
stands where its SOP class does not allow it, that Segmentation and report agree on tracking UIDs and volumes, that the
geometry is that of the sources, and the rules by which viewers open objects.
What validators check beyond that (value representations, values of coded concepts) is left to them.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from dicom_sr.conformance_images import IMAGE_RULES
from dicom_sr.conformance_kinds import COMMON_1, COMMON_2, KINDS, MODALITIES, Kind
from dicom_sr.conformance_reports import check_agreement, check_groups, check_relationships
from dicom_sr.conformance_segmentations import Basis, Found, check_geometry, check_segments, count_voxels
from dicom_sr.element_bytes import uids_in
from dicom_sr.findings import Result
from dicom_sr.frame_groups import PER_FRAME, read_frame_groups
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role, SegmentationFlavour

__all__ = ["Problem", "check", "check_files", "count_voxels"]

_CONTEXT = ("PredecessorDocumentsSequence", "ReferencedStudySequence", "PertinentOtherEvidenceSequence",
            "ReferencedRequestSequence", "ReferencedPerformedProcedureStepSequence")  # fmt: skip
"""Sequences that name what was replaced, what the study itself refers to, and what belongs to other studies."""


@dataclass(frozen=True)
class Problem:
    """Why an object must not be delivered.

    Parameters
    ----------
    sop_instance_uid : str
    code : str
        ``attribute``, ``reference``, ``evidence``, ``relationship``, ``tracking``, ``volume``, ``area``, ``geometry``,
        ``limit`` or ``viewer``.
    message : str
        One sentence without patient data.
    """

    sop_instance_uid: str
    code: str
    message: str


def check(
    objects: Sequence[Dataset],
    sources: Sequence[Dataset],
    *,
    result: Result | None = None,
    profile: DestinationProfile | None = None,
) -> list[Problem]:
    """All problems of the objects of one result; none means that they conform. What they hold as bytes stays bytes.

    Parameters
    ----------
    objects : sequence of Dataset
        All objects rendered from one Result for one destination.
    sources : sequence of Dataset
        Headers of the source images, in slice order.
    result : Result, optional
        What they were rendered from: its further images may be referred to.
    profile : DestinationProfile, optional
        What the destination takes; without it anything that readers can open.
    """
    objects = [_copy(item) for item in objects]
    basis = Basis([item for item in objects if _kind(item).name == "SEG"], sources)
    further = [image.sop_instance_uid for image in result.further_images] if result is not None else []
    study = str(sources[0].StudyInstanceUID)  # which a structure set refers to as if it were an instance
    known = {*(str(item.SOPInstanceUID) for item in (*objects, *sources)), *further, study}
    problems = []
    for item in objects:
        kind = _kind(item)
        found = [*_attributes(item, kind, sources[0]), *_references(item, kind, known), *_limits(item, profile)]
        if not found:
            found = [*_rules(item, kind, basis, profile)]
        problems += [Problem(str(item.get("SOPInstanceUID", "")), code, message) for code, message in found]
    return problems


def check_files(paths: Sequence[Path], sources: Sequence[Dataset]) -> list[Problem]:
    """`check` of what really stands in the files."""
    return check([dcmread(path) for path in paths], sources)


def _copy(item: Dataset) -> Dataset:
    """The same elements in another data set: there they are parsed, and here they are written as they are."""
    copied = Dataset({tag: item.get_item(tag) for tag in list(item.keys())})
    implicit, little = item.original_encoding
    copied.set_original_encoding(implicit, little, item.original_character_set)
    if "file_meta" in vars(item):
        copied.file_meta = item.file_meta
    return copied


def _kind(item: Dataset) -> Kind:
    return KINDS.get(str(item.get("SOPClassUID", "")), Kind(""))


def _rules(item: Dataset, kind: Kind, basis: Basis, profile: DestinationProfile | None) -> Found:
    """What holds for one kind of object."""
    if kind.name == "SEG":
        yield from check_geometry(item, basis)
        yield from check_segments(item, _taken(item, profile), basis)
    if kind.name in IMAGE_RULES:
        yield from IMAGE_RULES[kind.name](item, basis)
    if kind.name in ("SR", "CAD", "KO"):
        yield from check_relationships(item)
    if kind.name == "SR":
        yield from check_groups(item)
        yield from check_agreement(item, basis)


def _taken(item: Dataset, profile: DestinationProfile | None) -> frozenset[str]:
    """Segmentation Types that the destination takes: the one that the profile wants, and what stands in for one that is
    refused or too large; fractions are written beside the one of record.
    """
    forms = [profile or CONSERVATIVE]
    instead = profile.segmentation_fallback if profile else SegmentationFlavour
    forms += [replace(forms[0], segmentation_flavour=each) for each in instead if isinstance(each, SegmentationFlavour)]
    taken = {form.segmentation_type(int(item.Rows) * int(item.Columns)) for form in forms}
    if item.get("SegmentationFractionalType") == "PROBABILITY":
        taken = {"FRACTIONAL"} if profile and Role.FRACTIONAL_SEGMENTATION in profile.roles else taken - {"FRACTIONAL"}
    elif profile is None:
        taken.add("BINARY")
    return frozenset(taken)


def _limits(item: Dataset, profile: DestinationProfile | None) -> Found:
    frames = int(item.get("NumberOfFrames") or 1)
    if profile is not None and 0 < profile.maximum_frames < frames:
        yield "limit", f"{frames} frames, and the destination takes {profile.maximum_frames}"


def _attributes(item: Dataset, kind: Kind, source: Dataset) -> Found:
    """Type 1 and 2 attributes, and the study's own ones unchanged."""
    if not kind.name:
        yield "attribute", f"SOP class {item.get('SOPClassUID', '')} is none that we write"
        return
    if item.get("Modality") != MODALITIES.get(kind.name, item.get("Modality")):
        yield "attribute", f"Modality is {item.get('Modality')}, expected {MODALITIES[kind.name]}"
    for keyword in (*COMMON_1, *kind.type_1):
        if _is_empty(item, keyword):
            yield "attribute", f"{keyword} (type 1) is missing or empty"
    for keyword in (*COMMON_2, *kind.type_2):
        if keyword not in item:
            yield "attribute", f"{keyword} (type 2) is missing"
    if kind.any_of and all(_is_empty(item, keyword) for keyword in kind.any_of):
        yield "attribute", f"none of {', '.join(kind.any_of)} is there"
    for keyword in ("StudyInstanceUID", "PatientID", "AccessionNumber"):
        if str(item.get(keyword) or "") != str(source.get(keyword) or ""):
            yield "attribute", f"{keyword} is not that of the source images"
    if kind.name in ("SR", "CAD") and item.get("VerificationFlag") != "UNVERIFIED":
        yield "attribute", "an AI report must be UNVERIFIED"
    if kind.name == "SR" and item.get("PreliminaryFlag") != "PRELIMINARY":
        yield "attribute", "an AI report must be PRELIMINARY"


def _is_empty(item: Dataset, keyword: str) -> bool:
    raw = item.get_item(keyword) if keyword in item else None
    if isinstance(raw, RawDataElement):  # parsing thousands of functional groups only to see that there are any is slow
        return not raw.value
    return item.get(keyword) in (None, "", b"") or (item[keyword].VR == "SQ" and not item[keyword].value)


def _references(item: Dataset, kind: Kind, known: Collection[str]) -> Found:
    """Every instance referred to exists; those in the content of a report are evidence, and nothing else is missing."""
    if kind.name != "KO":  # a note of rejection names objects that are not delivered with it
        missing = {uid for uid in _referenced(item) if uid not in known}
        if missing:
            yield (
                "reference",
                f"{len(missing)} referenced instances are neither sources nor delivered, e.g. {min(missing)}",
            )
    if kind.name not in ("SR", "CAD", "KO"):
        return
    evidence = {
        uid for entry in item.get("CurrentRequestedProcedureEvidenceSequence", ()) for uid in _referenced(entry)
    }
    content = {uid for entry in item.get("ContentSequence", ()) for uid in _referenced(entry)}
    if content - evidence:
        yield "evidence", f"{len(content - evidence)} instances of the content are not listed as evidence"


def _referenced(dataset: Dataset) -> Iterator[str]:
    """Referenced SOP Instance UIDs at any depth, but for those of `_CONTEXT`."""
    for tag in sorted(dataset.keys()):
        if tag == PER_FRAME:
            yield from (uid for frame in read_frame_groups(dataset) for uid, _ in frame.sources)
            continue
        raw = dataset.get_item(tag)
        if isinstance(raw, RawDataElement) and raw.VR == "SQ" and raw.is_little_endian and not raw.is_implicit_VR:
            if keyword_for_tag(tag) not in _CONTEXT:
                yield from uids_in(raw.value or b"", "ReferencedSOPInstanceUID")
            continue
        element = dataset[tag]
        if element.keyword == "ReferencedSOPInstanceUID":
            yield str(element.value)
        elif element.VR == "SQ" and element.keyword not in _CONTEXT:
            for item in element.value:
                yield from _referenced(item)
