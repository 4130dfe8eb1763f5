"""Which of a session's waiting jobs go into one call, and whether to wait for more of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from onlooker.domain.jobs import JobKind, JobStatus
from onlooker.domain.models import Job

BYTES_A_TOKEN = 3
EVENT_TOKENS = 1_500
"""A run is chosen by the size of its events as they are stored: so many bytes are a token, and a long event, which a
prompt cuts in the middle, counts for no more than this. What is too much all the same is seen when they are read."""

DEBOUNCE_MS = 2_000
LONGEST_DEBOUNCE = 5
"""A session that never pauses is not waited for longer than so many debounces."""

TURN_GIVEN_UP_MS = 600_000
"""A turn in which nothing happened for so long has ended without saying so: `end-of-turn` waits no longer."""


class GenerationPolicy(StrEnum):
    """When events are turned into observations, and how many at a time."""

    BATCH = "batch"
    PER_EVENT = "per-event"
    END_OF_TURN = "end-of-turn"


@dataclass(frozen=True, slots=True)
class Batching:
    """How runs are made: of how many events a call may be, and of how many tokens of them."""

    policy: GenerationPolicy
    longest_run: int
    input_budget: int
    debounce_ms: int = DEBOUNCE_MS

    @property
    def most(self) -> int:
        """The jobs that a run may have."""
        return 1 if self.policy is GenerationPolicy.PER_EVENT else self.longest_run

    @property
    def most_looked_at(self) -> int:
        """The jobs that must be seen to choose a run: one more than it may have."""
        return self.most + 1


@dataclass(frozen=True, slots=True)
class Settling:
    """More of the session's events are expected; look again after `delay_ms`."""

    delay_ms: int


def choose_run(live: Sequence[Job], batching: Batching, now: int) -> Sequence[Job] | Settling:
    """The run that begins with a lane's head: the untried, due event jobs of the same key that follow it (R6).

    `live` are the lane's queued and processing jobs in order, from the head on, and one more than a run may have where
    there are so many. A job that was tried before is alone. What follows a run that is no event of it (the turn's
    end, another key) says that no more of it will come; else the policy may wait.
    """
    head = live[0]
    if head.kind is not JobKind.EVENT or head.attempts or head.max_attempts == 1:
        return live[:1]
    run, is_complete = _run_of(live, batching, now)
    if is_complete or batching.policy is GenerationPolicy.PER_EVENT:
        return run
    if batching.policy is GenerationPolicy.END_OF_TURN:
        delay_ms = _rest_of(TURN_GIVEN_UP_MS, run[-1].created_at, now)
    else:
        delay_ms = min(
            _rest_of(batching.debounce_ms, run[-1].created_at, now),
            _rest_of(batching.debounce_ms * LONGEST_DEBOUNCE, head.created_at, now),
        )
    return Settling(delay_ms) if delay_ms > 0 else run


def _run_of(live: Sequence[Job], batching: Batching, now: int) -> tuple[Sequence[Job], bool]:
    """What fits into one call from the head on, and whether nothing can be added to it."""
    head = live[0]
    tokens = 0
    for place, job in enumerate(live):
        tokens += min(job.source_bytes // BYTES_A_TOKEN, EVENT_TOKENS)
        if place and (place == batching.most or tokens > batching.input_budget or not _fits(job, head, now)):
            return live[:place], True
    return live, False


def _fits(job: Job, head: Job, now: int) -> bool:
    return (
        job.kind is JobKind.EVENT
        and job.status is JobStatus.QUEUED
        and not job.attempts
        and job.next_attempt_at <= now
        and job.api_key_id == head.api_key_id
    )


def _rest_of(wait_ms: int, since: int, now: int) -> int:
    """What is left of a wait that began at a time told by the clock of another machine, which may be wrong.

    One that lies ahead by more than the wait itself is not believed.
    """
    waited = now - since
    return wait_ms - waited if abs(waited) < wait_ms else 0
