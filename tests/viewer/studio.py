"""Where pictures of the viewer are taken."""

from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page
from pydicom import dcmread

from tests.counterparts import OrthancPeer
from tests.viewer.browser import SETTLED_MS, Viewer

WIDTH, QUALITY = 960, 80


@dataclass(frozen=True)
class Studio:
    """Where pictures are taken, and where they go."""

    viewer: Viewer
    peer: OrthancPeer
    out: Path

    def show(self, images: Iterable[bytes], objects: Iterable[bytes]) -> dict[str, int]:
        """Put a study alone into the archive; modality -> series number of what was rendered of it."""
        for patient in self.peer.get("/patients"):
            self.peer.request(f"/patients/{patient}", method="DELETE")
        numbers = {}
        for content in (*images, *(kept := list(objects))):
            self.peer.request("/instances", content)
        for item in (dcmread(BytesIO(each), stop_before_pixels=True) for each in kept):
            numbers[str(item.Modality)] = int(item.SeriesNumber)
        return numbers

    def take(self, page: Page, name: str, height: int | None = None) -> None:
        """A small JPEG of the page, or of its uppermost pixels."""
        page.wait_for_timeout(SETTLED_MS)
        path = self.out / f"{name}.jpg"
        with Image.open(BytesIO(page.screenshot())) as whole:
            seen = whole.convert("RGB").crop((0, 0, whole.width, height or whole.height))
        small = seen.resize((WIDTH, seen.height * WIDTH // seen.width), Image.Resampling.LANCZOS)
        small.save(path, quality=QUALITY, subsampling=0, optimize=True)
        print(f"{path}: {path.stat().st_size // 1000} kB", flush=True)
