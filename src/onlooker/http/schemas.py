"""Shapes on the wire that several operations share; the others stand with their operation.

Names are camelCase, times epoch milliseconds. Unknown fields of a request are ignored.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from onlooker.domain.jobs import JobStatus
from onlooker.domain.models import (
    Job,
    Observation,
    ObservationKind,
    SearchOrder,
    Source,
)

Text = Annotated[str, Meta(max_length=512)]
Name = Annotated[str, Meta(min_length=1, max_length=512)]
Epoch = Annotated[int, Meta(ge=0, le=9_999_999_999_999)]
Transport = Literal["queued", "deferred"]


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


class ObservationsView(Struct):
    """Observations, best first."""

    observations: list[ObservationView]


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
