"""Catching up: what hooks missed is read from what the agent itself wrote down; then the session ends.

A session ends when its agent says so, or after an idle time. Before that, its transcript is read, where the hooks said
which it is and it is in one of the folders that agents write to: events that are known change nothing.

Only the hooks of this home are believed: they have one of the keys in its files. Whoever else has a key, on a server
that several people share, could name the transcript of another's session and have it read into a project of theirs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

from onlooker.domain.errors import InvalidInput, NotFound, OnlookerError, Unavailable
from onlooker.domain.models import KeyScope, Principal, Scope
from onlooker.pauses import pause
from onlooker.services.ingest import Ingest
from onlooker.storage import session_files
from onlooker.storage.database import Database
from onlooker.storage.session_files import OpenSession
from onlooker.telemetry import log, place_of

LOOK_EVERY_S = 60.0
LAST_LINES_S = 1.0
"""Agents write their last lines while their last hook runs."""
AT_ONCE = 100
ROUNDS = 100
"""What one look ends at most is 100 times as much: a first look after a large import is over some time."""
MOST_WRITTEN = 1_000
MOST_REMEMBERED = 10_000
MINUTE_MS = 60_000
SUFFIX = ".jsonl"


class Importer(Protocol):
    """What reads transcripts (`services.importing`), which a plain start does not load."""

    async def catch_up(self, principal: Principal, path: Path, *, is_over: bool) -> int:
        """Store what is new in a transcript; how much that was."""


OwnKeys = Callable[[], Awaitable[frozenset[str]]]
"""The ids of the keys that stand in this home's files."""


class CatchingUp:
    """One for each server. `folders` are where transcripts may lie; nothing is read from anywhere else."""

    def __init__(
        self,
        database: Database,
        *,
        ingest: Ingest,
        importer: Callable[[], Importer],
        folders: Iterable[Path],
        own_keys: OwnKeys,
        idle_minutes: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._ingest = ingest
        self._importer = importer
        self._folders = [folder.expanduser() for folder in folders]
        self._own_keys = own_keys
        self._idle_ms = idle_minutes * MINUTE_MS
        self._now_ms = now_ms
        self._noted: dict[tuple[str | None, str, str], str] = {}
        self._ended = asyncio.Event()

    async def note(self, principal: Principal, scope: Scope, session_id: str, platform: str, path: str) -> None:
        """Remember where a session is written down, if this home says so and it may be read from; again: nothing."""
        key = principal.key_id, scope.project_id, session_id
        if self._noted.get(key) == path:
            return
        if await self._is_own(principal) and await asyncio.to_thread(self._may_read, path):
            now = self._now_ms()
            await self._database.tx(lambda conn: session_files.note_file(conn, scope, session_id, platform, path, now))
        while len(self._noted) >= MOST_REMEMBERED:
            del self._noted[next(iter(self._noted))]
        self._noted[key] = path

    async def _is_own(self, principal: Principal) -> bool:
        return principal.key_id is None or principal.key_id in await self._own_keys()

    async def end(self, principal: Principal, scope: Scope, session_id: str) -> None:
        """End a session: soon, if it is written down and something may be missing, else now."""
        now = self._now_ms()
        if await self._database.tx(lambda conn: session_files.note_end(conn, scope, session_id, now)):
            self._ended.set()
        else:
            await self._ingest.end_session(principal, scope, session_id)

    async def go_on(self, scope: Scope, session_id: str) -> None:
        """The session is not over: somebody took it up again."""
        if await self._database.read(lambda conn: session_files.is_over(conn, scope, session_id)):
            await self._database.tx(lambda conn: session_files.note_end(conn, scope, session_id, None))

    async def run(self, stop: asyncio.Event) -> None:
        """Read what was written while no server ran, then end what its agent ended or is idle, until `stop`."""
        await self._guarded(self._start)
        while not stop.is_set():
            waiting = {asyncio.create_task(stop.wait()), asyncio.create_task(self._ended.wait())}
            _, late = await asyncio.wait(waiting, timeout=LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
            for task in late:
                task.cancel()
            over = self._ended.is_set()
            self._ended.clear()
            if over:
                await pause(stop, LAST_LINES_S)
            if not stop.is_set():
                await self._guarded(partial(self.end_sessions, over=over))

    async def end_sessions(self, *, over: bool) -> int:
        """End the sessions that are over, and (not `over` alone) the idle ones; how many there were."""
        idle_since = self._now_ms() - self._idle_ms
        find = partial(session_files.open_sessions, idle_since=idle_since, over=over, limit=AT_ONCE)
        ended = 0
        for _ in range(ROUNDS):
            found = await self._database.read(find)
            for session in found:
                await self._read(session)
                await self._end(session)
            ended += len(found)
            if len(found) < AT_ONCE:
                break
        return ended

    async def _start(self) -> None:
        written = await self._database.read(lambda conn: session_files.written_sessions(conn, limit=MOST_WRITTEN))
        for session in written:
            await self._read(session)
        await self.end_sessions(over=True)

    async def _end(self, session: OpenSession) -> None:
        scope, session_id = session.scope, session.session_id
        wanted = await self._database.read(lambda conn: session_files.is_observed(conn, scope, session_id))
        with suppress(NotFound):
            await self._ingest.end_session(_as(scope), scope, session_id, generate=wanted)

    async def _read(self, session: OpenSession) -> None:
        """Read a session's transcript and those of its subagents; what cannot be read is told and left."""
        if session.path is None or not self._may_read(session.path):
            return
        for path in await asyncio.to_thread(_files_of, Path(session.path)):
            try:
                stored = await self._importer().catch_up(_as(session.scope), path, is_over=session.is_over)
                if stored:
                    log.info("read what hooks had missed", session=session.session_id, events=stored)
            except (InvalidInput, NotFound, OSError) as error:
                log.warning("a transcript was not read", file=path.name, error=type(error).__name__)

    def _may_read(self, path: str) -> bool:
        resolved = Path(path).expanduser().resolve()
        return resolved.suffix == SUFFIX and any(resolved.is_relative_to(each.resolve()) for each in self._folders)

    async def _guarded(self, work: Callable[[], Awaitable[object]]) -> None:
        """A database that is away is asked again the next time; a session that is broken stops no other server part."""
        try:
            await work()
        except Unavailable:
            return
        except (OnlookerError, OSError) as error:
            log.warning("sessions could not be looked after", error=type(error).__name__, where=place_of(error))


def _files_of(path: Path) -> Sequence[Path]:
    """A session's transcript, and those of its subagents, which newer clients write beside it."""
    beside = path.with_suffix("") / "subagents"
    return [each for each in (path, *sorted(beside.glob(f"*{SUFFIX}"))) if each.is_file()]


def _as(scope: Scope) -> Principal:
    return Principal(scope.team_id, scope.project_id, None, frozenset({KeyScope.WRITE}))
