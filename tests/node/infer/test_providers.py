"""What sessions are asked to run on, what they run on, and what a GPU that fails leads to."""

from pathlib import Path

import numpy as np
import pytest

from node.errors import Permanent, Transient
from node.infer.providers import (
    CPU,
    CUDA,
    OPENVINO,
    TENSORRT,
    Acceleration,
    is_degraded,
    running_provider,
    wanted_providers,
)
from node.infer.runtime import onnxruntime, ort_errors
from node.infer.sections import Run
from node.infer.session import DeviceLost, OutOfMemory, Session, open_session
from node.infer.thrift import Thrift, attempts
from tests.models import threshold_network

OPENVINO_SAID = (
    "Non-zero status code returned while running OpenVINO-EP-subgraph_2 node. Status Message: [OpenVINO-EP] In Error "
    "Couldn't start Inference: Exception from src/inference/src/cpp/infer_request.cpp:224:\n[CPU] Convolution node "
    "with name 'a' Check 'ptr' failed at src/plugins/intel_cpu/src/cpu_memory.cpp:257:\n"
    "Failed to allocate 1811939328 bytes of memory\n"
)
"""Of onnxruntime-openvino 1.24.1 in a process with a limit of memory, shortened."""

ALL = (TENSORRT, CUDA, OPENVINO, CPU)
EVERYTHING = Acceleration(("tensorrt", "cuda", "openvino"), 1, Path("/cache"))
NAMES = {"input_names": ["image"], "output_names": ["logits"]}


def asked(device: str, acceleration: Acceleration = EVERYTHING, built_in: tuple[str, ...] = ALL) -> list[str]:
    return [name for name, _ in wanted_providers(device, acceleration, built_in, "ab" * 32)]


def test_gpus_come_first_and_the_cpu_last() -> None:
    assert asked("prefer-gpu") == [TENSORRT, CUDA, OPENVINO, CPU]
    assert asked("cpu") == [OPENVINO, CPU]
    assert asked("prefer-gpu", Acceleration(("openvino", "cuda"))) == [OPENVINO, CUDA, CPU]


def test_where_a_gpu_is_required_nothing_else_is_tried_before_it() -> None:
    assert asked("require-gpu") == [TENSORRT, CUDA, CPU]
    assert asked("require-gpu", Acceleration(("openvino", "cuda"))) == [CUDA, CPU]


def test_what_the_build_lacks_is_not_asked_for_and_tensorrt_only_on_demand() -> None:
    assert asked("prefer-gpu", built_in=(OPENVINO, CPU)) == [OPENVINO, CPU]
    assert asked("prefer-gpu", Acceleration()) == [CUDA, OPENVINO, CPU]


def test_engines_of_tensorrt_are_kept_by_network_and_never_in_the_folder_of_another() -> None:
    options = dict(wanted_providers("require-gpu", EVERYTHING, ALL, "ab" * 32))
    assert options[TENSORRT]["trt_engine_cache_path"].startswith("/cache/" + "ab" * 8 + "-")
    assert options[TENSORRT]["device_id"] == options[CUDA]["device_id"] == 1
    other = dict(wanted_providers("require-gpu", EVERYTHING, ALL, "cd" * 32))
    assert other[TENSORRT]["trt_engine_cache_path"] != options[TENSORRT]["trt_engine_cache_path"]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ({CUDA: 40, CPU: 2}, CUDA),
        ({CPU: 42}, CPU),
        ({CUDA: 0, CPU: 42}, CPU),
        ({}, CPU),
        (None, CUDA),
    ],
)
def test_a_provider_that_took_no_part_of_the_network_does_not_count(nodes: dict[str, int] | None, expected: str):
    assert running_provider([CUDA, CPU], nodes) == expected


@pytest.mark.parametrize(
    ("device", "order", "provider", "degraded"),
    [
        ("prefer-gpu", ("cuda", "openvino"), CUDA, False),
        ("prefer-gpu", ("cuda", "openvino"), OPENVINO, True),
        ("prefer-gpu", ("cuda", "openvino"), CPU, True),
        ("prefer-gpu", ("tensorrt", "cuda"), CUDA, False),
        ("prefer-gpu", ("openvino", "cuda"), OPENVINO, False),
        ("prefer-gpu", ("openvino", "cuda"), CUDA, False),
        ("prefer-gpu", ("openvino", "cuda"), CPU, True),
        ("prefer-gpu", ("openvino",), CPU, False),
        ("prefer-gpu", (), CPU, False),
        ("cpu", ("cuda", "openvino"), CPU, False),
    ],
)
def test_degraded_is_what_was_to_come_after_a_gpu(device: str, order, provider: str, degraded: bool) -> None:
    assert is_degraded(device, Acceleration(order), provider) == degraded
    assert is_degraded(device, Acceleration(given_up=order, order=()), CPU) == is_degraded(
        device, Acceleration(order), CPU
    )


RUNS = (Run(mode="sliding-window", patch=(96, 96, 96)),)
THRIFTY_RUNS = (*RUNS, Run(mode="sliding-window", patch=(96, 96, 96), small_patch=(64, 64, 64)))


