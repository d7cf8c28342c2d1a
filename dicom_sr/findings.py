"""What an algorithm found, free of any file format: the one `Result` from which every output is rendered.

All classes are frozen. Arrays are (slice, row, column) on the grid of the source series, whose slices are
ordered by `SourceImage`; units are UCUM; codes are `pydicom.sr.coding.Code` (value, scheme designator,
meaning). Points in an image are (column, row) as in PS3.3 C.10.5.1.2: 0, 0 is the outer corner of the first pixel;
points in space are LPS millimetres.
"""

from dataclasses import dataclass
from datetime import date, datetime
from enum import Enum

import numpy as np
from pydicom.sr.coding import Code

from dicom_sr.label_runs import label_extents

Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class Algorithm:
    """Who found it (TID 4019, Contributing Equipment). A new version or digest is another device.

    Parameters
    ----------
    name, version, manufacturer : str
        As shown to the radiologist.
    identifier : str
        Machine name of the model, e.g. ``brain-ventricles``.
    digest : str
        SHA-256 (hex) of the manifest, which itself names the SHA-256 of the weights.
    family : Code
        CID 7162, the family of algorithms.
    intended_use : str
        One sentence; carries "Not for clinical use" where that holds.
    parameters : tuple of (str, str)
        Further Algorithm Parameters, e.g. execution provider.
    """

    name: str
    version: str
    manufacturer: str
    identifier: str
    digest: str
    family: Code
    intended_use: str = ""
    parameters: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Equipment:
    """The node that wrote the object (Enhanced General Equipment, PS3.3 C.7.5.2)."""

    manufacturer: str
    manufacturer_model_name: str
    software_versions: tuple[str, ...]
    device_serial_number: str


@dataclass(frozen=True)
class Segment:
    """One label of a label volume (PS3.3 C.8.20.4).

    Parameters
    ----------
    number : int
        Its value in the label volume, from 1.
    label : str
        Short unique name, as listed by viewers.
    category, type : Code
        Segmented Property Category (CID 7150) and Type.
    anatomic_region, laterality : Code, optional
        For lesions, and where the type alone does not say where.
    rgb : tuple of int
        Display colour, 0 to 255.
    """

    number: int
    label: str
    category: Code
    type: Code
    rgb: Rgb
    anatomic_region: Code | None = None
    laterality: Code | None = None


@dataclass(frozen=True)
class PriorValue:
    """What the same measurement was in an earlier study of the patient."""

    value: float
    study_date: date
    study_instance_uid: str


@dataclass(frozen=True)
class NormalRange:
    """What is normal for a measurement, in its unit (TID 312).

    Parameters
    ----------
    lower, upper : float, optional
        At least one of the limits.
    description : str
        Of whom it is the range: `men of 40 to 60 years`.
    authority : str
        Who says so, as a reference to what is published.
    """

    lower: float | None = None
    upper: float | None = None
    description: str = ""
    authority: str = ""


@dataclass(frozen=True)
class Uncertainty:
    """By how much the true value may be larger or smaller, in the unit of the measurement (TID 310)."""

    above: float
    below: float


@dataclass(frozen=True)
class Measurement:
    """A number with a meaning (TID 300): concept, value, UCUM unit, how it was got, and what it was before.

    What is normal and how certain it is are known only where the maker of the model says so; nothing of it is computed
    here. `normality` is one of CID 222.
    """

    concept: Code
    value: float
    unit: Code
    derivation: Code | None = None
    method: Code | None = None
    prior: PriorValue | None = None
    normality: Code | None = None
    normal_range: NormalRange | None = None
    uncertainty: Uncertainty | None = None


class Presence(Enum):
    """Whether what a finding names is there. An absent finding was looked for and not found."""

    PRESENT = "present"
    ABSENT = "absent"
    INDETERMINATE = "indeterminate"


