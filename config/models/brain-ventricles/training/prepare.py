"""Turn the two training heads into arrays that train.py can deform and recolour quickly.

For each head one ``.npz`` is written with, on a 1.5 mm axial grid (D superior, H posterior, W left):

* ``image``: the T1 itself, 0..1;
* ``parts``: for every synthesis class the fraction of each voxel that it fills (sum 1);
* ``target``: the fractions of parenchyma and of ventricles;
* ``outside``: distance in mm to the inside of the skull, for stripping at a random margin;
* ``swell``: a vector field (voxels, order W, H, D) that points away from the ventricles, for resizing them.

    python prepare.py --head t1_crop.nii.gz --teacher model.onnx --output prepared
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import ndimage
from volume import (
    STUDENT_AXES,
    TEACHER_VENTRICLES,
    Volume,
    largest_component,
    make_grid,
    merge_teacher,
    read_nifti,
    resample,
    run_teacher,
)

SPACING = 1.5
MARGIN = 6.0
#: Teacher labels of the first ten synthesis classes; then CSF around the brain, tissues by k-means, air.
BRAIN_PARTS = ((1,), (2,), TEACHER_VENTRICLES, (5,), (6,), (7, 17), (8, 9, 16), (10,), (13,), (14, 15))
OUTER_CLASSES = 6


def kmeans(values: np.ndarray, count: int, rounds: int = 30) -> np.ndarray:
    """Centres of a one-dimensional k-means, in rising order."""
    centres = np.quantile(values, (np.arange(count) + 0.5) / count)
    for _ in range(rounds):
        nearest = np.abs(values[:, None] - centres).argmin(1)
        for k in range(count):
            if (nearest == k).any():
                centres[k] = values[nearest == k].mean()
    return np.sort(centres)


def ball(radius: int) -> np.ndarray:
    """Spherical structuring element."""
    axis = np.arange(-radius, radius + 1)
    return (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2) <= radius**2


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance in voxels to a mask, negative inside."""
    return ndimage.distance_transform_edt(~mask) - ndimage.distance_transform_edt(mask)


def inside_skull(brain: np.ndarray) -> np.ndarray:
    """Closed and filled brain mask: brain, ventricles and the CSF around and between them (1 mm voxels)."""
    padded = np.pad(brain, 14)
    far = ndimage.distance_transform_edt(~padded) > 12
    closed = ndimage.distance_transform_edt(~far) > 11
    return (closed | padded)[14:-14, 14:-14, 14:-14]


def synthesis_classes(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Class map for synthesis, the mask inside the skull, and the number of classes."""
    brain = largest_component(labels > 0)
    inner = inside_skull(brain)
    classes = np.full(image.shape, 255, np.uint8)
    for index, members in enumerate(BRAIN_PARTS):
        classes[brain & np.isin(labels, members)] = index
    csf = len(BRAIN_PARTS)
    classes[inner & (classes == 255)] = csf
    rest = classes == 255
    bright = np.pad(ndimage.gaussian_filter(image, 1.0) > 0.06, 8)
    head = ndimage.binary_closing(bright, ball(3), iterations=2)
    head = largest_component(head[8:-8, 8:-8, 8:-8])
    head = np.stack([ndimage.binary_fill_holes(plane) for plane in head])
    air = csf + 1 + OUTER_CLASSES
    classes[rest & ~head] = air
    outer = rest & head
    if outer.sum() > 1000:
        smooth = ndimage.gaussian_filter(image, 0.5)
        sample = np.random.default_rng(0).choice(smooth[outer], 20000)
        centres = kmeans(sample, OUTER_CLASSES)
        edges = (centres[1:] + centres[:-1]) / 2
        classes[outer] = csf + 1 + np.digitize(smooth[outer], edges)
    else:
        classes[outer] = air
    return classes, inner, air + 1


def prepare(volume: Volume, teacher: Path, output: Path) -> None:
    """Label one head with the teacher and write its arrays."""
    found = run_teacher(volume, teacher, clip=100)
    image = resample(volume, found.affine, found.data.shape).data
    image = np.clip(image / np.percentile(image[image > 0.05 * image.max()], 99.8), 0, 1)
    classes, inner, count = synthesis_classes(image, found.data)
    merged = merge_teacher(found.data)

    occupied = np.argwhere(classes < count - 1)
    corners = np.stack([occupied.min(0) - MARGIN, occupied.max(0) + MARGIN])
    corners = (found.affine @ np.c_[corners, np.ones(2)].T).T[:, :3]
    extent = np.abs(STUDENT_AXES.T @ (corners[1] - corners[0]))
    shape = tuple(int(np.ceil(length / SPACING)) for length in extent)
    affine = make_grid(STUDENT_AXES, SPACING, shape, corners.mean(0))

    def move(data: np.ndarray) -> np.ndarray:
        """One array from the teacher's grid to the 1.5 mm grid, lightly smoothed against aliasing."""
        smooth = ndimage.gaussian_filter(data.astype(np.float32), 0.5)
        return resample(Volume(smooth, found.affine), affine, shape).data

    parts = np.stack([move(classes == index) for index in range(count)])
    parts[-1] += np.clip(1 - parts.sum(0), 0, 1)
    target = np.stack([move(merged == 1), move(merged == 2)])
    signed = signed_distance(target[1] >= 0.5)
    smooth = ndimage.gaussian_filter(signed, 1.5)
    weight = np.exp(-np.abs(signed) * SPACING / 14.0)
    swell = np.stack([ndimage.sobel(smooth, axis) / 32 * weight for axis in (2, 1, 0)])
    outside = SPACING * signed_distance(move(inner) >= 0.5)
    np.savez(
        output,
        image=move(image).astype(np.float16),
        parts=parts.astype(np.float16),
        target=target.astype(np.float16),
        outside=outside.astype(np.float16),
        swell=swell[:, ::2, ::2, ::2].astype(np.float16),
        affine=affine,
    )
    print(output.name, shape, [round(float(p.sum()) * SPACING**3 / 1000, 1) for p in parts], flush=True)


def main() -> None:
    """Prepare the real head and the MNI152 template."""
    import nilearn.datasets

    parser = argparse.ArgumentParser(description="Prepare the two training heads.")
    parser.add_argument("--head", type=Path, required=True, help="t1_crop.nii.gz of neuroneural/brainchop")
    parser.add_argument("--teacher", type=Path, required=True, help="teacher network (ONNX)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the prepared arrays")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    template = Path(nilearn.datasets.__file__).parent / "data"
    prepare(read_nifti(arguments.head), arguments.teacher, arguments.output / "head.npz")
    prepare(
        read_nifti(template / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"),
        arguments.teacher,
        arguments.output / "mni.npz",
    )


if __name__ == "__main__":
    main()
