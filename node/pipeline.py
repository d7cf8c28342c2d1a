"""One analysis in order: volume, inference, Result, DICOM objects, the gate, files. Used by the worker and by
`overread process` alike.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_sr import archive, conformance
from dicom_sr.errors import EncodingError
from dicom_sr.findings import Equipment, Predecessor, Refusal, Result, SourceImage
from dicom_sr.profile import DestinationProfile
from dicom_sr.render import RenderedObject, file_names, render
from node import __version__
from node.errors import NotAnalysed, Permanent
from node.infer import Inference, Model, analyse
from node.preview import write_preview
from node.volume import Decoders, KnownInstance, Volume, load_volume
from node.volume.images import ImageSet, load_image

Progress = Callable[[str, float], None]
"""Told the stage (``load``, ``infer``, ``encode``) and its share done, 0 to 1."""

LARGEST_HEADER_VALUE = 1 << 16
"""Values longer than this many bytes, as pixels are, stay in the file until they are asked for."""

NOTHING_RAN = "none"
"""Execution provider of a model that was not run."""

EQUIPMENT = Equipment(
    manufacturer="Overread",
    manufacturer_model_name="Overread AI node",
    software_versions=(__version__,),
    device_serial_number="1",
)


@dataclass(frozen=True)
class InputImages:
    """The instances chosen for one input; `known` is what reception noted of them, if anything: loading is then
    quicker.
    """

    paths: tuple[Path, ...]
    known: tuple[KnownInstance, ...] = ()


@dataclass(frozen=True)
class AnalysisRequest:
    """One run of one model on one input set.

    Parameters
    ----------
    inputs : mapping of str to InputImages
        The instances chosen, by name of the model's input.
    input_digest : str
        SHA-256 (hex) that names the input set (`node.select.choose.input_digest`).
    revision : int
        From 1, per study and model.
    created_at : datetime
        Aware; date and time of the result's content, the same in every attempt.
    predecessors : tuple of Predecessor
        The reports that this result replaces.
    """

    inputs: Mapping[str, InputImages]
    input_digest: str
    revision: int
    created_at: datetime
    predecessors: tuple[Predecessor, ...] = ()


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
    embeddings: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def summary(self) -> list[dict[str, Any]]:
        """Findings for people and JSON, in the words of the report: label, finding, site, side, presence, score,
        answers, and measurements with name, value and unit; of a study that was not analysed why not.
        """
        refusal = self.result.not_analysed
        if refusal is not None:
            label = f"Not analysed, {refusal.code}"
            return [{"label": label, "finding": refusal.text, "presence": "not-analysed", "measurements": []}]
        names = {segment.number: segment.label for segment in self.result.segments}
        return [
            {
                "label": names.get(finding.segment_number or 0, finding.tracking_identifier),
                "finding": finding.finding.meaning,
                **({"site": finding.finding_site.meaning} if finding.finding_site else {}),
                **({"laterality": finding.laterality.meaning} if finding.laterality else {}),
                "presence": finding.presence.value,
                **({"likelihood": round(finding.likelihood.value, 6)} if finding.likelihood else {}),
                **({"answers": [each.value.meaning for each in finding.qualifiers]} if finding.qualifiers else {}),
                **({"critical": True} if finding.is_alarm else {}),
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
        inputs = load_inputs(request.inputs, model, decoders, check=lambda: progress("load", 0))
    progress("infer", 0)
    with _timed(timings, "infer"):
        inference = analyse(
            model, inputs, device=device, threads=threads, progress=lambda _, share: progress("infer", share)
        )
    timings.update({f"infer.{stage}": seconds for stage, seconds in inference.timings.items()})
    progress("encode", 0)
    with _timed(timings, "encode"):
        result = build_result(request, model, inputs, inference)
        headers = headers_of(result, inputs)
        sources = _with_pixels(headers, request.inputs) if profile.needs_pixels else headers
        staging, objects = _write_all(result, sources, folder, profile)
    with _timed(timings, "preview"):
        write_preview(staging / "preview.png", inputs, result)
    _publish(staging, folder)
    progress("encode", 1)
    return Analysis(result=result, objects=objects, timings=timings, embeddings=inference.embeddings)


def state_refusal(
    request: AnalysisRequest, model: Model, refusal: Refusal, folder: Path, profile: DestinationProfile
) -> Analysis:
    """Write the statement that the images of a request were not analysed, and why, as `run_analysis` writes a result.

    Raises
    ------
    Permanent
        The statement cannot be written as DICOM.
    """
    paths = [path for images in request.inputs.values() for path in images.paths]
    headers = [dcmread(path, stop_before_pixels=True) for path in paths]
    study, series = str(headers[0].StudyInstanceUID), str(headers[0].SeriesInstanceUID)
    result = Result(
        study_instance_uid=study,
        series_instance_uid=series,
        input_digest=request.input_digest,
        revision=request.revision,
        created_at=request.created_at,
        algorithm=model.algorithm(NOTHING_RAN),
        equipment=EQUIPMENT,
        source_images=tuple(
            SourceImage(str(each.SOPClassUID), str(each.SOPInstanceUID), str(each.SeriesInstanceUID))
            for each in headers
        ),
        predecessors=request.predecessors,
        not_for_clinical_use=model.not_for_clinical_use,
        not_analysed=refusal,
    )
    staging, objects = _write_all(result, headers, folder, profile)
    _publish(staging, folder)
    return Analysis(result=result, objects=objects)


def load_inputs(
    wanted: Mapping[str, InputImages],
    model: Model,
    decoders: Decoders | None = None,
    *,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Volume | ImageSet]:
    """The inputs of a model in the order of its manifest: volumes, or single images where it takes those.

    Raises
    ------
    NotAnalysed
        As `load_volume` and `load_image`; also where an input that takes one image was given several.
    """
    loaded: dict[str, Volume | ImageSet] = {}
    for name in (each.name for each in model.manifest.inputs if each.name in wanted):
        images = wanted[name]
        if model.manifest.preprocessing.dimensions == 3:
            loaded[name] = load_volume(images.paths, images.known, decoders, check=check)
            continue
        if len(images.paths) != 1:
            raise NotAnalysed("several-images", f"input {name}: found {len(images.paths)} images, expected one")
        loaded[name] = load_image(images.paths[0], images.known[0] if images.known else None, decoders)
    return loaded


def _write_all(
    result: Result, sources: Sequence[Dataset], folder: Path, profile: DestinationProfile
) -> tuple[Path, tuple[WrittenObject, ...]]:
    """Objects and archive of a result, in a folder that has not its name yet."""
    rendered = _render_checked(result, sources, profile)
    staging = folder.with_name(folder.name + ".part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    objects = tuple(
        _write_object(each, position, staging / name)
        for position, (each, name) in enumerate(zip(rendered, file_names(rendered), strict=True))
    )
    archive.save_result(result, staging)
    return staging, objects


def _render_checked(result: Result, headers: Sequence[Dataset], profile: DestinationProfile) -> list[RenderedObject]:
    """The objects of the result, all of which pass the conformance gate."""
    try:
        rendered = render(result, headers, profile)
    except EncodingError as error:
        raise Permanent(f"the result cannot be written as DICOM: {error}") from error
    problems = conformance.check([each.dataset for each in rendered], headers, result=result, profile=profile)
    if problems:
        raise Permanent(
            f"the result does not pass the conformance gate ({len(problems)} problems) and is not sent: "
            + "; ".join(str(problem) for problem in problems[:5])
        )
    return rendered


def _with_pixels(headers: Sequence[Dataset], inputs: Mapping[str, InputImages]) -> list[Dataset]:
    """The same images as their files have them, for objects that show them; pixels are read when one is shown."""
    by_uid: dict[str, Dataset] = {}
    for path in (path for images in inputs.values() for path in images.paths):
        dataset = dcmread(path, defer_size=LARGEST_HEADER_VALUE)
        by_uid[str(dataset.SOPInstanceUID)] = dataset
    return [by_uid[str(header.SOPInstanceUID)] for header in headers]


def _write_object(rendered: RenderedObject, position: int, path: Path) -> WrittenObject:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in rendered.parts():
            file.write(part)
            digest.update(part)
    return WrittenObject(
        role=rendered.role.value,
        position=position,
        sop_class_uid=str(rendered.dataset.SOPClassUID),
        sop_instance_uid=str(rendered.dataset.SOPInstanceUID),
        series_instance_uid=str(rendered.dataset.SeriesInstanceUID),
        file_name=path.name,
        sha256=digest.hexdigest(),
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


def build_result(
    request: AnalysisRequest, model: Model, inputs: Mapping[str, Volume | ImageSet], inference: Inference
) -> Result:
    """The one Result of an inference, from which every object is rendered.

    Its images are those of the first input, on which labels and maps lie; where there are none, and all inputs are
    single images of one study, they are all its images. Whatever else was used is named as further images.
    """
    own = _own_images(inputs, inference)
    first = _headers(own[0])[0]
    study, series = str(first.StudyInstanceUID), str(first.SeriesInstanceUID)
    further = [given for given in inputs.values() if given not in own]
    return Result(
        study_instance_uid=study,
        series_instance_uid=series,
        input_digest=request.input_digest,
        revision=request.revision,
        created_at=request.created_at,
        algorithm=model.algorithm(inference.provider),
        equipment=EQUIPMENT,
        source_images=tuple(each for given in own for each in _references(given, series, study)),
        further_images=tuple(each for given in further for each in _references(given, series, study)),
        labels=inference.labels,
        overlapping_labels=inference.overlapping_labels,
        segments=inference.segments,
        findings=inference.findings,
        maps=inference.maps,
        text=inference.text,
        remarks=(*dict.fromkeys(text for given in inputs.values() for text in given.corrections), *inference.remarks),
        predecessors=request.predecessors,
        not_for_clinical_use=model.not_for_clinical_use,
    )


def headers_of(result: Result, inputs: Mapping[str, Volume | ImageSet]) -> Sequence[Dataset]:
    """The headers of the result's own images, in their order, as the renderers want them."""
    given = list(inputs.values())
    first = _headers(given[0])
    if len(result.source_images) == len(first):
        return first
    return [header for each in given for header in _headers(each)][: len(result.source_images)]