@dataclass(frozen=True)
class Likelihood:
    """A score between 0 and 1 with what it is a score of, e.g. (111012, DCM, Certainty of Finding).

    Parameters
    ----------
    value : float
    meaning : Code
    operating_point : float, optional
        The score from which the finding counts as present.
    """

    value: float
    meaning: Code
    operating_point: float | None = None


@dataclass(frozen=True)
class Qualifier:
    """A qualitative evaluation (TID 1501 row 10): a coded question and its coded answer."""

    concept: Code
    value: Code


class PlanarShape(Enum):
    """Graphic Type of a region in an image (PS3.3 C.18.6.1.2); a polyline whose ends meet is closed."""

    POINT = "POINT"
    MULTIPOINT = "MULTIPOINT"
    POLYLINE = "POLYLINE"
    CIRCLE = "CIRCLE"
    ELLIPSE = "ELLIPSE"


@dataclass(frozen=True)
class PlanarRegion:
    """A region in one image, or in one frame of it (TID 1410, SCOORD).

    Parameters
    ----------
    sop_instance_uid : str
        One of the images of the result.
    shape : PlanarShape
    points : tuple of (float, float)
        (column, row) in pixels, as the graphic type wants them.
    frame_number : int, optional
        From 1, in a multi-frame image.
    """

    sop_instance_uid: str
    shape: PlanarShape
    points: tuple[tuple[float, float], ...]
    frame_number: int | None = None


class SpatialShape(Enum):
    """Kinds of regions in space. BOX is no graphic type of DICOM: each mouthpiece writes it in its own way."""

    POINT = "POINT"
    POLYGON = "POLYGON"
    ELLIPSOID = "ELLIPSOID"
    BOX = "BOX"
    """Four points: a corner, and the three corners that share an edge with it."""


@dataclass(frozen=True)
class SpatialRegion:
    """A region in space (TID 1411 and 1410, SCOORD3D); points are LPS millimetres."""

    shape: SpatialShape
    points: tuple[tuple[float, float, float], ...]
    frame_of_reference_uid: str


Region = PlanarRegion | SpatialRegion


@dataclass(frozen=True, eq=False)
class Map:
    """A number for every voxel: heat, probability, a physical quantity.

    Parameters
    ----------
    name : str
        Short, unique within the result.
    quantity, unit : Code
        What the values are (TID 300 concept) and their UCUM unit.
    values : ndarray of float32, shape (slice, row, column)
        On the source grid; read-only.
    segment_number : int, optional
        The segment of which these are the fractions, 0 to 1: a FRACTIONAL Segmentation can show them.
    """

    name: str
    quantity: Code
    unit: Code
    values: np.ndarray
    segment_number: int | None = None


@dataclass(frozen=True)
class Finding:
    """Something found or looked for, with its places and measurements.

    Parameters
    ----------
    finding : Code
        What it is (121071, DCM, Finding).
    finding_site : Code, optional
        Where it is (363698007, SCT, Finding Site).
    segment_number : int, optional
        The segment that shows it; None for a finding without a place.
    measurements : tuple of Measurement
        In the order in which they are to be read.
    tracking_identifier : str
        Short text unique within the result, from which tracking UIDs are derived.
    presence : Presence
    likelihood : Likelihood, optional
        The score that decided.
    regions : tuple of Region
        Where it is, if not shown by a segment.
    qualifiers : tuple of Qualifier
    images : tuple of str
        SOP Instance UIDs of the images that a finding without a place is about; empty means all.
    critical : bool
        Somebody is to be told at once when it is present.
    """

    finding: Code
    tracking_identifier: str
    segment_number: int | None = None
    finding_site: Code | None = None
    laterality: Code | None = None
    measurements: tuple[Measurement, ...] = ()
    presence: Presence = Presence.PRESENT
    likelihood: Likelihood | None = None
    regions: tuple[Region, ...] = ()
    qualifiers: tuple[Qualifier, ...] = ()
    images: tuple[str, ...] = ()
    critical: bool = False

    @property
    def is_alarm(self) -> bool:
        """True when somebody is to be told: marked critical, present, and its score at the operating point or over."""
        if not self.critical or self.presence is not Presence.PRESENT:
            return False
        score = self.likelihood
        return score is None or score.operating_point is None or score.value >= score.operating_point


