"""Have either side tell an event once."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Make the index of an event's tellers unique; of several names that one side has for it, one stays."""
    op.execute(
        "DELETE FROM utterances WHERE EXISTS (SELECT 1 FROM utterances AS other WHERE other.event_id = utterances.event_id "
        "AND other.project_id = utterances.project_id AND other.origin = utterances.origin "
        "AND other.event_key < utterances.event_key)"
    )
    op.drop_index(op.f("ix_utterances_event_id"), "utterances")
    op.create_index(
        "uq_utterances_event_id_project_id_origin", "utterances", ["event_id", "project_id", "origin"], unique=True
    )
