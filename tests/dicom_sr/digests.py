"""SHA-256 of every object of some results, printed: for a process in another place.

python -m tests.dicom_sr.digests [--write]
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from zlib import ZLIB_RUNTIME_VERSION

import numpy as np

from dicom_sr import codes
from dicom_sr.findings import Map, Result
from dicom_sr.profile import CONSERVATIVE
from dicom_sr.profile_files import SITE_ROLES
from dicom_sr.render import render
from tests.dicom_sr.cases import CASES

EVERYTHING = replace(CONSERVATIVE, name="everything", roles=SITE_ROLES)
RECORD = Path(__file__).with_name("digests.txt")
"""What another machine wrote: the libraries that it drew with, then a line for each object."""
DRAWN = ("document", "secondary-capture")
"""Roles whose letters and pages are drawn by libraries, of which another version may draw otherwise. Everything else
is the same with every version."""


def libraries() -> str:
    """The first line of a record: what pages and captures are drawn with."""
    return f"pillow={version('pillow')} reportlab={version('reportlab')} zlib={ZLIB_RUNTIME_VERSION}"


def digests() -> Iterator[str]:
    """`case/role SHA-256`: projections, regions in space, an oblique stack, overlaps, a follow-up."""
    for name in ("mammography", "in space", "brain", "overlap", "follow-up"):
        case = CASES[name]()
        result = _with_maps(case.result) if name == "brain" else case.result
        for each in render(result, case.sources, EVERYTHING):
            shown = f"{name}/{each.role.value}".replace(" ", "-")
            yield f"{shown} {hashlib.sha256(each.to_bytes()).hexdigest()}"


def _with_maps(result: Result) -> Result:
    """Fractions of a segment, which are a map as well."""
    assert result.labels is not None
    values = np.where(result.labels == 2, np.float32(0.7), np.float32(0.1))
    return replace(result, maps=(Map("Brain", codes.concept("111012", "DCM", "Certainty"), codes.NO_UNITS, values, 2),))


if __name__ == "__main__":
    lines = [libraries(), *digests()]
    if "--write" in sys.argv:
        RECORD.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
