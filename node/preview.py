"""A picture of a result, of volumes on three planes, for people who run or try the node. It is no diagnostic image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from dicom_sr.findings import PlanarRegion, Presence, Result, Segment
from node.volume import Volume
from node.volume.images import ImageSet

PANEL_HEIGHT_PX = 420
MARGIN_PX = 12
LINE_PX = 22
OVERLAY_OPACITY = 0.4
REGION_COLOUR = (255, 90, 60)
MOST_LINES = 40
"""Of the legend in one column; there are as many columns as the pictures are wide."""
LEAST_WIDTH_PX = 420
WARNING = "AI result, unverified. Not for clinical use."


Line = tuple[tuple[int, int, int], str]
"""Of the legend: colour and text."""


@dataclass(frozen=True)
class _Plane:
    """One section: title, the letters at its left and top edge, grey values and labels (row, column), pixel size in
    mm.
    """

    title: str
    edges: tuple[str, str]
    grey: np.ndarray
    labels: np.ndarray
    pixel_mm: tuple[float, float]


def write_preview(path: Path, inputs: Mapping[str, Volume | ImageSet], result: Result) -> None:
    """Write a PNG of what was found: axial, coronal and sagittal sections through the middle of it, or the images with
    labels, boxes and points.

    Planes are shown in radiological convention (patient right on the left of the image). Nothing of the patient's
    identity is written into the picture.
    """
    first = next(iter(inputs.values()))
    if isinstance(first, Volume):
        labels = result.labels if result.labels is not None else np.zeros(first.voxels.shape, np.uint8)
        panels = [_panel(plane, result.segments) for plane in _planes(first, labels)]
    else:
        images = [(name, given) for name, given in inputs.items() if isinstance(given, ImageSet)]
        panels = [_image_panel(name, given, result) for name, given in images]
    width = max(sum(panel.width for panel in panels) + MARGIN_PX * (len(panels) + 1), LEAST_WIDTH_PX)
    font = ImageFont.load_default(15)
    columns = legend_columns(_legend(result), width, font)
    height = PANEL_HEIGHT_PX + LINE_PX * (len(columns[0]) + 3) + MARGIN_PX
    sheet = Image.new("RGB", (width, height), "black")
    left = MARGIN_PX
    for panel in panels:
        sheet.paste(panel, (left, MARGIN_PX))
        left += panel.width + MARGIN_PX
    draw = ImageDraw.Draw(sheet)
    top = PANEL_HEIGHT_PX + LINE_PX + MARGIN_PX
    draw.text((MARGIN_PX, top), f"{result.algorithm.name} {result.algorithm.version}", fill="white", font=font)
    for place, column in enumerate(columns):
        left = MARGIN_PX + place * (width - MARGIN_PX) // len(columns)
        for line, (colour, text) in enumerate(column, start=1):
            draw.rectangle((left, top + line * LINE_PX + 4, left + 12, top + line * LINE_PX + 16), fill=colour)
            draw.text((left + 22, top + line * LINE_PX), text, fill="white", font=font)
    draw.text((MARGIN_PX, top + LINE_PX * (len(columns[0]) + 1)), WARNING, fill=(255, 200, 80), font=font)
    sheet.save(path, format="PNG", optimize=True)


def legend_columns(
    lines: Sequence[Line], width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[Sequence[Line]]:
    """The legend in columns of about equal length; what there is no room for is counted."""
    widest = max((font.getlength(text) for _, text in lines), default=0) + 22 + MARGIN_PX
    most = max(1, int((width - MARGIN_PX) // widest))
    room = most * MOST_LINES
    if len(lines) > room:
        left_out = len(lines) - room + 1
        lines = [*lines[: room - 1], ((0, 0, 0), f"and {left_out} more, in the report")]
    count = max(1, -(-len(lines) // MOST_LINES))
    each = -(-len(lines) // count)
    return [lines[first : first + each] for first in range(0, max(1, len(lines)), max(1, each))]


def _image_panel(name: str, image: ImageSet, result: Result) -> Image.Image:
    """The first frame of an image on which something was found, with labels, boxes and points of it."""
    own = result.source_images[0].sop_instance_uid == image.sop_instance_uid
    has_labels = own and result.labels is not None and result.labels.shape == image.pixels.shape[:3]
    labels = result.labels if has_labels else None
    regions = [
        region
        for finding in result.findings
        for region in finding.regions
        if isinstance(region, PlanarRegion) and region.sop_instance_uid == image.sop_instance_uid
    ]
    frame = next((region.frame_number - 1 for region in regions if region.frame_number), 0)
    if labels is not None and labels.any():
        frame = int(labels.any(axis=(1, 2)).argmax())
    shown = (image.presented()[frame] * 255).astype(np.uint8)
    mask = np.zeros(shown.shape[:2], np.uint8) if labels is None else labels[frame]
    picture = _panel(_Plane(name, ("", ""), shown, mask, image.spacing_mm or (1.0, 1.0)), result.segments)
    draw = ImageDraw.Draw(picture)
    across, down = picture.width / shown.shape[1], picture.height / shown.shape[0]
    for region in regions:
        if region.frame_number in (None, frame + 1):
            points = [(column * across, row * down) for column, row in region.points]
            if len(points) > 1:
                draw.line(points, fill=REGION_COLOUR, width=2)
            else:
                column, row = points[0]
                draw.ellipse((column - 3, row - 3, column + 3, row + 3), outline=REGION_COLOUR, width=2)
    return picture


def _legend(result: Result) -> list[Line]:
    """Colour and text for each finding: its label and what was measured."""
    colours = {segment.number: segment.rgb for segment in result.segments}
    names = {segment.number: segment.label for segment in result.segments}
    lines = []
    for finding in result.findings:
        number = finding.segment_number
        name = names.get(number, finding.finding.meaning) if number is not None else finding.finding.meaning
        said = [f"{m.concept.meaning} {m.value:.1f} {m.unit.value}" for m in finding.measurements]
        said += [each.value.meaning for each in finding.qualifiers]
        if finding.likelihood is not None:
            said.append(f"{finding.likelihood.meaning.meaning} {finding.likelihood.value:.2f}")
        if finding.presence is not Presence.PRESENT:
            said.insert(0, finding.presence.value)
        grey = (128, 128, 128)
        lines.append((colours.get(number, grey) if number is not None else grey, f"{name}: {', '.join(said)}"))
    return lines


def _planes(volume: Volume, labels: np.ndarray) -> list[_Plane]:
    """Three sections in patient axes through the voxel where most was found (or the middle of the volume)."""
    order, flips = patient_axes(volume.affine_lps)
    grey = np.flip(np.transpose(volume.voxels, order), flips)
    found = np.flip(np.transpose(labels, order), flips)
    z_mm, y_mm, x_mm = (volume.spacing_mm[axis] for axis in order)
    low, high = np.percentile(grey[::4, ::4, ::4], (1, 99.5))
    shown = (np.clip((grey.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1) * 255).astype(np.uint8)
    z, y, x = _middle(found)
    return [
        _Plane("Axial", ("R", "A"), shown[z], found[z], (y_mm, x_mm)),
        _Plane("Coronal", ("R", "S"), shown[::-1, y], found[::-1, y], (z_mm, x_mm)),
        _Plane("Sagittal", ("A", "S"), shown[::-1, :, x], found[::-1, :, x], (z_mm, y_mm)),
    ]


def patient_axes(affine_lps: np.ndarray) -> tuple[tuple[int, int, int], tuple[int, ...]]:
    """How to turn (slice, row, column) into (towards superior, towards posterior, towards left).

    Returns
    -------
    order : tuple of int
        Volume axis to take for each patient axis, for `numpy.transpose`.
    flips : tuple of int
        Axes of the transposed volume to reverse.
    """
    directions = affine_lps[:3, :3] / np.linalg.norm(affine_lps[:3, :3], axis=0)
    best: tuple[int, int, int] = max(
        ((a, b, c) for a in range(3) for b in range(3) for c in range(3) if len({a, b, c}) == 3),
        key=lambda axes: abs(directions[2, axes[0]]) + abs(directions[1, axes[1]]) + abs(directions[0, axes[2]]),
    )
    signs = (directions[2, best[0]], directions[1, best[1]], directions[0, best[2]])
    return best, tuple(axis for axis, sign in enumerate(signs) if sign < 0)


def _middle(found: np.ndarray) -> tuple[int, int, int]:
    """The voxel through which to cut: where each axis holds most of the smallest present label."""
    counts = np.bincount(found.ravel())
    present = [number for number in range(1, len(counts)) if counts[number]]
    if not present:
        return (found.shape[0] // 2, found.shape[1] // 2, found.shape[2] // 2)
    mask = found == min(present, key=lambda number: counts[number])
    z, y, x = (int(np.argmax(mask.sum(axis=tuple(a for a in range(3) if a != axis)))) for axis in range(3))
    return z, y, x


def _panel(plane: _Plane, segments: tuple[Segment, ...]) -> Image.Image:
    """The section as a picture of PANEL_HEIGHT_PX, with segments filled, outlined, and the edges named."""
    rows, columns = plane.grey.shape[:2]
    scale = PANEL_HEIGHT_PX / (rows * plane.pixel_mm[0])
    size = (max(1, round(columns * plane.pixel_mm[1] * scale)), PANEL_HEIGHT_PX)
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(plane.grey)).resize(size, Image.Resampling.BICUBIC))
    labels = np.asarray(
        Image.fromarray(np.ascontiguousarray(plane.labels.astype(np.uint8))).resize(size, Image.Resampling.NEAREST)
    )
    colour = (np.repeat(grey[..., None], 3, axis=2) if grey.ndim == 2 else grey).astype(np.float32)
    for segment in segments:
        mask = labels == segment.number
        edge = mask & ~ndimage.binary_erosion(mask)
        colour[mask] += (np.array(segment.rgb) - colour[mask]) * OVERLAY_OPACITY
        colour[edge] = segment.rgb
    picture = Image.fromarray(colour.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(15)
    draw.text((4, 2), plane.title, fill="white", font=font)
    draw.text((4, size[1] // 2), plane.edges[0], fill="white", font=font)
    draw.text((size[0] // 2, 2), plane.edges[1], fill="white", font=font)
    return picture
