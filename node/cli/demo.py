"""`overread demo`: the main job on a real brain MR, seen from the outside."""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from pynetdicom import AE, AllStoragePresentationContexts, evt
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from node.cli.shared import console
from node.deliver.echo import echo
from node.deliver.folder import send_folder
from node.errors import OverreadError, Permanent
from node.jobs import history
from node.jobs.job import Job
from node.logs import configure_logs
from node.settings import Destination, Settings, load_settings
from node.store import results
from node.store.database import open_database, read_transaction
from node.store.decisions import recent_decisions
from node.store.results import StoredResult
from node.store.tables import JobKind, JobState

CONFIG = Path(__file__).parent.parent.parent / "config"
SERIES = CONFIG / "demo" / "mni152-t1"
MODEL = "brain-ventricles"
TIME_LIMIT_SECONDS = 280

TOML = """\
[node]
data_dir = {data_dir!r}
[dimse]
host = "127.0.0.1"
port = {port}
free_disk_mb = 100
[settle]
quiet_seconds = 10
released_quiet_seconds = 1
[models]
paths = [{models!r}]
[[routes]]
name = "brain-t1"
match = {{ modality = ["MR"] }}
models = [{model!r}]
destinations = ["pacs"]
[[destinations]]
name = "pacs"
ae_title = "DEMO-PACS"
host = "127.0.0.1"
port = {pacs_port}
"""


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(demo)


def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Where `pacs` and `result` are left; older ones are replaced.")
    ] = Path("out/demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the node's data folder afterwards.")] = False,
) -> None:
    """Start a node and a stand-in PACS on this machine, send a brain MR through them, and show what comes back."""
    if not SERIES.is_dir():
        raise Permanent(f"the demo study is not at {SERIES}: run the demo in a checkout of the repository")
    configure_logs("text", "error")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    make_room(out)
    data_dir = Path(tempfile.mkdtemp(prefix="overread-demo-"))
    try:
        _show(_run(data_dir, out), out)
    finally:
        if keep:
            console.print(f"The node's data is kept in {data_dir}", highlight=False)
        else:
            shutil.rmtree(data_dir, ignore_errors=True)


def make_room(out: Path) -> None:
    """Delete what an earlier demo left there, and nothing else: the folder is the user's."""
    for made in (out / "pacs", out / "result"):
        shutil.rmtree(made, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)


