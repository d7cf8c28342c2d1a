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
    given_up : sequence of {'tensorrt', 'cuda', 'openvino'}
        What was to be tried before, and did not do.
    """

    order: tuple[Accelerator, ...] = ("cuda", "openvino")
    gpu: int = 0
    cache: Path | None = None
    spare: tuple[int, ...] = ()
    given_up: tuple[Accelerator, ...] = ()


def wanted_providers(
    device: str, acceleration: Acceleration, built_in: Collection[str], network_sha256: str
) -> list[Provider]:
    """What a session is made with: what is asked for in its order, without GPUs where `device` is cpu, of it only GPUs
    where one is required; and the CPU itself for what is left.
    """
    names = [_NAMES[each] for each in acceleration.order if _NAMES[each] in built_in]
    fits = {"cpu": lambda name: name not in GPUS, "require-gpu": lambda name: name in GPUS}.get(
        device, lambda name: True
    )
    chosen = [name for name in names if fits(name)]
    return [*((name, _options(name, acceleration, network_sha256)) for name in chosen), (CPU, {})]


def is_degraded(device: str, acceleration: Acceleration, provider: str) -> bool:
    """Whether a GPU was preferred and something that was to be tried only after it was got.

    What the order names before any GPU was asked for first, and what it does not name was not asked for: OpenVINO
    before CUDA is no fall back, nor is the CPU where no GPU is in the order.
    """
    if device != "prefer-gpu" or provider in GPUS:
        return False
    names = [_NAMES[each] for each in (*acceleration.given_up, *acceleration.order)]
    before = names[: names.index(provider)] if provider in names else names
    return any(name in GPUS for name in before)


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
