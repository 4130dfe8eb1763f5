"""An index by which a new session's context finds the few decisions among many notes."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

IS_WEIGHTY = sa.text("kind IN ('decision', 'manual', 'security_alert', 'security_note')")


def upgrade() -> None:
    """Index them alone: they are the fewest."""
    op.create_index(
        "ix_observations_weighty",
        "observations",
        ["team_id", "project_id", "occurred_at"],
        sqlite_where=IS_WEIGHTY,
        postgresql_where=IS_WEIGHTY,
    )
