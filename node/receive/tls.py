"""TLS for the listener (PS3.15 B.12, BCP 195): a context that follows its files, and a handshake with a time limit.

Certificates are renewed while the node runs: each new connection looks whether a file has changed and loads it anew. A
renewal that cannot be loaded is logged, and the context before it goes on being used.
"""

import hashlib
import socket
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path

from node.errors import Permanent
from node.logs import get_logger

# BCP 195 (RFC 9325 4.2): forward secrecy and authenticated encryption only. TLS 1.3 has no others.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsError(Permanent):
    """Certificate, key or authorities cannot be used; the message names the file."""


class ServerTls:
    """Certificate and key of the listener, and whose clients may connect.

    Parameters
    ----------
    certificate, key : Path
        PEM files: certificate chain, and private key without password.
    client_authorities : Path, optional
        PEM file of certificate authorities: clients must then show a certificate of one of them (mutual TLS).
    minimum_version : ssl.TLSVersion
        Oldest version of TLS accepted.

    Raises
    ------
    TlsError
        If the files cannot be used.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_authorities: Path | None = None,
        minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._client_authorities = client_authorities
        self._minimum_version = minimum_version
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._context = self._load()
        self._log = get_logger("receive")

    def secure(self, connection: socket.socket, timeout: float) -> ssl.SSLSocket:
        """Do the handshake within `timeout` seconds. Raises `OSError` (of which `ssl.SSLError` is one)."""
        connection.settimeout(timeout)
        secured = self.context().wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        try:
            secured.do_handshake()
        except BaseException:
            secured.close()
            raise
        return secured

    def context(self) -> ssl.SSLContext:
        """For the next connection: made of the files as they are now, if those can be used."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp:
                self._stamp = stamp
                try:
                    self._context = self._load()
                    self._log.info("certificate_reloaded", file=self._certificate.name)
                except TlsError as error:
                    self._log.error("certificate_not_reloaded", reason=str(error))
            return self._context

    def _look(self) -> Sequence[tuple[int, int] | None]:
        """Size and time of each file: what changes when one is replaced."""
        files = (self._certificate, self._key, self._client_authorities)
        stamps: list[tuple[int, int] | None] = []
        for file in files:
            try:
                found = file.stat() if file is not None else None
            except OSError:
                found = None
            stamps.append((found.st_mtime_ns, found.st_size) if found else None)
        return stamps

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._minimum_version
        context.set_ciphers(_CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        try:
            context.load_cert_chain(self._certificate, self._key, password=lambda: "")
        except (OSError, ValueError) as error:
            raise TlsError(
                f"{self._certificate.name} and {self._key.name} cannot be used: a PEM certificate and its PEM key "
                f"without password are expected ({_reason(error)})"
            ) from None
        if self._client_authorities is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self._client_authorities)
            except (OSError, ValueError) as error:
                raise TlsError(
                    f"{self._client_authorities.name} cannot be used: PEM certificates of the authorities of clients "
                    f"are expected ({_reason(error)})"
                ) from None
        return context


def certificate_digest(connection: socket.socket) -> str:
    """SHA-256 of the certificate that the peer has shown, in hexadecimal; empty without one."""
    shown = connection.getpeercert(binary_form=True) if isinstance(connection, ssl.SSLSocket) else None
    return hashlib.sha256(shown).hexdigest() if shown else ""


def _reason(error: Exception) -> str:
    return error.reason if isinstance(error, ssl.SSLError) and error.reason else type(error).__name__
