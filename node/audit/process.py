"""The trail of one process of the node, with its start and its stop."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine

from node.audit import open_trail
from node.audit.events import application_activity
from node.audit.trail import AnyTrail
from node.settings import Settings
from node.store import catalogue
from node.store.database import read_transaction


@contextmanager
def audited(settings: Settings, engine: Engine, process: str) -> Iterator[AnyTrail]:
    """The trail while the process runs; a process that is killed leaves no stop in it."""
    trail = open_trail(settings, process, _patients(engine, settings.node.data_dir))
    trail.record(application_activity(settings.node.ae_title, process, starts=True))
    try:
        yield trail
    finally:
        trail.record(application_activity(settings.node.ae_title, process, starts=False))


def _patients(engine: Engine, data_dir: Path) -> Callable[[str], str]:
    """Patient ID by Study Instance UID, read from an image of the study; empty when none is here any more."""

    def find(study_instance_uid: str) -> str:
        from pydicom import dcmread

        with read_transaction(engine) as connection:
            found = catalogue.study_series(connection, study_instance_uid)
        paths = [data_dir / one.path for each in found for one in each.instances[:1]]
        for path in paths:
            if path.is_file():
                return str(dcmread(path, specific_tags=["PatientID"]).get("PatientID") or "")
        return ""

    return find
