"""Retracting at a destination what a later result replaces: a rejection note (IHE IOCM) for what it took before."""

import hashlib
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Connection, Engine, select

from node.deliver.durable import write_whole
from node.deliver.transport import Parcel
from node.errors import Permanent, Transient
from node.store.database import read_transaction
from node.store.deliveries import AcceptedObject, get_delivery
from node.store.results import ResultObject, StoredResult, get_result
from node.store.tables import ResultState, delivery, job, result

FOLDER = "retraction"
ROLE = "rejection"


def with_rejection_note(engine: Engine, parcel: Parcel) -> Parcel:
    """The parcel with a note behind it that retracts the last result that its destination took and that this replaces.

    Where the destination has no earlier result of this model the parcel stays as it is. The note lists what was
    accepted, in whatever form; the same delivery always gives the same note.

    Raises
    ------
    Permanent
        The earlier result cannot be read any more.
    """
    with read_transaction(engine) as connection:
        replaced = _last_taken(connection, parcel)
        if replaced is None:
            return parcel
        earlier, objects = replaced
    note_before = _note_of(parcel.data_dir, earlier, str(parcel.job.destination))
    retracted = [one for one in objects if one.sop_instance_uid != note_before]
    path = parcel.data_dir / parcel.result.folder / FOLDER / f"{parcel.job.destination}.dcm"
    return replace(parcel, further=(_write(parcel, earlier, retracted, path),))


def _last_taken(connection: Connection, parcel: Parcel) -> tuple[StoredResult, tuple[AcceptedObject, ...]] | None:
    """The last result of the same study and model that this destination took, and what it took of it. Last is which
    delivery was wanted last: a retry that succeeds replaces the later revision that said that nothing was analysed.
    """
    job_id = connection.scalar(
        select(job.c.id)
        .join(delivery, delivery.c.job_id == job.c.id)
        .join(result, result.c.id == job.c.result_id)
        .where(
            result.c.study_instance_uid == parcel.result.study_instance_uid,
            result.c.model == parcel.result.model,
            job.c.id < parcel.job.job_id,
            result.c.state == ResultState.SUPERSEDED,
            delivery.c.destination == parcel.job.destination,
        )
        .order_by(job.c.id.desc())
        .limit(1)
    )
    taken = get_delivery(connection, job_id) if job_id is not None else None
    if taken is None or not taken.objects:
        return None
    result_id = connection.execute(select(job.c.result_id).where(job.c.id == taken.job_id)).scalar_one()
    return get_result(connection, result_id), taken.objects


def _note_of(data_dir: Path, earlier: StoredResult, destination: str) -> str | None:
    """SOP Instance UID of the note that was delivered with the earlier result itself: it is not retracted."""
    from pydicom import dcmread

    path = data_dir / earlier.folder / FOLDER / f"{destination}.dcm"
    return str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) if path.exists() else None


def _write(parcel: Parcel, earlier: StoredResult, retracted: list[AcceptedObject], path: Path) -> ResultObject:
    # The libraries of rendering are large, and most deliverers never need them.
    from pydicom import dcmread

    from dicom_sr import archive
    from dicom_sr.errors import ArchiveError, EncodingError
    from dicom_sr.findings import Predecessor
    from dicom_sr.key_objects import Rejection, encode_rejection_note
    from dicom_sr.profile import CONSERVATIVE, Role
    from dicom_sr.render import RenderedObject

    try:
        note = encode_rejection_note(
            archive.load_result(parcel.data_dir / earlier.folder),
            dcmread(parcel.data_dir / earlier.objects[0].path, stop_before_pixels=True),
            [Predecessor(one.series_instance_uid, one.sop_class_uid, one.sop_instance_uid) for one in retracted],
            Rejection.REPLACED,
            parcel.result.created_at,
            replace(CONSERVATIVE, name=str(parcel.job.destination)),
        )
        content = RenderedObject(Role.REJECTION, note).to_bytes()
    except (ArchiveError, EncodingError, OSError) as error:
        raise Permanent(
            f"result {earlier.result_id} cannot be retracted ({type(error).__name__}): restore data_dir, then retry "
            "the job"
        ) from error
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise Transient(f"the retraction of result {earlier.result_id} cannot be written ({error.strerror})") from None
    return ResultObject(
        sop_instance_uid=str(note.SOPInstanceUID),
        sop_class_uid=str(note.SOPClassUID),
        series_instance_uid=str(note.SeriesInstanceUID),
        role=ROLE,
        position=len(parcel.result.objects),
        path=str(path.relative_to(parcel.data_dir)),
        sha256=hashlib.sha256(content).hexdigest(),
    )
