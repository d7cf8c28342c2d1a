"""`make viewer`: more than `make test` opens: the objects of several results and profiles, in OHIF.

    python -m tests.viewer.check [--profile NAME ...] [--case NAME ...] [--out FOLDER]
    python -m tests.viewer.check --images FOLDER --objects FOLDER [--out FOLDER]

The second form opens any Segmentations and reports of one study, as `overread render` writes them. A series takes 10
to 60 seconds, most of it the browser's drawing without a graphics card. It fails where a segment is not listed, or a
report is neither drawn nor printed, or not taken over as the viewer offers; whether it is right is for people to say,
by the screenshots.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

from playwright.sync_api import Error
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_sr.profile_files import named_profile
from dicom_sr.render import render
from tests.counterparts import OrthancPeer, orthanc
from tests.dicom_sr.cases import CASES
from tests.viewer import ohif
from tests.viewer.browser import Viewer, chromium, picture, segment_row, take_over
from tests.viewer.head import painted_head
from tests.viewer.site import viewer_site

ALL_CASES = {**CASES, "head": painted_head}
USUAL_CASES = ("chest boxes", "head", "follow-up", "empty")


def to_bytes(source: Dataset) -> bytes:
    """A source image as a file."""
    buffer = BytesIO()
    source.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def open_all(viewer: Viewer, peer: OrthancPeer, images: Iterable[bytes], objects: list[bytes], out: Path) -> bool:
    """Whether every Segmentation and report of a study opens; the archive holds nothing else meanwhile."""
    for content in (*images, *objects):
        peer.request("/instances", content)
    passed = True
    for item in (dcmread(BytesIO(each)) for each in objects):
        if item.Modality in ("SEG", "SR"):
            try:
                said = _open(viewer, item, out)
            except Error as error:
                passed, said = False, f"FAIL: {error.message.splitlines()[0]}"
            print(f"  {item.Modality} {item.SeriesNumber}: {said}", flush=True)
    for patient in peer.get("/patients"):
        peer.request(f"/patients/{patient}", method="DELETE")
    return passed


def _open(viewer: Viewer, item: Dataset, out: Path) -> str:
    place = out / f"{item.Modality}-{item.SeriesNumber}.png"
    if item.Modality == "SR":
        with viewer.report(item.StudyInstanceUID, item.SeriesNumber) as report:
            taken = take_over(report.page)
            picture(report.page, place)
            shown = ("drawn: " if report.drawn else "printed: ") + " ".join(report.texts.split())[:160]
            return shown if taken is None else f"{shown}; {taken} taken over"
    labels = [segment.SegmentLabel for segment in item.SegmentSequence if segment.SegmentNumber]
    with viewer.segmentation(item.StudyInstanceUID, item.SeriesNumber, labels) as opened:
        segment_row(opened.page, labels[-1]).click()
        picture(opened.page, place)
        return ", ".join(f"{label} {mm3:.0f} mm3" for label, mm3 in opened.volumes_mm3.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", action="append", help="default: conservative and ohif")
    parser.add_argument("--case", action="append", choices=sorted(ALL_CASES), help=f"default: {', '.join(USUAL_CASES)}")
    parser.add_argument("--images", type=Path, help="a folder with the images of one study")
    parser.add_argument("--objects", type=Path, help="a folder with what was rendered of it")
    parser.add_argument("--out", type=Path, default=Path("build/viewer"), help="folder for screenshots")
    chosen = parser.parse_args()
    if reason := ohif.missing():
        print(reason, file=sys.stderr)
        return 1
    passed = []
    with (
        tempfile.TemporaryDirectory() as folder,
        orthanc(Path(folder)) as peer,
        viewer_site(ohif.folder(), peer.http_port) as address,
        chromium() as browser,
    ):
        viewer = Viewer(browser, address)
        if chosen.images and chosen.objects:
            images, objects = ([each.read_bytes() for each in sorted(path.glob("**/*.dcm"))] for path in
                               (chosen.images, chosen.objects))  # fmt: skip
            passed.append(open_all(viewer, peer, images, objects, chosen.out))
        for name in () if passed else chosen.case or USUAL_CASES:
            case = ALL_CASES[name]()
            for profile in chosen.profile or ("conservative", "ohif"):
                objects = [each.to_bytes() for each in render(case.result, case.sources, named_profile(profile))]
                print(f"{name}, {profile}: {len(objects)} objects", flush=True)
                out = chosen.out / f"{name} {profile}".replace(" ", "-")
                passed.append(open_all(viewer, peer, map(to_bytes, case.sources), objects, out))
    print(f"{sum(passed)} of {len(passed)} open; screenshots in {chosen.out}")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
