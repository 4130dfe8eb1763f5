"""The worker: claim, run, confirm; renew while it runs; drain on stop.

A message says only that its lane has work (R2). The job's lease, which lives in the database, is the authority: its
loss cancels the call, the loss of the queue's claim does not (R11).
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from onlooker.domain.errors import ClaimLost, OnlookerError, QueueUnavailable, StorageUnavailable
from onlooker.domain.jobs import LEASE_RENEWAL_MS, LONGEST_PARK_ON_QUEUE_MS
from onlooker.pauses import pause
from onlooker.queue.contract import Claim, QueueEngine
from onlooker.services.generate import Ended, Generate
from onlooker.services.outbox import Outbox
from onlooker.services.runs import Run
from onlooker.storage import workers
from onlooker.storage.database import Database
from onlooker.storage.jobs import NOTHING, Later
from onlooker.telemetry import Outage, log

CLAIM_WAIT_S = 600.0
"""Each wait that ends is one more call."""

FIRST_WAIT_S = 5.0
"""That after an outage, whose end says that it is over."""

OUTAGE_PAUSE_S = 1.0
"""Before a part that is away is asked again."""

HEARTBEAT_S = 10.0
MOST_DONE = 10_000
DRAIN_S = 10.0
"""How long running calls may go on after stop, before their jobs are given back."""

LET_GO_S = 2.0
"""How long a stop waits for a part that is away, to tell it what the end of a lease tells it too."""


@dataclass(slots=True)
class Worker:
    """Serves `concurrency` lanes at a time. `on_settled` is told the id of each job that reached an end."""

    database: Database
    queue: QueueEngine
    generate: Generate
    outbox: Outbox
    identity: str
    worker_id: str
    concurrency: int = 32
    on_settled: Callable[[str], None] = lambda _job_id: None
    renewal_s: float = LEASE_RENEWAL_MS / 1000
    drain_s: float = DRAIN_S
    _done: dict[str, bool] = field(default_factory=dict)
    """Jobs that were done in a run with others, whose own messages are still to come; whether it was the run's last."""
    _claiming: Outage = field(default_factory=lambda: Outage("waiting for the queue", "the queue is back"))
    _working: Outage = field(default_factory=lambda: Outage("waiting for the database", "the database is back"))
    """Every lane meets an outage; one of them tells of it."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set, then drain: running calls get `drain_s`, the rest goes back (R12)."""
        beating = asyncio.create_task(self._beat(stop))
        watching = asyncio.create_task(self._watch_recoveries())
        serving = [asyncio.create_task(self._serve(stop)) for _ in range(self.concurrency)]
        stopping = asyncio.create_task(stop.wait())
        try:
            # A serving task ends only by stop or by a defect, and a defect must not pass as an idle worker.
            await asyncio.wait({stopping, *serving}, return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            await asyncio.wait(serving, timeout=self.drain_s)
            for task in serving:
                task.cancel()
            ended = await asyncio.gather(*serving, return_exceptions=True)
        finally:
            stopping.cancel()
            for task in (*serving, beating, watching):
                task.cancel()
            await asyncio.gather(*serving, stopping, beating, watching, return_exceptions=True)
            with contextlib.suppress(StorageUnavailable, TimeoutError):
                async with asyncio.timeout(LET_GO_S):
                    await self.database.tx(lambda conn: workers.leave(conn, self.worker_id))
        for outcome in ended:
            if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
                raise outcome

    async def _beat(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(StorageUnavailable):
                await self.database.tx(
                    lambda conn: workers.beat(conn, self.worker_id, self.identity, "worker"), durable=False
                )
            await pause(stop, HEARTBEAT_S)

    async def _watch_recoveries(self) -> None:
        """When a provider takes calls again, ring what waited for it."""
        while True:
            try:
                await self.generate.recovered()
                rung = await self.outbox.reconcile(everything=True)
                log.info("a provider takes calls again", rung=rung)
            except StorageUnavailable as error:
                log.warning("cannot ring what waited for a provider yet", reason=str(error))

    async def _serve(self, stop: asyncio.Event) -> None:
        """One lane at a time, again and again."""
        claim: Claim | None = None
        while True:
            try:
                if claim is None:
                    if stop.is_set():
                        return
                    claim = await self._claim(stop)
                    self._claiming.worked()
                    if claim is None:
                        continue
                claim = await self._handle(claim, stop)
                self._working.worked()
            except (QueueUnavailable, StorageUnavailable) as error:
                (self._claiming if isinstance(error, QueueUnavailable) else self._working).failed(reason=str(error))
                await pause(stop, OUTAGE_PAUSE_S)
                if claim is not None:
                    await self._put_back(claim, None, stop)
                claim = None

    async def _claim(self, stop: asyncio.Event) -> Claim | None:
        """The next claim once a provider takes calls, or None on stop: a claim that comes as stop is set goes back."""
        claiming = asyncio.create_task(self._claim_when_ready())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({claiming, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if not claiming.done():
            claiming.cancel()
        try:
            return await claiming
        except asyncio.CancelledError:
            return None

    async def _claim_when_ready(self) -> Claim | None:
        await self.generate.ready()
        return await self.queue.claim(wait_s=FIRST_WAIT_S if self._claiming.is_on else CLAIM_WAIT_S)

    async def _handle(self, claim: Claim, stop: asyncio.Event) -> Claim | None:
        """Serve one message; the next claim, where confirming brought one."""
        if (is_last := self._done.pop(claim.message.id, None)) is not None:
            return await (self._next if is_last else self._confirm)(claim, stop)
        run = await self.generate.runs.take(claim.lane.session_id, claim.message.id)
        if isinstance(run, Later):
            await self._park(claim, run.delay_ms)
            return None
        if run == NOTHING:
            return await self._next(claim, stop)
        try:
            ended = await self._run(claim, run)
        except ClaimLost:
            log.warning("lease lost, nothing written", job=run.taken.head.id)
            await self._put_back(claim, run, stop, reason="part of the run was taken away")
            return None
        except StorageUnavailable as error:
            log.warning("nothing written while the database is away", job=run.taken.head.id, reason=str(error))
            await self._put_back(claim, run, stop, reason="the database was away")
            return None
        for job in run.taken.jobs:
            self.on_settled(job.id)
        self._remember(ended.done, claim)
        if ended.delay_ms is None:
            return await self._next(claim, stop)
        await self._park(claim, ended.delay_ms)
        # Whoever retried or cancelled while the message was claimed could not ring it.
        await self._ring_head(claim)
        return None

    def _remember(self, done: Sequence[str], claim: Claim) -> None:
        """Of a run's messages the claimed one is finished by us; the others need no look, the last of them aside."""
        others = [job_id for job_id in done if job_id != claim.message.id]
        self._done.update((job_id, job_id == others[-1]) for job_id in others)
        for oldest in list(islice(self._done, max(0, len(self._done) - MOST_DONE))):
            del self._done[oldest]

    async def _put_back(self, claim: Claim, run: Run | None, stop: asyncio.Event, *, reason: str = "") -> None:
        """Put back what an outage left us with, the row first (R12), as soon as that works.

        Without it nobody serves the lane before both leases have ended. On stop they are left to end.
        """
        until = time.monotonic() + self.generate.runs.lease_ms / 1000
        while True:
            try:
                if run is not None:
                    await self.generate.runs.give_back(run.taken, reason=reason)
                    run = None
                await self.queue.release(claim)
            except (QueueUnavailable, StorageUnavailable):
                if stop.is_set() or time.monotonic() >= until:
                    return
                await pause(stop, OUTAGE_PAUSE_S)
            else:
                return

    async def _next(self, claim: Claim, stop: asyncio.Event) -> Claim | None:
        """Confirm, look at the lane's head and ring it if it is due (R7); a claim that came with the confirming."""
        following = await self._confirm(claim, stop)
        # With the session's next message in hand its head is looked at anyway, whatever that message names.
        if following is None or following.lane != claim.lane or not claim.lane.exclusive:
            await self._ring_head(claim)
        return following

    async def _confirm(self, claim: Claim, stop: asyncio.Event) -> Claim | None:
        if stop.is_set():
            await self.queue.confirm(claim)
            return None
        return (await self.queue.confirm_and_claim(claim, wait_s=0))[1]

    async def _ring_head(self, claim: Claim) -> None:
        """Ring the lane's head where it is due. While the database is away that is left to the outbox."""
        try:
            head = await self.generate.runs.next_head(claim.lane.session_id, claim.message.id)
        except StorageUnavailable as error:
            log.warning("cannot look for the next job yet", reason=str(error))
            self.outbox.owe_rings()
            return
        if head is not None:
            await self.outbox.publish([head])

    async def _park(self, claim: Claim, delay_ms: int) -> None:
        """A short delay is kept by the message, a long one by the row alone (R9)."""
        if delay_ms <= LONGEST_PARK_ON_QUEUE_MS:
            await self.queue.release(claim, delay_ms=delay_ms)
        else:
            await self.queue.confirm(claim)

    async def _run(self, claim: Claim, run: Run) -> Ended:
        """Run the job while its lease is renewed. Raises `ClaimLost` when the lease went; the call is cancelled then.

        On cancellation (the drain's end) the run is given back, the row first and then the message.
        """
        running = asyncio.create_task(self.generate.run(run))
        renewing = asyncio.create_task(self._renew(claim, run))
        try:
            await asyncio.wait({running, renewing}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                return running.result()
            running.cancel()
            await asyncio.wait({running})
            if not running.cancelled() and running.exception() is None:
                return running.result()
            raise ClaimLost("the job's lease is gone")
        except asyncio.CancelledError:
            running.cancel()
            await asyncio.wait({running})
            with contextlib.suppress(OnlookerError, TimeoutError):
                async with asyncio.timeout(LET_GO_S):
                    await self.generate.runs.give_back(run.taken, reason="the worker stopped")
                    await self.queue.release(claim)
            raise
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})

    async def _renew(self, claim: Claim, run: Run) -> None:
        """Renew both leases, the database's first; returns when the job's is gone.

        By this process' own monotonic clock the lease is gone when its length has passed since the last renewal that
        succeeded was *sent*, whatever the database's clock does.
        """
        lease_s = self.generate.runs.lease_ms / 1000
        held_since = time.monotonic()
        wait_s = self.renewal_s
        while True:
            await asyncio.sleep(max(0.0, min(wait_s, held_since + lease_s - time.monotonic())))
            if time.monotonic() >= held_since + lease_s:
                return
            sent = time.monotonic()
            try:
                extending = asyncio.create_task(self.generate.runs.extend(run.taken))
                # When the run ends meanwhile nobody asks for the outcome, which then is no defect.
                extending.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
                async with asyncio.timeout(held_since + lease_s - sent):
                    await extending
            except ClaimLost:
                return
            except (StorageUnavailable, TimeoutError):
                wait_s = OUTAGE_PAUSE_S
                continue
            held_since, wait_s = sent, self.renewal_s
            # The claim only keeps others from looking at this lane; without it they find the row's lease.
            with contextlib.suppress(ClaimLost, QueueUnavailable):
                await self.queue.extend(claim)
