"""Networks on another machine: the same numbers as here, the version checked, faults told apart."""

import threading
from pathlib import Path

import numpy as np
import pytest

from node.errors import Permanent, Transient
from node.infer.remote import TRIES, RemoteEngine, open_remote
from tests.counterparts import free_port
from tests.kserve_server import Served, kserve
from tests.models import threshold_network

IMAGE = np.random.default_rng(1).uniform(0, 1000, (1, 1, 5, 6, 7)).astype(np.float32)
TENSORS = {"input_names": ["image"], "output_names": ["logits"]}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("kserve") / "model.onnx"
    path.write_bytes(threshold_network().SerializeToString())
    return path


@pytest.fixture(params=["http", "grpc"])
def protocol(request) -> str:
    return request.param


def test_same_numbers_as_on_this_machine(protocol: str, weights: Path) -> None:
    served = Served("ball", weights)
    with kserve(served, protocol) as url:
        session = open_remote("m", RemoteEngine(url, "ball"), **TENSORS)
        found = session.run({"image": IMAGE})["logits"]
        session.close()
    expected = served.session.run(None, {"image": IMAGE})[0]
    np.testing.assert_array_equal(found, expected)
    found += 1  # scores are activated and added up in place
    assert not session.degraded
    assert session.provider.startswith("KServe v2 onnxruntime_onnx at 127.0.0.1:")
    assert session.provider.endswith("ball version 1")


def test_a_passing_fault_is_tried_again(protocol: str, weights: Path) -> None:
    served = Served("ball", weights, failures=[503] * (TRIES - 1))
    with kserve(served, protocol) as url:
        session = open_remote("m", RemoteEngine(url, "ball"), **TENSORS)
        assert session.run({"image": IMAGE})["logits"].shape == (1, 2, 5, 6, 7)
        served.failures = [503] * TRIES
        with pytest.raises(Transient, match=rf"answered .*{TRIES} times"):
            session.run({"image": IMAGE})
        session.close()


def test_a_refusal_is_not_tried_again(weights: Path) -> None:
    served = Served("ball", weights, failures=[400, 400])
    with kserve(served, "http") as url:
        session = open_remote("m", RemoteEngine(url, "ball"), **TENSORS)
        with pytest.raises(Permanent, match="answered 400"):
            session.run({"image": IMAGE})
        session.close()
    assert served.failures == [400]


def test_an_answer_of_another_version_is_refused(protocol: str, weights: Path) -> None:
    served = Served("ball", weights)
    with kserve(served, protocol) as url:
        session = open_remote("m", RemoteEngine(url, "ball"), **TENSORS)
        served.answers_as = "2"
        with pytest.raises(Permanent, match=r"version 2 of ball answered .*expected 1"):
            session.run({"image": IMAGE})
        session.close()


def test_the_wanted_version_must_be_served(protocol: str, weights: Path) -> None:
    with (
        kserve(Served("ball", weights), protocol) as url,
        pytest.raises(Permanent, match="serves versions 1 of ball, expected 3"),
    ):
        open_remote("m", RemoteEngine(url, "ball", "3"), **TENSORS)


def test_other_tensors_than_the_manifest_names(protocol: str, weights: Path) -> None:
    with kserve(Served("ball", weights), protocol) as url:
        engine = RemoteEngine(url, "ball")
        with pytest.raises(Permanent, match=r"inputs \['image'\], expected \['t1'\]"):
            open_remote("m", engine, input_names=["t1"], output_names=["logits"])
        with pytest.raises(Permanent, match=r"outputs \['logits'\], expected \['heat'\]"):
            open_remote("m", engine, input_names=["image"], output_names=["logits", "heat"])


def test_a_server_that_is_away(protocol: str) -> None:
    with pytest.raises(Transient, match="the server"):
        open_remote("m", RemoteEngine(f"{protocol}://127.0.0.1:{free_port()}", "ball"), **TENSORS)


def test_a_model_that_is_not_ready(protocol: str, weights: Path) -> None:
    with kserve(Served("ball", weights), protocol) as url, pytest.raises(Transient, match="is not ready there"):
        open_remote("m", RemoteEngine(url, "cube"), **TENSORS)


def test_no_answer_in_time(protocol: str, weights: Path) -> None:
    served = Served("ball", weights, stalled=threading.Event())
    with kserve(served, protocol) as url:
        session = open_remote("m", RemoteEngine(url, "ball", timeout_seconds=1), **TENSORS)
        with pytest.raises(Transient, match=f"{TRIES} times"):
            session.run({"image": IMAGE})
        served.stalled.set()
        session.close()
    assert 1 <= served.calls <= TRIES  # a server that is busy drops a call that was given up before it looked


def test_waiting_can_be_stopped(protocol: str, weights: Path) -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    served = Served("ball", weights, stalled=threading.Event())
    with kserve(served, protocol) as url:
        session = open_remote("m", RemoteEngine(url, "ball"), **TENSORS)
        with pytest.raises(Stopped):
            session.run({"image": IMAGE}, stop)
        served.stalled.set()
        session.close()


def test_an_address_of_another_kind() -> None:
    with pytest.raises(Permanent, match="expected http://"):
        open_remote("m", RemoteEngine("ftp://server", "ball"), **TENSORS)
