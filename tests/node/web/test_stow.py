"""STOW-RS: what is answered, and that what is answered with success is stored like an object that came by C-STORE."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from blake3 import blake3
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import generate_uid

from node.store import tables
from tests.counterparts import wait_until
from tests.node.receive.conftest import Receiver, receive
from tests.node.receive.test_interop import REAL_FILES
from tests.node.receive.wire import Encoded, encode, read_encoded
from tests.node.web.conftest import WebUnderTest, compose, failures, part10, successes
from tests.phantoms import make_series

Serve = Callable[..., WebUnderTest]
__all__ = ["receive"]  # the fixture


def test_series_is_stored(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    answer = web.post(part10(image) for image in images)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/dicom+json"
    uids = {str(image.SOPInstanceUID) for image in images}
    assert successes(answer) == uids and "00081198" not in answer.json() and "warning" not in answer.headers
    assert answer.json()["00081190"] == {"vr": "UR"}  # nothing can be retrieved
    assert web.stored() == {str(image.SOPInstanceUID): encode(image).data_set for image in images}
    assert all(row.digest == blake3(web.stored()[row.sop_instance_uid]).hexdigest() for row in web.rows())
    assert web.notified.is_set()
    (series,) = web.rows(tables.series)
    assert (series.calling_ae_title, series.called_ae_title) == ("STOW-RS", "OVERREAD")
    assert len(web.rows(tables.series_release)) == 1
    assert web.temporary_files() == []


def test_real_files_of_every_transfer_syntax_arrive_bit_for_bit(serve: Serve) -> None:
    paths = [Path(str(get_testdata_file(name))) for name in REAL_FILES]
    web = serve()
    sent: dict[str, Encoded] = {}
    for path in paths:
        encoded = read_encoded(path)
        answer = web.post([path.read_bytes()])
        if encoded.sop_instance in sent:  # the same object in another syntax is other content
            assert failures(answer) == {encoded.sop_instance: 0xC001}
        else:
            assert answer.status_code == 200, path.name
            sent[encoded.sop_instance] = encoded
    assert web.stored() == {uid: encoded.data_set for uid, encoded in sent.items()}
    for row in web.rows():
        assert row.transfer_syntax_uid == sent[row.sop_instance_uid].transfer_syntax
        assert dcmread(web.data_dir / row.path).file_meta.MediaStorageSOPInstanceUID == row.sop_instance_uid


def test_same_object_again_by_either_way_is_success_without_a_second_copy(
    serve: Serve, receive: Callable[..., Receiver], images: list[Dataset], tmp_path: Path
) -> None:
    web = serve(tmp_path / "data")
    receiver = receive(tmp_path / "data")
    assert web.post([part10(images[0])] * 2).status_code == 200
    assert web.post([part10(images[0])]).status_code == 200
    with receiver.associated() as client:
        assert client.store(encode(images[0])) == 0
        assert client.store(encode(images[1])) == 0
        client.release()
    assert web.post([part10(images[1])]).status_code == 200
    assert len(web.rows()) == 2
    assert len(receiver.placed_files()) == 2


def test_other_content_under_a_known_uid_is_409_and_set_aside(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    assert web.post([part10(images[0])]).status_code == 200
    before = web.stored()
    images[0].PixelData = bytes(len(images[0].PixelData))
    answer = web.post([part10(images[0])])
    assert answer.status_code == 409
    assert failures(answer) == {str(images[0].SOPInstanceUID): 0xC001}
    assert answer.headers["warning"] == '299 overread "1 of 1 objects were not stored: other-content-known"'
    (item,) = web.rows(tables.quarantine)
    assert (item.code, item.calling_ae_title) == ("other-content-known", "STOW-RS")
    assert (web.data_dir / item.path).exists() and web.stored() == before


def test_some_stored_is_202(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    broken = part10(images[1])[:-100]
    answer = web.post([part10(images[0]), broken, b"no DICOM at all" * 20, b""])
    assert answer.status_code == 202
    assert successes(answer) == {str(images[0].SOPInstanceUID)}
    assert failures(answer) == {str(images[1].SOPInstanceUID): 0xC000}
    assert answer.json()["0008119A"]["Value"] == [{"00081197": {"vr": "US", "Value": [0xC000]}}] * 2
    assert {item.code for item in web.rows(tables.quarantine)} == {"truncated", "not-dicom"}
    assert all((web.data_dir / item.path).exists() for item in web.rows(tables.quarantine))
    assert web.temporary_files() == []


def test_data_set_counts_where_file_meta_names_another_object(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    path = Path(str(get_testdata_file("rtplan.dcm")))
    real = dcmread(path)
    assert real.file_meta.MediaStorageSOPInstanceUID != real.SOPInstanceUID
    without = part10(images[0]).replace(b"\2\0\3\0UI", b"\2\0\5\0UI", 1)  # no Media Storage SOP Instance UID
    answer = web.post([path.read_bytes(), without])
    assert (answer.status_code, successes(answer)) == (200, {str(real.SOPInstanceUID), str(images[0].SOPInstanceUID)})


def test_file_that_names_no_object_is_set_aside(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    del images[0].SOPInstanceUID
    file = part10(images[0])
    announced = images[0].file_meta.MediaStorageSOPInstanceUID
    answer = web.post([file, file.replace(str(announced).encode(), b"x" * len(announced))])
    assert answer.status_code == 409
    assert failures(answer) == {str(announced): 0xA900}
    assert answer.json()["0008119A"]["Value"] == [{"00081197": {"vr": "US", "Value": [0xC000]}}]
    assert {item.code for item in web.rows(tables.quarantine)} == {"data-set-mismatch", "missing-identifier"}


def test_study_in_the_url(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    (stranger,) = make_series(shape=(1, 16, 16), modality="CT", study_instance_uid=generate_uid())
    answer = web.post([part10(images[0]), part10(stranger)], f"/studies/{images[0].StudyInstanceUID}")
    assert answer.status_code == 202
    assert successes(answer) == {str(images[0].SOPInstanceUID)}
    assert failures(answer) == {str(stranger.SOPInstanceUID): 0xA900}
    assert [item.code for item in web.rows(tables.quarantine)] == ["other-study"]
    assert web.post([part10(stranger)], "/studies/not-a-uid").status_code == 400


def test_class_that_is_no_storage_class_is_0122(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    images[0].SOPClassUID = images[0].file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    answer = web.post([part10(images[0])])
    assert (answer.status_code, failures(answer)) == (409, {str(images[0].SOPInstanceUID): 0x0122})


REFUSED_BY_HEADERS: list[tuple[dict[str, str], int, str]] = [
    ({"Content_Type": "application/dicom"}, 415, "media-type"),
    ({"Content_Type": 'multipart/form-data; boundary="x"'}, 415, "media-type"),
    (
        {"Content_Type": 'multipart/related; type="application/dicom+json"; boundary=x'},
        415,
        "metadata-and-bulk-data",
    ),
    (
        {"Content_Type": 'multipart/related; type="application/dicom+xml"; boundary=x'},
        415,
        "metadata-and-bulk-data",
    ),
    ({"Content_Type": 'multipart/related; type="image/jpeg"; boundary=x'}, 415, "media-type"),
    ({"Content_Type": 'multipart/related; type="application/dicom"'}, 400, "boundary"),
    ({"Content_Encoding": "gzip"}, 415, "content-encoding"),
    ({"Accept": "application/dicom+xml"}, 406, "accept"),
    ({"Accept": "text/html, application/dicom+json;q=0"}, 406, "accept"),
]


def test_requests_that_are_refused_by_their_headers(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    for headers, status, code in REFUSED_BY_HEADERS:
        answer = web.post([part10(images[0])], **headers)
        assert (answer.status_code, answer.json()["error"]) == (status, code), headers
    assert web.rows() == []


def test_accept_headers_that_take_the_answer(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    for accept in ("", "*/*", "application/*", "application/json", "text/html, */*;q=0.1"):
        assert web.post([part10(images[0])], Accept=accept).status_code == 200, accept


MALFORMED = [
    (b"", 400, "incomplete"),
    (b"--x--", 400, "no-objects"),
    (b"--x\r\nContent-Type: image/png\r\n\r\nX\r\n--x--", 415, "part-media-type"),
    (b"--x\r\nContent-Transfer-Encoding: base64\r\n\r\nX\r\n--x--", 415, "part-encoding"),
    (b"--x\r\n\r\nX", 400, "incomplete"),
    (b"--x\r\n\r\n" * 9 + b"--x--", 413, "too-many-parts"),
    (b"--x\r\n\r\n" + bytes(1_100_000) + b"\r\n--x--", 413, "object-too-large"),
    (b"--xyz", 400, "malformed"),
]


def test_malformed_bodies(serve: Serve) -> None:
    web = serve(maximum_parts=4, maximum_object_mb=1)
    headers = {"Content-Type": "multipart/related; type=application/dicom; boundary=x"}
    for body, status, code in MALFORMED:
        answer = httpx.post(f"{web.url}/studies", content=body, headers=headers, trust_env=False, timeout=60)
        assert (answer.status_code, answer.json()["error"]) == (status, code)
    assert web.temporary_files() == []


def test_objects_before_the_fault_are_stored(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    content, content_type = compose(part10(image) for image in images)
    answer = httpx.post(
        f"{web.url}/studies", content=content[:-200], headers={"Content-Type": content_type}, trust_env=False
    )
    assert (answer.status_code, answer.json()["objects_stored"]) == (400, 3)
    assert len(web.rows()) == 3 and web.temporary_files() == []
    assert web.post(part10(image) for image in images).status_code == 200
    assert len(web.rows()) == 4


def test_no_body_is_411_and_chunks_are_taken(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    content, content_type = compose([part10(images[0])])
    pieces = (content[at : at + 777] for at in range(0, len(content), 777))
    with httpx.Client(trust_env=False, timeout=60) as client:
        chunked = client.post(f"{web.url}/studies", content=pieces, headers={"Content-Type": content_type})
        assert chunked.status_code == 200
        request = client.build_request("POST", f"{web.url}/studies", headers={"Content-Type": content_type})
        del request.headers["Content-Length"]
        assert client.send(request).status_code == 411


def test_no_room_is_507_and_says_when_to_try_again(serve: Serve, images: list[Dataset]) -> None:
    web = serve(dimse={"free_disk_mb": 1 << 40})
    answer = web.post([part10(images[0])])
    assert (answer.status_code, answer.json()["error"], answer.headers["retry-after"]) == (507, "disk-full", "10")


def test_failing_store_is_503(serve: Serve, images: list[Dataset]) -> None:
    web = serve()
    (web.data_dir / "instances").rename(web.data_dir / "gone")
    (web.data_dir / "instances").write_text("in the way")
    answer = web.post([part10(images[0])])
    assert (answer.status_code, failures(answer)) == (503, {str(images[0].SOPInstanceUID): 0xA700})


def test_health_and_paths_that_are_not_there(serve: Serve) -> None:
    web = serve()
    with httpx.Client(base_url=web.url, trust_env=False, timeout=60) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/studies").status_code == 405
        assert client.post("/series").status_code == 404


def test_no_more_uploads_at_once_than_allowed(serve: Serve, images: list[Dataset]) -> None:
    web = serve(maximum_uploads=1)
    content, content_type = compose([part10(make_series(shape=(1, 512, 512), modality="CT")[0])])
    go_on = threading.Event()
    answers: list[httpx.Response] = []

    def slowly():  # type: ignore[no-untyped-def]
        yield content[:300_000]
        go_on.wait()
        yield content[300_000:]

    def upload() -> None:
        with httpx.Client(trust_env=False, timeout=60) as client:
            answers.append(client.post(f"{web.url}/studies", content=slowly(), headers={"Content-Type": content_type}))

    thread = threading.Thread(target=upload)
    thread.start()
    try:
        wait_until(web.temporary_files, "upload that is under way")
        busy = web.post([part10(images[1])])
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "10")
    finally:
        go_on.set()
        thread.join(90)
    assert answers[0].status_code == 200
    assert web.post([part10(images[1])]).status_code == 200


def test_answers_and_log_hold_no_patient_data(
    serve: Serve, images: list[Dataset], capfd: pytest.CaptureFixture[str]
) -> None:
    web = serve()
    for image in images:
        image.PatientName, image.PatientID = "Canary^Yellow", "CANARY-1"
    images[1].SOPInstanceUID = generate_uid()  # not what its file meta says
    files = [part10(images[0]), part10(images[2])[:-50], b"Canary^Yellow" * 30]
    answer = web.post(files)
    assert answer.status_code == 202
    said = json.dumps(answer.json()) + str(answer.headers) + "".join(capfd.readouterr())
    assert "stow_ended" in said and "object_refused" in said
    assert "anary" not in said.replace("Canary^Yellow" * 30, "") and "CANARY" not in said
