"""Results into a folder, for whatever picks them up there: each object appears under its name when it is complete."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from node.deliver.durable import sync_folder
from node.deliver.fallback import Refusals
from node.deliver.forms import Forms
from node.deliver.transport import Check, Parcel, Receipt, Unreachable, accepted_objects
from node.destination_settings import FolderDestination


class FolderTransport:
    """Copies the objects of a result to `<folder>/<Study Instance UID>/<SOP Instance UID>.dcm`, in order."""

    def __init__(self, destination: FolderDestination, forms: Forms) -> None:
        self._destination = destination
        self._forms = forms

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        parcel = replace(parcel, result=self._forms.choose(parcel, Refusals()).of(parcel.result))
        paths = parcel.existing_paths()
        folder = self._destination.folder / parcel.result.study_instance_uid
        try:
            if not self._destination.folder.is_dir():
                raise FileNotFoundError(2, "there is no such folder")
            folder.mkdir(exist_ok=True)
            for one, path in zip(parcel.objects, paths, strict=True):
                check()
                _put(path, folder / f"{one.sop_instance_uid}.dcm")
            sync_folder(folder)
            sync_folder(folder.parent)
        except OSError as error:
            raise Unreachable(
                f"destination {self._destination.name!r} ({self._destination.folder}): {error.strerror}; is it "
                "mounted, and may this node write there?"
            ) from None
        return Receipt(accepted_objects(parcel), {one.sop_instance_uid: 0 for one in parcel.objects})

    def probe(self) -> None:
        probe_folder(self._destination.name, self._destination.folder)


def probe_folder(name: str, folder: Path) -> None:
    """Raise `Unreachable` unless a destination's folder is there and may be written to."""
    if not folder.is_dir():
        raise Unreachable(f"destination {name!r} ({folder}): found no such folder; is it mounted?")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Unreachable(f"destination {name!r} ({folder}): this node's user may not write there")


def _put(source: Path, target: Path) -> None:
    """Copy, make durable, and only then give it its name."""
    partial = target.with_name(f".{target.name}.part")
    with source.open("rb") as content, partial.open("wb") as copy:
        shutil.copyfileobj(content, copy)
        copy.flush()
        os.fsync(copy.fileno())
    partial.replace(target)
