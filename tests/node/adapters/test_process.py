"""Requests of platforms: what is asked, who may, where images are brought from, and how a request stands."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid
from structlog.testing import capture_logs

from node.adapters.process.asked import Asked, read_asked
from node.adapters.process.book import RequestBook
from node.adapters.process.callback import FailureTeller
from node.adapters.process.desk import ProcessDesk
from node.adapters.process.fetcher import Fetcher
from node.adapters.process.standing import Facts, Progress, Standing, judge
from node.audit.message import Source
from node.audit.reception import ReceptionWitness
from node.audit.trail import NoTrail, Trail, lines, read_line
from node.deliver.outbox import Outbox
from node.deliver.side_lanes import side_lanes
from node.destination_settings import CallbackDestination, FolderDestination, Tls
from node.process_settings import ProcessSettings, ProcessSource
from node.settings import DeliverSettings, DimseSettings, NodeSettings, Settings, SettleSettings
from node.store import tables
from node.store.database import migrate, open_database, read_transaction, write_transaction
from node.store.decisions import Decision
from node.store.files import FileStore
from node.store.requests import ProcessRequest, ask, get_request, request_id_of
from node.store.tables import DecisionOutcome, JobState, RequestState, SeriesState
from node.web.reception import RequestRefused
from node.web.server import WebServer
from node.web_settings import WebClient, WebSettings
from tests.counterparts import LOOPBACK, free_port, wait_until
from tests.http_stub import Answer, HttpStub, Request
from tests.node.deliver.conftest import Node, node, real, requeued  # noqa: F401
from tests.node.web.conftest import WebUnderTest, compose, part10
from tests.phantoms import make_series

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TOKENS = {"PLATFORM": "p" * 32, "OTHER": "o" * 32, "SENDER": "s" * 32}
ARCHIVE = ProcessSource(name="archive", url="http://archive.example.org/dicom-web")


def request_of(**changes: Any) -> ProcessRequest:
    made = ProcessRequest("1", "PLATFORM", "1.2", None, RequestState.ACCEPTED, NOW, NOW, 0, None, None)
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\xff{", "not-json"),
        (b"[" * 20000, "not-json"),
        (b'"1.2"', "not-an-object"),
        (b"{}", "study-instance-uid"),
        (b'{"study_instance_uid": "Canary^Carla"}', "study-instance-uid"),
        (b'{"study_instance_uid": "1.2", "source": "../../etc"}', "unknown-source"),
        (b'{"study_instance_uid": "1.2", "source": ["archive"]}', "unknown-source"),
        (b'{"study_instance_uid": "1.2", "url": "http://169.254.169.254/"}', "unknown-key"),
        (b'{"study_instance_uid": "1.2", "callback_url": "http://evil.example.org/"}', "unknown-key"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_not_quoted(content: bytes, code: str):
    with pytest.raises(RequestRefused) as refused:
        read_asked(content, ProcessSettings(sources=(ARCHIVE,)))
    assert (refused.value.status, refused.value.code) == (400, code)
    assert not any(word in str(refused.value) for word in ("Canary", "etc", "169", "evil"))


def test_study_and_source_are_read():
    settings = ProcessSettings(sources=(ARCHIVE,))
    assert read_asked(b'{"study_instance_uid": "1.2", "source": "archive"}', settings) == Asked("1.2", "archive")
    assert read_asked(b'{"study_instance_uid": "1.2"}', settings) == Asked("1.2")


@dataclass(frozen=True)
class Work:
    """What `judge` looks at of a job."""

    job_id: int
    model: str
    state: JobState
    last_error: str | None = None


REFUSED = Decision("1.2", "r", "", DecisionOutcome.NOT_WANTED, "no-route", "no route wants it", NOW)
SETTLED = [SeriesState.SETTLED]
RESULT: Any = object()


@pytest.mark.parametrize(
    ("request_", "facts", "standing"),
    [
        (request_of(state=RequestState.FAILED, reason="gone"), ([], [], []), Standing(Progress.FAILED, ("gone",))),
        (
            request_of(state=RequestState.FETCHING, source="a"),
            ([], [], []),
            Standing(Progress.QUEUED, ("the images are being brought",)),
        ),
        (request_of(), ([], [], []), Standing(Progress.QUEUED, ("no image of the study has come yet",))),
        (
            request_of(asked_at=NOW - timedelta(hours=1)),
            ([], [], []),
            Standing(Progress.FAILED, ("no image of the study came within 60 minutes",)),
        ),
        (
            request_of(),
            ([*SETTLED, SeriesState.RECEIVING], [], [RESULT]),
            Standing(Progress.QUEUED, ("images of the study are arriving",)),
        ),
        (request_of(), (SETTLED, [Work(1, "a", JobState.QUEUED)], []), Standing(Progress.QUEUED)),
        (
            request_of(),
            (SETTLED, [Work(1, "a", JobState.QUEUED), Work(2, "b", JobState.RUNNING)], []),
            Standing(Progress.RUNNING),
        ),
        (request_of(), (SETTLED, [Work(1, "a", JobState.SUCCEEDED)], [RESULT]), Standing(Progress.DONE)),
        (
            request_of(),
            (SETTLED, [Work(1, "a", JobState.SUCCEEDED), Work(2, "b", JobState.FAILED, "broke")], [RESULT]),
            Standing(Progress.DONE, ("b: broke",)),
        ),
        (
            request_of(),
            (SETTLED, [Work(1, "a", JobState.FAILED, "old"), Work(2, "a", JobState.FAILED, "broke")], []),
            Standing(Progress.FAILED, ("a: broke",)),
        ),
        (request_of(), (SETTLED, [], []), Standing(Progress.FAILED, ("no-route: no route wants it",))),
    ],
)
def test_standing_of_a_request(request_: ProcessRequest, facts: tuple[Any, Any, Any], standing: Standing):
    states, jobs, results = facts
    assert judge(request_, Facts(states, jobs, results, [], [REFUSED]), NOW, 60) == standing


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., WebUnderTest]]:
    """Start an HTTP server with the desk; keyword arguments are `[process]` settings."""
    started: list[WebUnderTest] = []
    clients = []
    for name, token in TOKENS.items():
        (tmp_path / name).write_text(token)
        clients.append(WebClient(ae_title=name, bearer_token_file=tmp_path / name))

    def start(**process: Any) -> WebUnderTest:
        settings = Settings(
            node=NodeSettings(data_dir=tmp_path / "data"),
            dimse=DimseSettings(free_disk_mb=0),
            web=WebSettings(enabled=True, port=0, stop_seconds=1, clients=tuple(clients)),
            settle=SettleSettings(quiet_seconds=30, released_quiet_seconds=2),
            deliver=DeliverSettings(first_retry_seconds=0.05, longest_retry_seconds=0.1, timeout_seconds=60),
            process=ProcessSettings(**{"enabled": True, "clients": ("PLATFORM", "OTHER"), **process}),
        )
        migrate(settings.database_url, None)
        engine = open_database(settings.database_url)

        trail = Trail(tmp_path / "audit", Source("OVERREAD"), "web")

        def invite(stow: Any) -> ProcessDesk:
            fetcher = Fetcher(RequestBook(engine, settings, lambda: datetime.now(UTC), lambda: 0.0), stow)
            now, witness = (lambda: datetime.now(UTC)), ReceptionWitness(trail, "OVERREAD")
            return ProcessDesk(engine, settings, stow, fetcher, now, lambda: None, witness)

        notified = threading.Event()
        server = WebServer(settings, engine, FileStore(settings.node.data_dir), notified.set, invite=invite)
        server.start()
        started.append(WebUnderTest(server, engine, settings.node.data_dir, notified))
        return started[-1]

    yield start
    for each in started:
        each.server.stop()
        each.engine.dispose()


def call(server: WebUnderTest, method: str, path: str, client: str = "PLATFORM", **more: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {TOKENS[client]}", **more.pop("headers", {})} if client else {}
    with httpx.Client(trust_env=False, timeout=60) as session:
        return session.request(method, server.url + path, headers=headers, **more)


@pytest.fixture
def images() -> list[Dataset]:
    return make_series(shape=(3, 16, 16), modality="CT", patient_name="Canary^Carla")


def post_files(server: WebUnderTest, images: list[Dataset], client: str = "PLATFORM") -> httpx.Response:
    content, kind = compose([part10(image) for image in images])
    return call(server, "POST", "/process", client, content=content, headers={"Content-Type": kind})


def test_files_are_stored_and_the_same_request_has_the_same_identifier(
    serve: Callable[..., WebUnderTest], images: list[Dataset]
):
    server = serve()
    answer = post_files(server, images)
    assert answer.status_code == 202
    said = answer.json()
    assert said["id"] == request_id_of("PLATFORM", str(images[0].StudyInstanceUID))
    assert (said["status"], said["reasons"]) == ("queued", ["images of the study are arriving"])
    assert len(server.rows()) == 3
    assert post_files(server, images).json()["id"] == said["id"]
    assert len(server.rows(tables.process_request)) == 1
    stands = call(server, "GET", answer.headers["Location"])
    assert stands.status_code == 200 and stands.json()["study_instance_uid"] == str(images[0].StudyInstanceUID)
    assert "Carla" not in answer.text + stands.text
    assert call(server, "GET", "/status").json() == {"status": "ready", "queued": 0, "running": 0}


def test_who_may_ask_and_what_is_anothers(serve: Callable[..., WebUnderTest], images: list[Dataset]):
    server = serve()
    where = post_files(server, images).headers["Location"]
    assert call(server, "GET", where, "OTHER").status_code == 404
    assert call(server, "GET", where, "SENDER").status_code == 403
    assert call(server, "GET", where, "").status_code == 401
    assert post_files(server, images, "SENDER").status_code == 403
    assert call(server, "GET", "/status?id=nonsense").status_code == 404
    assert call(server, "POST", "/process", content=b"x").status_code == 415
    body = {"content": b"x" * 20000, "headers": {"Content-Type": "application/json"}}
    assert call(server, "POST", "/process", **body).status_code == 413
    assert len(server.rows(tables.process_request)) == 1


def test_files_of_two_studies_or_not_taken_begin_nothing(serve: Callable[..., WebUnderTest], images: list[Dataset]):
    server = serve()
    other = make_series(shape=(2, 16, 16), modality="CT")
    assert post_files(server, [*images, *other]).json()["error"] == "several-studies"
    content, kind = compose([part10(images[0]), b"no DICOM"])
    answer = call(server, "POST", "/process", content=content, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["error"]) == (409, "not-all-stored")
    assert not server.rows(tables.process_request)


def test_object_is_given_to_who_asked_for_its_study_and_the_trail_has_it(
    serve: Callable[..., WebUnderTest], tmp_path: Path
):
    server = serve()
    site = Node(tmp_path / "data", server.engine)
    (job,) = site.add_result("pacs")
    uid = site.uids(job)[0]
    with write_transaction(server.engine) as connection:
        made = ask(connection, "PLATFORM", job.study_instance_uid, None, NOW)
    url = f"/process/{made.request_id}/objects/{uid}"
    answer = call(server, "GET", url)
    assert answer.headers["Content-Type"] == "application/dicom"
    assert dcmread(BytesIO(answer.content)).SOPInstanceUID == uid
    assert call(server, "GET", f"/process/{made.request_id}/objects/1.2.3").status_code == 404
    assert call(server, "GET", url, "OTHER").status_code == 404
    assert call(server, "GET", url, "SENDER").status_code == 403
    said = [line.message for _, _, raw in lines(tmp_path / "audit") if (line := read_line(raw))]
    assert len(said) == 2 and '"110104"' in said[0] and '"110113"' in said[1]
    assert job.study_instance_uid in said[0] and "AETITLE=PLATFORM" in said[0] and "AETITLE=SENDER" in said[1]


def ask_for(server: WebUnderTest, study: str, source: str | None = "archive") -> str:
    answer = call(server, "POST", "/process", json={"study_instance_uid": study, "source": source})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def request_in(server: WebUnderTest, request_id: str) -> ProcessRequest:
    with read_transaction(server.engine) as connection:
        found = get_request(connection, request_id)
    assert found is not None
    return found


def settled(server: WebUnderTest, request_id: str) -> ProcessRequest:
    """The request once it is not being fetched any more."""
    wait_until(lambda: request_in(server, request_id).state is not RequestState.FETCHING, "end of fetching")
    return request_in(server, request_id)


def test_study_is_brought_by_wado_through_failures_to_this_node(
    serve: Callable[..., WebUnderTest], images: list[Dataset]
):
    """Out of order, cut off in the middle, then whole: everything is stored once."""
    content, kind = compose([part10(image) for image in images])
    answers: list[Answer] = [
        (503, {}, b"Canary^Carla"),
        (200, {"Content-Type": kind}, content[: len(content) // 2]),
        (200, {"Content-Type": kind}, content),
    ]
    with HttpStub(lambda request: answers.pop(0)) as archive:
        server = serve(sources=(ProcessSource(name="archive", url=f"{archive.url}/wado"),))
        study = str(images[0].StudyInstanceUID)
        request = settled(server, ask_for(server, study))
        assert (request.state, request.tries, request.reason) == (RequestState.ACCEPTED, 2, None)
        assert {one.path for one in archive.requests} == {f"/wado/studies/{study}"}
    assert len(server.rows()) == 3
    assert {row.calling_ae_title for row in server.rows(tables.series)} == {"PLATFORM"}


def test_redirect_is_not_followed(serve: Callable[..., WebUnderTest]):
    """A source cannot send us to a host that the administrator did not name."""
    with HttpStub(lambda request: (200, {}, b"")) as inner:
        hop: Answer = (302, {"Location": f"{inner.url}/secret"}, b"")
        with HttpStub(lambda request: hop) as archive:
            server = serve(sources=(ProcessSource(name="archive", url=archive.url),))
            request = settled(server, ask_for(server, generate_uid()))
        assert request.state is RequestState.FAILED and "answered HTTP 302" in (request.reason or "")
        assert not inner.requests


def test_source_that_has_not_the_study_or_another_fails(serve: Callable[..., WebUnderTest], images: list[Dataset]):
    content, kind = compose([part10(image) for image in images])

    def answer(request: Request) -> Answer:
        return (404, {}, b"") if request.path.endswith(".404") else (200, {"Content-Type": kind}, content)

    with HttpStub(answer) as archive:
        server = serve(sources=(ProcessSource(name="archive", url=archive.url),))
        missing = settled(server, ask_for(server, "1.2.404"))
        another = settled(server, ask_for(server, "1.2.3"))
    assert missing.state is RequestState.FAILED and "has no such study" in (missing.reason or "")
    assert another.state is RequestState.FAILED and "3 of 3 objects" in (another.reason or "")
    assert not server.rows()


def test_source_that_is_away_is_tried_so_often(serve: Callable[..., WebUnderTest]):
    server = serve(sources=(ProcessSource(name="archive", url=f"http://{LOOPBACK}:{free_port()}"),), maximum_tries=3)
    request = settled(server, ask_for(server, "1.2.3"))
    assert (request.state, request.tries) == (RequestState.FAILED, 3)
    assert "no connection" in (request.reason or "")


def test_study_is_taken_from_a_folder_without_following_links(
    serve: Callable[..., WebUnderTest], images: list[Dataset], tmp_path: Path
):
    study = str(images[0].StudyInstanceUID)
    folder, secret = tmp_path / "share", tmp_path / "secret.dcm"
    (folder / study / "series").mkdir(parents=True)
    for number, image in enumerate(images[:2]):
        (folder / study / "series" / f"{number}.dcm").write_bytes(part10(image))
    (folder / study / "README").write_text("no DICOM")
    secret.write_bytes(part10(images[2]))
    (folder / study / "link.dcm").symlink_to(secret)
    server = serve(sources=(ProcessSource(name="share", folder=folder),))
    assert settled(server, ask_for(server, study, "share")).state is RequestState.ACCEPTED
    assert len(server.rows()) == 2
    failed = settled(server, ask_for(server, "1.2.3", "share"))
    assert failed.state is RequestState.FAILED and "no DICOM files" in (failed.reason or "")


def test_fetching_goes_on_after_a_restart(serve: Callable[..., WebUnderTest], images: list[Dataset]):
    content, kind = compose([part10(image) for image in images])
    with HttpStub(lambda request: (200, {"Content-Type": kind}, content)) as archive:
        sources = (ProcessSource(name="archive", url=archive.url),)
        first = serve(sources=sources)
        first.server.stop()
        study = str(images[0].StudyInstanceUID)
        with write_transaction(first.engine) as connection:  # it was claimed when the process died
            left = ask(connection, "PLATFORM", study, "archive", datetime.now(UTC) + timedelta(minutes=50))
        second = serve(sources=sources)
        assert settled(second, left.request_id).state is RequestState.ACCEPTED


def callback_to(url: str, folder: Path) -> CallbackDestination:
    (folder / "secret").write_text("s3cret")
    return CallbackDestination(name="pacs", url=url, client="PLATFORM", secret_file=folder / "secret")


def test_callback_is_repeated_until_it_is_acknowledged(node: Node, real: Any, tmp_path: Path):  # noqa: F811
    answers = [500, 503, 302, 404, 200]
    with HttpStub(lambda request: (answers.pop(0) if answers else 204, {}, b"Canary^Carla")) as platform:
        settings = node.settings(callback_to(platform.url, tmp_path), poll_seconds=0.1)
        with write_transaction(node.engine) as connection:
            made = ask(connection, "PLATFORM", real.study_instance_uid, None, NOW)
        with node.outbox(settings):
            node.wait_for_end(real)
    posts = [one for one in platform.requests if one.method == "POST"]
    assert len({one.headers["X-Overread-Delivery"] for one in posts}) == 1
    said = json.loads(posts[-1].content)
    assert (said["event"], said["id"], said["status"]) == ("processed", made.request_id, "done")
    assert [one["url"] for one in said["objects"]] == [
        f"/process/{made.request_id}/objects/{uid}" for uid in node.uids(real)
    ]
    assert said["findings"] and "Carla" not in posts[-1].content.decode()


def test_platform_whose_certificates_are_not_there_keeps_nothing_else_from_running(node: Node, tmp_path: Path):  # noqa: F811
    destination = callback_to("https://127.0.0.1:1", tmp_path).model_copy(
        update={"tls": Tls(ca_file=tmp_path / "none.pem")}
    )
    (job,) = node.add_result("files")
    folder = FolderDestination(name="files", folder=tmp_path)
    settings = node.settings(destination, folder).model_copy(
        update={"process": ProcessSettings(enabled=True, image_wait_minutes=5)}
    )
    with write_transaction(node.engine) as connection:
        ask(connection, "PLATFORM", "1.2.3", None, NOW)
    further = side_lanes(node.engine, settings, NoTrail())
    with capture_logs() as lines, node.running(Outbox(node.engine, settings, node.folder / "run", further=further)):
        node.wait_for_end(job)
        said = wait_until(lambda: [line for line in lines if line["event"] == "failure_not_told"], "failure")
    assert "none.pem" in said[0]["error"]


def test_result_that_nobody_asked_for_is_not_sent(node: Node, real: Any, tmp_path: Path):  # noqa: F811
    with HttpStub(lambda request: (200, {}, b"")) as platform:
        with node.outbox(node.settings(callback_to(platform.url, tmp_path))):
            node.wait_for_end(real)
        assert not [one for one in platform.requests if one.method == "POST"]


def test_failure_is_told_until_it_is_acknowledged(node: Node, tmp_path: Path):  # noqa: F811
    answers = [500, 200]
    with HttpStub(lambda request: (answers.pop(0), {}, b"")) as platform:
        destination = callback_to(platform.url, tmp_path)
        settings = node.settings(destination).model_copy(update={"process": ProcessSettings(image_wait_minutes=5)})
        now = [NOW]
        teller = FailureTeller(RequestBook(node.engine, settings, lambda: now[0], lambda: 0.0), destination)
        with write_transaction(node.engine) as connection:
            made = ask(connection, "PLATFORM", "1.2.3", None, NOW)
            ask(connection, "OTHER", "1.2.3", None, NOW)
        teller.step()
        assert not platform.requests
        for _ in range(3):
            now[0] += timedelta(minutes=5)
            teller.step()
    first, second = platform.requests
    assert first.headers["X-Overread-Delivery"] == second.headers["X-Overread-Delivery"]
    assert json.loads(second.content) == {
        "event": "processed",
        "id": made.request_id,
        "status": "failed",
        "study_instance_uid": "1.2.3",
        "reasons": ["no image of the study came within 5 minutes"],
    }
    with read_transaction(node.engine) as connection:
        told = get_request(connection, made.request_id)
    assert told is not None and told.state is RequestState.FAILED and told.told_at and told.due_at is None
