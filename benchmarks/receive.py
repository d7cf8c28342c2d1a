"""C-STORE reception beside dcmtk and Orthanc: objects per second, CPU, memory, association set-up.

    python benchmarks/receive.py --peer dcmtk --peer orthanc [--rounds 15] [--count 160] [--processes 1]

Everything runs on loopback, alternating (node, peer, peer, node, ...) in one run; figures are medians, and only
ratios of one run mean anything. They are taken round by round, since a machine wavers more between minutes than
between neighbours, and are printed as median and quartiles. Of the 52 MB objects there are at most five rounds. The
node answers when file and row are durable; storescp syncs nothing, Orthanc syncs each file. Before each round the disk
finishes what the one before left unwritten. The peers run with TCP_NODELAY=1: without it they wait 40 ms for each
answer. Messages are built before the clock starts.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import UID

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.counterparts import free_port, orthanc, storescp  # noqa: E402
from tests.node.receive.wire import CT, EXPLICIT, RELEASE, Client, Encoded, encode  # noqa: E402

MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.3"
PDU_BYTES = {"node": 131072}


@dataclass(frozen=True)
class Server:
    """Something that receives: its name, AE title, port and process."""

    name: str
    ae_title: str
    port: int
    pid: int

    @property
    def fragment_bytes(self) -> int:
        return PDU_BYTES.get(self.name.split()[0], 16384) - 12

    def cpu_seconds(self) -> float:
        """CPU of the process and its children, those that have ended too."""
        process = psutil.Process(self.pid)
        own = process.cpu_times()
        total = own.user + own.system + own.children_user + own.children_system
        for child in process.children(recursive=True):
            times = child.cpu_times()
            total += times.user + times.system
        return total

    def rss_mb(self) -> float:
        return float(psutil.Process(self.pid).memory_info().rss / 1e6)


@dataclass(frozen=True)
class Round:
    """One measurement: objects per second and CPU seconds per 1000 objects."""

    objects_per_second: float
    cpu_seconds_per_1000: float


# Servers ------------------------------------------------------------------------------------------------------------

NODE_PROGRAM = """
import signal, subprocess, sys, threading
from pathlib import Path
from node.logs import configure_logs
from node.receive import association
from node.receive.storage_scp import StorageScp
from node.settings import DimseSettings, NodeSettings, Settings
from node.store.database import migrate, open_database
from node.store.files import FileStore
configure_logs(level="warning")
if sys.argv[3] == "without-quickack":
    association._QUICKACK = None
data_dir, processes, port = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4])
settings = Settings(
    node=NodeSettings(data_dir=data_dir, ae_title="NODE"),
    dimse=DimseSettings(host="127.0.0.1", port=port, free_disk_mb=100, processes=processes),
)
migrate(settings.database_url, None)
scp = StorageScp(settings, open_database(settings.database_url), FileStore(data_dir), lambda: None)
scp.start()
others = []
if port == 0:
    again = [*sys.orig_argv[:3], *sys.argv[1:4], str(scp.bound_port)]
    others = [subprocess.Popen(again, stdout=subprocess.PIPE) for _ in range(processes - 1)]
    for other in others:
        other.stdout.readline()
print(scp.bound_port, flush=True)
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
stop.wait()
for other in others:
    other.terminate()
    other.wait()
scp.stop(1)
"""


@contextmanager
def python_server(name: str, ae_title: str, program: str, *arguments: object) -> Iterator[Server]:
    """A program in Python that prints its port."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, *(str(argument) for argument in arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    try:
        yield Server(name, ae_title, int(process.stdout.readline()), process.pid)
    finally:
        process.terminate()
        process.communicate(timeout=30)


PYNETDICOM_PROGRAM = """
import sys
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts
ae = AE("PYNETDICOM")
for context in AllStoragePresentationContexts:
    ae.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
server = ae.start_server(("127.0.0.1", int(sys.argv[1])), block=False)
print(sys.argv[1], flush=True)
__import__("threading").Event().wait()
"""


