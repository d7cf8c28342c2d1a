"""SHA-256 of every object of some results, printed: for a process in another place."""

import hashlib
from dataclasses import replace

from dicom_sr.profile import CONSERVATIVE
from dicom_sr.profile_files import SITE_ROLES
from dicom_sr.render import render
from tests.dicom_sr.cases import CASES

EVERYTHING = replace(CONSERVATIVE, name="everything", roles=SITE_ROLES)


def digests() -> list[str]:
    """Of a projection, of segments that overlap, and of a result with an earlier study."""
    found = []
    for name in ("mammography", "overlap", "follow-up"):
        case = CASES[name]()
        found += [hashlib.sha256(each.to_bytes()).hexdigest() for each in render(case.result, case.sources, EVERYTHING)]
    return found


if __name__ == "__main__":
    print(*digests())