@dataclass(frozen=True)
class SourceImage:
    """Reference to one image that was analysed, in slice order.

    `series_instance_uid` is empty for an image of the result's own series, `study_instance_uid` for one of its study.
    `frame_number` (from 1) names one frame of a
    multi-frame image; without it such an image stands for all its frames, in their order.
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str = ""
    frame_number: int | None = None
    study_instance_uid: str = ""


@dataclass(frozen=True)
class Refusal:
    """Why a study that was wanted was not analysed.

    Parameters
    ----------
    code : str
        Machine name, e.g. ``gap-in-stack``.
    text : str
        One sentence for people, without patient data.
    """

    code: str
    text: str


@dataclass(frozen=True)
class Predecessor:
    """Reference to an earlier report of the same study (Predecessor Documents Sequence, PS3.3 C.17.2)."""

    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, eq=False)
class Result:
    """Everything that one run of one model on one input set found.

    Parameters
    ----------
    study_instance_uid, series_instance_uid : str
        Of the source images.
    input_digest : str
        SHA-256 (hex) that names the input set; UIDs of all objects derive from it.
    revision : int
        From 1; a later revision replaces the earlier ones of the same study and model.
    created_at : datetime
        Aware; the date and time of content, the same for every rendering and every retry.
    source_images : tuple of SourceImage
        In slice order; as many as `labels` has slices (or one, whose frames they are).
    labels : ndarray of uint8 or uint16, shape (slice, row, column), optional
        Label map on the source grid, 0 is background. Read-only.
    overlapping_labels : tuple of ndarray
        Further label maps of the same shape and kind, where segments overlap; a segment number is in one map only.
    segments : tuple of Segment
        Every label the model can give, present in a label map or not.
    findings : tuple of Finding
    maps : tuple of Map
    text : str
        What the model itself wrote, in words; never mixed with text made from findings.
    further_images : tuple of SourceImage
        What else was used, with its series: other inputs, earlier studies (named in the evidence, not in the grid).
    remarks : tuple of str
        What was corrected or left out (geometry, empty segments, CPU fall back), written into the report.
    predecessors : tuple of Predecessor
        The reports that this result replaces.
    not_for_clinical_use : bool
        Say so in every object.
    not_analysed : Refusal, optional
        The algorithm could not be run: the Result has no findings, says this and nothing else, and its source images
        are those that were looked at, of any series.
    """

    study_instance_uid: str
    series_instance_uid: str
    input_digest: str
    revision: int
    created_at: datetime
    algorithm: Algorithm
    equipment: Equipment
    source_images: tuple[SourceImage, ...]
    labels: np.ndarray | None = None
    overlapping_labels: tuple[np.ndarray, ...] = ()
    segments: tuple[Segment, ...] = ()
    findings: tuple[Finding, ...] = ()
    maps: tuple[Map, ...] = ()
    text: str = ""
    further_images: tuple[SourceImage, ...] = ()
    remarks: tuple[str, ...] = ()
    predecessors: tuple[Predecessor, ...] = ()
    not_for_clinical_use: bool = True
    not_analysed: Refusal | None = None

    @property
    def label_maps(self) -> tuple[np.ndarray, ...]:
        """All label maps: `labels`, then those that overlap it."""
        return () if self.labels is None else (self.labels, *self.overlapping_labels)

    @property
    def present_segments(self) -> tuple[Segment, ...]:
        """Segments with at least one voxel in a label map."""
        highest = max((segment.number for segment in self.segments), default=0)
        counts = [label_extents(labels, highest).voxels.sum(axis=0) for labels in self.label_maps]
        return tuple(segment for segment in self.segments if any(count[segment.number] for count in counts))
