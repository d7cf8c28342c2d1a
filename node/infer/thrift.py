"""What is tried when memory does not suffice for a job. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from node.infer.providers import GPUS, OPENVINO, Acceleration
from node.infer.sections import Run


class Thrift(IntEnum):
    """How much memory a network is given at once."""

    NONE = 0
    """As the manifest says."""
    ONE_AT_A_TIME = 1
    """Batches of one; the answers are the same."""
    SMALL_PATCHES = 2
    """The smaller patches, too, that the manifest allows; the answers are nearly the same."""


def thrifty(run: Run, thrift: Thrift) -> Run:
    """How the network is called."""
    if thrift is Thrift.NONE:
        return run
    small = run.small_patch if thrift is Thrift.SMALL_PATCHES else None
    return run.model_copy(update={"batch": 1, "patch": small or run.patch})


@dataclass(frozen=True)
class Attempt:
    """One more try: `acceleration` is None where it is that of the pool."""

    thrift: Thrift = Thrift.NONE
    acceleration: Acceleration | None = None


def attempts(
    device: str, acceleration: Acceleration, ran_on: Collection[str], runs: Sequence[Run]
) -> tuple[Attempt, ...]:
    """What is tried after the first attempt, in order: smaller batches, smaller patches, the next GPU, the plain CPU.

    Parameters
    ----------
    device : {'prefer-gpu', 'require-gpu', 'cpu'}
    acceleration : Acceleration
        That of the first attempt.
    ran_on : collection of str
        The providers of the first attempt; empty where the networks could not even be loaded.
    runs : sequence of Run
        Of all stages.
    """
    small = [Thrift.SMALL_PATCHES] if any(run.small_patch for run in runs) else []
    found = [Attempt(thrift) for thrift in (Thrift.ONE_AT_A_TIME, *small)]
    if device != "cpu" and (not ran_on or any(provider in GPUS for provider in ran_on)):
        others = [replace(acceleration, gpu=number, spare=()) for number in acceleration.spare]
        found += [Attempt(Thrift.ONE_AT_A_TIME, other) for other in others]
    accelerated = GPUS if device != "cpu" else (OPENVINO,) if "openvino" in acceleration.order else ()
    if device != "require-gpu" and any(provider in (*GPUS, OPENVINO) for provider in ran_on or accelerated):
        plain = replace(acceleration, order=(), spare=(), given_up=acceleration.order)
        found += [Attempt(thrift, plain) for thrift in (Thrift.ONE_AT_A_TIME, *small)]
    return tuple(found)
