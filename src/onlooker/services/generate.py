"""From a message to stored observations: take the lane's head, call the provider, store the answer in one transaction.

The rules of the protocol decide here; `worker` only claims, renews and confirms. Every method leaves the job in a
state that another worker can go on from, at whatever point this process dies.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from onlooker.domain import keys
from onlooker.domain.errors import Busy, ClaimLost, Exhausted, ProviderError, StorageUnavailable
from onlooker.domain.jobs import LEASE_MS, JobKind, JobStatus, retry_delay_ms
from onlooker.domain.models import Draft, Event, Job, NewObservation, NewSource, Scope
from onlooker.domain.payloads import prepare
from onlooker.providers.contract import GenerationAnswer, GenerationRequest, Provider
from onlooker.storage import accounts, events, jobs, observations
from onlooker.storage.database import Connection, Database
from onlooker.storage.jobs import Later, Taken
from onlooker.telemetry import log, place_of

CALL_DEADLINE_S = 120.0
"""One deadline bounds a call and the reading of its answer (R11)."""

STORE_AGAIN_S = 0.5
DRAFT_TEXTS = ("title", "subtitle", "narrative", "facts", "concepts", "files_read", "files_modified")

Chore = Callable[[Job], Awaitable[bool]]
"""Does what a job that asks no model for observations is about; False when stop ended it before it was done.

What it has done stays done: it is called again for the same job, in this process or another. Raises `ProviderError`.
"""

T = TypeVar("T")


class Defect(ProviderError):
    """A bug was met while a job ran; its message is the exception's class."""

    def __init__(self, name: str) -> None:
        super().__init__(name, retryable=True)


@dataclass(frozen=True, slots=True)
class Input:
    """What a run of jobs is about."""

    project_name: str
    events: tuple[Event, ...]
    platform_source: str | None


