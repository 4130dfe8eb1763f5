"""An index by which a timeline finds the prompts of a time."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

IS_PROMPT = sa.text("event_type = 'user_prompt'")


def upgrade() -> None:
    """Index the prompts alone: of the events of a session they are the fewest."""
    op.create_index(
        "ix_agent_events_prompts",
        "agent_events",
        ["team_id", "project_id", "occurred_at"],
        sqlite_where=IS_PROMPT,
        postgresql_where=IS_PROMPT,
    )
