"""One analysis in order: volume, inference, Result, DICOM objects, the gate, files. Used by the worker and by
`overread process` alike.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from dicom_sr import archive, conformance
from dicom_sr.errors import EncodingError
from dicom_sr.findings import Equipment, Predecessor, Result, SourceImage
from dicom_sr.profile import DestinationProfile
from dicom_sr.render import RenderedObject, file_names, render
from node import __version__
from node.errors import Permanent
from node.infer import Inference, Model, analyse
from node.preview import write_preview
from node.volume import Decoders, KnownInstance, Volume, load_volume

Progress = Callable[[str, float], None]
"""Told the stage (``load``, ``infer``, ``encode``) and its share done, 0 to 1."""

EQUIPMENT = Equipment(
    manufacturer="Overread",
    manufacturer_model_name="Overread AI node",
    software_versions=(__version__,),
    device_serial_number="1",
)


@dataclass(frozen=True)
class AnalysisRequest:
    """One run of one model on one input set.

    Parameters
    ----------
    paths : tuple of Path
        The instances chosen for the model's input.
    input_digest : str
        SHA-256 (hex) that names the input set (`node.select.choose.input_digest`).
    revision : int
        From 1, per study and model.
    created_at : datetime
        Aware; date and time of the result's content, the same in every attempt.
    predecessors : tuple of Predecessor
        The reports that this result replaces.
    known : tuple of KnownInstance
        What reception noted of the same instances, if anything: loading is then quicker.
    """

    paths: tuple[Path, ...]
    input_digest: str
    revision: int
    created_at: datetime
    predecessors: tuple[Predecessor, ...] = ()
    known: tuple[KnownInstance, ...] = ()


@dataclass(frozen=True)
class WrittenObject:
    """A DICOM object of the result, on disk; `position` is its place in the order of delivery."""

    role: str
    position: int
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    file_name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Analysis:
    """What was found, what was written (in the folder given), and the seconds each stage took."""

    result: Result
    objects: tuple[WrittenObject, ...]
    timings: dict[str, float] = field(default_factory=dict)

    @property
    def summary(self) -> list[dict[str, Any]]:
        """Findings for people and JSON: label, finding, and measurements with name, value and unit."""
        names = {segment.number: segment.label for segment in self.result.segments}
        return [
            {
                "label": names.get(finding.segment_number or 0, finding.finding.meaning),
                "finding": finding.finding.meaning,
                "measurements": [
                    {"name": m.concept.meaning, "value": m.value, "unit": m.unit.value} for m in finding.measurements
                ],
            }
            for finding in self.result.findings
        ]


def run_analysis(
    request: AnalysisRequest,
    model: Model,
    folder: Path,
    *,
    device: str,
    threads: int,
    profile: DestinationProfile,
    progress: Progress = lambda stage, share: None,
    decoders: Decoders | None = None,
) -> Analysis:
    """Analyse one input set and write the result's objects, archive and preview into `folder`.

    `folder` appears under its name only when everything in it is complete; one that is there already is replaced.
    `decoders` decode compressed images beside this process, if given.

    Raises
    ------
    NotAnalysed
        If the images cannot be made into the volume the model needs.
    Permanent
        If the model or the rendering is wrong; also if a rendered object does not pass the conformance gate.
    Transient
        If the machine cannot run it now (memory, disk).
    """
    timings: dict[str, float] = {}
    progress("load", 0)
    with _timed(timings, "load"):
        volume = load_volume(request.paths, request.known, decoders)
    progress("infer", 0)
    with _timed(timings, "infer"):
        inference = analyse(
            model, volume, device=device, threads=threads, progress=lambda _, share: progress("infer", share)
        )
    timings.update({f"infer.{stage}": seconds for stage, seconds in inference.timings.items()})
    progress("encode", 0)
    with _timed(timings, "encode"):
        result = build_result(request, model, volume, inference)
        rendered = _render_checked(result, volume, profile)
        staging = folder.with_name(folder.name + ".part")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        objects = tuple(
            _write_object(each, position, staging / name)
            for position, (each, name) in enumerate(zip(rendered, file_names(rendered), strict=True))
        )
        archive.save_result(result, staging)
    with _timed(timings, "preview"):
        write_preview(staging / "preview.png", volume, result)
    _publish(staging, folder)
    progress("encode", 1)
    return Analysis(result=result, objects=objects, timings=timings)


def _render_checked(result: Result, volume: Volume, profile: DestinationProfile) -> list[RenderedObject]:
    """The objects of the result, all of which pass the conformance gate."""
    try:
        rendered = render(result, volume.headers, profile)
    except EncodingError as error:
        raise Permanent(f"the result cannot be written as DICOM: {error}") from error
    problems = conformance.check([each.dataset for each in rendered], volume.headers)
    if problems:
        raise Permanent(
            f"the result does not pass the conformance gate ({len(problems)} problems) and is not sent: "
            + "; ".join(str(problem) for problem in problems[:5])
        )
    return rendered


def _write_object(rendered: RenderedObject, position: int, path: Path) -> WrittenObject:
    content = rendered.to_bytes()
    path.write_bytes(content)
    return WrittenObject(
        role=rendered.role.value,
        position=position,
        sop_class_uid=str(rendered.dataset.SOPClassUID),
        sop_instance_uid=str(rendered.dataset.SOPInstanceUID),
        series_instance_uid=str(rendered.dataset.SeriesInstanceUID),
        file_name=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _publish(staging: Path, folder: Path) -> None:
    """Give a complete folder its name; after a power cut it is there with its content, or not at all."""
    for path in (*staging.iterdir(), staging):
        _sync(path)
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def build_result(request: AnalysisRequest, model: Model, volume: Volume, inference: Inference) -> Result:
    """The one Result of an inference, from which every object is rendered."""
    first = volume.headers[0]
    return Result(
        study_instance_uid=str(first.StudyInstanceUID),
        series_instance_uid=str(first.SeriesInstanceUID),
        input_digest=request.input_digest,
        revision=request.revision,
        created_at=request.created_at,
        algorithm=model.algorithm(inference.provider),
        equipment=EQUIPMENT,
        source_images=tuple(SourceImage(str(h.SOPClassUID), str(h.SOPInstanceUID)) for h in volume.headers),
        labels=inference.labels,
        segments=inference.segments,
        findings=inference.findings,
        remarks=(*volume.corrections, *inference.remarks),
        predecessors=request.predecessors,
        not_for_clinical_use=model.not_for_clinical_use,
    )


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    timings[stage] = round(time.perf_counter() - started, 3)
