"""The source images that an object refers to: checked against the Result, and trimmed to what may be copied.

Sources come from many makers and many years. What a type 2 attribute lacks is left empty, what cannot be
decoded or is no legal value becomes empty too, and nothing is invented; what an object cannot be written
without is refused by name.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DatasetSequence
from pydicom.valuerep import DA, TM, PersonName

from dicom_sr.errors import SourceMismatch
from dicom_sr.findings import Result

UTF_8 = "ISO_IR 192"

TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Type 2 attributes of the Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1)."""

EVERY_IMAGE = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
REQUIRED = (
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Source images of one Result, ready to be referred to.

    Parameters
    ----------
    images : tuple of Dataset
        Trimmed copies in slice order, without pixel data and private attributes. The first also carries the
        patient and study attributes, its PatientName left out: highdicom would write an unusual one into a
        warning.
    patient_name : PersonName or str
        As the source has it; empty where it has none.
    spacing_mm : tuple of float
        (slice, row, column), the slices' measured along their normal.
    character_set : str or list of str
        For everything that is copied (PS3.3 C.12.1.1.2); empty for the default repertoire.
    timezone_offset : str
        Timezone Offset From UTC of the source, or empty.
    """

    images: tuple[Dataset, ...]
    patient_name: PersonName | str
    spacing_mm: tuple[float, float, float]
    character_set: str | list[str]
    timezone_offset: str

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel in mL."""
        return float(np.prod(self.spacing_mm)) / 1000


def check_evidence(result: Result, sources: Sequence[Dataset]) -> Evidence:
    """The Evidence of a Result, or `SourceMismatch`.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        Headers of the source images in slice order; never changed.
    """
    _check_identity(result, sources)
    missing = sorted({name for source in sources for name in REQUIRED if _is_empty(source, name)})
    if missing:
        raise SourceMismatch(f"series {result.series_instance_uid}: source images lack {', '.join(missing)}")
    _check_grid(result, sources)
    spacing_mm = measure_spacing(sources)
    character_set = _character_set(sources[0])
    images = [_trimmed(source, spacing_mm[0], character_set) for source in sources]
    _copy_patient_and_study(sources[0], images[0])
    return Evidence(
        images=tuple(images),
        patient_name=sources[0].get("PatientName", "") or "",
        spacing_mm=spacing_mm,
        character_set=character_set,
        timezone_offset=str(sources[0].get("TimezoneOffsetFromUTC", "") or ""),
    )


def measure_spacing(sources: Sequence[Dataset]) -> tuple[float, float, float]:
    """Distance of voxel centres (slice, row, column) in mm; of one image its Slice Thickness, or 1 mm."""
    row_mm, column_mm = (float(value) for value in sources[0].PixelSpacing)
    if len(sources) == 1:
        return float(sources[0].get("SliceThickness") or 1.0), row_mm, column_mm
    along_row, along_column = np.array(sources[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(along_row, along_column)
    way = np.subtract(sources[-1].ImagePositionPatient, sources[0].ImagePositionPatient, dtype=float)
    return float(abs(normal @ way)) / (len(sources) - 1), row_mm, column_mm


def _check_identity(result: Result, sources: Sequence[Dataset]) -> None:
    """The sources are the images of the Result, in its order."""
    wanted = [image.sop_instance_uid for image in result.source_images]
    found = [str(source.get("SOPInstanceUID", "")) for source in sources]
    if not wanted or wanted != found:
        place = next((i for i, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), None)
        detail = "" if place is None else f", the first other one at slice {place}"
        raise SourceMismatch(
            f"series {result.series_instance_uid}: expected the {len(wanted)} source images of the result "
            f"in slice order, found {len(found)}{detail}"
        )
    for keyword, uid in (
        ("StudyInstanceUID", result.study_instance_uid),
        ("SeriesInstanceUID", result.series_instance_uid),
    ):
        others = {str(source.get(keyword, "")) for source in sources} - {uid}
        if others:
            raise SourceMismatch(f"expected {keyword} {uid} in every source image, found also {sorted(others)}")


def _check_grid(result: Result, sources: Sequence[Dataset]) -> None:
    """All images share one grid and frame of reference, and the label volume lies on it."""
    for keyword in ("FrameOfReferenceUID", "Rows", "Columns"):
        values = {str(source.get(keyword)) for source in sources}
        if len(values) > 1:
            raise SourceMismatch(
                f"series {result.series_instance_uid}: {len(values)} values of {keyword}, expected one"
            )
    grid = (len(sources), int(sources[0].Rows), int(sources[0].Columns))
    if result.labels is not None and result.labels.shape != grid:
        raise SourceMismatch(f"label volume of shape {result.labels.shape} on source images of grid {grid}")


def _is_empty(dataset: Dataset, keyword: str) -> bool:
    value = dataset.get(keyword)
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _character_set(source: Dataset) -> str | list[str]:
    """The source's Specific Character Set if it is one, else UTF-8, which can hold whatever was decoded."""
    value = source.get("SpecificCharacterSet")
    if not value:
        return ""
    terms = [value] if isinstance(value, str) else [term or "ISO 2022 IR 6" for term in value]
    known = {term.value for term in hd.SpecificCharacterSetValues}
    if not all(term in known for term in terms) or (len(terms) > 1 and UTF_8 in terms):
        return UTF_8
    return terms[0] if len(terms) == 1 else terms


def _trimmed(source: Dataset, slice_spacing_mm: float, character_set: str | list[str]) -> Dataset:
    """A copy with what every image is asked for; Slice Thickness falls back to the measured spacing."""
    image = Dataset()
    for keyword in EVERY_IMAGE:
        if not _is_empty(source, keyword):
            image[keyword] = copy(source[keyword])
    if "SliceThickness" not in image:
        image.SliceThickness = slice_spacing_mm
    image.SpacingBetweenSlices = slice_spacing_mm
    if character_set:
        image.SpecificCharacterSet = character_set
    return image


def _copy_patient_and_study(source: Dataset, image: Dataset) -> None:
    """Everything public of the patient and study groups but the name; illegal type 2 values become empty."""
    for element in source:
        tag = element.tag
        if not tag.is_private and tag.group in (0x0008, 0x0010, 0x0012, 0x0020, 0x0032, 0x0040) and tag not in image:
            image[tag] = copy(element)
    for keyword in TYPE_2:
        if keyword not in image or not _is_legal(keyword, image.get(keyword)):
            setattr(image, keyword, "")
    image.PatientName = ""
    _drop_empty_references(image)


def _is_legal(keyword: str, value: object) -> bool:
    """Whether highdicom, and the standard, take the value."""
    if not value:
        return True
    try:
        if keyword in ("PatientBirthDate", "StudyDate"):
            DA(str(value))
        elif keyword == "StudyTime":
            TM(str(value))
        elif keyword == "PatientSex":
            return value in ("M", "F", "O")
    except ValueError:
        return False
    return True


def _drop_empty_references(image: Dataset) -> None:
    """Referenced Study items without a UID refer to nothing; a type 1 value must not be copied as empty."""
    items = image.get("ReferencedStudySequence")
    if items is None:
        return
    whole = [
        item
        for item in items
        if not any(_is_empty(item, k) for k in ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"))
    ]
    if whole:
        image.ReferencedStudySequence = DatasetSequence(whole)
    else:
        del image.ReferencedStudySequence
