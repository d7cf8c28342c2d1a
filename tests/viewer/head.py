"""The bundled brain MR with a Result as a model would make it: two segments and what was measured in them. The shapes
are painted, not found by anything.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_sr import codes
from dicom_sr.findings import Finding, Likelihood, Measurement, Result, Segment, SourceImage
from tests.dicom_sr.cases import CERTAINTY, Case
from tests.dicom_sr.conftest import ALGORITHM, CREATED_AT, EQUIPMENT, LESION

SERIES = Path(__file__).parents[2] / "config" / "demo" / "mni152-t1"


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """Boolean (slice, row, column): an ellipsoid, in voxels."""
    axes = np.ogrid[tuple(slice(0, size) for size in shape)]
    return np.asarray(sum(((axis - at) / of) ** 2 for axis, at, of in zip(axes, centre, radii, strict=True)) <= 1)


def images(first: int, count: int) -> list[Dataset]:
    """Neighbouring slices of the series, from below."""
    files = sorted(SERIES.glob("*.dcm"))[first : first + count]
    return [dcmread(file) for file in files]


def painted_head(first: int = 60, count: int = 20) -> Case:
    """A large and a small segment with their volumes, and a likelihood of the small one."""
    sources = images(first, count)
    start = sources[0]
    shape = (count, int(start.Rows), int(start.Columns))
    labels = ball(shape, (count / 2, 100, 76), (count / 2.2, 60, 45)).astype(np.uint8)
    labels[ball(shape, (count / 2 + 2, 80, 55), (4, 9, 7))] = 2
    segments = (
        Segment(1, "Brain", codes.ANATOMICAL_STRUCTURE, codes.BRAIN, (230, 150, 120)),
        Segment(2, "Lesion", codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE, LESION, (255, 40, 40), codes.BRAIN),
    )
    volumes = [Measurement(codes.VOLUME, float((labels == number).sum()) / 1000, codes.MILLILITER) for number in (1, 2)]
    brain = Finding(codes.BRAIN, "Brain", 1, codes.BRAIN, None, (volumes[0],))
    lesion = Finding(LESION, "Lesion 1", 2, codes.BRAIN, None, (volumes[1],), likelihood=Likelihood(0.9, CERTAINTY))
    result = Result(
        study_instance_uid=start.StudyInstanceUID,
        series_instance_uid=start.SeriesInstanceUID,
        input_digest="ab" * 32,
        revision=1,
        created_at=CREATED_AT,
        algorithm=replace(ALGORITHM, name="Painted shapes", identifier="painted"),
        equipment=EQUIPMENT,
        source_images=tuple(SourceImage(str(each.SOPClassUID), str(each.SOPInstanceUID)) for each in sources),
        labels=labels,
        segments=segments,
        findings=(brain, lesion),
    )
    return Case(result, sources)
