"""What happens around the workers: people and agents, time and its sweep, faults."""

from collections.abc import Iterator

from protocol.state import (
    ABSENT,
    CANCEL,
    CANCELLED,
    CRASH,
    FAILED,
    GONE,
    IDLE,
    LIVE,
    LONE,
    LOST,
    NOBODY,
    PAUSE,
    PROCESSING,
    QUEUED,
    READY,
    RETRY,
    REVOKE,
    SESSION,
    WIPE,
    Due,
    Edge,
    Held,
    Job,
    Move,
    State,
    Step,
    cancelled,
    put,
    spend,
)
from protocol.store import Jobs, Store


class World(Store):
    """The moves that no worker makes."""

    def _publish(self, state: State) -> Iterator[Move]:
        """After a commit: the new job's message, or the ring of the head that cancel and retry owe (R9)."""
        for job in state.posts:
            text = f"the message of {self.scenario.name(job)} is sent"
            sent = state._replace(posts=tuple(other for other in state.posts if other != job))
            yield from self._sent(state, sent, job, text)
        for lane in state.bells:
            rung = state._replace(bells=tuple(other for other in state.bells if other != lane))
            head = self._due_head(state.jobs, lane)
            if head == NOBODY:
                yield Move(Edge.PROGRAM, NOBODY, "the operator's change leaves nothing to ring", rung)
            else:
                yield from self._sent(state, rung, head, f"the operator's change rings {self.scenario.name(head)}")

    def _sent(self, state: State, sent: State, job: int, text: str) -> Iterator[Move]:
        yield Move(Edge.PROGRAM, NOBODY, text, sent._replace(lanes=self._ring(state.lanes, job)))
        if state.budget.lost:
            lost = sent._replace(budget=spend(state.budget, LOST), disturbed=True)
            yield Move(Edge.FAULT, NOBODY, f"{text}, and lost", lost)

    def _people(self, state: State) -> Iterator[Move]:
        """Ingest, cancel, retry and revoke, each one transaction."""
        overtakes = False
        for job, row in enumerate(state.jobs):
            if row.status == ABSENT:
                if not overtakes or self.lane_of[job] == LONE or not self.rules.r1_lock:
                    jobs = put(state.jobs, job, row._replace(status=QUEUED))
                    posts = tuple(sorted((*state.posts, job)))
                    early = " before an older one commits" if overtakes and self.lane_of[job] == SESSION else ""
                    text = f"{self.scenario.name(job)} is ingested{early}"
                    yield Move(Edge.PERSON, NOBODY, text, state._replace(jobs=jobs, posts=posts))
                overtakes = True
            if row.status in LIVE and state.budget.cancel:
                yield self._operate(state, job, cancelled(row), CANCEL, "cancels")
            if row.status in (FAILED, CANCELLED) and state.budget.retry:
                changed = row._replace(status=QUEUED, attempts=0, due=Due.NOW, blamed=False)
                yield self._operate(state, job, changed, RETRY, "retries")
            elif row.status == QUEUED and row.due not in READY and state.budget.retry:
                yield self._operate(state, job, row._replace(due=Due.NOW), RETRY, "retries")
        if state.budget.revoke:
            revoked = state._replace(revoked=True, budget=spend(state.budget, REVOKE))
            yield Move(Edge.PERSON, NOBODY, "the key b is revoked", revoked)

    def _operate(self, state: State, job: int, changed: Job, kind: int, verb: str) -> Move:
        bells = state.bells
        if self.rules.r9_ring:
            bells = tuple(sorted({*bells, self.lane_of[job]}))
        jobs = put(state.jobs, job, changed)
        after = state._replace(jobs=jobs, bells=bells, budget=spend(state.budget, kind))
        return Move(Edge.PERSON, NOBODY, f"an operator {verb} {self.scenario.name(job)}", after)

    def _time(self, state: State) -> Iterator[Move]:
        """Leases, claims and delays that are over, a worker that wakes, and the sweep."""
        for who, worker in enumerate(state.workers):
            if worker.paused:
                awake = put(state.workers, who, worker._replace(paused=False))
                yield Move(Edge.TIME, who, "wakes", state._replace(workers=awake))
        unrenewed = {GONE, *(who for who, worker in enumerate(state.workers) if worker.paused)}
        for at, rows in enumerate(self.rows):
            yield from self._leases_over(state, rows, unrenewed)
            yield from self._lane_over(state, at, unrenewed)
            yield from self._delays_over(state, at, rows)
        if self.rules.r10_sweep:
            yield from self._sweep(state)

    def _leases_over(self, state: State, rows: tuple[int, ...], unrenewed: set[int]) -> Iterator[Move]:
        """The rows of a run share one lease."""
        old = tuple(job for job in rows if state.jobs[job].status == PROCESSING and not state.jobs[job].over)
        for holder in sorted({state.jobs[job].holder for job in old} & unrenewed):
            run = tuple(job for job in old if state.jobs[job].holder == holder)
            jobs = tuple(row._replace(over=True) if job in run else row for job, row in enumerate(state.jobs))
            text = f"the lease of {self.scenario.names(run)} is over"
            yield Move(Edge.TIME, NOBODY, text, state._replace(jobs=jobs))

    def _lane_over(self, state: State, at: int, unrenewed: set[int]) -> Iterator[Move]:
        lane = state.lanes[at]
        for place, message in enumerate(lane):
            name = self.scenario.name(message.job)
            if message.held is Held.CLAIMED and message.holder in unrenewed:
                text = f"the claim of the message of {name} is over"
            elif message.held is Held.RECHECK:
                text = f"the message of {name} has waited its 5 s"
            elif message.held is Held.SETTLING:
                text = f"the message of {name} has waited its debounce"
            else:
                continue
            waiting = message._replace(held=Held.WAITING, holder=NOBODY)
            lanes = put(state.lanes, at, put(lane, place, waiting))
            yield Move(Edge.TIME, NOBODY, text, state._replace(lanes=lanes))

    def _delays_over(self, state: State, at: int, rows: tuple[int, ...]) -> Iterator[Move]:
        """A short back-off ends for the row and for the message that was released with it; a long one for the row.

        Where the message of a short one was used up for an older job, the row's timer is left, as for a long one.
        """
        if any(worker.lane == at and worker.note == Held.BACKOFF and not worker.paused for worker in state.workers):
            return  # A back-off outlasts the moment between its commit and the release of its message.
        lane = state.lanes[at]
        soon = any(state.jobs[job].due is Due.SOON for job in rows)
        if soon or any(message.held is Held.BACKOFF for message in lane):
            jobs = tuple(
                row._replace(due=Due.NOW if lane else Due.TIMED) if job in rows and row.due is Due.SOON else row
                for job, row in enumerate(state.jobs)
            )
            awake = tuple(
                message._replace(held=Held.WAITING) if message.held is Held.BACKOFF else message for message in lane
            )
            due = state._replace(jobs=jobs, lanes=put(state.lanes, at, awake))
            yield Move(Edge.TIME, NOBODY, "the back-off is over", due)
        for job in rows:
            if state.jobs[job].due is Due.LATER:
                jobs = put(state.jobs, job, state.jobs[job]._replace(due=Due.TIMED))
                text = f"the long delay of {self.scenario.name(job)} is over"
                yield Move(Edge.TIME, NOBODY, text, state._replace(jobs=jobs))

    def _sweep(self, state: State) -> Iterator[Move]:
        """Reconcile: leases that are over, then the due heads and the jobs with no session (R10)."""
        jobs: Jobs = state.jobs
        if any(row.over for row in jobs):
            jobs = tuple(self._lease_over(row) if row.over else row for row in jobs)
        lanes = state.lanes
        for lane in (SESSION, LONE) if self.rules.r10_lone else (SESSION,):
            head = self._due_head(jobs, lane)
            if head != NOBODY:
                lanes = self._ring(lanes, head)
        if jobs is not state.jobs or lanes != state.lanes:
            yield Move(Edge.TIME, NOBODY, "the sweep passes", state._replace(jobs=jobs, lanes=lanes))

    def _faults(self, state: State) -> Iterator[Move]:
        """A worker that crashes or stands still, a queue that loses everything."""
        budget = state.budget
        for who, worker in enumerate(state.workers):
            if worker.step is Step.IDLE:
                continue
            held = tuple(job for job, row in enumerate(state.jobs) if row.holder == who and row.status == PROCESSING)
            if budget.crash:
                crashed = state._replace(
                    jobs=self._forget(self._blame(state.jobs, held), who),
                    lanes=self._unclaimed(state.lanes, who, Held.CLAIMED),
                    workers=put(state.workers, who, IDLE),
                    budget=spend(budget, CRASH),
                    disturbed=True,
                )
                yield Move(Edge.FAULT, who, "crashes", crashed)
            if budget.pause and not worker.paused:
                paused = state._replace(
                    jobs=self._blame(state.jobs, held),
                    workers=put(state.workers, who, worker._replace(paused=True)),
                    budget=spend(budget, PAUSE),
                    disturbed=True,
                )
                yield Move(Edge.FAULT, who, "stands still", paused)
        if budget.wipe and any(state.lanes):
            wiped = state._replace(lanes=((),) * len(state.lanes), budget=spend(budget, WIPE), disturbed=True)
            yield Move(Edge.FAULT, NOBODY, "the queue loses everything", wiped)
