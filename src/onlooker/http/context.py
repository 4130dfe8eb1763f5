"""The context of a new session."""

from typing import Annotated

from msgspec import Meta, Struct

from onlooker.domain.models import KeyScope
from onlooker.http.observations import storable
from onlooker.http.operation import Call, Operation, Reply
from onlooker.http.schemas import Name, Text
from onlooker.services.session_context import DEFAULT_BUDGET, LEAST_BUDGET, MOST_BUDGET


class SessionContextQuery(Struct, rename="camel", frozen=True):
    """Of which project, and how many tokens it may take at most; with `query` or `file` only the notes that fit."""

    project_id: Name
    budget: Annotated[int, Meta(ge=LEAST_BUDGET, le=MOST_BUDGET)] = DEFAULT_BUDGET
    query: str | None = None
    file: Text | None = None


class SessionContextView(Struct, rename="camel"):
    """`text` for a model, `markdown` for a person, what the text costs, and the notes that it tells of, in their order.

    Empty where there is nothing to tell.
    """

    text: str
    markdown: str
    tokens: int
    budget: int
    observation_ids: tuple[str, ...]


async def session_context(call: Call) -> Reply:
    """What the next session in a project should know."""
    query: SessionContextQuery = call.query
    scope = await call.services.accounts.resolve_project(call.principal, query.project_id)
    made = await call.services.injecting.context(
        scope, query=query.query or "", file=storable(query.file) or "", budget=query.budget
    )
    return Reply(SessionContextView(made.text, made.markdown, made.tokens, query.budget, made.note_ids))


OPERATIONS = (
    Operation(
        "GET", "/v1/context/session", "What the next session in a project should know", session_context,
        {200: SessionContextView}, KeyScope.READ, query=SessionContextQuery,
    ),
)  # fmt: skip
