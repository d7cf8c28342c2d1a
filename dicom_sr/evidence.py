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
from dicom_sr.source_frames import SourceFrame, is_empty, plane_of, slice_shares, spacing_of

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
    "NumberOfFrames",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
REQUIRED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
REQUIRED_IN_SPACE = (
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
)
"""What every image of a stack of single-frame images must say about its place."""

LARGEST_COSINE_DIFFERENCE = 1e-4


@dataclass(frozen=True, eq=False)
class Evidence:
    """Source images of one Result, ready to be referred to.

    Parameters
    ----------
    images : tuple of Dataset
        Trimmed copies, one for each SOP instance, in slice order, without pixel data and private attributes. The first
        also carries the patient and study attributes, its PatientName left out: highdicom would write an unusual one
        into a warning.
    frames : tuple of SourceFrame
        One for each slice: of single-frame images one each, of a multi-frame image one for each frame used.
    patient_name : PersonName or str
        As the source has it; empty where it has none.
    spacing_mm : tuple of float, optional
        (slice, row, column), the slices' measured along their normal; of a projection the slice's is 1. None where an
        image does not say how far apart its pixels are.
    orientation : tuple of float, optional
        Image Orientation (Patient) of all frames.
    frame_of_reference_uid : str
        Of all images; empty for projections without one.
    character_set : str or list of str
        For everything that is copied (PS3.3 C.12.1.1.2); empty for the default repertoire.
    timezone_offset : str
        Timezone Offset From UTC of the source, or empty.
    """

    images: tuple[Dataset, ...]
    frames: tuple[SourceFrame, ...]
    patient_name: PersonName | str
    spacing_mm: tuple[float, float, float] | None
    orientation: tuple[float, ...] | None
    frame_of_reference_uid: str
    character_set: str | list[str]
    timezone_offset: str

    @property
    def in_space(self) -> bool:
        """Whether frame of reference, orientation, spacing and the position of every frame are known."""
        placed = all(frame.position_mm is not None for frame in self.frames)
        return placed and bool(self.frame_of_reference_uid and self.orientation and self.spacing_mm)

    @property
    def voxel_volumes_ml(self) -> np.ndarray:
        """Volume of one voxel of each slice in mL, shape (slice,); only of images in space."""
        assert self.spacing_mm is not None
        return slice_shares(self.frames, self.orientation) * float(np.prod(self.spacing_mm)) / 1000

    def image_of(self, slice_index: int) -> Dataset:
        """The image of a slice."""
        return self.images[self.frames[slice_index].image]

    def slice_of(self, sop_instance_uid: str, frame_number: int | None = None) -> int | None:
        """Index of the slice that an image, or a frame of it, is; None if it is none of them."""
        for index, frame in enumerate(self.frames):
            if self.images[frame.image].SOPInstanceUID == sop_instance_uid and (
                frame_number is None or frame.frame_number in (None, frame_number)
            ):
                return index
        return None


def check_evidence(result: Result, sources: Sequence[Dataset]) -> Evidence:
    """The Evidence of a Result, or `SourceMismatch`.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        Headers of the source images in slice order, one for each slice or one for each SOP instance; never changed.
    """
    _check_identity(result, sources)
    missing = sorted({name for source in sources for name in REQUIRED if is_empty(source, name)})
    if not missing and _is_stack(result, sources):
        missing = sorted({name for source in sources for name in REQUIRED_IN_SPACE if is_empty(source, name)})
    if missing:
        raise SourceMismatch(f"series {result.series_instance_uid}: source images lack {', '.join(missing)}")
    headers = _headers_of_slices(result, sources)
    frames = _list_frames(result, headers)
    _check_grid(result, sources, len(frames))
    spacing_mm = spacing_of(headers, frames)
    character_set = _character_set(sources[0])
    distinct = {str(source.SOPInstanceUID): source for source in reversed(sources)}
    uids = dict.fromkeys(str(source.SOPInstanceUID) for source in sources)
    thickness_mm = spacing_mm[0] if spacing_mm else None
    images = [_trimmed(distinct[uid], thickness_mm, character_set) for uid in uids]
    _copy_patient_and_study(sources[0], images[0])
    orientation = plane_of(headers[0], frames[0].frame_number, "ImageOrientationPatient")
    return Evidence(
        images=tuple(images),
        frames=tuple(frames),
        patient_name=sources[0].get("PatientName", "") or "",
        spacing_mm=spacing_mm,
        orientation=orientation,
        frame_of_reference_uid=str(sources[0].get("FrameOfReferenceUID") or ""),
        character_set=character_set,
        timezone_offset=str(sources[0].get("TimezoneOffsetFromUTC", "") or ""),
    )


def _is_stack(result: Result, sources: Sequence[Dataset]) -> bool:
    """Whether slices of a volume are single-frame images, which must say where they are."""
    has_volume = bool(result.label_maps or result.maps)
    return has_volume and len(sources) > 1 and not any(_is_multiframe(source) for source in sources)


def _is_multiframe(source: Dataset) -> bool:
    return int(source.get("NumberOfFrames") or 1) > 1


