"""Forget: what a person wants gone leaves every table, the index, the file and its log, and does not come back."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

from onlooker.domain.errors import InvalidInput, NotFound
from onlooker.domain.models import Observation, Principal, Scope
from onlooker.services.outbox import Outbox
from onlooker.services.spool import Spool
from onlooker.storage import accounts, forgetting, jobs, observations, search, sessions
from onlooker.storage.database import Connection, Database
from onlooker.storage.forgetting import NOTHING, Gone, Page, Selection

PAGE, LEAST_PAGE = 200, 20
"""Notes and events of one transaction."""

LONGEST_TX_S = 0.05
"""For how long others shall wait for a page. Where each row takes long, as one whose job is to be cancelled does, the
next page is smaller."""

SHOWN = 20
SHORTEST_TEXT = 3


@dataclass(frozen=True, slots=True)
class Preview:
    """What a selection would remove: counts, and the first notes of it."""

    observations: int
    events: int
    examples: tuple[Observation, ...]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was removed, and how many jobs were cancelled for it."""

    observations: int = 0
    events: int = 0
    jobs: int = 0


class Forget:
    """Every method raises `NotFound` for another tenant's id, and `StorageUnavailable`."""

    def __init__(self, database: Database, outbox: Outbox, spool: Spool, *, now_ms: Callable[[], int]) -> None:
        self._database = database
        self._outbox = outbox
        self._spool = spool
        self._now_ms = now_ms

    async def preview(self, scope: Scope, wanted: Selection) -> Preview:
        """What `forget` would remove. Removes nothing. Raises `InvalidInput` for a selection that is too wide."""
        check(wanted)
        await self._spool.replay_for(scope.team_id)

        def work(conn: Connection) -> Preview:
            _require(conn, scope, wanted)
            notes, events = forgetting.count(conn, scope, wanted)
            page = forgetting.find(conn, scope, wanted, limit=SHOWN)
            examples = observations.observations_by_ids(conn, scope, page.observation_ids)
            return Preview(notes, events, tuple(examples))

        return await self._database.read(work)

    async def forget(
        self,
        principal: Principal,
        scope: Scope,
        wanted: Selection,
        *,
        on_progress: Callable[[Forgotten], None] | None = None,
    ) -> Forgotten:
        """Remove what is selected, page by page, then write the database's file anew so that no byte of it is left.

        Cut off in the middle, what went is gone, and a second call goes on. On Postgres the pages of the tables and
        its log are the server's own to clean: see `docs/forget.md`.
        """
        check(wanted)
        await self._empty_spool(scope, wanted)
        await self._database.read(lambda conn: _require(conn, scope, wanted))
        done = Forgotten()
        async for gone in self._pages(scope, wanted, principal.key_id):
            done = Forgotten(
                done.observations + gone.observations, done.events + gone.events, done.jobs + len(gone.cancelled)
            )
            if on_progress is not None:
                on_progress(done)
        if wanted.text is not None:
            named = await self._database.read(partial(forgetting.find_named, scope=scope, text=wanted.text))
            await self._database.tx(lambda conn: forgetting.remove_named(conn, scope, named))
        await self._scrub()
        return done

    async def remove(self, scope: Scope, wanted: Selection, *, pause_s: float) -> int:
        """Remove what is selected with a pause after each page, and leave the file as it is; how many rows went."""
        removed = 0
        async for gone in self._pages(scope, wanted, None):
            removed += gone.observations + gone.events
            await asyncio.sleep(pause_s)
        return removed

    async def _pages(self, scope: Scope, wanted: Selection, key_id: str | None) -> AsyncIterator[Gone]:
        """Page by page, from the first id to the last: then again, for what came meanwhile, until none is left."""
        limit, page, is_done = PAGE, NOTHING, True
        while True:
            page = await self._database.read(
                partial(forgetting.find, scope=scope, wanted=wanted, limit=limit, after=page)
            )
            if not page:
                if is_done:
                    break
                page, is_done = NOTHING, True
                continue
            is_done = False
            gone, took_s = await self._database.tx(partial(self._remove, scope=scope, page=page, key_id=key_id))
            limit = max(LEAST_PAGE, min(PAGE, int(limit * LONGEST_TX_S / max(took_s, 0.001))))
            await self._ring(gone)
            yield gone
        if (session_id := wanted.session_id) is not None:
            await self._database.tx(lambda conn: forgetting.remove_session(conn, scope, session_id))

    async def _empty_spool(self, scope: Scope, wanted: Selection) -> None:
        """What hooks kept is stored first, to go with the rest; what cannot be stored goes by the text in it."""
        await self._spool.replay_for(scope.team_id)
        text = wanted.text
        if wanted.session_id is not None:
            session = await self._database.read(lambda conn: sessions.get(conn, scope, wanted.session_id or ""))
            text = session.content_session_id
        if text:
            await self._spool.drop_rejected(scope.team_id, text)

    async def _scrub(self) -> None:
        """Leave nothing of it in the index, the file or its log."""
        done = await self._database.tx(partial(search.merge, first=True))
        while not done:
            done = await self._database.tx(partial(search.merge, first=False))
        await self._database.scrub()

    def _remove(self, conn: Connection, scope: Scope, page: Page, key_id: str | None) -> tuple[Gone, float]:
        """What went, and how long others waited for it."""
        began = time.monotonic()
        now = self._now_ms()
        gone = forgetting.remove(conn, scope, page, now=now)
        accounts.audit(
            conn, scope.team_id, scope.project_id, key_id, "forgotten", "project", scope.project_id, now,
            detail=f"{gone.observations} observations, {gone.events} events",
        )  # fmt: skip
        return gone, time.monotonic() - began

    async def _ring(self, gone: Gone) -> None:
        """The sessions of cancelled jobs go on with their next."""
        sessions_of = {job.session_id: job.id for job in gone.cancelled if job.session_id is not None}
        for session_id, job_id in sessions_of.items():
            head = await self._database.read(partial(jobs.next_head, session_id=session_id, job_id=job_id))
            if head is not None:
                await self._outbox.publish([head])


def check(wanted: Selection) -> None:
    """Raises `InvalidInput` unless one thing selects, and for a text so short that it would meet almost all."""
    if wanted.chosen_by != 1:
        what = "by more than one thing" if wanted.chosen_by else "by nothing"
        raise InvalidInput(f"selected {what}", ["give ids, or a session, or a text, or an age"])
    if wanted.text is not None and len(wanted.text.strip()) < SHORTEST_TEXT:
        raise InvalidInput("the text is too short", [f"text: {SHORTEST_TEXT} characters at least"])


def _require(conn: Connection, scope: Scope, wanted: Selection) -> None:
    """Raises `NotFound` where an id or the session is not there."""
    if wanted.observation_ids:
        found = observations.observations_by_ids(conn, scope, wanted.observation_ids)
        if len(found) < len(set(wanted.observation_ids)):
            raise NotFound("no such observation")
    if wanted.session_id is not None:
        sessions.get(conn, scope, wanted.session_id)
