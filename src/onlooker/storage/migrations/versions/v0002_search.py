"""What search stores: see `storage.search_tables`."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision = "0002"
down_revision = "0001"

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TERMS = sa.Text().with_variant(TSVECTOR(), "postgresql")

# Terms come ready from the analyser with blanks between them: whatever stands between two blanks is one token.
FTS5 = """
CREATE VIRTUAL TABLE search_terms USING fts5(
    terms, content='search_entries', content_rowid='number',
    tokenize="ascii tokenchars '!#$%&()*+,-./:;<=>?@[\\]^_`{|}~'"
)
"""


def upgrade() -> None:
    """Make the tables of both databases, then those of this one."""
    op.create_table(
        "search_projects",
        sa.Column("number", SERIAL, autoincrement=True, nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("notes", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_search_projects_project_id_team_id"),
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_search_projects")),
        sa.UniqueConstraint("project_id", name=op.f("uq_search_projects_project_id")),
    )
    op.create_table(
        "search_entries",
        sa.Column("number", SERIAL, autoincrement=True, nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("observation_id", sa.Text(), nullable=False),
        sa.Column("session_id", sa.Text(), nullable=True),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("terms", TERMS, nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "observation_id"],
            ["observations.project_id", "observations.id"],
            name=op.f("fk_search_entries_project_id_observation_id"),
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_search_entries_project_id_team_id"),
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_search_entries")),
        sa.UniqueConstraint("project_id", "observation_id", name=op.f("uq_search_entries_project_id_observation_id")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_search_entries_session_id_number"), "search_entries", ["session_id", "number"], unique=False
    )
    op.create_index(
        op.f("ix_search_entries_project_id_number"), "search_entries", ["project_id", "number"], unique=False
    )
    if op.get_bind().dialect.name == "sqlite":
        op.get_bind().exec_driver_sql(FTS5)
        op.get_bind().exec_driver_sql("CREATE VIRTUAL TABLE search_vocabulary USING fts5vocab(search_terms, row)")
    else:
        _count_terms_on_postgres()


def _count_terms_on_postgres() -> None:
    # Without fastupdate: a pending list is searched line by line, up to 4 MB of it, by every search.
    op.create_index(
        "ix_search_entries_terms",
        "search_entries",
        ["terms"],
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )
    op.create_table(
        "search_frequencies",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("term", sa.Text(), nullable=False),
        sa.Column("notes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"],
            ["projects.id", "projects.team_id"],
            name=op.f("fk_search_frequencies_project_id_team_id"),
        ),
        sa.PrimaryKeyConstraint("project_id", "term", name=op.f("pk_search_frequencies")),
    )
    op.create_table(
        "search_uncounted",
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["number"],
            ["search_entries.number"],
            name=op.f("fk_search_uncounted_number_search_entries"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_search_uncounted")),
    )
