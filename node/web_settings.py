"""`[web]`: the HTTP server, which takes objects by STOW-RS."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from node.settings_types import AeTitle, Section


class WebClient(Section):
    """`[[web.clients]]`: who may send by HTTP. All conditions given must hold."""

    ae_title: AeTitle = Field(description="What the client is called in routes, log and quarantine.")
    bearer_token_file: Path | None = Field(
        None, description="File that holds its bearer token; read again for each request."
    )
    bearer_token_env: str = Field("", description="Environment variable that holds its bearer token instead.")
    certificates: tuple[Annotated[str, StringConstraints(to_lower=True, pattern=r"^[0-9a-fA-F]{64}$")], ...] = Field(
        (), description="SHA-256 of the client certificates that it may show, in hexadecimal."
    )
    addresses: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="Addresses or networks it comes from, e.g. 10.1.2.0/24; empty means any."
    )

    @model_validator(mode="after")
    def _has_a_condition(self) -> "WebClient":
        if self.bearer_token_file is not None and self.bearer_token_env:
            raise ValueError("bearer_token_file and bearer_token_env exclude each other: give one")
        if not (self.bearer_token_file or self.bearer_token_env or self.certificates or self.addresses):
            raise ValueError(
                "nothing tells this client from others: give bearer_token_file, bearer_token_env, certificates or "
                "addresses"
            )
        return self


class WebSettings(Section):
    """`[web]`: the HTTP server."""

    enabled: bool = Field(False, description="Whether `overread run` starts the HTTP server.")
    metrics: bool = Field(
        False, description="Answer `GET /metrics` for Prometheus, to everybody who reaches the port; numbers only."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8042, ge=0, le=65535, description="TCP port to listen on; 0 lets the system choose one.")
    tls_certificate: str = Field(
        "", description="PEM file: certificate of the node with its chain, read again when it changes; empty: no TLS."
    )
    tls_key: str = Field("", description="PEM file: its private key, without password.")
    tls_client_authorities: str = Field(
        "", description="PEM file: clients must show a certificate of one of these authorities; empty: they need none."
    )
    tls_minimum_version: Literal["1.2", "1.3"] = Field("1.2", description="Oldest version of TLS accepted.")
    clients: tuple[WebClient, ...] = Field((), description="Who may send, by bearer token, certificate and address.")
    allow_anonymous: bool = Field(
        False, description="Let everybody send who reaches the port, under the AE title STOW-RS."
    )
    maximum_object_mb: int = Field(4096, ge=1, description="Largest object accepted, in MB (10^6 bytes).")
    maximum_parts: int = Field(10_000, ge=1, description="Most objects in one request.")
    maximum_uploads: int = Field(
        16, ge=1, le=256, description="Requests that send objects at once; more are answered 503 until one ends."
    )
    header_timeout_seconds: float = Field(
        10, gt=0, description="Time a client has for TLS and for each request up to its body; also when idle."
    )
    body_timeout_seconds: float = Field(
        60, gt=0, description="A body without a byte, and an answer that nobody takes, for this long is ended."
    )
    minimum_bytes_per_second: int = Field(
        1000,
        ge=0,
        description="A body that is slower than this, once we waited for it for body_timeout_seconds, is ended.",
    )
    stop_seconds: int = Field(5, ge=0, description="Time that requests have to finish when the node stops.")

    @model_validator(mode="after")
    def _is_whole(self) -> "WebSettings":
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key belong together: give both or none")
        if self.tls_client_authorities and not self.tls_certificate:
            raise ValueError("tls_client_authorities needs tls_certificate and tls_key: give them")
        if any(client.certificates for client in self.clients) and not self.tls_client_authorities:
            raise ValueError("certificates of clients need tls_client_authorities: give it")
        if self.enabled and not (self.clients or self.allow_anonymous or self.metrics):
            raise ValueError(
                "nobody may send: list clients; or set metrics = true where only figures are wanted, or "
                "allow_anonymous = true where everybody who reaches the port may send"
            )
        return self

    def with_absolute_paths(self, base: Path) -> "WebSettings":
        """The same with its files made absolute against the folder of the configuration file."""
        update: dict[str, Any] = {
            key: str((base / file).resolve())
            for key in ("tls_certificate", "tls_key", "tls_client_authorities")
            if (file := getattr(self, key))
        }
        update["clients"] = tuple(
            client.model_copy(update={"bearer_token_file": (base / client.bearer_token_file).resolve()})
            if client.bearer_token_file
            else client
            for client in self.clients
        )
        return self.model_copy(update=update)
