"""What a session is asked to run on, and what it runs on. Pure, apart from reading which builds are installed.

ONNX Runtime calls it an execution provider. A build has some of them; the list of a build says nothing of the machine.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

Accelerator = Literal["tensorrt", "cuda", "openvino"]
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
GPUS = (TENSORRT, CUDA)
_NAMES: Mapping[str, str] = {"tensorrt": TENSORRT, "cuda": CUDA, "openvino": OPENVINO}

Provider = tuple[str, dict[str, Any]]
"""Name and options."""


@dataclass(frozen=True)
class Acceleration:
    """How this process may run networks.

    Parameters
    ----------
    order : sequence of {'tensorrt', 'cuda', 'openvino'}
        What is tried, the first first; what the installed build lacks is left out, the CPU always comes last.
    gpu : int
        Number of the GPU.
    cache : Path, optional
        Folder for the engines that TensorRT builds; None keeps none.
    spare : tuple of int
        Numbers of further GPUs, for what does not fit on this one.
    """

    order: tuple[Accelerator, ...] = ("cuda", "openvino")
    gpu: int = 0
    cache: Path | None = None
    spare: tuple[int, ...] = ()


def wanted_providers(
    device: str, acceleration: Acceleration, built_in: Collection[str], network_sha256: str
) -> list[Provider]:
    """What a session is made with, in order: GPUs unless `device` is cpu, OpenVINO on the CPU, the CPU itself."""
    names = [_NAMES[each] for each in acceleration.order if _NAMES[each] in built_in]
    chosen = [name for name in names if device != "cpu" or name not in GPUS]
    return [*((name, _options(name, acceleration, network_sha256)) for name in chosen), (CPU, {})]


def _options(name: str, acceleration: Acceleration, network_sha256: str) -> dict[str, Any]:
    if name == CUDA:
        return {"device_id": acceleration.gpu, "arena_extend_strategy": "kSameAsRequested"}
    if name == TENSORRT:
        return {"device_id": acceleration.gpu, **_engine_cache(acceleration.cache, network_sha256)}
    return {"device_type": "CPU", "precision": "ACCURACY"}


def _engine_cache(cache: Path | None, network_sha256: str) -> dict[str, Any]:
    """Engines are of one network and one TensorRT; it names them by the GPU itself."""
    if cache is None:
        return {}
    folder = str(cache / f"{network_sha256[:16]}-{_tensorrt_version()}")
    return {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": folder,
    }


def _tensorrt_version() -> str:
    for name in ("tensorrt-cu13", "tensorrt-cu12", "tensorrt"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "system"


def running_provider(in_order: Sequence[str], nodes: Mapping[str, int] | None) -> str:
    """What a session runs on: the first of its providers that took any part of the network.

    Parameters
    ----------
    in_order : sequence of str
        The providers that the session has, as it says itself.
    nodes : mapping of str to int, optional
        Parts of the network by provider, where the build of ONNX Runtime tells.
    """
    return next((name for name in in_order if nodes is None or nodes.get(name)), CPU)
