"""A result written again in another form, from what is on disk: the Result and the headers of its source images."""

import hashlib
import json
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Engine

from node.deliver.fallback import Form
from node.deliver.transport import Parcel
from node.errors import Permanent
from node.store import catalogue
from node.store.database import read_transaction
from node.store.results import ResultObject

_INDEX = "objects.json"


def objects_in_form(engine: Engine, parcel: Parcel, form: Form) -> list[ResultObject]:
    """The objects of a result in this form, in the order of delivery; written beside the usual ones when first wanted.

    The same result and form give the same objects with the same UIDs.

    Raises
    ------
    Permanent
        The result or its source images are not on disk any more, or the form does not pass the conformance gate.
    """
    folder = parcel.data_dir / parcel.result.folder / form.name
    if not (folder / _INDEX).exists():
        _write(engine, parcel, form, folder)
    listed = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    return [ResultObject(**one) for one in listed]


def _write(engine: Engine, parcel: Parcel, form: Form, folder: Path) -> None:
    """Render into a folder of another name first: the folder is there complete or not at all."""
    # The libraries of rendering are large, and most deliverers never need them.
    from pydicom import dcmread

    from dicom_sr import archive, conformance
    from dicom_sr.errors import ArchiveError, EncodingError
    from dicom_sr.profile import CONSERVATIVE, ReportClass, Role
    from dicom_sr.render import render

    try:
        result = archive.load_result(parcel.data_dir / parcel.result.folder)
        with read_transaction(engine) as connection:
            stored = catalogue.instances(connection, [image.sop_instance_uid for image in result.source_images])
        sources = [dcmread(parcel.data_dir / one.path, stop_before_pixels=True) for one in stored]
        roles = tuple(role for role in CONSERVATIVE.roles if form.with_segmentation or role is not Role.SEGMENTATION)
        profile = replace(CONSERVATIVE, name=form.name, roles=roles, report_class=ReportClass(form.report))
        rendered = render(result, sources, profile)
    except (ArchiveError, EncodingError, OSError) as error:
        raise Permanent(
            f"result {parcel.result.result_id} cannot be written as {form.name} ({type(error).__name__}): restore "
            "data_dir, then retry the job"
        ) from error
    problems = conformance.check([each.dataset for each in rendered], sources)
    if problems:
        raise Permanent(f"result {parcel.result.result_id} as {form.name} does not pass the conformance gate")
    staging = folder.with_name(f"{folder.name}.{os.getpid()}.{threading.get_ident()}.part")
    staging.mkdir(parents=True)
    listed = []
    for position, each in enumerate(rendered):
        content = each.to_bytes()
        path = folder / f"{each.role.value}.dcm"
        (staging / path.name).write_bytes(content)
        listed.append(
            ResultObject(
                sop_instance_uid=str(each.dataset.SOPInstanceUID),
                sop_class_uid=str(each.dataset.SOPClassUID),
                series_instance_uid=str(each.dataset.SeriesInstanceUID),
                role=each.role.value,
                position=position,
                path=str(path.relative_to(parcel.data_dir)),
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )
    (staging / _INDEX).write_text(json.dumps([vars(one) for one in listed]), encoding="utf-8")
    try:
        staging.rename(folder)
    except OSError:  # another thread was faster, with the same bytes
        shutil.rmtree(staging, ignore_errors=True)
