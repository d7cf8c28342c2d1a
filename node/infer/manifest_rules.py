"""What must fit together between the tables of `model.toml`. Pure: each rule raises ValueError in the words
``field: found X, expected Y``.
"""

from collections.abc import Mapping, Sequence

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
from node.infer.sections import Input, Stage


def check_stages(stages: Sequence[Stage], inputs: Sequence[str], files: Mapping[str, str]) -> None:
    """All rules for stages in the order in which they run; the last is the file's own top."""
    _unique("inputs", inputs)
    _unique("stages", [stage.name for stage in stages])
    for place, stage in enumerate(stages):
        where = f"stages[{place}]." if place < len(stages) - 1 else ""
        if stage.preprocessing.dimensions != stages[-1].preprocessing.dimensions:
            raise ValueError(
                f"{where}preprocessing.dimensions: found {stage.preprocessing.dimensions}, expected "
                f"{stages[-1].preprocessing.dimensions} as in the last stage"
            )
        for name in stage.run.files:
            if name not in files:
                raise ValueError(f"{where}run.file: found {name!r}, expected one of files: {', '.join(files)}")
        _check_inputs(where, stage, inputs)
        _check_run(where, stage)
        _check_regions(where, stage, stages[:place])
        for number, output in enumerate(stage.outputs):
            _check_output(f"{where}outputs[{number}]", output, stage, files)
    _check_names([output for stage in stages for output in stage.outputs if output.report])


def check_first_input(inputs: Sequence[Input], stages: Sequence[Stage]) -> None:
    """Results lie on the first input: it is of the study itself, it is there, and what has a place is made of it."""
    first = inputs[0]
    if first.requires.timepoint == "prior":
        raise ValueError("inputs[0].requires.timepoint: found 'prior', expected 'current': results lie on the first")
    placed = [any(isinstance(each, Segmentation | HeatMap | Detection) for each in stage.outputs) for stage in stages]
    has_prior = any(each.requires.timepoint == "prior" for each in inputs)
    in_volumes = stages[-1].preprocessing.dimensions == 3
    if first.requires.optional and len(inputs) > 1 and (has_prior or in_volumes):
        raise ValueError("inputs[0].requires.optional: found true, expected false: results lie on the first")
    for place, stage in enumerate(stages):
        used = stage.run.input
        names = [name for each in used.values() for name in each] if isinstance(used, dict) else [first.name]
        by_view = stage.run.each == "view"
        if first.name not in names and not by_view and (placed[place] or stage.preprocessing.regions):
            where = f"stages[{place}]." if place < len(stages) - 1 else ""
            raise ValueError(
                f"{where}run.input: found {', '.join(names)}, expected also {first.name!r}: results lie on the first"
            )


