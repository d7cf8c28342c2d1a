"""The manifest of a model, `model.toml`: read, checked, and named by its digest.

Problems are reported as ``file: field: found X, expected Y``.
"""

import hashlib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from node.errors import Permanent
from node.infer.fields import RelativePath, Section, Sha256
from node.infer.sections import (
    Example,
    Input,
    Label,
    MeasurementSection,
    ModelSection,
    Postprocessing,
    Preprocessing,
    Run,
)

FILE_NAME = "model.toml"


class ManifestError(Permanent):
    """The manifest cannot be used; the message lists every problem with file, field, found and expected."""


class Manifest(Section):
    """`model.toml`, version 1."""

    version: Literal[1] = Field(description="Version of this format.")
    model: ModelSection = Field(description="What it is.")
    files: dict[RelativePath, Sha256] = Field(
        min_length=1, description="SHA-256 of each file the model consists of, by path within the folder."
    )
    inputs: tuple[Input, ...] = Field(min_length=1, max_length=1, description="The series it takes.")
    preprocessing: Preprocessing = Field(description="From images to tensor.")
    run: Run = Field(description="How the network is called.")
    postprocessing: Postprocessing = Field(Postprocessing(), description="From output to labels.")
    labels: tuple[Label, ...] = Field(min_length=1, max_length=255, description="What the output means.")
    measurements: tuple[MeasurementSection, ...] = Field((), description="Numbers for the report.")
    example: Example | None = Field(None, description="Test case.")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.run.file not in self.files:
            raise ValueError(f"run.file: found {self.run.file!r}, expected one of files: {', '.join(self.files)}")
        _check_labels(self.labels, self.run.channels)
        names = {label.name for label in self.labels}
        for index, measurement in enumerate(self.measurements):
            for name in (*measurement.labels, *measurement.of):
                if name not in names:
                    raise ValueError(
                        f"measurements[{index}]: found label {name!r}, expected one of: {', '.join(sorted(names))}"
                    )
        if self.run.mode == "slices" and self.run.multiple[0] != 1:
            raise ValueError(f"run.multiple: found {self.run.multiple[0]} on axis 0, expected 1 for mode = slices")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the manifest in canonical form; it names the hashes of all files, so it names
        the model.
        """
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def _check_labels(labels: Sequence[Label], channels: int) -> None:
    names: set[str] = set()
    taken: dict[int, str] = {}
    for index, label in enumerate(labels):
        if label.name in names:
            raise ValueError(f"labels[{index}].name: found {label.name!r} twice, expected a name of its own")
        names.add(label.name)
        for channel in label.channels:
            if channel >= channels:
                raise ValueError(
                    f"labels[{index}].channels: found {channel}, expected at most {channels - 1} "
                    f"(run.channels is {channels})"
                )
            if channel in taken:
                raise ValueError(
                    f"labels[{index}].channels: found {channel}, which {taken[channel]!r} has already; "
                    "expected a channel of its own"
                )
            taken[channel] = label.name


def load_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a model folder; the files it names are not read.

    Raises
    ------
    ManifestError
        With one line for each problem.
    """
    where = f"{folder.name}/{FILE_NAME}"
    try:
        tree = tomllib.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
    except OSError as error:
        raise ManifestError(f"{where}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{where}: is not TOML: {error}") from None
    if tree.get("version") != 1:
        raise ManifestError(f"{where}: version: found {_shown(tree.get('version'))}, expected 1")
    try:
        return Manifest.model_validate(tree)
    except ValidationError as error:
        problems = [problem for problem in error.errors() if not _follows(problem, error.errors())]
        raise ManifestError("\n".join(f"{where}: {_explain(problem)}" for problem in problems)) from None


def _follows(problem: Any, problems: Sequence[Any]) -> bool:
    """Whether a list is too short only because of items of it that have problems of their own."""
    place = problem["loc"]
    return problem["type"] == "too_short" and any(
        other is not problem and len(other["loc"]) > len(place) and other["loc"][: len(place)] == place
        for other in problems
    )


def _explain(problem: Any) -> str:
    """One problem of pydantic as `field: found X, expected Y`."""
    field = _field(problem["loc"])
    found, kind, context = problem.get("input"), problem["type"], problem.get("ctx", {})
    match kind:
        case "extra_forbidden":
            return f"{field}: found an unknown key, expected {_known_keys(problem['loc'])}"
        case "missing":
            return f"{field}: found nothing, expected a value"
        case "value_error":
            text = problem["msg"].removeprefix("Value error, ")
            if ": found " in text:
                return text
            return f"{field}: found {_shown(found)}, expected {text}"
        case "literal_error":
            return f"{field}: found {_shown(found)}, expected {context['expected']}"
        case "union_tag_invalid" | "union_tag_not_found":
            tags = (
                context.get("expected_tags") or "'clip', 'clip-percentiles', 'min-max', 'z-score', 'window', 'affine'"
            )
            return f"{field}.step: found {_shown(context.get('tag'))}, expected one of {tags}"
        case "string_pattern_mismatch":
            return f"{field}: found {_shown(found)}, expected text matching {context['pattern']}"
        case _:
            wanted = problem["msg"].removeprefix("Input should be ").removeprefix("Value should have ")
            return f"{field}: found {_shown(found)}, expected {wanted[0].lower()}{wanted[1:]}"


def _field(location: Sequence[Any]) -> str:
    """`labels[2].rgb`: the path of a problem, without pydantic's names of union members."""
    text = ""
    for previous, part in zip((None, *location), location, strict=False):
        if isinstance(part, int):
            text += f"[{part}]"
        elif isinstance(previous, int) and "intensity" in location and part == _step_tag(part):
            continue
        else:
            text += f".{part}" if text else str(part)
    return text or "(whole file)"


STEP_TAGS = ("clip", "clip-percentiles", "min-max", "z-score", "window", "affine")


def _step_tag(part: Any) -> str | None:
    return part if part in STEP_TAGS else None


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _known_keys(location: Sequence[Any]) -> str:
    """The keys that the table at `location` may have."""
    here: Any = Manifest.model_json_schema()
    definitions = here.get("$defs", {})
    for part in location[:-1]:
        here = _inside(here, part, definitions)
        if here is None:
            return "a key of docs/manifest.md"
    return f"one of: {', '.join(here.get('properties', {}))}" if here.get("properties") else "another key"


def _inside(schema: Any, part: Any, definitions: Any) -> Any:
    """The JSON schema of an item or property, references resolved."""
    if isinstance(part, int):
        found = schema.get("items") or {}
    elif part in STEP_TAGS and "discriminator" in schema:
        found = {"$ref": schema["discriminator"]["mapping"][part]}
    else:
        found = schema.get("properties", {}).get(part)
    if found is None:
        return None
    options = [option for option in found.get("anyOf", [found]) if option.get("type") != "null"]
    found = options[0] if options else found
    return definitions.get(found["$ref"].rsplit("/", 1)[-1]) if "$ref" in found else found
