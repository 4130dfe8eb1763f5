"""What bounds the cost of generation: caps, policies and reservations."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

JOBS = "observation_generation_jobs"


def upgrade() -> None:
    """Add columns, each with a default, and tables."""
    op.add_column("projects", sa.Column("generation_policy", sa.Text(), nullable=True))
    op.add_column(JOBS, sa.Column("source_bytes", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column(JOBS, sa.Column("reserved_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column(JOBS, sa.Column("usage_token", sa.Text(), nullable=True))
    op.create_index(
        "ix_jobs_held",
        JOBS,
        ["team_id", "project_id"],
        unique=False,
        sqlite_where=sa.text("held_reason IS NOT NULL"),
        postgresql_where=sa.text("held_reason IS NOT NULL"),
    )
    op.create_index(op.f("ix_usage_daily_team_id_day"), "usage_daily", ["team_id", "day"], unique=False)
    op.create_table(
        "usage_caps",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("reach", sa.Text(), nullable=False),
        sa.Column("period", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["team_id"], ["teams.id"], name=op.f("fk_usage_caps_team_id")),
        sa.PrimaryKeyConstraint("team_id", "reach", "period", "unit", name=op.f("pk_usage_caps")),
    )
