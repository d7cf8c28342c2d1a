"""`make viewer`: the objects of a profile, in a real OHIF that a real Orthanc serves.

    python -m tests.viewer.check [--profile NAME ...] [--case NAME ...] [--out FOLDER]

Not a part of `make test`: Chromium and OHIF are 250 MB to download, and a series takes 15 to 60 seconds on two cores.
"""

import argparse
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_sr.profile_files import named_profile
from dicom_sr.render import render
from tests.counterparts import OrthancPeer, orthanc
from tests.dicom_sr.cases import CASES

HERE = Path(__file__).parent
USUAL_CASES = ("chest boxes", "lung mask")


def to_bytes(source: Dataset) -> bytes:
    """A source image as a file."""
    buffer = BytesIO()
    source.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def check(peer: OrthancPeer, profile_name: str, case_name: str, out: Path) -> bool:
    """Whether everything of a case opens; the archive holds nothing else meanwhile."""
    case = CASES[case_name]()
    rendered = render(case.result, case.sources, named_profile(profile_name))
    contents = [*map(to_bytes, case.sources), *(each.to_bytes() for each in rendered)]
    for content in contents:
        peer.request("/instances", content)
    folder = out / f"{case_name} {profile_name}".replace(" ", "-")
    print(f"{case_name}, {profile_name}: {len(rendered)} objects", flush=True)
    command = ["node", HERE / "check.mjs", peer.url, case.result.study_instance_uid, folder]
    done = subprocess.run([str(part) for part in command], check=False)
    for patient in peer.get("/patients"):
        peer.request(f"/patients/{patient}", method="DELETE")
    return done.returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", action="append", help="default: conservative and ohif")
    parser.add_argument("--case", action="append", choices=sorted(CASES), help=f"default: {', '.join(USUAL_CASES)}")
    parser.add_argument("--out", type=Path, default=Path("build/viewer"), help="folder for screenshots")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, orthanc(Path(folder), DicomWeb=DICOMWEB) as peer:
        passed = [
            check(peer, profile_name, case_name, chosen.out)
            for case_name in chosen.case or USUAL_CASES
            for profile_name in chosen.profile or ("conservative", "ohif")
        ]
    print(f"{sum(passed)} of {len(passed)} open; screenshots in {chosen.out}")
    return 0 if all(passed) else 1


DICOMWEB = {
    "Enable": True,
    "Root": "/dicom-web/",
    "EnableWado": True,
    "WadoRoot": "/wado",
    "StudiesMetadata": "Full",
    "SeriesMetadata": "Full",
}

if __name__ == "__main__":
    sys.exit(main())
