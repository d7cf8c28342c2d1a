"""Whether a lane may send now: hold, office hours, and a circuit breaker that a probe closes again."""

from collections.abc import Callable
from datetime import datetime, time, timedelta

from sqlalchemy import Engine

from node.deliver.transport import LONGEST_RETRY_AFTER_SECONDS, Transport
from node.errors import OverreadError
from node.logs import describe_error, get_logger
from node.settings import AnyDestination, DeliverSettings
from node.store.database import read_transaction, write_transaction
from node.store.deliveries import bring_forward, get_destination_state, record_reached, record_unreached


def seconds_until_open(span: tuple[time, time] | None, local: datetime) -> float:
    """Seconds until the span of the day begins; 0 within it. A span may go over midnight; None is always open."""
    if span is None:
        return 0.0
    start, end = span
    moment = local.time()
    is_open = start <= moment < end if start <= end else moment >= start or moment < end
    if is_open or start == end:
        return 0.0
    opens = local.replace(hour=start.hour, minute=start.minute, second=0, microsecond=0)
    if opens < local:
        opens += timedelta(days=1)
    return (opens - local).total_seconds()


class Gate:
    """Asked by a lane before it claims a job; while it is shut no attempt is used up.

    Parameters
    ----------
    now : callable
        The present moment, aware UTC.
    """

    def __init__(
        self,
        engine: Engine,
        destination: AnyDestination,
        settings: DeliverSettings,
        transport: Transport,
        now: Callable[[], datetime],
    ) -> None:
        self._engine = engine
        self._destination = destination
        self._settings = settings
        self._transport = transport
        self._now = now

    def __call__(self) -> float:
        """Seconds until it is worth asking again; 0 when the lane may send. Probes a destination that was down."""
        return seconds_until_open(self._destination.span, self._now().astimezone()) or self.for_critical()

    def for_critical(self) -> float:
        """The same for the lane of critical results, which office hours do not hold up."""
        with read_transaction(self._engine) as connection:
            state = get_destination_state(connection, self._destination.name)
        if state.held_at is not None:
            return self._settings.poll_seconds
        if state.closed_until is None:
            return 0.0
        wait = (state.closed_until - self._now()).total_seconds()
        longest = max(LONGEST_RETRY_AFTER_SECONDS, self._settings.probe_seconds)
        return wait if 0 < wait <= longest else self._probe()  # longer: our clock was set back meanwhile

    def reached(self) -> None:
        """A delivery arrived: what waits for the destination need not wait longer."""
        with write_transaction(self._engine) as connection:
            was_down = record_reached(connection, self._destination.name, self._now())
            waiting = bring_forward(connection, self._destination.name, self._now()) if was_down else 0
        if was_down:
            get_logger("deliver").info("destination_is_back", destination=self._destination.name, waiting=waiting)

    def unreached(self, error: Exception) -> None:
        """It was not reached: after several times in a row nothing is tried until a probe reaches it."""
        now = self._now()
        with write_transaction(self._engine) as connection:
            failures = get_destination_state(connection, self._destination.name).failures + 1
            shut = failures >= self._settings.breaker_failures
            wait = getattr(error, "retry_after_seconds", None) or (self._settings.probe_seconds if shut else None)
            until = now + timedelta(seconds=wait) if wait else None
            record_unreached(connection, self._destination.name, now, describe_error(error), until)
        if failures == self._settings.breaker_failures:
            get_logger("deliver").warning(
                "destination_is_down", destination=self._destination.name, error=describe_error(error)
            )

    def _probe(self) -> float:
        try:
            self._transport.probe()
        except OverreadError as error:
            self.unreached(error)
            return self._settings.probe_seconds
        self.reached()
        return 0.0
