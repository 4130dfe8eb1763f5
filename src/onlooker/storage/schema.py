"""Bring a database to the schema of this code, once, however many processes start at the same time."""

from importlib.resources import as_file, files

from sqlalchemy import inspect, select, update

from onlooker import __version__
from onlooker.domain.errors import Misconfigured
from onlooker.storage import dialect, tables
from onlooker.storage.database import Connection, Database, SqliteDatabase

SCHEMA_VERSION = "0015"
"""The newest migration. A database that has it needs no Alembic, whose import costs a start 44 ms."""

OLDEST_CODE = "0.1.0"
"""The oldest version of this code that may run on the schema; older code refuses to start."""

MIGRATION_LOCK = "onlooker.migrations"


async def prepare(database: Database) -> None:
    """Migrate the database where it is behind and, on SQLite, share the clock of this boot.

    Safe when several processes start at once, and again at every start. Raises `Misconfigured` where the database
    needs newer code than this.
    """
    if await database.read(installed_version) != SCHEMA_VERSION:
        await database.alone(_migrate)
    if isinstance(database, SqliteDatabase) and await database.tx(database.share_clock):
        await database.tx(_forget_due_times)


def installed_version(conn: Connection) -> str | None:
    """The schema's version; None where there is none yet. Raises `Misconfigured` where this code is too old for it."""
    if not inspect(conn).has_table(tables.schema_info.name):
        return None
    row = conn.execute(select(tables.schema_info.c.version, tables.schema_info.c.oldest_code)).one_or_none()
    if row is None:
        return None
    if _as_numbers(row.oldest_code) > _as_numbers(__version__):
        raise Misconfigured(
            [f"the database needs Onlooker {row.oldest_code} or newer and this is {__version__}: update Onlooker"]
        )
    return str(row.version)


def _migrate(conn: Connection) -> None:
    """Run what is missing, under a lock; whoever comes second finds it done."""
    dialect.lock_keys(conn, [MIGRATION_LOCK])
    installed = installed_version(conn)
    if installed is not None and installed >= SCHEMA_VERSION:
        return
    from alembic import command
    from alembic.config import Config

    with as_file(files("onlooker.storage") / "migrations") as scripts:
        config = Config()
        config.set_main_option("script_location", str(scripts))
        config.attributes["connection"] = conn
        command.upgrade(config, "head")
    info = tables.schema_info
    changed = conn.execute(update(info).values(version=SCHEMA_VERSION, oldest_code=OLDEST_CODE))
    if not changed.rowcount:
        conn.execute(info.insert().values(id=1, version=SCHEMA_VERSION, oldest_code=OLDEST_CODE))


def _forget_due_times(conn: Connection) -> None:
    """A new boot has a new clock, so nothing may wait for a time that the old one told."""
    jobs, messages = tables.observation_generation_jobs, tables.messages
    conn.execute(update(jobs).where(jobs.c.next_attempt_at > 0).values(next_attempt_at=0, rung_at=0))
    conn.execute(update(jobs).where(jobs.c.status == "processing").values(lease_until=0))
    conn.execute(update(messages).where(messages.c.state == 0).values(due=0))
    conn.execute(update(messages).where(messages.c.state == 1).values(lease_until=0))


def _as_numbers(version: str) -> tuple[int, ...]:
    """`1.10.2` as (1, 10, 2), so that versions compare as people count."""
    return tuple(int(part) for part in version.split(".") if part.isdecimal())
