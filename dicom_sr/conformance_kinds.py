"""What each kind of object must have (type 1 and type 2 attributes of its modules), and which content items may stand
under which (PS3.3 A.35): data only.
"""

from dataclasses import dataclass

COMMON_1 = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "InstanceNumber",
            "Manufacturer", "SeriesNumber", "SeriesDescription")  # fmt: skip
COMMON_2 = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
            "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
EQUIPMENT = ("ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions")
CONTENT = ("ContentDate", "ContentTime")
FRAMES = ("NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
          "DimensionOrganizationSequence", "DimensionIndexSequence")  # fmt: skip
REPORT = ("CompletionFlag", "VerificationFlag", "ConceptNameCodeSequence", "ContentSequence", *CONTENT)
PERFORMED = ("ReferencedPerformedProcedureStepSequence", "PerformedProcedureCodeSequence")


@dataclass(frozen=True)
class Kind:
    """A SOP class that we write.

    Parameters
    ----------
    name : str
        ``SEG``, ``SR``, ``CAD``, ``KO`` or another; rules are chosen by it.
    type_1, type_2 : tuple of str
        Keywords, beside `COMMON_1` and `COMMON_2`.
    any_of : tuple of str
        Keywords of which one must be there.
    """

    name: str
    type_1: tuple[str, ...] = ()
    type_2: tuple[str, ...] = ()
    any_of: tuple[str, ...] = ()


_SEGMENTATION = Kind(
    "SEG", ("SegmentationType", "SegmentSequence", "ContentLabel", "PixelData", *FRAMES, *EQUIPMENT, *CONTENT),
    ("ContentDescription", "ContentCreatorName"),
)  # fmt: skip
_REPORT = Kind("SR", (*REPORT, *EQUIPMENT, "CurrentRequestedProcedureEvidenceSequence"), PERFORMED)
_CAD = Kind("CAD", (*REPORT, "CurrentRequestedProcedureEvidenceSequence", "ContentTemplateSequence"), PERFORMED)

KINDS = {
    "1.2.840.10008.5.1.4.1.1.66.4": _SEGMENTATION,
    "1.2.840.10008.5.1.4.1.1.66.7": _SEGMENTATION,
    "1.2.840.10008.5.1.4.1.1.88.34": _REPORT,
    "1.2.840.10008.5.1.4.1.1.88.33": _REPORT,
    "1.2.840.10008.5.1.4.1.1.88.22": _REPORT,
    "1.2.840.10008.5.1.4.1.1.88.50": _CAD,
    "1.2.840.10008.5.1.4.1.1.88.65": _CAD,
    "1.2.840.10008.5.1.4.1.1.88.59": Kind(
        "KO", ("ConceptNameCodeSequence", "ContentSequence", "CurrentRequestedProcedureEvidenceSequence", *CONTENT),
        ("ReferencedPerformedProcedureStepSequence",),
    ),
    "1.2.840.10008.5.1.4.1.1.11.1": Kind(
        "PR", ("ContentLabel", "PresentationCreationDate", "PresentationCreationTime", "ReferencedSeriesSequence",
               "DisplayedAreaSelectionSequence"),
        ("ContentDescription", "ContentCreatorName"),
    ),
    "1.2.840.10008.5.1.4.1.1.7.4": Kind(
        "SC", ("ConversionType", "Rows", "Columns", "PhotometricInterpretation", "PixelData", "BurnedInAnnotation",
               "NumberOfFrames"),
    ),
    "1.2.840.10008.5.1.4.1.1.30": Kind(
        "MAP", ("ContentLabel", *FRAMES, *EQUIPMENT, *CONTENT), ("ContentDescription", "ContentCreatorName"),
        ("FloatPixelData", "DoubleFloatPixelData", "PixelData"),
    ),
    "1.2.840.10008.5.1.4.1.1.481.3": Kind(
        "RTSTRUCT", ("StructureSetLabel", "StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"),
        ("StructureSetDate", "StructureSetTime"),
    ),
    "1.2.840.10008.5.1.4.1.1.104.1": Kind(
        "DOC", ("EncapsulatedDocument", "MIMETypeOfEncapsulatedDocument", "BurnedInAnnotation", *EQUIPMENT),
        ("DocumentTitle", "AcquisitionDateTime", "ConceptNameCodeSequence", *CONTENT),
    ),
}  # fmt: skip
"""SOP Class UID -> what it must have."""

