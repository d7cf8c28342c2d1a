"""Warm sessions within a budget, short memory, networks on an inference server."""

import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pydicom import Dataset

from node.errors import Permanent
from node.infer import Registry, analyse
from node.infer.analyse import MEMORY_FALL_BACK
from node.infer.pool import Key, SessionPool, gpu_bytes, resident_bytes, used_bytes
from node.infer.providers import Acceleration
from node.infer.remote import RemoteEngine
from node.infer.session import OutOfMemory, open_session
from node.volume import Volume
from tests.counterparts import wait_until
from tests.kserve_server import Served, kserve
from tests.models import network, threshold_network, write_model, write_task_model

MEGABYTE = 1_000_000


def heavy_network(floats: int) -> onnx.ModelProto:
    """The ball, with weights that take memory."""
    weights = np.ones(floats, np.float32)
    nodes = [
        helper.make_node("ReduceMax", ["weights"], ["largest"], keepdims=1),
        helper.make_node("Mul", ["largest", "nought"], ["nothing"]),
        helper.make_node("Add", ["image", "nothing"], ["same"]),
        helper.make_node("Sub", ["twice", "same"], ["dark"]),
        helper.make_node("Concat", ["dark", "same"], ["logits"], axis=1),
    ]
    tensors = [
        helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True),
        helper.make_tensor("nought", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("twice", TensorProto.FLOAT, [1], [1000.0]),
    ]
    return network(nodes, ["N", 2, "D", "H", "W"], tensors)


