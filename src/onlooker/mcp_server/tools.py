"""The tools: each is an operation of the HTTP table under a name, with a description that is written for a model.

A tool takes what its operation takes and answers what it answers; what it does is written once, there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from onlooker.domain.errors import InvalidInput
from onlooker.domain.models import KeyScope
from onlooker.http.asgi import OPERATIONS
from onlooker.http.operation import Operation, body_decoder
from onlooker.http.request import checked_id

PROJECT = "projectId"
TEXT = "text"
CONTEXT = "context"
WRITTEN = frozenset({TEXT, CONTEXT, "markdown"})
"""The fields of an answer that a reader reads. The text goes out as the content, the rest as the structure."""

_PROJECT_TOLD = "Which project, by id or name. May be left out where the key or the server's configuration says it."


@dataclass(frozen=True)
class Tool:
    """One tool. `about` describes its arguments, `path` names those that stand in the operation's path."""

    name: str
    title: str
    description: str
    operation: Operation
    about: Mapping[str, str] = field(default_factory=dict)
    path: Mapping[str, str] = field(default_factory=dict)
    destructive: bool = False

    @property
    def scope(self) -> KeyScope:
        """What a key must be allowed for this tool to be shown to it."""
        return self.operation.scope or KeyScope.READ

    @cached_property
    def takes_project(self) -> bool:
        """Whether a project must be known before the operation runs."""
        return PROJECT in self.input_schema["properties"]

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """The JSON Schema of the arguments."""
        schema: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
        if self.operation.body is not None:
            schema = {**schema, **_object_schema(self.operation.body)}
        elif self.operation.query is not None:
            schema = {**schema, **_object_schema(self.operation.query)}
            shown = {PROJECT, *self.about}
            schema["properties"] = {name: each for name, each in schema["properties"].items() if name in shown}
        properties = {**schema["properties"], **{name: {"type": "string", "minLength": 1} for name in self.path}}
        for name, told in {PROJECT: _PROJECT_TOLD, **self.about}.items():
            if name in properties:
                properties[name] = {**properties[name], "description": told}
        required = [name for name in (*schema["required"], *self.path) if name != PROJECT]
        return {**schema, "properties": properties, "required": required}

    @cached_property
    def output_schema(self) -> dict[str, Any]:
        """The JSON Schema of the structured answer."""
        schema = _object_schema(next(iter(self.operation.answers.values())))
        properties = {name: each for name, each in schema["properties"].items() if name not in WRITTEN}
        return {**schema, "properties": properties, "required": [r for r in schema["required"] if r not in WRITTEN]}

    @cached_property
    def _decode_body(self) -> Callable[[bytes], Any] | None:
        return None if self.operation.body is None else body_decoder(self.operation.body)

    @cached_property
    def _decode_query(self) -> Callable[[bytes], Any] | None:
        return None if self.operation.query is None else body_decoder(self.operation.query)

    def read(self, arguments: Mapping[str, Any]) -> tuple[dict[str, str], Any, Any]:
        """The path, the body and the query of the operation. Raises `InvalidInput` naming the argument, `NotFound`."""
        path = {}
        for name, place in self.path.items():
            if not isinstance(arguments.get(name), str):
                raise InvalidInput("an argument is missing", [f"{name}: a text is needed"])
            path[place] = checked_id(arguments[name])
        rest = {name: value for name, value in arguments.items() if name not in self.path}
        body, query = None, None
        if self._decode_body is not None:
            body, rest = self._decode_body(msgspec.json.encode(rest)), {}
        if self._decode_query is not None:
            query = self._decode_query(msgspec.json.encode(rest))
        return path, body, query


