"""The outbox: every queued row gets its message, whatever happens to the queue.

To **ring** a job is to enqueue its message. A message only says that its lane has work; ringing twice is harmless.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from onlooker.domain.errors import QueueUnavailable, StorageUnavailable
from onlooker.domain.jobs import KIND_LANES, JobKind
from onlooker.domain.models import Job
from onlooker.pauses import pause
from onlooker.queue.contract import Join, JoinsTransactions, Lane, Message, QueueEngine
from onlooker.storage import heads
from onlooker.storage.database import Connection, Database
from onlooker.telemetry import Outage, log

RECONCILE_EVERY_S = 30.0
ENQUEUE_WITHIN_S = 1.0
"""Whoever sent an event, and a worker with the next job at hand, wait no longer for a queue that does not answer."""

LOOK_EVERY_S = 2.0
"""How soon after a failed ring everything is rung again."""


def lane_of(job: Job) -> Lane:
    """The lane that a job's message stands in: its session's, else its kind's."""
    return Lane.kind(KIND_LANES[job.kind]) if job.session_id is None else Lane.session(job.session_id)


def message_of(job: Job) -> Message:
    """A job's message: its id, kind and tool name, and nothing of what was observed."""
    return Message(id=job.id, type=str(job.kind), tool_name=job.tool_name)


def _entries(jobs: Sequence[Job]) -> list[tuple[Lane, Message]]:
    """What to enqueue for these jobs.

    The end of a turn is rung twice: an id that is known pulls forward its lane's head, which may be waiting for
    more events of the turn.
    """
    ends = [job for job in jobs if job.kind is JobKind.SUMMARY and job.session_id is not None]
    return [(lane_of(job), message_of(job)) for job in (*jobs, *ends)]


@dataclass(frozen=True, slots=True)
class Ringing:
    """The rings of one transaction."""

    join: Join

    def ring(self, conn: Connection, jobs: Sequence[Job]) -> None:
        """Ring these jobs, which this transaction stores; called again, where it is run again."""
        if jobs:
            self.join.enqueue_many(conn, _entries(jobs))

    def committed(self) -> None:
        """Wake those who wait, after the commit."""
        self.join.committed()


class Outbox:
    """Publishes jobs after their commit, and reconciles the queue with the rows."""

    def __init__(self, database: Database, queue: QueueEngine) -> None:
        self._database = database
        self._queue = queue
        self._epoch: str | None = None
        self._owes_rings = True
        self._ringing = Outage("jobs not queued yet", "jobs are queued again")
        self._reconciling = Outage("cannot reconcile yet", "reconciles again")

    async def publish(self, jobs: Sequence[Job], *, within_s: float | None = ENQUEUE_WITHIN_S) -> bool:
        """Ring these jobs; False when the queue is away. Then their rows stay queued and are rung later."""
        if not jobs:
            return True
        try:
            async with asyncio.timeout(within_s):
                await self._queue.enqueue_many(_entries(jobs), replace_finished=True)
        except (QueueUnavailable, TimeoutError) as error:
            self._owes_rings = True
            self._ringing.failed(jobs=len(jobs), reason=str(error) or f"the queue did not answer within {within_s} s")
            return False
        self._ringing.worked()
        return True

    def owe_rings(self) -> None:
        """Have every due head rung as soon as that works: somebody could not look for one."""
        self._owes_rings = True

    def join(self) -> "Ringing | None":
        """Rings as a part of the transaction that stores the jobs; None where `publish` must do it after the commit."""
        join = self._queue.join() if isinstance(self._queue, JoinsTransactions) else None
        return None if join is None else Ringing(join)

    async def reconcile(self, *, everything: bool = False) -> int:
        """Put back what nobody holds or a dead process, and ring every head that is due (R10); how many were rung.

        With `everything` also those that were rung lately, which wakes what was put off until later. Raises
        `StorageUnavailable`. When the queue is away nothing is lost: the next call rings everything.
        """
        await self._release_dead()
        while await self._database.tx(heads.expire_leases) == heads.PAGE:
            pass
        everything = await self._lost_messages() or everything
        rung, place = 0, heads.Place()
        while not place.is_end:
            jobs, place = await self._database.tx(partial(heads.ring_page, place=place, everything=everything))
            if not await self.publish(jobs, within_s=None):
                return rung
            rung += len(jobs)
        self._owes_rings = False
        return rung

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile now and every 30 s until `stop`; an outage of a part is waited out."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not stop.is_set():
            if self._owes_rings or loop.time() >= due or await self._sees_loss():
                due = loop.time() + RECONCILE_EVERY_S
                try:
                    if rung := await self.reconcile():
                        log.info("rang jobs that waited", jobs=rung)
                    self._reconciling.worked()
                except StorageUnavailable as error:
                    self._reconciling.failed(reason=str(error))
            await pause(stop, LOOK_EVERY_S)

    async def _release_dead(self) -> None:
        """What dead processes of this machine held is served at once, not when its leases end: rows first, then queue.

        An older state of the queue has what processes held that were gone before.
        """
        holders = await self._database.read(heads.dead_holders)
        released = await self._database.tx(lambda conn: heads.release_held_by(conn, holders)) if holders else []
        try:
            count = len(released) + await self._queue.release_dead()
        except QueueUnavailable:
            self._owes_rings = True
            return
        if count:
            log.info("released what dead processes held", released=count)

    async def _sees_loss(self) -> bool:
        """Whether the queue's store has begun anew since it was last looked at."""
        try:
            return await self._queue.epoch() != self._epoch
        except QueueUnavailable:
            self._owes_rings = True
            return False

    async def _lost_messages(self) -> bool:
        """Whether the queue's store began anew, or a ring failed, since the last time that all were rung."""
        try:
            epoch = await self._queue.epoch()
        except QueueUnavailable:
            self._owes_rings = True
            return True
        changed, self._epoch = epoch != self._epoch, epoch
        return changed or self._owes_rings
