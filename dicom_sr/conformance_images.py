"""The gate's rules for what is drawn and mapped: presentation states, captures, parametric maps, structure sets."""

from collections.abc import Callable, Mapping

import numpy as np
from pydicom.dataset import Dataset

from dicom_sr.conformance_segmentations import Basis, Found, check_geometry
from dicom_sr.part10 import pixel_bytes
from dicom_sr.source_frames import height_mm, measure_slices, plane_of

PLANE_TOLERANCE_MM = 0.01
"""Contour Data has three decimals."""
VOLUME_TOLERANCE = 1e-3
"""Relative difference between the area of the contours and the stated volume, for contours rounded to 0.001 mm."""
OVER_THE_EDGE = 1.0
"""Pixels that a graphic may reach beyond its image."""


def check_presentation_state(item: Dataset, basis: Basis) -> Found:
    """Layers exist, graphics have as many points as they say and lie on their images, and it says what it is."""
    layers = [str(layer.GraphicLayer) for layer in item.get("GraphicLayerSequence", ())]
    by_uid = {str(source.SOPInstanceUID): source for source in basis.sources}
    used = set()
    for annotation in item.get("GraphicAnnotationSequence", ()):
        used.add(str(annotation.GraphicLayer))
        first = by_uid[str(annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID)]
        for graphic in annotation.get("GraphicObjectSequence", ()):
            points = np.reshape(np.array(graphic.GraphicData, float), (-1, 2))
            if len(points) != graphic.NumberOfGraphicPoints:
                yield "viewer", f"a graphic of {graphic.NumberOfGraphicPoints} points has {len(points)}"
            beyond = max(-points.min(), (points - (first.Columns, first.Rows)).max())
            if beyond > OVER_THE_EDGE:
                yield "geometry", f"a graphic reaches {beyond:.1f} pixels beyond its image"
    if used != set(layers) or len(set(layers)) < len(layers):
        yield "viewer", f"layers used and layers described differ: {sorted(used ^ set(layers))}"
    if "not verified" not in _texts(item):
        yield "viewer", "nothing on the images says that the result is not verified"


def _texts(item: Dataset) -> str:
    return " ".join(
        str(text.UnformattedTextValue)
        for annotation in item.get("GraphicAnnotationSequence", ())
        for text in annotation.get("TextObjectSequence", ())
    )


def check_capture(item: Dataset, basis: Basis) -> Found:
    """The pixels are as long as they have to be, each frame has its source image, and the object says what it is."""
    expected = int(item.NumberOfFrames) * int(item.Rows) * int(item.Columns) * int(item.SamplesPerPixel)
    if pixel_bytes(item) != expected + expected % 2:
        yield "attribute", f"Pixel Data of {pixel_bytes(item)} bytes, expected {expected + expected % 2}"
    if len(item.get("SourceImageSequence", ())) != int(item.NumberOfFrames):
        yield "reference", "not every frame has its source image"
    if "not verified" not in str(item.get("DerivationDescription", "")):
        yield "viewer", "nothing says that the result is not verified"


def check_parametric_map(item: Dataset, basis: Basis) -> Found:
    """Geometry of the sources, as many numbers as there are pixels, and what they are."""
    yield from check_geometry(item, basis)
    expected = int(item.NumberOfFrames) * int(item.Rows) * int(item.Columns) * int(item.BitsAllocated) // 8
    if pixel_bytes(item) != expected:
        yield "attribute", f"pixels of {pixel_bytes(item)} bytes, expected {expected}"
    mappings = item.SharedFunctionalGroupsSequence[0].get("RealWorldValueMappingSequence", ())
    if not mappings or not mappings[0].get("QuantityDefinitionSequence"):
        yield "viewer", "nothing says what the numbers are"


def check_structure_set(item: Dataset, basis: Basis) -> Found:
    """Regions, contours and observations are the same; contours lie in their images and enclose the stated volume."""
    numbers = [int(roi.ROINumber) for roi in item.StructureSetROISequence]
    for name, found in (
        ("contours", [int(each.ReferencedROINumber) for each in item.ROIContourSequence]),
        ("observations", [int(each.ReferencedROINumber) for each in item.RTROIObservationsSequence]),
    ):
        if sorted(found) != sorted(numbers):
            yield "reference", f"the {name} are not those of the regions"
            return
    by_uid = {str(source.SOPInstanceUID): source for source in basis.sources}
    stated = {int(roi.ROINumber): float(roi.get("ROIVolume") or 0) for roi in item.StructureSetROISequence}
    step_mm = basis.spacing_mm[0] if basis.spacing_mm else 0.0
    heights, shares = measure_slices(basis.sources)
    for region in item.ROIContourSequence:
        volume_ml = 0.0
        for contour in region.get("ContourSequence", ()):
            area_mm2, height, distance_mm = _area_and_place(contour, by_uid)
            volume_ml += area_mm2 * step_mm * float(shares[np.abs(heights - height).argmin()]) / 1000
            if distance_mm > PLANE_TOLERANCE_MM:
                yield "geometry", f"a contour lies {distance_mm:.3f} mm beside its image"
                return
        number = int(region.ReferencedROINumber)
        if not np.isclose(volume_ml, stated[number], rtol=VOLUME_TOLERANCE, atol=1e-6):
            yield "volume", f"region {number}: contours of {volume_ml:.4f} ml, stated {stated[number]:.4f}"


def _area_and_place(contour: Dataset, by_uid: Mapping[str, Dataset]) -> tuple[float, float, float]:
    """Area in mm2, where its image lies along the normal, and how far its points are from that plane at most, in mm."""
    reference = contour.ContourImageSequence[0]
    source = by_uid[str(reference.ReferencedSOPInstanceUID)]
    number = int(reference.ReferencedFrameNumber) if "ReferencedFrameNumber" in reference else None
    orientation = plane_of(source, number or 1, "ImageOrientationPatient")
    position = plane_of(source, number, "ImagePositionPatient")
    assert orientation is not None and position is not None
    along_row, along_column = np.array(orientation).reshape(2, 3)
    way = np.array(contour.ContourData, float).reshape(-1, 3) - position
    x, y = way @ along_row, way @ along_column
    area = abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    distance_mm = float(np.abs(way @ np.cross(along_row, along_column)).max())
    return area, height_mm(position, orientation), distance_mm


Rule = Callable[[Dataset, Basis], Found]

IMAGE_RULES: Mapping[str, Rule] = {
    "PR": check_presentation_state,
    "SC": check_capture,
    "MAP": check_parametric_map,
    "RTSTRUCT": check_structure_set,
}
"""Name of the kind (`conformance_kinds`) -> what holds for it."""