def hungry_network() -> onnx.ModelProto:
    """The ball, which asks for as much memory as no machine has as soon as a batch is more than one."""
    nodes = [
        helper.make_node("Shape", ["image"], ["count"], start=0, end=1),
        helper.make_node("Sub", ["count", "one"], ["more"]),
        helper.make_node("Mul", ["more", "very_many"], ["too_many"]),
        helper.make_node("Add", ["too_many", "one"], ["wanted"]),
        helper.make_node("Expand", ["nought", "wanted"], ["wide"]),
        helper.make_node("ReduceSum", ["wide"], ["nothing"], keepdims=1),
        helper.make_node("Add", ["image", "nothing"], ["same"]),
        helper.make_node("Sub", ["twice", "same"], ["dark"]),
        helper.make_node("Concat", ["dark", "same"], ["logits"], axis=1),
    ]
    tensors = [
        helper.make_tensor("one", TensorProto.INT64, [1], [1]),
        helper.make_tensor("very_many", TensorProto.INT64, [1], [1 << 45]),
        helper.make_tensor("nought", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("twice", TensorProto.FLOAT, [1], [1000.0]),
    ]
    return network(nodes, ["N", 2, "D", "H", "W"], tensors)


def wide_network() -> onnx.ModelProto:
    """The ball, by way of 128 channels."""
    weights = np.zeros((128, 1, 1, 1, 1), np.float32)
    weights[0] = 1
    back = np.zeros((2, 128, 1, 1, 1), np.float32)
    back[:, 0, 0, 0, 0] = (-1, 1)
    nodes = [
        helper.make_node("Conv", ["image", "weights"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["positive"]),
        helper.make_node("Conv", ["positive", "back", "bias"], ["logits"]),
    ]
    tensors = [
        helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True),
        helper.make_tensor("back", TensorProto.FLOAT, back.shape, back.tobytes(), raw=True),
        helper.make_tensor("bias", TensorProto.FLOAT, [2], [1000.0, 0.0]),
    ]
    return network(nodes, ["N", 2, "D", "H", "W"], tensors)


@pytest.fixture
def ball() -> Volume:
    voxels = np.zeros((6, 7, 8), np.int16)
    voxels[2:4, 2:5, 3:6] = 900
    headers = []
    for number in range(6):
        header = Dataset()
        header.SOPInstanceUID = f"1.2.{number + 1}"
        headers.append(header)
    return Volume(voxels, np.diag([2.0, 1.0, 1.0, 1.0]), headers, "MR", "1.2.3")


def with_run(folder: Path, more: str) -> Path:
    text = (folder / "model.toml").read_text()
    (folder / "model.toml").write_text(text.replace("[[outputs]]\n", f"[run]\n{more}\n\n[[outputs]]\n"))
    return folder


def test_models_over_the_budget_are_closed_and_memory_does_not_grow(tmp_path: Path, ball: Volume) -> None:
    for name in ("one", "two", "three"):
        write_model(tmp_path / name, name, heavy_network(10 * MEGABYTE))  # 40 MB each
    pool = SessionPool(100 * MEGABYTE)
    registry = Registry([tmp_path], pool)
    sizes = []
    for _ in range(3):
        for model in registry.models():
            pool.rest()
            analyse(model, {"image": ball}, device="cpu", threads=1)
        pool.rest()
        assert 1 <= len(pool.open_models) < 3
        assert pool.open_models[-1] == "two"  # models come in the order of their names
        sizes.append(resident_bytes())
    first, *_, last = sizes
    assert first is not None and last is not None
    assert last - first < 120 * MEGABYTE  # six models were opened meanwhile: 240 MB


def test_a_worker_watches_its_own_memory_and_its_gpus() -> None:
    """A GPU that is not there takes nothing."""
    assert gpu_bytes(10_000) == 0
    used = used_bytes(10_000)
    assert used is not None and used > MEGABYTE


def test_without_a_budget_all_stay_warm(tmp_path: Path, ball: Volume) -> None:
    for name in ("one", "two"):
        write_model(tmp_path / name, name, threshold_network())
    registry = Registry([tmp_path])
    for model in registry.models():
        analyse(model, {"image": ball}, device="cpu", threads=1)
        registry.pool.rest()
    assert registry.pool.open_models == ("one", "two")


def test_the_model_used_last_stays_however_large() -> None:
    sizes = iter([100, 100, 500, 500])
    pool = SessionPool(10, resident=lambda: next(sizes))
    pool.rest()
    pool.sessions(Key("large", "cpu", 1), dict)
    pool.rest()
    assert pool.open_models == ("large",)


def test_short_memory_others_are_closed_and_batches_are_of_one(tmp_path: Path, ball: Volume) -> None:
    write_model(tmp_path / "other", "other", threshold_network())
    folder = write_model(tmp_path / "hungry", "hungry", hungry_network())
    with_run(folder, 'mode = "sliding-window"\npatch = [4, 4, 4]\nbatch = 3')
    registry = Registry([tmp_path])
    expected = analyse(registry.get("other"), {"image": ball}, device="cpu", threads=1).labels
    found = analyse(registry.get("hungry"), {"image": ball}, device="cpu", threads=1)
    np.testing.assert_array_equal(found.labels, expected)
    assert registry.pool.open_models == ("hungry",)
    again = analyse(registry.get("other"), {"image": ball}, device="cpu", threads=1).labels
    np.testing.assert_array_equal(again, expected)


def test_memory_that_never_suffices_is_said(tmp_path: Path, ball: Volume) -> None:
    content = hungry_network()
    content.graph.initializer[0].int64_data[0] = 0  # already for a batch of one
    write_model(tmp_path / "hungry", "hungry", content)
    with pytest.raises(OutOfMemory, match="model hungry: not enough memory"):
        analyse(Registry([tmp_path]).get("hungry"), {"image": ball}, device="cpu", threads=1)


def test_a_network_that_no_gpu_can_hold_runs_on_the_cpu(tmp_path: Path, ball: Volume) -> None:
    """It cannot even be loaded there, on whatever attempt."""

    class Small(SessionPool):
        """A GPU without room."""

        def sessions(self, key, open_sessions):
            if key.acceleration is None or key.acceleration.order:
                raise OutOfMemory("no room")
            return super().sessions(key, open_sessions)

    model = Registry([write_model(tmp_path / "ball", "ball", threshold_network())], Small()).get("ball")
    found = analyse(model, {"image": ball}, device="prefer-gpu", threads=1)
    assert found.degraded and MEMORY_FALL_BACK in found.remarks
    with pytest.raises(OutOfMemory):
        analyse(model, {"image": ball}, device="require-gpu", threads=1)


def test_what_no_room_is_for_goes_to_the_next_gpu(tmp_path: Path, ball: Volume) -> None:
    """GPUs by number, at the pool's seam: where the sessions would be opened is written down, they run on the CPU."""
    asked: list[int | None] = []

    class Crowded(SessionPool):
        """GPU 0 has no room, GPU 2 has."""

        def sessions(self, key, open_sessions):
            asked.append((key.acceleration or self.acceleration).gpu)
            if asked[-1] == 0:
                raise OutOfMemory("no room")
            return super().sessions(key, open_sessions)

    pool = Crowded(acceleration=Acceleration(spare=(2, 1)))
    model = Registry([write_model(tmp_path / "ball", "ball", threshold_network())], pool).get("ball")
    found = analyse(model, {"image": ball}, device="prefer-gpu", threads=1)
    assert asked == [0, 0, 2] and pool.open_models == ()  # that GPU is another worker's
    assert found.labels is not None and found.labels.any()


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from pydicom import Dataset
from node.infer import Registry, analyse
from node.volume import Volume

headers = [Dataset() for _ in range(96)]
for number, header in enumerate(headers):
    header.SOPInstanceUID = f"1.2.{number + 1}"
voxels = np.zeros((96, 96, 96), np.int16)
voxels[30:60, 20:70, 40:80] = 900
model = Registry([Path(sys.argv[1])]).models()[0]
model.sessions("cpu", 1)
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
if sys.argv[2] == "short":
    resource.setrlimit(resource.RLIMIT_AS, (taken + 400_000_000, resource.RLIM_INFINITY))
found = analyse(model, {"image": Volume(voxels, np.eye(4), headers, "MR", "1.2.3")}, device="cpu", threads=1)
print(int(found.labels.sum()), "smaller patches" in " ".join(found.remarks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of memory that the system keeps")
def test_a_process_with_little_memory_takes_the_small_patches(tmp_path: Path) -> None:
    """A real limit (RLIMIT_AS) on a process of its own; the network needs 450 MB for one patch, 17 MB for a small."""
    folder = write_model(tmp_path / "wide", "wide", wide_network())
    with_run(folder, 'mode = "sliding-window"\npatch = [96, 96, 96]\noverlap = 0.0\nsmall_patch = [32, 32, 32]')
    answers = []
    for memory in ("plenty", "short"):
        command = [sys.executable, "-c", SHORT_OF_MEMORY, str(folder), memory]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3])
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout.splitlines()[-1].split())
    assert answers == [["60000", "False"], ["60000", "True"]]


