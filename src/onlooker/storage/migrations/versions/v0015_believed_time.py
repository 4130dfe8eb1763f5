"""How far the clock is believed by which old rows go."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """The first look fills them in."""
    op.add_column("schema_info", sa.Column("retention_at", sa.BigInteger()))
    op.add_column("schema_info", sa.Column("retention_looked_at", sa.BigInteger()))
