"""Find what the other side told without reading what one's own did."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Put the side into the index: a long transcript that no hook was beside is all of one."""
    op.drop_index(op.f("ix_utterances_session_id_kind_occurred_at"), "utterances")
    op.create_index(
        op.f("ix_utterances_session_id_kind_origin_occurred_at"),
        "utterances",
        ["session_id", "kind", "origin", "occurred_at"],
    )
