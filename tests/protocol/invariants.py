"""What must never be seen: the holes, and the checks of a state, of a step and of a standstill."""

from enum import StrEnum

from protocol.state import (
    ABSENT,
    CAP,
    COMPLETED,
    FAILED,
    LIVE,
    PROCESSING,
    Due,
    Held,
    Kind,
    Move,
    Scenario,
    State,
    Step,
)


class Hole(StrEnum):
    """A broken promise, in words."""

    TWICE = "a job is completed twice"
    ORDER = "a job is completed before an older one"
    TWO = "two of a session are in flight"
    TAINTED = "an answer is stored that was built on an event taken away"
    REVOKED = "an event is taken whose key is revoked"
    CAP = "attempts above the cap"
    INNOCENT = "a job is dead-lettered that neither failed nor lost its worker"
    ASLEEP = "a due job waits though nothing went wrong"
    STUCK = "a job never ends, though faults have stopped"
    SPINS = "the program turns in a circle without waiting"


def broken(scenario: Scenario, before: State, move: Move) -> Hole | None:
    """The hole that one move shows, if any. Only what the move changed is looked at."""
    after = move.state
    if after.jobs is before.jobs:
        return None
    changed = [job for job, row in enumerate(after.jobs) if row is not before.jobs[job] and row != before.jobs[job]]
    if before.revoked and any(_taken(before, after, job) and scenario.keys[job] == "b" for job in changed):
        return Hole.REVOKED
    done = [job for job in changed if after.jobs[job].answers > before.jobs[job].answers]
    for job in changed:
        row = after.jobs[job]
        if row.answers > 1 or (row.answers and row.status != COMPLETED):
            return Hole.TWICE
        if row.attempts > CAP:
            return Hole.CAP
        if row.status == FAILED and not row.blamed:
            return Hole.INNOCENT
    if done:
        return _wrongly_done(scenario, before, move, done)
    holders = {
        row.holder for job, row in enumerate(after.jobs) if row.status == PROCESSING and _in_order(scenario, job)
    }
    return Hole.TWO if len(holders) > 1 else None


def _taken(before: State, after: State, job: int) -> bool:
    return after.jobs[job].attempts > before.jobs[job].attempts


def _wrongly_done(scenario: Scenario, before: State, move: Move, done: list[int]) -> Hole | None:
    run = before.workers[move.who].run
    if any(before.jobs[job].status not in LIVE for job in done) or len(done) < len(run):
        return Hole.TAINTED
    for job in done:
        if not _in_order(scenario, job):
            continue
        older = move.state.jobs[:job]
        if any(row.status == ABSENT or (row.status in LIVE and not row.left) for row in older):
            return Hole.ORDER
    return None


def _in_order(scenario: Scenario, job: int) -> bool:
    """Whether the job belongs to the session; one that was dead-lettered or cancelled has left the order."""
    return scenario.kinds[job] is not Kind.LONE


def asleep(state: State, rows: tuple[tuple[int, ...], ...]) -> bool:
    """For a state in which the program has no move: whether work lies there that needs the sweep to be woken.

    After a crash, a pause or a loss that is what the sweep is for. A back-off and a debounce have their timers.
    """
    if state.disturbed:
        return False
    for lane, messages in zip(rows, state.lanes, strict=True):
        if messages and messages[0].held is Held.SETTLING:
            continue
        head = next((state.jobs[job] for job in lane if state.jobs[job].status in LIVE), None)
        if head is not None and (head.status == PROCESSING or head.due is Due.NOW):
            return True
    return False


def ended(state: State) -> bool:
    """Whether everything has come to rest: all jobs terminal or not there, no message left, no worker at work."""
    return (
        all(row.status not in LIVE for row in state.jobs)
        and not any(state.lanes)
        and not state.posts
        and not state.bells
        and all(worker.step is Step.IDLE for worker in state.workers)
    )
