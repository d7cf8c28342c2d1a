"""The trail to a collector: rsyslog over TLS, and one of ours that misbehaves."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from lxml import etree
from structlog.testing import capture_logs

from node.audit.events import application_activity, security_alert
from node.audit.forward import Cursor, Forwarder, frame, lines_after
from node.audit.message import Source
from node.audit.trail import Line, Trail, files
from node.audit_settings import AuditSettings
from tests.certificates import Authority, make_authority
from tests.counterparts import LOOPBACK, Program, answers, free_port, start_on_free_ports, wait_until
from tests.node.audit.test_message import SCHEMA


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = make_authority(tmp_path_factory.mktemp("ca"))
    made.issue("node")
    made.issue("collector")
    return made


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(tmp_path / "audit", Source("NODE"), "deliver")


def record(trail: Trail, count: int) -> None:
    for number in range(count):
        trail.record(security_alert("NODE", f"PEER{number}", "10.0.0.1", "Überraschung"))


def forwarder_to(tmp_path: Path, port: int, authority: Authority, ca: Path | None = None) -> Forwarder:
    settings = AuditSettings(
        collector_host=LOOPBACK,
        collector_port=port,
        collector_ca_file=str(ca or authority.ca),
        collector_certificate_file=str(authority.folder / "node.pem"),
        collector_key_file=str(authority.folder / "node.key"),
        retry_seconds=0.05,
    )
    return Forwarder(tmp_path / "audit", settings, poll_seconds=0.05)


def test_frame_is_a_syslog_message_with_its_length():
    line = Line(7, "0" * 64, "2030-01-02T03:04:05.000+00:00", "deliver", "<AuditMessage>ü</AuditMessage>")
    length, _, message = frame(line, "node1").partition(b" ")
    assert int(length) == len(message)
    head, _, content = message.decode("utf-8").partition("\ufeff")
    assert head == "<85>1 2030-01-02T03:04:05.000+00:00 node1 deliver 7 DICOM+RFC3881 - "
    assert content == line.message


@contextmanager
def rsyslog(folder: Path, authority: Authority) -> Iterator[tuple[int, Path]]:
    """Debian's rsyslog with TLS and client certificates: its port, and the file that it writes messages to."""
    certificate, key = authority.folder / "collector.pem", authority.folder / "collector.key"
    kept = folder / "collected.log"
    ports: list[int] = []

    def make() -> Program:
        ports.append(free_port())
        config = folder / "rsyslog.conf"
        config.write_text(
            f'global(workDirectory="{folder}" maxMessageSize="64k" defaultNetstreamDriver="gtls"\n'
            f' defaultNetstreamDriverCAFile="{authority.ca}" defaultNetstreamDriverCertFile="{certificate}"\n'
            f' defaultNetstreamDriverKeyFile="{key}")\n'
            'module(load="imtcp" StreamDriver.Name="gtls" StreamDriver.Mode="1"'
            ' StreamDriver.AuthMode="x509/certvalid")\n'
            f'input(type="imtcp" port="{ports[-1]}" address="{LOOPBACK}")\n'
            'template(name="whole" type="string"'
            ' string="%pri% %timestamp:::date-rfc3339% %app-name% %procid% %msgid% %msg%\\n")\n'
            f'action(type="omfile" file="{kept}" template="whole" asyncWriting="off" flushOnTXEnd="on")\n'
        )
        command = ["rsyslogd", "-n", "-f", str(config), "-i", str(folder / "rsyslog.pid")]
        return Program(command, lambda: answers(ports[-1]), folder / "rsyslog.log", {}, folder)

    program = start_on_free_ports(make)
    try:
        yield ports[-1], kept
    finally:
        program.kill()


@pytest.mark.counterpart("rsyslog")
def test_rsyslog_gets_every_message_once_over_tls(tmp_path: Path, trail: Trail, authority: Authority):
    (tmp_path / "peer").mkdir()
    record(trail, 5)
    with rsyslog(tmp_path / "peer", authority) as (port, kept):
        forwarder = forwarder_to(tmp_path, port, authority)
        forwarder.step()
        record(trail, 2)
        forwarder.step()
        forwarder_to(tmp_path, port, authority).step()
        rows = wait_until(
            lambda: kept.exists() and len(found := kept.read_text().splitlines()) >= 7 and found, "messages"
        )
    assert [row.split()[3] for row in rows] == [str(number) for number in range(1, 8)]
    for row in rows:
        priority, _, process, _, kind, message = row.split(" ", 5)
        assert (priority, process, kind) == ("85", "deliver", "DICOM+RFC3881")
        SCHEMA.assertValid(etree.fromstring(message.lstrip("\ufeff")))


