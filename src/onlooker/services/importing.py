"""Importing: transcripts that agents wrote become stored events, as if their hooks had sent them.

A tool use has the same key from a hook and from a transcript, and everything else has one that comes from its line, so
that importing again, or after hooks, changes nothing.
"""

import asyncio
import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from onlooker.domain.adapters.shape import TOOL_USE
from onlooker.domain.errors import Unavailable
from onlooker.domain.keys import digest
from onlooker.domain.models import Principal, Project, Recorded, Scope
from onlooker.domain.rollouts import RolloutReader, is_rollout
from onlooker.domain.transcripts import TranscriptEvent, TranscriptReader
from onlooker.services.accounts import DEFAULT_PROJECT, Accounts
from onlooker.services.hooks import Places
from onlooker.services.ingest import MOST_EVENTS, EventInput, Ingest
from onlooker.storage import imports
from onlooker.storage.database import Database
from onlooker.storage.imports import ImportOffset

SUFFIX = ".jsonl"
CHUNK_BYTES = 256 * 1024
BATCH_BYTES = 4 * 1024 * 1024
"""Read of a file before what it held is stored: the memory that an import takes does not grow with the file."""

FINGERPRINT_BYTES = 4096
SETTLED_AFTER_MS = 600_000
"""Where neither the file nor what happened last in it is older, the session may go on: its open turn is left open."""

PATIENCE_S = 60.0
"""How long one batch may find the database busy before the import gives up; it can be resumed."""


@dataclass(slots=True)
class Imported:
    """What came of a file, or of several. `skipped` counts by reason what is no event, `rejected` what is no JSON.

    `excluded` counts events of folders that are excluded.
    """

    files: int = 0
    bytes_read: int = 0
    stored: int = 0
    known: int = 0
    rejected: int = 0
    excluded: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Imported") -> None:
        """Count another file's in."""
        self.files += other.files
        self.bytes_read += other.bytes_read
        self.stored += other.stored
        self.known += other.known
        self.rejected += other.rejected
        self.excluded += other.excluded
        self.skipped.update(other.skipped)


