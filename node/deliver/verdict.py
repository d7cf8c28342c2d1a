"""Writes down a verdict on a delivery; what is lost goes back into the queue in the same transaction."""

from datetime import datetime, timedelta

from sqlalchemy import Connection

from node.deliver.confirmation import Confirmed, Lost, Verdict
from node.errors import Permanent
from node.jobs.queue import requeue
from node.logs import get_logger
from node.settings import DeliverSettings
from node.store.deliveries import Delivery, record_confirmed, record_lost, record_unconfirmed


def apply_verdict(
    connection: Connection, settings: DeliverSettings, delivery: Delivery, verdict: Verdict, now: datetime
) -> bool:
    """CONFIRMED, LOST with the job queued again, or asked again later; False when the delivery changed meanwhile."""
    log = get_logger("deliver").bind(
        job=delivery.job_id, destination=delivery.destination, study=delivery.study_instance_uid
    )
    match verdict:
        case Confirmed():
            changed = record_confirmed(connection, delivery, now)
            if changed:
                log.info("delivery_confirmed", seconds=round((now - delivery.delivered_at).total_seconds(), 1))
        case Lost(message):
            changed = record_lost(connection, delivery, message)
            if changed:
                log.error("delivery_lost", error=message, resends=delivery.resends)
                _send_again(connection, settings, delivery, now)
        case _:
            after = None if verdict.wait_seconds is None else now + timedelta(seconds=verdict.wait_seconds)
            changed = record_unconfirmed(connection, delivery, verdict.message, after)
            if changed:
                log.warning("delivery_not_confirmed", error=verdict.message, checks=delivery.checks + 1)
    return changed


def _send_again(connection: Connection, settings: DeliverSettings, delivery: Delivery, now: datetime) -> None:
    """Queue the job again, each time later; a result that was replaced meanwhile is nobody's loss."""
    log = get_logger("deliver").bind(job=delivery.job_id, destination=delivery.destination)
    if delivery.resends >= settings.maximum_resends:
        log.error("delivery_lost_for_good", resends=delivery.resends)
        return
    wait = min(settings.first_retry_seconds * 2.0**delivery.resends, settings.longest_retry_seconds)
    try:
        requeue(connection, delivery.job_id, now, run_after=now + timedelta(seconds=wait))
    except Permanent as error:
        log.info("delivery_not_sent_again", reason=str(error))
