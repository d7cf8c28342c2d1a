"""Grayscale Softcopy Presentation States (PS3.3 A.33.1) of a Result: contours of segments on every slice, boxes, points
and lines of findings, and their names, each segment and the findings in layers of their own.

Viewers apply presentation states unevenly, so that what they show is also in Segmentation and report, under the same
Tracking Unique Identifiers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from dicom_sr import provenance
from dicom_sr.contours import mask_contours
from dicom_sr.evidence import Evidence, check_evidence
from dicom_sr.findings import Finding, PlanarShape, Presence, Result, Rgb
from dicom_sr.identity import tracking_uid
from dicom_sr.instance import Kind, new_instance, reference, set_laterality
from dicom_sr.outline import MAXIMUM_POINTS
from dicom_sr.profile import CONSERVATIVE, DestinationProfile, Role
from dicom_sr.regions import draw
from dicom_sr.segment_description import content_creator, content_description, tracking_identifier
from dicom_sr.segment_numbering import SegmentNumbering, SegmentPlace, number_segments

GRAYSCALE_SOFTCOPY_PRESENTATION_STATE_STORAGE = "1.2.840.10008.5.1.4.1.1.11.1"
OVERLAY = Kind(Role.PRESENTATION_STATE, "PR", "overlay")
FINDINGS_LAYER = "FINDINGS"
FINDINGS_RGB: Rgb = (255, 220, 60)
UNVERIFIED_LAYER = "UNVERIFIED"
RESCALE = ("RescaleIntercept", "RescaleSlope", "RescaleType")
WINDOW = ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction")


@dataclass(frozen=True, eq=False)
class Graphic:
    """Something drawn on one slice.

    Parameters
    ----------
    layer : str
    kind : str
        Graphic Type (PS3.3 C.10.5.1.2).
    points : ndarray of float64, shape (n, 2)
        (column, row) in pixels.
    tracking_identifier : str
    label : str
        Written beside it; empty for nothing.
    """

    layer: str
    kind: str
    points: np.ndarray
    tracking_identifier: str
    label: str = ""


@dataclass(frozen=True, eq=False)
class Layer:
    """A graphic layer: its name (CS), what it holds, and its colour."""

    name: str
    description: str
    rgb: Rgb


@dataclass(frozen=True, eq=False)
class Overlay:
    """What is drawn: graphics by slice index, and the layers in the order in which they lie on each other."""

    layers: list[Layer] = field(default_factory=list)
    graphics: dict[int, list[Graphic]] = field(default_factory=dict)

    def add(self, slice_index: int, graphic: Graphic) -> None:
        """Draw something on a slice."""
        self.graphics.setdefault(slice_index, []).append(graphic)


def encode_presentation_states(
    result: Result,
    sources: Sequence[Dataset],
    profile: DestinationProfile = CONSERVATIVE,
    *,
    evidence: Evidence | None = None,
    numbering: SegmentNumbering | None = None,
) -> list[Dataset]:
    """One Presentation State for each way in which stored values become modality values, and each series.

    Colour images are left out: they need another kind of presentation state.

    Parameters
    ----------
    result : Result
    sources : sequence of Dataset
        Headers of the source images, in slice order; rescaling and windows are taken from them.
    profile : DestinationProfile
    evidence, numbering : optional
        Given by a caller that has them already.

    Returns
    -------
    list of Dataset
        Empty where nothing has a place.

    Raises
    ------
    SourceMismatch, InvalidResult
    """
    evidence = evidence or check_evidence(result, sources)
    numbering = numbering or number_segments(result)
    overlay = draw_overlay(result, evidence, numbering)
    by_uid = {str(source.SOPInstanceUID): source for source in reversed(sources)}
    groups: dict[tuple[str, ...], list[int]] = {}
    for slice_index in sorted(overlay.graphics):
        source = by_uid[str(evidence.image_of(slice_index).SOPInstanceUID)]
        if int(source.get("SamplesPerPixel") or 1) == 1:
            rescale = (str(_rescale(source).get(keyword, "")) for keyword in RESCALE)
            key = (str(source.SeriesInstanceUID), str(source.get("PhotometricInterpretation", "")), *rescale)
            groups.setdefault(key, []).append(slice_index)
    return [
        _encode(result, evidence, profile, overlay, slices, by_uid, number)
        for number, slices in enumerate(groups.values(), 1)
    ]


def draw_overlay(result: Result, evidence: Evidence, numbering: SegmentNumbering) -> Overlay:
    """Contours of all segments and regions of all findings that are not absent."""
    overlay = Overlay()
    for number, place in enumerate(numbering.places, 1):
        segment = place.segment
        overlay.layers.append(Layer(f"SEGMENT_{number}", segment.label, segment.rgb))
        _draw_segment(overlay, result, place, overlay.layers[-1].name)
    placed = [finding for finding in result.findings if finding.regions and finding.presence is not Presence.ABSENT]
    if placed:
        overlay.layers.append(Layer(FINDINGS_LAYER, "Findings", FINDINGS_RGB))
    for finding in placed:
        _draw_finding(overlay, evidence, finding)
    return overlay


def _draw_segment(overlay: Overlay, result: Result, place: SegmentPlace, layer: str) -> None:
    """Every contour, holes too; its name in the slice where it is largest."""
    identifier = tracking_identifier(result, place.segment)
    labels = result.label_maps[place.label_map]
    for slice_index in (int(index) for index in place.slices):
        contours = mask_contours(labels[slice_index] == place.segment.number)
        for position, contour in enumerate(contours):
            points = contour.points
            if len(points) > MAXIMUM_POINTS:  # more than Graphic Data can hold in Explicit VR: every n-th corner
                points = np.vstack([points[: -1 : len(points) // MAXIMUM_POINTS + 1], points[:1]])
            named = position == 0 and slice_index == place.largest_slice
            label = place.segment.label if named else ""
            overlay.add(slice_index, Graphic(layer, "POLYLINE", points, identifier, label))


def _draw_finding(overlay: Overlay, evidence: Evidence, finding: Finding) -> None:
    """Every region, named by the finding, with its likelihood."""
    label = finding.finding.meaning
    if finding.likelihood:
        label += f" {finding.likelihood.value:.0%}"
    if finding.presence is Presence.INDETERMINATE:
        label += " (indeterminate)"
    for region in finding.regions:
        drawn = draw(region, evidence)
        points = np.asarray(drawn.points, float)
        kinds = [drawn.shape.value]
        if kinds == [PlanarShape.MULTIPOINT.value]:  # not a graphic type of presentation states: one point each
            kinds, points = ["POINT"] * len(points), points[:, None, :]
        else:
            points = points[None]
        for kind, each in zip(kinds, points, strict=True):
            graphic = Graphic(FINDINGS_LAYER, kind, each, finding.tracking_identifier, label)
            overlay.add(drawn.slice_index, graphic)
            label = ""


def _encode(
    result: Result,
    evidence: Evidence,
    profile: DestinationProfile,
    overlay: Overlay,
    slices: Sequence[int],
    by_uid: dict[str, Dataset],
    number: int,
) -> Dataset:
    """A presentation state of images that are displayed alike."""
    dataset = new_instance(
        result,
        evidence,
        profile,
        OVERLAY,
        GRAYSCALE_SOFTCOPY_PRESENTATION_STATE_STORAGE,
        instance_number=number,
    )
    moment = provenance.content_moment(result, evidence)
    set_laterality(dataset, evidence)
    dataset.PresentationCreationDate, dataset.PresentationCreationTime = DA(moment.date()), TM(moment.time())
    dataset.ContentLabel = "AI_OVERLAY"
    dataset.ContentDescription = content_description(result)
    dataset.ContentCreatorName = content_creator(result)
    images = {str(evidence.image_of(index).SOPInstanceUID): evidence.image_of(index) for index in slices}
    series = Dataset()
    series.SeriesInstanceUID = evidence.image_of(slices[0]).SeriesInstanceUID
    series.ReferencedImageSequence = [reference(image) for image in images.values()]
    dataset.ReferencedSeriesSequence = [series]
    _display(dataset, [by_uid[uid] for uid in images])
    used = {graphic.layer for index in slices for graphic in overlay.graphics[index]}
    layers = [layer for layer in overlay.layers if layer.name in used]
    layers.append(Layer(UNVERIFIED_LAYER, "What kind of result this is", FINDINGS_RGB))
    dataset.GraphicLayerSequence = [_layer(layer, order) for order, layer in enumerate(layers, 1)]
    annotations = [_standing(result, list(images.values()))]
    for index in slices:
        for layer in layers:
            graphics = [graphic for graphic in overlay.graphics[index] if graphic.layer == layer.name]
            if graphics:
                annotations.append(_annotation(result, evidence, index, graphics))
    dataset.GraphicAnnotationSequence = annotations
    return dataset


def _display(dataset: Dataset, sources: Sequence[Dataset]) -> None:
    """Modality LUT, VOI LUT, Presentation LUT and Displayed Area: the images as they are shown without this object."""
    for keyword, value in _rescale(sources[0]).items():
        setattr(dataset, keyword, value)
    windows: dict[str, tuple[Dataset, list[Dataset]]] = {}
    for source in sources:
        window = _window(source)
        if window is not None:
            windows.setdefault(str(window), (window, []))[1].append(reference(source))
    for window, images in windows.values():
        window.ReferencedImageSequence = images
    if windows:
        dataset.SoftcopyVOILUTSequence = [window for window, _ in windows.values()]
    inverse = sources[0].get("PhotometricInterpretation") == "MONOCHROME1"
    dataset.PresentationLUTShape = "INVERSE" if inverse else "IDENTITY"
    areas: dict[tuple[int, int], list[Dataset]] = {}
    for source in sources:
        areas.setdefault((int(source.Rows), int(source.Columns)), []).append(source)
    dataset.DisplayedAreaSelectionSequence = [_area(shape, images) for shape, images in areas.items()]


def _area(shape: tuple[int, int], images: Sequence[Dataset]) -> Dataset:
    """All of the images of one size, scaled to fit."""
    area = Dataset()
    area.ReferencedImageSequence = [reference(image) for image in images]
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [shape[1], shape[0]]
    area.PresentationSizeMode = "SCALE TO FIT"
    spacing = images[0].get("PixelSpacing") or images[0].get("ImagerPixelSpacing")
    if spacing:
        area.PresentationPixelSpacing = list(spacing)
    else:
        area.PresentationPixelAspectRatio = [1, 1]
    return area


def _rescale(source: Dataset) -> dict[str, object]:
    """Modality LUT attributes, wherever the image has them (PS3.3 C.11.1, C.7.6.16.2.9); the identity if nowhere."""
    owners = [source]
    for shared in source.get("SharedFunctionalGroupsSequence") or ():
        owners += list(shared.get("PixelValueTransformationSequence") or ())
    for owner in owners:
        if owner.get("RescaleSlope") is not None and owner.get("RescaleIntercept") is not None:
            return {
                "RescaleIntercept": owner.RescaleIntercept,
                "RescaleSlope": owner.RescaleSlope,
                "RescaleType": owner.get("RescaleType") or "US",
            }
    return {}


def _window(source: Dataset) -> Dataset | None:
    """An item of the Softcopy VOI LUT Sequence (PS3.3 C.11.8); None for an image without window or table."""
    owners = [source]
    for shared in source.get("SharedFunctionalGroupsSequence") or ():
        owners += list(shared.get("FrameVOILUTSequence") or ())
    for owner in owners:
        item = Dataset()
        if owner.get("WindowCenter") is not None and owner.get("WindowWidth") is not None:
            for keyword in WINDOW:
                if owner.get(keyword) is not None:
                    item[keyword] = owner[keyword]
            return item
        if owner.get("VOILUTSequence"):
            item.VOILUTSequence = owner.VOILUTSequence
            return item
    return None


def _layer(layer: Layer, order: int) -> Dataset:
    """Item of the Graphic Layer Sequence (PS3.3 C.10.7)."""
    item = Dataset()
    item.GraphicLayer = layer.name
    item.GraphicLayerOrder = order
    item.GraphicLayerRecommendedDisplayCIELabValue = list(hd.color.CIELabColor.from_rgb(*layer.rgb).value)
    item.GraphicLayerDescription = provenance.clean_text(layer.description)[:64]
    return item


def _annotation(result: Result, evidence: Evidence, slice_index: int, graphics: Sequence[Graphic]) -> Dataset:
    """What one layer shows on one slice (PS3.3 C.10.5)."""
    frame_number = evidence.frames[slice_index].frame_number
    item = Dataset()
    item.ReferencedImageSequence = [
        reference(evidence.image_of(slice_index), *([frame_number] if frame_number else []))
    ]
    item.GraphicLayer = graphics[0].layer
    texts = [_text(result, graphic) for graphic in graphics if graphic.label]
    if texts:
        item.TextObjectSequence = texts
    item.GraphicObjectSequence = [_graphic(result, graphic) for graphic in graphics]
    return item


def _graphic(result: Result, graphic: Graphic) -> Dataset:
    item = Dataset()
    item.GraphicAnnotationUnits = "PIXEL"
    item.GraphicDimensions = 2
    item.NumberOfGraphicPoints = len(graphic.points)
    item.GraphicData = [float(value) for value in np.asarray(graphic.points, np.float32).ravel()]
    item.GraphicType = graphic.kind
    closed = graphic.kind in ("CIRCLE", "ELLIPSE") or bool((graphic.points[0] == graphic.points[-1]).all())
    if closed and graphic.kind != "POINT":
        item.GraphicFilled = "N"
    item.TrackingID = graphic.tracking_identifier
    item.TrackingUID = tracking_uid(result, graphic.tracking_identifier)
    return item


def _text(result: Result, graphic: Graphic) -> Dataset:
    """The name, anchored at the upper right end of what it names."""
    item = Dataset()
    item.UnformattedTextValue = graphic.label
    item.AnchorPoint = [float(graphic.points[:, 0].max()), float(graphic.points[:, 1].min())]
    item.AnchorPointVisibility = "N"
    item.AnchorPointAnnotationUnits = "PIXEL"
    item.TrackingID = graphic.tracking_identifier
    item.TrackingUID = tracking_uid(result, graphic.tracking_identifier)
    return item


def _standing(result: Result, images: Sequence[Dataset]) -> Dataset:
    """On every image, at its upper edge: that this is a result of an algorithm which nobody has verified."""
    text = Dataset()
    text.UnformattedTextValue = provenance.standing(result)
    text.BoundingBoxTopLeftHandCorner = [0.01, 0.01]
    text.BoundingBoxBottomRightHandCorner = [0.99, 0.05]
    text.BoundingBoxAnnotationUnits = "DISPLAY"
    text.BoundingBoxTextHorizontalJustification = "LEFT"
    item = Dataset()
    item.ReferencedImageSequence = [reference(image) for image in images]
    item.GraphicLayer = UNVERIFIED_LAYER
    item.TextObjectSequence = [text]
    return item
