"""A measurement as a content item (TID 300), with what is known about it (TID 310, TID 312)."""

from pydicom.sr.coding import Code

from dicom_sr import codes
from dicom_sr import content_items as items
from dicom_sr.errors import InvalidResult
from dicom_sr.findings import Measurement

METHOD = codes.concept("370129005", "SCT", "Measurement Method")
DERIVATION = codes.concept("121401", "DCM", "Derivation")

NORMALITY = codes.concept("121402", "DCM", "Normality")
NORMAL_RANGE_LOWER_LIMIT = codes.concept("385524004", "SCT", "Normal Range Lower Limit")
NORMAL_RANGE_UPPER_LIMIT = codes.concept("371933006", "SCT", "Normal Range Upper Limit")
NORMAL_RANGE_DESCRIPTION = codes.concept("121407", "DCM", "Normal Range description")
NORMAL_RANGE_AUTHORITY = codes.concept("121408", "DCM", "Normal Range Authority")
UPPER_UNCERTAINTY = codes.concept("371886008", "SCT", "+, range of upper measurement uncertainty")
LOWER_UNCERTAINTY = codes.concept("371885007", "SCT", "-, range of lower measurement uncertainty")


def measurement_item(measurement: Measurement, *measured_on: bytes) -> bytes:
    """TID 300; the value keeps the nine digits that a decimal string surely holds (PS3.5 6.2, DS).

    `measured_on` are the coordinates that it is inferred from (TID 320).
    """
    children: list[bytes] = []
    for name, value in ((METHOD, measurement.method), (DERIVATION, measurement.derivation)):
        children += [items.code(items.MODIFIER, name, codes.check(value))] if value else []
    return items.number(
        items.CONTAINS,
        codes.check(measurement.concept),
        float(f"{measurement.value:.9g}"),
        codes.check(measurement.unit),
        [*children, *_properties(measurement), *measured_on],
    )


def _properties(measurement: Measurement) -> list[bytes]:
    """TID 310, with TID 312: what is normal, and how far the true value may be away."""
    found, normal, unit = [], measurement.normal_range, codes.check(measurement.unit)
    if measurement.normality is not None:
        found.append(items.code(items.PROPERTIES, NORMALITY, codes.check(measurement.normality)))
    if normal is not None:
        if normal.lower is None and normal.upper is None:
            raise InvalidResult(f"measurement {measurement.concept.value}: a normal range without a limit")
        limits = ((NORMAL_RANGE_LOWER_LIMIT, normal.lower), (NORMAL_RANGE_UPPER_LIMIT, normal.upper))
        found += [_property(name, value, unit) for name, value in limits if value is not None]
        words = ((NORMAL_RANGE_DESCRIPTION, normal.description), (NORMAL_RANGE_AUTHORITY, normal.authority))
        found += [items.text(items.PROPERTIES, name, value) for name, value in words if value]
    if measurement.uncertainty is not None:
        above, below = measurement.uncertainty.above, measurement.uncertainty.below
        if min(above, below) < 0:
            raise InvalidResult(f"measurement {measurement.concept.value}: an uncertainty below 0")
        found += [_property(UPPER_UNCERTAINTY, above, unit), _property(LOWER_UNCERTAINTY, below, unit)]
    return found


def _property(name: Code, value: float, unit: Code) -> bytes:
    return items.number(items.PROPERTIES, name, float(f"{value:.9g}"), unit)