def _own_images(inputs: Mapping[str, Volume | ImageSet], inference: Inference) -> list[Volume | ImageSet]:
    given = list(inputs.values())
    studies = {str(_headers(each)[0].StudyInstanceUID) for each in given}
    has_place = inference.labels is not None or bool(inference.maps)
    if has_place or len(studies) > 1 or not all(isinstance(each, ImageSet) for each in given):
        return given[:1]
    return given


def _headers(given: Volume | ImageSet) -> Sequence[Dataset]:
    return given.headers if isinstance(given, Volume) else (given.header,)


def _references(given: Volume | ImageSet, series_instance_uid: str, study_instance_uid: str) -> Iterator[SourceImage]:
    """Each slice of a volume, or the image; series and study are named where they are others than the result's."""
    headers = _headers(given)
    numbers = given.frame_numbers if isinstance(given, Volume) and given.frame_numbers else [None] * len(headers)
    for header, number in zip(headers, numbers, strict=True):
        series, study = str(header.SeriesInstanceUID), str(header.StudyInstanceUID)
        yield SourceImage(
            str(header.SOPClassUID),
            str(header.SOPInstanceUID),
            series_instance_uid="" if series == series_instance_uid else series,
            frame_number=number,
            study_instance_uid="" if study == study_instance_uid else study,
        )


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    timings[stage] = round(time.perf_counter() - started, 3)
