"""A database's URL, which may name several hosts."""

import socket

import pytest

from onlooker.domain.errors import Misconfigured, StorageUnavailable
from onlooker.storage.database import open_database
from onlooker.storage.urls import each_host, hide_passwords, parse_url
from servers import LOOPBACK


def test_several_hosts_are_told_apart_and_all_else_is_the_same_for_each() -> None:
    url = parse_url("postgresql://me:p%40ss@one:5433,two/tally?target_session_attrs=read-write")
    assert [each.render_as_string(hide_password=False) for each in each_host(url)] == [
        "postgresql://me:p%40ss@/tally?host=one%3A5433&target_session_attrs=read-write",
        "postgresql://me:p%40ss@/tally?host=two&target_session_attrs=read-write",
    ]
    assert [each.query["host"] for each in each_host(parse_url("postgres://one,two"))] == ["one", "two"]


def test_one_host_and_a_file_stay_as_they_are() -> None:
    url = "postgresql://me:pass@one:5433/tally"
    assert [each.render_as_string(hide_password=False) for each in each_host(parse_url(url))] == [url]
    assert parse_url("sqlite:////home/me/a,b.db").database == "/home/me/a,b.db"


@pytest.mark.parametrize("url", ["postgresql://one:x/tally", "postgresql:/one"])
def test_what_is_no_url_is_said_without_what_is_secret(url: str) -> None:
    with pytest.raises(Misconfigured, match="ONLOOKER_DATABASE_URL cannot be read"):
        parse_url(url)


@pytest.mark.parametrize(
    "url, shown",
    [
        ("postgresql://me:secret@one/tally", "postgresql://me:***@one/tally"),
        ("postgresql://me:secret@x@one/tally", "postgresql://me:***@one/tally"),
        ("redis://:sec/ret@one:6379/0", "redis://:***@one:6379/0"),
        ("postgresql://one/tally?user=me&password=secret&sslmode=require",
         "postgresql://one/tally?user=me&password=***&sslmode=require"),
        ("postgresql://one/tally?sslkey=/x&sslpassword=secret", "postgresql://one/tally?sslkey=/x&sslpassword=***"),
        ("postgresql://me@one:5432/tally", "postgresql://me@one:5432/tally"),
        ("sqlite:////home/me@work/a.db", "sqlite:////home/me@work/a.db"),
    ],
)  # fmt: skip
def test_a_password_is_not_shown_wherever_it_stands(url: str, shown: str) -> None:
    assert hide_passwords(url) == shown


async def test_what_a_database_is_called_has_no_password() -> None:
    async with open_database("postgresql://one/tally?user=me&password=secret&sslpassword=secret") as database:
        assert "secret" not in database.url
        assert "one/tally" in database.url


@pytest.mark.parametrize("url", ["postgresql://me:secret@x@one/tally", "postgresql://me:secret@x@one,two/tally"])
def test_a_password_that_is_not_escaped_is_said(url: str) -> None:
    with pytest.raises(Misconfigured, match="%40") as told:
        parse_url(url)
    assert "secret" not in str(told.value)


async def test_a_host_that_is_gone_without_a_word_leaves_time_for_the_next(postgres_database_prepared: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:  # takes connections and says nothing
        gone = f"{LOOPBACK}:{silent.getsockname()[1]}"
        head, _, rest = postgres_database_prepared.rpartition("@")
        async with open_database(f"{head}@{gone},{rest}", timeout_s=4) as database:
            assert await database.read(lambda conn: conn.exec_driver_sql("SELECT 1").scalar_one()) == 1
        async with open_database(f"{head}@{gone},{gone}/none", timeout_s=1) as database:
            with pytest.raises(StorageUnavailable):
                await database.read(lambda conn: conn.exec_driver_sql("SELECT 1").scalar_one())
