"""How long projects keep what they have."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the table; a project that is not in it keeps everything."""
    op.create_table(
        "retention",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("events_days", sa.Integer(), nullable=True),
        sa.Column("observations_days", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"], ["projects.id", "projects.team_id"], name=op.f("fk_retention_project_id_team_id")
        ),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_retention")),
    )
