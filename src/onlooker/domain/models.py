"""What is stored and passed around: frozen records. Times (`*_at`) are epoch milliseconds.

What is made once an event or more is a named tuple: a frozen data class of as many fields takes five times as long
to make. JSON that only passes through stays text (`*_json`): it is parsed where somebody looks into it.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

from onlooker.domain.jobs import JobKind, JobStatus


class KeyScope(StrEnum):
    """What a key may do; `ADMIN` includes both others."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


OWN_TYPE = "type"
"""The member of an observation's metadata that holds its mode's own word for its type."""


class ObservationKind(StrEnum):
    """The type of an observation."""

    BUGFIX = "bugfix"
    FEATURE = "feature"
    REFACTOR = "refactor"
    CHANGE = "change"
    DISCOVERY = "discovery"
    DECISION = "decision"
    SECURITY_ALERT = "security_alert"
    SECURITY_NOTE = "security_note"
    SUMMARY = "summary"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Scope:
    """The tenant whose rows a statement may touch; it stands in every predicate."""

    team_id: str
    project_id: str


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: a key's team, the one project it is bound to (None: all of the team), and what it may do."""

    team_id: str
    project_id: str | None
    key_id: str | None
    scopes: frozenset[KeyScope]

    def may(self, scope: KeyScope) -> bool:
        """Whether this principal has the scope, directly or as admin."""
        return scope in self.scopes or KeyScope.ADMIN in self.scopes


@dataclass(frozen=True, slots=True)
class Team:
    """A group of people that share projects."""

    id: str
    name: str
    created_at: int


@dataclass(frozen=True, slots=True)
class Project:
    """One body of work, in one team; its name is unique there."""

    id: str
    team_id: str
    name: str
    created_at: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored: its hash, never the key."""

    id: str
    team_id: str
    project_id: str | None
    name: str
    scopes: frozenset[KeyScope]
    created_at: int
    expires_at: int | None = None
    revoked_at: int | None = None
    last_used_at: int | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """One conversation of an agent. `content_session_id` is the agent's own id for it."""

    id: str
    team_id: str
    project_id: str
    content_session_id: str | None
    external_session_id: str | None
    agent_id: str | None
    agent_type: str | None
    platform_source: str | None
    metadata_json: str
    last_seq: int
    started_at: int
    ended_at: int | None
    created_at: int
    updated_at: int


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session to open, or to find when it is known."""

    id: str
    content_session_id: str | None = None
    external_session_id: str | None = None
    agent_id: str | None = None
    agent_type: str | None = None
    platform_source: str | None = None
    metadata_json: str = "{}"
    started_at: int = 0


class Event(NamedTuple):
    """Something an agent did. `seq` is its place in its session; an event of no session has none.

    `batch_id` is the source of the job that it shares with others, for events that came together and have no session.
    """

    id: str
    team_id: str
    project_id: str
    session_id: str | None
    seq: int | None
    event_key: str
    api_key_id: str | None
    source_type: str
    source_adapter: str
    source_event_id: str | None
    event_type: str
    content_session_id: str | None
    memory_session_id: str | None
    payload_json: str
    metadata_json: str
    occurred_at: int
    received_at: int
    created_at: int
    batch_id: str | None = None


class NewEvent(NamedTuple):
    """An event on its way in: checked, scrubbed, its key derived, not yet given its place.

    With `session_id` the session is known to exist in this project; else `content_session_id` names one that is
    opened when it is not known. `generate` asks for a generation job. Events of no session that share a `batch` (any
    word that is unique to their request) share one.
    """

    id: str
    scope: Scope
    event_key: str
    source_type: str
    source_adapter: str
    event_type: str
    payload_json: str
    occurred_at: int
    received_at: int
    session_id: str | None = None
    content_session_id: str | None = None
    memory_session_id: str | None = None
    source_event_id: str | None = None
    platform_source: str | None = None
    agent_id: str | None = None
    agent_type: str | None = None
    api_key_id: str | None = None
    metadata_json: str = "{}"
    generate: bool = True
    tool_name: str | None = None
    batch: str | None = None
    utterance: "Utterance | None" = None


@dataclass(frozen=True, slots=True)
class Utterance:
    """What a hook and a transcript both tell without an id in common: a prompt, or the end of a turn.

    `kind` says what and whose it is; `text_hash` is of its text without regard to blanks, empty where it has none.
    """

    origin: Literal["hook", "transcript"]
    kind: str
    text_hash: str


class Job(NamedTuple):
    """A generation job: the row that decides, whatever the queue says.

    `source_bytes` is how long its event's payload is as it is stored; 0 for a job of several events.
    `attempts` counts takes that were not given back, `failures` the job's own failed ones, `outages` those that were
    the provider's; `held_since` is when an outage began that has not ended. While `lease_token` is set and
    `lease_until` (database clock) lies ahead, its holder alone may write.
    """

    id: str
    team_id: str
    project_id: str
    session_id: str | None
    seq: int | None
    kind: JobKind
    status: JobStatus
    source_type: str
    source_id: str
    source_bytes: int
    tool_name: str | None
    api_key_id: str | None
    attempts: int
    max_attempts: int
    failures: int
    outages: int
    held_reason: str | None
    held_since: int | None
    next_attempt_at: int
    lease_token: str | None
    lease_until: int | None
    leased_by: str | None
    last_error: str | None
    prompt_version: str | None
    provider: str | None
    model: str | None
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    calls: int
    cost_microusd: int
    created_at: int
    updated_at: int
    started_at: int | None
    completed_at: int | None
    failed_at: int | None
    cancelled_at: int | None

    @property
    def scope(self) -> Scope:
        """The tenant that it belongs to."""
        return Scope(self.team_id, self.project_id)


class Recorded(NamedTuple):
    """What became of one `NewEvent`: the row that is stored, its job if it has one, and whether it was there before.

    `deferred` says that the job is stored and not yet in the queue: the outbox will put it there.
    """

    event: Event
    job: Job | None
    duplicate: bool
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One exchange of a session: from a prompt to the closing message; events with first_seq < seq <= last_seq."""

    id: str
    session_id: str
    ordinal: int
    first_seq: int
    last_seq: int
    ended_at: int


