"""Sessions: announce, read, end."""

from typing import Any

import msgspec
from msgspec import Struct

from onlooker.domain.models import KeyScope, Session
from onlooker.http.operation import Call, Operation, Reply
from onlooker.http.schemas import JobView, Name, Text
from onlooker.services.ingest import SessionInput


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


async def start_session(call: Call) -> Reply:
    """Open a session; 200 when it was known."""
    body: SessionBody = call.body
    session, is_new = await call.services.ingest.start_session(
        call.principal,
        SessionInput(
            project_id=body.project_id,
            content_session_id=body.content_session_id,
            external_session_id=body.external_session_id,
            agent_id=body.agent_id,
            agent_type=body.agent_type,
            platform_source=body.platform_source,
            metadata=body.metadata,
        ),
    )
    return Reply(OneSessionView(SessionView.of(session)), 201 if is_new else 200)


async def get_session(call: Call) -> Reply:
    """Read a session."""
    scope = await call.services.accounts.scope_of(call.principal, "session", call.path["session_id"])
    return Reply(OneSessionView(SessionView.of(await call.services.recall.session(scope, call.path["session_id"]))))


async def end_session(call: Call) -> Reply:
    """End a session and queue its summary; again: the same answer."""
    scope = await call.services.accounts.scope_of(call.principal, "session", call.path["session_id"])
    ended = await call.services.ingest.end_session(call.principal, scope, call.path["session_id"])
    job = None
    if ended.job is not None:
        job = JobView.of(ended.job, transport="deferred" if ended.deferred else "queued")
    return Reply(OneSessionView(SessionView.of(ended.session), job))


OPERATIONS = (
    Operation(
        "POST", "/v1/sessions/start", "Open a session, or find it", start_session,
        {200: OneSessionView, 201: OneSessionView}, KeyScope.WRITE, SessionBody, problems=frozenset({409}),
    ),
    Operation(
        "GET", "/v1/sessions/{session_id}", "Read a session", get_session, {200: OneSessionView}, KeyScope.READ,
        problems=frozenset({404}),
    ),
    Operation(
        "POST", "/v1/sessions/{session_id}/end", "End a session", end_session, {200: OneSessionView},
        KeyScope.WRITE, problems=frozenset({404}),
    ),
)  # fmt: skip
