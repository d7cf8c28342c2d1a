"""A grid in patient space, and the volume of voxels on it.

World coordinates are LPS in millimetres (PS3.3 C.7.6.2.1.1). Axis order is (slice, row, column) for source
images.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from pydicom.dataset import Dataset

from dicom_sr.source_frames import slice_thicknesses

UPRIGHT_SHEAR = 2e-3
"""Sideways shift of slices per millimetre along their normal up to which a grid counts as upright."""

Box = tuple[slice, slice, slice]
"""A part of a grid: half-open index ranges along its three axes."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels are.

    Parameters
    ----------
    shape : tuple of int
        Voxels along each of the three axes.
    affine_lps : ndarray of float64, shape (4, 4)
        Maps (index on axis 0, 1, 2, 1) of a voxel centre to LPS millimetres.
    levels : tuple of float, optional
        Index on axis 0 of each slice where slices are not evenly spaced; the first is 0, the last shape[0] - 1.
    """

    shape: tuple[int, int, int]
    affine_lps: np.ndarray
    levels: tuple[float, ...] | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along each axis."""
        first, second, third = (float(v) for v in np.linalg.norm(self.affine_lps[:3, :3], axis=0))
        return first, second, third

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres, exact also for sheared grids; with `levels`, that of the mean one."""
        return abs(float(np.linalg.det(self.affine_lps[:3, :3]))) / 1000

    @property
    def thicknesses(self) -> tuple[float, ...] | None:
        """What each slice takes up of the stack, as a multiple of the step of axis 0; None where all are alike."""
        return None if self.levels is None else tuple(slice_thicknesses(self.levels).tolist())

    @property
    def centre_lps(self) -> np.ndarray:
        """Middle of the grid: half way between the centres of the first and the last voxel."""
        middle = (np.array(self.shape, dtype=np.float64) - 1) / 2
        return np.asarray(self.affine_lps[:3, :3] @ middle + self.affine_lps[:3, 3])

    def upright(self) -> "Grid":
        """A grid whose slices lie straight above each other and that covers this one, with the same planes, the same
        rows and columns in the first of them, and the same distances; this one itself where it is upright already.
        Slices are evenly spaced in it.

        Axis 0 counts slices. A scan with a tilted gantry is the case: its slices are shifted against each other.
        """
        if self.levels is not None:
            return Grid(self.shape, self.affine_lps).upright()
        step, row, column = self.affine_lps[:3, 0], self.affine_lps[:3, 1], self.affine_lps[:3, 2]
        normal = np.cross(row, column)
        along = (step @ normal) / (normal @ normal) * normal
        aside = step - along
        if np.linalg.norm(aside) <= UPRIGHT_SHEAR * np.linalg.norm(along):
            return self
        shifts = np.linalg.lstsq(np.array([row, column]).T, aside, rcond=None)[0] * (self.shape[0] - 1)
        more = np.ceil(np.abs(shifts) - 1e-9).astype(int)
        start = np.where(shifts < 0, -more, 0)
        affine = self.affine_lps.copy()
        affine[:3, 0] = along
        affine[:3, 3] += start[0] * row + start[1] * column
        return Grid((self.shape[0], self.shape[1] + int(more[0]), self.shape[2] + int(more[1])), affine)

    def part(self, start: tuple[int, ...], shape: tuple[int, int, int]) -> "Grid":
        """The grid of `shape` that begins at index `start` of this one; may reach beyond it (padding)."""
        affine = self.affine_lps.copy()
        affine[:3, 3] = self.affine_lps[:3, :3] @ np.array(start, dtype=np.float64) + self.affine_lps[:3, 3]
        return Grid(shape, affine)


@dataclass(frozen=True, eq=False)
class Volume:
    """The images of one series as one array in patient space.

    Parameters
    ----------
    voxels : ndarray of int16, uint16 or float32, shape (slice, row, column)
        Modality values (HU for CT); read-only. Slices ascend along the normal of the image plane (row
        direction cosines x column direction cosines).
    affine_lps : ndarray of float64, shape (4, 4)
        Maps (slice, row, column, 1) to LPS millimetres.
    headers : sequence of Dataset
        The data sets without pixel data, one for each slice, in slice order. The first is complete; the others hold at
        least what names and places an image (`node.volume.known`). Frames of one instance have the same one.
    modality : str
        ``"CT"``, ``"MR"`` or ``"PT"``.
    frame_of_reference_uid : str
    corrections : tuple of str
        What was corrected or left open, in words for the report.
    frame_numbers : tuple of int
        Of each slice, from 1, where it is a frame of a multi-frame instance; else empty.
    levels : tuple of float, optional
        Where slices are not evenly spaced: index of each on the first axis of `affine_lps`, whose step is the mean one.
    """

    voxels: np.ndarray
    affine_lps: np.ndarray
    headers: Sequence[Dataset] = field(repr=False)
    modality: str
    frame_of_reference_uid: str
    corrections: tuple[str, ...] = ()
    frame_numbers: tuple[int, ...] = ()
    levels: tuple[float, ...] | None = None

    @property
    def grid(self) -> Grid:
        """Where the voxels are."""
        slices, rows, columns = self.voxels.shape
        return Grid((slices, rows, columns), self.affine_lps, self.levels)

    @property
    def sources(self) -> tuple[Dataset, ...]:
        """The header of each instance once, in the order in which its first slice comes."""
        if not self.frame_numbers:
            return tuple(self.headers)
        return tuple({str(header.SOPInstanceUID): header for header in reversed(self.headers)}.values())[::-1]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres: between slices, between rows, between columns."""
        return self.grid.spacing_mm

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres; the mean one where slices are not evenly spaced."""
        return self.grid.voxel_ml


def evenly_spaced(values: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """As many slices at equal distances, interpolated between neighbours along the stack.

    Parameters
    ----------
    values : ndarray, shape (slice, row, column)
    levels : sequence of float
        As of a `Grid`.

    Returns
    -------
    ndarray
        Of the same type; integers are rounded.
    """
    places, given = np.arange(len(levels)), np.array(levels)
    below = np.clip(np.searchsorted(given, places, side="right") - 1, 0, len(given) - 2)
    shares = np.clip((places - given[below]) / (given[below + 1] - given[below]), 0, 1)
    made = np.empty(values.shape, values.dtype)
    for index, (first, share) in enumerate(zip(below, shares, strict=True)):
        plane = values[first] * np.float32(1 - share) + values[first + 1] * np.float32(share)
        made[index] = np.rint(plane) if values.dtype.kind in "iu" else plane
    return made
