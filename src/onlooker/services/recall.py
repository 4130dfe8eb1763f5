"""Recall: what was observed comes back, by search, by id and as context. Notes of a person's own go in here too."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onlooker.domain import keys
from onlooker.domain.models import (
    Draft,
    Event,
    Hit,
    NewObservation,
    Observation,
    ObservationKind,
    Principal,
    Prompt,
    Scope,
    SearchFilter,
    Session,
    Source,
)
from onlooker.domain.payloads import prepare
from onlooker.storage import accounts, events, feedback, observations, purge, search, sessions, timeline
from onlooker.storage.database import Connection, Database
from onlooker.storage.verdicts import Verdict

LONGEST_TITLE = 200
LOCAL_READER = "local"
MOST_PROMPTS = 50
"""Prompts of one timeline."""


@dataclass(frozen=True, slots=True)
class NoteInput:
    """A note that a person or an agent writes itself. `occurred_at` is its date, in epoch milliseconds."""

    text: str
    kind: ObservationKind = ObservationKind.MANUAL
    title: str | None = None
    session_id: str | None = None
    occurred_at: int | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Around:
    """A moment: that of a note, or a time in epoch milliseconds, or of the best hit of a query; else the latest."""

    observation_id: str | None = None
    at: int | None = None
    query: str | None = None


@dataclass(frozen=True, slots=True)
class Timeline:
    """Notes and prompts in order, and the note that they stand around, where it is one."""

    entries: tuple[Observation | Prompt, ...]
    anchor_id: str | None


class Recall:
    """Every method raises `NotFound` for another tenant's id, and `StorageUnavailable`."""

    def __init__(self, database: Database, *, new_id: Callable[[], str], now_ms: Callable[[], int]) -> None:
        self._database = database
        self._new_id = new_id
        self._now_ms = now_ms

    async def search(self, scope: Scope, query: str, wanted: SearchFilter, *, limit: int) -> list[Hit]:
        """The notes that fit the query, best first. A query without a word that could be looked up finds nothing."""

        def work(conn: Connection) -> list[Hit]:
            ranked = search.search(conn, scope, query, wanted, limit=limit)
            scores = dict(ranked)
            found = observations.observations_by_ids(conn, scope, list(scores))
            return [Hit(note, scores[note.id]) for note in found]

        return await self._database.read(work)

    async def context(
        self, scope: Scope, query: str, wanted: SearchFilter, *, limit: int
    ) -> tuple[list[Observation], str]:
        """The notes that fit the query, and the same as one text for a model."""
        notes = [hit.observation for hit in await self.search(scope, query, wanted, limit=limit)]
        return notes, "\n\n---\n\n".join(note.content for note in notes)

    async def timeline(
        self, scope: Scope, around: Around, *, before: int, after: int, session_id: str | None = None
    ) -> Timeline:
        """What happened around a moment: up to `before` notes earlier and `after` later, and the prompts between them.

        Nothing where a query finds nothing, or nothing has happened yet.
        """

        def work(conn: Connection) -> Timeline:
            anchor_id, at = around.observation_id, around.at
            if anchor_id is None and around.query is not None:
                best = search.search(conn, scope, around.query, SearchFilter(), limit=1)
                anchor_id = best[0][0] if best else None
                if anchor_id is None:
                    return Timeline((), None)
            if anchor_id is not None:
                at = observations.get_observation(conn, scope, anchor_id).occurred_at
            elif at is None:
                at = timeline.latest_moment(conn, scope, session_id=session_id)
                if at is None:
                    return Timeline((), None)
            # The anchor is one of those at its moment or later.
            notes = timeline.notes_around(
                conn, scope, at, anchor_id or "", before=before, after=after + 1, session_id=session_id
            )
            since = min([note.occurred_at for note in notes], default=at)
            until = max([note.occurred_at for note in notes], default=at)
            prompts = timeline.prompts_between(conn, scope, since, until, session_id=session_id, limit=MOST_PROMPTS)
            return Timeline(tuple(sorted([*prompts, *notes], key=lambda entry: entry.occurred_at)), anchor_id)

        return await self._database.read(work)

    async def get_many(self, scope: Scope, observation_ids: Sequence[str]) -> list[Observation]:
        """Those of these observations that there are, in the order of the ids."""
        return await self._database.read(lambda conn: observations.observations_by_ids(conn, scope, observation_ids))

    async def add(self, principal: Principal, scope: Scope, note: NoteInput) -> Observation:
        """Store a note of a person's own: stripped of private parts and secrets, never sent to a model."""
        now = self._now_ms()
        text = str(prepare(note.text).value)
        title = str(prepare(note.title).value) if note.title else text.strip().partition("\n")[0]
        draft = Draft(note.kind, title[:LONGEST_TITLE], narrative=text)
        note_id = self._new_id()
        new = NewObservation(
            id=note_id,
            draft=draft,
            generation_key=keys.generation_key(note_id, 0),
            occurred_at=now if note.occurred_at is None else note.occurred_at,
            created_at=now,
            content=draft.content if note.title else text,
            session_id=note.session_id,
            metadata_json=json.dumps(prepare(dict(note.metadata or {})).value, ensure_ascii=False),
        )

        def work(conn: Connection) -> Observation:
            if note.session_id is not None:
                sessions.get(conn, scope, note.session_id)
            (stored,) = observations.store_observations(conn, scope, [new], now)
            accounts.audit(
                conn,
                scope.team_id,
                scope.project_id,
                principal.key_id,
                "observation.added",
                "observation",
                note_id,
                now,
            )
            return stored

        return await self._database.tx(work)

    async def get(self, scope: Scope, observation_id: str) -> Observation:
        """One observation."""
        return await self._database.read(lambda conn: observations.get_observation(conn, scope, observation_id))

    async def recent(self, scope: Scope, *, limit: int) -> list[Observation]:
        """What happened last, latest first."""
        return await self._database.read(lambda conn: observations.recent_observations(conn, scope, limit=limit))

    async def delete(self, principal: Principal, scope: Scope, observation_id: str) -> None:
        """Delete an observation with its search data and its links."""

        def work(conn: Connection) -> None:
            observations.delete_observation(conn, scope, observation_id)
            accounts.audit(
                conn, scope.team_id, scope.project_id, principal.key_id,
                "observation.deleted", "observation", observation_id, self._now_ms(),
            )  # fmt: skip

        await self._database.tx(work)

    async def judge(
        self, principal: Principal, scope: Scope, observation_id: str, verdict: Verdict | None
    ) -> Observation:
        """Note what a reader says of a note, once a key; None drops all that was said, and shows the note again.

        `wrong` hides a note: nothing finds it until somebody has looked and cleared that.
        """
        now = self._now_ms()

        def work(conn: Connection) -> Observation:
            reader = principal.key_id or LOCAL_READER
            accounts.audit(
                conn, scope.team_id, scope.project_id, principal.key_id, "observation.judged", "observation",
                observation_id, now, detail=verdict or "cleared",
            )  # fmt: skip
            if verdict is None:
                return feedback.clear(conn, scope, observation_id)
            return feedback.put(conn, scope, observation_id, reader, verdict, now)

        return await self._database.tx(work)

    async def hidden(self, scope: Scope, *, limit: int) -> list[Observation]:
        """The notes that were called wrong and wait for somebody to look."""
        return await self._database.read(lambda conn: feedback.hidden(conn, scope, limit=limit))

    async def event(self, scope: Scope, event_id: str) -> Event:
        """One event."""
        return await self._database.read(lambda conn: events.get_event(conn, scope, event_id))

    async def of_event(self, scope: Scope, event_id: str) -> Sequence[tuple[Observation, Source]]:
        """The observations made from an event, each with the link that says so."""

        def work(conn: Connection) -> Sequence[tuple[Observation, Source]]:
            events.get_event(conn, scope, event_id)
            return observations.observations_of_event(conn, scope, event_id)

        return await self._database.read(work)

    async def session(self, scope: Scope, session_id: str) -> Session:
        """One session."""
        return await self._database.read(lambda conn: sessions.get(conn, scope, session_id))

    async def purge(self, principal: Principal, scope: Scope) -> dict[str, int]:
        """Delete everything that was observed in a project; how many there were of each."""

        def work(conn: Connection) -> dict[str, int]:
            counts = purge.purge_project(conn, scope)
            accounts.audit(
                conn, scope.team_id, scope.project_id, principal.key_id,
                "project.purged", "project", scope.project_id, self._now_ms(),
            )  # fmt: skip
            return counts

        return await self._database.tx(work)
