"""`[work]`: the processes that run models."""

from typing import Annotated, Literal

from pydantic import Field

from node.settings_types import Section


class WorkSettings(Section):
    """`[work]`: inference workers."""

    processes: int = Field(1, ge=1, le=64, description="Inference worker processes.")
    device: Literal["prefer-gpu", "require-gpu", "cpu"] = Field(
        "prefer-gpu",
        description="What inference runs on; `require-gpu` fails jobs instead of running them on the CPU.",
    )
    accelerators: tuple[Literal["tensorrt", "cuda", "openvino"], ...] = Field(
        ("cuda", "openvino"),
        description="What is tried before the plain CPU, the first first, as far as the installed build of ONNX "
        "Runtime has it. `tensorrt` builds an engine, for minutes, when a model first runs, and keeps it in data_dir.",
    )
    gpus: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (0,), min_length=1, description="Numbers of the GPUs; the worker processes take them in turn."
    )
    intra_op_threads: int = Field(0, ge=0, description="CPU threads of one inference; 0 means all cores.")
    memory_budget_mb: int = Field(
        0,
        ge=0,
        description="Memory that warm models may take together in one worker, in MB, measured; over it those that were "
        "not used for longest are closed. 0 is no limit.",
    )
    lease_seconds: float = Field(
        30, gt=0, description="A job whose worker has not reported for this long is taken from it."
    )
    deadline_seconds: float = Field(
        1800, gt=0, description="A job that runs longer is ended and counts as a failed attempt."
    )
    maximum_attempts: int = Field(3, ge=1, description="Attempts before an inference job is parked as FAILED.")
    poll_seconds: float = Field(5, gt=0, description="Safety net only: workers are woken when there is work.")
    decode_processes: int = Field(
        0,
        ge=0,
        le=64,
        description="Processes of a worker that decode compressed images as they arrive, and threads of it that do so "
        "when a job loads them; 0 means one for each core, at most 8.",
    )
    decoded_mb: int = Field(
        2048,
        ge=0,
        description="Disk room in data_dir for images decoded while their series arrives, for an hour at most, in MB "
        "(10^6 bytes); 0 decodes when a job starts.",
    )
