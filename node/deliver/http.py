"""HTTP towards destinations: authentication, and what each failure means for a delivery."""

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx

from node.deliver.tls import client_tls, describe_tls_error, files_stamp
from node.deliver.transport import LONGEST_RETRY_AFTER_SECONDS, NeverTaken, NotTaken, Unreachable
from node.destination_settings import HttpDestination, OAuth2
from node.errors import Permanent

LONGEST_ANSWER_BYTES = 1 << 24
_TOKEN_MARGIN_SECONDS = 60.0
_MOST_TIMEOUTS = 10
"""So many times `timeout_seconds` the body of an answer may take in all: one that comes byte by byte has no end."""
_OF_THE_BODY = ("content-encoding", "content-length", "transfer-encoding")
"""Headers that are about the body as it was sent, not as it was read."""


class HttpPeer:
    """One destination that is spoken to by HTTP. Thread-safe; connections are kept open between deliveries.

    No redirect is followed and no proxy of the environment is used: results go where the configuration says.
    """

    def __init__(
        self, destination: HttpDestination, timeout_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.destination = destination
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._stamp = files_stamp(destination.tls)
        self._client = self._open()
        self._retired: httpx.Client | None = None
        self._client_lock = threading.Lock()
        self._lock = threading.Lock()
        self._token = ""
        self._token_ends = 0.0

    def close(self) -> None:
        """Close the connections that are kept open."""
        self._client.close()
        if self._retired is not None:
            self._retired.close()

    def describe(self) -> str:
        """How messages name the destination: without any credentials that its URL might hold."""
        url = httpx.URL(self.destination.url)
        return f"destination {self.destination.name!r} ({url.copy_with(username=None, password=None, query=None)})"

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        make_content: Callable[[], Iterable[bytes] | bytes] | None = None,
        params: Mapping[str, str] | None = None,
        longest_bytes: int = LONGEST_ANSWER_BYTES,
    ) -> httpx.Response:
        """The answer, whatever its status but 401, 403, 429 and 503.

        `make_content` is called again when the request is repeated with a new token; `longest_bytes` is the most that
        is taken as an answer.

        Raises
        ------
        Unreachable
            No connection, no answer, one without an end, not authorised, or the destination wants to be left alone for
            a while.
        """
        for is_last in (False, True):
            content = make_content() if make_content else None
            sent = {**(headers or {}), **self._authorization()}
            client = self._current_client()
            request = client.build_request(
                method, self.destination.url.rstrip("/") + path, headers=sent, content=content, params=params
            )
            try:
                answer = self._whole_answer(client, request, longest_bytes)
            except httpx.HTTPError as error:
                raise Unreachable(f"{self.describe()}: {_describe(error)}") from None
            if self._wants_new_token(answer, is_last):
                continue
            self._refuse_unready(answer)
            return answer
        raise AssertionError("unreachable")

    def _open(self) -> httpx.Client:
        tls = self.destination.tls
        host = httpx.URL(self.destination.url).host
        verify: Any = client_tls(tls, host, self.destination.name).context if tls else True
        return httpx.Client(verify=verify, timeout=self._timeout_seconds, follow_redirects=False, trust_env=False)

    def _current_client(self) -> httpx.Client:
        """With the certificates as they are on disk now. The client before it may still be in use, and is closed when
        another one follows."""
        with self._client_lock:
            stamp = files_stamp(self.destination.tls)
            if stamp != self._stamp:
                with contextlib.suppress(Permanent):  # they are being written: the next request looks again
                    client = self._open()
                    if self._retired is not None:
                        self._retired.close()
                    self._retired, self._client, self._stamp = self._client, client, stamp
            return self._client

    def _whole_answer(self, client: httpx.Client, request: httpx.Request, longest_bytes: int) -> httpx.Response:
        """The answer with its body, which must be neither longer than this nor without an end."""
        with contextlib.closing(client.send(request, stream=True)) as answer:
            deadline = self._clock() + _MOST_TIMEOUTS * self._timeout_seconds
            body = bytearray()
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > longest_bytes:
                    raise Unreachable(f"{self.describe()} answered with more than {longest_bytes} bytes")
                if self._clock() > deadline:
                    raise Unreachable(f"{self.describe()}: no whole answer in time")
        headers = [(name, value) for name, value in answer.headers.items() if name not in _OF_THE_BODY]
        return httpx.Response(answer.status_code, headers=headers, content=bytes(body), request=request)

    @contextlib.contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """The answer to a GET while its body is still to be read; otherwise as `request`, also what is raised while it
        is read."""
        url = self.destination.url.rstrip("/") + path
        try:
            for is_last in (False, True):
                sent = {**headers, **self._authorization()}
                with self._current_client().stream("GET", url, headers=sent) as answer:
                    if self._wants_new_token(answer, is_last):
                        continue
                    self._refuse_unready(answer)
                    yield answer
                    return
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.describe()}: {_describe(error)}") from None

    def problem(self, answer: httpx.Response, what: str, statuses: Mapping[str, int]) -> NotTaken | NeverTaken:
        """The error for an answer that is no success: 5xx and 408 are tried again, other statuses are not."""
        said = f"{self.describe()} answered HTTP {answer.status_code} to {what}"
        if answer.status_code >= 500 or answer.status_code == 408:
            return NotTaken(said, statuses)
        advice = {
            404: "check url",
            405: "check url",
            413: "its limit for a request is too small",
            415: "it does not take this media type",
        }.get(answer.status_code, "its log says more")
        return NeverTaken(f"{said}: {advice}, then retry the job", statuses)

    def _wants_new_token(self, answer: httpx.Response, is_last: bool) -> bool:
        """Whether the token was not taken and another may be; the old one is forgotten."""
        if answer.status_code != 401 or self.destination.oauth2 is None or is_last:
            return False
        with self._lock:
            self._token_ends = 0.0
        return True

    def _refuse_unready(self, answer: httpx.Response) -> None:
        said = f"{self.describe()} answered HTTP {answer.status_code}"
        match answer.status_code:
            case 401:
                raise Unreachable(f"{said}: our credentials are not taken; renew the token or client secret")
            case 403:
                raise Unreachable(f"{said}: our credentials may not do this; grant them the role that stores objects")
            case 429 | 503:
                wait = retry_after_seconds(answer.headers.get("Retry-After", ""), answer.headers.get("Date", ""))
                raise Unreachable(f"{said}: it is busy", wait)

    def _authorization(self) -> dict[str, str]:
        if self.destination.bearer_token_file is not None:
            return {"Authorization": f"Bearer {self._token_in(self.destination.bearer_token_file)}"}
        if self.destination.oauth2 is not None:
            return {"Authorization": f"Bearer {self._oauth2_token(self.destination.oauth2)}"}
        return {}

    def _token_in(self, path: Path) -> str:
        token = read_secret(path, self.describe())
        if not all(0x20 < byte < 0x7F for byte in token):
            raise Permanent(f"{self.describe()}: {path} holds no token: one line of printable ASCII is expected")
        return token.decode("ascii")

    def _oauth2_token(self, oauth2: OAuth2) -> str:
        """Client credentials (RFC 6749 4.4); the token is used until a minute before it ends."""
        with self._lock:
            if self._clock() < self._token_ends:
                return self._token
            form = {
                "grant_type": "client_credentials",
                "client_id": oauth2.client_id,
                "client_secret": read_secret(oauth2.client_secret_file, self.describe()).decode("utf-8", "replace"),
                **({"scope": oauth2.scope} if oauth2.scope else {}),
            }
            client = self._current_client()
            request = client.build_request("POST", oauth2.token_url, data=form)
            try:
                answer = self._whole_answer(client, request, LONGEST_ANSWER_BYTES)
            except httpx.HTTPError as error:
                raise Unreachable(f"{self.describe()}: no token from oauth2.token_url: {_describe(error)}") from None
            if answer.status_code != 200:
                raise Unreachable(
                    f"{self.describe()}: oauth2.token_url answered HTTP {answer.status_code}: check client_id, "
                    "client_secret_file and scope"
                )
            try:
                granted = answer.json()
                token = str(granted["access_token"])
                if not token.isascii() or not token.isprintable():
                    raise ValueError
                self._token = token
                lasts = float(granted.get("expires_in", 300))
            except (ValueError, KeyError, TypeError):
                raise Unreachable(f"{self.describe()}: oauth2.token_url gave no access_token") from None
            self._token_ends = self._clock() + max(lasts - _TOKEN_MARGIN_SECONDS, lasts / 2)
            return self._token


