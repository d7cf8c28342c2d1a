"""Multi-frame True Color Secondary Capture (PS3.3 A.8.5.4) of a Result: key images with everything found drawn in, for
viewers that take nothing else. Each frame says that it is the result of an algorithm which nobody has verified.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from dicom_sr import arithmetic, provenance
from dicom_sr.displayed import displayed_frame
from dicom_sr.element_bytes import tag_of
from dicom_sr.errors import NothingToShow
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Finding, Presence, Result, Rgb
from dicom_sr.instance import Kind, copy_compression, new_instance, reference, set_laterality
from dicom_sr.places import places_of
from dicom_sr.presentation_state import FINDINGS_RGB, Graphic, Overlay, draw_overlay
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role
from dicom_sr.segment_numbering import SegmentNumbering, number_segments
from dicom_sr.source_frames import pixel_spacing_mm

MULTIFRAME_TRUE_COLOR_STORAGE = "1.2.840.10008.5.1.4.1.1.7.4"
CAPTURE = Kind(Role.SECONDARY_CAPTURE, "OT", "key images")
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
MOST_FRAMES = 8
LONGEST_SIDE = 1024
"""Pixels of the longer side of a frame: what is drawn can be read, and four mammograms stay below 10 MB."""
TEXT_PIXELS, LINE_PIXELS = 18, 22
MARGIN = 8
POINT_RADIUS = 6


def encode_secondary_capture(
    result: Result,
    sources: Sequence[Dataset],
    profile: DestinationProfile = CONSERVATIVE,
    *,
    evidence: Evidence | None = None,
    numbering: SegmentNumbering | None = None,
) -> Dataset:
    """Key images of a Result: where each finding is seen best, in the order of the slices, at most `MOST_FRAMES`.

    A result without a place has its middle image, with what was found in words.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        Headers of the source images, in slice order; those of `slices_shown` with their pixels.
    profile : DestinationProfile
    evidence, numbering : optional
        Given by a caller that has them already.

    Raises
    ------
    SourceMismatch
    NothingToShow
        An image to be shown has no pixels, or none that can be decoded.
    InvalidResult
    """
    evidence = evidence or check_evidence(result, sources)
    numbering = numbering or number_segments(result)
    overlay = draw_overlay(result, evidence, numbering)
    slices = slices_shown(result, evidence, numbering)
    by_uid = {str(source.SOPInstanceUID): source for source in reversed(sources)}
    unplaced = [each for each in result.findings if not places_of(each, evidence, numbering)]
    frames = [_draw(result, evidence, by_uid, overlay, index, unplaced) for index in slices]
    dataset = new_instance(result, evidence, profile, CAPTURE, MULTIFRAME_TRUE_COLOR_STORAGE)
    set_laterality(dataset, evidence)
    dataset.ConversionType = "WSD"
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.PatientOrientation = ""
    dataset.DerivationDescription = provenance.standing(result)
    dataset.BurnedInAnnotation = "NO"  # what is drawn in does not say who the patient is
    dataset.SourceImageSequence = [_source(evidence, index) for index in slices]
    copy_compression(dataset, evidence.images[0])
    _set_frames(dataset, frames)
    return dataset


def slices_shown(result: Result, evidence: Evidence, numbering: SegmentNumbering) -> list[int]:
    """Indices of the slices to be shown, ascending: those of findings first, critical ones before others, then the
    largest segments'.
    """
    wanted = [
        place.slice_index
        for finding in sorted(result.findings, key=lambda each: not each.is_alarm)
        if finding.presence is not Presence.ABSENT
        for place in places_of(finding, evidence, numbering)
    ]
    wanted += [place.largest_slice for place in sorted(numbering.places, key=lambda place: -place.voxels)]
    kept = list(dict.fromkeys(wanted))[:MOST_FRAMES]
    return sorted(kept) or [len(evidence.frames) // 2]


def _source(evidence: Evidence, slice_index: int) -> Dataset:
    frame_number = evidence.frames[slice_index].frame_number
    return reference(evidence.image_of(slice_index), *([frame_number] if frame_number else []))


def _set_frames(dataset: Dataset, frames: Sequence[Image.Image]) -> None:
    """Frames of one size, smaller ones on black, with the modules of multi-frame captures (PS3.3 C.8.6.3, C.8.6.4)."""
    width, height = (max(frame.size[axis] for frame in frames) for axis in (0, 1))
    pixels = np.zeros((len(frames), height, width, 3), np.uint8)
    for index, frame in enumerate(frames):
        pixels[index, : frame.size[1], : frame.size[0]] = np.asarray(frame)
    dataset.NumberOfFrames = len(frames)
    if len(frames) > 1:
        dataset.FrameIncrementPointer = tag_of("PageNumberVector")
        dataset.PageNumberVector = list(range(1, len(frames) + 1))
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.Rows, dataset.Columns = height, width
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    content = pixels.tobytes()
    dataset.add_new("PixelData", "OB", content + b"\0" * (len(content) % 2))


def _draw(
    result: Result,
    evidence: Evidence,
    by_uid: dict[str, Dataset],
    overlay: Overlay,
    slice_index: int,
    unplaced: Sequence[Finding],
) -> Image.Image:
    """One slice as it is displayed, with what is on it, and in words what it is."""
    uid = str(evidence.image_of(slice_index).SOPInstanceUID)
    frame_number = evidence.frames[slice_index].frame_number
    grey = displayed_frame(by_uid[uid], frame_number)
    if grey is None:
        raise NothingToShow(f"image {uid}: a Secondary Capture shows it, but its pixels are not there to be shown")
    spacing_mm = pixel_spacing_mm(by_uid[uid], frame_number) or (1.0, 1.0)
    scale = _scale(grey.shape, spacing_mm)
    size = (max(1, round(grey.shape[1] * scale[0])), max(1, round(grey.shape[0] * scale[1])))
    picture = Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB")
    canvas = ImageDraw.Draw(picture)
    colours = {layer.name: layer.rgb for layer in overlay.layers}
    graphics = overlay.graphics.get(slice_index, [])
    font = ImageFont.load_default(TEXT_PIXELS)
    for graphic in graphics:
        _draw_graphic(canvas, graphic, scale, colours[graphic.layer], font)
    heading = [(text, FINDINGS_RGB) for text in _heading(result, evidence, slice_index)]
    legend = _legend(result, graphics, overlay, unplaced)
    return _between(_band(heading, picture.width), picture, _band(legend, picture.width))


def _band(lines: Sequence[tuple[str, Rgb]], width: int) -> Image.Image:
    """Lines of text on black, as wide as the picture or as the longest line."""
    font = ImageFont.load_default(TEXT_PIXELS)
    longest = max((int(font.getlength(text)) for text, _ in lines), default=0)
    band = Image.new("RGB", (max(width, longest + 2 * MARGIN), len(lines) * LINE_PIXELS + MARGIN))
    canvas = ImageDraw.Draw(band)
    for number, (text, rgb) in enumerate(lines):
        canvas.text((MARGIN, MARGIN // 2 + number * LINE_PIXELS), text, fill=rgb, font=font)
    return band


def _between(top: Image.Image, picture: Image.Image, bottom: Image.Image) -> Image.Image:
    """The picture with a band above and one below."""
    parts = (top, picture, bottom)
    joined = Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)))
    at = 0
    for part in parts:
        joined.paste(part, (0, at))
        at += part.height
    return joined


def _scale(shape: tuple[int, ...], spacing_mm: tuple[float, float]) -> tuple[float, float]:
    """(column, row) factors that make pixels square and the longer side `LONGEST_SIDE`."""
    height_mm, width_mm = shape[0] * spacing_mm[0], shape[1] * spacing_mm[1]
    pixels_per_mm = LONGEST_SIDE / max(height_mm, width_mm)
    return pixels_per_mm * spacing_mm[1], pixels_per_mm * spacing_mm[0]


def _draw_graphic(
    canvas: ImageDraw.ImageDraw, graphic: Graphic, scale: tuple[float, float], rgb: Rgb, font: Font
) -> None:
    points = [(float(column * scale[0]), float(row * scale[1])) for column, row in graphic.points]
    if graphic.kind == "POINT":
        ((x, y),) = points
        canvas.ellipse((x - POINT_RADIUS, y - POINT_RADIUS, x + POINT_RADIUS, y + POINT_RADIUS), outline=rgb, width=2)
    elif graphic.kind in ("CIRCLE", "ELLIPSE"):
        canvas.line(_round(graphic, scale), fill=rgb, width=2)
    else:
        canvas.line(points, fill=rgb, width=2)
    if graphic.label:
        right, top = max(x for x, _ in points), min(y for _, y in points)
        canvas.text(
            (right + 4, top - TEXT_PIXELS), graphic.label, fill=rgb, font=font, stroke_width=2, stroke_fill=(0, 0, 0)
        )


def _round(graphic: Graphic, scale: tuple[float, float]) -> list[tuple[float, float]]:
    """A circle (centre, a point on it) or an ellipse (ends of both axes) as a polygon (PS3.3 C.10.5.1.2)."""
    points = np.asarray(graphic.points, float)
    if graphic.kind == "CIRCLE":
        centre = points[0]
        radius = float(arithmetic.lengths(points[1] - centre))
        first, second = np.array([radius, 0.0]), np.array([0.0, radius])
    else:
        centre = points.mean(axis=0)
        first, second = (points[1] - points[0]) / 2, (points[3] - points[2]) / 2
    x, y = arithmetic.circle(72).T[:, :, None]
    outline = (centre + x * first + y * second) * scale
    return [(float(x), float(y)) for x, y in outline]


def _heading(result: Result, evidence: Evidence, slice_index: int) -> list[str]:
    """What stands at the top of every frame."""
    name = f"{result.algorithm.name} {result.algorithm.version}"
    return [
        provenance.standing(result),
        *provenance.alarms(result),
        f"{name}, image {slice_index + 1} of {len(evidence.frames)}",
    ]


def _legend(
    result: Result, graphics: Sequence[Graphic], overlay: Overlay, unplaced: Sequence[Finding]
) -> list[tuple[str, Rgb]]:
    """What is drawn on the slice, with its numbers, and what has no place to be drawn on; on a slice without anything
    all findings, in words.
    """
    colours = {layer.name: layer.rgb for layer in overlay.layers}
    by_identifier = {finding.tracking_identifier: finding for finding in result.findings}
    shown = dict.fromkeys((graphic.tracking_identifier, graphic.layer) for graphic in graphics)
    lines = []
    for identifier, layer in shown:
        finding = by_identifier.get(identifier)
        lines.append((_sentence(finding) if finding else identifier, colours[layer]))
    told = unplaced if lines else result.findings
    lines += [(_sentence(finding), FINDINGS_RGB) for finding in told]
    return lines or [("Nothing found", FINDINGS_RGB)]


def _sentence(finding: Finding) -> str:
    """`Nodule 1: 9.5 mm, 87%` and the like."""
    parts = [f"{number.value:.4g} {number.unit.value}" for number in finding.measurements]
    if finding.likelihood:
        parts.append(f"{finding.likelihood.value:.0%}")
    if finding.presence is not Presence.PRESENT:
        parts.append("not found" if finding.presence is Presence.ABSENT else "indeterminate")
    return finding.tracking_identifier + (": " + ", ".join(parts) if parts else "")
