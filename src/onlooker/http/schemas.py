"""The shapes on the wire: camelCase names, times in epoch milliseconds. Unknown fields of a request are ignored."""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from onlooker.domain.jobs import JobStatus
from onlooker.domain.models import (
    Event,
    Job,
    Observation,
    ObservationKind,
    Recorded,
    SearchOrder,
    Session,
    Source,
)

Text = Annotated[str, Meta(max_length=512)]
Name = Annotated[str, Meta(min_length=1, max_length=512)]
Epoch = Annotated[int, Meta(ge=0, le=9_999_999_999_999)]
SourceType = Literal["hook", "worker", "provider", "server", "api"]
Transport = Literal["queued", "deferred"]


class EventBody(Struct, rename="camel"):
    """An event that a client sends."""

    project_id: Name
    source_type: SourceType
    event_type: Name
    occurred_at_epoch: Epoch
    payload: Any = None
    server_session_id: Text | None = None
    content_session_id: Text | None = None
    memory_session_id: Text | None = None
    source_event_id: Text | None = None
    platform_source: Text | None = None
    agent_id: Text | None = None
    agent_type: Text | None = None
    metadata: dict[str, Any] | None = None


EventBatch = Annotated[list[EventBody], Meta(min_length=1, max_length=500)]


class BatchQuery(Struct, frozen=True):
    """Whether to make observations of what is sent."""

    generate: bool = True


class EventQuery(BatchQuery, frozen=True):
    """The same, and whether to wait for them (30 s at most)."""

    wait: bool = False


class EventView(Struct, rename="camel"):
    """A stored event."""

    id: str
    project_id: str
    team_id: str
    server_session_id: str | None
    source_adapter: str
    source_event_id: str | None
    event_type: str
    payload: msgspec.Raw
    metadata: msgspec.Raw
    occurred_at_epoch: int
    received_at_epoch: int
    created_at_epoch: int

    @classmethod
    def of(cls, event: Event) -> "EventView":
        """The view of an event; its JSON goes out as it is stored."""
        return cls(
            event.id,
            event.project_id,
            event.team_id,
            event.session_id,
            event.source_adapter,
            event.source_event_id,
            event.event_type,
            msgspec.Raw(event.payload_json),
            msgspec.Raw(event.metadata_json),
            event.occurred_at,
            event.received_at,
            event.created_at,
        )


class OneEventView(EventView, rename="camel"):
    """A stored event, and the same again under the name that it is stored with: clients differ in where they look."""

    event: EventView


class JobView(Struct, rename="camel", omit_defaults=True):
    """A generation job; never what it is about, unless an administrator asks."""

    id: str
    project_id: str
    team_id: str
    status: JobStatus
    kind: str
    source_type: str
    source_id: str
    bullmq_job_id: str
    server_session_id: str | None
    attempts: int
    max_attempts: int
    created_at_epoch: int
    updated_at_epoch: int
    transport: Transport | None = None
    held_reason: str | None = None
    next_attempt_at_epoch: int | None = None
    last_error: str | None = None
    provider: str | None = None
    model: str | None = None
    completed_at_epoch: int | None = None
    failed_at_epoch: int | None = None
    cancelled_at_epoch: int | None = None
    payloads: list[msgspec.Raw] | None = None

    @classmethod
    def of(cls, job: Job, *, transport: Transport | None = None, payloads: list[str] | None = None) -> "JobView":
        """The view of a job."""
        return cls(
            id=job.id,
            project_id=job.project_id,
            team_id=job.team_id,
            status=job.status,
            kind=str(job.kind),
            source_type=job.source_type,
            source_id=job.source_id,
            bullmq_job_id=job.id,
            server_session_id=job.session_id,
            attempts=job.attempts,
            max_attempts=job.max_attempts,
            created_at_epoch=job.created_at,
            updated_at_epoch=job.updated_at,
            transport=transport,
            held_reason=job.held_reason,
            next_attempt_at_epoch=job.next_attempt_at or None,
            last_error=job.last_error,
            provider=job.provider,
            model=job.model,
            completed_at_epoch=job.completed_at,
            failed_at_epoch=job.failed_at,
            cancelled_at_epoch=job.cancelled_at,
            payloads=None if payloads is None else [msgspec.Raw(text) for text in payloads],
        )


class RecordedView(Struct, rename="camel", omit_defaults=True):
    """What became of an event that was sent."""

    event: EventView
    generation_job: JobView | None = None
    duplicate: bool = False
    wait_timed_out: bool = False

    @classmethod
    def of(cls, recorded: Recorded) -> "RecordedView":
        """The view of a stored event and its job."""
        job = recorded.job
        view = None if job is None else JobView.of(job, transport="deferred" if recorded.deferred else "queued")
        return cls(EventView.of(recorded.event), view, recorded.duplicate)


