"""Count the money of calls in flight against caps too, not their tokens alone."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Add the column; jobs that are processing now have reserved no money."""
    reserved = sa.Column("reserved_microusd", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    op.add_column("observation_generation_jobs", reserved)
