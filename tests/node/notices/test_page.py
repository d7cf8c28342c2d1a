"""The page behind the links of notices, over HTTP."""

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import httpx
import pytest

from node.notices.links import make_link
from node.notices.page import NoticePage
from node.settings import DimseSettings
from node.store.files import FileStore
from node.store.tables import NoticeState
from node.web.server import WebServer
from node.web_settings import WebSettings
from tests.counterparts import LOOPBACK
from tests.node.deliver.conftest import Node
from tests.node.notices.conftest import HEMORRHAGE, MailServer, Ward, by_mail, ward_of


class Site:
    """A node whose page is served, with one open notice; `steps` and `alerts` are what the audit trail is told."""

    def __init__(self, ward: Ward, client: httpx.Client) -> None:
        self.ward = ward
        self.client = client
        self.steps: list[tuple[str, str]] = []
        self.alerts: list[str] = []

    def link(self, hours: float = 1, secret: bytes = b"s3cret") -> str:
        until = datetime.now(UTC) + timedelta(hours=hours)
        made = make_link("http://x/notices/acknowledge", secret, self.ward.notice().reference, "on-call", until)
        return f"/notices/acknowledge?{urlsplit(made).query}"


@pytest.fixture
def site(node: Node, mail_server: MailServer, request: pytest.FixtureRequest) -> Iterator[Site]:
    """Its parameter is `body_timeout_seconds`."""
    url = "https://node.example.org/notices/acknowledge"
    ward = ward_of(node, [by_mail("on-call")], smtp_port=mail_server.port, acknowledge_url=url)
    node.add_result("pacs", critical=[HEMORRHAGE])
    patience = getattr(request, "param", 60)
    web = WebSettings(
        enabled=True, host=LOOPBACK, port=0, allow_anonymous=True, stop_seconds=1, body_timeout_seconds=patience
    )
    settings = ward.settings.model_copy(update={"web": web, "dimse": DimseSettings(free_disk_mb=0)})
    made = Site(ward, httpx.Client(trust_env=False, timeout=60))
    page = NoticePage(
        node.engine,
        settings,
        lambda: datetime.now(UTC),
        lambda notice, event, who: made.steps.append((event.value, who)),
        lambda address, reason: made.alerts.append(reason),
    )
    server = WebServer(settings, node.engine, FileStore(node.folder), lambda: None, further=page.routes())
    server.start()
    made.client.base_url = httpx.URL(f"http://{LOOPBACK}:{server.bound_port}")
    yield made
    made.client.close()
    server.stop()


def test_opening_the_link_changes_nothing_and_the_button_acknowledges_once(site: Site):
    for _ in range(2):  # a mail scanner, and then the recipient
        shown = site.client.get(site.link())
        assert shown.status_code == 200 and "I know of this result" in shown.text
    assert site.ward.notice().state is NoticeState.OPEN
    assert (
        shown.headers["cache-control"] == "no-store"
        and "default-src 'none'" in shown.headers["content-security-policy"]
    )
    done = site.client.post(site.link(), data={"name": "Dr. <A>"})
    assert "Acknowledged by on-call (Dr. &lt;A&gt;)" in done.text
    again = site.client.post(site.link(), data={"name": "Dr. B"})
    assert "Acknowledged by on-call (Dr. &lt;A&gt;)" in again.text
    assert site.steps == [("ACKNOWLEDGED", "on-call (Dr. <A>)")]
    for text in (shown.text, done.text):
        assert "canary" not in text.lower() and HEMORRHAGE not in text


@pytest.mark.parametrize(
    ("hours", "secret", "words"), [(1, b"wrong", "not one of this node"), (-1, b"s3cret", "ended")]
)
def test_link_that_is_wrong_or_old_is_refused_and_an_alert(site: Site, hours: float, secret: bytes, words: str):
    for ask in (site.client.get, site.client.post):
        refused = ask(site.link(hours, secret))
        assert refused.status_code == 403 and words in refused.text
    assert len(site.alerts) == 2 and site.ward.notice().state is NoticeState.OPEN


def test_long_form_is_refused(site: Site):
    assert site.client.post(site.link(), content=b"name=" + b"x" * 10_000).status_code == 413


@pytest.mark.parametrize("site", [1], indirect=True)
def test_form_that_does_not_come_is_given_up(site: Site):
    head = f"POST {site.link()} HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nname="
    with socket.create_connection((LOOPBACK, site.client.base_url.port or 0), timeout=60) as silent:
        silent.sendall(head.encode())
        assert b"408" in silent.recv(65536).partition(b"\r\n")[0]
    assert site.ward.notice().state is NoticeState.OPEN


def test_without_links_there_is_no_page(node: Node, mail_server: MailServer):
    ward = ward_of(node, [by_mail("on-call")], smtp_port=mail_server.port)
    page = NoticePage(node.engine, ward.settings, lambda: datetime.now(UTC), lambda *_: None, lambda *_: None)
    assert page.routes() == []