class BatchView(Struct):
    """What became of each event of a batch, in the order given."""

    events: list[RecordedView]


class SourceView(Struct, rename="camel"):
    """What an observation was made from."""

    id: str
    source_type: str
    source_id: str
    event_id: str | None
    event_key: str | None
    created_at_epoch: int

    @classmethod
    def of(cls, source: Source) -> "SourceView":
        """The view of a link."""
        return cls(
            source.id, source.source_type, source.source_id, source.event_id, source.event_key, source.created_at
        )


class ObservationView(Struct, rename="camel", omit_defaults=True):
    """An observation; that it is hidden, or replaced by a later one, is told where it is so."""

    id: str
    project_id: str
    team_id: str
    server_session_id: str | None
    kind: ObservationKind
    content: str
    metadata: dict[str, Any]
    generation_key: str
    created_by_job_id: str | None
    occurred_at_epoch: int
    created_at_epoch: int
    updated_at_epoch: int
    score: float | None = None
    source: SourceView | None = None
    hidden: bool = False
    superseded_by: str | None = None

    @classmethod
    def of(cls, note: Observation, *, score: float | None = None, source: Source | None = None) -> "ObservationView":
        """The view of an observation; a writer's own metadata stands beside what the observation is made of."""
        metadata = {
            **msgspec.json.decode(note.metadata_json),
            "title": note.title,
            "subtitle": note.subtitle,
            "narrative": note.narrative,
            "facts": note.facts,
            "concepts": note.concepts,
            "files_read": note.files_read,
            "files_modified": note.files_modified,
            "provider": note.provider,
            "model": note.model,
        }
        return cls(
            note.id,
            note.project_id,
            note.team_id,
            note.session_id,
            note.kind,
            note.content,
            metadata,
            note.generation_key,
            note.created_by_job_id,
            note.occurred_at,
            note.created_at,
            note.updated_at,
            score,
            None if source is None else SourceView.of(source),
            note.hidden,
            note.superseded_by,
        )


class OfEventView(Struct, rename="camel"):
    """The observations made from one event."""

    event_id: str
    observations: list[ObservationView]


class ObservationsView(Struct):
    """Observations, best first."""

    observations: list[ObservationView]


class ContextView(Struct):
    """Observations, best first, and the same as one text."""

    observations: list[ObservationView]
    context: str


class NoteBody(Struct, rename="camel"):
    """A note of a person's own; `content` or `narrative` has its text.

    A `kind` that is none of ours is kept in the metadata, and the note is `manual`. A title may stand there too.
    """

    project_id: Name
    content: str | None = None
    narrative: str | None = None
    kind: Text = ObservationKind.MANUAL
    title: str | None = None
    server_session_id: Text | None = None
    occurred_at_epoch: Epoch | None = None
    metadata: dict[str, Any] | None = None


def _with_text(name: str) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {"type": "string", "pattern": r"\S"}}}


Note = Annotated[NoteBody, Meta(extra_json_schema={"anyOf": [_with_text("content"), _with_text("narrative")]})]
"""A note body as it is described: one of the two texts must be there."""


class NoteView(Struct):
    """The stored note, twice: clients differ in the name that they look for."""

    observation: ObservationView
    memory: ObservationView


class DeletedView(Struct):
    """What was deleted."""

    id: str
    deleted: bool = True


class PurgedView(Struct, rename="camel"):
    """What was deleted of a project."""

    project_id: str
    counts: dict[str, int]
    purged: bool = True


class SearchBody(Struct, rename="camel"):
    """What to look for, and within what: `"a phrase"` must be in a note, a `-word` must not.

    Of several kinds or concepts a note has one. A file matches by its last parts. `order` `time` puts the best hundred
    in the order of their time, the latest first. Superseded notes are left out unless asked for, and then come last.
    Pages by `offset` are of the three hundred best; each ranks anew, so a note that was stored between two may move
    another to the next, which is then there twice, and one that was deleted may leave another out.
    """

    project_id: Name
    query: str
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    offset: Annotated[int, Meta(ge=0, le=200)] = 0
    order: SearchOrder = SearchOrder.RELEVANCE
    project_ids: Annotated[list[Name], Meta(max_length=20)] = []
    platform_source: Text | None = None
    kind: ObservationKind | None = None
    kinds: Annotated[list[ObservationKind], Meta(max_length=20)] = []
    concept: Text | None = None
    concepts: Annotated[list[Text], Meta(max_length=20)] = []
    file: str | None = None
    server_session_id: Text | None = None
    since: Epoch | None = None
    until: Epoch | None = None
    superseded: bool = False


