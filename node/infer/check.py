"""`overread models check FOLDER`: what is wrong with a model folder, found by trying it."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from dicom_sr.findings import Finding
from node.errors import OverreadError
from node.infer.analyse import Inference, analyse
from node.infer.manifest import LAST, ManifestError, load_manifest
from node.infer.pool import Sessions
from node.infer.registry import Model
from node.infer.scaffold import tensors_of
from node.infer.sections import Example, Stage
from node.infer.session import Session
from node.infer.shapes import shape_problems
from node.volume.images import ImageSet
from node.volume.volume import Volume


def check_model(folder: Path, *, device: str = "cpu", threads: int = 0) -> list[str]:
    """Read the manifest, hash the files, load the networks, run the example; the problems found, in this
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
        unfit = _check_shapes(model, model.sessions(device, threads))
        problems += unfit
        if not unfit and manifest.example is not None:
            problems += _check_example(model, manifest.example, device, threads)
    except OverreadError as error:
        problems.append(str(error))
    return problems


def _check_shapes(model: Model, sessions: Sessions) -> list[str]:
    """What of the manifest does not fit the tensors of the networks that run here."""
    manifest = model.manifest
    inputs = [each.name for each in manifest.inputs]
    earlier: dict[str, Stage] = {}
    found: list[str] = []
    for place, stage in enumerate(manifest.sequence):
        where = f"stages[{place}]." if stage.name != LAST else ""
        for name in stage.run.files:
            session = sessions[name]
            if isinstance(session, Session):
                given, answers = tensors_of(session.engine)
                for problem in shape_problems(stage, given, answers, inputs, earlier):
                    found.append(f"{model.folder.name}/model.toml: {where}{problem} ({name})")
        earlier[stage.name] = stage
    return list(dict.fromkeys(found))


def _check_example(model: Model, example: Example, device: str, threads: int) -> list[str]:
    where = f"{model.folder.name}: example"
    try:
        inputs = read_example_inputs(model, model.folder / example.input)
        expected = _read_expected(model.folder / example.expected)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        return [f"{where}: cannot be read: {type(error).__name__}: {error}"]
    found = analyse(model, inputs, device=device, threads=threads)
    if isinstance(expected, np.ndarray):
        return [f"{where}: {problem}" for problem in _compare_labels(found, expected, example.minimum_dice)]
    return [f"{where}: {problem}" for problem in compare_findings(found.findings, expected, example.tolerance)]


def read_example_inputs(model: Model, path: Path) -> dict[str, Volume | ImageSet]:
    """The inputs of an example.

    Raises
    ------
    KeyError, ValueError
        When arrays are missing or have another shape.
    """
    names = [each.name for each in model.manifest.inputs]
    with np.load(path, allow_pickle=False) as given:
        arrays = {key: given[key] for key in given.files}
    inputs: dict[str, Volume | ImageSet] = {}
    for name in names:
        prefix = "" if len(names) == 1 and not any("." in key for key in arrays) else f"{name}."
        if model.manifest.preprocessing.dimensions == 2 and f"{prefix}pixels" in arrays:
            inputs[name] = _image(arrays[f"{prefix}pixels"], arrays.get(f"{prefix}spacing_mm"))
        elif model.manifest.preprocessing.dimensions == 3 and f"{prefix}voxels" in arrays:
            inputs[name] = _volume(arrays, prefix)
    if not inputs:
        wanted = "pixels" if model.manifest.preprocessing.dimensions == 2 else "voxels"
        raise KeyError(f"found arrays {', '.join(arrays)}, expected {wanted} or {names[0]}.{wanted}")
    return inputs


