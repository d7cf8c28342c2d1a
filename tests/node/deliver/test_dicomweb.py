"""STOW-RS: into Orthanc, and into a stub with the rules of Azure Health Data Services."""

import json
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from structlog.testing import capture_logs

from dicom_sr.profile import CONSERVATIVE
from node.deliver import stow
from node.deliver.dicomweb_transport import DicomwebTransport
from node.deliver.forms import Forms
from node.deliver.http import retry_after_seconds
from node.deliver.outbox import delivery_handler
from node.deliver.transport import Unreachable
from node.destination_settings import DicomwebDestination, OAuth2, Tls
from node.errors import Permanent, Transient
from node.jobs.heartbeat import Heartbeat
from node.store.database import read_transaction
from node.store.deliveries import Delivery, get_destination_state
from node.store.tables import DeliveryState, JobState
from tests.certificates import make_authority
from tests.counterparts import LOOPBACK, free_port, orthanc, wait_until
from tests.dicomweb_stub import DicomwebStub
from tests.node.deliver.conftest import Node, add_real_result, make_due

Web = Callable[..., DicomwebDestination]


@pytest.fixture
def web(tmp_path: Path) -> Web:
    """A destination at a URL, with the fixed token of the stub."""
    token = tmp_path / "token"
    token.write_text("fixed\n")

    def make(url: str, **more: Any) -> DicomwebDestination:
        if "oauth2" not in more:
            more.setdefault("bearer_token_file", token)
        return DicomwebDestination(name="web", kind="dicomweb", url=url, **more)

    return make


@pytest.mark.counterpart("orthanc")
def test_orthanc_takes_results_confirms_them_and_gets_again_what_it_lost(tmp_path: Path, node: Node, web: Web):
    (first,) = node.add_result("web")
    with orthanc(tmp_path / "peer") as peer:
        quick = web(peer.dicomweb_url, bearer_token_file=None, confirm="query", confirm_after_seconds=0.1)
        with node.outbox(node.settings(quick)):
            node.wait_for_state(first, DeliveryState.CONFIRMED)
        for path in peer.download_to(tmp_path / "read back"):
            (original,) = [p for p in node.folder.glob("results/*/*.dcm") if dcmread(p).SOPInstanceUID == path.stem]
            assert dcmread(path) == dcmread(original)
        peer.delete(node.uids(first)[0])
        (second,) = node.add_result("web")
        with node.outbox(node.settings(quick)):
            node.wait_for_state(second, DeliveryState.CONFIRMED)
        assert node.statuses(second) == [0, 0]
        assert len(peer.instances()) == 3


@pytest.mark.counterpart("orthanc")
def test_same_result_to_orthanc_twice_is_success(tmp_path: Path, node: Node, web: Web):
    jobs = node.add_result("web", "again")
    with orthanc(tmp_path / "peer", OverwriteInstances=False) as peer:
        plain = web(peer.dicomweb_url, bearer_token_file=None)
        with node.outbox(node.settings(plain, plain.model_copy(update={"name": "again"}))):
            for job in jobs:
                node.wait_for_end(job)
        assert len(peer.instances()) == 2


def test_rules_of_azure_are_kept_and_tokens_are_got_again_when_they_end(tmp_path: Path, node: Node, web: Web):
    jobs = [node.add_result("web")[0] for _ in range(3)]
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    with DicomwebStub(token_uses=2) as stub:
        oauth2 = OAuth2(token_url=f"{stub.url}/token", client_id="node", client_secret_file=secret, scope="dicom")
        with node.outbox(node.settings(web(stub.url, oauth2=oauth2))):
            for job in jobs:
                node.wait_for_end(job)
        assert set(stub.instances) == {uid for job in jobs for uid in node.uids(job)}
        assert stub.tokens == 2


def test_what_is_there_already_with_the_same_content_is_success(node: Node, web: Web):
    (job,) = node.add_result("web")
    with DicomwebStub() as stub:
        report = node.folder / "results" / "1" / "report.dcm"
        stub.instances[node.uids(job)[1]] = report.read_bytes()
        with capture_logs() as lines, node.outbox(node.settings(web(stub.url))):
            node.wait_for_end(job)
    assert node.statuses(job) == [0, 45070]
    (line,) = [line for line in lines if line["event"] == "delivered"]
    assert line["warnings"] == {node.uids(job)[1]: "was there already, with the same content"}


