"""How large the pixels of an image without a place in the patient are, and how sure that is. Pure."""

from dataclasses import dataclass

from pydicom.dataset import Dataset

from node.volume.pixels import VALUE_ERRORS, is_given, numbers

CENTIMETRES = 3
"""Physical Units X and Y Direction (PS3.3 C.8.5.5.1.15)."""

AT_DETECTOR = (
    "Pixel spacing is that at the detector, not in the patient (Imager Pixel Spacing): true sizes are smaller by the "
    "unknown magnification."
)


@dataclass(frozen=True)
class PixelSize:
    """Distance of pixel centres (row, column) in millimetres, or None, and what has to be said of it."""

    spacing_mm: tuple[float, float] | None
    remarks: tuple[str, ...] = ()


def read_pixel_size(header: Dataset) -> PixelSize:
    """Pixel Spacing, Imager Pixel Spacing (PS3.3 10.7.1.3), Nominal Scanned Pixel Spacing or ultrasound region.

    `header` is that of a frame where functional groups say it.
    """
    spacing, at_detector = _pair(header, "PixelSpacing"), _pair(header, "ImagerPixelSpacing")
    if spacing is not None:
        return PixelSize(spacing, _calibration(header, spacing, at_detector))
    unusable = ("Pixel Spacing is there, but not usable.",) if is_given(header, "PixelSpacing") else ()
    if at_detector is not None:
        factor = numbers(header, "EstimatedRadiographicMagnificationFactor", 1)
        if factor and factor[0] >= 1:
            row, column = (each / factor[0] for each in at_detector)
            remark = f"Pixel spacing is that at the detector divided by the estimated magnification of {factor[0]:g}."
            return PixelSize((row, column), (*unusable, remark))
        return PixelSize(at_detector, (*unusable, AT_DETECTOR))
    scanned = _pair(header, "NominalScannedPixelSpacing")
    if scanned is not None:
        return PixelSize(scanned, (*unusable, "Pixel spacing is that of the scanned film or paper."))
    regions = _ultrasound(header)
    return PixelSize(regions, unusable) if regions else PixelSize(None, unusable)


def _calibration(
    header: Dataset, spacing: tuple[float, float], at_detector: tuple[float, float] | None
) -> tuple[str, ...]:
    """What Pixel Spacing means in a projection image (PS3.3 10.7.1.3)."""
    kind = str(header.get("PixelSpacingCalibrationType") or "").strip().upper()
    if kind in ("GEOMETRY", "FIDUCIAL"):
        by = "assumed geometry" if kind == "GEOMETRY" else "an object of known size"
        return (f"Pixel spacing was calibrated by {by} (Pixel Spacing Calibration Type {kind}).",)
    if at_detector is None:
        return ()
    if max(abs(a - b) for a, b in zip(spacing, at_detector, strict=True)) <= 1e-6 * max(spacing):
        return (AT_DETECTOR,)
    return ("Pixel spacing was calibrated; the image does not say how.",)


def _ultrasound(header: Dataset) -> tuple[float, float] | None:
    """Spacing of the 2D regions (PS3.3 C.8.5.5), where all that are there agree."""
    found = set()
    try:
        for region in header.get("SequenceOfUltrasoundRegions") or []:
            if region.get("RegionSpatialFormat") != 1:
                continue
            if (region.get("PhysicalUnitsXDirection"), region.get("PhysicalUnitsYDirection")) != (CENTIMETRES,) * 2:
                return None
            found.add((abs(float(region.PhysicalDeltaY)) * 10, abs(float(region.PhysicalDeltaX)) * 10))
    except VALUE_ERRORS:
        return None
    return found.pop() if len(found) == 1 and min(next(iter(found))) > 0 else None


def _pair(header: Dataset, keyword: str) -> tuple[float, float] | None:
    values = numbers(header, keyword, 2)
    return (values[0], values[1]) if values and min(values) > 0 else None
