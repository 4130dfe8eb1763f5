"""What readers say of observations."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from onlooker.domain.models import KeyScope
from onlooker.http.operation import Call, Operation, Reply
from onlooker.http.schemas import ObservationsView, ObservationView
from onlooker.services.rendering import judged_text
from onlooker.storage.verdicts import Verdict


class FeedbackBody(Struct):
    """`useful` and `outdated` move a note a little; `wrong` hides it until somebody looks; `clear` undoes all of it."""

    verdict: Literal["useful", "wrong", "outdated", "clear"]


class JudgedView(Struct):
    """What holds for the note now; `text` tells how one that is hidden comes back."""

    id: str
    verdict: str
    hidden: bool
    text: str


class HiddenQuery(Struct, frozen=True):
    """How many to return at most."""

    limit: Annotated[int, Meta(ge=1, le=200)] = 100


async def judge(call: Call) -> Reply:
    """Say what a note is worth."""
    body: FeedbackBody = call.body
    note_id = call.path["observation_id"]
    scope = await call.services.accounts.scope_of(call.principal, "observation", note_id)
    verdict = None if body.verdict == "clear" else Verdict(body.verdict)
    note = await call.services.recall.judge(call.principal, scope, note_id, verdict)
    return Reply(JudgedView(note.id, body.verdict, note.hidden, judged_text(note)))


async def hidden(call: Call) -> Reply:
    """List the notes that were called wrong."""
    scope = await call.services.accounts.project_in_path(call.principal, call.path["project_id"])
    notes = await call.services.recall.hidden(scope, limit=call.query.limit)
    return Reply(ObservationsView([ObservationView.of(note) for note in notes]))


OPERATIONS = (
    Operation(
        "POST", "/v1/observations/{observation_id}/feedback", "Say what an observation is worth", judge,
        {200: JudgedView}, KeyScope.WRITE, FeedbackBody,
    ),
    Operation(
        "GET", "/v1/projects/{project_id}/hidden", "List the observations that were called wrong, the latest first",
        hidden, {200: ObservationsView}, KeyScope.READ, query=HiddenQuery, problems=frozenset({404}),
    ),
)  # fmt: skip