def test_another_object_under_our_uid_is_said_so(node: Node, web: Web):
    (job,) = node.add_result("web")
    with DicomwebStub() as stub:
        folder = node.folder / "results" / "1"
        stub.instances[node.uids(job)[1]] = (folder / "segmentation.dcm").read_bytes()
        with node.outbox(node.settings(web(stub.url))):
            ended = node.wait_for_end(job, JobState.FAILED)
    assert "has another object under our UID" in (ended.last_error or "")


def test_each_instance_is_read_a_refused_one_fails_with_its_reason(node: Node, web: Web):
    (job,) = node.add_result("web")
    with DicomwebStub(failures={node.uids(job)[1]: 0xA900}) as stub, node.outbox(node.settings(web(stub.url))):
        ended = node.wait_for_end(job, JobState.FAILED)
    assert node.statuses(job) == [0, 0xA900]
    assert "0xA900 (data set does not match SOP class)" in (ended.last_error or "")
    assert node.uids(job)[1] in (ended.last_error or "")


def test_class_that_the_server_does_not_take_is_sent_in_the_next_form(node: Node, web: Web):
    job = add_real_result(node, "web")
    report = node.uids(job)[1]
    with DicomwebStub(failures={report: 0x0122}) as stub, node.outbox(node.settings(web(stub.url))):
        node.wait_for_end(job)
    stored = [str(dcmread(BytesIO(content)).SOPClassUID) for content in stub.instances.values()]
    assert stored.count("1.2.840.10008.5.1.4.1.1.88.33") == 1 and report not in stub.instances


@pytest.mark.parametrize("trusts_us", [True, False])
def test_stow_with_a_client_certificate_instead_of_a_token(tmp_path: Path, node: Node, web: Web, trusts_us: bool):
    (job,) = node.add_result("web")
    authority = make_authority(tmp_path / "ca")
    certificate, key = authority.issue("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    ours = (authority if trusts_us else make_authority(tmp_path / "other")).issue("node")
    with DicomwebStub(tls=context, allows_anybody=True) as stub:
        secured = Tls(ca_file=authority.ca, certificate_file=ours[0], key_file=ours[1])
        with node.outbox(node.settings(web(stub.url, bearer_token_file=None, tls=secured))):
            if not trusts_us:
                wait_until(lambda: "does not take our certificate" in (node.job(job).last_error or ""), "error")
                assert not stub.instances
                for path, renewed in zip(ours, authority.issue("renewed"), strict=True):
                    path.write_bytes(renewed.read_bytes())  # no restart is needed
            node.wait_for_end(job)
        assert set(stub.instances) == set(node.uids(job))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [("expired", "is not trusted"), ("another authority", "is not trusted"), ("plain", "does the port speak TLS")],
)
def test_server_that_is_not_who_it_should_be_gets_nothing(tmp_path: Path, node: Node, web: Web, wrong: str, words: str):
    (job,) = node.add_result("web")
    authority = make_authority(tmp_path / "ca")
    certificate, key = authority.issue("server", days=-1 if wrong == "expired" else 2)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    ca = make_authority(tmp_path / "other").ca if wrong == "another authority" else authority.ca
    with DicomwebStub(tls=None if wrong == "plain" else context, allows_anybody=True) as stub:
        url = stub.url.replace("http:", "https:")
        with node.outbox(node.settings(web(url, tls=Tls(ca_file=ca)))):
            wait_until(lambda: node.job(job).last_error, "error")
        assert not stub.instances
    assert words in (node.job(job).last_error or "")


def test_host_that_dns_does_not_know_is_tried_again(node: Node, web: Web):
    (job,) = node.add_result("web")
    deliver = delivery_handler(node.engine, node.settings(web("http://no-such-host.invalid/dicom-web")))
    with pytest.raises(Unreachable, match=r"no connection .*; is the server running, and is url right\?"):
        deliver(job, Heartbeat())


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ((429, {"Retry-After": "1"}, b""), "it is busy"),
        ((503, {"Retry-After": "1"}, b""), "it is busy"),
        ((503, {}, b""), "it is busy"),
        ((403, {}, b""), "grant them the role"),
        ((500, {}, b"Canary"), "HTTP 500 to STOW-RS"),
        ((502, {}, b"<html>"), "HTTP 502"),
        ((200, {"Content-Type": "text/html"}, b"<html>Canary, sign in</html>"), "no answer to STOW-RS"),
        ((200, {}, b'{"00081199": {"Value": []}, "00081198": {"Value": []}}'), ""),
    ],
)
def test_what_may_pass_is_tried_again(node: Node, web: Web, fault: Any, words: str):
    (job,) = node.add_result("web")
    with DicomwebStub(faults=[fault]) as stub:
        with capture_logs() as lines, node.outbox(node.settings(web(stub.url))):
            node.wait_for_end(job)
        assert words == "" or set(stub.instances) == set(node.uids(job))
    said = [line["error"] for line in lines if line["event"] == "not_delivered"]
    assert words in "".join(said)
    assert "Canary" not in json.dumps(lines, default=str)


