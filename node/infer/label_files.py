"""Files that tools leave beside a network to say what its channels mean: names, colours, codes. Pure, apart from
reading the file.

JSON: a list of names; names by number, or numbers by name (nnU-Net's `dataset.json`, MONAI's `channel_def`); columns
R, G, B and labels (NiiVue); objects with name, code and colour. Text: one name on each line; number, name and colour
(FreeSurfer, 3D Slicer); ITK-SNAP's; tables with a header line (CSV, TSV).
"""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node.errors import Permanent

BACKGROUND = {"background", "bg", "unknown", "clear label", "none", "ignore"}
"""Names, in lower case, of channels that are no label."""

_SNAP = re.compile(r'(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+[\d.]+\s+\d+\s+\d+\s+"(.*)"')
_LOOKUP = re.compile(r"(\d+)\s+(\S+)\s+(\d+)\s+(\d+)\s+(\d+)(?:\s+\d+)?")
_NUMBER_KEYS = ("channel", "index", "id", "label", "value", "number")


@dataclass(frozen=True)
class NamedLabel:
    """What is known of a label before a manifest is written.

    Parameters
    ----------
    name : str
    channels : tuple of int
        Of the network's output.
    rgb : tuple of int, optional
    type, laterality : mapping, optional
        Coded concepts, as a manifest has them.
    """

    name: str
    channels: tuple[int, ...]
    rgb: tuple[int, int, int] | None = None
    type: Mapping[str, str] | None = None
    laterality: Mapping[str, str] | None = None


def read_labels(path: Path) -> tuple[NamedLabel, ...]:
    """The labels that a file names, by channel; background is left out.

    Raises
    ------
    Permanent
        When it cannot be read, or says nothing that is known here.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Permanent(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise Permanent(f"{path}: found bytes that are not UTF-8, expected text") from None
    try:
        found = _of_json(json.loads(text)) if text.lstrip()[:1] in ("{", "[") else _of_text(text)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Permanent(f"{path}: found no labels that can be read ({error}), expected {FORMS}") from None
    named = sorted((each for each in found if not _is_background(each)), key=lambda each: each.channels)
    if not named:
        raise Permanent(f"{path}: found no label, expected {FORMS}")
    _check_unique(path, named)
    return tuple(named)


FORMS = (
    "JSON (names; names by number or numbers by name; objects with name, code and colour), a table with a header line "
    "(channel, name, r, g, b, code, scheme, meaning), lines `number name r g b`, or one name on each line"
)


def _is_background(label: NamedLabel) -> bool:
    return label.name.strip().lower() in BACKGROUND


def _check_unique(path: Path, labels: Sequence[NamedLabel]) -> None:
    names: set[str] = set()
    taken: dict[int, str] = {}
    for label in labels:
        if label.name in names:
            raise Permanent(f"{path}: found the name {label.name!r} twice, expected a name of its own")
        names.add(label.name)
        for channel in label.channels:
            if channel in taken:
                raise Permanent(f"{path}: found number {channel} for {taken[channel]!r} and {label.name!r}")
            taken[channel] = label.name


def _of_json(given: Any) -> list[NamedLabel]:
    colours: dict[int, tuple[int, int, int]] = {}
    if isinstance(given, Mapping):
        if all(isinstance(given.get(key), list) for key in "RGB"):
            colours = {
                place: _rgb(each) for place, each in enumerate(zip(given["R"], given["G"], given["B"], strict=True))
            }
        inner = next((given[key] for key in ("labels", "channels", "classes") if key in given), given)
        given = inner
    if isinstance(given, list):
        pairs = [(_number(each, place), each) for place, each in enumerate(given)]
    elif all(str(key).isdigit() for key in given):
        pairs = [(int(key), each) for key, each in given.items()]
    else:
        return [_by_name(name, number) for name, number in given.items()]
    return [_of_entry(number, each, colours.get(number)) for number, each in pairs]


def _by_name(name: str, number: Any) -> NamedLabel:
    if isinstance(number, list):
        raise ValueError(f"{name!r} is a region of several values")
    return NamedLabel(name, (int(number),))


def _number(entry: Any, place: int) -> int:
    if isinstance(entry, Mapping):
        return next((int(entry[key]) for key in _NUMBER_KEYS if str(entry.get(key, "")).isdigit()), place)
    return place


def _of_entry(number: int, entry: Any, rgb: tuple[int, int, int] | None) -> NamedLabel:
    if isinstance(entry, str):
        return NamedLabel(entry.strip(), (number,), rgb)
    colour = next((entry[key] for key in ("rgb", "color", "colour") if entry.get(key)), None)
    code = entry.get("code") or entry.get("type")
    return NamedLabel(
        str(entry["name"]).strip(),
        (number,),
        _colour(colour) if colour else rgb,
        _coded(code) if isinstance(code, Mapping) else _coded(entry) if code else None,
        _coded(entry["laterality"]) if isinstance(entry.get("laterality"), Mapping) else None,
    )


def _coded(entry: Mapping[str, Any]) -> dict[str, str]:
    value = str(entry.get("value") or entry.get("code"))
    meaning = str(entry.get("meaning") or entry["name"])[:64].rstrip()
    return {"value": value, "scheme": str(entry.get("scheme") or "SCT"), "meaning": meaning}


def _colour(given: Any) -> tuple[int, int, int]:
    if isinstance(given, str):
        digits = re.fullmatch(r"#?([0-9a-fA-F]{6})", given.strip())
        if digits is None:
            raise ValueError(f"colour {given!r}")
        red, green, blue = bytes.fromhex(digits[1])
        return red, green, blue
    return _rgb(given)


def _rgb(given: Sequence[Any]) -> tuple[int, int, int]:
    red, green, blue = (int(each) for each in given[:3])
    if not all(0 <= each <= 255 for each in (red, green, blue)):
        raise ValueError(f"colour {list(given)}, 0 to 255 each")
    return red, green, blue


def _of_text(text: str) -> list[NamedLabel]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if lines and all(_SNAP.fullmatch(line) for line in lines):
        matches = [_SNAP.fullmatch(line) for line in lines]
        return [NamedLabel(each[5], (int(each[1]),), _rgb((each[2], each[3], each[4]))) for each in matches if each]
    if lines and all(_LOOKUP.fullmatch(line) for line in lines):
        matches = [_LOOKUP.fullmatch(line) for line in lines]
        return [NamedLabel(each[2], (int(each[1]),), _rgb((each[3], each[4], each[5]))) for each in matches if each]
    if lines and (mark := next((mark for mark in "\t;," if mark in lines[0]), None)):
        return _of_table(list(csv.DictReader(lines, delimiter=mark)))
    return [NamedLabel(line, (place,)) for place, line in enumerate(lines)]


def _of_table(rows: Sequence[Mapping[str, str]]) -> list[NamedLabel]:
    found = []
    for place, row in enumerate(rows):
        cells = {str(key).strip().lower(): (cell or "").strip() for key, cell in row.items()}
        if "name" not in cells:
            raise ValueError(f"columns {', '.join(cells)}, without name")
        entry: dict[str, Any] = {key: cell for key, cell in cells.items() if cell}
        if all(cells.get(each) for each in "rgb"):
            entry["rgb"] = [cells["r"], cells["g"], cells["b"]]
        found.append(_of_entry(_number(entry, place), entry, None))
    return found
