"""TLS towards destinations (PS3.15 B.12, BCP 195): from the settings to what a socket needs."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from node.destination_settings import Tls
from node.errors import Permanent


@dataclass(frozen=True)
class ClientTls:
    """How a connection is secured, and the name that the peer's certificate must be for."""

    context: ssl.SSLContext
    server_name: str


def client_tls(tls: Tls, host: str, destination: str) -> ClientTls:
    """The client side of TLS 1.2 or later, with the peer's certificate and name checked.

    Raises
    ------
    Permanent
        A file cannot be read or does not hold what it should; the message names setting and file.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Permanent(f"destination {destination!r}: tls.ca_file {tls.ca_file}: {_why(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.certificate_file is not None:
        try:
            context.load_cert_chain(tls.certificate_file, tls.key_file, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            raise Permanent(
                f"destination {destination!r}: tls.certificate_file {tls.certificate_file} with tls.key_file "
                f"{tls.key_file}: {_why(error)}"
            ) from None
    return ClientTls(context, tls.server_name or host)


def files_stamp(tls: Tls | None) -> tuple[tuple[int, int] | None, ...]:
    """What tells that a file of `tls` was replaced: inode and time of change of each, None where it is not there."""
    named = (tls.ca_file, tls.certificate_file, tls.key_file) if tls else ()
    return tuple(_stamp(path) for path in named if path is not None)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def describe_tls_error(error: ssl.SSLError) -> str:
    """What went wrong, and what to do about it, without the words of the other side."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the destination's certificate is not trusted ({error.verify_message}): set tls.ca_file to its authority "
            "and tls.server_name to the name in it, or have it renewed"
        )
    if isinstance(error, ssl.SSLEOFError):
        return (
            "the destination closed the TLS connection: if it asks for certificates, its administrator must trust ours"
        )
    reason = (error.reason or type(error).__name__).lower().replace("_", " ")
    if "certificate" in reason or "unknown ca" in reason:
        return f"the destination does not take our certificate ({reason}): its administrator must trust it"
    return f"TLS failed ({reason}): does the port speak TLS 1.2 or later?"


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return "not certificates or keys in PEM, or they do not belong together"
    return error.strerror or type(error).__name__
