"""The requests themselves: `POST /process`, `GET /status`, `GET /process/{id}/objects/{uid}` (docs/platforms.md)."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import Connection, Engine
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from node.adapters.process.asked import LONGEST_BYTES, Asked, read_asked
from node.adapters.process.callback import object_links
from node.adapters.process.fetcher import Fetcher
from node.adapters.process.standing import Facts, judge, read_facts
from node.destination_settings import CallbackDestination
from node.jobs import queue
from node.jobs.history import job_counts
from node.jobs.job import Job
from node.logs import get_logger
from node.settings import Settings
from node.store.database import read_transaction, write_transaction
from node.store.requests import ProcessRequest, ask, count_fetching, get_request
from node.store.results import StoredResult
from node.store.tables import JobKind, JobState
from node.web.body import ClientLost
from node.web.media import parse_media_type
from node.web.reception import RequestRefused
from node.web.store_response import Outcome
from node.web.stow import StowService, address_of, error_response

_ENDED = (JobState.SUCCEEDED, JobState.FAILED)
_CALLBACK = {
    JobState.QUEUED: "waiting",
    JobState.RUNNING: "waiting",
    JobState.SUCCEEDED: "acknowledged",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


class DeskWitness(Protocol):
    """Told once something is over; it must not raise."""

    def fetched(self, ae_title: str, address: str, study_instance_uid: str, sop_class_uid: str) -> None:
        """A client fetches an object of a result."""

    def turned_away(self, ae_title: str, address: str, reason: str) -> None:
        """A client may not ask."""


class ProcessDesk:
    """A guest of the HTTP server.

    Parameters
    ----------
    stow : StowService
        Says who asks, and takes objects.
    wake : callable
        Wakes the lanes of the outbox.
    witness : DeskWitness
        The audit trail.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        stow: StowService,
        fetcher: Fetcher,
        now: Callable[[], datetime],
        wake: Callable[[], object],
        witness: DeskWitness,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._stow = stow
        self._fetcher = fetcher
        self._now = now
        self._wake = wake
        self._witness = witness

    def routes(self) -> Sequence[Route]:
        """What the HTTP server serves of it."""
        return [
            Route("/process", self._process, methods=["POST"]),
            Route("/status", self._status, methods=["GET"]),
            Route("/process/{request}/objects/{uid}", self._object, methods=["GET"]),
        ]

    def start(self) -> None:
        """Begin to bring what was asked for."""
        self._fetcher.start()

    def stop(self) -> None:
        """Bring nothing more."""
        self._fetcher.stop()

    async def _process(self, request: Request) -> Response:
        """A study: its DICOM files as in STOW-RS, or JSON that names it."""
        kind = parse_media_type(request.headers.get("content-type", ""))
        if kind is not None and kind.name == "multipart/related":
            return await self._take_files(request)
        body = self._stow.body_of(request)
        try:
            client = await self._identify(request)
            if kind is None or kind.name != "application/json":
                raise RequestRefused(
                    415, "media-type", "the Content-Type is neither application/json nor multipart/related"
                )
            content = b""
            while not body.is_complete:
                content += await body.next()
                if len(content) > LONGEST_BYTES:
                    raise RequestRefused(413, "too-long", f"the JSON is longer than {LONGEST_BYTES} bytes")
            asked = read_asked(content, self._settings.process)
            return await asyncio.to_thread(self._accept, client, asked)
        except RequestRefused as refusal:
            await body.drain()
            return _refused(refusal)
        except ClientLost as error:
            return _refused(RequestRefused(400, "client-lost", str(error)))

    async def _take_files(self, request: Request) -> Response:
        try:
            await self._identify(request)
        except RequestRefused as refusal:
            await self._stow.body_of(request).drain()
            return _refused(refusal)
        return await self._stow.take(request, self._accept_files)

    async def _accept_files(self, client: str, status: int, outcomes: Sequence[Outcome]) -> Response:
        """The answer once the objects of a body are durable."""
        stored = sum(1 for one in outcomes if not one.status)
        studies = {one.study_instance_uid for one in outcomes if not one.status}
        if status != 200:
            codes = ", ".join(sorted({one.code for one in outcomes if one.status}))
            refusal = RequestRefused(
                409 if status == 202 else status, "not-all-stored", f"objects were not taken ({codes}): nothing begins"
            )
            return error_response(refusal, stored)
        if len(studies) != 1:
            refusal = RequestRefused(400, "several-studies", f"the objects are of {len(studies)} studies: send one")
            return error_response(refusal, stored)
        return await asyncio.to_thread(self._accept, client, Asked(studies.pop()))

    def _accept(self, client: str, asked: Asked) -> Response:
        """Note the request; what has a result already is told again."""
        now = self._now()
        with write_transaction(self._engine) as connection:
            if asked.source and count_fetching(connection) >= self._settings.process.maximum_fetching:
                return _refused(RequestRefused(503, "too-many-requests", "too many studies wait to be brought"))
            request = ask(connection, client, asked.study_instance_uid, asked.source, now)
            again = self._tell_again(connection, request, now)
            answer = self._describe(connection, request, now)
        if asked.source:
            self._fetcher.wake()
        if again:
            self._wake()
        get_logger("web").info(
            "processing_asked", client=client, study=asked.study_instance_uid, request=request.request_id,
            source=asked.source, told_again=again,
        )  # fmt: skip
        return JSONResponse(answer, 202, {"Location": f"/status?id={request.request_id}"})

    def _tell_again(self, connection: Connection, request: ProcessRequest, now: datetime) -> int:
        """Send the callbacks of results that hold, and were sent or given up, once more; how many."""
        facts = read_facts(connection, request.study_instance_uid)
        names = self._callbacks(request.client)
        kept = {one.result_id for one in facts.results if one.expired_at is None}
        ended = [
            job
            for job in facts.deliveries
            if job.destination in names and job.result_id in kept and job.state in _ENDED
        ]
        for job in ended:
            queue.requeue(connection, job.job_id, now)
        return len(ended)

    async def _status(self, request: Request) -> Response:
        """How a request stands; without `id` whether the node works."""
        try:
            client = await self._identify(request)
            return await asyncio.to_thread(self._stand, client, request.query_params.get("id"))
        except RequestRefused as refusal:
            return _refused(refusal)

    def _stand(self, client: str, request_id: str | None) -> Response:
        with read_transaction(self._engine) as connection:
            if request_id is None:
                counts = job_counts(connection)
                waiting = {state: counts[JobKind.INFER, state] for state in (JobState.QUEUED, JobState.RUNNING)}
                return JSONResponse({"status": "ready", **{state.lower(): n for state, n in waiting.items()}})
            return JSONResponse(self._describe(connection, _own(connection, client, request_id), self._now()))

    def _describe(self, connection: Connection, request: ProcessRequest, now: datetime) -> dict[str, Any]:
        """A request in JSON."""
        facts = read_facts(connection, request.study_instance_uid)
        standing = judge(request, facts, now, self._settings.process.image_wait_minutes)
        return {
            "id": request.request_id,
            "study_instance_uid": request.study_instance_uid,
            "status": standing.progress,
            "reasons": list(standing.reasons),
            "asked_at": request.asked_at.isoformat(),
            "results": [self._result(request, facts, one) for one in facts.results],
        }

    def _result(self, request: ProcessRequest, facts: Facts, result: StoredResult) -> dict[str, Any]:
        names = self._callbacks(request.client)
        told: list[Job] = [
            job for job in facts.deliveries if job.result_id == result.result_id and job.destination in names
        ]
        return {
            "model": result.model,
            "revision": result.revision,
            "created_at": result.created_at.isoformat(),
            "callback": _CALLBACK[told[0].state] if told else "none",
            "objects": object_links(request.request_id, result.objects if result.expired_at is None else ()),
        }

    async def _object(self, request: Request) -> Response:
        """A DICOM file of a result of a study that the client asked for."""
        try:
            client = await self._identify(request)
            parameters = request.path_params
            given = parameters["request"], parameters["uid"], address_of(request)
            return await asyncio.to_thread(self._give, client, *given)
        except RequestRefused as refusal:
            return _refused(refusal)

    def _give(self, client: str, request_id: str, sop_instance_uid: str, address: str) -> Response:
        with read_transaction(self._engine) as connection:
            facts = read_facts(connection, _own(connection, client, request_id).study_instance_uid)
        for result in facts.results:
            for one in result.objects:
                path = self._settings.node.data_dir / one.path
                if one.sop_instance_uid == sop_instance_uid and path.is_file():
                    self._witness.fetched(client, address, result.study_instance_uid, one.sop_class_uid)
                    return FileResponse(path, media_type="application/dicom", headers={"Cache-Control": "no-store"})
        raise _nothing()

    async def _identify(self, request: Request) -> str:
        """Who asks. Raises `RequestRefused`."""
        client = await self._stow.identify(request)
        if self._settings.process.clients and client not in self._settings.process.clients:
            refusal = RequestRefused(403, "not-for-this-client", "the client is not in process.clients")
            await asyncio.to_thread(self._witness.turned_away, client, address_of(request), f"HTTP 403: {refusal}")
            raise refusal
        return client

    def _callbacks(self, client: str) -> set[str]:
        """The destinations through which a client is told."""
        found = (one for one in self._settings.destinations if isinstance(one, CallbackDestination))
        return {one.name for one in found if one.client == client}


def _own(connection: Connection, client: str, request_id: str) -> ProcessRequest:
    """A request of this client. Raises `RequestRefused` (404), also where it is another's."""
    request = get_request(connection, request_id)
    if request is None or request.client != client:
        raise _nothing()
    return request


def _nothing() -> RequestRefused:
    return RequestRefused(404, "not-found", "there is no such request or object of this client")


def _refused(refusal: RequestRefused) -> Response:
    get_logger("web").warning("processing_refused", status=refusal.status, code=refusal.code)
    return error_response(refusal)
