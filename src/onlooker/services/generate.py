"""From jobs that are taken to stored observations: ask the provider, decide what its answer or failure means.

`worker` claims, renews and confirms; `runs` holds what is taken and makes every write.
"""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onlooker.domain.errors import (
    Busy,
    ClaimLost,
    Exhausted,
    ProviderError,
    StorageUnavailable,
    TooLong,
    Unreadable,
)
from onlooker.domain.jobs import JobKind, JobStatus, retry_delay_ms
from onlooker.domain.models import Draft, Event, Job, ModelUse, Usage, total_usage
from onlooker.domain.spending import Price, price_of
from onlooker.providers.contract import DEFAULT_MODE, GenerationAnswer, Provider
from onlooker.services.material import Material
from onlooker.services.noting import write_notes
from onlooker.services.runs import Outcome, Run, Runs
from onlooker.storage import jobs
from onlooker.storage.database import Connection, Database
from onlooker.storage.jobs import MADE_BY_NOBODY, Made, Taken
from onlooker.storage.spending import JobSpent, ModelSpent
from onlooker.storage.taking import Terms
from onlooker.telemetry import log, place_of

SMALLEST_INPUT = 500
"""Tokens of events below which a request that is too long is not cut further."""

Chore = Callable[[Job], Awaitable[bool]]
"""Does what a job that asks no model for observations is about; False when stop ended it before it was done.

What it has done stays done: it is called again for the same job, in this process or another. Raises `ProviderError`.
"""

MOST_KEPT = 16
"""Jobs of several calls of which the answers so far are kept."""


class Defect(ProviderError):
    """A bug was met while a job ran; its message is the exception's class."""

    def __init__(self, name: str) -> None:
        super().__init__(name, retryable=True)


class _CapReached(Exception):
    """A cap was reached while a run made its calls."""


@dataclass(slots=True)
class Bill:
    """What the calls of a run used, each added as soon as it is known; `stored` says how often it was stored so far."""

    uses: list[ModelUse] = field(default_factory=list)
    stored: int = 0


