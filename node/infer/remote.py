"""A network that runs on another machine: KServe v2 (Open Inference Protocol) over HTTP or gRPC, as Triton speaks it.

To the rest of the node it is a session like any other (`node.infer.session`). Which model runs there is checked, not
assumed: its tensors when the session is opened, its version with every answer.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from node.errors import Permanent, Transient
from node.infer.session import CHECK_SECONDS

TRIES = 3
_TRANSIENT_STATUS = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "429", "502", "503", "504")
_READY_SECONDS = 10.0


@dataclass(frozen=True)
class RemoteEngine:
    """Where a model runs.

    Parameters
    ----------
    url : str
        ``http://host:8000``, ``https://``, ``grpc://host:8001`` or ``grpcs://``.
    model : str
        Its name on the server.
    version : str
        Its version on the server; empty takes what the server chooses, and every answer must come from the same.
    timeout_seconds : float
        For one call.
    """

    url: str
    model: str
    version: str = ""
    timeout_seconds: float = 60.0


@dataclass(eq=False)
class RemoteSession:
    """A model on a server, with a connection and a thread of its own."""

    model: str
    provider: str
    engine: RemoteEngine
    version: str
    output_names: tuple[str, ...]
    _client: Any
    _library: ModuleType
    _types: Mapping[str, str]
    _caller: "_Caller"
    degraded: bool = field(default=False, init=False)

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        check: Callable[[], None] = lambda: None,
        *,
        last: bool = True,
        leave: bool = False,
    ) -> dict[str, np.ndarray]:
        """Outputs of the network by name: float32, int64, or text.

        Parameters
        ----------
        feeds : mapping of str to ndarray
            Each input tensor.
        check : callable
            Called several times a second while the server computes; an exception it raises ends the waiting and goes
            on.
        last, leave : bool
            Whether nothing follows at once, and whether scores may stay on a GPU; the server does not care.

        Raises
        ------
        Transient
            When the server cannot be reached, is overloaded or does not answer in time, three times in a row.
        Permanent
            When it refuses the call, or another version of the model answered.
        """
        running = self._caller.submit(lambda: self._call(feeds))
        _watch(running, check)
        return running.result()

    def close(self) -> None:
        """Close the connection."""
        self._caller.submit(self._client.close)
        self._caller.end()

    def _call(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        inputs = [self._input(name, array) for name, array in feeds.items()]
        outputs = [self._library.InferRequestedOutput(name) for name in self.output_names]
        options: dict[str, Any] = {"client_timeout": self.engine.timeout_seconds} if _is_grpc(self.engine) else {}
        answer = _tried(
            self.engine,
            lambda: self._client.infer(
                self.engine.model, inputs, model_version=self.engine.version, outputs=outputs, **options
            ),
        )
        response = answer.get_response()
        version = response.model_version if _is_grpc(self.engine) else str(response.get("model_version", ""))
        if version != self.version:
            raise Permanent(
                f"model {self.model}: version {version or 'unknown'} of {self.engine.model} answered at "
                f"{self.engine.url}, expected {self.version}: restart the node once the server serves what it should"
            )
        found = {name: answer.as_numpy(name) for name in self.output_names}
        return {name: self._plain(name, array) for name, array in found.items()}

    def _input(self, name: str, array: np.ndarray) -> Any:
        from tritonclient.utils import triton_to_np_dtype

        kind = self._types[name]
        given = self._library.InferInput(name, list(array.shape), kind)
        given.set_data_from_numpy(np.ascontiguousarray(array, triton_to_np_dtype(kind)))
        return given

    def _plain(self, name: str, array: np.ndarray | None) -> np.ndarray:
        if array is None or array.dtype.kind not in "fiubOS":
            raise Permanent(f"model {self.model}: output {name!r} is no tensor of numbers or text")
        if array.dtype.kind in "iu":
            return array.astype(np.int64)
        if array.dtype.kind not in "fb":
            return array
        return np.require(array, np.float32, "W")  # whoever asked may change it, and the library's is read-only


class _Caller:
    """A thread that makes one call after the other; one that hangs does not keep the process from ending."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        threading.Thread(target=self._run, name="remote", daemon=True).start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        """What the call will give."""
        answer: Future[Any] = Future()
        self._calls.put((answer, call))
        return answer

    def end(self) -> None:
        """No more calls will come; those that wait are made."""
        self._calls.put(None)

    def _run(self) -> None:
        while (item := self._calls.get()) is not None:
            answer, call = item
            try:
                answer.set_result(call())
            except BaseException as error:
                answer.set_exception(error)
            del item, answer, call


def open_remote(
    model: str, engine: RemoteEngine, *, input_names: Sequence[str], output_names: Sequence[str]
) -> RemoteSession:
    """Connect to a server and compare the model it serves with what the manifest says.

    Raises
    ------
    Transient
        When the server cannot be reached or does not have the model ready.
    Permanent
        When it serves other tensors or not this version, or `tritonclient` is not installed.
    """
    library = _library(engine)
    caller = _Caller()  # the client for HTTP stays in the thread that made it
    try:
        client, metadata = caller.submit(lambda: _connect(library, engine)).result()
        served = {each["name"]: each["datatype"] for each in metadata.get("inputs", [])}
        given = [each["name"] for each in metadata.get("outputs", [])]
        _check_tensors(model, engine, served, given, input_names, output_names)
        versions = [str(each) for each in metadata.get("versions") or []]
        version = engine.version or max(versions, key=lambda text: (len(text), text), default="")
        if engine.version and engine.version not in versions:
            raise Permanent(
                f"model {model}: {engine.url} serves versions {', '.join(versions) or 'none'} of {engine.model}, "
                f"expected {engine.version}"
            )
    except BaseException:
        caller.end()
        raise
    where = urlsplit(engine.url).netloc
    provider = f"KServe v2 {metadata.get('platform') or 'server'} at {where}, {engine.model} version {version}"
    return RemoteSession(model, provider, engine, version, tuple(output_names), client, library, served, caller)


def _library(engine: RemoteEngine) -> ModuleType:
    try:
        if _is_grpc(engine):
            import tritonclient.grpc as grpc_library

            return grpc_library
        import tritonclient.http as http_library

        return http_library
    except ImportError:
        raise Permanent(
            f"{engine.url}: models on other machines need tritonclient: .venv/bin/pip install -e '.[remote]'"
        ) from None


def _connect(library: ModuleType, engine: RemoteEngine) -> tuple[Any, dict[str, Any]]:
    """A client, and what the server says of the model."""
    parts = urlsplit(engine.url)
    if parts.scheme not in ("http", "https", "grpc", "grpcs") or not parts.netloc:
        raise Permanent(f"{engine.url}: expected http://, https://, grpc:// or grpcs:// and a host")
    secure = parts.scheme in ("https", "grpcs")
    if _is_grpc(engine):
        client = library.InferenceServerClient(parts.netloc, ssl=secure)
        limit: dict[str, Any] = {"client_timeout": _READY_SECONDS}
    else:
        client = library.InferenceServerClient(
            parts.netloc + parts.path.rstrip("/"),
            ssl=secure,
            connection_timeout=_READY_SECONDS,
            network_timeout=engine.timeout_seconds,
        )
        limit = {}
    if not _tried(engine, lambda: client.is_model_ready(engine.model, engine.version, **limit)):
        raise Transient(f"{engine.url}: model {engine.model} {engine.version} is not ready there")
    if _is_grpc(engine):
        limit["as_json"] = True
    return client, _tried(engine, lambda: client.get_model_metadata(engine.model, engine.version, **limit))


def _tried(engine: RemoteEngine, call: Callable[[], Any]) -> Any:
    """The answer of a call; it is made again at once while the fault looks passing."""
    from tritonclient.utils import InferenceServerException

    reason = ""
    for _ in range(TRIES):
        try:
            return call()
        except InferenceServerException as error:
            status = str(error.status() or "")
            reason = f"answered {status or 'an error'}"
            if not any(each in status for each in _TRANSIENT_STATUS):
                raise Permanent(f"{engine.url}: model {engine.model}: the server {reason}") from None
        except OSError as error:  # refused, reset, unknown name, timed out
            reason = f"cannot be reached ({type(error).__name__})"
    raise Transient(f"{engine.url}: model {engine.model}: the server {reason}, {TRIES} times")


def _check_tensors(
    model: str,
    engine: RemoteEngine,
    served: Mapping[str, str],
    given: Sequence[str],
    input_names: Sequence[str],
    output_names: Sequence[str],
) -> None:
    if sorted(served) != sorted(input_names):
        raise Permanent(
            f"model {model}: {engine.url} serves {engine.model} with inputs {sorted(served)}, expected "
            f"{sorted(input_names)}"
        )
    missing = [name for name in output_names if name not in given]
    if missing:
        raise Permanent(
            f"model {model}: {engine.url} serves {engine.model} with outputs {list(given)}, expected {missing} among "
            "them"
        )


def _is_grpc(engine: RemoteEngine) -> bool:
    return engine.url.startswith("grpc")


def _watch(running: Future[Any], check: Callable[[], None]) -> None:
    while not wait([running], CHECK_SECONDS).done:
        check()