@dataclass
class StandInPacs:
    """A small Storage SCP that keeps what it is sent, in the place of a PACS."""

    folder: Path
    received: dict[str, Path] = field(default_factory=dict)
    arrived: threading.Event = field(default_factory=threading.Event)

    def store(self, event: evt.Event) -> int:
        """C-STORE: write the object under its SOP Instance UID."""
        uid = str(event.request.AffectedSOPInstanceUID)  # type: ignore[union-attr]
        path = self.folder / f"{uid}.dcm"
        path.write_bytes(event.encoded_dataset())
        self.received[uid] = path
        self.arrived.set()
        return 0x0000

    @contextmanager
    def listening(self) -> Iterator[int]:
        """Serve on a free loopback port, which is given."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entity = AE("DEMO-PACS")
        entity.supported_contexts = AllStoragePresentationContexts
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self.store)])
        assert server is not None
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


@dataclass(frozen=True)
class DemoOutcome:
    """What came back and how long each stage took."""

    result: StoredResult
    folder: Path
    pacs: StandInPacs
    seconds: dict[str, float]


def _run(data_dir: Path, out: Path) -> DemoOutcome:
    pacs = StandInPacs(out / "pacs")
    with pacs.listening() as pacs_port, _progress() as progress:
        config = data_dir / "node.toml"
        config.write_text(
            TOML.format(
                data_dir=str(data_dir / "node"),
                port=_free_port(),
                models=str(CONFIG / "models"),
                model=MODEL,
                pacs_port=pacs_port,
            )
        )
        settings = load_settings(config)
        with _node_running(config, data_dir / "node.log"):
            return _send_and_wait(settings, pacs, progress, data_dir / "node.log")


def _send_and_wait(settings: Settings, pacs: StandInPacs, progress: Progress, log: Path) -> DemoOutcome:
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    node = Destination(name="node", ae_title=settings.node.ae_title, host="127.0.0.1", port=settings.dimse.port)
    task = progress.add_task("Starting the node ...", total=None)
    _wait_until_ready(node, deadline, log)
    started = time.monotonic()
    report = send_folder(
        node,
        "DEMO-MR",
        [SERIES],
        60,
        progress=lambda done, total: progress.update(
            task, description=f"Sending the brain MR: {done} of {total} images"
        ),
    )
    seconds = {"send": time.monotonic() - started}
    sent = time.monotonic()
    engine = open_database(settings.database_url)
    try:
        while time.monotonic() < deadline:
            with read_transaction(engine) as connection:
                jobs = history.list_jobs(connection, limit=10)
                result = next(
                    (results.result_of_job(connection, job.job_id) for job in jobs if job.kind is JobKind.INFER),
                    None,
                )
                not_analysed = recent_decisions(connection)
            _raise_failures(jobs, [f"{each.code}: {each.message}" for each in not_analysed])
            progress.update(task, description=_stage(jobs, len(report.answers)))
            delivered = [job for job in jobs if job.kind is JobKind.DELIVER and job.state is JobState.SUCCEEDED]
            if result is not None and delivered:
                seconds["last image to result in the PACS"] = time.monotonic() - sent
                folder = pacs.folder.parent / "result"
                shutil.copytree(settings.node.data_dir / result.folder, folder)
                return DemoOutcome(result, folder, pacs, seconds)
            pacs.arrived.wait(0.2)
    finally:
        engine.dispose()
    raise Permanent(f"no result within {TIME_LIMIT_SECONDS} s; the last lines of the node's log:\n{_tail(log)}")


def _stage(jobs: list[Job], images: int) -> str:
    running = {(job.kind, job.state) for job in jobs}
    if (JobKind.INFER, JobState.RUNNING) in running:
        return f"Analysing {images} images with {MODEL} ..."
    if any(job.kind is JobKind.DELIVER for job in jobs):
        return "Sending the results to the PACS ..."
    return "Waiting for the series to settle ..." if not jobs else "Waiting for a worker ..."


def _raise_failures(jobs: list[Job], not_analysed: list[str]) -> None:
    failed = [f"{job.kind} job {job.job_id}: {job.last_error}" for job in jobs if job.state is JobState.FAILED]
    if failed or not_analysed:
        raise Permanent("; ".join(failed + not_analysed))


def _show(outcome: DemoOutcome, out: Path) -> None:
    table = Table(title="What the node found", show_header=True, title_justify="left")
    table.add_column("structure")
    table.add_column("measurement")
    table.add_column("value", justify="right")
    for finding in outcome.result.summary:
        for measurement in finding["measurements"]:
            table.add_row(finding["label"], measurement["name"], f"{measurement['value']:.1f} {measurement['unit']}")
    timing = Table(title="How long it took", title_justify="left")
    timing.add_column("stage")
    timing.add_column("seconds", justify="right")
    timing.add_row(
        f"send {len(list(SERIES.glob('*.dcm')))} images (acknowledged when durable)",
        f"{outcome.seconds['send']:.2f}",
    )
    for stage in ("load", "infer", "encode", "preview"):
        timing.add_row(stage, f"{outcome.result.timings[stage]:.2f}")
    total = "last image to result in the PACS"
    timing.add_row(total, f"{outcome.seconds[total]:.2f}", style="bold")
    console.print(
        f"\nSeries: T1 MNI152 template, {SERIES.name}; model: {outcome.result.model} (not for clinical use)\n"
    )
    console.print(table)
    console.print(timing)
    console.print("\nWhat the PACS received, and the picture:")
    for each in outcome.result.objects:
        console.print(
            f"  {each.role:<13} {outcome.pacs.received[each.sop_instance_uid]}",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"  {'preview':<13} {outcome.folder / 'preview.png'}", highlight=False, soft_wrap=True)
    console.print(
        "\nNext: open config/node.toml, add your PACS under [[destinations]] and its name to the route, start the node"
        "\nwith `make run`, and let the PACS send T1 brain MR to OVERREAD at this machine, port 11112."
        "\n`.venv/bin/overread status` shows what it holds and does.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


@contextmanager
def _node_running(config: Path, log: Path) -> Iterator[None]:
    """`overread run` as its own process, ended at the end whatever happens."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "node", "run", "--config", str(config)],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(12)
            if process.poll() is None:
                process.kill()
                process.wait()


def _wait_until_ready(node: Destination, deadline: float, log: Path) -> None:
    while time.monotonic() < deadline:
        with suppress(OverreadError):
            echo(node, "DEMO-MR", 5)
            return
        time.sleep(0.2)
    raise Permanent(f"the node did not start; the last lines of its log:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
