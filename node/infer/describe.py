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
        fixed = f" of {' x '.join(map(str, prepared.grid.shape))} voxels" if prepared.grid.shape else ""
        grid = f"volume {prepared.orientation}{spacing}{fixed}"
        grid += ", around what is not 0" if prepared.grid.around == "nonzero" else ""
        grid += ", cut to what is bright" if prepared.crop else ""
    else:
        size = f" of {prepared.size[0]} x {prepared.size[1]} pixels" if prepared.size else ""
        grid = f"image{size}"
    scaled = f"; scaled by {', '.join(step.step for step in prepared.intensity)}" if prepared.intensity else ""
    patch = f" in patches of {' x '.join(map(str, stage.run.patch))}" if stage.run.patch else ""
    patch += f" with a halo of {stage.run.halo}" if stage.run.halo else ""
    folds = f", {len(stage.run.files)} folds" if len(stage.run.files) > 1 else ""
    regions = "".join(f", {region.use} by {region.stage}" for region in prepared.regions)
    found = [name for output in stage.outputs if not output.report for name in names_of(output)]
    kept = f"; finds {', '.join(found)} for later stages" if found else ""
    return f"{grid}{regions}{scaled}; {', '.join(stage.run.files)}{patch}{folds}{kept}"


def _cleaned(output: Segmentation) -> str:
    """What is done with labels on the images' own voxels."""
    kinds = {"none": "", "foreground": "largest component of all together", "each-label": "largest component of each"}
    done = [
        "only in the body" if output.body else "",
        f"smoothed by {output.smoothing_mm:g} mm" if output.smoothing_mm else "",
        kinds[output.largest_component],
        f"components of at least {output.minimum_component_ml:g} mL" if output.minimum_component_ml else "",
        f"components of at least {output.minimum_component_voxels} voxels" if output.minimum_component_voxels else "",
        "holes filled" if output.fill_holes else "",
    ]
    said = ", ".join(each for each in done if each)
    return f"; cleaned: {said}" if said else ""


def _given(output: AnyOutput) -> str:
    names = ", ".join(names_of(output)) or "words"
    match output:
        case Segmentation():
            measured = ", ".join(dict.fromkeys(each.kind for each in output.measurements))
            count = f"{len(output.labels)} labels: " if len(output.labels) > 1 else ""
            return f"{count}{names}{f'; measured: {measured}' if measured else ''}{_cleaned(output)}"
        case Classification() | Detection():
            points = ", ".join(
                f"{each.name} from {each.threshold:g}{' (critical)' if each.critical else ''}"
                for each in output.classes
            )
            return points
        case _:
            return names
