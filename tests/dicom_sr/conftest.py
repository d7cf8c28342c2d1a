"""A Result on a phantom: two segments with voxels, one without, and numbers measured on the same voxels."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from dicom_sr import codes
from dicom_sr.findings import (
    Algorithm,
    Equipment,
    Finding,
    Measurement,
    Result,
    Segment,
    SourceImage,
)
from tests.phantoms import ellipsoid, make_series

SHAPE, SPACING_MM = (12, 30, 26), (3.0, 1.5, 1.25)
VOXEL_ML = float(np.prod(SPACING_MM)) / 1000
LESION = codes.concept("52988006", "SCT", "Lesion")

ALGORITHM = Algorithm(
    name="Brain and ventricles",
    version="1.2.0",
    manufacturer="Overread",
    identifier="brain-ventricles",
    digest="0123456789abcdef" * 4,
    family=codes.ARTIFICIAL_INTELLIGENCE,
    intended_use="Volumes in T1 MR of the head.",
    parameters=(("execution provider", "CPUExecutionProvider"),),
)
EQUIPMENT = Equipment("Overread", "Overread AI node", ("0.1.0",), "node-1")
SEGMENTS = (
    Segment(2, "Brain", codes.ANATOMICAL_STRUCTURE, codes.BRAIN, (230, 150, 120)),
    Segment(3, "Lesion", codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE, LESION, (255, 0, 0), anatomic_region=codes.BRAIN),
    Segment(7, "Left ventricle", codes.ANATOMICAL_STRUCTURE, codes.BRAIN_VENTRICLE, (70, 130, 255), None, codes.LEFT),
)
CREATED_AT = datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=UTC)


def make_labels() -> np.ndarray:
    """uint8 (slice, row, column): a ball of label 2 with a block of label 7 in it; label 3 nowhere."""
    labels = np.where(ellipsoid(SHAPE, SPACING_MM, 11.0), 2, 0).astype(np.uint8)
    labels[5:8, 12:16, 14:18] = 7
    return labels


def make_findings(labels: np.ndarray) -> tuple[Finding, ...]:
    """One finding a segment: its volume, and for the ventricle its share."""
    findings = []
    for segment in SEGMENTS:
        volume = Measurement(codes.VOLUME, float((labels == segment.number).sum()) * VOXEL_ML, codes.MILLILITER)
        share = Measurement(codes.RATIO, 4.25, codes.PERCENT)
        findings.append(
            Finding(
                finding=segment.type,
                tracking_identifier=f"{segment.label} 1",
                segment_number=segment.number,
                finding_site=segment.type,
                laterality=segment.laterality,
                measurements=(volume, share) if segment.number == 7 else (volume,),
            )
        )
    return tuple(findings)


@pytest.fixture
def sources() -> list[Dataset]:
    """Twelve MR images, obliquely oriented."""
    return make_series(
        shape=SHAPE,
        spacing_mm=SPACING_MM,
        orientation="oblique",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.4",
    )


@pytest.fixture
def make_result() -> Callable[..., Result]:
    """`make_result(sources, **changes)`: the Result of these sources, with other fields where given."""

    def make(sources: list[Dataset], **changes: Any) -> Result:
        labels = changes.pop("labels", make_labels())
        result = Result(
            study_instance_uid=sources[0].StudyInstanceUID,
            series_instance_uid=sources[0].SeriesInstanceUID,
            input_digest="ab" * 32,
            revision=1,
            created_at=CREATED_AT,
            algorithm=ALGORITHM,
            equipment=EQUIPMENT,
            source_images=tuple(SourceImage(str(i.SOPClassUID), str(i.SOPInstanceUID)) for i in sources),
            labels=labels,
            segments=SEGMENTS,
            findings=make_findings(labels),
            remarks=("Ran on the CPU.",),
        )
        return replace(result, **changes)

    return make


@pytest.fixture
def result(sources: list[Dataset], make_result: Callable[..., Result]) -> Result:
    return make_result(sources)


@pytest.fixture
def empty_result(sources: list[Dataset], make_result: Callable[..., Result]) -> Result:
    """Nothing was found anywhere; the findings say so with volumes of 0."""
    return make_result(sources, labels=np.zeros(SHAPE, np.uint8))
