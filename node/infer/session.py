"""One ONNX Runtime session, and the truth about what it runs on.

`get_available_providers` lists CUDA on machines without a GPU, and a session that asked for CUDA falls back
to the CPU with no more than a log line: so the provider is read from the session that was made.
"""

import contextlib
import hashlib
import importlib.util
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from node.errors import Permanent, Transient
from node.infer.arrays import Array, ScoreDevice, cuda_scores
from node.infer.providers import CPU, GPUS, Acceleration, Provider, is_degraded, running_provider, wanted_providers
from node.infer.runtime import onnxruntime, ort_errors
from node.logs import get_logger

Device = Literal["prefer-gpu", "require-gpu", "cpu"]

ORT_ERRORS: tuple[type[Exception], ...] = (
    ort_errors.EPFail,
    ort_errors.EngineError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.ModelLoaded,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
    RuntimeError,
    ValueError,
)
"""Everything a session raises; the classes have no common base. ValueError: input names that do not exist."""

OUT_OF_MEMORY = re.compile(
    r"(failed|unable|not able) to allocate|can ?not allocate|bad_alloc|bad allocation|out[ _]?of[ _]?memory"
    r"|available memory|alloc\w*_failed|MemoryAllocation|create a memory object",
    re.IGNORECASE,
)
"""In the words of ONNX Runtime's arenas, CUDA and its libraries, TensorRT, OpenVINO and oneDNN."""


OTHER_SHAPE = re.compile(r"pre-allocated output|invalid dimensions for output", re.IGNORECASE)
GPU_FAILED = re.compile(r"\b(cuda|cudnn|cublas|cufft|tensorrt)\w* (failure|error)", re.IGNORECASE)


class OutOfMemory(Transient):
    """The memory does not suffice for this model on this input, now."""


class DeviceLost(Transient):
    """The GPU failed under a running network. Nothing else that this process does on it will succeed: it is to be
    ended.
    """


