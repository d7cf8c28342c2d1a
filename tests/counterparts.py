"""Real counterparts, started for a test on free loopback ports and always ended with it.

`orthanc` and `storescp` run the programs of Debian (`faulty_archive.py` has one that misbehaves). Each is a
context manager. Programs that cannot be told to listen on loopback only get `loopback.c` preloaded, which
also ends them when the test process dies.
"""

import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any, NoReturn

import pytest

LOOPBACK = "127.0.0.1"
PATIENCE = 3.0
"""Machines that run tests are busy: a wait may last this many times its seconds. A test that passes never does."""


_PORTS = range(10_000, 32_000)
"""Below those that the system gives to whoever asks for any port, and to connections that go out."""


def _ports_of_this_process() -> Iterator[int]:
    """Each worker of a test run has ports that no other worker takes; several runs begin at different places."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = _PORTS[worker % workers :: workers]
    return cycle([*own[(start := random.randrange(len(own))) :], *own[:start]])


_TRIED = _ports_of_this_process()


def free_port() -> int:
    """A TCP port that is free on loopback now, and that nothing takes by chance before it is used."""
    for port in islice(_TRIED, len(_PORTS)):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise AssertionError("no TCP port is free")


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """The first true value of `condition`, asked every 20 ms; the test fails after `seconds` of a quiet machine."""
    deadline = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"after {seconds:g} s: no {what}")


def leave_out(reason: str) -> NoReturn:
    """Say what this machine lacks; with CI=true nothing is left out."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI=true leaves nothing out")
    pytest.skip(reason)


def answers(port: int) -> bool:
    """True when something accepts connections on this loopback port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False


def loopback_environment() -> dict[str, str]:
    """The environment with `loopback.c` preloaded; it is compiled once for each version of the file."""
    source = Path(__file__).with_name("loopback.c")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:16]
    built = Path(tempfile.gettempdir()) / f"overread-tests-{os.getuid()}" / f"loopback-{digest}.so"
    if not built.exists():
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            leave_out("no C compiler (apt install gcc libc6-dev): counterparts cannot be kept on loopback")
        built.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = built.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", fresh, source], check=True)
        fresh.rename(built)
    return {**os.environ, "LD_PRELOAD": str(built)}


@dataclass
class Program:
    """A counterpart's process: started until `ready` or tried again, ended for certain."""

    command: Sequence[str | Path]
    ready: Callable[[], bool]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 30.0) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(part) for part in self.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**loopback_environment(), **self.environment},
            )
        process = self.process
        try:
            wait_until(lambda: process.poll() is not None or self.ready(), f"readiness of {self.command[0]}", seconds)
        except AssertionError:
            self.stop()
            raise
        if process.poll() is not None:
            raise ChildProcessError(f"{self.command[0]} ended at once: {self.log.read_text(errors='replace')[-800:]}")

    def kill(self) -> None:
        """End it now, when nobody will look at what it leaves."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


def start_on_free_ports(make: Callable[[], Program], tries: int = 3) -> Program:
    """Start the program that `make` describes; again with other ports when one was taken meanwhile."""
    for left in reversed(range(tries)):
        program = make()
        try:
            program.start()
            return program
        except ChildProcessError:
            if not left:
                raise
    raise AssertionError("unreachable")


@dataclass
class StoreScp:
    """dcmtk's `storescp`, writing what it receives into `folder`."""

    program: Program
    port: int
    folder: Path
    ae_title: str

    def received(self) -> list[Path]:
        """Files written so far, in the order of their names."""
        return sorted(self.folder.iterdir())

    def wait_for(self, count: int, seconds: float = 20.0) -> list[Path]:
        wait_until(lambda: len(self.received()) >= count, f"{count} objects in storescp", seconds)
        return self.received()


@contextmanager
def storescp(
    folder: Path, *options: str, ae_title: str = "STORESCP", environment: Mapping[str, str] | None = None
) -> Iterator[StoreScp]:
    """dcmtk's Storage SCP; it accepts every storage class and, with ``+xa``, every transfer syntax."""
    received = folder / "received"
    received.mkdir(parents=True)
    ports: list[int] = []

    def make() -> Program:
        ports.append(free_port())
        port = ports[-1]
        command = ["storescp", "-aet", ae_title, "-od", str(received), *options, str(port)]
        return Program(command, lambda: answers(port), folder / "storescp.log", environment or {}, folder)

    program = start_on_free_ports(make)
    try:
        yield StoreScp(program, ports[-1], received, ae_title)
    finally:
        program.kill()


