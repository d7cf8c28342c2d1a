"""On which line of a TOML text each table, key and item stands. Pure.

`tomllib` gives values without places. This walks the same text, which it is known to have read without an error, and
looks only at what tells keys, tables and items apart.
"""

import re
import tomllib
from dataclasses import dataclass

Path = tuple[str | int, ...]

_KEY = re.compile(r"""\s*("(?:\\.|[^"\\])*"|'[^']*'|[A-Za-z0-9_-]+)\s*""")
_STRINGS = ('"""', "'''", '"', "'")


@dataclass(frozen=True)
class Lines:
    """Lines from 1, by the path of what stands there, e.g. ``("labels", 0, "rgb", 1)``."""

    found: dict[Path, int]

    def of(self, path: Path) -> int | None:
        """The line of a path, or of the nearest table or item around it."""
        while path:
            if path in self.found:
                return self.found[path]
            path = path[:-1]
        return None

    def place(self, where: str, path: Path) -> str:
        """File and line; without a line where nothing of the path is in the file."""
        line = self.of(path)
        return f"{where}:{line}" if line else where


def find_lines(text: str) -> Lines:
    """The lines of a text that `tomllib` reads."""
    scanner = _Scanner(text)
    scanner.document()
    return Lines(scanner.found)


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._counts: dict[Path, int] = {}
        self.found: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        while self._skip_blank():
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._pair(table)

    def _header(self) -> Path:
        is_array = self._text.startswith("[[", self._at)
        start = self._at
        self._at += 2 if is_array else 1
        keys = self._keys()
        if is_array:
            array = (*self._resolved(keys[:-1]), keys[-1])
            self._counts[array] = self._counts.get(array, 0) + 1
            path: Path = (*array, self._counts[array] - 1)
        else:
            path = self._resolved(keys)
        self.found.setdefault(path, self._line(start))
        self._at = self._text.index("]", self._at) + (2 if is_array else 1)
        return path

    def _resolved(self, keys: Path) -> Path:
        """The path with the place of the last item of each array of tables on the way."""
        path: Path = ()
        for key in keys:
            path = (*path, key)
            if path in self._counts:
                path = (*path, self._counts[path] - 1)
        return path

    def _keys(self) -> Path:
        keys: list[str] = []
        while match := _KEY.match(self._text, self._at):
            quoted = match[1]
            keys.append(tomllib.loads(f"k = {quoted}")["k"] if quoted[0] in "\"'" else quoted)
            self._at = match.end()
            if not self._text.startswith(".", self._at):
                break
            self._at += 1
        return tuple(keys)

    def _pair(self, table: Path) -> None:
        start = self._at
        path = (*table, *self._keys())
        self.found.setdefault(path, self._line(start))
        self._at = self._text.index("=", self._at) + 1
        self._skip_blank()
        self._value(path)

    def _value(self, path: Path) -> None:
        match self._text[self._at]:
            case "[":
                self._items(path, "]")
            case "{":
                self._items(path, "}")
            case '"' | "'":
                self._string()
            case _:
                while self._at < len(self._text) and self._text[self._at] not in ",]}\n#":
                    self._at += 1

    def _items(self, path: Path, end: str) -> None:
        self._at += 1
        count = 0
        while self._skip_blank() and self._text[self._at] != end:
            if self._text[self._at] == ",":
                self._at += 1
            elif end == "}":
                self._pair(path)
            else:
                self.found.setdefault((*path, count), self._line(self._at))
                self._value((*path, count))
                count += 1
        self._at += 1

    def _string(self) -> None:
        quote = next(each for each in _STRINGS if self._text.startswith(each, self._at))
        self._at += len(quote)
        while not self._text.startswith(quote, self._at):
            self._at += 2 if quote[0] == '"' and self._text[self._at] == "\\" else 1
        self._at += len(quote)
        while len(quote) == 3 and self._text.startswith(quote[0], self._at):
            self._at += 1

    def _skip_blank(self) -> bool:
        """Past white space and comments; False at the end."""
        while self._at < len(self._text):
            if self._text[self._at] == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif self._text[self._at].isspace():
                self._at += 1
            else:
                return True
        return False

    def _line(self, at: int) -> int:
        return self._text.count("\n", 0, at) + 1
