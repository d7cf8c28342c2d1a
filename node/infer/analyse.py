"""One inference in order: each stage prepares, runs and interprets; what it found leads the next."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from dicom_sr.findings import Finding, Map, Segment
from node.errors import NotAnalysed, Transient
from node.infer.pool import Key
from node.infer.providers import GPUS
from node.infer.registry import Model
from node.infer.session import OutOfMemory
from node.infer.stages import Outcome, StageRunner
from node.infer.subject import subject_of
from node.infer.thrift import Attempt, Thrift, attempts
from node.logs import get_logger
from node.volume.images import ImageSet
from node.volume.volume import Volume

Progress = Callable[[str, float], None]
"""Told the stage (``prepare``, ``run``, ``finish``) and its share done, 0 to 1, several times a second while the
network runs; may raise to stop.
"""

MEMORY_FALL_BACK = "Computed on the CPU, because the memory of the GPU did not suffice."
FALL_BACK = "Computed on the CPU, because the GPU that was asked for could not be used."
SMALL_PATCHES = (
    "Computed in smaller patches than the model was made with, because memory did not suffice: borders may lie "
    "slightly elsewhere."
)
DEGRADED = (MEMORY_FALL_BACK, FALL_BACK, SMALL_PATCHES)
"""Remarks that say that less was used than was asked for."""


@dataclass(frozen=True, eq=False)
class Inference:
    """What one model found in one exam.

    Parameters
    ----------
    labels : ndarray of uint8 or uint16, shape (slice, row, column), optional
        On the voxels of the first input, 0 is background; read-only.
    overlapping_labels : tuple of ndarray
        Further maps, where segments overlap.
    segments : tuple of Segment
        Every label the model can give.
    findings : tuple of Finding
    maps : tuple of Map
    text : str
        What the model itself wrote.
    embeddings : dict
        Vectors by name.
    provider : str
        The ONNX Runtime execution provider that really ran; each, where networks ran on several.
    degraded : bool
        Whether a GPU was asked for and the CPU was used.
    timings : dict
        Seconds of each step.
    remarks : tuple of str
        For the report: empty labels, what could not be measured, a fall back to the CPU.
    """

    labels: np.ndarray | None
    segments: tuple[Segment, ...]
    findings: tuple[Finding, ...]
    provider: str
    degraded: bool
    overlapping_labels: tuple[np.ndarray, ...] = ()
    maps: tuple[Map, ...] = ()
    text: str = ""
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def _silent(stage: str, share: float) -> None:
    return None


def analyse(
    model: Model,
    inputs: Mapping[str, Volume | ImageSet],
    *,
    progress: Progress = _silent,
    device: str = "prefer-gpu",
    threads: int = 0,
) -> Inference:
    """Run a model on an exam.

    Parameters
    ----------
    model : Model
        From the registry; its sessions stay warm.
    inputs : mapping of str to Volume or ImageSet
        By name of the model's inputs; optional ones may be missing.
    progress : callable
        Called between steps; an exception it raises stops the inference.
    device : {'prefer-gpu', 'require-gpu', 'cpu'}
    threads : int
        CPU threads; 0 means all cores.

    Raises
    ------
    NotAnalysed
        When inputs are missing, of the wrong kind, or do not fit together.
    Transient
        When memory does not suffice, or a GPU is required and none can be used.
    Permanent
        When the model's files differ from its manifest, it cannot be loaded, raises, or gives another shape
        than it says.
    """
    present = ordered_inputs(model, inputs)
    try:
        return _analyse_within_memory(model, present, progress, device, threads)
    except MemoryError:
        sizes = ", ".join(str(subject_of(name, given).source.shape) for name, given in present.items())
        raise Transient(f"model {model.identifier}: not enough memory for a volume of {sizes}") from None


def ordered_inputs(model: Model, inputs: Mapping[str, Volume | ImageSet]) -> dict[str, Volume | ImageSet]:
    """The inputs in the order of the manifest.

    Raises
    ------
    NotAnalysed
        When one that is not optional is missing, or there is none at all.
    """
    wanted = model.manifest.inputs
    missing = [each.name for each in wanted if each.name not in inputs and not each.requires.optional]
    if missing or not inputs:
        raise NotAnalysed("input-missing", f"found inputs {', '.join(inputs) or 'none'}, expected also {missing}")
    return {each.name: inputs[each.name] for each in wanted if each.name in inputs}


def _analyse_within_memory(
    model: Model, inputs: Mapping[str, Volume | ImageSet], progress: Progress, device: str, threads: int
) -> Inference:
    """When memory does not suffice: again with no other model open, as `attempts` says."""
    pool = model.pool
    try:
        return _analyse(model, inputs, progress, device, threads)
    except OutOfMemory as error:
        said = str(error)  # the error itself holds the arrays that were in use
    ran_on = pool.providers(Key(model.identifier, device, threads))
    runs = [stage.run for stage in model.manifest.sequence]
    for attempt in attempts(device, pool.acceleration, ran_on, runs):
        # Its own sessions, too: OpenVINO's stay unusable, and what a GPU holds is in pieces.
        get_logger("infer").warning("memory_short", model=model.identifier, device=device, closed=pool.close())
        try:
            found = _analyse(model, inputs, progress, device, threads, attempt)
        except OutOfMemory as error:
            said = str(error)
            continue
        if attempt.acceleration is not None and attempt.acceleration.gpu != pool.acceleration.gpu:
            pool.close()  # that GPU is another worker's
        return _with_remarks(found, attempt, any(provider in GPUS for provider in ran_on or GPUS))
    raise OutOfMemory(said)


def _with_remarks(found: Inference, attempt: Attempt, was_on_gpu: bool) -> Inference:
    """What was got with less than was asked for says so."""
    remarks = list(found.remarks)
    if found.degraded and was_on_gpu:
        remarks = [MEMORY_FALL_BACK if each == FALL_BACK else each for each in remarks]
    if attempt.thrift is Thrift.SMALL_PATCHES:
        remarks.append(SMALL_PATCHES)
    return replace(found, remarks=tuple(remarks))


def _analyse(
    model: Model,
    inputs: Mapping[str, Volume | ImageSet],
    progress: Progress,
    device: str,
    threads: int,
    attempt: Attempt = Attempt(),
) -> Inference:
    timings: dict[str, float] = {}
    timed = Stopwatch(timings)
    with timed("session"):
        sessions = model.sessions(device, threads, attempt.acceleration)
    runner = StageRunner(model, inputs, sessions, threads, progress, timed, attempt.thrift)
    outcomes: list[Outcome] = []
    for stage in model.manifest.sequence:
        outcomes.append(runner.run(stage, outcomes))
    parts = [part for outcome in outcomes for part in outcome.reported]
    label_maps = _merged([labels for part in parts for labels in part.label_maps])
    degraded = any(session.degraded for session in sessions.values())
    remarks = [remark for outcome in outcomes for remark in outcome.remarks]
    remarks += [remark for part in parts for remark in part.remarks]
    progress("finish", 1)
    return Inference(
        labels=label_maps[0] if label_maps else None,
        overlapping_labels=tuple(label_maps[1:]),
        segments=tuple(segment for part in parts for segment in part.segments),
        findings=tuple(finding for part in parts for finding in part.findings),
        maps=tuple(each for part in parts for each in part.maps),
        text="\n".join(part.text for part in parts if part.text),
        embeddings={name: vector for part in parts for name, vector in part.embeddings.items()},
        provider=", ".join(dict.fromkeys(session.provider for session in sessions.values())),
        degraded=degraded,
        timings=timings,
        remarks=(*dict.fromkeys(remarks), *([FALL_BACK] if degraded else [])),
    )


def _merged(maps: list[np.ndarray]) -> list[np.ndarray]:
    """Label maps of one kind of numbers, read-only; those of several outputs stay apart."""
    kind = np.result_type(*maps) if maps else np.uint8
    merged = [labels.astype(kind, copy=False) for labels in maps]
    for labels in merged:
        labels.setflags(write=False)
    return merged


class Stopwatch:
    """Adds up the seconds of steps by name."""

    def __init__(self, timings: dict[str, float]) -> None:
        self._timings = timings

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._timings[step] = round(self._timings.get(step, 0.0) + time.perf_counter() - started, 3)
