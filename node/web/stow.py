"""STOW-RS, Store transaction (PS3.18 10.5): `POST /studies` and `POST /studies/{study}`.

The whole request is judged by its headers before a byte of the body is read. A body is read as long as it makes
progress; its bytes go to a thread, so that a slow disk keeps no other request waiting.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from node.logs import describe_error, get_logger
from node.receive.admission import is_uid
from node.receive.intake import Intake, Sender
from node.receive.multipart import MultipartError, MultipartParser
from node.receive.witness import Witness
from node.web.access import Access, Caller
from node.web.body import Body, ClientLost
from node.web.media import accepts, parse_media_type
from node.web.reception import Reception, RequestRefused
from node.web.store_response import DICOM_JSON, Outcome, http_status, response_module, warning

_FEED_BYTES = 262144  # a thread gets so much at once
_RETRY_SECONDS = 10

Answer = Callable[[str, int, Sequence[Outcome]], Awaitable[Response]]
"""What is answered when a body was taken: of the AE title of who sent it, the HTTP status, and each object."""


@dataclass(frozen=True)
class Limits:
    """What one request may do; sizes in bytes, times in seconds."""

    maximum_object_bytes: int
    maximum_parts: int
    maximum_uploads: int
    body_timeout_seconds: float
    minimum_bytes_per_second: int


class StowService:
    """Serves STOW-RS requests.

    Parameters
    ----------
    intake, limits, access
        Where objects go, what a request may do, and who may send.
    ae_title : str
        Of this node: what the objects were sent to, in routes.
    free_disk_bytes : int
        With less room requests are answered 507 at once.
    readers, writers : Executor
        Threads that read bodies, one for each upload, and threads in which objects become durable.
    on_release : callable
        Told which series a request had, once it is complete.
    witness : Witness
        Told what each request stored, and who was not let in.
    """

    def __init__(
        self,
        intake: Intake,
        limits: Limits,
        access: Access,
        *,
        ae_title: str,
        free_disk_bytes: int,
        readers: Executor,
        writers: Executor,
        on_release: Callable[[list[str]], None],
        witness: Witness,
    ) -> None:
        self._witness = witness
        self._intake = intake
        self._limits = limits
        self._access = access
        self._ae_title = ae_title
        self._free_disk_bytes = free_disk_bytes
        self._readers = readers
        self._writers = writers
        self._on_release = on_release
        self._uploads = 0

    async def store(self, request: Request) -> Response:
        """Answer one request; writes one line about it."""
        return await self.take(request, _answered)

    async def take(self, request: Request, answer: Answer) -> Response:
        """Take the objects of one request as `store` does; who calls says what is answered once they are durable."""
        started_at = time.monotonic()
        peer = address_of(request)
        log = get_logger("web").bind(peer=peer)
        body = self.body_of(request)
        try:
            ae_title = await self.identify(request)
            log = log.bind(calling_ae_title=ae_title)
            parser = self._judge(request)
        except RequestRefused as refusal:
            await body.drain()
            return self._refuse(log, refusal, [], started_at)
        self._uploads += 1
        try:
            reception = self.begin(ae_title, parser, request.path_params.get("study", ""), log)
            return await self._receive(body, reception, log, started_at, (ae_title, peer), answer)
        finally:
            self._uploads -= 1

    async def identify(self, request: Request) -> str:
        """The AE title of who sends. Raises `RequestRefused`, 401 or 403, which are security alerts."""
        peer = address_of(request)
        caller = Caller(peer, getattr(request.state, "certificate", ""), request.headers.get("authorization", ""))
        try:
            return str(await self._in_thread(self._access.identify, caller))
        except RequestRefused as refusal:
            await self._in_thread(self._witness.turned_away, "", peer, f"HTTP {refusal.status}: {refusal}")
            raise

    def body_of(self, request: Request) -> Body:
        """The body of a request, to be read within the limits of this server."""
        return Body(request, self._limits.body_timeout_seconds, self._limits.minimum_bytes_per_second)

    def begin(self, ae_title: str, parser: MultipartParser, study_instance_uid: str, log: Any) -> Reception:
        """Objects are about to come from a client, all of this study if one is given."""
        return Reception(
            self._intake,
            Sender(ae_title, self._ae_title),
            parser,
            self._writers,
            maximum_object_bytes=self._limits.maximum_object_bytes,
            study_instance_uid=study_instance_uid,
            log=log,
        )

    def parser(self, boundary: str) -> MultipartParser:
        """For a body with this boundary. Raises `MultipartError`."""
        return MultipartParser(boundary, self._limits.maximum_parts)

    def conclude(self, sender: tuple[str, str], outcomes: Sequence[Outcome]) -> None:
        """All objects have come that will: tell whoever settles studies, and the audit trail. Blocks on the disk."""
        series = list(dict.fromkeys(outcome.series_instance_uid for outcome in outcomes if not outcome.status))
        if series:
            self._on_release(series)
            self._tell_witness(sender, outcomes, all(not outcome.status for outcome in outcomes))

    def _judge(self, request: Request) -> MultipartParser:
        """Everything that the headers tell; a parser for the boundary. Raises `RequestRefused`."""
        headers = request.headers
        study = request.path_params.get("study", "")
        if study and not is_uid(study):
            raise RequestRefused(400, "study-instance-uid", "the study in the URL is no UID")
        if not accepts(headers.get("accept", ""), (DICOM_JSON, "application/json")):
            raise RequestRefused(406, "accept", f"answers are {DICOM_JSON}, which the Accept header does not take")
        if "content-length" not in headers and "transfer-encoding" not in headers:
            raise RequestRefused(411, "content-length", "neither Content-Length nor chunks: there is no body")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestRefused(415, "content-encoding", "the body has a Content-Encoding: send it as it is")
        parser = self._parser(headers.get("content-type", ""))
        if self._uploads >= self._limits.maximum_uploads:
            raise RequestRefused(503, "too-many-uploads", f"{self._uploads} uploads are under way: try again")
        try:
            has_room = self._intake.files.free_bytes() >= self._free_disk_bytes
        except OSError:
            raise RequestRefused(503, "disk-failed", "data_dir is not there") from None
        if not has_room:
            raise RequestRefused(507, "disk-full", "there is less room in data_dir than dimse.free_disk_mb")
        return parser

    def _parser(self, content_type: str) -> MultipartParser:
        media_type = parse_media_type(content_type)
        expected = 'multipart/related; type="application/dicom"; boundary=...'
        if media_type is None or media_type.name != "multipart/related":
            raise RequestRefused(415, "media-type", f"the Content-Type is not {expected}")
        kind = media_type.parameters.get("type", "application/dicom").lower()
        if kind in (DICOM_JSON, "application/dicom+xml"):
            raise RequestRefused(
                415, "metadata-and-bulk-data", f"{kind} with bulk data is not taken: send DICOM files, as {expected}"
            )
        if kind != "application/dicom":
            raise RequestRefused(415, "media-type", f"the type of the parts is not application/dicom: {expected}")
        try:
            return self.parser(media_type.parameters.get("boundary", ""))
        except MultipartError as error:
            raise RequestRefused(400, error.code, str(error)) from None

    async def _receive(
        self,
        body: Body,
        reception: Reception,
        log: Any,
        started_at: float,
        sender: tuple[str, str],
        answer: Answer,
    ) -> Response:
        try:
            await self._read_body(body, reception)
            outcomes = await self._in_thread(reception.finish)
        except (RequestRefused, ClientLost) as error:
            outcomes = await self._in_thread(reception.abandon)
            await self._in_thread(self._tell_witness, sender, outcomes, False)
            await body.drain()
            refusal = error if isinstance(error, RequestRefused) else RequestRefused(400, "client-lost", str(error))
            return self._refuse(log, refusal, outcomes, started_at)
        except BaseException:  # a fault of ours, or the node stops: what is not complete is forgotten
            await asyncio.shield(self._in_thread(reception.abandon))
            raise
        await self._in_thread(self.conclude, sender, outcomes)
        status = http_status(outcomes)
        self._log_request(log, status, "", outcomes, started_at)
        return await answer(sender[0], status, outcomes)

    async def _read_body(self, body: Body, reception: Reception) -> None:
        """Feed the body to the reception. Raises `RequestRefused` or `ClientLost`."""
        pending: list[bytes] = []
        pending_bytes = 0
        while not body.is_complete:
            piece = await body.next()
            pending.append(piece)
            pending_bytes += len(piece)
            if pending_bytes >= _FEED_BYTES or body.is_complete:
                await self._in_thread(reception.feed, b"".join(pending))
                pending, pending_bytes = [], 0

    def _tell_witness(self, sender: tuple[str, str], outcomes: Sequence[Outcome], is_whole: bool) -> None:
        studies: dict[str, Counter[str]] = {}
        for outcome in outcomes:
            if not outcome.status:
                studies.setdefault(outcome.study_instance_uid, Counter())[outcome.sop_class_uid] += 1
        self._witness.received(*sender, studies, is_whole=is_whole)

    def _refuse(self, log: Any, refusal: RequestRefused, outcomes: Sequence[Outcome], started_at: float) -> Response:
        self._log_request(log, refusal.status, refusal.code, outcomes, started_at, str(refusal))
        return error_response(refusal, sum(1 for outcome in outcomes if not outcome.status))

    def _log_request(
        self,
        log: Any,
        status: int,
        code: str,
        outcomes: Sequence[Outcome],
        started_at: float,
        reason: str = "",
    ) -> None:
        fields: dict[str, Any] = {
            "status": status,
            "seconds": round(time.monotonic() - started_at, 3),
            "objects": sum(1 for outcome in outcomes if not outcome.status),
            "object_bytes": sum(outcome.size_bytes for outcome in outcomes),
            "statuses": dict(Counter(f"{outcome.status:04X}" for outcome in outcomes)),
        }
        if code:
            fields |= {"code": code, "reason": reason}
        (log.info if status < 400 else log.warning)("stow_ended", **fields)

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._readers, function, *arguments)


def error_response(refusal: RequestRefused, stored: int = 0) -> Response:
    """The answer to a request that is refused as a whole; `stored` objects of it are durable all the same."""
    headers = {}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="overread"'
    if refusal.status in (503, 507):
        headers["Retry-After"] = str(_RETRY_SECONDS)
    if refusal.status == 408:
        headers["Connection"] = "close"
    content = {"error": refusal.code, "message": str(refusal), "objects_stored": stored}
    return JSONResponse(content, refusal.status, headers)


def fault_response(error: Exception) -> Response:
    """The answer when we fail: the log says where, the client is told nothing."""
    get_logger("web").error("request_failed", reason=describe_error(error))
    return error_response(RequestRefused(500, "failed", "the node failed; its log says more"))


def address_of(request: Request) -> str:
    """IP address of who asks."""
    return request.client.host.removeprefix("::ffff:") if request.client else ""


async def _answered(ae_title: str, status: int, outcomes: Sequence[Outcome]) -> Response:
    headers = {"Warning": said} if (said := warning(outcomes)) else {}
    if status in (503, 507):
        headers["Retry-After"] = str(_RETRY_SECONDS)
    return JSONResponse(response_module(outcomes), status, headers, media_type=DICOM_JSON)
