"""The spool: what hooks kept while no server took it is stored here, in order, and taken out of the spool after that.

`hooks.client` writes `<home>/spool/events/NAME`, one file a payload, whole or not at all; names sort by the time of the
hook. While a file is there, hooks keep what follows too, so that nothing of a session overtakes what came before. What
cannot be stored is set aside in `spool/rejected` with its reason.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from onlooker.domain.errors import InvalidInput, OnlookerError, Unavailable
from onlooker.domain.models import Principal
from onlooker.domain.payloads import read_json
from onlooker.domain.places import Place
from onlooker.pauses import pause
from onlooker.services.group import LARGEST_GROUP
from onlooker.services.hooks import HookPayload, HookRecorded, Hooks, Taken
from onlooker.telemetry import log, place_of

LOOK_EVERY_S = 0.2
TRY_AGAIN_S = 2.0
BATCH = LARGEST_GROUP
"""Files whose events share a transaction: with half as many the same pages are written a third more often."""
SHARED_BATCH, SHARED_FOR_S = 150, 2.0
"""While others have something stored too, and so long afterwards, batches are smaller: each of them waits for the one
that is written. With 150 the median is some 30 ms, with 1,000 it is 160; a file then takes a third more CPU."""
BATCH_BYTES = 8 * 1024 * 1024
DRAFT_GIVEN_UP_S = 60.0
"""A draft this old belongs to a hook that was killed while it wrote."""
MOST_REJECTED = 1_000
"""Rejected files that are kept; of the ones after them only the reason is."""
REASONS = "reasons.jsonl"
MOST_READ = 65_536
"""Bytes of a file that are asked for at a time; nearly every file has less."""
HEAD_END = b"\r\n\r\n"


@dataclass(slots=True)
class Replayed:
    """What came of the spool: files stored, of which events were known before, and files set aside."""

    stored: int = 0
    known: int = 0
    rejected: int = 0

    def count(self, results: Sequence[HookRecorded]) -> None:
        """Count what was stored."""
        self.stored += len(results)
        self.known += sum(each.duplicate for result in results for each in result.recorded)


class _Kept(NamedTuple):
    """A file of the spool; `hook` is None where it cannot be read, for the reason."""

    name: str
    hook: HookPayload | None
    reason: str = ""


class Spool:
    """The spool of one home. `principal` says as whom its payloads are stored, `requests` counts whatever is stored."""

    def __init__(
        self,
        home: Path,
        hooks: Hooks,
        *,
        principal: Callable[[], Awaitable[Principal]],
        requests: Callable[[], int],
    ) -> None:
        self._folder = home / "spool"
        self._events = f"{self._folder / 'events'}{os.sep}"
        self._hooks = hooks
        self._principal = principal
        self._requests = requests
        self._shared_until = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Store what is there and what comes, until `stop`. A database that is away is waited for."""
        while not stop.is_set():
            wait_s = LOOK_EVERY_S
            try:
                if await asyncio.to_thread(self._is_waited_for):
                    done = await self.replay(stop)
                    log.info("spool replayed", stored=done.stored, known=done.known, rejected=done.rejected)
            except Unavailable as error:
                wait_s = max(TRY_AGAIN_S, error.retry_after_s)
            except (OnlookerError, OSError) as error:
                log.warning("the spool cannot be replayed", error=type(error).__name__, where=place_of(error))
                wait_s = TRY_AGAIN_S
            await pause(stop, wait_s)

    async def replay(self, stop: asyncio.Event | None = None) -> Replayed:
        """Store all that waits, the oldest first, until nothing does. Safe to be cut off anywhere, and to run twice.

        Raises `Unavailable` when the database is away or busy; what was not stored stays in the spool.
        """
        done = Replayed()
        principal = await self._principal()
        while names := await asyncio.to_thread(self._waiting):
            await self._store_all(principal, names, done, stop)
            if stop is not None and stop.is_set():
                return done
        await asyncio.to_thread(self._tidy)
        return done

    async def _store_all(
        self, principal: Principal, names: Sequence[str], done: Replayed, stop: asyncio.Event | None
    ) -> None:
        """Store these files a batch at a time; while one is, the files of the last go and the next is made ready."""
        stored: list[str] = []
        refused: list[_Kept] = []
        batch, place = await asyncio.to_thread(self._read, names, 0)
        taken = await self._take(principal, batch)
        while batch and not (stop is not None and stop.is_set()):
            storing = asyncio.create_task(self._store(principal, batch, taken, done))
            try:
                await asyncio.to_thread(self._take_out, stored, refused)
                following, place = await asyncio.to_thread(self._read, names, place)
                taken = await self._take(principal, following)
            finally:
                # Nothing of it goes on when this has ended.
                refused = await storing
            stored, batch = [kept.name for kept in batch], following
        await asyncio.to_thread(self._take_out, stored, refused)

    async def replay_for(self, team_id: str) -> None:
        """Store all that waits, where the spool is of this team. Raises as `replay` does."""
        if await asyncio.to_thread(self._is_waited_for) and (await self._principal()).team_id == team_id:
            await self.replay()

    async def drop_rejected(self, team_id: str, text: str) -> None:
        """Remove what was set aside and contains this text in whatever case, where the spool is of this team."""
        if await asyncio.to_thread(self._holds_rejected) and (await self._principal()).team_id == team_id:
            await asyncio.to_thread(self._drop_rejected, text)

    async def _take(self, principal: Principal, batch: Sequence[_Kept]) -> Taken | None:
        """Make a batch ready; None where one of it is refused: then each is to be stored by itself."""
        try:
            return await self._hooks.take(principal, [kept.hook for kept in batch if kept.hook is not None])
        except InvalidInput:
            return None

    async def _store(
        self, principal: Principal, batch: Sequence[_Kept], taken: Taken | None, done: Replayed
    ) -> list[_Kept]:
        """Store a batch. Returns what is to be set aside."""
        refused = [kept for kept in batch if kept.hook is None]
        if taken is not None:
            before = self._requests()
            done.count(await self._hooks.store(taken))
            if self._requests() - before > 1:
                self._shared_until = time.monotonic() + SHARED_FOR_S
        else:
            refused += await self._store_each(principal, batch, done)
        done.rejected += len(refused)
        return refused

    async def _store_each(self, principal: Principal, batch: Sequence[_Kept], done: Replayed) -> list[_Kept]:
        refused = []
        for kept in batch:
            if kept.hook is not None:
                try:
                    done.count([await self._hooks.receive(principal, kept.hook)])
                except InvalidInput as error:
                    refused.append(_Kept(kept.name, None, "; ".join([str(error), *error.issues])))
        return refused

    def _is_waited_for(self) -> bool:
        return next(self._entries(), None) is not None or self._dropped() > 0 or bool(self._old_drafts())

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        return _scan(self._folder / "events")

    def _waiting(self) -> list[str]:
        return sorted(entry.name for entry in self._entries())

    def _read(self, names: Sequence[str], start: int) -> tuple[list[_Kept], int]:
        """The files from `start` on that make a batch, and where the next begins."""
        batch: list[_Kept] = []
        size = 0
        most = SHARED_BATCH if time.monotonic() < self._shared_until else BATCH
        while start < len(names) and len(batch) < most and size < BATCH_BYTES:
            name = names[start]
            start += 1
            try:
                data = _read_file(self._events + name)
            except FileNotFoundError:
                continue
            size += len(data)
            batch.append(_read_kept(name, data))
        return batch, start

    def _take_out(self, names: Sequence[str], refused: Sequence[_Kept]) -> None:
        for kept in refused:
            self._set_aside(self._folder / "events" / kept.name, kept.reason)
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(self._events + name)  # noqa: PTH108 - as in `_read_file`

    def _set_aside(self, path: Path, reason: str) -> None:
        rejected = self._folder / "rejected"
        rejected.mkdir(mode=0o700, exist_ok=True)
        if sum(1 for _ in _scan(rejected)) <= MOST_REJECTED:
            path.replace(rejected / path.name.lstrip("."))
        _note(rejected / REASONS, {"file": path.name, "reason": reason, "at": int(time.time() * 1000)})
        log.warning("a kept hook payload was set aside", file=path.name, reason=reason)

    def _holds_rejected(self) -> bool:
        return next(_scan(self._folder / "rejected"), None) is not None

    def _drop_rejected(self, text: str) -> None:
        written = [json.dumps(text, ensure_ascii=ascii_only)[1:-1].lower() for ascii_only in (True, False)]
        for entry in _scan(self._folder / "rejected"):
            if entry.name != REASONS:
                held = _read_file(entry.path).decode("utf-8", "replace").lower()
                if any(each in held for each in (*written, text.lower())):
                    Path(entry.path).unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Nothing waits: the room is free again, drafts of killed hooks are set aside, and what was dropped is told."""
        with suppress(FileNotFoundError):
            os.truncate(self._folder / "blocks", 0)
        for draft in self._old_drafts():
            self._set_aside(draft, "half written: its hook was killed")
        dropped = self._dropped()
        if dropped:
            _note(self._folder / "drops.jsonl", {"dropped": dropped, "at": int(time.time() * 1000)})
            os.truncate(self._folder / "dropped", 0)
            log.warning("hook payloads were dropped: the spool or its disk was full", dropped=dropped)

    def _dropped(self) -> int:
        try:
            return (self._folder / "dropped").stat().st_size
        except FileNotFoundError:
            return 0

    def _old_drafts(self) -> list[Path]:
        given_up = time.time() - DRAFT_GIVEN_UP_S
        drafts = [Path(entry.path) for entry in _scan(self._folder) if entry.name.startswith(".")]
        found = []
        for draft in drafts:
            with suppress(FileNotFoundError):
                if draft.stat().st_mtime < given_up:
                    found.append(draft)
        return found


def make_spool(home: Path) -> None:
    """Make the folder and its counters beforehand: on a full disk a counter can grow, but no file can be made."""
    for folder in (home / "spool", home / "spool" / "events"):
        folder.mkdir(mode=0o700, exist_ok=True)
    for name in ("blocks", "dropped"):
        os.close(os.open(home / "spool" / name, os.O_WRONLY | os.O_CREAT, 0o600))


def count_dropped(home: Path) -> int:
    """How many payloads were ever dropped in this home."""
    total = 0
    with suppress(FileNotFoundError):
        total += (home / "spool" / "dropped").stat().st_size
    with suppress(FileNotFoundError):
        for line in (home / "spool" / "drops.jsonl").read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                total += int(json.loads(line)["dropped"])
    return total


def _read_file(path: str) -> bytes:
    """Past pathlib and file objects, which are twice the work that the system has: a replay has 100,000 files."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        parts = [os.read(descriptor, MOST_READ)]
        while len(parts[-1]) == MOST_READ:
            parts.append(os.read(descriptor, MOST_READ))
    finally:
        os.close(descriptor)
    return b"".join(parts)


def _scan(folder: Path) -> Iterator[os.DirEntry[str]]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        yield from entries


def _note(path: Path, what: dict[str, object]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, json.dumps(what, ensure_ascii=False).encode() + b"\n")
    finally:
        os.close(descriptor)


def _read_kept(name: str, data: bytes) -> _Kept:
    """A file as `hooks.client.frame` wrote it."""
    head, found, body = data.partition(HEAD_END)
    told = dict(line.partition(": ")[::2] for line in head.decode("ascii", "replace").split("\r\n"))
    if not found or not told.get("x-onlooker-at", "").isdecimal():
        return _Kept(name, None, "not what a hook writes")
    if told.get("content-length") != str(len(body)):
        return _Kept(name, None, f"half written: {len(body)} of {told.get('content-length')} bytes")
    try:
        payload = read_json(body)
    except InvalidInput as error:
        return _Kept(name, None, str(error))
    named, identity = told.get("x-onlooker-project", ""), told.get("x-onlooker-place", "")
    place = Place(unquote(named), unquote(identity)) if named and identity else None
    platform = unquote(told.get("x-onlooker-agent", "claude-code"))
    return _Kept(name, HookPayload(platform, payload, int(told["x-onlooker-at"]), place))
