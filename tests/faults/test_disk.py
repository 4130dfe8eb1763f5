"""A disk that is full, a database that others lock or that cannot be used: said clearly, nothing half-stored."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from cli_runner import EXECUTABLE, Cli, Ended, one_line
from deployment import Deployment, deployment

DISK = "8m"
FILES_END = (
    "import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, resource.RLIM_INFINITY)); "
    "signal.signal(signal.SIGUSR1, lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1)))"
)
"""No file of the process may grow past 700 kB, until it is sent SIGUSR1: of any user, what a full disk is to root."""

SHORT_BUSY_TIMEOUT = "import onlooker.storage.database; onlooker.storage.database.BUSY_TIMEOUT_MS = 1_000"

READ_ONLY = """
import signal, sqlite3.dbapi2
connect, opened, answers = sqlite3.dbapi2.connect, [], {"query_only": "OFF"}
def set_all(value):
    answers["query_only"] = value
    for connection in opened:
        connection.execute(f"PRAGMA query_only = {value}")
def watched(*given, **named):
    connection = connect(*given, **named)
    opened.append(connection)
    connection.execute(f"PRAGMA query_only = {answers['query_only']}")
    return connection
sqlite3.dbapi2.connect = watched
signal.signal(signal.SIGUSR1, lambda *_: set_all("ON"))
signal.signal(signal.SIGUSR2, lambda *_: set_all("OFF"))
"""
"""From SIGUSR1 to SIGUSR2 SQLite answers each write as it does where the file may only be read: SQLITE_READONLY.