@dataclass(frozen=True, eq=False)
class Session:
    """A warm session.

    Parameters
    ----------
    model : str
        Identifier, for messages.
    provider : str
        What it really runs on.
    degraded : bool
        Whether a GPU was asked for and the CPU was got.
    """

    model: str
    provider: str
    degraded: bool
    engine: onnxruntime.InferenceSession
    output_names: tuple[str, ...]
    scores: ScoreDevice | None = None
    """Where scores can be left; None brings them to the machine's memory."""
    arena: str = ""
    """Where ONNX Runtime keeps working memory that it can give back: ``cpu:0`` or ``gpu:`` and a number."""
    _dense: dict[tuple[int, ...], tuple[int, ...] | None] = field(default_factory=dict, init=False, repr=False)
    """Shapes of the one output that has a score for every voxel of the one input, by shape of the input; None where it
    has another.
    """

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        check: Callable[[], None] = lambda: None,
        *,
        last: bool = True,
        leave: bool = False,
    ) -> dict[str, Array]:
        """Outputs of the network by name: float32, int64, or text.

        Parameters
        ----------
        feeds : mapping of str to ndarray
            Each input tensor.
        check : callable
            Called several times a second while the network runs; an exception it raises ends the run and goes on.
        last : bool
            Give working memory back afterwards; what follows at once would only ask for it again.
        leave : bool
            Leave outputs of float32 on the GPU, if `scores` says where.

        Raises
        ------
        OutOfMemory
            When memory does not suffice.
        Permanent
            When the model raises or an output is neither of numbers nor of text.
        """
        options = onnxruntime.RunOptions()
        if last and self.arena:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", self.arena)
        types = {each.name: INPUT_TYPES[each.type] for each in self.engine.get_inputs()}
        shapes = ", ".join(str(array.shape) for array in feeds.values())
        try:
            given = {name: np.ascontiguousarray(array, types[name]) for name, array in feeds.items()}
            outputs = self._run_watched(given, options, check, leave)
        except MemoryError:
            raise OutOfMemory(f"model {self.model}: not enough memory for an input of shape {shapes}") from None
        except ORT_ERRORS as error:
            raise self._explain(error, shapes) from None
        if leave and self.scores:
            return dict(zip(self.output_names, outputs, strict=True))
        return {name: self._plain(name, output) for name, output in zip(self.output_names, outputs, strict=True)}

    def _plain(self, name: str, output: Any) -> np.ndarray:
        if not isinstance(output, np.ndarray) or output.dtype.kind not in "fiubOUS":
            raise Permanent(f"model {self.model}: output {name!r} is no tensor of numbers or text")
        if output.dtype.kind in "iu":
            return output.astype(np.int64, copy=False)
        return output.astype(np.float32, copy=False) if output.dtype.kind in "fb" else output

    def _run_watched(
        self, feeds: Mapping[str, np.ndarray], options: onnxruntime.RunOptions, check: Callable[[], None], leave: bool
    ) -> Sequence[Any]:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self._run_and_leave if leave and self.scores else self._run, feeds, options)
            try:
                while not wait([running], CHECK_SECONDS).done:
                    check()
            except BaseException:
                options.terminate = True  # between two nodes of the graph
                raise
        return running.result()

    def _run_and_leave(self, feeds: Mapping[str, np.ndarray], options: onnxruntime.RunOptions) -> Sequence[Array]:
        """Outputs as arrays on the device where they were computed."""
        assert self.scores is not None
        self.scores.finish()
        binding = self.engine.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, array)
        for name in self.output_names:
            binding.bind_output(name, self.scores.name, self.scores.number)
        self.engine.run_with_iobinding(binding, options)
        binding.synchronize_outputs()
        return [self.scores.take(each) for each in binding.get_outputs()]

    def _run(self, feeds: Mapping[str, np.ndarray], options: onnxruntime.RunOptions) -> Sequence[Any]:
        """Into memory of ours where the shape of the answer is known: ONNX Runtime would keep it twice."""
        shape = self._answer_shape(feeds)
        if shape is not None:
            output = np.empty(shape, np.float32)
            binding = self.engine.io_binding()
            ((name, given),) = feeds.items()
            binding.bind_cpu_input(name, given)
            binding.bind_output(self.output_names[0], "cpu", 0, np.float32, shape, output.ctypes.data)
            try:
                self.engine.run_with_iobinding(binding, options)
            except RuntimeError as error:
                if not OTHER_SHAPE.search(str(error)):
                    raise
                self._dense[given.shape] = None  # the network's own words of its shape were not right
            else:
                return [output]
        outputs: Sequence[Any] = self.engine.run(list(self.output_names), dict(feeds), options)
        if self.provider == CPU and len(feeds) == len(outputs) == 1:
            (given,) = feeds.values()
            self._dense[given.shape] = outputs[0].shape if _is_dense(given, outputs[0]) else None
        return outputs

    def _answer_shape(self, feeds: Mapping[str, np.ndarray]) -> tuple[int, ...] | None:
        """The shape that the one output has for the one input, if it has a score for every voxel: as seen before, or as
        the network says by the names of its free sides.
        """
        if self.provider != CPU or len(feeds) != 1 or len(self.output_names) != 1:
            return None
        (given,) = feeds.values()
        if given.shape in self._dense:
            return self._dense[given.shape]
        (taken,) = self.engine.get_inputs()
        answer = next(each for each in self.engine.get_outputs() if each.name == self.output_names[0])
        ways = [each.shape[:1] + each.shape[2:] for each in (taken, answer)]
        is_same = given.ndim > 3 and answer.type == "tensor(float)" and ways[0] == ways[1] and None not in ways[0]
        if not is_same or len(answer.shape) != given.ndim or not isinstance(answer.shape[1], int):
            return None
        return (given.shape[0], answer.shape[1], *given.shape[2:])

    def _explain(self, error: Exception, shape: str) -> Transient | Permanent:
        """Our words for an error of the engine: which node failed on which shape; its text may quote
        values.
        """
        text = str(error)
        if OUT_OF_MEMORY.search(text):
            return OutOfMemory(f"model {self.model}: not enough memory for an input of shape {shape}")
        if self.provider in GPUS and (isinstance(error, ort_errors.EPFail) or GPU_FAILED.search(text)):
            return DeviceLost(f"model {self.model}: {self.provider} failed on an input of shape {shape}")
        node = re.search(r"running (\w+) node\. Name:'([^']{0,80})'", text)
        place = f" in node {node[2]!r} ({node[1]})" if node else ""
        return Permanent(f"model {self.model}: raised {type(error).__name__}{place} on an input of shape {shape}")


def _is_dense(given: np.ndarray, output: Any) -> bool:
    """Whether an output has channels for every item and voxel of the input: then its shape depends on nothing else."""
    if not isinstance(output, np.ndarray) or output.dtype != np.float32 or output.ndim != given.ndim:
        return False
    return bool(output.shape[0] == given.shape[0] and output.shape[2:] == given.shape[2:] and given.ndim > 3)


CHECK_SECONDS = 0.2
INPUT_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
}


