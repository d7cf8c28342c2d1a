"""Whether a failed attempt is worth another, and when. Decides only: no clock, no random, no database."""

from dataclasses import dataclass

from node.errors import Permanent
from node.logs import describe_error


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff: the wait doubles with each attempt up to `longest_seconds`.

    Of each wait the share `jitter` (0 to 1) is random, so that many jobs that failed together do not return
    together.
    """

    first_seconds: float
    longest_seconds: float
    jitter: float = 0.5

    def wait_seconds(self, attempt: int, random: float) -> float:
        """The wait after this attempt (from 1); `random` is a number from 0 up to 1."""
        doubled = self.first_seconds * 2.0 ** min(attempt - 1, 64)
        return min(doubled, self.longest_seconds) * (1 - self.jitter * random)


@dataclass(frozen=True)
class Retry:
    """Try again after this long. `message` is what the history says about the failed attempt."""

    wait_seconds: float
    message: str


@dataclass(frozen=True)
class GiveUp:
    """Park the job as FAILED. `message` is what the history says about the failed attempt, `code` names the reason."""

    message: str
    code: str


def decide(
    error: BaseException, attempt: int, maximum_attempts: int, policy: RetryPolicy, random: float
) -> Retry | GiveUp:
    """What follows from `error` in `attempt` (from 1).

    `random` is a number from 0 up to 1. A `Permanent` error gives up at once; everything else, also an
    error that nobody foresaw, is tried until the attempts are used up. Only messages of our own errors are
    repeated (see `describe_error`).
    """
    message = describe_error(error)
    if isinstance(error, Permanent):
        return GiveUp(message, error.code)
    if attempt >= maximum_attempts:
        return GiveUp(message, "attempts-used-up")
    return Retry(policy.wait_seconds(attempt, random), message)