@pytest.mark.parametrize(
    ("status", "words"), [(400, "its log says more"), (404, "check url"), (413, "too small"), (415, "media type")]
)
def test_what_will_not_pass_fails_with_advice(node: Node, web: Web, status: int, words: str):
    (job,) = node.add_result("web")
    with DicomwebStub(faults=[(status, {}, b"")]) as stub, node.outbox(node.settings(web(stub.url))):
        ended = node.wait_for_end(job, JobState.FAILED)
    assert words in (ended.last_error or "") and f"HTTP {status}" in (ended.last_error or "")


def test_retry_after_is_kept_to(node: Node, web: Web):
    (job,) = node.add_result("web")
    with DicomwebStub(faults=[(503, {"Retry-After": "3000"}, b"")]) as stub:
        with node.outbox(node.settings(web(stub.url))):
            wait_until(lambda: node.job(job).last_error, "first attempt")
            wait_until(lambda: node.job(job).state is JobState.QUEUED, "second attempt waits")
        with read_transaction(node.engine) as connection:
            state = get_destination_state(connection, "web")
        assert state.closed_until is not None and state.last_error_at is not None
        assert (state.closed_until - state.last_error_at).total_seconds() == 3000
        assert node.job(job).attempt == 1


def test_wrong_credentials_stop_the_destination_until_they_are_right(tmp_path: Path, node: Node, web: Web):
    (job,) = node.add_result("web")
    token = tmp_path / "other-token"
    token.write_text("wrong")
    with DicomwebStub() as stub, node.outbox(node.settings(web(stub.url, bearer_token_file=token))):
        wait_until(lambda: "renew the token" in (node.job(job).last_error or ""), "message")
        token.write_text("fixed")
        node.wait_for_end(job)


def test_wrong_client_secret_names_the_settings(tmp_path: Path, node: Node, web: Web):
    (job,) = node.add_result("web")
    secret = tmp_path / "secret"
    secret.write_text("wrong")
    with DicomwebStub() as stub:
        oauth2 = OAuth2(token_url=f"{stub.url}/token", client_id="node", client_secret_file=secret, scope="dicom")
        with node.outbox(node.settings(web(stub.url, oauth2=oauth2))):
            wait_until(lambda: "client_secret_file" in (node.job(job).last_error or ""), "message")
    assert "wrong" not in (node.job(job).last_error or "")


def test_nobody_there_is_tried_again(node: Node, web: Web):
    (job,) = node.add_result("web")
    port = free_port()
    with node.outbox(node.settings(web(f"http://{LOOPBACK}:{port}/dicom-web"))):
        wait_until(lambda: "no connection" in (node.job(job).last_error or ""), "message")
    assert "destination 'web' (http://127.0.0.1:" in (node.job(job).last_error or "")


def test_missing_token_file_is_permanent_and_named(tmp_path: Path, node: Node, web: Web):
    (job,) = node.add_result("web")
    with DicomwebStub() as stub, node.outbox(node.settings(web(stub.url, bearer_token_file=tmp_path / "none"))):
        ended = node.wait_for_end(job, JobState.FAILED)
    assert "cannot be read (No such file or directory)" in (ended.last_error or "")


def test_what_the_server_lost_is_sent_again(node: Node, web: Web):
    (job,) = node.add_result("web")
    with DicomwebStub(lose={node.uids(job)[0]}) as stub:
        settings = node.settings(web(stub.url, confirm="query", confirm_after_seconds=0.05))
        with node.outbox(settings):
            confirmed = node.wait_for_state(job, DeliveryState.CONFIRMED, 30)
        assert set(stub.instances) == set(node.uids(job))
    assert confirmed.resends == 1


