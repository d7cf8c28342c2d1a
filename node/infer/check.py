"""`overread models check FOLDER`: what is wrong with a model folder, found by trying it."""

import zipfile
from pathlib import Path

import numpy as np

from node.errors import OverreadError
from node.infer.analyse import analyse
from node.infer.manifest import ManifestError, load_manifest
from node.infer.registry import Model
from node.infer.sections import Example
from node.volume.volume import Volume


def check_model(folder: Path, *, device: str = "cpu", threads: int = 0) -> list[str]:
    """Read the manifest, hash the files, load the network, run the example; the problems found, in this
    order.

    Each step needs the one before, so the first step with a problem is the last that is done.
    """
    try:
        manifest = load_manifest(folder)
    except ManifestError as error:
        return str(error).splitlines()
    model = Model(folder, manifest)
    problems = []
    if not (folder / "CARD.md").is_file():
        problems.append(f"{folder.name}: CARD.md: found nothing, expected a description of data, method and quality")
    try:
        model.session(device, threads)
        if manifest.example is not None:
            problems += _check_example(model, manifest.example, device, threads)
    except OverreadError as error:
        problems.append(str(error))
    return problems


def _check_example(model: Model, example: Example, device: str, threads: int) -> list[str]:
    where = f"{model.folder.name}: example"
    try:
        with np.load(model.folder / example.input, allow_pickle=False) as given:
            volume = Volume(
                voxels=given["voxels"],
                affine_lps=given["affine_lps"].astype(np.float64),
                headers=(),
                modality=str(given["modality"]),
                frame_of_reference_uid="",
            )
        with np.load(model.folder / example.expected, allow_pickle=False) as given:
            expected = given["labels"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        return [f"{where}: cannot be read: {type(error).__name__}: {error}"]
    if volume.voxels.ndim != 3 or volume.affine_lps.shape != (4, 4) or expected.shape != volume.voxels.shape:
        return [
            f"{where}: found voxels {volume.voxels.shape}, affine_lps {volume.affine_lps.shape} and labels "
            f"{expected.shape}, expected three axes, (4, 4) and the shape of voxels"
        ]
    found = analyse(model, volume, device=device, threads=threads).labels
    problems = []
    for number, label in enumerate(model.manifest.labels, start=1):
        dice = dice_of(found == number, expected == number)
        if dice < example.minimum_dice:
            problems.append(f"{where}: {label.name}: found Dice {dice:.4f}, expected at least {example.minimum_dice:g}")
    return problems


def dice_of(one: np.ndarray, other: np.ndarray) -> float:
    """Dice coefficient of two masks; 1 when both are empty."""
    total = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 2 * int(np.count_nonzero(one & other)) / total if total else 1.0
