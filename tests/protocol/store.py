"""The database and the queue of the model: what one transaction, or one call to the queue, does to them."""

from protocol.rules import Rules
from protocol.state import (
    CAP,
    FAILED,
    GONE,
    IDLE,
    LIVE,
    LONE,
    NOBODY,
    PROCESSING,
    QUEUED,
    READY,
    SESSION,
    Due,
    Held,
    Job,
    Kind,
    Lane,
    Message,
    Scenario,
    State,
    Step,
    Worker,
    cancelled,
    put,
)

Jobs = tuple[Job, ...]
Seen = tuple[Jobs, tuple[int, ...], Worker]
"""What a look found: the rows with what was over put back, the run to take, and what to do where there is none."""


class Store:
    """Rows and messages in one scenario, under the given rules."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        self.scenario = scenario
        self.rules = rules
        count = len(scenario.kinds)
        self.lane_of = tuple(LONE if kind is Kind.LONE else SESSION for kind in scenario.kinds)
        self.rows = tuple(tuple(job for job in range(count) if self.lane_of[job] == lane) for lane in (SESSION, LONE))

    # The queue.

    def _ring(self, lanes: tuple[Lane, ...], job: int) -> tuple[Lane, ...]:
        """Enqueue a job's message; it and the head of its lane are pulled forward, a claimed one is left (R8)."""
        at = self.lane_of[job]
        lane = lanes[at]
        if all(message.job != job for message in lane):
            lane = (*lane, Message(job))
        if self.rules.r8_pull:
            lane = tuple(
                message._replace(held=Held.WAITING)
                if message.held in (Held.RECHECK, Held.SETTLING, Held.BACKOFF) and (place == 0 or message.job == job)
                else message
                for place, message in enumerate(lane)
            )
        return put(lanes, at, lane)

    def _head(self, jobs: Jobs, lane: int) -> int:
        """The job of lowest seq that is queued or processing, or NOBODY."""
        return next((job for job in self.rows[lane] if jobs[job].status in LIVE), NOBODY)

    def _due_head(self, jobs: Jobs, lane: int) -> int:
        """The lane's head where it is queued and due, or NOBODY."""
        head = self._head(jobs, lane)
        return head if head != NOBODY and jobs[head].status == QUEUED and jobs[head].due in READY else NOBODY

    def _unclaimed(self, lanes: tuple[Lane, ...], who: int, held: Held) -> tuple[Lane, ...]:
        """The lanes where a worker's claims have become something else; CLAIMED: claims that nobody has."""
        holder = GONE if held is Held.CLAIMED else NOBODY
        return tuple(
            tuple(message._replace(held=held, holder=holder) if message.holder == who else message for message in lane)
            for lane in lanes
        )

    # The rows.

    def _owns(self, row: Job, who: int) -> bool:
        """The fence: whether the row is processing under this worker's token."""
        if not self.rules.r5_fence:
            return True
        return row.holder == who and (row.status == PROCESSING or not self.rules.r5_status)

    def _lease_over(self, row: Job) -> Job:
        """Put back, or dead-lettered where the attempts are used up (R4)."""
        if self.rules.r4_cap and row.attempts >= CAP:
            return row._replace(status=FAILED, holder=NOBODY, over=False, left=True)
        return row._replace(status=QUEUED, holder=NOBODY, over=False)

    def _look(self, state: State, worker: Worker) -> Seen:
        """What take decides inside its transaction (R3)."""
        jobs, lane = state.jobs, worker.lane
        by_head = lane == SESSION and self.rules.r2_head
        target = self._head(jobs, lane) if by_head else worker.message
        rows = list(jobs)
        if lane == SESSION and self.rules.r3_others:
            others = [job for job in self.rows[lane] if job != target and rows[job].status == PROCESSING]
            if any(not rows[job].over for job in others):
                return jobs, (), worker._replace(step=Step.RELEASE, note=Held.RECHECK)
            for job in others:
                rows[job] = self._lease_over(rows[job])
        while target != NOBODY and rows[target].status in LIVE:
            if state.revoked and self.scenario.keys[target] == "b":
                rows[target] = cancelled(rows[target])
                target = self._head(tuple(rows), lane) if by_head else NOBODY
                continue
            waiting = self._not_now(rows[target], worker)
            if waiting is not None:
                return tuple(rows), (), waiting
            if rows[target].attempts < CAP or not self.rules.r4_cap:
                return tuple(rows), self._run(rows, lane, target), IDLE
            rows[target] = self._lease_over(rows[target])
            target = self._head(tuple(rows), lane) if by_head else NOBODY
        return tuple(rows), (), self._finished(worker)

    def _not_now(self, row: Job, worker: Worker) -> Worker | None:
        """What becomes of the message where its job may not be taken yet (R3, R9); None where it may."""
        if row.status == PROCESSING:
            return None if row.over else worker._replace(step=Step.RELEASE, note=Held.RECHECK)
        if row.due in READY:
            return None
        if not self.rules.r9_park:
            return worker._replace(step=Step.RELEASE, note=Held.WAITING)
        if row.due is Due.LATER:
            return self._finished(worker)
        return worker._replace(step=Step.RELEASE, note=Held.BACKOFF)

    def _finished(self, worker: Worker) -> Worker:
        """The worker that has nothing more to do for its message (R7)."""
        step = Step.CONFIRM if self.rules.r7_confirm_first else Step.LOOK
        return Worker(step, worker.lane, worker.message)

    def _run(self, rows: list[Job], lane: int, first: int) -> tuple[int, ...]:
        """The job and, where batches are made, the due events behind it that go into the same call (R6)."""
        kinds, keys, rules = self.scenario.kinds, self.scenario.keys, self.rules

        def fits(job: int) -> bool:
            untried = rows[job].attempts == 0 or not rules.r6_singly
            return kinds[job] is Kind.EVENT and untried and (keys[job] == keys[first] or not rules.r6_one_key)

        run = [first]
        if self.scenario.batches and fits(first):
            for job in self.rows[lane]:
                if job <= first or rows[job].status not in LIVE:
                    continue
                if rows[job].status == QUEUED and rows[job].due in READY and fits(job):
                    run.append(job)
                elif rules.r6_contiguous:
                    break
        return tuple(run)

    def _may_grow(self, jobs: Jobs, run: tuple[int, ...]) -> bool:
        """Whether more events of the session may still join a run: then its policy may wait for them."""
        first, behind = run[0], [job for job in self.rows[self.lane_of[run[0]]] if job > run[-1]]
        fresh = self.scenario.kinds[first] is Kind.EVENT and jobs[first].attempts == 0
        return self.scenario.batches and fresh and all(jobs[job].status not in LIVE for job in behind)

    def _taken(self, jobs: Jobs, run: tuple[int, ...], who: int) -> Jobs:
        return tuple(
            row._replace(status=PROCESSING, holder=who, over=False, attempts=row.attempts + 1, due=Due.NOW)
            if job in run
            else row
            for job, row in enumerate(jobs)
        )

    def _forget(self, jobs: Jobs, who: int) -> Jobs:
        """The rows once a worker's run has ended: what it still holds is held by a token that nobody has."""
        if all(row.holder != who for row in jobs):
            return jobs
        return tuple(
            row._replace(holder=GONE if row.status == PROCESSING else NOBODY) if row.holder == who else row
            for row in jobs
        )

    def _blame(self, jobs: Jobs, run: tuple[int, ...]) -> Jobs:
        return tuple(row._replace(blamed=True) if job in run else row for job, row in enumerate(jobs))
