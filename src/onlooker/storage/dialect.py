"""The few places where SQLite and Postgres differ, each behind one name.

SQLAlchemy speaks for the rest; code above this module is written once.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any
from typing import cast as cast_to

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Column,
    ColumnElement,
    CompoundSelect,
    Connection,
    Dialect,
    FunctionElement,
    Insert,
    Select,
    TableClause,
    Text,
    TextClause,
    TypeDecorator,
    bindparam,
    cast,
    func,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.types import NullType

from onlooker.domain.errors import StorageUnavailable

if TYPE_CHECKING:
    from sqlalchemy.dialects.postgresql import Insert as PostgresInsert
    from sqlalchemy.dialects.sqlite import Insert as SqliteInsert

SQLITE = "sqlite"
POSTGRES = "postgresql"

SQLITE_ROWS = (256, 32, 4, 1)
"""Rows of one INSERT; of so few sizes each is prepared once. The driver gives the interpreter away for each statement,
and gets it back up to 5 ms later where another thread computes: with one for each row batches mostly waited."""

SQLITE_UNAVAILABLE = frozenset({5, 6, 7, 8, 10, 11, 13, 14, 26})
"""Primary result codes: BUSY, LOCKED, NOMEM, READONLY, IOERR, CORRUPT, FULL, CANTOPEN, NOTADB."""

SQLITE_DAMAGED = frozenset({11, 26})
"""CORRUPT, NOTADB."""

POSTGRES_UNAVAILABLE_CLASSES = frozenset({"08", "53", "57", "58"})
"""SQLSTATE classes: connection, resources, operator intervention (shutdown), system error."""

POSTGRES_UNAVAILABLE = frozenset(
    {"25006", "25P03", "25P04", "55P03", "40P01", "40001", "3D000", "28000", "28P01", "42501"}
)
"""Read-only, transaction left idle or took too long, lock not available, deadlock, serialisation, no such database,
no entry for this client, bad password, a right is missing."""

POSTGRES_MEANS = {
    "08P01": "a pooler does not know this user, password or database, or does not reach Postgres; its log says which",
    "25006": "it takes no writes",
    "28000": "it does not let this user in from here",
    "28P01": "it does not take this user with this password",
    "3D000": "it has no database of this name",
    "42501": "this user lacks a right there; the owner of the database has all that are needed",
    "53100": "its disk is full",
    "53300": "it takes no more connections",
    "57014": "it ended a statement that took too long",
    "57P01": "it ended the connection",
    "57P03": "it is starting or stopping",
}
"""What an SQLSTATE means. Postgres' own words name users and databases, and health tells everybody what we say."""

POSTGRES_BRIEF = frozenset({"25P03", "25P04", "40001", "40P01", "55P03", "57014"})
"""What befalls one transaction, and no other for that."""

POSTGRES_RETRY = frozenset({"40P01", "40001"})


class database_now(GenericFunction[int]):  # noqa: N801 - it is spelled as the SQL function it is
    """The database's own clock in epoch milliseconds: the one that leases and due times are told in.

    On Postgres it goes on within a transaction (`now()` stands still while it waits for a lock). On SQLite
    `database.py` registers it: the steady clock of this boot, so that a clock that jumps moves no lease.
    """

    type = BigInteger()
    inherit_cache = True


