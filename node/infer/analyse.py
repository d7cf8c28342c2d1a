"""One inference in order: prepare, run, decide on the source grid, clean, measure."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from dicom_sr.findings import Finding, Segment
from node.errors import Transient
from node.infer.measure import measure
from node.infer.paint import paint_labels
from node.infer.postprocess import clean, make_decision
from node.infer.registry import Model
from node.infer.session import Session
from node.infer.sliding_window import Scores, run_network
from node.infer.transforms import prepare
from node.volume.volume import Volume

Progress = Callable[[str, float], None]
"""Told the stage (``prepare``, ``run``, ``finish``) and its share done, 0 to 1, several times a second while the
network runs; may raise to stop.
"""

FALL_BACK = "Computed on the CPU, because the GPU that was asked for could not be used."


@dataclass(frozen=True, eq=False)
class Inference:
    """What one model found in one volume.

    Parameters
    ----------
    labels : ndarray of uint8, shape (slice, row, column)
        On the source grid, 0 is background; read-only.
    segments : tuple of Segment
        Every label the model can give.
    findings : tuple of Finding
    provider : str
        The ONNX Runtime execution provider that really ran.
    degraded : bool
        Whether a GPU was asked for and the CPU was used.
    timings : dict
        Seconds of each stage.
    remarks : tuple of str
        For the report: empty labels, what could not be measured, a fall back to the CPU.
    """

    labels: np.ndarray
    segments: tuple[Segment, ...]
    findings: tuple[Finding, ...]
    provider: str
    degraded: bool
    timings: dict[str, float] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def _silent(stage: str, share: float) -> None:
    return None


def analyse(
    model: Model, volume: Volume, *, progress: Progress = _silent, device: str = "prefer-gpu", threads: int = 0
) -> Inference:
    """Run a model on a volume.

    Parameters
    ----------
    model : Model
        From the registry; its session stays warm.
    volume : Volume
    progress : callable
        Called between steps; an exception it raises stops the inference.
    device : {'prefer-gpu', 'require-gpu', 'cpu'}
    threads : int
        CPU threads; 0 means all cores.

    Raises
    ------
    Transient
        When memory does not suffice, or a GPU is required and none can be used.
    Permanent
        When the model's files differ from its manifest, it cannot be loaded, raises, or gives another shape
        than it says.
    """
    try:
        return _analyse(model, volume, progress, device, threads)
    except MemoryError:
        raise Transient(f"model {model.identifier}: not enough memory for a volume of {volume.voxels.shape}") from None


def _analyse(model: Model, volume: Volume, progress: Progress, device: str, threads: int) -> Inference:
    manifest = model.manifest
    timings: dict[str, float] = {}
    with _timed(timings, "session"):
        session = model.session(device, threads)
    progress("prepare", 0)
    with _timed(timings, "prepare"):
        prepared = prepare(volume, manifest.preprocessing, threads or os.cpu_count() or 1)
    wanted = manifest.postprocessing
    with _timed(timings, "run"):
        scores = _run(session, prepared.image, model, progress)
        labels = paint_labels(
            scores.blocks,
            scores.layout,
            prepared.grid,
            volume.grid,
            make_decision(wanted, manifest.labels, manifest.run.channels),
            activation=wanted.activation,
            resample=wanted.resample,
        )
    progress("finish", 0)
    with _timed(timings, "finish"):
        clean(labels, volume.voxels, volume.voxel_ml, wanted)
    with _timed(timings, "measure"):
        measured = measure(labels, manifest.labels, manifest.measurements, volume.voxel_ml)
    labels.setflags(write=False)
    progress("finish", 1)
    return Inference(
        labels=labels,
        segments=model.segments,
        findings=measured.findings,
        provider=session.provider,
        degraded=session.degraded,
        timings=timings,
        remarks=(*measured.remarks, *([FALL_BACK] if session.degraded else [])),
    )


def _run(session: Session, image: np.ndarray, model: Model, progress: Progress) -> Scores:
    """Scores of the network, which runs while they are taken; `progress` hears from it between and during calls."""
    done = 0.0

    def report(share: float) -> None:
        nonlocal done
        done = share
        progress("run", share)

    def network(batch: np.ndarray) -> np.ndarray:
        return session.run(batch, lambda: progress("run", done))

    return run_network(network, image, model.manifest.run, model.identifier, report)


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    timings[stage] = round(time.perf_counter() - started, 3)
