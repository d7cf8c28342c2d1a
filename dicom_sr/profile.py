"""What a destination can take: one frozen value, by which the renderers decide what to write.

Every field is a plain value; `profile_files` reads profiles from TOML files. Pure: decides only.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum

from pydicom.sr.coding import Code

from dicom_sr import codes


class Role(Enum):
    """The objects that a Result can be rendered into. An object without content for a Result is left out."""

    SEGMENTATION = "segmentation"
    """Segmentation: the label volume on the source grid; several where segments overlap."""
    REPORT = "report"
    """Structured Report, TID 1500: the findings, with their places where they have one."""
    REPORT_WITHOUT_PLACE = "report-without-place"
    """Structured Report, TID 1500: findings about the images as a whole, when others have a place."""
    FRACTIONAL_SEGMENTATION = "fractional-segmentation"
    """Segmentation, FRACTIONAL: the maps that are fractions of a segment, beside the one of record."""
    PARAMETRIC_MAP = "parametric-map"
    """Parametric Map: the maps of the Result."""
    STRUCTURE_SET = "structure-set"
    """RT Structure Set: contours of the segments."""
    PRESENTATION_STATE = "presentation-state"
    """Grayscale Softcopy Presentation State: outlines, boxes, points and texts over the images."""
    SECONDARY_CAPTURE = "secondary-capture"
    """Multi-frame True Color Secondary Capture: the findings burned into copies of the images."""
    MAMMOGRAPHY_CAD = "mammography-cad"
    """Mammography CAD SR, TID 4000."""
    CHEST_CAD = "chest-cad"
    """Chest CAD SR, TID 4100."""
    KEY_OBJECTS = "key-objects"
    """Key Object Selection, TID 2010: the images that show findings."""
    DOCUMENT = "document"
    """Encapsulated PDF: one page for people."""
    NOT_ANALYSED = "not-analysed"
    """Structured Report that says why a study was not analysed; no profile asks for it, the site does."""
    REJECTION = "rejection"
    """Key Object Selection that retracts objects sent before (IHE IOCM); no profile asks for it."""


class ReportClass(Enum):
    """SOP classes that a TID 1500 report may use, newest first."""

    COMPREHENSIVE_3D = "comprehensive-3d"
    COMPREHENSIVE = "comprehensive"
    ENHANCED = "enhanced"


class SegmentationFlavour(Enum):
    """How the label volume is stored (Segmentation Type, PS3.3 C.8.20.2.3); fractions have a role of their own."""

    BINARY = "binary"
    """One bit a voxel, one frame for each segment and slice: opens everywhere."""
    LABELMAP = "labelmap"
    """One frame a slice, which holds segment numbers: small, but not every viewer takes it."""


REPORT_CLASS_UIDS = {
    ReportClass.COMPREHENSIVE_3D: "1.2.840.10008.5.1.4.1.1.88.34",
    ReportClass.COMPREHENSIVE: "1.2.840.10008.5.1.4.1.1.88.33",
    ReportClass.ENHANCED: "1.2.840.10008.5.1.4.1.1.88.22",
}
SEGMENTATION_CLASS_UIDS = {
    SegmentationFlavour.BINARY: "1.2.840.10008.5.1.4.1.1.66.4",
    SegmentationFlavour.LABELMAP: "1.2.840.10008.5.1.4.1.1.66.7",
}
OTHER_CLASS_UIDS = {
    Role.FRACTIONAL_SEGMENTATION: "1.2.840.10008.5.1.4.1.1.66.4",
    Role.PARAMETRIC_MAP: "1.2.840.10008.5.1.4.1.1.30",
    Role.STRUCTURE_SET: "1.2.840.10008.5.1.4.1.1.481.3",
    Role.PRESENTATION_STATE: "1.2.840.10008.5.1.4.1.1.11.1",
    Role.SECONDARY_CAPTURE: "1.2.840.10008.5.1.4.1.1.7.4",
    Role.MAMMOGRAPHY_CAD: "1.2.840.10008.5.1.4.1.1.88.50",
    Role.CHEST_CAD: "1.2.840.10008.5.1.4.1.1.88.65",
    Role.KEY_OBJECTS: "1.2.840.10008.5.1.4.1.1.88.59",
    Role.DOCUMENT: "1.2.840.10008.5.1.4.1.1.104.1",
}
"""SOP Class UIDs (PS3.4 B.5) of the roles that have one class only."""

REPORTS = (Role.REPORT, Role.REPORT_WITHOUT_PLACE)
CAD_REPORTS = (Role.MAMMOGRAPHY_CAD, Role.CHEST_CAD)
STRUCTURED_REPORTS = frozenset({*REPORTS, *CAD_REPORTS, Role.NOT_ANALYSED})
"""Roles whose objects name those that they replace (Predecessor Documents Sequence)."""
TELLING = frozenset({Role.REPORT, *CAD_REPORTS, Role.DOCUMENT, Role.SECONDARY_CAPTURE})
"""Roles that tell a person what was found; a result without any of them says nothing."""


@dataclass(frozen=True)
class DestinationProfile:
    """Which objects a destination gets, and in which flavour.

    Parameters
    ----------
    name : str
        Part of the UIDs of all objects rendered with it: whoever changes a profile gives it another name.
    roles : tuple of Role
        Objects wanted; a report never refers to a segmentation that is not among them.
    report_class : ReportClass
    image_library : bool
        Write the Image Library (TID 1600) into reports with a place.
    algorithm_purpose : Code
        Purpose of Reference of the algorithm in the Contributing Equipment Sequence (IHE AIR uses another one
        than 109102, DCM).
    title_with_place, title_without_place : Code
        Report titles. Under 126000 OHIF opens no finding without coordinates, so the second must be another.
    first_series_number : int
        Series numbers are taken from the 4500 that begin here; images should have none of them.
    native_annotations : bool
        Write outlines as annotations that OHIF takes over as its own, editable ones (TID 1501 with TID 320 under the
        tracking identifiers of Cornerstone3D).
    draft_text : bool
        Write a draft impression made from the findings into the report.
    report_only_without_cad : bool
        Write the TID 1500 reports only of a Result that no CAD SR of the profile can say.
    segmentation_flavour : SegmentationFlavour
    bits_across_bytes : bool
        Write BINARY also where frames begin within a byte, since rows times columns are no multiple of 8: OHIF 3.13
        then draws most frames in the wrong place. Without it such a Segmentation has a byte a pixel (FRACTIONAL,
        OCCUPANCY, only 0 and 255), which it takes for BINARY.
    compress_label_map : bool
        Store a LABELMAP Segmentation in RLE Lossless instead of Explicit VR Little Endian.
    maximum_frames, maximum_megabytes : int
        Largest object that the destination takes (MB of 10^6 bytes); 0 means no limit. A larger one counts as refused.
    report_fallback : tuple of ReportClass
        What to try instead of `report_class`, in this order.
    segmentation_fallback : tuple of SegmentationFlavour or Role
        What to try instead of `segmentation_flavour`; a role (SECONDARY_CAPTURE) takes the segmentation's place.
    """

    name: str
    roles: tuple[Role, ...] = (Role.SEGMENTATION, Role.REPORT, Role.REPORT_WITHOUT_PLACE)
    report_class: ReportClass = ReportClass.COMPREHENSIVE_3D
    image_library: bool = True
    algorithm_purpose: Code = codes.PROCESSING_EQUIPMENT
    title_with_place: Code = codes.IMAGING_MEASUREMENT_REPORT
    title_without_place: Code = codes.DIAGNOSTIC_IMAGING_REPORT
    first_series_number: int = 9000
    native_annotations: bool = False
    draft_text: bool = False
    report_only_without_cad: bool = False
    segmentation_flavour: SegmentationFlavour = SegmentationFlavour.BINARY
    bits_across_bytes: bool = False
    compress_label_map: bool = True
    maximum_frames: int = 0
    maximum_megabytes: int = 0
    report_fallback: tuple[ReportClass, ...] = (ReportClass.COMPREHENSIVE, ReportClass.ENHANCED)
    segmentation_fallback: tuple[SegmentationFlavour | Role, ...] = ()

    @property
    def needs_pixels(self) -> bool:
        """Whether objects show the images themselves, so that sources have to come with their pixel data; also where a
        Secondary Capture takes the place of what is too large.
        """
        may_be_too_large = self.maximum_frames or self.maximum_megabytes
        captures = may_be_too_large and Role.SECONDARY_CAPTURE in self.segmentation_fallback
        return bool(captures or {Role.SECONDARY_CAPTURE, Role.DOCUMENT}.intersection(self.roles))

    def sop_class_uid(self, role: Role) -> str:
        """The SOP class that an object of this role has under this profile."""
        if role is Role.SEGMENTATION:
            return SEGMENTATION_CLASS_UIDS[self.segmentation_flavour]
        if role in (*REPORTS, Role.NOT_ANALYSED):
            return REPORT_CLASS_UIDS[self.report_class]
        return OTHER_CLASS_UIDS[Role.KEY_OBJECTS if role is Role.REJECTION else role]

    def segmentation_type(self, pixels: int) -> str:
        """Segmentation Type (PS3.3 C.8.20.2) of the Segmentation of record, whose frames have so many pixels."""
        if self.segmentation_flavour is SegmentationFlavour.BINARY and pixels % 8 and not self.bits_across_bytes:
            return "FRACTIONAL"
        return self.segmentation_flavour.value.upper()

    def without(self, refused: Collection[str], too_large: Collection[Role] = ()) -> "DestinationProfile | None":
        """What a destination gets that refuses these SOP Class UIDs, by the fallback order, and for which objects of
        these roles are too large; the same where it refuses none of ours.

        The name says what is different, so that UIDs are too. None when nothing is left that tells the findings.
        """
        changed = self._with_other_report(refused)._with_other_segmentation(refused)
        dropped = [
            role
            for role in changed.roles
            if role not in (Role.SEGMENTATION, *REPORTS)
            and (role in too_large or changed.sop_class_uid(role) in refused)
        ]
        roles = tuple(role for role in changed.roles if role not in dropped)
        if not TELLING.intersection(roles):
            return None
        changed = replace(changed, roles=roles)
        return self if changed == self else replace(changed, name=self._name_of(changed))

    def _with_other_report(self, refused: Collection[str]) -> "DestinationProfile":
        for report_class in (self.report_class, *self.report_fallback):
            if REPORT_CLASS_UIDS[report_class] not in refused:
                return replace(self, report_class=report_class)
        return replace(self, roles=tuple(role for role in self.roles if role not in REPORTS))

    def _with_other_segmentation(self, refused: Collection[str]) -> "DestinationProfile":
        if Role.SEGMENTATION not in self.roles:
            return self
        for choice in (self.segmentation_flavour, *self.segmentation_fallback):
            if isinstance(choice, SegmentationFlavour):
                if SEGMENTATION_CLASS_UIDS[choice] not in refused:
                    return replace(self, segmentation_flavour=choice)
            elif OTHER_CLASS_UIDS[choice] not in refused:
                roles = tuple(
                    choice if role is Role.SEGMENTATION else role for role in self.roles if role is not choice
                )
                return replace(self, roles=roles)
        return replace(self, roles=tuple(role for role in self.roles if role is not Role.SEGMENTATION))

    def _name_of(self, changed: "DestinationProfile") -> str:
        """`conservative-comprehensive-without-segmentation` and the like: what is other or left out."""
        parts = [self.name, changed.report_class.value]
        if changed.segmentation_flavour is not self.segmentation_flavour:
            parts.append(changed.segmentation_flavour.value)
        parts += [f"with-{role.value}" for role in changed.roles if role not in self.roles]
        parts += [f"without-{role.value}" for role in self.roles if role not in changed.roles]
        return "-".join(parts)


def is_form_of(name: str, profile_name: str) -> bool:
    """Whether a name is one that `DestinationProfile.without` may give to what is left of a profile."""
    forms = (f"{profile_name}-{each.value}" for each in ReportClass)
    return any(name == form or name.startswith(f"{form}-") for form in forms)


CONSERVATIVE = DestinationProfile("conservative")
"""What opens natively in every viewer tried: BINARY Segmentation and Comprehensive 3D SR, Explicit VR LE."""
