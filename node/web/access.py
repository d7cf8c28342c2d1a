"""Who may send by HTTP: by bearer token (RFC 6750), client certificate and address.

Tokens are read from their files for each request, so that they can be renewed without a restart. They are compared in
constant time and are never logged.
"""

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from node.logs import get_logger
from node.web.reception import RequestRefused
from node.web_settings import WebClient

ANONYMOUS_AE_TITLE = "STOW-RS"
_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Caller:
    """What is known of who sends a request: address, SHA-256 of its certificate, Authorization header; empty where
    there is none."""

    address: str
    certificate: str = ""
    authorization: str = ""


class Access:
    """Says which client a caller is.

    Parameters
    ----------
    clients, allow_anonymous
        As in `[web]`.
    environment : mapping
        Where tokens of `bearer_token_env` are.
    """

    def __init__(
        self, clients: Sequence[WebClient], allow_anonymous: bool, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._clients = clients
        self._allow_anonymous = allow_anonymous
        self._environment = environment
        self._log = get_logger("web")

    def identify(self, caller: Caller) -> str:
        """The AE title of the caller. Raises `RequestRefused`: 401 where a token is missing or wrong, 403 where no
        token would help."""
        fitting = [client for client in self._clients if _fits(client, caller)]
        for client in fitting:
            if not (client.bearer_token_file or client.bearer_token_env):
                return client.ae_title
        scheme, _, shown = caller.authorization.partition(" ")
        if scheme.lower() == "bearer" and (ae_title := self._find(fitting, shown.strip())):
            return ae_title
        if self._allow_anonymous and not caller.authorization:
            return ANONYMOUS_AE_TITLE
        if fitting:
            raise RequestRefused(401, "bearer-token", "a bearer token of a client of this node is needed")
        raise RequestRefused(403, "unknown-client", "address and certificate fit no entry of web.clients")

    def _find(self, clients: Sequence[WebClient], shown: str) -> str:
        """The client whose token this is; looks at all of them, so that the time says nothing."""
        digest = hashlib.sha256(shown.encode()).digest()
        found = ""
        for client in clients:
            token = self._token(client)
            if hmac.compare_digest(hashlib.sha256(token.encode()).digest(), digest) and len(token) >= _SHORTEST_TOKEN:
                found = client.ae_title
        return found

    def _token(self, client: WebClient) -> str:
        token, reason = "", ""
        if client.bearer_token_file is None:
            token = self._environment.get(client.bearer_token_env, "").strip()
        else:
            try:
                token = client.bearer_token_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = f"its file cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})"
        if len(token) < _SHORTEST_TOKEN:
            reason = reason or f"it has fewer than {_SHORTEST_TOKEN} characters: make one with `openssl rand -hex 32`"
            self._log.error("bearer_token_unusable", client=client.ae_title, reason=reason)
        return token


def _fits(client: WebClient, caller: Caller) -> bool:
    """Whether all conditions but the token hold."""
    return (not client.certificates or caller.certificate in client.certificates) and (
        not client.addresses or any(ip_address(caller.address) in network for network in client.addresses)
    )
