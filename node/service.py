"""The composition root: the only place that builds the parts and connects them.

`run_node` supervises the processes; `run_listener`, `run_worker` and `run_deliverer` are what runs in them, and can run
alone, also on other machines, against the same database and data folder. Each imports its own rooms only, so that a
listener starts without the libraries of inference and a deliverer without those of either.
"""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from node.errors import Permanent
from node.jobs.job import Job
from node.jobs.retry import RetryPolicy
from node.jobs.wake import Topic, Wake, WakeListener, remove_socket_folder
from node.jobs.worker import JobLoop, LoopSettings, utc_now
from node.logs import get_logger
from node.settings import Settings
from node.store.database import migrate, open_database
from node.store.tables import JobKind
from node.supervisor import Supervisor, child_command, on_stop_signals, watch_life_line

if TYPE_CHECKING:
    from node.audit.trail import AnyTrail

INFER_RETRY = RetryPolicy(first_seconds=5, longest_seconds=300)
GRACE_SECONDS = 6.0


def prepare(settings: Settings) -> Engine:
    """Make the data folder, bring the database to the newest schema (after a backup copy), open it, and forget what a
    power cut left of objects that were not acknowledged."""
    from node.named_files import make_home
    from node.store.files import FileStore
    from node.store.sync_point import drop_lost_objects

    data_dir = settings.node.data_dir
    make_home(data_dir)
    migrate(settings.database_url, data_dir / "backup")
    engine = open_database(settings.database_url)
    files = FileStore(data_dir)
    drop_lost_objects(engine, files, utc_now)
    files.close_session()
    return engine


def run_node(settings: Settings, config: Path | None) -> int:
    """Supervise all processes until SIGTERM or SIGINT; 0 after a clean stop."""
    prepare(settings).dispose()
    arguments = ("--config", str(config)) if config else ()
    commands = {}
    for role, number in (
        ("listen", settings.dimse.processes),
        ("work", settings.work.processes),
        ("deliver", settings.deliver.processes),
        ("web", int(settings.web.enabled)),
    ):
        for index in range(number):
            own = ("--number", str(index)) if role == "work" else ()
            commands[role if number == 1 else f"{role}-{index + 1}"] = child_command(role, *arguments, *own)
    supervisor = Supervisor(commands)
    on_stop_signals(supervisor.stop)
    try:
        return supervisor.run()
    finally:
        remove_socket_folder(settings.wake_folder)


def run_listener(settings: Settings, *, life_line: bool = False) -> None:
    """Receive until told to stop."""
    from node.audit.process import audited

    engine = prepare(settings)
    with audited(settings, engine, "listen") as trail:
        _listen(settings, engine, trail, life_line)
    engine.dispose()


def _listen(settings: Settings, engine: Engine, trail: "AnyTrail", life_line: bool) -> None:
    from node.audit.reception import ReceptionWitness
    from node.deliver.commitment import CommitmentReports
    from node.deliver.report_scu import ReportScu
    from node.receive.commitment import CommitmentScp
    from node.receive.commitment_reporter import CommitmentReporter
    from node.receive.storage_scp import StorageScp
    from node.store.files import FileStore

    stop = threading.Event()
    _stop_by(stop.set, life_line)
    wake = Wake(settings.wake_folder)
    files = FileStore(settings.node.data_dir)
    reports = ReportScu(settings)
    commitment = CommitmentScp(
        engine, files, reports.way, lambda: reporter.wake(), sync=settings.dimse.durability == "none"
    )
    reporter = CommitmentReporter(engine, settings.commitment, commitment, reports.send)
    listener = StorageScp(
        settings,
        engine,
        files,
        lambda: wake.notify(Topic.SETTLE),
        take_report=CommitmentReports(engine, settings),
        take_request=commitment.take,
        witness=ReceptionWitness(trail, settings.node.ae_title),
    )
    dimse = settings.dimse
    try:
        listener.start()
    except OSError as error:
        raise Permanent(
            f"cannot listen on {dimse.host}:{dimse.port} ({error.strerror}): end what uses it, or change dimse.port"
        ) from error
    get_logger("receive").info(
        "listening",
        ae_title=settings.node.ae_title,
        host=dimse.host,
        port=listener.bound_port,
        tls_port=listener.bound_tls_port,
    )
    reporter.start()
    stop.wait()
    listener.stop()
    reporter.stop()


def run_web(settings: Settings, *, life_line: bool = False) -> None:
    """Serve HTTP until told to stop."""
    from node.audit.process import audited

    engine = prepare(settings)
    with audited(settings, engine, "web") as trail:
        _serve(settings, engine, trail, life_line)
    engine.dispose()


def _serve(settings: Settings, engine: Engine, trail: "AnyTrail", life_line: bool) -> None:
    from node.audit.reception import ReceptionWitness
    from node.metrics import metrics_route
    from node.notices.page import NoticePage
    from node.notices.witness import witness_of
    from node.store.files import FileStore
    from node.web.server import Guest, WebServer
    from node.web.stow import StowService

    stop = threading.Event()
    _stop_by(stop.set, life_line)
    wake = Wake(settings.wake_folder)
    web = settings.web
    witness = ReceptionWitness(trail, settings.node.ae_title)
    told = witness_of(trail, settings.node.ae_title)

    def invite(stow: StowService) -> Guest:
        from node.adapters.process.book import RequestBook
        from node.adapters.process.desk import ProcessDesk
        from node.adapters.process.fetcher import Fetcher

        book = RequestBook(engine, settings, utc_now, random.random)
        fetcher = Fetcher(book, stow)
        return ProcessDesk(engine, settings, stow, fetcher, utc_now, lambda: wake.notify(Topic.DELIVER), witness)

    page = NoticePage(engine, settings, utc_now, told, lambda address, reason: witness.turned_away("", address, reason))
    server = WebServer(
        settings,
        engine,
        FileStore(settings.node.data_dir),
        lambda: wake.notify(Topic.SETTLE),
        witness=witness,
        further=[*page.routes(), *([metrics_route(engine, settings)] if web.metrics else [])],
        invite=invite if settings.process.enabled else None,
    )
    try:
        server.start()
    except OSError as error:
        raise Permanent(
            f"cannot listen on {web.host}:{web.port} ({error.strerror}): end what uses it, or change web.port"
        ) from error
    get_logger("web").info("listening", host=web.host, port=server.bound_port, tls=bool(web.tls_certificate))
    stop.wait()
    server.stop()


