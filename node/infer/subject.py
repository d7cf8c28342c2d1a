"""What results lie on: the volume or image that a network saw first, and the way from its tensor to it. Pure."""

import itertools
from dataclasses import dataclass

import numpy as np

from dicom_sr.findings import PlanarRegion, PlanarShape, Region, SpatialRegion, SpatialShape
from node.infer.regions import IndexBox
from node.infer.transforms import index_map, slice_counts
from node.volume.images import ImageSet
from node.volume.volume import Grid, Volume


@dataclass(frozen=True, eq=False)
class Subject:
    """One volume or image.

    Parameters
    ----------
    name : str
        Of the input.
    source : Grid
        Its own voxels; of an image, its pixels (frame, row, column).
    images : tuple of str
        SOP Instance UIDs: of each slice, or the one of the image.
    frame_of_reference_uid : str
        Empty for an image.
    spacing_mm : tuple of float, optional
        Distance of voxel centres; of an image (1, row, column), or None where it is not known.
    values : ndarray
        Modality values on `source`; of a colour image (frame, row, column, 3).
    """

    name: str
    source: Grid
    images: tuple[str, ...]
    frame_of_reference_uid: str
    spacing_mm: tuple[float, float, float] | None
    values: np.ndarray

    @property
    def is_image(self) -> bool:
        """Whether it is an image without a place in space."""
        return not self.frame_of_reference_uid

    @property
    def voxel_ml(self) -> float | None:
        """Volume of a voxel; None in an image."""
        return None if self.is_image else self.source.voxel_ml

    @property
    def pixel_mm2(self) -> float | None:
        """Area of a pixel of an image, where it is known."""
        return self.spacing_mm[1] * self.spacing_mm[2] if self.is_image and self.spacing_mm else None

    def place(self, points: np.ndarray, grid: Grid) -> np.ndarray:
        """Points of a tensor's grid (indices) as indices of `source`; shape (point, 3)."""
        matrix, offset = index_map(self.source, grid)
        found = np.asarray(points @ matrix.T + offset)
        found[:, 0] = slice_counts(self.source, found[:, 0])
        return found

    def in_mm(self, points: np.ndarray, grid: Grid) -> np.ndarray | None:
        """Points of a tensor's grid in millimetres, for distances; None where the size of pixels is not known."""
        if self.spacing_mm is None:
            return None
        if self.is_image:
            return self.place(points, grid) * np.array(self.spacing_mm)
        return np.asarray(points @ grid.affine_lps[:3, :3].T + grid.affine_lps[:3, 3])

    def source_box(self, box: IndexBox, grid: Grid) -> IndexBox:
        """The box of `source` around a box of a tensor's grid."""
        corners = self.place(np.array(list(itertools.product(*zip(*box, strict=True)))), grid)
        return corners.min(axis=0), corners.max(axis=0)

    def box_region(self, box: IndexBox, grid: Grid) -> Region:
        """A box of a tensor's grid as a region: a rectangle in an image, a box in space."""
        if self.is_image:
            low, high = self.source_box(box, grid)
            (top, left), (bottom, right) = self._pixels(low[1:]), self._pixels(high[1:])
            points = ((left, top), (right, top), (right, bottom), (left, bottom), (left, top))
            return self._planar(PlanarShape.POLYLINE, points, (low[0] + high[0]) / 2)
        low, high = box
        corners = [low, *(np.where(np.arange(3) == axis, high, low) for axis in (2, 1, 0))]
        points_lps = np.array(corners) @ grid.affine_lps[:3, :3].T + grid.affine_lps[:3, 3]
        return self._spatial(SpatialShape.BOX, points_lps)

    def point_region(self, point: np.ndarray, grid: Grid) -> Region:
        """A point of a tensor's grid as a region."""
        if self.is_image:
            found = self.place(point[None], grid)[0]
            row, column = self._pixels(found[1:])
            return self._planar(PlanarShape.POINT, ((column, row),), found[0])
        return self._spatial(SpatialShape.POINT, (grid.affine_lps[:3, :3] @ point + grid.affine_lps[:3, 3])[None])

    def _pixels(self, place: np.ndarray) -> tuple[float, float]:
        """(row, column) counted from the outer corner of the first pixel (PS3.3 C.10.5.1.2), inside the image."""
        row, column = np.clip(place + 0.5, 0, self.source.shape[1:])
        return float(row), float(column)

    def _planar(self, shape: PlanarShape, points: tuple[tuple[float, float], ...], frame: float) -> PlanarRegion:
        number = int(np.clip(round(frame), 0, self.source.shape[0] - 1)) + 1 if self.source.shape[0] > 1 else None
        return PlanarRegion(self.images[0], shape, points, number)

    def _spatial(self, shape: SpatialShape, points: np.ndarray) -> SpatialRegion:
        triples = tuple((float(x), float(y), float(z)) for x, y, z in points)
        return SpatialRegion(shape, triples, self.frame_of_reference_uid)


def subject_of(name: str, given: Volume | ImageSet) -> Subject:
    """The subject that an input is."""
    if isinstance(given, Volume):
        uids = tuple(str(header.SOPInstanceUID) for header in given.headers)
        return Subject(name, given.grid, uids, given.frame_of_reference_uid or "-", given.spacing_mm, given.voxels)
    frames, rows, columns = (int(side) for side in given.pixels.shape[:3])
    spacing = (1.0, *given.spacing_mm) if given.spacing_mm else None
    return Subject(name, Grid((frames, rows, columns), np.eye(4)), (given.sop_instance_uid,), "", spacing, given.pixels)
