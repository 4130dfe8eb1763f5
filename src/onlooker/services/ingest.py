"""Ingest: what agents and clients send becomes stored events with their jobs."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from onlooker.domain import keys
from onlooker.domain.adapters import canonical_event_type, phase_of, tool_use_id_of
from onlooker.domain.adapters.utterances import utterance_of
from onlooker.domain.errors import InvalidInput, NotFound
from onlooker.domain.ids import may_exist
from onlooker.domain.models import Job, NewEvent, NewSession, Principal, Recorded, Scope, Session
from onlooker.domain.payloads import Prepared, clean, prepare
from onlooker.services.accounts import Accounts
from onlooker.services.group import GroupWriter, Join, Publish, no_rings
from onlooker.storage import sessions, turns
from onlooker.storage.database import Database

MOST_EVENTS = 500
"""Events of one request."""

LATEST_TIME = 9_999_999_999_999
"""Milliseconds: the year 2286. Anything later is a unit mistaken for another."""

LONGEST_IDENTIFIER = 512
"""Characters of an id, a type or a name that is sent; Postgres' indexes hold 2,704 bytes."""

LONGEST_TOOL_NAME = 200
MOST_SESSIONS = 10_000
"""Sessions whose ids are remembered."""

SOURCE_TYPES = frozenset({"hook", "worker", "provider", "server", "api"})


class EventInput(NamedTuple):
    """An event as a client sends it, decoded. `payload` and `metadata` are JSON values, times epoch milliseconds."""

    project_id: str
    source_type: str
    event_type: str
    occurred_at: int
    payload: Any = None
    server_session_id: str | None = None
    content_session_id: str | None = None
    memory_session_id: str | None = None
    source_event_id: str | None = None
    platform_source: str | None = None
    metadata: Mapping[str, Any] | None = None
    agent_id: str | None = None
    agent_type: str | None = None
    observe: bool = True
    """False: stored without a job, whatever its request asks for."""
    origin: Literal["hook", "transcript"] | None = None
    """Where an agent's event comes from; prompts and turn ends that both tell are then stored once."""


@dataclass(frozen=True, slots=True)
class SessionInput:
    """A session as a client announces it."""

    project_id: str
    content_session_id: str | None = None
    external_session_id: str | None = None
    agent_id: str | None = None
    agent_type: str | None = None
    platform_source: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A session that has ended, and its summary's job; `deferred` as in `Recorded`."""

    session: Session
    job: Job | None
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """Events that `Ingest.make_ready` has checked, keyed and scrubbed, as they came and as they will be stored."""

    events: Sequence[EventInput]
    new: Sequence[NewEvent]


