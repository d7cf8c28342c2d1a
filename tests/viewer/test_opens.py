"""What a radiologist sees: a real OHIF, in a real browser, on a real Orthanc. `make viewer` opens more."""

from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread

from dicom_sr.profile_files import named_profile
from dicom_sr.render import render
from tests.counterparts import orthanc
from tests.dicom_sr.cases import Case
from tests.viewer import ohif
from tests.viewer.browser import Viewer, chromium, jump_to_segment, shows_instance
from tests.viewer.check import to_bytes
from tests.viewer.head import painted_head
from tests.viewer.site import viewer_site

pytestmark = pytest.mark.counterpart("orthanc", "chromium", "ohif")


def voxels_of(case: Case) -> dict[str, dict[int, tuple[int, int]]]:
    """What the viewer has to draw where: SOP Instance UID -> segment -> (voxels, sum of their places)."""
    expected = {}
    for source, plane in zip(case.sources, case.result.labels, strict=True):
        places = {number: np.flatnonzero(plane == number) for number in (1, 2)}
        found = {number: (at.size, int(at.sum())) for number, at in places.items() if at.size}
        if found:
            expected[str(source.SOPInstanceUID)] = found
    return expected


def test_segmentation_and_report_open_in_ohif(tmp_path):
    """Frames of 189 x 153 pixels are no whole bytes as bits: the matrix that viewers read wrong."""
    case = painted_head()
    study = case.result.study_instance_uid
    rendered = [each.to_bytes() for each in render(case.result, case.sources, named_profile("conservative"))]
    series = {str(item.Modality): int(item.SeriesNumber) for item in (dcmread(BytesIO(each)) for each in rendered)}
    volumes_mm3 = {"Brain": float((case.result.labels == 1).sum()), "Lesion": float((case.result.labels == 2).sum())}
    with (
        orthanc(tmp_path) as peer,
        viewer_site(ohif.folder(), peer.http_port) as address,
        chromium() as browser,
    ):
        for content in (*map(to_bytes, case.sources), *rendered):
            peer.request("/instances", content)
        viewer = Viewer(browser, address)
        with viewer.segmentation(study, series["SEG"], list(volumes_mm3)) as opened:
            assert opened.volumes_mm3 == pytest.approx(volumes_mm3)
            assert {uid: found for uid, found in opened.voxels.items() if found} == voxels_of(case)
            middle = str(case.sources[12].SOPInstanceUID)
            jump_to_segment(opened.page, "Lesion", middle)
        with viewer.report(study, series["SR"]) as report:
            assert "Volume: 101.65 ml" in report.texts
            shows_instance(report.page, str(case.sources[10].SOPInstanceUID))  # where the brain is largest
