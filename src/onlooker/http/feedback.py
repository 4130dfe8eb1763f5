"""What readers say of observations."""

from typing import Literal

from msgspec import Struct

from onlooker.domain.models import KeyScope
from onlooker.http.operation import Call, Operation, Reply
from onlooker.storage.verdicts import Verdict


class FeedbackBody(Struct):
    """`useful` and `outdated` move a note a little; `wrong` hides it until somebody looks; `clear` undoes all of it."""

    verdict: Literal["useful", "wrong", "outdated", "clear"]


class JudgedView(Struct):
    """What holds for the note now."""

    id: str
    verdict: str
    hidden: bool


async def judge(call: Call) -> Reply:
    """Say what a note is worth."""
    body: FeedbackBody = call.body
    note_id = call.path["observation_id"]
    scope = await call.services.accounts.scope_of(call.principal, "observation", note_id)
    verdict = None if body.verdict == "clear" else Verdict(body.verdict)
    note = await call.services.recall.judge(call.principal, scope, note_id, verdict)
    return Reply(JudgedView(note.id, body.verdict, note.hidden))


OPERATIONS = (
    Operation(
        "POST", "/v1/observations/{observation_id}/feedback", "Say what an observation is worth", judge,
        {200: JudgedView}, KeyScope.WRITE, FeedbackBody,
    ),
)  # fmt: skip