@pytest.mark.parametrize(
    ("device", "ran_on", "runs", "expected"),
    [
        ("cpu", [CPU], RUNS, ["one"]),
        ("cpu", [CPU], THRIFTY_RUNS, ["one", "small"]),
        ("cpu", [OPENVINO], RUNS, ["one", "one on CPU"]),
        ("prefer-gpu", [CPU], RUNS, ["one"]),
        ("prefer-gpu", [OPENVINO], RUNS, ["one", "one on CPU"]),
        ("prefer-gpu", [CUDA], RUNS, ["one", "one on 3", "one on 4", "one on CPU"]),
        ("prefer-gpu", [CUDA], THRIFTY_RUNS, ["one", "small", "one on 3", "one on 4", "one on CPU", "small on CPU"]),
        ("prefer-gpu", [], RUNS, ["one", "one on 3", "one on 4", "one on CPU"]),
        ("require-gpu", [TENSORRT], RUNS, ["one", "one on 3", "one on 4"]),
    ],
)
def test_short_memory_first_less_at_once_then_the_next_gpu_then_the_cpu(device, ran_on, runs, expected) -> None:
    own = Acceleration(("tensorrt", "cuda", "openvino"), 2, None, (3, 4))
    words = {Thrift.ONE_AT_A_TIME: "one", Thrift.SMALL_PATCHES: "small"}
    found = []
    for attempt in attempts(device, own, ran_on, runs):
        other = attempt.acceleration
        where = "" if other is None else f" on {other.gpu}" if other.order else " on CPU"
        found.append(words[attempt.thrift] + where)
    assert found == expected


@pytest.fixture(scope="module")
def network() -> bytes:
    return threshold_network().SerializeToString()


def test_a_build_that_tells_shows_where_each_part_runs(network: bytes) -> None:
    session = open_session("ball", network, **NAMES, device="cpu", threads=1)
    assert session.provider == CPU and session.arena == "cpu:0" and not session.degraded


def test_a_provider_that_cannot_load_the_network_is_followed_by_the_next(network: bytes, tmp_path: Path) -> None:
    """TensorRT, asked for with a folder that is none, is refused with an error, as OpenVINO does some networks."""
    if TENSORRT not in onnxruntime.get_available_providers():
        assert asked("prefer-gpu", built_in=tuple(onnxruntime.get_available_providers()))[-1] == CPU
        return
    acceleration = Acceleration(("tensorrt",), -5, tmp_path / "engines")
    session = open_session("ball", network, **NAMES, device="prefer-gpu", threads=1, acceleration=acceleration)
    assert session.provider == CPU and session.degraded
    with pytest.raises(Transient, match="a GPU is required and the session runs on CPU"):
        open_session("ball", network, **NAMES, device="require-gpu", threads=1, acceleration=acceleration)


def test_a_network_that_nothing_can_load_is_told_once() -> None:
    with pytest.raises(Permanent, match="ONNX Runtime cannot load it"):
        open_session("ball", b"no network", **NAMES, device="prefer-gpu", threads=1)


def test_onnx_runtime_never_falls_back_by_itself_in_the_middle_of_a_run(network: bytes) -> None:
    session = open_session("ball", network, **NAMES, device="prefer-gpu", threads=1)
    assert not session.engine._enable_fallback


@pytest.mark.parametrize(
    ("provider", "error", "expected"),
    [
        (CUDA, ort_errors.EPFail("gone"), DeviceLost),
        (CUDA, ort_errors.Fail("CUDA failure 700: an illegal memory access was encountered ; GPU=0"), DeviceLost),
        (CUDA, ort_errors.Fail("CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR"), DeviceLost),
        (TENSORRT, ort_errors.EPFail("TensorRT EP execution context enqueue failed."), DeviceLost),
        (CUDA, ort_errors.Fail("CUDA failure 2: out of memory ; GPU=0"), OutOfMemory),
        (CUDA, ort_errors.Fail("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0"), OutOfMemory),
        (CUDA, ort_errors.Fail("CUDNN_BACKEND_API_FAILED; HOST_ALLOCATION_FAILED"), OutOfMemory),
        (CUDA, ort_errors.Fail("CUDA error cudaErrorMemoryAllocation:out of memory"), OutOfMemory),
        (CUDA, ort_errors.Fail("cuMemCreate: CUDA_ERROR_OUT_OF_MEMORY"), OutOfMemory),
        (TENSORRT, ort_errors.EPFail("Error Code 2: OutOfMemory (Requested size was 1 bytes.)"), OutOfMemory),
        (OPENVINO, ort_errors.Fail(OPENVINO_SAID), OutOfMemory),
        (OPENVINO, ort_errors.Fail("[OpenVINO-EP] could not create a memory object"), OutOfMemory),
        (CUDA, ort_errors.InvalidArgument("Got invalid dimensions"), Permanent),
        (CPU, ort_errors.EPFail("gone"), Permanent),
    ],
)
def test_a_gpu_that_fails_is_told_from_a_network_that_does(
    network: bytes, provider: str, error: Exception, expected: type[Exception]
) -> None:
    engine = open_session("ball", network, **NAMES, device="cpu", threads=1).engine

    class Failing:
        """An engine whose runs fail; everything else is that of a real one."""

        get_inputs = staticmethod(engine.get_inputs)
        get_outputs = staticmethod(engine.get_outputs)
        io_binding = staticmethod(engine.io_binding)

        @staticmethod
        def run(*_: object) -> None:
            raise error

        run_with_iobinding = run

    session = Session("ball", provider, False, Failing(), ("logits",))
    with pytest.raises(expected) as caught:
        session.run({"image": np.zeros((1, 1, 4, 4, 4), np.float32)})
    assert type(caught.value) is expected
