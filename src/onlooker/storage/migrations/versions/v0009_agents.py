"""What the agents' side needs: which folder is which project, what hooks and transcripts both tell, open sessions."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Make three tables, a column and an index."""
    op.create_table(
        "project_places",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("place_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_project_places_project_id_team_id"),
        ),
        sa.PrimaryKeyConstraint("place_hash", "team_id", name=op.f("pk_project_places")),
    )
    op.create_table(
        "utterances",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("event_key", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("text_hash", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("origin IN ('hook', 'transcript')", name=op.f("ck_utterances_origin")),
        sa.ForeignKeyConstraint(
            ["event_id", "project_id"],
            ["agent_events.id", "agent_events.project_id"],
            name=op.f("fk_utterances_event_id_project_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_utterances_project_id_team_id"),
        ),
        sa.PrimaryKeyConstraint("event_key", "project_id", name=op.f("pk_utterances")),
    )
    op.create_index(op.f("ix_utterances_event_id"), "utterances", ["event_id"], unique=False)
    op.create_index(
        op.f("ix_utterances_session_id_kind_occurred_at"),
        "utterances",
        ["session_id", "kind", "occurred_at"],
        unique=False,
    )
    op.create_table(
        "session_transcripts",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=False),
        sa.Column("platform_source", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("noted_at", sa.BigInteger(), nullable=False),
        sa.Column("over_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_session_transcripts_project_id_team_id"),
        ),
        sa.ForeignKeyConstraint(
            ["session_id", "project_id"],
            ["server_sessions.id", "server_sessions.project_id"],
            name=op.f("fk_session_transcripts_session_id_project_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("session_id", "project_id", name=op.f("pk_session_transcripts")),
    )
    op.add_column("server_sessions", sa.Column("endings", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.execute("UPDATE server_sessions SET endings = 1 WHERE ended_at IS NOT NULL")
    op.create_index(
        "ix_server_sessions_open",
        "server_sessions",
        ["started_at"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
