"""OHIF in a headless Chromium, used as a person uses it: thumbnails, prompts, panels.

Every wait is for something that the viewer has done, up to `PATIENCE_SECONDS`; nothing is compared pixel by pixel.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from playwright.sync_api import Browser, Error, Locator, Page, Playwright, sync_playwright
from playwright.sync_api import TimeoutError as NothingCame

from tests.viewer.ohif import BROWSERS

PATIENCE_SECONDS = 180.0
PAGES_SECONDS = (60.0, 90.0, PATIENCE_SECONDS)
"""How long each wait on a first, second and third page may last. The viewer does some things once only (it measures a
segmentation when it has loaded it), and when the event for it comes too early it never does them on that page."""
ROUNDS_SECONDS = (15.0, 30.0, 60.0)
SETTLED_MS = 3000
"""What `make viewer` gives the viewer to fade in what it shows; `make test` waits for events only."""
OPTIONS = [
    *("--no-sandbox", "--no-first-run", "--disable-sync", "--disable-dev-shm-usage"),
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
    *("--no-proxy-server", "--disable-background-networking", "--disable-component-update"),
]
Found = TypeVar("Found")
NO_TOUR = "try { localStorage.setItem('shownTours', '[\"basicViewerTour\"]') } catch {}"
DRAWN = ", ".join(f"svg.svg-layer {kind}" for kind in ("path", "line", "polyline", "circle", "ellipse"))

INSTANCE_SHOWN = """uid => {
  const pane = document.querySelector('[data-cy="viewport-pane"] canvas');
  if (!pane || !window.services) return false;
  const id = window.services.viewportGridService.getActiveViewportId();
  const viewport = window.services.cornerstoneViewportService.getCornerstoneViewport(id);
  return !!viewport?.getCurrentImageId?.()?.includes(uid ? `/instances/${uid}/` : '/instances/');
}"""
SERIES_SHOWN = """number => {
  const shown = [...window.services.viewportGridService.getState().viewports.values()][0].displaySetInstanceUIDs[0];
  return window.services.displaySetService.getDisplaySetByUID(shown)?.SeriesNumber == number;
}"""
ASKED = """() => !!document.querySelector('[data-cy="yes-hydrate-btn"]')"""
SEGMENTATION_LOADED = "() => window.services.segmentationService.getSegmentations().length > 0"
VOLUMES = """count => {
  const segments = window.services.segmentationService.getSegmentations()[0].segments;
  const volumes = Object.values(segments).map(each => [each.label, each.cachedStats?.namedStats?.volume?.value]);
  return volumes.filter(each => each[1] !== undefined).length >= count && volumes;
}"""
VOXELS = """() => {
  const { imageIds } = window.services.segmentationService.getSegmentations()[0].representationData.Labelmap;
  return imageIds.map(id => {
    const image = window.cornerstone.cache.getImage(id);
    const found = {};
    image.voxelManager.getScalarData().forEach((segment, place) => {
      if (segment) {
        found[segment] ??= [0, 0];
        found[segment][0] += 1;
        found[segment][1] += place;
      }
    });
    return [image.referencedImageId.match(/instances\\/([0-9.]+)/)[1], found];
  });
}"""
REPORT_SHOWN = """selector => {
  const grid = document.querySelector('[data-cy="viewport-grid"]');
  if (/Measurement Group/.test(grid?.innerText || '')) return grid.innerText;
  const drawn = document.querySelectorAll(selector).length > 0;
  return drawn && [...document.querySelectorAll('svg.svg-layer text')].map(each => each.textContent).join('\\n');
}"""
TAKEN_OVER = "() => window.services.measurementService.getMeasurements().length"


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of Debian; a start that fails is tried once more."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert program is not None, f"none of {', '.join(BROWSERS)} is installed"
    with sync_playwright() as playwright:
        browser = _start(playwright, program)
        try:
            yield browser
        finally:
            browser.close()


def _start(playwright: Playwright, program: str) -> Browser:
    def start() -> Browser:
        return playwright.chromium.launch(
            executable_path=program, args=OPTIONS, timeout=PATIENCE_SECONDS * 1000, chromium_sandbox=False
        )

    try:
        return start()
    except Error:
        return start()


@dataclass(frozen=True)
class OpenedSegmentation:
    """What the viewer made of a Segmentation.

    Parameters
    ----------
    volumes_mm3 : dict
        By the label of each segment, as the panel says.
    voxels : dict
        SOP Instance UID of an image -> segment -> (voxels, sum of their places in the image): what is drawn where.
    page : Page
    """

    volumes_mm3: dict[str, float]
    voxels: dict[str, dict[int, tuple[int, int]]]
    page: Page


@dataclass(frozen=True)
class OpenedReport:
    """What the viewer shows of a report: texts, drawn on the image or printed."""

    texts: str
    drawn: bool
    page: Page


@dataclass(frozen=True)
class Viewer:
    """OHIF at an address, in a browser."""

    browser: Browser
    address: str

    @contextmanager
    def study(self, study_instance_uid: str, seconds: float = PATIENCE_SECONDS) -> Iterator[Page]:
        """A page with the study open and its first image drawn; each wait on it lasts at most `seconds`."""
        context = self.browser.new_context(viewport={"width": 1400, "height": 900})
        context.set_default_timeout(seconds * 1000)
        context.add_init_script(NO_TOUR)
        context.route(
            lambda url: url.startswith("http") and not url.startswith(self.address), lambda route: route.abort()
        )
        try:
            page = context.new_page()
            page.goto(f"{self.address}/viewer?StudyInstanceUIDs={study_instance_uid}")
            page.wait_for_function(INSTANCE_SHOWN)
            yield page
        finally:
            context.close()

    @contextmanager
    def segmentation(self, study: str, series_number: int, labels: Sequence[str]) -> Iterator[OpenedSegmentation]:
        """A Segmentation opened and taken over, each of its segments listed."""

        def take(page: Page) -> OpenedSegmentation:
            _open(page, _thumbnail(page, "SEG", series_number), ASKED)
            page.locator('[data-cy="yes-hydrate-btn"]').first.click()
            page.wait_for_function(SEGMENTATION_LOADED)
            page.locator('[data-cy="panelSegmentation-btn"]').first.click()
            for label in labels:
                segment_row(page, label).wait_for()
            volumes = page.wait_for_function(VOLUMES, arg=len(labels)).json_value()
            voxels = {
                uid: {int(number): (count, places) for number, (count, places) in segments.items()}
                for uid, segments in page.evaluate(VOXELS)
            }
            return OpenedSegmentation(dict(volumes), voxels, page)

        with self._opened(study, take) as opened:
            yield opened

    @contextmanager
    def report(self, study: str, series_number: int) -> Iterator[OpenedReport]:
        """A report opened; what the viewer offers to take over is not taken yet."""

        def read(page: Page) -> OpenedReport:
            texts = _open(page, _thumbnail(page, "SR", series_number), REPORT_SHOWN, DRAWN)
            return OpenedReport(str(texts), page.locator(DRAWN).count() > 0, page)

        with self._opened(study, read) as opened:
            yield opened

    @contextmanager
    def series(self, study: str, series_number: int, shown: str = SERIES_SHOWN) -> Iterator[Page]:
        """Any other series, opened: the viewer shows it, or what `shown` says of the page (JavaScript) is true."""

        def show(page: Page) -> Page:
            found = page.locator('[data-cy^="study-browser-thumbnail"]').filter(has_text=f"S:{series_number}")
            _open(page, found.first, shown, series_number)
            return page

        with self._opened(study, show) as opened:
            yield opened

    @contextmanager
    def _opened(self, study: str, do: Callable[[Page], Found]) -> Iterator[Found]:
        """What `do` finds on a page with the study open, tried on a page of its own each time."""
        for seconds in PAGES_SECONDS:
            with ExitStack() as stack:
                try:
                    found = do(stack.enter_context(self.study(study, seconds)))
                except NothingCame:
                    if seconds == PAGES_SECONDS[-1]:
                        raise
                    continue
                yield found
                return


def shows_instance(page: Page, sop_instance_uid: str) -> None:
    """Wait until the active viewport shows this image."""
    page.wait_for_function(INSTANCE_SHOWN, arg=sop_instance_uid)


def jump_to_segment(page: Page, label: str, sop_instance_uid: str) -> None:
    """Click the row of a segment until the active viewport shows this image."""
    _until(page, segment_row(page, label).click, INSTANCE_SHOWN, sop_instance_uid)


def take_over(page: Page) -> int | None:
    """Measurements that the viewer took over as its own; None where it does not offer to.

    The viewer ignores who answers before it has finished drawing, which nothing tells; people are slower than that.
    """
    page.wait_for_timeout(SETTLED_MS)
    yes = page.get_by_role("button", name="Yes", exact=True)
    if not yes.count():
        return None
    yes.first.click()
    return int(page.wait_for_function(TAKEN_OVER).json_value())


def segment_row(page: Page, label: str) -> Locator:
    """The row of a segment in the panel."""
    return page.get_by_text(label, exact=True).last


def picture(page: Page, path: Path) -> Any:
    """Write what the page shows as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return page.screenshot(path=path)


def _open(page: Page, thumbnail: Locator, shown: str, argument: Any = None) -> Any:
    """Double-click a thumbnail until the page shows what it stands for, and give what `shown` says of it.

    The viewer lays out the study once more when the last series has come, and forgets what was opened before; so it is
    asked again, each time after twice as long a wait.
    """
    return _until(page, thumbnail.dblclick, shown, argument)


def _until(page: Page, act: Callable[[], None], true: str, argument: Any) -> Any:
    """Do something until `true` (JavaScript) says so of the page, and give what it says."""
    for seconds in ROUNDS_SECONDS:
        act()
        try:
            return page.wait_for_function(true, arg=argument, timeout=seconds * 1000).json_value()
        except NothingCame:
            if seconds == ROUNDS_SECONDS[-1]:
                raise
    raise AssertionError("unreachable")


def _thumbnail(page: Page, modality: str, series_number: int) -> Locator:
    found = page.locator('[data-cy="study-browser-thumbnail-no-image"]')
    return found.filter(has_text=f"S:{series_number}").filter(has_text=modality).first
