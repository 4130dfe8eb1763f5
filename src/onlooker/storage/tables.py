"""Every table, index and constraint, declared once for both databases.

Tenancy is part of the shape: child rows refer to their parents by `(id, project_id)` and projects to teams by
`(id, team_id)`, so that a row cannot belong to one tenant and hang under another's. Keys lead with what is unique, and
only lists lead with the team: on a fresh table, where Postgres knows nothing of the data, an index that begins with the
project looks as good as the right one, and a check that takes it reads the whole project (ten times slower batches).

Times are epoch milliseconds. JSON is text: a JSON type cost SQLite a third, and nothing here queries inside it.
"""

from collections.abc import Iterable

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from onlooker.domain.jobs import JobKind, JobStatus
from onlooker.domain.models import ObservationKind

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Serial = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only where the type is spelled INTEGER."""


def one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    """A column holds one of these words. Adding one rebuilds the table on SQLite: `migrations.enumerations` does it."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def where(condition: str) -> dict[str, str]:
    """What a partial index is declared with: the databases are told by the migrations, and a test compares.

    SQLAlchemy's own arguments for it would load both databases' dialects in every process, a twentieth of a start.
    """
    return {"where": condition}


def ownership(*, on_project: bool = True) -> list[Column[str]]:
    """The two columns that stand in every predicate."""
    return [Column("team_id", Text, nullable=False), Column("project_id", Text, nullable=not on_project)]


def owned_by_project() -> ForeignKeyConstraint:
    """A row of a project, which is a row of that project's team."""
    return ForeignKeyConstraint(["project_id", "team_id"], ["projects.id", "projects.team_id"])


schema_info = Table(
    "schema_info",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", Text, nullable=False),
    Column("oldest_code", Text, nullable=False),
    Column("boot", Text),
    Column("clock_offset_ms", BigInteger),
    Column("retention_at", BigInteger),
    Column("retention_looked_at", BigInteger),
    CheckConstraint("id = 1", name="single"),
)
"""One row: the schema's version, the oldest code that may run on it, (SQLite) what `database_clock` keeps, and how far
`storage.retention` believes the clock, which it looked at then."""

teams = Table(
    "teams",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", Text, primary_key=True),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("generation_policy", Text),
    UniqueConstraint("id", "team_id"),
    UniqueConstraint("team_id", "name"),
)

