"""Observations: write, read, delete, search; and the older names of the same."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from onlooker.domain.errors import InvalidInput
from onlooker.domain.models import Hit, KeyScope, ObservationKind, SearchFilter
from onlooker.domain.payloads import clean
from onlooker.http.operation import Call, Operation, Reply
from onlooker.http.schemas import Epoch, Name, ObservationsView, ObservationView, SearchBody, Text
from onlooker.services.recall import NoteInput, context_text


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


class ContextBody(SearchBody, rename="camel"):
    """As a search, with fewer notes."""

    limit: Annotated[int, Meta(ge=1, le=50)] = 10


async def hits_of(call: Call) -> list[Hit]:
    """What the search of a request finds. Another tenant's project among those it names is refused."""
    body: SearchBody = call.body
    accounts = call.services.accounts
    scope = await accounts.resolve_project(call.principal, body.project_id)
    also = [await accounts.resolve_project(call.principal, each) for each in body.project_ids]
    return await call.services.recall.search(
        scope, body.query, _filter_of(body), limit=body.limit, offset=body.offset, order=body.order, also=also
    )


def _filter_of(body: SearchBody) -> SearchFilter:
    concepts = {*body.concepts, *([body.concept] if body.concept else [])}
    return SearchFilter(
        kinds=frozenset({*body.kinds, *([body.kind] if body.kind else [])}),
        platform_source=storable(body.platform_source),
        # Models fill what they do not need with nothing.
        file=storable(body.file) or None,
        since=body.since,
        until=body.until,
        session_id=storable(body.server_session_id),
        concepts=frozenset(str(clean(each).value) for each in concepts),
        superseded=body.superseded,
    )


def storable(text: str | None) -> str | None:
    """A name to look for, in characters that a database can be asked for; it may find nothing."""
    return None if text is None else str(clean(text).value)


async def post_observation(call: Call) -> Reply:
    """Store a note of a person's own."""
    body: NoteBody = call.body
    text = next((each for each in (body.content, body.narrative) if each and each.strip()), None)
    if text is None:
        raise InvalidInput("a note without text", ["content: missing, and so is narrative"])
    scope = await call.services.accounts.resolve_project(call.principal, body.project_id)
    metadata = dict(body.metadata or {})
    kind = next((each for each in ObservationKind if each == body.kind), None)
    if kind is None:
        metadata["kind"] = body.kind
    title = body.title or metadata.get("title")
    note = NoteInput(
        text,
        kind or ObservationKind.MANUAL,
        title if isinstance(title, str) else None,
        storable(body.server_session_id),
        body.occurred_at_epoch,
        metadata,
    )
    view = ObservationView.of(await call.services.recall.add(call.principal, scope, note))
    return Reply(NoteView(view, view), 201)


async def get_observation(call: Call) -> Reply:
    """Read an observation."""
    scope = await call.services.accounts.scope_of(call.principal, "observation", call.path["observation_id"])
    return Reply(ObservationView.of(await call.services.recall.get(scope, call.path["observation_id"])))


async def delete_observation(call: Call) -> Reply:
    """Delete an observation, its search data and its links."""
    observation_id = call.path["observation_id"]
    scope = await call.services.accounts.scope_of(call.principal, "observation", observation_id)
    await call.services.recall.delete(call.principal, scope, observation_id)
    return Reply(DeletedView(observation_id))


async def search(call: Call) -> Reply:
    """Find observations, best first."""
    hits = await hits_of(call)
    return Reply(ObservationsView([ObservationView.of(hit.observation, score=hit.score) for hit in hits]))


async def context(call: Call) -> Reply:
    """Find observations and render them as one text for a model."""
    notes = [hit.observation for hit in await hits_of(call)]
    return Reply(ContextView([ObservationView.of(note) for note in notes], context_text(notes)))


async def purge(call: Call) -> Reply:
    """Delete everything that was observed in a project."""
    scope = await call.services.accounts.project_in_path(call.principal, call.path["project_id"])
    return Reply(PurgedView(scope.project_id, await call.services.recall.purge(call.principal, scope)))


def _operations_under(name: str) -> tuple[Operation, ...]:
    return (
        Operation(
            "POST", f"/v1/{name}", "Store a note of your own", post_observation, {201: NoteView}, KeyScope.WRITE,
            Note, problems=frozenset({404}),
        ),
        Operation(
            "GET", f"/v1/{name}/{{observation_id}}", "Read an observation", get_observation, {200: ObservationView},
            KeyScope.READ, problems=frozenset({404}),
        ),
        Operation(
            "DELETE", f"/v1/{name}/{{observation_id}}", "Delete an observation", delete_observation,
            {200: DeletedView}, KeyScope.WRITE, problems=frozenset({404}),
        ),
    )  # fmt: skip


OPERATIONS = (
    *_operations_under("observations"),
    *_operations_under("memories"),
    Operation(
        "POST", "/v1/search", "Find observations", search, {200: ObservationsView}, KeyScope.READ, SearchBody
    ),
    Operation(
        "POST", "/v1/context", "Find observations as one text", context, {200: ContextView}, KeyScope.READ, ContextBody
    ),
    Operation(
        "DELETE", "/v1/projects/{project_id}/memory", "Delete all that was observed in a project", purge,
        {200: PurgedView}, KeyScope.ADMIN, problems=frozenset({404}),
    ),
)  # fmt: skip
