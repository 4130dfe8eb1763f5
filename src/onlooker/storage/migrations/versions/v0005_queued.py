"""An index by which health finds the oldest job that waits, however many there are."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

IS_QUEUED = sa.text("status = 'queued' AND created_at >= 0")


def upgrade() -> None:
    """Index the waiting jobs alone: of all jobs they are the fewest."""
    op.create_index(
        "ix_jobs_queued",
        "observation_generation_jobs",
        ["created_at"],
        sqlite_where=IS_QUEUED,
        postgresql_where=IS_QUEUED,
    )
