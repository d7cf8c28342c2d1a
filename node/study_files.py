"""Studies lying in files: read as if they had just been received, for `overread process` and `overread explain
PATH`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from node.errors import OverreadError
from node.receive.header import InstanceHeader, read_header
from node.select.candidates import Priors, PriorStudy
from node.store.catalogue import StoredInstance, StoredSeries
from node.store.digests import file_digest
from node.store.tables import SeriesState


@dataclass(frozen=True)
class StudyFiles:
    """The series found, by study, and the files that could not be used with the reason.

    `patients` and `times` tell which studies are of one patient, and which is the earlier one.
    """

    studies: dict[str, tuple[StoredSeries, ...]]
    skipped: tuple[tuple[Path, str], ...]
    patients: dict[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    times: dict[str, str] = field(default_factory=dict)

    def priors_of(self, study_instance_uid: str) -> Priors:
        """The earlier studies of the same patient among the files, the nearest first."""
        patient, time = self.patients.get(study_instance_uid, ("", "")), self.times.get(study_instance_uid, "")
        if not patient[0] or not time:
            return Priors(none_because="the files carry no Patient ID or no Study Date")
        earlier = [uid for uid, at in self.times.items() if at and at < time and self.patients[uid] == patient]
        earlier.sort(key=lambda uid: self.times[uid], reverse=True)
        return Priors(tuple(PriorStudy(uid, self.times[uid], self.studies[uid]) for uid in earlier))


def read_study_files(paths: Sequence[Path], calling_ae_title: str = "", called_ae_title: str = "") -> StudyFiles:
    """Read the headers of files and of all files below folders; the same SOP instance twice counts once."""
    instances: dict[str, tuple[InstanceHeader, StoredInstance]] = {}
    skipped: list[tuple[Path, str]] = []
    for path in walk_files(paths):
        try:
            header = read_header(path)
        except (OverreadError, OSError) as error:
            skipped.append((path, str(error) if isinstance(error, OverreadError) else "cannot be read"))
            continue
        missing = [
            keyword
            for keyword, uid in (
                ("SOPInstanceUID", header.sop_instance_uid),
                ("SeriesInstanceUID", header.series_instance_uid),
                ("StudyInstanceUID", header.study_instance_uid),
            )
            if not uid
        ]
        if missing:
            skipped.append((path, f"{' and '.join(missing)} missing or empty"))
        else:
            instances.setdefault(header.sop_instance_uid, (header, _stored(path, header)))
    headers = {header.study_instance_uid: header for header, _ in instances.values()}
    return StudyFiles(
        studies=_group(instances.values(), calling_ae_title, called_ae_title),
        skipped=tuple(skipped),
        patients={uid: (each.patient_id, each.issuer_of_patient_id) for uid, each in headers.items()},
        times={uid: each.study_date_time for uid, each in headers.items()},
    )


def walk_files(paths: Iterable[Path]) -> Iterator[Path]:
    """Files given, and all regular files below folders given, in the order of their names."""
    for path in paths:
        if path.is_dir():
            yield from (each for each in sorted(path.rglob("*")) if each.is_file() and not each.name.startswith("."))
        else:
            yield path


def _stored(path: Path, header: InstanceHeader) -> StoredInstance:
    return StoredInstance(
        sop_instance_uid=header.sop_instance_uid,
        sop_class_uid=header.sop_class_uid,
        series_instance_uid=header.series_instance_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        path=str(path),
        size_bytes=path.stat().st_size,
        digest=file_digest(path),
        received_at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        geometry=header.geometry,
        pixel_offset=header.pixel_offset,
        pixel_length=header.pixel_length,
    )


def _group(
    instances: Iterable[tuple[InstanceHeader, StoredInstance]], calling_ae_title: str, called_ae_title: str
) -> dict[str, tuple[StoredSeries, ...]]:
    members: dict[tuple[str, str], list[tuple[InstanceHeader, StoredInstance]]] = {}
    for header, stored in instances:
        members.setdefault((header.study_instance_uid, header.series_instance_uid), []).append((header, stored))
    studies: dict[str, list[StoredSeries]] = {}
    for (study_uid, series_uid), group in sorted(members.items()):
        latest = max(stored.received_at for _, stored in group)
        studies.setdefault(study_uid, []).append(
            StoredSeries(
                series_instance_uid=series_uid,
                study_instance_uid=study_uid,
                state=SeriesState.SETTLED,
                settle_at=latest,
                last_received_at=latest,
                calling_ae_title=calling_ae_title,
                called_ae_title=called_ae_title,
                header=group[0][0].series_header,
                instances=tuple(stored for _, stored in group),
            )
        )
    return {study_uid: tuple(series) for study_uid, series in studies.items()}
