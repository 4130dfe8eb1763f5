"""The migrated schema is the declared one, on both databases, and who may migrate."""

import asyncio
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, inspect, update
from sqlalchemy.exc import SAWarning

from onlooker.domain.errors import Misconfigured
from onlooker.storage import schema, search_tables, tables
from onlooker.storage.database import Connection, Database, open_database

STARTERS = 8


def differences(conn: Connection) -> list[str]:
    """What Alembic would still change to make the database what `tables` declares."""
    own = search_tables.ONLY_ON[conn.dialect.name]

    def is_declared(_item: object, name: str | None, kind: str, reflected: bool, _other: object) -> bool:
        return not (reflected and kind in {"table", "index"} and name in own)

    context = MigrationContext.configure(
        conn, opts={"include_object": is_declared, "compare_type": True, "compare_server_default": True}
    )
    with warnings.catch_warnings():
        # SQLite does not tell the expression of an index, and says so.
        warnings.simplefilter("ignore", SAWarning)
        return [str(difference) for difference in compare_metadata(context, tables.metadata)]


def checks(conn: Connection) -> dict[str, set[str | None]]:
    """The names of the CHECK constraints by table; Alembic does not compare them."""
    found = inspect(conn)
    return {
        name: {check["name"] for check in found.get_check_constraints(name)}
        for name in found.get_table_names()
        if name in tables.metadata.tables
    }


async def test_the_migrated_schema_is_the_declared_one(database: Database) -> None:
    assert await database.read(differences) == []


def partial_indexes(conn: Connection) -> dict[str, str]:
    """The condition of each partial index, without what Postgres adds to it when it tells one."""
    found = inspect(conn)
    option = f"{conn.dialect.name}_where"
    return {
        str(index["name"]): bare(str(index["dialect_options"][option]))
        for table in found.get_table_names()
        for index in found.get_indexes(table)
        if option in index.get("dialect_options", {})
    }


def bare(condition: str) -> str:
    listed = re.sub(r"= ANY \(+ARRAY\[(.*?)\]\)+", r"IN \1", condition.replace("::text", ""))
    return "".join(each for each in listed if each not in "() [] ")


async def test_every_partial_index_has_the_condition_that_is_declared(database: Database) -> None:
    declared = {
        str(index.name): bare(index.info["where"])
        for table in tables.metadata.sorted_tables
        for index in table.indexes
        if "where" in index.info
    }

    assert await database.read(partial_indexes) == declared


async def test_every_declared_check_is_there(database: Database) -> None:
    declared = {
        table.name: {str(each.name) for each in table.constraints if isinstance(each, CheckConstraint)}
        for table in tables.metadata.sorted_tables
    }

    assert await database.read(checks) == declared


async def test_processes_that_start_at_once_migrate_once(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path / 'new.db'}", request.getfixturevalue("postgres_database")):

        async def start(url: str = url) -> str | None:
            async with open_database(url) as database:
                await schema.prepare(database)
                return await database.read(schema.installed_version)

        versions = await asyncio.gather(*(start() for _ in range(STARTERS)))

        assert set(versions) == {schema.SCHEMA_VERSION}


def test_who_opens_a_new_file_while_others_do_waits_for_them(tmp_path: Path) -> None:
    all_are_there = threading.Barrier(STARTERS)

    async def write(url: str) -> None:
        async with open_database(url) as database:
            all_are_there.wait()
            await database.tx(lambda conn: conn.exec_driver_sql("SELECT 1"))

    with ThreadPoolExecutor(STARTERS) as threads:
        for number in range(100):
            url = f"sqlite:///{tmp_path / f'{number}.db'}"
            opened = [threads.submit(asyncio.run, write(url)) for _ in range(STARTERS)]
            for each in opened:
                each.result()


async def test_code_that_is_too_old_for_the_schema_is_refused(database: Database) -> None:
    newer = update(tables.schema_info).values(version="9999", oldest_code="999.0.0")
    await database.tx(lambda conn: conn.execute(newer))

    with pytest.raises(Misconfigured) as refusal:
        await schema.prepare(database)

    assert "999.0.0" in str(refusal.value)


async def test_a_newer_schema_that_still_knows_this_code_is_used_as_it_is(database: Database) -> None:
    await database.tx(lambda conn: conn.execute(update(tables.schema_info).values(version="9999")))

    await schema.prepare(database)

    assert await database.read(schema.installed_version) == "9999"