class ContextBody(SearchBody, rename="camel"):
    """As a search, with fewer notes."""

    limit: Annotated[int, Meta(ge=1, le=50)] = 10


class SessionBody(Struct, rename="camel"):
    """A session that a client announces."""

    project_id: Name
    external_session_id: Text | None = None
    content_session_id: Text | None = None
    agent_id: Text | None = None
    agent_type: Text | None = None
    platform_source: Text | None = None
    metadata: dict[str, Any] | None = None


class SessionView(Struct, rename="camel"):
    """A session."""

    id: str
    project_id: str
    team_id: str
    content_session_id: str | None
    external_session_id: str | None
    agent_id: str | None
    agent_type: str | None
    platform_source: str | None
    metadata: msgspec.Raw
    started_at_epoch: int
    ended_at_epoch: int | None
    created_at_epoch: int
    updated_at_epoch: int

    @classmethod
    def of(cls, session: Session) -> "SessionView":
        """The view of a session."""
        return cls(
            session.id,
            session.project_id,
            session.team_id,
            session.content_session_id,
            session.external_session_id,
            session.agent_id,
            session.agent_type,
            session.platform_source,
            msgspec.Raw(session.metadata_json),
            session.started_at,
            session.ended_at,
            session.created_at,
            session.updated_at,
        )


class OneSessionView(Struct, rename="camel", omit_defaults=True):
    """A session and, where it was ended, its summary's job."""

    session: SessionView
    generation_job: JobView | None = None


class JobsQuery(Struct, frozen=True):
    """Which jobs to list. `since` is an epoch in milliseconds, or a time in RFC 3339.

    Compatible servers have other names for what jobs are made of: `agent_event` is one event or several,
    `session_summary` a turn or a session, `observation_reindex` an observation.
    """

    status: JobStatus | None = None
    source_type: (
        Literal[
            "event", "event-batch", "turn", "session", "observation",
            "agent_event", "session_summary", "observation_reindex",
        ]
        | None
    ) = None  # fmt: skip
    since: Epoch | datetime | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    offset: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0


class JobQuery(Struct, frozen=True):
    """`include=payload` shows an administrator what the job is about."""

    include: Literal["payload"] | None = None


class JobsView(Struct):
    """A page of jobs, the latest first, and how many match in all."""

    jobs: list[JobView]
    total: int
    limit: int
    offset: int


class OneJobView(Struct, rename="camel"):
    """One job."""

    generation_job: JobView


class RetriedView(Struct, rename="camel"):
    """A job that was queued again, or had been."""

    generation_job: JobView
    retried_count: int
    already_queued: bool


class CancelledView(Struct, rename="camel"):
    """A job that was cancelled, or had been."""

    generation_job: JobView
    already_cancelled: bool


# Older hooks mix two spellings in one body, so their fields are renamed one by one.
OLD_NAMES = {
    "content_session_id": "contentSessionId",
    "agent_id": "agentId",
    "agent_type": "agentType",
    "platform_source": "platformSource",
    "other_tool_use_id": "toolUseId",
}


class ToolUseBody(Struct, rename=OLD_NAMES):
    """A tool use as hooks in the field send it."""

    content_session_id: Name
    tool_name: str
    tool_input: Any = None
    tool_response: Any = None
    cwd: str | None = None
    agent_id: Text | None = None
    agent_type: Text | None = None
    platform_source: Text | None = None
    tool_use_id: Text | None = None
    other_tool_use_id: Text | None = None


class SummarizeBody(Struct, rename=OLD_NAMES):
    """The end of a turn as hooks in the field send it."""

    content_session_id: Name
    last_assistant_message: str | None = None
    cwd: str | None = None
    agent_id: Text | None = None
    platform_source: Text | None = None


class LegacyView(Struct, rename="camel", omit_defaults=True):
    """What became of a request of an older hook."""

    status: Literal["queued", "skipped"]
    server_session_id: str | None
    generation_job_id: str | None
    reason: str | None = None


class HookQuery(Struct, frozen=True):
    """`store=false` for a payload that is kept for later, because others wait before it."""

    store: bool = True


class HookView(Struct):
    """What became of a hook's raw payload."""

    recorded: int
    duplicates: int
    skipped: tuple[str, ...]
    wrong: tuple[str, ...]


class HealthzView(Struct):
    """The process is alive."""

    status: Literal["ok"] = "ok"
    runtime: str = "server-beta"


class ReadinessView(Struct):
    """Whether requests can be served."""

    status: Literal["ready", "unavailable"]
    problems: list[str]
