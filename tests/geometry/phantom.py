"""A shape known in millimetres of patient space, scanned onto slices as a modality would, and the ways to read a
segmentation of it back: nothing here comes from the node.

World coordinates are LPS in millimetres, axis order is (slice, row, column).
"""

import gzip
import itertools
import subprocess
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import highdicom as hd
import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, generate_uid
from scipy.spatial import cKDTree

from tests.conftest import program
from tests.phantoms import write_series

CENTRE_MM = np.array([11.3, -17.9, 23.7])
"""Middle of the shape, off centre in every field of view below."""
BRIGHT, DIM = 1000, 100
ANY_POSITION_MM = (-1111.111111, -2222.222222, -3333.333333)
ANY_NUMBER = 1000
"""What is replaced in each file of a scan."""


def is_inside(points_mm: np.ndarray) -> np.ndarray:
    """Which points (..., 3) lie in the shape: an ellipsoid with three arms of different lengths, so that no flip,
    rotation or exchange of axes maps it onto itself.
    """
    along = points_mm - CENTRE_MM
    inside = (along**2 / np.array([9.13, 7.31, 5.57]) ** 2).sum(axis=-1) <= 1
    for low, high in (
        ((4.1, -2.2, -2.3), (15.2, 3.1, 2.7)),
        ((-2.4, -13.3, -1.9), (2.9, -3.2, 3.3)),
        ((-6.3, 0.7, 2.1), (-1.2, 5.8, 11.6)),
    ):
        inside |= ((along >= low) & (along <= high)).all(axis=-1)
    return inside


@dataclass(frozen=True)
class Scan:
    """How the shape is scanned.

    `places_mm` are distances along the normal from the middle of the stack, in the order of acquisition; each image is
    shifted along its columns by `tilt` millimetres for each of them.
    """

    row_direction: tuple[float, ...]
    column_direction: tuple[float, ...]
    places_mm: tuple[float, ...] = tuple(2.0 * (i - 10.3) for i in range(21))
    pixel_mm: tuple[float, float] = (1.5, 1.5)
    rows: int = 34
    columns: int = 38
    tilt: float = 0.0
    patient_position: str = "HFS"
    reversed_numbers: bool = False
    thickness_mm: float = 2.0
    modality: str = "MR"

    @property
    def normal(self) -> np.ndarray:
        """Right-handed normal of the plane."""
        return np.cross(self.row_direction, self.column_direction)

    def positions_mm(self) -> np.ndarray:
        """Image Position (Patient) of each image: the shape ends up off the middle of the field of view."""
        row, column = np.array(self.row_direction), np.array(self.column_direction)
        corner = (
            CENTRE_MM - row * (self.columns * 0.46) * self.pixel_mm[1] - column * (self.rows * 0.53) * self.pixel_mm[0]
        )
        places = np.array(self.places_mm)[:, None]
        return np.round(corner + places * self.normal + places * self.tilt * column, 6)

    def centres_mm(self) -> np.ndarray:
        """Pixel centres, shape (slice, row, column, 3), by PS3.3 C.7.6.2.1.1."""
        rows = np.arange(self.rows)[:, None, None] * self.pixel_mm[0] * np.array(self.column_direction)
        columns = np.arange(self.columns)[None, :, None] * self.pixel_mm[1] * np.array(self.row_direction)
        return np.asarray(self.positions_mm()[:, None, None] + rows + columns)

    def turned(self, angle: float) -> "Scan":
        """The same with its plane turned about an axis that is no axis of the patient."""
        axis = np.array([0.48, 0.6, 0.64])
        cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
        matrix = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
        row, column = (
            tuple(float(round(v, 9)) for v in matrix @ d) for d in (self.row_direction, self.column_direction)
        )
        return replace(self, row_direction=row, column_direction=column)

    def write(self, folder: Path) -> list[Path]:
        """Part 10 files of the scan, in the order of acquisition. One is written by pydicom; the others are its bytes
        with their own UID, number, position and pixels, for writing is the longest part of most tests.
        """
        inside = is_inside(self.centres_mm())
        count = len(self.places_mm)
        prefix = generate_uid()[:48].rstrip(".")
        template = write_series(
            folder,
            shape=(1, *inside.shape[1:]),
            spacing_mm=(abs(self.places_mm[1] - self.places_mm[0]), *self.pixel_mm),
            orientation=(self.row_direction, self.column_direction),
            voxels=np.zeros((1, *inside.shape[1:]), np.int16),
            positions_mm=[ANY_POSITION_MM],
            instance_numbers=[ANY_NUMBER],
            SOPInstanceUID=f"{prefix}.{ANY_NUMBER}",
            PatientPosition=self.patient_position,
            modality=self.modality,
            SliceThickness=self.thickness_mm,
        )[0].read_bytes()
        header = template[: -2 * inside[0].size]
        paths = []
        for index, (position, plane) in enumerate(zip(self.positions_mm(), inside, strict=True)):
            number = count - index if self.reversed_numbers else index + 1
            own = _replaced(header, f"{prefix}.{ANY_NUMBER}", f"{prefix}.{ANY_NUMBER + index}", times=2)
            own = _replaced(own, _decimals(ANY_POSITION_MM), _decimals(position))
            own = _replaced(own, f"IS\4\0{ANY_NUMBER}", f"IS\4\0{number:<4}")
            paths.append(folder / f"{index:04d}.dcm")
            paths[-1].write_bytes(own + np.where(plane, BRIGHT, DIM).astype("<i2").tobytes())
        return paths

    def write_enhanced(self, folder: Path, echo_times_ms: Sequence[float] = ()) -> list[Path]:
        """The same as one Enhanced MR or CT object with functional groups (PS3.3 A.36, A.38).

        With echo times, frames of all echoes lie at the same places, and only the last one shows the shape.
        """
        images = [dcmread(path) for path in self.write(folder / "frames")]
        enhanced, first = Dataset(), images[0]
        for element in first:
            if element.keyword not in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "PixelData"):
                enhanced[element.tag] = element
        enhanced.SOPClassUID = EnhancedMRImageStorage if self.modality == "MR" else EnhancedCTImageStorage
        measures, orientation, shared = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness = first.PixelSpacing, first.SliceThickness
        orientation.ImageOrientationPatient = first.ImageOrientationPatient
        shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
        enhanced.SharedFunctionalGroupsSequence = [shared]
        enhanced.PerFrameFunctionalGroupsSequence = []
        for image in images:
            place, frame = Dataset(), Dataset()
            place.ImagePositionPatient = image.ImagePositionPatient
            frame.PlanePositionSequence = [place]
            enhanced.PerFrameFunctionalGroupsSequence.append(frame)
        pixels = b"".join(image.PixelData for image in images)
        enhanced.NumberOfFrames = len(images)
        enhanced.PixelData = pixels
        if echo_times_ms:
            frames = enhanced.PerFrameFunctionalGroupsSequence
            enhanced.PerFrameFunctionalGroupsSequence = [
                _with_echo(frame, milliseconds) for milliseconds in echo_times_ms for frame in frames
            ]
            enhanced.NumberOfFrames = len(images) * len(echo_times_ms)
            enhanced.PixelData = bytes(len(pixels) * (len(echo_times_ms) - 1)) + pixels
        enhanced.file_meta = first.file_meta
        enhanced.file_meta.MediaStorageSOPClassUID = enhanced.SOPClassUID
        path = folder / "enhanced.dcm"
        enhanced.save_as(path, enforce_file_format=True)
        return [path]

    def points_mm(self) -> np.ndarray:
        """Where the shape is: the pixel centres inside it, shape (n, 3)."""
        centres = self.centres_mm()
        return np.asarray(centres[is_inside(centres)])


