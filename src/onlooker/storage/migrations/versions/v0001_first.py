"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make every table and index."""
    op.create_table(
        "audit_log",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=True),
        sa.Column("api_key_id", sa.Text(), nullable=True),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subject_type", sa.Text(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=True),
        sa.Column("detail", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_log")),
    )
    op.create_index(op.f("ix_audit_log_team_id_created_at"), "audit_log", ["team_id", "created_at"], unique=False)
    op.create_table(
        "messages",
        sa.Column("seq", SERIAL, autoincrement=True, nullable=False),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("exclusive", sa.Boolean(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("tool_name", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("head", sa.Boolean(), nullable=False),
        sa.Column("due", sa.BigInteger(), nullable=False),
        sa.Column("token", sa.Text(), nullable=True),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("enqueued_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("state < 2 OR NOT head", name=op.f("ck_messages_finished_is_no_head")),
        sa.CheckConstraint("state <> 1 OR head", name=op.f("ck_messages_claimed_is_head")),
        sa.CheckConstraint("state IN (0, 1, 2, 3)", name=op.f("ck_messages_state")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_messages")),
        sa.UniqueConstraint("lane", "id", name=op.f("uq_messages_lane_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_messages_delayed",
        "messages",
        ["due"],
        unique=False,
        sqlite_where=sa.text("state = 0 AND due > 0"),
        postgresql_where=sa.text("state = 0 AND due > 0"),
    )
    op.create_index(
        "ix_messages_finished",
        "messages",
        ["state", "finished_at"],
        unique=False,
        sqlite_where=sa.text("state >= 2"),
        postgresql_where=sa.text("state >= 2"),
    )
    op.create_index(
        "ix_messages_leased",
        "messages",
        ["lease_until"],
        unique=False,
        sqlite_where=sa.text("state = 1"),
        postgresql_where=sa.text("state = 1"),
    )
    op.create_index(
        "ix_messages_ready",
        "messages",
        ["seq"],
        unique=False,
        sqlite_where=sa.text("state = 0 AND head AND due = 0"),
        postgresql_where=sa.text("state = 0 AND head AND due = 0"),
    )
    op.create_index(
        "ix_messages_unfinished",
        "messages",
        ["lane", "seq", "exclusive"],
        unique=False,
        sqlite_where=sa.text("state < 2"),
        postgresql_where=sa.text("state < 2"),
    )
    op.create_index(
        "uq_messages_head_of_lane",
        "messages",
        ["lane"],
        unique=True,
        sqlite_where=sa.text("head AND exclusive"),
        postgresql_where=sa.text("head AND exclusive"),
    )
    op.create_table(
        "schema_info",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("oldest_code", sa.Text(), nullable=False),
        sa.Column("boot", sa.Text(), nullable=True),
        sa.Column("clock_offset_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("ck_schema_info_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schema_info")),
    )
    op.create_table(
        "teams",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
        sa.UniqueConstraint("name", name=op.f("uq_teams_name")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("heartbeat_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_index(op.f("ix_workers_heartbeat_at"), "workers", ["heartbeat_at"], unique=False)
    op.create_table(
        "projects",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_projects_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("id", "team_id", name=op.f("uq_projects_id_team_id")),
        sa.UniqueConstraint("team_id", "name", name=op.f("uq_projects_team_id_name")),
    )
    op.create_table(
        "team_members",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("member", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("role IN ('member', 'owner')", name=op.f("ck_team_members_role")),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_team_members_team_id")),
        sa.PrimaryKeyConstraint("team_id", "member", name=op.f("pk_team_members")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.Column("last_used_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"], ["projects.id", "projects.team_id"], name=op.f("fk_api_keys_project_id_team_id")
        ),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_api_keys_team_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("key_hash", name=op.f("uq_api_keys_key_hash")),
    )
    op.create_index(op.f("ix_api_keys_team_id_created_at"), "api_keys", ["team_id", "created_at"], unique=False)
    op.create_table(
        "import_offsets",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("path_hash", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("byte_offset", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_import_offsets_project_id_team_id"),
        ),
        sa.UniqueConstraint("project_id", "path_hash", name=op.f("uq_import_offsets_project_id_path_hash")),
    )
    op.create_table(
        "server_sessions",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("content_session_id", sa.Text(), nullable=True),
        sa.Column("external_session_id", sa.Text(), nullable=True),
        sa.Column("agent_id", sa.Text(), nullable=True),
        sa.Column("agent_type", sa.Text(), nullable=True),
        sa.Column("platform_source", sa.Text(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_server_sessions_project_id_team_id"),
        ),
        sa.PrimaryKeyConstraint("id", "project_id", name=op.f("pk_server_sessions")),
        sa.UniqueConstraint(
            "content_session_id", "project_id", name=op.f("uq_server_sessions_content_session_id_project_id")
        ),
        sa.UniqueConstraint(
            "external_session_id", "project_id", name=op.f("uq_server_sessions_external_session_id_project_id")
        ),
    )
    op.create_index(
        op.f("ix_server_sessions_team_id_project_id_started_at"),
        "server_sessions",
        ["team_id", "project_id", "started_at"],
        unique=False,
    )
    op.create_table(
        "tombstones",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_tombstones_project_id_team_id"),
        ),
        sa.UniqueConstraint("key_hash", "project_id", name=op.f("uq_tombstones_key_hash_project_id")),
    )
    op.create_table(
        "usage_daily",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("day", sa.Text(), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_microusd", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_usage_daily_project_id_team_id"),
        ),
        sa.UniqueConstraint(
            "project_id", "day", "provider", "model", name=op.f("uq_usage_daily_project_id_day_provider_model")
        ),
    )
    op.create_table(
        "agent_events",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("event_key", sa.Text(), nullable=False),
        sa.Column("api_key_id", sa.Text(), nullable=True),
        sa.Column("source_type", sa.Text(), nullable=False),
        sa.Column("source_adapter", sa.Text(), nullable=False),
        sa.Column("source_event_id", sa.Text(), nullable=True),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.Column("content_session_id", sa.Text(), nullable=True),
        sa.Column("memory_session_id", sa.Text(), nullable=True),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "source_type IN ('hook', 'worker', 'provider', 'server', 'api')", name=op.f("ck_agent_events_source_type")
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_agent_events_project_id_team_id"),
        ),
        sa.ForeignKeyConstraint(
            ["session_id", "project_id"],
            ["server_sessions.id", "server_sessions.project_id"],
            name=op.f("fk_agent_events_session_id_project_id"),
        ),
        sa.PrimaryKeyConstraint("id", "project_id", name=op.f("pk_agent_events")),
        sa.UniqueConstraint("event_key", "project_id", name=op.f("uq_agent_events_event_key_project_id")),
    )
    op.create_index(
        "ix_agent_events_batch",
        "agent_events",
        ["batch_id"],
        unique=False,
        sqlite_where=sa.text("batch_id IS NOT NULL"),
        postgresql_where=sa.text("batch_id IS NOT NULL"),
    )
    op.create_index("uq_agent_events_session_id_seq", "agent_events", ["session_id", "seq"], unique=True)
    op.create_table(
        "observation_generation_jobs",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("source_type", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("tool_name", sa.Text(), nullable=True),
        sa.Column("api_key_id", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("outages", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("held_reason", sa.Text(), nullable=True),
        sa.Column("held_since", sa.BigInteger(), nullable=True),
        sa.Column("next_attempt_at", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_token", sa.Text(), nullable=True),
        sa.Column("lease_until", sa.BigInteger(), nullable=True),
        sa.Column("leased_by", sa.Text(), nullable=True),
        sa.Column("rung_at", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("ring_wait_ms", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("prompt_version", sa.Text(), nullable=True),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("calls", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cost_microusd", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.Column("failed_at", sa.BigInteger(), nullable=True),
        sa.Column("cancelled_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(status = 'cancelled') = (cancelled_at IS NOT NULL)",
            name=op.f("ck_observation_generation_jobs_cancelled_at"),
        ),
        sa.CheckConstraint(
            "(status = 'completed') = (completed_at IS NOT NULL)",
            name=op.f("ck_observation_generation_jobs_completed_at"),
        ),
        sa.CheckConstraint(
            "(status = 'failed') = (failed_at IS NOT NULL)", name=op.f("ck_observation_generation_jobs_failed_at")
        ),
        sa.CheckConstraint(
            "(status = 'processing') = (lease_token IS NOT NULL)",
            name=op.f("ck_observation_generation_jobs_lease_token"),
        ),
        sa.CheckConstraint(
            "kind IN ('event', 'event-batch', 'summary', 'reindex', 'embed')",
            name=op.f("ck_observation_generation_jobs_kind"),
        ),
        sa.CheckConstraint(
            "source_type IN ('event', 'event-batch', 'turn', 'session', 'observation')",
            name=op.f("ck_observation_generation_jobs_source_type"),
        ),
        sa.CheckConstraint(
            "status IN ('queued', 'processing', 'completed', 'failed', 'cancelled')",
            name=op.f("ck_observation_generation_jobs_status"),
        ),
        sa.CheckConstraint("(session_id IS NULL) = (seq IS NULL)", name=op.f("ck_observation_generation_jobs_seq")),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_observation_generation_jobs_project_id_team_id"),
        ),
        sa.ForeignKeyConstraint(
            ["session_id", "project_id"],
            ["server_sessions.id", "server_sessions.project_id"],
            name=op.f("fk_observation_generation_jobs_session_id_project_id"),
        ),
        sa.PrimaryKeyConstraint("id", "project_id", name=op.f("pk_observation_generation_jobs")),
    )
    op.create_index(
        "ix_jobs_by_status", "observation_generation_jobs", ["team_id", "status", "created_at", "id"], unique=False
    )
    op.create_index(
        "ix_jobs_leased",
        "observation_generation_jobs",
        ["session_id", "lease_until"],
        unique=False,
        sqlite_where=sa.text("status = 'processing'"),
        postgresql_where=sa.text("status = 'processing'"),
    )
    op.create_index(
        "ix_jobs_list", "observation_generation_jobs", ["team_id", "project_id", "created_at", "id"], unique=False
    )
    op.create_index(
        "ix_jobs_live_without_session",
        "observation_generation_jobs",
        ["id"],
        unique=False,
        sqlite_where=sa.text("session_id IS NULL AND status IN ('queued', 'processing')"),
        postgresql_where=sa.text("session_id IS NULL AND status IN ('queued', 'processing')"),
    )
    op.create_index(
        "uq_jobs_live_of_session",
        "observation_generation_jobs",
        ["session_id", "seq"],
        unique=True,
        sqlite_where=sa.text("status IN ('queued', 'processing')"),
        postgresql_where=sa.text("status IN ('queued', 'processing')"),
    )
    op.create_table(
        "observations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("subtitle", sa.Text(), nullable=False),
        sa.Column("narrative", sa.Text(), nullable=False),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("concepts", sa.Text(), nullable=False),
        sa.Column("files_read", sa.Text(), nullable=False),
        sa.Column("files_modified", sa.Text(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("generation_key", sa.Text(), nullable=False),
        sa.Column("created_by_job_id", sa.Text(), nullable=True),
        sa.Column("provider", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("prompt_version", sa.Text(), nullable=True),
        sa.Column("platform_source", sa.Text(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("hidden", sa.Boolean(), nullable=False),
        sa.Column("superseded_by", sa.Text(), nullable=True),
        sa.Column("analyser_version", sa.Integer(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('bugfix', 'feature', 'refactor', 'change', 'discovery', 'decision', 'security_alert', 'security_note', 'summary', 'manual')",
            name=op.f("ck_observations_kind"),
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_observations_project_id_team_id"),
        ),
        sa.ForeignKeyConstraint(
            ["session_id", "project_id"],
            ["server_sessions.id", "server_sessions.project_id"],
            name=op.f("fk_observations_session_id_project_id"),
        ),
        sa.PrimaryKeyConstraint("id", "project_id", name=op.f("pk_observations")),
        sa.UniqueConstraint(
            "generation_key", "project_id", "team_id", name=op.f("uq_observations_generation_key_project_id_team_id")
        ),
    )
    op.create_index(op.f("ix_observations_created_by_job_id"), "observations", ["created_by_job_id"], unique=False)
    op.create_index(
        op.f("ix_observations_session_id_occurred_at"), "observations", ["session_id", "occurred_at"], unique=False
    )
    op.create_index(
        op.f("ix_observations_team_id_project_id_occurred_at"),
        "observations",
        ["team_id", "project_id", "occurred_at"],
        unique=False,
    )
    op.create_table(
        "turns",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"], ["projects.id", "projects.team_id"], name=op.f("fk_turns_project_id_team_id")
        ),
        sa.ForeignKeyConstraint(
            ["session_id", "project_id"],
            ["server_sessions.id", "server_sessions.project_id"],
            name=op.f("fk_turns_session_id_project_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_turns")),
        sa.UniqueConstraint("session_id", "ordinal", name=op.f("uq_turns_session_id_ordinal")),
    )
    op.create_table(
        "observation_generation_job_events",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), server_default=sa.text("''"), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id", "project_id"],
            ["observation_generation_jobs.id", "observation_generation_jobs.project_id"],
            name=op.f("fk_observation_generation_job_events_job_id_project_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_observation_generation_job_events")),
    )
    op.create_index(
        op.f("ix_observation_generation_job_events_job_id"),
        "observation_generation_job_events",
        ["job_id"],
        unique=False,
    )
    op.create_table(
        "observation_sources",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("observation_id", sa.Text(), nullable=False),
        sa.Column("source_type", sa.Text(), nullable=False),
        sa.Column("source_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("event_key", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["event_id", "project_id"],
            ["agent_events.id", "agent_events.project_id"],
            name=op.f("fk_observation_sources_event_id_project_id"),
        ),
        sa.ForeignKeyConstraint(
            ["observation_id", "project_id"],
            ["observations.id", "observations.project_id"],
            name=op.f("fk_observation_sources_observation_id_project_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_observation_sources_project_id_team_id"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_observation_sources")),
        sa.UniqueConstraint(
            "observation_id",
            "source_type",
            "source_id",
            name=op.f("uq_observation_sources_observation_id_source_type_source_id"),
        ),
    )
    op.create_index(op.f("ix_observation_sources_event_id"), "observation_sources", ["event_id"], unique=False)
