"""Which studies are of one patient: told by a keyed hash of Patient ID and its issuer, never by the ID itself.

The key lies in `data_dir/patient.key`, outside the database: whoever has the one without the other cannot try Patient
IDs until a hash fits. A node whose key is lost makes a new one, and knows no earlier studies any more.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, select, update

from node.store.tables import SeriesState, decision, expired_instance, series, study

_FILE = "patient.key"
_KEY_BYTES = 32
MOST_LOOKED_AT = 10


class PatientKeys:
    """Hashes Patient IDs with the key of this node, which is made when it is first wanted.

    Processes that share a `data_dir` share the key.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / _FILE
        self._key = b""
        self._last = ("", "", "")  # images of one patient come one after another

    def key_of(self, patient_id: str, issuer_of_patient_id: str = "") -> str | None:
        """HMAC-SHA256 (hex) of Patient ID (0010,0020) with its issuer (0010,0021); None without an ID."""
        if not patient_id:
            return None
        last_id, last_issuer, made = self._last
        if patient_id == last_id and issuer_of_patient_id == last_issuer:
            return made
        if not self._key:
            self._key = _read_or_make(self._path)
        named = f"{len(issuer_of_patient_id)} {issuer_of_patient_id}{patient_id}"
        made = hmac.new(self._key, named.encode(), hashlib.sha256).hexdigest()
        self._last = (patient_id, issuer_of_patient_id, made)
        return made


@dataclass(frozen=True)
class KnownStudy:
    """What tells how a study lies in time, among those of its patient."""

    study_instance_uid: str
    patient_key: str | None
    study_date_time: str | None


def known_study(connection: Connection, study_instance_uid: str) -> KnownStudy | None:
    """A study, if any image of it ever came."""
    columns = (study.c.study_instance_uid, study.c.patient_key, study.c.study_date_time)
    row = connection.execute(select(*columns).where(study.c.study_instance_uid == study_instance_uid)).one_or_none()
    return KnownStudy(*row) if row else None


def earlier_studies(connection: Connection, one: KnownStudy, limit: int = MOST_LOOKED_AT) -> list[KnownStudy]:
    """Studies of the same patient with an earlier Study Date and Time, the nearest first."""
    if one.patient_key is None or one.study_date_time is None:
        return []
    columns = (study.c.study_instance_uid, study.c.patient_key, study.c.study_date_time)
    rows = connection.execute(
        select(*columns)
        .where(study.c.patient_key == one.patient_key, study.c.study_date_time < one.study_date_time)
        .order_by(study.c.study_date_time.desc(), study.c.study_instance_uid)
        .limit(limit)
    )
    return [KnownStudy(*row) for row in rows]


def reopen_later(connection: Connection, one: KnownStudy, models: Collection[str], now: datetime) -> int:
    """Later studies of the same patient for which one of these models was wanted are weighed again; how many series.

    Those of which images were deleted stay as they are.
    """
    if one.patient_key is None or one.study_date_time is None:
        return 0
    later = select(study.c.study_instance_uid).where(
        study.c.patient_key == one.patient_key, study.c.study_date_time > one.study_date_time
    )
    wanted = select(decision.c.study_instance_uid).where(decision.c.model.in_(models))
    deleted = select(series.c.study_instance_uid).join(expired_instance)
    return connection.execute(
        update(series)
        .where(
            series.c.study_instance_uid.in_(later),
            series.c.study_instance_uid.in_(wanted),
            series.c.study_instance_uid.not_in(deleted),
            series.c.state == SeriesState.SETTLED,
        )
        .values(state=SeriesState.RECEIVING, settle_at=now)
    ).rowcount


def _read_or_make(path: Path) -> bytes:
    """The key; of several processes that make one at once, one succeeds and all read that."""
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    made = path.with_name(f"{_FILE}.{secrets.token_hex(4)}")
    descriptor = os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(_KEY_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with contextlib.suppress(FileExistsError):
        os.link(made, path)
    made.unlink()
    return path.read_bytes()