project_places = Table(
    "project_places",
    metadata,
    *ownership(),
    Column("place_hash", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("place_hash", "team_id"),
    owned_by_project(),
)
"""Which repository or folder a project is, by the hash of what tells it from others (`domain.places`)."""

team_members = Table(
    "team_members",
    metadata,
    Column("team_id", Text, ForeignKey("teams.id"), primary_key=True),
    Column("member", Text, primary_key=True),
    Column("role", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    one_of("role", ("member", "owner")),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("project_id", Text),
    Column("name", Text, nullable=False),
    Column("key_hash", Text, nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("last_used_at", BigInteger),
    owned_by_project(),
    Index(None, "team_id", "created_at"),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    *ownership(on_project=False),
    Column("api_key_id", Text),
    Column("action", Text, nullable=False),
    Column("subject_type", Text, nullable=False),
    Column("subject_id", Text),
    Column("detail", Text, nullable=False, server_default=text("''")),
    Column("created_at", BigInteger, nullable=False),
    Index(None, "team_id", "created_at"),
)

server_sessions = Table(
    "server_sessions",
    metadata,
    Column("id", Text, nullable=False),
    *ownership(),
    Column("content_session_id", Text),
    Column("external_session_id", Text),
    Column("agent_id", Text),
    Column("agent_type", Text),
    Column("platform_source", Text),
    Column("metadata", Text, nullable=False),
    Column("last_seq", BigInteger, nullable=False, server_default=text("0")),
    Column("endings", Integer, nullable=False, server_default=text("0")),
    Column("started_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("id", "project_id"),
    UniqueConstraint("content_session_id", "project_id"),
    UniqueConstraint("external_session_id", "project_id"),
    owned_by_project(),
    Index(None, "team_id", "project_id", "started_at"),
    Index(
        "ix_server_sessions_open",
        "started_at",
        info=where("ended_at IS NULL"),
    ),
)

turns = Table(
    "turns",
    metadata,
    Column("id", Text, primary_key=True),
    *ownership(),
    Column("session_id", Text, nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("first_seq", BigInteger, nullable=False),
    Column("last_seq", BigInteger, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    UniqueConstraint("session_id", "ordinal"),
    ForeignKeyConstraint(["session_id", "project_id"], ["server_sessions.id", "server_sessions.project_id"]),
    owned_by_project(),
)
"""A turn is written when it ends; it holds the events with first_seq < seq <= last_seq."""

IS_PROMPT = text("event_type = 'user_prompt'")
"""Written out, since a parameter would hide the index that is made by it."""

agent_events = Table(
    "agent_events",
    metadata,
    Column("id", Text, nullable=False),
    *ownership(),
    Column("session_id", Text),
    Column("seq", BigInteger),
    Column("event_key", Text, nullable=False),
    Column("api_key_id", Text),
    Column("source_type", Text, nullable=False),
    Column("source_adapter", Text, nullable=False),
    Column("source_event_id", Text),
    Column("event_type", Text, nullable=False),
    Column("content_session_id", Text),
    Column("memory_session_id", Text),
    Column("payload", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    Column("received_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("batch_id", Text),
    PrimaryKeyConstraint("id", "project_id"),
    UniqueConstraint("event_key", "project_id"),
    Index("uq_agent_events_session_id_seq", "session_id", "seq", unique=True),
    Index(
        "ix_agent_events_batch",
        "batch_id",
        info=where("batch_id IS NOT NULL"),
    ),
    Index(
        "ix_agent_events_prompts",
        "team_id",
        "project_id",
        "occurred_at",
        info=where(IS_PROMPT.text),
    ),
    one_of("source_type", ("hook", "worker", "provider", "server", "api")),
    ForeignKeyConstraint(["session_id", "project_id"], ["server_sessions.id", "server_sessions.project_id"]),
    owned_by_project(),
)

utterances = Table(
    "utterances",
    metadata,
    *ownership(),
    Column("event_key", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("text_hash", Text, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("event_key", "project_id"),
    one_of("origin", ("hook", "transcript")),
    ForeignKeyConstraint(
        ["event_id", "project_id"], ["agent_events.id", "agent_events.project_id"], ondelete="CASCADE"
    ),
    owned_by_project(),
    Index(None, "session_id", "kind", "origin", "occurred_at"),
    Index("uq_utterances_event_id_project_id_origin", "event_id", "project_id", "origin", unique=True),
)
"""Prompts and turn ends, which have no id that a hook and a transcript share; see `storage.utterances`."""

session_transcripts = Table(
    "session_transcripts",
    metadata,
    *ownership(),
    Column("session_id", Text, nullable=False),
    Column("platform_source", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("noted_at", BigInteger, nullable=False),
    Column("over_at", BigInteger),
    PrimaryKeyConstraint("session_id", "project_id"),
    ForeignKeyConstraint(
        ["session_id", "project_id"], ["server_sessions.id", "server_sessions.project_id"], ondelete="CASCADE"
    ),
    owned_by_project(),
)
"""Where the agent itself writes a session down, as its hooks told; `over_at` is when they said that it ended."""

observation_generation_jobs = Table(
    "observation_generation_jobs",
    metadata,
    Column("id", Text, nullable=False),
    *ownership(),
    Column("session_id", Text),
    Column("seq", BigInteger),
    Column("kind", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("source_type", Text, nullable=False),
    Column("source_id", Text, nullable=False),
    Column("source_bytes", Integer, nullable=False, server_default=text("0")),
    Column("tool_name", Text),
    Column("api_key_id", Text),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("max_attempts", Integer, nullable=False),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("outages", Integer, nullable=False, server_default=text("0")),
    Column("held_reason", Text),
    Column("held_since", BigInteger),
    Column("next_attempt_at", BigInteger, nullable=False, server_default=text("0")),
    Column("lease_token", Text),
    Column("lease_until", BigInteger),
    Column("leased_by", Text),
    Column("rung_at", BigInteger, nullable=False, server_default=text("0")),
    Column("ring_wait_ms", BigInteger, nullable=False, server_default=text("0")),
    Column("last_error", Text),
    Column("prompt_version", Text),
    Column("provider", Text),
    Column("model", Text),
    Column("input_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("output_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("cached_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("calls", Integer, nullable=False, server_default=text("0")),
    Column("cost_microusd", BigInteger, nullable=False, server_default=text("0")),
    Column("reserved_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("reserved_microusd", BigInteger, nullable=False, server_default=text("0")),
    Column("usage_token", Text),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("completed_at", BigInteger),
    Column("failed_at", BigInteger),
    Column("cancelled_at", BigInteger),
    PrimaryKeyConstraint("id", "project_id"),
    one_of("kind", JobKind),
    one_of("status", JobStatus),
    one_of("source_type", ("event", "event-batch", "turn", "session", "observation")),
    CheckConstraint("(status = 'completed') = (completed_at IS NOT NULL)", name="completed_at"),
    CheckConstraint("(status = 'failed') = (failed_at IS NOT NULL)", name="failed_at"),
    CheckConstraint("(status = 'cancelled') = (cancelled_at IS NOT NULL)", name="cancelled_at"),
    CheckConstraint("(status = 'processing') = (lease_token IS NOT NULL)", name="lease_token"),
    CheckConstraint("(session_id IS NULL) = (seq IS NULL)", name="seq"),
    ForeignKeyConstraint(["session_id", "project_id"], ["server_sessions.id", "server_sessions.project_id"]),
    owned_by_project(),
    Index("ix_jobs_list", "team_id", "project_id", "created_at", "id"),
    Index("ix_jobs_by_status", "team_id", "status", "created_at", "id"),
    Index(
        "ix_jobs_queued",
        "created_at",
        # The second part holds for every row, and keeps the index from statements that do not ask for it: statistics
        # of a moment in which nothing waited would make it look like the cheapest way to any queued job.
        info=where("status = 'queued' AND created_at >= 0"),
    ),
    Index(
        "uq_jobs_live_of_session",
        "session_id",
        "seq",
        unique=True,
        info=where("status IN ('queued', 'processing')"),
    ),
    Index(
        "ix_jobs_live_without_session",
        "id",
        info=where("session_id IS NULL AND status IN ('queued', 'processing')"),
    ),
    Index(
        "ix_jobs_leased",
        "session_id",
        "lease_until",
        info=where("status = 'processing'"),
    ),
    Index("ix_jobs_held", "team_id", "project_id", info=where("held_reason IS NOT NULL")),
)
"""While a run is processing, its head's `reserved_…` are what its call may take of a cap; `usage_token` is the
lease under which usage was last added, so that no call is counted twice."""

observation_generation_job_events = Table(
    "observation_generation_job_events",
    metadata,
    Column("id", Serial, primary_key=True, autoincrement=True),
    *ownership(),
    Column("job_id", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("detail", Text, nullable=False, server_default=text("''")),
    Column("created_at", BigInteger, nullable=False),
    ForeignKeyConstraint(
        ["job_id", "project_id"], ["observation_generation_jobs.id", "observation_generation_jobs.project_id"]
    ),
    Index(None, "job_id"),
)
"""What happened to a job, in order: queued, taken, retried, held, completed, failed, cancelled."""

IS_WEIGHTY = text("kind IN ('decision', 'manual', 'security_alert', 'security_note')")
"""Kinds that matter long after they were written; written out, as the index that is made by it is."""

observations = Table(
    "observations",
    metadata,
    Column("id", Text, nullable=False),
    *ownership(),
    Column("session_id", Text),
    Column("kind", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("subtitle", Text, nullable=False),
    Column("narrative", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("concepts", Text, nullable=False),
    Column("files_read", Text, nullable=False),
    Column("files_modified", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("generation_key", Text, nullable=False),
    Column("created_by_job_id", Text),
    Column("provider", Text),
    Column("model", Text),
    Column("prompt_version", Text),
    Column("platform_source", Text),
    Column("metadata", Text, nullable=False),
    Column("hidden", Boolean(create_constraint=False), nullable=False),
    Column("superseded_by", Text),
    Column("analyser_version", Integer, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("id", "project_id"),
    UniqueConstraint("generation_key", "project_id", "team_id"),
    one_of("kind", ObservationKind),
    ForeignKeyConstraint(["session_id", "project_id"], ["server_sessions.id", "server_sessions.project_id"]),
    owned_by_project(),
    Index(None, "team_id", "project_id", "occurred_at"),
    Index(
        "ix_observations_weighty",
        "team_id",
        "project_id",
        "occurred_at",
        info=where(IS_WEIGHTY.text),
    ),
    Index(None, "session_id", "occurred_at"),
    Index(None, "created_by_job_id"),
)

observation_sources = Table(
    "observation_sources",
    metadata,
    Column("id", Text, primary_key=True),
    *ownership(),
    Column("observation_id", Text, nullable=False),
    Column("source_type", Text, nullable=False),
    Column("source_id", Text, nullable=False),
    Column("event_id", Text),
    Column("event_key", Text),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("observation_id", "source_type", "source_id"),
    ForeignKeyConstraint(
        ["observation_id", "project_id"], ["observations.id", "observations.project_id"], ondelete="CASCADE"
    ),
    ForeignKeyConstraint(["event_id", "project_id"], ["agent_events.id", "agent_events.project_id"]),
    owned_by_project(),
    Index(None, "event_id"),
)

observation_feedback = Table(
    "observation_feedback",
    metadata,
    *ownership(),
    Column("observation_id", Text, nullable=False),
    Column("reader", Text, nullable=False),
    Column("verdict", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("observation_id", "reader"),
    ForeignKeyConstraint(
        ["observation_id", "project_id"], ["observations.id", "observations.project_id"], ondelete="CASCADE"
    ),
    owned_by_project(),
)

tombstones = Table(
    "tombstones",
    metadata,
    *ownership(),
    Column("key_hash", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("key_hash", "project_id"),
    owned_by_project(),
)
"""What was forgotten, by the hash of its key, so that an import does not bring it back."""

retention = Table(
    "retention",
    metadata,
    *ownership(),
    Column("events_days", Integer),
    Column("observations_days", Integer),
    PrimaryKeyConstraint("project_id"),
    owned_by_project(),
)
"""How long projects keep what they have, where it is not for ever."""

workers = Table(
    "workers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("identity", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("heartbeat_at", BigInteger, nullable=False),
    Index(None, "heartbeat_at"),
)

provider_lanes = Table(
    "provider_lanes",
    metadata,
    Column("provider", Text, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text),
    Column("condition", Text, nullable=False),
    Column("until", BigInteger),
    Column("reason", Text),
    PrimaryKeyConstraint("provider", "endpoint"),
)

usage_daily = Table(
    "usage_daily",
    metadata,
    *ownership(),
    Column("day", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("calls", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("cost_microusd", BigInteger, nullable=False),
    UniqueConstraint("project_id", "day", "provider", "model"),
    owned_by_project(),
    Index(None, "team_id", "day"),
)

usage_caps = Table(
    "usage_caps",
    metadata,
    Column("team_id", Text, ForeignKey("teams.id"), nullable=False),
    Column("reach", Text, nullable=False),
    Column("period", Text, nullable=False),
    Column("unit", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    PrimaryKeyConstraint("team_id", "reach", "period", "unit"),
)
"""What a project (`reach` is its id) or a team (`reach` is empty) may spend, in place of what the settings say; an
`amount` of 0 is no cap."""

import_offsets = Table(
    "import_offsets",
    metadata,
    *ownership(),
    Column("path_hash", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("byte_offset", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    UniqueConstraint("project_id", "path_hash"),
    owned_by_project(),
)
"""How far an import has read each file; `fingerprint` tells a file that was replaced by another."""

messages = Table(
    "messages",
    metadata,
    Column("seq", Serial, primary_key=True, autoincrement=True),
    Column("lane", Text, nullable=False),
    Column("exclusive", Boolean(create_constraint=False), nullable=False),
    Column("id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("tool_name", Text),
    Column("body", Text, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("head", Boolean(create_constraint=False), nullable=False),
    Column("due", BigInteger, nullable=False),
    Column("token", Text),
    Column("holder", Text),
    Column("lease_until", BigInteger),
    Column("attempt", Integer, nullable=False),
    Column("reason", Text),
    Column("enqueued_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    UniqueConstraint("lane", "id"),
    CheckConstraint("state IN (0, 1, 2, 3)", name="state"),
    # With the unique head of a lane, this makes one claim at a time a matter of the schema.
    CheckConstraint("state <> 1 OR head", name="claimed_is_head"),
    CheckConstraint("state < 2 OR NOT head", name="finished_is_no_head"),
    Index(
        "ix_messages_ready",
        "seq",
        info=where("state = 0 AND head AND due = 0"),
    ),
    Index(
        "ix_messages_delayed",
        "due",
        info=where("state = 0 AND due > 0"),
    ),
    Index(
        "uq_messages_head_of_lane",
        "lane",
        unique=True,
        info=where("head AND exclusive"),
    ),
    Index(
        "ix_messages_unfinished",
        "lane",
        "seq",
        "exclusive",
        info=where("state < 2"),
    ),
    Index("ix_messages_leased", "lease_until", info=where("state = 1")),
    Index(
        "ix_messages_finished",
        "state",
        "finished_at",
        info=where("state >= 2"),
    ),
    sqlite_autoincrement=True,
)
"""The SQL queue; `state`: 0 waiting, 1 claimed, 2 confirmed, 3 dead-lettered. `queue.sql.statements` tells the rest."""
