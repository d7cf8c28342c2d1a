"""The built OHIF viewer: where it lies on this machine, and how it gets there.

    python -m tests.viewer.ohif

downloads it once (50 MB, checked against its checksum) into the user's cache, which all checkouts share. Where that is
not possible within `LIMIT_SECONDS` this says why, beside the place where it would lie, and ends well: the tests
that need the viewer are then left out, and say why.
"""

import base64
import hashlib
import os
import re
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

VERSION = "3.13.2"
SHA512 = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
PACKAGE = f"@ohif/app/-/app-{VERSION}.tgz"
REGISTRY = "https://registry.npmjs.org"
LIMIT_SECONDS = 120.0
BROWSERS = ("chromium-headless-shell", "chromium", "google-chrome")
"""Programs that can show the viewer, the one that starts fastest first."""
NOT_NEEDED = re.compile(r"\.map$|^dist/(ort|dicom-microscopy-viewer)/")
"""Debugging maps, and networks and a microscope that the viewer's other modes load: nine tenths of the space."""


def cache() -> Path:
    """The user's cache folder of this project."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "overread"


def folder() -> Path:
    """Where this version of the viewer lies, once it is there: `index.html` and the rest."""
    return cache() / f"ohif-{VERSION}"


def missing() -> str:
    """Why the viewer is not here; empty when it is."""
    if (folder() / "index.html").is_file():
        return ""
    reason = _reason_file()
    return reason.read_text() if reason.is_file() else f"OHIF {VERSION} was not downloaded yet: make counterparts"


def _reason_file() -> Path:
    return cache() / f"ohif-{VERSION}.missing"


def download(target: Path, deadline: float) -> None:
    """Write the package to `target`; `OSError` where that cannot be done until `deadline` (monotonic seconds)."""
    registry = os.environ.get("NPM_CONFIG_REGISTRY") or REGISTRY
    left = max(1.0, min(20.0, deadline - time.monotonic()))
    with urllib.request.urlopen(f"{registry.rstrip('/')}/{PACKAGE}", timeout=left) as answer, target.open("wb") as file:
        while chunk := answer.read1(1 << 20):
            file.write(chunk)
            if time.monotonic() > deadline:
                raise TimeoutError(f"not whole after {LIMIT_SECONDS:g} s ({file.tell() / 1e6:.0f} MB arrived)")


def unpack(package: Path, into: Path) -> None:
    """The viewer out of its package; `ValueError` where the package is another one than expected."""
    found = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
    if found != SHA512:
        raise ValueError(f"it has another checksum (sha512-{found})")
    with tarfile.open(package) as archive:
        for member in archive:
            path = member.name.removeprefix("package/")
            if member.isfile() and path.startswith("dist/") and not NOT_NEEDED.search(path):
                place = into / path.removeprefix("dist/")
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("wb") as file:
                    shutil.copyfileobj(archive.extractfile(member), file)


def install() -> str:
    """Bring the viewer into the cache, whole or not at all; why it could not be, or an empty text."""
    try:
        cache().mkdir(parents=True, exist_ok=True)
        _reason_file().unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=cache()) as work:
            download(Path(work) / "package.tgz", time.monotonic() + LIMIT_SECONDS)
            unpack(Path(work) / "package.tgz", Path(work) / "viewer")
            if not folder().exists():
                (Path(work) / "viewer").rename(folder())
    except (OSError, ValueError, tarfile.TarError, HTTPException) as error:
        reason = f"OHIF {VERSION} could not be had from the npm registry: {error or type(error).__name__}"
        with suppress(OSError):
            _reason_file().write_text(reason)
        return reason
    return ""


def main() -> int:
    if missing():
        print(f"Downloading the OHIF viewer {VERSION} into {folder()} ...", flush=True)
        if reason := install():
            print(f"{reason}\nThe browser check will be LEFT OUT of the tests.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
