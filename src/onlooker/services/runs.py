"""What a worker has in hand: jobs are taken, and every write about them is fenced by their lease.

What several tasks of a process ask for at the same time shares a transaction. Every method leaves the jobs in a state
that another worker can go on from, at whatever point this process dies.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from onlooker.domain.errors import ClaimLost, StorageUnavailable
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Job
from onlooker.services.material import Material, load_materials
from onlooker.services.noting import Notes, store_notes
from onlooker.services.together import APART, Together
from onlooker.storage import jobs, sessions, spending, taking
from onlooker.storage.database import Connection, Database
from onlooker.storage.jobs import Later, Made, Taken
from onlooker.storage.spending import JobSpent
from onlooker.storage.taking import Terms, Wanted

STORE_AGAIN_S = 0.5

T = TypeVar("T")

_Lane = tuple[str | None, str]
"""A session, or where there is none the job itself."""

_Nothing = Literal["nothing"]
_Apart = Literal["apart"]


@dataclass(slots=True)
class Run:
    """Jobs that are ours, and what they are about; `material` is None for jobs that ask no model for observations.

    `taken` is what is ours now: it shrinks where not all of it goes into one call.
    """

    taken: Taken
    material: Material | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: `kept` is what it is about and done with it, `rest` goes back."""

    kept: Taken
    rest: Taken
    made: Made
    notes: Notes
    spent: JobSpent | None

    @property
    def head(self) -> Job:
        """The head of the run."""
        return self.kept.head

    @property
    def lane(self) -> str:
        """What no other that is stored at the same time has."""
        return self.head.session_id or self.head.id