class Ingest:
    """The way in. Entering starts the group writer; leaving stores what was accepted."""

    def __init__(
        self,
        database: Database,
        *,
        accounts: Accounts,
        publish: Publish,
        new_id: Callable[[], str],
        now_ms: Callable[[], int],
        max_attempts: int,
        max_waiting: int,
        join: Join = no_rings,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._publish = publish
        self._new_id = new_id
        self._now_ms = now_ms
        self._max_attempts = max_attempts
        self._writer = GroupWriter(
            database, publish=publish, join=join, max_attempts=max_attempts, max_waiting=max_waiting
        )
        self._sessions = _KnownSessions()

    async def __aenter__(self) -> Self:
        await self._writer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._writer.__aexit__(kind, error, trace)

    @property
    def waiting(self) -> int:
        """Events that are accepted and not yet answered."""
        return self._writer.waiting

    @property
    def requests(self) -> int:
        """How many requests to store something were accepted so far."""
        return self._writer.requests

    async def record(self, principal: Principal, event: EventInput, *, generate: bool = True) -> Recorded:
        """Store one event. Again: the first row, unchanged. Raises as `record_many` does."""
        return (await self.store(await self._make_ready(principal, [event], [generate], batch=None)))[0]

    async def record_many(
        self, principal: Principal, events: Sequence[EventInput], *, generate: bool = True
    ) -> list[Recorded]:
        """Store 1 to 500 events, all or none, in the order given.

        Raises `InvalidInput`, `Forbidden` for a project that the principal does not reach, `NotFound` for a session
        that is not one of the event's project, `Unavailable` when too much is waiting, `StorageUnavailable`.
        """
        if not 1 <= len(events) <= MOST_EVENTS:
            raise InvalidInput(f"a batch has 1 to {MOST_EVENTS} events, not {len(events)}")
        return await self.store(await self.make_ready(principal, events, generate=generate))

    async def make_ready(self, principal: Principal, events: Sequence[EventInput], *, generate: bool = True) -> Ready:
        """What storing these events takes beforehand: for those who have others stored meanwhile. Any number of them.

        Raises as `record_many` does, save for what only storing finds out.
        """
        observed = [generate and event.observe for event in events]
        return await self._make_ready(principal, events, observed, batch=self._new_id())

    async def store(self, ready: Ready) -> list[Recorded]:
        """Store what is ready, all or none, in its order. Raises what only storing finds out; see `record_many`."""
        try:
            recorded = await self._writer.record(ready.new)
        except NotFound:
            # A session that was remembered may have been removed meanwhile; its own name opens it again.
            if not self._sessions.forget(ready.new):
                raise
            again = [
                each._replace(session_id=event.server_session_id)
                for each, event in zip(ready.new, ready.events, strict=True)
            ]
            recorded = await self._writer.record(again)
        self._sessions.learn(recorded)
        return recorded

    async def start_session(self, principal: Principal, new: SessionInput) -> tuple[Session, bool]:
        """Open a session, or find the one that either of its names is known by; True when it is new.

        Raises `InvalidInput` and `Forbidden`.
        """
        scope = await self._accounts.resolve_project(principal, new.project_id)
        now = self._now_ms()
        names = _checked_names(
            contentSessionId=new.content_session_id,
            externalSessionId=new.external_session_id,
            agentId=new.agent_id,
            agentType=new.agent_type,
            platformSource=new.platform_source,
        )
        wanted = NewSession(
            id=self._new_id(),
            content_session_id=names["contentSessionId"],
            external_session_id=names["externalSessionId"],
            agent_id=names["agentId"],
            agent_type=names["agentType"],
            platform_source=names["platformSource"],
            metadata_json=_metadata_json(new.metadata, frozenset()),
            started_at=now,
        )
        return await self._database.tx(lambda conn: sessions.open_session(conn, scope, wanted, now))

    async def end_session(self, principal: Principal, scope: Scope, session_id: str, *, generate: bool = True) -> Ended:
        """End a session and queue its summary behind all its events; again: the same answer. Raises `NotFound`."""
        now = self._now_ms()
        session, job, is_new = await self._database.tx(
            lambda conn: turns.end_session(
                conn,
                scope,
                session_id,
                ended_at=now,
                max_attempts=self._max_attempts,
                generate=generate,
                api_key_id=principal.key_id,
            )
        )
        deferred = job is not None and is_new and not await self._publish([job])
        return Ended(session, job, deferred)

    async def _make_ready(
        self, principal: Principal, events: Sequence[EventInput], generate: Sequence[bool], *, batch: str | None
    ) -> Ready:
        named = dict.fromkeys(event.project_id for event in events)
        scopes = {project_id: await self._accounts.resolve_project(principal, project_id) for project_id in named}
        for event in events:
            if event.server_session_id is not None:
                await self._require_session(scopes[event.project_id], event.server_session_id)
        new = [
            self._new_event(principal, scopes[event.project_id], event, generate=wanted, batch=batch)
            for event, wanted in zip(events, generate, strict=True)
        ]
        return Ready(events, new)

    async def _require_session(self, scope: Scope, session_id: str) -> None:
        if not self._sessions.knows(scope, session_id):
            if not may_exist(session_id):
                raise NotFound("no such session")
            session = await self._database.read(lambda conn: sessions.get(conn, scope, session_id))
            self._sessions.add(scope, session_id, session.content_session_id)

    def _new_event(
        self, principal: Principal, scope: Scope, event: EventInput, *, generate: bool, batch: str | None
    ) -> NewEvent:
        """The event checked, keyed by what it was, and scrubbed; in this order. Raises `InvalidInput`."""
        if event.source_type not in SOURCE_TYPES:
            raise InvalidInput("an event of an unknown source", [f"sourceType: not one of {sorted(SOURCE_TYPES)}"])
        if not 0 <= event.occurred_at <= LATEST_TIME:
            raise InvalidInput(
                "an event of no possible time", [f"occurredAtEpoch: not between 0 and {LATEST_TIME} milliseconds"]
            )
        names = _checked_names(
            eventType=event.event_type,
            contentSessionId=event.content_session_id,
            memorySessionId=event.memory_session_id,
            sourceEventId=event.source_event_id,
            platformSource=event.platform_source,
            agentId=event.agent_id,
            agentType=event.agent_type,
        )
        given_type, content_session_id = names["eventType"], names["contentSessionId"]
        if given_type is None:
            raise InvalidInput("an event of no type", ["eventType: missing"])
        prepared = prepare({} if event.payload is None else event.payload)
        session_id = event.server_session_id
        if session_id is None and content_session_id is not None:
            session_id = self._sessions.find(scope, content_session_id)
        elif session_id is not None and content_session_id is None:
            content_session_id = self._sessions.content_id(scope, session_id)
        adapter = names["platformSource"] or event.source_type
        canonical_type = canonical_event_type(given_type)
        stored = prepared.value
        tool_name = stored.get("tool_name") if isinstance(stored, Mapping) else None
        return NewEvent(
            id=self._new_id(),
            scope=scope,
            event_key=_event_key(
                scope,
                event,
                prepared,
                event_type=given_type,
                source_event_id=names["sourceEventId"],
                session=content_session_id or session_id,
                adapter=adapter,
            ),
            source_type=event.source_type,
            source_adapter=adapter,
            event_type=canonical_type,
            payload_json=_payload_json(event.payload, prepared),
            occurred_at=event.occurred_at,
            received_at=self._now_ms(),
            session_id=session_id,
            content_session_id=content_session_id,
            memory_session_id=names["memorySessionId"],
            source_event_id=names["sourceEventId"],
            platform_source=names["platformSource"],
            agent_id=names["agentId"],
            agent_type=names["agentType"],
            api_key_id=principal.key_id,
            metadata_json=_metadata_json(event.metadata, prepared.flags),
            generate=generate,
            tool_name=tool_name[:LONGEST_TOOL_NAME] if isinstance(tool_name, str) else None,
            batch=batch,
            utterance=None if event.origin is None else utterance_of(event.origin, canonical_type, stored),
        )


class _KnownSessions:
    """Sessions that are stored, by both their names; filled after commits only."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str], str] = {}
        self._content_ids: dict[tuple[str, str], str | None] = {}

    def find(self, scope: Scope, content_session_id: str) -> str | None:
        return self._ids.get((scope.project_id, content_session_id))

    def knows(self, scope: Scope, session_id: str) -> bool:
        return (scope.project_id, session_id) in self._content_ids

    def content_id(self, scope: Scope, session_id: str) -> str | None:
        return self._content_ids.get((scope.project_id, session_id))

    def add(self, scope: Scope, session_id: str, content_session_id: str | None) -> None:
        _make_room(self._content_ids)
        self._content_ids[scope.project_id, session_id] = content_session_id
        if content_session_id is not None:
            _make_room(self._ids)
            self._ids[scope.project_id, content_session_id] = session_id

    def learn(self, recorded: Sequence[Recorded]) -> None:
        for event in {each.event.session_id: each.event for each in recorded}.values():
            if event.session_id is None or event.content_session_id is None:
                continue
            if (event.project_id, event.content_session_id) not in self._ids:
                self.add(Scope(event.team_id, event.project_id), event.session_id, event.content_session_id)

    def forget(self, events: Sequence[NewEvent]) -> bool:
        """Forget the sessions of these events; whether any was remembered by its content id."""
        forgotten = False
        for event in events:
            self._content_ids.pop((event.scope.project_id, event.session_id or ""), None)
            if event.content_session_id is not None:
                known = self._ids.pop((event.scope.project_id, event.content_session_id), None)
                forgotten = forgotten or known is not None
        return forgotten


def _make_room(known: dict[tuple[str, str], Any]) -> None:
    while len(known) >= MOST_SESSIONS:
        del known[next(iter(known))]


def _event_key(
    scope: Scope,
    event: EventInput,
    prepared: Prepared,
    *,
    event_type: str,
    source_event_id: str | None,
    session: str | None,
    adapter: str,
) -> str:
    """What makes a second sending of the event the same event; see `wire.md`, events."""
    owner = scope.team_id, scope.project_id
    if source_event_id is not None:
        return keys.event_key_by_source(*owner, source_event_id)
    if session is not None and isinstance(event.payload, Mapping):
        phase, tool_use_id = phase_of(event_type, event.payload), tool_use_id_of(event.payload)
        if phase is not None and tool_use_id is not None:
            return keys.event_key_by_tool_use(*owner, session, _storable(tool_use_id), phase)
    content = prepared.canonical
    return keys.event_key_by_content(*owner, adapter, session, event_type, event.occurred_at, content)


def _payload_json(payload: Any, prepared: Prepared) -> str:
    """The payload as it is stored; where nothing was changed, its canonical JSON is there already."""
    if prepared.value is payload or payload is None:
        return prepared.canonical.decode()
    return _encode(prepared.value)


def _metadata_json(metadata: Mapping[str, Any] | None, flags: frozenset[str]) -> str:
    """Metadata scrubbed as payloads are; `flags` says what had to be changed in the payload to store it."""
    if not metadata and not flags:
        return "{}"
    prepared = prepare(dict(metadata or {}))
    flags |= prepared.flags
    return _encode({**prepared.value, "flags": sorted(flags)} if flags else prepared.value)


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode


def _checked_names(**given: str | None) -> dict[str, str | None]:
    """Ids, types and names as they are stored; an empty one is none. Raises `InvalidInput` for one that is too long."""
    names: dict[str, str | None] = {}
    for name, value in given.items():
        if not value:
            names[name] = None
        elif len(value) > LONGEST_IDENTIFIER:
            raise InvalidInput("a name is too long", [f"{name}: longer than {LONGEST_IDENTIFIER} characters"])
        else:
            names[name] = _storable(value)
    return names


def _storable(text: str) -> str:
    return text if text.isascii() and "\x00" not in text else str(clean(text).value)