@contextmanager
def peer_server(name: str, folder: Path) -> Iterator[Server]:
    if name == "dcmtk":
        with storescp(folder, "--fork", environment={"TCP_NODELAY": "1"}) as scp:
            assert scp.program.process is not None
            yield Server("dcmtk", scp.ae_title, scp.port, scp.program.process.pid)
    else:
        with orthanc(folder) as archive:
            assert archive.program.process is not None
            yield Server("orthanc", archive.ae_title, archive.dicom_port, archive.program.process.pid)


# Sending ------------------------------------------------------------------------------------------------------------


def make_ct() -> Encoded:
    """A CT slice of 0.53 MB with the 250 elements of a real header."""
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    image.Rows = image.Columns = 512
    noise = np.random.default_rng(1).integers(-1000, 1000, (512, 512), dtype="<i2")
    image.PixelData = noise.tobytes()
    image.SOPInstanceUID = "2.25." + "1" * 38
    return encode(image)


def make_multi_frame() -> Encoded:
    """A multi-frame secondary capture of 52 MB."""
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    image.SOPClassUID, image.NumberOfFrames = MULTI_FRAME, 100
    image.Rows = image.Columns = 512
    image.PixelData = np.random.default_rng(2).integers(0, 4000, (100, 512, 512), dtype="<u2").tobytes()
    image.SOPInstanceUID = "2.25." + "1" * 38
    return encode(image)


def fresh(image: Encoded) -> Encoded:
    """The same object under another SOP Instance UID of the same length."""
    uid = "2.25." + "".join(random.choices("123456789", k=38))
    old = image.sop_instance.encode()
    return Encoded(image.sop_class, uid, image.transfer_syntax, image.data_set.replace(old, uid.encode()))


def send(server: Server, image: Encoded, associations: int, count: int) -> Round:
    """Send `count` objects over some associations, each waiting for every answer."""
    share = count // associations
    messages = [[fresh(image).message(1, 1, server.fragment_bytes) for _ in range(share)] for _ in range(associations)]
    clients = [Client(server.port, timeout=120) for _ in range(associations)]
    for client in clients:
        client.associate([(1, image.sop_class, [EXPLICIT])], called=server.ae_title)
    start = threading.Barrier(associations + 1)
    failures: list[int] = []

    def work(client: Client, batch: Sequence[bytes]) -> None:
        start.wait()
        for message in batch:
            client.send(message)
            if (status := client.read_status()) != 0:
                failures.append(status)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(clients, messages, strict=True)]
    for thread in threads:
        thread.start()
    cpu = server.cpu_seconds()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    for client in clients:
        client.send(RELEASE)
        client.socket.close()
    time.sleep(0.3)  # children that fork per association have ended and are counted
    if failures:
        raise SystemExit(f"{server.name} refused {len(failures)} objects, first with {failures[0]:#06x}")
    sent = share * associations
    return Round(sent / seconds, 1000 * (server.cpu_seconds() - cpu) / sent)


def alternate(servers: Sequence[Server], rounds: int, measure: Callable[[Server], Round]) -> dict[str, list[Round]]:
    results: dict[str, list[Round]] = {server.name: [] for server in servers}
    for server in servers:
        measure(server)  # warm
    for number in range(rounds):
        for server in servers if number % 2 == 0 else reversed(servers):
            os.sync()  # nobody waits for what another left unwritten
            results[server.name].append(measure(server))
    return results


# Table --------------------------------------------------------------------------------------------------------------


def show(title: str, results: dict[str, list[Round]]) -> None:
    print(f"\n{title}")
    node = next(iter(results.values()))
    for name, rounds in results.items():
        rates = [one.objects_per_second for one in rounds]
        cpu = statistics.median(one.cpu_seconds_per_1000 for one in rounds)
        print(
            f"  {name:24} {statistics.median(rates):8.1f} objects/s [{min(rates):.0f}-{max(rates):.0f}]"
            f"  CPU {cpu:6.2f} s/1000" + ("" if rounds is node else f"   node/{name}: {ratio(node, rounds)}")
        )


