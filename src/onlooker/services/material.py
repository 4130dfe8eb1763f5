"""What jobs are about: read from the rows, since a message is advice only; and turned into what a provider is asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onlooker.domain.batching import GenerationPolicy
from onlooker.domain.folding import Folded, fold
from onlooker.domain.jobs import JobKind
from onlooker.domain.models import Event, Job, Scope
from onlooker.domain.similarity import Said
from onlooker.providers.contract import GenerationRequest, RecentNote, SummaryOf
from onlooker.storage import accounts, events, observations
from onlooker.storage.database import Connection
from onlooker.storage.jobs import Taken

MOST_RECENT = 20
"""A session's latest observations that a new one is compared with."""

TOLD_IN_SUMMARIES = frozenset({"user_prompt", "turn_end", "agent_response", "subagent_end"})
"""What a model is told of a turn that has notes already: who said what. The notes say what was done."""


@dataclass(frozen=True, slots=True)
class Material:
    """What a run of jobs is about. `events` are in order; of a run each job has one, unless it is gone."""

    head: Job
    project_name: str
    events: tuple[Event, ...]
    said: tuple[Said, ...]
    folded: Folded

    @property
    def told(self) -> list[Event]:
        """The events that a provider is given."""
        return [self.events[place] for place in self.folded.told]

    @property
    def platform_source(self) -> str | None:
        """The agent whose events these are."""
        return self.events[0].source_adapter if self.events else None

    def of_jobs(self, kept: Taken) -> "Material":
        """The same for the first of a run's jobs only."""
        ids = {job.source_id for job in kept.jobs}
        events_kept = tuple(event for event in self.events if event.id in ids)
        count = len(events_kept)
        told = tuple(place for place in self.folded.told if place < count)
        repeats = {place: first for place, first in self.folded.repeats.items() if place < count}
        return replace(self, events=events_kept, folded=Folded(told, repeats))

    def request(self, asked: Sequence[Event], *, mode: str, language: str, limit: int | None) -> GenerationRequest:
        """What to ask a provider about these events of it."""
        return GenerationRequest(
            kind=self.head.kind,
            project_name=self.project_name,
            session_id=self.head.session_id,
            events=asked,
            idempotency_key=self.head.id,
            mode=mode,
            language=language,
            recent=[RecentNote(said.id, said.kind, said.title) for said in self.said],
            facts=(("agent", self.platform_source),) if self.platform_source else (),
            summary_of=SummaryOf.SESSION if self.head.source_type == "session" else SummaryOf.TURN,
            max_input_tokens=limit,
        )


def load_materials(conn: Connection, runs: Sequence[Taken], *, spends: bool) -> list[Material]:
    """Read what each run is about.

    Where calls cost, what needs no model is left out of what a provider is told, unless the policy has a call an event.
    """
    of_scope: dict[Scope, list[Taken]] = {}
    for run in runs:
        of_scope.setdefault(run.head.scope, []).append(run)
    said: dict[str, list[Said]] = {}
    by_id: dict[str, Event] = {}
    for scope, of_one in of_scope.items():
        sessions = {run.head.session_id for run in of_one if run.head.session_id is not None}
        said |= observations.said_lately(conn, scope, sessions, limit=MOST_RECENT)
        sources = [job.source_id for run in of_one if _is_of_events(run.head) for job in run.jobs]
        by_id |= {event.id: event for event in events.events_by_ids(conn, scope, sources)}
    return [_material(conn, run, said.get(run.head.session_id or "", []), by_id, spends=spends) for run in runs]


def _is_of_events(head: Job) -> bool:
    """Whether each job of the run is of one event, whose id it has."""
    return head.source_type not in {"turn", "session"} and head.kind is not JobKind.EVENT_BATCH


def _material(
    conn: Connection, run: Taken, said: Sequence[Said], by_id: Mapping[str, Event], *, spends: bool
) -> Material:
    head = run.head
    sparing = spends and run.policy is not GenerationPolicy.PER_EVENT
    found: Sequence[Event]
    if _is_of_events(head):
        found = [by_id[job.source_id] for job in run.jobs if job.source_id in by_id]
    elif head.source_type == "turn":
        found = events.events_of_turn(conn, head.scope, head.source_id)
    elif head.source_type == "session":
        of_session = head.session_id or head.source_id
        spoken = events.latest_of_types(conn, head.scope, of_session, TOLD_IN_SUMMARIES) if sparing and said else ()
        found = spoken or events.events_of_session(conn, head.scope, of_session)
    else:
        found = events.events_of_batch(conn, head.scope, head.source_id)
    return Material(
        head,
        run.project_name or accounts.project_name(conn, head.scope),
        tuple(found),
        tuple(said),
        _divide(head, found, said) if sparing else everything(found),
    )


def everything(found: Sequence[Event]) -> Folded:
    """All events are told."""
    return Folded(tuple(range(len(found))), {})


def _divide(head: Job, found: Sequence[Event], said: Sequence[Said]) -> Folded:
    if head.kind is not JobKind.SUMMARY:
        return fold(found)
    spoken = tuple(place for place, event in enumerate(found) if event.event_type in TOLD_IN_SUMMARIES)
    return Folded(spoken, {}) if spoken and said else everything(found)
