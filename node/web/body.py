"""The body of a request, read as long as it makes progress."""

import asyncio
import time
from typing import Any

from starlette.requests import Request

from node.errors import OverreadError
from node.web.reception import RequestRefused

_DRAIN_BYTES = 1 << 20
_DRAIN_SECONDS = 1.0


class ClientLost(OverreadError):
    """The client hung up within its request."""


class Body:
    """Reads one body.

    Parameters
    ----------
    timeout_seconds : float
        Longest wait for the next byte.
    minimum_bytes_per_second : int
        Judged once we waited for `timeout_seconds` in all; the time that our own disk takes is not counted.
    """

    def __init__(self, request: Request, timeout_seconds: float, minimum_bytes_per_second: int) -> None:
        self._request = request
        self._timeout_seconds = timeout_seconds
        self._minimum_bytes_per_second = minimum_bytes_per_second
        self._bytes = 0
        self._waited = 0.0
        self.is_complete = False

    async def next(self) -> bytes:
        """The next piece. Raises `RequestRefused`, 408 when there is no progress, or `ClientLost`."""
        since = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                message = await self._receive()
        except TimeoutError:
            raise RequestRefused(408, "timeout", "no byte of the body within web.body_timeout_seconds") from None
        self._waited += time.monotonic() - since
        piece = bytes(message.get("body", b""))
        self._bytes += len(piece)
        if self._waited > self._timeout_seconds and self._bytes < self._waited * self._minimum_bytes_per_second:
            raise RequestRefused(408, "too-slow", "the body is slower than web.minimum_bytes_per_second")
        return piece

    async def drain(self) -> None:
        """Read a little of what nobody wants: many clients look at the answer only when they have sent everything, and
        would not see it if they were cut off."""
        if "100-continue" in self._request.headers.get("expect", "").lower() and not self._bytes:
            return  # it waits for our answer before it sends
        left = _DRAIN_BYTES
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                while left > 0 and not self.is_complete:
                    left -= len((await self._receive()).get("body", b""))
        except (TimeoutError, ClientLost):
            return

    async def _receive(self) -> Any:
        message = await self._request.receive()
        if message["type"] != "http.request":
            raise ClientLost("the client hung up before the body was complete")
        self.is_complete = not message.get("more_body", False)
        return message