@compiles(database_now, POSTGRES)
def _postgres_now(_element: database_now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"


class Texts(TypeDecorator[Sequence[str]]):
    """A parameter that is a list of texts, of any length: an array on Postgres, a JSON text on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """The type that the driver is given."""
        return dialect.type_descriptor(Text() if dialect.name == SQLITE else ARRAY(Text()))

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> Any:
        """The value that the driver is given."""
        return json.dumps(value) if dialect.name == SQLITE else value


class SearchTerms(TypeDecorator[str]):
    """Terms with their places: a `tsvector` on Postgres, text on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """The type that the database knows."""
        if dialect.name == SQLITE:
            return dialect.type_descriptor(Text())
        from sqlalchemy.dialects.postgresql import TSVECTOR

        return dialect.type_descriptor(TSVECTOR())


class SearchQuery(TypeDecorator[str]):
    """Postgres: a `tsquery`."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """The type that the database knows."""
        from sqlalchemy.dialects.postgresql import TSQUERY

        return dialect.type_descriptor(TSQUERY())


class among(FunctionElement[Any]):  # noqa: N801 - it reads as SQL does
    """Whether a column's value is in the list that the parameter `name` holds.

    The statement's text is the same for any length of list, so that it is compiled and prepared once.
    """

    name = "among"
    # As Boolean it would be written `… = 1` on SQLite, which then uses no index.
    type = NullType()
    inherit_cache = True

    def __init__(self, column: ColumnElement[Any], name: str, kind: TypeDecorator[Any] | None = None) -> None:
        super().__init__(column, bindparam(name, type_=kind or Texts()))


@compiles(among, POSTGRES)
def _postgres_among(element: among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = element.clauses
    return f"{compiler.process(column, **options)} = ANY ({compiler.process(values, **options)})"


@compiles(among, SQLITE)
def _sqlite_among(element: among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = element.clauses
    listed = compiler.process(values, **options)
    return f"{compiler.process(column, **options)} IN (SELECT value FROM json_each({listed}))"  # noqa: S608 - compiled names


class Numbers(Texts):
    """A parameter that is a list of whole numbers, of any length."""

    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        """The type that the driver is given."""
        return dialect.type_descriptor(Text() if dialect.name == SQLITE else ARRAY(BigInteger()))


def among_numbers(column: Column[Any], name: str) -> among:
    """`among` for whole numbers."""
    return among(column, name, Numbers())


_NOW = select(database_now())


def read_clock(conn: Connection) -> int:
    """The database's clock, in epoch milliseconds."""
    return int(fetch(conn, _NOW, {})[0][0])


_RECOVERED_AT = text("SELECT CAST(extract(epoch FROM stats_reset) * 1000000 AS BIGINT) FROM pg_stat_bgwriter")


def recovered_at(conn: Connection) -> int:
    """On Postgres: a number that a crash changes, which may have undone commits that did not wait for the disk.

    Postgres keeps its statistics over a shutdown in order, and begins them anew when it recovers from anything else; a
    standby that was promoted has its own. Microseconds of the epoch.
    """
    return int(conn.execute(_RECOVERED_AT).scalar_one() or 0)


def is_sqlite(conn: Connection) -> bool:
    """Whether this connection is to SQLite."""
    return conn.dialect.name == SQLITE


_LOCKS = text("SELECT pg_advisory_xact_lock(hashtextextended(k, 0)) FROM unnest(CAST(:keys AS TEXT[])) AS k")


def lock_keys(conn: Connection, keys: Iterable[str]) -> None:
    """Hold these names until the transaction ends, in sorted order so that two transactions cannot wait in a ring.

    A statement of its own: under READ COMMITTED the statements after it see what was committed before the lock was
    given. SQLite's transactions are BEGIN IMMEDIATE, which is this lock and more.
    """
    if not is_sqlite(conn) and (wanted := sorted(set(keys))):
        fetch(conn, _LOCKS, {"keys": wanted})


_CUSTOM_PLANS = text("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")


_TRY_LOCKS = text(
    "SELECT k FROM unnest(CAST(:keys AS TEXT[])) AS k WHERE pg_try_advisory_xact_lock(hashtextextended(k, 0))"
)


def try_lock_keys(conn: Connection, keys: Iterable[str]) -> set[str]:
    """Hold those of these names that nobody else holds, until the transaction ends; which these are."""
    wanted = set(keys)
    if is_sqlite(conn) or not wanted:
        return wanted
    return {row[0] for row in fetch(conn, _TRY_LOCKS, {"keys": sorted(wanted)})}


def plan_by_values(conn: Connection) -> None:
    """For the rest of the transaction, plan each statement for the values that it is given.

    From the sixth run on Postgres takes a plan that fits any value; where a common word and a rare one need different
    ones, that costs ten times what the planning saves.
    """
    if not is_sqlite(conn):
        conn.execute(_CUSTOM_PLANS)


def try_lock(conn: Connection, key: str) -> bool:
    """Take a name until the transaction ends, if nobody has it; on SQLite nobody else can be in a transaction."""
    if is_sqlite(conn):
        return True
    taken = select(func.pg_try_advisory_xact_lock(func.hashtextextended(key, 0)))
    return bool(conn.execute(taken).scalar_one())


def rows_as_json(backend: str, *columns: ColumnElement[Any]) -> ColumnElement[Any]:
    """All rows of a subquery in one value: a JSON list of lists, in no order; empty or NULL for none."""
    if backend == SQLITE:
        return func.json_group_array(func.json_array(*columns))
    return func.json_agg(func.json_build_array(*columns)).cast(Text)


def insert_into(table: TableClause, backend: str) -> "PostgresInsert | SqliteInsert":
    """An INSERT that can say what to do about a row that is there, as this database has it.

    Both can; their modules are imported when needed, since the one of Postgres costs a start a twentieth.
    """
    if backend == SQLITE:
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)


