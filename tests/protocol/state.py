"""What the model consists of: rows, messages, workers and the budget of disturbances, as hashable tuples."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NamedTuple, TypeVar

from onlooker.domain.jobs import JobStatus

Item = TypeVar("Item")

CAP = 2
"""Attempts in this model; the smallest number at which one failure is forgiven."""

MESSAGE_CAP = 2
"""How often a message may be claimed where R13 is broken."""

NOBODY, GONE = -1, 9
"""Holders that are no worker: a cleared token; the token or claim of a run that has ended or crashed."""

SESSION, LONE = 0, 1
"""The lanes: the session's, which is exclusive, and that of the job with no session."""

ABSENT = "absent"
QUEUED, PROCESSING = JobStatus.QUEUED, JobStatus.PROCESSING
COMPLETED, FAILED, CANCELLED = JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED
LIVE = frozenset({QUEUED, PROCESSING})


class Due(StrEnum):
    """When a row may be taken. A long delay is kept by the row alone, and the sweep rings it once it is `TIMED`."""

    NOW = "now"
    SOON = "soon"
    LATER = "later"
    TIMED = "timed"


READY = frozenset({Due.NOW, Due.TIMED})


class Job(NamedTuple):
    """A row, and what the invariants remember of it: answers stored, a failure of its own, having left the order."""

    status: str = ABSENT
    holder: int = NOBODY
    over: bool = False
    attempts: int = 0
    due: Due = Due.NOW
    answers: int = 0
    blamed: bool = False
    left: bool = False


class Held(StrEnum):
    """Where a message stands: served next, delayed by a recheck (5 s), a debounce or a back-off, or claimed."""

    WAITING = "waiting"
    RECHECK = "recheck"
    SETTLING = "settling"
    BACKOFF = "back-off"
    CLAIMED = "claimed"


DELAYS = {
    Held.WAITING: "at once",
    Held.RECHECK: "for 5 s",
    Held.SETTLING: "for the debounce",
    Held.BACKOFF: "for the back-off",
}


class Message(NamedTuple):
    """A message of a lane; the first of a lane blocks those behind it until it is finished."""

    job: int
    held: Held = Held.WAITING
    holder: int = NOBODY
    claims: int = 0


class Step(StrEnum):
    """What a worker does next."""

    IDLE = "idle"
    TAKE = "take"
    TAKE_SEEN = "take what it saw"
    CALL = "call"
    STORE = "store"
    FAIL = "fail"
    GIVE_BACK = "give back"
    READ = "read again"
    CONFIRM = "confirm"
    RELEASE = "release"
    LOOK = "look"
    RING = "ring"


PAST_WRITES = frozenset({Step.IDLE, Step.TAKE, Step.CONFIRM, Step.RELEASE, Step.LOOK, Step.RING})
"""Steps at which a worker has no token (any more)."""

SOON, OUTAGE, DEAD = "back-off", "outage", "dead"
"""Notes of a failed call: the job is tried again soon, held while the provider is out, or refused for good."""

REFUSED, STOPS, STOPPED = "refused", "stops", "stopped"
"""Notes of giving back: a batch was refused; drain, the row first; drain, after its message."""


class Worker(NamedTuple):
    """One slot of a worker process. `note`: the delay of a release or a failure, or the write to be read again."""

    step: Step = Step.IDLE
    lane: int = NOBODY
    message: int = NOBODY
    run: tuple[int, ...] = ()
    note: str = ""
    paused: bool = False


IDLE = Worker()


class Budget(NamedTuple):
    """How many disturbances of each kind a scenario has left, and of all kinds together."""

    crash: int = 0
    pause: int = 0
    lost: int = 0
    wipe: int = 0
    reply: int = 0
    failure: int = 0
    cancel: int = 0
    retry: int = 0
    drain: int = 0
    revoke: int = 0
    total: int = 0


CRASH, PAUSE, LOST, WIPE, REPLY, FAILURE, CANCEL, RETRY, DRAIN, REVOKE, TOTAL = range(11)
SPENT = Budget()

Lane = tuple[Message, ...]


class State(NamedTuple):
    """Everything. `posts` are the jobs whose first message is unsent and `bells` the lanes an operator must ring.

    `disturbed`: a crash, a pause or a loss has happened, so that waiting for the sweep is no fault any more.
    """

    jobs: tuple[Job, ...]
    lanes: tuple[Lane, ...]
    workers: tuple[Worker, ...]
    posts: tuple[int, ...]
    bells: tuple[int, ...]
    revoked: bool
    disturbed: bool
    budget: Budget


class Edge(IntEnum):
    """Who moves: the program at once, time, a person or an agent, a fault."""

    PROGRAM = 0
    TIME = 1
    PERSON = 2
    FAULT = 3


class Move(NamedTuple):
    """One thing that may happen next. `who` is the worker that `text` speaks of, or `NOBODY`."""

    edge: Edge
    who: int
    text: str
    state: State


class Kind(StrEnum):
    EVENT = "event"
    SUMMARY = "summary"
    LONE = "lone job"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What there is to do, and what may go wrong. The lone job, if any, comes last.

    `keys` names each job's key; a revocation is of key "b". The jobs in `poison` fail whatever call they are part of.
    """

    kinds: tuple[Kind, ...]
    budget: Budget
    keys: str = "aaa"
    poison: frozenset[int] = frozenset()
    batches: bool = False
    workers: int = 2

    def name(self, job: int) -> str:
        return f"{self.kinds[job]} {job + 1}"

    def names(self, jobs: tuple[int, ...]) -> str:
        return " and ".join(self.name(job) for job in jobs)


def cancelled(row: Job) -> Job:
    """The row of a job that an operator or a revoked key has cancelled."""
    return row._replace(status=CANCELLED, holder=NOBODY, over=False, due=Due.NOW, left=True)


def put(items: tuple[Item, ...], at: int, item: Item) -> tuple[Item, ...]:
    """The tuple with one item replaced."""
    return (*items[:at], item, *items[at + 1 :])


def spend(budget: Budget, kind: int) -> Budget:
    """The budget after one disturbance; the same empty one whenever nothing is left together."""
    if budget.total == 1:
        return SPENT
    return Budget(*put(put(budget, kind, budget[kind] - 1), TOTAL, budget.total - 1))
