"""Each command shows examples of itself, and they are commands that exist."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from typer.testing import CliRunner

from node import __version__
from node.cli import build_app
from node.cli.demo import make_room
from node.cli.examples import EXAMPLES
from node.cli.shared import NO_GPU
from node.infer.analyse import FALL_BACK


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
            wanted = [set(each.opts) for each in command.params if each.required and each.opts[0].startswith("-")]
            assert all(names & set(words) for names in wanted), f"{example} lacks an option that must be given"


def test_version() -> None:
    shown = CliRunner().invoke(build_app(["--version"]), ["--version"])
    assert shown.stdout == f"overread {__version__}\n"


def test_demo_deletes_nothing_but_what_a_demo_left(tmp_path: Path) -> None:
    for name in ("pacs", "result", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    make_room(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"mine", "file"}


def test_status_knows_the_reservation_that_it_has_a_fix_for() -> None:
    assert NO_GPU in FALL_BACK


def test_help_shows_them() -> None:
    shown = CliRunner().invoke(build_app(["jobs"]), ["jobs", "show", "--help"], env={"COLUMNS": "120"})
    assert "overread jobs show 12" in shown.stdout