def retry_after_seconds(value: str, date: str = "") -> float | None:
    """Retry-After (RFC 9110 10.2.3) in seconds, at most an hour; None when it is missing or makes no sense.

    A date is one of the server's clock: it is compared with the Date of the same answer, not with our clock.
    """
    if value.strip().isdigit():
        return min(float(value), LONGEST_RETRY_AFTER_SECONDS)
    moment = _timestamp(value)
    if moment is None:
        return None
    now = _timestamp(date) or time.time()
    return min(max(moment - now, 0.0), LONGEST_RETRY_AFTER_SECONDS)


def _timestamp(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None


def read_secret(path: Path, who: str) -> bytes:
    """A secret from its file, read each time so that it can be renewed without a restart.

    Raises
    ------
    Permanent
        There is none: nothing is signed with an empty key.
    """
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise Permanent(f"{who}: {path} cannot be read ({error.strerror or type(error).__name__})") from None
    if not secret:
        raise Permanent(f"{who}: {path} is empty: write the secret into it")
    return secret


def _describe(error: httpx.HTTPError) -> str:
    """The kind of failure; the text of the library may quote what was sent."""
    cause = _system_error(error)
    if isinstance(cause, ssl.SSLError):
        return describe_tls_error(cause)
    words = {
        "ConnectError": "no connection",
        "ConnectTimeout": "no connection in time",
        "ReadTimeout": "no answer in time",
        "WriteTimeout": "it took nothing in time",
        "ReadError": "the connection was lost before the answer",
        "WriteError": "the connection was lost while it was sent to",
        "RemoteProtocolError": "the connection was closed before the answer, or it is no HTTP server",
    }
    said = words.get(type(error).__name__, type(error).__name__)
    said = f"{said} ({cause.strerror})" if cause is not None and cause.strerror else said
    return f"{said}; is the server running, and is url right?" if isinstance(error, httpx.ConnectError) else said


def _system_error(error: BaseException) -> OSError | None:
    """The failure of socket or TLS below an error of the library."""
    cause = error.__cause__ or error.__context__
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return cause
