"""What a destination can take: one frozen value, by which the renderers decide what to write.

Every field is a plain value, so that a profile can be written as data.
"""

from dataclasses import dataclass
from enum import Enum

from pydicom.sr.coding import Code

from dicom_sr import codes


class Role(Enum):
    """The objects that a Result can be rendered into."""

    SEGMENTATION = "segmentation"
    """Segmentation: the label volume on the source grid."""
    REPORT = "report"
    """Structured Report, TID 1500: the findings, with their places where they have one."""
    REPORT_WITHOUT_PLACE = "report-without-place"
    """Structured Report, TID 1500: findings about the images as a whole, when others have a place."""
    FRACTIONAL_SEGMENTATION = "fractional-segmentation"
    """FRACTIONAL Segmentation: the maps of the result that are fractions of a segment."""
    PARAMETRIC_MAP = "parametric-map"
    """Parametric Maps: all maps of the result, as floating point numbers."""
    STRUCTURE_SET = "structure-set"
    """RT Structure Set: contours of the segments, for planning systems."""
    PRESENTATION_STATE = "presentation-state"
    """Grayscale Softcopy Presentation State: contours, boxes, points and their names over the images."""
    SECONDARY_CAPTURE = "secondary-capture"
    """Multi-frame True Color Secondary Capture: key images with the findings burned in."""


class SegmentationFlavour(Enum):
    """How the label volume is stored (Segmentation Type, PS3.3 C.8.20.2.3)."""

    BINARY = "binary"
    """One bit a voxel, one frame for each segment and slice: opens everywhere."""
    LABELMAP = "labelmap"
    """One frame a slice, which holds segment numbers: small, but not every viewer takes it."""


class ReportClass(Enum):
    """SOP classes that a TID 1500 report may use, newest first."""

    COMPREHENSIVE_3D = "comprehensive-3d"
    COMPREHENSIVE = "comprehensive"
    ENHANCED = "enhanced"


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
    segmentation_flavour : SegmentationFlavour
    compress_label_map : bool
        Store a LABELMAP Segmentation in RLE Lossless instead of Explicit VR Little Endian.
    image_library : bool
        Write the Image Library (TID 1600) into reports with a place.
    algorithm_purpose : Code
        Purpose of Reference of the algorithm in the Contributing Equipment Sequence (IHE AIR uses another one
        than 109102, DCM).
    title_with_place, title_without_place : Code
        Report titles. Under 126000 OHIF opens no finding without coordinates, so the second must be another.
    first_series_number : int
        Series numbers are taken from the 900 that begin here; images should have none of them.
    """

    name: str
    roles: tuple[Role, ...] = (Role.SEGMENTATION, Role.REPORT, Role.REPORT_WITHOUT_PLACE)
    report_class: ReportClass = ReportClass.COMPREHENSIVE_3D
    segmentation_flavour: SegmentationFlavour = SegmentationFlavour.BINARY
    compress_label_map: bool = True
    image_library: bool = True
    algorithm_purpose: Code = codes.PROCESSING_EQUIPMENT
    title_with_place: Code = codes.IMAGING_MEASUREMENT_REPORT
    title_without_place: Code = codes.DIAGNOSTIC_IMAGING_REPORT
    first_series_number: int = 9000


CONSERVATIVE = DestinationProfile("conservative")
"""What opens natively in every viewer tried: BINARY Segmentation and Comprehensive 3D SR, Explicit VR LE."""