What really makes it so (a file system that went read-only after an error) cannot be had in a test: files that are open
for writing keep a file system from being mounted read-only.
"""

LOCKER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A folder with little room, in a file system of its own."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "onlooker-test", folder], check=True, timeout=30)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True, timeout=30)


def fill(path: Path) -> None:
    """Write until there is no room left."""
    with suppress(OSError), path.open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(4096))


def test_a_full_disk_is_said_and_what_was_sent_meanwhile_is_stored_when_there_is_room(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        check_no_room(tmp_path, patch=FILES_END, make_room=lambda it: it.processes[-1].send_signal(signal.SIGUSR1))
        return
    with small_disk(tmp_path / "disk") as disk:
        ballast = disk / "ballast"
        check_no_room(disk, full=lambda: fill(ballast), make_room=lambda _: ballast.unlink())


def test_a_file_that_may_not_grow_is_said_and_waited_out(tmp_path: Path) -> None:
    check_no_room(tmp_path, patch=FILES_END, make_room=lambda it: it.processes[-1].send_signal(signal.SIGUSR1))


def check_no_room(
    folder: Path,
    *,
    make_room: Callable[[Deployment], object],
    full: Callable[[], None] = lambda: None,
    patch: str = "",
) -> None:
    with deployment(folder, ONLOOKER_SCRIPTED_DELAY_MS="20") as it:
        server = it.serve(patch=patch)
        acknowledged = 0
        assert it.post([it.event(0, 0)]) == 201
        full()
        with it.client() as client:
            while (answer := post_large(client, it, acknowledged + 1)).status_code == 201:
                acknowledged += 1
            check_refusal(answer)
            # All or nothing, and still alive.
            check_refusal(client.post("/v1/events/batch", json=[large_event(it, 1, n) for n in range(20)]))
            assert client.get("/healthz").status_code == 200
            assert client.get(f"/v1/jobs?projectId={it.project}").status_code == 200
        assert sorted(it.stored_events()) == sorted(f"MARK-0-{n}" for n in range(acknowledged + 1))
        make_room(it)
        for session, count in ((0, acknowledged + 5), (1, 20)):
            it.post_until_acknowledged([large_event(it, session, number) for number in range(count)])
        it.wait_until_settled()
        it.assert_observed({0: acknowledged + 5, 1: 20})
        assert server.poll() is None
        with closing(sqlite3.connect(it.path)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def large_event(it: Deployment, session: int, number: int) -> dict[str, object]:
    event = it.event(session, number)
    event["payload"]["tool_response"]["stdout"] = os.urandom(20_000).hex()
    return event


def post_large(client: httpx.Client, it: Deployment, number: int) -> httpx.Response:
    return client.post("/v1/events", json=large_event(it, 0, number))


def check_refusal(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"] == "StorageUnavailable"
    assert "SQLITE_" in answer.json()["message"]


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "home", {"ONLOOKER_STARTUP_WAIT_S": "0"})


def test_a_database_that_others_lock_is_said_and_waited_out(tmp_path: Path) -> None:
    with deployment(tmp_path, ONLOOKER_SCRIPTED_DELAY_MS="20") as it:
        it.serve(patch=SHORT_BUSY_TIMEOUT)
        it.post_sessions(2, 10)
        with locked(it.path), it.client() as client:
            check_refusal(client.post("/v1/events", json=it.event(2, 0)))
            check_refusal(client.post("/v1/events/batch", json=[it.event(2, 0), it.event(3, 0)]))
            check_refusal(client.post("/v1/sessions/start", json={"projectId": it.project, "contentSessionId": "x"}))
            assert client.get("/v1/jobs").status_code == 200, "who only reads is not held up"
        it.post_until_acknowledged([it.event(2, 0), it.event(3, 0)])
        it.wait_until_settled()
        it.assert_observed({0: 10, 1: 10, 2: 1, 3: 1})
        it.wait_for_no_messages()


def test_a_database_that_becomes_read_only_is_said_and_waited_out(tmp_path: Path) -> None:
    with deployment(tmp_path, ONLOOKER_SCRIPTED_DELAY_MS="20") as it:
        server = it.serve(patch=f"exec({READ_ONLY!r})")
        it.post_sessions(2, 10)
        server.send_signal(signal.SIGUSR1)
        with it.client() as client:
            it.wait_until(lambda: client.post("/v1/events", json=it.event(2, 0)).status_code == 503, 10)
            for answer in (
                client.post("/v1/events", json=it.event(2, 1)),
                client.post("/v1/events/batch", json=[it.event(2, 1), it.event(3, 0)]),
            ):
                check_refusal(answer)
                assert "SQLITE_READONLY" in answer.json()["message"]
            assert client.get("/v1/jobs").status_code == 200, "who only reads is not held up"
        server.send_signal(signal.SIGUSR2)
        it.post_until_acknowledged([it.event(2, 0), it.event(2, 1), it.event(3, 0)])
        it.wait_until_settled()
        it.assert_observed({0: 10, 1: 10, 2: 2, 3: 1})
        assert server.poll() is None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process is in a write that does not end."""
    with subprocess.Popen(
        [sys.executable, "-c", LOCKER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as locker:
        try:
            assert locker.stdout is not None
            assert locker.stdout.readline() == b"locked\n"
            yield
        finally:
            locker.communicate()


def check_start_refused(ended: Ended, *words: str) -> None:
    assert (ended.code, ended.out) == (2, "")
    line = one_line("\n".join(said for said in ended.err.splitlines() if not said.startswith("{")))
    assert line.startswith("onlooker: ")
    for word in words:
        assert word in line


def test_a_start_at_a_locked_database_is_said(tmp_path: Path) -> None:
    with deployment(tmp_path, ONLOOKER_STARTUP_WAIT_S="0") as it:
        with closing(sqlite3.connect(it.path)) as database:
            # A new boot must write the clock that its processes share.
            database.execute("UPDATE schema_info SET boot = 'another'")
            database.commit()
        with locked(it.path):
            server = it.spawn("serve", patch=SHORT_BUSY_TIMEOUT)
            assert server.wait(30) == 2
        check_start_refused(Ended(2, "", it.log()), "onlooker.db", "SQLITE_BUSY")


@pytest.mark.parametrize("command", [("serve",), ("worker", "run")], ids=" ".join)
def test_a_start_with_a_damaged_database_is_one_line(cli: Cli, command: tuple[str, ...]) -> None:
    cli.succeed("projects", "list")
    path = cli.home / "onlooker.db"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + os.urandom(len(whole) - 4096))
    check_start_refused(cli.run(*command), "onlooker.db", "SQLITE_")


def test_a_start_where_files_cannot_grow_is_one_line(cli: Cli) -> None:
    cli.home.mkdir()
    limited = ["-c", f"ulimit -f 20; exec '{EXECUTABLE}' serve"]
    ended = subprocess.run(["sh", *limited], env=cli.env, capture_output=True, text=True, timeout=60, check=False)
    check_start_refused(Ended(ended.returncode, ended.stdout, ended.stderr), "onlooker.db", "SQLITE_")
