"""Files of any kind to any peer: what `overread send` does. Unlike a delivery it goes on after a refusal."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from node.deliver.association import associate
from node.deliver.line import Patience
from node.deliver.part10 import MEDIA_STORAGE_DIRECTORY, NotPart10, Part10File, read_file_meta
from node.deliver.storage_scu import SendInterrupted, StoreAnswer, name_of, store
from node.deliver.upper_layer import MAXIMUM_CONTEXTS, describe_context_result, propose
from node.errors import Permanent, Transient
from node.settings import Destination

Progress = Callable[[int, int], None]
"""Called with the number of files dealt with and the number of all, after each file."""


class Skipped(NamedTuple):
    """A file that was not sent; `reason` continues a sentence that begins with the file."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """The DICOM files among some files, and the others."""

    files: tuple[Part10File, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True)
class SendReport:
    """What the peer answered for each file sent, and the files that were not sent, with reasons."""

    answers: tuple[StoreAnswer, ...]
    skipped: tuple[Skipped, ...]


def send_folder(
    destination: Destination,
    calling_ae_title: str,
    paths: Iterable[Path],
    timeout_seconds: float,
    progress: Progress = lambda done, total: None,
) -> SendReport:
    """Find the DICOM files below `paths` and send them; see `find_instances` and `send_files`."""
    found = find_instances(paths)
    sent = send_files(destination, calling_ae_title, found.files, timeout_seconds, progress)
    return SendReport(sent.answers, found.skipped + sent.skipped)


def find_instances(paths: Iterable[Path]) -> Found:
    """Look at files, and at all files below folders, in the order of their names.

    Raises
    ------
    Permanent
        One of `paths` does not exist.
    """
    files: list[Part10File] = []
    skipped: list[Skipped] = []
    for path in _files_below(paths):
        try:
            file = read_file_meta(path)
        except NotPart10 as error:
            skipped.append(Skipped(path, str(error)))
        except OSError as error:
            skipped.append(Skipped(path, f"cannot be read ({error.strerror})"))
        else:
            if file.sop_class_uid == MEDIA_STORAGE_DIRECTORY:
                skipped.append(Skipped(path, "is a DICOMDIR, which is not an object to send"))
            else:
                files.append(file)
    return Found(tuple(files), tuple(skipped))


def send_files(
    destination: Destination,
    calling_ae_title: str,
    files: Sequence[Part10File],
    timeout_seconds: float,
    progress: Progress = lambda done, total: None,
) -> SendReport:
    """C-STORE files in order, in one association (in more where they need over 128 presentation contexts).

    Raises
    ------
    SendInterrupted
        The connection was lost; `answers` are those that came.
    Permanent
        The peer rejects the association for a reason that will not pass.
    """
    answers: list[StoreAnswer] = []
    skipped: list[Skipped] = []
    for group in _by_association(files):
        contexts = propose([_context_key(file) for file in group])
        try:
            with associate(destination, calling_ae_title, contexts, Patience(timeout_seconds)) as association:
                for file in group:
                    result = association.refused.get(_context_key(file))
                    if result is None:
                        answers.append(store(association, file))
                    else:
                        skipped.append(Skipped(file.path, _refusal(file, result)))
                    progress(len(answers) + len(skipped), len(files))
        except Transient as error:
            raise SendInterrupted(str(error), answers) from None
    return SendReport(tuple(answers), tuple(skipped))


def _files_below(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                folders.sort()
                yield from (Path(folder) / name for name in sorted(names))
        elif path.exists():
            yield path
        else:
            raise Permanent(f"{path}: there is no such file or folder")


def _by_association(files: Sequence[Part10File]) -> Iterator[list[Part10File]]:
    """Split where the number of different contexts would pass the limit (PS3.8 9.3.2.2)."""
    group: list[Part10File] = []
    keys: set[tuple[str, str]] = set()
    for file in files:
        if len(keys | {_context_key(file)}) > MAXIMUM_CONTEXTS:
            yield group
            group, keys = [], set()
        group.append(file)
        keys.add(_context_key(file))
    if group:
        yield group


def _context_key(file: Part10File) -> tuple[str, str]:
    return file.sop_class_uid, file.transfer_syntax_uid


def _refusal(file: Part10File, result: int) -> str:
    return (
        f"is refused by the peer: {name_of(file.sop_class_uid)} in {name_of(file.transfer_syntax_uid)}, "
        f"{describe_context_result(result)}"
    )
