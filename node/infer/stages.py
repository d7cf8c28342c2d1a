"""One stage of a model: tensors prepared, the network called, each output made a part of the Result."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np

from dicom_sr.findings import Finding, Presence
from node.errors import NotAnalysed
from node.infer import classification
from node.infer.arrays import ScoreDevice
from node.infer.detection import detect
from node.infer.image_preparation import prepare_images
from node.infer.landmarks import locate
from node.infer.manifest_rules import names_of
from node.infer.mosaic import Layout
from node.infer.networks import StageNetwork, activation_left, input_tensors, placed_outputs
from node.infer.output_sections import (
    AnyOutput,
    Classification,
    Detection,
    Embedding,
    Grading,
    HeatMap,
    Landmarks,
    Regression,
    Segmentation,
    TextOutput,
)
from node.infer.parts import Call, Part
from node.infer.pool import Sessions
from node.infer.preparation import Prepared, prepare_volumes
from node.infer.preprocessing_sections import ImagePreprocessing, Preprocessing
from node.infer.regions import Found
from node.infer.registry import Model
from node.infer.sections import Run, Stage
from node.infer.segmentation import LabelMaker, Maker, MapMaker, take_blocks
from node.infer.session import Session
from node.infer.sliding_window import run_network
from node.infer.subject import Subject, subject_of
from node.infer.thrift import Thrift, thrifty
from node.volume.images import ImageSet
from node.volume.volume import Volume

Progress = Callable[[str, float], None]
Timed = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a stage gave: for the Result, and for the stages after it."""

    name: str
    reported: tuple[Part, ...]
    found: Found
    remarks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class StageRunner:
    """Runs the stages of a model on one exam."""

    model: Model
    inputs: Mapping[str, Volume | ImageSet]
    sessions: Sessions
    threads: int
    progress: Progress
    timed: Timed
    thrift: Thrift = Thrift.NONE

    def run(self, stage: Stage, earlier: Sequence[Outcome]) -> Outcome:
        """One stage; it finds nothing where a gate is shut."""
        found = {outcome.name: outcome.found for outcome in earlier}
        shut = [
            region
            for region in stage.preprocessing.regions
            if region.use == "gate" and not found[region.stage].is_found(region)
        ]
        self.progress("prepare", 0)
        with self.timed("prepare"):
            prepared = [] if shut else self._prepare(stage, found)
        subjects = [subject_of(each.subject, self.inputs[each.subject]) for each in prepared]
        for each in subjects:
            _check_spacing(stage, each)
        subject = subjects[0] if subjects else self._first_subject(stage)
        numbers = self._first_numbers(stage)
        if shut:
            parts = [_nothing(output, subject, first) for output, first in zip(stage.outputs, numbers, strict=True)]
            remarks = tuple(f"Stage {stage.name} did not run: stage {each.stage} found nothing." for each in shut)
        else:
            parts = self._interpret(stage, prepared, subjects, numbers, found)
            remarks = tuple(remark for each in prepared for remark in each.remarks)
        return Outcome(
            name=stage.name,
            reported=tuple(part for output, part in zip(stage.outputs, parts, strict=True) if output.report),
            found=_found(subject, parts),
            remarks=remarks,
        )

    def _first_numbers(self, stage: Stage) -> list[int]:
        """Segment number of the first label of each output; those that are not reported are numbered on their own."""
        reported = 1
        numbers = []
        for each in self.model.manifest.sequence:
            for output in each.outputs:
                if each.name == stage.name:
                    numbers.append(reported if output.report else 1)
                if isinstance(output, Segmentation) and output.report:
                    reported += len(output.labels)
        return numbers

    def _used(self, stage: Stage) -> list[str]:
        tensors = input_tensors(stage, [each.name for each in self.model.manifest.inputs])
        return [name for names in tensors.values() for name in names]

    def _first_subject(self, stage: Stage) -> Subject:
        name = next(name for name in self.inputs if name in self._used(stage))
        return subject_of(name, self.inputs[name])

    def _prepare(self, stage: Stage, found: Mapping[str, Found]) -> list[Prepared]:
        """What the network sees: one array, or one for each view."""
        names = self._used(stage)
        given = {name: each for name, each in self.inputs.items() if name in names}
        if not given:
            raise NotAnalysed("input-missing", f"stage {stage.name}: found none of its inputs {', '.join(names)}")
        wanted = stage.preprocessing
        if isinstance(wanted, Preprocessing):
            volumes = {name: each for name, each in given.items() if isinstance(each, Volume)}
            _check_kind(volumes, given, "a series of slices (dimensions = 3)")
            threads = self.threads or os.cpu_count() or 1
            return [prepare_volumes(volumes, names, wanted, found, threads, self._device(stage))]
        images = {name: each for name, each in given.items() if isinstance(each, ImageSet)}
        _check_kind(images, given, "an image (dimensions = 2)")
        if stage.run.each == "view":
            return [prepare_images({name: each}, [name], wanted, found) for name, each in images.items()]
        return [prepare_images(images, names, wanted, found)]

    def _device(self, stage: Stage) -> ScoreDevice | None:
        """The GPU of the stage's networks, where arrays can lie on it."""
        sessions = [self.sessions[name] for name in stage.run.files]
        return next((each.scores for each in sessions if isinstance(each, Session) and each.scores), None)

    def _interpret(
        self,
        stage: Stage,
        prepared: Sequence[Prepared],
        subjects: Sequence[Subject],
        numbers: Sequence[int],
        found: Mapping[str, Found],
    ) -> list[Part]:
        """Call the network and make a part of each output."""
        calls: list[Call] = []
        makers: dict[int, Maker] = {}
        planes = isinstance(stage.preprocessing, ImagePreprocessing) or stage.run.mode == "slices"
        with self.timed("run"):
            for each, subject in zip(prepared, subjects, strict=True):
                share = _Share(self.progress)
                network = self._network(stage, each, planes, share)
                run = thrifty(_run_of(stage), self.thrift)
                scores = run_network(network, each.image, run, share.report, slices=planes)
                makers = _makers(stage, scores.layout, each, subject, numbers, self._device(stage))
                take_blocks(scores.blocks, _with_channels(stage, makers))
                calls += [
                    Call(subject, each.grid, place if planes else None, item)
                    for place, item in enumerate(network.items[: each.grid.shape[0] if planes else 1])
                ]
        self.progress("finish", 0)
        keep = _keep(stage, found)
        with self.timed("finish"):
            return [
                makers[place].finish(keep) if place in makers else self._without_place(stage, output, calls, keep)
                for place, output in enumerate(stage.outputs)
            ]

    def _network(self, stage: Stage, prepared: Prepared, planes: bool, share: "_Share") -> StageNetwork:
        tensors = input_tensors(stage, [each.name for each in self.model.manifest.inputs])
        colours = stage.preprocessing.colours if isinstance(stage.preprocessing, ImagePreprocessing) else 1
        each = colours * (2 * stage.run.neighbours + 1)
        views = 1 if stage.run.each == "view" else None
        return StageNetwork(
            stage=stage,
            sessions=[self.sessions[name] for name in stage.run.files],
            widths={tensor: each * (views or len(names)) for tensor, names in tensors.items()},
            planes=planes,
            model=self.model.identifier,
            check=share.check,
        )

    def _without_place(self, stage: Stage, output: AnyOutput, calls: Sequence[Call], keep: np.ndarray | None) -> Part:
        model, activation = self.model.identifier, activation_left(stage, output)
        match output:
            case Classification():
                return classification.classify(output, calls, activation, model)
            case Grading():
                return classification.grade(output, calls, activation, model)
            case Detection():
                return detect(output, calls, activation, model, keep)
            case Landmarks():
                return locate(output, calls, model)
            case Regression():
                return classification.regress(output, calls, model)
            case Embedding():
                return classification.embed(output, calls, model)
            case TextOutput():
                words = self.model.vocabulary(output.vocabulary) if output.vocabulary else ()
                return classification.write_text(output, calls, words, model)
            case Segmentation() | HeatMap():
                raise AssertionError("outputs with a place have makers")


