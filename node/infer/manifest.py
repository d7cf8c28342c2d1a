"""The manifest of a model, `model.toml`: read, checked, and named by its digest.

Problems are reported as ``file:line: field: found X, expected Y``.
"""

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from node.errors import Permanent
from node.infer.fields import RelativePath, Section, Sha256
from node.infer.manifest_rules import check_first_input, check_stages
from node.infer.output_sections import AnyOutput
from node.infer.preprocessing_sections import AnyPreprocessing
from node.infer.sections import Example, Input, ModelSection, Run, Stage
from node.toml_lines import find_lines
from node.toml_problems import explain_problems

FILE_NAME = "model.toml"
LAST = "main"
"""Name of the stage that the top of the file describes."""


class ManifestError(Permanent):
    """The manifest cannot be used; the message lists every problem with file, line, field, found and expected."""


class Manifest(Section):
    """`model.toml`, version 1."""

    version: Literal[1] = Field(description="Version of this format.")
    model: ModelSection = Field(description="What it is.")
    files: dict[RelativePath, Sha256] = Field(
        min_length=1, description="SHA-256 of each file the model consists of, by path within the folder."
    )
    inputs: tuple[Input, ...] = Field(
        min_length=1, max_length=8, description="The series or images it takes; results lie on the first."
    )
    stages: tuple[Stage, ...] = Field((), max_length=8, description="Networks that run before the last one.")
    preprocessing: AnyPreprocessing = Field(description="From images to tensor, for the last network.")
    run: Run = Field(Run(), description="How the last network is called.")
    outputs: tuple[AnyOutput, ...] = Field(min_length=1, description="What its output tensors mean.")
    example: Example | None = Field(None, description="Test case.")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        check_first_input(self.inputs, self.sequence)
        check_stages(self.sequence, tuple(each.name for each in self.inputs), self.files)
        return self

    @property
    def sequence(self) -> tuple[Stage, ...]:
        """All stages in the order in which they run; the last is named `LAST`."""
        last = Stage(name=LAST, preprocessing=self.preprocessing, run=self.run, outputs=self.outputs)
        return (*self.stages, last)

    @property
    def reported(self) -> tuple[AnyOutput, ...]:
        """All outputs of all stages of which something is written, in the order in which they are made."""
        return tuple(output for stage in self.sequence for output in stage.outputs if output.report)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that are reported, each once."""
        return tuple(dict.fromkeys(output.task for output in self.reported))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the manifest in canonical form; it names the hashes of all files, so it names the model.

        Keys that have their default are left out, written or not, so that a version of this program that knows more
        keys gives the same digest. For this reason a default of version 1 is never changed.
        """
        meant = self.model_dump(mode="json", exclude_defaults=True)
        canonical = json.dumps(meant, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a model folder; the files it names are not read.

    Raises
    ------
    ManifestError
        With one line for each problem.
    """
    where = f"{folder.name}/{FILE_NAME}"
    try:
        text = (folder / FILE_NAME).read_text(encoding="utf-8")
        tree = tomllib.loads(text)
    except OSError as error:
        raise ManifestError(f"{where}: cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"{where}: is not TOML: {error}") from None
    lines = find_lines(text)
    if tree.get("version") != 1:
        raise ManifestError(f"{lines.place(where, ('version',))}: version: found {tree.get('version')}, expected 1")
    try:
        return Manifest.model_validate(tree)
    except ValidationError as error:
        problems = explain_problems(Manifest, error)
        raise ManifestError(
            "\n".join(f"{lines.place(where, each.path)}: {each.field}: {each.text}" for each in problems)
        ) from None
