"""The pictures of docs/results.md, made again: `python -m tests.viewer.pictures [--radiograph FILE RENDERED]`.

Everything but the radiograph is of the bundled template: the Segmentation and the report by the bundled model, the rest
of invented findings. A radiograph is given from outside, with the folder that `overread render` wrote for it.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from pydicom import dcmread

from dicom_sr import codes
from dicom_sr.findings import Finding, Likelihood, Presence
from dicom_sr.profile_files import named_profile
from dicom_sr.render import render
from tests.counterparts import orthanc
from tests.dicom_sr.cases import CERTAINTY, Case
from tests.viewer import ohif
from tests.viewer.browser import SETTLED_MS, Viewer, chromium, segment_row
from tests.viewer.check import to_bytes
from tests.viewer.head import SERIES, painted_head
from tests.viewer.kinds import KINDS
from tests.viewer.site import viewer_site
from tests.viewer.studio import Studio


def analysed_head(studio: Studio) -> None:
    """What the bundled model finds in the template."""
    with tempfile.TemporaryDirectory() as work:
        command = ["process", str(SERIES), "--out", work, "--model", "brain-ventricles"]
        subprocess.run([sys.executable, "-c", "from node.cli import main; main()", *command], check=True)
        made = [path.read_bytes() for path in Path(work).glob("**/*.dcm")]
    images = [path.read_bytes() for path in sorted(SERIES.glob("*.dcm"))]
    numbers = studio.show(images, made)
    study = str(dcmread(BytesIO(images[0]), stop_before_pixels=True).StudyInstanceUID)
    with studio.viewer.segmentation(study, numbers["SEG"], ["Brain parenchyma", "Ventricles"]) as opened:
        segment_row(opened.page, "Ventricles").click()
        opened.page.mouse.move(600, 500)
        studio.take(opened.page, "ohif-segmentation")
    with studio.viewer.report(study, numbers["SR"]) as report:
        studio.take(report.page, "ohif-report")


def invented(case: Case) -> Case:
    """The same images with findings about them as a whole."""
    findings = (
        Finding(codes.concept("50960005", "SCT", "Hemorrhage"), "Haemorrhage", None, codes.BRAIN,
                presence=Presence.ABSENT, likelihood=Likelihood(0.02, CERTAINTY, 0.5)),
        Finding(codes.concept("13973009", "SCT", "Atrophy"), "Atrophy", None, codes.BRAIN,
                presence=Presence.INDETERMINATE, likelihood=Likelihood(0.46, CERTAINTY, 0.5)),
    )  # fmt: skip
    return Case(replace(case.result, labels=None, segments=(), findings=findings), case.sources)


def painted(studio: Studio) -> None:
    """A report without a place, and a Secondary Capture."""
    case = painted_head()
    images = [to_bytes(source) for source in case.sources]
    study = case.result.study_instance_uid
    text = invented(case)
    objects = [each.to_bytes() for each in render(text.result, text.sources, named_profile("conservative"))]
    with studio.viewer.report(study, studio.show(images, objects)["SR"]) as report:
        studio.take(report.page, "ohif-text-report")
    objects = [each.to_bytes() for each in render(case.result, case.sources, named_profile("legacy"))]
    numbers = studio.show(images, objects)
    capture = next(number for modality, number in numbers.items() if modality != "SR")
    with studio.viewer.series(study, capture) as page:
        studio.take(page, "ohif-secondary-capture")


def radiograph(studio: Studio, file: Path, rendered: Path) -> None:
    """Boxes of a detector on a radiograph."""
    numbers = studio.show([file.read_bytes()], [each.read_bytes() for each in rendered.glob("*.dcm")])
    study = str(dcmread(file, stop_before_pixels=True).StudyInstanceUID)
    with studio.viewer.report(study, numbers["SR"]) as report:
        report.page.wait_for_timeout(SETTLED_MS)
        report.page.get_by_role("button", name="No", exact=True).first.click()  # the question hides the upper edges
        studio.take(report.page, "ohif-boxes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--radiograph", nargs=2, type=Path, metavar=("FILE", "RENDERED"))
    parser.add_argument("--only", choices=("head", "painted", *KINDS, "radiograph"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    chosen = parser.parse_args()
    makers: dict[str, Callable[[Studio], None]] = {"head": analysed_head, "painted": painted, **KINDS}
    if chosen.radiograph:
        makers["radiograph"] = lambda studio: radiograph(studio, *chosen.radiograph)
    with (
        tempfile.TemporaryDirectory() as folder,
        orthanc(Path(folder)) as peer,
        viewer_site(ohif.folder(), peer.http_port) as address,
        chromium() as browser,
    ):
        studio = Studio(Viewer(browser, address), peer, chosen.out)
        for name, make in makers.items():
            if chosen.only in (None, name):
                make(studio)


if __name__ == "__main__":
    main()
