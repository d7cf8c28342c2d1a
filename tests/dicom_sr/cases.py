"""The results that every profile is tried on, each with its source images. All findings are invented.

Small grids keep rendering cheap; what matters is the kind of images and of findings.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date

import numpy as np
from pydicom.dataset import Dataset

from dicom_sr import codes
from dicom_sr.arithmetic import circle
from dicom_sr.findings import (
    Finding,
    Likelihood,
    Measurement,
    PlanarRegion,
    PlanarShape,
    Presence,
    PriorValue,
    Qualifier,
    Result,
    Segment,
    SourceImage,
    SpatialRegion,
    SpatialShape,
)
from tests.dicom_sr.conftest import ALGORITHM, CREATED_AT, EQUIPMENT, LESION, make_findings, make_labels
from tests.dicom_sr.radiographs import radiograph
from tests.phantoms import make_series

CERTAINTY = codes.concept("111012", "DCM", "Certainty of Finding")
CANCER = codes.concept("111047", "DCM", "Probability of cancer")
PNEUMOTHORAX = codes.concept("36118008", "SCT", "Pneumothorax")
NODULE = codes.concept("27925004", "SCT", "Nodule")
DIAMETER = codes.concept("81827009", "SCT", "Diameter")
MARGIN = codes.concept("111037", "DCM", "Margins")
SPICULATED = codes.concept("129742005", "SCT", "Spiculated lesion")
BREAST_COMPOSITION = codes.concept("129715009", "SCT", "Breast composition")
SHAPE, SPACING_MM = (6, 24, 20), (4.0, 1.5, 1.25)


@dataclass(frozen=True, eq=False)
class Case:
    """A Result and the headers of its source images."""

    result: Result
    sources: list[Dataset]


def _result(sources: list[Dataset], **changes: object) -> Result:
    first = sources[0]
    made = Result(
        study_instance_uid=first.StudyInstanceUID,
        series_instance_uid=first.SeriesInstanceUID,
        input_digest="ab" * 32,
        revision=1,
        created_at=CREATED_AT,
        algorithm=ALGORITHM,
        equipment=EQUIPMENT,
        source_images=tuple(
            SourceImage(
                str(each.SOPClassUID),
                str(each.SOPInstanceUID),
                "" if each.SeriesInstanceUID == first.SeriesInstanceUID else str(each.SeriesInstanceUID),
            )
            for each in sources
        ),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def series(modality: str = "CT", shape: tuple[int, int, int] = SHAPE) -> list[Dataset]:
    """An axial series with UIDs of its own, always the same."""
    return make_series(
        shape=shape, spacing_mm=SPACING_MM, modality=modality, study_instance_uid="1.2.3", series_instance_uid="1.2.4"
    )


def volume_ml(mask: np.ndarray) -> Measurement:
    """Volume of a mask on the grid of `series`."""
    return Measurement(codes.VOLUME, float(mask.sum()) * float(np.prod(SPACING_MM)) / 1000, codes.MILLILITER)


def lung_mask() -> Case:
    """A CT with one segment, a lung, and its volume."""
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:5, 4:18, 3:12] = 1
    segment = Segment(1, "Right lung", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (120, 200, 255), None, codes.RIGHT)
    finding = Finding(codes.LUNG, "Right lung", 1, codes.LUNG, codes.RIGHT, (volume_ml(labels == 1),))
    return Case(_result(sources := series(), labels=labels, segments=(segment,), findings=(finding,)), sources)


def seventeen_labels() -> Case:
    """An MR with 17 segments, each a block, with volumes."""
    labels = np.zeros(SHAPE, np.uint8)
    for number in range(1, 18):
        row, column = divmod(number - 1, 4)
        labels[number % 4 : number % 4 + 2, 4 * row : 4 * row + 4, 5 * column : 5 * column + 3 + number % 2] = number
    segments, findings = [], []
    for number in range(1, 18):
        name = f"Region {number}"
        segments.append(
            Segment(number, name, codes.ANATOMICAL_STRUCTURE, codes.BRAIN, (14 * number, 90, 255 - 14 * number))
        )
        findings.append(Finding(codes.BRAIN, name, number, codes.BRAIN, None, (volume_ml(labels == number),)))
    sources = series("MR")
    return Case(_result(sources, labels=labels, segments=tuple(segments), findings=tuple(findings)), sources)


def chest_boxes() -> Case:
    """A radiograph with a box, an outline, a finding that is absent and one that is not certain."""
    sources = [radiograph(modality="DX", study_instance_uid="1.2.3", series_instance_uid="1.2.4")]
    uid = str(sources[0].SOPInstanceUID)
    box = PlanarRegion(uid, PlanarShape.POLYLINE, ((8.0, 6.0), (20.0, 6.0), (20.0, 15.5), (8.0, 15.5), (8.0, 6.0)))
    points = tuple((30 + 6 * x, 22 + 5 * y) for x, y in circle(12)[:-1].tolist())
    outline = PlanarRegion(uid, PlanarShape.POLYLINE, (*points, points[0]))
    line = PlanarRegion(uid, PlanarShape.POLYLINE, ((5.0, 30.0), (25.0, 33.0)))
    lung = codes.LUNG
    findings = (
        Finding(
            NODULE,
            "Nodule 1",
            None,
            lung,
            codes.RIGHT,
            (Measurement(DIAMETER, 9.5, codes.MILLIMETER),),
            likelihood=Likelihood(0.87, CERTAINTY, 0.5),
            regions=(box,),
            qualifiers=(Qualifier(MARGIN, SPICULATED),),
        ),
        Finding(
            codes.concept("46621007", "SCT", "Atelectasis"),
            "Atelectasis 1",
            None,
            lung,
            codes.LEFT,
            presence=Presence.INDETERMINATE,
            likelihood=Likelihood(0.48, CERTAINTY),
            regions=(outline,),
        ),
        Finding(codes.concept("8186001", "SCT", "Cardiomegaly"), "Heart width", None, regions=(line,)),
        Finding(
            PNEUMOTHORAX,
            "Pneumothorax",
            None,
            lung,
            presence=Presence.ABSENT,
            likelihood=Likelihood(0.03, CERTAINTY, 0.5),
        ),
    )
    return Case(_result(sources, findings=findings), sources)


def mammography() -> Case:
    """Four views with invented findings: a mass in both views of one breast, calcifications, breast density."""
    sources = []
    for number, (side, view) in enumerate((("R", "CC"), ("L", "CC"), ("R", "MLO"), ("L", "MLO"))):
        sources.append(
            radiograph(
                modality="MG",
                study_instance_uid="1.2.3",
                series_instance_uid=f"1.2.4.{number}",
                laterality=side,
                view=view,
                uid=f"1.2.5.{number}",
            )
        )
    uids = [str(each.SOPInstanceUID) for each in sources]
    mass = codes.concept("4147007", "SCT", "Mass")
    cluster = codes.concept("129769006", "SCT", "Calcification cluster")
    density = codes.concept("129718006", "SCT", "Heterogeneously dense")

    def ring(uid: str, column: float, row: float) -> PlanarRegion:
        points = tuple((column + 4 * x, row + 4 * y) for x, y in circle(8)[:-1].tolist())
        return PlanarRegion(uid, PlanarShape.POLYLINE, (*points, points[0]))

    findings = (
        Finding(
            mass,
            "Mass 1",
            None,
            None,
            codes.RIGHT,
            (Measurement(DIAMETER, 12.0, codes.MILLIMETER),),
            likelihood=Likelihood(0.71, CANCER, 0.5),
            regions=(ring(uids[0], 20, 18), ring(uids[2], 22, 24)),
            qualifiers=(Qualifier(MARGIN, SPICULATED),),
        ),
        Finding(
            cluster,
            "Calcifications 1",
            None,
            None,
            codes.LEFT,
            likelihood=Likelihood(0.4, CERTAINTY),
            regions=(
                PlanarRegion(
                    uids[3],
                    PlanarShape.POLYLINE,
                    ((10.0, 10.0), (16.0, 10.0), (16.0, 15.0), (10.0, 15.0), (10.0, 10.0)),
                ),
            ),
            measurements=(
                Measurement(codes.concept("111038", "DCM", "Number of calcifications"), 6.0, codes.NO_UNITS),
            ),
        ),
        Finding(BREAST_COMPOSITION, "Breast composition", qualifiers=(Qualifier(BREAST_COMPOSITION, density),)),
    )
    return Case(_result(sources, findings=findings), sources)


def overlap() -> Case:
    """A lesion inside an organ, in two label maps."""
    labels, lesion = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    labels[1:5, 4:18, 3:16] = 1
    lesion[2:4, 8:13, 6:11] = 2
    segments = (
        Segment(1, "Lung", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (120, 200, 255)),
        Segment(2, "Lesion", codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE, LESION, (255, 60, 60), codes.LUNG),
    )
    findings = (
        Finding(codes.LUNG, "Lung", 1, codes.LUNG, None, (volume_ml(labels == 1),)),
        Finding(
            LESION, "Lesion 1", 2, codes.LUNG, None, (volume_ml(lesion == 2),), likelihood=Likelihood(0.9, CERTAINTY)
        ),
    )
    sources = series()
    return Case(
        _result(sources, labels=labels, overlapping_labels=(lesion,), segments=segments, findings=findings), sources
    )


def empty() -> Case:
    """Nothing was found, and no finding says anything."""
    sources = series()
    return Case(_result(sources, labels=np.zeros(SHAPE, np.uint8)), sources)


def follow_up() -> Case:
    """A segment measured again, with what it was in an earlier study, and the images of that study."""
    case = lung_mask()
    finding = case.result.findings[0]
    prior = PriorValue(finding.measurements[0].value * 1.3, date(2023, 11, 2), "1.2.9")
    measured = replace(finding.measurements[0], prior=prior)
    further = (SourceImage("1.2.840.10008.5.1.4.1.1.2", "1.2.9.2.1", "1.2.9.2", study_instance_uid="1.2.9"),)
    changed = replace(case.result, findings=(replace(finding, measurements=(measured,)),), further_images=further)
    return Case(changed, case.sources)


def in_space() -> Case:
    """A CT with findings at points, boxes, ellipsoids and polygons in space, and what the model wrote itself."""
    sources = series()
    frame = str(sources[0].FrameOfReferenceUID)
    x, y, z = (float(value) for value in sources[2].ImagePositionPatient)
    shapes = (
        (SpatialShape.POINT, ((x + 10, y + 12, z),)),
        (
            SpatialShape.BOX,
            ((x + 5, y + 6, z - 4), (x + 12, y + 6, z - 4), (x + 5, y + 15, z - 4), (x + 5, y + 6, z + 4)),
        ),
        (
            SpatialShape.ELLIPSOID,
            (
                (x + 6, y + 12, z),
                (x + 16, y + 12, z),
                (x + 11, y + 9, z),
                (x + 11, y + 15, z),
                (x + 11, y + 12, z - 4),
                (x + 11, y + 12, z + 4),
            ),
        ),
        (
            SpatialShape.POLYGON,
            tuple((x + 11 + 5 * across, y + 14 + 5 * along, z) for across, along in circle(10)[:-1].tolist()),
        ),
    )
    findings = tuple(
        Finding(
            NODULE,
            f"Nodule {number}",
            None,
            codes.LUNG,
            None,
            (Measurement(DIAMETER, 6.0 + number, codes.MILLIMETER),),
            likelihood=Likelihood(0.6, CERTAINTY),
            regions=(SpatialRegion(shape, points, frame),),
            critical=number == 1,
        )
        for number, (shape, points) in enumerate(shapes, 1)
    )
    return Case(_result(sources, findings=findings, text="Four nodules, said the model."), sources)


def brain() -> Case:
    """The phantom of the other tests: oblique MR, three segments of which one has no voxel."""
    sources = make_series(
        shape=(12, 30, 26),
        spacing_mm=(3.0, 1.5, 1.25),
        orientation="oblique",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.4",
    )
    from tests.dicom_sr.conftest import SEGMENTS

    labels = make_labels()
    return Case(_result(sources, labels=labels, segments=SEGMENTS, findings=make_findings(labels)), sources)


CASES: dict[str, Callable[[], Case]] = {
    "lung mask": lung_mask,
    "17 labels": seventeen_labels,
    "chest boxes": chest_boxes,
    "mammography": mammography,
    "overlap": overlap,
    "empty": empty,
    "follow-up": follow_up,
    "in space": in_space,
    "brain": brain,
}