def _unique(field: str, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ValueError(f"{field}[{place}].name: found {name!r} twice, expected a name of its own")


def _check_names(outputs: Sequence[AnyOutput]) -> None:
    """Tracking identifiers are unique in the model, or objects could not be told apart."""
    seen: set[str] = set()
    for output in outputs:
        for name in names_of(output):
            if name in seen:
                raise ValueError(f"outputs: found the name {name!r} twice, expected a name of its own")
            seen.add(name)


def names_of(output: AnyOutput) -> list[str]:
    """Names of what an output can find; those of a segmentation are its labels."""
    match output:
        case Segmentation():
            return [each.name for each in output.labels]
        case Classification() | Detection():
            return [each.name for each in output.classes]
        case Landmarks():
            return [each.name for each in output.points] + [each.name for each in output.measurements]
        case Regression():
            return [each.name for each in output.values]
        case Grading() | HeatMap() | Embedding():
            return [output.name]
        case TextOutput():
            return []


def _check_inputs(where: str, stage: Stage, inputs: Sequence[str]) -> None:
    used = stage.run.input if isinstance(stage.run.input, dict) else {}
    for tensor, names in used.items():
        for name in names:
            if name not in inputs:
                raise ValueError(
                    f"{where}run.input.{tensor}: found input {name!r}, expected one of: {', '.join(inputs)}"
                )
    for name in stage.preprocessing.intensity_of:
        if name not in inputs:
            raise ValueError(
                f"{where}preprocessing.intensity_of: found input {name!r}, expected one of: {', '.join(inputs)}"
            )


def _check_run(where: str, stage: Stage) -> None:
    run, images = stage.run, stage.preprocessing.dimensions == 2
    if run.mode == "slices" and run.multiple[0] != 1:
        raise ValueError(f"{where}run.multiple: found {run.multiple[0]} on axis 0, expected 1 for mode = slices")
    if images and run.mode != "whole":
        raise ValueError(f"{where}run.mode: found {run.mode!r}, expected 'whole' for images (dimensions = 2)")
    if images and run.multiple[0] != 1:
        raise ValueError(f"{where}run.multiple: found {run.multiple[0]} on axis 0, expected 1 for images")
    if images and 0 in run.flips:
        raise ValueError(f"{where}run.flips: found axis 0, expected 1 (rows) or 2 (columns) for images")
    if run.mode == "slices" and 0 in run.flips:
        raise ValueError(f"{where}run.flips: found axis 0, expected 1 or 2 for slices")
    if not images and run.each == "view":
        raise ValueError(f"{where}run.each: found 'view', expected 'exam' for volumes (dimensions = 3)")
    placed = [output for output in stage.outputs if isinstance(output, Segmentation | HeatMap)]
    if run.each == "view" and placed:
        raise ValueError(
            f"{where}run.each: found 'view' with task = {placed[0].task!r}, expected 'exam': masks and maps lie on the "
            "first input"
        )
    if run.patch is not None and len(placed) < len(stage.outputs):
        other = next(output for output in stage.outputs if output not in placed)
        raise ValueError(
            f"{where}run.mode: found {run.mode!r} in patches with task = {other.task!r}, expected it "
            "for segmentation and map only"
        )
    _check_averages(where, stage)
    if run.flips and any(isinstance(output, Detection | Landmarks | TextOutput) for output in stage.outputs):
        raise ValueError(
            f"{where}run.flips: found axes, expected none for boxes, points and text: they cannot be averaged"
        )
    if len(run.files) > 1 and any(isinstance(output, Detection | Landmarks | TextOutput) for output in stage.outputs):
        raise ValueError(f"{where}run.file: found {len(run.files)} folds, expected one file for boxes, points and text")


def _check_averages(where: str, stage: Stage) -> None:
    """What is averaged after the activation has one activation for each tensor without a place."""
    if (len(stage.run.files) == 1 and not stage.run.flips) or stage.run.average == "logits":
        return
    seen: dict[str, str] = {}
    for place, output in enumerate(stage.outputs):
        if isinstance(output, Classification | Grading | Regression | Embedding):
            activation = output.activation if isinstance(output, Classification | Grading) else "none"
            if seen.setdefault(output.tensor, activation) != activation:
                raise ValueError(
                    f"{where}outputs[{place}].activation: found {activation!r} for tensor {output.tensor!r}, expected "
                    f"{seen[output.tensor]!r} as of the other output of this tensor, or run.average = 'logits'"
                )


def _check_regions(where: str, stage: Stage, earlier: Sequence[Stage]) -> None:
    known = {each.name: each for each in earlier}
    for place, region in enumerate(stage.preprocessing.regions):
        field = f"{where}preprocessing.regions[{place}]"
        if region.stage not in known:
            listed = ", ".join(known) or "none"
            raise ValueError(f"{field}.stage: found {region.stage!r}, expected an earlier stage: {listed}")
        names = [name for output in known[region.stage].outputs for name in names_of(output)]
        for name in region.names:
            if name not in names:
                raise ValueError(f"{field}.names: found {name!r}, expected one of: {', '.join(names)}")


def _check_output(field: str, output: AnyOutput, stage: Stage, files: Mapping[str, str]) -> None:
    match output:
        case Segmentation():
            _check_labels(field, output, stage.preprocessing.dimensions == 2)
        case HeatMap():
            if output.channel >= output.channels:
                raise ValueError(f"{field}.channel: found {output.channel}, expected at most {output.channels - 1}")
            labels = [name for other in stage.outputs if isinstance(other, Segmentation) for name in names_of(other)]
            if output.label is not None and output.label not in labels:
                raise ValueError(
                    f"{field}.label: found {output.label!r}, expected one of: {', '.join(labels) or 'none'}"
                )
        case Landmarks():
            known = [point.name for point in output.points]
            for place, measurement in enumerate(output.measurements):
                for name in measurement.points:
                    if name not in known:
                        raise ValueError(
                            f"{field}.measurements[{place}].points: found {name!r}, expected one of: {', '.join(known)}"
                        )
        case TextOutput() if output.vocabulary is not None and output.vocabulary not in files:
            raise ValueError(
                f"{field}.vocabulary: found {output.vocabulary!r}, expected one of files: {', '.join(files)}"
            )
        case _:
            return


def _check_labels(field: str, output: Segmentation, in_image: bool) -> None:
    if in_image and output.minimum_component_ml:
        raise ValueError(
            f"{field}.minimum_component_ml: found {output.minimum_component_ml:g}, expected 0 for images: they have no "
            "volume, and minimum_component_voxels counts pixels"
        )
    _unique(f"{field}.labels", [label.name for label in output.labels])
    taken: dict[int, str] = {}
    limit = output.channels if output.decision != "values" else 1 << 30
    if output.decision == "values" and output.channels != 1:
        raise ValueError(f'{field}.channels: found {output.channels}, expected 1 for decision = "values"')
    for place, label in enumerate(output.labels):
        for channel in label.channels:
            if channel >= limit:
                raise ValueError(
                    f"{field}.labels[{place}].channels: found {channel}, expected at most {limit - 1} "
                    f"(channels is {output.channels})"
                )
            if channel in taken:
                raise ValueError(
                    f"{field}.labels[{place}].channels: found {channel}, which {taken[channel]!r} has already; "
                    "expected a channel of its own"
                )
            taken[channel] = label.name
    names = {label.name for label in output.labels}
    for place, measurement in enumerate(output.measurements):
        for name in (*measurement.labels, *measurement.of):
            if name not in names:
                raise ValueError(
                    f"{field}.measurements[{place}]: found label {name!r}, expected one of: {', '.join(sorted(names))}"
                )
        if measurement.kind != "ratio" and (measurement.kind == "area") != in_image:
            raise ValueError(
                f"{field}.measurements[{place}].kind: found {measurement.kind!r}, expected "
                f"{'area' if in_image else 'volume'} (dimensions = {2 if in_image else 3})"
            )