Statement = Select[Any] | CompoundSelect[Any] | UpdateBase | TextClause


def fetch(conn: Connection, statement: Statement, values: Mapping[str, Any]) -> list[Any]:
    """The rows of a statement that runs again and again. Its values are texts, numbers, None, and lists for `Texts`.

    On SQLite it goes to the driver at once, and rows are the driver's tuples (a boolean is 0 or 1): what SQLAlchemy
    does for each statement takes several times what SQLite does. Give statements that are made once.
    """
    if not is_sqlite(conn):
        return list(conn.execute(statement, values).all())
    return _run_on_sqlite(conn, *_as_sqlite_reads(conn, statement, values))[0]


def change(conn: Connection, statement: Statement, values: Mapping[str, Any]) -> int:
    """How many rows a statement writes that gives none back; else as `fetch`."""
    if not is_sqlite(conn):
        return conn.execute(statement, values).rowcount
    return _run_on_sqlite(conn, *_as_sqlite_reads(conn, statement, values))[1]


def _as_sqlite_reads(conn: Connection, statement: Statement, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """The text of a statement, and what is given for its places."""
    text, names, constants = _written(statement, conn.dialect)
    given = map({**constants, **values}.__getitem__, names)
    return text, [json.dumps(value) if isinstance(value, list) else value for value in given]


def run_on_sqlite(conn: Connection, text: str, given: Sequence[Any] = ()) -> list[Any]:
    """The rows of a statement as SQLite reads it, past SQLAlchemy, whose error this raises. For what runs most."""
    return _run_on_sqlite(conn, text, given)[0]


def _run_on_sqlite(conn: Connection, text: str, given: Sequence[Any]) -> tuple[list[Any], int]:
    """The rows, and how many were written."""
    try:
        cursor = _driver_of(conn).execute(text, given)
        return cursor.fetchall(), cursor.rowcount
    except sqlite3.Error as error:
        raise DBAPIError(text, None, error, hide_parameters=True) from error


@cache
def _written(statement: Statement, spoken: Dialect) -> tuple[str, tuple[str, ...], dict[str, Any]]:
    """A statement's text, the names of its parameters in order, and the values of those that it has itself."""
    compiled = statement.compile(dialect=spoken)
    names = tuple(compiled.positiontup or ())
    return compiled.string, names, {name: given.value for name, given in compiled.binds.items() if not given.required}


def _driver_of(conn: Connection) -> sqlite3.Connection:
    return cast_to("sqlite3.Connection", conn.connection.driver_connection)


def insert_new(conn: Connection, table: TableClause, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> int:
    """Insert the rows whose keys are new and leave those that are known; the count of new ones.

    The rows are written in the order given; sort them by key where several processes may write the same keys.
    """
    if not rows:
        return 0
    if is_sqlite(conn):
        return sum(
            _run_on_sqlite(conn, _sqlite_insert(table, names, len(part)), list(chain.from_iterable(part)))[1]
            for part in _in_parts(rows)
        )
    if len(rows) == 1:
        return change(conn, _postgres_insert_one(table, names), dict(zip(names, rows[0], strict=True)))
    columns = zip(*rows, strict=True)
    return change(conn, _postgres_insert(table, names), dict(zip(names, map(list, columns), strict=True)))


def _in_parts(rows: Sequence[tuple[Any, ...]]) -> Iterator[Sequence[tuple[Any, ...]]]:
    """The rows in order, in parts of the sizes that statements have."""
    start = 0
    for size in SQLITE_ROWS:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


@cache
def _sqlite_insert(table: TableClause, names: tuple[str, ...], rows: int) -> str:
    """Plain text for tuples: compiled parameters cost a fifth of the throughput."""
    row = f"({', '.join('?' for _ in names)})"
    values = ", ".join([row] * rows)
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {values} ON CONFLICT DO NOTHING"  # noqa: S608 - names of declared columns


@cache
def _postgres_insert(table: TableClause, names: tuple[str, ...]) -> Insert:
    """One array a column: a batch of any size is one statement that is prepared once."""
    arrays = [cast(bindparam(name), ARRAY(table.c[name].type)) for name in names]
    given = func.unnest(*arrays).table_valued(*names, name="given").render_derived()
    return insert_into(table, POSTGRES).from_select(list(names), select(*given.c)).on_conflict_do_nothing()


@cache
def _postgres_insert_one(table: TableClause, names: tuple[str, ...]) -> Insert:
    """For one row: of an array the driver looks at every value several times."""
    given: dict[str, Any] = {name: bindparam(name) for name in names}
    return insert_into(table, POSTGRES).values(given).on_conflict_do_nothing().inline()


def unavailable(error: DBAPIError, *, outcome_unknown: bool = False) -> StorageUnavailable | None:
    """What a driver's error means to a caller: the database is not there, or (None) the statement was wrong.

    Decided by result code or SQLSTATE, never by words; the message names the kind of failure and no row's content.
    """
    cause = error.orig
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        if code & 0xFF not in SQLITE_UNAVAILABLE:
            return None
        name = getattr(cause, "sqlite_errorname", "SQLITE_ERROR")
        return StorageUnavailable(
            f"the database answered {name}: {cause}",
            outcome_unknown=outcome_unknown,
            is_damaged=code & 0xFF in SQLITE_DAMAGED,
        )
    state = getattr(cause, "sqlstate", None)
    if state is None:
        lost = error.connection_invalidated or isinstance(getattr(cause, "__cause__", None), OSError)
        if not lost and not isinstance(cause, OSError):
            return None
        return StorageUnavailable("the connection to the database is gone", outcome_unknown=outcome_unknown)
    return unavailable_state(state, outcome_unknown=outcome_unknown)


def unavailable_state(state: str, *, outcome_unknown: bool = False) -> StorageUnavailable | None:
    """The same for an SQLSTATE of Postgres."""
    if state[:2] in POSTGRES_UNAVAILABLE_CLASSES or state in POSTGRES_UNAVAILABLE:
        meaning = f" ({POSTGRES_MEANS[state]})" if state in POSTGRES_MEANS else ""
        return StorageUnavailable(
            f"the database answered SQLSTATE {state}{meaning}",
            outcome_unknown=outcome_unknown,
            is_brief=state in POSTGRES_BRIEF,
        )
    return None


def worth_retrying(error: DBAPIError) -> bool:
    """Whether the same transaction can succeed when run again at once: a deadlock's loser, or on a new connection.

    After a restart of the server each pool meets its old connections; only a lost reply to a commit is no such case.
    """
    return error.connection_invalidated or getattr(error.orig, "sqlstate", None) in POSTGRES_RETRY