@pytest.mark.parametrize("changed", [False, True])
def test_what_was_sent_is_read_back_and_compared(node: Node, web: Web, changed: bool):
    (job,) = node.add_result("web")
    with DicomwebStub() as stub:
        settings = node.settings(web(stub.url, confirm="retrieve", confirm_after_seconds=600))
        with node.outbox(settings):
            node.wait_for_end(job)
        uid = node.uids(job)[0]
        if changed:
            altered = dcmread(BytesIO(stub.instances[uid]))
            altered.SeriesDescription = "coerced"
            buffer = BytesIO()
            altered.save_as(buffer, enforce_file_format=True)
            stub.instances[uid] = buffer.getvalue()
        make_due(node, job.job_id)
        with node.outbox(settings):
            if not changed:
                node.wait_for_state(job, DeliveryState.CONFIRMED, 30)
                return
            wait_until(lambda: (found := node.delivery(job)) and found.checks and found, "question")
        delivery = node.delivery(job)
    assert delivery is not None and delivery.state is DeliveryState.DELIVERED
    assert f"another content under {uid}" in (delivery.last_error or "")


def delivered(node: Node, destination: DicomwebDestination) -> tuple[DicomwebTransport, Delivery]:
    """A result that the destination took, and who asks it for what it has."""
    (job,) = node.add_result("web")
    with node.outbox(node.settings(destination)):
        node.wait_for_end(job)
    found = node.delivery(job)
    assert found is not None
    forms = Forms(node.engine, "web", CONSERVATIVE, lambda: datetime.now(UTC))
    return DicomwebTransport(forms, destination, 5, node.folder), found


@pytest.mark.parametrize(
    ("status", "content"),
    [(500, b""), (403, b""), (503, b""), (200, b"<html>sign in</html>"), (200, b"--x\r\n\r\nno DICOM\r\n--x--")],
)
def test_what_cannot_be_read_back_now_is_not_lost(node: Node, web: Web, status: int, content: bytes):
    with DicomwebStub() as stub:
        transport, delivery = delivered(node, web(stub.url))
        stub.read_back = (status, {}, content)
        with pytest.raises((Transient, Permanent)):
            transport.keeps(delivery, lambda: None)
        stub.read_back = (404, {}, b"")
        assert transport.keeps(delivery, lambda: None) == set()


@pytest.mark.parametrize("answer", [b"<html>you asked for %s</html>", b'{"error": "%s"}', b"[]", b'"%s"'])
def test_page_that_quotes_the_question_confirms_nothing(node: Node, web: Web, answer: bytes):
    with DicomwebStub() as stub:
        transport, delivery = delivered(node, web(stub.url))
        uid = delivery.objects[0].sop_instance_uid
        stub.found = answer.replace(b"%s", uid.encode())
        with suppress(Transient):
            assert transport.has(delivery, lambda: None) == set()
        stub.found = json.dumps([{"00080018": {"vr": "UI", "Value": [f"{uid}9"]}}]).encode()
        assert transport.has(delivery, lambda: None) == set()


@pytest.mark.parametrize(("value", "seconds"), [("120", 120), ("999999", 3600), ("", None), ("soon", None)])
def test_retry_after_is_read(value: str, seconds: float | None):
    assert retry_after_seconds(value) == seconds


def test_retry_after_may_be_a_date_that_has_passed():
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_retry_after_as_a_date_is_of_the_servers_clock_however_wrong_that_is():
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:30 GMT", "Wed, 21 Oct 2015 07:28:00 GMT") == 30
    assert retry_after_seconds("Wed, 21 Oct 2065 07:28:30 GMT", "Wed, 21 Oct 2065 07:28:00 GMT") == 30


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"<xml/>", b'{"00081199": {"Value": [{}]}}', b"[1]"])
def test_noise_is_no_answer(content: bytes):
    assert stow.read_answer(content) is None


def test_bandwidth_is_limited_and_what_is_sent_stays_the_same(node: Node, web: Web):
    (job,) = node.add_result("web", size_bytes=50_000)
    started = time.monotonic()
    with DicomwebStub() as stub, node.outbox(node.settings(web(stub.url, maximum_kilobytes_per_second=200))):
        node.wait_for_end(job)
    assert time.monotonic() - started > 0.45  # 103 kB
    assert sorted(stub.instances) == sorted(node.uids(job))
    (segmentation,) = node.folder.glob("results/*/segmentation.dcm")
    assert segmentation.read_bytes() in stub.instances.values()


def test_limited_sending_can_be_stopped():
    class Stopped(Exception):
        pass

    def check() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        list(stow.paced([bytes(1_000_000)], 1000, check))


def test_body_is_as_long_as_it_says(result_objects: list[Path]):
    sent = b"".join(stow.body(result_objects, "b0undary", lambda: None))
    assert len(sent) == stow.body_bytes(result_objects, "b0undary")
    assert sent.count(b"--b0undary\r\n") == 2 and sent.endswith(b"--b0undary--\r\n")