class Importing:
    """Reads files in this process and stores through `Ingest`."""

    def __init__(
        self,
        database: Database,
        *,
        ingest: Ingest,
        accounts: Accounts,
        places: Places,
        now_ms: Callable[[], int],
    ) -> None:
        self._database = database
        self._ingest = ingest
        self._accounts = accounts
        self._places = places
        self._now_ms = now_ms
        self._left_open: dict[str, _LeftOpen] = {}

    async def import_transcript(
        self,
        principal: Principal,
        path: Path,
        *,
        project: Project | None = None,
        generate: bool = True,
        is_over: bool = False,
        on_read: Callable[[int], None] = lambda _bytes: None,
    ) -> Imported:
        """Import what is new in a transcript, into the project, else into those that its folders are.

        A file that lately changed may go on: its last turn is left open, unless its session `is_over`. Where the file
        was cut or replaced meanwhile, that turn is stored by the next call of the same object. `on_read` is told of
        bytes as they are dealt with, those of an earlier import included. Cut off anywhere, the next call goes on from
        what was stored. Raises `InvalidInput` for a file that is no transcript, `OSError`, `Unavailable` when
        the database is busy for a minute, and what `Ingest.record_many` does.
        """
        scope, path_hash = await self._place(principal, path, project)
        known = await self._database.read(lambda conn: imports.get_offset(conn, scope, path_hash))
        count = Imported(files=1)
        with await asyncio.to_thread(_Reading, path, known) as reading:
            on_read(reading.begun_at)
            left_open = self._left_open.get(path_hash)
            batches = reading.batches(self._now_ms(), is_over=is_over, left_open=left_open)
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                found = [
                    await self._input(principal, project, path_hash, batch.platform, each) for each in batch.events
                ]
                inputs = [each for each in found if each is not None]
                count.excluded += len(found) - len(inputs)
                for start in range(0, len(inputs), MOST_EVENTS):
                    await self._store(principal, inputs[start : start + MOST_EVENTS], count, generate=generate)
                if batch.offset is not None:
                    await self._remember(scope, path_hash, batch.offset)
                count.bytes_read += batch.bytes_read
                on_read(batch.bytes_read)
            count.skipped = reading.reader.skipped.copy()
            count.rejected = reading.reader.rejected_count
            if reading.size:  # one that is written anew is empty for a moment
                self._left_open.pop(path_hash, None)
                if now_open := await asyncio.to_thread(reading.left_open):
                    self._left_open[path_hash] = now_open
        return count

    async def is_behind(self, principal: Principal, path: Path, size: int, *, project: Project | None = None) -> bool:
        """Whether a transcript of this size was imported before and not to its end."""
        scope, path_hash = await self._place(principal, path, project)
        known = await self._database.read(lambda conn: imports.get_offset(conn, scope, path_hash))
        return known is not None and known.byte_offset < size

    async def catch_up(self, principal: Principal, path: Path, *, is_over: bool) -> int:
        """Import what is new in a transcript of a session whose hooks are known; how many events that were.

        Raises as `import_transcript` does.
        """
        return (await self.import_transcript(principal, path, is_over=is_over)).stored

    async def _place(self, principal: Principal, path: Path, project: Project | None) -> tuple[Scope, str]:
        """Where the file's offset is kept: one for each project that was asked for, and one for its folders' own."""
        name = str(await asyncio.to_thread(path.resolve))
        if project is not None:
            return Scope(project.team_id, project.id), digest("transcript", name, project.id)
        if principal.project_id is not None:
            return Scope(principal.team_id, principal.project_id), digest("transcript", name)
        default = await self._accounts.find_project(principal, DEFAULT_PROJECT)
        return Scope(default.team_id, default.id), digest("transcript", name)

    async def _input(
        self, principal: Principal, project: Project | None, path_hash: str, platform: str, found: "_Found"
    ) -> EventInput | None:
        """The event as `Ingest` takes it, named by its line where nothing else names it; None in an excluded folder."""
        event, line_id = found.read.event, found.read.line_id
        project_id = None if project is None else project.id
        if project_id is None:
            place = await self._places.find(found.cwd)
            if place is None:
                return None
            project_id = (await self._accounts.project_at(principal, place, event.content_session_id)).project_id
        keyed_by_use = event.event_type == TOOL_USE and event.tool_use_id and event.content_session_id
        line = (line_id,) if line_id else (path_hash, found.read.offset)
        return EventInput(
            project_id=project_id,
            source_type="hook",
            event_type=event.event_type,
            occurred_at=found.occurred_at,
            payload=event.payload,
            content_session_id=event.content_session_id,
            source_event_id=None if keyed_by_use else digest("transcript", event.event_type, *line),
            platform_source=platform,
            agent_id=event.agent_id,
            agent_type=event.agent_type,
            origin="transcript",
        )

    async def _store(
        self, principal: Principal, events: Sequence[EventInput], count: Imported, *, generate: bool
    ) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        recorded: list[Recorded] = []
        while not recorded:
            try:
                recorded = await self._ingest.record_many(principal, events, generate=generate)
            except Unavailable as error:
                if time.monotonic() >= give_up_at:
                    raise
                await asyncio.sleep(error.retry_after_s)
        known = sum(each.duplicate for each in recorded)
        count.known += known
        count.stored += len(recorded) - known

    async def _remember(self, scope: Scope, path_hash: str, offset: ImportOffset) -> None:
        now = self._now_ms()
        await self._database.tx(lambda conn: imports.set_offset(conn, scope, path_hash, offset, now))