TWO_STAGES = """
[[inputs]]
[inputs.requires]
modality = ["MR"]
[[stages]]
name = "first"
[stages.preprocessing]
orientation = "SPL"
alignment = "acquisition"
[[stages.outputs]]
task = "segmentation"
channels = 2
report = false
[[stages.outputs.labels]]
name = "Ball"
channels = [1]
type = { value = "12738006", meaning = "Brain" }
rgb = [255, 0, 0]
[preprocessing]
orientation = "SPL"
alignment = "acquisition"
[run]
file = "LAST"
[[outputs]]
task = "segmentation"
channels = 2
[[outputs.labels]]
name = "Core"
channels = [1]
type = { value = "12738006", meaning = "Brain" }
rgb = [255, 0, 0]
"""


def test_what_was_opened_is_closed_when_the_rest_of_a_model_cannot_be(tmp_path: Path, ball: Volume) -> None:
    """Each attempt of its job would leave a connection behind."""
    network = threshold_network()
    there = tmp_path / "there.onnx"
    there.write_bytes(network.SerializeToString())
    files = {"model.onnx": network, "last.onnx": b"no network"}
    folder = write_task_model(tmp_path / "two", TWO_STAGES.replace("LAST", "last.onnx"), files)
    before = set(threading.enumerate())
    with kserve(Served("net", there), "http") as url:
        pool = SessionPool(engines={("two", "model.onnx"): RemoteEngine(url, "net", "1")})
        with pytest.raises(Permanent, match="ONNX Runtime cannot load it"):
            analyse(Registry([folder], pool).get("two"), {"image": ball}, device="cpu", threads=1)
        wait_until(lambda: "remote" not in [each.name for each in set(threading.enumerate()) - before], "end of it")


def test_a_network_of_two_stages_is_opened_once(tmp_path: Path, ball: Volume) -> None:
    folder = write_task_model(
        tmp_path / "two", TWO_STAGES.replace("LAST", "model.onnx"), {"model.onnx": threshold_network()}
    )
    model = Registry([folder]).get("two")
    assert list(model.sessions("cpu", 1)) == ["model.onnx"]
    assert analyse(model, {"image": ball}, device="cpu", threads=1).provider == "CPUExecutionProvider"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_network_on_a_server_gives_the_same_without_its_file_here(
    protocol: str, tmp_path: Path, ball: Volume
) -> None:
    folder = write_model(tmp_path / "models" / "ball", "ball", threshold_network())
    expected = analyse(Registry([folder]).get("ball"), {"image": ball}, device="cpu", threads=1)
    there = tmp_path / "there.onnx"
    (folder / "model.onnx").rename(there)
    with kserve(Served("net", there), protocol) as url:
        pool = SessionPool(engines={("ball", ""): RemoteEngine(url, "net", "1")})
        found = analyse(Registry([folder], pool).get("ball"), {"image": ball}, device="require-gpu", threads=1)
        pool.close()
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.findings == expected.findings
    assert found.provider.startswith("KServe v2") and found.provider.endswith("net version 1")
    assert not found.degraded
    assert hashlib.sha256(there.read_bytes()).hexdigest() in (folder / "model.toml").read_text()


def test_answers_of_later_runs_leave_earlier_ones_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(threshold_network().SerializeToString())
    session = open_session("m", path, input_names=["image"], output_names=["logits"], device="cpu", threads=1)
    images = [np.full((1, 1, 3, 4, 5), 100.0 * number, np.float32) for number in range(4)]
    answers = [session.run({"image": image}, last=False)["logits"] for image in images]
    for image, answer in zip(images, answers, strict=True):
        np.testing.assert_array_equal(answer, np.concatenate([1000 - image, image], axis=1))
    turned = images[3].transpose(0, 1, 4, 3, 2)
    np.testing.assert_array_equal(session.run({"image": turned})["logits"][:, 1:], turned)
