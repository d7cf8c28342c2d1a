"""Brings the studies that were asked for from their sources, one after the other, beside the HTTP server.

What comes goes through the same admission and store as what is sent here. What was stored before a source broke off
stays; trying again stores nothing twice.
"""

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from node.adapters.process.book import RequestBook
from node.adapters.process.sources import opened
from node.errors import Permanent, Transient
from node.jobs.retry import Retry, decide
from node.logs import describe_error, get_logger
from node.process_settings import ProcessSource
from node.receive.admission import OUT_OF_RESOURCES
from node.receive.multipart import MultipartError
from node.rounds import Rounds
from node.store.database import write_transaction
from node.store.requests import ProcessRequest, claim_requests
from node.store.tables import RequestState
from node.web.reception import RequestRefused
from node.web.store_response import Outcome
from node.web.stow import StowService

_LEASE = timedelta(hours=1)
_FETCHING = (RequestState.FETCHING,)
_LONGEST_IDLE_SECONDS = 5.0


class Stopped(Exception):
    """The node ends while a study is being brought."""


class Fetcher:
    """Runs in a thread of its own from `start` to `stop`.

    Parameters
    ----------
    stow : StowService
        What takes objects that come by HTTP.
    """

    def __init__(self, book: RequestBook, stow: StowService) -> None:
        self._book = book
        self._stow = stow
        self._rounds = Rounds(self.step, self._failed, _LONGEST_IDLE_SECONDS)
        self._thread = threading.Thread(target=self._rounds.run, name="fetcher", daemon=True)

    def start(self) -> None:
        """Begin; what a process before this one was fetching is begun anew."""
        now, fetching = self._book.now(), self._book.settings.process.maximum_fetching
        with write_transaction(self._book.engine) as connection:
            claim_requests(connection, _FETCHING, now + _LEASE, now, fetching)
        self._thread.start()

    def stop(self) -> None:
        """End; what is being fetched is begun anew after the next start."""
        self._rounds.stop()
        if self._thread.ident is not None:
            self._thread.join(5)

    def wake(self) -> None:
        """There is a new request. Safe from any thread."""
        self._rounds.wake()

    def step(self) -> float:
        """Bring one study that is due; seconds until there may be more."""
        for request in self._book.due(_FETCHING, _LEASE, 1):
            self._attend(request)
        return self._book.seconds_to_next(_FETCHING, _LONGEST_IDLE_SECONDS)

    def _failed(self, error: Exception) -> None:
        get_logger("web").error("fetching_failed", error=describe_error(error))

    def _attend(self, request: ProcessRequest) -> None:
        """Bring the images of one request, and note what came of it."""
        log = get_logger("web").bind(study=request.study_instance_uid, request=request.request_id)
        try:
            reason = self._fetch(request, log)
        except Stopped:
            raise
        except Exception as error:  # also one that nobody foresaw: it is tried again, and no other request waits for it
            tries, most = request.tries + 1, self._book.settings.process.maximum_tries
            verdict = decide(error, tries, most, self._book.retry, self._book.jitter())
            is_over = not isinstance(verdict, Retry)
            message = describe_error(error)
            log.warning("study_not_fetched", source=request.source, tries=tries, is_over=is_over, error=message)
            wait = verdict.wait_seconds if isinstance(verdict, Retry) else 0.0
            changes = {"state": RequestState.FAILED} if is_over else {}
            due_at = self._book.now() + timedelta(seconds=wait)
            self._book.note(request, tries=tries, reason=message, due_at=due_at, **changes)
        else:
            log.info("study_fetched", source=request.source)
            self._book.note(request, state=RequestState.ACCEPTED, reason=reason, due_at=self._book.now())

    def _fetch(self, request: ProcessRequest, log: Any) -> str | None:
        """Bring the images; what is to be said of those that were not taken. Raises `Transient` or `Permanent`."""
        source = self._book.settings.process.source(request.source or "")
        if source is None:
            raise Permanent("its source is not in the configuration any more: add it, restart and ask again")
        timeout_seconds = self._book.settings.deliver.timeout_seconds
        with opened(source, request.study_instance_uid, timeout_seconds) as content:
            try:
                parser = self._stow.parser(content.boundary)
            except MultipartError as error:
                raise Transient(f"source {source.name!r} sends no multipart body: {error}") from None
            reception = self._stow.begin(request.client, parser, request.study_instance_uid, log)
            try:
                for piece in content.pieces:
                    if self._rounds.is_stopping:
                        raise Stopped
                    reception.feed(piece)
                outcomes = reception.finish()
            except BaseException as error:
                self._conclude(request, source, reception.abandon())
                if isinstance(error, RequestRefused):
                    raise Transient(f"what source {source.name!r} sends cannot be taken: {error}") from None
                raise
            self._conclude(request, source, outcomes)
        return _judge(outcomes, source.name)

    def _conclude(self, request: ProcessRequest, source: ProcessSource, outcomes: Sequence[Outcome]) -> None:
        self._stow.conclude((request.client, urlsplit(source.url).hostname or source.name), outcomes)


def _judge(outcomes: Sequence[Outcome], source: str) -> str | None:
    """What is to be said where not all was taken. Raises where it is too little."""
    refused = [one for one in outcomes if one.status]
    if not refused:
        return None
    said = f"{len(refused)} of {len(outcomes)} objects of source {source!r} were not taken"
    codes = ", ".join(sorted({one.code for one in refused}))
    if any(one.status == OUT_OF_RESOURCES for one in refused):
        raise Transient(f"{said}, for want of room or because the database failed ({codes})")
    if len(refused) == len(outcomes):
        raise Permanent(f"{said} ({codes}): see quarantine")
    return f"{said} ({codes})"