class Generate:
    """Runs jobs. One object serves all tasks of a worker process."""

    def __init__(
        self,
        database: Database,
        provider: Provider,
        *,
        worker: str,
        new_id: Callable[[], str],
        now_ms: Callable[[], int],
        lease_ms: int = LEASE_MS,
        chores: Mapping[JobKind, Chore] | None = None,
    ) -> None:
        self._database = database
        self._provider = provider
        self._chores = chores or {}
        self._worker = worker
        self._new_id = new_id
        self._now_ms = now_ms
        self.lease_ms = lease_ms

    async def take(self, job_id: str) -> Taken | Later | Literal["nothing"]:
        """Take the head of the lane that this job's message stands in. Raises `StorageUnavailable`."""
        token = secrets.token_hex(16)

        def work(conn: Connection) -> Taken | Later | Literal["nothing"]:
            return jobs.take(
                conn,
                job_id,
                token=token,
                worker=self._worker,
                lease_ms=self.lease_ms,
                longest_run=self._provider.longest_run,
            )

        try:
            return await self._database.tx(work)
        except StorageUnavailable as error:
            if not error.outcome_unknown:
                raise
            held = await self._outlast(lambda: self._database.read(lambda conn: jobs.find_taken(conn, job_id, token)))
            if held is None:
                raise
            return held

    async def extend(self, taken: Taken) -> None:
        """Renew the run's lease. Raises `ClaimLost`, `StorageUnavailable`."""
        await self._database.tx(lambda conn: jobs.extend(conn, taken, lease_ms=self.lease_ms))

    async def run(self, taken: Taken) -> int | None:
        """Call the provider and store what comes of it: the delay of the next attempt in ms, or None when settled.

        Raises `ClaimLost` when the lease went meanwhile: nothing was written then. Raises `StorageUnavailable` when
        the outcome could not be stored while the lease lived. A defect in a provider or in what it answered is the
        job's own failure: it is tried again and then dead-lettered, and the worker lives on.
        """
        chore = self._chores.get(taken.head.kind)
        try:
            return await (self._run(taken) if chore is None else self._run_chore(taken, chore))
        except (ClaimLost, StorageUnavailable):
            raise
        except Exception as defect:  # noqa: BLE001 - see above; it is logged with its place
            name = type(defect).__name__
            log.warning("defect in a job", job=taken.head.id, error=name, where=place_of(defect))
            return await self._settle(taken, Defect(name))

    async def _run(self, taken: Taken) -> int | None:
        given = await self._database.read(lambda conn: load_input(conn, taken))
        if not given.events:
            await self._store(taken, given, GenerationAnswer((), skip_reason="its events are gone"))
            return None
        head = taken.head
        request = GenerationRequest(head.kind, given.project_name, head.session_id, given.events, head.id)
        try:
            async with asyncio.timeout(CALL_DEADLINE_S):
                answer = await self._provider.generate(request)
        except TimeoutError:
            return await self._settle(taken, Busy(f"no answer within {CALL_DEADLINE_S:.0f} s"))
        except ProviderError as error:
            return await self._settle(taken, error)
        if answer.usage.calls:
            await self._record_usage(head, answer)
        await self._store(taken, given, answer)
        return None

    async def _run_chore(self, taken: Taken, chore: Chore) -> int | None:
        """Run a job that makes no observations; one that stop ended goes back as if it had not been taken."""
        try:
            is_done = await chore(taken.head)
        except ProviderError as error:
            return await self._settle(taken, error)
        if not is_done:
            await self.give_back(taken, reason="the worker stopped")
            return 0
        await self._write(taken, lambda conn: jobs.complete(conn, taken, provider="", model=None, prompt_version=""))
        return None

    async def give_back(self, taken: Taken, *, reason: str) -> None:
        """Put the run back untouched (R12). Raises `StorageUnavailable`; the lease's end does the same later."""

        def work(conn: Connection) -> None:
            jobs.lock(conn, taken.head)
            jobs.give_back(conn, taken, reason=reason)

        await self._database.tx(work)

    async def next_head(self, session_id: str | None, job_id: str) -> Job | None:
        """The head of the lane that this job's message stood in, where it is due (R7)."""
        return await self._database.read(lambda conn: jobs.next_head(conn, session_id, job_id))

    async def _settle(self, taken: Taken, error: ProviderError) -> int | None:
        """Record a failed call: hold what an outage hit, retry or dead-letter what the job itself caused.

        The delay of the next attempt in ms, or None when there is none. A run is never refused for good: which of its
        events the provider meant shows when each is tried alone.
        """
        head = taken.head
        outage = isinstance(error, (Busy, Exhausted))
        delay_ms = retry_delay_ms((head.outages if outage else head.failures) + 1, random.random(), error.retry_after_s)  # noqa: S311 - jitter
        reason = f"{type(error).__name__}: {error}"
        final = not error.retryable and len(taken.jobs) == 1
        status = JobStatus.QUEUED

        def work(conn: Connection) -> None:
            nonlocal status
            jobs.lock(conn, head)
            if outage:
                status = jobs.hold(conn, taken, reason=reason, delay_ms=delay_ms)
            else:
                status = jobs.fail(conn, taken, error=reason, delay_ms=delay_ms, final=final)

        await self._write(taken, work)
        log.warning(
            "job did not succeed", job=head.id, attempt=head.attempts, outage=outage, error=type(error).__name__
        )
        return delay_ms if status is JobStatus.QUEUED else None

    async def _store(self, taken: Taken, given: Input, answer: GenerationAnswer) -> None:
        """Observations, sources and completion in one transaction, fenced by the lease."""
        head = taken.head
        scope = Scope(head.team_id, head.project_id)
        now = self._now_ms()
        drafts = [scrubbed(draft) for draft in answer.drafts]
        notes = [self._note(taken, given, draft, answer, n, now) for n, draft in enumerate(drafts)]

        def work(conn: Connection) -> None:
            jobs.lock(conn, head)
            jobs.complete(
                conn,
                taken,
                provider=self._provider.name,
                model=answer.model,
                prompt_version=self._provider.prompt_version,
            )
            if notes:
                observations.store_observations(conn, scope, notes, now)
                accounts.audit(
                    conn, head.team_id, head.project_id, None, "observation.created", "job", head.id, now,
                    detail=str(len(notes)),
                )  # fmt: skip

        await self._write(taken, work)

    async def _write(self, taken: Taken, work: Callable[[Connection], None]) -> None:
        """Run a fenced transaction until it is known to be done, for as long as the lease may live.

        After a commit whose reply was lost the row is read before anything else (R5): a transaction that did commit
        is not run again, and its fence would refuse it.
        """
        unknown = False

        async def write() -> None:
            nonlocal unknown
            if unknown and not await self._database.read(lambda conn: jobs.is_held(conn, taken)):
                return
            try:
                await self._database.tx(work)
            except StorageUnavailable as error:
                unknown = unknown or error.outcome_unknown
                raise

        await self._outlast(write)

    async def _outlast(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make the attempt again while the database is away, for as long as the lease may live."""
        deadline = time.monotonic() + self.lease_ms / 1000
        while True:
            try:
                return await attempt()
            except StorageUnavailable:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(STORE_AGAIN_S)

    async def _record_usage(self, head: Job, answer: GenerationAnswer) -> None:
        """What a call cost counts even when its answer is refused afterwards; once, so not again after a lost reply.

        An outage is waited out, since the answer is at hand and was paid for.
        """
        day = time.strftime("%Y-%m-%d", time.gmtime(self._now_ms() / 1000))

        def work(conn: Connection) -> None:
            jobs.record_usage(conn, head, answer.usage, day=day, provider=self._provider.name, model=answer.model or "")

        async def add() -> None:
            try:
                await self._database.tx(work)
            except StorageUnavailable as error:
                if not error.outcome_unknown:
                    raise

        await self._outlast(add)

    def _note(
        self, taken: Taken, given: Input, draft: Draft, answer: GenerationAnswer, ordinal: int, now: int
    ) -> NewObservation:
        """A draft with its place. Indexes that name no event are dropped; none left means all."""
        head = taken.head
        chosen = [given.events[i] for i in dict.fromkeys(draft.sources) if 0 <= i < len(given.events)] or given.events
        return NewObservation(
            id=self._new_id(),
            draft=draft,
            generation_key=keys.generation_key(head.id, ordinal),
            occurred_at=max(event.occurred_at for event in chosen),
            created_at=now,
            content=draft.content,
            session_id=head.session_id,
            created_by_job_id=head.id,
            provider=self._provider.name,
            model=answer.model,
            prompt_version=self._provider.prompt_version,
            platform_source=given.platform_source,
            sources=sources_of(head, chosen),
        )


def scrubbed(draft: Draft) -> Draft:
    """A draft as it may be stored: what a model repeats of secrets and private parts goes, as it does on the way in."""
    given = {name: getattr(draft, name) for name in DRAFT_TEXTS}
    stored = prepare({name: list(text) if isinstance(text, tuple) else text for name, text in given.items()}).value
    fields: dict[str, Any] = {name: tuple(text) if isinstance(text, list) else text for name, text in stored.items()}
    return replace(draft, **fields)


def load_input(conn: Connection, taken: Taken) -> Input:
    """The events that a run is about, in order, read by the job's rows: the message is advice only."""
    head = taken.head
    scope = Scope(head.team_id, head.project_id)
    found: Sequence[Event]
    if head.source_type == "turn":
        found = events.events_of_turn(conn, scope, head.source_id)
    elif head.source_type == "session":
        found = events.events_of_session(conn, scope, head.source_id)
    elif head.kind is JobKind.EVENT_BATCH:
        found = events.events_of_batch(conn, scope, head.source_id)
    else:
        found = events.events_by_ids(conn, scope, [job.source_id for job in taken.jobs])
    platform = found[0].source_adapter if found else None
    return Input(accounts.project_name(conn, scope), tuple(found), platform)


def sources_of(head: Job, chosen: Sequence[Event]) -> tuple[NewSource, ...]:
    """What a note was made from: its events, or for a summary the turn or session that it sums up."""
    if head.kind is JobKind.SUMMARY:
        return (NewSource(head.source_type, head.source_id),)
    return tuple(NewSource("event", event.id, event.id, event.event_key) for event in chosen)
