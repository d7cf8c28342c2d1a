"""Exactly one build of ONNX Runtime: `onnxruntime-gpu`, `onnxruntime` and `onnxruntime-openvino` install the same files
over each other.
"""

from collections.abc import Collection
from importlib import metadata

from node.errors import Permanent

BUILDS = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-openvino")
WHAT_TO_DO = (
    "pip uninstall --yes onnxruntime onnxruntime-gpu onnxruntime-openvino, then pip install --force-reinstall "
    "--no-deps of the one wanted: onnxruntime-gpu on Linux and Windows x86-64 (it runs on the CPU, too), onnxruntime "
    "elsewhere, onnxruntime-openvino with openvino for Intel processors without a GPU of NVIDIA"
)


def installed_builds() -> tuple[str, ...]:
    """The builds of ONNX Runtime in this environment."""
    found = []
    for name in BUILDS:
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    return tuple(found)


def check_builds(installed: Collection[str]) -> None:
    """Whether exactly one build is installed.

    Raises
    ------
    Permanent
        With what to do, when there are none or several: which was installed last decides what runs, and removing one
        breaks the others.
    """
    if len(installed) != 1:
        found = " and ".join(installed) or "no build of ONNX Runtime"
        raise Permanent(f"found {found}, expected exactly one of {', '.join(BUILDS)}: {WHAT_TO_DO}")
