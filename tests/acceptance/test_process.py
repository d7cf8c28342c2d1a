"""A platform asks the whole node to process studies, and hears what came of them."""

import hmac
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.uid import generate_uid

from tests.counterparts import answers, free_port, wait_until
from tests.faulty_archive import FaultyArchive
from tests.http_stub import Answer, HttpStub, Request
from tests.models import threshold_network, write_model
from tests.node.web.conftest import compose, part10
from tests.nodes import running_node, without_uids
from tests.phantoms import make_series

TOKEN = "platform-token-0123456789abcdef"
CONFIGURATION = """\
destinations = ["pacs", "platform"]
[web]
enabled = true
port = {port}
[[web.clients]]
ae_title = "PLATFORM"
bearer_token_file = "token"
[process]
enabled = true
[[process.sources]]
name = "archive"
url = "{platform}/wado"
[[destinations]]
name = "platform"
kind = "callback"
url = "{platform}/callback"
client = "PLATFORM"
secret_file = "secret"
"""
CANARIES = ("Canary^Tweety", "Tweety", "CANARY-ID-4711", "19330405", "ACC-CANARY-1")


def test_platform_is_told_of_what_it_asked_for_until_it_acknowledges(tmp_path: Path) -> None:
    """Files, and a study by WADO, through model and outbox to the callback, which first fails; a study that no route
    wants is told as failed. The patient is in nothing that was said, logged or audited."""
    identity: dict[str, Any] = {
        "patient_name": "Canary^Tweety",
        "patient_id": "CANARY-ID-4711",
        "PatientBirthDate": "19330405",
        "AccessionNumber": "ACC-CANARY-1",
    }
    sent, fetched = (make_series(shape=(12, 24, 24), study_instance_uid=generate_uid(), **identity) for _ in range(2))
    unwanted = make_series(shape=(2, 24, 24), modality="CT", study_instance_uid=generate_uid(), **identity)
    wado, kind = compose([part10(image) for image in fetched])
    callbacks: list[Request] = []

    def serve(request: Request) -> Answer:
        if request.path.startswith("/wado/studies/"):
            return 200, {"Content-Type": kind}, wado
        if request.method != "POST":
            return 200, {}, b""
        callbacks.append(request)
        return (500, {}, b"Canary^Tweety") if len(callbacks) < 3 else (202, {}, b"Canary^Tweety")

    write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    folder, port = tmp_path / "node", free_port()
    folder.mkdir()
    (folder / "token").write_text(TOKEN)
    (folder / "secret").write_text("s3cret")
    with HttpStub(serve) as platform, FaultyArchive() as archive:
        replace = [('destinations = ["pacs"]\n', CONFIGURATION.format(port=port, platform=platform.url))]
        with running_node(folder, tmp_path / "models", "ball", archive.port, replace) as node:
            wait_until(lambda: answers(port), "HTTP server", 60)
            web = httpx.Client(
                base_url=f"http://127.0.0.1:{port}",
                headers={"Authorization": f"Bearer {TOKEN}"},
                trust_env=False,
                timeout=30,
            )
            with web:
                asked = []
                for series in (sent, unwanted):
                    content, media_type = compose([part10(image) for image in series])
                    asked.append(web.post("/process", content=content, headers={"Content-Type": media_type}))
                named = {"study_instance_uid": str(fetched[0].StudyInstanceUID), "source": "archive"}
                asked.append(web.post("/process", json=named))
                assert [one.status_code for one in asked] == [202, 202, 202]
                identifiers = [one.json()["id"] for one in asked]

                def stands(number: int) -> Any:
                    return web.get("/status", params={"id": identifiers[number]}).json()

                def told(number: int) -> bool:
                    results = stands(number)["results"]
                    return bool(results) and all(one["callback"] == "acknowledged" for one in results)

                wait_until(lambda: told(0) and told(2), "acknowledged callbacks", 90)
                wait_until(lambda: stands(1)["status"] == "failed", "failure", 60)
                wait_until(lambda: any(b'"failed"' in one.content for one in callbacks), "failure that is told", 60)
                assert stands(0)["status"] == stands(2)["status"] == "done"
                links = [one for result in stands(0)["results"] for one in result["objects"]]
                given = [web.get(one["url"]) for one in links]
                said = [one.text for one in asked] + [json.dumps(stands(number)) for number in range(3)]
                before = len(callbacks)
                again = web.post("/process", json={"study_instance_uid": str(sent[0].StudyInstanceUID)})
                assert again.json()["id"] == identifiers[0]
                wait_until(lambda: len(callbacks) > before, "callback that is repeated", 60)
            archive.wait_for(4, 60)
            assert node.stop() == 0
        log = node.log.read_text()
    objects = [dcmread(DicomBytesIO(one.content)) for one in given]
    assert {one.SOPInstanceUID for one in objects} <= {one.sop_instance_uid for one in archive.received}
    assert {one.StudyInstanceUID for one in objects} == {sent[0].StudyInstanceUID} and len(objects) == 2
    for request in callbacks:
        stamp, signature = (part.partition("=")[2] for part in request.headers["X-Overread-Signature"].split(","))
        signed = hmac.new(b"s3cret", f"{stamp}.".encode() + request.content, sha256)
        assert signature == signed.hexdigest()
    bodies = [json.loads(request.content) for request in callbacks]
    assert {(one["id"], one["status"]) for one in bodies} == {
        (identifiers[0], "done"),
        (identifiers[1], "failed"),
        (identifiers[2], "done"),
    }
    audit = "".join(path.read_text() for path in (folder / "data" / "audit").glob("*.log"))
    for text in (log, audit, *said, *(one.content.decode() for one in callbacks)):
        assert not [canary for canary in CANARIES if canary.lower() in without_uids(text).lower()]
    assert "traceback" not in log.lower()
