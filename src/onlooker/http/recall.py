"""Recall in steps: an index of what fits, what happened around it, and the whole of what was chosen from these.

Each answer says what it costs a model to read it: the tokens of its text, estimated by `domain.tokens`.
"""

from typing import Annotated

from msgspec import Meta, Struct

from onlooker.domain.models import Hit, KeyScope, Observation, ObservationKind, Prompt
from onlooker.domain.tokens import estimate_tokens
from onlooker.http.observations import hits_of, storable
from onlooker.http.operation import Call, Operation, Reply
from onlooker.http.schemas import Epoch, Name, ObservationView, SearchBody, Text
from onlooker.services.recall import Around
from onlooker.services.rendering import files_of, index_text, notes_text, prompt_text, timeline_text

MOST_NOTES = 100
Steps = Annotated[int, Meta(ge=0, le=50)]


class IndexLine(Struct, rename="camel", omit_defaults=True):
    """A note in few tokens; `POST /v1/observations/get` has the whole of it."""

    id: str
    occurred_at_epoch: int
    kind: ObservationKind
    title: str
    files: tuple[str, ...]
    server_session_id: str | None = None
    score: float | None = None

    @classmethod
    def of(cls, note: Observation, score: float | None = None) -> "IndexLine":
        """The line of a note."""
        return cls(note.id, note.occurred_at, note.kind, note.title, files_of(note), note.session_id, score)


class PromptLine(Struct, rename="camel", omit_defaults=True):
    """What a person asked, cut to a line."""

    event_id: str
    occurred_at_epoch: int
    prompt: str
    server_session_id: str | None = None

    @classmethod
    def of(cls, prompt: Prompt) -> "PromptLine":
        """The line of a prompt."""
        return cls(prompt.event_id, prompt.occurred_at, prompt_text(prompt), prompt.session_id)


class IndexView(Struct):
    """What fits, best first. `text` is the same for a model, and `tokens` what it costs."""

    entries: list[IndexLine]
    text: str
    tokens: int

    @classmethod
    def of(cls, hits: list[Hit]) -> "IndexView":
        """The view of what a search found."""
        text = index_text(hits)
        return cls([IndexLine.of(hit.observation, hit.score) for hit in hits], text, estimate_tokens(text))


class TimelineEntry(Struct, omit_defaults=True):
    """Either of the two."""

    observation: IndexLine | None = None
    prompt: PromptLine | None = None


class TimelineBody(Struct, rename="camel"):
    """Around which moment: a note's, a time, or the best hit of a query; without any of them, the latest."""

    project_id: Name
    observation_id: Text | None = None
    at_epoch: Epoch | None = None
    query: str | None = None
    server_session_id: Text | None = None
    before: Steps = 5
    after: Steps = 5


class TimelineView(Struct, rename="camel"):
    """What happened, in order."""

    entries: list[TimelineEntry]
    anchor_id: str | None
    text: str
    tokens: int


class GetBody(Struct, rename="camel"):
    """Which notes to read whole."""

    project_id: Name
    ids: Annotated[list[Text], Meta(min_length=1, max_length=MOST_NOTES)]


class NotesView(Struct):
    """The notes that there are, in the order asked for, and the ids that name none."""

    observations: list[ObservationView]
    missing: list[str]
    text: str
    tokens: int


async def search_index(call: Call) -> Reply:
    """Find observations and answer a line for each."""
    return Reply(IndexView.of(await hits_of(call)))


async def timeline(call: Call) -> Reply:
    """Tell what happened around a moment."""
    body: TimelineBody = call.body
    scope = await call.services.accounts.resolve_project(call.principal, body.project_id)
    around = Around(storable(body.observation_id), body.at_epoch, body.query)
    session_id = storable(body.server_session_id)
    found = await call.services.recall.timeline(
        scope, around, before=body.before, after=body.after, session_id=session_id
    )
    entries = [
        TimelineEntry(prompt=PromptLine.of(entry))
        if isinstance(entry, Prompt)
        else TimelineEntry(observation=IndexLine.of(entry))
        for entry in found.entries
    ]
    text = timeline_text(found.entries, found.anchor_id)
    return Reply(TimelineView(entries, found.anchor_id, text, estimate_tokens(text)))


async def get_many(call: Call) -> Reply:
    """Read several observations whole."""
    body: GetBody = call.body
    scope = await call.services.accounts.resolve_project(call.principal, body.project_id)
    ids = [str(storable(each)) for each in body.ids]
    found = await call.services.recall.get_many(scope, ids)
    missing = sorted(set(ids) - {note.id for note in found})
    text = "\n\n---\n\n".join([*([notes_text(found)] if found else []), *(f"{each}: no such note" for each in missing)])
    return Reply(NotesView([ObservationView.of(note) for note in found], missing, text, estimate_tokens(text)))


OPERATIONS = (
    Operation(
        "POST", "/v1/search/index", "Find observations, a line for each", search_index, {200: IndexView},
        KeyScope.READ, SearchBody,
    ),
    Operation(
        "POST", "/v1/timeline", "Tell what happened around a moment", timeline, {200: TimelineView}, KeyScope.READ,
        TimelineBody, problems=frozenset({404}),
    ),
    Operation(
        "POST", "/v1/observations/get", "Read several observations whole", get_many, {200: NotesView}, KeyScope.READ,
        GetBody,
    ),
)  # fmt: skip