def ratio(node: Sequence[Round], peer: Sequence[Round]) -> str:
    """Of each round with that of the peer beside it: their median, and between which quartiles they lie."""
    pairs = [mine.objects_per_second / other.objects_per_second for mine, other in zip(node, peer, strict=True)]
    low, middle, high = statistics.quantiles(pairs, n=4, method="inclusive") if len(pairs) > 1 else pairs * 3
    return f"{middle:.2f}x [{low:.2f}-{high:.2f}]"


def association_milliseconds(server: Server, count: int) -> float:
    times = []
    for _ in range(count):
        began = time.perf_counter()
        with Client(server.port) as client:
            client.associate([(1, CT, [EXPLICIT])], called=server.ae_title)
            times.append(1000 * (time.perf_counter() - began))
            client.send(RELEASE)
            client.read_pdu()
    return statistics.median(times)


def show_association_cost(node: Server, rounds: int) -> None:
    with python_server("pynetdicom", "PYNETDICOM", PYNETDICOM_PROGRAM, free_port()) as other:
        ours, theirs = [], []
        for _ in range(rounds):
            ours.append(association_milliseconds(node, 20))
            theirs.append(association_milliseconds(other, 5))
    print("\nassociation set-up, connect to A-ASSOCIATE-AC")
    print(f"  node {statistics.median(ours):.2f} ms, pynetdicom with all storage contexts ", end="")
    print(f"{statistics.median(theirs):.1f} ms: {statistics.median(theirs) / statistics.median(ours):.0f}x faster")


def show_nagle(folder: Path, rounds: int) -> None:
    """dcmtk's storescu with Nagle's algorithm on, as it is by default."""
    files = []
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    for number in range(30):
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = UID(f"2.25.{10**30 + number}")
        files.append(folder / f"{number}.dcm")
        image.save_as(files[-1])
    rates: dict[str, list[float]] = {"with-quickack": [], "without-quickack": []}
    environment = {key: value for key, value in os.environ.items() if key != "TCP_NODELAY"}
    with ExitStack() as stack:
        servers = {
            kind: stack.enter_context(python_server("node", "NODE", NODE_PROGRAM, folder / kind, 1, kind, 0))
            for kind in rates
        }
        for _ in range(rounds):
            for kind, server in servers.items():
                command = ["/usr/bin/storescu", "-aec", "NODE", "127.0.0.1", str(server.port), *map(str, files)]
                began = time.perf_counter()
                subprocess.run(command, check=True, env=environment)
                rates[kind].append(len(files) / (time.perf_counter() - began))
    fast, slow = (statistics.median(rates[kind]) for kind in rates)
    print(f"\ndefault storescu (Nagle on): {fast:.0f} objects/s, without QUICKACK {slow:.0f}: {fast / slow:.1f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", choices=["dcmtk", "orthanc"], default=[])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--count", type=int, default=160, help="objects per round")
    parser.add_argument("--processes", type=int, default=1, help="listener processes of the node, on one port")
    options = parser.parse_args()
    os.environ["TCP_NODELAY"] = "1"
    with tempfile.TemporaryDirectory(prefix="receive-") as name, ExitStack() as stack:
        folder = Path(name)
        place = (folder / "node", options.processes, "default", 0)
        node = stack.enter_context(python_server("node", "NODE", NODE_PROGRAM, *place))
        peers = [stack.enter_context(peer_server(peer, folder / peer)) for peer in dict.fromkeys(options.peer)]
        servers, image = [node, *peers], make_ct()
        for associations in (4, 1):
            measure = partial(send, image=image, associations=associations, count=options.count)
            results = alternate(servers, options.rounds, measure)
            show(f"{associations} association(s), CT of 0.53 MB", results)
        large, before = make_multi_frame(), node.rss_mb()
        others = [peer for peer in peers if peer.name == "dcmtk"]
        few = min(options.rounds, 5)
        results = alternate([node, *others], few, lambda one: send(one, large, 1, 2))
        show("52 MB multi-frame, 1 association", results)
        print(f"  resident memory of the node: {before:.0f} MB before, {node.rss_mb():.0f} MB after")
        show_association_cost(node, few)
        show_nagle(folder, few)


if __name__ == "__main__":
    main()
