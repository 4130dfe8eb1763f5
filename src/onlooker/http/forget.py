"""Forget: what would go, and that it goes."""

from typing import Annotated

from msgspec import Meta, Struct

from onlooker.domain.errors import Forbidden
from onlooker.domain.models import KeyScope
from onlooker.http.observations import storable
from onlooker.http.operation import Call, Operation, Reply
from onlooker.http.recall import MOST_NOTES, IndexLine
from onlooker.http.schemas import Epoch, Name, Text
from onlooker.services.rendering import note_line
from onlooker.storage.forgetting import Selection


class ForgetBody(Struct, rename="camel"):
    """What to forget, one of these: notes by id, a session, all that contains a text, or all that is older than a time.

    Nothing is removed while `dryRun` is true, which it is unless it is said otherwise.
    """

    project_id: Name
    ids: Annotated[list[Text], Meta(max_length=MOST_NOTES)] = []
    server_session_id: Text | None = None
    text: Annotated[str, Meta(max_length=10_000)] | None = None
    before_epoch: Epoch | None = None
    dry_run: bool = True


class ForgetView(Struct, rename="camel"):
    """How much was, or would be, removed; in a dry run with the first notes of it."""

    dry_run: bool
    observations: int
    events: int
    jobs: int
    examples: list[IndexLine]
    text: str


async def forget(call: Call) -> Reply:
    """Remove notes and events for good, or say what would be removed."""
    body: ForgetBody = call.body
    scope = await call.services.accounts.resolve_project(call.principal, body.project_id)
    if body.before_epoch is not None and not call.principal.may(KeyScope.ADMIN):
        raise Forbidden("to forget by age needs a key with the admin scope")
    ids = tuple(str(storable(each)) for each in body.ids)
    wanted = Selection(ids, storable(body.server_session_id), storable(body.text), body.before_epoch)
    if not body.dry_run:
        gone = await call.services.forget.forget(call.principal, scope, wanted)
        text = f"Forgotten: {gone.observations} observations and {gone.events} events."
        return Reply(ForgetView(False, gone.observations, gone.events, gone.jobs, [], text))
    found = await call.services.forget.preview(scope, wanted)
    lines = "".join(f"\n{note_line(note)}" for note in found.examples)
    text = f"Would forget {found.observations} observations and {found.events} events.{lines}"
    examples = [IndexLine.of(note) for note in found.examples]
    return Reply(ForgetView(True, found.observations, found.events, 0, examples, text))


OPERATIONS = (
    Operation(
        "POST", "/v1/forget", "Forget notes and events for good", forget, {200: ForgetView}, KeyScope.WRITE, ForgetBody,
        problems=frozenset({404}),
    ),
)  # fmt: skip
