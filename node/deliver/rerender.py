"""A result written again for another profile, from what is on disk: the Result and its source images."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, func, select

from dicom_sr.profile import CONSERVATIVE, STRUCTURED_REPORTS, DestinationProfile, Role
from node.deliver.durable import whole_folder
from node.deliver.transport import Parcel
from node.errors import Permanent, Transient
from node.jobs.queue import get_job
from node.store import catalogue
from node.store.database import read_transaction
from node.store.deliveries import AcceptedObject, Delivery
from node.store.result_expiry import FORM_INDEX
from node.store.results import ResultObject, get_result
from node.store.tables import ResultState, delivery, job
from node.store.tables import result as results

LARGEST_HEADER_VALUE = 1 << 16
"""Bytes of an element that is read when it is looked at, and not before."""

if TYPE_CHECKING:
    from dicom_sr.render import RenderedObject


def objects_in_profile(engine: Engine, parcel: Parcel, profile: DestinationProfile) -> Sequence[ResultObject]:
    """The objects of a result for this profile, in the order of delivery.

    Those of the conservative profile are on disk since inference; others are written beside them when first wanted. The
    same result and profile give the same objects with the same UIDs.

    Raises
    ------
    Permanent
        The result or its source images are not on disk any more, or the objects do not pass the conformance gate.
    Transient
        There is no room to write them.
    """
    if profile == CONSERVATIVE:
        return parcel.result.objects
    folder = parcel.data_dir / parcel.result.folder / profile.name
    if not (folder / FORM_INDEX).exists():
        _write(engine, parcel, profile, folder)
    return _listed(folder)


def _write(engine: Engine, parcel: Parcel, profile: DestinationProfile, folder: Path) -> None:
    """Render into a folder of another name first: the folder is there complete or not at all."""
    # The libraries of rendering are large, and most deliverers never need them.
    from pydicom import dcmread

    from dicom_sr import archive, conformance
    from dicom_sr.errors import ArchiveError, EncodingError
    from dicom_sr.findings import Predecessor
    from dicom_sr.render import file_names, render

    try:
        result = archive.load_result(parcel.data_dir / parcel.result.folder)
        uids = list(dict.fromkeys(image.sop_instance_uid for image in result.source_images))
        with read_transaction(engine) as connection:
            stored = catalogue.instances(connection, uids)
            reports = _reports_before(connection, parcel, profile) if result.predecessors else []
        paths = [parcel.data_dir / one.path for one in stored]
        sources = [  # pixels are read when one is shown
            dcmread(path, stop_before_pixels=not profile.needs_pixels, defer_size=LARGEST_HEADER_VALUE)
            for path in paths
        ]
        predecessors = [
            Predecessor(one.series_instance_uid, one.sop_class_uid, one.sop_instance_uid) for one in reports
        ]
        result = replace(result, predecessors=tuple(predecessors))
        rendered = render(result, sources, profile)
    except (ArchiveError, EncodingError, OSError) as error:
        raise Permanent(
            f"result {parcel.result.result_id} cannot be written as {profile.name} ({type(error).__name__}): restore "
            "data_dir, then retry the job"
        ) from error
    problems = conformance.check([each.dataset for each in rendered], sources, result=result, profile=profile)
    if problems:
        raise Permanent(f"result {parcel.result.result_id} as {profile.name} does not pass the conformance gate")
    try:
        with whole_folder(folder) as staging:
            listed = [
                _put(each, staging / name, position, str((folder / name).relative_to(parcel.data_dir)))
                for position, (each, name) in enumerate(zip(rendered, file_names(rendered), strict=True))
            ]
            (staging / FORM_INDEX).write_text(json.dumps([vars(one) for one in listed]), encoding="utf-8")
    except OSError as error:
        if not (folder / FORM_INDEX).exists():  # another thread may have been faster, with the same bytes
            raise Transient(
                f"result {parcel.result.result_id} cannot be kept as {profile.name} ({error.strerror}): has data_dir "
                "room, and may this node write there?"
            ) from None


def _put(rendered: "RenderedObject", path: Path, position: int, final_path: str) -> ResultObject:
    """Write one object of a form; its row."""
    content = rendered.to_bytes()
    path.write_bytes(content)
    return ResultObject(
        sop_instance_uid=str(rendered.dataset.SOPInstanceUID),
        sop_class_uid=str(rendered.dataset.SOPClassUID),
        series_instance_uid=str(rendered.dataset.SeriesInstanceUID),
        role=rendered.role.value,
        position=position,
        path=final_path,
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _reports_before(connection: Connection, parcel: Parcel, profile: DestinationProfile) -> list[ResultObject]:
    """The reports that this one replaces where it goes: those of the last earlier result that was taken in the same
    form. The Result itself names them as the conservative profile has them, which this destination was never sent.
    """
    earlier = connection.scalars(
        select(results.c.id)
        .join(job, job.c.result_id == results.c.id)
        .where(
            results.c.study_instance_uid == parcel.result.study_instance_uid,
            results.c.model == parcel.result.model,
            job.c.id < parcel.job.job_id,
            results.c.state == ResultState.SUPERSEDED,
        )
        .group_by(results.c.id)
        .order_by(func.max(job.c.id).desc())
    ).all()
    for result_id in earlier:
        taken = _taken(connection, result_id)
        form = _listed(parcel.data_dir / get_result(connection, result_id).folder / profile.name)
        reports = [one for one in form if Role(one.role) in STRUCTURED_REPORTS and one.sop_instance_uid in taken]
        if reports:
            return reports
    return []


def _taken(connection: Connection, result_id: int) -> set[str]:
    """SOP Instance UIDs of what any destination accepted of a result."""
    accepted = select(delivery.c.objects).join(job, job.c.id == delivery.c.job_id).where(job.c.result_id == result_id)
    return {one["sop_instance_uid"] for objects in connection.scalars(accepted) for one in objects}


def _listed(folder: Path) -> list[ResultObject]:
    """The objects of a form that was written; none where it never was."""
    if not (folder / FORM_INDEX).exists():
        return []
    return [ResultObject(**one) for one in json.loads((folder / FORM_INDEX).read_text(encoding="utf-8"))]


def sent_files(engine: Engine, data_dir: Path, delivery: Delivery) -> list[tuple[AcceptedObject, Path]]:
    """What a destination accepted in a delivery, with the files that it was sent, in whatever form."""
    with read_transaction(engine) as connection:
        result = get_result(connection, get_job(connection, delivery.job_id).result_id or 0)
    listed = [*result.objects]
    for index in sorted((data_dir / result.folder).glob(f"*/{FORM_INDEX}")):
        listed += [ResultObject(**one) for one in json.loads(index.read_text(encoding="utf-8"))]
    paths = {one.sop_instance_uid: data_dir / one.path for one in listed}
    return [(one, paths[one.sop_instance_uid]) for one in delivery.objects if one.sop_instance_uid in paths]
