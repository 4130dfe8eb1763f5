"""Recall: what was observed comes back, by search, by id and as context. Notes of a person's own go in here too."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onlooker.domain import keys
from onlooker.domain.errors import ProviderError
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
    SearchOrder,
    Session,
    Source,
)
from onlooker.domain.payloads import prepare
from onlooker.providers.embedders.contract import Embedder
from onlooker.storage import accounts, events, feedback, forgetting, observations, purge, search, sessions, timeline
from onlooker.storage.database import Connection, Database
from onlooker.storage.search import Meaning
from onlooker.storage.vector_index import VectorIndex
from onlooker.storage.verdicts import Verdict
from onlooker.telemetry import log

LONGEST_TITLE = 200
LOCAL_READER = "local"
MOST_BY_TIME = 100
"""Of what fits, so many are put in the order of time."""

WORDS_ALONE_S = 15.0
"""How long an embedder that failed is not asked: each question would wait for it in vain."""

MOST_PROMPTS = 50
"""Prompts of one timeline, the nearest to its moment; half of them on each side."""


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


def context_text(notes: Sequence[Observation]) -> str:
    """Notes as one text for a model."""
    return "\n\n---\n\n".join(note.content for note in notes)


class Recall:
    """Every method raises `NotFound` for another tenant's id, and `StorageUnavailable`."""

    def __init__(
        self,
        database: Database,
        *,
        new_id: Callable[[], str],
        now_ms: Callable[[], int],
        embedder: Embedder | None = None,
        vectors: VectorIndex | None = None,
    ) -> None:
        self._database = database
        self._embedder = embedder
        self._vectors = vectors
        self._words_alone_until = 0.0
        self._new_id = new_id
        self._now_ms = now_ms

    async def search(
        self,
        scope: Scope,
        query: str,
        wanted: SearchFilter,
        *,
        limit: int,
        offset: int = 0,
        order: SearchOrder = SearchOrder.RELEVANCE,
        also: Sequence[Scope] = (),
    ) -> list[Hit]:
        """The notes of these projects that fit the query, without the first `offset`.

        By relevance the best come first. By time the `MOST_BY_TIME` best do, the latest of them first. A query without
        a word that could be looked up finds the newest notes.
        """
        meaning = await self._meaning(query)
        by_time = order is SearchOrder.TIME
        most = max(offset + limit, MOST_BY_TIME) if by_time else offset + limit

        def work(conn: Connection) -> list[Hit]:
            places = list(dict.fromkeys((scope, *also)))
            best = search.search_projects(conn, places, query, wanted, limit=most, meaning=meaning)
            if not by_time:
                best = best[offset:]
            elif any(found.score for found in best):
                # The same hundred on every page; what fits without a word is in the order of time already.
                best = best[:MOST_BY_TIME]
            notes = {
                note.id: note
                for place in {found.scope for found in best}
                for note in observations.observations_by_ids(
                    conn, place, [found.observation_id for found in best if found.scope == place]
                )
            }
            hits = [Hit(notes[found.observation_id], found.score) for found in best if found.observation_id in notes]
            if by_time:
                hits = sorted(hits, key=lambda hit: -hit.observation.occurred_at)[offset : offset + limit]
            return hits

        return await self._database.read(work)

    async def _meaning(self, query: str) -> Meaning | None:
        """The query's vector; None where there is no embedder, or it fails: then words alone decide, for a while."""
        if self._embedder is None or self._vectors is None or not query.strip():
            return None
        if time.monotonic() < self._words_alone_until:
            return None
        try:
            vector = await self._embedder.embed_question(query)
            return Meaning(await self._embedder.model(), vector, self._vectors)
        except ProviderError as error:
            self._words_alone_until = time.monotonic() + WORDS_ALONE_S
            log.warning("search goes by words alone", reason=str(error), for_s=WORDS_ALONE_S)
            return None

    async def timeline(
        self, scope: Scope, around: Around, *, before: int, after: int, session_id: str | None = None
    ) -> Timeline:
        """What happened around a moment: up to `before` notes earlier and `after` later, and the prompts among them.

        Nothing where a query finds nothing, or nothing has happened yet.
        """
        asks = around.observation_id is None and around.query is not None
        meaning = await self._meaning(around.query or "") if asks else None

        def work(conn: Connection) -> Timeline:
            anchor_id, at = around.observation_id, around.at
            if anchor_id is None and around.query is not None:
                best = search.search(conn, scope, around.query, SearchFilter(), limit=1, meaning=meaning)
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
            earlier, later = timeline.notes_around(
                conn, scope, at, anchor_id or "", before=before, after=after + 1, session_id=session_id
            )
            # Where a side has no more notes, all that was asked on it belongs to it.
            since = (earlier[0].occurred_at if earlier else at) if len(earlier) == before else None
            until = later[-1].occurred_at if len(later) > after else None
            prompts = timeline.prompts_around(
                conn, scope, at, since=since, until=until, session_id=session_id, limit=MOST_PROMPTS // 2
            )
            notes = [*earlier, *later]
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
        """Delete an observation with its search data and its links; an import does not bring it back."""

        def work(conn: Connection) -> None:
            now = self._now_ms()
            note = observations.get_observation(conn, scope, observation_id)
            forgetting.bury(conn, scope, [note.generation_key], now)
            observations.delete_observation(conn, scope, observation_id, now)
            accounts.audit(
                conn, scope.team_id, scope.project_id, principal.key_id,
                "observation.deleted", "observation", observation_id, now,
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

    async def find_session(self, scope: Scope, given: str) -> Session | None:
        """A session by its id or by the agent's own for it; None where there is none."""
        return await self._database.read(lambda conn: sessions.find(conn, scope, given))

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
