"""Whether a manifest fits the tensors of its networks, as far as these say their sides. Pure.

Sides that a network leaves free say nothing, and so are not looked at.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from node.infer.manifest_rules import names_of
from node.infer.networks import input_tensors
from node.infer.output_sections import AnyOutput, Classification, Grading, HeatMap, Segmentation
from node.infer.preprocessing_sections import ImagePreprocessing
from node.infer.sections import Run, Stage

Sides = tuple[int | None, ...]


@dataclass(frozen=True)
class Tensor:
    """Name and sides of a tensor; a side that is not fixed is None."""

    name: str
    sides: Sides


def shape_problems(
    stage: Stage,
    given: Sequence[Tensor],
    answers: Sequence[Tensor],
    inputs: Sequence[str],
    earlier: Mapping[str, Stage],
) -> Iterator[str]:
    """What does not fit, each as ``field: found X, expected Y``.

    Parameters
    ----------
    given, answers : sequence of Tensor
        Inputs and outputs of one of the stage's networks.
    inputs : sequence of str
        Names of the model's inputs.
    earlier : mapping of str to Stage
        The stages before, by name.
    """
    in_planes = isinstance(stage.preprocessing, ImagePreprocessing) or stage.run.mode == "slices"
    axes = 2 if in_planes else 3
    widths = _widths(stage, inputs, earlier)
    for tensor in given:
        if len(tensor.sides) != 2 + axes:
            yield (
                f"run.input: found {len(tensor.sides)} axes in the tensor {tensor.name!r}, expected {2 + axes} for "
                f"{'images and slices' if in_planes else 'volumes'}: batch, channel and {axes} axes"
            )
            continue
        batch, channels, sides = _parts(tensor.sides, stage.run)
        if batch is not None and batch < stage.run.batch:
            yield f"run.batch: found {stage.run.batch}, expected {batch} as the tensor {tensor.name!r} has"
        if channels is not None and widths.get(tensor.name, channels) != channels:
            yield (
                f"run.input: found {widths[tensor.name]} channels of inputs (and of regions) for the tensor "
                f"{tensor.name!r}, expected {channels}"
            )
        yield from _side_problems(stage, tensor.name, sides)
    found = {tensor.name: tensor.sides for tensor in answers}
    for place, output in enumerate(stage.outputs):
        yield from _output_problems(f"outputs[{place}]", output, found, axes, stage.run)


def _parts(sides: Sides, run: Run) -> tuple[int | None, int | None, Sides]:
    """Batch, channels, and the rest."""
    if run.layout == "channels-last":
        return sides[0], sides[-1], sides[1:-1]
    return sides[0], sides[1], sides[2:]


def _widths(stage: Stage, inputs: Sequence[str], earlier: Mapping[str, Stage]) -> dict[str, int]:
    """Channels that each tensor is given; the last has those of regions, too."""
    prepared = stage.preprocessing
    each = (prepared.colours if isinstance(prepared, ImagePreprocessing) else 1) * (2 * stage.run.neighbours + 1)
    tensors = input_tensors(stage, inputs)
    widths = {name: each * (1 if stage.run.each == "view" else len(sources)) for name, sources in tensors.items()}
    last = next(reversed(widths))
    for region in prepared.regions:
        if region.use == "channel":
            names = [name for output in earlier[region.stage].outputs for name in names_of(output)]
            widths[last] += len(region.names or names)
    return widths


def _side_problems(stage: Stage, tensor: str, sides: Sides) -> Iterator[str]:
    """Of a network with fixed sides: what it will be given."""
    prepared, run = stage.preprocessing, stage.run
    if None in sides and not any(sides):
        return
    if run.halo:
        yield f"run.halo: found {run.halo}, expected 0: the tensor {tensor!r} has the fixed sides {_shown(sides)}"
        return
    if run.patch is not None:
        field, wanted = "run.patch", tuple(run.patch)[-len(sides) :]
    elif isinstance(prepared, ImagePreprocessing):
        field, wanted = "preprocessing.size", tuple(prepared.size or ())
    else:
        is_cut = prepared.crop is not None or any(each.use == "crop" for each in prepared.regions)
        field, wanted = "preprocessing.grid.shape", tuple(() if is_cut else prepared.grid.shape or ())
        wanted = wanted[-len(sides) :]
    if not wanted:
        yield (
            f"{field}: found none, expected {_shown(sides)}, the fixed sides of the tensor {tensor!r}"
            f"{': nothing may be cut off' if prepared.dimensions == 3 else ''}"
        )
    elif run.multiple == (1, 1, 1) and any(have not in (None, side) for have, side in zip(sides, wanted, strict=True)):
        yield f"{field}: found {_shown(wanted)}, expected {_shown(sides)} as the tensor {tensor!r} has"


def _output_problems(field: str, output: AnyOutput, found: Mapping[str, Sides], axes: int, run: Run) -> Iterator[str]:
    match output:
        case Segmentation() | HeatMap():
            sides = found.get(output.tensor, ())
            if len(sides) == 2 + axes:
                channels = _parts(sides, run)[1]
                if channels is not None and channels != output.channels:
                    yield (
                        f"{field}.channels: found {output.channels}, expected {channels} as the tensor "
                        f"{output.tensor!r} has"
                    )
        case Classification():
            listed = [(f"classes[{place}]", each.channel) for place, each in enumerate(output.classes)]
            yield from _score_problems(field, listed, output.tensor, found.get(output.tensor, ()))
        case Grading():
            listed = [(f"grades[{place}]", each.channel) for place, each in enumerate(output.grades)]
            yield from _score_problems(field, listed, output.tensor, found.get(output.tensor, ()))
        case _:
            return


def _score_problems(field: str, listed: Sequence[tuple[str, int]], tensor: str, sides: Sides) -> Iterator[str]:
    count = sides[1] if len(sides) == 2 else None
    for name, channel in listed:
        if count is not None and channel >= count:
            yield (
                f"{field}.{name}.channel: found {channel}, expected at most {count - 1}: the tensor {tensor!r} has "
                f"{count} channels"
            )


def _shown(sides: Sequence[int | None]) -> str:
    return " x ".join("any" if side is None else str(side) for side in sides)
