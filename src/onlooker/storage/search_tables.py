"""What search stores, on both databases and on each.

Every note that may be found has one row in `search_entries` with its terms. On SQLite an FTS5 table indexes them
(`search_terms`, with `search_vocabulary` to count by); on Postgres they are a `tsvector` with a GIN index, and
`search_frequencies` counts them. These last, which one database has and the other has not, are made by the migration
and known here by name only.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    column,
    false,
    table,
    text,
)

from onlooker.storage.dialect import SearchTerms
from onlooker.storage.tables import Serial, metadata, owned_by_project, ownership

search_projects = Table(
    "search_projects",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    *ownership(),
    Column("notes", BigInteger, nullable=False, server_default=text("0")),
    UniqueConstraint("project_id"),
    owned_by_project(),
)
"""A project's short number, which stands before each of its terms, so that no two projects share a list of notes.

`notes` counts what is indexed; on Postgres without what `search_uncounted` holds.
"""

search_entries = Table(
    "search_entries",
    metadata,
    Column("number", Serial, primary_key=True, autoincrement=True),
    *ownership(),
    Column("observation_id", Text, nullable=False),
    Column("session_id", Text),
    Column("occurred_at", BigInteger, nullable=False),
    Column("length", Integer, nullable=False),
    Column("superseded", Boolean(create_constraint=False), nullable=False, server_default=false()),
    Column("terms", SearchTerms, nullable=False),
    UniqueConstraint("project_id", "observation_id"),
    ForeignKeyConstraint(["project_id", "observation_id"], ["observations.project_id", "observations.id"]),
    owned_by_project(),
    Index(None, "session_id", "number"),
    Index(None, "project_id", "number"),
    sqlite_autoincrement=True,
)
"""One row a note. `number` grows with each, so the greatest are the newest; `length` counts the terms of its text.

A note cannot be deleted while its entry is there: `search.remove_observations` first.
"""

search_terms = table("search_terms", column("rowid", BigInteger), column("search_terms", Text), column("terms", Text))
"""SQLite: the FTS5 table over `search_entries.terms`."""

search_vocabulary = table("search_vocabulary", column("term", Text), column("doc", BigInteger))
"""SQLite: in how many notes a term is, as FTS5 knows it."""

search_frequencies = table(
    "search_frequencies",
    column("team_id", Text),
    column("project_id", Text),
    column("term", Text),
    column("notes", BigInteger),
)
"""Postgres: in how many counted notes a term is."""

search_uncounted = table("search_uncounted", column("number", BigInteger))
"""Postgres: entries whose terms `search_frequencies` does not count yet."""

search_vectors = table(
    "search_vectors",
    column("serial", BigInteger),
    column("team_id", Text),
    column("project_id", Text),
    column("number", BigInteger),
    column("model", Text),
    column("vector"),
)
"""The vector of an entry, with the model that made it; gone with its entry. `serial` grows with each that is written.

16-bit floats: bytes on SQLite, and on a Postgres without pgvector; else pgvector's own `halfvec`.
"""

search_embedding = Table(
    "search_embedding",
    metadata,
    *ownership(),
    Column("model", Text, nullable=False),
    Column("embedded_to", BigInteger, nullable=False),
    PrimaryKeyConstraint("project_id"),
    owned_by_project(),
)
"""Up to which entry the notes of a project have their vectors; those before the first are made by a reindexing."""

search_reindexing = Table(
    "search_reindexing",
    metadata,
    *ownership(),
    Column("model", Text, nullable=False),
    Column("after_id", Text, nullable=False),
    Column("until_id", Text, nullable=False),
    Column("done", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    PrimaryKeyConstraint("project_id"),
    owned_by_project(),
)
"""How far the last reindexing of a project is: the notes up to `after_id` are done, and `until_id` is the last."""

ONLY_ON = {
    "sqlite": frozenset(
        {"search_terms", "search_vocabulary", "search_vectors"}
        | {f"search_terms_{part}" for part in ("data", "idx", "docsize", "config")}
    ),
    "postgresql": frozenset({"search_vectors", "search_frequencies", "search_uncounted", "ix_search_entries_terms"}),
}
"""Tables and indexes that `metadata` does not know, as each database has them."""
