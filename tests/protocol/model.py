"""The outbox, the lanes and the leases as a state machine: every step that the program, time or a fault may take next.

The protocol is small enough to be searched whole. A `State` holds the rows of the database, the messages of the queue
and what each worker is about to do; `Model.moves` lists everything that may happen next, one transaction or one call to
the queue at a time, so that a crash, a pause or another worker fits between any two. `search.py` walks all of it,
`invariants.py` says what must never be seen, `rules.py` has a switch for each clause of the rules R1 to R13, and
`test_model.py` runs all of it, with every rule kept and with each one broken.

What stands for what:

==========================  ===========================================================================================
here                        in the code
==========================  ===========================================================================================
ingested, `posts`           `services/ingest.py`: the transaction; the message that is still to be published
`_ring`                     `services/outbox.py: Outbox.publish`, for first messages and rings alike
`_claim`                    `worker.py: Worker._claim`
`_take`: `_look`, `_run`    `storage/taking.py: take`, one transaction (R2, R3, R4, R6, R9)
`_may_grow`                 `domain/batching.py: choose_run`, which may wait for more of a turn
`_call`, `_renew`           `services/generate.py: Generate.run`, `services/runs.py: Runs.extend`; see `Worker._run`
`_store`                    `storage/jobs.py: complete`, with the observations in the same transaction
`_fail`                     `storage/jobs.py: fail`: back-off or dead letter; `hold` for an outage
`_refused`, `_give_back`    `ClaimLost`; `storage/jobs.py: give_back`, which requeues for a refused batch and for drain
`_read`                     `storage/jobs.py: is_held`, after a commit whose outcome is unknown (R5)
`_confirm`, `_release`      `worker.py: Worker._next` and `_park`
`_look_after`, `_ring_head`  `storage/jobs.py: next_head`, then `Outbox.publish` (R7)
cancel, retry, `bells`      `storage/jobs.py: cancel` and `retry`; the ring that follows their commit (R9)
`_sweep`                    `services/outbox.py: Outbox.reconcile`, with `expire_leases` and `ring_page` (R10)
==========================  ===========================================================================================

What must hold: no job is completed twice and, since one transaction stores both, no answer stored twice; completions
come in the session's order; one of a session is in flight; attempts stay within the cap, and only a job's own failure
or a lost worker spends them for good; a due job waits for the sweep only after a crash, a pause or a loss; from every
state all jobs can come to an end without further faults; and the program never turns in a circle without waiting.

Time is abstract. A lease can run out only when nobody renews it: its holder crashed or is paused. Whatever waits (a
lease, a delay, the sweep) may be over at any moment and in any order, which covers every setting of the numbers. A
token is named by its worker: a row is held by a worker's present run, by one that is gone (`GONE`) or by nobody. A
message that was never sent, was lost or is finished is absent, since a ring replaces a finished one. The sweep is one
step, as it starts over when it is interrupted. Whoever has used an attempt is taken singly. A back-off whose message
was used up meanwhile, for an older job that came back, ends at the sweep. An outage holds the head of a run alone,
as the others are behind it. Where a run may still grow, taking it and waiting for more are both open.

Not here: the numbers themselves, how often an unchanged head is rung, the epoch that tells a lost queue at once, and
token budgets. They decide when things happen, not what may.

Bounds: two workers; up to three jobs of one session, or one and a job with no session; `CAP` attempts; batches of all
that fit; and in each scenario a budget for each kind of disturbance, and for all kinds together (`Budget`): three on
one job, two on two, one on three. Two mirrored states count as one.
"""

from collections.abc import Iterator

from protocol.state import IDLE, Job, Move, State, Step
from protocol.steps import WorkerSteps
from protocol.world import World


class Model(WorkerSteps, World):
    """The protocol in one scenario, under the given rules."""

    def start(self) -> State:
        """Nothing ingested, both workers idle."""
        jobs = (Job(),) * len(self.scenario.kinds)
        workers = (IDLE,) * self.scenario.workers
        return State(jobs, ((), ()), workers, (), (), revoked=False, disturbed=False, budget=self.scenario.budget)

    def moves(self, state: State) -> Iterator[Move]:
        """Everything that may happen next. The program's own moves come first."""
        for who, worker in enumerate(state.workers):
            if worker.paused:
                continue
            if worker.step is Step.IDLE:
                yield from self._claim(state, who)
            else:
                yield from self.steps[worker.step](state, who, worker)
        yield from self._publish(state)
        yield from self._people(state)
        yield from self._time(state)
        if state.budget.total:
            yield from self._faults(state)
