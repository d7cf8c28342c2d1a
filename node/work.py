"""The INFER handler: one job from the queue to a recorded result with its deliveries."""

from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, Engine

from dicom_sr.findings import Predecessor, Refusal
from dicom_sr.profile import CONSERVATIVE, STRUCTURED_REPORTS, Role
from node.errors import NotAnalysed
from node.infer import Model, Registry
from node.infer.analyse import DEGRADED
from node.infer.session import DeviceLost
from node.jobs.completion import complete_inference
from node.jobs.heartbeat import Heartbeat
from node.jobs.job import Job
from node.jobs.queue import another_of_its_study
from node.jobs.worker import Completion
from node.pipeline import Analysis, AnalysisRequest, InputImages, run_analysis, state_refusal
from node.settings import Settings
from node.store import catalogue
from node.store.database import read_transaction
from node.store.embeddings import keep_embeddings
from node.store.results import NewResult, ResultObject, current_result
from node.volume import Decoders, KnownInstance

RESULTS_FOLDER = "results"


class InferHandler:
    """Runs the model of a job on its input set.

    Parameters
    ----------
    engine : Engine
    settings : Settings
    registry : Registry
        Its models stay warm from job to job.
    clock : callable
        The present moment, aware UTC.
    decoders : Decoders, optional
        What decodes compressed images; whoever made it ends it.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        registry: Registry,
        clock: Callable[[], datetime],
        decoders: Decoders | None = None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._registry = registry
        self._clock = clock
        self._decoders = decoders
        self.device_lost = False
        """Whether the GPU failed: this process is to end."""

    def __call__(self, job: Job, heartbeat: Heartbeat) -> Completion:
        """Analyse, write the objects, and return what is to be committed with the end of the job (T4).

        Raises
        ------
        Permanent, Transient
            As `run_analysis`; why a job failed for good is kept with its study (`node.jobs.lease.finish`).
        """
        self._registry.pool.rest()
        model = self._model_of(job)
        request = self._request(job)
        folder = Path(RESULTS_FOLDER) / str(job.job_id)
        data_dir = self._settings.node.data_dir
        if job.refusal_code is not None:
            refusal = Refusal(job.refusal_code, job.refusal_text or "")
            analysis = state_refusal(request, model, refusal, data_dir / folder, CONSERVATIVE)
            return self._completion(_new_result(job, request, analysis, folder), analysis)
        try:
            with self._decoders.keeping(self._is_awaited(job)) if self._decoders else nullcontext():
                analysis = run_analysis(
                    request,
                    model,
                    data_dir / folder,
                    device=self._settings.work.device,
                    threads=self._settings.work.intra_op_threads,
                    profile=CONSERVATIVE,
                    progress=lambda stage, share: heartbeat.check(),
                    decoders=self._decoders,
                )
        except DeviceLost:
            self.device_lost = True
            raise
        return self._completion(_new_result(job, request, analysis, folder), analysis)

    def _is_awaited(self, job: Job) -> bool:
        """Whether another job may want the images of this one, decoded."""
        with read_transaction(self._engine) as connection:
            return another_of_its_study(connection, job)

    def _completion(self, new: NewResult, analysis: Analysis) -> Completion:
        """What is committed with the end of the job."""
        critical = [finding.finding.meaning for finding in analysis.result.findings if finding.is_alarm]

        def complete(connection: Connection, current: Job) -> str | None:
            attempts = self._settings.deliver.maximum_attempts
            recorded = complete_inference(connection, current, new, attempts, self._clock(), critical)
            keep_embeddings(connection, recorded.result_id, new, analysis.embeddings)
            return "; ".join(each for each in analysis.result.remarks if each in DEGRADED) or None

        return complete

    def _model_of(self, job: Job) -> Model:
        model = self._registry.get(str(job.model))
        if model.digest != job.model_digest:
            raise NotAnalysed(
                "model-changed",
                f"job {job.job_id} was made for manifest {str(job.model_digest)[:12]} of model {job.model}, and "
                f"{model.digest[:12]} is installed: `overread decide STUDY_UID` has the new one analyse it",
            )
        return model

    def _request(self, job: Job) -> AnalysisRequest:
        chosen = job.inputs or {}
        with read_transaction(self._engine) as connection:
            stored = catalogue.instances(connection, [uid for members in chosen.values() for uid in members])
            current = current_result(connection, job.study_instance_uid, str(job.model))
        replaced = current.objects if current is not None and current.is_replaced_by(job.revision or 1) else ()
        reports = [each for each in replaced if Role(each.role) in STRUCTURED_REPORTS]
        by_uid = {each.sop_instance_uid: each for each in stored}
        data_dir = self._settings.node.data_dir
        return AnalysisRequest(
            inputs={
                name: InputImages(
                    paths=tuple(data_dir / by_uid[uid].path for uid in members),
                    known=tuple(known_instance(by_uid[uid], data_dir) for uid in members),
                )
                for name, members in chosen.items()
            },
            input_digest=str(job.input_digest),
            revision=job.revision or 1,
            created_at=job.created_at,
            predecessors=tuple(
                Predecessor(each.series_instance_uid, each.sop_class_uid, each.sop_instance_uid) for each in reports
            ),
        )


def known_instance(stored: catalogue.StoredInstance, data_dir: Path) -> KnownInstance:
    """What the catalogue holds of an instance, for loading."""
    return KnownInstance(
        path=data_dir / stored.path,
        sop_instance_uid=stored.sop_instance_uid,
        series_instance_uid=stored.series_instance_uid,
        transfer_syntax_uid=stored.transfer_syntax_uid,
        pixel_offset=stored.pixel_offset,
        pixel_length=stored.pixel_length,
        geometry=stored.geometry,
    )


def _new_result(job: Job, request: AnalysisRequest, analysis: Analysis, folder: Path) -> NewResult:
    return NewResult(
        job_id=job.job_id,
        study_instance_uid=job.study_instance_uid,
        model=str(job.model),
        model_digest=str(job.model_digest),
        revision=request.revision,
        created_at=request.created_at,
        folder=str(folder),
        summary=analysis.summary,
        timings=analysis.timings,
        objects=tuple(
            ResultObject(
                sop_instance_uid=each.sop_instance_uid,
                sop_class_uid=each.sop_class_uid,
                series_instance_uid=each.series_instance_uid,
                role=each.role,
                position=each.position,
                path=str(folder / each.file_name),
                sha256=each.sha256,
            )
            for each in analysis.objects
        ),
    )
