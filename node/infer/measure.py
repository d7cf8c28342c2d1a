"""Measurements of labels on the images' own voxels, as findings of the Result. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom.sr.coding import Code

from dicom_sr.findings import Finding, Measurement
from node.infer.sections import Label, MeasurementSection

UNITS = {
    "mL": Code("mL", "UCUM", "milliliter"),
    "mm3": Code("mm3", "UCUM", "cubic millimeter"),
    "%": Code("%", "UCUM", "percent"),
    "1": Code("1", "UCUM", "no units"),
}
FACTORS = {"mL": 1.0, "mm3": 1000.0, "%": 100.0, "1": 1.0}


@dataclass(frozen=True)
class Measured:
    """Findings with their measurements, and what could not be measured, in words for the report."""

    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]


def label_volumes_ml(labels: np.ndarray, count: int, voxel_ml: float) -> tuple[float, ...]:
    """Volume of labels 1 to `count` in mL: voxels counted, times the exact volume of one."""
    voxels = np.bincount(labels.ravel(), minlength=count + 1)[1 : count + 1]
    return tuple(float(number) * voxel_ml for number in voxels)


def measure(
    labels: np.ndarray, sections: Sequence[Label], wanted: Sequence[MeasurementSection], voxel_ml: float
) -> Measured:
    """Measure what the manifest asks for.

    Measurements of one label, its ratios to others among them, make one finding that points to its segment,
    where the label is present; a measurement of several labels added up is a finding of its own without a place.
    """
    volumes = dict(
        zip((label.name for label in sections), label_volumes_ml(labels, len(sections), voxel_ml), strict=True)
    )
    remarks = [f"{name}: no voxel found." for name, volume in volumes.items() if volume == 0]
    findings: dict[str, Finding] = {}
    for section in wanted:
        measurement = _measurement(section, volumes)
        if measurement is None:
            name = section.name or section.labels[0]
            remarks.append(f"{name}: no ratio, because the volume of {' + '.join(section.of)} is 0.")
            continue
        finding = _finding(section, sections, volumes)
        kept = findings.get(finding.tracking_identifier, finding)
        findings[finding.tracking_identifier] = replace(kept, measurements=(*kept.measurements, measurement))
    return Measured(tuple(findings.values()), tuple(remarks))


def _measurement(section: MeasurementSection, volumes: dict[str, float]) -> Measurement | None:
    value = sum(volumes[name] for name in section.labels)
    if section.kind == "ratio":
        whole = sum(volumes[name] for name in section.of)
        if whole == 0:
            return None
        value /= whole
    return Measurement(section.concept.code, value * FACTORS[section.unit], UNITS[section.unit])


def _finding(section: MeasurementSection, sections: Sequence[Label], volumes: dict[str, float]) -> Finding:
    names = [label.name for label in sections]
    site = section.finding_site.code if section.finding_site else None
    if len(section.labels) == 1:
        number = names.index(section.labels[0]) + 1
        label = sections[number - 1]
        return Finding(
            finding=section.finding.code if section.finding else label.type.code,
            tracking_identifier=section.name or label.name,
            segment_number=number if volumes[label.name] > 0 else None,
            finding_site=site or (label.region.code if label.region else None),
            laterality=label.laterality.code if label.laterality else None,
        )
    assert section.finding is not None and section.name is not None
    return Finding(finding=section.finding.code, tracking_identifier=section.name, finding_site=site)
