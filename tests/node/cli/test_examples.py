"""Each command shows examples of itself, and they are commands that exist."""

import shlex
from collections.abc import Iterator
from typing import Any

import typer.main
from typer.testing import CliRunner

from node.cli import build_app
from node.cli.examples import EXAMPLES


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}", command


def test_every_command_has_examples_with_options_that_it_has() -> None:
    found = dict(commands(typer.main.get_command(build_app([]))))
    assert set(found) == set(EXAMPLES)
    for name, command in found.items():
        options = {option for parameter in command.params for option in parameter.opts}
        for example in EXAMPLES[name]:
            words = shlex.split(example)
            assert words[: 1 + len(name.split())] == ["overread", *name.split()]
            assert {word for word in words if word.startswith("--")} <= options, example


def test_help_shows_them() -> None:
    shown = CliRunner().invoke(build_app(["jobs"]), ["jobs", "show", "--help"], env={"COLUMNS": "120"})
    assert "overread jobs show 12" in shown.stdout
