"""Events: one, many, and what was made of one."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from onlooker.domain.models import Event, KeyScope, Recorded
from onlooker.http.operation import Call, Operation, Reply
from onlooker.http.schemas import Epoch, JobView, Name, ObservationView, Text
from onlooker.services.ingest import EventInput

SourceType = Literal["hook", "worker", "provider", "server", "api"]


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


class OfEventView(Struct, rename="camel"):
    """The observations made from one event."""

    event_id: str
    observations: list[ObservationView]


LONGEST_WAIT_S = 30.0


def input_of(body: EventBody) -> EventInput:
    """The event as ingest takes it."""
    return EventInput(
        project_id=body.project_id,
        source_type=body.source_type,
        event_type=body.event_type,
        occurred_at=body.occurred_at_epoch,
        payload=body.payload,
        server_session_id=body.server_session_id,
        content_session_id=body.content_session_id,
        memory_session_id=body.memory_session_id,
        source_event_id=body.source_event_id,
        platform_source=body.platform_source,
        metadata=body.metadata,
        agent_id=body.agent_id,
        agent_type=body.agent_type,
    )


async def post_event(call: Call) -> Reply:
    """Store one event; with `wait`, answer when its job has settled or 30 s have passed."""
    recorded = await call.services.ingest.record(call.principal, input_of(call.body), generate=call.query.generate)
    view = RecordedView.of(recorded)
    if call.query.wait and recorded.job is not None:
        settled = await call.services.waiters.wait(recorded.job.id, timeout_s=LONGEST_WAIT_S)
        scope = await call.services.accounts.resolve_project(call.principal, recorded.event.project_id)
        job = await call.services.jobs.get(scope, recorded.job.id)
        view.generation_job = JobView.of(job, transport="deferred" if recorded.deferred else "queued")
        view.wait_timed_out = not settled
    return Reply(view, 201)


async def post_batch(call: Call) -> Reply:
    """Store up to 500 events, all or none."""
    inputs = [input_of(body) for body in call.body]
    recorded = await call.services.ingest.record_many(call.principal, inputs, generate=call.query.generate)
    return Reply(BatchView([RecordedView.of(each) for each in recorded]), 201)


async def get_event(call: Call) -> Reply:
    """Read one event."""
    scope = await call.services.accounts.scope_of(call.principal, "event", call.path["event_id"])
    view = EventView.of(await call.services.recall.event(scope, call.path["event_id"]))
    return Reply(OneEventView(**msgspec.structs.asdict(view), event=view))


async def get_observations_of_event(call: Call) -> Reply:
    """Read what was made of one event."""
    event_id = call.path["event_id"]
    scope = await call.services.accounts.scope_of(call.principal, "event", event_id)
    found = await call.services.recall.of_event(scope, event_id)
    return Reply(OfEventView(event_id, [ObservationView.of(note, source=source) for note, source in found]))


OPERATIONS = (
    Operation(
        "POST", "/v1/events", "Store an event", post_event, {201: RecordedView}, KeyScope.WRITE, EventBody,
        EventQuery, frozenset({404}),
    ),
    Operation(
        "POST", "/v1/events/batch", "Store up to 500 events, all or none", post_batch, {201: BatchView},
        KeyScope.WRITE, EventBatch, BatchQuery, frozenset({404}),
    ),
    Operation(
        "GET", "/v1/events/{event_id}", "Read an event", get_event, {200: OneEventView}, KeyScope.READ,
        problems=frozenset({404}),
    ),
    Operation(
        "GET", "/v1/events/{event_id}/observations", "Read what was made of an event", get_observations_of_event,
        {200: OfEventView}, KeyScope.READ, problems=frozenset({404}),
    ),
)  # fmt: skip
