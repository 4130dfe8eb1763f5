"""Importing from claude-mem: its sessions, prompts, notes and summaries become ours, with their dates."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from onlooker.domain import keys
from onlooker.domain.claude_mem import Row, note_in, summary_in, text_in, time_in
from onlooker.domain.errors import InvalidInput
from onlooker.domain.models import Draft, NewObservation, NewSession, Principal, Project, Scope
from onlooker.services.accounts import LONGEST_NAME, Accounts
from onlooker.services.ingest import EventInput, Ingest
from onlooker.services.noting import scrubbed
from onlooker.storage import claude_mem, forgetting, observations, sessions
from onlooker.storage.claude_mem import ClaudeMemDatabase
from onlooker.storage.database import Connection, Database

PLATFORM = "claude-code"
UNNAMED = "claude-mem"
"""The project of rows that name none."""

USER_PROMPT = "user_prompt"


@dataclass(slots=True)
class FromClaudeMem:
    """What came of an import; `known` is what an earlier one brought, `skipped` counts by reason."""

    sessions: int = 0
    prompts: int = 0
    observations: int = 0
    summaries: int = 0
    known: int = 0
    skipped: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class _Session:
    """A session as both of its names lead to it."""

    content_id: str
    project: str
    started_at: int
    title: str


@dataclass(frozen=True, slots=True)
class _Note:
    """A note on its way, with its row."""

    row: Row
    draft: Draft
    occurred_at: int


class ClaudeMemImport:
    """One import. Read in pages, so that memory stays flat but for the list of sessions."""

    def __init__(
        self,
        database: Database,
        *,
        ingest: Ingest,
        accounts: Accounts,
        new_id: Callable[[], str],
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._ingest = ingest
        self._accounts = accounts
        self._new_id = new_id
        self._now_ms = now_ms

    async def run(
        self,
        principal: Principal,
        path: Path,
        *,
        project: Project | None = None,
        on_rows: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> FromClaudeMem:
        """Import a database into a project, else into those that its rows name.

        Again, or after it was cut off: only what is new. Raises `InvalidInput` for a file that cannot be read.
        """
        done = FromClaudeMem()
        scopes = _Scopes(self._accounts, principal, project)
        with ClaudeMemDatabase(path) as foreign:
            total = sum(foreign.count(table) for table in claude_mem.READ)
            seen = 0
            known: dict[str, _Session] = {}
            for table in claude_mem.READ:
                pages = foreign.pages(table)
                while page := await asyncio.to_thread(next, pages, None):
                    await self._store(table, page, known, scopes, principal, done)
                    seen += len(page)
                    on_rows(seen, total)
            done.skipped.update(foreign.unread())
        return done

    async def _store(
        self,
        table: str,
        page: Sequence[Row],
        known: dict[str, _Session],
        scopes: "_Scopes",
        principal: Principal,
        done: FromClaudeMem,
    ) -> None:
        if table in claude_mem.SESSIONS:
            await self._store_sessions(page, known, scopes, done)
        elif table in claude_mem.PROMPTS:
            await self._store_prompts(page, known, scopes, principal, done)
        else:
            read = note_in if table in claude_mem.NOTES else summary_in
            notes = [_Note(row, draft, at) for row in page if (draft := read(row)) and (at := time_in(row))]
            done.skipped["empty or without a date"] += len(page) - len(notes)
            await self._store_notes(notes, known, scopes, done, is_summary=read is summary_in)

    async def _store_sessions(
        self, page: Sequence[Row], known: dict[str, _Session], scopes: "_Scopes", done: FromClaudeMem
    ) -> None:
        found = []
        for row in page:
            content_id = text_in(row, "content_session_id", "claude_session_id", "session_id")
            if not content_id:
                done.skipped["sessions without an id"] += 1
                continue
            session = _Session(
                content_id,
                text_in(row, "project"),
                time_in(row, "started_at") or time_in(row),
                text_in(row, "custom_title"),
            )
            for name in {content_id, text_in(row, "memory_session_id", "sdk_session_id") or content_id}:
                known[name] = session
            found.append(session)
        done.sessions += len(found)
        groups = await scopes.grouped(found, lambda session: session.project)
        await _together(self._open(scope, group) for scope, group in groups)

    async def _open(self, scope: Scope, found: Sequence[_Session]) -> dict[str, str]:
        """Our ids of these sessions, by content id; those that are not known are opened."""
        named = {
            each.content_id: NewSession(
                id=self._new_id(),
                content_session_id=each.content_id,
                platform_source=PLATFORM,
                started_at=each.started_at or self._now_ms(),
            )
            for each in found
        }
        now = self._now_ms()
        return await self._database.tx(lambda conn: sessions.open_by_content(conn, scope, named, now))

    async def _store_prompts(
        self,
        page: Sequence[Row],
        known: Mapping[str, _Session],
        scopes: "_Scopes",
        principal: Principal,
        done: FromClaudeMem,
    ) -> None:
        sent = []
        for row in page:
            content_id = text_in(row, "content_session_id", "claude_session_id")
            prompt, at = text_in(row, "prompt_text"), time_in(row)
            if not (content_id and prompt and at):
                done.skipped["prompts without a session, a text or a date"] += 1
                continue
            session = known.get(content_id)
            sent.append((session.project if session else "", content_id, row.get("prompt_number"), prompt, at))

        async def store(scope: Scope, group: Sequence[tuple[str, str, object, str, int]]) -> None:
            inputs = [
                EventInput(
                    project_id=scope.project_id,
                    source_type="api",
                    event_type=USER_PROMPT,
                    occurred_at=at,
                    payload={"hook_event_name": "UserPromptSubmit", "prompt": prompt},
                    content_session_id=content_id,
                    source_event_id=f"claude-mem:{content_id}:{number}:{at}",
                    platform_source=PLATFORM,
                )
                for _, content_id, number, prompt, at in group
            ]
            recorded = await self._ingest.record_many(principal, inputs, generate=False)
            fresh = sum(1 for each in recorded if not each.duplicate)
            done.prompts += fresh
            done.known += len(recorded) - fresh

        groups = await scopes.grouped(sent, lambda each: each[0])
        await _together(store(scope, group) for scope, group in groups)

    async def _store_notes(
        self,
        notes: Sequence[_Note],
        known: Mapping[str, _Session],
        scopes: "_Scopes",
        done: FromClaudeMem,
        *,
        is_summary: bool,
    ) -> None:
        def session_of(note: _Note) -> _Session | None:
            return known.get(
                text_in(note.row, "memory_session_id", "sdk_session_id", "content_session_id", "session_id")
            )

        def project_of(note: _Note) -> str:
            session = session_of(note)
            return text_in(note.row, "project") or (session.project if session else "")

        async def store(scope: Scope, group: Sequence[_Note]) -> None:
            opened = await self._open(
                scope, list({s.content_id: s for note in group if (s := session_of(note))}.values())
            )
            new = [self._note(scope, note, session_of(note), opened) for note in group]
            fresh = await self._database.tx(partial(self._insert, scope=scope, new=new))
            done.known += len(new) - fresh
            if is_summary:
                done.summaries += fresh
            else:
                done.observations += fresh

        groups = await scopes.grouped(notes, project_of)
        await _together(store(scope, group) for scope, group in groups)

    def _note(self, scope: Scope, note: _Note, session: _Session | None, opened: Mapping[str, str]) -> NewObservation:
        """The note as it is stored. Its key is made of what it says, so that it is the same from any copy."""
        draft = scrubbed(note.draft)
        told = (draft.kind, draft.title, draft.narrative, *draft.facts)
        content_id = session.content_id if session else ""
        return NewObservation(
            id=self._new_id(),
            draft=draft,
            generation_key=keys.digest("claude-mem", scope.project_id, content_id, note.occurred_at, *told),
            occurred_at=note.occurred_at,
            created_at=self._now_ms(),
            content=draft.content,
            session_id=opened.get(content_id),
            provider="claude-mem",
            model=text_in(note.row, "generated_by_model") or None,
            platform_source=PLATFORM,
        )

    def _insert(self, conn: Connection, scope: Scope, new: Sequence[NewObservation]) -> int:
        """Store what is neither stored nor forgotten; how many were new."""
        gone = forgetting.buried(conn, scope, [note.generation_key for note in new])
        kept = [note for note in new if note.generation_key not in gone]
        ids = {note.id for note in kept}
        stored = observations.store_observations(conn, scope, kept, self._now_ms())
        return len({note.id for note in stored} & ids)


async def _together(works: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Do these at the same time: a page is of many projects, and transactions that wait together share a commit."""
    async with asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(work)


class _Scopes:
    """Which project a row goes to, by the name that it says."""

    def __init__(self, accounts: Accounts, principal: Principal, project: Project | None) -> None:
        self._accounts = accounts
        self._principal = principal
        self._given = None if project is None else Scope(project.team_id, project.id)
        self._by_name: dict[str, Scope] = {}

    async def grouped(self, rows: Sequence[Any], name_of: Callable[[Any], str]) -> list[tuple[Scope, list[Any]]]:
        """The rows by project, each project made where it is new."""
        groups: dict[Scope, list[Any]] = {}
        for row in rows:
            groups.setdefault(await self._scope(name_of(row)), []).append(row)
        return list(groups.items())

    async def _scope(self, name: str) -> Scope:
        if self._given is not None:
            return self._given
        known = self._by_name.get(name)
        if known is None:
            try:
                project, _ = await self._accounts.create_project(self._principal, name[:LONGEST_NAME] or UNNAMED)
            except InvalidInput:
                project, _ = await self._accounts.create_project(self._principal, UNNAMED)
            known = self._by_name[name] = Scope(project.team_id, project.id)
        return known
