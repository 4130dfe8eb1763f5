"""From a provider's drafts to what is stored: scrubbed, with their sources, without what was said already."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onlooker.domain import keys
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import OWN_TYPE, Draft, Event, Job, NewObservation, NewSource, Scope
from onlooker.domain.payloads import prepare
from onlooker.domain.similarity import Said, repeats
from onlooker.services.material import Material
from onlooker.storage import accounts, observations
from onlooker.storage.database import Connection
from onlooker.storage.jobs import Made

DRAFT_TEXTS = ("title", "subtitle", "narrative", "facts", "concepts", "files_read", "files_modified")


@dataclass(slots=True)
class Notes:
    """What an answer adds: new observations, further sources of known ones, and what replaces which."""

    new: list[NewObservation] = field(default_factory=list)
    further: list[tuple[str, Sequence[NewSource]]] = field(default_factory=list)
    superseded: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)


def write_notes(
    material: Material,
    asked: Sequence[Event],
    drafts: Sequence[Draft],
    made: Made,
    *,
    new_id: Callable[[], str],
    now: int,
) -> Notes:
    """What the drafts of an answer about the `asked` events add.

    A draft that says what the session's latest observations, or an earlier draft, said already is no new observation:
    its events become further sources of that one. Summaries are always new.
    """
    notes = Notes()
    said = list(material.said)
    known = {each.id for each in material.said}
    for ordinal, draft in enumerate(map(scrubbed, drafts)):
        chosen = _chosen(material, asked, draft)
        sources = _sources(material.head, chosen)
        is_summary = material.head.kind is JobKind.SUMMARY
        same = None if is_summary else repeats(draft, said)
        if same is None:
            note = _new(material, draft, made, ordinal, chosen, sources, new_id=new_id, now=now)
            notes.new.append(note)
            told = note.id
            said.append(Said(note.id, draft.kind, draft.title, draft.facts))
        else:
            notes.further.append((same.id, sources))
            told = same.id
        if replaced := tuple(old for old in draft.supersedes if old in known and old != told):
            notes.superseded.append((told, replaced))
    return notes


def store_notes(conn: Connection, added: Sequence[tuple[Job, Notes]], now: int) -> None:
    """Store what answers add, in the transaction that completes their jobs."""
    of_scope: dict[Scope, list[Notes]] = {}
    for job, notes in added:
        of_scope.setdefault(job.scope, []).append(notes)
    for scope, of_one in of_scope.items():
        observations.store_observations(conn, scope, [note for notes in of_one for note in notes.new], now)
        _link_further(conn, scope, [each for notes in of_one for each in notes.further], now)
        for by_id, replaced in (each for notes in of_one for each in notes.superseded):
            observations.supersede(conn, scope, replaced, by_id=by_id, now=now)
    accounts.audit_all(
        conn,
        [
            (job.team_id, job.project_id, None, "observation.created", "job", job.id, str(len(notes.new)), now)
            for job, notes in added
            if notes.new
        ],
    )


def _link_further(conn: Connection, scope: Scope, further: Sequence[tuple[str, Sequence[NewSource]]], now: int) -> None:
    """Give stored notes further sources; one that was deleted meanwhile has none."""
    if further:
        wanted = [observation_id for observation_id, _ in further]
        there = {each.id for each in observations.observations_by_ids(conn, scope, wanted)}
        observations.add_sources(conn, scope, [each for each in further if each[0] in there], now)


def scrubbed(draft: Draft) -> Draft:
    """A draft as it may be stored: what a model repeats of secrets and private parts goes, as it does on the way in."""
    given = {name: getattr(draft, name) for name in DRAFT_TEXTS}
    stored = prepare({name: list(text) if isinstance(text, tuple) else text for name, text in given.items()}).value
    fields: dict[str, Any] = {name: tuple(text) if isinstance(text, list) else text for name, text in stored.items()}
    return replace(draft, **fields)


def _chosen(material: Material, asked: Sequence[Event], draft: Draft) -> list[Event]:
    """The events that a draft is about: indexes that name none are dropped, none left means all.

    A read that was folded is about whatever the first one is about.
    """
    chosen = [asked[index] for index in dict.fromkeys(draft.sources) if 0 <= index < len(asked)] or list(asked)
    ids = {event.id for event in chosen}
    for place, first in material.folded.repeats.items():
        if material.events[first].id in ids:
            chosen.append(material.events[place])
    return chosen


def _sources(head: Job, chosen: Sequence[Event]) -> tuple[NewSource, ...]:
    """What a note was made from: its events, or for a summary the turn or session that it sums up."""
    if head.kind is JobKind.SUMMARY:
        summed_up = head.session_id if head.source_type == "session" else None
        return (NewSource(head.source_type, summed_up or head.source_id),)
    return tuple(NewSource("event", event.id, event.id, event.event_key) for event in chosen)


def _new(
    material: Material,
    draft: Draft,
    made: Made,
    ordinal: int,
    chosen: Sequence[Event],
    sources: tuple[NewSource, ...],
    *,
    new_id: Callable[[], str],
    now: int,
) -> NewObservation:
    return NewObservation(
        id=new_id(),
        draft=draft,
        generation_key=keys.generation_key(material.head.id, ordinal),
        occurred_at=max(event.occurred_at for event in chosen),
        created_at=now,
        content=draft.content,
        session_id=material.head.session_id,
        created_by_job_id=material.head.id,
        provider=made.provider,
        model=made.model,
        prompt_version=made.prompt_version,
        platform_source=material.platform_source,
        metadata_json=json.dumps({OWN_TYPE: draft.own_type}) if draft.own_type else "{}",
        sources=sources,
    )
