"""What the commands share: options, output, access to the database."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from sqlalchemy import Engine

from node.errors import Permanent
from node.settings import Settings, SettingsError, load_settings
from node.store.database import check_schema, open_database

DEFAULT_CONFIG = Path("config/node.toml")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="OVERREAD_CONFIG", help="Configuration file; default config/node.toml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]

PIPED_WIDTH = 200
"""Columns of what is written into a file or another program: paths and UIDs stay on one line."""

NO_GPU = "the GPU that was asked for could not be used"
"""What reservations say of `node.infer.analyse.FALL_BACK`, which is not imported here: it needs ONNX Runtime."""
NO_GPU_FIX = (
    'If this machine has no GPU, say so: work.device = "cpu", and results are marked no more. If it has one, install '
    "its libraries: .venv/bin/pip install -e '.[cuda]', and restart."
)

_SPAN = re.compile(r"(\d+)([dhm])")
_UNITS = {"d": "days", "h": "hours", "m": "minutes"}

console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, markup=False)
"""No markup: messages hold names of tables such as `[[routes]]`."""


def console_error(message: str) -> None:
    """One message for people on standard error."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(f"overread: {message}", style="bold red", markup=False)


def console_note(message: str) -> None:
    """A remark for people on standard error, so that standard output stays what a program can read."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(message, style="yellow", markup=False)


def read_settings(config: Path | None) -> Settings:
    """The settings of the file given, or of `config/node.toml` where it is."""
    if config is None and not DEFAULT_CONFIG.exists():
        raise SettingsError(
            f"no configuration: {DEFAULT_CONFIG} is not here; name one with --config or OVERREAD_CONFIG"
        )
    return load_settings(config or DEFAULT_CONFIG)


@contextmanager
def opened_database(settings: Settings) -> Iterator[Engine]:
    """The node's database, which must exist and be at the current schema."""
    if settings.database_url.startswith("sqlite:///") and not Path(settings.database_url[10:]).exists():
        raise Permanent(f"no database at {settings.database_url[10:]}: start the node once (overread run)")
    engine = open_database(settings.database_url)
    try:
        check_schema(engine)
        yield engine
    finally:
        engine.dispose()


def print_json(value: Any) -> None:
    """Machine-readable output: one JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, default=_plain))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def utc_now() -> datetime:
    """The present moment, aware."""
    return datetime.now(UTC)


def parse_peer(text: str) -> tuple[str, int]:
    """`HOST:PORT` (or `[IPV6]:PORT`) in two parts; a usage error otherwise."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise typer.BadParameter(f"expected HOST:PORT, for example pacs.example.org:104, found {text!r}")
    return host.strip("[]"), int(port)


def parse_span(text: str) -> timedelta:
    """`7d`, `12h` or `30m`; a usage error otherwise."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"expected a number with d, h or m, for example 7d, found {text!r}")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})


def said_of(finding: Mapping[str, Any]) -> str:
    """What a finding of a summary (`node.pipeline.Analysis`) says, on one line, but its label."""
    if finding["presence"] == "not-analysed":
        return str(finding["finding"])
    place = [word for part in ("laterality", "site") for word in finding.get(part, "").lower().split()]
    is_in_label = all(word in finding["label"].lower() for word in place)
    shown = finding["presence"] != "present" or not finding["measurements"]
    said = [finding["presence"]] if shown else []
    said += [] if is_in_label else [" ".join(place)]
    said += finding.get("answers", ())
    if "likelihood" in finding:
        said.append(f"{finding['likelihood']:.3f}")
    said += [f"{m['name']} {m['value']:.2f} {m['unit']}" for m in finding["measurements"]]
    return ", ".join(said) + (" (critical)" if finding.get("critical") else "")
