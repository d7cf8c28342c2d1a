"""What an algorithm found, free of any file format: the one `Result` from which every output is rendered.

All classes are frozen. Arrays are (slice, row, column) on the grid of the source series, whose slices are
ordered by `SourceImage`; units are UCUM; codes are `pydicom.sr.coding.Code` (value, scheme designator,
meaning).
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from pydicom.sr.coding import Code

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
class Measurement:
    """A number with a meaning (TID 300): concept, value, UCUM unit, and how it was got."""

    concept: Code
    value: float
    unit: Code
    derivation: Code | None = None


@dataclass(frozen=True)
class Finding:
    """Something found, with its measurements.

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
    """

    finding: Code
    tracking_identifier: str
    segment_number: int | None = None
    finding_site: Code | None = None
    laterality: Code | None = None
    measurements: tuple[Measurement, ...] = ()


@dataclass(frozen=True)
class SourceImage:
    """Reference to one image that was analysed, in slice order."""

    sop_class_uid: str
    sop_instance_uid: str


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
        In slice order; as many as `labels` has slices.
    labels : ndarray of uint8 or uint16, shape (slice, row, column), optional
        Label map on the source grid, 0 is background. Read-only.
    segments : tuple of Segment
        Every label the model can give, present in `labels` or not.
    findings : tuple of Finding
    remarks : tuple of str
        What was corrected or left out (geometry, empty segments, CPU fall back), written into the report.
    predecessors : tuple of Predecessor
        The reports that this result replaces.
    not_for_clinical_use : bool
        Say so in every object.
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
    segments: tuple[Segment, ...] = ()
    findings: tuple[Finding, ...] = ()
    remarks: tuple[str, ...] = ()
    predecessors: tuple[Predecessor, ...] = ()
    not_for_clinical_use: bool = True

    @property
    def present_segments(self) -> tuple[Segment, ...]:
        """Segments with at least one voxel in `labels`."""
        if self.labels is None:
            return ()
        counts = count_labels(self.labels, max((s.number for s in self.segments), default=0)).sum(axis=0)
        return tuple(segment for segment in self.segments if counts[segment.number])


def count_labels(labels: np.ndarray, highest: int) -> np.ndarray:
    """Voxels of each label in each slice.

    Parameters
    ----------
    labels : ndarray of unsigned integers, shape (slice, row, column)
    highest : int
        The result has at least ``highest + 1`` columns; labels beyond it widen it.

    Returns
    -------
    ndarray of int64, shape (slice, label)
    """
    width = max(highest, int(labels.max(initial=0))) + 1
    counts = np.zeros((len(labels), width), dtype=np.int64)
    for slice_index, plane in enumerate(labels):  # slice by slice: bincount makes an int64 copy of what it counts
        if plane.any():
            counts[slice_index] = np.bincount(plane.ravel(), minlength=width)
        else:
            counts[slice_index, 0] = plane.size
    return counts