class _Share:
    """Tells `progress` about the network: how much is done, and between that again and again that it still runs."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0.0

    def report(self, share: float) -> None:
        """A call of the network ended."""
        self._done = share
        self._progress("run", share)

    def check(self) -> None:
        """A call of the network goes on."""
        self._progress("run", self._done)


def _check_kind(fitting: Mapping[str, object], given: Mapping[str, Volume | ImageSet], wanted: str) -> None:
    for name, each in given.items():
        if name not in fitting:
            kind = "a series of slices" if isinstance(each, Volume) else "an image"
            raise NotAnalysed("input-of-another-kind", f"input {name}: found {kind}, expected {wanted}")


def _check_spacing(stage: Stage, subject: Subject) -> None:
    """What is smoothed in millimetres has pixels of a known size."""
    for output in stage.outputs:
        if subject.spacing_mm is None and isinstance(output, Segmentation) and output.smoothing_mm:
            raise NotAnalysed(
                "pixel-spacing-missing",
                f"input {subject.name}: found no size of its pixels (Pixel Spacing), expected one: labels are smoothed "
                f"by {output.smoothing_mm:g} mm",
            )


def _run_of(stage: Stage) -> Run:
    """How the network is called; boxes and words may differ in number from call to call, so these go one by one."""
    if any(isinstance(output, Detection | TextOutput) for output in stage.outputs):
        return stage.run.model_copy(update={"batch": 1})
    return stage.run


def _makers(
    stage: Stage,
    layout: Layout,
    prepared: Prepared,
    subject: Subject,
    numbers: Sequence[int],
    device: ScoreDevice | None,
) -> dict[int, Maker]:
    """Who takes the blocks, by place of the output."""
    makers: dict[int, Maker] = {}
    for place, output in enumerate(stage.outputs):
        activation = activation_left(stage, output)
        if isinstance(output, Segmentation):
            makers[place] = LabelMaker(
                output, activation, layout, prepared.grid, subject, numbers[place], device, prepared.coarse_axis
            )
        elif isinstance(output, HeatMap):
            makers[place] = MapMaker(output, activation, prepared.grid, subject, _number_of(output, stage, numbers))
    return makers


def _number_of(output: HeatMap, stage: Stage, numbers: Sequence[int]) -> int | None:
    """The segment whose shares a map shows."""
    for first, other in zip(numbers, stage.outputs, strict=True):
        if isinstance(other, Segmentation) and output.label in names_of(other):
            return first + names_of(other).index(str(output.label))
    return None


def _with_channels(stage: Stage, makers: Mapping[int, Maker]) -> list[tuple[Maker, slice]]:
    chosen, first = [], 0
    for maker, output in zip(makers.values(), placed_outputs(stage), strict=True):
        chosen.append((maker, slice(first, first + output.channels)))
        first += output.channels
    return chosen


def _keep(stage: Stage, found: Mapping[str, Found]) -> np.ndarray | None:
    masks = [found[each.stage].mask(each.names) for each in stage.preprocessing.regions if each.use == "keep"]
    return np.logical_and.reduce(masks) if masks else None


def _nothing(output: AnyOutput, subject: Subject, first_number: int) -> Part:
    """The part of an output whose network did not run, because what it looks into is not there."""
    if isinstance(output, Segmentation):
        layout = Layout.of((1, 1, 1), (1, 1, 1), ([0], [0], [0]))
        return LabelMaker(output, "none", layout, subject.source, subject, first_number).empty()
    if isinstance(output, Classification | Detection):
        return Part(
            findings=tuple(
                Finding(
                    finding=each.finding.code,
                    tracking_identifier=each.name,
                    finding_site=each.finding_site.code if each.finding_site else None,
                    laterality=each.laterality.code if each.laterality else None,
                    presence=Presence.ABSENT,
                    critical=each.critical,
                )
                for each in output.classes
            )
        )
    return Part()


def _found(subject: Subject, parts: Sequence[Part]) -> Found:
    """What later stages may use."""
    return Found(
        grid=subject.source,
        label_maps=tuple(labels for part in parts for labels in part.label_maps),
        numbers={segment.label: segment.number for part in parts for segment in part.segments},
        boxes={name: boxes for part in parts for name, boxes in part.boxes.items()},
        present=frozenset(name for part in parts for name in part.present),
    )
