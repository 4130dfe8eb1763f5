"""What a worker does, step by step: each step is one transaction, one call to the queue or one to the provider."""

from collections.abc import Iterator

from protocol.rules import Rules
from protocol.state import (
    CAP,
    COMPLETED,
    DEAD,
    DELAYS,
    DRAIN,
    FAILED,
    FAILURE,
    IDLE,
    LOST,
    MESSAGE_CAP,
    NOBODY,
    OUTAGE,
    PAST_WRITES,
    PROCESSING,
    QUEUED,
    REFUSED,
    REPLY,
    SOON,
    STOPPED,
    STOPS,
    Due,
    Edge,
    Held,
    Message,
    Move,
    Scenario,
    State,
    Step,
    Worker,
    put,
    spend,
)
from protocol.store import Jobs, Store


class WorkerSteps(Store):
    """The next step of each worker, and the faults that belong to it: a lost reply, a lost ring, a failed call."""

    def __init__(self, scenario: Scenario, rules: Rules) -> None:
        super().__init__(scenario, rules)
        self.steps = {
            Step.TAKE: self._take,
            Step.TAKE_SEEN: self._take_seen,
            Step.CALL: self._call,
            Step.STORE: self._store,
            Step.FAIL: self._fail,
            Step.GIVE_BACK: self._give_back,
            Step.READ: self._read,
            Step.CONFIRM: self._confirm,
            Step.RELEASE: self._release,
            Step.LOOK: self._look_after,
            Step.RING: self._ring_head,
        }

    def _claim(self, state: State, who: int) -> Iterator[Move]:
        for at, lane in enumerate(state.lanes):
            if not lane or lane[0].held is not Held.WAITING:
                continue
            first = lane[0]
            if not self.rules.r13_uncapped and first.claims == MESSAGE_CAP:
                text = f"the queue dead-letters the message of {self.scenario.name(first.job)}"
                yield Move(Edge.PROGRAM, NOBODY, text, state._replace(lanes=put(state.lanes, at, lane[1:])))
                continue
            claims = first.claims + (not self.rules.r13_uncapped)
            claimed = Message(first.job, Held.CLAIMED, who, claims)
            yield Move(
                Edge.PROGRAM,
                who,
                f"claims the message of {self.scenario.name(first.job)}",
                state._replace(
                    lanes=put(state.lanes, at, put(lane, 0, claimed)),
                    workers=put(state.workers, who, Worker(Step.TAKE, at, first.job)),
                ),
            )

    def _renew(self, state: State, who: int, worker: Worker) -> Iterator[Move]:
        """In its call a worker that woke renews its lease, all rows or none, or learns that it is lost (R6, R11)."""
        owned = tuple(job for job in worker.run if self._owns(state.jobs[job], who))
        if owned != worker.run:
            yield self._refused(state, who, worker, owned)._replace(edge=Edge.TIME)
        elif any(state.jobs[job].over for job in owned):
            jobs = tuple(row._replace(over=False) if job in owned else row for job, row in enumerate(state.jobs))
            yield Move(Edge.TIME, who, f"renews its lease of {self.scenario.names(owned)}", state._replace(jobs=jobs))

    def _go(self, state: State, who: int, worker: Worker, jobs: Jobs | None = None) -> State:
        """The state in which a worker goes on with its next step; past its writes it forgets its token."""
        rows = state.jobs if jobs is None else jobs
        if worker.step in PAST_WRITES and worker.note != STOPPED:
            rows = self._forget(rows, who)
        return state._replace(jobs=rows, workers=put(state.workers, who, worker))

    def _unanswered(self, state: State, who: int, worker: Worker, note: str, jobs: Jobs) -> Iterator[Move]:
        """The fault in which a commit's reply is lost, whether it happened (`jobs`) or not (R5)."""
        if not state.budget.reply:
            return
        reading = state._replace(
            workers=put(state.workers, who, worker._replace(step=Step.READ, note=note)),
            budget=spend(state.budget, REPLY),
            disturbed=True,
        )
        did = f"{worker.step}s {self.scenario.names(worker.run)}" if worker.run else "takes its work"
        yield Move(Edge.FAULT, who, f"{did}, and the commit's reply is lost", reading._replace(jobs=jobs))
        if worker.run:
            yield Move(Edge.FAULT, who, "sends a commit that never happens, and gets no reply", reading)

    def _take(self, state: State, who: int, worker: Worker) -> Iterator[Move]:
        jobs, run, otherwise = self._look(state, worker)
        if not run:
            delay = f" and will release its message {DELAYS[Held(otherwise.note)]}" if otherwise.note else ""
            text = f"finds nothing to take{delay}"
            yield Move(Edge.PROGRAM, who, text, self._go(state, who, otherwise, jobs))
        elif not self.rules.r3_one_step:
            seen = Worker(Step.TAKE_SEEN, worker.lane, worker.message, run)
            text = f"sees that {self.scenario.names(run)} may be taken"
            yield Move(Edge.PROGRAM, who, text, self._go(state, who, seen, jobs))
        else:
            taken = self._taken(jobs, run, who)
            calling = Worker(Step.CALL, worker.lane, worker.message, run)
            text = f"takes {self.scenario.names(run)}"
            yield Move(Edge.PROGRAM, who, text, self._go(state, who, calling, taken))
            yield from self._unanswered(state, who, worker, Step.TAKE, taken)
            if self._may_grow(jobs, run):
                settling = worker._replace(step=Step.RELEASE, note=Held.SETTLING)
                text = f"waits for more events behind {self.scenario.names(run)}"
                yield Move(Edge.PROGRAM, who, text, self._go(state, who, settling, jobs))

    def _take_seen(self, state: State, who: int, worker: Worker) -> Iterator[Move]:
        rows = [state.jobs[job] for job in worker.run]
        if all(row.status == QUEUED or (row.status == PROCESSING and row.over) for row in rows):
            taken = self._taken(state.jobs, worker.run, who)
            text = f"takes {self.scenario.names(worker.run)}, as it saw"
            yield Move(Edge.PROGRAM, who, text, self._go(state, who, worker._replace(step=Step.CALL), taken))
        else:
            again = Worker(Step.TAKE, worker.lane, worker.message)
            yield Move(Edge.PROGRAM, who, "finds that another was faster", self._go(state, who, again))

    def _call(self, state: State, who: int, worker: Worker) -> Iterator[Move]:
        run, names = worker.run, self.scenario.names(worker.run)
        failing = worker._replace(step=Step.FAIL)
        claimed = any(message.holder == who for message in state.lanes[worker.lane])
        if not self.rules.r11_lease_only and not claimed:
            text = f"cancels its call for {names}, since its claim is gone"
            yield Move(Edge.PROGRAM, who, text, self._go(state, who, failing._replace(note=SOON)))
            return
        guilty = tuple(self.scenario.poison.intersection(run))
        if guilty:
            blamed = self._blame(state.jobs, guilty)
            for note, what in ((SOON, "an error"), (DEAD, "a refusal")):
                text = f"gets {what} for {names}, because of {self.scenario.names(guilty)}"
                failed = self._go(state, who, failing._replace(note=note), blamed)
                yield Move(Edge.PROGRAM, who, text, failed)
            return
        yield from self._renew(state, who, worker)
        text = f"has the answer for {names}"
        yield Move(Edge.PROGRAM, who, text, self._go(state, who, worker._replace(step=Step.STORE)))
        if state.budget.failure:
            spent = state._replace(budget=spend(state.budget, FAILURE))
            blamed = self._blame(state.jobs, run)
            for note, why in ((SOON, "an error"), (OUTAGE, "no answer, since the provider is out,")):
                failed = self._go(spent, who, failing._replace(note=note), blamed)
                yield Move(Edge.FAULT, who, f"gets {why} for {names}", failed)
        if state.budget.drain:
            if self.rules.r12_row_first:
                stopping = worker._replace(step=Step.GIVE_BACK, note=STOPS)
            else:
                stopping = worker._replace(step=Step.RELEASE, note=STOPPED)
            drained = state._replace(budget=spend(state.budget, DRAIN))
            text = f"is told to stop while it works on {names}"
            yield Move(Edge.PERSON, who, text, self._go(drained, who, stopping))

    def _store(self, state: State, who: int, worker: Worker) -> Iterator[Move]:
        owned = tuple(job for job in worker.run if self._owns(state.jobs[job], who))
        if owned != worker.run and (self.rules.r6_all_rows or not owned):
            yield self._refused(state, who, worker, owned)
            return
        holder = NOBODY if self.rules.r5_status else who
        jobs = tuple(
            row._replace(status=COMPLETED, holder=holder, over=False, answers=row.answers + 1) if job in owned else row
            for job, row in enumerate(state.jobs)
        )
        text = f"stores the answer for {self.scenario.names(worker.run)} and completes {self.scenario.names(owned)}"
        yield Move(Edge.PROGRAM, who, text, self._go(state, who, self._finished(worker), jobs))
        yield from self._unanswered(state, who, worker, Step.STORE, jobs)

    def _refused(self, state: State, who: int, worker: Worker, owned: tuple[int, ...]) -> Move:
        """The fence refuses: the rows that are still held go back, then the message is released (R6, R7)."""
        names = self.scenario.names(worker.run)
        if owned and self.rules.r6_give_back:
            back = worker._replace(step=Step.GIVE_BACK, run=owned, note=REFUSED)
            return Move(Edge.PROGRAM, who, f"is refused its write for {names}", self._go(state, who, back))
        if self.rules.r7_release:
            release = worker._replace(step=Step.RELEASE, run=(), note=Held.WAITING)
            return Move(Edge.PROGRAM, who, f"is refused its write for {names}", self._go(state, who, release))
        lanes = self._unclaimed(state.lanes, who, Held.CLAIMED)
        dropped = self._go(state._replace(lanes=lanes), who, IDLE)
        return Move(Edge.PROGRAM, who, f"is refused its write for {names} and drops its claim", dropped)

    def _fail(self, state: State, who: int, worker: Worker) -> Iterator[Move]:
        """The head is charged with the attempt, the rest of its run is not (R6); an outage charges nobody (R9)."""
        head, *rest = worker.run
        owned = tuple(job for job in worker.run if self._owns(state.jobs[job], who))
        if head not in owned or (worker.note == OUTAGE and owned != worker.run):
            yield self._refused(state, who, worker, owned)
            return
        rows = list(state.jobs)
        final = worker.note == DEAD and not (rest and self.rules.r6_joint_end)
        for job in owned:
            back = rows[job]._replace(status=QUEUED, holder=NOBODY, over=False)
            if worker.note == OUTAGE and job == head:
                rows[job] = back._replace(attempts=back.attempts - 1, due=Due.LATER)
            elif job != head:
                rows[job] = back._replace(attempts=back.attempts - 1)
            elif final or back.attempts >= CAP:
                rows[job] = back._replace(status=FAILED, left=True)
            else:
                rows[job] = back._replace(due=Due.SOON)
        jobs = tuple(rows)
        names = self.scenario.names(owned)
        text = f"puts {names} back ({worker.note})"
        if jobs[head].status == FAILED:
            text = f"dead-letters {self.scenario.name(head)}" + (" and puts the rest of its run back" if rest else "")
        yield Move(Edge.PROGRAM, who, text, self._go(state, who, self._failed(worker, jobs), jobs))
        yield from self._unanswered(state, who, worker, worker.note, jobs)

    def _failed(self, worker: Worker, jobs: Jobs) -> Worker:
        """A short back-off is kept by the message, a long one by the row alone (R9)."""
        if jobs[worker.run[0]].due is Due.SOON:
            return Worker(Step.RELEASE, worker.lane, worker.message, (), Held.BACKOFF)
        return self._finished(worker)

    def _give_back(self, state: State, who: int, worker: Worker) -> Iterator[Move]:
        spent = 1 if worker.note == REFUSED or self.rules.r12_attempt else 0
        jobs = tuple(
            row._replace(status=QUEUED, holder=NOBODY, over=False, attempts=row.attempts - spent)
            if job in worker.run and self._owns(row, who)
            else row
            for job, row in enumerate(state.jobs)
        )
        after = IDLE if worker.note == STOPPED else Worker(Step.RELEASE, worker.lane, worker.message, (), Held.WAITING)
        yield Move(
            Edge.PROGRAM, who, f"gives {self.scenario.names(worker.run)} back", self._go(state, who, after, jobs)
        )

    def _read(self, state: State, who: int, worker: Worker) -> Iterator[Move]:
        """After a commit of unknown outcome: rows that are still its own mean that nothing happened (R5)."""
        if worker.note == Step.TAKE:
            run = tuple(job for job in self.rows[worker.lane] if state.jobs[job].holder == who)
            step = (
                worker._replace(step=Step.CALL, run=run, note="") if run else worker._replace(step=Step.TAKE, note="")
            )
            text = f"reads again: it holds {self.scenario.names(run) or 'nothing'}"
            yield Move(Edge.PROGRAM, who, text, self._go(state, who, step))
            return
        names = self.scenario.names(worker.run)
        owned = tuple(job for job in worker.run if self._owns(state.jobs[job], who))
        if not self.rules.r5_read_again or not owned:
            done = self._finished(worker) if worker.note == Step.STORE else self._failed(worker, state.jobs)
            text = f"takes its write for {names} as done"
            yield Move(Edge.PROGRAM, who, text, self._go(state, who, done))
        elif owned != worker.run:
            yield self._refused(state, who, worker, owned)
        else:
            storing = worker.note == Step.STORE
            again = worker._replace(step=Step.STORE, note="") if storing else worker._replace(step=Step.FAIL)
            yield Move(Edge.PROGRAM, who, f"reads again: {names} still its own", self._go(state, who, again))

    def _confirm(self, state: State, who: int, worker: Worker) -> Iterator[Move]:
        lane = tuple(message for message in state.lanes[worker.lane] if message.holder != who)
        confirmed = state._replace(lanes=put(state.lanes, worker.lane, lane))
        looks = self.rules.r7_ring and self.rules.r7_confirm_first
        after = Worker(Step.LOOK, worker.lane) if looks else IDLE
        text = "confirms its message" if lane != state.lanes[worker.lane] else "confirms a claim that it lost"
        yield Move(Edge.PROGRAM, who, text, self._go(confirmed, who, after))

    def _release(self, state: State, who: int, worker: Worker) -> Iterator[Move]:
        held = Held.WAITING if worker.note == STOPPED else Held(worker.note)
        released = state._replace(lanes=self._unclaimed(state.lanes, who, held))
        if worker.note == STOPPED:
            after = worker._replace(step=Step.GIVE_BACK)
        elif held is Held.BACKOFF and self.rules.r7_look_after_delay:
            after = Worker(Step.LOOK, worker.lane)
        else:
            after = IDLE
        yield Move(Edge.PROGRAM, who, f"releases its message {DELAYS[held]}", self._go(released, who, after))

    def _look_after(self, state: State, who: int, worker: Worker) -> Iterator[Move]:
        head = self._due_head(state.jobs, worker.lane)
        if head == NOBODY:
            yield Move(
                Edge.PROGRAM, who, "looks at the head: nothing is due", self._go(state, who, self._looked(worker))
            )
        else:
            ringing = worker._replace(step=Step.RING, run=(head,), note="")
            text = f"looks at the head: {self.scenario.name(head)} is due"
            yield Move(Edge.PROGRAM, who, text, self._go(state, who, ringing))

    def _ring_head(self, state: State, who: int, worker: Worker) -> Iterator[Move]:
        after = self._go(state, who, self._looked(worker))
        name = self.scenario.names(worker.run)
        yield Move(Edge.PROGRAM, who, f"rings {name}", after._replace(lanes=self._ring(state.lanes, worker.run[0])))
        if state.budget.lost:
            lost = after._replace(budget=spend(state.budget, LOST), disturbed=True)
            yield Move(Edge.FAULT, who, f"rings {name}, which is lost", lost)

    def _looked(self, worker: Worker) -> Worker:
        """What follows a look: nothing, unless the order of R7 is turned round."""
        return IDLE if worker.message == NOBODY else Worker(Step.CONFIRM, worker.lane, worker.message)
