"""Compare the model with the teacher on a DICOM series, and time it.

Needs only numpy, scipy, pydicom and onnxruntime. The network is run exactly as CARD.md describes (and as a
node that reads the manifest would); the reference is the teacher's labels on the same series, merged into our
classes. They are compared twice: on the teacher's own 1 mm grid, where its labels are untouched, and on the
voxels of the series (labels of the teacher brought there by nearest neighbour).

    python evaluate.py --model ../model.onnx --series mr-t1-siemens --teacher model.onnx
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession
from scipy import ndimage
from volume import (
    STUDENT_AXES,
    STUDENT_SHAPE,
    STUDENT_SPACING,
    Volume,
    largest_component,
    make_grid,
    merge_teacher,
    read_dicom_series,
    resample,
    run_teacher,
    session,
)

#: Percentiles of the padded 2 mm grid that become 0 and 1.
CLIP_PERCENTILES = (0.5, 99.5)
NAMES = ("background", "parenchyma", "ventricles")


def model_input(volume: Volume) -> Volume:
    """The 2 mm axial grid around the middle of the series, scaled by percentiles to 0..1."""
    affine = make_grid(STUDENT_AXES, STUDENT_SPACING, STUDENT_SHAPE, volume.centre)
    grid = resample(volume, affine, STUDENT_SHAPE)
    low, high = np.percentile(grid.data, CLIP_PERCENTILES)
    return Volume(np.clip((grid.data - low) / max(high - low, 1e-6), 0, 1).astype(np.float32), affine)


def probabilities(volume: Volume, model: InferenceSession) -> Volume:
    """Softmax of the network, shape (3, D, H, W), on its 2 mm grid."""
    grid = model_input(volume)
    logits = model.run(None, {"image": grid.data[None, None]})[0][0]
    exponent = np.exp(logits - logits.max(0))
    return Volume(exponent / exponent.sum(0), grid.affine)


def labels_on(probability: Volume, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Labels 0, 1, 2 on a grid: linear probabilities, the greatest wins, largest piece of parenchyma."""
    planes = [
        resample(Volume(plane, probability.affine), affine, shape, fill=float(index == 0)).data
        for index, plane in enumerate(probability.data)
    ]
    labels = np.stack(planes).argmax(0).astype(np.uint8)
    labels[(labels == 1) & ~largest_component(labels == 1)] = 0
    return labels


def reference(volume: Volume, teacher: Path, cache: Path | None) -> Volume:
    """The teacher's 18 labels on its 1 mm grid, from the cache where there is one."""
    if cache and cache.exists():
        stored = np.load(cache)
        return Volume(stored["labels"], stored["affine"])
    found = run_teacher(volume, teacher)
    if cache:
        np.savez_compressed(cache, labels=found.data, affine=found.affine)
    return found


def report(found: np.ndarray, wanted: np.ndarray, voxel_ml: float) -> None:
    """Print Dice, precision, recall and volumes."""
    for label in (1, 2):
        a, b = found == label, wanted == label
        both = float((a & b).sum())
        print(
            f"{NAMES[label]:11s} Dice {2 * both / (a.sum() + b.sum()):.4f}  precision {both / a.sum():.4f}  "
            f"recall {both / b.sum():.4f}  {a.sum()} voxels, {a.sum() * voxel_ml:.1f} mL "
            f"(reference {b.sum()} voxels, {b.sum() * voxel_ml:.1f} mL)"
        )
    pieces = ndimage.label(found == 2)[1]
    far = ndimage.distance_transform_edt(wanted == 0)
    print(f"ventricle pieces {pieces}; labelled voxels more than 10 voxels away from the reference: ", end="")
    print([int(((found == label) & (far > 10)).sum()) for label in (1, 2)])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Compare the model with the teacher on a DICOM series.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--series", type=Path, required=True, help="folder with one MR series")
    parser.add_argument("--teacher", type=Path, help="teacher network; without it only volumes are printed")
    parser.add_argument("--cache", type=Path, help=".npz that keeps the labels of the teacher")
    parser.add_argument("--save", type=Path, help=".npz to write image, result and reference to")
    arguments = parser.parse_args()

    volume = read_dicom_series(arguments.series)
    model = session(arguments.model)
    began = time.monotonic()
    probability = probabilities(volume, model)
    found = labels_on(probability, volume.affine, volume.data.shape)
    print(f"{time.monotonic() - began:.1f} s from decoded series to labels, {volume.data.shape} voxels")
    print("voxels", np.bincount(found.ravel(), minlength=3).tolist())
    print("mL", [round(float((found == label).sum()) * volume.voxel_ml, 1) for label in (1, 2)])
    wanted = np.zeros_like(found)
    if arguments.teacher:
        labelled = reference(volume, arguments.teacher, arguments.cache)
        print("teacher, voxels of its 18 labels:", np.bincount(labelled.data.ravel(), minlength=18).tolist())
        merged = Volume(merge_teacher(labelled.data), labelled.affine)
        print("on the teacher's 1 mm grid:")
        report(labels_on(probability, merged.affine, merged.data.shape), merged.data, merged.voxel_ml)
        print("on the voxels of the series:")
        wanted = resample(merged, volume.affine, volume.data.shape, order=0).data.astype(np.uint8)
        report(found, wanted, volume.voxel_ml)
    if arguments.save:
        np.savez_compressed(arguments.save, image=volume.data, found=found, wanted=wanted, affine=volume.affine)


if __name__ == "__main__":
    main()