def _decimals(values: Sequence[float]) -> str:
    """DS of a fixed length, padded with spaces (PS3.5 6.2)."""
    return "\\".join(f"{value:<12.6f}" for value in values)


def _replaced(content: bytes, old: str, new: str, times: int = 1) -> bytes:
    """Text of the same length in the place of another."""
    assert content.count(old.encode()) == times and len(old) == len(new)
    return content.replace(old.encode(), new.encode())


def _with_echo(frame: Dataset, milliseconds: float) -> Dataset:
    """The functional groups of a frame, with an echo time (PS3.3 C.8.13.5.4)."""
    echo, groups = Dataset(), deepcopy(frame)
    echo.EffectiveEchoTime = milliseconds
    groups.MREchoSequence = [echo]
    return groups


def signed_axes() -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Row and column directions along the axes of the patient: 3 planes, rows and columns exchanged, all flips: 24."""
    units = [tuple(float(sign * (i == axis)) for i in range(3)) for axis in range(3) for sign in (1, -1)]
    return [(a, b) for a, b in itertools.product(units, units) if not np.dot(a, b)]


def dice(one_mm: np.ndarray, other_mm: np.ndarray, tolerance_mm: float = 0.01) -> float:
    """Dice of two sets of voxel centres in patient space; two centres are the same within the tolerance."""
    if not len(one_mm) or not len(other_mm):
        return 0.0
    distances, _ = cKDTree(other_mm).query(one_mm)
    return 2 * int((distances <= tolerance_mm).sum()) / (len(one_mm) + len(other_mm))


def read_by_arithmetic(path: Path) -> np.ndarray:
    """Voxel centres of a segmentation: pixels and functional groups as they are in the file."""
    seg = dcmread(path)
    frames = _pixels(seg)
    shared = seg.SharedFunctionalGroupsSequence[0]
    directions = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    row_mm, column_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    points = []
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        points.append(corner + rows[:, None] * row_mm * directions[3:] + columns[:, None] * column_mm * directions[:3])
    return np.concatenate(points)


def _pixels(seg: Dataset) -> np.ndarray:
    """Pixels (frame, row, column) of a BINARY segmentation, or of one with a byte for each pixel."""
    pixels = np.frombuffer(seg.PixelData, np.uint8)
    if seg.BitsAllocated == 1:
        pixels = np.unpackbits(pixels, bitorder="little")
    return pixels[: seg.NumberOfFrames * seg.Rows * seg.Columns].reshape(-1, seg.Rows, seg.Columns)


def read_frames_by_arithmetic(path: Path) -> np.ndarray:
    """The frames of a segmentation of one segment, from below, boolean (frame, row, column)."""
    seg = dcmread(path)
    frames = _pixels(seg)
    directions = np.array(seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient)
    normal = np.cross(directions[:3].astype(float), directions[3:].astype(float))
    places = [g.PlanePositionSequence[0].ImagePositionPatient for g in seg.PerFrameFunctionalGroupsSequence]
    return np.asarray(frames[np.argsort(np.array(places, float) @ normal)] > 0)


def read_by_highdicom(path: Path, sources: Sequence[Dataset]) -> np.ndarray:
    """Voxel centres as highdicom places them, for the source images that it finds referenced."""
    seg = hd.seg.segread(path)
    points = []
    masks = seg.get_pixels_by_source_instance(
        [source.SOPInstanceUID for source in sources],
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    for source, mask in zip(sources, masks, strict=True):
        transform = hd.spatial.PixelToReferenceTransformer(
            source.ImagePositionPatient, source.ImageOrientationPatient, source.PixelSpacing
        )
        points.append(transform(np.argwhere(mask)[:, ::-1]) if mask.any() else np.empty((0, 3)))
    return np.concatenate(points)


def read_frames_by_highdicom(path: Path, source: Dataset) -> np.ndarray:
    """Voxel centres as highdicom places them, for the frames of a multi-frame source that it finds referenced."""
    seg = hd.seg.segread(path)
    masks = seg.get_pixels_by_source_frame(
        source.SOPInstanceUID,
        list(range(1, source.NumberOfFrames + 1)),
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    shared, points = source.SharedFunctionalGroupsSequence[0], []
    for groups, mask in zip(source.PerFrameFunctionalGroupsSequence, masks, strict=True):
        transform = hd.spatial.PixelToReferenceTransformer(
            groups.PlanePositionSequence[0].ImagePositionPatient,
            shared.PlaneOrientationSequence[0].ImageOrientationPatient,
            shared.PixelMeasuresSequence[0].PixelSpacing,
        )
        points.append(transform(np.argwhere(mask)[:, ::-1]) if mask.any() else np.empty((0, 3)))
    return np.concatenate(points)


def read_volume_by_highdicom(path: Path) -> np.ndarray:
    """Voxel centres by the affine that highdicom gives the segmentation alone; evenly spaced stacks only."""
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    return np.asarray(volume.map_indices_to_reference(np.argwhere(volume.array)))


def write_frames_alone(path: Path, folder: Path, step: int) -> list[Path]:
    """Of the frames of a segmentation that show something every `step`th, each as a segmentation of its own."""
    seg = dcmread(path)
    groups, frames = list(seg.PerFrameFunctionalGroupsSequence), _pixels(seg)
    folder.mkdir()
    written = []
    for index in np.flatnonzero(frames.any(axis=(1, 2)))[::step]:
        frame = frames[index] if seg.BitsAllocated == 8 else np.packbits(frames[index], bitorder="little")
        seg.NumberOfFrames, seg.PerFrameFunctionalGroupsSequence = 1, [groups[index]]
        seg.PixelData = frame.tobytes() + bytes(frame.size % 2)
        written.append(folder / f"{index}.dcm")
        seg.save_as(written[-1])
    return written


def read_by_dcmqi(path: Path, folder: Path) -> np.ndarray:
    """Voxel centres by dcmqi and ITK, from the NRRD they write."""
    array, steps, origin = read_array_by_dcmqi(path, folder)
    return np.asarray(np.argwhere(array)[:, ::-1] @ steps + origin)


def read_array_by_dcmqi(path: Path, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What dcmqi and ITK write: the array (slice, row, column) from the first slice with a voxel to the last, the steps
    of its axes (column, row, slice) and its origin in millimetres.
    """
    head, _, content = run_dcmqi(path, folder)[0].read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in head.decode().splitlines()[1:] if ": " in line)
    assert fields["space"] == "left-posterior-superior" and fields["encoding"] == "gzip"
    dtype = {"short": np.int16, "unsigned char": np.uint8, "unsigned short": np.uint16}[fields["type"]]
    sizes = [int(size) for size in fields["sizes"].split()]
    steps = np.array([_vector(each) for each in fields["space directions"].split()])
    array = np.frombuffer(gzip.decompress(content), dtype).reshape(sizes[::-1])
    return array, steps, _vector(fields["space origin"])


def run_dcmqi(path: Path, folder: Path) -> list[Path]:
    """The files that dcmqi makes of a segmentation; none where it gives up, which its exit status does not say."""
    folder.mkdir()
    command = [program("segimage2itkimage"), "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nrrd"]
    subprocess.run([str(part) for part in command], check=True, capture_output=True, timeout=180)
    return sorted(folder.glob("*.nrrd"))


def _vector(text: str) -> np.ndarray:
    return np.array([float(part) for part in text.strip("()").split(",")])
