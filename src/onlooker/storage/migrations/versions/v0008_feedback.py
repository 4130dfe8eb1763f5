"""What readers say of observations."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "observation_feedback",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("observation_id", sa.Text(), nullable=False),
        sa.Column("reader", sa.Text(), nullable=False),
        sa.Column("verdict", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["observation_id", "project_id"],
            ["observations.id", "observations.project_id"],
            name=op.f("fk_observation_feedback_observation_id_project_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_observation_feedback_project_id_team_id"),
        ),
        sa.PrimaryKeyConstraint("observation_id", "reader", name=op.f("pk_observation_feedback")),
    )