_SIMPLE = frozenset({"TEXT", "CODE", "NUM", "DATETIME", "DATE", "TIME", "UIDREF", "PNAME"})
_REFERENCES = frozenset({"COMPOSITE", "IMAGE", "WAVEFORM"})
_COORDINATES = frozenset({"SCOORD", "TCOORD"})
_ANY = frozenset({*_SIMPLE, *_REFERENCES, *_COORDINATES, "SCOORD3D", "CONTAINER"})
_VALUES = frozenset({"TEXT", "CODE", "NUM"})

Relations = tuple[tuple[frozenset[str], str, frozenset[str]], ...]

_GENERAL: Relations = (
    (frozenset({"CONTAINER"}), "CONTAINS", _ANY - {"SCOORD3D"}),
    (frozenset({"CONTAINER", *_VALUES}), "HAS OBS CONTEXT", _SIMPLE | {"COMPOSITE"}),
    (frozenset({"CONTAINER", "NUM", *_REFERENCES}), "HAS ACQ CONTEXT", _SIMPLE | {"CONTAINER"}),
    (_ANY, "HAS CONCEPT MOD", frozenset({"TEXT", "CODE"})),
    (_VALUES | {"PNAME"}, "HAS PROPERTIES", _ANY - {"SCOORD3D"}),
    (_VALUES, "INFERRED FROM", _ANY - {"SCOORD3D"}),
    (frozenset({"SCOORD"}), "SELECTED FROM", frozenset({"IMAGE"})),
    (frozenset({"TCOORD"}), "SELECTED FROM", frozenset({"SCOORD", "IMAGE", "WAVEFORM"})),
)
_IN_SPACE: Relations = (
    (frozenset({"CONTAINER"}), "CONTAINS", frozenset({"SCOORD3D"})),
    (_VALUES, "HAS PROPERTIES", frozenset({"SCOORD3D"})),
    (_VALUES, "INFERRED FROM", frozenset({"SCOORD3D"})),
)
_KEY_OBJECTS: Relations = (
    (frozenset({"CONTAINER"}), "CONTAINS", _REFERENCES | {"TEXT"}),
    (frozenset({"CONTAINER"}), "HAS OBS CONTEXT", frozenset({"TEXT", "CODE", "UIDREF", "PNAME"})),
    (frozenset({"CONTAINER"}), "HAS CONCEPT MOD", frozenset({"CODE"})),
)
_CAD_RELATIONS: Relations = (
    (frozenset({"CONTAINER"}), "CONTAINS", frozenset({"CODE", "NUM", "SCOORD", "IMAGE", "CONTAINER", "TEXT", "DATE"})),
    (_VALUES | {"CONTAINER"}, "HAS OBS CONTEXT", _SIMPLE),
    (frozenset({"IMAGE", "CONTAINER"}), "HAS ACQ CONTEXT", frozenset({"TEXT", "CODE", "DATE", "TIME", "NUM"})),
    (frozenset({"CONTAINER", "CODE", "COMPOSITE", "NUM"}), "HAS CONCEPT MOD", frozenset({"TEXT", "CODE"})),
    (_VALUES, "HAS PROPERTIES", frozenset({"CONTAINER", "TEXT", "CODE", "NUM", "DATE", "IMAGE", "SCOORD", "UIDREF"})),
    (frozenset({"CODE", "NUM"}), "INFERRED FROM", frozenset({"CODE", "NUM", "SCOORD", "CONTAINER", "TEXT", "IMAGE"})),
    (frozenset({"SCOORD"}), "SELECTED FROM", frozenset({"IMAGE"})),
)

MODALITIES = {"SEG": "SEG", "SR": "SR", "CAD": "SR", "KO": "KO", "PR": "PR", "RTSTRUCT": "RTSTRUCT", "DOC": "DOC"}
"""Modality (0008,0060) of each kind that has one of its own."""

RELATIONS: dict[str, Relations] = {
    "1.2.840.10008.5.1.4.1.1.88.34": _GENERAL + _IN_SPACE,
    "1.2.840.10008.5.1.4.1.1.88.33": _GENERAL,
    "1.2.840.10008.5.1.4.1.1.88.22": _GENERAL,
    "1.2.840.10008.5.1.4.1.1.88.50": _CAD_RELATIONS,
    "1.2.840.10008.5.1.4.1.1.88.65": _CAD_RELATIONS,
    "1.2.840.10008.5.1.4.1.1.88.59": _KEY_OBJECTS,
}
"""SOP Class UID -> (value types of the item above, relationship, value types of the item below) that are allowed."""

BY_REFERENCE = frozenset(uid for uid in RELATIONS if uid.rsplit(".", 1)[1] in ("33", "34", "50", "65"))
"""SOP classes whose content items may refer to another item of the same document (Referenced Content Item)."""
