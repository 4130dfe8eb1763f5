"""What hybrid search and reindexing store: see `storage.search_tables`."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

HALF_VECTOR_SINCE = (0, 7)
"""The version of pgvector from which on it has 16-bit vectors."""

INSUFFICIENT_PRIVILEGE = "42501"


def upgrade() -> None:
    """Make the table of vectors, as this database can hold them, and those of progress."""
    op.create_table(
        "search_vectors",
        sa.Column("serial", SERIAL, autoincrement=True, nullable=False),
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["number"], ["search_entries.number"], name=op.f("fk_search_vectors_number_search_entries"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"], ["projects.id", "projects.team_id"],
            name=op.f("fk_search_vectors_project_id_team_id"),
        ),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_search_vectors")),
        sa.UniqueConstraint("number", name=op.f("uq_search_vectors_number")),
        sqlite_autoincrement=True,
    )  # fmt: skip
    op.create_index(
        op.f("ix_search_vectors_project_id_model_serial"), "search_vectors", ["project_id", "model", "serial"]
    )
    _use_pgvector_where_it_is()
    op.add_column(
        "search_entries",
        sa.Column("superseded", sa.Boolean(create_constraint=False), server_default=sa.false(), nullable=False),
    )
    op.create_table(
        "search_embedding",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("embedded_to", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"], ["projects.id", "projects.team_id"],
            name=op.f("fk_search_embedding_project_id_team_id"),
        ),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_search_embedding")),
    )  # fmt: skip
    op.create_table(
        "search_reindexing",
        sa.Column("team_id", sa.Text(), nullable=False),
        sa.Column("project_id", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("after_id", sa.Text(), nullable=False),
        sa.Column("until_id", sa.Text(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("changed", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("finished_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id", "team_id"], ["projects.id", "projects.team_id"],
            name=op.f("fk_search_reindexing_project_id_team_id"),
        ),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_search_reindexing")),
    )  # fmt: skip


def _use_pgvector_where_it_is() -> None:
    """On a Postgres that has pgvector, and lets us have it, vectors are its 16-bit ones; else they stay bytes."""
    conn = op.get_bind()
    if conn.dialect.name != "postgresql":
        return
    offered = conn.exec_driver_sql(
        "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
    ).scalar_one_or_none()
    if offered is None or tuple(map(int, offered.split(".")[:2])) < HALF_VECTOR_SINCE:
        return
    try:
        with conn.begin_nested():
            conn.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector")
    except sa.exc.DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise
        return
    op.drop_column("search_vectors", "vector")
    op.execute("ALTER TABLE search_vectors ADD COLUMN vector halfvec NOT NULL")
