"""A small KServe v2 server over ONNX Runtime, HTTP with binary tensors and gRPC, in threads of the test."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import np_to_triton_dtype, triton_to_np_dtype

from node.infer.runtime import onnxruntime

DATATYPES = {"tensor(float)": "FP32", "tensor(int64)": "INT64"}


@dataclass
class Served:
    """What the server has, and how it is to behave."""

    name: str
    path: Path
    versions: list[str] = field(default_factory=lambda: ["1"])
    answers_as: str = "1"
    failures: list[int] = field(default_factory=list)
    """Status codes of the next calls, instead of an answer."""
    stalled: threading.Event | None = None
    """Calls wait for it."""
    calls: int = 0

    def __post_init__(self) -> None:
        self.session = onnxruntime.InferenceSession(str(self.path), providers=["CPUExecutionProvider"])

    def metadata(self) -> dict[str, object]:
        def listed(tensors) -> list[dict[str, object]]:
            return [{"name": each.name, "datatype": DATATYPES[each.type], "shape": [-1]} for each in tensors]

        return {
            "name": self.name,
            "versions": self.versions,
            "platform": "onnxruntime_onnx",
            "inputs": listed(self.session.get_inputs()),
            "outputs": listed(self.session.get_outputs()),
        }

    def infer(self, feeds: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        self.calls += 1
        if self.stalled is not None:
            self.stalled.wait()
        return dict(zip(outputs, self.session.run(outputs, feeds), strict=True))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    served: Served

    def log_message(self, *arguments: object) -> None:
        return

    def _answer(self, status: int, content: bytes, header_length: int | None = None) -> None:
        self.send_response(status)
        if header_length is not None:
            self.send_header("Inference-Header-Content-Length", str(header_length))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        known = self.path.startswith(f"/v2/models/{self.served.name}")
        if self.path.endswith("/ready"):
            self._answer(200 if known else 400, b"")
        elif known:
            self._answer(200, json.dumps(self.served.metadata()).encode())
        else:
            self._answer(404, b'{"error": "unknown model"}')

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.served.failures:
            self._answer(self.served.failures.pop(0), b'{"error": "no"}')
            return
        length = int(self.headers["Inference-Header-Content-Length"])
        request, position, feeds = json.loads(content[:length]), length, {}
        for each in request["inputs"]:
            size = each["parameters"]["binary_data_size"]
            values = np.frombuffer(content[position : position + size], triton_to_np_dtype(each["datatype"]))
            feeds[each["name"]] = values.reshape(each["shape"])
            position += size
        found = self.served.infer(feeds, [each["name"] for each in request["outputs"]])
        described = [
            {
                "name": name,
                "datatype": np_to_triton_dtype(array.dtype),
                "shape": list(array.shape),
                "parameters": {"binary_data_size": array.nbytes},
            }
            for name, array in found.items()
        ]
        answer = {"model_name": self.served.name, "model_version": self.served.answers_as, "outputs": described}
        header = json.dumps(answer).encode()
        self._answer(200, header + b"".join(array.tobytes() for array in found.values()), len(header))


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self, served: Served) -> None:
        self._served = served

    def ModelReady(self, request, context):
        return service_pb2.ModelReadyResponse(ready=request.name == self._served.name)

    def ModelMetadata(self, request, context):
        return service_pb2.ModelMetadataResponse(**self._served.metadata())

    def ModelInfer(self, request, context):
        if self._served.failures:
            self._served.failures.pop(0)
            context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        feeds = {
            each.name: np.frombuffer(raw, triton_to_np_dtype(each.datatype)).reshape(each.shape)
            for each, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        found = self._served.infer(feeds, [each.name for each in request.outputs])
        answer = service_pb2.ModelInferResponse(model_name=self._served.name, model_version=self._served.answers_as)
        for name, array in found.items():
            answer.outputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer


@contextmanager
def kserve(served: Served, protocol: str) -> Iterator[str]:
    """The URL of a running server."""
    if protocol == "grpc":
        server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(served), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"grpc://127.0.0.1:{port}"
        finally:
            server.stop(0).wait()
    else:
        web = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"served": served}))
        web.daemon_threads = True
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{web.server_port}"
        finally:
            web.shutdown()
            thread.join()
            web.server_close()
