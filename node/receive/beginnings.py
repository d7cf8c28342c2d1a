"""Headers of data sets that come one after another: what is the same as in the last is not read again. Pure."""

from typing import Any

from node.receive import walk
from node.receive.attributes import NO_ATTRIBUTES, READ_WITH_OTHERS, WANTED, all_attributes, read_attributes
from node.receive.header import NATIVE, InstanceHeader, compose_header
from node.receive.walk import MAXIMUM_VALUE_BYTES, Buffer, Walked, WalkError


class Beginnings:
    """Reads the headers of data sets that come one after another, from the first bytes of each.

    The images of a series differ in a few values, and have them at the same places as a rule. What is byte for byte as
    in the last one is not read again: each header is what a reader that had seen no other would make of it.
    """

    def __init__(self) -> None:
        self._syntax = ""
        self._bytes = b""  # of the last that was walked, up to the value of Pixel Data
        self._spans: list[tuple[int, int, int]] = []
        self._varying: set[int] = set()  # tags whose values were seen to differ
        self._places: list[tuple[int, int, int]] = []  # of those that vary, among the spans
        self._same: list[tuple[int, bytes]] = []  # all between these places
        self._values: dict[int, bytes] = {}
        self._pixel: tuple[int, int | None] | None = None
        self._series_header: dict[str, Any] = {}  # given out: another one takes its place when a value changes
        self._geometry: dict[str, Any] = {}  # as well

    def read(self, beginning: Buffer, transfer_syntax_uid: str) -> InstanceHeader | None:
        """The header, where the bytes given hold all of it up to native Pixel Data.

        None where the whole data set must be read: it has no such Pixel Data, or something is odd. Whether the whole is
        as long as Pixel Data announces is for the caller to check.
        """
        encoding = NATIVE.get(transfer_syntax_uid)
        if encoding is None:
            return None
        if transfer_syntax_uid == self._syntax:
            read = bytes(beginning[: len(self._bytes)])
            if all(read.startswith(piece, start) for start, piece in self._same):
                return self._read_varying(read, encoding.order)
        try:
            found = walk.walk_elements(beginning, 0, WANTED.keys(), encoding, whole=False)
        except WalkError:
            return None
        if found.pixel is None or found.pixel[1] is None:
            return None
        self._remember(bytes(beginning[: found.pixel[0]]), found, transfer_syntax_uid)
        self._series_header, self._geometry = all_attributes(found.values, encoding.order)
        return self._compose(encoding.order)

    def _remember(self, read: bytes, found: Walked, transfer_syntax_uid: str) -> None:
        """What the next one is compared with."""
        last, spans = self._bytes, found.spans
        if spans == self._spans:
            self._varying.update(tag for tag, start, end in spans if read[start:end] != last[start:end])
            self._varying -= READ_WITH_OTHERS
        self._syntax, self._bytes, self._spans = transfer_syntax_uid, read, spans
        self._values, self._pixel = found.values, found.pixel
        self._places = [span for span in spans if span[0] in self._varying]
        self._same, position = [], 0
        for _, start, end in (*self._places, (0, len(read), len(read))):
            self._same.append((position, read[position:start]))
            position = end

    def _read_varying(self, read: bytes, order: str) -> InstanceHeader:
        """The header of a data set that differs from the last only in values at the known places."""
        changed = {
            tag: value
            for tag, start, end in self._places
            if tag in WANTED and (value := _short_enough(read[start:end])) != self._values[tag]
        }
        self._values.update(changed)
        if not changed.keys() <= NO_ATTRIBUTES:
            self._series_header, self._geometry = dict(self._series_header), dict(self._geometry)
            read_attributes(changed, self._values, order, self._series_header, self._geometry)
        return self._compose(order)

    def _compose(self, order: str) -> InstanceHeader:
        return compose_header(self._values, self._pixel, self._syntax, order, self._series_header, self._geometry)


def _short_enough(value: bytes) -> bytes:
    return value if len(value) <= MAXIMUM_VALUE_BYTES else b""
