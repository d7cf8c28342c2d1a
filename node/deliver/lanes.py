"""From a configured destination to all that serves it: transport, gate and confirmer."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Engine

from node.deliver.confirmer import Asker, Confirmer, DimseAsker, QueryAsker
from node.deliver.dimse_transport import DimseTransport
from node.deliver.folder_transport import FolderTransport
from node.deliver.forms import Forms
from node.deliver.gate import Gate
from node.deliver.transport import Check, Parcel, Receipt, Transport
from node.destination_profiles import profile_called
from node.destination_settings import (
    CallbackDestination,
    DicomwebDestination,
    FhirDestination,
    FolderDestination,
    Hl7Destination,
    ObjectDestination,
    PinDestination,
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
    """How results are sent to this destination; what that needs is imported only where it is used.

    A destination whose files (profile, template, certificates) cannot be used gets nothing, and keeps no other from
    getting theirs: each delivery to it fails with the reason.
    """
    try:
        return _transport(engine, settings, destination, now)
    except Permanent as error:
        return UnusableTransport(error)


class UnusableTransport:
    """Stands for a destination that the configuration describes wrongly."""

    def __init__(self, error: Permanent) -> None:
        self._error = error

    def send(self, parcel: Parcel, check: Check) -> Receipt:
        raise self._error

    def probe(self) -> None:
        raise self._error


def _transport(engine: Engine, settings: Settings, destination: AnyDestination, now: Clock) -> Transport:
    seconds = settings.deliver.timeout_seconds
    match destination:
        case Destination():
            forms = _forms(engine, settings, destination, now, falls_back=destination.fallback)
            return DimseTransport(forms, destination, settings.node.ae_title, seconds, now)
        case FolderDestination():
            return FolderTransport(destination, _forms(engine, settings, destination, now))
        case DicomwebDestination():
            from node.deliver.dicomweb_transport import DicomwebTransport

            forms = _forms(engine, settings, destination, now)
            return DicomwebTransport(forms, destination, seconds, settings.node.data_dir)
        case Hl7Destination():
            from node.deliver.hl7_transport import Hl7Transport

            return Hl7Transport(engine, destination, seconds, now)
        case FhirDestination():
            from node.deliver.fhir_transport import FhirTransport

            return FhirTransport(engine, destination, seconds)
        case WebhookDestination():
            from node.deliver.webhook import WebhookTransport

            return WebhookTransport(engine, destination, seconds, now)
        case PinDestination():
            from node.adapters.pin_transport import PinTransport

            return PinTransport(engine, destination)
        case CallbackDestination():
            from node.adapters.process.callback import CallbackTransport

            return CallbackTransport(engine, destination, seconds, now)
    raise Permanent(f"destination {destination.name!r} is of a kind that cannot be sent to")


def _forms(
    engine: Engine, settings: Settings, destination: ObjectDestination, now: Clock, *, falls_back: bool = True
) -> Forms:
    profile = profile_called(destination.profile, settings)
    return Forms(engine, destination.name, profile, now, falls_back=falls_back)


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

            wait = destination.confirm_after_seconds
            if isinstance(transport, DicomwebTransport):
                ask = transport.keeps if destination.confirm == "retrieve" else transport.has
                return QueryAsker(engine, settings, ask, wait, now), wait
    return None, None
