"""multipart/related (RFC 2046 5.1, RFC 2387) without a socket: bytes in, events out.

Memory is bounded by the chunk that is fed, whatever the length of a part: its data is given out as views of that
chunk. The rules:

- A delimiter is CRLF, two dashes and the boundary; the CRLF of the first one may be missing. Blanks and CRLF follow,
  or two dashes, which end the body. Anything else after the boundary is an error: what is data and what is not must
  never be a matter of opinion.
- What stands before the first delimiter and after the last one is passed over, up to `MAXIMUM_PASSED_OVER_BYTES`.
- A body without its closing delimiter is incomplete: `close` says so.
"""

import re
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import NamedTuple

MAXIMUM_HEADER_BYTES = 16384
MAXIMUM_HEADER_LINES = 64
MAXIMUM_PASSED_OVER_BYTES = 65536
MAXIMUM_BOUNDARY_BYTES = 256
"""RFC 2046 allows 70; Orthanc sends 73."""

_MAXIMUM_PADDING_BYTES = 256
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BOUNDARY = re.compile(rf"[!-~]|[!-~][ -~]{{0,{MAXIMUM_BOUNDARY_BYTES - 2}}}[!-~]")


class MultipartError(Exception):
    """The body is not what its media type says; `code` says why in one word."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class PartBegins(NamedTuple):
    """The headers of a part, by lower-case name."""

    headers: Mapping[str, str]


class PartData(NamedTuple):
    """A piece of the content of a part."""

    data: memoryview


class PartEnds(NamedTuple):
    """The part is complete."""


Event = PartBegins | PartData | PartEnds


class _State(Enum):
    PREAMBLE = auto()
    DELIMITER_LINE = auto()
    HEADERS = auto()
    CONTENT = auto()
    EPILOGUE = auto()


class MultipartParser:
    """Cuts one body into parts.

    Parameters
    ----------
    boundary : str
        The `boundary` parameter of the media type. Raises `MultipartError` when it cannot be one.
    maximum_parts : int
        More parts than this are an error, `too-many-parts`.
    """

    def __init__(self, boundary: str, maximum_parts: int) -> None:
        if not _BOUNDARY.fullmatch(boundary):
            raise MultipartError(
                "boundary", f"the boundary is not 1 to {MAXIMUM_BOUNDARY_BYTES} printable characters of ASCII"
            )
        self._delimiter = b"\r\n--" + boundary.encode("ascii")
        self._maximum_parts = maximum_parts
        self._parts = 0
        self._state = _State.PREAMBLE
        self._passed_over = 0
        self._buffer = b"\r\n"  # the CRLF of the first delimiter counts as seen
        self._position = 0
        self._borrowed = 0  # bytes at the position that may begin a delimiter, and are no data

    def feed(self, chunk: bytes) -> list[Event]:
        """What is complete with this chunk. Views of part data stay valid.

        Raises
        ------
        MultipartError
            The parser cannot be used after it.
        """
        self._buffer = self._buffer[self._position :] + chunk
        self._position = 0
        events: list[Event] = []
        while self._STEPS[self._state](self, events):
            pass
        return events

    def close(self) -> None:
        """The body has ended. Raises `MultipartError` unless its closing delimiter has come."""
        if self._state is not _State.EPILOGUE:
            where = {_State.PREAMBLE: "before the first part", _State.CONTENT: f"within part {self._parts}"}
            raise MultipartError(
                "incomplete", f"the body ends {where.get(self._state, 'between parts')}, without closing boundary"
            )

    def _step_preamble(self, events: list[Event]) -> bool:
        found = self._buffer.find(self._delimiter, self._position)
        if found < 0:
            self._pass_over(self._end_of_data())
            return False
        self._pass_over(found)
        self._enter_delimiter_line(found)
        return True

    def _step_delimiter_line(self, events: list[Event]) -> bool:
        """What follows the boundary: padding and CRLF, or two dashes."""
        if len(self._buffer) - self._position < 2:
            return False
        if self._buffer.startswith(b"--", self._position):
            self._position += 2
            self._passed_over = 0
            self._state = _State.EPILOGUE
            return True
        end = self._buffer.find(b"\r\n", self._position)
        longest = self._position + _MAXIMUM_PADDING_BYTES
        padding = self._buffer[self._position : min(end if end >= 0 else len(self._buffer), longest)]
        if padding.strip(b" \t") not in ((b"",) if end >= 0 else (b"", b"\r")) or end > longest:
            raise MultipartError("malformed", "the boundary is followed by neither blanks and CRLF nor two dashes")
        if end < 0:
            return False
        if self._parts == self._maximum_parts:
            raise MultipartError("too-many-parts", f"more than {self._maximum_parts} parts")
        self._parts += 1
        self._position = end  # at the CRLF: where there are no headers, the blank line follows at once
        self._state = _State.HEADERS
        return True

    def _step_headers(self, events: list[Event]) -> bool:
        start = self._position
        end = self._buffer.find(b"\r\n\r\n", start)
        if (end if end >= 0 else len(self._buffer)) - start > MAXIMUM_HEADER_BYTES:
            raise MultipartError("headers-too-long", f"headers of a part of more than {MAXIMUM_HEADER_BYTES} bytes")
        if end < 0:
            return False
        events.append(PartBegins(_read_headers(self._buffer[start + 2 : end])))
        self._position = end + 2  # at the CRLF of the blank line: where there is no content, a delimiter begins there
        self._borrowed = 2
        self._state = _State.CONTENT
        return True

    def _step_content(self, events: list[Event]) -> bool:
        found = self._buffer.find(self._delimiter, self._position)
        end = found if found >= 0 else self._end_of_data()
        first = self._position + self._borrowed
        if end > first:
            events.append(PartData(memoryview(self._buffer)[first:end]))
        if found >= 0:
            events.append(PartEnds())
            self._enter_delimiter_line(found)
            return True
        self._borrowed = max(first - end, 0)
        self._position = end
        return False

    def _step_epilogue(self, events: list[Event]) -> bool:
        self._pass_over(len(self._buffer))
        return False

    _STEPS: Mapping[_State, Callable[["MultipartParser", list[Event]], bool]] = {
        _State.PREAMBLE: _step_preamble,
        _State.DELIMITER_LINE: _step_delimiter_line,
        _State.HEADERS: _step_headers,
        _State.CONTENT: _step_content,
        _State.EPILOGUE: _step_epilogue,
    }

    def _enter_delimiter_line(self, found: int) -> None:
        self._position = found + len(self._delimiter)
        self._state = _State.DELIMITER_LINE

    def _pass_over(self, end: int) -> None:
        self._passed_over += end - self._position
        self._position = end
        if self._passed_over > MAXIMUM_PASSED_OVER_BYTES:
            raise MultipartError(
                "malformed", f"more than {MAXIMUM_PASSED_OVER_BYTES} bytes before the first part or after the last"
            )

    def _end_of_data(self) -> int:
        """Where the end of the buffer may be the beginning of a delimiter; the end of the buffer where it is not."""
        buffer, length = self._buffer, len(self._buffer)
        start = buffer.find(b"\r", max(self._position, length - len(self._delimiter) + 1))
        while start >= 0:
            if self._delimiter.startswith(buffer[start:]):
                return start
            start = buffer.find(b"\r", start + 1)
        return length


def _read_headers(block: bytes) -> dict[str, str]:
    """Header lines without the blank one (RFC 5322 2.2); a line that begins with a blank goes on the one before."""
    lines: list[str] = []
    for line in block.decode("latin-1").split("\r\n") if block else ():
        if line[:1] in (" ", "\t") and lines:
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    if len(lines) > MAXIMUM_HEADER_LINES:
        raise MultipartError("headers-too-long", f"a part with more than {MAXIMUM_HEADER_LINES} headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        key = name.rstrip().lower()
        if not colon or not _NAME.fullmatch(key) or key in headers:
            raise MultipartError("malformed", "a line of the headers of a part is not `name: value`, or comes twice")
        headers[key] = value.strip()
    return headers
