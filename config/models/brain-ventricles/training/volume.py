"""Geometry, file reading and the teacher network shared by preparation and evaluation.

World coordinates are DICOM patient coordinates (LPS, millimetres) throughout. Volumes are numpy arrays
indexed ``[D, H, W]`` with a 4x4 matrix that maps ``(d, h, w, 1)`` to LPS. The grid of our own model is axial:
D increases towards the patient's head (superior), H towards the back (posterior), W towards the left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from scipy import ndimage

#: Unit steps of D, H, W of the student grid, as columns, in LPS.
STUDENT_AXES = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
#: Unit steps of D, H, W of the teacher grid (left, inferior, anterior), as columns, in LPS.
TEACHER_AXES = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]]).T
#: Spacing in mm and shape (D, H, W) of the student grid.
STUDENT_SPACING = 2.0
STUDENT_SHAPE = (128, 128, 96)
#: Labels of the teacher that make up our class 2; every other label except 0 makes up class 1.
TEACHER_VENTRICLES = (3, 4, 11, 12)


@dataclass
class Volume:
    """An array with its voxel-to-LPS matrix."""

    data: np.ndarray
    affine: np.ndarray

    @property
    def centre(self) -> np.ndarray:
        """LPS position of the middle of the volume (mean of the first and last voxel centres)."""
        middle = (np.array(self.data.shape) - 1) / 2
        return (self.affine @ np.append(middle, 1))[:3]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000


def make_grid(axes: np.ndarray, spacing: float, shape: tuple[int, ...], centre: np.ndarray) -> np.ndarray:
    """Voxel-to-LPS matrix of a grid whose middle (index (n - 1) / 2) lies at ``centre``."""
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def resample(volume: Volume, affine: np.ndarray, shape: tuple[int, ...], order: int = 1, fill: float = 0.0) -> Volume:
    """Resample onto another grid (linear unless told); ``fill`` outside the source."""
    matrix = np.linalg.inv(volume.affine) @ affine
    data = ndimage.affine_transform(
        volume.data.astype(np.float32),
        matrix[:3, :3],
        matrix[:3, 3],
        output_shape=shape,
        order=order,
        mode="constant",
        cval=fill,
    )
    return Volume(data, affine)


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI file (RAS) as a volume in LPS."""
    import nibabel

    image = nibabel.load(path)
    return Volume(np.asarray(image.dataobj, dtype=np.float32), np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine)


def read_dicom_series(folder: Path) -> Volume:
    """Read the one series of single-frame images in a folder; D is the slice, H the row, W the column."""
    import pydicom

    slices = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    row, column = np.array(slices[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    slices.sort(key=lambda s: float(normal @ np.array(s.ImagePositionPatient, dtype=float)))
    first, last = (np.array(s.ImagePositionPatient, dtype=float) for s in (slices[0], slices[-1]))
    row_spacing, column_spacing = (float(v) for v in slices[0].PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = (last - first) / (len(slices) - 1)
    affine[:3, 1] = column * row_spacing
    affine[:3, 2] = row * column_spacing
    affine[:3, 3] = first
    slope = float(slices[0].get("RescaleSlope", 1))
    intercept = float(slices[0].get("RescaleIntercept", 0))
    planes = np.stack([s.pixel_array.astype(np.float32) for s in slices])
    return Volume(planes * slope + intercept, affine)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Largest 6-connected component of a mask."""
    labels, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return labels == sizes.argmax()


def session(path: Path, threads: int = 2) -> onnxruntime.InferenceSession:
    """Open an ONNX model on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_teacher(volume: Volume, model: Path, clip: float = 99.9, margin: int = 10) -> Volume:
    """Label a head with the teacher; returns its 18 labels on the 1 mm LIA grid of 256^3 voxels.

    The scaling is that of the teacher's README: clip at a percentile of the grid (100 for volumes already in
    8 bits), minimum to 0, maximum to 1, crop to the voxels above 5 % of the maximum. Labels are returned as
    found, before the largest component is taken, so that they compare with the counts of that README.
    """
    shape = (256, 256, 256)
    grid = resample(volume, make_grid(TEACHER_AXES, 1.0, shape, volume.centre), shape)
    data = np.minimum(grid.data, np.percentile(grid.data, clip))
    data = (data - data.min()) / (data.max() - data.min())
    head = np.argwhere(data > 0.05)
    low = np.maximum(head.min(0) - margin, 0)
    high = np.minimum(head.max(0) + margin + 1, 256)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    logits = session(model).run(None, {"image": data[box][None, None].astype(np.float32)})[0]
    labels = np.zeros(shape, np.uint8)
    labels[box] = logits[0].argmax(0)
    return Volume(labels, grid.affine)


def merge_teacher(labels: np.ndarray) -> np.ndarray:
    """Largest component of the teacher's labels, merged into 0 background, 1 parenchyma, 2 ventricles."""
    labels = np.where(largest_component(labels > 0), labels, 0)
    merged = (labels > 0).astype(np.uint8)
    merged[np.isin(labels, TEACHER_VENTRICLES)] = 2
    return merged
