"""Series for tests of selection, as the catalogue gives them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from node.store.catalogue import StoredInstance, StoredSeries
from node.store.tables import SeriesState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
T1 = {
    "Modality": "MR",
    "SOPClassUID": "1.2.840.10008.5.1.4.1.1.4",
    "SeriesDescription": "T1 MPRAGE sag",
    "BodyPartExamined": "HEAD",
    "ImageType": ["ORIGINAL", "PRIMARY", "M", "NORM"],
    "MRAcquisitionType": "3D",
    "Manufacturer": "SIEMENS",
}


def series(
    uid: str = "1.1",
    *,
    slices: int = 160,
    gap_mm: float = 1.0,
    orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
    received_at: datetime = NOW,
    calling_ae_title: str = "MR1",
    **header: Any,
) -> StoredSeries:
    """A 3D T1 series unless `header` says otherwise; None removes an attribute."""
    wanted = {key: value for key, value in {**T1, **header}.items() if value is not None}
    members = tuple(
        StoredInstance(
            sop_instance_uid=f"{uid}.{number}",
            sop_class_uid=T1["SOPClassUID"],
            series_instance_uid=uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            path=f"{uid}/{number}",
            size_bytes=1,
            digest=f"{number:064x}",
            received_at=received_at,
            geometry={
                "Rows": 256,
                "Columns": 256,
                "PixelSpacing": [0.9, 0.9],
                "ImageOrientationPatient": list(orientation),
                "ImagePositionPatient": [0.0, 0.0, number * gap_mm],
                "SliceThickness": gap_mm,
            },
            pixel_offset=None,
            pixel_length=None,
        )
        for number in range(slices)
    )
    return StoredSeries(
        series_instance_uid=uid,
        study_instance_uid="1",
        state=SeriesState.SETTLED,
        settle_at=received_at,
        last_received_at=received_at,
        calling_ae_title=calling_ae_title,
        called_ae_title="OVERREAD",
        header=wanted,
        instances=members,
    )