def open_session(
    model: str,
    weights: bytes | Path,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    device: str,
    threads: int,
    acceleration: Acceleration | None = None,
) -> Session:
    """Make a session and check what it runs on.

    Parameters
    ----------
    model : str
        Identifier, for messages.
    weights : bytes or Path
        The ONNX file, or its path when it has external data.
    input_names, output_names : sequence of str
        All inputs that the model has, and the outputs that are wanted.
    device : {'prefer-gpu', 'require-gpu', 'cpu'}
    threads : int
        CPU threads of one run; 0 means all cores.
    acceleration : Acceleration, optional
        What may be tried, and where.

    Raises
    ------
    Permanent
        When ONNX Runtime cannot load the model, or it lacks the named tensors.
    Transient
        When a GPU is required and none can be used.
    """
    onnxruntime.set_default_logger_severity(4)  # a fall back is told by the session's provider, see below
    if device != "cpu":
        _preload()
    acceleration = acceleration or Acceleration()
    wanted = wanted_providers(device, acceleration, onnxruntime.get_available_providers(), _sha256(weights))
    for _, settings in wanted:
        if "trt_engine_cache_path" in settings:
            Path(settings["trt_engine_cache_path"]).mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = _load_with_any(model, weights, threads, wanted)
    provider = running_provider(engine.get_providers(), _nodes_by_provider(engine))
    if provider != wanted[0][0]:
        get_logger("infer").warning("provider_fell_back", model=model, asked=wanted[0][0], got=provider)
    if device == "require-gpu" and provider not in GPUS:
        raise Transient(f"model {model}: a GPU is required and the session runs on {provider}")
    _check_tensors(model, engine, input_names, output_names)
    return Session(
        model,
        provider,
        is_degraded(device, acceleration, provider),
        engine,
        tuple(output_names),
        scores=_score_device(provider, acceleration.gpu, engine),
        arena="cpu:0" if provider == CPU else f"gpu:{acceleration.gpu}" if provider in GPUS else "",
    )


def _load_with_any(
    model: str, weights: bytes | Path, threads: int, wanted: Sequence[Provider]
) -> onnxruntime.InferenceSession:
    """The session with the first provider that can load the network, and those after it."""
    for place in range(len(wanted)):
        try:
            return _load(model, weights, threads, wanted[place:])
        except Permanent:
            if place == len(wanted) - 1:
                raise
    raise AssertionError("the CPU is always wanted")


def _load(
    model: str, weights: bytes | Path, threads: int, providers: Sequence[Provider]
) -> onnxruntime.InferenceSession:
    source = weights if isinstance(weights, bytes) else str(weights)
    try:
        # Its own fall back, at the start and in the middle of a run, would be silent.
        return onnxruntime.InferenceSession(source, _options(threads), providers=list(providers), enable_fallback=0)
    except MemoryError:
        raise OutOfMemory(f"model {model}: not enough memory to load it") from None
    except ORT_ERRORS as error:
        if OUT_OF_MEMORY.search(str(error)):
            raise OutOfMemory(f"model {model}: not enough memory to load it") from None
        reason = str(error).splitlines()[0][:200] if str(error) else ""
        raise Permanent(f"model {model}: ONNX Runtime cannot load it: {type(error).__name__} {reason}") from None


def _score_device(provider: str, gpu: int, engine: onnxruntime.InferenceSession) -> ScoreDevice | None:
    """The GPU, for networks that give nothing but float32."""
    is_plain = all(each.type == "tensor(float)" for each in engine.get_outputs())
    return cuda_scores(gpu) if provider in GPUS and is_plain else None


def _sha256(weights: bytes | Path) -> str:
    return hashlib.sha256(weights if isinstance(weights, bytes) else weights.read_bytes()).hexdigest()


def _nodes_by_provider(engine: onnxruntime.InferenceSession) -> dict[str, int] | None:
    """How many parts of the network each provider took; None where this build does not tell."""
    if not hasattr(engine, "get_provider_graph_assignment_info"):
        return None
    return dict(Counter(part.ep_name for part in engine.get_provider_graph_assignment_info()))


def _options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the listener shares the cores
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 4  # what goes wrong is raised, and the rest may name files
    return options


def _preload() -> None:
    """Load NVIDIA's libraries from their wheels, where they are installed; it prints what it misses."""
    if hasattr(onnxruntime, "preload_dlls") and importlib.util.find_spec("nvidia") is not None:
        with contextlib.redirect_stdout(io.StringIO()):
            onnxruntime.preload_dlls()


def _check_tensors(
    model: str, engine: onnxruntime.InferenceSession, input_names: Sequence[str], output_names: Sequence[str]
) -> None:
    inputs = [each.name for each in engine.get_inputs()]
    outputs = [each.name for each in engine.get_outputs()]
    if sorted(inputs) != sorted(input_names):
        raise Permanent(f"model {model}: found input tensors {inputs}, expected {list(input_names)}")
    for name in output_names:
        if name not in outputs:
            raise Permanent(f"model {model}: found output tensors {outputs}, expected {name!r} among them")
    for each in engine.get_inputs():
        if each.type not in INPUT_TYPES:
            raise Permanent(f"model {model}: found input of type {each.type}, expected one of {', '.join(INPUT_TYPES)}")
