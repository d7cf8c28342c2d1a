"""What models read, as audit messages: one for each analysis that ended."""

from sqlalchemy import Engine

from node.audit.events import instances_used
from node.audit.trail import AnyTrail
from node.jobs.job import Job
from node.store import catalogue
from node.store.database import read_transaction


class UseWitness:
    """Told each inference job that ended, whatever its end."""

    def __init__(self, trail: AnyTrail, engine: Engine, ae_title: str) -> None:
        self._trail = trail
        self._engine = engine
        self._ae_title = ae_title

    def __call__(self, job: Job) -> None:
        uids = [uid for members in (job.inputs or {}).values() for uid in members]
        with read_transaction(self._engine) as connection:
            classes = [one.sop_class_uid for one in catalogue.instances(connection, uids)]
        self._trail.record(instances_used(self._ae_title, str(job.model), job.study_instance_uid, classes))