@dataclass(slots=True)
class _Parts:
    """What was answered of a job of several calls: of which events, about how many of them, and how many a call has."""

    event_ids: tuple[str, ...]
    longest: int
    answered: int = 0
    drafts: list[Draft] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: in how many ms the lane has its next attempt (None: it has none), and which jobs are done."""

    delay_ms: int | None
    done: Sequence[str] = ()


class Generate:
    """Runs jobs. One object serves all tasks of a worker process."""

    def __init__(
        self,
        database: Database,
        provider: Provider,
        *,
        terms: Terms,
        new_id: Callable[[], str],
        now_ms: Callable[[], int],
        prices: Mapping[str, Price] | None = None,
        language: str = "",
        mode: str = DEFAULT_MODE,
        chores: Mapping[JobKind, Chore] | None = None,
    ) -> None:
        self._database = database
        self._provider = provider
        self._chores = chores or {}
        self._new_id = new_id
        self._now_ms = now_ms
        self._prices = prices or {}
        self._language = language
        self._mode = mode
        self._parts: dict[str, _Parts] = {}
        self.runs = Runs(database, terms, now_ms=now_ms, quiet=self._chores.keys())

    async def ready(self) -> None:
        """Return when it is worth claiming a job: see `Provider.ready`."""
        await self._provider.ready()

    async def recovered(self) -> None:
        """Return when a provider takes calls again that did not, and what was held for it is due.

        Ring all heads then. Raises `StorageUnavailable`: what is held comes due by itself later.
        """
        await self._provider.recovered()

        def release(conn: Connection) -> None:
            jobs.release_held(conn)

        await self._database.tx(release)

    async def run(self, run: Run) -> Ended:
        """Call the provider and store what comes of it.

        Raises `ClaimLost` when the lease went meanwhile: nothing was written then. Raises `StorageUnavailable` when
        the outcome could not be stored while the lease lived. A defect in a provider or in what it answered is the
        job's own failure: it is tried again and then dead-lettered, and the worker lives on.
        """
        bill = Bill()
        try:
            if run.material is None:
                return await self._run_chore(run.taken, self._chores[run.taken.head.kind])
            return await self._run(run, run.material, bill)
        except _CapReached:
            # Whoever takes it next holds it until the cap's time is over.
            await self.runs.let_go(run.taken, reason="a cap was reached between two calls")
            return Ended(0)
        except (ClaimLost, StorageUnavailable):
            raise
        except Exception as defect:  # noqa: BLE001 - see above; it is logged with its place
            name = type(defect).__name__
            log.warning("defect in a job", job=run.taken.head.id, error=name, where=place_of(defect))
            return await self._settle(run.taken, Defect(name), bill)

    async def _run(self, run: Run, material: Material, bill: Bill) -> Ended:
        """Ask for as many of the run's events as fit, fewer where they do not; what was not asked about goes back."""
        count = self._fitting(run.taken, material)
        limit: int | None = None
        while True:
            if count < len(run.taken.jobs):
                material = await self._keep(run, material, count)
            if not material.folded.told:
                reason = "nothing but looking around" if material.events else "its events are gone"
                nothing = GenerationAnswer((), skip_reason=reason)
                return await self._store(run.taken, material, nothing, bill, count=len(run.taken.jobs))
            asked = material.told
            ask = self._ask_in_parts if material.head.kind is JobKind.EVENT_BATCH else self._ask
            try:
                answer = await ask(run.taken, material, asked, bill, limit=limit)
            except TooLong as error:
                if len(run.taken.jobs) > 1:
                    count = len(run.taken.jobs) // 2
                elif len(asked) > 1 and (limit is None or limit > SMALLEST_INPUT):
                    limit = (limit or self._provider.input_budget) // 2
                else:
                    return await self._settle(run.taken, error, bill, final=True)
            except ProviderError as error:
                return await self._settle(run.taken, error, bill)
            else:
                return await self._accept(run.taken, material, asked, answer, bill)

    async def _ask(
        self, taken: Taken, material: Material, asked: Sequence[Event], bill: Bill, *, limit: int | None
    ) -> GenerationAnswer:
        """The answer of one call, its cost noted whatever comes of it. Raises `_CapReached` where none may be made."""
        request = material.request(asked, mode=self._mode, language=self._language, limit=limit)
        if (spent := self._spent(taken, bill)) is not None:
            bill.uses.clear()
            bill.stored += 1
            if not await self.runs.may_go_on(taken, spent):
                raise _CapReached
        try:
            answer = await self._provider.generate(request)
        except ProviderError as error:
            bill.uses += error.uses
            raise
        bill.uses += answer.uses
        if answer.answered == 0:
            raise Unreadable("the answer was cut before anything was said")
        return answer

    async def _ask_in_parts(
        self, taken: Taken, material: Material, asked: Sequence[Event], bill: Bill, *, limit: int | None
    ) -> GenerationAnswer:
        """The answer about all events of one job that has more of them than a call takes.

        What was answered before a call failed, or a cap was reached, is kept: it was paid. After an answer that is not
        about all that it was asked about, fewer are asked about at once.
        """
        parts = self._parts_of(taken.head.id, asked)
        while True:
            part = asked[parts.answered : parts.answered + parts.longest]
            answer = await self._ask(taken, material, part, bill, limit=limit)
            parts.drafts += [moved(draft, parts.answered, len(part)) for draft in answer.drafts]
            if answer.answered is not None:
                parts.longest = answer.answered
            parts.answered += min(parts.longest, len(part))
            if parts.answered >= len(asked):
                self._parts.pop(taken.head.id, None)
                return replace(answer, drafts=tuple(parts.drafts), answered=None)

    def _parts_of(self, job_id: str, asked: Sequence[Event]) -> _Parts:
        """What was answered of a job so far; nothing where its events are not those of then."""
        event_ids = tuple(event.id for event in asked)
        known = self._parts.pop(job_id, None)
        if known is None or known.event_ids != event_ids:
            known = _Parts(event_ids, self._provider.longest_run)
        # A copy: a run that lost its lease may still wait for an answer.
        parts = self._parts[job_id] = replace(known, drafts=[*known.drafts])
        while len(self._parts) > MOST_KEPT:
            del self._parts[next(iter(self._parts))]
        return parts

    async def _accept(
        self, taken: Taken, material: Material, asked: Sequence[Event], answer: GenerationAnswer, bill: Bill
    ) -> Ended:
        """Store an answer; of a run that it is not wholly about, the rest goes back."""
        count = len(taken.jobs)
        if answer.answered is not None and answer.answered < len(asked) and count > 1:
            following = asked[answer.answered].id
            count = next(place for place, job in enumerate(taken.jobs) if job.source_id == following)
        return await self._store(taken, material, answer, bill, count=count)

    def _fitting(self, taken: Taken, material: Material) -> int:
        """How many of a run's jobs go into one call, by what their events weigh in a prompt."""
        if len(taken.jobs) > 1:
            tokens = 0
            for number, event in enumerate(material.told):
                tokens += self._provider.weigh(event)
                if number and tokens > self._provider.input_budget:
                    return next(place for place, job in enumerate(taken.jobs) if job.source_id == event.id)
        return len(taken.jobs)

    async def _keep(self, run: Run, material: Material, count: int) -> Material:
        """Make the run its first so many jobs; the others go back with their attempt (R6)."""
        run.taken, rest = run.taken.divided(count)
        await self.runs.let_go(rest, reason="left for the next call")
        return material.of_jobs(run.taken)

    async def _run_chore(self, taken: Taken, chore: Chore) -> Ended:
        """Run a job that makes no observations; one that stop ended goes back as if it had not been taken."""
        try:
            is_done = await chore(taken.head)
        except ProviderError as error:
            return await self._settle(taken, error)
        if not is_done:
            await self.runs.give_back(taken, reason="the worker stopped")
            return Ended(0)

        def complete(conn: Connection) -> None:
            jobs.lock(conn, taken.head)
            jobs.complete(conn, taken, MADE_BY_NOBODY)

        await self.runs.write(taken, complete)
        return Ended(None, taken.ids)

    async def _settle(
        self, taken: Taken, error: ProviderError, bill: Bill | None = None, *, final: bool = False
    ) -> Ended:
        """Record a failed call: hold what an outage hit, retry or dead-letter what the job itself caused.

        A run is never refused for good: which of its
        events the provider meant shows when each is tried alone.
        """
        head = taken.head
        outage = isinstance(error, (Busy, Exhausted))
        told_ms = None if error.retry_after_s is None else int(error.retry_after_s * 1000)
        delay_ms = retry_delay_ms((head.outages if outage else head.failures) + 1, random.random(), error.retry_after_s)  # noqa: S311 - jitter
        if outage and told_ms is not None:
            delay_ms = told_ms
        reason = f"{type(error).__name__}: {error}"
        is_dead = (final or not error.retryable) and len(taken.jobs) == 1
        status = JobStatus.QUEUED

        def work(conn: Connection) -> None:
            nonlocal status
            jobs.lock(conn, head)
            if not outage:
                status = jobs.fail(conn, taken, error=reason, delay_ms=delay_ms, final=is_dead)
                return
            status = jobs.hold(conn, taken, reason=reason, delay_ms=delay_ms)

        await self.runs.write(taken, work, self._spent(taken, bill or Bill()))
        log.warning(
            "job did not succeed", job=head.id, attempt=head.attempts, outage=outage, error=type(error).__name__
        )
        return Ended(delay_ms if status is JobStatus.QUEUED else None)

    async def _store(
        self, taken: Taken, material: Material, answer: GenerationAnswer, bill: Bill, *, count: int
    ) -> Ended:
        """Store what an answer gives about the run's first `count` jobs; the others go back."""
        kept, rest = taken.divided(count)
        made = Made(
            answer.provider or self._provider.name, answer.model, answer.prompt_version or self._provider.prompt_version
        )
        told = material.of_jobs(kept) if rest.jobs else material
        notes = write_notes(told, told.told, answer.drafts, made, new_id=self._new_id, now=self._now_ms())
        await self.runs.store(Outcome(kept, rest, made, notes, self._spent(taken, bill)))
        return Ended(None, kept.ids)

    def _spent(self, taken: Taken, bill: Bill) -> JobSpent | None:
        """What a run's calls cost that is not stored yet; None for no calls."""
        by_model: dict[tuple[str, str], list[ModelUse]] = {}
        for use in bill.uses:
            if use.usage.calls:
                by_model.setdefault((use.provider, use.model), []).append(use)
        costs = [
            ModelSpent(provider, model, usage := total_usage(uses), self._cost_microusd(provider, model, usage))
            for (provider, model), uses in by_model.items()
        ]
        return JobSpent(taken.head, f"{taken.token}/{bill.stored}", costs) if costs else None

    def _cost_microusd(self, provider: str, model: str, usage: Usage) -> int:
        """By the price of the model that answered, else of the one that was asked for: an endpoint names it its way."""
        asked = (lane.model or "" for lane in self._provider.lanes() if lane.provider == provider)
        found = (price_of(self._prices, name) for name in (model, *asked))
        price = next((each for each in found if each is not None), None)
        return 0 if price is None else price.cost_microusd(usage)


def moved(draft: Draft, by: int, among: int) -> Draft:
    """A draft about some of many events, whose indexes count from the first of them all; none still means all of it."""
    sources = draft.sources or range(among)
    return replace(draft, sources=tuple(index + by for index in sources if 0 <= index < among))
