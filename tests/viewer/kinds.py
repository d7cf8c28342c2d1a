"""Pictures of the kinds of objects that `tests.viewer.pictures` does not take from a model: of painted shapes and
invented findings. Three of them OHIF does not open: then the picture is of how it lists them.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from pydicom.dataset import Dataset

from dicom_sr import codes
from dicom_sr.findings import Map
from dicom_sr.profile import CONSERVATIVE, Role
from dicom_sr.profile_files import named_profile
from dicom_sr.render import render
from tests.dicom_sr.cases import CERTAINTY, Case, mammography
from tests.viewer.browser import ASKED, segment_row, shows_instance
from tests.viewer.check import to_bytes
from tests.viewer.head import painted_head
from tests.viewer.studio import Studio

LABELS = ["Brain", "Lesion"]
BESIDE = (600, 500)
"""Where the mouse hides nothing."""
DRAWING_MS = 10_000
"""What the browser needs to draw a page of its own accord, which nothing tells."""


def shown(studio: Studio, case: Case, *roles: Role) -> dict[str, int]:
    """A case in the archive with its objects of these roles; modality -> series number."""
    profile = replace(CONSERVATIVE, name="pictures", roles=roles)
    objects = [each.to_bytes() for each in render(case.result, case.sources, profile)]
    return studio.show([to_bytes(source) for source in case.sources], objects)


def label_map(studio: Studio) -> None:
    """A LABELMAP Segmentation."""
    case = painted_head()
    profile = replace(named_profile("labelmap"), roles=(Role.SEGMENTATION,))
    objects = [each.to_bytes() for each in render(case.result, case.sources, profile)]
    numbers = studio.show([to_bytes(source) for source in case.sources], objects)
    with studio.viewer.segmentation(case.result.study_instance_uid, numbers["SEG"], LABELS) as opened:
        segment_row(opened.page, "Lesion").click()
        opened.page.mouse.move(*BESIDE)
        studio.take(opened.page, "ohif-labelmap")


def contours(studio: Studio) -> None:
    """An RT Structure Set, taken over as the viewer offers."""
    case = painted_head()
    number = shown(studio, case, Role.STRUCTURE_SET)["RTSTRUCT"]
    with studio.viewer.series(case.result.study_instance_uid, number, ASKED) as page:
        page.locator('[data-cy="yes-hydrate-btn"]').first.click()
        page.locator('[data-cy="panelSegmentation-btn"]').first.click()
        segment_row(page, "Lesion").click()  # goes to the lowest contour, from where it is four slices up
        shows_instance(page, str(case.sources[8].SOPInstanceUID))
        page.mouse.move(*BESIDE)
        for slice_index in range(9, 13):
            page.mouse.wheel(0, -100)
            shows_instance(page, str(case.sources[slice_index].SOPInstanceUID))
        studio.take(page, "ohif-contours")


def page(studio: Studio) -> None:
    """The page, as the browser shows it in the viewer; a headless shell of Chromium shows none."""
    case = painted_head()
    number = shown(studio, case, Role.DOCUMENT)["DOC"]
    with studio.viewer.series(case.result.study_instance_uid, number) as opened:
        opened.wait_for_timeout(DRAWING_MS)
        studio.take(opened, "ohif-page")


def parametric_map(studio: Studio) -> None:
    """How certain each voxel is of the lesion, invented, on images cut to whole words."""
    whole = painted_head()
    sources = [cut(source) for source in whole.sources]
    labels = np.ascontiguousarray(whole.result.labels[:, :188, :152])
    heat = smooth(labels == 2)
    certainty = Map("Certainty of the lesion", CERTAINTY, codes.NO_UNITS, heat, 2)
    case = Case(replace(whole.result, labels=labels, maps=(certainty,), findings=()), sources)
    number = shown(studio, case, Role.PARAMETRIC_MAP)["OT"]
    with studio.viewer.series(case.result.study_instance_uid, number) as opened:
        opened.get_by_text("Loading Parametric Map").wait_for(state="hidden")
        studio.take(opened, "ohif-parametric-map")


def cut(source: Dataset) -> Dataset:
    """The same image without its last row and column."""
    pixels = np.ascontiguousarray(source.pixel_array[:188, :152])
    source.Rows, source.Columns = pixels.shape
    source.set_pixel_data(pixels, source.PhotometricInterpretation, source.BitsStored, generate_instance_uid=False)
    return source


def smooth(mask: np.ndarray) -> np.ndarray:
    """1 in the middle of a mask, less and less around it; float32 (slice, row, column)."""
    middle = np.argwhere(mask).mean(axis=0)
    axes = np.ogrid[tuple(slice(0, size) for size in mask.shape)]
    distance = sum(((axis - at) / of) ** 2 for axis, at, of in zip(axes, middle, (5, 14, 11), strict=True))
    return np.asarray(np.exp(-distance), np.float32)


def unopened(studio: Studio) -> None:
    """What OHIF lists with a warning and does not open."""
    case = mammography()
    algorithm = replace(case.result.algorithm, name="Invented marks")
    case = replace(case, result=replace(case.result, algorithm=algorithm))
    shown(studio, case, Role.MAMMOGRAPHY_CAD, Role.KEY_OBJECTS, Role.PRESENTATION_STATE)
    with studio.viewer.study(case.result.study_instance_uid) as opened:
        studio.take(opened, "ohif-not-opened", height=680)


KINDS: Mapping[str, Callable[[Studio], None]] = {
    "labelmap": label_map,
    "contours": contours,
    "page": page,
    "map": parametric_map,
    "unopened": unopened,
}
"""What `--only` may name."""
