"""The callback of a platform: results through the outbox, and that a request comes to nothing; until acknowledged."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine

from node.adapters.process.book import RequestBook
from node.adapters.process.standing import Progress, Standing, judge, read_facts
from node.deliver.statement import read_statement
from node.deliver.transport import Check, NeverTaken, NotTaken, Parcel, Receipt
from node.deliver.webhook import SignedPost, describe, read_whereabouts
from node.destination_settings import CallbackDestination
from node.logs import describe_error, get_logger
from node.rounds import Rounds
from node.store.database import read_transaction
from node.store.requests import ProcessRequest, get_request, request_id_of
from node.store.tables import RequestState

_OPEN = (RequestState.ACCEPTED, RequestState.FAILED)
_LEASE = timedelta(minutes=2)
_AT_ONCE = 20
_WHAT = "the callback"


class CallbackTransport:
    """One POST for each result of a study that the platform asked for; results of other studies are not sent."""

    def __init__(
        self,
        engine: Engine,
        destination: CallbackDestination,
        timeout_seconds: float,
        now: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._destination = destination
        self._post = SignedPost(destination, destination.secret_file, timeout_seconds, now)

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        request_id = request_id_of(self._destination.client, parcel.result.study_instance_uid)
        with read_transaction(self._engine) as connection:
            request = get_request(connection, request_id)
        if request is None:
            return Receipt((), reservation=f"not sent: client {self._destination.client!r} did not ask for this study")
        statement = read_statement(parcel)
        whereabouts = read_whereabouts(self._engine, parcel)
        said = {
            "event": "processed",
            "id": request_id,
            "status": Progress.DONE,
            **describe(statement, whereabouts, self._destination.patient_fields),
            "objects": object_links(request_id, parcel.result.objects),
        }
        try:
            self._post.send(said, statement.identifier, _WHAT)
        except NeverTaken as error:  # the contract is to call until it is acknowledged, whatever is answered before
            raise NotTaken(str(error)) from None
        return Receipt(())

    def probe(self) -> None:
        self._post.probe()


def object_links(request_id: str, objects: Any) -> list[dict[str, str]]:
    """Where the objects of a result can be had from this node, relative to its address."""
    return [
        {
            "sop_class_uid": one.sop_class_uid,
            "sop_instance_uid": one.sop_instance_uid,
            "role": one.role,
            "url": f"/process/{request_id}/objects/{one.sop_instance_uid}",
        }
        for one in objects
    ]


class FailureTeller:
    """Watches the requests of one platform until there is a result, or tells it that there will be none.

    Runs beside the lanes of the outbox; `run` works until `stop`.
    """

    def __init__(self, book: RequestBook, destination: CallbackDestination) -> None:
        self._book = book
        self._destination = destination
        self._post: SignedPost | None = None
        self._deliver = book.settings.deliver
        self._rounds = Rounds(self.step, self._failed, self._deliver.poll_seconds)

    def run(self) -> None:
        """Work until `stop`."""
        self._rounds.run()

    def stop(self) -> None:
        """Tell nothing any more. Safe from any thread."""
        self._rounds.stop()

    def step(self) -> float:
        """Look at what is due; seconds until there may be more."""
        client = self._destination.client
        for request in self._book.due(_OPEN, _LEASE, _AT_ONCE, client):
            self._attend(request)
        return self._book.seconds_to_next(_OPEN, self._deliver.poll_seconds, client)

    def _failed(self, error: Exception) -> None:
        get_logger("deliver").error("requests_not_watched", error=describe_error(error))

    def _attend(self, request: ProcessRequest) -> None:
        now = self._book.now()
        with read_transaction(self._book.engine) as connection:
            facts = read_facts(connection, request.study_instance_uid)
        standing = judge(request, facts, now, self._book.settings.process.image_wait_minutes)
        if standing.progress is Progress.FAILED:
            self._tell(request, standing)
        elif standing.progress is Progress.DONE:
            self._book.note(request, due_at=None)
        else:
            self._book.note(request, due_at=now + timedelta(seconds=self._deliver.poll_seconds))

    def _tell(self, request: ProcessRequest, standing: Standing) -> None:
        """Post that a request has failed; again and again, each time later, until it is acknowledged."""
        log = get_logger("deliver").bind(study=request.study_instance_uid, request=request.request_id)
        said = {
            "event": "processed",
            "id": request.request_id,
            "status": standing.progress,
            "study_instance_uid": request.study_instance_uid,
            "reasons": list(standing.reasons),
        }
        identifier = f"{request.request_id}.{int(request.asked_at.timestamp() * 1000)}"
        try:
            self._platform().send(said, identifier, _WHAT)
        except Exception as error:  # also one that nobody foresaw: it is told later, and no other request waits for it
            tries = request.tries + 1
            wait = self._book.retry.wait_seconds(tries, self._book.jitter())
            log.warning("failure_not_told", tries=tries, error=describe_error(error))
            self._book.note(request, tries=tries, due_at=self._book.now() + timedelta(seconds=wait))
        else:
            log.info("failure_told")
            reason = "; ".join(standing.reasons) or None
            told_at = self._book.now()
            self._book.note(request, state=RequestState.FAILED, reason=reason, due_at=None, told_at=told_at)

    def _platform(self) -> SignedPost:
        """Made when it is first needed: certificates that are not there keep nothing else from starting."""
        if self._post is None:
            destination, seconds = self._destination, self._deliver.timeout_seconds
            self._post = SignedPost(destination, destination.secret_file, seconds, self._book.now)
        return self._post