@dataclass(frozen=True, slots=True)
class Draft:
    """An observation as a provider makes it, before it is stored.

    `sources` are indexes into the events that the provider was given; empty means all of them. `supersedes` are the
    ids of stored observations that it corrects or replaces, out of those that the provider was shown. `own_type` is
    what its mode calls the type, where that is not the kind.
    """

    kind: ObservationKind
    title: str
    subtitle: str = ""
    narrative: str = ""
    facts: tuple[str, ...] = ()
    concepts: tuple[str, ...] = ()
    files_read: tuple[str, ...] = ()
    files_modified: tuple[str, ...] = ()
    sources: tuple[int, ...] = ()
    supersedes: tuple[str, ...] = ()
    own_type: str = ""

    @property
    def content(self) -> str:
        """The text of the whole: title, subtitle, narrative and `- fact` lines, blank lines between."""
        parts = [self.title, self.subtitle, self.narrative, "\n".join(f"- {fact}" for fact in self.facts)]
        return "\n\n".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer as the provider counts them, and how many calls it took.

    `input_tokens` are all that went in; `cached_tokens` are those of them that were read from the provider's cache,
    `written_tokens` those that it says it wrote there.
    """

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    written_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.written_tokens + other.written_tokens,
        )


NO_USAGE = Usage()


class ModelUse(NamedTuple):
    """What calls of one model of one provider used; `model` is the name by which the provider answered."""

    provider: str
    model: str
    usage: Usage


def total_usage(uses: Iterable[ModelUse]) -> Usage:
    """All of it together, whoever was called."""
    return sum((use.usage for use in uses), NO_USAGE)


@dataclass(frozen=True, slots=True)
class NewObservation:
    """A draft with its place: who made it, from what, and when it happened."""

    id: str
    draft: Draft
    generation_key: str
    occurred_at: int
    created_at: int
    content: str
    session_id: str | None = None
    created_by_job_id: str | None = None
    provider: str | None = None
    model: str | None = None
    prompt_version: str | None = None
    platform_source: str | None = None
    metadata_json: str = "{}"
    sources: tuple["NewSource", ...] = ()


@dataclass(frozen=True, slots=True)
class NewSource:
    """What an observation was made from. The event's key outlives the event."""

    source_type: str
    source_id: str
    event_id: str | None = None
    event_key: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A stored link from an observation to what it was made from."""

    id: str
    observation_id: str
    source_type: str
    source_id: str
    event_id: str | None
    event_key: str | None
    created_at: int


@dataclass(frozen=True, slots=True)
class Observation:
    """A short, structured, searchable note on what happened."""

    id: str
    team_id: str
    project_id: str
    session_id: str | None
    kind: ObservationKind
    title: str
    subtitle: str
    narrative: str
    facts: tuple[str, ...]
    concepts: tuple[str, ...]
    files_read: tuple[str, ...]
    files_modified: tuple[str, ...]
    content: str
    generation_key: str
    created_by_job_id: str | None
    provider: str | None
    model: str | None
    prompt_version: str | None
    platform_source: str | None
    metadata_json: str
    hidden: bool
    superseded_by: str | None
    occurred_at: int
    created_at: int
    updated_at: int

    @property
    def type_shown(self) -> str:
        """What people are shown as its type: its mode's own word where it has one, else the kind."""
        if self.created_by_job_id is None or self.metadata_json == "{}":
            return str(self.kind)
        return str(json.loads(self.metadata_json).get(OWN_TYPE) or self.kind)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a person asked of an agent, as the event that holds it."""

    event_id: str
    session_id: str | None
    payload_json: str
    occurred_at: int


@dataclass(frozen=True, slots=True)
class Hit:
    """An observation that a search found, and how well it fits (higher is better)."""

    observation: Observation
    score: float


class SearchOrder(StrEnum):
    """In which order hits come."""

    RELEVANCE = "relevance"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """What may be found, beside the project; None and empty mean no restriction. Times are epoch milliseconds.

    A file matches by its last parts. Of several concepts a note needs one. Notes that another one replaced are found
    where `superseded` asks for them, and then after all others.
    """

    kinds: frozenset[ObservationKind] = field(default_factory=frozenset)
    platform_source: str | None = None
    file: str | None = None
    since: int | None = None
    until: int | None = None
    session_id: str | None = None
    concepts: frozenset[str] = field(default_factory=frozenset)
    superseded: bool = False
