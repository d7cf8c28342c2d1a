"""Every value of a manifest is found on its line."""

import tomllib
from pathlib import Path
from typing import Any

from node.toml_lines import find_lines

TEXT = '''# comment [not.a.table]
version = 1
"odd key" = "a # b"

[model]
name = """
several = "lines"
[not.a.table]
"""   # behind
quote = 'single "quoted" ]'

[files]
"model.onnx" = "abc"

[[outputs]]
steps = [
    { step = "clip", low = 1 },  # first

    { step = "window", range = [1,
        2] },
]
size.rows = 3
[[outputs.labels]]
name = "one"
[[outputs.labels]]
name = "two"
[outputs.labels.type]
value = "\\"]"
[[outputs]]
[[outputs.labels]]
name = "three"
'''


def test_lines_of_keys_tables_and_items() -> None:
    tomllib.loads(TEXT)
    lines = find_lines(TEXT)
    for path, line in (
        (("version",), 2),
        (("odd key",), 3),
        (("model",), 5),
        (("model", "name"), 6),
        (("model", "quote"), 10),
        (("files", "model.onnx"), 13),
        (("outputs", 0), 15),
        (("outputs", 0, "steps"), 16),
        (("outputs", 0, "steps", 0, "low"), 17),
        (("outputs", 0, "steps", 1), 19),
        (("outputs", 0, "steps", 1, "range", 1), 20),
        (("outputs", 0, "size", "rows"), 22),
        (("outputs", 0, "labels", 1, "name"), 26),
        (("outputs", 0, "labels", 1, "type", "value"), 28),
        (("outputs", 1, "labels", 0, "name"), 31),
    ):
        assert lines.of(path) == line, path


def test_what_is_not_there_has_the_line_around_it() -> None:
    lines = find_lines(TEXT)
    assert lines.of(("outputs", 0, "labels", 1, "rgb", 2)) == 25
    assert lines.of(("nothing",)) is None


def test_every_path_of_a_real_manifest_is_found() -> None:
    text = (Path(__file__).parents[2] / "config" / "models" / "brain-ventricles" / "model.toml").read_text()
    lines = find_lines(text)

    def walk(value: Any, path: tuple[str | int, ...]) -> None:
        if path:
            assert path in lines.found or path[-1] == "outputs" or isinstance(value, list), path
        for key, each in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            walk(each, (*path, key))

    walk(tomllib.loads(text), ())
