from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from databases import copy_sqlite
from onlooker.settings import Settings, load_settings
from served import Site, site_with


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def sqlite_url(prepared_sqlite: Path, tmp_path: Path) -> str:
    """The URL of a migrated SQLite file: for tests in which the database makes no difference."""
    return copy_sqlite(prepared_sqlite, tmp_path / "onlooker.db")


@pytest.fixture
def settings(home: Path, sqlite_url: str) -> Settings:
    return load_settings(home=home, database_url=sqlite_url)


@pytest_asyncio.fixture
async def site(settings: Settings) -> AsyncIterator[Site]:
    """A server on SQLite, without a worker: jobs stay queued."""
    async with site_with(settings) as served:
        yield served


@pytest_asyncio.fixture
async def client(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    """A client with our admin's key."""
    async with site.client(site.ours.key) as opened:
        yield opened


@pytest_asyncio.fixture
async def their_client(site: Site) -> AsyncIterator[httpx.AsyncClient]:
    """A client with the other team's key."""
    async with site.client(site.theirs.key) as opened:
        yield opened


@pytest_asyncio.fixture
async def working_site(settings: Settings) -> AsyncIterator[Site]:
    """A server on SQLite with a worker in it."""
    async with site_with(settings, with_worker=True) as served:
        yield served


@pytest_asyncio.fixture
async def either_site(home: Path, database_url: str) -> AsyncIterator[Site]:
    """A server without a worker, on SQLite and on Postgres."""
    async with site_with(load_settings(home=home, database_url=database_url)) as served:
        yield served
