"""From a configured destination to all that serves it: transport, gate and confirmer."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine

from node.deliver.confirmer import Asker, Confirmer, DimseAsker, QueryAsker
from node.deliver.dimse_transport import DimseTransport
from node.deliver.folder_transport import FolderTransport
from node.deliver.gate import Gate
from node.deliver.transport import Transport
from node.destination_settings import (
    DicomwebDestination,
    FhirDestination,
    FolderDestination,
    Hl7Destination,
    WebhookDestination,
)
from node.errors import Permanent
from node.settings import AnyDestination, Destination, Settings

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Route:
    """A destination and what serves it. `confirm_after_seconds` is None where nothing is confirmed."""

    destination: AnyDestination
    transport: Transport
    gate: Gate
    confirmer: Confirmer | None
    confirm_after_seconds: float | None


def routes_of(engine: Engine, settings: Settings, now: Clock = lambda: datetime.now(UTC)) -> dict[str, Route]:
    """What serves each configured destination, by its name."""
    return {destination.name: _route(engine, settings, destination, now) for destination in settings.destinations}


def transport_of(engine: Engine, settings: Settings, destination: AnyDestination, now: Clock) -> Transport:
    """How results are sent to this destination."""
    match destination:
        case Destination():
            seconds = settings.deliver.timeout_seconds
            return DimseTransport(engine, destination, settings.node.ae_title, seconds, now)
        case FolderDestination():
            return FolderTransport(destination)
    return _other_transport(settings, destination, now)


def _other_transport(settings: Settings, destination: AnyDestination, now: Clock) -> Transport:
    """How results are sent by HTTP or HL7 v2; what that needs is imported only where it is used."""
    seconds = settings.deliver.timeout_seconds
    match destination:
        case DicomwebDestination():
            from node.deliver.dicomweb_transport import DicomwebTransport

            return DicomwebTransport(destination, seconds)
        case Hl7Destination():
            from node.deliver.hl7_transport import Hl7Transport

            return Hl7Transport(destination, seconds, now)
        case FhirDestination():
            from node.deliver.fhir_transport import FhirTransport

            return FhirTransport(destination, seconds)
        case WebhookDestination():
            from node.deliver.webhook import WebhookTransport

            return WebhookTransport(destination, seconds, now)
    raise Permanent(f"destination {destination.name!r} is of a kind that cannot be sent to")


def _route(engine: Engine, settings: Settings, destination: AnyDestination, now: Clock) -> Route:
    transport = transport_of(engine, settings, destination, now)
    gate = Gate(engine, destination, settings.deliver, transport, now)
    ask, after = _asker(engine, settings, destination, transport, now)
    confirmer = None
    if ask is not None:
        confirmer = Confirmer(engine, destination.name, settings.deliver, ask, gate=gate, now=now)
    return Route(destination, transport, gate, confirmer, after if ask is not None else None)


def _asker(
    engine: Engine, settings: Settings, destination: AnyDestination, transport: Transport, now: Clock
) -> tuple[Asker | None, float | None]:
    """Who asks this destination whether it keeps what it took, and how long after."""
    match destination:
        case Destination() if destination.confirm != "none":
            return DimseAsker(engine, settings, destination, now), destination.confirm_after_seconds
        case DicomwebDestination() if destination.confirm != "none":
            from node.deliver.dicomweb_transport import DicomwebTransport

            assert isinstance(transport, DicomwebTransport)
            wait = destination.confirm_after_seconds
            return QueryAsker(engine, settings, transport.has, wait, now), wait
    return None, None