def find_transcripts(paths: Iterable[Path]) -> list[Path]:
    """The files, and those in the folders that may be transcripts; a session's own before those of its subagents.

    Folders that go away meanwhile, or cannot be read, are passed over.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
            inside = [each for each in inside if each.suffix == SUFFIX and each.is_file()]
            found |= dict.fromkeys(sorted(inside, key=lambda each: (each.with_suffix("").parts, each.name)))
        else:
            found[path] = None
    return list(found)


@dataclass(frozen=True, slots=True)
class _Found:
    """An event of a file, with the folder and the time of those before it where it has none of its own."""

    read: TranscriptEvent
    cwd: str | None
    occurred_at: int


@dataclass(frozen=True, slots=True)
class _LeftOpen:
    """What a file would have told had it ended where it was read to, `size` bytes from its beginning."""

    events: list[_Found]
    size: int
    platform: str


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some of a file's events, and how far the file is imported when they are stored; None: no further than before."""

    events: list[_Found]
    platform: str
    offset: ImportOffset | None = None
    bytes_read: int = 0


class _Reading:
    """A transcript while it is read, from where the last import stopped if it still is the same file. Blocks."""

    def __init__(self, path: Path, known: ImportOffset | None) -> None:
        self._file = path.open("rb")
        self._head = self._file.read(FINGERPRINT_BYTES)
        status = os.fstat(self._file.fileno())
        self._changed_at = int(status.st_mtime * 1000)
        self.size = status.st_size
        is_same = known is not None and self.size >= known.byte_offset and self._is_of_this_file(known.fingerprint)
        self.begun_at = known.byte_offset if known is not None and is_same else 0
        self._is_same = is_same
        self._is_finished = False
        self.platform = "codex" if is_rollout(self._head) else "claude-code"
        self.reader: TranscriptReader | RolloutReader
        if self.platform == "codex":
            self._file.seek(0)
            self.reader = RolloutReader(self.begun_at, self._file.readline() if self.begun_at else b"")
        else:
            self.reader = TranscriptReader(self.begun_at)
        self._file.seek(self.begun_at)
        self._cwd: str | None = None
        self._occurred_at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._file.close()

    def batches(self, now: int, *, is_over: bool = False, left_open: _LeftOpen | None = None) -> Iterator[_Batch]:
        """The rest of the file. An open last turn is closed unless the session may go on at this time.

        What an earlier import left open comes first where the file does not have it any more.
        """
        if left_open is not None and self.size and not (self._is_same and self.size >= left_open.size):
            yield _Batch(left_open.events, left_open.platform)
        events: list[_Found] = []
        bytes_read = 0
        while chunk := self._file.read(CHUNK_BYTES):
            events += map(self._placed, self.reader.feed(chunk))
            bytes_read += len(chunk)
            if len(events) >= MOST_EVENTS or bytes_read >= BATCH_BYTES:
                yield _Batch(events, self.platform, self._offset(), bytes_read)
                events, bytes_read = [], 0
        self._is_finished = (
            is_over or now - min(self._changed_at, self.reader.last_at or self._changed_at) >= SETTLED_AFTER_MS
        )
        if self._is_finished:
            events += map(self._placed, self.reader.finish())
        if events or bytes_read:
            yield _Batch(events, self.platform, self._offset(), bytes_read)

    def left_open(self) -> _LeftOpen | None:
        """What is open at the end of the file, to be asked when `batches` is used up; None for nothing."""
        events = [] if self._is_finished else list(map(self._placed, self.reader.finish()))
        return _LeftOpen(events, self._file.tell(), self.platform) if events else None

    def _placed(self, read: TranscriptEvent) -> _Found:
        self._cwd = read.event.cwd or self._cwd
        self._occurred_at = read.event.occurred_at or self._occurred_at
        return _Found(read, self._cwd, self._occurred_at)

    def _offset(self) -> ImportOffset:
        length = min(self.reader.offset, len(self._head))
        return ImportOffset(f"{length}:{hashlib.sha256(self._head[:length]).hexdigest()}", self.reader.offset)

    def _is_of_this_file(self, fingerprint: str) -> bool:
        length, _, hashed = fingerprint.partition(":")
        return length.isdecimal() and hashlib.sha256(self._head[: int(length)]).hexdigest() == hashed