def _volume(arrays: Mapping[str, np.ndarray], prefix: str) -> Volume:
    voxels, affine = arrays[f"{prefix}voxels"], arrays[f"{prefix}affine_lps"]
    if voxels.ndim != 3 or affine.shape != (4, 4):
        raise ValueError(f"found voxels {voxels.shape} and affine_lps {affine.shape}, expected three axes and (4, 4)")
    headers = [Dataset() for _ in voxels]
    for number, header in enumerate(headers, start=1):
        header.SOPInstanceUID = f"2.25.{number}"
    modality = str(arrays.get(f"{prefix}modality", ""))
    return Volume(voxels, affine.astype(np.float64), tuple(headers), modality, "")


def _image(pixels: np.ndarray, spacing_mm: np.ndarray | None) -> ImageSet:
    if pixels.ndim not in (2, 3, 4):
        raise ValueError(f"found pixels {pixels.shape}, expected (row, column), (frame, row, column) or colours behind")
    frames = pixels[None] if pixels.ndim == 2 else pixels
    spacing = None if spacing_mm is None else (float(spacing_mm[0]), float(spacing_mm[1]))
    return ImageSet(frames, Dataset(), spacing, None, (), "2.25.1")


def _read_expected(path: Path) -> np.ndarray | dict[str, Any]:
    if path.suffix == ".json":
        expected: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return expected
    with np.load(path, allow_pickle=False) as given:
        return np.asarray(given["labels"])


def _compare_labels(found: Inference, expected: np.ndarray, minimum_dice: float) -> list[str]:
    maps = [] if found.labels is None else [found.labels, *found.overlapping_labels]
    if not maps or expected.shape != maps[0].shape:
        shape = maps[0].shape if maps else "no labels"
        return [f"found labels {expected.shape} in the expected file, expected those of the images: {shape}"]
    problems = []
    for segment in found.segments:
        mask = np.logical_or.reduce([labels == segment.number for labels in maps])
        dice = dice_of(mask, expected == segment.number)
        if dice < minimum_dice:
            problems.append(f"{segment.label}: found Dice {dice:.4f}, expected at least {minimum_dice:g}")
    return problems


def compare_findings(findings: tuple[Finding, ...], expected: Mapping[str, Any], tolerance: float) -> list[str]:
    """Where findings differ from ``{name: {presence, score, grade, measurements: {meaning: value}}}``; each key is
    optional.
    """
    by_name = {finding.tracking_identifier: finding for finding in findings}
    problems = []
    for name, wanted in expected.items():
        finding = by_name.get(name)
        if finding is None:
            problems.append(f"{name}: found no such finding, expected one of: {', '.join(by_name) or 'none'}")
            continue
        for key, value in wanted.items():
            problems += [f"{name}: {problem}" for problem in _compare(finding, key, value, tolerance)]
    return problems


def _compare(finding: Finding, key: str, value: Any, tolerance: float) -> list[str]:
    match key:
        case "presence":
            return _differs(key, finding.presence.value, value, finding.presence.value == value)
        case "grade":
            answers = [each.value.value for each in finding.qualifiers]
            return _differs(key, answers, value, value in answers)
        case "score":
            score = finding.likelihood.value if finding.likelihood else None
            return _differs(key, score, value, score is not None and abs(score - value) <= tolerance)
        case "measurements":
            measured = {each.concept.meaning: each.value for each in finding.measurements}
            return [
                f"{name}: found {measured.get(name)}, expected {wanted} within {tolerance:g} of it"
                for name, wanted in value.items()
                if name not in measured or abs(measured[name] - wanted) > tolerance * max(abs(wanted), 1e-9)
            ]
        case _:
            return [f"found the key {key!r}, expected presence, score, grade or measurements"]


def _differs(key: str, found: object, expected: object, is_right: bool) -> list[str]:
    return [] if is_right else [f"{key}: found {found}, expected {expected}"]


def dice_of(one: np.ndarray, other: np.ndarray) -> float:
    """Dice coefficient of two masks; 1 when both are empty."""
    total = int(np.count_nonzero(one)) + int(np.count_nonzero(other))
    return 2 * int(np.count_nonzero(one & other)) / total if total else 1.0
