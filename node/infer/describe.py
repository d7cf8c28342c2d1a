"""A manifest in words, as Markdown: what a model is, takes, does and gives. Pure."""

from collections.abc import Iterator

from node.infer.manifest import LAST, Manifest
from node.infer.manifest_rules import names_of
from node.infer.output_sections import AnyOutput, Classification, Detection, Segmentation
from node.infer.requirements import Requirements
from node.infer.sections import Stage


def describe(manifest: Manifest, level: int = 1) -> str:
    """The manifest as Markdown; `level` is that of its title."""
    model, mark = manifest.model, "#" * level
    lines = [f"{mark} {model.name} {model.version} ({model.identifier})", "", model.intended_use, ""]
    lines += [
        f"- Maker: {model.maker}",
        f"- Licence: {model.licence}",
        f"- Regulatory status: {model.regulatory_status}",
        f"- Clinical use: {'yes' if model.clinical_use else 'no; every object says so'}",
        f"- Digest: `{manifest.digest}`",
        "",
    ]
    if model.limits:
        lines += [f"{mark}# Limits", "", *(f"- {limit}" for limit in model.limits), ""]
    lines += [f"{mark}# Takes", ""]
    for each in manifest.inputs:
        lines.append(f"- **{each.name}**: {'; '.join(_required(each.requires))}")
    lines += ["", f"{mark}# Does", ""]
    for stage in manifest.sequence:
        name = "" if stage.name == LAST else f"stage {stage.name}: "
        lines.append(f"- {name}{_done(stage)}")
    lines += ["", f"{mark}# Gives", ""]
    lines += [f"- **{output.task}**: {_given(output)}" for output in manifest.reported]
    lines += ["", f"{mark}# Files", "", *(f"- `{name}`: SHA-256 `{digest}`" for name, digest in manifest.files.items())]
    return "\n".join(lines) + "\n"


def _required(requires: Requirements) -> Iterator[str]:
    """What differs from the defaults."""
    for name, value in requires.model_dump(exclude_defaults=True, mode="json").items():
        shown = " or ".join(str(each) for each in value) if isinstance(value, list) else str(value)
        yield f"{name.replace('_', ' ')}: {shown}"


def _done(stage: Stage) -> str:
    prepared = stage.preprocessing
    if prepared.dimensions == 3:
        along = [each if isinstance(each, str) else f"{each:g}" for each in prepared.spacing_mm or ()]
        spacing = f" at {' x '.join(along)} mm" if along else ""
        grid = f"volume {prepared.orientation}{spacing}"
    else:
        size = f" of {prepared.size[0]} x {prepared.size[1]} pixels" if prepared.size else ""
        grid = f"image{size}"
    patch = f" in patches of {' x '.join(map(str, stage.run.patch))}" if stage.run.patch else ""
    patch += f" with a halo of {stage.run.halo}" if stage.run.halo else ""
    folds = f", {len(stage.run.files)} folds" if len(stage.run.files) > 1 else ""
    regions = "".join(f", {region.use} by {region.stage}" for region in prepared.regions)
    return f"{grid}{regions}; {', '.join(stage.run.files)}{patch}{folds}"


def _given(output: AnyOutput) -> str:
    names = ", ".join(names_of(output)) or "words"
    match output:
        case Segmentation():
            measured = ", ".join(dict.fromkeys(each.kind for each in output.measurements))
            return f"{names}{f'; measured: {measured}' if measured else ''}"
        case Classification() | Detection():
            points = ", ".join(
                f"{each.name} from {each.threshold:g}{' (critical)' if each.critical else ''}"
                for each in output.classes
            )
            return points
        case _:
            return names
