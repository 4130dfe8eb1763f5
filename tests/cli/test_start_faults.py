"""A start that cannot work says why in one line and what to do, and ends with 2."""

import os
import socket
import sqlite3
import time
from urllib.parse import urlsplit

import pytest

from cli_runner import Cli
from postgres_admin import admin_execute
from servers import PostgresServer, RedisServer, free_port

QUICK = {"ONLOOKER_STARTUP_WAIT_S": "0.2"}


def refused(cli: Cli, **settings: str) -> str:
    """What `serve` says when it cannot start."""
    ended = cli.run("serve", env={**QUICK, **settings}, bound_by_modes=True)
    assert (ended.code, ended.out) == (2, ""), ended
    said = [line for line in ended.err.splitlines() if not line.startswith("{")]
    assert len(said) == 1, ended.err
    assert "Traceback" not in ended.err
    return said[0]


def test_a_file_that_is_no_database_is_named(cli: Cli) -> None:
    cli.home.mkdir(parents=True)
    (cli.home / "onlooker.db").write_bytes(os.urandom(8192))
    said = refused(cli, ONLOOKER_STARTUP_WAIT_S="600")  # nobody waits for what does not come back
    assert "onlooker.db" in said
    assert "SQLITE_NOTADB" in said


def test_a_database_that_is_newer_says_which_version_it_needs(cli: Cli) -> None:
    cli.succeed("keys", "list")
    with sqlite3.connect(cli.home / "onlooker.db") as database:
        database.execute("UPDATE schema_info SET version = '0099', oldest_code = '9.0.0'")
    database.close()
    assert "needs Onlooker 9.0.0 or newer" in refused(cli)


def test_a_database_file_that_cannot_be_written_is_named(cli: Cli) -> None:
    cli.succeed("keys", "list")
    (cli.home / "onlooker.db").chmod(0o444)
    try:
        assert "onlooker.db cannot be opened: Permission denied" in refused(cli)
    finally:
        (cli.home / "onlooker.db").chmod(0o600)


def test_a_port_in_use_is_named_with_what_to_set(cli: Cli) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = refused(cli, ONLOOKER_PORT=port)
    assert f"127.0.0.1:{port}" in said
    assert "ONLOOKER_PORT" in said


def test_a_redis_that_is_not_there_is_named_without_its_password(cli: Cli) -> None:
    port = free_port()
    said = refused(cli, ONLOOKER_QUEUE_ENGINE="bullmq", ONLOOKER_REDIS_URL=f"redis://:secret@127.0.0.1:{port}/3")
    assert f"Redis at 127.0.0.1:{port}/3" in said
    assert "secret" not in said


def test_a_redis_that_refuses_the_password_is_named(cli: Cli, redis_url: str) -> None:
    wrong = urlsplit(redis_url)
    url = f"redis://:wrong@{wrong.hostname}:{wrong.port}"
    said = refused(cli, ONLOOKER_QUEUE_ENGINE="bullmq", ONLOOKER_REDIS_URL=url)
    assert f"{wrong.hostname}:{wrong.port}" in said


@pytest.mark.parametrize("given", [{}, {"ONLOOKER_REDIS_URL": "redis://one", "ONLOOKER_REDIS_HOST": "two"}])
def test_a_queue_in_redis_needs_one_address(cli: Cli, given: dict[str, str]) -> None:
    said = refused(cli, ONLOOKER_QUEUE_ENGINE="bullmq", **given)
    assert "ONLOOKER_REDIS_URL" in said
    assert "ONLOOKER_REDIS_HOST" in said


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("ONLOOKER_DATABASE_URL", "postgresql://x:hidden@127.0.0.1:1/z", "cannot be reached"),
        ("ONLOOKER_DATABASE_URL", "mysql://x/y", "must begin with sqlite:/// or postgresql://"),
        ("ONLOOKER_QUEUE_ENGINE", "bullmq", "ONLOOKER_QUEUE_ENGINE"),
        ("ONLOOKER_PROVIDER", "gpt", "ONLOOKER_PROVIDER"),
        ("ONLOOKER_PROVIDER", "scripted", "ONLOOKER_ALLOW_TEST_PROVIDER"),
    ],
)
def test_a_choice_that_is_not_there_ends_the_start(cli: Cli, name: str, value: str, expected: str) -> None:
    said = refused(cli, **{name: value})
    assert expected in said
    assert "hidden" not in said


def test_a_postgres_that_is_not_there_is_waited_for_and_that_is_said(cli: Cli) -> None:
    began = time.monotonic()
    url = "postgresql://x:hidden@127.0.0.1:1/z"
    ended = cli.run("serve", env={"ONLOOKER_STARTUP_WAIT_S": "2", "ONLOOKER_DATABASE_URL": url})
    assert ended.code == 2
    assert time.monotonic() - began >= 2
    assert ended.err.count("waiting for a part that is away") == 1
    assert "hidden" not in ended.err


def test_a_postgres_that_comes_while_it_is_waited_for_is_used(cli: Cli, own_postgres: PostgresServer) -> None:
    own_postgres.stop()
    cli.extra |= {"ONLOOKER_STARTUP_WAIT_S": "60", "ONLOOKER_DATABASE_URL": own_postgres.url}
    with cli.popen("serve") as waiting:
        assert waiting.stderr is not None
        assert waiting.stdout is not None
        assert "waiting for a part that is away" in waiting.stderr.readline()
        own_postgres.start()
        assert "Onlooker" in waiting.stdout.readline()
        waiting.terminate()


def test_a_redis_that_is_named_and_not_used_is_said(cli: Cli) -> None:
    cli.extra["ONLOOKER_REDIS_URL"] = "redis://:hidden@127.0.0.1:1"
    with cli.popen("worker", "run") as worker:
        assert worker.stderr is not None
        said = worker.stderr.readline()
        worker.terminate()
    assert "a Redis is named and not used" in said
    assert "hidden" not in said


@pytest.mark.parametrize("command", [("serve", "--no-worker"), ("worker", "run")])
def test_a_redis_that_comes_while_it_is_waited_for_is_used(
    cli: Cli, own_redis: RedisServer, command: tuple[str, ...]
) -> None:
    own_redis.stop()
    cli.extra |= {"ONLOOKER_STARTUP_WAIT_S": "60", "ONLOOKER_QUEUE_ENGINE": "bullmq"}
    cli.extra["ONLOOKER_REDIS_URL"] = own_redis.url
    with cli.popen(*command) as waiting:
        assert waiting.stderr is not None
        assert waiting.stdout is not None
        said = waiting.stderr.readline()
        assert "waiting for a part that is away" in said
        assert f"{own_redis.host}:{own_redis.port}" in said
        assert own_redis.password not in said
        own_redis.start()
        assert "Onlooker" in waiting.stdout.readline()
        waiting.terminate()


def test_a_postgres_that_gives_no_right_to_make_tables_is_said(cli: Cli, own_postgres: PostgresServer) -> None:
    admin_execute(own_postgres.url, "CREATE ROLE weak LOGIN PASSWORD 'hidden'")
    url = own_postgres.url.replace(f"//{own_postgres.user}:{own_postgres.password}", "//weak:hidden")
    said = refused(cli, ONLOOKER_DATABASE_URL=url)
    assert "lacks a right" in said
    assert "hidden" not in said


def test_every_wrong_setting_is_named_at_once(cli: Cli) -> None:
    said = refused(cli, ONLOOKER_PORT="abc", ONLOOKER_LOG_LEVEL="loud")
    assert "ONLOOKER_PORT" in said
    assert "ONLOOKER_LOG_LEVEL" in said