@dataclass
class OrthancPeer:
    """A running Orthanc: its ports, and what tests do to it over its REST API."""

    program: Program
    dicom_port: int
    http_port: int
    ae_title: str

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def dicomweb_url(self) -> str:
        return f"{self.url}/dicom-web"

    def request(
        self, path: str, body: bytes | dict[str, Any] | list[Any] | str | None = None, method: str = ""
    ) -> bytes:
        """The body of the answer; a dict or list is sent as JSON. Raises `urllib.error.HTTPError`."""
        content = body.encode() if isinstance(body, str) else body
        if isinstance(content, dict | list):
            content = json.dumps(content).encode()
        request = urllib.request.Request(
            f"{self.url}{path}", data=content, method=method or ("POST" if content else "GET")
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return bytes(answer.read())

    def get(self, path: str) -> Any:
        return json.loads(self.request(path))

    def store(self, paths: Sequence[Path]) -> None:
        """Put Part 10 files into Orthanc, over HTTP."""
        for path in paths:
            self.request("/instances", path.read_bytes())

    def set_modality(self, name: str, ae_title: str, port: int) -> None:
        """Make a DICOM node on loopback known to Orthanc under `name`."""
        entry = {"AET": ae_title, "Host": LOOPBACK, "Port": port}
        self.request(f"/modalities/{name}", entry, "PUT")

    def identifier(self, uid: str) -> str:
        """Orthanc's own identifier of a study, series or instance, from its DICOM UID."""
        found = json.loads(self.request("/tools/lookup", uid))
        assert len(found) == 1, f"{uid}: Orthanc knows {len(found)} resources of this UID"
        return str(found[0]["ID"])

    def forward(self, uid: str | Sequence[str], modality: str) -> None:
        """C-STORE a study, series or instance, or several, in one association; raises when one object fails."""
        uids = [uid] if isinstance(uid, str) else uid
        order = {"Resources": [self.identifier(one) for one in uids], "Synchronous": True, "Timeout": 60}
        self.request(f"/modalities/{modality}/store", order)

    def echo(self, modality: str) -> None:
        self.request(f"/modalities/{modality}/echo", {})

    def instances(self, study_instance_uid: str | None = None) -> list[dict[str, str]]:
        """Of each instance: `id`, `SOPInstanceUID`, `SOPClassUID`, `SeriesInstanceUID`, `Modality`."""
        query = {"StudyInstanceUID": study_instance_uid} if study_instance_uid else {}
        found = json.loads(self.request("/tools/find", {"Level": "Instance", "Query": query}))
        return [self._describe(identifier) for identifier in found]

    def _describe(self, identifier: str) -> dict[str, str]:
        tags = self.get(f"/instances/{identifier}/simplified-tags")
        wanted = ("SOPInstanceUID", "SOPClassUID", "SeriesInstanceUID", "Modality")
        return {"id": identifier, **{keyword: str(tags.get(keyword, "")) for keyword in wanted}}

    def wait_for(self, count: int, seconds: float = 30.0, **tags: str) -> list[dict[str, str]]:
        """The instances with these tags (`Modality="SEG"`), once there are `count` of them."""

        def found() -> list[dict[str, str]]:
            return [one for one in self.instances() if all(one[key] == value for key, value in tags.items())]

        wait_until(lambda: len(found()) >= count, f"{count} instances with {tags} in Orthanc", seconds)
        return found()

    def download(self, identifier: str) -> bytes:
        """The Part 10 file of an instance, by its Orthanc identifier (`id` of `instances`)."""
        return self.request(f"/instances/{identifier}/file")

    def download_to(self, folder: Path, study_instance_uid: str | None = None) -> list[Path]:
        """Write every instance as `<SOP Instance UID>.dcm`."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for one in self.instances(study_instance_uid):
            paths.append(folder / f"{one['SOPInstanceUID']}.dcm")
            paths[-1].write_bytes(self.download(one["id"]))
        return paths

    def delete(self, uid: str) -> None:
        level = json.loads(self.request("/tools/lookup", uid))[0]
        self.request(level["Path"], method="DELETE")

    def stop(self) -> None:
        """An outage: nothing listens until `start`, which finds the same storage on the same ports."""
        self.program.stop()

    def start(self) -> None:
        self.program.start()


@contextmanager
def orthanc(
    folder: Path,
    *,
    ae_title: str = "ORTHANC",
    modalities: Mapping[str, tuple[str, int]] | None = None,
    **configuration: Any,
) -> Iterator[OrthancPeer]:
    """Debian's Orthanc with DICOMweb and a storage of its own below `folder`.

    `modalities` maps names to (AE title, loopback port); `configuration` overrides keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ports: list[tuple[int, int]] = []

    def make() -> Program:
        dicom_port, http_port = free_port(), free_port()
        ports.append((dicom_port, http_port))
        file = folder / "orthanc.json"
        file.write_text(
            json.dumps(
                {
                    "Name": "test",
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
                    "HttpPort": http_port,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "DicomPort": dicom_port,
                    "DicomAet": ae_title,
                    "DicomCheckCalledAet": False,
                    "DicomAlwaysAllowStore": True,
                    "DicomAlwaysAllowEcho": True,
                    "DicomAlwaysAllowFind": True,
                    "DicomAlwaysAllowGet": True,
                    "DicomAlwaysAllowMove": True,
                    "DicomModalities": {
                        name: [title, LOOPBACK, port] for name, (title, port) in (modalities or {}).items()
                    },
                    "UnknownSopClassAccepted": True,
                    "OverwriteInstances": True,
                    "StableAge": 1,
                    "SaveJobs": False,
                    "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
                    **configuration,
                }
            )
        )

        def ready() -> bool:
            try:
                peer.request("/system")
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                return False
            return answers(dicom_port)

        program = Program(
            [shutil.which("Orthanc", path=f"{os.environ['PATH']}:/usr/sbin") or "Orthanc", file],
            ready,
            folder / "orthanc.log",
            folder=folder,
        )
        peer = OrthancPeer(program, dicom_port, http_port, ae_title)
        return program

    program = start_on_free_ports(make)
    try:
        yield OrthancPeer(program, *ports[-1], ae_title)
    finally:
        program.kill()
