"""What runs beside the lanes of the outbox: the desk of critical notices, the way of the audit trail to a collector,
and what tells platforms that their requests come to nothing."""

import random
from datetime import UTC, datetime

from sqlalchemy import Engine

from node.audit import FOLDER
from node.audit.trail import AnyTrail
from node.deliver.outbox import Runner
from node.destination_settings import CallbackDestination
from node.settings import Settings


def side_lanes(engine: Engine, settings: Settings, trail: AnyTrail) -> list[Runner]:
    """Those that the configuration asks for."""
    runners: list[Runner] = []
    if settings.notices.recipients:
        from node.notices.desk import NoticeDesk
        from node.notices.witness import witness_of

        witness = witness_of(trail, settings.node.ae_title)
        runners.append(NoticeDesk(engine, settings, lambda: datetime.now(UTC), witness))
    if settings.audit.enabled and settings.audit.collector_host:
        from node.audit.forward import Forwarder

        folder = settings.node.data_dir / FOLDER
        runners.append(Forwarder(folder, settings.audit, settings.deliver.poll_seconds))
    if settings.process.enabled:
        from node.adapters.process.book import RequestBook
        from node.adapters.process.callback import FailureTeller

        book = RequestBook(engine, settings, lambda: datetime.now(UTC), random.random)
        for each in settings.destinations:
            if isinstance(each, CallbackDestination):
                runners.append(FailureTeller(book, each))
    return runners
