"""STOW-RS clients made by others: Orthanc's and curl."""

import hashlib
import json
import subprocess
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread

from node.store import tables
from node.web_settings import WebClient
from tests.conftest import program
from tests.counterparts import orthanc
from tests.node.receive.wire import read_encoded
from tests.node.web.conftest import WebUnderTest, compose
from tests.phantoms import write_series

Serve = Callable[..., WebUnderTest]
TOKEN = "decaf" * 8


@pytest.mark.counterpart("orthanc")
def test_orthanc_sends_a_study(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    client = WebClient(ae_title="ORTHANC", bearer_token_file=tmp_path / "token")
    web = serve(clients=(client,), allow_anonymous=False)
    server = {"Url": f"{web.url}/", "HttpHeaders": {"Authorization": f"Bearer {TOKEN}"}}
    stranger = {"Url": f"{web.url}/", "HttpHeaders": {"Authorization": "Bearer guessed"}}
    configuration = {"Enable": True, "Root": "/dicom-web/", "Servers": {"node": server, "stranger": stranger}}
    paths = write_series(tmp_path / "series", shape=(12, 64, 64), modality="CT")
    with orthanc(tmp_path / "orthanc", DicomWeb=configuration) as peer:
        peer.store(paths)
        study = peer.identifier(str(dcmread(paths[0]).StudyInstanceUID))
        order = {"Resources": [study], "Synchronous": True}
        with pytest.raises(urllib.error.HTTPError):
            peer.request("/dicom-web/servers/stranger/stow", order)
        answer = json.loads(peer.request("/dicom-web/servers/node/stow", order))
        assert "InstancesCount" not in answer or int(answer["InstancesCount"]) == len(paths)
        sent = {one["SOPInstanceUID"]: peer.download(one["id"]) for one in peer.instances()}
    assert len(sent) == len(web.rows()) == len(paths)
    written = tmp_path / "written"
    written.mkdir()
    for uid, stored in web.stored().items():
        (written / uid).write_bytes(sent[uid])
        assert hashlib.sha256(read_encoded(written / uid).data_set).digest() == hashlib.sha256(stored).digest()
    assert {row.calling_ae_title for row in web.rows(tables.series)} == {"ORTHANC"}


@pytest.mark.counterpart("curl")
def test_curl_sends_files_and_stops_at_an_early_refusal(serve: Serve, tmp_path: Path) -> None:
    curl = program("curl")
    assert curl is not None
    web = serve()
    paths = write_series(tmp_path / "series", shape=(3, 600, 600), modality="CT")  # over 1 MB: curl asks first
    content, content_type = compose(path.read_bytes() for path in paths)
    (tmp_path / "body").write_bytes(content)

    def post(kind: str) -> tuple[str, int]:
        options = [
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--noproxy",
            "*",
            "-w",
            "\n%{http_code} %{size_upload}",
        ]
        headers = ["-H", f"Content-Type: {kind}", "-H", "Expect: 100-continue"]
        command = [curl, *options, *headers, "--data-binary", f"@{tmp_path / 'body'}", f"{web.url}/studies"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        status, uploaded = answer.rsplit("\n", 1)[1].split()
        return status, int(uploaded)

    assert post("application/dicom") == ("415", 0)
    assert post(content_type) == ("200", len(content))
    assert web.stored() == {read_encoded(path).sop_instance: read_encoded(path).data_set for path in paths}
