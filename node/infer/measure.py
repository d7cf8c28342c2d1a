"""Measurements of labels on the images' own voxels, as findings of the Result. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom.sr.coding import Code

from dicom_sr.findings import Finding, Measurement, Presence
from node.infer.output_sections import Label, MeasurementSection

UNITS = {
    "mL": Code("mL", "UCUM", "milliliter"),
    "mm3": Code("mm3", "UCUM", "cubic millimeter"),
    "mm2": Code("mm2", "UCUM", "square millimeter"),
    "cm2": Code("cm2", "UCUM", "square centimeter"),
    "%": Code("%", "UCUM", "percent"),
    "1": Code("1", "UCUM", "no units"),
}
FACTORS = {"mL": 1.0, "mm3": 1000.0, "mm2": 1.0, "cm2": 0.01, "%": 100.0, "1": 1.0}
CONCEPTS = {"volume": Code("118565006", "SCT", "Volume"), "area": Code("42798000", "SCT", "Area")}


@dataclass(frozen=True)
class Measured:
    """Findings with their measurements, and what could not be measured, in words for the report."""

    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Extent:
    """Voxels of a label, and how many of the mean size they amount to: not the same where slices are uneven."""

    voxels: int
    mean_voxels: float


def count_voxels(
    label_maps: Sequence[np.ndarray], highest: int, thicknesses: Sequence[float] | None = None
) -> tuple[Extent, ...]:
    """Extents of labels 1 to `highest` in all maps together.

    Parameters
    ----------
    label_maps : sequence of ndarray, shape (slice, row, column)
    highest : int
    thicknesses : sequence of float, optional
        Of each slice, as a multiple of the mean (`Grid.thicknesses`); None where all are alike.
    """
    shares = np.ones(len(label_maps[0]) if label_maps else 0) if thicknesses is None else np.array(thicknesses)
    counts = np.zeros(highest + 1, np.int64)
    amounts = np.zeros(highest + 1)
    for labels in label_maps:
        for plane, share in zip(labels, shares, strict=True):  # by plane: bincount makes an int64 copy
            if plane.any():
                found = np.bincount(plane.ravel(), minlength=highest + 1)
                counts += found
                amounts += found * share
    return tuple(Extent(int(count), float(amount)) for count, amount in zip(counts[1:], amounts[1:], strict=True))


def measure(
    extents: Mapping[int, Extent],
    sections: Mapping[int, Label],
    wanted: Sequence[MeasurementSection],
    voxel_size: float | None,
) -> Measured:
    """Measure what the manifest asks for.

    Measurements of one label, its ratios to others among them, make one finding that points to its segment,
    where the label is present; a measurement of several labels added up is a finding of its own without a place. What
    has no voxel is absent, unless `present_above` says otherwise.

    Parameters
    ----------
    extents : mapping of int to Extent
        Of each segment, by number.
    sections : mapping of int to Label
        The labels, by segment number.
    voxel_size : float, optional
        mL of a voxel of the mean size, or mm2 of a pixel; None where the size of pixels is not known.
    """
    found = {sections[number].name: extent for number, extent in extents.items()}
    voxels = {name: extent.voxels for name, extent in found.items()}
    empty = ", ".join(name for name, count in voxels.items() if count == 0)
    remarks = [f"{empty}: no voxel found."] if empty else []
    findings: dict[str, Finding] = {}
    for section in wanted:
        name = section.name or section.labels[0]
        value = _value(section, found, voxel_size)
        if isinstance(value, str):
            remarks.append(f"{name}: {value}")
            continue
        finding = _finding(section, sections, voxels)
        kept = findings.get(finding.tracking_identifier, finding)
        presence = kept.presence
        if section.present_above is not None:
            presence = Presence.PRESENT if value.value > section.present_above else Presence.ABSENT
        findings[finding.tracking_identifier] = replace(
            kept,
            measurements=(*kept.measurements, value),
            presence=presence,
            critical=kept.critical or section.critical,
        )
    return Measured(tuple(findings.values()), tuple(remarks))


def _value(section: MeasurementSection, found: Mapping[str, Extent], voxel_size: float | None) -> Measurement | str:
    """The measurement, or why there is none."""
    size = 1.0 if section.kind == "ratio" else voxel_size
    if size is None:
        return "no area, because the size of the pixels is not known."
    value = sum(found[name].mean_voxels for name in section.labels) * size
    if section.kind == "ratio":
        whole = sum(found[name].mean_voxels for name in section.of)
        if whole == 0:
            return f"no ratio, because the volume of {' + '.join(section.of)} is 0."
        value /= whole
    unit = section.unit or ("mL" if section.kind == "volume" else "mm2")
    concept = section.concept.code if section.concept else CONCEPTS[section.kind]
    return Measurement(concept, value * FACTORS[unit], UNITS[unit])


def _finding(section: MeasurementSection, sections: Mapping[int, Label], voxels: Mapping[str, int]) -> Finding:
    site = section.finding_site.code if section.finding_site else None
    presence = Presence.PRESENT if any(voxels[name] for name in section.labels) else Presence.ABSENT
    if len(section.labels) == 1:
        number, label = next((n, each) for n, each in sections.items() if each.name == section.labels[0])
        return Finding(
            finding=section.finding.code if section.finding else label.type.code,
            tracking_identifier=section.name or label.name,
            segment_number=number if voxels[label.name] > 0 else None,
            finding_site=site or (label.region.code if label.region else None),
            laterality=label.laterality.code if label.laterality else None,
            presence=presence,
        )
    assert section.finding is not None and section.name is not None
    return Finding(finding=section.finding.code, tracking_identifier=section.name, finding_site=site, presence=presence)
