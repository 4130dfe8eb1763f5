"""Hooks: what agents tell of their work becomes stored events of the right project; sessions end and go on."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from onlooker.domain.adapters import Adapted, adapt
from onlooker.domain.adapters.shape import (
    NOTIFICATION,
    PRE_COMPACT,
    SESSION_END,
    SESSION_START,
    USER_PROMPT,
    AgentEvent,
)
from onlooker.domain.models import Principal, Recorded, Scope
from onlooker.domain.places import Place, place_of_folder
from onlooker.services.accounts import Accounts
from onlooker.services.catching_up import CatchingUp
from onlooker.services.ingest import MOST_EVENTS, EventInput, Ingest, Ready
from onlooker.storage import sessions, turns
from onlooker.storage.database import Database

UNREMARKABLE = frozenset({SESSION_START, SESSION_END, PRE_COMPACT, NOTIFICATION})
"""Events that say nothing an observation could be made of; they are stored without a job."""

GOES_ON = frozenset({SESSION_START, USER_PROMPT})
"""Events that an ended session can only have because a person took it up again."""

EXCLUDED = "excluded"
LONGEST_PATH = 4_096
PLACE_REMEMBERED_S = 60.0
MOST_PLACES = 1_000

FindPlace = Callable[[str], Place | None]
"""The place of a folder of this machine; None where it is excluded. Reads files."""


class HookPayload(NamedTuple):
    """What one hook told. `at` is when it ran, in epoch milliseconds; `place` where, if its client found that out."""

    platform: str
    payload: object
    at: int
    place: Place | None = None


class HookRecorded(NamedTuple):
    """What became of a hook's payload; `skipped` and `wrong` are codes to count by (`domain.adapters.Adapted`)."""

    recorded: Sequence[Recorded] = ()
    skipped: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()


@dataclass(slots=True)
class _Told:
    """A payload on its way: what it says, and how many of the stored events are its own."""

    adapted: Adapted
    events: int = 0
    scope: Scope | None = None
    transcript: str | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What some hooks told, adapted and ready to be stored (None: none of it is an event)."""

    principal: Principal
    told: Sequence[_Told]
    ready: Ready | None


class Places:
    """The places of folders that clients did not look up themselves, believed for a minute."""

    def __init__(self, find_place: FindPlace) -> None:
        self._find_place = find_place
        self._known: dict[str, tuple[float, Place | None]] = {}

    async def find(self, folder: str | None) -> Place | None:
        """The place of a folder; None where it is excluded."""
        if not folder:
            return place_of_folder(None)
        known = self._known.get(folder)
        if known is None or time.monotonic() >= known[0]:
            while len(self._known) >= MOST_PLACES:
                del self._known[next(iter(self._known))]
            found = await asyncio.to_thread(self._find_place, folder)
            known = self._known[folder] = (time.monotonic() + PLACE_REMEMBERED_S, found)
        return known[1]


class Hooks:
    """The way in for agents; `Ingest` stores what they say."""

    def __init__(
        self,
        database: Database,
        *,
        ingest: Ingest,
        accounts: Accounts,
        places: Places,
        now_ms: Callable[[], int],
        catching_up: CatchingUp | None = None,
    ) -> None:
        self._database = database
        self._ingest = ingest
        self._accounts = accounts
        self._places = places
        self._now_ms = now_ms
        self._catching_up = catching_up

    async def receive(self, principal: Principal, hook: HookPayload) -> HookRecorded:
        """Store what one hook told; told again with the same time, it lands on the same rows.

        Raises as `Ingest.record_many` does.
        """
        return (await self.store(await self.take(principal, [hook])))[0]

    async def take(self, principal: Principal, hooks: Sequence[HookPayload]) -> Taken:
        """Make ready what these hooks told. Raises as `Ingest.make_ready` does."""
        told: list[_Told] = []
        inputs: list[EventInput] = []
        for hook in hooks:
            each = _Told(adapt(hook.payload, hook.platform), transcript=_transcript_of(hook.payload))
            told.append(each)
            events = each.adapted.events[:MOST_EVENTS]
            if not events:
                continue
            each.scope = await self._scope(principal, hook, events)
            if each.scope is None:
                each.adapted = Adapted(skipped=(EXCLUDED,))
                continue
            each.events = len(events)
            inputs += _inputs(hook, each.scope, events)
        return Taken(principal, told, await self._ingest.make_ready(principal, inputs) if inputs else None)

    async def store(self, taken: Taken) -> list[HookRecorded]:
        """Store what was taken, all or none, in its order; an answer for each hook. Raises as `Ingest.store` does."""
        stored = iter([] if taken.ready is None else await self._ingest.store(taken.ready))
        results: list[HookRecorded] = []
        for each in taken.told:
            own = [next(stored) for _ in range(each.events)]
            await self._follow(taken.principal, each.scope, own, each.transcript)
            results.append(HookRecorded(own, each.adapted.skipped, each.adapted.wrong))
        return results

    async def scope_of(self, principal: Principal, hook: HookPayload) -> Scope | None:
        """The project of what a hook tells; None where it tells nothing, or where its folder is excluded."""
        events = adapt(hook.payload, hook.platform).events
        return await self._scope(principal, hook, events) if events else None

    async def _scope(self, principal: Principal, hook: HookPayload, events: Sequence[AgentEvent]) -> Scope | None:
        """The project of what a hook told; None where its folder is excluded."""
        place = hook.place
        if place is None:
            place = await self._places.find(next((event.cwd for event in events if event.cwd), None))
        if place is None:
            return None
        return await self._accounts.project_at(principal, place, events[0].content_session_id)

    async def _follow(
        self, principal: Principal, scope: Scope | None, recorded: Sequence[Recorded], transcript: str | None
    ) -> None:
        """Note where the session is written down, end the one that said its end, and reopen the one that goes on."""
        for each in recorded:
            event = each.event
            if scope is None or event.session_id is None:
                continue
            if transcript is not None and self._catching_up is not None:
                await self._catching_up.note(principal, scope, event.session_id, event.source_adapter, transcript)
            if event.event_type == SESSION_END and self._catching_up is not None:
                await self._catching_up.end(principal, scope, event.session_id)
            elif event.event_type == SESSION_END:
                await self._ingest.end_session(principal, scope, event.session_id)
            elif event.event_type in GOES_ON and not each.duplicate and (event.seq or 0) > 1:
                await self._go_on(scope, event.session_id)

    async def _go_on(self, scope: Scope, session_id: str) -> None:
        if self._catching_up is not None:
            await self._catching_up.go_on(scope, session_id)
        session = await self._database.read(lambda conn: sessions.get(conn, scope, session_id))
        if session.ended_at is not None:
            now = self._now_ms()
            await self._database.tx(lambda conn: turns.reopen_session(conn, scope, session_id, now))


def _transcript_of(payload: object) -> str | None:
    """The file that the agent says it writes this session to."""
    path = payload.get("transcript_path") if isinstance(payload, Mapping) else None
    return path if isinstance(path, str) and 0 < len(path) <= LONGEST_PATH else None


def _inputs(hook: HookPayload, scope: Scope, events: Sequence[AgentEvent]) -> Iterator[EventInput]:
    for event in events:
        yield EventInput(
            project_id=scope.project_id,
            source_type="hook",
            event_type=event.event_type,
            occurred_at=hook.at if event.occurred_at is None else event.occurred_at,
            payload=event.payload,
            content_session_id=event.content_session_id,
            platform_source=hook.platform,
            agent_id=event.agent_id,
            agent_type=event.agent_type,
            origin="hook",
            observe=event.event_type not in UNREMARKABLE and event.phase != "pre",
        )
