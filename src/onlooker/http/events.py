"""Events: one, many, and what was made of one."""

import msgspec

from onlooker.domain.models import KeyScope
from onlooker.http.operation import Call, Operation, Reply
from onlooker.http.schemas import (
    BatchQuery,
    BatchView,
    EventBatch,
    EventBody,
    EventQuery,
    EventView,
    JobView,
    ObservationView,
    OfEventView,
    OneEventView,
    RecordedView,
)
from onlooker.services.ingest import EventInput

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
