"""`overread web` and `overread listen` as processes: what `node.service` connects, seen from outside."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.counterparts import free_port, wait_until
from tests.node.receive.test_commitment_scp import Modality
from tests.node.receive.wire import CT
from tests.node.web.conftest import compose, part10, successes
from tests.phantoms import make_series

CONFIGURATION = """\
[node]
data_dir = "data"
[dimse]
host = "127.0.0.1"
port = {dimse_port}
free_disk_mb = 1
[web]
enabled = true
port = {web_port}
clients = [{{ ae_title = "CT1", bearer_token_file = "ct1.token" }}]
[commitment]
requesters = [{{ ae_title = "CT1", report = "same-association" }}]
"""
TOKEN = "5eed" * 8


@contextmanager
def process(role: str, folder: Path) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """`overread <role>` and its log; killed at the end if it still runs."""
    log = folder / f"{role}.log"
    with log.open("wb") as stream:
        started = subprocess.Popen(
            [sys.executable, "-m", "node", role, "--config", str(folder / "node.toml")],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:
        yield started, log
    finally:
        started.kill()
        started.wait()


def events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def listens(log: Path, running: "subprocess.Popen[bytes]") -> bool:
    assert running.poll() is None, log.read_text()
    return any(event["event"] == "listening" for event in events(log))


def test_object_by_http_is_committed_to_by_the_listener(tmp_path: Path) -> None:
    dimse_port, web_port = free_port(), free_port()
    (tmp_path / "node.toml").write_text(CONFIGURATION.format(dimse_port=dimse_port, web_port=web_port))
    (tmp_path / "ct1.token").write_text(TOKEN)
    (image,) = make_series(shape=(1, 16, 16), modality="CT")
    content, content_type = compose([part10(image)])
    headers = {"Content-Type": content_type, "Authorization": f"Bearer {TOKEN}"}
    with process("web", tmp_path) as (web, web_log), process("listen", tmp_path) as (listener, listener_log):
        wait_until(lambda: listens(web_log, web) and listens(listener_log, listener), "both processes", 60)
        url = f"http://127.0.0.1:{web_port}/studies"
        answer = httpx.post(url, content=content, headers=headers, trust_env=False, timeout=60)
        assert (answer.status_code, successes(answer)) == (200, {str(image.SOPInstanceUID)})
        modality = Modality()
        assert modality.ask(dimse_port, [(CT, str(image.SOPInstanceUID))], wait=True) == (0x0000, "")
        assert modality.wait_for_report() == (1, {str(image.SOPInstanceUID)}, {})
        for running in (web, listener):
            running.send_signal(signal.SIGTERM)
            assert running.wait(90) == 0
    names = {event["event"] for event in events(web_log)}
    assert {"listening", "stow_ended", "stopped_listening"} <= names
    assert TOKEN not in web_log.read_text()


def test_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "node.toml").write_text(CONFIGURATION.format(dimse_port=free_port(), web_port=port))
        with process("web", tmp_path) as (web, log):
            assert web.wait(180) == 1
    assert "change web.port" in " ".join(log.read_text().split())