def _object_schema(shape: Any) -> dict[str, Any]:
    """The schema of a struct with the struct itself at the top, where the protocol wants an object."""
    (schema,), definitions = msgspec.json.schema_components([shape], ref_template="#/$defs/{name}")
    # Model APIs take no alternatives at the top, so a condition that stands beside the reference is left out.
    schema = definitions.pop(schema["$ref"].rpartition("/")[2])
    schema = {"properties": {}, "required": [], **schema, "type": "object"}
    return {**schema, "$defs": definitions} if definitions else schema


def _operation(method: str, path: str) -> Operation:
    (found,) = [each for each in OPERATIONS if (each.method, each.path) == (method, path)]
    return found


_FILTERS = {
    "kind": "Only notes of this kind, such as bugfix, decision or summary; kinds takes several.",
    "concept": "Only notes of this concept, such as gotcha or how-it-works; concepts takes several.",
    "file": "Only notes about this file: its path, or the last parts of it (parser.py, src/parser.py).",
    "serverSessionId": "Only notes of this session.",
    "projectIds": "Other projects to search too.",
    "since": "Only what happened at this time or later, in epoch milliseconds.",
    "until": "Only what happened at this time or earlier, in epoch milliseconds.",
    "superseded": "Whether notes that a later one replaced are returned too, after all others.",
    "order": "relevance, or time: the latest of what fits first.",
    "limit": "How many to return at most.",
    "offset": "How many to leave out before them.",
}

