"""Where the images of a study are brought from: a DICOMweb service by WADO-RS, or a folder.

Only what `[[process.sources]]` names is ever spoken to: a request gives the name of a source and a Study Instance UID.
No redirect is followed.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from node.deliver.http import HttpPeer
from node.destination_settings import HttpDestination
from node.errors import Permanent, Transient
from node.process_settings import ProcessSource
from node.web.media import parse_media_type

_ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_CHUNK_BYTES = 1 << 18
_PREFIX_AT = 128


@dataclass(frozen=True)
class Content:
    """A multipart/related body of DICOM files: its boundary and its pieces."""

    boundary: str
    pieces: Iterator[bytes]


@contextmanager
def opened(source: ProcessSource, study_instance_uid: str, timeout_seconds: float) -> Iterator[Content]:
    """The images of a study as a body that is read within.

    Raises
    ------
    Transient, Permanent
        It cannot be had, now or at all; the message quotes nothing of an answer.
    """
    if source.folder is not None:
        yield _from_folder(source, source.folder, study_instance_uid)
        return
    peer = HttpPeer(
        HttpDestination(
            name=source.name,
            url=source.url,
            bearer_token_file=source.bearer_token_file,
            oauth2=source.oauth2,
            tls=source.tls,
        ),
        timeout_seconds,
    )
    try:
        with peer.stream(f"/studies/{study_instance_uid}", {"Accept": _ACCEPT}) as answer:
            where = f"source {source.name!r}"
            if answer.status_code in (204, 404):
                raise Permanent(f"{where} has no such study")
            if answer.status_code >= 500 or answer.status_code == 408:
                raise Transient(f"{where} answered HTTP {answer.status_code} to WADO-RS")
            kind = parse_media_type(answer.headers.get("Content-Type", ""))
            if answer.status_code != 200 or kind is None or kind.name != "multipart/related":
                raise Permanent(
                    f"{where} answered HTTP {answer.status_code} and no multipart/related to WADO-RS: check its url"
                )
            yield Content(kind.parameters.get("boundary", ""), answer.iter_bytes(_CHUNK_BYTES))
    finally:
        peer.close()


def _from_folder(source: ProcessSource, folder: Path, study_instance_uid: str) -> Content:
    where = f"source {source.name!r} ({folder})"
    if not folder.is_dir():
        raise Transient(f"{where}: there is no such folder; is it mounted?")
    files = list(dicom_files(folder / study_instance_uid))
    if not files:
        raise Permanent(f"{where} has no DICOM files of the study in a folder of its Study Instance UID")
    boundary = uuid4().hex
    return Content(boundary, _as_parts(files, boundary, where))


def dicom_files(folder: Path) -> Iterator[Path]:
    """DICOM files in a folder and those below it; links are not followed."""
    for path in sorted(folder.rglob("*")) if folder.is_dir() and not folder.is_symlink() else ():
        if path.is_file() and not path.is_symlink():
            with suppress(OSError), path.open("rb") as stream:
                stream.seek(_PREFIX_AT)
                if stream.read(4) == b"DICM":
                    yield path


def _as_parts(files: list[Path], boundary: str, where: str) -> Iterator[bytes]:
    """The files as parts of a body."""
    try:
        for path in files:
            yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode("ascii")
            with path.open("rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    yield chunk
            yield b"\r\n"
    except OSError as error:
        raise Transient(f"{where}: a file cannot be read ({error.strerror})") from None
    yield f"--{boundary}--\r\n".encode("ascii")
