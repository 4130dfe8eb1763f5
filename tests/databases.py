"""Databases that are ready for use: the schema is migrated once a test run, and each test gets a copy."""

import asyncio
import shutil
from pathlib import Path

from onlooker.storage import schema
from onlooker.storage.database import open_database

KINDS = ("sqlite", "postgres")


def prepare_now(url: str) -> None:
    """Migrate the database of a URL, and close it again."""

    async def migrate() -> None:
        async with open_database(url) as database:
            await schema.prepare(database)

    asyncio.run(migrate())


def copy_sqlite(prepared: Path, into: Path) -> str:
    """The URL of a copy of a prepared file that nobody has open."""
    shutil.copyfile(prepared, into)
    return f"sqlite:///{into}"