def _headers_of_slices(result: Result, sources: Sequence[Dataset]) -> list[Dataset]:
    """The header of each of the result's source images."""
    if len(sources) == len(result.source_images):
        return list(sources)
    by_uid = {str(source.SOPInstanceUID): source for source in sources}
    return [by_uid[image.sop_instance_uid] for image in result.source_images]


def _list_frames(result: Result, headers: list[Dataset]) -> list[SourceFrame]:
    """One frame for each slice; a multi-frame image named without a frame number stands for all its frames, and
    `headers` grows with them.
    """
    place = {uid: at for at, uid in enumerate(dict.fromkeys(str(header.SOPInstanceUID) for header in headers))}
    frames, expanded = [], []
    for image, header in zip(result.source_images, headers, strict=True):
        count = int(header.get("NumberOfFrames") or 1)
        numbers: Sequence[int | None] = (image.frame_number,)
        if count > 1 and image.frame_number is None:
            numbers = range(1, count + 1)
        for number in numbers:
            position = plane_of(header, number, "ImagePositionPatient")
            frames.append(SourceFrame(place[str(header.SOPInstanceUID)], number, position))
            expanded.append(header)
    headers[:] = expanded
    return frames


def _check_identity(result: Result, sources: Sequence[Dataset]) -> None:
    """The sources are the images of the Result, in its order."""
    wanted = [image.sop_instance_uid for image in result.source_images]
    found = [str(source.get("SOPInstanceUID", "")) for source in sources]
    if not wanted or found not in (wanted, list(dict.fromkeys(wanted))):
        place = next((i for i, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), None)
        detail = "" if place is None else f", the first other one at slice {place}"
        raise SourceMismatch(
            f"series {result.series_instance_uid}: expected the {len(wanted)} source images of the result "
            f"in slice order, found {len(found)}{detail}"
        )
    series = {
        image.sop_instance_uid: image.series_instance_uid or result.series_instance_uid
        for image in result.source_images
    }
    for source in sources:
        for keyword, uid in (
            ("StudyInstanceUID", result.study_instance_uid),
            ("SeriesInstanceUID", series[str(source.SOPInstanceUID)]),
        ):
            if source.get(keyword) != uid:
                raise SourceMismatch(
                    f"expected {keyword} {uid} in every source image, found also {source.get(keyword)}"
                )


def _check_grid(result: Result, sources: Sequence[Dataset], slices: int) -> None:
    """If there is a volume, all images share one grid and frame of reference, and it lies on them."""
    volumes = [*result.label_maps, *(each.values for each in result.maps)]
    if not volumes:
        return
    for keyword in ("FrameOfReferenceUID", "Rows", "Columns"):
        values = {str(source.get(keyword)) for source in sources}
        if len(values) > 1:
            raise SourceMismatch(
                f"series {result.series_instance_uid}: {len(values)} values of {keyword}, expected one"
            )
    orientations = [
        source.ImageOrientationPatient for source in sources if not is_empty(source, "ImageOrientationPatient")
    ]
    if orientations and np.ptp(np.array(orientations, float), axis=0).max() > LARGEST_COSINE_DIFFERENCE:
        raise SourceMismatch(f"series {result.series_instance_uid}: source images differ in ImageOrientationPatient")
    grid = (slices, int(sources[0].Rows), int(sources[0].Columns))
    for volume in volumes:
        if volume.shape != grid:
            raise SourceMismatch(f"label volume of shape {volume.shape} on source images of grid {grid}")


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


def _trimmed(source: Dataset, slice_spacing_mm: float | None, character_set: str | list[str]) -> Dataset:
    """A copy with what every image is asked for; Slice Thickness falls back to the measured spacing."""
    image = Dataset()
    for keyword in EVERY_IMAGE:
        if not is_empty(source, keyword):
            image[keyword] = copy(source[keyword])
    if slice_spacing_mm is not None and plane_of(source, 1, "ImagePositionPatient"):
        thickness = plane_of(source, 1, "SliceThickness")
        image.SliceThickness = thickness[0] if thickness else slice_spacing_mm
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
        if not any(is_empty(item, k) for k in ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"))
    ]
    if whole:
        image.ReferencedStudySequence = DatasetSequence(whole)
    else:
        del image.ReferencedStudySequence


def study_header(source: Dataset) -> Evidence:
    """The Evidence of an object that is about a study as a whole: one image for patient and study, no frames."""
    missing = sorted(name for name in REQUIRED if is_empty(source, name))
    if missing:
        raise SourceMismatch(f"a source image lacks {', '.join(missing)}")
    image = _trimmed(source, None, _character_set(source))
    _copy_patient_and_study(source, image)
    return Evidence(
        images=(image,),
        frames=(),
        patient_name=source.get("PatientName", "") or "",
        spacing_mm=None,
        orientation=None,
        frame_of_reference_uid="",
        character_set=_character_set(source),
        timezone_offset=str(source.get("TimezoneOffsetFromUTC", "") or ""),
    )