@dataclass
class Collector:
    """A strict RFC 5425 collector. `drop_after` cuts the next connections after so many bytes."""

    context: ssl.SSLContext
    drop_after: list[int] = field(default_factory=list)
    sessions: list[list[str]] = field(default_factory=list)
    port: int = 0

    @contextmanager
    def running(self) -> Iterator["Collector"]:
        server = socket.create_server((LOOPBACK, self.port))
        self.port = server.getsockname()[1]
        server.settimeout(0.05)
        stopping = threading.Event()

        def serve() -> None:
            while not stopping.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                try:
                    self._read(connection)
                except OSError:
                    continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield self
        finally:
            stopping.set()
            thread.join()
            server.close()

    def _read(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        limit = self.drop_after.pop(0) if self.drop_after else None
        with self.context.wrap_socket(connection, server_side=True) as secured:
            content = b""
            while limit is None or len(content) < limit:
                piece = secured.recv(65536 if limit is None else max(min(limit - len(content), 65536), 1))
                if not piece:
                    break
                content += piece
            if limit is not None:  # a reset, not an orderly end
                secured.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                return
            self.sessions.append(self._split(content))
            secured.unwrap()

    @staticmethod
    def _split(content: bytes) -> list[str]:
        found = []
        while content:
            length, _, content = content.partition(b" ")
            found.append(content[: int(length)].decode("utf-8"))
            content = content[int(length) :]
        return found


@pytest.fixture
def collector(authority: Authority) -> Collector:
    certificate, key = authority.folder / "collector.pem", authority.folder / "collector.key"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    return Collector(context)


def numbers(session: list[str]) -> list[int]:
    return [int(message.split(" ")[4]) for message in session]


def test_messages_wait_while_the_collector_is_away(
    tmp_path: Path, trail: Trail, collector: Collector, authority: Authority
):
    collector.port = free_port()
    record(trail, 3)
    forwarder = forwarder_to(tmp_path, collector.port, authority)
    with capture_logs() as said:
        assert forwarder.step() == 0.05
        forwarder.step()
        with collector.running():
            forwarder.step()
    assert [line["event"] for line in said] == ["audit_collector_is_away", "audit_collector_is_back"]
    assert [numbers(session) for session in collector.sessions] == [[1, 2, 3]]


@pytest.mark.parametrize("after", [0, 1, 300, 2500])
def test_batch_that_breaks_off_is_sent_again_whole(
    tmp_path: Path, trail: Trail, collector: Collector, authority: Authority, after: int
):
    record(trail, 4)
    collector.drop_after = [after]
    with collector.running():
        forwarder = forwarder_to(tmp_path, collector.port, authority)
        forwarder.step()
        forwarder.step()
        forwarder.step()
    assert [numbers(session) for session in collector.sessions] == [[1, 2, 3, 4]]


@pytest.mark.parametrize("wrong", ["authority", "plain"])
def test_collector_that_is_not_trusted_gets_nothing(
    tmp_path: Path, trail: Trail, collector: Collector, authority: Authority, wrong: str
):
    record(trail, 1)
    with capture_logs() as said, collector.running():
        if wrong == "authority":
            forwarder_to(tmp_path, collector.port, authority, ca=make_authority(tmp_path / "other").ca).step()
        else:
            with socket.create_server((LOOPBACK, 0)) as plain:
                threading.Thread(target=lambda: plain.accept()[0].close()).start()
                forwarder_to(tmp_path, plain.getsockname()[1], authority).step()
    assert collector.sessions == [] and [line["event"] for line in said] == ["audit_collector_is_away"]
    assert "stay in the trail" in said[0]["error"]


def test_damage_and_a_line_that_is_being_written_are_left_out(tmp_path: Path, trail: Trail):
    record(trail, 2)
    with files(tmp_path / "audit")[0].open("ab") as file:
        file.write(b"damage\n1 half a li")
    found = list(lines_after(tmp_path / "audit", Cursor()))
    assert [line.number if line else None for line, _ in found] == [1, 2, None]
    assert list(lines_after(tmp_path / "audit", found[-1][1])) == []


@pytest.mark.parametrize("cursor", ["{}", "[]", '{"file": 1, "offset": -7}', '{"file": "9", "offset": "x"}', "\x00"])
def test_cursor_that_is_none_ends_no_lane(tmp_path: Path, trail: Trail, authority: Authority, cursor: str):
    """What runs beside the forwarder sends results."""
    record(trail, 1)
    (tmp_path / "audit" / "forwarded.json").write_text(cursor)
    forwarder = forwarder_to(tmp_path, free_port(), authority)
    with capture_logs():
        assert forwarder.step() == 0.05


def test_trail_is_read_on_from_the_cursor_over_files(tmp_path: Path):
    for month in (1, 2):
        now = datetime(2030, month, 1, tzinfo=UTC)
        Trail(tmp_path / "audit", Source("NODE"), "x", now=lambda now=now: now).record(
            application_activity("NODE", "x", starts=True)
        )
    (_, first), _ = lines_after(tmp_path / "audit", Cursor())
    assert [line.number for line, _ in lines_after(tmp_path / "audit", first) if line] == [2]
