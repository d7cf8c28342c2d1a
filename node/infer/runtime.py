"""ONNX Runtime as this node uses it: imported here and nowhere else, with its telemetry off.

The official builds of ONNX Runtime for Linux report their use (model, hardware, errors) to their maker over the
network, begin with it at import, and leave a session file in the folder for temporary files. A node in a hospital
reports nothing to anybody. The variable must be set before the import.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

onnxruntime.disable_telemetry_events()

__all__ = ["onnxruntime", "ort_errors"]