def run_worker(settings: Settings, *, number: int = 0, life_line: bool = False) -> None:
    """Settle studies and run inference until told to stop; `number` says which GPU is this worker's."""
    from node.audit.process import audited

    engine = prepare(settings)
    with audited(settings, engine, "work") as trail:
        _work(settings, engine, trail, number, life_line)
    engine.dispose()


def _work(settings: Settings, engine: Engine, trail: "AnyTrail", number: int, life_line: bool) -> None:
    from node.audit.work import UseWitness
    from node.decode_ahead import AheadDecoder
    from node.installed_models import installed_models
    from node.retention import Sweeper
    from node.settle import Settler
    from node.volume import Decoders, FrameCache
    from node.work import InferHandler

    registry = installed_models(settings, number)
    for problem in registry.problems:
        get_logger("infer").error("model_refused", problem=problem)
    manifests = {model.identifier: model.manifest for model in registry.models()}
    folder = settings.wake_folder
    settler = Settler(engine, settings, lambda: manifests, folder, utc_now)
    sweeper = Sweeper(engine, settings, utc_now)
    work = settings.work
    limits = LoopSettings(
        kind=JobKind.INFER,
        lease_seconds=work.lease_seconds,
        poll_seconds=work.poll_seconds,
        retry=INFER_RETRY,
        deadline_seconds=work.deadline_seconds,
        grace_seconds=GRACE_SECONDS,
    )
    cache = FrameCache(settings.node.data_dir / "decoded", work.decoded_mb * 1_000_000)
    decoders = Decoders(work.decode_processes, cache)
    ahead = None
    if work.decoded_mb:
        ahead = AheadDecoder(engine, settings.node.data_dir, decoders, cache, folder, work.poll_seconds)
    handler = InferHandler(engine, settings, registry, utc_now, decoders)
    wake = Wake(folder)
    note_use = UseWitness(trail, engine, settings.node.ae_title)

    def finished(job: Job) -> None:
        wake.notify(Topic.DELIVER)
        note_use(job)
        if handler.device_lost:
            loop.stop()  # and be started anew

    with WakeListener(folder, Topic.INFER) as waiter:
        loop = JobLoop(engine, limits, handler, waiter, on_finished=finished)
        _stop_by(loop.stop, life_line)
        settler.start()
        sweeper.start()
        if ahead:
            ahead.start()
        try:
            _run_in_thread(loop.run, "inference")
        finally:
            if ahead:
                ahead.stop()
            decoders.close()
            sweeper.stop()
            settler.stop()


def run_deliverer(settings: Settings, *, life_line: bool = False) -> None:
    """Send results to their destinations until told to stop."""
    from node.audit.process import audited
    from node.deliver.outbox import Outbox
    from node.deliver.side_lanes import side_lanes

    engine = prepare(settings)
    with audited(settings, engine, "deliver") as trail:
        further = side_lanes(engine, settings, trail)
        outbox = Outbox(engine, settings, settings.wake_folder, trail=trail, further=further)
        _stop_by(outbox.stop, life_line)
        _run_in_thread(outbox.run, "outbox")
    engine.dispose()


def _run_in_thread(run: Callable[[], None], name: str) -> None:
    """Work in a thread of its own until it ends.

    A signal is handled between two steps of the main thread only, and the network of a model can be one very long step.
    """
    thread = threading.Thread(target=run, name=name)
    thread.start()
    while thread.is_alive():
        thread.join(0.5)


def _stop_by(stop: Callable[[], None], life_line: bool) -> None:
    on_stop_signals(stop)
    if life_line:
        watch_life_line(stop)


def check_settings(settings: Settings, where: str) -> list[str]:
    """What the configuration names and is not there, or cannot be used; empty when all is well."""
    from node.deliver.oru_template import load_template
    from node.destination_profiles import profile_problems
    from node.destination_settings import Hl7Destination
    from node.infer import check_model
    from node.installed_models import installed_models
    from node.named_files import unusable_files

    registry = installed_models(settings)
    problems = [f"{where}: {problem}" for problem in registry.problems]
    problems += [f"{where}: {problem}" for problem in profile_problems(settings.destinations, settings)]
    problems += [f"{where}: {problem}" for problem in unusable_files(settings)]
    for destination in settings.destinations:
        if isinstance(destination, Hl7Destination) and destination.template and destination.template.is_file():
            try:
                load_template(destination.template)
            except Permanent as error:
                problems.append(f"{where}: destinations.{destination.name}.template: {error}")
    known = {model.identifier for model in registry.models()}
    for each in settings.models.remote:
        if each.model not in known:
            shown = ", ".join(sorted(known)) or "none"
            problems.append(f"{where}: models.remote: no model {each.model!r}; installed are {shown}")
    for route in settings.routes:
        for name in route.models:
            if name not in known:
                shown = ", ".join(sorted(known)) or "none"
                problems.append(f"{where}: routes.{route.name}.models: no model {name!r}; installed are {shown}")
    for model in registry.models():
        problems.extend(f"{where}: {problem}" for problem in check_model(model.folder))
    return problems
