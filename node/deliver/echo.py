"""Verification SCU (PS3.4 Annex A): is the destination there, and does it know us?"""

import time
from dataclasses import dataclass

from node.deliver import dimse
from node.deliver.association import associate, describe
from node.deliver.line import Patience
from node.deliver.upper_layer import propose
from node.errors import Permanent
from node.settings import Destination

_IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"


@dataclass(frozen=True)
class EchoAnswer:
    """Status of C-ECHO (0x0000 is success), the seconds to connect and associate, and to answer."""

    status: int
    associate_seconds: float
    echo_seconds: float


def echo(destination: Destination, calling_ae_title: str, timeout_seconds: float) -> EchoAnswer:
    """Associate, C-ECHO and release.

    Raises
    ------
    Transient
        The destination is not reachable or does not answer.
    Permanent
        It does not know one of the AE titles, or refuses verification.
    """
    contexts = propose([(dimse.VERIFICATION_SOP_CLASS_UID, _IMPLICIT_VR_LITTLE_ENDIAN)])
    started = time.monotonic()
    with associate(destination, calling_ae_title, contexts, Patience(timeout_seconds)) as association:
        established = time.monotonic()
        if association.refused:
            raise Permanent(f"{describe(destination)} accepts the association but refuses verification (C-ECHO)")
        status = association.echo()
        return EchoAnswer(status, established - started, time.monotonic() - established)
