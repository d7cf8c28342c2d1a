"""STOW-RS (PS3.18 10.5): the body of a request and the meaning of its answer. Pure but for reading files and pacing."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MULTIPART = 'multipart/related; type="application/dicom"; boundary={boundary}'
DICOM_JSON = "application/dicom+json"
_CHUNK_BYTES = 1 << 18

# Failure and warning reasons that say "it is here already": PS3.7 C.5.6, and Azure Health Data Services.
ALREADY_THERE = frozenset({0x0111, 45070})


@dataclass(frozen=True)
class StowAnswer:
    """Of each SOP Instance UID: stored, with what warning (0: none), or failed for what reason."""

    stored: dict[str, int]
    failed: dict[str, int]


def body_bytes(paths: Sequence[Path], boundary: str) -> int:
    """Length of the body that `body` gives."""
    parts = sum(len(_head(boundary)) + path.stat().st_size + 2 for path in paths)
    return parts + len(_tail(boundary))


def body(paths: Sequence[Path], boundary: str, check: Callable[[], None]) -> Iterator[bytes]:
    """The multipart body, file by file; `check` is called while it is sent."""
    for path in paths:
        yield _head(boundary)
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                check()
                yield chunk
        yield b"\r\n"
    yield _tail(boundary)


def paced(pieces: Iterable[bytes], bytes_per_second: int, check: Callable[[], None]) -> Iterator[bytes]:
    """The same bytes, no faster than this (0: as fast as they are taken); `check` is called while waiting."""
    if not bytes_per_second:
        yield from pieces
        return
    started, sent = time.monotonic(), 0
    size = max(bytes_per_second // 8, 1024)
    for piece in pieces:
        for start in range(0, len(piece), size):
            yield piece[start : start + size]
            sent += len(piece[start : start + size])
            while (left := started + sent / bytes_per_second - time.monotonic()) > 0:
                check()
                time.sleep(min(left, 0.25))


def read_answer(content: bytes) -> StowAnswer | None:
    """The Store Instances Response Module in DICOM JSON (PS3.18 Table 10.5.3-1); None when it is something else."""
    try:
        answer = json.loads(content)
        if isinstance(answer, list):
            answer = answer[0]
        return StowAnswer(
            stored=dict(_items(answer, "00081199", "00081196")),
            failed=dict(_items(answer, "00081198", "00081197")),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None


def is_dicom_xml(content_type: str) -> bool:
    """Whether an answer is the same in the Native DICOM Model, which some servers send whatever they are asked for."""
    return content_type.partition(";")[0].strip().lower() in ("application/dicom+xml", "text/xml", "application/xml")


def read_matches(content: bytes) -> set[str] | None:
    """The SOP Instance UIDs of an answer to QIDO-RS in DICOM JSON (PS3.18 10.6.3.3); None when it is something else."""
    try:
        matches = json.loads(content)
        return {str(uid) for match in _list(matches) for uid in match["00080018"]["Value"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _items(answer: Any, sequence: str, reason: str) -> Iterator[tuple[str, int]]:
    for item in answer.get(sequence, {}).get("Value") or ():
        (uid,) = item["00081155"]["Value"]
        yield str(uid), int((item.get(reason, {}).get("Value") or [0])[0])


def _head(boundary: str) -> bytes:
    return f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode("ascii")


def _tail(boundary: str) -> bytes:
    return f"--{boundary}--\r\n".encode("ascii")