TOOLS: Mapping[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(
            "search",
            "Search notes",
            "Search what was observed in earlier coding sessions: bug fixes, decisions, discoveries, changes, "
            "summaries. Returns an index, best first: a line a note with its id, time, kind, title and files, about 40 "
            "tokens each. Begin here, then read the few that matter with get_observations, or see what happened around "
            "one with timeline. Plain words are best; paths, identifiers and error codes are found as they are "
            'written. "A phrase" must be in a note, a -word must not. Example: '
            '{"query": "rounding of half cents money.py", "limit": 10}',
            _operation("POST", "/v1/search/index"),
            {"query": "What to look for, in a few words.", **_FILTERS},
        ),
        Tool(
            "timeline",
            "What happened around a moment",
            "Tell what happened before and after a note, a time, or the best hit of a query, in order, with the "
            "prompts of the user and the summaries of turns between. Use it to see what led to a decision and what "
            'followed. Without observationId, atEpoch and query: the latest. Example: {"query": "switch to Postgres", '
            '"before": 5, "after": 5}',
            _operation("POST", "/v1/timeline"),
            {
                "observationId": "The note to stand around; ids come from search.",
                "atEpoch": "Or a time, in epoch milliseconds.",
                "query": "Or words: the best hit is stood around.",
                "serverSessionId": "Only this session.",
                "before": "How many notes earlier.",
                "after": "How many notes later.",
            },
        ),
        Tool(
            "get_observations",
            "Read notes whole",
            "Read up to 100 notes whole, by the ids that search or timeline gave: narrative, facts, concepts, files. "
            'Choose first, then read: a note takes about 200 tokens. Example: {"ids": ["…", "…"]}',
            _operation("POST", "/v1/observations/get"),
            {"ids": "Ids of notes, from search or timeline."},
        ),
        Tool(
            "session_context",
            "What to know before you begin",
            "Tell what a new session in this project should know, within a budget of tokens: open next steps, what the "
            "latest sessions came to, decisions and gotchas, recent work by file, each with an id to look up. With a "
            'query or a file: the notes that fit it. Example: {"budget": 1500, "file": "src/parser.py"}',
            _operation("GET", "/v1/context/session"),
            {
                "budget": "How many tokens the text may take.",
                "query": "What the work will be about; then only notes that fit it.",
                "file": "A file that you are about to read or change; then only notes about it.",
            },
        ),
        Tool(
            "observation_add",
            "Write a note",
            "Store a note of your own that later sessions will find, such as a decision and its reason, or what the "
            "user asked to be remembered. It is stored as it is, after secrets are taken out; no model reads it. "
            'Example: {"content": "Deploys go through staging first.", "kind": "decision", "title": "Staging first"}',
            _operation("POST", "/v1/observations"),
            {
                "content": "The note's text. Needed, unless narrative is given.",
                "narrative": "Another name for content.",
                "kind": "What kind of note, such as decision, discovery or bugfix; manual when left out.",
                "title": "A title; else the first line.",
                "occurredAtEpoch": "The date of what it tells, in epoch milliseconds; else now.",
            },
        ),
        Tool(
            "observation_record_event",
            "Record an event",
            "Record something that happened, such as a tool use, so that observations are made of it in the "
            "background. For agents without hooks; where hooks are installed, events are recorded without this. "
            "Returns the event and its generation job; observation_generation_status tells when it is done. Example: "
            '{"sourceType": "api", "eventType": "tool_use", "occurredAtEpoch": 1790000000000, '
            '"contentSessionId": "s1", "payload": {"tool_name": "Bash", "tool_input": {"command": "make"}, '
            '"tool_response": {"stdout": "ok"}}}',
            _operation("POST", "/v1/events"),
            {
                "eventType": "tool_use, user_prompt, turn_end, or a name of your own.",
                "occurredAtEpoch": "When it happened, in epoch milliseconds.",
                "contentSessionId": "Your own name of the session; events of one session keep their order.",
                "payload": "What happened, as JSON.",
            },
        ),
        Tool(
            "observation_search",
            "Search, whole notes",
            "Search and return all that is stored of the notes at once, as JSON, best first. A note takes about 650 "
            "tokens: use search unless you need all of each. "
            'Example: {"query": "flaky test", "limit": 5}',
            _operation("POST", "/v1/search"),
            {"query": "What to look for, in a few words.", **_FILTERS},
        ),
        Tool(
            "observation_context",
            "Notes as one text",
            "Search and return whole notes joined to one text, ready to be put into a prompt. "
            'Example: {"query": "how releases are made", "limit": 5}',
            _operation("POST", "/v1/context"),
            {"query": "What the text should be about.", **_FILTERS},
        ),
        Tool(
            "observation_generation_status",
            "Status of a generation job",
            "Tell whether the observations of a recorded event are made: queued, processing, completed, failed or "
            'cancelled, with the reason. Example: {"jobId": "evt_…"}',
            _operation("GET", "/v1/jobs/{job_id}"),
            {"jobId": "The id of the job, from observation_record_event."},
            path={"jobId": "job_id"},
        ),
        Tool(
            "observation_feedback",
            "Say what a note is worth",
            "Say of a note that it was useful, outdated or wrong. The first two move it a little in searches; wrong "
            "hides it until a person has looked: tell the user when you say it. Use it when you have seen for "
            "yourself, in the code or from the user, that a note helped or does not hold. "
            'Example: {"observationId": "…", "verdict": "outdated"}',
            _operation("POST", "/v1/observations/{observation_id}/feedback"),
            {
                "observationId": "The note, by its id.",
                "verdict": "useful, outdated or wrong; said again it replaces what you said. clear takes back what "
                "all readers said and shows a hidden note again: only when the user has looked and wants it.",
            },
            path={"observationId": "observation_id"},
        ),
        Tool(
            "forget",
            "Forget for good",
            "Remove notes, and the events that they were made from, for good: when the user asks for it, never on your "
            "own. Without dryRun false it only says what would go: show that to the user first. Give one of ids, "
            'serverSessionId and text. Example: {"text": "acme corp", "dryRun": true}',
            _operation("POST", "/v1/forget"),
            {
                "ids": "Notes, by id.",
                "serverSessionId": "All of a session.",
                "text": "All notes and events that contain this text, in whatever case.",
                "beforeEpoch": "All that is older than this time, in epoch milliseconds; needs an admin's key.",
                "dryRun": "true, the default, changes nothing; false removes.",
            },
            destructive=True,
        ),
    )
}
