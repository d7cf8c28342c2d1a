"""dcmtk's senders against the receiver, and real files of every kind that the repository's libraries ship."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from tests.counterparts import orthanc
from tests.node.receive.conftest import Receiver
from tests.node.receive.wire import Client, read_encoded
from tests.phantoms import write_series

Start = Callable[..., Receiver]
REAL_FILES = (
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "CT_small.dcm",
    "JPEG2000.dcm",
    "JPGExtended.dcm",
    "rtdose_rle.dcm",
    "SC_rgb_rle.dcm",
    "image_dfl.dcm",
    "rtplan.dcm",
    "rtdose.dcm",
    "waveform_ecg.dcm",
    "test-SR.dcm",
    "liver_1frame.dcm",
)


def dcmtk_program(name: str) -> str | None:
    """The program of dcmtk; pynetdicom installs its own of the same name beside the interpreter."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    ours = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join(["/usr/bin", *(folder for folder in folders if folder != ours)]))


def run(name: str, *arguments: object, code: int = 0) -> str:
    done = subprocess.run(
        [str(dcmtk_program(name)), *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def as_sent(path: Path) -> bytes:
    return read_encoded(path).data_set


def received(receiver: Receiver) -> dict[str, bytes]:
    return {row.sop_instance_uid: as_sent(receiver.data_dir / row.path) for row in receiver.rows()}


@pytest.mark.counterpart("dcmtk")
def test_echoscu(receive: Start) -> None:
    receiver = receive()
    run("echoscu", "-aec", "OVERREAD", "127.0.0.1", receiver.port)
    assert "Called AE Title Not Recognized" in run("echoscu", "-aec", "X", "127.0.0.1", receiver.port, code=1)


@pytest.mark.counterpart("dcmtk")
@pytest.mark.parametrize("maximum_pdu", [4096, 16384, 131072])
def test_storescu_with_every_pdu_size(receive: Start, tmp_path: Path, maximum_pdu: int) -> None:
    receiver = receive(maximum_pdu_bytes=maximum_pdu)
    paths = write_series(tmp_path / "series", shape=(5, 200, 130), modality="CT")
    run("storescu", "-aec", "OVERREAD", "--max-pdu", 131072, "127.0.0.1", receiver.port, *paths)
    assert received(receiver) == {str(pydicom.dcmread(path).SOPInstanceUID): as_sent(path) for path in paths}


@pytest.mark.counterpart("dcmtk")
@pytest.mark.parametrize(
    ("option", "syntax"), [("-xr", RLELossless), ("-xt", JPEGLSLossless), ("-xv", JPEG2000Lossless)]
)
def test_storescu_with_compressed_images(receive: Start, tmp_path: Path, option: str, syntax: str) -> None:
    receiver = receive()
    paths = write_series(tmp_path / "series", shape=(2, 32, 32), transfer_syntax=syntax)
    run("storescu", option, "-aec", "OVERREAD", "127.0.0.1", receiver.port, *paths)
    assert received(receiver) == {str(pydicom.dcmread(path).SOPInstanceUID): as_sent(path) for path in paths}
    assert {row.transfer_syntax_uid for row in receiver.rows()} == {str(syntax)}


@pytest.mark.counterpart("dcmtk")
def test_dcmsend_reports_success(receive: Start, tmp_path: Path) -> None:
    receiver = receive()
    paths = write_series(tmp_path / "series", shape=(6, 32, 32))
    report = tmp_path / "report.txt"
    run("dcmsend", "-aec", "OVERREAD", "--create-report-file", report, "127.0.0.1", receiver.port, *paths)
    assert "0000" in report.read_text() and receiver.count() == 6


@pytest.mark.counterpart("dcmtk")
def test_several_storescu_at_once(receive: Start, tmp_path: Path) -> None:
    receiver = receive()
    series = [write_series(tmp_path / str(number), shape=(6, 64, 64), modality="CT") for number in range(4)]
    command = [str(dcmtk_program("storescu")), "-aec", "OVERREAD", "127.0.0.1", str(receiver.port)]
    senders = [subprocess.Popen([*command, *map(str, paths)]) for paths in series]
    assert [sender.wait(180) for sender in senders] == [0] * 4
    sent = [path for paths in series for path in paths]
    assert received(receiver) == {str(pydicom.dcmread(path).SOPInstanceUID): as_sent(path) for path in sent}


@pytest.mark.counterpart("orthanc")
def test_orthanc_forwards_studies_in_several_associations(receive: Start, tmp_path: Path) -> None:
    receiver = receive()
    series = [
        write_series(tmp_path / "ct", shape=(25, 64, 64), modality="CT"),
        write_series(tmp_path / "mr", shape=(12, 32, 32), modality="MR"),
        write_series(tmp_path / "rle", shape=(3, 32, 32), transfer_syntax=RLELossless),
    ]
    with orthanc(tmp_path / "peer", modalities={"node": ("OVERREAD", receiver.port)}) as peer:
        peer.echo("node")
        for paths in series:
            peer.store(paths)
        studies = [str(pydicom.dcmread(paths[0]).StudyInstanceUID) for paths in series]
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda uid: peer.forward(uid, "node"), studies))
        kept = {one["SOPInstanceUID"]: peer.download(one["id"]) for one in peer.instances()}
    arrived = received(receiver)
    assert len(arrived) == 40
    for uid, content in kept.items():  # as Orthanc holds it: it encodes nothing anew
        (tmp_path / uid).write_bytes(content)
        assert arrived[uid] == as_sent(tmp_path / uid)


@pytest.mark.parametrize("name", REAL_FILES)
def test_real_file_arrives_bit_for_bit(receive: Start, name: str) -> None:
    path = get_testdata_file(name)
    assert path is not None
    encoded = read_encoded(Path(str(path)))
    receiver = receive()
    with Client(receiver.port) as client:
        client.associate([(1, encoded.sop_class, [encoded.transfer_syntax])])
        assert client.store(encoded) == 0
    assert received(receiver) == {encoded.sop_instance: encoded.data_set}
