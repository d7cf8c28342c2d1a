"""Where the frames of source images lie: in the attributes of a single-frame image, or in functional groups.

World coordinates are LPS in millimetres.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from dicom_sr import arithmetic

PROJECTION_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
"""Where a projection says the distance of its pixels (PS3.3 10.7.1.3), the calibrated one first."""


@dataclass(frozen=True)
class SourceFrame:
    """Where one slice of the label volume comes from.

    Parameters
    ----------
    image : int
        Index into the images of the Evidence.
    frame_number : int, optional
        From 1; None for a single-frame image.
    position_mm : tuple of float, optional
        Image Position (Patient); None for an image without a place in space.
    """

    image: int
    frame_number: int | None
    position_mm: tuple[float, ...] | None


def plane_of(header: Dataset, frame_number: int | None, keyword: str) -> tuple[float, ...] | None:
    """Position, orientation or spacing of a frame, wherever the image says it; None where it does not.

    Parameters
    ----------
    header : Dataset
    frame_number : int, optional
        From 1, in an image with functional groups (PS3.3 C.7.6.16).
    keyword : str
        ``ImagePositionPatient``, ``ImageOrientationPatient``, ``PixelSpacing`` or ``SliceThickness``.
    """
    group = {
        "ImagePositionPatient": "PlanePositionSequence",
        "ImageOrientationPatient": "PlaneOrientationSequence",
        "PixelSpacing": "PixelMeasuresSequence",
        "SliceThickness": "PixelMeasuresSequence",
    }[keyword]
    owners = [header]
    per_frame = header.get("PerFrameFunctionalGroupsSequence") if frame_number is not None else None
    if per_frame and frame_number is not None and frame_number <= len(per_frame):
        owners += list(per_frame[frame_number - 1].get(group) or ())
    for shared in header.get("SharedFunctionalGroupsSequence") or ():
        owners += list(shared.get(group) or ())
    for owner in owners:
        if not is_empty(owner, keyword):
            value = owner[keyword].value
            return tuple(float(each) for each in (value if owner[keyword].VM > 1 else [value]))
    return None


def pixel_spacing_mm(image: Dataset, frame_number: int | None = None) -> tuple[float, float] | None:
    """(row, column) distance of pixels in an image, or on the detector of a projection; None where it does not say."""
    in_groups = plane_of(image, frame_number, "PixelSpacing")
    if in_groups:
        return in_groups[0], in_groups[1]
    for keyword in PROJECTION_SPACINGS:
        if not is_empty(image, keyword):
            row_mm, column_mm = (float(value) for value in image[keyword].value)
            return row_mm, column_mm
    return None


def measure_spacing(sources: Sequence[Dataset]) -> tuple[float, float, float] | None:
    """Distance of voxel centres (slice, row, column) in mm of all images in slice order, or of frames in any order.

    Of one image its Slice Thickness, or 1 mm; None where the images do not say how far apart their pixels are. Frames
    of an image that lie at one place count once: such an image holds several volumes.
    """
    return spacing_of(*_frames_of(sources))


def measure_thicknesses(sources: Sequence[Dataset]) -> tuple[float, float]:
    """What the thinnest and the thickest slice take up of a stack, as multiples of the mean; 1 and 1 where they are
    alike, or do not say where they lie.
    """
    _, shares = measure_slices(sources)
    return min(1.0, float(shares.min())), max(1.0, float(shares.max()))


def measure_slices(sources: Sequence[Dataset]) -> tuple[np.ndarray, np.ndarray]:
    """Where the images, or frames, of a stack lie along their normal in mm, and what each takes up (`slice_shares`)."""
    headers, frames = _frames_of(sources)
    orientation = plane_of(headers[0], frames[0].frame_number, "ImageOrientationPatient")
    return _heights_of(frames, orientation), slice_shares(frames, orientation)


def slice_shares(frames: Sequence[SourceFrame], orientation: tuple[float, ...] | None) -> np.ndarray:
    """What each slice takes up of a stack, as a multiple of the mean; 1 where they do not say where they lie."""
    heights = _heights_of(frames, orientation)
    distance = float(np.ptp(heights)) / max(len(heights) - 1, 1)
    if distance == 0:
        return np.ones(len(heights))
    order = np.argsort(heights, kind="stable")
    shares = np.empty(len(heights))
    shares[order] = slice_thicknesses(heights[order]) / distance
    return shares


def slice_thicknesses(places: Sequence[float] | np.ndarray) -> np.ndarray:
    """What each of at least two slices takes up of a stack, in the unit of their ascending places.

    A slice reaches half way to its neighbours, the first and the last one as far outwards as inwards.
    """
    distances = np.diff(places)
    return np.concatenate([distances[:1], (distances[:-1] + distances[1:]) / 2, distances[-1:]])


def height_mm(position_mm: Sequence[float], orientation: Sequence[float]) -> float:
    """How far a plane lies along its normal."""
    along_row, along_column = np.array(orientation, float).reshape(2, 3)
    return float(arithmetic.dot(np.array(position_mm, float), np.cross(along_row, along_column)))


def _heights_of(frames: Sequence[SourceFrame], orientation: tuple[float, ...] | None) -> np.ndarray:
    """Of all frames along their normal in mm; all 0 where they do not say where they lie."""
    if orientation is None:
        return np.zeros(len(frames))
    positions = [frame.position_mm for frame in frames if frame.position_mm is not None]
    if len(positions) < len(frames):
        return np.zeros(len(frames))
    return np.array([height_mm(position, orientation) for position in positions])


def _frames_of(sources: Sequence[Dataset]) -> tuple[list[Dataset], list[SourceFrame]]:
    """All images, or frames of images at different places, and the header of each."""
    headers, frames = [], []
    distinct = {str(source.get("SOPInstanceUID", index)): source for index, source in enumerate(sources)}
    for number, source in enumerate(distinct.values()):
        count = int(source.get("NumberOfFrames") or 1)
        for frame_number in range(1, count + 1) if count > 1 else (None,):
            headers.append(source)
            position = plane_of(source, frame_number, "ImagePositionPatient")
            frames.append(SourceFrame(number, frame_number, position))
    if len(frames) > len(distinct):
        frames = _by_place(frames, plane_of(headers[0], 1, "ImageOrientationPatient"))
    return headers, frames


def _by_place(frames: list[SourceFrame], orientation: tuple[float, ...] | None) -> list[SourceFrame]:
    """Frames along the normal of their plane, one for each place."""
    if orientation is None or any(frame.position_mm is None for frame in frames):
        return frames
    heights = _heights_of(frames, orientation)
    _, chosen = np.unique(np.round(heights, 3), return_index=True)
    return [frames[index] for index in chosen]


def spacing_of(headers: Sequence[Dataset], frames: Sequence[SourceFrame]) -> tuple[float, float, float] | None:
    """`measure_spacing` of frames already listed, with the header of each."""
    first, last = frames[0], frames[-1]
    in_plane = pixel_spacing_mm(headers[0], first.frame_number)
    if in_plane is None:
        return None
    orientation = plane_of(headers[0], first.frame_number, "ImageOrientationPatient")
    if len(frames) == 1 or orientation is None or first.position_mm is None or last.position_mm is None:
        return float(headers[0].get("SliceThickness") or 1.0), *in_plane
    way = np.subtract(last.position_mm, first.position_mm, dtype=float)
    return abs(height_mm(tuple(way), orientation)) / (len(frames) - 1), *in_plane


def is_empty(dataset: Dataset, keyword: str) -> bool:
    """Whether an attribute is missing or without a value."""
    value = dataset.get(keyword)
    return value is None or (hasattr(value, "__len__") and len(value) == 0)
