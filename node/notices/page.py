"""The page on which a recipient acknowledges a notice: opening its link shows a button, and only that acknowledges.

The page says the reference and nothing of the patient. Wrong links are security alerts.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime
from html import escape
from urllib.parse import parse_qs

from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from node.errors import Permanent
from node.notices.desk import Witness, acknowledge
from node.notices.links import LinkRefused, read_link
from node.notices.telling import signing_secret
from node.settings import Settings
from node.store.database import read_transaction
from node.store.notices import Notice, get_notice
from node.store.tables import NoticeState

PATH = "/notices/acknowledge"
_LONGEST_FORM_BYTES = 4096
_LONGEST_NAME = 80
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'",
}


class NoticePage:
    """Serves the links of notices.

    Parameters
    ----------
    witness : callable
        The audit trail, told who acknowledged.
    alert : callable
        Told address and reason where a link is refused.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        now: Callable[[], datetime],
        witness: Witness,
        alert: Callable[[str, str], None],
    ) -> None:
        self._engine = engine
        self._settings = settings.notices
        self._form_seconds = settings.web.body_timeout_seconds
        self._now = now
        self._witness = witness
        self._alert = alert

    def routes(self) -> list[Route]:
        """What the HTTP server serves of it; nothing where no links are sent."""
        if not self._settings.acknowledge_url:
            return []
        return [Route(PATH, self._show, methods=["GET"]), Route(PATH, self._acknowledge, methods=["POST"])]

    async def _show(self, request: Request) -> Response:
        return await asyncio.to_thread(self._answer, request, None)

    async def _acknowledge(self, request: Request) -> Response:
        content = b""
        try:
            async with asyncio.timeout(self._form_seconds):  # all of it: nobody has said who they are yet
                async for piece in request.stream():
                    content += piece
                    if len(content) > _LONGEST_FORM_BYTES:
                        return _page(413, "That is too long.")
        except TimeoutError:
            return _page(408, "The form did not come.")
        named = parse_qs(content.decode("utf-8", "replace")).get("name", [""])[0]
        return await asyncio.to_thread(self._answer, request, named.strip()[:_LONGEST_NAME])

    def _answer(self, request: Request, name: str | None) -> Response:
        """The page for a link; `name` is None while it is only looked at."""
        now = self._now()
        try:
            reference, recipient = read_link(request.query_params, signing_secret(self._settings), now)
            if name is not None:
                who = f"{recipient} ({name})" if name else recipient
                notice, _ = acknowledge(self._engine, reference, who, now, self._witness)
            else:
                with read_transaction(self._engine) as connection:
                    notice = get_notice(connection, reference)
        except LinkRefused as error:
            self._alert(request.client.host if request.client else "", str(error))
            return _page(403, escape(str(error)))
        except Permanent:
            return _page(404, "There is no such notice.")
        return _page(200, _words(notice))


def _words(notice: Notice) -> str:
    title = f"<p>Critical result <b>{escape(notice.reference)}</b></p>"
    if notice.state is NoticeState.ACKNOWLEDGED:
        return f"{title}<p>Acknowledged by {escape(notice.acknowledged_by or '')}.</p>"
    if notice.state is NoticeState.WITHDRAWN:
        return f"{title}<p>A later result no longer says it.</p>"
    return (
        f'{title}<form method="post"><p><label>Your name <input name="name" maxlength="{_LONGEST_NAME}" autofocus>'
        "</label></p><p><button>I know of this result</button></p></form>"
    )


def _page(status: int, words: str) -> Response:
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return HTMLResponse(f"{head}<title>Overread</title><main>{words}</main></html>", status, _HEADERS)
