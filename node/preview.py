"""A picture of a result on three planes, for people who run or try the node. It is no diagnostic image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from dicom_sr.findings import Result, Segment
from node.volume import Volume

PANEL_HEIGHT_PX = 420
MARGIN_PX = 12
LINE_PX = 22
OVERLAY_OPACITY = 0.4
WARNING = "AI result, unverified. Not for clinical use."


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


def write_preview(path: Path, volume: Volume, result: Result) -> None:
    """Write a PNG with axial, coronal and sagittal sections through the middle of what was found.

    Planes are shown in radiological convention (patient right on the left of the image). Nothing of the patient's
    identity
    is written into the picture.
    """
    labels = result.labels if result.labels is not None else np.zeros(volume.voxels.shape, np.uint8)
    panels = [_panel(plane, result.segments) for plane in _planes(volume, labels)]
    lines = _legend(result)
    width = sum(panel.width for panel in panels) + MARGIN_PX * (len(panels) + 1)
    height = PANEL_HEIGHT_PX + LINE_PX * (len(lines) + 3) + MARGIN_PX
    sheet = Image.new("RGB", (width, height), "black")
    left = MARGIN_PX
    for panel in panels:
        sheet.paste(panel, (left, MARGIN_PX))
        left += panel.width + MARGIN_PX
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    top = PANEL_HEIGHT_PX + LINE_PX + MARGIN_PX
    draw.text((MARGIN_PX, top), f"{result.algorithm.name} {result.algorithm.version}", fill="white", font=font)
    for colour, text in lines:
        top += LINE_PX
        draw.rectangle((MARGIN_PX, top + 4, MARGIN_PX + 12, top + 16), fill=colour)
        draw.text((MARGIN_PX + 22, top), text, fill="white", font=font)
    draw.text((MARGIN_PX, top + LINE_PX), WARNING, fill=(255, 200, 80), font=font)
    sheet.save(path, format="PNG", optimize=True)


def _legend(result: Result) -> list[tuple[tuple[int, int, int], str]]:
    """Colour and text for each finding: its label and what was measured."""
    colours = {segment.number: segment.rgb for segment in result.segments}
    names = {segment.number: segment.label for segment in result.segments}
    lines = []
    for finding in result.findings:
        number = finding.segment_number
        name = names.get(number, finding.finding.meaning) if number is not None else finding.finding.meaning
        numbers = ", ".join(f"{m.concept.meaning} {m.value:.1f} {m.unit.value}" for m in finding.measurements)
        lines.append(
            (
                colours.get(number, (128, 128, 128)) if number is not None else (128, 128, 128),
                f"{name}: {numbers}",
            )
        )
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
    rows, columns = plane.grey.shape
    scale = PANEL_HEIGHT_PX / (rows * plane.pixel_mm[0])
    size = (max(1, round(columns * plane.pixel_mm[1] * scale)), PANEL_HEIGHT_PX)
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(plane.grey)).resize(size, Image.Resampling.BICUBIC))
    labels = np.asarray(
        Image.fromarray(np.ascontiguousarray(plane.labels.astype(np.uint8))).resize(size, Image.Resampling.NEAREST)
    )
    colour = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
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