class Runs:
    """Takes, renews, gives back and stores the runs of a worker process.

    Jobs of `quiet` kinds ask no model for observations and are taken without what they are about.
    """

    def __init__(
        self, database: Database, terms: Terms, *, now_ms: Callable[[], int], quiet: Collection[JobKind] = ()
    ) -> None:
        self._database = database
        self._terms = terms
        self._now_ms = now_ms
        self._quiet = quiet
        self.lease_ms = terms.lease_ms
        self._taking: Together[Wanted, Run | Later | _Nothing] = Together(
            database.tx, self._take_all, key=lambda wanted: wanted.lane
        )
        self._storing: Together[Outcome, bool] = Together(
            database.tx, self._store_all, key=lambda outcome: outcome.lane
        )
        self._looking: Together[_Lane, Job | None] = Together(
            database.read, self._look_at_all, key=lambda lane: lane[0] or lane[1]
        )

    async def take(self, session_id: str | None, job_id: str) -> Run | Later | Literal["nothing"]:
        """Take the head of the lane that this job's message stands in. Raises `StorageUnavailable`."""
        wanted = Wanted(session_id, job_id, secrets.token_hex(16))
        try:
            return await self._taking.ask(wanted)
        except StorageUnavailable as error:
            if not error.outcome_unknown:
                raise

            def find(conn: Connection) -> Run | None:
                held = jobs.find_taken(conn, job_id, wanted.token)
                return None if held is None else self._read(conn, [held])[0]

            found = await self._outlast(lambda: self._database.read(find))
            if found is None:
                raise
            return found

    async def extend(self, taken: Taken) -> None:
        """Renew the run's lease. Raises `ClaimLost`, `StorageUnavailable`."""
        await self._database.tx(lambda conn: jobs.extend(conn, taken, lease_ms=self.lease_ms))

    async def give_back(self, taken: Taken, *, reason: str) -> None:
        """Put the run back untouched (R12). Raises `StorageUnavailable`; the lease's end does the same later."""
        await self._database.tx(_giving_back(taken, reason))

    async def next_head(self, session_id: str | None, job_id: str) -> Job | None:
        """The head of the lane that this job's message stood in, where it is due (R7)."""
        return await self._looking.ask((session_id, job_id))

    async def store(self, outcome: Outcome) -> None:
        """Notes, sources, cost and completion in one transaction. Raises as `write` does."""

        async def store() -> None:
            if not await self._storing.ask(outcome):
                raise ClaimLost("the job's lease is gone")

        await self._fenced(outcome.kept, store, outcome.spent)

    async def let_go(self, taken: Taken, *, reason: str) -> None:
        """`give_back`, again and again while the database is away. Raises as `write` does."""
        await self.write(taken, _giving_back(taken, reason))

    async def write(self, taken: Taken, work: Callable[[Connection], None], spent: JobSpent | None = None) -> None:
        """Make a fenced write until it is known to be done, for as long as the lease may live; the cost is added in it.

        Raises `ClaimLost` where the fence refuses it: nothing was written then but the cost. Raises
        `StorageUnavailable` when it could not be written while the lease lived.
        """

        def whole(conn: Connection) -> None:
            work(conn)
            self._add_usage(conn, spent)

        await self._fenced(taken, lambda: self._database.tx(whole), spent)

    async def may_go_on(self, taken: Taken, spent: JobSpent) -> bool:
        """Add what the run's calls cost so far; whether it may make another: not where a cap is reached by now.

        Raises as `write` does.
        """
        await self.write(taken, lambda conn: jobs.extend(conn, taken, lease_ms=self.lease_ms), spent)

        def look(conn: Connection) -> bool:
            scope = taken.head.scope
            caps = spending.caps_of(conn, scope, self._terms.project_caps, self._terms.team_caps)
            return not (caps and spending.is_used_up(conn, scope, caps, self._now_ms()))

        if not self._terms.spends:
            return True
        return await self._outlast(lambda: self._database.read(look))

    async def _fenced(self, taken: Taken, write: Callable[[], Awaitable[None]], spent: JobSpent | None) -> None:
        """As `write` says. A refused answer was paid too: what calls cost is added alone then.

        After a commit whose reply was lost the row is read before anything else (R5): a transaction that did commit is
        not run again, and its fence would refuse it.
        """
        unknown = False

        async def attempt() -> None:
            nonlocal unknown
            if unknown and not await self._database.read(lambda conn: jobs.is_held(conn, taken)):
                return
            try:
                await write()
            except StorageUnavailable as error:
                unknown = unknown or error.outcome_unknown
                raise

        try:
            await self._outlast(attempt)
        except ClaimLost:
            await self._outlast(lambda: self._database.tx(lambda conn: self._add_usage(conn, spent)))
            raise

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

    def _take_all(
        self, conn: Connection, wanted: Sequence[Wanted], *, waits: bool
    ) -> list[Run | Later | _Nothing | _Apart]:
        locked = sessions.lock_for(conn, [each.session_id for each in wanted], waits=waits)
        ours = [each for each in wanted if each.session_id in locked]
        answers = taking.take_locked(conn, ours, self._terms, wall_ms=self._now_ms())
        taken = {each.lane: answer for each, answer in zip(ours, answers, strict=True)}
        runs = {run.taken.token: run for run in self._read(conn, [each for each in answers if isinstance(each, Taken)])}
        found = (taken.get(each.lane, APART) for each in wanted)
        return [runs[each.token] if isinstance(each, Taken) else each for each in found]

    def _read(self, conn: Connection, taken: Sequence[Taken]) -> list[Run]:
        """What was taken with what it is about, in the transaction that took it: another would cost as much again."""
        asking = [each for each in taken if each.head.kind not in self._quiet]
        materials = load_materials(conn, asking, spends=self._terms.spends)
        of_token = {each.token: material for each, material in zip(asking, materials, strict=True)}
        return [Run(each, of_token.get(each.token)) for each in taken]

    @staticmethod
    def _look_at_all(conn: Connection, lanes: Sequence[_Lane], *, waits: bool) -> list[Job | None]:  # noqa: ARG004 - it locks nothing
        return list(jobs.next_heads(conn, lanes))

    def _store_all(self, conn: Connection, outcomes: Sequence[Outcome], *, waits: bool) -> list[bool | _Apart]:
        """Whether each was stored: what is not ours any more changes nothing."""
        locked = sessions.lock_for(conn, [each.head.session_id for each in outcomes], waits=waits)
        there = [each for each in outcomes if each.head.session_id in locked]
        completed = jobs.complete_each(conn, [(each.kept, each.made) for each in there])
        stored = [each for each in there if each.kept.token in completed]
        for each in stored:
            if each.rest.jobs:
                jobs.give_back(conn, each.rest, reason="the answer was cut")
        store_notes(conn, [(each.head, each.notes) for each in stored], self._now_ms())
        spent = [each.spent for each in stored if each.spent is not None]
        spending.add_usage(conn, spent, wall_ms=self._now_ms())
        return [each.kept.token in completed if each.head.session_id in locked else APART for each in outcomes]

    def _add_usage(self, conn: Connection, spent: JobSpent | None) -> None:
        spending.add_usage(conn, [] if spent is None else [spent], wall_ms=self._now_ms())


def _giving_back(taken: Taken, reason: str) -> Callable[[Connection], None]:
    def work(conn: Connection) -> None:
        jobs.lock(conn, taken.head)
        jobs.give_back(conn, taken, reason=reason)

    return work
