"""Standardised uptake values by body weight (PS3.3 C.8.9.1, C.8.9.4; QIBA FDG-PET profile, appendix on SUV). Pure.

SUV = activity concentration (Bq/ml) x body weight (g) / injected dose (Bq), the dose decayed to the time to which the
image was corrected. What the header does not say is never assumed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from node.errors import NotAnalysed
from node.volume.pixels import VALUE_ERRORS, numbers
from node.volume.reason import Reason, refusal

PHILIPS_SUV_FACTOR, PHILIPS_ACTIVITY_FACTOR = 0x70531000, 0x70531009
"""Private attributes of Philips: counts to SUV by body weight, counts to Bq/ml."""
PHILIPS_CREATOR = "Philips PET Private Group"

LONGEST_UPTAKE = timedelta(days=14)
"""An image taken later after the injection than this, or before it, has a date or time that is wrong."""


@dataclass(frozen=True)
class SuvScale:
    """What rescaled values are multiplied with, and what is told about it."""

    factor: float = 1.0
    remarks: tuple[str, ...] = ()


def suv_scale(headers: Sequence[Dataset], name: str) -> SuvScale:
    """The factor from the rescaled values of a PET series to SUV by body weight.

    Parameters
    ----------
    headers : sequence of Dataset
        Of all images of the series: the earliest acquisition counts.
    name : str
        How messages call the series.

    Raises
    ------
    NotAnalysed
        ``no-uptake-value`` with the attribute that lacks or cannot be right.
    """
    first = headers[0]
    if any(each.get("ModalityLUTSequence") for each in headers):
        raise _refused(name, "found a Modality LUT Sequence, wanted Rescale Slope and Intercept")
    units = _text(first, "Units") or _text(first, "RescaleType")
    if any((_text(each, "Units") or _text(each, "RescaleType")) != units for each in headers):
        raise _refused(name, "its images have different Units")
    if units == "GML":
        kind = _text(first, "SUVType") or "BW"
        if kind != "BW":
            raise _refused(name, f"found SUV Type {kind}, wanted BW (body weight)")
        return SuvScale(1.0, ("Values are standardised uptake values by body weight, as the scanner wrote them.",))
    if units == "CNTS":
        factor = _philips(first, PHILIPS_SUV_FACTOR)
        if factor is not None:
            return SuvScale(
                factor, (f"Counts were made standardised uptake values by the factor of the scanner, {factor:.6g}.",)
            )
        concentration = _philips(first, PHILIPS_ACTIVITY_FACTOR)
        if concentration is None:
            raise _refused(name, "found Units CNTS without the scanner's factor, wanted BQML or GML")
        return _by_dose(headers, name, concentration)
    if units != "BQML":
        raise _refused(name, f"found Units {units or 'none'}, wanted BQML, GML or CNTS")
    return _by_dose(headers, name, 1.0)


def _by_dose(headers: Sequence[Dataset], name: str, to_activity: float) -> SuvScale:
    first = headers[0]
    weight_kg = _positive(first, "PatientWeight", name)
    items = first.get("RadiopharmaceuticalInformationSequence")
    if not items:
        raise _refused(name, "no Radiopharmaceutical Information Sequence")
    if len(items) > 1:
        raise _refused(name, f"found {len(items)} radiopharmaceuticals, wanted one")
    dose_bq = _positive(items[0], "RadionuclideTotalDose", name)
    if dose_bq < 1e4:
        raise _refused(name, f"found RadionuclideTotalDose {dose_bq:g} Bq, which is no injected dose (MBq?)")
    correction = _text(first, "DecayCorrection")
    if correction == "ADMIN":
        remaining_bq, meant = dose_bq, "the injection"
    elif correction == "START":
        half_life = _positive(items[0], "RadionuclideHalfLife", name)
        waited = _start_of_scan(headers, name) - _injection(first, items[0], name)
        if not timedelta(0) <= waited <= LONGEST_UPTAKE:
            raise _refused(name, f"the scan begins {waited.total_seconds() / 60:.0f} minutes after the injection")
        remaining_bq, meant = dose_bq * 2 ** (-waited.total_seconds() / half_life), "the start of the scan"
    else:
        raise _refused(name, f"found Decay Correction {correction or 'none'}, wanted START or ADMIN")
    factor = to_activity * weight_kg * 1000 / remaining_bq
    return SuvScale(factor, (f"Values are standardised uptake values by body weight, decay corrected to {meant}.",))


def _start_of_scan(headers: Sequence[Dataset], name: str) -> datetime:
    """Series Date and Time, unless a reconstruction was given them later than the first acquisition: then that."""
    acquired = [_moment(each, "AcquisitionDate", "AcquisitionTime") for each in headers]
    known = [each for each in acquired if each is not None]
    if len(known) < len(acquired):
        raise _refused(name, "images without Acquisition Date and Time")
    series = _moment(headers[0], "SeriesDate", "SeriesTime")
    return min([*known, series]) if series is not None else min(known)


def _injection(header: Dataset, item: Dataset, name: str) -> datetime:
    """When the radiopharmaceutical was given; a time alone is of the day of the scan."""
    try:
        whole = item.get("RadiopharmaceuticalStartDateTime")
        if whole:
            return _naive(str(whole))
        time = item.get("RadiopharmaceuticalStartTime")
        date = header.get("SeriesDate") or header.get("AcquisitionDate")
        if time and date:
            return _naive(str(date) + str(time))
    except (*VALUE_ERRORS, ValueError):
        pass
    raise _refused(name, "no Radiopharmaceutical Start Date Time or Start Time")


def _moment(header: Dataset, date: str, time: str) -> datetime | None:
    try:
        day, hour = header.get(date), header.get(time)
        return _naive(str(day) + str(hour)) if day and hour else None
    except (*VALUE_ERRORS, ValueError):
        return None


def _naive(text: str) -> datetime:
    """A DICOM date and time as written; both ends of a difference come from one scanner, so its zone cancels."""
    digits, _, fraction = text.split("+")[0].split("-")[0].strip().partition(".")
    if len(digits) < 12:
        raise ValueError("no date with a time")
    moment = datetime.strptime(digits[:14].ljust(14, "0"), "%Y%m%d%H%M%S")
    return moment + timedelta(microseconds=int(fraction[:6].ljust(6, "0") or 0))


def _philips(header: Dataset, tag: int) -> float | None:
    """A factor of the Philips private group, where it is theirs and above 0."""
    if _text_of(header.get((0x7053, 0x0010))) != PHILIPS_CREATOR:
        return None
    element = header.get((tag >> 16, tag & 0xFFFF))
    try:
        value = element.value if element is not None else None
        number = float(value.decode("ascii") if isinstance(value, bytes) else value)
    except VALUE_ERRORS:
        return None
    return number if number > 0 else None


def _positive(dataset: Dataset, keyword: str, name: str) -> float:
    found = numbers(dataset, keyword, 1)
    if found is None or found[0] <= 0:
        raise _refused(name, f"{keyword} is missing or not above 0")
    return found[0]


def _text(header: Dataset, keyword: str) -> str:
    try:
        return str(header.get(keyword) or "").strip().upper()[:16]
    except VALUE_ERRORS:
        return ""


def _text_of(element: object) -> str:
    value = getattr(element, "value", None)
    return value.decode("ascii", "replace").strip() if isinstance(value, bytes) else str(value or "").strip()


def _refused(name: str, why: str) -> NotAnalysed:
    return refusal(Reason.NO_UPTAKE_VALUE, f"{name}: no standardised uptake value can be computed: {why}")
