"""The book of requests, for those who attend to them: which are due, what is noted, when one is tried again."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine

from node.jobs.retry import RetryPolicy
from node.rounds import seconds_until
from node.settings import Settings
from node.store.database import read_transaction, write_transaction
from node.store.requests import ProcessRequest, change_request, claim_requests, next_due_at
from node.store.tables import RequestState


@dataclass(frozen=True)
class RequestBook:
    """What is known of requests, and by what clock.

    Parameters
    ----------
    now : callable
        The present moment, aware UTC.
    jitter : callable
        A number from 0 to 1, by which waits differ.
    """

    engine: Engine
    settings: Settings
    now: Callable[[], datetime]
    jitter: Callable[[], float]

    @property
    def retry(self) -> RetryPolicy:
        """How long to wait after which try."""
        return RetryPolicy(self.settings.deliver.first_retry_seconds, self.settings.deliver.longest_retry_seconds)

    def due(
        self, states: Collection[RequestState], lease: timedelta, at_once: int, client: str | None = None
    ) -> list[ProcessRequest]:
        """Requests to attend to, each given to one caller for the time of the lease."""
        now = self.now()
        with write_transaction(self.engine) as connection:
            return claim_requests(connection, states, now, now + lease, at_once, client)

    def seconds_to_next(
        self, states: Collection[RequestState], longest_seconds: float, client: str | None = None
    ) -> float:
        """How long until the next of them is due."""
        with read_transaction(self.engine) as connection:
            following = next_due_at(connection, states, client)
        return seconds_until(following, self.now(), longest_seconds)

    def note(self, request: ProcessRequest, **values: object) -> None:
        """Change a request, unless it was asked for anew meanwhile."""
        with write_transaction(self.engine) as connection:
            change_request(connection, request, **values)
